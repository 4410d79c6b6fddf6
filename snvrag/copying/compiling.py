"""How the kernels are compiled: by numba, and kept on disk for the next process."""

import functools
import logging
from collections.abc import Callable
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


@functools.cache
def _tell_once() -> None:
    logger.warning(
        "compiled code cannot be kept, so each process compiles it again: set NUMBA_CACHE_DIR to "
        "a folder that can be written to"
    )
