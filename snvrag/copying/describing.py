"""What the states say about a masked site: the columns of the evidence behind the logits.

Compiled by numba; :mod:`snvrag.copying.kernels` calls it for each gap between observed sites and
each site in it.
"""

from typing import Any

import numpy as np

from snvrag.compiling import compiled as _compiled

N_FEATURES = 27  # columns of the evidence; snvrag/evidence.py names them
N_LOGITS = 5  # the first of them: one logit per setting of the bank
SURE_LOGIT = 8.5  # where all settings say so much or more, nobody need ask further
REACH_CM = 2.0  # runs are followed this far to either side
_NEAR = 0.7
_LEAST_CM = 1e-4
_LEAST_WEIGHT = 1e-6


@_compiled()
def is_sure(evidence: Any, n_logits: Any) -> Any:
    """Whether all settings' logits, the first columns, are beyond SURE_LOGIT to one side."""
    least, most = evidence[0], evidence[0]
    for i in range(1, n_logits):
        least, most = min(least, evidence[i]), max(most, evidence[i])
    return most < -np.float32(SURE_LOGIT) or least > np.float32(SURE_LOGIT)


@_compiled()
def describe_states(
    picked: Any, overlap: Any, total: Any, lefts: Any, rights: Any, begin: Any, end: Any,
    described: Any,
) -> Any:  # fmt: skip
    """What all sites between two observed ones share.

    Fills ``described`` [4, ≥ m] of the m ``picked`` states: posterior weight, run, run with one
    mismatch per side allowed, shorter side of the run; none is negative. ``overlap`` is A B of each
    and ``total`` its sum over all states. Returns Σ w².
    """
    weight, run, run2, side = described[0], described[1], described[2], described[3]
    scale = np.float32(1.0) / total
    squares = np.float32(0.0)
    centre, nothing = np.float32(0.5 * (begin + end)), np.float32(0.0)
    low, high = centre - np.float32(REACH_CM), centre + np.float32(REACH_CM)
    left, left2, right, right2 = lefts[0], lefts[1], rights[0], rights[1]
    for i in range(len(picked)):
        k = picked[i]
        value = overlap[i] * scale
        weight[i] = value
        squares += value * value
        a, b = max(left[k], low), min(right[k], high)
        run[i] = max(b - a, nothing)
        side[i] = max(min(centre - a, b - centre), nothing)
        run2[i] = max(min(right2[k], high) - max(left2[k], low), nothing)
    return squares


@_compiled()
def _log(value: Any, least: Any) -> Any:
    return np.float32(np.log(value + np.float32(least)))


@_compiled()
def describe_site(local: Any, n: Any, described: Any, best: Any) -> None:
    """Best values among the first n states, those with and those without the minor allele.

    ``described`` is read as the int32 that its float32, never negative, are bit by bit: the order
    is the same, and whole numbers have a vector instruction for the maximum of a row.

    Fills ``best`` (int32): for carriers weight, run, run2, side, second run (0-4), for the others
    likewise (5-9), 0 where there is none.
    """
    nothing = np.int32(0)
    for f in range(4):
        values = described[f]
        with_, without = nothing, nothing
        for k in range(n):
            x = values[k] if local[k] else nothing
            y = nothing if local[k] else values[k]
            with_ = x if x > with_ else with_
            without = y if y > without else without
        best[f], best[5 + f] = with_, without
    run, top_with, top = described[1], best[1], best[6]
    second_with, second, equal_with, equal = nothing, nothing, nothing, nothing
    for k in range(n):
        x = run[k] if local[k] else nothing
        y = nothing if local[k] else run[k]
        equal_with += np.int32(x == top_with)
        equal += np.int32(y == top)
        x = x if x < top_with else nothing
        y = y if y < top else nothing
        second_with = x if x > second_with else second_with
        second = y if y > second else second
    best[4] = top_with if equal_with > 1 else second_with
    best[9] = top if equal > 1 else second


@_compiled()
def count_runs(local: Any, n: Any, run: Any, best: Any, counts: Any) -> None:
    """How many of n states come near the best runs, which :func:`describe_site` found.

    Fills ``counts``: others with a run at least the carriers' best, carriers with one at least the
    others' best, carriers and others near the longest run.
    """
    top_with, top = best[1], best[6]
    near = np.float32(_NEAR) * max(top_with, top)
    one, none = np.float32(1.0), np.float32(0.0)
    better, better_with, close, close_with = none, none, none, none
    for k in range(n):
        with_ = one if local[k] else none
        better += (one - with_) * np.float32(run[k] >= top_with)
        better_with += with_ * np.float32(run[k] >= top)
        close += (one - with_) * np.float32(run[k] >= near)
        close_with += with_ * np.float32(run[k] >= near)
    counts[0], counts[1], counts[2], counts[3] = better, better_with, close_with, close


@_compiled()
def write_features(
    out: Any, count: Any, n: Any, to_left: Any, to_right: Any, squares: Any, best: Any,
    counts: Any,
) -> None:  # fmt: skip
    """The columns after the logits."""
    out[5] = np.float32(np.log2(1.0 + count))
    out[6] = np.float32(count / n)
    out[7] = _log(np.float32(to_left), _LEAST_CM)
    out[8] = _log(np.float32(to_right), _LEAST_CM)
    out[9] = _log(squares, _LEAST_WEIGHT)
    out[10] = _log(max(best[0], best[5]), _LEAST_WEIGHT)
    out[11] = _log(best[0], _LEAST_WEIGHT)
    out[12] = _log(best[5], _LEAST_WEIGHT)
    for i in range(2):
        for f in range(4):
            out[13 + 4 * i + f] = _log(best[5 * i + 1 + f], _LEAST_CM)
    out[21] = _log(counts[0], 1.0)
    out[22] = out[13] - out[17]
    out[23] = out[14] - out[18]
    out[24] = out[15] - out[19]
    out[25] = _log(counts[1], 1.0)
    out[26] = _log(counts[2], 1.0) - _log(counts[3], 1.0)
