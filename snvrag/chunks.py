"""How an imputation is cut up: cores of windows with flanks, sized to fit the memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snvrag.config import WindowConfig
from snvrag.copying import ALL_STATES
from snvrag.errors import UsageError
from snvrag.panel import Panel
from snvrag.windows import WindowPlan

_FLANK_CM = 2.0
_CORE_WINDOWS = 64
# With state selection a chunk's states are a union over its windows, so fewer are better.
_CORE_WINDOWS_SELECTED = 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """Panel rows ``[start, end)`` to impute, from evidence in ``[first, last)``."""

    number: int
    chrom: str
    start: int
    end: int
    first: int
    last: int


def plan_chunks(
    panel: Panel,
    cm: NDArray[np.float64],
    wanted: NDArray[np.bool_],
    memory: int,
    n_observed: int,
    windows: WindowConfig,
) -> list[Chunk]:
    """Cut the wanted windows into chunks that fit ``memory`` bytes.

    Raises:
        UsageError: not even one window with its flanks fits.
    """
    plan = WindowPlan.from_chromosomes(panel.chromosomes(), windows)
    selected = panel.n_haplotypes > ALL_STATES
    largest = _CORE_WINDOWS_SELECTED if selected else _CORE_WINDOWS
    density = n_observed / panel.n_sites
    # Observed alleles of the chromosome, twice while runs are searched.
    held = 2 * n_observed * panel.n_haplotypes
    # Core alleles as read and by site; forward variables of two threads over the context.
    per_core = 5 * panel.n_haplotypes
    per_context = 2 * 4 * density * panel.n_haplotypes * (0.1 if selected else 1.0)

    def needed(first: int, last: int) -> float:
        bounds = _flanks(plan, cm, first, last)
        core = plan.windows[last].end - plan.windows[first].start
        return held + per_core * core + per_context * (bounds[1] - bounds[0])

    chunks: list[Chunk] = []
    number = 0
    while number < plan.num_windows:
        window = plan.windows[number]
        if not wanted[window.start : window.end].any():
            number += 1
            continue
        last = number
        if needed(number, last) > memory:
            megabytes = needed(number, last) / 2**20
            raise UsageError(
                f"--max-memory: one window with its flanks needs about {megabytes:,.0f} MB",
                f"give at least --max-memory {megabytes + 100:.0f}M",
            )
        while last + 1 < plan.num_windows and last + 1 - number < largest:
            following = plan.windows[last + 1]
            if following.chrom != window.chrom or not wanted[following.start : following.end].any():
                break
            if needed(number, last + 1) > memory:
                break
            last += 1
        bounds = _flanks(plan, cm, number, last)
        chunks.append(
            Chunk(len(chunks), str(window.chrom), window.start, plan.windows[last].end, *bounds)
        )
        number = last + 1
    return chunks


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
