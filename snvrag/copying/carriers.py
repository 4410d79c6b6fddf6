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
def to_minor(alleles: Any, others: Any, n_judges: Any, minor_is_alt: Any, counts: Any) -> None:
    """Turn ALT alleles into minor ones, in place.

    Args:
        alleles: uint8 [L, n], 1 is ALT; afterwards 1 is the minor allele.
        others: int64, haplotypes whose alleles do not decide which one is minor.
        n_judges: how many do.
        minor_is_alt: bool [L], filled.
        counts: int64 [L], filled: carriers of the minor allele.
    """
    n = alleles.shape[1]
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
        counts[site] = count


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


@_compiled()
def list_sites(carriers: Any, counts: Any, edges: Any, first: Any, sites: Any) -> None:
    """Turn lists of each site's carriers into lists of each haplotype's sites, by segment.

    Args:
        carriers: int32, of all sites, as :func:`list_carriers` fills them.
        counts: int64 [L], how many each site has.
        edges: int64 [segments + 1], where segments begin.
        first: int32 [segments, n + 1], filled: where each haplotype's sites begin and end.
        sites: int32, filled: sites of the first segment's first haplotype, then of its second, …
    """
    n = first.shape[1] - 1
    filled = np.empty(n, dtype=np.int32)
    begin = 0
    for segment in range(len(edges) - 1):
        end = begin + counts[edges[segment] : edges[segment + 1]].sum()
        filled[:] = 0
        for h in carriers[begin:end]:
            filled[h] += 1
        first[segment, 0] = begin
        for h in range(n):
            first[segment, h + 1] = first[segment, h] + filled[h]
            filled[h] = first[segment, h]
        at = begin
        for site in range(edges[segment], edges[segment + 1]):
            for h in carriers[at : at + counts[site]]:
                sites[filled[h]] = site
                filled[h] += 1
            at += counts[site]
        begin = end
