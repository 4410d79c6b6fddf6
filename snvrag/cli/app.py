"""The Typer app and its one error boundary: what ends a command, and with which exit code."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from snvrag import __version__
from snvrag.cli import commands
from snvrag.cli.entry import EXIT_FAILED, EXIT_INTERRUPTED
from snvrag.cli.evaluate import evaluate
from snvrag.cli.impute import impute
from snvrag.cli.merge import merge
from snvrag.cli.report import report
from snvrag.cli.train import train
from snvrag.errors import RankError, SnvragError

EXIT_USAGE = 2
_PATIENCE_SECONDS = 10.0

app = typer.Typer(
    name="snvrag",
    help="Retrieval-augmented genotype imputation.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("convert")(commands.convert)
app.command("windows")(commands.windows)
app.command("build-index")(commands.build_index)
app.command("train")(train)
app.command("verify")(commands.verify)
app.command("impute")(impute)
app.command("merge")(merge)
app.command("evaluate")(evaluate)
app.command("report")(report)

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
            "--version", help="Print the version.", callback=_print_version, is_eager=True
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
    print(text, file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


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
