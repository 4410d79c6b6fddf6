"""What the terminal shows: logging, progress, tables, summaries, JSON.

Results go to stdout; everything else goes to stderr, through one console, so that log lines and
live progress do not tear each other.
"""

import contextlib
import json
import logging
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from snvrag.cli.options import Common
from snvrag.cli.progress import Bar, LoggedProgress
from snvrag.errors import OutputError
from snvrag.observer import plain
from snvrag.provenance import GrowingText

if TYPE_CHECKING:
    from rich.panel import Panel

    from snvrag.provenance import Progress

_STEP, _MINUTE = 1000, 60
_NARROWEST = 40
_NUMBER = re.compile(r"-|[\d.,…]+")


class Terminal:
    """One command's output, set up from its common options."""

    def __init__(self, common: Common, *, hide: Sequence[str] = ()) -> None:
        self.common = common
        self.err = Console(stderr=True, highlight=False)
        draws = self.err.is_terminal and not self.err.is_dumb_terminal
        self.live = draws and not (common.quiet or common.no_progress)
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

        table = Table(
            box=box.SIMPLE_HEAD,
            # A label is no markup.
            title=None if title is None else Text(title),
            title_justify="left",
        )
        for i, name in enumerate(columns):
            numeric = bool(rows) and all(_NUMBER.fullmatch(plain(r[i])) for r in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(value)) for value in row))
        Console(highlight=False).print(table)

    def result(self, text: str) -> None:
        """One line of results on stdout."""
        console = Console(highlight=False)
        # A terminal would break it within words.
        console.print(text, markup=False, soft_wrap=not console.is_terminal)

    def summary(
        self,
        command: str,
        written: Sequence[Path],
        facts: Mapping[str, object],
        following: str | None = None,
    ) -> None:
        """What a command did, on stdout: a panel on a terminal, aligned lines elsewhere.

        Args:
            command: its name.
            written: files and folders that are there now; told with their sizes.
            facts: the figures that matter, by name.
            following: a command line to go on with.
        """
        if self.common.quiet:
            return
        rows = [
            *(
                ("wrote", f"{path}{'/' * path.is_dir()}  {size(disk_size(path))}")
                for path in written
            ),
            *((name, plain(value)) for name, value in facts.items()),
        ]
        console = Console(highlight=False, soft_wrap=True)
        if console.is_terminal:
            console.print(_panel(f"snvrag {command}", rows), soft_wrap=False)
        else:
            width = max(len(name) for name, _ in rows)
            for name, value in rows:
                console.print(f"{name:<{width}}  {value}", markup=False)
        if following:
            # Outside the panel, whose frame would be copied with it.
            console.print(Text.assemble(("next: ", "bold"), following))

    @contextlib.contextmanager
    def progress(
        self, shares: Mapping[str, float] | None = None, unit: str = ""
    ) -> "Iterator[Progress | None]":
        """A ``progress(task, done, total)`` function that draws one bar, or None.

        Without a terminal it logs a line every half minute instead.

        Args:
            shares: tasks that follow one another and the usual share of each in the time; the bar
                then shows the whole and never goes back.
            unit: what is counted, to show the rate in.
        """
        if self.common.quiet or self.common.no_progress:
            yield None
        elif self.live:
            with Bar(self.err, shares, unit) as bar:
                yield bar.update
        else:
            yield LoggedProgress().update


def close_log() -> None:
    """Close the log file and forget the console, at a command's start and end."""
    logger = logging.getLogger("snvrag")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


class _ConsoleHandler(logging.Handler):
    """Writes log records to the console that also draws the progress, one line each."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        text = record.getMessage()
        if self.console.is_terminal:
            # It would break lines within words; a file is to have one line each.
            text = textwrap.fill(
                text,
                max(self.console.width - len(prefix), _NARROWEST),
                subsequent_indent=" " * getattr(record, "indent", 0),
                break_long_words=False,
                break_on_hyphens=False,
            )
        self.console.print(Text.assemble((prefix, "yellow"), text), soft_wrap=True)


def _panel(title: str, rows: Sequence[tuple[str, str]]) -> "Panel":
    from rich.panel import Panel
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, Text(value))
    return Panel.fit(grid, title=title, title_align="left", border_style="green")


def disk_size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def size(n_bytes: int) -> str:
    """Bytes as people read them, in powers of ten."""
    number, units = float(n_bytes), ["B", "kB", "MB", "GB", "TB"]
    while number >= _STEP and len(units) > 1:
        number /= _STEP
        units.pop(0)
    return f"{number:,.0f} {units[0]}" if units[0] == "B" else f"{number:,.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Time as people read it: ``9.4 s``, ``3 min 12 s``, ``1 h 6 min``."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


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
