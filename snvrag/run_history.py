"""What a run folder tells of its course: events and metrics, read without heavy libraries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from snvrag.provenance import read_json_lines

EVENTS = "events.jsonl"
# Beyond this a damaged file speaks, not a run.
_LARGEST = 1 << 40


@dataclass(frozen=True, slots=True)
class WindowEvent:
    """The first touch of a window."""

    window: int
    chromosome: str
    first: int
    """1-based position of its first site."""
    last: int
    """Of its last one."""
    sites: int
    built: bool
    """Just in time, else read from the index folder."""
    ms: float
    """What that took."""


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run in order; none where the file is absent, as in runs before it.

    Raises:
        InputError: the file is no text or too large.
    """
    return read_json_lines(path, damaged_ok=True) if path.exists() else []


def windows_touched(events: Sequence[Mapping[str, Any]]) -> list[WindowEvent]:
    """One event per window in the windows' order: the building of it, else the first reading.

    Events that a writer of another version, or nobody, may have written are left out.
    """
    found: dict[int, WindowEvent] = {}
    for event in events:
        touched = _window_event(event)
        if touched is None:
            continue
        known = found.get(touched.window)
        if known is None or (touched.built and not known.built):
            found[touched.window] = touched
    return [found[number] for number in sorted(found)]


def _window_event(event: Mapping[str, Any]) -> WindowEvent | None:
    if event.get("event") != "window":
        return None
    try:
        touched = WindowEvent(**{f.name: event[f.name] for f in fields(WindowEvent)})
    except KeyError:
        return None
    numbers = (touched.window, touched.first, touched.last, touched.sites)
    sound = (
        all(type(n) is int and 0 <= n < _LARGEST for n in numbers)
        and touched.first <= touched.last
        and type(touched.chromosome) is str
        and type(touched.built) is bool
        and type(touched.ms) in {int, float}
        and 0 <= touched.ms < _LARGEST
    )
    return touched if sound else None
