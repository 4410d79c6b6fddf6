"""One process at a time in a folder that it writes to for long."""

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from snvrag.errors import MismatchError, OutputError
from snvrag.provenance import prepare_output_folder

logger = logging.getLogger(__name__)

LOCK = ".lock"
"""Stays in the folder; whether it is locked is what counts."""
# What file systems say that know no locks, such as Lustre mounted with noflock.
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_MOST_BYTES = 4096
_MOST_SHOWN = 100


@contextlib.contextmanager
def folder_lock(folder: Path, hint: str) -> Iterator[None]:
    """Create ``folder`` if need be and hold its lock; the system releases it if the process dies.

    Args:
        folder: what is locked, by the file ``.lock`` in it, which names the process.
        hint: what to do where another process has it.

    Raises:
        MismatchError: another process holds the lock; names it, its machine, since when, and its
            command.
        OutputError: the folder cannot be created, written to or locked.
    """
    existed, descriptor = folder.is_dir(), -1
    with contextlib.ExitStack() as stack:
        try:
            while not _is_lock_of(folder, descriptor):
                # Whoever had it may have removed the folder meanwhile.
                stack.close()
                prepare_output_folder(folder)
                descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                stack.callback(os.close, descriptor)
                take_lock(descriptor, folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
        except BlockingIOError as error:
            holder = _described(os.pread(descriptor, _MOST_BYTES, 0))
            raise MismatchError(f"{folder}: is in use by {holder}", hint) from error
        except BaseException as error:
            if not existed:
                _leave(folder, descriptor)
            if isinstance(error, OSError):
                raise OutputError(
                    f"{folder}: cannot be locked ({error.strerror})", "choose another folder"
                ) from error
            raise
        yield


def _leave(folder: Path, descriptor: int) -> None:
    """Remove a folder that was made to be locked, unless somebody else has it by now."""
    with contextlib.suppress(OSError):
        if _is_lock_of(folder, descriptor) and _is_locked(descriptor):
            (folder / LOCK).unlink()
        folder.rmdir()


def take_lock(descriptor: int, folder: Path, how: int) -> None:
    """As :func:`fcntl.flock`; where the file system knows no locks, a warning and no lock.

    Raises:
        OSError: the lock is another process's (BlockingIOError), or cannot be taken.
    """
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn_once(folder, error.strerror)


@functools.cache
def _warn_once(folder: Path, why: str) -> None:
    text = "%s: its file system knows no locks (%s); see to it that one process at a time uses it"
    logger.warning(text, folder, why)


def _is_locked(descriptor: int) -> bool:
    """Take the lock, or see that it is this process's already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_lock_of(folder: Path, descriptor: int) -> bool:
    try:
        return descriptor >= 0 and os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[: _MOST_BYTES // 2],
    }


def _described(data: bytes) -> str:
    """The process that wrote ``data`` into its lock, in words."""
    try:
        found = json.loads(data)
        command = " ".join(str(found["command"]).split())
        if len(command) > _MOST_SHOWN:
            command = command[: _MOST_SHOWN - 1] + "…"
        since = str(found["since"]).replace("T", " ")
        return f"process {found['pid']} on {found['host']} since {since} ({command})"
    except (ValueError, KeyError, TypeError):
        # It has taken the lock this moment, or is of an earlier version, which wrote its number.
        return f"process {data.decode(errors='replace').strip() or '?'}"
