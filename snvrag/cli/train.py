"""The command ``train``: its options, and where settings come from when no panel is given."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snvrag.cli.defaults import show_preset_defaults
from snvrag.cli.options import (
    MASKS,
    MODEL,
    RUNTIME,
    TRAINING,
    Common,
    GeneticMapFile,
    MaxMemory,
    MaxSeqLen,
    Seed,
    WindowSize,
    choices,
    quoted,
    with_common,
)
from snvrag.cli.toml import TOML_NAME
from snvrag.cli.train_settings import PATHS, is_main_process, train_settings
from snvrag.config import DEFAULT_LOG_EVERY, PRESETS, run_config
from snvrag.errors import UsageError

if TYPE_CHECKING:
    from snvrag.cli.output import Terminal
    from snvrag.distributed import Ranks
    from snvrag.observer import TrainReport

_EXAMPLE_SETTINGS: Mapping[str, Any] = {"preset": "tiny", "epochs": 2}


@with_common
@show_preset_defaults
def train(
    *,
    panel: Annotated[
        Path | None,
        typer.Argument(
            metavar="PANEL.h5",
            help="Panel to train on; without it, snvrag.toml in "
            "this folder, else the bundled example.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="RUN", help="Run folder; default the next free snvrag-run."
        ),
    ] = None,
    index_dir: Annotated[
        Path | None,
        typer.Option(
            "--index-dir", "-i", metavar="FOLDER", help="Index folder; default PANEL.h5.index/."
        ),
    ] = None,
    genetic_map: GeneticMapFile = None,
    targets: Annotated[
        Path | None,
        typer.Option(
            "--targets", help="Panel file of the people to train on; default the panel's own."
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            "--validation",
            help="Panel file of the people to validate on; default a tenth of the panel.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in -o.")] = False,
    window_size: WindowSize = None,
    old_window_size: Annotated[int | None, typer.Option("--window_size", hidden=True)] = None,
    window_path: Annotated[
        str | None, typer.Option("--window-path", "--window_path", hidden=True)
    ] = None,
    max_seq_len: MaxSeqLen = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="auto, light, tiny, small or base. auto is base with CUDA, light without.",
            show_default="auto",
            rich_help_panel=MODEL,
            autocompletion=choices("auto", *PRESETS),
        ),
    ] = None,
    dims: Annotated[
        int | None, typer.Option("--dims", help="Width of the layers.", rich_help_panel=MODEL)
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", help="Number of layers.", rich_help_panel=MODEL)
    ] = None,
    heads: Annotated[
        int | None, typer.Option("--heads", help="Attention heads.", rich_help_panel=MODEL)
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", help="Retrieved haplotypes that are encoded.", rich_help_panel=MODEL),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(
            "--dropout", help="Share of values left out in training.", rich_help_panel=MODEL
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Most epochs to train.", rich_help_panel=TRAINING),
    ] = None,
    epoch_batches: Annotated[
        int | None,
        typer.Option(
            "--epoch-batches",
            help="Batches per epoch, drawn anew each time; 0 is all.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", help="Samples of one window.", rich_help_panel=TRAINING),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option("--accumulate", help="Batches per step.", rich_help_panel=TRAINING),
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Peak learning rate.", rich_help_panel=TRAINING)
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option("--warmup-steps", help="Steps up to the peak rate.", rich_help_panel=TRAINING),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option("--gamma", help="Focal loss; 0 is cross-entropy.", rich_help_panel=TRAINING),
    ] = None,
    genotype_weight: Annotated[
        float | None,
        typer.Option(
            "--genotype-weight",
            help="Weight of the phased genotypes' loss; with --gamma only does it differ from "
            "that of haplotypes.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    mask_levels: Annotated[
        str | None,
        typer.Option(
            "--mask-levels",
            metavar="LIST",
            help="Curriculum of guided masks, such as 0.3,0.5,0.8.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    mask_raise_every: Annotated[
        int | None,
        typer.Option("--mask-raise-every", help="Epochs per level.", rich_help_panel=MASKS),
    ] = None,
    rare_threshold: Annotated[
        float | None,
        typer.Option(
            "--rare-threshold",
            help="Minor-allele frequency below which a site is rare.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    array_share: Annotated[
        float | None,
        typer.Option(
            "--array-share", help="Share of batches masked like an array.", rich_help_panel=MASKS
        ),
    ] = None,
    array_spacing: Annotated[
        str | None,
        typer.Option(
            "--array-spacing",
            metavar="LIST",
            help="Base pairs per observed site there, such as 2000,3000.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    random_share: Annotated[
        float | None,
        typer.Option(
            "--random-share", help="Share of batches masked at random.", rich_help_panel=MASKS
        ),
    ] = None,
    array_sites: Annotated[
        Path | None,
        typer.Option(
            "--array-sites",
            help="Sites of the array to impute from: VCF/BCF, or text of CHROM POS.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    sites_share: Annotated[
        float | None,
        typer.Option(
            "--sites-share",
            help="Share of batches in which these alone are observed.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    validation_patterns: Annotated[
        str | None,
        typer.Option(
            "--validation-patterns",
            help="Masks of validation: some of guided,array,random,sites.",
            rich_help_panel=MASKS,
            metavar="LIST",
            autocompletion=choices("guided", "array", "random", "sites"),
        ),
    ] = None,
    flank_windows: Annotated[
        int | None,
        typer.Option(
            "--flank-windows",
            help="Windows either side used as evidence.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    index_kind: Annotated[
        str | None,
        typer.Option(
            "--index-kind",
            help="Find haplotypes by binary or, far slower and to the same end, by the "
            "network's own embedding.",
            rich_help_panel=TRAINING,
            metavar="KIND",
            autocompletion=choices("binary", "embedding"),
        ),
    ] = None,
    refresh_index: Annotated[
        str | None,
        typer.Option(
            "--refresh-index",
            help="With --index-kind embedding: take up new weights each epoch, or never.",
            rich_help_panel=TRAINING,
            metavar="WHEN",
            autocompletion=choices("epoch", "never"),
        ),
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option(
            "--bank",
            help="Settings of the copying model: fitted to the panel, or default.",
            rich_help_panel=TRAINING,
            metavar="BANK",
            autocompletion=choices("fitted", "default"),
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            "--validation-fraction",
            help="Share of samples held out, without --validation.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    validation_batch: Annotated[
        int | None,
        typer.Option(
            "--validation-batch",
            help="Samples of one window at a time in validation.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    validation_items: Annotated[
        int | None,
        typer.Option(
            "--validation-items",
            help="Most pairs of sample and window to validate on; 0 is all.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            help="Epochs without improvement before stopping.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    min_delta: Annotated[
        float | None,
        typer.Option(
            "--min-delta",
            help="Least improvement that counts for --patience.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            "--checkpoint-every",
            help="Steps; 0 is every 20 s. Each epoch's end saves one too.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    log_every: Annotated[
        int | None,
        typer.Option(
            "--log-every",
            min=1,
            help="Batches between status lines in RUN/train.log.",
            show_default=str(DEFAULT_LOG_EVERY),
            rich_help_panel=RUNTIME,
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Also write TensorBoard events.", rich_help_panel=RUNTIME
        ),
    ] = False,
    compile_blocks: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the transformer with torch.compile.",
            rich_help_panel=RUNTIME,
        ),
    ] = False,
    seed: Seed = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="auto, cpu or cuda[:N].",
            show_default="auto",
            rich_help_panel=RUNTIME,
            autocompletion=choices("auto", "cpu", "cuda"),
        ),
    ] = None,
    max_memory: MaxMemory = None,
    common: Common,
) -> None:
    """Train a model; haplotype indexes are built just in time."""
    given = dict(locals())
    if window_path is not None:
        raise UsageError("--window-path: removed: use --window-size", "snvrag windows PANEL.h5")
    from snvrag.cli.output import Terminal
    from snvrag.cli.training_view import TrainingView

    if not is_main_process():
        common = replace(common, quiet=True, no_progress=True, json=False, log_file=None)
    terminal = Terminal(common)
    view = TrainingView(terminal)
    try:
        settings, runtime = train_settings(given, terminal.note)
        with view:
            # Torch takes seconds to import.
            from snvrag.distributed import join
            from snvrag.training import train as library_train

            with join(runtime["device"]) as ranks:
                if "panel" not in settings:
                    settings |= _example_settings(settings, terminal.note, ranks)
                paths = {name: settings.pop(name, None) for name in PATHS}
                report = library_train(
                    **paths,
                    **runtime,
                    config=run_config(settings, cuda=ranks.device.type == "cuda", where=TOML_NAME),
                    resume=resume,
                    force=common.force,
                    observer=view,
                )
    except KeyboardInterrupt:
        if view.output is not None:
            terminal.note(
                f"to go on: repeat the command with -o {quoted(str(view.output))} --resume"
            )
        raise
    if common.json:
        terminal.json(asdict(report))
        return
    _present(terminal, report)


def _present(terminal: "Terminal", report: "TrainReport") -> None:
    """Print what a training run came to."""
    from snvrag.cli.output import duration

    if report.already_finished:
        terminal.note(f"{report.output}: this run is finished; nothing was left to do")
    best, first_step = report.best, report.first_step_seconds
    # A resumed run may have had no step left to take.
    after = "" if math.isnan(first_step) else f" (first step after {first_step:.1f} s)"
    facts = {
        "epochs": f"{report.epochs}{' (stopped early)' if report.stopped_early else ''}, best "
        f"{report.best_epoch}",
        "optimiser steps": report.steps,
        "held-out accuracy": f"{best['val_accuracy']:.4f} (copying {best['copying_accuracy']:.4f})",
        "held-out dosage r²": f"{best['val_r2']:.4f} (copying {best['copying_r2']:.4f})",
        "indexes built": report.jit_builds,
        "time": f"{duration(report.seconds)}{after}",
    }
    page = report.output.with_name(f"{report.output.name}.html")
    following = f"snvrag report {quoted(report.output)} -o {quoted(page)}"
    terminal.summary("train", [report.output], facts, following)


def _example_settings(settings: dict[str, Any], note: Any, ranks: "Ranks") -> dict[str, Any]:
    from snvrag.example import EXAMPLE_FOLDER, prepare_example

    path = Path(ranks.once(lambda: str(prepare_example())))
    note(f"no panel given: training on the bundled example, laid out in ./{EXAMPLE_FOLDER}/")
    return {**_EXAMPLE_SETTINGS, "panel": path} | settings
