"""Haplotypes window by window, the last used ones in memory."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.packing import packed_bytes
from snvrag.retrieval import BinaryIndex
from snvrag.windows import WindowPlan

DEFAULT_BUDGET = 256 * 2**20


class WindowStore(ABC):
    """Indexes of windows under a budget of bytes: the least recently used ones go first.

    Args:
        plan: the windows.
        n_haplotypes: rows of every window's index.
        budget_bytes: memory for indexes in use; one is kept, whatever its size.
    """

    def __init__(self, plan: WindowPlan, n_haplotypes: int, budget_bytes: int) -> None:
        self.plan, self.n_haplotypes = plan, n_haplotypes
        self._budget = budget_bytes
        self._memory: OrderedDict[int, Any] = OrderedDict()
        self._held = 0

    @abstractmethod
    def _fetch(self, window: int) -> Any:
        """The index of a window that is not in memory."""

    def get(self, window: int) -> Any:
        """The index of a window."""
        index = self._memory.get(window)
        if index is not None:
            self._memory.move_to_end(window)
            return index
        index = self._fetch(window)
        self._remember(window, index)
        return index

    def context(self, window: int, flank: int) -> tuple[BinaryIndex, int, int]:
        """The joined index of a window and its flanks, and the panel rows start, end it covers."""
        numbers = self.plan.context(window, flank)
        index = BinaryIndex.join([self.get(number) for number in numbers])
        return index, self.plan.windows[numbers[0]].start, self.plan.windows[numbers[-1]].end

    def columns(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Alleles at panel rows, increasing, of any windows: uint8 [len(rows), haplotypes]."""
        number = self.plan.window_of(rows)
        edges = np.flatnonzero(np.diff(number, prepend=-1, append=-1))
        parts = [
            self.get(int(number[a])).columns(rows[a:b] - self.plan.windows[number[a]].start)
            for a, b in pairwise(edges.tolist())
        ]
        return np.concatenate([np.empty((0, self.n_haplotypes), dtype=np.uint8), *parts])

    def hold(self, windows: int) -> None:
        """Keep no more memory than that many windows need, whatever the budget allows."""
        needed = windows * self.n_haplotypes * packed_bytes(self.plan.config.window_size)
        self._budget = min(self._budget, needed)

    def forget(self) -> None:
        """Release the memory."""
        self._memory.clear()
        self._held = 0

    def _remember(self, window: int, index: Any) -> None:
        replaced = self._memory.pop(window, None)
        self._memory[window] = index
        self._held += index.nbytes - (replaced.nbytes if replaced is not None else 0)
        while self._held > self._budget and len(self._memory) > 1:
            _, oldest = self._memory.popitem(last=False)
            self._held -= oldest.nbytes
