"""How the kernels are compiled: by numba, and kept on disk for the next process."""

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numba
from numba.core import event

logger = logging.getLogger(__name__)

COMPILING = "compiling kernels, once per installation (up to half a minute)"


def compiled(
    parallel: bool = False, nogil: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for the CPU; kept on disk for the next process, where that can be written to."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        make = functools.partial(
            numba.njit, parallel=parallel, nogil=nogil, fastmath=True, error_model="numpy"
        )
        try:
            found = make(cache=True)(function)
            sources = Path(function.__code__.co_filename).parent
            _drop_stale(Path(found._cache.cache_path), sources)  # type: ignore[attr-defined]
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            _tell_once()
            found = make(cache=False)(function)
        return cast(Callable[..., Any], found)

    return decorate


@functools.cache
def _drop_stale(folder: Path, sources: Path) -> None:
    """Remove from a cache of numba's what was compiled from other sources than those there.

    Numba compares a function with its own file only, and not with those it calls into.
    """
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(sources.glob("*.py"))]:
        digest.update(path.read_bytes())
    stamp = folder / "snvrag-sources.sha256"
    with contextlib.suppress(OSError):
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return
        for index in folder.glob("*.nbi"):
            index.unlink(missing_ok=True)
        stamp.write_text(digest.hexdigest())


class _Listener(event.Listener):
    """Says once that kernels are being compiled, which takes long and does not come again."""

    def on_start(self, event: event.Event) -> None:
        kernel = getattr(event.data["dispatcher"], "py_func", None)
        if str(getattr(kernel, "__module__", "")).startswith("snvrag."):
            _tell_compiling()

    def on_end(self, event: event.Event) -> None:
        """Nothing: the next kernel follows."""


@functools.cache
def _tell_compiling() -> None:
    logger.info(COMPILING)


event.register("numba:compile", _Listener())  # type: ignore[no-untyped-call]


@functools.cache
def _tell_once() -> None:
    logger.warning(
        "compiled code cannot be kept, so each process compiles it again: set NUMBA_CACHE_DIR to "
        "a folder that can be written to"
    )
