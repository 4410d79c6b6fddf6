"""The copying model's settings, chosen by leave-one-out on the panel.

Switch rate and mismatch probability that predict masked alleles best depend on the panel: its size,
its errors, how related its people are. Some training batches are predicted with every setting of a
grid, and a bank is grown greedily: each step adds the setting with which the average of the bank's
probabilities predicts best. The figure is the cross-entropy of masked alleles relative to that of
the bare allele frequency, averaged over bins of minor-allele frequency, so that rare alleles count
as much as common ones. Unless the bank is better by a hundredth, the default one stays.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from snvrag.batch import CopyingCase, Truth
from snvrag.batch_plan import BatchPlan, plan_epoch
from snvrag.config import FITTED
from snvrag.copying import EVIDENCE_BANK, N_FEATURES, N_LOGITS, Bank
from snvrag.dataset import WindowBatches
from snvrag.dosage import BIN_EDGES, frequency_bin, minor_allele_frequency
from snvrag.errors import InputError
from snvrag.evidence import is_sure
from snvrag.provenance import Progress

RATES = (1.0, 2.0, 4.0, 8.0, 16.0)
ERRORS = (0.0003, 0.003, 0.03)
GRID: Bank = tuple(product(RATES, ERRORS))
FITTING = "fitting the copying model"
# A bin must hold this many minor alleles to be heard.
_LEAST_CARRIED = 20
_LEAST = 1e-4
# Samples per batch that is looked at, and how many batches: fewer the larger the panel, to keep the
# choice within seconds.
_MOST_SAMPLES, _LEAST_SAMPLES = 8, 4
_MOST_BATCHES, _LEAST_BATCHES = 10, 2
_WORK = 10 * 480
# A bank that is hardly better than the default one may be so by chance.
_WORTH = 0.01


@dataclass(frozen=True, slots=True)
class CopyingFit:
    """What a run knows about the copying model before its first step."""

    bank: Bank
    low: list[float]
    """Of each of the N_FEATURES columns of the evidence, the least value seen."""
    high: list[float]
    """Likewise the largest."""
    losses: tuple[float, float] | None
    """Cross-entropy by this bank and by the default one, relative to the allele frequency's,
    averaged over MAF bins; None where none was chosen."""
    seconds: float

    def __str__(self) -> str:
        settings = ", ".join(f"({c:g}, {e:g})" for c, e in self.bank)
        if self.losses is None:
            return f"(c, e) = {settings}"
        return f"(c, e) = {settings}: loss {self.losses[0]:.4f}, default {self.losses[1]:.4f}"


def fit_copying(batches: WindowBatches, progress: Progress | None = None) -> CopyingFit:
    """Choose the bank, unless the run is to keep the default one, and find its evidence's range.

    The training cohort is asked, under masks of epoch 0; the choice follows from the run's seed.
    ``progress(task, done, total)`` is called as it goes on.

    Raises:
        InputError: there is nothing to predict.
    """
    began = time.perf_counter()
    bank: Bank = EVIDENCE_BANK
    losses: tuple[float, float] | None = None
    train = batches.config.train
    n_batches = max(_LEAST_BATCHES, min(_MOST_BATCHES, _WORK // batches.panel.n_haplotypes))
    if progress:
        progress(FITTING, 0, 0)
    asked = _cases_with_alleles(batches, n_batches)
    if train.bank == FITTED:
        grid = list(dict.fromkeys((*EVIDENCE_BANK, *GRID)))
        bank, losses = _choose(_Predictions.make(asked, grid, progress))
    low, high = np.full(N_FEATURES, np.inf), np.full(N_FEATURES, -np.inf)
    for case, truth in asked:
        seen = case.evidence(bank)[truth.scored]
        seen = seen[~is_sure(seen)]
        if not len(seen):
            continue
        low, high = np.minimum(low, seen.min(axis=0)), np.maximum(high, seen.max(axis=0))
    if np.isinf(low).any():  # the copying model is sure of everything
        low, high = np.zeros(N_FEATURES), np.zeros(N_FEATURES)
    return CopyingFit(bank, low.tolist(), high.tolist(), losses, time.perf_counter() - began)


def _cases_with_alleles(batches: WindowBatches, n_batches: int) -> list[tuple[CopyingCase, Truth]]:
    """Up to ``n_batches`` batches of the training cohort with something to predict."""
    train, learners = batches.config.train, batches.cohorts.training
    n_samples = max(_LEAST_SAMPLES, min(_MOST_SAMPLES, 8_000 // batches.panel.n_haplotypes))

    def plans(limit: int) -> Sequence[BatchPlan]:
        return plan_epoch(learners.samples, learners.windows, n_samples, train.seed, 0, limit)

    def asked(items: Iterable[BatchPlan]) -> Iterator[tuple[CopyingCase, Truth]]:
        for item in items:
            truth = batches.truth(item, 0)
            if truth.scored.any():
                yield batches.copying_case(item, 0), truth

    some = list(asked(plans(n_batches)))
    if not some:
        everything = plans(0)
        order = np.random.default_rng(train.seed).permutation(len(everything))
        some = list(islice(asked(everything[int(at)] for at in order), n_batches))
    if not some:
        raise InputError(
            f"{batches.panel.path}: no masked site has an allele that two people carry",
            "train on a panel with more people or more sites",
        )
    return some


@dataclass(frozen=True, slots=True)
class _Predictions:
    """Each setting's answers at N scored alleles."""

    grid: Bank
    probability: NDArray[np.float32]
    """float32 [settings, N], of the minor allele."""
    minor: NDArray[np.bool_]
    """bool [N], whether it is the minor allele."""
    bins: NDArray[np.int64]
    """int64 [N], bin of minor-allele frequency."""

    @classmethod
    def make(
        cls,
        asked: Sequence[tuple[CopyingCase, Truth]],
        grid: Sequence[tuple[float, float]],
        progress: Progress | None,
    ) -> "_Predictions":
        probability, minor, frequency = [], [], []
        for number, (case, truth) in enumerate(asked):
            answers = []
            for done, setting in enumerate(grid, start=number * len(grid)):
                if progress:
                    progress(FITTING, done, len(asked) * len(grid))
                answers.append(case.minor_probability((setting,)))
            found = np.stack(answers)
            probability.append(found[:, truth.scored])
            minor.append((truth.alleles == case.reference.minor_is_alt)[truth.scored])
            af = truth.af[truth.row_sample][truth.scored]
            # Of counts: in single precision 48/480 would lie above 0.1.
            frequency.append(minor_allele_frequency(af.astype(np.float64).round(6)))
        return cls(
            tuple(grid),
            np.concatenate(probability, axis=1),
            np.concatenate(minor),
            frequency_bin(np.concatenate(frequency)),
        )

    def loss(self, probability: NDArray[np.float32]) -> float:
        """Relative cross-entropy, averaged over the bins; see the module."""
        p = np.where(self.minor, probability, 1 - probability).clip(_LEAST, 1.0)
        loss = -np.log(p)
        n = np.bincount(self.bins, minlength=len(BIN_EDGES) - 1)
        carried = np.bincount(self.bins, self.minor, minlength=len(n))
        total = np.bincount(self.bins, loss, minlength=len(n))
        heard = (carried >= min(_LEAST_CARRIED, carried.max())) & (carried > 0) & (carried < n)
        if not heard.any():
            return float(total.sum() / max(1, n.sum()))
        f = carried[heard] / n[heard]
        entropy = -(f * np.log(f) + (1 - f) * np.log1p(-f))
        return float(np.mean(total[heard] / n[heard] / entropy))


def _choose(seen: _Predictions) -> tuple[Bank, tuple[float, float]]:
    """The bank, its loss and the default bank's."""
    chosen: list[int] = []
    total = np.zeros_like(seen.probability[0])
    best = float("nan")
    while len(chosen) < N_LOGITS:
        left = [i for i in range(len(seen.grid)) if i not in chosen]
        losses = [seen.loss((total + seen.probability[i]) / (len(chosen) + 1)) for i in left]
        best = min(losses)
        chosen.append(left[losses.index(best)])
        total += seen.probability[chosen[-1]]
    default = [seen.grid.index(setting) for setting in EVIDENCE_BANK]
    default_loss = seen.loss(seen.probability[default].mean(axis=0))
    if best > (1 - _WORTH) * default_loss:
        return EVIDENCE_BANK, (default_loss, default_loss)
    return tuple(seen.grid[i] for i in chosen), (best, default_loss)
