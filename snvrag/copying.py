"""The copying model: a target haplotype is a mosaic of reference haplotypes (Li & Stephens 2003).

Forward-backward over observed sites only; between two of them the posterior of every state has a
closed form, so a masked site costs a sum over the carriers of its minor allele and no recursion.
With π = 1 / states, genetic coordinate g and R(a, b) = 1 - exp(-(g_b - g_a)):

    A_1 = norm(π e_1)      A_j = norm(((1 - R) A_{j-1} + R π) e_j)
    B_J = norm(e_J)        B_j = norm(((1 - R) B_{j+1} + R) e_j),     norm: Σ π B = 1
    post_l(k) ∝ ((1 - R1) A_j + R1 π) ((1 - R2) B_{j+1} + R2)         o_j < l < o_{j+1}
    p_l = Σ_k post_l(k) [k carries ALT at l]

e_j(k) is 1 - ε where the reference allele equals the target's, else ε; a missing call has e = 1.
The probabilities of a small bank of settings (c, ε) are averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

# (switch rate c per cM at 480 haplotypes, mismatch probability ε)
DEFAULT_BANK = ((2.0, 0.003), (8.0, 0.003), (24.0, 0.003))
ALL_STATES = 1000
"""Up to this many haplotypes every one is a state."""
STATES_PER_WINDOW = 32
_REFERENCE_HAPLOTYPES = 480
_PER_BP = 3e-6
_PER_SITE = 1e-6


def genetic_coordinate(
    cm: NDArray[np.float64], bp: NDArray[np.int64], rate: float, n_haplotypes: int
) -> NDArray[np.float64]:
    """g_l = c·cM_l·480/n + 3·10⁻⁶·bp_l + 10⁻⁶·l: float64 [sites], strictly increasing."""
    per_cm = rate * _REFERENCE_HAPLOTYPES / n_haplotypes
    return np.asarray(per_cm * cm + _PER_BP * (bp - bp[:1]) + _PER_SITE * np.arange(len(cm)))


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
    carried: NDArray[np.uint8]
    """uint8 [L, n]: 1 where a haplotype carries the core site's minor allele."""
    carriers: NDArray[np.int32]
    """int32: haplotypes that carry the minor allele, core site after core site."""
    first: NDArray[np.int64]
    """int64 [L + 1]: where each core site's carriers begin."""
    minor_is_alt: NDArray[np.bool_]
    """bool [L]."""

    @classmethod
    def of(cls, alleles: NDArray[np.uint8], observed: NDArray[np.bool_]) -> "Reference":
        """Of alleles uint8 [n, L] with ``observed`` bool [L]: the whole context is the core."""
        columns = np.flatnonzero(observed)
        return cls.of_core(alleles, 0, columns, np.ascontiguousarray(alleles[:, columns].T))

    @classmethod
    def of_core(
        cls,
        alleles: NDArray[np.uint8],
        core: int,
        observed: NDArray[np.int64],
        at_observed: NDArray[np.uint8],
    ) -> "Reference":
        """Of the core's alleles uint8 [n, L] and the context's observed ones; see the fields."""
        n, sites = alleles.shape
        counts = alleles.sum(axis=0, dtype=np.int64)
        minor_is_alt = counts * 2 <= n
        carried = np.ascontiguousarray((alleles == minor_is_alt).T).view(np.uint8)
        first = np.zeros(sites + 1, dtype=np.int64)
        np.cumsum(np.where(minor_is_alt, counts, n - counts), out=first[1:])
        carriers = (np.flatnonzero(carried) % n).astype(np.int32)
        return cls(observed, at_observed, core, carried, carriers, first, minor_is_alt)

    @property
    def n_haplotypes(self) -> int:
        """n."""
        return int(self.carried.shape[1])


@dataclass(frozen=True, slots=True)
class States:
    """The haplotypes that each of T targets may copy from, target after target."""

    haplotypes: NDArray[np.int32]
    first: NDArray[np.int64]
    """int64 [T + 1]."""

    @classmethod
    def of(cls, kept: NDArray[np.bool_]) -> "States":
        """From bool [T, n]."""
        first = np.zeros(len(kept) + 1, dtype=np.int64)
        np.cumsum(kept.sum(axis=1), out=first[1:])
        return cls(np.nonzero(kept)[1].astype(np.int32), first)


def longest_runs(
    at_observed: NDArray[np.uint8],
    targets: NDArray[np.int8],
    cm: NDArray[np.float64],
    window: NDArray[np.int64],
    n_windows: int,
    per_window: int = STATES_PER_WINDOW,
) -> NDArray[np.int32]:
    """The haplotypes that share the longest runs with each target, window by window.

    The score of a haplotype in a window is the mean, over the window's observed sites, of the cM
    between the mismatches that enclose the site; 0 at a mismatch.

    Args:
        at_observed: uint8 [J, n], alleles at the observed sites of a chromosome.
        targets: int8 [T, J]; -1 is missing and matches all.
        cm: float64 [J].
        window: int64 [J], number of each observed site's window, from 0, not decreasing.
        n_windows: W.
        per_window: haplotypes kept per window.

    Returns:
        int32 [T, W, per_window]: haplotype numbers; -1 where fewer have a score above 0.
    """
    return np.asarray(
        _longest_runs(
            np.ascontiguousarray(at_observed.T),
            np.ascontiguousarray(targets),
            cm,
            window,
            n_windows,
            min(per_window, at_observed.shape[1]),
        )
    )


def select_states(
    n_haplotypes: int,
    n_targets: int,
    runs: NDArray[np.int32] | None = None,
    exclude: NDArray[np.int64] | None = None,
) -> States:
    """The states of each target: all haplotypes, or the union of ``runs`` over windows.

    Args:
        n_haplotypes: n.
        n_targets: T.
        runs: int32 [T, W, k] of :func:`longest_runs`, of the windows around; all states if None.
        exclude: int64 [T, e], haplotypes a target must not copy from; -1 for none.
    """
    kept = np.full((n_targets, n_haplotypes), runs is None)
    for target in range(n_targets):
        if runs is not None:
            numbers = runs[target][runs[target] >= 0]
            kept[target, numbers if len(numbers) else slice(None)] = True
        if exclude is not None:
            kept[target, exclude[target][exclude[target] >= 0]] = False
    return States.of(kept)


def copying_probability(
    reference: Reference,
    targets: NDArray[np.int8],
    cm: NDArray[np.float64],
    bp: NDArray[np.int64],
    *,
    states: States | None = None,
    bank: tuple[tuple[float, float], ...] = DEFAULT_BANK,
) -> NDArray[np.float32]:
    """P(ALT) of target haplotypes at every core site, averaged over a bank of settings.

    Where the target has a call, that call; a missing call is imputed like a masked site.

    Args:
        reference: n haplotypes, J observed sites, L core sites.
        targets: int8 [T, J], alleles at the observed sites; -1 is missing.
        cm: float64, of every site of the context; not decreasing.
        bp: int64, likewise.
        states: what each target copies from; all haplotypes if None.
        bank: pairs (c, ε).

    Returns:
        float32 [T, L].
    """
    if states is None:
        states = States.of(np.ones((len(targets), reference.n_haplotypes), dtype=bool))
    total = np.zeros((len(targets), len(reference.minor_is_alt)), dtype=np.float32)
    for rate, error in bank:
        g = genetic_coordinate(cm, bp, rate, reference.n_haplotypes)
        _forward_backward(
            reference.observed,
            reference.at_observed,
            reference.core,
            reference.carried,
            reference.carriers,
            reference.first,
            reference.minor_is_alt,
            states.haplotypes,
            states.first,
            np.ascontiguousarray(targets),
            g,
            np.float32(error / (1.0 - error)),
            total,
        )
    total /= np.float32(len(bank))
    return np.where(reference.minor_is_alt, total, np.float32(1.0) - total)


def set_threads(threads: int | None) -> None:
    """Limit the kernels' CPU threads."""
    if threads is not None:
        most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(min(threads, most))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for the CPU, in parallel over targets; kept on disk for the next process."""
    return cast(Callable[..., Any], numba.njit(parallel=True, fastmath=True, cache=True)(function))


@_compiled
def _forward_backward(  # noqa: PLR0912, PLR0915 - a kernel: calls would keep arrays from registers
    observed: Any, at_observed: Any, core: Any, carried: Any, carriers: Any, first: Any,
    minor_is_alt: Any, state_list: Any, state_first: Any, targets: Any, g: Any, ratio: Any,
    total: Any,
) -> None:  # fmt: skip
    n_observed, n_haplotypes = at_observed.shape
    core_end = core + len(minor_is_alt)
    one = np.float32(1.0)
    zero = np.float32(0.0)
    for t in numba.prange(len(targets)):
        own = state_list[state_first[t] : state_first[t + 1]]
        n = len(own)
        if n == 0:
            continue
        whole = n == n_haplotypes
        local = at_observed if whole else at_observed[:, own]
        place = np.full(n_haplotypes, -1, dtype=np.int32)
        for k in range(n):
            place[own[k]] = k
        prior = one / np.float32(n)
        forward = np.empty((n_observed, n), dtype=np.float32)
        weight = np.empty(2, dtype=np.float32)
        mass = one
        for j in range(n_observed):
            weight[0] = one if targets[t, j] <= 0 else ratio
            weight[1] = one if targets[t, j] != 0 else ratio
            row, alleles = forward[j], local[j]
            total_mass = zero
            if j == 0:
                for k in range(n):
                    row[k] = prior * weight[alleles[k]]
                    total_mass += row[k]
            else:
                switch = np.float32(1.0 - np.exp(g[observed[j - 1]] - g[observed[j]]))
                scale, add = (one - switch) / mass, switch * prior
                previous = forward[j - 1]
                for k in range(n):
                    value = (previous[k] * scale + add) * weight[alleles[k]]
                    row[k] = value
                    total_mass += value
            mass = total_mass
        backward = np.ones(n, dtype=np.float32)
        product = np.empty(n, dtype=np.float32)
        flat = np.full(n, prior, dtype=np.float32)
        for gap in range(n_observed, -1, -1):
            # The gap's sites lie between observed sites gap - 1 and gap.
            begin = max(observed[gap - 1] + 1, core) if gap > 0 else core
            end = min(observed[gap], core_end) if gap < n_observed else core_end
            row = forward[gap - 1] if gap > 0 else flat
            both, ahead, behind = zero, zero, zero
            if begin < end:
                for k in range(n):
                    product[k] = row[k] * backward[k]
                    both += product[k]
                    ahead += row[k]
                    behind += backward[k]
            else:
                for k in range(n):
                    behind += backward[k]
            for site in range(begin, end):
                r1 = np.float32(1.0 - np.exp(g[observed[gap - 1]] - g[site])) if gap > 0 else one
                r2 = one
                if gap < n_observed:
                    r2 = np.float32(1.0 - np.exp(g[site] - g[observed[gap]]))
                # Scaled to Σ A = 1 and Σ π B = 1.
                a, b = (one - r1) / ahead, r1 * prior
                c, d = (one - r2) * np.float32(n) / behind, r2
                sum_both, sum_ahead, sum_behind, count = zero, zero, zero, zero
                at = site - core
                if first[at + 1] - first[at] <= n:
                    for i in range(first[at], first[at + 1]):
                        k = place[carriers[i]]
                        if k >= 0:
                            sum_both += product[k]
                            sum_ahead += row[k]
                            sum_behind += backward[k]
                            count += one
                else:
                    for k in range(n):
                        if carried[at, own[k]]:
                            sum_both += product[k]
                            sum_ahead += row[k]
                            sum_behind += backward[k]
                            count += one
                above = a * c * sum_both + a * d * sum_ahead + b * c * sum_behind + b * d * count
                below = a * c * both + a * d * ahead + b * c * behind + b * d * np.float32(n)
                total[t, at] += above / below
            if gap == 0:
                break
            site = observed[gap - 1]
            weight[0] = one if targets[t, gap - 1] <= 0 else ratio
            weight[1] = one if targets[t, gap - 1] != 0 else ratio
            alleles = local[gap - 1]
            switch = one
            if gap < n_observed:
                switch = np.float32(1.0 - np.exp(g[site] - g[observed[gap]]))
            keep = (one - switch) * np.float32(n) / behind
            at = site - core
            outside = at < 0 or at >= len(minor_is_alt)
            if outside or targets[t, gap - 1] >= 0:
                for k in range(n):
                    backward[k] = (backward[k] * keep + switch) * weight[alleles[k]]
                if not outside:
                    agrees = (targets[t, gap - 1] == 1) == minor_is_alt[at]
                    total[t, at] += one if agrees else zero
                continue
            above, below = zero, zero
            for k in range(n):
                backward[k] = backward[k] * keep + switch
                below += row[k] * backward[k]
            for i in range(first[at], first[at + 1]):
                k = place[carriers[i]]
                if k >= 0:
                    above += row[k] * backward[k]
            total[t, at] += above / below


@_compiled
def _longest_runs(
    haplotypes: Any, targets: Any, cm: Any, window: Any, n_windows: Any, per_window: Any
) -> Any:
    n, n_observed = haplotypes.shape
    chosen = np.full((len(targets), n_windows, per_window), -1, dtype=np.int32)
    for t in numba.prange(len(targets)):
        score = np.zeros((n_windows, n), dtype=np.float32)
        for k in range(n):
            start = 0
            for j in range(n_observed + 1):
                at_end = j == n_observed
                if at_end or (targets[t, j] >= 0 and haplotypes[k, j] != targets[t, j]):
                    # A run of matches [start, j) ends; it is enclosed by mismatches or the ends.
                    if start < j:
                        left = cm[start - 1] if start > 0 else cm[0]
                        right = cm[n_observed - 1] if at_end else cm[j]
                        length = np.float32(right - left)
                        for i in range(start, j):
                            score[window[i], k] += length
                    start = j + 1
        for w in range(n_windows):
            threshold = np.partition(score[w], n - per_window)[n - per_window]
            count = 0
            # Those above the threshold first, so that ties at it cannot push them out.
            for above in (True, False):
                for k in range(n):
                    high = score[w, k] > threshold if above else score[w, k] == threshold
                    # A window without observed sites tells nothing: its neighbours choose.
                    if high and score[w, k] > 0 and count < per_window:
                        chosen[t, w, count] = k
                        count += 1
    return chosen
