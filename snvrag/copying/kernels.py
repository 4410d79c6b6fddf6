"""The copying model's inner loops, compiled by numba for the CPU, in parallel over targets.

Rows of the forward pass are not kept: every ``_BLOCK``-th is, and a block is computed again when
the backward pass reaches it, so that what a target needs stays in the cache.
"""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np

N_FEATURES = 27
"""Columns of the evidence; ``snvrag/evidence.py`` names them."""
N_LOGITS = 5
"""The first of them: one logit per setting of the bank."""
MAIN_SETTING = 1
"""The setting whose posterior the other features describe."""
REACH_CM = 2.0
"""Runs are followed this far to either side."""
_BLOCK = 64
_NEAR = 0.7
# From this share of carriers on (one in so many), passes over all states are faster.
_COMMON = 12
_LEAST_CM = 1e-4
_LEAST_WEIGHT = 1e-6
_LEAST_PROBABILITY = 1e-4


def _compiled(parallel: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for the CPU; kept on disk for the next process."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compile_it = numba.njit(parallel=parallel, fastmath=True, cache=True)
        return cast(Callable[..., Any], compile_it(function))

    return decorate


def set_threads(threads: int | None) -> None:
    """Limit the kernels' CPU threads."""
    if threads is not None:
        most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(min(threads, most))


@_compiled()
def _forward_row(previous: Any, scale: Any, add: Any, mismatch: Any, ratio: Any, row: Any) -> Any:
    """One step of the forward pass, not normalised; returns the row's sum."""
    mass = np.float32(0.0)
    for k in range(len(row)):
        value = previous[k] * scale + add
        value = value * ratio if mismatch[k] else value
        row[k] = value
        mass += value
    return mass


@_compiled()
def _backward_row(backward: Any, keep: Any, switch: Any, mismatch: Any, ratio: Any) -> Any:
    """One step of the backward pass in place, not normalised; returns the row's sum."""
    behind = np.float32(0.0)
    for k in range(len(backward)):
        value = backward[k] * keep + switch
        value = value * ratio if mismatch[k] else value
        backward[k] = value
        behind += value
    return behind


@_compiled()
def _note_mismatches(mismatch: Any, at: Any, nearest: Any, second: Any) -> None:
    """Move the nearest and second nearest mismatch of each state to ``at`` (cM) where it errs."""
    for k in range(len(nearest)):
        second[k] = nearest[k] if mismatch[k] else second[k]
        nearest[k] = at if mismatch[k] else nearest[k]


@_compiled()
def _describe_gap(
    row: Any, backward: Any, left: Any, left2: Any, right: Any, right2: Any, middle: Any,
    described: Any,
) -> Any:  # fmt: skip
    """What all sites between two observed ones share.

    Fills ``described`` [4, n]: posterior weight, run, run with one mismatch per side allowed,
    shorter side of the run; none is negative. Returns Σ w².
    """
    n = len(row)
    weight, run, run2, side = described[0], described[1], described[2], described[3]
    total = np.float32(0.0)
    for k in range(n):
        value = row[k] * backward[k]
        weight[k] = value
        total += value
    scale = np.float32(1.0) / total
    squares = np.float32(0.0)
    low, high = np.float32(middle - REACH_CM), np.float32(middle + REACH_CM)
    centre, nothing = np.float32(middle), np.float32(0.0)
    for k in range(n):
        value = weight[k] * scale
        weight[k] = value
        squares += value * value
        a, b = max(left[k], low), min(right[k], high)
        run[k] = max(b - a, nothing)
        side[k] = max(min(centre - a, b - centre), nothing)
        run2[k] = max(min(right2[k], high) - max(left2[k], low), nothing)
    return squares


@_compiled()
def _log(value: Any, least: Any) -> Any:
    return np.float32(np.log(value + np.float32(least)))


@_compiled()
def _describe_site(local: Any, described: Any, best: Any) -> None:
    """Best values among the states with and without the minor allele.

    ``described`` is read as the int32 that its float32, never negative, are bit by bit: the order
    is the same, and whole numbers have a vector instruction for the maximum of a row.

    Fills ``best`` (int32): for carriers weight, run, run2, side, second run (0-4), for the others
    likewise (5-9), 0 where there is none.
    """
    n = len(local)
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
def _count_runs(local: Any, run: Any, best: Any, counts: Any) -> None:
    """How many states come near the best runs, which :func:`_describe_site` found.

    Fills ``counts``: others with a run at least the carriers' best, carriers with one at least the
    others' best, carriers and others near the longest run.
    """
    top_with, top = best[1], best[6]
    near = np.float32(_NEAR) * max(top_with, top)
    one, none = np.float32(1.0), np.float32(0.0)
    better, better_with, close, close_with = none, none, none, none
    for k in range(len(local)):
        with_ = one if local[k] else none
        better += (one - with_) * np.float32(run[k] >= top_with)
        better_with += with_ * np.float32(run[k] >= top)
        close += (one - with_) * np.float32(run[k] >= near)
        close_with += with_ * np.float32(run[k] >= near)
    counts[0], counts[1], counts[2], counts[3] = better, better_with, close_with, close


@_compiled()
def _write_features(
    out: Any, count: Any, n_haplotypes: Any, to_left: Any, to_right: Any, squares: Any, best: Any,
    counts: Any,
) -> None:  # fmt: skip
    """The columns after the logits."""
    out[5] = np.float32(np.log2(1.0 + count))
    out[6] = np.float32(count / n_haplotypes)
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


@_compiled()
def _minor_probability(
    carriers: Any, place: Any, local: Any, common: Any, row: Any, backward: Any, both: Any,
    ahead: Any, behind: Any, r1: Any, r2: Any,
) -> Any:  # fmt: skip
    """Posterior share of the carriers at one site; see the module ``reference``."""
    one = np.float32(1.0)
    n = np.float32(len(row))
    prior = one / n
    sum_both, sum_ahead = np.float32(0.0), np.float32(0.0)
    sum_behind, count = np.float32(0.0), np.float32(0.0)
    if common:
        for k in range(len(row)):
            a = row[k] if local[k] else np.float32(0.0)
            b = backward[k] if local[k] else np.float32(0.0)
            sum_both += a * b
            sum_ahead += a
            sum_behind += b
            count += np.float32(local[k])
    else:
        for i in range(len(carriers)):
            k = place[carriers[i]]
            if k >= 0:
                sum_both += row[k] * backward[k]
                sum_ahead += row[k]
                sum_behind += backward[k]
                count += one
    # Scaled to Σ A = 1 and Σ π B = 1.
    a, b = (one - r1) / ahead, r1 * prior
    c, d = (one - r2) * n / behind, r2
    above = a * c * sum_both + a * d * sum_ahead + b * c * sum_behind + b * d * count
    below = a * c * both + a * d * ahead + b * c * behind + b * d * n
    return above / below


@_compiled()
def _switch(g: Any, a: Any, b: Any) -> Any:
    return np.float32(1.0 - np.exp(g[a] - g[b]))


@_compiled()
def _impute_target(  # noqa: PLR0912, PLR0915 - a kernel
    columns: Any, mismatch: Any, core: Any, carried: Any, carriers: Any, first: Any, own: Any,
    excluded: Any, g: Any, ratios: Any, cm: Any, probability: Any, features: Any,
) -> None:  # fmt: skip
    """Probabilities and evidence of one target haplotype at the core sites it was not measured at.

    ``columns`` are the J observed columns of the context, ``mismatch`` uint8 [J, n] tells where
    the n states ``own`` differ from the target there. ``features`` has no columns where only
    the probability, averaged over the settings, is wanted.
    """
    wanted = features.shape[1] > 0
    n_settings, n_sites, n_observed = len(g), len(first) - 1, len(columns)
    n_haplotypes = carried.shape[1]
    core_end = core + n_sites
    n = len(own)
    one, prior = np.float32(1.0), np.float32(1.0) / np.float32(n)
    place = np.full(n_haplotypes, -1, dtype=np.int32)
    for k in range(n):
        place[own[k]] = k
    # Forward rows beyond the core's last observed site, and blocks before its first, are not
    # needed.
    last = np.searchsorted(columns, core_end)
    n_blocks = last // _BLOCK + 1
    kept = np.empty((n_blocks, n_settings, n), dtype=np.float32)
    mass = np.ones((n_settings, n_observed + 1), dtype=np.float32)
    rows = np.empty((n_settings, _BLOCK, n), dtype=np.float32)
    edge_left, edge_right = np.float32(cm[0]), np.float32(cm[len(cm) - 1])
    kept_left = np.empty((n_blocks, 2, n), dtype=np.float32)
    left_rows = np.empty((2, _BLOCK, n), dtype=np.float32)
    left = np.full((2, n), edge_left, dtype=np.float32)
    right = np.full((2, n), edge_right, dtype=np.float32)
    for s in range(n_settings):
        buffers = np.empty((2, n), dtype=np.float32)
        for j in range(last):
            row, before = buffers[j % 2], buffers[(j + 1) % 2]
            if j == 0:
                before[:] = prior
                mass[s, 0] = _forward_row(before, one, np.float32(0.0), mismatch[0], ratios[s], row)
            else:
                switch = _switch(g[s], columns[j - 1], columns[j])
                scale = (one - switch) / mass[s, j - 1]
                mass[s, j] = _forward_row(
                    before, scale, switch * prior, mismatch[j], ratios[s], row
                )
            if j % _BLOCK == 0:
                kept[j // _BLOCK, s] = row
    if wanted:
        for j in range(last):
            _note_mismatches(mismatch[j], np.float32(cm[columns[j]]), left[0], left[1])
            if j % _BLOCK == 0:
                kept_left[j // _BLOCK] = left
    backward = np.ones((n_settings, n), dtype=np.float32)
    behind = np.full(n_settings, np.float32(n), dtype=np.float32)
    described = np.empty((4, n), dtype=np.float32)
    described_bits = described.view(np.int32)
    best = np.zeros(10, dtype=np.float32)
    best_bits = best.view(np.int32)
    counts = np.empty(4, dtype=np.float32)
    both = np.empty(n_settings, dtype=np.float32)
    flat = np.full(n, prior, dtype=np.float32)
    start = np.full(n, edge_left, dtype=np.float32)
    local = np.empty(n, dtype=np.uint8)
    held = -1
    squares, low, high = np.float32(1.0), cm[0], cm[0]
    for gap in range(n_observed, -1, -1):
        # The gap's sites lie between observed sites gap - 1 and gap.
        begin = max(columns[gap - 1] + 1, core) if gap > 0 else core
        end = min(columns[gap], core_end) if gap < n_observed else core_end
        if begin < end:
            j = gap - 1
            block, inside = j // _BLOCK, j % _BLOCK
            if gap > 0 and block != held:
                held = block
                stop = min(last, (block + 1) * _BLOCK) - block * _BLOCK
                for s in range(n_settings):
                    rows[s, 0] = kept[block, s]
                    for i in range(1, stop):
                        at = block * _BLOCK + i
                        switch = _switch(g[s], columns[at - 1], columns[at])
                        scale = (one - switch) / mass[s, at - 1]
                        _forward_row(
                            rows[s, i - 1], scale, switch * prior, mismatch[at], ratios[s],
                            rows[s, i],
                        )  # fmt: skip
                if wanted:
                    left_rows[:, 0] = kept_left[block]
                    for i in range(1, stop):
                        at = block * _BLOCK + i
                        left_rows[:, i] = left_rows[:, i - 1]
                        _note_mismatches(
                            mismatch[at], np.float32(cm[columns[at]]), left_rows[0, i],
                            left_rows[1, i],
                        )  # fmt: skip
            for s in range(n_settings):
                row = rows[s, inside] if gap > 0 else flat
                total = np.float32(0.0)
                for k in range(n):
                    total += row[k] * backward[s, k]
                both[s] = total
            if wanted:
                low = cm[columns[gap - 1]] if gap > 0 else cm[0]
                high = cm[columns[gap]] if gap < n_observed else cm[len(cm) - 1]
                squares = _describe_gap(
                    rows[MAIN_SETTING, inside] if gap > 0 else flat, backward[MAIN_SETTING],
                    left_rows[0, inside] if gap > 0 else start,
                    left_rows[1, inside] if gap > 0 else start, right[0], right[1],
                    0.5 * (low + high), described,
                )  # fmt: skip
            for site in range(begin, end):
                at = site - core
                some = carriers[first[at] : first[at + 1]]
                common = len(some) * _COMMON > n_haplotypes
                if common or wanted:
                    for k in range(n):
                        local[k] = carried[at, own[k]]
                mean = np.float32(0.0)
                for s in range(n_settings):
                    r1 = _switch(g[s], columns[gap - 1], site) if gap > 0 else one
                    r2 = _switch(g[s], site, columns[gap]) if gap < n_observed else one
                    ahead = mass[s, gap - 1] if gap > 0 else one
                    value = _minor_probability(
                        some, place, local, common, rows[s, inside] if gap > 0 else flat,
                        backward[s], both[s],
                        ahead, behind[s], r1, r2,
                    )  # fmt: skip
                    mean += value
                    if wanted:
                        clipped = min(max(value, np.float32(_LEAST_PROBABILITY)),
                                      one - np.float32(_LEAST_PROBABILITY))  # fmt: skip
                        features[at, s] = np.float32(np.log(clipped / (one - clipped)))
                if not wanted:
                    probability[at] = mean / np.float32(n_settings)
                    continue
                _describe_site(local, described_bits, best_bits)
                _count_runs(local, described[1], best, counts)
                count = len(some)
                for i in range(len(excluded)):
                    if excluded[i] >= 0 and carried[at, excluded[i]]:
                        count -= 1
                to_left = min(cm[site] - low, REACH_CM) if gap > 0 else REACH_CM
                to_right = min(high - cm[site], REACH_CM) if gap < n_observed else REACH_CM
                _write_features(
                    features[at], count, n_haplotypes, to_left, to_right, squares, best, counts
                )
        if gap == 0 or columns[gap - 1] < core:
            break
        j = gap - 1
        for s in range(n_settings):
            switch = one if gap == n_observed else _switch(g[s], columns[j], columns[gap])
            keep = (one - switch) * np.float32(n) / behind[s]
            behind[s] = _backward_row(backward[s], keep, switch, mismatch[j], ratios[s])
        if wanted:
            _note_mismatches(mismatch[j], np.float32(cm[columns[j]]), right[0], right[1])


@_compiled(parallel=True)
def impute_targets(
    observed: Any, at_observed: Any, core: Any, carried: Any, carriers: Any, first: Any,
    state_list: Any, state_first: Any, excluded: Any, targets: Any, g: Any, ratios: Any, cm: Any,
    probability: Any, features: Any,
) -> None:  # fmt: skip
    """All targets; fills ``features`` [T, L, N_FEATURES], or ``probability`` [T, L] if F is 0.

    Rows of sites that a target was measured at are left as they are.
    """
    for t in numba.prange(len(targets)):
        own = state_list[state_first[t] : state_first[t + 1]]
        if len(own) == 0:
            continue
        called = np.flatnonzero(targets[t] >= 0)
        mismatch = np.empty((len(called), len(own)), dtype=np.uint8)
        for i in range(len(called)):
            j = called[i]
            call = targets[t, j]
            for k in range(len(own)):
                mismatch[i, k] = at_observed[j, own[k]] != call
        _impute_target(
            observed[called], mismatch, core, carried, carriers, first, own, excluded[t], g,
            ratios, cm, probability[t], features[t],
        )  # fmt: skip


@_compiled(parallel=True)
def longest_runs(
    haplotypes: Any, targets: Any, cm: Any, window: Any, n_windows: Any, per_window: Any
) -> Any:
    """See :func:`snvrag.copying.longest_runs`; ``haplotypes`` is uint8 [n, J]."""
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
