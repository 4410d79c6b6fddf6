"""The command ``report``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from snvrag.cli.options import Common, quoted, with_common


@with_common
def report(
    *,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|EVALUATION...",
            help="Run folders, and files of snvrag evaluate -o, in any order.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, such as report.html.")],
    common: Common,
) -> None:
    """One HTML page of training runs and evaluations, to open offline, send and print."""
    from snvrag.cli.output import Terminal
    from snvrag.reporting import report as library_report

    terminal = Terminal(common)
    summary = library_report(inputs, output, force=common.force)
    if common.json:
        terminal.json(asdict(summary) | {"output": str(summary.output)})
        return
    facts = {
        "runs": summary.runs,
        "evaluations": summary.evaluations,
        "figures": summary.figures,
    }
    following = f"python -m webbrowser {quoted(output)}"
    terminal.summary("report", [output], facts, following)
