"""How the kernels are compiled: by numba, and kept on disk for the next process."""

import contextlib
import functools
import hashlib
import logging
import os
import stat
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
            found._cache = _Kept(found._cache)  # type: ignore[attr-defined]
            sources = Path(function.__code__.co_filename).parent
            folder = Path(found._cache.cache_path)  # type: ignore[attr-defined]
            if others_write(folder, sources):
                _tell_of_others(folder)
                return cast(Callable[..., Any], make(cache=False)(function))
            _drop_stale(folder, sources)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            _tell_once()
            found = make(cache=False)(function)
        return cast(Callable[..., Any], found)

    return decorate


class _Kept:
    """Numba's cache of one function's code, which no damage and no full disk stops.

    A power cut can leave its files empty, and numba does not expect that.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        """The code for a signature; None, so that it is compiled, where that cannot be read."""
        try:
            return self._cache.load_overload(*arguments)
        # What unpickling damaged bytes raises is anything at all.
        except Exception as error:
            logger.warning("compiled code cannot be read (%s): compiling it again", error)
            for path in Path(self._cache.cache_path).glob(f"{self._cache._impl.filename_base}.*"):
                with contextlib.suppress(OSError):
                    path.unlink()
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep the code for a signature, where that is possible."""
        try:
            self._cache.save_overload(*arguments)
        except OSError as error:
            logger.warning("compiled code cannot be kept (%s)", error)


@functools.cache
def others_write(folder: Path, sources: Path) -> bool:
    """Whether someone else may put files into a cache of numba's, whose index is a pickle.

    What lies there is executed. Nothing is unpickled before a kernel is first called.

    Args:
        folder: the cache.
        sources: the folder of the source files, whose owner is trusted as they are.
    """
    trusted = {0, os.geteuid(), sources.stat().st_uid}
    parent = folder.parent.stat()
    # Of a folder such as /tmp, what belongs to another cannot be replaced.
    open_parent = parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX
    found = [folder.lstat()]
    for path in folder.glob("*.nb[ic]"):
        # Another process may be removing stale ones.
        with contextlib.suppress(FileNotFoundError):
            found.append(path.lstat())
    own = all(one.st_uid in trusted and not one.st_mode & stat.S_IWOTH for one in found)
    return bool(open_parent) or not own


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
        # The code before its index: a process killed between writing an index and the code that it
        # lists would else leave one that lists older code.
        for kept in [*folder.glob("*.nbc*"), *folder.glob("*.nbi*")]:
            kept.unlink(missing_ok=True)
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
def _tell_of_others(folder: Path) -> None:
    logger.warning(
        "%s: others can write there, and compiled code in it would be executed: it is neither read "
        "nor kept; set NUMBA_CACHE_DIR to a folder of your own",
        folder,
    )


@functools.cache
def _tell_once() -> None:
    logger.warning(
        "compiled code cannot be kept, so each process compiles it again: set NUMBA_CACHE_DIR to "
        "a folder that can be written to"
    )
