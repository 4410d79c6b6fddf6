"""Entry point of the ``snvrag`` script: signals first, all that takes time to import after them."""

import contextlib
import os
import sys
from typing import NoReturn

from snvrag.cli import interruption

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    # Torch and numba each bring OpenMP threads. Waiting ones that spin keep the others from the
    # cores: on a busy machine a small network trained many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    interruption.catch()
    try:
        from snvrag.cli.app import run

        code = run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    interruption.ignore()
    if code == EXIT_INTERRUPTED and interruption.was_terminated():
        code = EXIT_TERMINATED
    code = _flushed(code)
    if code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # A process that fails cannot take leave of the others: threads of torch may be waiting for
        # them still, and such threads can abort the interpreter's end.
        os._exit(code)
    sys.exit(code)


def _flushed(code: int) -> int:
    """The exit code, once standard output is written out; what cannot be written is told."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if not code:
            print(f"error: standard output: cannot be written ({error.strerror})", file=sys.stderr)
            code = EXIT_FAILED
        # What is left over would be tried, and told of, once more at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.flush()
    return code
