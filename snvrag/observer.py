"""What training tells those who watch it, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class TrainingObserver(Protocol):
    """What :func:`train` reports to while it works."""

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
