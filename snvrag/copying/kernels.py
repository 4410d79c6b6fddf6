"""The copying model's inner loops, compiled by numba for the CPU, in parallel over targets.

Of the forward pass only every few rows are kept, and a block of rows is computed again when the
backward pass reaches it, so that what a target needs stays in the cache. Between two observed sites
the states that matter are picked, and what they carry is added up by way of lists: a haplotype
carries the minor allele at few of the sites of a gap.
"""

from typing import Any

import numba
import numpy as np

from snvrag.compiling import compiled as _compiled
from snvrag.copying.adding import LANES, add_up, carriers_share, describe_near
from snvrag.copying.describing import (
    N_LOGITS,
    REACH_CM,
    count_runs,
    describe_site,
    describe_states,
    is_sure,
    write_features,
)
from snvrag.copying.passes import (
    backward_row,
    forward_pass,
    note_mismatches,
    overlap,
    rows_again,
    switch_between,
)
from snvrag.copying.relatedness import number_cells, related_prior

MAIN_SETTING = 0  # whose posterior the other columns describe
# Rows of a block: what of them is in use at once should stay in a core's own cache.
_BLOCK_BYTES = 1 << 19
_LEAST_ROWS, _MOST_ROWS = 4, 64
# Of more states, only those of a noticeable posterior are looked at one by one between two observed
# sites; the others share the rest of it.
PICK_ABOVE = 1000
_PICK_ALONE_ABOVE = 200
_LEAST_SHARE = 1e-4
_LEAST_ODDS = np.float32(1e-9)
_LOGIT_LIMIT = np.float32(np.log((1 - 1e-4) / 1e-4))


@_compiled()
def _add_reach(
    row: Any, backward: Any, prior: Any, both: Any, ahead: Any, behind: Any, reach: Any
) -> None:
    for k in range(len(reach)):
        reach[k] += row[k] * (both * backward[k] + ahead) + behind * prior[k] * backward[k]


@_compiled()
def _flag(values: Any, least: Any, flags: Any) -> None:
    for k in range(len(values)):
        flags[k] = np.uint8(values[k] > least)


@_compiled()
def _pick_states(
    forward: Any, backward: Any, prior: Any, whole: Any, switches: Any, reach: Any, flags: Any,
    picked: Any,
) -> Any:  # fmt: skip
    """States that may have a noticeable posterior anywhere in a gap, in any setting.

    Fills ``picked``; returns their number. ``reach`` [n] and ``flags`` [n and up to the next
    multiple of 8] are working memory; flags beyond n are 0.
    """
    n = len(reach)
    one = np.float32(1.0)
    reach[:] = np.float32(0.0)
    for s in range(len(forward)):
        switch = switches[s]
        a, b = one / whole[s, 1], one / whole[s, 2]
        scale = one / ((one - switch) * a * b * whole[s, 0] + switch)
        both, ahead, behind = (one - switch) * a * b * scale, switch * a * scale, switch * b * scale
        _add_reach(forward[s], backward[s], prior, both, ahead, behind, reach)
    # Alike states, if there are many, have little each.
    _flag(reach, min(np.float32(_LEAST_SHARE), np.float32(0.5) / np.float32(n)), flags)
    eights = flags.view(np.uint64)
    count = 0
    for i in range(len(eights)):
        if eights[i] != 0:
            for k in range(8 * i, 8 * i + 8):
                picked[count] = k
                count += flags[k]
    return count


@_compiled()
def _impute_target(  # noqa: PLR0912, PLR0915 - a kernel
    columns: Any, rows_of: Any, calls: Any, alleles: Any, core: Any, sites: Any, first: Any,
    edges: Any, count: Any, excluded: Any, g: Any, ratios: Any, switch_left: Any,
    switch_right: Any, cm: Any, probability: Any, features: Any,
) -> None:  # fmt: skip
    """Probabilities and evidence of one target haplotype at the core sites it was not measured at.

    ``columns`` are the columns of the context at which the target has ``calls``, ``rows_of`` their
    rows of ``alleles``. ``features`` has no columns where only the probability, averaged over the
    settings, is wanted.
    """
    wanted = features.shape[1] > 0
    n_settings, n_sites, n_observed = len(g), len(count), len(columns)
    n_all = alleles.shape[1]
    core_end = core + n_sites
    allowed = np.ones(n_all, dtype=np.bool_)
    for e in excluded:
        if e >= 0:
            allowed[e] = False
    own = np.flatnonzero(allowed)
    n = len(own)
    size = np.float32(n)
    one = np.float32(1.0)
    related = n > PICK_ABOVE
    few = related or (n > _PICK_ALONE_ABOVE and not wanted)
    cells = np.zeros(n_observed + 1, dtype=np.int64)
    n_cells = number_cells(columns, cm, cells) if related and n_observed > 0 else 1
    priors = np.zeros((n_cells, n_all), dtype=np.float32)
    if related and n_observed > 0:
        related_prior(columns, rows_of, calls, alleles, cm, cells, allowed, priors)
    else:
        for k in own:
            priors[0, k] = one / size
    cells[n_observed] = cells[n_observed - 1] if n_observed > 0 else 0
    # Forward rows beyond the core's last observed site are not needed.
    last = np.searchsorted(columns, core_end)
    arrays = n_settings + (2 if wanted else 0)
    step = min(max(_BLOCK_BYTES // (4 * n_all * arrays), _LEAST_ROWS), _MOST_ROWS)
    n_blocks = last // step + 1
    kept = np.empty((n_blocks, n_settings, n_all), dtype=np.float32)
    mass = np.ones((n_settings, n_observed + 1), dtype=np.float32)
    block_rows = np.empty((step, n_settings, n_all), dtype=np.float32)
    for s in range(n_settings):
        forward_pass(
            columns, last, alleles, rows_of, calls, g[s], ratios[s], priors, cells, step, mass[s],
            kept[:, s],
        )  # fmt: skip
    edge_left, edge_right = np.float32(cm[0]), np.float32(cm[-1])
    described_states = n_all if wanted else 0
    kept_left = np.empty((n_blocks, 2, described_states), dtype=np.float32)
    left_rows = np.empty((step, 2, described_states), dtype=np.float32)
    left = np.full((2, described_states), edge_left, dtype=np.float32)
    right = np.full((2, described_states), edge_right, dtype=np.float32)
    start = np.full((2, described_states), edge_left, dtype=np.float32)
    if wanted:
        for j in range(last):
            note_mismatches(alleles[rows_of[j]], calls[j], cm[columns[j]], left)
            if j % step == 0:
                kept_left[j // step] = left
    backward = np.ones((n_settings, n_all), dtype=np.float32)
    flat = np.empty((n_settings, n_all), dtype=np.float32)
    flat[:] = priors[0]
    behind = np.ones(n_settings, dtype=np.float32)
    whole = np.empty((n_settings, 3), dtype=np.float32)
    rest = np.empty((n_settings, 3), dtype=np.float32)
    switches = np.empty(n_settings, dtype=np.float32)
    reach = np.empty(n_all if few else 0, dtype=np.float32)
    flags = np.zeros((n_all + 7) // 8 * 8, dtype=np.uint8)
    picked = np.empty(n_all + 8, dtype=np.int64)
    picked[:n] = own
    m = n
    wide = (3 * n_settings + 1 + LANES) // LANES * LANES
    near = np.zeros((n_all, wide), dtype=np.float32)
    described = np.empty((4, described_states), dtype=np.float32)
    described_bits = described.view(np.int32)
    best = np.zeros(10, dtype=np.float32)
    best_bits = best.view(np.int32)
    counts = np.empty(4, dtype=np.float32)
    segments = np.zeros(2, dtype=np.int64)
    sums = np.empty((0, wide), dtype=np.float32)
    hidden = np.empty((0, wide), dtype=np.float32)
    once = np.zeros((1, wide), dtype=np.float32)
    once[0, 0] = one
    local = np.empty((0, 0), dtype=np.uint8)
    unmarked = np.empty((0, 0), dtype=np.uint8)
    bounds = np.empty((3, n_all), dtype=np.int64)
    lone = np.empty(1, dtype=np.int64)
    held = -1
    squares, low, high = one, cm[0], cm[0]
    for gap in range(n_observed, -1, -1):
        # The gap's sites lie between observed sites gap - 1 and gap.
        begin = max(columns[gap - 1] + 1, core) if gap > 0 else core
        end = min(columns[gap], core_end) if gap < n_observed else core_end
        if begin < end:
            j = gap - 1
            block, inside = j // step, j % step
            if gap > 0 and block != held:
                held = block
                top, stop = block * step, min(last, (block + 1) * step)
                block_rows[0] = kept[block]
                rows_again(
                    top, stop, columns, alleles, rows_of, calls, g, ratios, priors, cells, mass,
                    block_rows,
                )  # fmt: skip
                if wanted:
                    left_rows[0] = kept_left[block]
                    for at in range(top + 1, stop):
                        left_rows[at - top] = left_rows[at - top - 1]
                        note_mismatches(
                            alleles[rows_of[at]], calls[at], cm[columns[at]], left_rows[at - top]
                        )
            ahead = block_rows[inside] if gap > 0 else flat
            prior = priors[cells[gap]]
            for s in range(n_settings):
                whole[s, 0] = overlap(ahead[s], backward[s])
                whole[s, 1] = mass[s, gap - 1] if gap > 0 else one
                whole[s, 2] = behind[s]
                inner = 0 < gap < n_observed
                switches[s] = switch_between(g[s], columns[gap - 1], columns[gap]) if inner else one
            if few:
                m = _pick_states(ahead, backward, prior, whole, switches, reach, flags, picked)
            width = end - begin
            if len(sums) < width:
                sums = np.empty((width, wide), dtype=np.float32)
                hidden = np.zeros((width, wide), dtype=np.float32)
            if wanted and (len(local) < width or local.shape[1] < m):
                local = np.empty((max(width, len(local)), max(m, local.shape[1])), dtype=np.uint8)
            sums[:width] = np.float32(0.0)
            others = describe_near(ahead, backward, prior, picked[:m], near[:m], whole, rest)
            segments[0] = np.searchsorted(edges, begin - core, side="right") - 1
            segments[1] = np.searchsorted(edges, end - core, side="left")
            if wanted:
                low = cm[columns[gap - 1]] if gap > 0 else cm[0]
                high = cm[columns[gap]] if gap < n_observed else cm[len(cm) - 1]
                lefts = left_rows[inside] if gap > 0 else start
                squares = describe_states(
                    picked[:m], near[:m, 3 * MAIN_SETTING], whole[MAIN_SETTING, 0], lefts, right,
                    low, high, described,
                )  # fmt: skip
                for at in range(width):
                    local[at, :m] = 0
                marks = local
            else:
                marks = unmarked
            add_up(
                segments, begin - core, end - core, sites, first, picked[:m], bounds,
                near[:m], sums, marks,
            )  # fmt: skip
            n_hidden = 0
            for e in excluded:
                if e >= 0:
                    if n_hidden == 0:
                        hidden[:width] = np.float32(0.0)
                    n_hidden += 1
                    lone[0] = e
                    add_up(
                        segments, begin - core, end - core, sites, first, lone, bounds,
                        once, hidden, unmarked,
                    )  # fmt: skip
            spread = one / max(size - np.float32(m), one)
            left_row = rows_of[gap - 1] if gap > 0 else -1
            right_row = rows_of[gap] if gap < n_observed else len(alleles)
            adjacent = right_row - left_row == 1
            for site in range(begin, end):
                at = site - core
                found = sums[site - begin]
                carried = np.float32(count[at])
                if n_hidden > 0:
                    carried -= hidden[site - begin, 0]
                share = (carried - found[3 * n_settings + 1]) * spread
                mean = np.float32(0.0)
                for s in range(n_settings):
                    r1, r2 = switch_left[s, at], switch_right[s, at]
                    if not adjacent:
                        r1 = switch_between(g[s], columns[gap - 1], site) if gap > 0 else one
                        r2 = switch_between(g[s], site, columns[gap]) if gap < n_observed else one
                    value = carriers_share(
                        found[3 * s] + share * rest[s, 0], found[3 * s + 1] + share * rest[s, 1],
                        found[3 * s + 2] + share * rest[s, 2],
                        found[3 * n_settings] + share * others, whole[s], r1, r2,
                    )  # fmt: skip
                    value = min(max(value, np.float32(0.0)), one)  # large sums round
                    mean += value
                    if wanted:
                        odds = max(value, _LEAST_ODDS) / max(one - value, _LEAST_ODDS)
                        features[at, s] = min(max(np.log(odds), -_LOGIT_LIMIT), _LOGIT_LIMIT)
                if not wanted:
                    probability[at] = mean / np.float32(n_settings)
                    continue
                if is_sure(features[at], n_settings):
                    features[at, N_LOGITS] = np.float32(np.log2(1.0 + carried))
                    continue
                here = marks[site - begin]
                describe_site(here, m, described_bits, best_bits)
                count_runs(here, m, described[1], best, counts)
                to_left = min(cm[site] - low, REACH_CM) if gap > 0 else REACH_CM
                to_right = min(high - cm[site], REACH_CM) if gap < n_observed else REACH_CM
                write_features(features[at], carried, n, to_left, to_right, squares, best, counts)
        if gap == 0 or columns[gap - 1] < core:
            break
        j = gap - 1
        row = alleles[rows_of[j]]
        for s in range(n_settings):
            switch = one if gap == n_observed else switch_between(g[s], columns[j], columns[gap])
            keep = (one - switch) / behind[s]
            behind[s] = backward_row(
                backward[s], keep, switch, priors[cells[j]], row, calls[j], ratios[s]
            )
            # No sum counts them, so that nothing else keeps them from growing without bound.
            for e in excluded:
                if e >= 0:
                    backward[s, e] = np.float32(0.0)
        if wanted:
            note_mismatches(row, calls[j], cm[columns[j]], right)


@_compiled(parallel=True)
def impute_targets(
    observed: Any, at_observed: Any, core: Any, sites: Any, first: Any, edges: Any, count: Any,
    excluded: Any, targets: Any, g: Any, ratios: Any, switch_left: Any, switch_right: Any,
    cm: Any, probability: Any, features: Any,
) -> None:  # fmt: skip
    """All targets; fills ``features`` [T, L, N_FEATURES], or ``probability`` [T, L] if F is 0."""
    for t in numba.prange(len(targets)):
        others = np.ones(at_observed.shape[1], dtype=np.bool_)
        others[excluded[t][excluded[t] >= 0]] = False
        if not others.any():
            features[t, :, :N_LOGITS] = -_LOGIT_LIMIT
            continue
        called = np.flatnonzero(targets[t] >= 0)
        _impute_target(
            observed[called], called, targets[t][called], at_observed, core, sites, first, edges,
            count, excluded[t], g, ratios, switch_left, switch_right, cm, probability[t],
            features[t],
        )  # fmt: skip
