"""A trained RAG-BERT at work: target haplotypes in, probabilities at every panel site out.

The light network has :mod:`snvrag.light`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snvrag.batch import network_inputs
from snvrag.chunks import Chunk
from snvrag.dataset import ranking_sites, window_alleles
from snvrag.dosage import leave_one_out_counts
from snvrag.index_store import IndexStore
from snvrag.model import RagBert
from snvrag.panel import Panel
from snvrag.retrieval import Neighbours
from snvrag.target import TargetCalls
from snvrag.trained_run import TrainedRun
from snvrag.windows import Window

_NO_HAPLOTYPE = -1
# Rows of a window that go through the network at once.
_ROWS = 16
# Vectors of D floats per token that a forward pass holds at once, encoded haplotypes left out.
_VECTORS = 16


def forward_bytes(run: TrainedRun, network: RagBert) -> int:
    """Bytes of a network's weights and of one forward pass."""
    config = run.config.model
    per_token = 4 * config.dims * (_VECTORS + 3 * config.k)
    return 4 * network.parameter_count() + _ROWS * run.config.windows.max_seq_len * per_token


@dataclass(frozen=True, slots=True)
class Refiner:
    """A network that reads whole windows, with what it looks things up in.

    ``exclude`` is int64 [H, 2], panel haplotypes that a target haplotype must not see; -1 is none.
    """

    run: TrainedRun
    network: RagBert
    panel: Panel
    store: IndexStore
    """Haplotype indexes."""
    target: TargetCalls
    exclude: NDArray[np.int64]
    device: torch.device

    @torch.inference_mode()
    def logits(
        self,
        chunk: Chunk,
        some: slice,
        minor_is_alt: NDArray[np.bool_],
        features: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """See :meth:`snvrag.networks.Refines.logits`."""
        parts = []
        for window in self.store.plan.windows:
            if chunk.start <= window.start < chunk.end:
                sites = slice(window.start - chunk.start, window.end - chunk.start)
                rows = [
                    self._window(
                        window,
                        slice(first, min(first + _ROWS, some.stop)),
                        features[first - some.start : first - some.start + _ROWS, sites],
                        minor_is_alt[sites],
                    )
                    for first in range(some.start, some.stop, _ROWS)
                ]
                parts.append(np.concatenate(rows))
        return np.concatenate(parts, axis=1)

    def _window(
        self,
        window: Window,
        some: slice,
        features: NDArray[np.float32],
        minor_is_alt: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Logits of ALT [T, n] for one window, by a network that reads whole windows."""
        config = self.run.config
        context, start, end = self.store.context(window.index, config.train.flank_windows)
        observed, calls = self.target.observed(start, end)
        known = np.zeros((some.stop - some.start, end - start), dtype=bool)
        known[:, observed] = calls[some] >= 0
        alleles = np.zeros(known.shape, dtype=np.uint8)
        alleles[:, observed] = calls[some].clip(min=0)
        first, last = window.start - start, window.end - start
        found = self._nearest(context, known, alleles, first, last, self.exclude[some])
        inputs = network_inputs(
            alleles=alleles[:, first:last],
            masked=~known[:, first:last],
            af=self._frequencies(window, self.exclude[some]),
            row_sample=np.arange(len(known)),
            donors=window_alleles(self.store, window.index, found.ids),
            found=found,
            features=features,
            minor_is_alt=minor_is_alt,
            length=config.windows.max_seq_len,
            device=self.device,
        )
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"
        ):
            logits = self.network(**inputs)
        sites: NDArray[np.float32] = logits[:, 1 : 1 + window.n_snps].float().cpu().numpy()
        return sites

    def _nearest(
        self,
        context: Any,
        known: NDArray[np.bool_],
        alleles: NDArray[np.uint8],
        first: int,
        last: int,
        exclude: NDArray[np.int64],
    ) -> Neighbours:
        """The nearest panel haplotypes, one masked copy of the index per pattern of calls."""
        config = self.run.config
        patterns, group = np.unique(known, axis=0, return_inverse=True)
        ids = np.full((len(known), config.model.k), _NO_HAPLOTYPE, dtype=np.int64)
        distances = np.full(ids.shape, -1, dtype=np.int32)
        for number, pattern in enumerate(patterns):
            rows = np.flatnonzero(group.ravel() == number)
            ranking = ranking_sites(pattern, first, last, config.train)
            found = context.masked(ranking).search(
                alleles[rows], config.model.k, exclude[rows], device=str(self.device)
            )
            ids[rows], distances[rows] = found.ids, found.distances
        return Neighbours(ids, distances)

    def _frequencies(self, window: Window, exclude: NDArray[np.int64]) -> NDArray[np.float32]:
        """ALT frequency float32 [T, n] without the haplotypes that a target must not see."""
        sites = slice(window.start, window.end)
        ac, an = self.panel.ac[sites], self.panel.an[sites]
        own_n = (exclude >= 0).sum(axis=1, keepdims=True)
        own_alt = np.zeros((len(exclude), window.n_snps), dtype=np.int64)
        for row in np.flatnonzero(own_n[:, 0]):
            ids = exclude[row][exclude[row] >= 0]
            own_alt[row] = self.store.get(window.index).alleles(ids).sum(axis=0)
        counts, totals = leave_one_out_counts(ac, an, own_alt, own_n)
        return (counts / np.maximum(totals, 1)).astype(np.float32)
