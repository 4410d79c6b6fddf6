"""The ``snvrag`` command with a fault at its n-th file event; started by ``harness.py``.

The first argument is JSON, the others are the command's. An event is an opening for writing, a
renaming, a removal, a new folder or an fsync below the folder of the case, so that faults also come
between two renames, which last microseconds. Times alone hardly ever hit those.
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

PLAN: dict[str, Any] = {}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
_OVERRIDES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
_events = 0
_busy = False


def obey_permissions() -> None:
    """Give up root's right to write where the permissions forbid it."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Data(ctypes.Structure):
        _fields_ = tuple((n, ctypes.c_uint32) for n in ("effective", "permitted", "inheritable"))

    libc = ctypes.CDLL(None, use_errno=True)
    header, data = Header(0x20080522, 0), (Data * 2)()
    libc.capget(ctypes.byref(header), data)
    for number in _OVERRIDES:
        for name in ("effective", "permitted"):
            setattr(data[0], name, getattr(data[0], name) & ~(1 << number))
    if libc.capset(ctypes.byref(header), data):
        raise OSError(ctypes.get_errno(), "capset")


def act(action: str) -> None:
    """Let the fault happen."""
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action in {"interrupt", "twice"}:
        os.kill(os.getpid(), signal.SIGINT)
    elif action == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "permission":
        folder = PLAN["folder"]
        for path in [folder, *(str(p) for p in Path(folder).rglob("*") if p.is_dir())]:
            Path(path).chmod(0o555)
    elif action == "full":
        with contextlib.suppress(OSError), Path(PLAN["filler"]).open("wb", buffering=0) as handle:
            for size in (1 << 16, 1 << 12):
                with contextlib.suppress(OSError):
                    while handle.write(bytes(size)):
                        pass
    elif action == "change":
        change_input(PLAN["input"], PLAN["other"], PLAN["how"], PLAN["share"])


def change_input(path: str, other: str, how: str, share: float) -> None:
    """Truncate, overwrite or replace a file that is being read."""
    if how == "truncate":
        os.truncate(path, int(Path(path).stat().st_size * share))
    elif how == "overwrite":
        Path(path).write_bytes(Path(other).read_bytes())
    else:
        shutil.copy(other, path + ".new")
        Path(path + ".new").replace(path)


def count(name: str) -> None:
    """One more event; the fault comes with the chosen one."""
    global _events, _busy  # noqa: PLW0603
    if _busy:
        return
    _events += 1
    again = PLAN["action"] == "twice" and _events == (PLAN["event"] or 0) + 1
    if _events == PLAN["event"] or again:
        _busy = True
        try:
            act(PLAN["action"])
        finally:
            _busy = False


def hook(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: sees each event before it happens."""
    chunks = sys.modules.get("snvrag.chunks")
    if chunks is not None and hasattr(chunks, "_CORE_WINDOWS"):
        # Several parts in so small a case.
        chunks._FLANK_CM, chunks._CORE_WINDOWS = 0.04, 1
    if event == "open":
        path, _, flags = arguments
        if not isinstance(flags, int) or not (flags & _WRITES or PLAN["action"] == "change"):
            return
    elif event in _CHANGES:
        path = arguments[0]
    else:
        return
    if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(PLAN["folder"]):  # noqa: PTH100
        count(event)


def main() -> None:
    """Run the command as the installed script does."""
    PLAN.update(json.loads(sys.argv[1]))
    sys.argv[:] = ["snvrag", *sys.argv[2:]]
    # A shell starts commands in the background with SIGINT ignored, and a harness there them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if PLAN["action"] == "permission":
        obey_permissions()
    if PLAN.get("file_size"):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (PLAN["file_size"], hard))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        count("fsync")
        real(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)
    if PLAN["events_to"]:
        import atexit

        atexit.register(lambda: Path(PLAN["events_to"]).write_text(str(_events)))
    os.write(PLAN["ready"], b".")
    os.close(PLAN["ready"])
    from snvrag.cli.entry import main as command

    command()


if __name__ == "__main__":
    main()
