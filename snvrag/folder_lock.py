"""One process at a time in a folder that it writes to for long."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from snvrag.errors import MismatchError, OutputError
from snvrag.provenance import prepare_output_folder

LOCK = ".lock"
"""Stays in the folder; whether it is locked is what counts."""


@contextlib.contextmanager
def folder_lock(folder: Path, hint: str) -> Iterator[None]:
    """Create ``folder`` if need be and hold its lock; the system releases it if the process dies.

    Args:
        folder: what is locked, by the file ``.lock`` in it, which names the process.
        hint: what to do where another process has it.

    Raises:
        MismatchError: another process holds the lock; names it.
        OutputError: the folder cannot be created, written to or locked.
    """
    prepare_output_folder(folder)
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise MismatchError(f"{folder}: is in use by process {holder or '?'}", hint) from error
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be locked ({error.strerror})", "choose another folder"
            ) from error
        yield
