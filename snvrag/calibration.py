"""Whether probabilities and quality scores mean what they say.

Reliability bins compare what was predicted with what was observed; the expected calibration error
is ECE = Σ_b n_b / N · |mean predicted_b − mean observed_b| (Naeini et al. 2015), for the three
genotypes the mean of their own (classwise-ECE, Kull et al. 2019).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from snvrag.dosage import BIN_EDGES, frequency_bin

GENOTYPES = ("hom_major", "het", "hom_minor")
_BINS = 20
# Where users cut: 0.3 and 0.8 are the usual thresholds.
QUALITY_EDGES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
# Rare, low-frequency and common variants: edges of bins of :data:`BIN_EDGES`.
FREQUENCY_EDGES = (0.0, 0.005, 0.05, 0.5)
_CONSTANT = 1e-12


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """What was predicted and what was observed in one bin of the prediction."""

    predicted: float
    """Mean prediction."""
    observed: float
    """Mean of what came true."""
    n: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Reliability of one kind of prediction between 0 and 1; empty bins are left out."""

    bins: list[CalibrationBin]
    ece: float
    """Expected calibration error; NaN without predictions."""


@dataclass(frozen=True, slots=True)
class GenotypeCalibration:
    """Reliability of genotype probabilities, for the panel's minor allele."""

    source: str
    """``GP``, or ``HDS`` where they are products of haplotype dosages."""
    ece: float
    """Mean of the genotypes' own, of those that can occur: haploid data have no het."""
    genotypes: dict[str, Calibration]
    """By :data:`GENOTYPES`."""


@dataclass(frozen=True, slots=True)
class QualityBin:
    """Sites whose quality score lies in (low, high]."""

    low: float
    high: float
    n_sites: int
    mean_quality: float
    mean_site_r2: float
    """Means are NaN in an empty bin."""


@dataclass(frozen=True, slots=True)
class QualityByFrequency:
    """The same comparison at sites whose minor-allele frequency in the panel is in (low, high]."""

    low: float
    high: float
    n_sites: int
    correlation: float
    mean_difference: float
    """Both NaN without sites."""


@dataclass(frozen=True, slots=True)
class QualityAccuracy:
    """A file's INFO/CR2 (else DR2, R2) against the truth's r², over polymorphic sites."""

    n_sites: int
    correlation: float
    """Pearson's, over sites; NaN where either is constant."""
    mean_difference: float
    """Mean of score minus true r²: above 0 promises too much."""
    rms_difference: float
    bins: list[QualityBin]
    by_frequency: list[QualityByFrequency]
    """By :data:`FREQUENCY_EDGES`: rare, low, common."""
    scatter: list[list[int]]
    """Sites by score (outer) and true r² (inner), in 20 equal bins from 0 to 1 each."""


@dataclass(slots=True)
class Reliability:
    """Accumulates pairs of prediction and outcome, both between 0 and 1, in 20 equal bins."""

    n: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, dtype=np.int64))
    predicted: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS))
    observed: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS))

    def add(self, predicted: NDArray[np.floating], observed: NDArray[np.floating]) -> None:
        """Add pairs, two arrays of one length."""
        place = np.clip((predicted * _BINS).astype(np.int64), 0, _BINS - 1)
        self.n += np.bincount(place, minlength=_BINS)
        self.predicted += np.bincount(place, predicted, _BINS)
        self.observed += np.bincount(place, observed, _BINS)

    def merge(self, other: "Reliability") -> None:
        """Add the sums of another part of the data."""
        self.n += other.n
        self.predicted += other.predicted
        self.observed += other.observed

    def state(self) -> dict[str, list[float]]:
        """The sums as plain numbers."""
        return {name: getattr(self, name).tolist() for name in ("n", "predicted", "observed")}

    @classmethod
    def from_state(cls, state: Mapping[str, Sequence[float]]) -> "Reliability":
        """Rebuild from :meth:`state`."""
        return cls(
            np.array(state["n"], dtype=np.int64),
            np.array(state["predicted"], dtype=np.float64),
            np.array(state["observed"], dtype=np.float64),
        )

    @property
    def error(self) -> float:
        """Expected calibration error so far; NaN without predictions."""
        total = int(self.n.sum())
        wrong = float(np.abs(self.predicted - self.observed).sum())
        return wrong / total if total else float("nan")

    def result(self) -> Calibration:
        """The bins so far."""
        bins = [
            CalibrationBin(float(p / n), float(o / n), int(n))
            for p, o, n in zip(self.predicted, self.observed, self.n, strict=True)
            if n
        ]
        return Calibration(bins, self.error)


class GenotypeReliability:
    """Accumulates genotype probabilities and true genotypes, block by block."""

    def __init__(self) -> None:
        self._by_genotype = [Reliability() for _ in GENOTYPES]
        self._sources: set[str] = set()
        self._complete = True

    def add(
        self,
        probability: NDArray[np.floating] | None,
        sources: Iterable[str],
        truth: NDArray[np.int8],
        ploidy: NDArray[np.int8],
        *,
        flip: NDArray[np.bool_],
    ) -> None:
        """Add m sites of n samples.

        Args:
            probability: [m, n, 3] of 0, 1 and 2 ALT alleles; None where a record has none.
            sources: the fields that they came from.
            truth: int8 [m, n], ALT alleles; negative is unknown.
            ploidy: int8 [m, n], 1 or 2. A haploid genotype counts as the homozygous one of its
                allele and never as het.
            flip: bool [m]: whether REF is the panel's minor allele.
        """
        if probability is None or not self._complete:
            self._complete = False
            return
        self._sources.update(sources)
        known = (truth >= 0) & ~np.isnan(probability).any(axis=2)
        for alleles in (1, 2):
            for flipped in (False, True):
                own = known & (ploidy == alleles) & (flip == flipped)[:, None]
                if not own.any():
                    continue
                for number, reliability in enumerate(self._by_genotype):
                    # Number of minor alleles, out of ``alleles``, that makes this genotype.
                    minor, rest = divmod(number * alleles, 2)
                    if rest:
                        continue
                    alt = alleles - minor if flipped else minor
                    reliability.add(probability[own, alt], (truth[own] == alt).astype(np.float64))

    def result(self) -> GenotypeCalibration | None:
        """The calibration; None where a record had no probabilities, or there was none."""
        if not self._complete or not self._sources:
            return None
        found = [r.result() for r in self._by_genotype]
        defined = [c.ece for c in found if not np.isnan(c.ece)]
        return GenotypeCalibration(
            source="+".join(sorted(self._sources)),
            ece=float(np.mean(defined)) if defined else float("nan"),
            genotypes=dict(zip(GENOTYPES, found, strict=True)),
        )


def quality_accuracy(
    quality: NDArray[np.float64], r2: NDArray[np.float64], maf: NDArray[np.float64]
) -> QualityAccuracy | None:
    """Compare quality scores with true r², both [sites]; NaN is left out.

    Args:
        quality: [sites] scores of the file.
        r2: [sites] squared correlation of true and imputed dosage.
        maf: [sites] minor-allele frequencies in the panel.

    Returns:
        The comparison; None where no site has both.
    """
    both = ~(np.isnan(quality) | np.isnan(r2))
    if not both.any():
        return None
    x, y, frequency = quality[both], r2[both], maf[both]
    groups, place = [], frequency_bin(frequency)
    for low, high in pairwise(FREQUENCY_EDGES):
        own = (place >= BIN_EDGES.index(low)) & (place < BIN_EDGES.index(high))
        groups.append(QualityByFrequency(low, high, int(own.sum()), *_agreement(x[own], y[own])))
    counts, _, _ = np.histogram2d(
        x.clip(0.0, 1.0), y.clip(0.0, 1.0), bins=_BINS, range=((0, 1), (0, 1))
    )
    correlation, difference = _agreement(x, y)
    return QualityAccuracy(
        n_sites=len(x),
        correlation=correlation,
        mean_difference=difference,
        rms_difference=float(np.sqrt(((x - y) ** 2).mean())),
        bins=_quality_bins(x, y),
        by_frequency=groups,
        scatter=counts.astype(int).tolist(),
    )


def _agreement(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Correlation and mean difference."""
    if not len(x):
        return float("nan"), float("nan")
    varies = x.var() > _CONSTANT and y.var() > _CONSTANT
    correlation = float(np.corrcoef(x, y)[0, 1]) if varies else float("nan")
    return correlation, float((x - y).mean())


def _quality_bins(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[QualityBin]:
    bins: list[QualityBin] = []
    for low, high in pairwise(QUALITY_EDGES):
        # The outer bins take what lies on or beyond the ends.
        inside = (x > low) if low > 0 else np.ones(len(x), dtype=bool)
        inside &= (x <= high) if high < 1 else True
        n = int(inside.sum())
        means = (float(x[inside].mean()), float(y[inside].mean())) if n else (float("nan"),) * 2
        bins.append(QualityBin(low, high, n, *means))
    return bins


def occupied(bins: Sequence[QualityBin]) -> list[QualityBin]:
    """The bins that hold sites."""
    return [b for b in bins if b.n_sites]
