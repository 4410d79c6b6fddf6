"""Forward and backward passes of the copying model over the observed sites, compiled by numba."""

from typing import Any

import numpy as np

from snvrag.compiling import compiled as _compiled


@_compiled()
def switch_between(g: Any, a: Any, b: Any) -> Any:
    """R between two sites of genetic coordinates g."""
    return np.float32(1.0 - np.exp(g[a] - g[b]))


@_compiled()
def _forward_row(
    previous: Any, scale: Any, switch: Any, prior: Any, alleles: Any, call: Any, ratio: Any,
    row: Any,
) -> Any:  # fmt: skip
    """One step of the forward pass, not normalised; returns the row's sum."""
    mass = np.float32(0.0)
    for k in range(len(row)):
        value = previous[k] * scale + switch * prior[k]
        value = value * ratio if alleles[k] != call else value
        row[k] = value
        mass += value
    return mass


@_compiled()
def backward_row(
    backward: Any, keep: Any, switch: Any, prior: Any, alleles: Any, call: Any, ratio: Any
) -> Any:
    """One step of the backward pass in place, not normalised; returns Σ π B."""
    behind = np.float32(0.0)
    for k in range(len(backward)):
        value = backward[k] * keep + switch
        value = value * ratio if alleles[k] != call else value
        backward[k] = value
        behind += value * prior[k]
    return behind


@_compiled()
def note_mismatches(alleles: Any, call: Any, cm: Any, places: Any) -> None:
    """Where states err, move their nearest and second nearest mismatch, ``places`` [2, n] in cM."""
    at, nearest, second = np.float32(cm), places[0], places[1]
    for k in range(len(nearest)):
        errs = alleles[k] != call
        second[k] = nearest[k] if errs else second[k]
        nearest[k] = at if errs else nearest[k]


@_compiled()
def overlap(row: Any, backward: Any) -> Any:
    """Σ A B."""
    total = np.float32(0.0)
    for k in range(len(row)):
        total += row[k] * backward[k]
    return total


@_compiled()
def forward_pass(
    columns: Any, last: Any, alleles: Any, rows: Any, calls: Any, g: Any, ratio: Any, prior: Any,
    cells: Any, step: Any, mass: Any, kept: Any,
) -> None:  # fmt: skip
    """The first ``last`` rows of one setting: all sums to ``mass``, each ``step``-th row kept.

    ``prior`` [cells, n] is π, ``cells`` says which row of it holds at an observed site.
    """
    one = np.float32(1.0)
    buffers = np.zeros((2, alleles.shape[1]), dtype=np.float32)
    for j in range(last):
        row, before = buffers[j % 2], buffers[(j + 1) % 2]
        switch = switch_between(g, columns[j - 1], columns[j]) if j > 0 else one
        scale = (one - switch) / mass[j - 1] if j > 0 else one
        mass[j] = _forward_row(
            before, scale, switch, prior[cells[j]], alleles[rows[j]], calls[j], ratio, row
        )
        if j % step == 0:
            kept[j // step] = row


@_compiled()
def rows_again(
    first: Any, stop: Any, columns: Any, alleles: Any, rows: Any, calls: Any, g: Any, ratios: Any,
    prior: Any, cells: Any, mass: Any, block: Any,
) -> None:  # fmt: skip
    """Forward rows ``first + 1`` to ``stop - 1``; ``block[0]`` is row ``first``."""
    for j in range(first + 1, stop):
        i = j - first
        for s in range(len(g)):
            switch = switch_between(g[s], columns[j - 1], columns[j])
            scale = (np.float32(1.0) - switch) / mass[s, j - 1]
            _forward_row(
                block[i - 1, s], scale, switch, prior[cells[j]], alleles[rows[j]], calls[j],
                ratios[s], block[i, s],
            )  # fmt: skip
