"""Whom a target haplotype is likely to copy next, by how it has matched nearby; compiled by numba.

In a large panel most haplotypes are of other ancestry than the target. Those that share long runs
with it within a few centimorgans are the ones to switch to, also where many others happen to match:

    π_k ∝ max(Σ_c run_c(k), 0.02)³

over the cell of 1 cM in which the switch falls and its two neighbours, run_c(k) in cM the longest
run of identity of haplotype k and the target within cell c. (Measured with 5,008 haplotypes of 3
populations: powers 1 to 4, cells of 0.5 and 1 cM; among 480 of one population it changes nothing
and is not used.) The idea is Beagle's, which lets a
target copy from haplotypes of long identity by state only (Browning, Zhou & Browning 2018).
"""

from typing import Any

import numpy as np

from snvrag.compiling import compiled as _compiled

CELL_CM = 1.0
_LEAST_CM = np.float32(0.02)


@_compiled()
def _note_runs(alleles: Any, call: Any, cm: Any, left: Any, longest: Any) -> None:
    """A run ends where a state errs: ``left`` is where it began, both float32 [n] in cM."""
    at = np.float32(cm)
    for k in range(len(left)):
        errs = alleles[k] != call
        longest[k] = max(longest[k], at - left[k]) if errs else longest[k]
        left[k] = at if errs else left[k]


@_compiled()
def _close(end: Any, left: Any, longest: Any) -> None:
    for k in range(len(left)):
        longest[k] = max(longest[k], end - left[k])


@_compiled()
def number_cells(columns: Any, cm: Any, cells: Any) -> Any:
    """Number, from 0 on, the cells that hold observed sites: ``cells`` [J]; returns how many."""
    count = 0
    for j in range(len(columns)):
        if j > 0 and cm[columns[j]] // CELL_CM > cm[columns[j - 1]] // CELL_CM:
            count += 1
        cells[j] = count
    return count + 1


@_compiled()
def related_prior(
    columns: Any, rows: Any, calls: Any, alleles: Any, cm: Any, cells: Any, allowed: Any,
    prior: Any,
) -> None:  # fmt: skip
    """Fill ``prior`` [cells, n] with π, 0 for haplotypes that are not ``allowed``."""
    n_cells, n = prior.shape
    longest = np.zeros((n_cells, n), dtype=np.float32)
    place = np.empty(n_cells, dtype=np.float64)
    left = np.empty(n, dtype=np.float32)
    for j in range(len(columns)):
        cell, number = cells[j], cm[columns[j]] // CELL_CM
        if j == 0 or cells[j - 1] != cell:
            place[cell] = number
            left[:] = np.float32(max(number * CELL_CM, cm[0]))
        _note_runs(alleles[rows[j]], calls[j], cm[columns[j]], left, longest[cell])
        if j + 1 == len(columns) or cells[j + 1] != cell:
            end = np.float32(min((number + 1) * CELL_CM, cm[-1]))
            _close(end, left, longest[cell])
    for cell in range(n_cells):
        row = prior[cell]
        row[:] = longest[cell]
        if cell > 0 and place[cell - 1] == place[cell] - 1:
            row += longest[cell - 1]
        if cell + 1 < n_cells and place[cell + 1] == place[cell] + 1:
            row += longest[cell + 1]
        total = np.float32(0.0)
        for k in range(n):
            value = max(row[k], _LEAST_CM)
            value = value * value * value if allowed[k] else np.float32(0.0)
            row[k] = value
            total += value
        row *= np.float32(1.0) / total
