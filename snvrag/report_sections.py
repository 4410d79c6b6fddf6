"""Sections of a report: what a run and evaluations tell, as figures and words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from statistics import median
from typing import Any

from snvrag.calibration import GENOTYPES, CalibrationBin, QualityAccuracy
from snvrag.dosage import BIN_EDGES
from snvrag.evaluation_file import SavedEvaluation
from snvrag.report_figures import (
    Axis,
    Block,
    Chart,
    Line,
    Table,
    Track,
    join_blocks,
    table_html,
    value_axis,
)
from snvrag.run_history import WindowEvent

METHODS = (
    ("val", "model"),
    ("copying", "copying model"),
    ("nearest", "nearest haplotype"),
    ("af", "allele frequency"),
)
"""Prefix in ``metrics.jsonl`` and name of each method."""
_SHARE_TICKS = [(i / 5, f"{i / 5:g}") for i in range(6)]
_MOST_SAMPLES = 150
_MOST_ROWS = 500
Row = Mapping[str, float]


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


def number(value: float, digits: int = 4) -> str:
    """A figure, or a dash where undefined."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def training_section(run: RunFacts) -> str:
    """Curves of a run beside its baselines, and accuracy by frequency at its best epoch."""
    if not run.rows:
        return "<p>No epoch is complete yet, so there are no curves.</p>"
    charts = [
        _curve(run, "loss", "Loss", "cross-entropy per masked allele", "Lower is better."),
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


def grid(figures: Sequence[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="figures">{"".join(figures)}</div>'


def _curve(run: RunFacts, name: str, title: str, label: str, note: str) -> str:
    epochs = [row["epoch"] for row in run.rows]
    values = {method: [row[f"{prefix}_{name}"] for row in run.rows] for prefix, method in METHODS}
    training = [row[f"train_{name}"] for row in run.rows] if name == "loss" else []
    shown = [*values["model"], *values["copying model"]]
    axis = value_axis(label, shown, limit=None if name == "loss" else 1.0)
    lines, edges = [], []
    for style, (method, own) in enumerate(values.items()):
        last = own[-1]
        if not axis.low <= last <= axis.high:
            if math.isfinite(last):
                arrow = "↑" if last > axis.high else "↓"
                edges.append(f"{arrow} {method} {last:.4g}, outside the plot")
            continue
        tips = [f"epoch {e:g}, {method}: {number(v)}" for e, v in zip(epochs, own, strict=True)]
        flat = method != "model"
        lines.append(Line(method, epochs, own, style, flat, tips, markers=not flat))
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


def _frequency_axis() -> Axis:
    names = [f"{low:g}–{high:g}" for low, high in pairwise(BIN_EDGES)]
    # Only the upper edges: both would not fit.
    ticks = [(i, f"≤{high:g}") for i, high in enumerate(BIN_EDGES[1:])]
    return Axis("minor-allele frequency in the panel", -0.4, len(names) - 0.6, ticks)


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
        x=_frequency_axis(),
        y=Axis("dosage r²", 0.0, 1.0, _SHARE_TICKS),
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
                f"{len(times):,} {how}: median {median(times):.2f} ms, slowest "
                f"{max(times):.1f} ms, {sum(times) / 1000:.2f} s together."
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
    several = "{n} windows, mean {mean} ms"
    return Track(
        title="Windows along the genome",
        note=" ".join(words) + " An index, once built, serves all later epochs and runs.",
        rows=[(f"chr {name}", join_blocks(row, several)) for name, row in rows.items()],
        unit="ms",
        full_label="built just in time",
        half_label="reused, read from disk",
        table=Table(["window", "position", "sites", "index", "ms"], table),
    ).html()


def accuracy_section(evaluations: Sequence[SavedEvaluation]) -> str:
    """Aggregate r² by minor-allele frequency, and each sample's own."""
    first, *others = evaluations
    values = [[b.aggregate_r2 for b in e.bins] for e in evaluations]
    names = [f"{b.low:g}–{b.high:g}" for b in first.bins]
    places = list(range(len(names)))
    ticks = [(i, f"≤{b.high:g}") for i, b in enumerate(first.bins)]
    axis = Axis("minor-allele frequency in the panel", -0.4, len(names) - 0.6, ticks)
    lines = [
        Line(e.label, places, own, style, tips=_tips(e, names, own))
        for style, (e, own) in enumerate(zip(evaluations, values, strict=True))
    ]
    rows = [
        [name, f"{first.bins[i].n_sites:,}", *(number(own[i]) for own in values)]
        for i, name in enumerate(names)
    ]
    rows.append(
        ["all", f"{first.all.n_sites:,}", *(number(e.all.aggregate_r2) for e in evaluations)]
    )
    columns = ["MAF", "sites", *(e.label for e in evaluations)]
    charts = [
        Chart(
            title="Accuracy by allele frequency",
            note="Aggregate r²: squared correlation of true and imputed dosage of the panel's "
            "minor allele, over all masked genotypes of a frequency bin. 1 is perfect.",
            x=axis,
            y=Axis("aggregate r²", 0.0, 1.0, _SHARE_TICKS),
            lines=lines,
            table=Table(columns, rows),
        ).html()
    ]
    if others:
        charts.append(_differences(evaluations, values, names, axis))
    charts.append(_samples(evaluations))
    return grid(charts)


def _tips(e: SavedEvaluation, names: Sequence[str], values: Sequence[float]) -> list[str]:
    return [
        f"{e.label}, MAF {name}: {number(value)} ({b.n_sites:,} sites)"
        for name, value, b in zip(names, values, e.bins, strict=True)
    ]


def _differences(
    evaluations: Sequence[SavedEvaluation],
    values: Sequence[Sequence[float]],
    names: Sequence[str],
    axis: Axis,
) -> str:
    first = evaluations[0].label
    gains = [[a - b for a, b in zip(own, values[0], strict=True)] for own in values]
    finite = [g for own in gains for g in own if math.isfinite(g)]
    reach = max([abs(g) for g in finite] or [0.01]) or 0.01
    y = value_axis("difference in r²", [-reach, reach], limit=None)
    lines = [
        Line(
            e.label,
            list(range(len(names))),
            own,
            style,
            dashed=style == 0,
            tips=[f"{e.label}, MAF {n}: {g:+.4f}" for n, g in zip(names, own, strict=True)],
            markers=style > 0,
        )
        for style, (e, own) in enumerate(zip(evaluations, gains, strict=True))
    ]
    rows = [
        [name, *(f"{own[i]:+.4f}" if math.isfinite(own[i]) else "–" for own in gains[1:])]
        for i, name in enumerate(names)
    ]
    return Chart(
        title="Difference to the first",
        note=f"The same figures less those of {first}: above the dashed line is better. In rare "
        "bins with few samples, differences of some hundredths are chance.",
        x=axis,
        y=y,
        lines=lines,
        table=Table(["MAF", *(e.label for e in evaluations[1:])], rows),
    ).html()


def _samples(evaluations: Sequence[SavedEvaluation]) -> str:
    lines, columns = [], []
    for style, e in enumerate(evaluations):
        known = sorted((s.r2, s.sample) for s in e.samples if math.isfinite(s.r2))
        columns.append(known)
        thin = known[:: -(-len(known) // _MOST_SAMPLES) or 1]
        places = [100 * i / max(len(thin) - 1, 1) for i in range(len(thin))]
        tips = [f"{e.label}, {name}: {number(r2)}" for r2, name in thin]
        lines.append(Line(e.label, places, [r2 for r2, _ in thin], style, tips=tips))
    worst = max((min(len(known), 10) for known in columns), default=0)
    rows = [
        [f"{i + 1}", *(f"{c[i][1]} {number(c[i][0])}" if i < len(c) else "–" for c in columns)]
        for i in range(worst)
    ]
    everyone = [r2 for known in columns for r2, _ in known]
    return Chart(
        title="Accuracy of each sample",
        note="Samples from worst to best, r² over all masked sites. A few far below the rest are "
        "often swapped, contaminated or of an ancestry that the panel lacks. The table lists the "
        "worst.",
        x=Axis("samples, % of all", 0, 100, [(t, f"{t}") for t in range(0, 101, 20)]),
        y=value_axis("r² of the sample", everyone),
        lines=lines,
        table=Table(["rank", *(e.label for e in evaluations)], rows),
    ).html()


def calibration_section(evaluations: Sequence[SavedEvaluation]) -> str:
    """Whether dosages and genotype probabilities mean what they say."""
    charts = [
        _reliability(
            "Dosage",
            "imputed dosage / 2, minor allele",
            "mean true dosage / 2",
            [(i, e.label, e.calibration, e.ece) for i, e in enumerate(evaluations)],
        )
    ]
    for genotype in GENOTYPES:
        found = [
            (i, e.label, own.bins, own.ece)
            for i, e in enumerate(evaluations)
            if e.gp_calibration and (own := e.gp_calibration.genotypes.get(genotype))
        ]
        if found:
            name = {"hom_major": "homozygous major", "het": "heterozygous"}.get(
                genotype, "homozygous minor"
            )
            title = f"Probability of {name}"
            charts.append(
                _reliability(title, "genotype probability", "share with that genotype", found)
            )
    missing = [e.label for e in evaluations if e.gp_calibration is None]
    words = (
        f"<p>Without genotype probabilities (GP or HDS): {escape(', '.join(missing))}.</p>"
        if missing
        else ""
    )
    return grid(charts) + words


def _reliability(
    title: str,
    x: str,
    y: str,
    found: Sequence[tuple[int, str, Sequence[CalibrationBin], float]],
) -> str:
    lines = [
        Line(
            f"{label} (ECE {number(ece)})",
            [b.predicted for b in bins],
            [b.observed for b in bins],
            style,
            tips=[
                f"{label}: said {number(b.predicted, 3)}, was {number(b.observed, 3)} ({b.n:,})"
                for b in bins
            ],
        )
        for style, label, bins, ece in found
    ]
    rows = [
        [label, number(b.predicted), number(b.observed), f"{b.n:,}"]
        for _, label, bins, _ in found
        for b in bins
    ]
    return Chart(
        title=title,
        note="On the dashed line predictions hold what they promise; below it they promise too "
        "much. ECE, the expected calibration error, is the mean distance from it.",
        x=Axis(x, 0.0, 1.0, _SHARE_TICKS),
        y=Axis(y, 0.0, 1.0, _SHARE_TICKS),
        lines=lines,
        table=Table(["evaluation", "predicted", "observed", "pairs"], rows),
        diagonal=True,
    ).html()


def quality_section(evaluations: Sequence[SavedEvaluation]) -> str:
    """The quality scores of a file, DR2 and CR2, against the true r² of its sites."""
    charts, without = [], []
    for style, e in enumerate(evaluations):
        charts += [_quality(e.label, style, name, q) for name, q in sorted(e.qualities.items())]
        if not e.qualities:
            without.append(e.label)
    words = ""
    if without:
        names = escape(", ".join(without))
        words = f"<p>Without INFO/CR2, DR2 or R2 to compare: {names}.</p>"
    return grid(charts) + words


def _quality(label: str, style: int, name: str, q: QualityAccuracy) -> str:
    bins = [b for b in q.bins if b.n_sites]
    tips = [
        f"{name} {b.low:g}–{b.high:g}: mean {number(b.mean_quality, 3)}, true r² "
        f"{number(b.mean_site_r2, 3)} ({b.n_sites:,} sites)"
        for b in bins
    ]
    means = [b.mean_quality for b in bins], [b.mean_site_r2 for b in bins]
    rows = [
        [f"{b.low:g}–{b.high:g}", f"{b.n_sites:,}", number(b.mean_quality), number(b.mean_site_r2)]
        for b in bins
    ]
    difference = f"{q.mean_difference:+.3f}" if math.isfinite(q.mean_difference) else "–"
    return Chart(
        title=f"{name} of {label}",
        note=f"{q.n_sites:,} sites: correlation {number(q.correlation, 3)}, {name} less true r² "
        f"{difference} on average. Squares: sites, darker is more (logarithmic); line: means.",
        x=Axis(f"{name} in the file", 0.0, 1.0, _SHARE_TICKS),
        y=Axis("true r² of the site", 0.0, 1.0, _SHARE_TICKS),
        lines=[Line("mean of sites with that score", *means, style, tips=tips)],
        table=Table([name, "sites", f"mean {name}", "mean true r²"], rows),
        diagonal=True,
        cells=q.scatter,
    ).html()


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
