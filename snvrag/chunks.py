"""How an imputation is cut up: cores of windows with flanks, sized to fit the memory.

Several processes share the work by chunks and, where these are few, by groups of target haplotypes:
what a haplotype gets depends on the chunk alone, so that the number of processes changes no result
as long as the memory of each allows the same chunks.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from snvrag.config import WindowConfig
from snvrag.copying import CELL_CM
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
_ROWS_BYTES = 1100
_REFINED_ROWS_BYTES = 2300
_KEPT_BYTES = 3
_REFINED_KEPT_BYTES = 7
# Of each of the copying model's cells, per thread and panel haplotype: the longest run and π.
_CELL_BYTES = 8
# Carriers are counted in int32. There may be more than the panel's counts say, as not all
# haplotypes judge which allele is minor.
_MOST_CARRIERS = 1 << 30
# Positions of one panel site, all that a process beside the first one reads of it.
_WORKER_SITE_BYTES = 40
# With several processes, parts per process: with more, all would end at more nearly the same time,
# but each part reads the panel's alleles of its chunk anew.
_PARTS_PER_JOB = 2


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


@dataclass(frozen=True, slots=True)
class Part:
    """A chunk for the target haplotypes ``[first, last)``: what is computed, and kept, at once."""

    number: int
    chunk: Chunk
    first: int
    last: int

    @property
    def calls(self) -> int:
        """Sites times haplotypes."""
        return (self.chunk.end - self.chunk.start) * (self.last - self.first)


@dataclass(frozen=True, slots=True)
class Plan:
    """All chunks, each for the same groups of target haplotypes."""

    chunks: Sequence[Chunk]
    edges: Sequence[int]
    """Where the groups begin, and the number of haplotypes."""

    def parts(self) -> list[Part]:
        """All parts, chunk after chunk."""
        groups = list(pairwise(self.edges))
        return [
            Part(len(groups) * i + j, chunk, first, last)
            for i, chunk in enumerate(self.chunks)
            for j, (first, last) in enumerate(groups)
        ]

    def parts_of(self, chunk: Chunk) -> list[Part]:
        """The parts of one chunk."""
        n = len(self.edges) - 1
        return self.parts()[n * chunk.number : n * (chunk.number + 1)]


def batch_size(n_sites: int, *, refined: bool) -> int:
    """Target haplotypes per call of the kernels for a core of ``n_sites``: a power of two.

    Every batch size divides :data:`BATCH_HAPLOTYPES`, so that groups that begin at its multiples
    have the batches that one group would have.
    """
    per_site = REFINED_SITE_BYTES if refined else SITE_BYTES
    most = min(BATCH_HAPLOTYPES, BATCH_BYTES // (per_site * n_sites))
    return 1 << max(most.bit_length() - 1, 0)


class ChunkPlanner:
    """Cuts windows into chunks with which all processes together fit ``memory`` bytes."""

    def __init__(
        self,
        panel: Panel,
        cm: NDArray[np.float64],
        memory: int,
        observed: NDArray[np.int64],
        windows: WindowConfig,
        n_targets: int,
        threads: int = 1,
        network: int | None = None,
        jobs: int = 1,
        group_step: int = 1,
    ):
        """Estimate what does not depend on the chunk.

        Args:
            panel: the reference panel.
            cm: float64 [sites], genetic positions of the panel's sites.
            memory: bytes.
            observed: panel rows that the target has calls of, increasing.
            windows: what a core is made of.
            n_targets: target haplotypes.
            threads: CPU threads of each process.
            network: bytes that a network takes; None if there is none.
            jobs: processes that compute; beyond one, another plans and writes.
            group_step: groups of target haplotypes begin at multiples of this.
        """
        self.memory, self._jobs = memory, jobs
        self._n_targets, self._group_step = n_targets, group_step
        self._windows = WindowPlan.from_chromosomes(panel.chromosomes(), windows)
        self._cm = cm
        self._observed = observed
        refined = network is not None
        # The target's calls are joined from blocks, matched and flipped.
        first = _PROCESS_BYTES + panel.n_sites * _SITE_BYTES + (network or 0)
        first += len(observed) * (5 * n_targets + _RECORD_BYTES)
        self._first = first if jobs > 1 else 0
        held = first
        if jobs > 1:
            # The calls are mapped from one file.
            held = _PROCESS_BYTES + panel.n_sites * _WORKER_SITE_BYTES + (network or 0)
        # Observed alleles of the chromosome, and others while they are read.
        held += (len(observed) + _READ_BYTES) * panel.n_haplotypes
        held += threads * (_REFINED_ROWS_BYTES if refined else _ROWS_BYTES) * panel.n_haplotypes
        self._held = held
        kept = _REFINED_KEPT_BYTES if refined else _KEPT_BYTES
        self._per_observed = threads * kept * panel.n_haplotypes
        self._per_cell = threads * _CELL_BYTES * panel.n_haplotypes
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
        # As many cores as there must be, of about equal size.
        most = -(-sum(holds) // -(-sum(holds) // _CORE_WINDOWS))
        number = 0
        while number < len(windows):
            if not holds[number]:
                number += 1
                continue
            chunk = self._chunk(len(chunks), number, number)
            if not self._fits(chunk):
                raise self._too_little(chunk)
            last = number + 1
            while last < len(windows) and last - number < most and holds[last]:
                longer = self._chunk(len(chunks), number, last)
                if windows[last].chrom != chunk.chrom or not self._fits(longer):
                    break
                chunk = longer
                last += 1
            chunks.append(chunk)
            number = last
        return chunks

    def again(self, bounds: Sequence[tuple[int, int]]) -> list[Chunk] | None:
        """Chunks of these first and last windows; None if one of them does not fit."""
        chunks = [self._chunk(i, first, last) for i, (first, last) in enumerate(bounds)]
        return chunks if all(self._fits(chunk) for chunk in chunks) else None

    def edges(self, n_chunks: int) -> list[int]:
        """Groups of target haplotypes that give all processes about equal work; see ``Plan``."""
        groups = 1 if self._jobs == 1 else -(-_PARTS_PER_JOB * self._jobs // n_chunks)
        steps = -(-self._n_targets // self._group_step)
        groups = min(groups, steps)
        starts = [self._group_step * (steps * i // groups) for i in range(groups)]
        return [*starts, self._n_targets]

    def check_edges(self, edges: Sequence[int]) -> None:
        """Refuse groups that are not of this target.

        Raises:
            ValueError: they are not.
        """
        if edges[0] != 0 or edges[-1] != self._n_targets or list(edges) != sorted({*edges}):
            raise ValueError("not groups of this target")

    def total_bytes(self, chunks: Sequence[Chunk]) -> int:
        """What all processes together are expected to take at most."""
        return self._first + self._jobs * max(chunk.n_bytes for chunk in chunks)

    def describe(self, plan: Plan) -> str:
        """In one line, such as ``about 310 MB of memory (limit 2.0 GB), 35 windows in …``."""
        n = len(plan.chunks)
        windows = sum(chunk.windows[1] - chunk.windows[0] + 1 for chunk in plan.chunks)
        return (
            f"about {self.total_bytes(plan.chunks) / 2**20:,.0f} MB of memory "
            f"(limit {self.memory / 2**30:.1f} GB), {windows:,} window{'s' * (windows != 1)} in "
            f"{n:,} chunk{'s' * (n != 1)}" + (f", {self._jobs} processes" if self._jobs > 1 else "")
        )

    def _fits(self, chunk: Chunk) -> bool:
        carriers = self._carriers[chunk.end] - self._carriers[chunk.start]
        fits = self._first + self._jobs * chunk.n_bytes <= self.memory
        return bool(fits and carriers <= _MOST_CARRIERS)

    def _too_little(self, chunk: Chunk) -> UsageError:
        megabytes = self.total_bytes([chunk]) / 2**20
        needs = "one window with its flanks needs"
        if self._jobs > 1:
            needs = f"one window with its flanks in each of {self._jobs} processes needs"
        return UsageError(
            f"--max-memory: {needs} about {megabytes:,.0f} MB, "
            f"{self.memory / 2**20:,.0f} MB are allowed",
            f"give at least --max-memory {megabytes + 50:.0f}M"
            + (" or fewer --jobs" if self._jobs > 1 else ""),
        )

    def _chunk(self, number: int, first: int, last: int) -> Chunk:
        start, end = self._windows.windows[first].start, self._windows.windows[last].end
        flanks = _flanks(self._windows, self._cm, first, last)
        inside = np.searchsorted(self._observed, flanks)
        batch = min(2 * BATCH_BYTES, self._per_batch * (end - start))
        n_bytes = self._held + batch + self._per_core * (end - start)
        n_bytes += _CARRIER_BYTES * int(self._carriers[end] - self._carriers[start])
        within = np.searchsorted(self._observed, [start, end])
        n_bytes += self._per_segment * int(within[1] - within[0] + 1)
        n_observed = int(inside[1] - inside[0])
        n_bytes += self._per_observed * n_observed
        ends = self._cm[[flanks[0], flanks[1] - 1]] // CELL_CM
        cells = int(ends[1] - ends[0]) + 1
        n_bytes += self._per_cell * min(cells, n_observed)
        chrom = str(self._windows.windows[first].chrom)
        return Chunk(number, chrom, start, end, *flanks, (first, last), n_bytes)


def threads_per_job(threads: int | None, jobs: int) -> int:
    """CPU threads of each of ``jobs`` processes of ``threads`` in all, by default of all CPUs."""
    return max(1, (threads or _cpus()) // jobs)


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
