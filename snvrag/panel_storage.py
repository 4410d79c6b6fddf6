"""Whether a dataset of a panel file is stored as ``convert`` stores it, told before it is read.

HDF5 follows what a file says into other files, and takes the memory that it claims.
"""

import math
import os
from pathlib import Path

import h5py

_BLOSC, _FLETCHER32 = 32_001, 3
_BLOSC_HEAD = 16
_MAX_CHUNK_BYTES = 1 << 29


def stored_wrongly(file: h5py.File, path: Path, name: str) -> str:
    """What is wrong with how a dataset is stored; empty if nothing is.

    It must lie in the file itself, and all of it: what nothing is stored of would be read as zeros,
    of any size.
    """
    parts = name.split("/")
    links = [file.get("/".join(parts[: i + 1]), getlink=True) for i in range(len(parts))]
    dataset = file[name]
    linked = not all(type(link) is h5py.HardLink for link in links)
    if linked or dataset.is_virtual or dataset.external or file.userblock_size:
        return "is a link, or lies in another file"
    n_bytes = dataset.dtype.itemsize
    if dataset.chunks is None:
        whole = math.prod(dataset.shape) * n_bytes
        return "" if dataset.id.get_storage_size() == whole else "is not stored in full"
    n_bytes *= math.prod(dataset.chunks)
    wanted = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    made = dataset.id.get_create_plist()
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if n_bytes > _MAX_CHUNK_BYTES or filters not in ([], [_BLOSC], [_BLOSC, _FLETCHER32]):
        return "is not compressed as convert does it"
    if wanted > path.stat().st_size or dataset.id.get_num_chunks() != wanted:
        return "is not stored in full"
    if not all(_fits(chunk, n_bytes, filters) for chunk in _chunks(dataset, path)):
        return "holds a chunk of another size than it says"
    return ""


def _chunks(dataset: h5py.Dataset, path: Path) -> list[tuple[int, int, bytes]]:
    """Filters left out, bytes, and the first of these, of all chunks."""
    found: list[tuple[int, int, int]] = []

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        found.append((chunk.filter_mask, chunk.byte_offset, chunk.size))

    dataset.id.chunk_iter(note)
    with path.open("rb") as raw:
        file = raw.fileno()
        return [(left, size, os.pread(file, _BLOSC_HEAD, at)) for left, at, size in found]


def _fits(chunk: tuple[int, int, bytes], n_bytes: int, filters: list[int]) -> bool:
    left_out, size, head = chunk
    stored = size - 4 * (_FLETCHER32 in filters)
    if not filters or left_out == 1:
        # As it is: what no compression makes smaller.
        return stored == n_bytes
    # Blosc takes the memory that the chunk's own header names.
    claimed = int.from_bytes(head[4:8], "little")
    return not left_out and stored >= _BLOSC_HEAD and claimed == n_bytes
