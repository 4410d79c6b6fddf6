"""Ctrl-C and SIGTERM: one KeyboardInterrupt, from the first line of the program to its last."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

_AGAIN_SECONDS = 0.05
# Cleaning up takes longer than a second press of Ctrl-C, or than `timeout`, which signals both the
# process and its group. A library may also swallow the first, so that a later one must count.
_DEAF_SECONDS = 10.0


class _State:
    """What has been received so far."""

    raised_at = float("-inf")
    terminated = False


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM: cleans up as Ctrl-C does."""


def was_terminated() -> bool:
    """Whether a SIGTERM was received."""
    return _State.terminated


def catch() -> None:
    """Raise KeyboardInterrupt for SIGINT and SIGTERM, but once for those that come together."""
    # A shell starts commands in the background with SIGINT ignored; that stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _deliver_again


def ignore() -> None:
    """The command is over: neither signal changes its exit code or its output any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if now - _State.raised_at < _DEAF_SECONDS:
        return
    _State.raised_at = now
    _raise(signum)


def _raise(signum: int) -> NoReturn:
    if signum == signal.SIGTERM:
        _State.terminated = True
        raise _TerminatedError
    raise KeyboardInterrupt


def _deliver_again(lost: "sys.UnraisableHookArgs") -> None:
    """Send an interruption anew that came where Python lets no exception out.

    Such places are callbacks of weak references and destructors, which libraries are full of.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    _State.raised_at = float("-inf")
    number = signal.SIGTERM if issubclass(lost.exc_type, _TerminatedError) else signal.SIGINT
    timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
