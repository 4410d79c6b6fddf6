"""The copying model: a target haplotype is a mosaic of reference haplotypes (Li & Stephens 2003).

Forward-backward over observed sites only; between two of them the posterior of every state has a
closed form, so a masked site costs a sum over the carriers of its minor allele and no recursion.
With π the chance to switch to a state, genetic coordinate g and R(a, b) = 1 - exp(-(g_b - g_a)):

    A_1 = norm(π e_1)      A_j = norm(((1 - R) A_{j-1} + R π) e_j)
    B_J = norm(e_J)        B_j = norm(((1 - R) B_{j+1} + R) e_j),     norm: Σ π B = 1
    post_l(k) ∝ ((1 - R1) A_j + R1 π) ((1 - R2) B_{j+1} + R2)         o_j < l < o_{j+1}
    p_l = Σ_k post_l(k) [k carries ALT at l]

π is 1 / states up to 1,000 states, beyond them that of :mod:`snvrag.copying.relatedness`.
e_j(k) is 1 - ε where the reference allele equals the target's, else ε; a site with a missing call
is not observed. Without a network the probabilities of a small bank of settings (c, ε) are
averaged; a network takes the logits of a larger bank, and what else the posterior and the runs of
identity around the site say, as evidence.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from snvrag.compiling import IN_PARALLEL
from snvrag.copying import kernels
from snvrag.copying.carriers import list_carriers, list_sites, to_minor
from snvrag.copying.describing import N_FEATURES

Bank = tuple[tuple[float, float], ...]
"""Settings of the copying model: pairs of switch rate c per cM and mismatch probability ε, both as
they are with 480 haplotypes."""
# As :mod:`snvrag.bank` chose them by leave-one-out on 240 Europeans; the best single one is first.
DEFAULT_BANK: Bank = ((8.0, 0.01), (4.0, 0.0003), (2.0, 0.03))
EVIDENCE_BANK: Bank = (*DEFAULT_BANK, (16.0, 0.0003), (1.0, 0.03))
_REFERENCE_HAPLOTYPES = 480
_PER_BP = 3e-6
_PER_SITE = 1e-6


def genetic_coordinate(
    cm: NDArray[np.float64], bp: NDArray[np.int64], rate: float, n_haplotypes: int
) -> NDArray[np.float64]:
    """g_l = (c·cM_l + 3·10⁻⁶·bp_l)·√(480/n) + 10⁻⁶·l: float64 [sites], strictly increasing.

    In a larger panel the nearest haplotype is shared for longer. 480/n, which follows from the
    coalescent, is too much of a good thing: with 5,008 haplotypes it costs accuracy at rare sites.
    """
    scale = (_REFERENCE_HAPLOTYPES / n_haplotypes) ** 0.5
    return np.asarray(
        scale * (rate * cm + _PER_BP * (bp - bp[:1])) + _PER_SITE * np.arange(len(cm))
    )


def mismatch_probability(error: float, n_haplotypes: int) -> float:
    """ε·480/n, or ε in smaller panels: the nearer a copy is, the fewer mutations lie between."""
    return error * min(1.0, _REFERENCE_HAPLOTYPES / n_haplotypes)


@dataclass(frozen=True, slots=True)
class Reference:
    """n reference haplotypes over a context of sites, laid out for the kernels.

    Evidence comes from all J observed sites of the context; probabilities are wanted for its core
    of L sites, and only there all alleles are needed.
    """

    observed: NDArray[np.int64]
    """int64 [J]: observed columns of the context."""
    at_observed: NDArray[np.uint8]
    """uint8 [J, n]: alleles at observed sites."""
    core: int
    """The context's column at which the core begins."""
    sites: NDArray[np.int32]
    """int32: core sites at which a haplotype carries the minor allele, increasing; first of the
    first segment's first haplotype, then of its second, …"""
    first: NDArray[np.int32]
    """int32 [segments, n + 1]: where each haplotype's sites of a segment begin and end."""
    edges: NDArray[np.int64]
    """int64 [segments + 1]: core sites at which segments begin, each but the first at an observed
    one, and L."""
    count: NDArray[np.int64]
    """int64 [L]: carriers of the minor allele."""
    minor_is_alt: NDArray[np.bool_]
    """bool [L]."""

    @classmethod
    def of(cls, alleles: NDArray[np.uint8], observed: NDArray[np.bool_]) -> "Reference":
        """Of alleles uint8 [n, L] with ``observed`` bool [L]: the whole context is the core."""
        columns, by_site = np.flatnonzero(observed), alleles.T.copy()
        return cls.of_core([by_site], 0, columns, by_site[columns])

    @classmethod
    def of_core(
        cls,
        pieces: Iterable[NDArray[np.uint8]],
        core: int,
        observed: NDArray[np.int64],
        at_observed: NDArray[np.uint8],
        judges: NDArray[np.bool_] | None = None,
    ) -> "Reference":
        """Of the core's alleles uint8 [L, n] and the context's observed ones; see the fields.

        ``pieces`` are the core's alleles, one run of sites after the other, so that no more than
        one need be in memory; they are changed in place. ``judges`` bool [n] says whose alleles
        decide which one is minor; all if None. Queries that are themselves in the panel must not:
        at a frequency of one half that would tell on them.
        """
        n = at_observed.shape[1]
        others = np.flatnonzero(~judges) if judges is not None else np.empty(0, dtype=np.int64)
        minor, counts, lists = [], [], []
        for alleles in pieces:
            minor.append(np.empty(len(alleles), dtype=bool))
            counts.append(np.empty(len(alleles), dtype=np.int64))
            to_minor(alleles, others, n - len(others), minor[-1], counts[-1])
            lists.append(np.empty(counts[-1].sum(), dtype=np.int32))
            list_carriers(alleles, lists[-1])
        minor_is_alt, count = np.concatenate(minor), np.concatenate(counts)
        carriers = np.concatenate(lists)
        lists.clear()
        inside = observed[(observed >= core) & (observed < core + len(count))] - core
        edges = np.concatenate([[0], inside, [len(count)]])
        first = np.empty((len(edges) - 1, n + 1), dtype=np.int32)
        # The kernels look at one entry of every state, also where there is none.
        sites = np.zeros(len(carriers) + 1, dtype=np.int32)
        list_sites(carriers, count, edges, first, sites)
        return cls(observed, at_observed, core, sites, first, edges, count, minor_is_alt)

    @property
    def n_haplotypes(self) -> int:
        """n."""
        return int(self.at_observed.shape[1])

    def switches(self, g: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """R from the observed site before each core site, and to the one after it.

        Args:
            g: float64 [settings, sites], genetic coordinates of the context.

        Returns:
            float32 [settings, L] each; 1 beyond the outermost observed sites.
        """
        here = np.arange(self.core, self.core + len(self.count))
        at = np.searchsorted(self.observed, here)
        left, right = np.ones((2, len(g), len(here)))
        some, at_left = at > 0, at[at > 0] - 1
        left[:, some] = -np.expm1(g[:, self.observed[at_left]] - g[:, here[some]])
        some = at < len(self.observed)
        right[:, some] = -np.expm1(g[:, here[some]] - g[:, self.observed[at[some]]])
        return left.astype(np.float32), right.astype(np.float32)


def copying_probability(
    reference: Reference,
    targets: NDArray[np.int8],
    cm: NDArray[np.float64],
    bp: NDArray[np.int64],
    *,
    exclude: NDArray[np.int64] | None = None,
    bank: Bank = DEFAULT_BANK,
) -> NDArray[np.float32]:
    """P(ALT) of target haplotypes at every core site, averaged over a bank of settings.

    Where the target has a call, that call; a missing call is imputed like a masked site.

    Args:
        reference: n haplotypes, J observed sites, L core sites.
        targets: int8 [T, J], alleles at the observed sites; -1 is missing.
        cm: float64, of every site of the context; not decreasing.
        bp: int64, likewise.
        exclude: int64 [T, e], haplotypes a target must not copy from; -1 for none.
        bank: pairs (c, ε).

    Returns:
        float32 [T, L].
    """
    n_targets, n_sites = len(targets), len(reference.minor_is_alt)
    minor = np.zeros((n_targets, n_sites), dtype=np.float32)
    nothing = np.empty((n_targets, n_sites, 0), dtype=np.float32)
    _run(reference, targets, cm, bp, exclude, bank, minor, nothing)
    probability = np.where(reference.minor_is_alt, minor, np.float32(1.0) - minor)
    inside, calls = _core_calls(reference, targets)
    probability[:, inside] = np.where(calls < 0, probability[:, inside], calls)
    return probability


def copying_evidence(
    reference: Reference,
    targets: NDArray[np.int8],
    cm: NDArray[np.float64],
    bp: NDArray[np.int64],
    *,
    exclude: NDArray[np.int64] | None = None,
    bank: Bank = EVIDENCE_BANK,
) -> NDArray[np.float32]:
    """Evidence for a network, about the minor allele; see :mod:`snvrag.evidence`.

    Arguments are those of :func:`copying_probability`; ``bank`` has :data:`N_LOGITS` pairs.

    Returns:
        float32 [T, L, N_FEATURES]; zero where the target has a call. Where all logits are beyond
        :data:`SURE_LOGIT` to one side, only they and the minor-allele count are filled in.
    """
    n_targets, n_sites = len(targets), len(reference.minor_is_alt)
    features = np.zeros((n_targets, n_sites, N_FEATURES), dtype=np.float32)
    nothing = np.empty((n_targets, 0), dtype=np.float32)
    _run(reference, targets, cm, bp, exclude, bank, nothing, features)
    return features


def set_threads(threads: int | None) -> None:
    """Limit the kernels' CPU threads."""
    if threads is not None:
        most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(min(threads, most))


def _run(
    reference: Reference,
    targets: NDArray[np.int8],
    cm: NDArray[np.float64],
    bp: NDArray[np.int64],
    exclude: NDArray[np.int64] | None,
    bank: Bank,
    probability: NDArray[np.float32],
    features: NDArray[np.float32],
) -> None:
    n = reference.n_haplotypes
    g = np.stack([genetic_coordinate(cm, bp, rate, n) for rate, _ in bank])
    errors = np.array([mismatch_probability(error, n) for _, error in bank])
    if exclude is None:
        exclude = np.full((len(targets), 1), -1, dtype=np.int64)
    with IN_PARALLEL:
        kernels.impute_targets(
            reference.observed,
            reference.at_observed,
            reference.core,
            reference.sites,
            reference.first,
            reference.edges,
            reference.count,
            np.ascontiguousarray(exclude),
            np.ascontiguousarray(targets),
            g,
            (errors / (1.0 - errors)).astype(np.float32),
            *reference.switches(g),
            np.ascontiguousarray(cm, dtype=np.float64),
            probability,
            features,
        )


def _core_calls(
    reference: Reference, targets: NDArray[np.int8]
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Core columns that are observed, and the targets' calls there, int8 [T, columns]."""
    low, high = np.searchsorted(
        reference.observed, [reference.core, reference.core + len(reference.minor_is_alt)]
    )
    return reference.observed[low:high] - reference.core, targets[:, low:high]
