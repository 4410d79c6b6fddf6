"""From a panel and its haplotype indexes to the batches that the network sees.

A batch is some samples of one window. Everything about it follows from (seed, epoch, window,
batch number): the order, the mask, the neighbours. So a resumed run sees what an undisturbed one
would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snvrag.config import RunConfig
from snvrag.dosage import leave_one_out_counts
from snvrag.errors import InputError
from snvrag.evidence import Retrieved, gather_evidence
from snvrag.index_store import IndexStore
from snvrag.masking import training_mask, validation_mask
from snvrag.model import allele_tokens, to_sequence
from snvrag.panel import Panel
from snvrag.windows import Window, WindowPlan

MIN_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Split:
    """Sample numbers for training and, disjoint from them, for validation; both sorted."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One batch: a window, its number among the window's batches, and the samples in it."""

    window: int
    number: int
    samples: NDArray[np.int64]


def split_samples(n_samples: int, fraction: float, seed: int) -> Split:
    """Hold out a seeded random ``fraction`` of the samples, at least one, leaving at least two.

    Raises:
        InputError: there are fewer than three samples.
    """
    if n_samples < MIN_SAMPLES:
        raise InputError(
            f"the panel has {n_samples} samples; training needs at least {MIN_SAMPLES} (one to "
            "validate on, one to predict, one to copy from)",
            "give a larger reference panel",
        )
    held_out = min(max(1, round(n_samples * fraction)), n_samples - 2)
    order = np.random.default_rng([seed, 0]).permutation(n_samples)
    return Split(np.sort(order[held_out:]), np.sort(order[:held_out]))


def plan_epoch(
    samples: NDArray[np.int64], num_windows: int, batch_size: int, seed: int, epoch: int
) -> list[BatchPlan]:
    """All batches of an epoch: windows shuffled, each window's samples shuffled and in a row.

    The order depends on ``(seed, epoch)`` alone; every sample meets every window once.
    """
    generator = np.random.default_rng([seed, 1, epoch])
    plans = []
    for window in generator.permutation(num_windows):
        order = generator.permutation(samples)
        plans += [
            BatchPlan(int(window), number, order[first : first + batch_size])
            for number, first in enumerate(range(0, len(order), batch_size))
        ]
    return plans


def plan_validation(
    samples: NDArray[np.int64], num_windows: int, batch_size: int
) -> list[BatchPlan]:
    """All validation batches, in panel order."""
    return [
        BatchPlan(window, number, samples[first : first + batch_size])
        for window in range(num_windows)
        for number, first in enumerate(range(0, len(samples), batch_size))
    ]


def ranking_sites(
    observed: NDArray[np.bool_], first: int, last: int, flank_observed: int, min_observed: int
) -> NDArray[np.bool_]:
    """Observed sites that rank haplotypes: the window's, and the nearest ones of its flanks.

    Each flank lends ``flank_observed`` sites, or more while fewer than ``min_observed`` are found
    in all: a window of sequence-density sites may hold few or no array sites.

    Args:
        observed: bool [C], over window and flanks.
        first: first column of the window.
        last: one past its last column.
        flank_observed: observed sites that each flank lends.
        min_observed: observed sites to reach, where the flanks have them.

    Returns:
        bool [C], a subset of ``observed``.
    """
    columns = np.flatnonzero(observed)
    low, high = np.searchsorted(columns, [first, last])
    reach = max(flank_observed, -(-(min_observed - int(high - low)) // 2))
    chosen = np.zeros_like(observed)
    chosen[columns[max(0, low - reach) : high + reach]] = True
    return chosen


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
    """float32 [R, L, N_FEATURES]."""
    prior_logit: Tensor
    """float32 [R, L]."""
    nearest: Tensor
    """float32 [R, L]: allele of the nearest haplotype, a baseline."""
    labels: Tensor
    """float32 [R, L]: true alleles."""
    scored: Tensor
    """bool [R, L]: masked sites at which another sample carries each allele."""

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
            prior_logit=self.prior_logit[rows],
            nearest=self.nearest[rows],
            labels=self.labels[rows],
            scored=self.scored[rows],
        )


class WindowBatches:
    """Builds batches of panel samples, each predicted from the haplotypes of other samples.

    Haplotypes of validation samples are never retrieved and count in no frequency.
    """

    def __init__(
        self,
        panel: Panel,
        store: IndexStore,
        plan: WindowPlan,
        config: RunConfig,
        split: Split,
        device: torch.device,
    ) -> None:
        self.panel = panel
        self.store = store
        self.plan = plan
        self.config = config
        self.device = device
        held_out = np.isin(panel.haplotype_sample, split.validation)
        self._keep = ~held_out
        self._held_out_rows = np.flatnonzero(held_out)
        self._held_out_samples = set(split.validation.tolist())

    def mask(self, item: BatchPlan, epoch: int | None, start: int, end: int) -> NDArray[np.bool_]:
        """Mask of panel rows ``[start, end)`` for a batch; ``epoch`` None is validation."""
        af = self.panel.af[start:end]
        if epoch is None:
            return validation_mask(af, start, self.config.mask)
        return training_mask(
            af,
            start,
            seed=self.config.train.seed,
            epoch=epoch,
            window=item.window,
            batch=item.number,
            config=self.config.mask,
        )

    def batch(self, item: BatchPlan, epoch: int | None) -> Batch:
        """Retrieve for one batch and lay it out as tensors; ``epoch`` None is validation."""
        window = self.plan.windows[item.window]
        train = self.config.train
        context, start, end = self.store.context(item.window, train.flank_windows)
        first, last = window.start - start, window.end - start
        masked = self.mask(item, epoch, start, end)
        ranking = ranking_sites(~masked, first, last, train.flank_observed, train.min_observed)

        own = [self.panel.own_haplotypes(int(sample)) for sample in item.samples]
        rows = np.concatenate(own)
        row_sample = np.repeat(np.arange(len(own)), [len(ids) for ids in own])
        exclude = np.full((len(rows), max(len(ids) for ids in own)), -1, dtype=np.int64)
        for row, sample in enumerate(row_sample):
            exclude[row, : len(own[sample])] = own[sample]

        queries = context.alleles(rows)
        found = context.masked(ranking, keep=self._keep).search(
            queries, self.config.model.evidence_k, exclude, device=str(self.device)
        )
        unique, inverse = np.unique(found.ids.clip(min=0), return_inverse=True)
        alleles = context.alleles(unique)[inverse.reshape(found.ids.shape)]
        retrieved = Retrieved(
            alleles=self._tensor(alleles),
            valid=self._tensor(found.ids >= 0),
            distances=self._tensor(found.distances.astype(np.float32)),
            queries=self._tensor(queries),
            observed=self._tensor(~masked),
            first=first,
            last=last,
        )
        labels = queries[:, first:last]
        counts, totals = self._counts_of_others(window, item, labels, row_sample)
        return self._lay_out(window, retrieved, labels, row_sample, counts, totals)

    def _counts_of_others(
        self,
        window: Window,
        item: BatchPlan,
        labels: NDArray[np.uint8],
        row_sample: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """ALT and total counts without validation samples and without the query's own sample."""
        sites = slice(window.start, window.end)
        held_out = self.store.get(window.index).alleles(self._held_out_rows).sum(0, dtype=np.int64)
        ac = self.panel.ac[sites].astype(np.int64) - held_out
        an = self.panel.an[sites].astype(np.int64) - len(self._held_out_rows)
        own_alt = np.zeros((len(item.samples), window.n_snps), dtype=np.int64)
        in_panel = [int(sample) not in self._held_out_samples for sample in item.samples]
        np.add.at(own_alt, row_sample, labels)
        own_n = np.bincount(row_sample, minlength=len(item.samples))
        weight = np.asarray(in_panel, dtype=np.int64)[:, None]
        return leave_one_out_counts(ac, an, own_alt * weight, own_n[:, None] * weight)

    def _lay_out(
        self,
        window: Window,
        found: Retrieved,
        labels: NDArray[np.uint8],
        row_sample: NDArray[np.int64],
        counts: NDArray[np.int64],
        totals: NDArray[np.int64],
    ) -> Batch:
        length = self.config.windows.max_seq_len
        k = self.config.model.k
        masked = ~found.observed[found.first : found.last]
        af = self._tensor((counts / np.maximum(totals, 1)).astype(np.float32))
        # Where only the query's own sample carries an allele, "no one else has it" would be the
        # answer, and no panel without that sample would hold the site.
        polymorphic = self._tensor((counts > 0) & (counts < totals))
        samples = self._tensor(row_sample)
        truth = self._tensor(labels)
        evidence = gather_evidence(found, af[samples])
        neighbours = found.alleles[:, :k, found.first : found.last]
        features = to_sequence(evidence.features.transpose(1, 2), length).transpose(1, 2)
        return Batch(
            window=window,
            tokens=allele_tokens(truth, length, masked),
            af=to_sequence(af, length),
            row_sample=samples,
            retrieved=allele_tokens(neighbours, length),
            distances=found.distances[:, :k].clamp_min(0),
            valid=found.valid[:, :k],
            features=features.contiguous(),
            prior_logit=to_sequence(evidence.prior_logit, length),
            nearest=to_sequence(evidence.nearest, length),
            labels=to_sequence(truth.float(), length),
            scored=to_sequence(masked & polymorphic[samples], length),
        )

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)
