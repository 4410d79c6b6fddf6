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
    described: Any, summary: Any,
) -> None:  # fmt: skip
    """What all sites between two observed ones share.

    Fills ``described`` [4, n]: posterior weight, run, run with one mismatch per side allowed,
    shorter side of the run; and ``summary``: the four maxima, their places, the second longest
    run and its place, and Σ w².
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
    centre = np.float32(middle)
    for k in range(n):
        value = weight[k] * scale
        weight[k] = value
        squares += value * value
        a, b = max(left[k], low), min(right[k], high)
        run[k] = b - a
        side[k] = min(centre - a, b - centre)
        run2[k] = min(right2[k], high) - max(left2[k], low)
    for i in range(4):
        values = described[i]
        best = np.float32(-1.0)
        for k in range(n):
            best = max(best, values[k])
        place = 0
        while values[place] < best:
            place += 1
        summary[i], summary[4 + i] = best, place
    longest = int(summary[5])
    second, place = np.float32(-1.0), -1
    for k in range(n):
        if run[k] > second and k != longest:
            second, place = run[k], k
    summary[8], summary[9], summary[10] = second, place, squares


@_compiled()
def _log(value: Any, least: Any) -> Any:
    return np.float32(np.log(max(value, np.float32(0.0)) + np.float32(least)))


@_compiled()
def _describe_site(  # noqa: PLR0912 - a kernel
    carriers: Any, place: Any, carried: Any, own: Any, described: Any, summary: Any, found: Any
) -> None:
    """Best values among the states with and without the minor allele.

    Fills ``found``: for carriers max weight, run, run2, side, second run (0-4); for the others
    likewise (5-9); others with a run at least the carriers' best (10), carriers with one at least
    the others' best (11), carriers and others near the longest run (12, 13).
    """
    n = len(own)
    run = described[1]
    for i in range(14):
        found[i] = np.float32(-1.0)
    count = 0
    for i in range(len(carriers)):
        k = place[carriers[i]]
        if k >= 0:
            count += 1
            for f in range(4):
                found[f] = max(found[f], described[f, k]) if f != 1 else found[f]
            if run[k] > found[1]:
                found[4] = found[1]
                found[1] = run[k]
            elif run[k] > found[4]:
                found[4] = run[k]
    for f in range(4):
        best = int(summary[4 + f])
        if f != 1 and not carried[own[best]]:
            found[5 + f] = summary[f]
        elif f != 1:
            values = described[f]
            top = np.float32(-1.0)
            for k in range(n):
                if not carried[own[k]]:
                    top = max(top, values[k])
            found[5 + f] = top
    first, second = int(summary[5]), int(summary[9])
    if second >= 0 and not carried[own[first]] and not carried[own[second]]:
        found[6], found[9] = summary[1], summary[8]
    else:
        for k in range(n):
            if carried[own[k]]:
                continue
            if run[k] > found[6]:
                found[9] = found[6]
                found[6] = run[k]
            elif run[k] > found[9]:
                found[9] = run[k]
    near = np.float32(_NEAR) * summary[1]
    with_, all_, all_near = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    with_better, with_near = np.float32(0.0), np.float32(0.0)
    for k in range(n):
        all_ += np.float32(run[k] >= found[1])
        all_near += np.float32(run[k] >= near)
    for i in range(len(carriers)):
        k = place[carriers[i]]
        if k >= 0:
            with_ += np.float32(run[k] >= found[1])
            with_better += np.float32(run[k] >= found[6])
            with_near += np.float32(run[k] >= near)
    found[10] = all_ - with_ if count > 0 else np.float32(n)
    found[11] = with_better
    found[12], found[13] = with_near, all_near - with_near


@_compiled()
def _write_features(
    out: Any, count: Any, n_haplotypes: Any, to_left: Any, to_right: Any, summary: Any, found: Any
) -> None:
    """The columns after the logits."""
    out[5] = np.float32(np.log2(1.0 + count))
    out[6] = np.float32(count / n_haplotypes)
    out[7] = _log(np.float32(to_left), _LEAST_CM)
    out[8] = _log(np.float32(to_right), _LEAST_CM)
    out[9] = _log(summary[10], _LEAST_WEIGHT)
    out[10] = _log(summary[0], _LEAST_WEIGHT)
    out[11] = _log(found[0], _LEAST_WEIGHT)
    out[12] = _log(found[5], _LEAST_WEIGHT)
    for i in range(2):
        for f in range(4):
            out[13 + 4 * i + f] = _log(found[5 * i + 1 + f], _LEAST_CM)
    out[21] = np.float32(np.log(1.0 + found[10]))
    out[22] = out[13] - out[17]
    out[23] = out[14] - out[18]
    out[24] = out[15] - out[19]
    out[25] = np.float32(np.log(1.0 + found[11]))
    out[26] = np.float32(np.log((1.0 + found[12]) / (1.0 + found[13])))


@_compiled()
def _minor_probability(
    carriers: Any, place: Any, row: Any, backward: Any, both: Any, ahead: Any, behind: Any,
    r1: Any, r2: Any,
) -> Any:  # fmt: skip
    """Posterior share of the carriers at one site; see the module ``reference``."""
    one = np.float32(1.0)
    n = np.float32(len(row))
    prior = one / n
    sum_both, sum_ahead = np.float32(0.0), np.float32(0.0)
    sum_behind, count = np.float32(0.0), np.float32(0.0)
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
    summary = np.zeros(11, dtype=np.float32)
    found = np.empty(14, dtype=np.float32)
    both = np.empty(n_settings, dtype=np.float32)
    flat = np.full(n, prior, dtype=np.float32)
    start = np.full(n, edge_left, dtype=np.float32)
    held = -1
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
                _describe_gap(
                    rows[MAIN_SETTING, inside] if gap > 0 else flat, backward[MAIN_SETTING],
                    left_rows[0, inside] if gap > 0 else start,
                    left_rows[1, inside] if gap > 0 else start, right[0], right[1],
                    0.5 * (low + high), described, summary,
                )  # fmt: skip
            for site in range(begin, end):
                at = site - core
                some = carriers[first[at] : first[at + 1]]
                mean = np.float32(0.0)
                for s in range(n_settings):
                    r1 = _switch(g[s], columns[gap - 1], site) if gap > 0 else one
                    r2 = _switch(g[s], site, columns[gap]) if gap < n_observed else one
                    ahead = mass[s, gap - 1] if gap > 0 else one
                    value = _minor_probability(
                        some, place, rows[s, inside] if gap > 0 else flat, backward[s], both[s],
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
                _describe_site(some, place, carried[at], own, described, summary, found)
                count = len(some)
                for i in range(len(excluded)):
                    if excluded[i] >= 0 and carried[at, excluded[i]]:
                        count -= 1
                to_left = min(cm[site] - low, REACH_CM) if gap > 0 else REACH_CM
                to_right = min(high - cm[site], REACH_CM) if gap < n_observed else REACH_CM
                _write_features(
                    features[at], count, n_haplotypes, to_left, to_right, summary, found
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
