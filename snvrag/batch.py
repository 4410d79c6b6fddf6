"""One batch of haplotypes of one window: what is asked, what is true, and the network's tensors."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snvrag.copying import Bank, Reference, copying_evidence, copying_probability
from snvrag.distributed import to_device
from snvrag.model import allele_tokens, prior_logit, to_sequence
from snvrag.retrieval import Neighbours
from snvrag.windows import Window

_INPUTS = (
    "tokens",
    "af",
    "row_sample",
    "retrieved",
    "distances",
    "valid",
    "features",
    "sign",
)


@dataclass(frozen=True, slots=True)
class CopyingCase:
    """What the copying model is asked about one batch of R haplotypes."""

    reference: Reference
    calls: NDArray[np.int8]
    """int8 [R, J]."""
    cm: NDArray[np.float64]
    """float64, of every site of the context."""
    bp: NDArray[np.int64]
    """int64, likewise."""
    exclude: NDArray[np.int64]
    """int64 [R, e], into the reference's haplotypes; -1 is none."""

    def evidence(self, bank: Bank) -> NDArray[np.float32]:
        """float32 [R, n, N_FEATURES]; see :func:`snvrag.copying.copying_evidence`."""
        return copying_evidence(
            self.reference, self.calls, self.cm, self.bp, exclude=self.exclude, bank=bank
        )

    def minor_probability(self, bank: Bank) -> NDArray[np.float32]:
        """P(minor allele) by one setting or the average of several: float32 [R, n]."""
        alt = copying_probability(
            self.reference, self.calls, self.cm, self.bp, exclude=self.exclude, bank=bank
        )
        return np.where(self.reference.minor_is_alt, alt, 1 - alt)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of the R haplotypes of S samples in one window of n sites."""

    alleles: NDArray[np.uint8]
    """uint8 [R, n]."""
    af: NDArray[np.float32]
    """float32 [S, n]: ALT frequency among haplotypes of other samples."""
    row_sample: NDArray[np.int64]
    """int64 [R]."""
    scored: NDArray[np.bool_]
    """bool [R, n]: masked sites at which another sample carries each allele."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as tensors: R haplotypes of S samples, L tokens, K retrieved haplotypes.

    Per-site values stand behind the SOS: site i of the window is position i + 1.
    """

    window: Window
    tokens: Tensor
    """int64 [R, L]."""
    af: Tensor
    """float32 [S, L]: ALT frequency among haplotypes of other samples."""
    row_sample: Tensor
    """int64 [R]: which of the S samples a row belongs to."""
    retrieved: Tensor
    """int64 [R, K, L]: tokens of the K haplotypes that are encoded, complete."""
    distances: Tensor
    """float32 [R, K]."""
    valid: Tensor
    """bool [R, K]."""
    features: Tensor
    """float32 [R, L, N_FEATURES]: evidence of the copying model; zero where there is none."""
    sign: Tensor
    """float32 [L]: 1 where the minor allele is ALT, -1 where it is REF."""
    nearest: Tensor
    """float32 [R, L]: allele of the nearest haplotype, a baseline."""
    labels: Tensor
    """float32 [R, L]: true alleles."""
    scored: Tensor
    """bool [R, L]: masked sites at which another sample carries each allele."""

    def inputs(self) -> dict[str, Tensor]:
        """What a network takes; see :meth:`snvrag.model.Network.forward`."""
        return {name: getattr(self, name) for name in _INPUTS}

    @property
    def copying_logit(self) -> Tensor:
        """The copying model's own answer, logit of ALT: float32 [R, L]."""
        return self.sign * prior_logit(self.features)

    @property
    def n_scored(self) -> int:
        """Number of positions that count in loss and metrics."""
        return int(self.scored.sum())

    def parts(self, max_rows: int) -> Iterator["Batch"]:
        """Cut into batches of at most ``max_rows`` haplotypes, whole samples each."""
        counts = torch.bincount(self.row_sample, minlength=len(self.af)).cpu().numpy()
        first_sample = first_row = 0
        while first_sample < len(counts):
            last_sample, last_row = first_sample, first_row
            while last_sample < len(counts) and (
                last_sample == first_sample
                or last_row + counts[last_sample] - first_row <= max_rows
            ):
                last_row += int(counts[last_sample])
                last_sample += 1
            yield self._rows(slice(first_row, last_row), slice(first_sample, last_sample))
            first_sample, first_row = last_sample, last_row

    def _rows(self, rows: slice, samples: slice) -> "Batch":
        return Batch(
            window=self.window,
            tokens=self.tokens[rows],
            af=self.af[samples],
            row_sample=self.row_sample[rows] - samples.start,
            retrieved=self.retrieved[rows],
            distances=self.distances[rows],
            valid=self.valid[rows],
            features=self.features[rows],
            sign=self.sign,
            nearest=self.nearest[rows],
            labels=self.labels[rows],
            scored=self.scored[rows],
        )


def network_inputs(
    *,
    alleles: NDArray[np.uint8],
    masked: NDArray[np.bool_],
    af: NDArray[np.float32],
    row_sample: NDArray[np.int64],
    donors: NDArray[np.uint8],
    found: Neighbours,
    features: NDArray[np.float32],
    minor_is_alt: NDArray[np.bool_],
    length: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """What :meth:`snvrag.model.Network.forward` takes, for R haplotypes of one window of n sites.

    Args:
        alleles: uint8 [R, n], read where not masked.
        masked: bool [n] or [R, n].
        af: float32 [S, n], ALT frequency as each of S samples sees it.
        row_sample: int64 [R].
        donors: uint8 [R, K, n], complete alleles of the nearest haplotypes.
        found: these haplotypes.
        features: float32 [R, n, N_FEATURES].
        minor_is_alt: bool [n].
        length: tokens per row.
        device: where the tensors go.
    """

    def tensor(array: NDArray[np.generic]) -> Tensor:
        return to_device(torch.from_numpy(np.ascontiguousarray(array)), device)

    signs = np.where(minor_is_alt, 1, -1).astype(np.float32)
    evidence = to_sequence(tensor(features).transpose(1, 2), length).transpose(1, 2)
    return {
        "tokens": allele_tokens(tensor(alleles), length, tensor(masked)),
        "af": to_sequence(tensor(af), length),
        "row_sample": tensor(row_sample),
        "retrieved": allele_tokens(tensor(donors), length),
        "distances": tensor(found.distances.clip(min=0).astype(np.float32)),
        "valid": tensor(found.ids >= 0),
        "features": evidence.contiguous(),
        "sign": to_sequence(tensor(signs), length, first=1, fill=1),
    }
