"""Imputed files against the truth in a report: by frequency, sample, calibration, quality."""

import math
from collections.abc import Sequence
from html import escape

from snvrag.calibration import GENOTYPES, CalibrationBin, QualityAccuracy
from snvrag.evaluation import BinAccuracy
from snvrag.evaluation_file import SavedEvaluation
from snvrag.report_figures import (
    SHARE_TICKS,
    Axis,
    Chart,
    Line,
    Table,
    frequency_axis,
    grid,
    nice_ticks,
    number,
    signed,
    table_html,
    value_axis,
)

_MOST_SAMPLES, _MOST_ROWS = 150, 500
# A share of fewer predictions jumps between 0 and 1 and hides the others.
_LEAST_PAIRS = 10


def accuracy_section(evaluations: Sequence[SavedEvaluation]) -> str:
    """Aggregate r² by minor-allele frequency, and each sample's own."""
    first, *others = evaluations
    values = [[b.aggregate_r2 for b in e.bins] for e in evaluations]
    names = [f"{b.low:g}–{b.high:g}" for b in first.bins]
    places = list(range(len(names)))
    axis = frequency_axis([b.high for b in first.bins])
    lines = [
        Line(e.label, places, own, style, tips=_tips(e, names, own))
        for style, (e, own) in enumerate(zip(evaluations, values, strict=True))
    ]
    rows = [
        [name, _sites([e.bins[i] for e in evaluations]), *(number(own[i]) for own in values)]
        for i, name in enumerate(names)
    ]
    whole = [e.all for e in evaluations]
    rows.append(["all, 0 too", _sites(whole), *(number(b.aggregate_r2) for b in whole)])
    columns = ["MAF", "sites", *(e.label for e in evaluations)]
    charts = [
        Chart(
            title="Accuracy by allele frequency",
            note="Aggregate r²: squared correlation of true and imputed dosage of the panel's "
            "minor allele, over all masked genotypes of a frequency bin. 1 is perfect.",
            x=axis,
            y=Axis("aggregate r²", 0.0, 1.0, SHARE_TICKS),
            lines=lines,
            table=Table(columns, rows),
        ).html()
    ]
    if others:
        charts.append(_differences(evaluations, values, names, axis))
    charts += [_concordance(evaluations, names, axis), _samples(evaluations)]
    return grid(charts) + _along(evaluations)


def _sites(bins: Sequence[BinAccuracy]) -> str:
    """Sites of one bin in each evaluation: one number where all have the same."""
    return " / ".join(dict.fromkeys(f"{b.n_sites:,}" for b in bins))


def _along(evaluations: Sequence[SavedEvaluation]) -> str:
    """Accuracy of common variants along the chromosomes, one after another."""
    spans: dict[str, tuple[int, int]] = {}
    for e in evaluations:
        for r in e.regions:
            low, high = spans.get(r.chromosome, (r.first, r.last))
            spans[r.chromosome] = (min(low, r.first), max(high, r.last))
    if not spans:
        return ""
    several = len(spans) > 1
    shift, end, ticks = {}, 0, []
    for name, (low, high) in spans.items():
        shift[name] = end - low if several else 0
        ticks.append((end + (high - low) / 2, name[:4]))
        end += high - low + 1
    if several:
        x = Axis("chromosome", 0, end, ticks[:: -(-len(ticks) // 40)])
    else:
        low, high = next(iter(spans.values()))
        marks = [(mb * 1e6, f"{mb:g}") for mb in nice_ticks(low / 1e6, high / 1e6, 10)]
        x = Axis(f"position on chromosome {next(iter(spans))[:20]}, Mb", low, high, marks)
    lines, rows = [], []
    for style, e in enumerate(evaluations):
        label = e.label
        for name in spans:
            own = [r for r in e.regions if r.chromosome == name]
            tips = [
                f"{e.label}, {name}:{r.first:,}–{r.last:,}: {number(r.mean_site_r2)} "
                f"({r.n_sites} sites)"
                for r in own
            ]
            middles = [(r.first + r.last) / 2 + shift[name] for r in own]
            values = [r.mean_site_r2 for r in own]
            line = Line(label, middles, values, style, tips=tips)
            lines.append(line)
            # Once in the legend, which leaves out lines without a point.
            label = "" if line.points() else label
        rows += [
            [
                e.label,
                f"{r.chromosome}:{r.first:,}–{r.last:,}",
                f"{r.n_sites}",
                number(r.mean_site_r2),
            ]
            for r in e.regions[: _MOST_ROWS // len(evaluations)]
        ]
    return Chart(
        title="Accuracy along the genome",
        note="Mean r² of common variants (MAF above 0.05 in the panel) in stretches of equal "
        "numbers of masked sites. Dips often lie where few sites were measured, at centromeres, at "
        "structural variants and at the ends of what the panel covers.",
        x=x,
        y=value_axis("mean r²", [r.mean_site_r2 for e in evaluations for r in e.regions]),
        lines=lines,
        table=Table(["evaluation", "stretch", "sites", "mean r²"], rows),
        wide=True,
    ).html()


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
            tips=[f"{e.label}, MAF {n}: {signed(g)}" for n, g in zip(names, own, strict=True)],
            markers=style > 0,
        )
        for style, (e, own) in enumerate(zip(evaluations, gains, strict=True))
    ]
    rows = [[name, *(signed(own[i]) for own in gains[1:])] for i, name in enumerate(names)]
    return Chart(
        title=f"Difference to {first}",
        note=f"The same figures less those of {first}: above the dashed line is better. In rare "
        "bins with few samples, differences of some hundredths are chance.",
        x=axis,
        y=y,
        lines=lines,
        table=Table(["MAF", *(e.label for e in evaluations[1:])], rows),
    ).html()


def _concordance(evaluations: Sequence[SavedEvaluation], names: Sequence[str], axis: Axis) -> str:
    values = [[b.nonmajor_concordance for b in e.bins] for e in evaluations]
    lines = [
        Line(e.label, list(range(len(names))), own, style, tips=_tips(e, names, own))
        for style, (e, own) in enumerate(zip(evaluations, values, strict=True))
    ]
    rows = [[name, *(number(own[i]) for own in values)] for i, name in enumerate(names)]
    return Chart(
        title="Best-guess genotypes",
        note="Non-major concordance: share of right genotypes, where truth or guess carries the "
        "minor allele.",
        x=axis,
        y=Axis("concordance", 0.0, 1.0, SHARE_TICKS),
        lines=lines,
        table=Table(["MAF", *(e.label for e in evaluations)], rows),
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
    intro = (
        '<p class="note">On the dashed line predictions hold what they promise; below it they '
        "promise too much. ECE, the expected calibration error, is the mean distance from it, "
        "weighted by the number of predictions. "
        f"Points of fewer than {_LEAST_PAIRS} predictions are in the tables only.</p>"
    )
    words = (
        f"<p>Without genotype probabilities (GP or HDS): {escape(', '.join(missing))}.</p>"
        if missing
        else ""
    )
    return intro + grid(charts) + words


def _reliability(
    title: str,
    x: str,
    y: str,
    found: Sequence[tuple[int, str, Sequence[CalibrationBin], float]],
) -> str:
    lines = []
    for style, label, bins, ece in found:
        shown = [b for b in bins if b.n >= _LEAST_PAIRS]
        tips = [
            f"{label}: said {number(b.predicted, 3)}, was {number(b.observed, 3)} ({b.n:,})"
            for b in shown
        ]
        x_values, y_values = [b.predicted for b in shown], [b.observed for b in shown]
        lines.append(Line(f"{label} (ECE {number(ece)})", x_values, y_values, style, tips=tips))
    rows = [
        [label, number(b.predicted), number(b.observed), f"{b.n:,}"]
        for _, label, bins, _ in found
        for b in bins
    ]
    return Chart(
        title=title,
        note="",
        x=Axis(x, 0.0, 1.0, SHARE_TICKS),
        y=Axis(y, 0.0, 1.0, SHARE_TICKS),
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
    intro = (
        '<p class="note">What the file promises of each site without knowing the truth, against '
        "the squared correlation found. On the dashed line it promises right. Squares: sites, "
        "darker is more (on a logarithmic scale); line: means. Only sites that vary among the "
        "true genotypes have an r².</p>"
    )
    return intro + grid(charts) + words


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
        f"{difference} on average.",
        x=Axis(f"{name} in the file", 0.0, 1.0, SHARE_TICKS),
        y=Axis("true r² of the site", 0.0, 1.0, SHARE_TICKS),
        lines=[Line("mean of sites with that score", *means, style, tips=tips)],
        table=Table([name, "sites", f"mean {name}", "mean true r²"], rows),
        diagonal=True,
        cells=q.scatter,
    ).html()


def evaluation_summary(evaluations: Sequence[SavedEvaluation]) -> str:
    """What was compared and how well it did, over all masked sites."""
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
    defined = [e for e in evaluations if not math.isnan(e.all.aggregate_r2)]
    told = f"{len(evaluations)} imputed files were" if len(evaluations) > 1 else "One file was"
    words = f"{told} compared with the truth at masked sites."
    what = [([s.sample for s in e.samples], [b.n_sites for b in e.bins]) for e in evaluations]
    if what.count(what[0]) < len(what):
        words += (
            " They were not compared at the same sites and samples, so that differences between "
            "them may come from that alone."
        )
    elif len(defined) > 1:
        best = max(defined, key=lambda e: e.all.aggregate_r2)
        words += f" Over all of these sites the highest r² is that of {best.label}."
    table = table_html(Table(columns, rows), "Imputed files against the truth")
    return f'<p class="lead">{escape(words)}</p>{table}'
