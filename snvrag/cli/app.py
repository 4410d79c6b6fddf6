"""The Typer app and its one error boundary: what ends a command, and with which exit code."""

import contextlib
import errno
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from snvrag import __version__
from snvrag.cli import commands
from snvrag.cli.entry import EXIT_FAILED, EXIT_INTERRUPTED
from snvrag.cli.evaluate import evaluate
from snvrag.cli.examples import BEGIN, EXIT_CODES, epilog
from snvrag.cli.impute import impute
from snvrag.cli.merge import merge
from snvrag.cli.report import report
from snvrag.cli.train import train
from snvrag.errors import RankError, SnvragError

EXIT_USAGE = 2
_PATIENCE_SECONDS = 10.0


def _untyped_flags(parameters: list[Any]) -> list[Any]:
    """Parameters, of which flags show no type in help: Typer would write <bool>."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) or getattr(parameter, "count", False):
            parameter.metavar = ""
    return parameters


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _untyped_flags(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _untyped_flags(super().get_params(ctx))


app = typer.Typer(
    name="snvrag",
    help="Retrieval-augmented genotype imputation.",
    epilog=f"{EXIT_CODES}\n\n{BEGIN}",
    cls=_Group,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


# In the order of work.
for _name, _function in (
    ("convert", commands.convert),
    ("windows", commands.windows),
    ("build-index", commands.build_index),
    ("train", train),
    ("verify", commands.verify),
    ("impute", impute),
    ("merge", merge),
    ("evaluate", evaluate),
    ("report", report),
):
    app.command(_name, cls=_Command, epilog=epilog(_name))(_function)

# Typer carries its own copy of click; its public classes lead to the base of all usage errors.
_CommandLineError: Any = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"snvrag {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Retrieval-augmented genotype imputation."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one return per ending
    """Run one command line and return its exit code; errors are told on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = app(args=words, prog_name="snvrag", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if code == EXIT_INTERRUPTED:
            _say("interrupted")
        return code
    except RankError as error:
        _let_another_speak()
        return error.exit_code
    except SnvragError as error:
        _say(f"error: {error.message}", error.hint)
        _show_traceback(words)
        return error.exit_code
    except _CommandLineError as error:
        if os.environ.get("RANK", "0") != "0":
            # Every process of a torchrun finds the same; the first says it.
            _let_another_speak()
            return EXIT_USAGE
        command = words[0] if words and not words[0].startswith("-") else ""
        _say(f"error: {_first_line(error)}", f"snvrag {command} --help".replace("  ", " "))
        return EXIT_USAGE
    except BrokenPipeError:
        # Whoever read stdout has gone: nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (OSError, MemoryError) as error:
        _say(f"error: {_system_error(error)}", "run again with -vv for details")
        _show_traceback(words)
        return EXIT_FAILED
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # the boundary: users never see a traceback they did not ask for
        _say(
            f"error: unexpected {type(error).__name__}: {_first_line(error)}",
            "this is a fault of snvrag; run again with -vv and report what it prints",
        )
        _show_traceback(words)
        return EXIT_FAILED
    finally:
        _close_log()


def _let_another_speak() -> None:
    """Stay until torchrun ends this process, which it does once the one that speaks has failed.

    Had this one gone first, torchrun would end that one, perhaps before it has said anything.
    """
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(_PATIENCE_SECONDS)


def _close_log() -> None:
    # Only a command that set up its output has imported the module, with rich behind it.
    output = sys.modules.get("snvrag.cli.output")
    if output is not None:
        output.close_log()


def _say(text: str, hint: str | None = None) -> None:
    """Tell on stderr; on a terminal in colour, and with lines broken between words."""
    lines = [text, *([f"hint: {hint}"] if hint else [])]
    if sys.stderr.isatty():
        # A hint may hold a command to be copied, which stays in one line.
        width = shutil.get_terminal_size().columns
        lines[0] = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
        if not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb":
            for word, code in (("error:", "1;31"), ("hint:", "1;36")):
                lines = [
                    line.replace(word, f"\x1b[{code}m{word}\x1b[0m", 1)
                    if line.startswith(word)
                    else line
                    for line in lines
                ]
    print("\n".join(lines), file=sys.stderr)


def _first_line(error: Any) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return " ".join(str(text).split())


def _system_error(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on the device"
    return f"{where}{error.strerror or error}"


def _show_traceback(words: Sequence[str]) -> None:
    if "-vv" in words or sum(w in {"-v", "--verbose"} for w in words) > 1:
        import traceback

        traceback.print_exc()
