"""What the terminal shows while a command works."""

import io
import logging
import time

import numba
import pytest
from rich.console import Console

from snvrag import compiling
from snvrag.cli import output, progress
from snvrag.cli.options import Common
from snvrag.cli.output import Terminal, duration, size
from snvrag.cli.progress import Bar, LoggedProgress

SHARES = {"imputing": 0.8, "writing": 0.2}


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def fields(bar):
    (task,) = bar._bar.tasks
    return task


def test_one_bar_goes_forward_through_all_phases(clock):
    console = Console(file=io.StringIO(), force_terminal=True)
    shown = []
    with Bar(console, SHARES, "sites") as bar:
        bar.update("reading", 512, 0)
        assert fields(bar).total is None
        clock.now += 2
        bar.update("reading", 1024, 4096)
        assert fields(bar).fields["rate"] == "256 records/s"
        for name in SHARES:
            # As between chromosomes: nothing to count, and no way back.
            bar.update("reading", 961, 0)
            shown.append(fields(bar).completed / (fields(bar).total or 1))
            for done in range(0, 101, 25):
                clock.now += 1
                bar.update(name, done, 100)
                shown.append(fields(bar).completed / fields(bar).total)
    assert shown == sorted(shown)
    assert shown[5] == shown[6] == pytest.approx(0.8)
    assert shown[-1] == pytest.approx(1.0)
    # 25 sites a second, of the phase alone.
    assert fields(bar).fields["rate"] == "25 sites/s"
    assert fields(bar).fields["amount"] == "100%"


def test_without_shares_each_task_counts_for_itself(clock):
    with Bar(Console(file=io.StringIO(), force_terminal=True)) as bar:
        clock.now += 1
        bar.update("converting", 2048, 0)
        assert (fields(bar).total, fields(bar).fields["amount"]) == (None, "2,048")
        bar.update("building", 3, 12)
        assert (fields(bar).completed, fields(bar).total) == (3, 12)
        # An index that is older than its file: more than there should be.
        bar.update("building", 13, 12)
        assert (fields(bar).total, fields(bar).fields["amount"]) == (None, "13")


def test_the_next_file_under_the_same_name_begins_anew(clock):
    with Bar(Console(file=io.StringIO(), force_terminal=True), unit="records") as bar:
        for _ in range(2):
            for done in range(0, 300, 100):
                clock.now += 1
                bar.update("comparing", done, 1000)
        assert fields(bar).completed == 200
        assert fields(bar).fields["rate"] == "100 records/s"


def test_a_bar_appears_by_itself_but_not_for_short_work():
    text = io.StringIO()
    with Bar(Console(file=text, force_terminal=True, width=80), delay=60.0) as bar:
        bar.update("comparing", 1, 10)
    assert text.getvalue() == ""
    with Bar(Console(file=text, force_terminal=True, width=80), delay=0.01):
        until = time.monotonic() + 10
        while "starting" not in text.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    shown = text.getvalue()
    assert "starting" in shown
    # The cursor is there again, and the line is cleared.
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert shown.endswith("\x1b[2K")


def test_the_longest_line_of_progress_fits_80_columns(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Bar(console, unit="records") as bar:
        for done in range(0, 10):
            clock.now += 1
            bar.update("comparing alleles", 1_000_000 + done * 100_000, 9_999_999)
        console.print(bar._render())
        console.print(bar._render())
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    assert "left" in lines[1]


def test_amounts_and_times_as_people_read_them():
    assert [size(n) for n in (0, 999, 1000, 12_540_000, 3 * 10**12)] == [
        *("0 B", "999 B", "1.0 kB", "12.5 MB", "3.0 TB"),
    ]
    assert [duration(s) for s in (0.04, 59.94, 192, 3960)] == [
        *("0.0 s", "59.9 s", "3 min 12 s", "1 h 6 min"),
    ]
    assert [progress.clock(s) for s in (0, 61, 3966)] == ["0:00", "1:01", "1:06:06"]


def test_without_a_terminal_a_line_now_and_then_says_what_is_left(clock, caplog):
    caplog.set_level(logging.INFO, logger="snvrag")
    logged = LoggedProgress(every=30)
    for second in range(100):
        clock.now += 1
        logged.update("imputing", second, 4000)
    assert caplog.messages == [
        "imputing: 1%, about 1:06:11 left",
        "imputing: 1%, about 1:05:41 left",
        "imputing: 2%, about 1:05:11 left",
    ]
    clock.now += 31
    logged.update("reading", 5000, 0)
    assert caplog.messages[-1] == "reading: 5,000"
    clock.now += 31
    logged.update("validating", 0, 35)
    assert caplog.messages[-1] == "validating: 0%"
    # The second file under one name, whose index promises fewer records than there are.
    for done in (999, 1000, 0, 500, 999, 1001):
        clock.now += 31
        logged.update("comparing", done, 1000)
    assert caplog.messages[-6:] == [
        "comparing: 99%",
        "comparing: 100%, about 0:00 left",
        "comparing: 0%",
        "comparing: 50%, about 0:31 left",
        "comparing: 99%, about 0:00 left",
        "comparing: 1,001",
    ]


@pytest.mark.parametrize("option", ["quiet", "no_progress"])
def test_progress_can_be_switched_off(option):
    with Terminal(Common(**{option: True})).progress() as told:
        assert told is None
    output.close_log()


def test_the_first_compilation_of_a_kernel_is_told_once(caplog):
    caplog.set_level(logging.INFO, logger="snvrag")
    compiling._tell_compiling.cache_clear()

    def kernel(x):
        return x + 1

    numba.njit(kernel)(1)
    assert caplog.messages == []
    kernel.__module__ = "snvrag.copying"
    ours = numba.njit(kernel)
    assert (ours(1), ours(1.0)) == (2, 2.0)
    assert caplog.messages == [compiling.COMPILING]
