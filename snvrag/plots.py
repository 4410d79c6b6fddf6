"""Figures, with matplotlib (the extra ``plots``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snvrag.calibration import occupied
from snvrag.errors import UsageError

if TYPE_CHECKING:
    from snvrag.calibration import Calibration
    from snvrag.evaluation import Evaluation

_MARKERS = "osD^vPX*"
_DASHES = ("-", "--", ":")
_LOWEST_MAF = 0.001


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

    Aggregate r² against minor-allele frequency (log axis), INFO/DR2 against true r², and the
    calibration of dosages and of genotype probabilities.

    Raises:
        UsageError: matplotlib is not installed.
    """
    plt = _pyplot()
    figure, ((by_maf, by_quality), (dosage, genotype)) = plt.subplots(
        2, 2, figsize=(11, 9), width_ratios=(1.4, 1)
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
        text = f"{label} (ECE {evaluation.calibration.ece:.4f})"
        dosage.plot(*_reliability(evaluation.calibration), label=text, **style)
        if evaluation.gp_calibration is not None:
            found = evaluation.gp_calibration
            for dashes, (name, own) in zip(_DASHES, found.genotypes.items(), strict=True):
                text = f"{label}, {name.replace('_', ' ')} (ECE {own.ece:.4f})"
                genotype.plot(*_reliability(own), label=text, linestyle=dashes, **style)
    _finish_frequency(by_maf)
    _finish_square(by_quality, "INFO/DR2 or R2 of the file", "mean true r² of the sites")
    _finish_square(dosage, "imputed dosage / 2, minor allele", "mean true dosage / 2")
    _finish_square(genotype, "genotype probability", "share with that genotype")
    figure.tight_layout()
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)


def _reliability(calibration: "Calibration") -> tuple[list[float], list[float]]:
    bins = calibration.bins
    return [b.predicted for b in bins], [b.observed for b in bins]


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
        axes.legend(frameon=False, loc="upper left", fontsize=8)
    else:
        axes.text(0.5, 0.4, "not in the file", ha="center", color="0.4")
