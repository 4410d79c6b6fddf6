"""``train.log``: a run's own log, complete line by line, so that it can be followed meanwhile.

It takes the library's log records (JIT builds, warnings) and what training tells its observer. The
command line's own lines, which say the same for a terminal, stay out of it.
"""

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from snvrag.errors import OutputError, SnvragError
from snvrag.observer import (
    SilentObserver,
    TrainingObserver,
    TrainReport,
    epoch_line,
    start_lines,
    status_line,
)
from snvrag.provenance import GrowingText

_LOGGER = "snvrag"
_COMMAND_LINE = "snvrag.cli"


class RunLog:
    """Writes ``train.log`` and passes on to another observer. Use as a context manager.

    Args:
        path: the log file; appended to, so that a resumed run goes on in it.
        observer: who else is told.
        every: batches between two status lines; an epoch's first and last batch have one too.

    Raises:
        OutputError: on entering, the file cannot be written to.
    """

    def __init__(self, path: Path, observer: TrainingObserver | None, every: int) -> None:
        self.path, self.every = path, every
        self.observer: TrainingObserver = observer or SilentObserver()
        self._level: int | None = None

    def __enter__(self) -> "RunLog":
        try:
            self._file = GrowingText(self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path}: the log cannot be written ({error.strerror})", "give another -o"
            ) from error
        self._handler = _LineHandler(self)
        logger = logging.getLogger(_LOGGER)
        if not logger.isEnabledFor(logging.INFO):
            # Nobody asked to see the records that this file needs: they go no further.
            self._level = logger.level
            self._handler.others_from = logger.getEffectiveLevel()
            self._propagate, logger.propagate = logger.propagate, False
            logger.setLevel(logging.INFO)
        logger.addHandler(self._handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logger = logging.getLogger(_LOGGER)
        logger.removeHandler(self._handler)
        if self._level is not None:
            logger.setLevel(self._level)
            logger.propagate = self._propagate
        # A log that cannot be written to may be why the run ends.
        with contextlib.suppress(OutputError):
            if isinstance(error, SnvragError):
                self.write("ERROR", error.message)
            elif error is not None:
                self.write("ERROR", f"ended by {type(error).__name__} {error}".rstrip())
        self._file.close()

    def write(self, level: str, text: str) -> None:
        """One line with time and level.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level} {text}")
        except OSError as error:
            raise OutputError(
                f"{self.path}: the log cannot be written ({error.strerror})", "free some space"
            ) from error

    def on_progress(self, task: str, done: int, total: int) -> None:
        """Pass it on: it is of the moment."""
        self.observer.on_progress(task, done, total)

    def on_start(self, block: Mapping[str, object]) -> None:
        """Write the facts of the run."""
        for line in start_lines(block):
            self.write("INFO", line)
        self.observer.on_start(block)

    def on_batch(self, status: Mapping[str, float | int]) -> None:
        """Write a status line every so many batches."""
        batch = int(status["batch"])
        if batch % self.every == 0 or batch in {1, status["batches"]}:
            self.write("INFO", status_line(status))
        self.observer.on_batch(status)

    def on_epoch(self, row: Mapping[str, float | int]) -> None:
        """Write the epoch's figures."""
        self.write("INFO", epoch_line(row))
        self.observer.on_epoch(row)

    def on_end(self, report: TrainReport) -> None:
        """Write how training ended."""
        how = "stopped early" if report.stopped_early else "finished"
        if report.already_finished:
            how = "was already finished"
        self.write(
            "INFO",
            f"training {how}: {report.epochs} epochs, {report.steps} steps, best epoch "
            f"{report.best_epoch}, {report.jit_builds} indexes built, {report.seconds:.1f} s",
        )
        self.observer.on_end(report)


class _LineHandler(logging.Handler):
    """The library's records as lines of the log."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.INFO)
        self.log = log
        self.others_from: int | None = None
        """Where the log lowered the level, what other handlers still get to see."""

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(_COMMAND_LINE):
            self.log.write(record.levelname, record.getMessage())
        if self.others_from is not None and record.levelno >= self.others_from:
            logging.getLogger().handle(record)
