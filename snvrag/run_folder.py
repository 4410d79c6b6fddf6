"""The folder a training run writes: its name, its identity, its metrics."""

import contextlib
import csv
import io
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from snvrag.checkpoint import load_weights
from snvrag.config import (
    NOT_IN_IDENTITY,
    PRESETS,
    RunConfig,
    TrainConfig,
    WindowConfig,
)
from snvrag.errors import MismatchError, OutputError, UsageError
from snvrag.folder_lock import LOCK, folder_lock
from snvrag.model import LightNetwork, RagBert, SiteEmbedder, SiteEmbedding, build_network
from snvrag.panel import Panel
from snvrag.plots import have_matplotlib, plot_training
from snvrag.provenance import (
    atomic_file,
    provenance,
    read_json,
    write_json,
)
from snvrag.run_history import EVENTS
from snvrag.trained_run import (
    CONFIG,
    RUN_FORMAT,
    RUN_VERSION,
    SETTINGS_DIGEST,
    TrainedRun,
    load_run,
    settings_digest,
)
from snvrag.weights import WEIGHTS
from snvrag.windows import WindowPlan

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DEFAULT_RUN_NAME = "snvrag-run"
TRAIN_LOG = "train.log"
CURVES = "metrics.png"
TENSORBOARD = "logs"
_OWN_FILES = (CONFIG, WEIGHTS, "metrics.csv", "metrics.jsonl", CURVES, TRAIN_LOG, EVENTS)


def next_run_folder(parent: Path) -> Path:
    """The first of ``snvrag-run``, ``snvrag-run-2``, … that is absent or empty in ``parent``."""
    number = 1
    while True:
        name = DEFAULT_RUN_NAME if number == 1 else f"{DEFAULT_RUN_NAME}-{number}"
        path = parent / name
        if not path.exists() or (path.is_dir() and not _is_occupied(path)):
            return path
        number += 1


def check_run_folder(output: Path, *, resume: bool, force: bool) -> None:
    """Refuse a run folder that holds something, unless that was asked for.

    Raises:
        OutputError: it is not empty and neither ``resume`` nor ``force`` is set.
    """
    if _is_occupied(output) and not (resume or force):
        raise OutputError(
            f"{output}: the run folder is not empty",
            "add --resume to go on with it, --force to replace it, or give another -o",
        )


def choose_run_folder(output: Path | None, *, resume: bool, force: bool) -> Path:
    """``output``, or the next free folder in the current one if it is None.

    Raises:
        UsageError: a run is to be resumed and none is named, or is to be replaced as well.
        OutputError: the folder is not empty and neither ``resume`` nor ``force`` is set.
    """
    if resume and force:
        raise UsageError(
            "--resume and --force exclude one another",
            "--resume goes on with the run in -o, --force replaces it",
        )
    if output is not None:
        check_run_folder(output, resume=resume, force=force)
        return output
    if resume:
        raise UsageError("--resume needs the run's folder", "add -o RUN")
    return next_run_folder(Path.cwd())


@contextlib.contextmanager
def occupied_run_folder(output: Path, *, resume: bool, force: bool) -> Iterator[None]:
    """Create the run folder and keep other processes out of it for the time of the block.

    With ``force`` and without ``resume``, an earlier run's own files are removed first.

    Raises:
        MismatchError: another process is training in it.
        OutputError: it cannot be created, written to or locked, or another run came first.
    """
    with folder_lock(output, "wait for it, or give another -o"):
        check_run_folder(output, resume=resume, force=force)
        if force and not resume:
            for name in _OWN_FILES:
                (output / name).unlink(missing_ok=True)
            for name in (CHECKPOINTS, TENSORBOARD):
                if (output / name).is_symlink():
                    (output / name).unlink()
                shutil.rmtree(output / name, ignore_errors=True)
        yield


def _is_occupied(output: Path) -> bool:
    return output.is_dir() and any(path.name != LOCK for path in output.iterdir())


def run_identity(
    panel: Panel, plan: WindowPlan, config: RunConfig, map_digest: str
) -> dict[str, Any]:
    """What a run may only be resumed with: panel, map, windows and every setting, as plain JSON."""
    return {
        "format_name": RUN_FORMAT,
        "format_version": RUN_VERSION,
        "panel_digest": panel.digest,
        "sites_digest": panel.sites.digest(),
        "chromosomes": [
            [name, last - first, int(panel.positions[first]), int(panel.positions[last - 1])]
            for name, first, last in panel.sites.chromosomes()
        ],
        "map_digest": map_digest,
        "total_snps": plan.total_snps,
        "num_windows": plan.num_windows,
        # Through JSON, so that it compares equal to what the file gives back.
        "config": json.loads(json.dumps(asdict(config))),
    }


def write_identity(
    output: Path, identity: Mapping[str, Any], *, seed: int, inputs: Mapping[str, str]
) -> None:
    """Write ``config.json``: the identity and where the run came from."""
    origin = provenance(seed=seed, inputs=inputs)
    own = {SETTINGS_DIGEST: settings_digest(identity), "provenance": origin}
    write_json(output / CONFIG, {**identity, **own})


def check_identity(output: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to resume a run with other settings or another panel.

    Settings that no weight depends on may differ.

    Raises:
        MismatchError: names the first setting that differs, with both values.
    """
    saved = _deciding(read_json(output / CONFIG))
    for key, value in _deciding(identity).items():
        if saved.get(key) != value:
            raise MismatchError(
                f"{output / CONFIG}: {_first_difference(key, saved.get(key), value)}",
                "resume with the settings and the panel that the run began with; --force without "
                "--resume replaces the run",
            )


def _deciding(identity: Mapping[str, Any]) -> dict[str, Any]:
    """``identity`` without the settings that no weight depends on."""
    config = identity.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("train"), Mapping):
        return dict(identity)
    kept = {name: value for name, value in config["train"].items() if name not in NOT_IN_IDENTITY}
    return {**identity, "config": {**config, "train": kept}}


def _first_difference(key: str, saved: Any, now: Any) -> str:
    if isinstance(saved, dict) and isinstance(now, dict):
        for name in sorted(set(saved) | set(now)):
            if saved.get(name) != now.get(name):
                return _first_difference(f"{key}.{name}", saved.get(name), now.get(name))
    return f"{key} was {saved!r} when the run began and is {now!r} now"


def write_metrics(
    output: Path, rows: Sequence[Mapping[str, float | int]], best_epoch: int, *, draw: bool = True
) -> None:
    """Write ``metrics.csv``, ``metrics.jsonl`` and ``metrics.png``, one row per epoch, atomically.

    The figure, left out if not ``draw``, needs matplotlib (the extra ``plots``); without, there is
    none. It marks ``best_epoch``, which counts from 1.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    # NaN is not JSON: an undefined figure is null there, and empty here.
    defined = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # noqa: PLR0124
    writer.writerows(defined)
    with atomic_file(output / "metrics.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    with atomic_file(output / "metrics.jsonl") as temporary:
        lines = [json.dumps(row) for row in defined]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if draw and have_matplotlib():
        with atomic_file(output / CURVES) as temporary:
            plot_training(rows, best_epoch, temporary)
    elif len(rows) == 1 and not have_matplotlib():
        logger.info("no %s: matplotlib is not installed (pip install 'snvrag[plots]')", CURVES)


def tensorboard_writer() -> Any:
    """TensorBoard's writer class, to be called with the folder ``output/logs``.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "--tensorboard: the tensorboard package is not installed",
            "pip install 'snvrag[tensorboard]'",
        ) from error
    return SummaryWriter


def write_scalars(writer: Any, row: Mapping[str, float | int], step: int) -> None:
    """An epoch's figures for a TensorBoard writer, if any: ``val_loss`` becomes ``val/loss``."""
    if writer is not None:
        for name, value in row.items():
            writer.add_scalar(name.replace("_", "/", 1), value, step)


def load_embedder(run: Path | None, windows: WindowConfig, seed: int | None) -> SiteEmbedder:
    """The embedding of a trained run, or without one an untrained embedding of preset ``tiny``.

    Raises:
        InputError: the run's files are absent or damaged.
        MismatchError: the run has another sequence length.
    """
    if run is None:
        torch.manual_seed(TrainConfig().seed if seed is None else seed)
        return SiteEmbedder(SiteEmbedding(PRESETS["tiny"], windows.max_seq_len))
    trained = load_run(run)
    if trained.config.windows != windows:
        raise MismatchError(
            f"{run}: {_other_windows(trained.config.windows, windows)}",
            "give the same --window-size and --max-seq-len as in training",
        )
    network = load_network(trained)
    if not isinstance(network, RagBert):
        raise MismatchError(
            f"{run}: its network (preset light) has no embedding", "give a run of another preset"
        )
    return SiteEmbedder(network.embedding)


def _other_windows(trained: WindowConfig, wanted: WindowConfig) -> str:
    return (
        f"was trained with window size {trained.window_size} and MAX_SEQ_LEN "
        f"{trained.max_seq_len}, not {wanted.window_size} and {wanted.max_seq_len}"
    )


def load_network(run: TrainedRun) -> LightNetwork | RagBert:
    """The network of a run with its best weights, in eval mode.

    Raises:
        InputError: the weights are absent or damaged.
        MismatchError: they are not of the network that the run's ``config.json`` describes.
    """
    network = build_network(run.config.model, run.config.windows.max_seq_len)
    load_weights(network, run.path / WEIGHTS)
    return network.eval()
