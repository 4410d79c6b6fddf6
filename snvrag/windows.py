"""The fixed-window plan: consecutive runs of ``window_size`` sites, computed, never stored."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.config import WindowConfig
from snvrag.errors import UsageError


@dataclass(frozen=True, slots=True)
class Window:
    """Sites ``[start, end)`` of the panel, all of one chromosome.

    ``index`` numbers windows through the whole panel; ``chrom`` is None for a plan made from a
    bare site count.
    """

    index: int
    chrom: str | None
    start: int
    end: int

    @property
    def n_snps(self) -> int:
        """Number of sites in the window, ``1 <= n_snps <= window_size``."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """All windows of a panel, in order: they tile ``[0, total_snps)`` and never cross chromosomes.

    ``num_windows = sum(ceil(n_c / window_size))`` over chromosomes of ``n_c`` sites; the last
    window of a chromosome is shorter where ``n_c`` is no multiple of ``window_size``.
    """

    config: WindowConfig
    windows: tuple[Window, ...]

    @classmethod
    def from_chromosomes(
        cls, chromosomes: Iterable[tuple[str | None, int]], config: WindowConfig | None = None
    ) -> "WindowPlan":
        """Plan windows for ``(name, number of sites)`` pairs given in file order.

        Raises:
            UsageError: a chromosome has a negative number of sites, or there is no site at all.
        """
        config = config or WindowConfig()
        windows: list[Window] = []
        offset = 0
        for name, n_sites in chromosomes:
            if n_sites < 0:
                raise UsageError(f"{n_sites} sites: the number of sites must not be negative")
            for start in range(0, n_sites, config.window_size):
                end = min(start + config.window_size, n_sites)
                windows.append(Window(len(windows), name, offset + start, offset + end))
            offset += n_sites
        if not windows:
            raise UsageError("there is no site to cut into windows", "give at least one site")
        return cls(config, tuple(windows))

    @classmethod
    def from_total(cls, total_snps: int, config: WindowConfig | None = None) -> "WindowPlan":
        """Plan windows for one unnamed chromosome of ``total_snps`` sites."""
        return cls.from_chromosomes([(None, total_snps)], config)

    @property
    def total_snps(self) -> int:
        """Number of sites covered."""
        return self.windows[-1].end

    @property
    def num_windows(self) -> int:
        """Number of windows."""
        return len(self.windows)

    def window_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The window that each panel row lies in: int64, shaped like ``rows``."""
        starts = np.array([window.start for window in self.windows])
        return np.searchsorted(starts, rows, side="right") - 1

    def context(self, index: int, flank: int) -> range:
        """Numbers of window ``index`` and up to ``flank`` windows to either side of it.

        Flanks stop at the ends of the chromosome.
        """
        chrom = self.windows[index].chrom
        first = last = index
        while first > 0 and index - first < flank and self.windows[first - 1].chrom == chrom:
            first -= 1
        while (
            last + 1 < self.num_windows
            and last - index < flank
            and self.windows[last + 1].chrom == chrom
        ):
            last += 1
        return range(first, last + 1)

    def select(self, text: str | None) -> list[int]:
        """Window numbers of a selection such as ``0-9,20``; None selects every window.

        Raises:
            UsageError: the text is not such a list, or names a window that does not exist.
        """
        if text is None:
            return list(range(self.num_windows))
        chosen: set[int] = set()
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()):
                raise UsageError(
                    f"--windows {text}: {part.strip()!r} is neither a number nor a range",
                    "write numbers and ranges such as 0-9,20",
                )
            low, high = int(first), int(last) if dash else int(first)
            if low > high or high >= self.num_windows:
                raise UsageError(
                    f"--windows {text}: {part.strip()} is outside 0-{self.num_windows - 1}",
                    f"the panel has {self.num_windows} windows, numbered from 0",
                )
            chosen.update(range(low, high + 1))
        return sorted(chosen)

    def as_json(self) -> dict[str, Any]:
        """The plan as the object that ``snvrag windows --json`` prints."""
        return {
            "window_size": self.config.window_size,
            "max_seq_len": self.config.max_seq_len,
            "total_snps": self.total_snps,
            "num_windows": self.num_windows,
            "windows": [asdict(w) | {"n_snps": w.n_snps} for w in self.windows],
        }
