"""The work directory of an imputation: parts of one very run, locked while it is in use."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.chunks import Chunk
from snvrag.errors import MismatchError, OutputError
from snvrag.folder_lock import folder_lock
from snvrag.provenance import read_json, write_json

logger = logging.getLogger(__name__)

PLAN = "plan.json"


def check_space(folder: Path, output: Path, n_sites: int, n_haplotypes: int) -> None:
    """Refuse to start where the parts or the output would fill the disk."""
    place = folder if folder.exists() else folder.parent
    needed = {place: 2 * n_sites * n_haplotypes}
    # Three to four bytes of compressed text per haplotype at most.
    needed[output.parent] = needed.get(output.parent, 0) + 4 * n_sites * n_haplotypes
    for path, n_bytes in needed.items():
        if path.is_dir() and shutil.disk_usage(path).free < n_bytes:
            raise OutputError(
                f"{path}: {shutil.disk_usage(path).free / 2**20:,.0f} MB are free, about "
                f"{n_bytes / 2**20:,.0f} MB are needed",
                "free some space, or choose another --work-dir or -o",
            )


@contextlib.contextmanager
def work_directory(folder: Path, identity: dict[str, Any], *, force: bool) -> Iterator[Path]:
    """Lock the work directory and make sure that its parts belong to this very run."""
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
