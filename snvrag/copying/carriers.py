"""Who carries the minor allele of each site: compiled passes over whole panels."""

from typing import Any

import numpy as np

from snvrag.compiling import compiled as _compiled

# Sums of this many bytes of 0 or 1 fit a byte.
_FITS = 255


@_compiled()
def _count(row: Any) -> Any:
    """Σ row, of values 0 and 1; eight bytes at a time."""
    n_words = len(row) // 8
    words = row[: 8 * n_words].view(np.uint64)
    total = np.int64(0)
    for begin in range(0, n_words, _FITS):
        lanes = np.uint64(0)
        for word in words[begin : begin + _FITS]:
            lanes += word
        for _ in range(8):
            total += np.int64(lanes & np.uint64(255))
            lanes >>= np.uint64(8)
    for k in range(8 * n_words, len(row)):
        total += row[k]
    return total


@_compiled()
def to_minor(alleles: Any, others: Any, n_judges: Any, minor_is_alt: Any, first: Any) -> None:
    """Turn ALT alleles into minor ones, in place.

    Args:
        alleles: uint8 [L, n], 1 is ALT; afterwards 1 is the minor allele.
        others: int64, haplotypes whose alleles do not decide which one is minor.
        n_judges: how many do.
        minor_is_alt: bool [L], filled.
        first: int64 [L + 1], filled: where each site's carriers of the minor allele begin in a
            list of all sites'.
    """
    n = alleles.shape[1]
    first[0] = 0
    for site in range(len(alleles)):
        row = alleles[site]
        count = _count(row)
        judged = count
        for k in others:
            judged -= row[k]
        minor_is_alt[site] = 2 * judged <= n_judges
        if not minor_is_alt[site]:
            for k in range(n):
                row[k] ^= np.uint8(1)
            count = n - count
        first[site + 1] = first[site] + count


@_compiled()
def list_carriers(carried: Any, carriers: Any) -> None:
    """Column numbers of the ones in ``carried`` uint8 [L, n], row after row: int32, filled."""
    n = carried.shape[1]
    n_words = n // 8
    at = 0
    for row in carried:
        words = row[: 8 * n_words].view(np.uint64)
        for i in range(n_words):
            if words[i]:
                for k in range(8 * i, 8 * i + 8):
                    if row[k]:
                        carriers[at] = k
                        at += 1
        for k in range(8 * n_words, n):
            if row[k]:
                carriers[at] = k
                at += 1
