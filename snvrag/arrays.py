"""Arrays in NPY files, mapped, of which nothing is believed before it is looked at."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.provenance import check_regular

_MAGIC = b"\x93NUMPY"


def map_array(path: Path) -> NDArray[Any]:
    """The array of an NPY file, read-only, mapped; never one of objects.

    Raises:
        InputError: the path is of a device or a pipe.
        OSError: it cannot be read.
        ValueError: it holds no array, or less of it than it says.
    """
    check_regular(path)
    with path.open("rb") as handle:
        # A zip would be opened as several arrays, and stay open.
        if handle.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not an NPY file")
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy raises all kinds for a header that is none
        raise ValueError(str(error)) from error
    return found
