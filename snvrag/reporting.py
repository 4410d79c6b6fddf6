"""``report``: one HTML page of runs and evaluations, complete in itself.

The page holds no script and loads nothing, and equal inputs give equal bytes. Everything that
comes from a file is text to it, whatever it holds.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from snvrag import __version__
from snvrag.errors import InputError, UsageError
from snvrag.evaluation_file import EvaluationFile, read_evaluations
from snvrag.provenance import atomic_file, check_output_file
from snvrag.report_accuracy import (
    accuracy_section,
    calibration_section,
    evaluation_summary,
    quality_section,
)
from snvrag.report_run import (
    RUN_FILES,
    RunFacts,
    configuration,
    read_run,
    run_summary,
    training_section,
    windows_section,
)

_TEMPLATE = "report.html"


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What :func:`report` wrote."""

    output: Path
    runs: int
    evaluations: int
    figures: int
    bytes: int


def report(inputs: Sequence[Path], output: Path, *, force: bool = False) -> ReportSummary:
    """Write one self-contained HTML page of training runs and evaluations.

    Args:
        inputs: run folders of :func:`snvrag.train` and files that ``snvrag evaluate -o`` wrote, at
            least one, in any order.
        output: the page.
        force: replace what is there.

    Returns:
        What was written: the numbers of runs, evaluations, figures and bytes.

    Raises:
        UsageError: no input is given, or the page would replace one.
        InputError: an input is absent, damaged, or neither.
        OutputError: the page exists already or cannot be written.
    """
    if not inputs:
        raise UsageError(
            "report: needs a run folder or an evaluation",
            "snvrag report RUN/ evaluation.json -o report.html",
        )
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder", "check its path")
        read = [path, *(path / name for name in RUN_FILES)] if path.is_dir() else [path]
        if output.exists() and any(file.exists() and output.samefile(file) for file in read):
            raise UsageError(f"--output {output}: is one of the inputs", "choose another name")
    check_output_file(output, force=force)
    runs = [read_run(path) for path in inputs if path.is_dir()]
    files = [(path, read_evaluations(path)) for path in inputs if not path.is_dir()]
    page = _page(runs, files)
    with atomic_file(output) as temporary:
        # Names of files, and texts of JSON, may hold what is no character.
        temporary.write_bytes(page.encode(errors="replace"))
    n_evaluations = sum(len(file.evaluations) for _, file in files)
    size = output.stat().st_size
    return ReportSummary(output, len(runs), n_evaluations, page.count("<figure"), size)


def _page(runs: Sequence[RunFacts], files: Sequence[tuple[Path, EvaluationFile]]) -> str:
    evaluations = [e for _, file in files for e in file.evaluations]
    sections: list[tuple[str, str, str]] = []
    for n, run in enumerate(runs, start=1):
        suffix = f": {run.name}" if len(runs) > 1 else ""
        sections.append((f"training-{n}", f"Training{suffix}", training_section(run)))
        sections.append(
            (f"windows-{n}", f"Indexes built just in time{suffix}", windows_section(run))
        )
    if evaluations:
        sections += [
            ("accuracy", "Accuracy of imputation", accuracy_section(evaluations)),
            ("calibration", "Calibration", calibration_section(evaluations)),
            ("quality", "Quality scores against truth", quality_section(evaluations)),
        ]
    sections.append(("origin", "Configuration and origin", _origin(runs, files)))
    names = [*(run.name for run in runs), *(path.name for path, _ in files)]
    template = Template(Path(__file__).with_name(_TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        version=escape(__version__),
        title=escape(f"Imputation report: {', '.join(names)}"[:200]),
        subtitle=f"Written by snvrag {escape(__version__)} from {escape(', '.join(names))}",
        summary="".join(run_summary(run) for run in runs) + evaluation_summary(evaluations),
        contents="".join(
            f'<li><a href="#{key}">{escape(heading)}</a></li>' for key, heading, _ in sections
        ),
        main="".join(
            f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{escape(heading)}</h2>'
            f"\n{body}</section>\n"
            for key, heading, body in sections
        ),
        footer="This page is complete in itself: it loads nothing, and can be opened offline, "
        "sent and printed.",
    )


def _origin(runs: Sequence[RunFacts], files: Sequence[tuple[Path, EvaluationFile]]) -> str:
    parts = []
    for run in runs:
        seed = run.provenance.get("seed")
        facts = [*_made_by(run.provenance), ("seed", str(seed) if type(seed) is int else "–")]
        inputs = run.provenance.get("inputs")
        named = list(inputs.items())[:20] if isinstance(inputs, dict) else []
        facts += [("input", f"{name}, digest {value}") for name, value in named]
        parts.append(_facts_table(run.name, facts) + configuration(run))
    for path, file in files:
        origin = {
            "snvrag_version": file.snvrag_version,
            "command": file.command,
            "created": file.created,
        }
        labels = ("evaluations", ", ".join(e.label for e in file.evaluations))
        parts.append(_facts_table(path.name, [*_made_by(origin), labels]))
    return "".join(parts)


def _made_by(origin: Mapping[str, Any]) -> list[tuple[str, str]]:
    command = origin.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    # What python -m snvrag has in that place.
    line = shlex.join(["snvrag" if word == "__main__.py" else word for word in words]) or "–"
    return [
        ("written by", f"snvrag {origin.get('snvrag_version', '–')}"),
        ("at", str(origin.get("created", "–"))),
        ("command", line),
    ]


def _facts_table(name: str, facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td><code>{escape(value[:2000])}</code></td></tr>'
        for key, value in facts
    )
    return f'<h3>{escape(name)}</h3><table class="facts"><tbody>{rows}</tbody></table>'
