"""``report``: one HTML page of runs and evaluations, complete in itself.

The page holds no script and loads nothing, and equal inputs give equal bytes. Everything that
comes from a file is text to it, whatever it holds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from snvrag import __version__
from snvrag.errors import InputError, UsageError
from snvrag.evaluation_file import EvaluationFile, SavedEvaluation, read_evaluations
from snvrag.metrics import R2_BINS
from snvrag.provenance import atomic_file, check_output_file, read_json, read_json_lines
from snvrag.report_figures import Table, table_html
from snvrag.report_sections import (
    METHODS,
    RunFacts,
    accuracy_section,
    calibration_section,
    configuration,
    number,
    quality_section,
    training_section,
    windows_section,
)
from snvrag.run_history import EVENTS, read_events, windows_touched

_TEMPLATE = "report.html"
_RUN_FORMAT, _CONFIG, _METRICS = "snvrag-run", "config.json", "metrics.jsonl"
_FIGURES = ("loss", "r2", "rare_f1", "rare_r2", "rare_loss", "rare_recall", "ece", *R2_BINS)
_TIMES = ("train_seconds", "validation_seconds")
_MOST_EPOCHS = 100_000
# Beyond this a damaged file speaks, not a run.
_LARGEST = 1e15


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
        if output.exists() and path.exists() and output.samefile(path):
            raise UsageError(f"--output {output}: is one of the inputs", "choose another name")
    check_output_file(output, force=force)
    runs = [read_run(path) for path in inputs if path.is_dir()]
    files = [(path, read_evaluations(path)) for path in inputs if not path.is_dir()]
    page = _page(runs, files)
    with atomic_file(output) as temporary:
        temporary.write_bytes(page.encode())
    n_evaluations = sum(len(file.evaluations) for _, file in files)
    size = output.stat().st_size
    return ReportSummary(output, len(runs), n_evaluations, page.count("<figure"), size)


def read_run(path: Path) -> RunFacts:
    """What a run folder says of itself, of this version or an earlier one.

    Raises:
        InputError: it is no run folder, or a file in it is damaged.
    """
    where = path / _CONFIG
    if not where.is_file():
        raise InputError(f"{path}: holds no {_CONFIG}", "give a folder that snvrag train wrote")
    config = read_json(where)
    if config.get("format_name") != _RUN_FORMAT:
        raise InputError(
            f"{where}: format {config.get('format_name')!r}, not {_RUN_FORMAT!r}",
            "give a folder that snvrag train wrote",
        )
    events = read_events(path / EVENTS)
    rows = _rows(path / _METRICS)
    settings = _object(config, "config")
    train = _object(settings, "train")
    return RunFacts(
        name=path.resolve().name,
        rows=rows,
        best=_best_epoch(rows, focal=_number(train, "focal_gamma") > 0),
        epochs=_whole(train, "epochs"),
        start=next((_facts(e) for e in events if e.get("event") == "start"), {}),
        finished=any(e.get("event") == "end" for e in events),
        windows=windows_touched(events),
        num_windows=_whole(config, "num_windows"),
        recorded=(path / EVENTS).exists(),
        sites=_whole(config, "total_snps"),
        chromosomes=_chromosomes(config.get("chromosomes")),
        network=str(_object(settings, "model").get("network", "unknown")),
        config=settings,
        provenance=_object(config, "provenance"),
    )


def _facts(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "event"}


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    names = ["train_loss", *_TIMES]
    names += [f"{prefix}_{figure}" for prefix, _ in METHODS for figure in _FIGURES]
    rows = []
    for line, row in enumerate(read_json_lines(path), start=1):
        if row.get("epoch") != line or line > _MOST_EPOCHS:
            raise InputError(
                f"{path}: line {line} is not epoch {line}", "give a folder that snvrag train wrote"
            )
        rows.append({"epoch": float(line), **{name: _number(row, name) for name in names}})
    return rows


def _best_epoch(rows: Sequence[Mapping[str, float]], *, focal: bool) -> int:
    """The epoch that training keeps, by the rule of ``metrics.selection_metric``."""
    best, kept = -math.inf, 0
    for number_, row in enumerate(rows, start=1):
        group = "" if math.isnan(row["val_rare_recall"]) else "rare_"
        loss = row[f"val_{group}loss"]
        metric = row["val_rare_f1"] if focal else -loss
        if kept == 0 or metric > best:
            best, kept = metric, number_
    return kept


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def _number(data: Mapping[str, Any], name: str) -> float:
    """A finite number of the file, else NaN."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) < _LARGEST else math.nan


def _whole(data: Mapping[str, Any], name: str) -> int:
    value = _number(data, name)
    return 0 if math.isnan(value) else int(value)


def _chromosomes(value: object) -> list[str]:
    entries = value if isinstance(value, list) else []
    return [str(entry[0])[:60] for entry in entries[:1000] if isinstance(entry, list) and entry]


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
        subtitle=escape("Genotype imputation with snvrag"),
        summary="".join(_run_summary(run) for run in runs) + _evaluation_summary(evaluations),
        contents="".join(
            f'<li><a href="#{key}">{escape(heading)}</a></li>' for key, heading, _ in sections
        ),
        main="".join(
            f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{escape(heading)}</h2>'
            f"\n{body}</section>\n"
            for key, heading, body in sections
        ),
        footer=f"Written by snvrag {escape(__version__)}. This page is complete in itself: it "
        "loads nothing and can be opened offline, sent and printed.",
    )


def _count(value: object, name: str) -> str:
    return f"{value:,} {name}" if type(value) is int else f"an unrecorded number of {name}"


def _run_summary(run: RunFacts) -> str:
    where = f"chromosome{'s' * (len(run.chromosomes) > 1)} {', '.join(run.chromosomes[:30])}"
    panel = Path(str(run.start.get("panel", ""))).name or "a reference panel"
    words = [
        f"A network of kind “{run.network}” was trained on {panel}: {run.sites:,} sites of {where} "
        f"in {run.num_windows:,} windows."
    ]
    if run.start:
        learners = _count(run.start.get("training_samples"), "samples")
        judges = _count(run.start.get("validation_samples"), "held-out samples")
        words.append(f"It learned from {learners} and was judged on {judges}.")
    if not run.rows:
        return _lead(run, [*words, "No epoch is complete yet."]) + _tiles(run)
    best = run.rows[run.best - 1]
    gain = best["val_r2"] - best["copying_r2"]
    words.append(
        f"Epoch {run.best} of {len(run.rows)} is the best and was kept: at masked sites of the "
        f"held-out samples it explains r² = {number(best['val_r2'])} of the variance of true "
        f"dosages, the copying model alone {number(best['copying_r2'])} ({gain:+.4f}); at rare "
        f"sites {number(best['val_rare_r2'])} against {number(best['copying_rare_r2'])}."
    )
    if not run.finished and run.recorded:
        words.append(f"Training has not ended: {len(run.rows)} of {run.epochs} epochs are done.")
    elif len(run.rows) < run.epochs:
        words.append(f"It stopped after {len(run.rows)} of {run.epochs} epochs.")
    return _lead(run, words) + _tiles(run)


def _lead(run: RunFacts, words: Sequence[str]) -> str:
    return f'<p class="lead"><strong>{escape(run.name)}.</strong> {escape(" ".join(words))}</p>'


def _tiles(run: RunFacts) -> str:
    samples = run.start.get("panel_samples")
    tiles = [
        ("Panel samples", f"{samples:,}" if type(samples) is int else "–", ""),
        ("Panel sites", f"{run.sites:,}", f"{run.num_windows:,} windows"),
    ]
    if run.rows:
        best = run.rows[run.best - 1]
        seconds = sum(row[name] for row in run.rows for name in _TIMES)
        tiles += [
            ("Best epoch", f"{run.best}", f"of {len(run.rows)}"),
            ("r², held out", number(best["val_r2"]), f"copying model {number(best['copying_r2'])}"),
            (
                "F1, rare sites",
                number(best["val_rare_f1"]),
                f"copying model {number(best['copying_rare_f1'])}",
            ),
            ("Time of training", _duration(seconds), "validation included"),
        ]
    built = [event.ms for event in run.windows if event.built]
    if built:
        mean = sum(built) / len(built)
        tiles.append(("Indexes just in time", f"{len(built):,}", f"{mean:.1f} ms each"))
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles">{items}</dl>'


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _evaluation_summary(evaluations: Sequence[SavedEvaluation]) -> str:
    if not evaluations:
        return ""
    rows = [
        [
            e.label,
            f"{e.n_samples:,}",
            f"{e.all.n_sites:,}",
            number(e.all.aggregate_r2),
            number(e.all.nonmajor_concordance),
            number(e.ece),
        ]
        for e in evaluations
    ]
    columns = ["imputed", "samples", "masked sites", "r²", "non-major concordance", "ECE"]
    best = max(evaluations, key=lambda e: (not math.isnan(e.all.aggregate_r2), e.all.aggregate_r2))
    told = f"{len(evaluations)} imputed files were" if len(evaluations) > 1 else "One file was"
    words = f"{told} compared with the truth at masked sites."
    if len(evaluations) > 1:
        words += f" Over all of these sites the highest r² is that of {best.label}."
    table = table_html(Table(columns, rows), "Imputed files against the truth")
    return f'<p class="lead">{escape(words)}</p>{table}'


def _origin(runs: Sequence[RunFacts], files: Sequence[tuple[Path, EvaluationFile]]) -> str:
    parts = []
    for run in runs:
        seed = run.provenance.get("seed")
        facts = [*_made_by(run.provenance), ("seed", str(seed) if type(seed) is int else "–")]
        inputs = _object(run.provenance, "inputs")
        facts += [(f"digest of {name}", str(value)) for name, value in list(inputs.items())[:20]]
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
    line = " ".join(str(word) for word in command) if isinstance(command, list) else "–"
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
