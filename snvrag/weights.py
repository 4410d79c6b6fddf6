"""The weights file of a run, read without torch."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from snvrag.errors import InputError, MismatchError

WEIGHTS = "model.safetensors"
# One key only: safetensors writes several in random order, and equal runs must give equal bytes.
WEIGHTS_FORMAT = {"snvrag": "weights-1"}
_REMEDY = "restore it, or train afresh"


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a file that a run wrote, by name.

    Raises:
        InputError: the file is absent, damaged or not one of ours.
    """
    try:
        with safe_open(path, framework="numpy") as handle:
            if handle.metadata() != WEIGHTS_FORMAT:
                raise InputError(
                    f"{path}: is marked {handle.metadata()!r}, not {WEIGHTS_FORMAT!r}",
                    "give a file that snvrag train wrote",
                )
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    # The last two: number formats that numpy does not know.
    except (OSError, SafetensorError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})", _REMEDY) from error
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and np.isnan(tensor).any():
            raise InputError(f"{path}: {name} holds what is not a number", _REMEDY)
    return tensors


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
