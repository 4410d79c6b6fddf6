"""How an imputation is cut up: cores of windows with flanks, sized to fit the memory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snvrag.config import WindowConfig
from snvrag.errors import UsageError
from snvrag.panel import Panel
from snvrag.windows import WindowPlan

_FLANK_CM = 2.0
_CORE_WINDOWS = 64
# Interpreter, libraries and compiled kernels, before any data (measured).
_PROCESS_BYTES = 195 << 20
# Names, alleles and look-ups of one panel site, and of one target record (measured).
_SITE_BYTES = 400
_RECORD_BYTES = 1200
# Sites of the panel read at a time.
PIECE_SITES = 512
# Targets per call of the kernels: enough to keep all threads busy, few enough to show progress.
BATCH_HAPLOTYPES = 64
BATCH_BYTES = 64 << 20
# Of a batch, per target haplotype and core site: the probability, then rounded; with a network its
# evidence, standardised too, and more.
SITE_BYTES = 20
REFINED_SITE_BYTES = 256
# Of each carrier of a minor allele while the lists are turned from sites to haplotypes; of each
# panel haplotype, sites as they are read and kept by HDF5.
_CARRIER_BYTES = 8
_READ_BYTES = 2 * PIECE_SITES
# What a thread holds per panel haplotype: a block of rows of the passes over 3 settings, or over 5
# and the runs, and what it says of each state; and per observed site at most, of the rows kept.
_ROWS_BYTES = 1000
_REFINED_ROWS_BYTES = 2200
_KEPT_BYTES = 3
_REFINED_KEPT_BYTES = 7


@dataclass(frozen=True, slots=True)
class Chunk:
    """Panel rows ``[start, end)`` to impute, from evidence in ``[first, last)``."""

    number: int
    chrom: str
    start: int
    end: int
    first: int
    last: int
    windows: tuple[int, int]
    """First and last window of the core, both included."""
    n_bytes: int
    """What the process is expected to take while it works on the chunk."""


def describe_plan(chunks: Sequence[Chunk], memory: int) -> str:
    """The plan in one line, such as ``about 310 MB of memory (limit 2.0 GB), 35 windows in …``."""
    most = max(chunk.n_bytes for chunk in chunks) / 2**20
    windows = sum(chunk.windows[1] - chunk.windows[0] + 1 for chunk in chunks)
    return (
        f"about {most:,.0f} MB of memory (limit {memory / 2**30:.1f} GB), {windows:,} "
        f"window{'s' * (windows != 1)} in {len(chunks):,} chunk{'s' * (len(chunks) != 1)}"
    )


class ChunkPlanner:
    """Cuts windows into chunks with which the process fits ``memory`` bytes."""

    def __init__(
        self,
        panel: Panel,
        cm: NDArray[np.float64],
        memory: int,
        observed: NDArray[np.int64],
        windows: WindowConfig,
        n_targets: int,
        threads: int | None = None,
        network: int | None = None,
    ):
        """Estimate what does not depend on the chunk.

        Args:
            panel: the reference panel.
            cm: float64 [sites], genetic positions of the panel's sites.
            memory: bytes.
            observed: panel rows that the target has calls of, increasing.
            windows: what a core is made of.
            n_targets: target haplotypes.
            threads: CPU threads of the kernels; as many as there are CPUs if None.
            network: bytes that a network takes; None if there is none.
        """
        self.memory = memory
        self._windows = WindowPlan.from_chromosomes(panel.chromosomes(), windows)
        self._cm = cm
        self._observed = observed
        refined = network is not None
        # Observed alleles of the chromosome; the target's calls are joined from blocks, matched
        # and flipped.
        held = _PROCESS_BYTES + panel.n_sites * _SITE_BYTES + (network or 0)
        held += len(observed) * (panel.n_haplotypes + 5 * n_targets + _RECORD_BYTES)
        held += _READ_BYTES * panel.n_haplotypes
        n_threads = threads or _cpus()
        held += n_threads * (_REFINED_ROWS_BYTES if refined else _ROWS_BYTES) * panel.n_haplotypes
        self._held = held
        kept = _REFINED_KEPT_BYTES if refined else _KEPT_BYTES
        self._per_observed = n_threads * kept * panel.n_haplotypes
        self._per_core = 2 * n_targets  # the result
        # Where each haplotype's sites between two observed ones begin.
        self._per_segment = 4 * (panel.n_haplotypes + 1)
        minor = np.minimum(panel.ac, panel.an - panel.ac)
        self._carriers = np.concatenate([[0], np.cumsum(minor, dtype=np.int64)])
        per_call = REFINED_SITE_BYTES if refined else SITE_BYTES
        self._per_batch = per_call * min(n_targets, BATCH_HAPLOTYPES)

    def plan(self, wanted: NDArray[np.bool_]) -> list[Chunk]:
        """Chunks of all windows with ``wanted`` sites (bool [sites]), each as large as fits.

        Raises:
            UsageError: not even one window with its flanks fits.
        """
        chunks: list[Chunk] = []
        windows = self._windows.windows
        holds = [bool(wanted[window.start : window.end].any()) for window in windows]
        number = 0
        while number < len(windows):
            if not holds[number]:
                number += 1
                continue
            chunk = self._chunk(len(chunks), number, number)
            if chunk.n_bytes > self.memory:
                megabytes = chunk.n_bytes / 2**20
                raise UsageError(
                    f"--max-memory: one window with its flanks needs about {megabytes:,.0f} MB, "
                    f"{self.memory / 2**20:,.0f} MB are allowed",
                    f"give at least --max-memory {megabytes + 50:.0f}M",
                )
            last = number + 1
            while last < len(windows) and last - number < _CORE_WINDOWS and holds[last]:
                longer = self._chunk(len(chunks), number, last)
                if windows[last].chrom != chunk.chrom or longer.n_bytes > self.memory:
                    break
                chunk = longer
                last += 1
            chunks.append(chunk)
            number = last
        return chunks

    def again(self, bounds: Sequence[tuple[int, int]]) -> list[Chunk] | None:
        """Chunks of these first and last windows; None if one of them does not fit."""
        chunks = [self._chunk(i, first, last) for i, (first, last) in enumerate(bounds)]
        return chunks if all(chunk.n_bytes <= self.memory for chunk in chunks) else None

    def _chunk(self, number: int, first: int, last: int) -> Chunk:
        start, end = self._windows.windows[first].start, self._windows.windows[last].end
        flanks = _flanks(self._windows, self._cm, first, last)
        inside = np.searchsorted(self._observed, flanks)
        batch = min(2 * BATCH_BYTES, self._per_batch * (end - start))
        n_bytes = self._held + batch + self._per_core * (end - start)
        n_bytes += _CARRIER_BYTES * int(self._carriers[end] - self._carriers[start])
        within = np.searchsorted(self._observed, [start, end])
        n_bytes += self._per_segment * int(within[1] - within[0] + 1)
        n_bytes += self._per_observed * int(inside[1] - inside[0])
        chrom = str(self._windows.windows[first].chrom)
        return Chunk(number, chrom, start, end, *flanks, (first, last), n_bytes)


def _cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def untyped_windows(
    panel: Panel,
    wanted: NDArray[np.bool_],
    observed: NDArray[np.int64],
    windows: WindowConfig,
) -> int:
    """How many windows with wanted sites hold none of the ``observed`` panel rows (sorted)."""
    bare = 0
    for window in WindowPlan.from_chromosomes(panel.chromosomes(), windows).windows:
        low, high = np.searchsorted(observed, [window.start, window.end])
        bare += bool(low == high and wanted[window.start : window.end].any())
    return bare


def _flanks(plan: WindowPlan, cm: NDArray[np.float64], first: int, last: int) -> tuple[int, int]:
    """Panel rows of windows first to last with flanks of at least 2 cM and one window."""
    chrom = plan.windows[first].chrom
    low, high = first, last
    edge_low, edge_high = cm[plan.windows[first].start], cm[plan.windows[last].end - 1]
    while low > 0 and plan.windows[low - 1].chrom == chrom:
        if low < first and edge_low - cm[plan.windows[low].start] >= _FLANK_CM:
            break
        low -= 1
    while high + 1 < plan.num_windows and plan.windows[high + 1].chrom == chrom:
        if high > last and cm[plan.windows[high].end - 1] - edge_high >= _FLANK_CM:
            break
        high += 1
    return plan.windows[low].start, plan.windows[high].end
