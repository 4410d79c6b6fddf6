"""What an index directory can hold: packed alleles, or the embeddings of the original design."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.config import MaskConfig
from snvrag.errors import InputError, UsageError
from snvrag.masking import VALIDATION_VERSION, MaskMaker
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
        alleles = self.panel.site_alleles(bounds.start, bounds.end)
        return BinaryIndex.of_sites(alleles, self.plan.config.window_size)

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
        self.length = plan.config.max_seq_len
        self.masks = MaskMaker(panel.chromosomes(), panel.positions, panel.af, MaskConfig(), seed=0)

    def settings(self) -> dict[str, Any]:
        """Fingerprint of the weights, and the validation masks' version, rates and seed."""
        mask = self.masks.config
        return {
            "weights_fingerprint": self.embedder.fingerprint,
            "mask_version": VALIDATION_VERSION,
            "mask_patterns": list(mask.validation_patterns),
            "mask_rate": mask.validation_rate,
            "mask_spacing": mask.validation_spacing,
            "mask_observed": mask.validation_observed,
            "mask_seed": mask.validation_seed,
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
        return ~self.masks.validation(bounds.start, bounds.end, window=window), af


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
