"""Every error that snvrag raises on purpose.

    SnvragError             exit code, message, hint
    ├── UsageError      2   an option or argument is wrong
    ├── InputError      2   a file is missing, damaged or not what it must be
    ├── OutputError     2   a result cannot be written where it was asked for
    ├── MismatchError   2   two artifacts do not belong together (panel, index, model)
    ├── WorkError       1   the inputs were right and the work still failed
    └── RankError       *   another process of a torchrun failed, and has said why

The command line prints ``error: <message>`` and ``hint: <hint>`` and leaves with the exit code;
library users catch :class:`SnvragError`.
"""


class SnvragError(Exception):
    """Base class: one sentence on what is wrong, one on what to do about it."""

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SnvragError):
    """An option or argument is wrong; the message names it."""


class InputError(SnvragError):
    """An input is missing, damaged or unsuitable; the message names file and record."""


class OutputError(SnvragError):
    """A result cannot be written to where it was asked for."""


class MismatchError(SnvragError):
    """Two artifacts do not belong together; the message shows both values."""


class WorkError(SnvragError):
    """The inputs were in order, yet the work failed."""

    exit_code = 1


class RankError(SnvragError):
    """Another process of the same torchrun failed first; it tells why, this one is silent."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this torchrun failed")
        self.exit_code = exit_code
