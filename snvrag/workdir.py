"""The work directory of an imputation: parts of one very run, locked while it is in use."""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.chunks import Chunk, ChunkPlanner
from snvrag.errors import MismatchError, OutputError
from snvrag.folder_lock import folder_lock
from snvrag.provenance import read_json, write_json

logger = logging.getLogger(__name__)

PLAN = "plan.json"


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
) -> list[Chunk]:
    """The chunks of a run: those that its finished parts are of, if there are any.

    Memory and threads decide the chunks but not the result, so that they may change in between.

    Args:
        folder: work directory, which need not exist.
        identity: what decides the result.
        wanted: bool [sites], which sites are to be written.
        planner: knows memory and threads as they are now.
        force: whether parts of chunks that no longer fit may be discarded.

    Raises:
        UsageError: not even one window fits the memory.
        MismatchError: the finished parts' chunks no longer fit.
    """
    saved = read_json(folder / PLAN) if (folder / PLAN).exists() and _parts_of(folder) else {}
    if not saved or any(saved.get(k) != v for k, v in identity.items()):
        return planner.plan(wanted)
    try:
        chunks = planner.again([(int(first), int(last)) for first, last in saved["windows"]])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if force:
            return planner.plan(wanted)
        raise MismatchError(
            f"{folder / PLAN}: is damaged", "add --force to discard the parts beside it"
        ) from error
    if chunks is None and not force:
        raise MismatchError(
            f"{folder}: its finished parts are of larger pieces than --max-memory and --threads "
            "allow now",
            "give as much memory and as few threads as before, or add --force to discard the parts",
        )
    return chunks or planner.plan(wanted)


@contextlib.contextmanager
def work_directory(
    folder: Path, identity: dict[str, Any], chunks: Sequence[Chunk], *, force: bool
) -> Iterator[Path]:
    """Lock the work directory and make sure that its parts belong to this very run.

    Raises:
        MismatchError: it is of another run, or in use.
        OutputError: it cannot be written to.
    """
    identity = {**identity, "windows": [list(chunk.windows) for chunk in chunks]}
    existed = folder.is_dir()
    with folder_lock(folder, "wait for it, or choose another --work-dir"):
        plan = folder / PLAN
        if plan.exists():
            saved = read_json(plan)
            differing = [k for k in identity if saved.get(k) != identity[k]]
            if differing and not force and _parts_of(folder):
                raise MismatchError(
                    f"{folder}: holds parts of another run ({differing[0]} differs)",
                    "add --force to discard them, or choose another --work-dir",
                )
            if differing:
                for part in _parts_of(folder):
                    part.unlink()
        write_json(plan, identity)
        try:
            yield folder
        except BaseException:
            if _parts_of(folder):
                logger.info("%s keeps what is done: the same command goes on from there", folder)
            elif not existed:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _parts_of(folder: Path) -> list[Path]:
    return list(folder.glob("part-*.npy"))


def read_part(path: Path, n_sites: int, n_haplotypes: int) -> NDArray[np.uint16]:
    """The result of one chunk, mapped from its file: uint16 [n_sites, n_haplotypes].

    Raises:
        MismatchError: the file was damaged since it was written.
    """
    try:
        stored: NDArray[np.uint16] = np.load(path, mmap_mode="r", allow_pickle=False)
        sound = stored.dtype == np.uint16 and stored.shape == (n_sites, n_haplotypes)
    except (ValueError, OSError, EOFError):
        sound = False
    if not sound:
        raise MismatchError(
            f"{path}: is damaged", f"remove it and run the same command again: rm {path}"
        )
    return stored


def part_path(folder: Path, chunk: Chunk) -> Path:
    """Where the result of one chunk is kept."""
    return folder / f"part-{chunk.number:05d}.npy"
