"""Retrieval through the network's own embedding while it is being trained: the original design.

It returns the neighbours that packed alleles return, at a far higher price (docs/guide.md), and
serves as their oracle, and embeddings that are not additive. The index of a window depends on
weights and mask. The mask is always the batch's own; of the weights a copy is kept that is
renewed at each epoch's start, or never.
"""

import copy
import logging

import numpy as np
from numpy.typing import NDArray

from snvrag.config import REFRESH_EPOCH
from snvrag.model import SiteEmbedder, SiteEmbedding
from snvrag.retrieval import EmbeddingIndex, Neighbours

logger = logging.getLogger(__name__)


class LiveEmbedding:
    """Float indexes of the window at hand, by a copy of a network's embedding.

    Args:
        embedding: the network's embedding, which training changes.
        max_seq_len: tokens per row.
        refresh: ``epoch`` or ``never``.
        keep: bool [haplotypes]; the others are never found.
    """

    def __init__(
        self, embedding: SiteEmbedding, max_seq_len: int, refresh: str, keep: NDArray[np.bool_]
    ) -> None:
        self.builds = 0
        self._live, self._length, self._refresh, self._keep = embedding, max_seq_len, refresh, keep
        self._embedder = self._renewed()
        self._told = False
        self._key: tuple[int, bytes] | None = None
        self._index: EmbeddingIndex | None = None

    def _renewed(self) -> SiteEmbedder:
        return SiteEmbedder(copy.deepcopy(self._live).cpu())

    @property
    def fingerprint(self) -> str:
        """Of the weights that the indexes are built with."""
        return self.copy.fingerprint()

    @property
    def copy(self) -> SiteEmbedding:
        """The embedding that the indexes are built with, which a resumed run must go on with."""
        return self._embedder.embedding

    @property
    def is_stale(self) -> bool:
        """Whether the network has moved on since."""
        return self._live.fingerprint() != self.fingerprint

    def begin_epoch(self, epoch: int) -> None:
        """Apply the policy at the start of ``epoch`` (from 0), and say so where weights differ."""
        if not self.is_stale:
            return
        old, new = self.fingerprint[:8], self._live.fingerprint()[:8]
        if self._refresh == REFRESH_EPOCH:
            self._embedder = self._renewed()
            self._key = self._index = None
            logger.info(
                "embedding index: weights are %s, not %s: built anew from epoch %d on",
                *(new, old, epoch + 1),
            )
        elif not self._told:
            self._told = True
            logger.warning(
                "embedding index: stays with weights %s, the network has %s "
                "(--refresh-index never)",
                *(old, new),
            )

    def search(
        self,
        window: int,
        reference: NDArray[np.uint8],
        observed: NDArray[np.bool_],
        af: NDArray[np.float32],
        queries: NDArray[np.uint8],
        k: int,
        exclude: NDArray[np.int64],
    ) -> Neighbours:
        """The ``k`` nearest haplotypes within one window of n sites.

        Args:
            window: its number.
            reference: uint8 [haplotypes, n].
            observed: bool [n]; no other site takes part.
            af: float32 [n].
            queries: uint8 [R, n].
            k: neighbours per query.
            exclude: int64 [R, E], haplotypes that a query must not find; -1 is none.
        """
        key = (window, observed.tobytes())
        if self._index is None or key != self._key:
            # The old one goes first: two of a large panel may not fit.
            self._key, self._index = key, None
            self._index = EmbeddingIndex.build(
                reference, observed, af, self._embedder, self._length, self._keep
            )
            self.builds += 1
        return self._index.search(queries, k, exclude)
