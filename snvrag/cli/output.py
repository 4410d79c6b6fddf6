"""What the terminal shows: logging, progress, tables, summaries, JSON.

Results go to stdout; everything else goes to stderr, through one console, so that log lines and
live progress do not tear each other.
"""

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from snvrag.cli.options import Common
from snvrag.errors import OutputError
from snvrag.observer import figure, plain, start_lines, status_figures, status_line
from snvrag.provenance import GrowingText

if TYPE_CHECKING:
    from snvrag.observer import TrainReport
    from snvrag.provenance import Progress as Report

_STATUS_SECONDS = 10.0
_LOG_SECONDS = 30.0
_NUMBER = re.compile(r"-|[\d.,…]+")


class Terminal:
    """One command's output, set up from its common options."""

    def __init__(self, common: Common, *, hide: Sequence[str] = ()) -> None:
        self.common = common
        self.err = Console(stderr=True, highlight=False)
        self.live = self.err.is_terminal and not (common.quiet or common.no_progress)
        self._set_up_logging(hide)

    def _set_up_logging(self, hide: Sequence[str]) -> None:
        logger = logging.getLogger("snvrag")
        close_log()
        logger.propagate = False
        level = logging.WARNING if self.common.quiet else logging.INFO
        level = logging.DEBUG if self.common.verbose else level
        logger.setLevel(min(level, logging.INFO))
        shown = _ConsoleHandler(self.err)
        shown.setLevel(level)
        if not self.common.verbose:
            shown.addFilter(lambda record: record.levelno > logging.INFO or record.name not in hide)
        logger.addHandler(shown)
        if self.common.log_file is not None:
            logger.addHandler(_LogFile(self.common.log_file))

    def note(self, text: str) -> None:
        """One line on stderr, unless quiet."""
        if not self.common.quiet:
            self.err.print(text, markup=False, soft_wrap=True)

    def json(self, data: Mapping[str, Any]) -> None:
        """The one JSON object of ``--json``; undefined numbers become null."""
        sys.stdout.write(json.dumps(_as_json(data), indent=1, allow_nan=False) + "\n")

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None
    ) -> None:
        """A table on stdout; numbers are right-aligned."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        for i, name in enumerate(columns):
            numeric = bool(rows) and all(_NUMBER.fullmatch(plain(r[i])) for r in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(value)) for value in row))
        Console(highlight=False).print(table)

    def result(self, text: str) -> None:
        """One line of results on stdout."""
        Console(highlight=False, soft_wrap=True).print(text, markup=False)

    def summary(self, title: str, facts: Mapping[str, object], following: str | None) -> None:
        """What was done, as aligned lines on stdout, and what to run next."""
        if self.common.quiet:
            return
        console = Console(highlight=False, soft_wrap=True)
        console.print(title, style="bold", markup=False)
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            console.print(f"  {name:<{width}}  {plain(value)}", markup=False)
        if following:
            console.print(f"next: {following}", markup=False)

    @contextlib.contextmanager
    def progress(
        self, shares: Mapping[str, float] | None = None, unit: str = "", delay: float = 0.0
    ) -> "Iterator[Report | None]":
        """A ``progress(task, done, total)`` function that draws one bar, or None.

        Without a terminal it logs a line every half minute instead.

        Args:
            shares: tasks that follow one another and the usual share of each in the time; the bar
                then shows the whole and never goes back.
            unit: what is counted, to show the rate in.
            delay: seconds to wait before anything is drawn.
        """
        if self.common.quiet or self.common.no_progress:
            yield None
        elif self.live:
            with Bar(self.err, shares, unit, delay) as bar:
                yield bar.update
        else:
            yield LoggedProgress().update


class _TimeLeft(TimeRemainingColumn):
    """Time left, with the word, or nothing where it is unknown."""

    def render(self, task: Task) -> Text:
        """The column's text for a task."""
        if task.total is None or task.time_remaining is None:
            return Text("")
        return Text.assemble(super().render(task), " left")


class Bar:
    """One progress bar over all tasks of a command, with rate and time left."""

    def __init__(
        self,
        console: Console,
        shares: Mapping[str, float] | None = None,
        unit: str = "",
        delay: float = 0.0,
    ) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[rate]}"),
            _TimeLeft(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, amount="", rate="")
        self._shares = shares or {}
        self._unit = f" {unit}" if unit else ""
        self._name, self._since, self._first = "", 0.0, 0
        self._start_at = time.monotonic() + delay

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` of a task are done; a total of 0 is unknown."""
        now = time.monotonic()
        if now >= self._start_at and not self._bar.live.is_started:
            self._bar.start()
        if name != self._name:
            self._name, self._since, self._first = name, now, done
        passed = now - self._since
        rate = f"{(done - self._first) / passed:,.0f}{self._unit}/s" if passed > 0.5 else ""
        whole, completed = float(total), float(done)
        amount = f"{done:,}/{total:,}" if total else f"{done:,}"
        if total and name in self._shares:
            before = 0.0
            for task, share in self._shares.items():
                if task == name:
                    break
                before += share
            whole = 1.0
            completed = (before + self._shares[name] * done / total) / sum(self._shares.values())
            amount = f"{completed:>4.0%}"
        if not total and self._bar.tasks[0].total is not None:
            # Between phases that are counted, the bar stays where it is.
            whole, completed, rate = self._bar.tasks[0].total, self._bar.tasks[0].completed, ""
        self._bar.update(
            self._task,
            description=name,
            completed=completed if whole else 0,
            total=whole or None,
            amount=amount,
            rate=rate,
        )


class LoggedProgress:
    """Progress where there is no terminal: a log line now and then."""

    def __init__(self, every: float = _LOG_SECONDS) -> None:
        self._every = every
        self._name, self._first = "", 0
        self._said = self._since = time.monotonic()

    def update(self, name: str, done: int, total: int) -> None:
        """Log how far a task is, if the last line is long enough ago."""
        now = time.monotonic()
        if name != self._name:
            self._name, self._since, self._first = name, now, done
        if now - self._said < self._every:
            return
        self._said = now
        text = f"{name}: {done:,}"
        if total:
            left = (now - self._since) * (total - done) / max(done - self._first, 1)
            text = f"{name}: {done / total:.0%}, about {_duration(left)} left"
        logging.getLogger("snvrag.cli").info(text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def close_log() -> None:
    """Close the log file and forget the console, at a command's start and end."""
    logger = logging.getLogger("snvrag")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


class TrainingView:
    """Shows training: a live line while it runs, one table row per epoch."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self._live: Any = None
        self._bar: Any = None
        self._task: Any = None
        self._said = time.monotonic()
        self._header_shown = False
        self.output: object = None
        """The run's folder, once training has begun."""

    def on_start(self, block: Mapping[str, object]) -> None:
        """Print the facts of the run and start the live line."""
        self.output = block["output"]
        for line in start_lines(block):
            self._log(line)
        if self.terminal.live:
            self._start_live()

    def _start_live(self) -> None:
        from rich.live import Live

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=self.terminal.err,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._live = Live(self._bar, console=self.terminal.err, transient=True)
        self._live.start()

    def on_batch(self, status: Mapping[str, float | int]) -> None:
        """Refresh the live line, or log one every ten seconds where there is no terminal."""
        if self._live is not None:
            from rich.console import Group

            self._bar.update(
                self._task,
                description=f"epoch {status['epoch']}/{status['epochs']}",
                completed=status["batch"],
                total=status["batches"],
            )
            self._live.update(Group(self._bar, Text(status_figures(status))))
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
        """Stop the live line."""
        self.stop()

    def stop(self) -> None:
        """Give the terminal back, whatever happened."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _log(self, text: str) -> None:
        logging.getLogger("snvrag.cli").info(text)


class _ConsoleHandler(logging.Handler):
    """Writes log records to the console that also draws the progress, one line each."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        text = prefix + record.getMessage()
        self.console.print(text, markup=False, soft_wrap=True)


class _LogFile(logging.Handler):
    """Appends records to ``--log-file``; one that can no longer be written to is told of, once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self._file = GrowingText(path)
        except OSError as error:
            raise OutputError(
                f"{path}: the log file cannot be written ({error.strerror})",
                "choose another --log-file",
            ) from error
        self._path = path
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        if self._file.closed:
            return
        try:
            self._file.write(self.format(record))
        except OSError as error:
            self._file.close()
            logging.getLogger(__name__).warning(
                "%s: the log file ends here, it cannot be written (%s)", self._path, error.strerror
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def _as_json(value: Any) -> Any:
    """``value`` as JSON can hold it: paths as text, undefined numbers as null."""
    if isinstance(value, Mapping):
        return {str(k): _as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(v) for v in value]
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return str(value) if isinstance(value, Path) else value
