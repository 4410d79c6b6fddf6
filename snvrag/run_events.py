"""``events.jsonl`` of a run folder: what ``train.log`` tells people, as one JSON object per line.

Lines of kind ``start`` and ``end`` are of a session of training, those of kind ``window`` say
where the index of a window came from the first time that the run touched it, and again where a
later session had to build it.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from snvrag.errors import InputError, OutputError
from snvrag.observer import SilentObserver, TrainingObserver, TrainReport
from snvrag.panel import Panel
from snvrag.provenance import GrowingText, writing
from snvrag.run_history import WindowEvent, read_events, windows_touched
from snvrag.windows import WindowPlan


class EventLog:
    """Writes ``events.jsonl`` and passes on to another observer. Use as a context manager.

    The processes of a torchrun append to one file, each its own windows; an observer is told on
    rank 0 only, so ``start`` and ``end`` are written once.

    Args:
        path: the file; appended to, so that a resumed run goes on in it.
        panel: gives the windows' positions.
        plan: its windows.
        observer: who else is told.
    """

    def __init__(
        self, path: Path, panel: Panel, plan: WindowPlan, observer: TrainingObserver | None
    ) -> None:
        self.path, self.plan = path, plan
        self.observer: TrainingObserver = observer or SilentObserver()
        self._positions = panel.positions
        self._seen: set[int] = set()
        self._known: set[int] = set()

    def __enter__(self) -> "EventLog":
        # The log of a run that is resumed again and again does not grow by its reading the indexes.
        # What cannot be read of it stops no training.
        with contextlib.suppress(InputError):
            self._known = {event.window for event in windows_touched(read_events(self.path))}
        try:
            self._file = GrowingText(self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror})", "give another -o"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _write(self, kind: str, facts: Mapping[str, Any]) -> None:
        with writing(self.path):
            self._file.write(json.dumps({"event": kind, **facts}))

    def on_touch(self, number: int, built: bool, seconds: float) -> None:
        """Write where an index came from, the first time that its window is touched."""
        if number in self._seen:
            return
        self._seen.add(number)
        if number in self._known and not built:
            return
        window = self.plan.windows[number]
        event = WindowEvent(
            window=number,
            chromosome=str(window.chrom),
            first=int(self._positions[window.start]),
            last=int(self._positions[window.end - 1]),
            sites=window.n_snps,
            built=built,
            ms=round(seconds * 1000, 3),
        )
        self._write("window", asdict(event))

    def on_progress(self, task: str, done: int, total: int) -> None:
        """Pass it on."""
        self.observer.on_progress(task, done, total)

    def on_start(self, block: Mapping[str, object]) -> None:
        """Write the facts of the run."""
        self._write("start", block)
        self.observer.on_start(block)

    def on_batch(self, status: Mapping[str, float | int]) -> None:
        """Pass on."""
        self.observer.on_batch(status)

    def on_epoch(self, row: Mapping[str, float | int]) -> None:
        """Pass on; ``metrics.jsonl`` holds the row."""
        self.observer.on_epoch(row)

    def on_end(self, report: TrainReport) -> None:
        """Write how training ended."""
        names = ("epochs", "steps", "best_epoch", "seconds", "jit_builds", "stopped_early")
        facts = {name: getattr(report, name) for name in names}
        self._write("end", facts | {"already_finished": report.already_finished})
        self.observer.on_end(report)
