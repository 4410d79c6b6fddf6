"""From a panel and its haplotype indexes to the batches that the network sees.

A batch is some samples of one window. Everything about it follows from (seed, epoch, window,
batch number): the order, the mask, the neighbours. So a resumed run sees what an undisturbed one
would have seen.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from snvrag.batch import Batch, CopyingCase, Truth, network_inputs
from snvrag.batch_plan import BatchPlan
from snvrag.cohorts import Cohort, Cohorts
from snvrag.config import RunConfig, TrainConfig
from snvrag.copying import EVIDENCE_BANK, REACH_CM, Bank, Reference
from snvrag.distributed import to_device
from snvrag.dosage import leave_one_out_counts
from snvrag.index_store import IndexStore
from snvrag.live_embedding import LiveEmbedding
from snvrag.masking import MaskMaker
from snvrag.model import Network, RagBert, to_sequence
from snvrag.panel import Panel
from snvrag.retrieval import Neighbours
from snvrag.tokens import ALT
from snvrag.windows import Window, WindowPlan


def ranking_sites(
    observed: NDArray[np.bool_], first: int, last: int, config: TrainConfig
) -> NDArray[np.bool_]:
    """Observed sites that rank haplotypes: the window's, and the nearest ones of its flanks.

    Each flank lends ``flank_observed`` sites, or more while fewer than ``min_observed`` are found
    in all: a window of sequence-density sites may hold few or no array sites.

    Args:
        observed: bool [C], over window and flanks.
        first: first column of the window.
        last: one past its last column.
        config: ``flank_observed`` and ``min_observed``.

    Returns:
        bool [C], a subset of ``observed``.
    """
    columns = np.flatnonzero(observed)
    low, high = np.searchsorted(columns, [first, last])
    reach = max(config.flank_observed, -(-(config.min_observed - int(high - low)) // 2))
    chosen = np.zeros_like(observed)
    chosen[columns[max(0, low - reach) : high + reach]] = True
    return chosen


def rows_within_reach(
    chromosomes: Sequence[tuple[str, int]], plan: WindowPlan, cm: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Panel rows ``[low, high)`` within 2 cM of each window, of its chromosome: int64 [windows, 2].

    Args:
        chromosomes: ``(name, number of sites)`` in panel order.
        plan: the windows.
        cm: genetic position of every panel site, not decreasing within a chromosome.
    """
    edges = np.array([(window.start, window.end - 1) for window in plan.windows])
    reach = np.empty_like(edges)
    begin = 0
    for _, n_sites in chromosomes:
        own = cm[begin : begin + n_sites]
        here = (edges[:, 0] >= begin) & (edges[:, 0] < begin + n_sites)
        low, high = cm[edges[here, 0]] - REACH_CM, cm[edges[here, 1]] + REACH_CM
        reach[here, 0] = begin + np.searchsorted(own, low)
        reach[here, 1] = begin + np.searchsorted(own, high, side="right")
        begin += n_sites
    return reach


def window_alleles(store: IndexStore, window: int, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Alleles of a window's sites for haplotype numbers of any shape: uint8 [..., n]."""
    unique, inverse = np.unique(ids.clip(min=0), return_inverse=True)
    found: NDArray[np.uint8] = store.get(window).alleles(unique)
    return found[inverse.reshape(ids.shape)]


class WindowBatches:
    """Builds batches of samples, each predicted from the panel haplotypes of other samples.

    Haplotypes of validation samples are never retrieved or copied from, and count in no frequency.
    Samples are numbered as in their cohort's file.

    Args:
        panel: the reference panel.
        store: its haplotype indexes.
        plan: its windows.
        config: settings of the run.
        cohorts: people to train on and to validate on.
        cm: genetic position of every panel site, float64 [sites].
        device: where the tensors go.
        listed: bool [sites], the sites of mask pattern ``sites``; None if there are none.
    """

    def __init__(
        self,
        panel: Panel,
        store: IndexStore,
        plan: WindowPlan,
        config: RunConfig,
        cohorts: Cohorts,
        cm: NDArray[np.float64],
        device: torch.device,
        listed: NDArray[np.bool_] | None = None,
    ) -> None:
        self.panel = panel
        self.store = store
        self.plan = plan
        self.config = config
        self.device = device
        self.cm = cm
        self.masks = MaskMaker(
            panel.chromosomes(),
            panel.positions,
            panel.af,
            config.mask,
            seed=config.train.seed,
            listed=listed,
        )
        self.cohorts = cohorts
        self.bank: Bank = EVIDENCE_BANK
        """Settings of the copying model."""
        held_out = np.isin(panel.haplotype_sample, cohorts.held_out)
        self._keep = ~held_out
        self.embedding: LiveEmbedding | None = None
        """Finds the nearest haplotypes in the place of the packed alleles; see :meth:`embed`."""
        self._kept = np.flatnonzero(self._keep)
        # The last entry answers for -1, "none".
        self._place = np.full(panel.n_haplotypes + 1, -1, dtype=np.int64)
        self._place[self._kept] = np.arange(len(self._kept))
        self._held_out_rows = np.flatnonzero(held_out)
        self._reach = rows_within_reach(panel.chromosomes(), plan, cm)
        first, last = plan.window_of(self._reach - np.array([0, 1])).T
        flanks = 1 + 2 * config.train.flank_windows
        most = max(int((last - first).max()) + 1, flanks)
        # Two contexts: more would let memory grow with the number of windows, to save a read from
        # disk that takes a small part of a batch's time.
        for haplotypes in (store, cohorts.training.haplotypes, cohorts.validation.haplotypes):
            haplotypes.hold(2 * most)

    def cohort(self, epoch: int | None) -> Cohort:
        """Who is predicted in an epoch; None is validation."""
        return self.cohorts.validation if epoch is None else self.cohorts.training

    def embed(self, network: Network) -> None:
        """Retrieve through the embedding of ``network``, if it has one, not by packed alleles."""
        if isinstance(network, RagBert):
            length, refresh = self.config.windows.max_seq_len, self.config.train.refresh_index
            self.embedding = LiveEmbedding(network.embedding, length, refresh, self._keep)

    def mask(self, item: BatchPlan, epoch: int | None, start: int, end: int) -> NDArray[np.bool_]:
        """Mask of panel rows ``[start, end)`` for a batch; ``epoch`` None is validation."""
        if epoch is None:
            return self.masks.validation(start, end, window=item.window)
        return self.masks.training(start, end, epoch=epoch, window=item.window, batch=item.number)

    def observed(
        self, item: BatchPlan, epoch: int | None, start: int, end: int
    ) -> NDArray[np.bool_]:
        """Which of panel rows ``[start, end)`` are neither masked nor absent from the cohort."""
        return self.cohort(epoch).matched[start:end] & ~self.mask(item, epoch, start, end)

    def batch(self, item: BatchPlan, epoch: int | None) -> Batch:
        """Retrieve for one batch and lay it out as tensors; ``epoch`` None is validation."""
        window = self.plan.windows[item.window]
        rows, row_sample, exclude = self._queries(item, epoch)
        case = self._case(item, epoch, rows, exclude)
        found = self._retrieve(window, item, epoch, rows, exclude)
        truth = self._truth(item, epoch, rows, row_sample)
        inputs = network_inputs(
            alleles=truth.alleles,
            masked=~self.observed(item, epoch, window.start, window.end),
            af=truth.af,
            row_sample=row_sample,
            donors=window_alleles(self.store, window.index, found.ids),
            found=found,
            features=case.evidence(self.bank),
            minor_is_alt=case.reference.minor_is_alt,
            length=self.config.windows.max_seq_len,
            device=self.device,
        )
        scored = to_device(torch.from_numpy(truth.scored), self.device)
        labels = to_device(torch.from_numpy(truth.alleles.astype(np.float32)), self.device)
        length = self.config.windows.max_seq_len
        # Beyond the window the tokens are padding, whose number is no allele's.
        nearest = (inputs["retrieved"][:, 0] == ALT).float()
        common = (inputs["af"][inputs["row_sample"]] > 0.5).float()
        return Batch(
            window=window,
            nearest=torch.where(inputs["valid"][:, :1], nearest, common),
            labels=to_sequence(labels, length),
            scored=to_sequence(scored, length),
            **inputs,
        )

    def copying_case(self, item: BatchPlan, epoch: int | None) -> CopyingCase:
        """What the copying model is asked about one batch; ``epoch`` None is validation."""
        rows, _, exclude = self._queries(item, epoch)
        return self._case(item, epoch, rows, exclude)

    def truth(self, item: BatchPlan, epoch: int | None) -> Truth:
        """What is true of one batch; ``epoch`` None is validation."""
        rows, row_sample, _ = self._queries(item, epoch)
        return self._truth(item, epoch, rows, row_sample)

    def _truth(
        self,
        item: BatchPlan,
        epoch: int | None,
        rows: NDArray[np.int64],
        row_sample: NDArray[np.int64],
    ) -> Truth:
        window, cohort = self.plan.windows[item.window], self.cohort(epoch)
        counts, totals = self._counts_of_others(window, self._same_people(item.samples, epoch))
        # Where only the query's own sample carries an allele, "no one else has it" would be the
        # answer, and no panel without that sample would hold the site.
        polymorphic = (counts > 0) & (counts < totals)
        known = cohort.matched[window.start : window.end] & self.mask(
            item, epoch, window.start, window.end
        )
        return Truth(
            alleles=cohort.haplotypes.get(window.index).alleles(rows),
            af=(counts / np.maximum(totals, 1)).astype(np.float32),
            row_sample=row_sample,
            scored=known & polymorphic[row_sample],
        )

    def _queries(
        self, item: BatchPlan, epoch: int | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The batch's haplotypes int64 [R], the sample of each, and whom it must not see."""
        people = self.cohort(epoch).people
        own = [people.own_haplotypes(int(sample)) for sample in item.samples]
        rows = np.concatenate(own)
        row_sample = np.repeat(np.arange(len(own)), [len(ids) for ids in own])
        same = self._same_people(item.samples, epoch)
        exclude = np.full((len(rows), max(1, *map(len, same))), -1, dtype=np.int64)
        for row, sample in enumerate(row_sample):
            exclude[row, : len(same[sample])] = same[sample]
        return rows, row_sample, exclude

    def _same_people(
        self, samples: NDArray[np.int64], epoch: int | None
    ) -> list[NDArray[np.int64]]:
        """Of each of the cohort's samples the panel's own haplotypes of the same person."""
        cohort = self.cohort(epoch)
        return [cohort.same_person(int(sample), self.panel) for sample in samples]

    def _retrieve(
        self,
        window: Window,
        item: BatchPlan,
        epoch: int | None,
        rows: NDArray[np.int64],
        exclude: NDArray[np.int64],
    ) -> Neighbours:
        """The nearest panel haplotypes of the cohort's ``rows``."""
        context, start, end = self.store.context(window.index, self.config.train.flank_windows)
        first, last = window.start - start, window.end - start
        observed = self.observed(item, epoch, start, end)
        ranking = ranking_sites(observed, first, last, self.config.train)
        own, _, _ = self.cohort(epoch).haplotypes.context(
            window.index, self.config.train.flank_windows
        )
        queries = own.alleles(rows)
        if self.embedding is not None:
            return self.embedding.search(
                window.index,
                self.store.get(window.index).alleles(np.arange(self.panel.n_haplotypes)),
                observed[first:last],
                self.panel.af[window.start : window.end],
                queries[:, first:last],
                self.config.model.k,
                exclude,
            )
        return context.masked(ranking, keep=self._keep).search(
            queries, self.config.model.k, exclude, device=str(self.device)
        )

    def _case(
        self,
        item: BatchPlan,
        epoch: int | None,
        rows: NDArray[np.int64],
        exclude: NDArray[np.int64],
    ) -> CopyingCase:
        """The context is 2 cM to either side, or less where that holds very many observed sites."""
        window = self.plan.windows[item.window]
        low, high = self._reach[window.index].tolist()
        observed = low + np.flatnonzero(self.observed(item, epoch, low, high))
        inside = np.searchsorted(observed, [window.start, window.end])
        most = self.config.train.evidence_observed
        observed = observed[max(0, int(inside[0]) - most) : int(inside[1]) + most]
        alleles = self.store.columns(observed)
        haplotypes = self.cohort(epoch).haplotypes
        own_alleles = alleles if haplotypes is self.store else haplotypes.columns(observed)
        calls = np.ascontiguousarray(own_alleles[:, rows].T).view(np.int8)
        at_observed = np.ascontiguousarray(alleles[:, self._kept])
        reference = Reference.of_core(
            [self.store.get(window.index).by_site(self._kept)],
            window.start - low,
            observed - low,
            at_observed,
            judges=~np.isin(self._kept, self._own_rows(item, epoch)),
        )
        bp = self.panel.positions[low:high]
        return CopyingCase(reference, calls, self.cm[low:high], bp, self._place[exclude])

    def _own_rows(self, item: BatchPlan, epoch: int | None) -> NDArray[np.int64]:
        """The panel's haplotypes of the people of the whole batch, if there are any."""
        people = item.samples if item.whole is None else item.whole
        return np.concatenate(self._same_people(people, epoch))

    def _counts_of_others(
        self, window: Window, same: list[NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """ALT and total counts [S, n] without validation samples and the sample's own haplotypes.

        ``same`` are each sample's own panel haplotypes.
        """
        sites, index = slice(window.start, window.end), self.store.get(window.index)
        held_out = index.alleles(self._held_out_rows).sum(0, dtype=np.int64)
        ac = self.panel.ac[sites].astype(np.int64) - held_out
        an = self.panel.an[sites].astype(np.int64) - len(self._held_out_rows)
        own = [ids[self._keep[ids]] for ids in same]
        own_alt = np.array([index.alleles(ids).sum(0, dtype=np.int64) for ids in own])
        return leave_one_out_counts(ac, an, own_alt, np.array([[len(ids)] for ids in own]))
