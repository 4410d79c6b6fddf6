"""Accuracy of predicted alleles at masked sites, accumulated batch by batch.

All counts are for the panel's minor allele, as GLIMPSE2_concordance counts them: counting ALT
instead inflates the rare bins, where some ALT alleles are the major one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.dosage import PooledR2, minor_allele_frequency

GROUPS = ("all", "rare", "common")
METHODS = ("model", "copying", "nearest", "af")
_LOG_CLIP = 1e-7


@dataclass(slots=True)
class Counts:
    """Confusion counts of the best-guess minor allele per haplotype, and dosage r²."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    log_loss: float = 0.0
    r2: PooledR2 = field(default_factory=PooledR2)

    @property
    def n(self) -> int:
        """Scored haplotype alleles."""
        return self.tp + self.fp + self.fn + self.tn

    def summary(self) -> dict[str, float]:
        """Loss, accuracy, precision, recall, F1 and dosage r²; NaN where undefined."""
        nan = float("nan")
        called, carried = self.tp + self.fp, self.tp + self.fn
        return {
            "loss": self.log_loss / self.n if self.n else nan,
            "accuracy": (self.tp + self.tn) / self.n if self.n else nan,
            "precision": self.tp / called if called else nan,
            "recall": self.tp / carried if carried else nan,
            "f1": 2 * self.tp / (called + carried) if called + carried else nan,
            "r2": self.r2.value(),
        }


@dataclass(slots=True)
class Score:
    """Accuracy of one method over all sites, rare sites and common sites."""

    groups: dict[str, Counts] = field(default_factory=lambda: {g: Counts() for g in GROUPS})

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
            af: the panel's ALT frequency [n], which decides minor allele and rarity.
            rare_threshold: sites with a minor-allele frequency below it are rare.
        """
        flip = np.asarray(af) > 0.5
        p = np.where(flip, 1.0 - probability, probability).astype(np.float64)
        t = np.where(flip, 1.0 - truth, truth).astype(np.float64)
        n_samples = int(row_sample.max()) + 1 if len(row_sample) else 0
        dosage = np.zeros((n_samples, p.shape[1]))
        true_dosage = np.zeros_like(dosage)
        np.add.at(dosage, row_sample, p)
        np.add.at(true_dosage, row_sample, t)
        counted = np.zeros(dosage.shape, dtype=bool)
        counted[row_sample] = scored
        rare = minor_allele_frequency(af) < rare_threshold
        for name, sites in (("all", np.ones_like(rare)), ("rare", rare), ("common", ~rare)):
            group = self.groups[name]
            pick = scored & sites
            _count(group, p[pick], t[pick])
            pick = counted & sites
            group.r2.add(true_dosage[pick], dosage[pick])

    def summary(self) -> dict[str, float]:
        """Flat figures: ``accuracy``, ``f1`` …, then ``rare_f1`` …, ``common_f1`` …"""
        flat: dict[str, float] = {}
        for name, group in self.groups.items():
            prefix = "" if name == "all" else f"{name}_"
            flat |= {f"{prefix}{key}": value for key, value in group.summary().items()}
        return flat

    def state(self) -> dict[str, Any]:
        """All sums as plain numbers, for a checkpoint."""
        return {name: asdict(group) for name, group in self.groups.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Mapping[str, Any]]) -> "Score":
        """Rebuild from :meth:`state`."""
        return cls(
            {
                name: Counts(**{**state[name], "r2": PooledR2(**state[name]["r2"])})
                for name in GROUPS
            }
        )


def _count(group: Counts, p: NDArray[np.float64], t: NDArray[np.float64]) -> None:
    guess, carried = p > 0.5, t > 0.5
    tp = int((guess & carried).sum())
    group.tp += tp
    group.fp += int(guess.sum()) - tp
    group.fn += int(carried.sum()) - tp
    group.tn += int((~guess & ~carried).sum())
    likelihood = np.where(carried, p, 1.0 - p)
    group.log_loss -= float(np.log(np.maximum(likelihood, _LOG_CLIP)).sum())
