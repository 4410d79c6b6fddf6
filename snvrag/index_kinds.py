"""What an index directory can hold: packed alleles, or the embeddings of the original design."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.config import MaskConfig
from snvrag.errors import InputError, UsageError
from snvrag.masking import validation_mask
from snvrag.panel import Panel
from snvrag.retrieval import BinaryIndex, Embedder, EmbeddingIndex
from snvrag.windows import WindowPlan

KINDS = ("binary", "embedding")


class BinaryKind:
    """Packed alleles: depend on panel and windows only, so they are valid for ever."""

    name = "binary"

    def __init__(self, panel: Panel, plan: WindowPlan) -> None:
        self.panel, self.plan = panel, plan

    def settings(self) -> dict[str, Any]:
        """Nothing: no weights, no mask."""
        return {}

    def build(self, window: int) -> BinaryIndex:
        """Pack the window's alleles."""
        bounds = self.plan.windows[window]
        alleles = self.panel.alleles(bounds.start, bounds.end)
        return BinaryIndex.build(alleles, self.plan.config.window_size)

    def load(self, data: bytes, window: int, path: Path) -> BinaryIndex:
        """Read back packed alleles, checking their shape."""
        index = BinaryIndex.from_bytes(data, self.plan.windows[window].n_snps, path)
        expected = (self.panel.n_haplotypes, -(-self.plan.config.window_size // 8))
        if index.codes.shape != expected:
            raise InputError(f"{path}: holds {index.codes.shape} bytes, not {expected}")
        return index


class EmbeddingKind:
    """Embedded masked haplotypes: depend on weights and mask, and say so in the manifest."""

    name = "embedding"

    def __init__(self, panel: Panel, plan: WindowPlan, embedder: Embedder) -> None:
        self.panel, self.plan, self.embedder = panel, plan, embedder
        self.mask, self.length = MaskConfig(), plan.config.max_seq_len

    def settings(self) -> dict[str, Any]:
        """Fingerprint of the weights, and the mask's version, rate and seed."""
        return {
            "weights_fingerprint": self.embedder.fingerprint,
            "mask_version": "validation-1",
            "mask_rate": self.mask.validation_rate,
            "mask_seed": self.mask.validation_seed,
        }

    def build(self, window: int) -> EmbeddingIndex:
        """Embed the window's haplotypes under the validation mask."""
        bounds = self.plan.windows[window]
        alleles = self.panel.alleles(bounds.start, bounds.end)
        observed, af = self._pattern(window)
        return EmbeddingIndex.build(alleles, observed, af, self.embedder, self.length)

    def load(self, data: bytes, window: int, path: Path) -> EmbeddingIndex:
        """Read back embedded haplotypes."""
        observed, af = self._pattern(window)
        return EmbeddingIndex.from_bytes(data, path, observed, af, self.embedder, self.length)

    def _pattern(self, window: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        bounds = self.plan.windows[window]
        af = self.panel.af[bounds.start : bounds.end]
        return ~validation_mask(af, bounds.start, self.mask), af


Kind = BinaryKind | EmbeddingKind


def make_kind(name: str, panel: Panel, plan: WindowPlan, embedder: Embedder | None) -> Kind:
    """The kind called ``name``.

    Raises:
        UsageError: there is none, or it needs an embedding.
    """
    if name not in KINDS:
        raise UsageError(f"--kind {name}: unknown kind", f"one of {', '.join(KINDS)}")
    if name == BinaryKind.name:
        return BinaryKind(panel, plan)
    if embedder is None:
        raise UsageError(f"--kind {name}: needs an embedding", "give one as embedder=")
    return EmbeddingKind(panel, plan, embedder)
