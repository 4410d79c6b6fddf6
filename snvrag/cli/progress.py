"""How far a command is: one live bar on a terminal, a log line now and then without one."""

import logging
import threading
import time
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

DELAY_SECONDS = 0.5
"""Work that is over sooner draws no bar."""
_LOG_SECONDS = 30.0
_RATE_SECONDS = 0.5
_BAR_WIDTH = 20
_WHOLE_SPEED = 10
# Of tasks, by their first word, that are counted in other things than their command's others.
_UNITS = {"fitting": "", "hashing": "MB", "reading": "records"}
_SHARED = object()


class _Time(ProgressColumn):
    """Time left where it is known, else the time since the command began."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    def render(self, task: Task) -> Text:
        """The column's text for a task."""
        if task.total is not None and task.time_remaining is not None:
            return Text(f"{clock(task.time_remaining)} left")
        return Text(f"{clock(time.monotonic() - self._began)} so far")


class Bar:
    """One progress bar over all tasks of a command, with rate and time left.

    It appears by itself, also where nothing is ever told, and is gone at the end.

    Args:
        console: where it is drawn.
        shares: tasks that follow one another and the usual share of each in the time; the bar
            then shows the whole and never goes back.
        unit: what is counted, to show the rate in.
        delay: seconds to wait before anything is drawn.
    """

    def __init__(
        self,
        console: Console,
        shares: Mapping[str, float] | None = None,
        unit: str = "",
        delay: float = DELAY_SECONDS,
    ) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_WIDTH),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[rate]}"),
            _Time(),
            console=console,
        )
        self._shares = shares or {}
        self._unit = unit
        self._name, self._since, self._first, self._done = "starting", 0.0, 0, 0
        self._phase: object = None
        self._task = self._new_phase(self._name)
        self._figures = ""
        self._live = Live(console=console, transient=True, get_renderable=self._render)
        self._lock, self._over = threading.Lock(), False
        self._timer = threading.Timer(delay, self._start)
        self._timer.daemon = True

    def __enter__(self) -> "Bar":
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._over = True
        self._timer.cancel()
        if self._live.is_started:
            self._live.stop()

    def _start(self) -> None:
        with self._lock:
            if not self._over:
                self._live.start()

    def _render(self) -> RenderableType:
        bar = self._bar.get_renderable()
        return Group(bar, Text(self._figures)) if self._figures else bar

    def say(self, figures: str) -> None:
        """Show a line of figures under the bar."""
        self._figures = figures

    def _new_phase(self, phase: object) -> TaskID:
        """Begin a bar anew: the time left follows from the speed of one phase alone."""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._phase = phase
        return self._bar.add_task(self._name, total=None, amount="", rate="")

    def update(self, name: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` of a task are done; a total of 0 is unknown."""
        now = time.monotonic()
        # Several files are gone through one after the other under one name.
        begins = name != self._name or done < self._done
        self._done = done
        if begins:
            self._name, self._since, self._first = name, now, done
        shared = name in self._shares
        if not shared and self._phase is _SHARED:
            # Between phases that are counted together, the bar stays where it is.
            self._bar.update(self._task, description=name, amount=_amount(done, total), rate="")
            return
        phase = _SHARED if shared else name
        total = total if done <= total else 0
        lost = not total and self._bar.tasks[0].total is not None
        if phase != self._phase or (begins and not shared) or lost:
            self._task = self._new_phase(phase)
        passed = now - self._since
        speed = (done - self._first) / passed if passed > _RATE_SECONDS else 0.0
        whole, completed, amount = float(total), float(done), _amount(done, total)
        if shared and total:
            before = 0.0
            for task, share in self._shares.items():
                if task == name:
                    break
                before += share
            whole = 1.0
            completed = (before + self._shares[name] * done / total) / sum(self._shares.values())
            amount = _per_cent(completed)
        self._bar.update(
            self._task,
            description=name,
            completed=completed if whole else 0,
            total=whole or None,
            amount=amount,
            rate=_rate(speed, _UNITS.get(name.split(maxsplit=1)[0], self._unit)),
        )


class LoggedProgress:
    """Progress where there is no terminal: a log line now and then."""

    def __init__(self, every: float = _LOG_SECONDS) -> None:
        self._every = every
        self._name, self._first, self._done = "", 0, 0
        self._said = self._since = time.monotonic()

    def update(self, name: str, done: int, total: int) -> None:
        """Log how far a task is, if the last line is long enough ago."""
        now = time.monotonic()
        if name != self._name or done < self._done:
            self._name, self._since, self._first = name, now, done
        self._done = done
        total = total if done <= total else 0
        if now - self._said < self._every:
            return
        self._said = now
        text = f"{name}: {done:,}" if done else name
        if total:
            text = f"{name}: {_per_cent(done / total)}"
        if total and done > self._first:
            left = (now - self._since) * (total - done) / (done - self._first)
            text += f", about {clock(left)} left"
        logging.getLogger("snvrag.cli").info(text)


def _amount(done: int, total: int) -> str:
    if total:
        return f"{done:,}/{total:,}"
    return f"{done:,}" if done else ""


def _per_cent(share: float) -> str:
    """Of a share up to 1; 100 % is the end, and not just before it."""
    return f"{min(round(100 * share), 99 if share < 1 else 100)}%"


def _rate(speed: float, unit: str) -> str:
    if not speed:
        return ""
    number = f"{speed:,.0f}" if speed >= _WHOLE_SPEED else f"{speed:.1f}"
    return f"{number} {unit}/s" if unit else f"{number}/s"


def clock(seconds: float) -> str:
    """Time as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
