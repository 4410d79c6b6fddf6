"""Figures, with matplotlib (the extra ``plots``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snvrag.errors import UsageError

if TYPE_CHECKING:
    from snvrag.evaluation import Evaluation

_MARKERS = "osD^vPX*"
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


def plot_accuracy(evaluations: Sequence["Evaluation"], path: Path) -> None:
    """Aggregate r² against minor-allele frequency (log axis), and calibration: PNG at ``path``.

    Raises:
        UsageError: matplotlib is not installed.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(1.5, 1))
    for number, evaluation in enumerate(evaluations):
        bins = [b for b in evaluation.bins if b.n_sites and not np.isnan(b.aggregate_r2)]
        middle = [np.sqrt(max(b.low, _LOWEST_MAF) * b.high) for b in bins]
        style = {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 5, "linewidth": 1.4}
        left.plot(middle, [b.aggregate_r2 for b in bins], label=evaluation.label, **style)
        right.plot(
            [c.predicted for c in evaluation.calibration],
            [c.observed for c in evaluation.calibration],
            label=evaluation.label,
            **style,
        )
    left.set_xscale("log")
    ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    left.set_xticks(ticks, [f"{t:g}" for t in ticks])
    left.minorticks_off()
    left.set_ylim(0, 1.02)
    left.set_xlabel("minor-allele frequency in the panel")
    left.set_ylabel("aggregate dosage r², minor allele")
    left.grid(alpha=0.3)
    left.legend(frameon=False, loc="lower right")
    right.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    right.set_xlabel("imputed dosage / 2")
    right.set_ylabel("mean true dosage / 2")
    right.set_title("calibration", fontsize=10)
    right.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)
