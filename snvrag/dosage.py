"""Allele frequency, dosage and accuracy: every formula once.

Haplotype probabilities p are P(ALT); a diploid dosage is DS = p1 + p2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BIN_EDGES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Bins of minor-allele frequency that accuracy is told by, closed on the right."""
# Keeps a frequency such as 24/480 == 0.05 in the bin that ends there.
_EDGE_TOLERANCE = 1e-9
_ALWAYS_CORRELATED = 2
# Relative to p(1 - p): a smaller variance is the rounding error of the mean.
_NO_VARIANCE = 1e-12


def minor_allele_frequency(af: NDArray[np.floating]) -> NDArray[np.float64]:
    """MAF = min(AF, 1 - AF): float64, shaped like ``af``."""
    frequency = np.asarray(af, dtype=np.float64)
    return np.minimum(frequency, 1.0 - frequency)


def frequency_bin(maf: NDArray[np.floating]) -> NDArray[np.int64]:
    """Number of the bin of :data:`BIN_EDGES` that each frequency lies in: int64, -1 for 0."""
    upper = np.asarray(BIN_EDGES[1:]) + _EDGE_TOLERANCE
    place = np.searchsorted(upper, maf, side="left").clip(max=len(upper) - 1)
    return np.where(np.asarray(maf) > 0, place, -1)


def leave_one_out_counts(
    ac: NDArray[np.integer],
    an: NDArray[np.integer],
    own_alt: NDArray[np.integer],
    own_n: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """ALT and total counts without the query's own alleles.

    Args:
        ac: ALT counts [sites].
        an: counts of called haplotypes [sites].
        own_alt: ALT alleles of each query's own sample [queries, sites], 0 if not in ``ac``.
        own_n: haplotypes of each query's own sample [queries, 1], 0 if not in ``an``.

    Returns:
        ``(ac - own_alt, an - own_n)``, each int64 [queries, sites].
    """
    counts = np.asarray(ac, dtype=np.int64) - np.asarray(own_alt, dtype=np.int64)
    totals = np.asarray(an, dtype=np.int64) - np.asarray(own_n, dtype=np.int64)
    return counts, np.broadcast_to(totals, counts.shape)


@dataclass(slots=True)
class PooledR2:
    """Squared Pearson correlation of truth and dosage, accumulated in float64.

    r² = cov(t, d)² / (var(t) var(d)) over all pairs added; NaN where either is constant.
    """

    n: int = 0
    t: float = 0.0
    d: float = 0.0
    tt: float = 0.0
    dd: float = 0.0
    td: float = 0.0

    def add(self, truth: NDArray[np.floating], dosage: NDArray[np.floating]) -> None:
        """Add pairs of true and imputed dosage, two arrays of one shape."""
        x = np.asarray(truth, dtype=np.float64).ravel()
        y = np.asarray(dosage, dtype=np.float64).ravel()
        self.n += x.size
        self.t += float(x.sum())
        self.d += float(y.sum())
        self.tt += float(x @ x)
        self.dd += float(y @ y)
        self.td += float(x @ y)

    def merge(self, other: "PooledR2") -> None:
        """Add the sums of another part of the data."""
        for name in ("n", "t", "d", "tt", "dd", "td"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def value(self) -> float:
        """The squared correlation so far."""
        if self.n == 0:
            return float("nan")
        var_t = self.tt - self.t * self.t / self.n
        var_d = self.dd - self.d * self.d / self.n
        cov = self.td - self.t * self.d / self.n
        # Below this a "variance" is the rounding error of the sums.
        floor = 1e-12 * max(self.tt, self.dd, 1.0)
        if var_t <= floor or var_d <= floor:
            return float("nan")
        return cov * cov / (var_t * var_d)


def estimated_quality(
    hds: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """INFO/AF, the mean HDS p, with :func:`variance_ratio` and :func:`estimated_r2`.

    Args:
        hds: P(ALT) per haplotype [n, H].

    Returns:
        Three arrays, float64 [n].
    """
    values = np.asarray(hds, dtype=np.float64)
    p, deviation, variance = _spread(values)
    spread = p * (1.0 - p)
    varies = variance > 0
    ratio = _ratio(variance, spread, varies)
    n_haplotypes = values.shape[1]
    if n_haplotypes <= _ALWAYS_CORRELATED:
        return p, ratio, ratio
    unsure = 1.0 - values
    unsure *= values
    by_chance = np.einsum("ij,ij->i", deviation, unsure) / n_haplotypes**2
    by_chance /= np.where(varies, variance, 1.0)
    # mean(u) = p(1 - p) - var(HDS)
    below = spread - (spread - variance) / n_haplotypes
    return p, ratio, _ratio(variance + by_chance, below, varies)


def variance_ratio(hds: NDArray[np.floating]) -> NDArray[np.float64]:
    """var(HDS) / (p (1 - p)), p = mean HDS; 0 where HDS is constant.

    INFO/DR2, as Minimac4's R2 and Beagle 5's DR2: the expected squared correlation in a cohort so
    large that the true alleles vary as much as the probabilities say.

    Args:
        hds: P(ALT) per haplotype [n, H].

    Returns:
        float64 [n], between 0 and 1.
    """
    p, _, variance = _spread(np.asarray(hds, dtype=np.float64))
    return _ratio(variance, p * (1.0 - p), variance > 0)


def estimated_r2(hds: NDArray[np.floating]) -> NDArray[np.float64]:
    """INFO/CR2: the expected squared correlation of HDS and the true alleles of these haplotypes.

    E[cov²] / (var(HDS) E[var(true)]) for alleles that are independent draws with P(ALT) = HDS.
    With u = HDS (1 - HDS) and squared deviations c = (HDS - p)²,

        E[cov²] / var(HDS) = var(HDS) + (Σ c u / Σ c) / H
        E[var(true)]       = p (1 - p) - mean(u) / H

    Draws without any carrier add nothing to either, so this is for haplotypes whose true alleles
    vary, the only ones that have a correlation. :func:`variance_ratio` is its limit for large H;
    where a few uncertain carriers are expected it is smaller, because it also counts that there
    may be none. The correlation of two points is always 1: for H <= 2 the limit is returned.

    Args:
        hds: P(ALT) per haplotype [n, H].

    Returns:
        float64 [n], between 0 and 1; 0 where HDS is constant.
    """
    return estimated_quality(hds)[2]


def _spread(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Means p [n], squared deviations [n, H] and their mean [n], 0 where it is rounding error."""
    p = values.mean(axis=1)
    deviation = values - p[:, None]
    deviation *= deviation
    variance = deviation.mean(axis=1)
    return p, deviation, np.where(variance > _NO_VARIANCE * p * (1.0 - p), variance, 0.0)


def _ratio(
    above: NDArray[np.float64], below: NDArray[np.float64], defined: NDArray[np.bool_]
) -> NDArray[np.float64]:
    return np.where(defined, np.clip(above / np.where(defined, below, 1.0), 0.0, 1.0), 0.0)
