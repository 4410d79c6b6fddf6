"""The command ``train``: its options, and where settings come from when no panel is given."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    parse_memory,
    with_common,
)
from snvrag.cli.toml import TOML_NAME, read_toml
from snvrag.config import DEFAULT_LOG_EVERY, checked, run_config
from snvrag.errors import InputError, RankError, SnvragError, UsageError

if TYPE_CHECKING:
    from snvrag.cli.output import Terminal
    from snvrag.distributed import Ranks
    from snvrag.observer import TrainReport

_EXAMPLE_SETTINGS: Mapping[str, Any] = {"preset": "tiny", "epochs": 2}
_PATHS = {"panel", "output", "index_dir", "genetic_map", "array_sites", "targets", "validation"}
# Options of the command that are no settings, or that another name stands for.
_NO_SETTINGS = {"common", "resume", "window_path", "old_window_size"}
# Limits of Linux and macOS.
_MAX_PATH, _MAX_NAME = 1024, 256
# Settings of snvrag.toml that the library calls otherwise.
_ALIASES = {"map": "genetic_map", "compile": "compile_blocks"}
_RUNTIME_KINDS: Mapping[str, Any] = {
    "device": str,
    "threads": int,
    "max_memory": str,
    "tensorboard": bool,
    "compile_blocks": bool,
    "log_every": int,
}
_LISTS = {"mask_levels": "0.3,0.5,0.8", "array_spacing": "2000,3000"}


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
            help="Weight of the phased genotypes' loss; with --gamma only does it differ from "
            "that of haplotypes.",
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
    bank: Annotated[
        str | None,
        typer.Option(
            "--bank",
            help="Settings of the copying model: fitted to the panel (default), or default.",
            rich_help_panel=TRAINING,
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
        int | None, typer.Option("--validation-batch", rich_help_panel=TRAINING)
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
        int | None,
        typer.Option(
            "--log-every",
            min=1,
            help=f"Batches between status lines in RUN/train.log; default {DEFAULT_LOG_EVERY}.",
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
        typer.Option("--device", help="auto (default), cpu or cuda[:N].", rich_help_panel=RUNTIME),
    ] = None,
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
        settings, runtime = _train_settings(given, terminal.note)
        with join(runtime["device"]) as ranks:
            if "panel" not in settings:
                settings |= _example_settings(settings, terminal.note, ranks)
            paths = {name: settings.pop(name, None) for name in _PATHS}
            report = library_train(
                **paths,
                **runtime,
                config=run_config(settings, cuda=ranks.device.type == "cuda", where=TOML_NAME),
                resume=resume,
                force=common.force,
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
        "time": f"{report.seconds:.1f} s{after}",
    }
    following = f"snvrag verify {report.index_dir}/"
    terminal.summary(f"wrote {report.output}/", facts, following)


def _train_settings(given: Mapping[str, Any], note: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's settings, and how it runs: options, over snvrag.toml where they name no panel.

    Raises:
        UsageError, InputError: an option or the file is wrong.
        RankError: the same, in another process of a torchrun than the one that says it.
    """
    from snvrag.distributed import is_main_process

    try:
        settings = _options_over_toml(given, note)
        return settings, _runtime_settings(settings)
    except SnvragError as error:
        # All processes read the same; they have not joined yet, so that nobody else could tell.
        if is_main_process():
            raise
        raise RankError(error.exit_code) from error


def _options_over_toml(given: Mapping[str, Any], note: Any) -> dict[str, Any]:
    options = {**given, "threads": given["common"].threads}
    if None not in (options["window_size"], options["old_window_size"]):
        raise UsageError("--window_size: is the old name of --window-size", "give one of the two")
    if options["window_size"] is None:
        options["window_size"] = options["old_window_size"]
    for name, example in _LISTS.items():
        flag = f"--{name.replace('_', '-')}"
        options[name] = _numbers(flag, options[name], example)
    if options["validation_patterns"] is not None:
        options["validation_patterns"] = tuple(options["validation_patterns"].split(","))
    # A flag that is not there says nothing against snvrag.toml.
    options = {
        name: value
        for name, value in options.items()
        if name not in _NO_SETTINGS and value is not None and value is not False
    }
    chosen = ({} if "panel" in options else _toml_settings(note)) | options
    for name in _PATHS & set(chosen):
        if not isinstance(chosen[name], str | Path) or not _may_be_path(str(chosen[name])):
            raise InputError(
                f"{TOML_NAME}: {name} is {shorten(repr(chosen[name]), 80)}, where a path is needed",
                "correct the value",
            )
        chosen[name] = Path(chosen[name])
    if "sites_share" in chosen and "array_sites" not in chosen:
        raise UsageError(
            f"--sites-share {chosen['sites_share']}: no sites are listed",
            "leave it out, or add --array-sites",
        )
    if "validation_fraction" in chosen and "validation" in chosen:
        raise UsageError(
            f"--validation-fraction {chosen['validation_fraction']}: --validation names who is "
            "validated on",
            "give one of the two",
        )
    return chosen


def _may_be_path(text: str) -> bool:
    return (
        "\0" not in text and len(text) < _MAX_PATH and max(map(len, Path(text).parts)) < _MAX_NAME
    )


def _toml_settings(note: Any) -> dict[str, Any]:
    """Settings of the current folder's snvrag.toml under the library's names; {} without one."""
    toml = Path(TOML_NAME)
    if not (toml.exists() or toml.is_symlink()):
        return {}
    settings = {_ALIASES.get(name, name): value for name, value in read_toml(toml).items()}
    if not isinstance(settings.get("panel"), str):
        raise UsageError(f"{toml}: names no panel", 'add: panel = "panel.h5" under [train]')
    note(f"using the settings of ./{toml} (panel {settings['panel']})")
    return settings


def _runtime_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Take out of ``settings`` what decides where and how a run goes, as ``train`` takes it."""
    found: dict[str, Any] = {"device": "auto"}
    for name, kind in _RUNTIME_KINDS.items():
        if name in settings:
            found[name] = checked(settings.pop(name), kind, f"{TOML_NAME}: {name}")
    found["max_memory"] = parse_memory(found.get("max_memory"))
    if found.get("threads", 1) < 1:
        raise UsageError(f"--threads {found['threads']}: must be at least 1")
    return found


def _example_settings(settings: dict[str, Any], note: Any, ranks: "Ranks") -> dict[str, Any]:
    from snvrag.example import EXAMPLE_FOLDER, prepare_example

    path = Path(ranks.once(lambda: str(prepare_example())))
    note(f"no panel given: training on the bundled example, laid out in ./{EXAMPLE_FOLDER}/")
    return {**_EXAMPLE_SETTINGS, "panel": path} | settings


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
