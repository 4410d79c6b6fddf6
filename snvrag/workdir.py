"""The work directory of an imputation: parts of one very run, locked while it is in use."""

import contextlib
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.arrays import map_array
from snvrag.chunks import Chunk, ChunkPlanner, Part, Plan
from snvrag.errors import InputError, MismatchError, OutputError
from snvrag.folder_lock import folder_lock
from snvrag.provenance import atomic_file, read_json, remove, remove_temporaries, write_json

logger = logging.getLogger(__name__)

PLAN = "plan.json"
_PARTS = "part-[0-9]*.npy"
_SHARED, _RANDOM_BYTES = "shared-", 4


def check_space(folder: Path, output: Path, n_sites: int, n_haplotypes: int) -> None:
    """Refuse to start where the parts to come and the output would fill their disk or disks.

    Raises:
        OutputError: too little is free.
    """
    # Parts that are there are either used or removed.
    held = sum(part.stat().st_size for part in _parts_of(folder))
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    calls = n_sites * n_haplotypes
    needed: dict[int, tuple[Path, int]] = {}
    # Three to four bytes of compressed text per haplotype at most.
    for path, n_bytes in ((place, max(2 * calls - held, 0)), (output.parent, 4 * calls)):
        disk = path.stat().st_dev
        shown, before = needed.get(disk, (path, 0))
        needed[disk] = (shown, before + n_bytes)
    for path, n_bytes in needed.values():
        if shutil.disk_usage(path).free < n_bytes:
            raise OutputError(
                f"{path}: {shutil.disk_usage(path).free / 2**20:,.0f} MB are free, about "
                f"{n_bytes / 2**20:,.0f} MB are needed",
                "free some space, or choose another --work-dir or -o",
            )


def plan_or_resume(
    folder: Path,
    identity: dict[str, Any],
    wanted: NDArray[np.bool_],
    planner: ChunkPlanner,
    *,
    force: bool,
) -> Plan:
    """The plan of a run: the one that its finished parts are of, if there are any.

    Memory, threads and processes decide the plan but not the result, so that they may change in
    between.

    Args:
        folder: work directory, which need not exist.
        identity: what decides the result.
        wanted: bool [sites], which sites are to be written.
        planner: knows memory, threads and processes as they are now.
        force: whether parts of chunks that no longer fit may be discarded.

    Raises:
        UsageError: not even one window fits the memory.
        MismatchError: the finished parts' chunks no longer fit.
    """

    def anew() -> Plan:
        chunks = planner.plan(wanted)
        return Plan(chunks, planner.edges(len(chunks)))

    saved = read_json(folder / PLAN) if (folder / PLAN).exists() and _parts_of(folder) else {}
    if not saved or any(saved.get(k) != v for k, v in identity.items()):
        return anew()
    try:
        chunks = planner.again([(int(first), int(last)) for first, last in saved["windows"]])
        edges = [int(edge) for edge in saved["targets"]]
        planner.check_edges(edges)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if force:
            return anew()
        raise MismatchError(
            f"{folder / PLAN}: is damaged", "add --force to discard the parts beside it"
        ) from error
    if chunks is None and not force:
        raise MismatchError(
            f"{folder}: its finished parts are of larger pieces than --max-memory, --jobs and "
            "--threads allow now",
            "give as much memory and as few processes and threads as before, or add --force to "
            "discard the parts",
        )
    return Plan(chunks, edges) if chunks else anew()


@contextlib.contextmanager
def work_directory(
    folder: Path, identity: dict[str, Any], plan: Plan, *, force: bool, keep: bool
) -> Iterator[Path]:
    """Lock the work directory and make sure that its parts belong to this very run.

    Once the block is through it is removed, unless it is to ``keep``.

    Raises:
        MismatchError: it is of another run, or in use.
        OutputError: it cannot be written to.
    """
    identity = {
        **identity,
        "windows": [list(chunk.windows) for chunk in plan.chunks],
        "targets": list(plan.edges),
    }
    existed = folder.is_dir()
    claimed = finished = False
    with folder_lock(folder, "wait for it, or choose another --work-dir"):
        try:
            _remove_remains(folder)
            _claim(folder, identity, force=force)
            claimed = True
            yield folder
            finished = not keep
        except BaseException:
            _remove_remains(folder)
            if not _parts_of(folder):
                finished = not (existed and keep)
            elif claimed:
                logger.info("%s keeps what is done: the same command goes on from there", folder)
            raise
        finally:
            if finished:
                # Before the lock is given up: whoever has it next must not find this one's files.
                remove(folder)


def _claim(folder: Path, identity: dict[str, Any], *, force: bool) -> None:
    """Write down what the parts to come are of; parts of another run are refused or removed."""
    if (folder / PLAN).exists():
        saved = read_json(folder / PLAN)
        differing = [k for k in identity if saved.get(k) != identity[k]]
        if differing and not force and _parts_of(folder):
            raise MismatchError(
                f"{folder}: holds parts of another run ({differing[0]} differs)",
                "add --force to discard them, or choose another --work-dir",
            )
        if differing:
            for part in _parts_of(folder):
                part.unlink()
    write_json(folder / PLAN, identity)


def _parts_of(folder: Path) -> list[Path]:
    return [path for path in folder.glob(_PARTS) if path.exists()]


def _remove_remains(folder: Path) -> None:
    """Remove what a process that was killed left behind, parts begun and shared arrays."""
    # The folder may be one that holds other things too.
    remove_temporaries(folder, PLAN, _PARTS)
    for path in folder.glob(_SHARED + 2 * _RANDOM_BYTES * "[0-9a-f]"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def shared_arrays(folder: Path, **arrays: NDArray[Any]) -> Iterator[Path]:
    """Put arrays where several processes can read them, for the time of the context.

    Yields a folder with a file ``<name>.npy`` for each.

    Raises:
        OutputError: they cannot be written.
    """
    place = folder / f"{_SHARED}{secrets.token_hex(_RANDOM_BYTES)}"
    try:
        try:
            place.mkdir()
            for name, array in arrays.items():
                _save(place / f"{name}.npy", array)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be written to ({error.strerror or error})",
                "free some space, or choose another --work-dir",
            ) from error
        yield place
    finally:
        remove(place)


def write_part(path: Path, result: NDArray[np.uint16]) -> None:
    """Keep the result of one part."""
    with atomic_file(path) as temporary:
        _save(temporary, result, _checksum(result))


def _checksum(result: NDArray[np.uint16]) -> bytes:
    return zlib.crc32(np.ascontiguousarray(result).data).to_bytes(4, "little")


def _save(path: Path, array: NDArray[Any], behind: bytes = b"") -> None:
    """As :func:`numpy.save`, whose error on a full disk does not say that the disk is full."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as handle:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(handle, header)
        handle.write(array.data)
        handle.write(behind)


class StoredChunk:
    """The result of one chunk, in the files of its parts, which are mapped."""

    def __init__(self, folder: Path, plan: Plan, chunk: Chunk) -> None:
        n_sites = chunk.end - chunk.start
        self._parts = [
            read_part(part_path(folder, part), n_sites, part.last - part.first)
            for part in plan.parts_of(chunk)
        ]

    def rows(self, first: int, last: int) -> NDArray[np.uint16]:
        """Of the chunk's sites ``[first, last)``: uint16 [last - first, haplotypes]."""
        if len(self._parts) == 1:
            return self._parts[0][first:last]
        return np.concatenate([part[first:last] for part in self._parts], axis=1)


def read_part(path: Path, n_sites: int, n_haplotypes: int) -> NDArray[np.uint16]:
    """The result of one part, mapped from its file: uint16 [n_sites, n_haplotypes].

    Raises:
        MismatchError: the file was damaged since it was written.
    """
    damaged = MismatchError(
        f"{path}: is damaged", f"remove it and run the same command again: rm -r {path}"
    )
    try:
        stored: Any = map_array(path)
        if stored.dtype != np.uint16 or stored.shape != (n_sites, n_haplotypes):
            raise damaged
        with path.open("rb") as handle:
            handle.seek(-4, os.SEEK_END)
            # A part has no more than its array and the checksum behind it.
            whole = handle.tell() == stored.offset + stored.nbytes
            sound = whole and stored.flags.c_contiguous and handle.read() == _checksum(stored)
    except (OSError, ValueError, InputError) as error:
        raise damaged from error
    if not sound:
        raise damaged
    found: NDArray[np.uint16] = stored
    return found


def part_path(folder: Path, part: Part) -> Path:
    """Where the result of one part is kept."""
    return folder / f"part-{part.number:05d}.npy"
