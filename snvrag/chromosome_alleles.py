"""A panel's alleles of one chromosome, a chunk at a time: read in pieces, and mostly once."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from snvrag.chunks import PIECE_SITES, Chunk
from snvrag.copying import Reference
from snvrag.panel import Panel


class ChromosomeAlleles:
    """Keeps the alleles at observed sites that were read with a chunk for the chunks beside it.

    Args:
        panel: the reference panel.
        observed: int64, panel rows that the target has calls of, increasing.
        chrom: the chromosome.
        judges: bool [n], whose alleles decide which one is minor; see
            :meth:`snvrag.copying.Reference.of_core`.
    """

    def __init__(
        self, panel: Panel, observed: NDArray[np.int64], chrom: str, judges: NDArray[np.bool_]
    ) -> None:
        self.chrom = chrom
        self._panel = panel
        # Where most of the panel is the target, too few are left to say which allele is minor.
        self._judges = judges if 2 * judges.sum() >= len(judges) else None
        start = 0
        for name, n_sites in panel.chromosomes():
            if name == chrom:
                break
            start += n_sites
        self._rows = observed[slice(*np.searchsorted(observed, [start, start + n_sites]))]
        self._alleles = np.empty((len(self._rows), panel.n_haplotypes), dtype=np.uint8)
        self._known = np.zeros(len(self._rows), dtype=bool)

    def reference(self, chunk: Chunk) -> Reference:
        """What the chunk's targets copy from.

        Raises:
            InputError: the stored genotypes are damaged or incomplete there.
        """
        self._read_observed(chunk.first, chunk.start)
        self._read_observed(chunk.end, chunk.last)
        low, high = np.searchsorted(self._rows, [chunk.first, chunk.last])
        return Reference.of_core(
            self._pieces(chunk.start, chunk.end),
            chunk.start - chunk.first,
            self._rows[low:high] - chunk.first,
            self._alleles[low:high],
            self._judges,
        )

    def _pieces(self, start: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """Alleles [sites, n] of ``[start, end)`` in pieces; notes those at observed sites."""
        for first, last in _pieces_of(start, end):
            alleles = self._panel.site_alleles(first, last)
            low, high = np.searchsorted(self._rows, [first, last])
            self._alleles[low:high] = alleles[self._rows[low:high] - first]
            self._known[low:high] = True
            yield alleles

    def _read_observed(self, start: int, end: int) -> None:
        """Make sure that the observed sites of ``[start, end)`` are known."""
        for first, last in _pieces_of(start, end):
            if not self._known[slice(*np.searchsorted(self._rows, [first, last]))].all():
                for _ in self._pieces(first, last):
                    pass


def _pieces_of(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Pieces of ``[start, end)`` that are chunks of the file, which are read fastest."""
    inner = range((start // PIECE_SITES + 1) * PIECE_SITES, end, PIECE_SITES)
    return pairwise([start, *inner, end] if start < end else [])
