"""Faults at random moments of snvrag's commands, and what must hold after each.

After every fault: what is under a final name is whole and equal to an undisturbed run's (or to
what was there before); the exit code and the one sentence on standard error are those promised;
nothing temporary is left, where the process had the chance to remove it; and the same command, run
again, ends with an undisturbed run's files.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cases import CASES, OTHER, Case, Contents, prepare
from child import change_input

CHILD = Path(__file__).with_name("child.py")
REPOSITORY = Path(__file__).resolve().parents[2]
SIGNALS = {
    "kill": signal.SIGKILL,
    "interrupt": signal.SIGINT,
    "twice": signal.SIGINT,
    "terminate": signal.SIGTERM,
}
KINDS = (*SIGNALS, "worker", "full", "small", "read-only", "permission", "limit", "change")
"""``worker``: one of --jobs is killed. ``full``: another program fills the disk at some moment.
``small``: the disk is too small. ``limit``: RLIMIT_FSIZE. ``change``: an input is truncated,
overwritten or replaced while it is read."""
ENDS = {
    "kill": {-9},
    "interrupt": {130},
    "twice": {130},
    "terminate": {143},
    "worker": {1},
    "read-only": {1, 2},
}
_FAILED = {1, 2}
_HOW = ("truncate", "overwrite", "replace")
_TIMEOUT = 180
_DISK = 64 << 20
_SHARE_BY_EVENT = 0.6
_NEVER = ("Traceback", "Exception ignored", "unexpected", "HDF5-DIAG", "Logging error")
_SPACE = ("no space", "too large", "mb are free")


@dataclass
class Outcome:
    """One fault and what was found wrong after it; nothing is as it must be."""

    case: str
    kind: str
    moment: str
    code: int = 0
    wrong: list[str] = field(default_factory=list)
    stderr: str = ""


@dataclass
class Fault:
    """What is to happen, and when."""

    kind: str
    plan: dict[str, Any]
    """For ``child.py``."""
    moment: str = ""
    at: float | None = None
    """Seconds from the start, where it is this process that acts."""
    disk: int | None = None
    """Bytes of a disk of its own."""
    change: dict[str, Any] = field(default_factory=dict)

    def happen(self, process: subprocess.Popen[str]) -> None:
        """Wait for the moment, and act."""
        assert self.at is not None
        time.sleep(self.at)
        if process.poll() is not None:
            return
        if self.kind == "worker":
            _kill_a_child(process.pid)
        elif self.kind == "change":
            change_input(**{"path" if k == "input" else k: v for k, v in self.change.items()})
        else:
            os.killpg(process.pid, SIGNALS[self.kind])


@dataclass(frozen=True)
class Undisturbed:
    """A case's own run: how long it takes, its events, its files."""

    seconds: float
    events: int
    reads: int
    bytes: int
    contents: Contents
    before: Contents


class Harness:
    """Runs cases in folders of their own below ``place``."""

    def __init__(self, place: Path, *, seed: int, log: bool = True) -> None:
        self.place, self.seed = place, seed
        self.chance = random.Random(seed)  # noqa: S311 - draws moments, no secrets
        self.template = place / "template"
        self.folder = place / "case" / "work"
        self.log = log
        self._mounted = False
        self.undisturbed: dict[str, Undisturbed] = {}
        self._others: dict[str, Contents] = {}
        self.can_mount = _can_mount(place)

    def prepare(self, names: Sequence[str]) -> None:
        """Make what the named cases need, and with it fill the cache of compiled code."""
        self.template.mkdir(parents=True)

        def snvrag(*words: str) -> None:
            code, _, err = self._run(words, self.template)
            assert code == 0, err

        prepare(self.template, snvrag, {x for name in names for x in CASES[name].needs})

    def measure(self, name: str) -> Undisturbed:
        """Run a case undisturbed, unless that was done already."""
        if name not in self.undisturbed:
            case, found, counts = CASES[name], {}, {}
            for action in ("none", "change"):
                before = self._lay_out(case)
                events = self.place / "events"
                began = time.monotonic()
                plan = {"events_to": str(events), "action": action}
                code, _, err = self._run(case.words, self.folder, plan)
                seconds = time.monotonic() - began - self._startup
                assert code == 0, err
                counts[action] = int(events.read_text())
                found = case.read(self.folder)
            size = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
            left = _leftovers(self.folder)
            assert not left, left
            self.undisturbed[name] = Undisturbed(
                seconds, counts["none"], counts["change"], size, found, before
            )
            self._clear()
        return self.undisturbed[name]

    def fault(self, name: str, kind: str) -> Outcome:
        """One fault at a moment drawn at random, its check, and the run that goes on."""
        case, known = CASES[name], self.measure(name)
        fault = self._draw(case, kind, known)
        before = self._lay_out(case, fault.disk)
        fault.plan["filler"] = str(self.folder.parent / "filler")
        if kind == "read-only":
            self._remount("ro")
        code, _, err = self._run(case.words, self.folder, fault.plan, fault)
        outcome = Outcome(name, kind, fault.moment, code, [], err)
        self._end_fault(kind)
        try:
            outcome.wrong += _wrong_ending(kind, fault, code, err)
            outcome.wrong += self._wrong_files(case, fault, code, before, known)
            if not outcome.wrong:
                outcome.wrong += self._go_on(case, fault, known)
        finally:
            self._clear()
        if self.log:
            end = "; ".join(outcome.wrong) or "ok"
            print(f"{name:16} {kind:10} {outcome.moment:44} exit {code:4} {end}", flush=True)
            if outcome.wrong:
                print("    " + err.replace("\n", "\n    "), flush=True)
        return outcome

    def _draw(self, case: Case, kind: str, known: Undisturbed) -> "Fault":
        """A fault of a kind, at a moment drawn at random."""
        fault = Fault(kind, {"action": kind})
        by_event = self.chance.random() < _SHARE_BY_EVENT
        if kind == "small":
            fault.disk = self._size_of_needs(case) + self.chance.randrange(0, known.bytes)
            fault.moment = f"disk of {fault.disk >> 10:,} kB"
            return fault
        if kind == "limit":
            fault.plan["file_size"] = self.chance.randrange(0, max(known.bytes // 2, 1 << 15))
            fault.moment = f"files of {fault.plan['file_size']:,} bytes"
            return fault
        if kind in {"full", "read-only"}:
            fault.disk = _DISK
        if kind == "read-only":
            return fault
        events = known.events
        if kind == "change":
            source = self.chance.choice(case.inputs)
            fault.change = {
                "input": str(self.folder / source),
                "other": str(self.template / OTHER[source]),
                "how": self.chance.choice(_HOW),
                "share": self.chance.random(),
            }
            fault.moment = f"{fault.change['how']} {source} "
            events = known.reads
        if kind == "worker" or (kind in {*SIGNALS, "change"} and not by_event):
            fault.at = self.chance.uniform(0, known.seconds)
            fault.moment += f"{fault.at:.2f} s of {known.seconds:.2f}"
        else:
            fault.plan |= {"event": self.chance.randint(1, events), **fault.change}
            fault.moment += f"event {fault.plan['event']} of {events}"
        return fault

    def _wrong_files(
        self, case: Case, fault: "Fault", code: int, before: Contents, known: Undisturbed
    ) -> list[str]:
        """What is wrong with the files after a fault."""
        try:
            now = case.read(self.folder)
        except Exception as error:
            return [f"incomplete: {type(error).__name__} {error}"]
        wrong = []
        # An input that was replaced before it was first read is simply another input.
        other = self._of_other_input(case, fault) if fault.change else {}
        if code == 0 and now not in (known.contents, other):
            wrong.append(f"exit code 0 with other files: {_differing(now, known.contents)}")
        if case.read.__name__ != "read_run":
            for name, value in now.items():
                if value not in (known.contents.get(name), before.get(name), other.get(name)):
                    wrong.append(f"{name} is neither the new nor the old file")
        pairs = [(n, n + s) for n in now for s in (".tbi", ".csi") if n + s in now]
        for data, index in pairs:
            if (now[data] == before.get(data)) != (now[index] == before.get(index)):
                wrong.append(f"{data} and its index do not belong together")
        if fault.kind not in {"kill", "permission"}:
            wrong += [f"left over: {name}" for name in _leftovers(self.folder)]
        return wrong

    def _of_other_input(self, case: Case, fault: "Fault") -> Contents:
        """What the case makes of the input that this fault puts in the place of its own."""
        if fault.change["how"] == "truncate":
            return {}
        key = f"{case.name} {fault.change['other']}"
        if key not in self._others:
            aside = self.folder.with_name("aside")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            for name in case.needs:
                chosen = Path(
                    fault.change["other"] if fault.change["input"].endswith(f"/{name}") else name
                )
                shutil.copy(self.template / chosen, aside / name)
            code, _, _ = self._run(case.words, aside)
            self._others[key] = {} if code else case.read(aside)
            shutil.rmtree(aside)
        return self._others[key]

    def _go_on(self, case: Case, fault: "Fault", known: Undisturbed) -> list[str]:
        """Run the command again, without a fault; what is wrong then."""
        if fault.kind == "small":
            self._remount(f"size={_DISK}")
        if fault.change:
            for name in case.needs:
                if name not in case.outputs and name != "half":
                    shutil.copy(self.template / name, self.folder / name)
        words = case.again(self.folder, case.words)
        code, _, err = self._run(words, self.folder)
        if fault.change and code == 2 and "--force" in err:
            # What is there is of the changed input, and the message says what to do.
            code, _, err = self._run([*words, "--force"], self.folder)
        if code:
            return [f"the run that goes on ends with {code}: {err.strip()}"]
        wrong = []
        now = case.read(self.folder)
        if now != known.contents:
            wrong.append(f"goes on to other files: {_differing(now, known.contents)}")
        left = _leftovers(self.folder)
        if left:
            wrong.append(f"left over after the run that goes on: {left}")
        return wrong

    def _lay_out(self, case: Case, disk: int | None = None) -> Contents:
        """A fresh folder of the case; what is under its outputs' names to begin with."""
        self._clear()
        self.folder.parent.mkdir(parents=True)
        if disk is not None:
            _mount(self.folder.parent, disk)
            self._mounted = True
        self.folder.mkdir()
        for name in case.needs:
            source = self.template / name
            target = self.folder / ("run" if name == "half" else name)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return case.read(self.folder)

    def _size_of_needs(self, case: Case) -> int:
        paths = [
            p for n in case.needs for p in (self.template / n, *(self.template / n).rglob("*"))
        ]
        return sum(-(-p.stat().st_size // 4096) * 4096 + 4096 for p in paths) + 16384

    def _clear(self) -> None:
        parent = self.folder.parent
        if self._mounted:
            subprocess.run(["umount", "-l", str(parent)], check=True)
            self._mounted = False
        shutil.rmtree(parent, ignore_errors=True)

    def _remount(self, how: str) -> None:
        words = ["mount", "-o", f"remount,{how}", str(self.folder.parent)]
        subprocess.run(words, check=True)

    def _end_fault(self, kind: str) -> None:
        """Make folder and disk such as the command can be run in again."""
        if kind == "read-only":
            self._remount("rw")
        elif kind == "full":
            (self.folder.parent / "filler").unlink(missing_ok=True)
        elif kind == "permission":
            for path in (self.folder, *self.folder.rglob("*")):
                if path.is_dir():
                    path.chmod(0o755)

    _startup = 0.05

    def _run(
        self,
        words: Sequence[str],
        folder: Path,
        plan: dict[str, Any] | None = None,
        fault: "Fault | None" = None,
    ) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command."""
        threads = [] if "--threads" in words else ["--threads", "1"]
        ready, tell = os.pipe()
        full = {"folder": str(self.folder), "action": "none", "event": None, "events_to": ""}
        full |= {"ready": tell} | (plan or {})
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        with (
            subprocess.Popen(
                [sys.executable, str(CHILD), json.dumps(full), *words, *threads],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=[tell],
                start_new_session=True,
            ) as process,
        ):
            os.close(tell)
            os.read(ready, 1)
            os.close(ready)
            if fault is not None and fault.at is not None:
                fault.happen(process)
            out, err = process.communicate(timeout=_TIMEOUT)
        return process.returncode, out, err


def _differing(now: Contents, then: Contents) -> list[str]:
    return sorted(k for k in now.keys() | then.keys() if now.get(k) != then.get(k))


def _leftovers(folder: Path) -> list[str]:
    """What no user should find: temporaries, shared arrays, a work directory without parts."""
    found = [p for p in folder.rglob("*") if ".tmp" in p.name or p.name.startswith("shared-")]
    found += [p for p in folder.rglob("*.work") if not list(p.glob("part-*.npy"))]
    return sorted(str(p.relative_to(folder)) for p in found)


def _wrong_ending(kind: str, fault: Fault, code: int, err: str) -> list[str]:
    """What is wrong with exit code and standard error after a fault."""
    # A worker may be killed when it has done all, a signal come when the command is through.
    if code == 0:
        return ["went on"] if kind in SIGNALS and fault.at is None else []
    wrong = [] if code in ENDS.get(kind, _FAILED) else [f"exit code {code}"]
    wrong += [f"stderr has {word!r}" for word in _NEVER if word in err]
    if kind == "kill":
        return wrong
    told = [line for line in err.splitlines() if line.startswith(("error: ", "interrupted"))]
    if len(told) != 1:
        wrong.append(f"{len(told)} sentences on stderr")
    elif kind in {"full", "small", "limit"} and not any(x in told[0].lower() for x in _SPACE):
        wrong.append("the sentence does not say that space is lacking")
    return wrong


def _kill_a_child(pid: int) -> None:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    for child in [int(child) for task in tasks for child in task.read_text().split()][:1]:
        os.kill(child, signal.SIGKILL)


def _mount(folder: Path, size: int) -> None:
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(words, check=True, capture_output=True)


def _can_mount(place: Path) -> bool:
    folder = place / "mount"
    folder.mkdir(parents=True)
    try:
        _mount(folder, 1 << 20)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def plan_faults(
    harness: Harness, n: int, names: Sequence[str], kinds: Sequence[str] = KINDS
) -> Iterator[tuple[str, str]]:
    """``n`` pairs of case and kind, each possible pair about as often as any other."""
    pairs = [(name, kind) for name in names for kind in kinds if _possible(harness, name, kind)]
    chosen: list[tuple[str, str]] = []
    while len(chosen) < n:
        harness.chance.shuffle(pairs)
        chosen += pairs[: n - len(chosen)]
    return iter(chosen)


def _possible(harness: Harness, name: str, kind: str) -> bool:
    if kind in {"full", "small", "read-only"}:
        return harness.can_mount
    if kind == "permission":
        return os.geteuid() == 0 and sys.platform == "linux"
    if kind == "worker":
        return "--jobs" in name
    if kind == "change":
        return bool(CASES[name].inputs)
    return True


def table(outcomes: Sequence[Outcome]) -> str:
    """Kind x command: how many faults, and how many after which something was wrong."""
    counts = Counter((o.kind, o.case) for o in outcomes)
    wrong = Counter((o.kind, o.case) for o in outcomes if o.wrong)
    names = list(dict.fromkeys(CASES))
    lines = ["| fault | " + " | ".join(names) + " | all |", "|---" * (len(names) + 2) + "|"]
    for kind in KINDS:
        cells = []
        for name in names:
            n, bad = counts[kind, name], wrong[kind, name]
            cells.append(f"{n}{f' ({bad} wrong)' if bad else ''}" if n else "")
        total = sum(counts[kind, name] for name in names)
        lines.append(f"| {kind} | " + " | ".join(cells) + f" | {total} |")
    totals = [str(sum(counts[k, name] for k in KINDS)) for name in names]
    lines.append("| all | " + " | ".join(totals) + f" | {len(outcomes)} |")
    return "\n".join(lines)
