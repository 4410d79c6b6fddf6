"""Several processes that compute the parts of one imputation, and the one that leads them.

A worker is a Python of its own (``python -m snvrag.impute_worker``): not a fork, which neither
numba's nor torch's threads survive. It is told what to do in lines of JSON on its standard input
and answers in lines of JSON on its standard output; arrays go through files. It ends when its
standard input does, and so does not outlive the process that leads it, whatever ends that one.
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snvrag import errors
from snvrag.chunks import Chunk, Part
from snvrag.errors import SnvragError, WorkError
from snvrag.workdir import part_path

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 5.0
_KEPT = "what is done is kept, and the same command goes on from there"


def part_from_json(data: dict[str, Any]) -> Part:
    """A part as a worker is told of it."""
    chunk = Chunk(**{**data["chunk"], "windows": tuple(data["chunk"]["windows"])})
    return Part(data["number"], chunk, data["first"], data["last"])


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An error as a worker tells it."""
    told: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, SnvragError):
        told |= {"message": error.message, "hint": error.hint}
    if isinstance(error, OSError):
        told |= {"errno": error.errno, "strerror": error.strerror, "file": str(error.filename)}
    return told


def error_from_json(told: dict[str, Any]) -> BaseException:
    """The error that a worker told of."""
    kind = getattr(errors, told["kind"], None)
    if isinstance(kind, type) and issubclass(kind, SnvragError):
        return kind(told["message"], told["hint"])
    if told["kind"] == "MemoryError":
        return MemoryError()
    if told.get("errno") is not None:
        return OSError(told["errno"], told["strerror"], told["file"])
    return RuntimeError(f"a worker process: {told['kind']}: {told['message']}")


class _Worker:
    """One process, and the part that it computes."""

    def __init__(self, setup: dict[str, Any], threads: int) -> None:
        # As this process finds its modules, and not by what lies in the current folder (-P).
        found = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        limits = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))
        # In a group of its own, so that Ctrl-C reaches this process only, which ends the others.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "snvrag.impute_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **found, **limits},
        )
        assert self.process.stdin is not None  # noqa: S101 - for the type checker
        assert self.process.stdout is not None  # noqa: S101 - for the type checker
        self._stdin, self.stdout = self.process.stdin, self.process.stdout
        self._heard = b""
        self.part: Part | None = None
        self.share = 0.0
        self._tell(setup)

    def start(self, part: Part, path: Path) -> None:
        """Have a part computed."""
        self.part, self.share = part, 0.0
        self._tell({"part": asdict(part), "path": str(path)})

    def calls(self) -> int:
        """Size of the part that it computes."""
        return self.part.calls if self.part else 0

    def dismiss(self) -> None:
        """Have the process end."""
        self.part = None
        self._tell({"end": True})

    def close(self) -> None:
        """Close both pipes."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self.stdout.close()

    def _tell(self, data: dict[str, Any]) -> None:
        # A worker that has died is noticed by the end of its output.
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(data).encode() + b"\n")
            self._stdin.flush()

    def heard(self) -> list[dict[str, Any]] | None:
        """What the process has said since; None once it has ended."""
        data = os.read(self.stdout.fileno(), 1 << 16)
        *lines, self._heard = (self._heard + data).split(b"\n")
        return [json.loads(line) for line in lines] if data else None

    def death(self) -> WorkError:
        """What to tell of a process that ended before its part did."""
        code = self.process.wait()
        how = f"ended with exit code {code}"
        hint = _KEPT
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                hint = f"probably memory ran out: give fewer --jobs; {_KEPT}"
        return WorkError(f"a worker process (number {self.process.pid}) {how}", hint)


def make_parts(
    parts: Sequence[Part],
    folder: Path,
    jobs: int,
    threads: int,
    setup: dict[str, Any],
    tell: Callable[[float], None],
) -> None:
    """Compute parts in several processes.

    Args:
        parts: what is to be computed.
        folder: where the parts are kept.
        jobs: processes at most.
        threads: CPU threads of each.
        setup: what :mod:`snvrag.impute_worker` needs to know, fit for JSON.
        tell: told how much is done so far, in sites times haplotypes.

    Raises:
        WorkError: a process died.
        SnvragError: what a process raised.
    """
    left = list(reversed(parts))
    done = 0.0
    told: set[str] = set()
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(selectors.DefaultSelector())
        workers: list[_Worker] = []
        stack.callback(_end_all, workers)
        for _ in range(min(jobs, len(parts))):
            worker = _Worker(setup, threads)
            workers.append(worker)
            watch.register(worker.stdout, selectors.EVENT_READ, worker)
            _next_part(worker, left, folder)
        while any(worker.part for worker in workers):
            for key, _ in watch.select():
                worker = key.data
                heard = worker.heard()
                if heard is None:
                    watch.unregister(worker.stdout)
                    if worker.part is not None:
                        raise worker.death()
                for said in heard or ():
                    if "error" in said:
                        raise error_from_json(said["error"])
                    if "log" in said and said["log"] not in told:
                        # What several have to say is said once.
                        told.add(said["log"])
                        logger.log(said["level"], "%s", said["log"])
                    if "share" in said:
                        worker.share = said["share"]
                    if said.get("done"):
                        done += worker.calls()
                        _next_part(worker, left, folder)
            tell(done + sum(worker.share * worker.calls() for worker in workers))


def _next_part(worker: _Worker, left: list[Part], folder: Path) -> None:
    if left:
        part = left.pop()
        worker.start(part, part_path(folder, part))
    else:
        worker.dismiss()


def _end_all(workers: Sequence[_Worker]) -> None:
    """End all processes: those that were dismissed by themselves, the others at once."""
    for worker in workers:
        if worker.part is not None:
            worker.process.terminate()
    for worker in workers:
        try:
            worker.process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.close()
