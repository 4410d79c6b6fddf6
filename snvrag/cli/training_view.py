"""What a terminal shows of training: a live bar with its figures, a table row per epoch."""

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from snvrag.cli.output import Terminal
from snvrag.cli.progress import Bar, LoggedProgress
from snvrag.observer import figure, start_lines, status_figures, status_line

if TYPE_CHECKING:
    from snvrag.observer import TrainReport

_STATUS_SECONDS = 10.0
_VALUES_AT = 22


class TrainingView:
    """Shows training: a live line while it runs, one table row per epoch."""

    def __init__(self, terminal: Terminal) -> None:
        shown = not (terminal.common.quiet or terminal.common.no_progress)
        self._bar = Bar(terminal.err, unit="batches") if terminal.live else None
        self._logged = LoggedProgress() if shown and not terminal.live else None
        self._said = time.monotonic()
        self._header_shown = False
        self.output: object = None
        """The run's folder, once training has begun."""

    def __enter__(self) -> "TrainingView":
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def on_progress(self, task: str, done: int, total: int) -> None:
        """Show what is done before the first batch and behind an epoch's last."""
        for shown in (self._bar, self._logged):
            if shown is not None:
                shown.update(task, done, total)

    def on_start(self, block: Mapping[str, object]) -> None:
        """Print the facts of the run."""
        self.output = block["output"]
        self.on_progress("preparing the first batch", 0, 0)
        for line in start_lines(block):
            self._log(line, indent=_VALUES_AT)

    def on_batch(self, status: Mapping[str, float | int]) -> None:
        """Refresh the live bar, or log a line every ten seconds where there is no terminal."""
        if self._bar is not None:
            task = f"epoch {status['epoch']}/{status['epochs']}"
            self._bar.update(task, int(status["batch"]), int(status["batches"]))
            self._bar.say(status_figures(status))
        elif time.monotonic() - self._said >= _STATUS_SECONDS:
            self._said = time.monotonic()
            self._log(status_line(status))

    def on_epoch(self, row: Mapping[str, float | int]) -> None:
        """Print the epoch's validation figures beside the baselines'."""
        methods = (("af", 7), ("nearest", 8), ("copying", 8), ("val", 7))
        if not self._header_shown:
            self._header_shown = True
            names = "".join(f"{'model' if m == 'val' else m:>{w}}" for m, w in methods)
            names = names.replace("   af", "   AF")
            self._log("held-out samples, masked sites:")
            self._log(f"{'':5} | {'accuracy':^30} | {'dosage r²':^30} | rare")
            self._log(f"{'epoch':5} |{names} |{names} |   F1")
        accuracy = "".join(f"{figure(row[f'{m}_accuracy']):>{w}}" for m, w in methods)
        r2 = "".join(f"{figure(row[f'{m}_r2']):>{w}}" for m, w in methods)
        self._log(f"{row['epoch']:5} |{accuracy} |{r2} | {figure(row['val_rare_f1'])}")

    def on_end(self, report: "TrainReport") -> None:
        """Nothing: the command sums up."""

    def _log(self, text: str, indent: int = 0) -> None:
        logging.getLogger("snvrag.cli").info(text, extra={"indent": indent})
