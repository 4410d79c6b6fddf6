"""A file that its writer is never told a failure of; the failure is kept, to be raised afterwards.

HDF5 cannot give up a file that it failed to write to: what it still holds in memory it tries to
write again when datasets and file are closed, and the process ends in a segmentation fault.
"""

import io
import os
from pathlib import Path


class UnfailingFile:
    """What h5py needs of a file object, for a new file at ``path``.

    From the first failure on, everything goes to memory, from where it can be read back; that is
    not much, since the writer stops at the next :meth:`check`.

    Raises:
        OSError: on creation, ``path`` cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w+b", buffering=0)
        self._at = self._size = 0
        self._error: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self._path))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """The position."""
        return self._at

    def write(self, data: memoryview) -> int:
        """Write all of ``data``."""
        n = len(data)
        self._try_to_write(data)
        if self._error is not None:
            self._kept.append((self._at, bytes(data)))
        self._at += n
        self._size = max(self._size, self._at)
        return n

    def _try_to_write(self, data: memoryview) -> None:
        try:
            done = 0
            while done < len(data) and self._error is None:
                done += os.pwrite(self._file.fileno(), data[done:], self._at + done)
        except OSError as error:
            self._error = error

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from the position on; returns the number of bytes."""
        n = max(0, min(len(buffer), self._size - self._at))
        found = bytearray(n)
        data = os.pread(self._file.fileno(), n, self._at)
        found[: len(data)] = data
        for at, kept in self._kept:
            first, last = max(at, self._at), min(at + len(kept), self._at + n)
            if first < last:
                found[first - self._at : last - self._at] = kept[first - at : last - at]
        buffer[:n] = found
        self._at += n
        return n

    def truncate(self, size: int) -> int:
        """Set the file's size."""
        self._size = size
        try:
            if self._error is None:
                self._file.truncate(size)
        except OSError as error:
            self._error = error
        return size

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
