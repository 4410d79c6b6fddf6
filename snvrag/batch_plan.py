"""Which samples of which window make up a batch, and in which order batches come.

The order follows from (seed, epoch), so a resumed run sees what an undisturbed one would have seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One batch: a window, its number among the window's batches, and the samples in it."""

    window: int
    number: int
    samples: NDArray[np.int64]
    whole: NDArray[np.int64] | None = None
    """Samples of the batch that this is a share of; None if it is none."""

    def share(self, samples: slice) -> "BatchPlan":
        """A part of the samples; whatever a batch has in common stays that of the whole one."""
        return replace(self, samples=self.samples[samples], whole=self.samples)


class Plans(Sequence[BatchPlan]):
    """Batches in order, each laid out when it is asked for: memory holds no list of samples.

    Args:
        samples: sample numbers.
        windows: window numbers, in order.
        batch_size: samples per batch.
        order_key: seeds the order of the samples, anew in each window; None leaves it as it is.
        chosen: which of the batches, in order; all if None.
    """

    def __init__(
        self,
        samples: NDArray[np.int64],
        windows: NDArray[np.int64],
        batch_size: int,
        order_key: tuple[int, ...] | None = None,
        chosen: NDArray[np.int64] | None = None,
    ) -> None:
        self._samples, self._windows, self._size = samples, windows, batch_size
        self._order_key, self._chosen = order_key, chosen
        self._per_window = -(-len(samples) // batch_size)

    def __len__(self) -> int:
        if self._chosen is not None:
            return len(self._chosen)
        return len(self._windows) * self._per_window

    @overload
    def __getitem__(self, which: int) -> BatchPlan: ...

    @overload
    def __getitem__(self, which: slice) -> list[BatchPlan]: ...

    def __getitem__(self, which: int | slice) -> BatchPlan | list[BatchPlan]:
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(self)))]
        at = range(len(self))[which]
        at = at if self._chosen is None else int(self._chosen[at])
        place, number = divmod(at, self._per_window)
        window, samples = int(self._windows[place]), self._samples
        if self._order_key is not None:
            samples = np.random.default_rng([*self._order_key, window]).permutation(samples)
        return BatchPlan(window, number, samples[number * self._size : (number + 1) * self._size])


def plan_epoch(
    samples: NDArray[np.int64],
    windows: NDArray[np.int64],
    batch_size: int,
    seed: int,
    epoch: int,
    limit: int = 0,
) -> Plans:
    """The batches of an epoch: windows shuffled, each window's samples shuffled and in a row.

    The order depends on ``(seed, epoch)`` alone; every sample meets every window once. With a
    ``limit``, that many of these batches, windows again in a row.
    """
    generator = np.random.default_rng([seed, 1, epoch])
    shuffled = generator.permutation(windows)
    key = (seed, 2, epoch)
    plans = Plans(samples, shuffled, batch_size, key)
    if 0 < limit < len(plans):
        chosen = np.sort(generator.choice(len(plans), limit, replace=False))
        plans = Plans(samples, shuffled, batch_size, key, chosen)
    return plans


def plan_validation(
    samples: NDArray[np.int64],
    windows: NDArray[np.int64],
    batch_size: int,
    seed: int = 0,
    limit: int = 0,
) -> Plans:
    """Validation batches, in panel order, the same ones in each epoch.

    Of more than ``limit`` pairs of a sample and a window, about that many are drawn: some samples,
    as many as windows if there are, in some windows. 0 is all of them.
    """
    if 0 < limit < len(samples) * len(windows):
        generator = np.random.default_rng([seed, 4])
        n_samples = min(len(samples), max(math.isqrt(limit), limit // len(windows)))
        n_windows = min(len(windows), max(1, limit // n_samples))
        samples = np.sort(generator.choice(samples, n_samples, replace=False))
        windows = np.sort(generator.choice(windows, n_windows, replace=False))
    return Plans(samples, windows, batch_size)
