"""Where an artifact came from, and how it reaches its final name.

Every artifact is written beside its final name and renamed when complete and on the disk, so a
file under a final name is whole or absent, whatever interrupts the program or the machine.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snvrag import __version__
from snvrag.errors import InputError, OutputError

Progress = Callable[[str, int, int], None]
"""Called as ``progress(task, done, total)``; a total of 0 is unknown."""
_HASH_BYTES = 4 << 20
MAX_JSON_BYTES = 64 * 2**20
_MAX_JSON_VALUES = 4_000_000
MAX_LIST_BYTES = 256 * 2**20
TEMPORARY = ".tmp"
"""Ends the names of files that are being written; they begin with a dot."""
_PROBE = "snvrag-probe"
_PID = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}" + re.escape(TEMPORARY))


def provenance(
    *, seed: int | None = None, inputs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Who made an artifact: version, command line, UTC time, seed and the inputs' digests."""
    return {
        "snvrag_version": __version__,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "inputs": dict(inputs or {}),
    }


def sha256_file(
    path: Path, progress: Progress | None = None, given_up: threading.Event | None = None
) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks; ``progress`` is told of them in MB.

    Where ``given_up`` is set meanwhile it ends at once, with a digest of nothing in particular.
    """
    task, total, done = f"hashing {path.name}", path.stat().st_size // 10**6, 0
    digest, block = hashlib.sha256(), memoryview(bytearray(_HASH_BYTES))
    with path.open("rb", buffering=0) as handle:
        while not (given_up and given_up.is_set()) and (n := handle.readinto(block)):
            if progress:
                progress(task, done // 10**6, total)
            digest.update(block[:n])
            done += n
    return digest.hexdigest()


def watch(*paths: Path | None) -> Callable[[], None]:
    """Begin to watch files that are read, maybe more than once; call what is returned at the end.

    That raises InputError where one was written to or replaced meanwhile.
    """
    before = {path: _identity_of(path) for path in paths if path is not None}

    def check() -> None:
        for path, was in before.items():
            if _identity_of(path) != was:
                raise changed_while_read(path)

    return check


def changed_while_read(path: Path) -> InputError:
    """What to raise where a file was written to or replaced while it was being read."""
    return InputError(
        f"{path}: was changed while it was being read",
        "run the same command again once nothing writes to it any more",
    )


def _identity_of(path: Path) -> tuple[int, ...]:
    try:
        return (*file_stamp(path.stat()), path.stat().st_ino)
    except OSError:
        # Reading it has told already, or will.
        return ()


def file_stamp(found: os.stat_result) -> tuple[int, int]:
    """Size and time of the last change, which differ once a file was written to."""
    return found.st_size, found.st_mtime_ns


def digest_json(data: object) -> str:
    """Hex SHA-256 of ``data`` as canonical JSON (sorted keys, no white space)."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_output_file(path: Path, *, force: bool = False) -> None:
    """Refuse, before any work, an output file that could not be written at the end.

    What a process of this machine that was killed had written of it is removed.

    Raises:
        OutputError: the parent folder is absent or read-only, ``path`` is a folder, a device or
            a pipe, or it exists and ``force`` is not set.
    """
    parent = path.parent
    if not parent.is_dir():
        raise OutputError(f"{path}: the folder {parent} does not exist", f"mkdir -p {parent}")
    if path.is_dir():
        raise OutputError(f"{path} is a folder, not a file", "give the name of a file")
    if path.exists() and not path.is_file():
        raise OutputError(
            f"{path}: is a device or a pipe, which a file would replace", "give the name of a file"
        )
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", "add --force to replace it")
    _check_writable(parent)
    _remove_leftovers(path)


def prepare_output_folder(path: Path) -> None:
    """Create an output folder (and its parents) and make sure it can be written to.

    Raises:
        OutputError: it cannot be created, is a file, or is read-only.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: the folder cannot be created ({error.strerror})", "choose another folder"
        ) from error
    _check_writable(path)
    _remove_leftovers(path / _PROBE)


def _check_writable(folder: Path) -> None:
    # A probe file is the only test that also sees read-only mounts and root's overrides.
    probe = _temporary_beside(folder / _PROBE)
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        raise OutputError(
            f"{folder}: the folder cannot be written to ({error.strerror})",
            "choose another folder, or free space and permissions there",
        ) from error
    finally:
        remove(probe)


def _temporary_beside(path: Path) -> Path:
    own = f"{_where_pids_count()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{own}{TEMPORARY}")


@functools.cache
def _where_pids_count() -> str:
    """Eight hexadecimal digits for the machine or container whose process numbers these are."""
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        name += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _remove_leftovers(path: Path) -> None:
    """Remove temporaries of ``path`` whose process, of this machine, is no more."""
    try:
        others = list(path.parent.iterdir())
    except OSError:
        # A folder may be written to and not listed.
        return
    for other in others:
        for own in {path.name, _PROBE}:
            begins = other.name.startswith(f".{own}.")
            found = _PID.match(other.name, len(own) + 1) if begins else None
            if found and found[1] == _where_pids_count() and not _is_alive(int(found[2])):
                with contextlib.suppress(OSError):
                    other.unlink()


def remove_temporaries(folder: Path, *names: str) -> None:
    """Remove temporaries of files of these names, which are patterns, whoever wrote them.

    Call it with the folder's lock held, for names that are written with it held only: others may
    be writing files of their own there.
    """
    for name in (*names, _PROBE):
        for path in folder.glob(f".{name}.*{TEMPORARY}"):
            remove(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file or folder if it is there and can be, also where that is interrupted."""
    try:
        _try_to_remove(path)
    except BaseException:
        _try_to_remove(path)
        raise


def remove_whole(folder: Path) -> None:
    """Remove a folder, which at no moment has its name and not all of its files."""
    aside = _temporary_beside(folder)
    try:
        with contextlib.suppress(OSError):
            folder.rename(aside)
    finally:
        remove(aside)


def _try_to_remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk, where that can be asked for."""
    # Some network disks refuse it for a folder, which then is as it always was there.
    with contextlib.suppress(OSError):
        sync(folder)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise OutputError, naming ``path``, for what the system refuses in the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error})",
            "check free space and permissions of the folder",
        ) from error


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` on success, else remove it.

    Waiting for the disk takes some milliseconds: what is checked against a digest when it is read,
    and easily made again, need not be ``durable``.
    """
    temporary = _temporary_beside(path)
    try:
        with writing(path):
            yield temporary
            if durable:
                sync(temporary)
            temporary.replace(path)
            if durable:
                sync_names(path.parent)
    finally:
        # Where that is not possible, what made it impossible is the error to tell.
        remove(temporary)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, for files, that becomes ``path`` on success."""
    temporary = _temporary_beside(path)
    try:
        with writing(path):
            temporary.mkdir()
            yield temporary
            for file in temporary.iterdir():
                sync(file)
            sync_names(temporary)
            if path.exists():
                remove_whole(path)
            temporary.rename(path)
            sync_names(path.parent)
    finally:
        remove(temporary)


class GrowingText:
    """A text file that is appended to line by line.

    Nothing is buffered: whoever follows the file sees whole lines, lines of several processes stay
    whole, and when the disk is full nothing is left to be written at its closing.

    Raises:
        OSError: on creation, the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        # A full disk may have left a line without its end. A pipe has no size.
        if path.is_file() and path.stat().st_size and _last_byte(path) != b"\n":
            self.write("")

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._file.closed

    def write(self, line: str) -> None:
        """Append ``line`` and its end.

        Raises:
            OSError: it cannot be written.
        """
        data = f"{line}\n".encode()
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1)


def write_json(path: Path, data: object, *, durable: bool = True) -> None:
    """Write ``data`` as indented JSON, atomically; see :func:`atomic_file`."""
    with atomic_file(path, durable=durable) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def check_regular(path: Path) -> None:
    """Refuse a device or a pipe, which can have no end, where a file is read more than once.

    Raises:
        InputError: it is one.
        OSError: it is absent, or cannot be looked at.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a device or a pipe, not a file", "give a file")


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Content of a file, or of a pipe, of ``max_bytes`` at most, whatever its size claims.

    Raises:
        InputError: it holds more.
        OSError: it cannot be read.
    """
    with path.open("rb") as handle:
        data = handle.read(max_bytes + 1)
    if len(data) > max_bytes:
        size = max(path.stat().st_size, len(data))
        raise InputError(f"{path}: {size:,} bytes, more than the {max_bytes:,} expected of it")
    return data


def read_lines(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        InputError: the file is absent, not text, or larger than any list of sites or samples.
    """
    try:
        return read_bytes(path, MAX_LIST_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise InputError(f"{path}: cannot be read as text", "give a text file") from error
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: cannot be read ({reason})", "check the path of the file"
        ) from error


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is absent, larger than ``max_bytes``, not JSON or not an object.
    """
    return _json_object(_text(path, max_bytes), str(path))


def read_json_lines(path: Path, *, damaged_ok: bool = False) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line; empty lines are passed over.

    Args:
        path: the file.
        damaged_ok: pass over lines that are none, as a killed process may leave behind.

    Raises:
        InputError: the file is absent, larger than 64 MiB, no text, or a line is no JSON object.
    """
    found = []
    for number, line in enumerate(_text(path, MAX_JSON_BYTES).splitlines(), start=1):
        if line.strip():
            try:
                found.append(_json_object(line, f"{path}: line {number}"))
            except InputError:
                if not damaged_ok:
                    raise
    return found


def _text(path: Path, max_bytes: int) -> str:
    try:
        check_regular(path)
        text = read_bytes(path, max_bytes)
        # A list or table that is empty takes 20 times its text.
        if sum(map(text.count, (b"[", b"{", b","))) > _MAX_JSON_VALUES:
            raise InputError(f"{path}: holds more values than expected of it")
        return text.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from error


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise InputError(f"{where}: holds {type(data).__name__}, not a JSON object")
    return data
