"""The copying model's inner loops, compiled by numba for the CPU, in parallel over targets.

Of the forward pass every ``_BLOCK``-th row is kept, and a block is computed again when the backward
pass reaches it, so that what a target needs stays in the cache.
"""

from typing import Any

import numba
import numpy as np

from snvrag.compiling import compiled as _compiled
from snvrag.copying.describing import (
    N_LOGITS,
    REACH_CM,
    count_runs,
    describe_gap,
    describe_site,
    with_rare_carriers,
    write_features,
)

MAIN_SETTING = 0  # whose posterior the other columns describe
_BLOCK = 64
# From this share of carriers on (one in so many), passes over all states are faster.
_COMMON = 12
# Of more states, only those of a noticeable posterior are looked at one by one between two observed
# sites; the others share the rest of it.
_PICK_ABOVE = 1000
_LEAST_SHARE = 1e-4
_LEAST_ODDS = np.float32(1e-9)
_LOGIT_LIMIT = np.float32(np.log((1 - 1e-4) / 1e-4))


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
def _note_mismatches(mismatch: Any, cm: Any, places: Any) -> None:
    """Where states err, move their nearest and second nearest mismatch, ``places`` [2, n] in cM."""
    at, nearest, second = np.float32(cm), places[0], places[1]
    for k in range(len(nearest)):
        second[k] = nearest[k] if mismatch[k] else second[k]
        nearest[k] = at if mismatch[k] else nearest[k]


@_compiled()
def _rare_sums(carriers: Any, place: Any, row: Any, backward: Any, sums: Any) -> None:
    """Σ AB, Σ A, Σ B and the count of the carriers, by way of their list."""
    sums[:] = np.float32(0.0)
    for carrier in carriers:
        k = place[carrier]
        if k >= 0:
            sums[0] += row[k] * backward[k]
            sums[1] += row[k]
            sums[2] += backward[k]
            sums[3] += np.float32(1.0)


@_compiled()
def _common_sums(local: Any, row: Any, backward: Any, sums: Any) -> None:
    """The same by a pass over the states, of which ``local`` are carriers."""
    both, ahead = np.float32(0.0), np.float32(0.0)
    behind, count = np.float32(0.0), np.float32(0.0)
    for k in range(len(row)):
        a = row[k] if local[k] else np.float32(0.0)
        b = backward[k] if local[k] else np.float32(0.0)
        both += a * b
        ahead += a
        behind += b
        count += np.float32(local[k])
    sums[0], sums[1], sums[2], sums[3] = both, ahead, behind, count


@_compiled()
def _carriers_share(sums: Any, whole: Any, n: Any, r1: Any, r2: Any) -> Any:
    """Posterior of the carriers at one site, of the sums over them and over all n states."""
    one = np.float32(1.0)  # scaled to Σ A = 1 and Σ π B = 1
    a, b = (one - r1) / whole[1], r1 / n
    c, d = (one - r2) * n / whole[2], r2
    above = a * c * sums[0] + a * d * sums[1] + b * c * sums[2] + b * d * sums[3]
    below = a * c * whole[0] + a * d * whole[1] + b * c * whole[2] + b * d * n
    return above / below


@_compiled()
def _pick_states(
    forward: Any, backward: Any, whole: Any, switches: Any, reach: Any, picked: Any, is_picked: Any
) -> Any:
    """States that may have a noticeable posterior anywhere in a gap, in any setting.

    Fills ``picked`` and ``is_picked``; returns their number. ``reach`` [n] is working memory.
    """
    n = len(picked)
    one, size = np.float32(1.0), np.float32(n)
    reach[:] = np.float32(0.0)
    for s in range(len(forward)):
        row, back, switch = forward[s], backward[s], switches[s]
        a, b = one / whole[s, 1], size / whole[s, 2]
        scale = one / ((one - switch) * a * b * whole[s, 0] + switch)
        for k in range(n):
            ahead, behind = row[k] * a, back[k] * b
            here = (one - switch) * ahead * behind + switch * (ahead + behind / size)
            reach[k] += here * scale
    count = 0
    for k in range(n):
        is_picked[k] = reach[k] > np.float32(_LEAST_SHARE)
        picked[count] = k
        count += is_picked[k]
    return count


@_compiled()
def _switch(g: Any, a: Any, b: Any) -> Any:
    return np.float32(1.0 - np.exp(g[a] - g[b]))


@_compiled()
def _forward_pass(
    columns: Any, last: Any, mismatch: Any, g: Any, ratio: Any, prior: Any, mass: Any, kept: Any
) -> None:
    """The first ``last`` rows of one setting: all sums to ``mass``, each 64th row to ``kept``."""
    one = np.float32(1.0)
    buffers = np.empty((2, mismatch.shape[1]), dtype=np.float32)
    buffers[1] = prior
    for j in range(last):
        row, before = buffers[j % 2], buffers[(j + 1) % 2]
        switch = _switch(g, columns[j - 1], columns[j]) if j > 0 else np.float32(0.0)
        scale = (one - switch) / mass[j - 1] if j > 0 else one
        mass[j] = _forward_row(before, scale, switch * prior, mismatch[j], ratio, row)
        if j % _BLOCK == 0:
            kept[j // _BLOCK] = row


@_compiled()
def _rows_again(
    first: Any, stop: Any, columns: Any, mismatch: Any, g: Any, ratio: Any, prior: Any, mass: Any,
    rows: Any,
) -> None:  # fmt: skip
    """Forward rows ``first + 1`` to ``stop - 1`` of one setting; ``rows[0]`` is row ``first``."""
    for at in range(first + 1, stop):
        i = at - first
        switch = _switch(g, columns[at - 1], columns[at])
        scale = (np.float32(1.0) - switch) / mass[at - 1]
        _forward_row(rows[i - 1], scale, switch * prior, mismatch[at], ratio, rows[i])


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
    # Forward rows beyond the core's last observed site are not needed.
    last = np.searchsorted(columns, core_end)
    n_blocks = last // _BLOCK + 1
    kept = np.empty((n_settings, n_blocks, n), dtype=np.float32)
    mass = np.ones((n_settings, n_observed + 1), dtype=np.float32)
    rows = np.empty((n_settings, _BLOCK, n), dtype=np.float32)
    edge_left, edge_right = np.float32(cm[0]), np.float32(cm[-1])
    kept_left = np.empty((n_blocks, 2, n), dtype=np.float32)
    left_rows = np.empty((_BLOCK, 2, n), dtype=np.float32)
    left = np.full((2, n), edge_left, dtype=np.float32)
    right = np.full((2, n), edge_right, dtype=np.float32)
    for s in range(n_settings):
        _forward_pass(columns, last, mismatch, g[s], ratios[s], prior, mass[s], kept[s])
    if wanted:
        for j in range(last):
            _note_mismatches(mismatch[j], cm[columns[j]], left)
            if j % _BLOCK == 0:
                kept_left[j // _BLOCK] = left
    backward = np.ones((n_settings, n), dtype=np.float32)
    behind = np.full(n_settings, np.float32(n), dtype=np.float32)
    described = np.empty((4, n), dtype=np.float32)
    described_bits = described.view(np.int32)
    best = np.zeros(10, dtype=np.float32)
    best_bits = best.view(np.int32)
    counts = np.empty(4, dtype=np.float32)
    few = n > _PICK_ABOVE
    ahead = np.empty((n_settings, n), dtype=np.float32)
    whole = np.empty((n_settings, 3), dtype=np.float32)
    rest = np.empty((n_settings, 3), dtype=np.float32)
    switches = np.empty(n_settings, dtype=np.float32)
    sums = np.empty(4, dtype=np.float32)
    picked = np.arange(n)
    is_picked = np.ones(n, dtype=np.uint8)
    size = n if few else 0
    reach = np.empty(size, dtype=np.float32)
    near_ahead = np.empty((n_settings, size), dtype=np.float32)
    near_back = np.empty((n_settings, size), dtype=np.float32)
    near_described = np.empty((4 if wanted else 0, size), dtype=np.float32)
    near_bits = near_described.view(np.int32)
    flat = np.full(n, prior, dtype=np.float32)
    start = np.full((2, n), edge_left, dtype=np.float32)
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
                top, stop = block * _BLOCK, min(last, (block + 1) * _BLOCK)
                for s in range(n_settings):
                    rows[s, 0] = kept[s, block]
                    _rows_again(
                        top, stop, columns, mismatch, g[s], ratios[s], prior, mass[s], rows[s]
                    )
                if wanted:
                    left_rows[0] = kept_left[block]
                    for at in range(top + 1, stop):
                        left_rows[at - top] = left_rows[at - top - 1]
                        _note_mismatches(mismatch[at], cm[columns[at]], left_rows[at - top])
            for s in range(n_settings):
                row = rows[s, inside] if gap > 0 else flat
                ahead[s] = row
                total, below = np.float32(0.0), np.float32(0.0)
                for k in range(n):
                    total += row[k] * backward[s, k]
                    below += backward[s, k]
                whole[s, 0], whole[s, 2] = total, below
                whole[s, 1] = mass[s, gap - 1] if gap > 0 else one
                inner = 0 < gap < n_observed
                switches[s] = _switch(g[s], columns[gap - 1], columns[gap]) if inner else one
            if wanted:
                low = cm[columns[gap - 1]] if gap > 0 else cm[0]
                high = cm[columns[gap]] if gap < n_observed else cm[len(cm) - 1]
                lefts = left_rows[inside] if gap > 0 else start
                squares = describe_gap(
                    ahead[MAIN_SETTING], backward[MAIN_SETTING], lefts, right, low, high, described
                )
            m = n
            if few:
                m = _pick_states(ahead, backward, whole, switches, reach, picked, is_picked)
                for s in range(n_settings):
                    for i in range(m):
                        near_ahead[s, i] = ahead[s, picked[i]]
                        near_back[s, i] = backward[s, picked[i]]
                    _common_sums(is_picked, ahead[s], backward[s], sums)
                    rest[s] = whole[s] - sums[:3]
                for f in range(len(near_described)):
                    for i in range(m):
                        near_described[f, i] = described[f, picked[i]]
            for site in range(begin, end):
                at = site - core
                some = carriers[first[at] : first[at + 1]]
                count = len(some)
                for e in excluded:
                    count -= e >= 0 and carried[at, e]
                common = count * _COMMON > n
                if common or (wanted and few):
                    for i in range(m):
                        local[i] = carried[at, own[picked[i]]]
                elif wanted:
                    local[:] = 0
                    for carrier in some:
                        if place[carrier] >= 0:
                            local[place[carrier]] = 1
                mean = np.float32(0.0)
                for s in range(n_settings):
                    r1 = _switch(g[s], columns[gap - 1], site) if gap > 0 else one
                    r2 = _switch(g[s], site, columns[gap]) if gap < n_observed else one
                    if not common:
                        _rare_sums(some, place, ahead[s], backward[s], sums)
                    elif few:
                        _common_sums(local[:m], near_ahead[s, :m], near_back[s, :m], sums)
                        share = (np.float32(count) - sums[3]) / max(np.float32(n - m), one)
                        sums[:3] += share * rest[s]
                        sums[3] = np.float32(count)
                    else:
                        _common_sums(local, ahead[s], backward[s], sums)
                    value = _carriers_share(sums, whole[s], np.float32(n), r1, r2)
                    value = min(max(value, np.float32(0.0)), one)  # large sums round
                    mean += value
                    if wanted:
                        odds = max(value, _LEAST_ODDS) / max(one - value, _LEAST_ODDS)
                        features[at, s] = min(max(np.log(odds), -_LOGIT_LIMIT), _LOGIT_LIMIT)
                if not wanted:
                    probability[at] = mean / np.float32(n_settings)
                    continue
                if few:
                    describe_site(local[:m], near_bits[:, :m], best_bits)
                    if not common:
                        with_rare_carriers(some, place, is_picked, described, best)
                    count_runs(local[:m], near_described[1, :m], best, counts)
                else:
                    describe_site(local, described_bits, best_bits)
                    count_runs(local, described[1], best, counts)
                to_left = min(cm[site] - low, REACH_CM) if gap > 0 else REACH_CM
                to_right = min(high - cm[site], REACH_CM) if gap < n_observed else REACH_CM
                write_features(features[at], count, n, to_left, to_right, squares, best, counts)
        if gap == 0 or columns[gap - 1] < core:
            break
        j = gap - 1
        for s in range(n_settings):
            switch = one if gap == n_observed else _switch(g[s], columns[j], columns[gap])
            keep = (one - switch) * np.float32(n) / behind[s]
            behind[s] = _backward_row(backward[s], keep, switch, mismatch[j], ratios[s])
        if wanted:
            _note_mismatches(mismatch[j], cm[columns[j]], right)


@_compiled(parallel=True)
def impute_targets(
    observed: Any, at_observed: Any, core: Any, carried: Any, carriers: Any, first: Any,
    excluded: Any, targets: Any, g: Any, ratios: Any, cm: Any, probability: Any, features: Any,
) -> None:  # fmt: skip
    """All targets; fills ``features`` [T, L, N_FEATURES], or ``probability`` [T, L] if F is 0."""
    for t in numba.prange(len(targets)):
        allowed = np.ones(at_observed.shape[1], dtype=np.bool_)
        allowed[excluded[t][excluded[t] >= 0]] = False
        own = np.flatnonzero(allowed)
        if len(own) == 0:
            features[t, :, :N_LOGITS] = -_LOGIT_LIMIT
            continue
        called = np.flatnonzero(targets[t] >= 0)
        mismatch = np.empty((len(called), len(own)), dtype=np.uint8)
        for i, j in enumerate(called):
            call = targets[t, j]
            for k in range(len(own)):
                mismatch[i, k] = at_observed[j, own[k]] != call
        _impute_target(
            observed[called], mismatch, core, carried, carriers, first, own, excluded[t], g,
            ratios, cm, probability[t], features[t],
        )  # fmt: skip
