"""Figures, with matplotlib (the extra ``plots``)."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from snvrag.calibration import GENOTYPES, occupied
from snvrag.dosage import BIN_EDGES
from snvrag.errors import UsageError
from snvrag.metrics import R2_BINS

if TYPE_CHECKING:
    from snvrag.calibration import Calibration
    from snvrag.evaluation import Evaluation

_MARKERS = "osD^vPX*"
_DASHES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")
_LOWEST_MAF = 0.001
# More would be one blot.
_MOST_POINTS = 2_000
# Frequent minor alleles are dark, so that the eye orders the lines.
_RARE_TO_COMMON = (0.95, 0.12)
Row = Mapping[str, float | int]


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UsageError(
            "--plot: matplotlib is not installed", "pip install 'snvrag[plots]'"
        ) from error
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def require_matplotlib() -> None:
    """Make sure, before the work, that figures can be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    _pyplot()


def plot_accuracy(evaluations: Sequence["Evaluation"], path: Path) -> None:
    """Four panels as PNG at ``path``.

    Aggregate r² against minor-allele frequency (log axis), CR2 or DR2 against true r², and the
    calibration of dosages and of genotype probabilities.

    Raises:
        UsageError: matplotlib is not installed.
    """
    plt = _pyplot()
    figure, ((by_maf, by_quality), (dosage, genotype)) = plt.subplots(
        2,
        2,
        figsize=(11, 8.5 + 0.4 * len(evaluations)),
        width_ratios=(1.4, 1),
        layout="constrained",
    )
    for number, evaluation in enumerate(evaluations):
        style = {
            "marker": _MARKERS[number % len(_MARKERS)],
            "markersize": 5,
            "linewidth": 1.4,
            "color": f"C{number}",
        }
        label = evaluation.label
        bins = [b for b in evaluation.bins if b.n_sites and not np.isnan(b.aggregate_r2)]
        middle = [np.sqrt(max(b.low, _LOWEST_MAF) * b.high) for b in bins]
        by_maf.plot(middle, [b.aggregate_r2 for b in bins], label=label, **style)
        if evaluation.quality is not None:
            held = occupied(evaluation.quality.bins)
            text = f"{label} (correlation {evaluation.quality.correlation:.2f})"
            means = [b.mean_quality for b in held], [b.mean_site_r2 for b in held]
            by_quality.plot(*means, label=text, **style)
            _scatter(by_quality, evaluation, f"C{number}")
        text = f"{label} (ECE {evaluation.calibration.ece:.4f})"
        dosage.plot(*_reliability(evaluation.calibration), label=text, **style)
        if evaluation.gp_calibration is not None:
            found = evaluation.gp_calibration
            for dashes, own in zip(_DASHES, found.genotypes.values(), strict=True):
                text = f"{label} (ECE {found.ece:.4f})" if dashes == _DASHES[0] else ""
                genotype.plot(*_reliability(own), label=text, linestyle=dashes, **style)
    _finish_frequency(by_maf)
    _finish_square(by_quality, "CR2, DR2 or R2 of the file", "true r²: sites, and their mean")
    _finish_square(dosage, "imputed dosage / 2, minor allele", "mean true dosage / 2")
    _finish_square(genotype, "genotype probability", "share with that genotype")
    if any(evaluation.gp_calibration is not None for evaluation in evaluations):
        _name_genotypes(genotype)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)


def _reliability(calibration: "Calibration") -> tuple[list[float], list[float]]:
    bins = calibration.bins
    return [b.predicted for b in bins], [b.observed for b in bins]


def _scatter(axes: Any, evaluation: "Evaluation", color: str) -> None:
    """Sites of one file, evenly thinned, behind the lines."""
    x, y = evaluation.sites.quality, evaluation.sites.r2
    both = np.flatnonzero(~(np.isnan(x) | np.isnan(y)))
    shown = both[:: -(-len(both) // _MOST_POINTS)]
    axes.scatter(x[shown], y[shown], s=5, color=color, alpha=0.15, linewidths=0, zorder=1)


def _finish_frequency(axes: Any) -> None:
    axes.set_xscale("log")
    ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("minor-allele frequency in the panel")
    axes.set_ylabel("aggregate dosage r², minor allele")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")


def _finish_square(axes: Any, x: str, y: str) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        # Below the axes: inside, names of several files would cover lines.
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    else:
        axes.text(0.5, 0.4, "not in the file", ha="center", color="0.4")


def _name_genotypes(axes: Any) -> None:
    """A second legend, in the corner that no calibrated probability comes near."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color="0.3", linewidth=1.4, linestyle=dashes, label=name.replace("_", " "))
        for name, dashes in zip(GENOTYPES, _DASHES, strict=True)
    ]
    axes.add_artist(axes.get_legend())
    axes.legend(handles=lines, frameon=False, fontsize=8, loc="lower right", handlelength=3)


def have_matplotlib() -> bool:
    """Whether figures can be drawn."""
    try:
        return find_spec("matplotlib") is not None
    except ValueError:
        # What a blocked import leaves behind has no specification.
        return False


def plot_training(rows: Sequence[Row], best_epoch: int, path: Path) -> None:
    """Curves of a training run as PNG at ``path``, one point per epoch.

    Loss, F1 at rare sites, dosage r² by minor-allele frequency and learning rate. The baselines
    that training does not change are dashed.

    Args:
        rows: rows of ``metrics.csv``, at least one, from epoch 1 on.
        best_epoch: the epoch whose weights were kept; marked.
        path: the file to write.
    """
    # Without pyplot: it holds every figure of the process, and training draws many.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    (loss, f1), (r2, rate) = figure.subplots(2, 2)
    epochs = [row["epoch"] for row in rows]
    _curve(loss, rows, "train_loss", "training, rising mask rate", "C7", marker=".")
    _curve(loss, rows, "val_loss", "held out: model", "C0")
    _baseline(loss, rows, "copying_loss", "held out: copying model", "C1")
    loss.set_ylabel("cross-entropy per masked site")
    _curve(f1, rows, "val_rare_f1", "model", "C0")
    _baseline(f1, rows, "copying_rare_f1", "copying model", "C1")
    _baseline(f1, rows, "nearest_rare_f1", "nearest haplotype", "C2")
    f1.set_ylabel("F1 at rare sites, held out")
    _draw_bins(r2, rows)
    _curve(rate, rows, "lr", "at the epoch's last step", "C3")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    for axes in (loss, f1, r2, rate):
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes is not rate:
            axes.axvline(best_epoch, color="0.75", linewidth=1, zorder=0)
        if axes is not r2:
            axes.legend(frameon=False, fontsize=8)
    best = rows[best_epoch - 1]
    figure.suptitle(
        f"held-out samples at masked sites; best epoch {best_epoch} (F1 {best['val_f1']:.4f}, at "
        f"rare sites {best['val_rare_f1']:.4f})",
        fontsize=10,
    )
    figure.savefig(path, dpi=120, format="png")


def _curve(
    axes: Any, rows: Sequence[Row], name: str, label: str, color: Any, marker: str = "o"
) -> None:
    axes.plot(
        [row["epoch"] for row in rows],
        [row[name] for row in rows],
        label=label,
        color=color,
        marker=marker,
        markersize=4,
        linewidth=1.5,
    )


def _baseline(axes: Any, rows: Sequence[Row], name: str, label: str, color: Any) -> None:
    if not np.isnan(rows[-1][name]):
        axes.axhline(rows[-1][name], label=label, color=color, linewidth=1.2, linestyle="--")


def _draw_bins(axes: Any, rows: Sequence[Row]) -> None:
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(*_RARE_TO_COMMON, len(R2_BINS)))
    drawn = [
        (name, f"{low:g}–{high:g}", shade)
        for name, (low, high), shade in zip(R2_BINS, pairwise(BIN_EDGES), shades, strict=True)
        if not all(np.isnan(row[f"val_{name}"]) for row in rows)
    ]
    # The most frequent bin lies highest: the legend follows the lines.
    for name, label, shade in reversed(drawn):
        _curve(axes, rows, f"val_{name}", label, shade)
        _baseline(axes, rows, f"copying_{name}", "", shade)
    axes.set_ylabel("dosage r², held out (dashed: copying model)")
    if drawn:
        axes.legend(
            title="minor-allele frequency",
            title_fontsize=8,
            fontsize=8,
            frameon=False,
            ncols=4,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.13),
        )
