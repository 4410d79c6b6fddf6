"""The weights file of a run, read without torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from snvrag.errors import InputError, MismatchError
from snvrag.provenance import check_regular

WEIGHTS = "model.safetensors"
_FORMAT_KEY = "snvrag"
_WITHOUT_CHECKSUM, _FORMAT = "weights-1", "weights-2 sha256:"
_LENGTH_BYTES = 8
_MAX_HEADER = 1 << 23
_REMEDY = "restore it, or train afresh"


def weights_format(tensors: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Metadata of a file of these tensors: its format, and the digest of their content."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    # One key only: safetensors writes several in random order, and equal runs give equal bytes.
    return {_FORMAT_KEY: _FORMAT + digest.hexdigest()}


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a file that a run wrote, by name.

    Raises:
        InputError: the file is absent, damaged or not one of ours.
    """
    try:
        check_regular(path)
        _check_size(path)
        with safe_open(path, framework="numpy") as handle:
            found = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    # The last ones: number formats that numpy does not know, and sizes that no memory has.
    except (
        *(OSError, SafetensorError, ValueError, IndexError),
        *(TypeError, AttributeError, KeyError, MemoryError, OverflowError, RecursionError),
    ) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})", _REMEDY) from error
    mark = found.get(_FORMAT_KEY, "")
    if set(found) != {_FORMAT_KEY} or not mark.startswith((_WITHOUT_CHECKSUM, _FORMAT)):
        raise InputError(
            f"{path}: is marked {found!r}, not {_FORMAT_KEY!r}", "give a file that snvrag wrote"
        )
    if mark != _WITHOUT_CHECKSUM and found != weights_format(tensors):
        raise InputError(f"{path}: is damaged: its digest does not match its content", _REMEDY)
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and np.isnan(tensor).any():
            raise InputError(f"{path}: {name} holds what is not a number", _REMEDY)
    return tensors


def _check_size(path: Path) -> None:
    """Compare the file's size with what its header says, before any of that is read."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        n_header = int.from_bytes(handle.read(_LENGTH_BYTES), "little")
        if n_header > min(size, _MAX_HEADER):
            raise ValueError("no header")
        header = json.loads(handle.read(n_header))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if size != _LENGTH_BYTES + n_header + max(ends, default=0):
        raise ValueError("cut short, or more than its header says")


def check_shapes(
    path: Path, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
    """Refuse tensors that are not exactly the ``wanted`` ones, by name and shape.

    Raises:
        MismatchError: lists the differences.
    """
    if wanted != found:
        missing = sorted(set(wanted) - set(found))
        unexpected = sorted(set(found) - set(wanted))
        reshaped = sorted(n for n in set(wanted) & set(found) if wanted[n] != found[n])
        raise MismatchError(
            f"{path}: holds another network (missing {missing[:3]}, unexpected {unexpected[:3]}, "
            f"other shape {reshaped[:3]})",
            "use the preset and sizes that the model was trained with",
        )
