"""What training tells those who watch it, and what it returns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class TrainingObserver(Protocol):
    """What :func:`train` reports to while it works."""

    def on_progress(self, task: str, done: int, total: int) -> None:
        """Of work outside the epochs' batches; a total of 0 is unknown."""

    def on_start(self, block: Mapping[str, object]) -> None:
        """The facts of the run, once, before the first step."""

    def on_batch(self, status: Mapping[str, float | int]) -> None:
        """After each batch: position, running loss, rare F1, r², speed, JIT builds, memory."""

    def on_epoch(self, row: Mapping[str, float | int]) -> None:
        """After each epoch: the row that goes into ``metrics.csv``."""

    def on_end(self, report: "TrainReport") -> None:
        """When training is over."""


class SilentObserver:
    """The observer that shows nothing."""

    def on_progress(self, task: str, done: int, total: int) -> None:
        """Ignore."""

    def on_start(self, block: Mapping[str, object]) -> None:
        """Ignore."""

    def on_batch(self, status: Mapping[str, float | int]) -> None:
        """Ignore."""

    def on_epoch(self, row: Mapping[str, float | int]) -> None:
        """Ignore."""

    def on_end(self, report: "TrainReport") -> None:
        """Ignore."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a run of :func:`train` did."""

    output: Path
    index_dir: Path
    epochs: int
    """Epochs complete, over all sessions of the run."""
    steps: int
    best_epoch: int
    """Epoch (from 1) whose weights are in ``model.safetensors``."""
    best: dict[str, float]
    """That epoch's row of ``metrics.csv``."""
    seconds: float
    first_step_seconds: float
    """From the call of :func:`train` to the end of the first optimiser step; NaN if none."""
    jit_builds: int
    stopped_early: bool
    already_finished: bool


def plain(value: object) -> str:
    """A fact as people read it: thousands separated, four significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return str(value)


def figure(value: float) -> str:
    """A share with four decimals, ``-`` where undefined."""
    return "-" if value != value else f"{value:.4f}"  # noqa: PLR0124


def start_lines(block: Mapping[str, object]) -> Iterator[str]:
    """The facts of the run, one per line."""
    for name, value in block.items():
        label = "MAX_SEQ_LEN" if name == "max_seq_len" else name.replace("_", " ")
        yield f"  {label:<18}  {plain(value)}"


def status_line(status: Mapping[str, float | int]) -> str:
    """Where training stands, in one line."""
    return (
        f"epoch {status['epoch']}/{status['epochs']}  batch {status['batch']:,}/"
        f"{status['batches']:,}  {status_figures(status)}  lr {status['lr']:.3g}"
    )


def status_figures(status: Mapping[str, float | int]) -> str:
    """The running figures of training, in one line."""
    return (
        f"window {status['window']}  loss {figure(status['loss'])}  rare-F1 "
        f"{figure(status['rare_f1'])}  r² {figure(status['r2'])}  "
        f"{status['samples_per_s']:.0f}/s  JIT {status['jit_builds']}  "
        f"{status['rss_mb']:,.0f} MB"
    )


def epoch_line(row: Mapping[str, float | int]) -> str:
    """An epoch's figures on held-out samples, in one line; the copying model's in brackets."""
    names = (("loss", "loss"), ("rare_f1", "rare-F1"), ("common_f1", "common-F1"), ("r2", "r²"))
    both = "  ".join(
        f"{label} {figure(row[f'val_{name}'])} ({figure(row[f'copying_{name}'])})"
        for name, label in names
    )
    return (
        f"epoch {row['epoch']}: training loss {figure(row['train_loss'])}; held out: {both}  "
        f"ECE {figure(row['val_ece'])}; {row['train_seconds']:.1f} s + "
        f"{row['validation_seconds']:.1f} s validation, {row['jit_builds']} indexes built"
    )
