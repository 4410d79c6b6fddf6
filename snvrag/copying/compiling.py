"""How the kernels are compiled: by numba, and kept on disk for the next process."""

import contextlib
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numba

logger = logging.getLogger(__name__)


def compiled(parallel: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for the CPU; kept on disk for the next process, where that can be written to."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        make = functools.partial(numba.njit, parallel=parallel, fastmath=True, error_model="numpy")
        try:
            found = make(cache=True)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            _tell_once()
            found = make(cache=False)(function)
        return cast(Callable[..., Any], found)

    return decorate


def drop_stale(folder: Path) -> None:
    """Remove what was compiled before any source in ``folder`` changed.

    Numba compares a function with its own file only, and not with those it calls into.
    """
    changed = max(path.stat().st_mtime for path in folder.glob("*.py"))
    for index in (folder / "__pycache__").glob("*.nbi"):
        with contextlib.suppress(OSError):
            if index.stat().st_mtime < changed:
                index.unlink()


drop_stale(Path(__file__).parent)


@functools.cache
def _tell_once() -> None:
    logger.warning(
        "compiled code cannot be kept, so each process compiles it again: set NUMBA_CACHE_DIR to "
        "a folder that can be written to"
    )
