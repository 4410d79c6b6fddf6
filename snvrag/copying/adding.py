"""Sums over the states that carry the minor allele, at each site between two observed ones."""

from typing import Any

import numpy as np

from snvrag.compiling import compiled as _compiled

LANES = 8  # float32 that are added at once


@_compiled()
def add_up(
    segments: Any, begin: Any, end: Any, sites: Any, first: Any, picked: Any, bounds: Any,
    near: Any, sums: Any, local: Any,
) -> None:  # fmt: skip
    """Add what the ``picked`` states bring to each site at which they carry the minor allele.

    Sites are those of ``[begin, end)``; a row of ``near`` goes to each of its state's sites in
    ``sums``, and ``local``, if it has rows, says who carries. ``bounds`` [3, ≥ m] is for own use.
    """
    marks = len(local) > 0
    wide = near.shape[1]
    # All that lies far apart in memory is asked for before any of it is waited for.
    starts, stops, here = bounds[0], bounds[1], bounds[2]
    for segment in range(segments[0], segments[1]):
        of_haplotype = first[segment]
        for i in range(len(picked)):
            starts[i] = of_haplotype[picked[i]]
            stops[i] = of_haplotype[picked[i] + 1]
        for i in range(len(picked)):
            here[i] = sites[starts[i]]
        for i in range(len(picked)):
            for q in range(starts[i], stops[i]):
                site = sites[q]
                if site < begin or site >= end:
                    continue
                at = site - begin
                for lane in range(0, wide, LANES):
                    for c in range(LANES):
                        sums[at, lane + c] += near[i, lane + c]
                if marks:
                    local[at, i] = 1


@_compiled()
def describe_near(
    ahead: Any, backward: Any, prior: Any, picked: Any, near: Any, whole: Any, rest: Any
) -> Any:
    """Fill ``near`` of each picked state: A B, A and π B of each setting, then π and 1.

    ``rest`` [settings, 3] gets what the other states hold of the sums ``whole``; their Σ π is
    returned.
    """
    m, n_settings, nothing = len(picked), len(ahead), np.float32(0.0)
    for s in range(n_settings):
        row, back = ahead[s], backward[s]
        both, front, behind = nothing, nothing, nothing
        for i in range(m):
            a, b = row[picked[i]], back[picked[i]]
            c = b * prior[picked[i]]
            near[i, 3 * s], near[i, 3 * s + 1], near[i, 3 * s + 2] = a * b, a, c
            both += a * b
            front += a
            behind += c
        rest[s, 0] = max(whole[s, 0] - both, nothing)
        rest[s, 1] = max(whole[s, 1] - front, nothing)
        rest[s, 2] = max(whole[s, 2] - behind, nothing)
    left = np.float32(1.0)
    for i in range(m):
        near[i, 3 * n_settings] = prior[picked[i]]
        near[i, 3 * n_settings + 1] = np.float32(1.0)
        left -= prior[picked[i]]
    return max(left, nothing)


@_compiled()
def carriers_share(
    both: Any, ahead: Any, behind: Any, prior: Any, whole: Any, r1: Any, r2: Any
) -> Any:
    """Posterior of the carriers at one site, of their Σ AB, Σ A, Σ πB and Σ π.

    ``whole`` [3] holds Σ AB, Σ A and Σ πB of all states.
    """
    one = np.float32(1.0)  # scaled to Σ A = 1 and Σ π B = 1
    a, c = (one - r1) / whole[1], (one - r2) / whole[2]
    above = a * c * both + a * r2 * ahead + r1 * c * behind + r1 * r2 * prior
    below = a * c * whole[0] + a * r2 * whole[1] + r1 * c * whole[2] + r1 * r2
    return above / below
