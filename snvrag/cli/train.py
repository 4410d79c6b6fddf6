"""The command ``train``: its options, and where settings come from when no panel is given."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snvrag.cli.options import (
    MASKS,
    MODEL,
    RUNTIME,
    TRAINING,
    Common,
    Device,
    MaxMemory,
    MaxSeqLen,
    Seed,
    WindowSize,
    parse_memory,
    with_common,
)
from snvrag.config import DEFAULT_LOG_EVERY, TOML_NAME, read_toml, run_config
from snvrag.errors import UsageError

if TYPE_CHECKING:
    from snvrag.cli.output import Terminal
    from snvrag.distributed import Ranks
    from snvrag.observer import TrainReport

_EXAMPLE_SETTINGS: Mapping[str, Any] = {"preset": "tiny", "epochs": 2}
_PATHS_IN_TOML = (
    *("panel", "output", "index_dir", "genetic_map", "array_sites", "targets", "validation"),
)


@with_common
def train(
    *,
    panel: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PANEL.h5]",
            help="Panel to train on; without it, snvrag.toml in "
            "this folder, else the bundled example.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder; default the next free snvrag-run."),
    ] = None,
    index_dir: Annotated[
        Path | None,
        typer.Option("--index-dir", "-i", help="Index folder; default PANEL.h5.index/."),
    ] = None,
    genetic_map: Annotated[
        Path | None,
        typer.Option(
            "--map", help="Genetic map: PLINK, SHAPEIT, Eagle or Minimac4 form; without, 1 cM/Mb."
        ),
    ] = None,
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
        typer.Option("--preset", help="auto, light, tiny, small or base.", rich_help_panel=MODEL),
    ] = None,
    dims: Annotated[int | None, typer.Option("--dims", rich_help_panel=MODEL)] = None,
    layers: Annotated[int | None, typer.Option("--layers", rich_help_panel=MODEL)] = None,
    heads: Annotated[int | None, typer.Option("--heads", rich_help_panel=MODEL)] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", help="Retrieved haplotypes that are encoded.", rich_help_panel=MODEL),
    ] = None,
    dropout: Annotated[float | None, typer.Option("--dropout", rich_help_panel=MODEL)] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", rich_help_panel=TRAINING)] = None,
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
        int | None, typer.Option("--warmup-steps", rich_help_panel=TRAINING)
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option("--gamma", help="Focal loss; 0 is cross-entropy.", rich_help_panel=TRAINING),
    ] = None,
    genotype_weight: Annotated[
        float | None,
        typer.Option(
            "--genotype-weight",
            help="Weight of the phased genotypes' loss.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    mask_levels: Annotated[
        str | None,
        typer.Option(
            "--mask-levels",
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
            help="Find haplotypes by binary (default) or, far slower and to the same end, by the "
            "network's own embedding.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    refresh_index: Annotated[
        str | None,
        typer.Option(
            "--refresh-index",
            help="With --index-kind embedding: take up new weights each epoch (default) or never.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            "--validation-fraction", help="Share of samples held out.", rich_help_panel=TRAINING
        ),
    ] = None,
    validation_batch: Annotated[
        int | None, typer.Option("--validation-batch", rich_help_panel=TRAINING)
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
        float | None, typer.Option("--min-delta", rich_help_panel=TRAINING)
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            "--checkpoint-every",
            help="Steps; default every 20 s and each epoch.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    log_every: Annotated[
        int,
        typer.Option(
            "--log-every",
            min=1,
            help="Batches between status lines in RUN/train.log.",
            rich_help_panel=RUNTIME,
        ),
    ] = DEFAULT_LOG_EVERY,
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
    device: Device = "auto",
    max_memory: MaxMemory = None,
    common: Common,
) -> None:
    """Train a model; haplotype indexes are built just in time."""
    given = dict(locals())
    if window_path is not None:
        raise UsageError("--window-path: removed: use --window-size", "snvrag windows PANEL.h5")
    from snvrag.cli.output import Terminal, TrainingView
    from snvrag.distributed import is_main_process, join
    from snvrag.training import train as library_train

    if not is_main_process():
        common = replace(common, quiet=True, no_progress=True, json=False, log_file=None)
    terminal = Terminal(common)
    view = TrainingView(terminal)
    try:
        with join(device) as ranks:
            settings = _train_settings(given, terminal.note, ranks)
            paths = {name: settings.pop(name) for name in _PATHS_IN_TOML}
            report = library_train(
                **paths,
                config=run_config(settings, cuda=ranks.device.type == "cuda", where=TOML_NAME),
                device=device,
                threads=common.threads,
                max_memory=parse_memory(max_memory),
                resume=resume,
                force=common.force,
                tensorboard=tensorboard,
                compile_blocks=compile_blocks,
                log_every=log_every,
                observer=view,
            )
    except KeyboardInterrupt:
        view.stop()
        if view.output is not None:
            terminal.note(f"to go on: repeat the command with -o {view.output} --resume")
        raise
    finally:
        view.stop()
    if common.json:
        terminal.json(asdict(report))
        return
    _present(terminal, report)


def _present(terminal: "Terminal", report: "TrainReport") -> None:
    """Print what a training run came to."""
    if report.already_finished:
        terminal.note(f"{report.output}: this run is finished; nothing was left to do")
    best = report.best
    facts = {
        "epochs": f"{report.epochs}{' (stopped early)' if report.stopped_early else ''}, best "
        f"{report.best_epoch}",
        "optimiser steps": report.steps,
        "held-out accuracy": f"{best['val_accuracy']:.4f} (copying {best['copying_accuracy']:.4f})",
        "held-out dosage r²": f"{best['val_r2']:.4f} (copying {best['copying_r2']:.4f})",
        "indexes built": report.jit_builds,
        "time": f"{report.seconds:.1f} s (first step after {report.first_step_seconds:.1f} s)",
    }
    following = f"snvrag verify {report.index_dir}/"
    terminal.summary(f"wrote {report.output}/", facts, following)


def _train_settings(given: Mapping[str, Any], note: Any, ranks: "Ranks") -> dict[str, Any]:
    """Settings of a training run: the options, over snvrag.toml or the bundled example."""
    options = {
        name: given[name]
        for name in (
            *_PATHS_IN_TOML,
            *("max_seq_len", "preset", "dims", "layers", "heads", "epoch_batches"),
            *("k", "dropout", "epochs", "batch_size", "accumulate", "lr", "warmup_steps", "gamma"),
            *("array_share", "random_share", "sites_share"),
            *("genotype_weight", "index_kind", "refresh_index"),
            *("rare_threshold", "flank_windows", "validation_fraction", "validation_batch"),
            *("patience", "min_delta", "checkpoint_every", "seed"),
        )
    }
    both = (given["window_size"], given["old_window_size"])
    options["window_size"] = both[0] if both[0] is not None else both[1]
    options["mask_levels"] = _numbers("--mask-levels", given["mask_levels"], "0.3,0.5,0.8")
    options["mask_raise_every"] = given["mask_raise_every"]
    options["array_spacing"] = _numbers("--array-spacing", given["array_spacing"], "2000,3000")
    if given["validation_patterns"] is not None:
        options["validation_patterns"] = tuple(given["validation_patterns"].split(","))
    base: dict[str, Any] = {}
    if options["panel"] is None:
        base = _settings_without_panel(note, ranks)
    chosen = base | {name: value for name, value in options.items() if value is not None}
    for name, setting in (("mask_levels", "levels"), ("mask_raise_every", "raise_every")):
        if name in chosen:
            chosen[setting] = chosen.pop(name)
    if "refresh_index" in chosen and chosen.get("index_kind", "binary") == "binary":
        raise UsageError(
            f"--refresh-index {chosen['refresh_index']}: a binary index depends on no weights and "
            "is never stale",
            "leave it out, or add --index-kind embedding",
        )
    for name in _PATHS_IN_TOML:
        chosen[name] = Path(chosen[name]) if chosen.get(name) is not None else None
    return chosen


def _settings_without_panel(note: Any, ranks: "Ranks") -> dict[str, Any]:
    toml = Path(TOML_NAME)
    if toml.exists():
        settings = read_toml(toml)
        if not isinstance(settings.get("panel"), str):
            raise UsageError(f"{toml}: names no panel", 'add: panel = "panel.h5" under [train]')
        note(f"using the settings of ./{toml} (panel {settings['panel']})")
        return settings
    from snvrag.example import EXAMPLE_FOLDER, prepare_example

    path = Path(ranks.once(lambda: str(prepare_example())))
    note(f"no panel given: training on the bundled example, laid out in ./{EXAMPLE_FOLDER}/")
    return {**_EXAMPLE_SETTINGS, "panel": path}


def _numbers(flag: str, text: str | None, example: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    wrong = UsageError(f"{flag} {text}: is no list of numbers", f"write {example}")
    if not re.fullmatch(r"\s*[0-9.]+\s*(,\s*[0-9.]+\s*)*", text):
        raise wrong
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise wrong from error
