"""What the terminal shows while a command works."""

import io
import logging

import pytest
from rich.console import Console

from snvrag.cli import output
from snvrag.cli.options import Common
from snvrag.cli.output import Bar, LoggedProgress, Terminal

SHARES = {"imputing": 0.8, "writing": 0.2}


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(output, "time", made)
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


def test_a_delayed_bar_shows_nothing_of_short_work(clock):
    text = io.StringIO()
    with Bar(Console(file=text, force_terminal=True), delay=2.0) as bar:
        bar.update("comparing", 1, 10)
        clock.now += 1.9
        bar.update("comparing", 9, 10)
        assert text.getvalue() == ""
        clock.now += 0.2
        bar.update("comparing", 10, 10)
        assert text.getvalue() != ""


def test_without_a_terminal_a_line_now_and_then_says_what_is_left(clock, caplog):
    caplog.set_level(logging.INFO, logger="snvrag")
    progress = LoggedProgress(every=30)
    for second in range(100):
        clock.now += 1
        progress.update("imputing", second, 4000)
    assert caplog.messages == [
        "imputing: 1%, about 1:06:11 left",
        "imputing: 1%, about 1:05:41 left",
        "imputing: 2%, about 1:05:11 left",
    ]
    clock.now += 31
    progress.update("reading", 5000, 0)
    assert caplog.messages[-1] == "reading: 5,000"


@pytest.mark.parametrize("option", ["quiet", "no_progress"])
def test_progress_can_be_switched_off(option):
    with Terminal(Common(**{option: True})).progress() as progress:
        assert progress is None
    output.close_log()
