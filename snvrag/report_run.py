"""A training run in a report: what its folder says, its curves, windows and settings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from snvrag.dosage import BIN_EDGES
from snvrag.errors import InputError
from snvrag.metrics import R2_BINS, selection_metric
from snvrag.provenance import read_json, read_json_lines
from snvrag.report_figures import (
    SHARE_TICKS,
    Axis,
    Chart,
    Line,
    Table,
    frequency_axis,
    grid,
    number,
    signed,
    table_html,
    value_axis,
)
from snvrag.report_track import Block, Track
from snvrag.run_history import EVENTS, WindowEvent, read_events, windows_touched

METHODS = (
    ("val", "model"),
    ("copying", "copying model"),
    ("nearest", "nearest haplotype"),
    ("af", "allele frequency"),
)
"""Prefix in ``metrics.jsonl`` and name of each method."""
_RUN_FORMAT, _CONFIG, _METRICS = "snvrag-run", "config.json", "metrics.jsonl"
RUN_FILES = (_CONFIG, _METRICS, EVENTS)
"""What is read of a run folder."""
_FIGURES = ("loss", "f1", "r2", "rare_f1", "rare_r2", "rare_loss", "rare_recall", "ece", *R2_BINS)
_TIMES = ("train_seconds", "validation_seconds")
# Of a line that no method has.
_TRAINING_STYLE = 4
_MOST_ROWS, _MOST_BLOCKS, _MOST_CHROMOSOMES, _MOST_EPOCHS = 500, 300, 60, 100_000
# Beyond this a damaged file speaks, not a run.
_LARGEST = 1e15


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run folder says of itself."""

    name: str
    rows: list[dict[str, float]]
    """By epoch; undefined figures are NaN."""
    best: int
    """The best epoch, from 1; 0 without epochs."""
    epochs: int
    """That were asked for."""
    start: Mapping[str, Any]
    """The facts of its first start; empty where not recorded."""
    finished: bool
    windows: list[WindowEvent]
    num_windows: int
    recorded: bool
    """Whether the run folder has events."""
    sites: int
    chromosomes: list[str]
    network: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]


def read_run(path: Path) -> RunFacts:
    """What a run folder says of itself, of this version or an earlier one.

    Raises:
        InputError: it is no run folder, or a file in it is damaged.
    """
    where = path / _CONFIG
    if not where.is_file():
        raise InputError(
            f"{path}: holds no {_CONFIG}",
            "give a folder of snvrag train; one that ended before its first step holds nothing yet",
        )
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
        best=_best_epoch(rows, _number(train, "focal_gamma")),
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


def _best_epoch(rows: Sequence[Mapping[str, float]], gamma: float) -> int:
    """The epoch that training keeps: the first of those that it judges best."""
    judged = [
        selection_metric({name: row[f"val_{name}"] for name in _FIGURES}, gamma) for row in rows
    ]
    return judged.index(max(judged)) + 1 if judged else 0


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


def _count(value: object, name: str) -> str:
    return f"{value:,} {name}" if type(value) is int else f"an unrecorded number of {name}"


def run_summary(run: RunFacts) -> str:
    """What was trained on what and how well it did, in words and tiles."""
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
    words.append(
        f"Epoch {run.best} of {len(run.rows)} is the best by {_judged_by(run)} and was kept: at "
        f"masked sites of the held-out samples it explains r² = {number(best['val_r2'])} of the "
        f"variance of true dosages, the copying model (Li–Stephens, without a network) "
        f"{number(best['copying_r2'])} ({signed(best['val_r2'] - best['copying_r2'])}); at rare "
        f"sites {number(best['val_rare_r2'])} against {number(best['copying_rare_r2'])}."
    )
    if not run.finished and run.recorded:
        words.append(f"Training has not ended: {len(run.rows)} of {run.epochs} epochs are done.")
    elif len(run.rows) < run.epochs:
        words.append(f"It stopped after {len(run.rows)} of {run.epochs} epochs.")
    return _lead(run, words) + _tiles(run)


def _judged_by(run: RunFacts) -> str:
    """What :func:`snvrag.metrics.selection_metric` looks at."""
    focal = _number(_object(run.config, "train"), "focal_gamma") > 0
    rare = not math.isnan(run.rows[run.best - 1]["val_rare_recall"])
    return f"its {'F1' if focal else 'loss'} at {'rare' if rare else 'all'} sites"


def _lead(run: RunFacts, words: Sequence[str]) -> str:
    return f'<p class="lead"><strong>{escape(run.name)}.</strong> {escape(" ".join(words))}</p>'


def _tiles(run: RunFacts) -> str:
    samples = run.start.get("panel_samples")
    tiles = [("Panel samples", f"{samples:,}", "")] if type(samples) is int else []
    tiles += [
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
        tiles.append(("Indexes just in time", f"{len(built):,}", f"{_ms(mean)} each"))
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


def _ms(milliseconds: float) -> str:
    if milliseconds < 10:
        return f"{milliseconds:.2g} ms"
    return f"{milliseconds:,.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:,.0f} s"


def training_section(run: RunFacts) -> str:
    """Curves of a run beside its baselines, and accuracy by frequency at its best epoch."""
    if not run.rows:
        return "<p>No epoch is complete yet, so there are no curves.</p>"
    charts = [
        _curve(
            run,
            "loss",
            "Loss",
            "cross-entropy per masked allele",
            "Lower is better. Training samples are masked in changing patterns and ever more, so "
            "their line wanders.",
        ),
        _curve(run, "r2", "Dosage r²", "r², masked sites", "Higher is better."),
        _curve(
            run,
            "rare_f1",
            "F1 at rare sites",
            "F1 of minor alleles",
            "Rare sites only, where a guess of the major allele is nearly always right and worth "
            "nothing: F1 counts the minor alleles found and those called wrongly.",
        ),
        _best_by_frequency(run),
    ]
    return grid(charts)


def _curve(run: RunFacts, name: str, title: str, label: str, note: str) -> str:
    epochs = [row["epoch"] for row in run.rows]
    values = {method: [row[f"{prefix}_{name}"] for row in run.rows] for prefix, method in METHODS}
    training = [row["train_loss"] for row in run.rows] if name == "loss" else []
    shown = [*values["model"], *values["copying model"], *training]
    axis = value_axis(label, shown, limit=None if name == "loss" else 1.0)
    lines, edges = [], []
    for style, (method, own) in enumerate(values.items()):
        last = own[-1]
        if last > axis.high or last < axis.low:
            arrow = "↑" if last > axis.high else "↓"
            edges.append(f"{arrow} {method} {last:.4g}, outside the plot")
            continue
        tips = [f"epoch {e:g}, {method}: {number(v)}" for e, v in zip(epochs, own, strict=True)]
        flat = method != "model"
        lines.append(Line(method, epochs, own, style, flat, tips, markers=not flat))
    if training:
        lines.append(Line("training samples", epochs, training, _TRAINING_STYLE, markers=False))
    columns = ["epoch", *values, *(["training"] if training else [])]
    series = [*values.values(), *([training] if training else [])]
    rows = [[f"{epoch:g}", *(number(own[i]) for own in series)] for i, epoch in enumerate(epochs)]
    last_epoch = max(epochs[-1], epochs[0] + 1)
    ticks = [t for t in range(1, int(last_epoch) + 1) if t % -(-int(last_epoch) // 12) == 0]
    return Chart(
        title=title,
        note=f"Held-out samples at masked sites, after each epoch. {note}",
        x=Axis("epoch", min(epochs[0], 1) - 0.3, last_epoch + 0.3, [(t, f"{t}") for t in ticks]),
        y=axis,
        lines=lines,
        table=Table(columns, rows[:: -(-len(rows) // _MOST_ROWS)]),
        mark=(run.best, "best epoch"),
        edges=edges,
    ).html()


def _best_by_frequency(run: RunFacts) -> str:
    best = run.rows[run.best - 1]
    highs = [f"{high:g}" for high in BIN_EDGES[1:]]
    places = list(range(len(highs)))
    lines, values = [], []
    for style, (prefix, method) in enumerate(METHODS):
        own = [best[f"{prefix}_r2_maf_{high}"] for high in highs]
        tips = [f"{method}, MAF ≤ {h}: {number(v)}" for h, v in zip(highs, own, strict=True)]
        lines.append(Line(method, places, own, style, method != "model", tips))
        values.append(own)
    rows = [[f"≤ {high}", *(number(own[i]) for own in values)] for i, high in enumerate(highs)]
    return Chart(
        title=f"r² by allele frequency, best epoch ({run.best})",
        note="Held-out samples at masked sites; each bin begins where the one before it ends.",
        x=frequency_axis(BIN_EDGES[1:]),
        y=Axis("dosage r²", 0.0, 1.0, SHARE_TICKS),
        lines=lines,
        table=Table(["MAF", *(method for _, method in METHODS)], rows),
    ).html()


def windows_section(run: RunFacts) -> str:
    """Where on the chromosomes indexes were built just in time, and how long each took."""
    if not run.windows:
        why = (
            "No window was touched yet."
            if run.recorded
            else "Not recorded: "
            "the run was made by a version of snvrag that did not write events.jsonl."
        )
        return f"<p>{escape(why)}</p>"
    rows: dict[str, list[Block]] = {}
    for event in run.windows:
        how = "built just in time" if event.built else "read from disk"
        tip = (
            f"window {event.window}, {event.chromosome}:{event.first:,}–{event.last:,}, "
            f"{event.sites} sites: {how} in {event.ms:.2f} ms"
        )
        block = Block(event.first, event.last, event.ms, event.built, tip)
        rows.setdefault(event.chromosome, []).append(block)
    built = [event.ms for event in run.windows if event.built]
    read = [event.ms for event in run.windows if not event.built]
    touched = len(run.windows)
    words = [f"{touched:,} of {run.num_windows:,} windows were used."]
    for how, times in (("built just in time", built), ("read from disk", read)):
        if times:
            words.append(
                f"{len(times):,} {how}: median {_ms(median(times))}, at most {_ms(max(times))}."
            )
    table = [
        [
            f"{e.window}",
            f"{e.chromosome}:{e.first:,}–{e.last:,}",
            f"{e.sites}",
            "built" if e.built else "read",
            f"{e.ms:.2f}",
        ]
        for e in run.windows[:_MOST_ROWS]
    ]
    if touched > _MOST_ROWS:
        words.append(f"The table lists the first {_MOST_ROWS}.")
    shown = list(rows.items())[:_MOST_CHROMOSOMES]
    if len(rows) > len(shown):
        words.append(f"Shown are the first {len(shown)} of {len(rows)} sequences.")
    several = "{n} windows, mean {mean} ms"
    return Track(
        title="Windows along the genome",
        note=" ".join(words) + " An index, once built, serves all later epochs and runs.",
        rows=[(_short(name), _joined(row, several)) for name, row in shown],
        unit="ms",
        full_label="built just in time",
        half_label="reused, read from disk",
        table=Table(["window", "position", "sites", "index", "ms"], table),
    ).html()


def _short(chromosome: str) -> str:
    name = chromosome if chromosome.startswith("chr") else f"chr {chromosome}"
    return name if len(name) <= 8 else f"{name[:7]}…"


def _joined(blocks: Sequence[Block], tip: str) -> list[Block]:
    """At most :data:`_MOST_BLOCKS` blocks of one chromosome; neighbours share their mean.

    Args:
        blocks: in order.
        tip: tooltip of several, with ``{n}`` windows and ``{mean}``.
    """
    each = -(-len(blocks) // _MOST_BLOCKS)
    if each <= 1:
        return list(blocks)
    joined = []
    for start in range(0, len(blocks), each):
        own = blocks[start : start + each]
        mean = sum(block.value for block in own) / len(own)
        text = tip.format(n=len(own), mean=f"{mean:.2f}")
        full = any(block.full for block in own)
        joined.append(Block(own[0].first, own[-1].last, mean, full, text))
    return joined


def configuration(run: RunFacts) -> str:
    """Every setting of a run, folded."""
    rows = [[name, text] for name, text in _flat("", run.config)][:_MOST_ROWS]
    table = table_html(Table(["setting", "value"], rows), f"Settings of {run.name}")
    facts = [[str(key).replace("_", " "), _plain(value)] for key, value in run.start.items()]
    started = ""
    if facts:
        started = (
            "<details><summary>Facts at its start</summary>"
            f"{table_html(Table(['fact', 'value'], facts[:_MOST_ROWS]), 'Facts at the start')}"
            "</details>"
        )
    return f"<details><summary>All settings</summary>{table}</details>{started}"


def _flat(prefix: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict) and prefix.count(".") < 8:
        return [pair for key, own in value.items() for pair in _flat(f"{prefix}{key}.", own)]
    return [(prefix.rstrip("."), _plain(value))]


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(own) for own in value[:50])
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else str(value)[:500]
