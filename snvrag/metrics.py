"""Accuracy of predicted alleles at masked sites, accumulated batch by batch.

All counts are for the panel's minor allele, as GLIMPSE2_concordance counts them: counting ALT
instead inflates the rare bins, where some ALT alleles are the major one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.calibration import Reliability
from snvrag.dosage import BIN_EDGES, PooledR2, frequency_bin, minor_allele_frequency

GROUPS = ("all", "rare", "common")
METHODS = ("model", "copying", "nearest", "af")
R2_BINS = tuple(f"r2_maf_{high:g}" for high in BIN_EDGES[1:])
"""Names of the dosage r² by minor-allele frequency; each bin ends at the frequency in its name."""
_COUNTS = ("tp", "fp", "fn", "tn", "log_loss")
_SUMS = ("n", "t", "d", "tt", "dd", "td")
_LOG_CLIP = 1e-7


@dataclass(slots=True)
class Counts:
    """Confusion counts of the best-guess minor allele per haplotype, dosage r², calibration."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    log_loss: float = 0.0
    r2: PooledR2 = field(default_factory=PooledR2)
    reliability: Reliability = field(default_factory=Reliability)

    @property
    def n(self) -> int:
        """Scored haplotype alleles."""
        return self.tp + self.fp + self.fn + self.tn

    def summary(self) -> dict[str, float]:
        """Loss, accuracy, precision, recall, F1, dosage r² and calibration error.

        NaN where undefined. ``ece`` is the expected calibration error of the haplotypes' minor
        allele probabilities, over 20 equal bins.
        """
        nan = float("nan")
        called, carried = self.tp + self.fp, self.tp + self.fn
        return {
            "loss": self.log_loss / self.n if self.n else nan,
            "accuracy": (self.tp + self.tn) / self.n if self.n else nan,
            "precision": self.tp / called if called else nan,
            "recall": self.tp / carried if carried else nan,
            "f1": 2 * self.tp / (called + carried) if called + carried else nan,
            "r2": self.r2.value(),
            "ece": self.reliability.error,
        }

    def merge(self, other: "Counts") -> None:
        """Add the sums of another part of the data."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.r2.merge(other.r2)
        self.reliability.merge(other.reliability)

    def state(self) -> dict[str, Any]:
        """All sums as plain numbers."""
        plain = {name: getattr(self, name) for name in _COUNTS}
        return {**plain, "r2": _r2_state(self.r2), "reliability": self.reliability.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Counts":
        """Rebuild from :meth:`state`."""
        return cls(
            **{name: state[name] for name in _COUNTS},
            r2=PooledR2(**state["r2"]),
            reliability=Reliability.from_state(state["reliability"]),
        )


@dataclass(slots=True)
class Score:
    """Accuracy of one method over all sites, rare sites, common sites and by frequency.

    It holds sums only, so parts of the data may be scored apart and merged.
    """

    groups: dict[str, Counts] = field(default_factory=lambda: {g: Counts() for g in GROUPS})
    bins: list[PooledR2] = field(default_factory=lambda: [PooledR2() for _ in R2_BINS])

    def add(
        self,
        probability: NDArray[np.floating],
        truth: NDArray[np.floating],
        scored: NDArray[np.bool_],
        row_sample: NDArray[np.integer],
        af: NDArray[np.floating],
        rare_threshold: float,
    ) -> None:
        """Add one batch.

        Args:
            probability: P(ALT) [R, n].
            truth: 0/1 alleles [R, n].
            scored: bool [R, n], equal for the haplotypes of one sample.
            row_sample: sample number 0 … S-1 of each row [R].
            af: the panel's ALT frequency [n], which decides minor allele, rarity and bin.
            rare_threshold: sites with a minor-allele frequency below it are rare.
        """
        flip = np.asarray(af) > 0.5
        p = np.where(flip, 1.0 - probability, probability).astype(np.float64)
        t = np.where(flip, 1.0 - truth, truth).astype(np.float64)
        sums = _dosage_sums(p, t, scored, row_sample)
        maf = minor_allele_frequency(af)
        rare = maf < rare_threshold
        for name, sites in (("all", np.ones_like(rare)), ("rare", rare), ("common", ~rare)):
            group = self.groups[name]
            pick = scored & sites
            _count(group, p[pick], t[pick])
            group.r2.merge(_pooled(sums[:, sites]))
        place = frequency_bin(maf)
        for number, pooled in enumerate(self.bins):
            pooled.merge(_pooled(sums[:, place == number]))

    def merge(self, other: "Score") -> None:
        """Add what was scored elsewhere: other samples, windows or ranks."""
        for name, group in self.groups.items():
            group.merge(other.groups[name])
        for mine, theirs in zip(self.bins, other.bins, strict=True):
            mine.merge(theirs)

    def summary(self) -> dict[str, float]:
        """Flat figures: ``accuracy``, ``f1`` …, ``rare_f1`` …, ``common_f1`` …, ``r2_maf_0.005`` …

        The last are dosage r² by minor-allele frequency, see :data:`R2_BINS`.
        """
        flat: dict[str, float] = {}
        for name, group in self.groups.items():
            prefix = "" if name == "all" else f"{name}_"
            flat |= {f"{prefix}{key}": value for key, value in group.summary().items()}
        return flat | {name: r2.value() for name, r2 in zip(R2_BINS, self.bins, strict=True)}

    def state(self) -> dict[str, Any]:
        """All sums as plain numbers, for a checkpoint."""
        groups = {name: group.state() for name, group in self.groups.items()}
        return {**groups, "bins": [_r2_state(pooled) for pooled in self.bins]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Score":
        """Rebuild from :meth:`state`."""
        groups = {name: Counts.from_state(state[name]) for name in GROUPS}
        return cls(groups, [PooledR2(**pooled) for pooled in state["bins"]])


def selection_metric(figures: Mapping[str, float], focal_gamma: float) -> float:
    """How good an epoch is at rare sites, or at all where nobody carries a rare minor allele.

    Minus the log of the cross-entropy, whose steps are relative, or with a focal loss, which does
    not keep probabilities calibrated, F1; 0 if undefined. Of the few carriers that are held out,
    F1 sees only who crosses one half, and favours an epoch by chance.
    Which sites follows from the data alone, so every epoch of a run is judged by the same.

    Args:
        figures: of :meth:`Score.summary`.
        focal_gamma: γ of the run's loss.
    """
    group = "" if math.isnan(figures["rare_recall"]) else "rare_"
    if focal_gamma > 0:
        f1 = figures[f"{group}f1"]
        return 0.0 if math.isnan(f1) else f1
    loss = figures[f"{group}loss"]
    return -math.log(loss) if loss > 0 else 0.0


def _r2_state(pooled: PooledR2) -> dict[str, float]:
    return {name: getattr(pooled, name) for name in _SUMS}


def _dosage_sums(
    p: NDArray[np.float64],
    t: NDArray[np.float64],
    scored: NDArray[np.bool_],
    row_sample: NDArray[np.integer],
) -> NDArray[np.float64]:
    """The sums of :class:`PooledR2` per site, over samples: float64 [6, n]."""
    n_samples = int(row_sample.max()) + 1 if len(row_sample) else 0
    dosage = np.zeros((n_samples, p.shape[1]))
    truth = np.zeros_like(dosage)
    counted = np.zeros_like(dosage)
    np.add.at(dosage, row_sample, np.where(scored, p, 0.0))
    np.add.at(truth, row_sample, np.where(scored, t, 0.0))
    counted[row_sample] = scored
    products = (counted, truth, dosage, truth * truth, dosage * dosage, truth * dosage)
    return np.stack([values.sum(axis=0) for values in products])


def _pooled(sums: NDArray[np.float64]) -> PooledR2:
    n, t, d, tt, dd, td = sums.sum(axis=1).tolist()
    return PooledR2(int(n), t, d, tt, dd, td)


def _count(group: Counts, p: NDArray[np.float64], t: NDArray[np.float64]) -> None:
    guess, carried = p > 0.5, t > 0.5
    tp = int((guess & carried).sum())
    group.tp += tp
    group.fp += int(guess.sum()) - tp
    group.fn += int(carried.sum()) - tp
    group.tn += int((~guess & ~carried).sum())
    likelihood = np.where(carried, p, 1.0 - p)
    group.log_loss -= float(np.log(np.maximum(likelihood, _LOG_CLIP)).sum())
    group.reliability.add(p, t)
