"""Which sites of the panel an imputation writes, and where they lie on the genetic map."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError
from snvrag.genetic_map import GeneticMap
from snvrag.panel import Panel
from snvrag.sites import Region

logger = logging.getLogger(__name__)


def wanted_rows(panel: Panel, regions: Sequence[Region] | None) -> NDArray[np.bool_]:
    """Panel sites in the regions, or all: bool [sites].

    Raises:
        InputError: the panel lacks a region's chromosome, or has no site in any region.
    """
    if not regions:
        return np.ones(panel.n_sites, dtype=bool)
    wanted = np.zeros(panel.n_sites, dtype=bool)
    names = [name for name, _ in panel.chromosomes()]
    chrom = panel.sites.chrom
    for region in regions:
        if region.chrom not in names:
            raise InputError(
                f"{panel.path}: has no chromosome {region.chrom!r}",
                f"it has {', '.join(names)}; names match exactly (chr20 is not 20)",
            )
        inside = (chrom == region.chrom) & (panel.positions >= region.start)
        wanted |= inside & (region.end is None or panel.positions <= region.end)
    if not wanted.any():
        raise InputError(
            f"{panel.path}: no panel site lies in {', '.join(map(str, regions))}",
            "see the panel's positions with: snvrag windows PANEL.h5",
        )
    return wanted


def leave_out_bare_chromosomes(
    panel: Panel, wanted: NDArray[np.bool_], matched: NDArray[np.int64], *, named: bool
) -> NDArray[np.bool_]:
    """``wanted`` without the chromosomes that hold no matched site, unless regions named them.

    Args:
        panel: the reference panel.
        wanted: bool [sites].
        matched: int64, sorted panel rows that the target has too.
        named: whether ``wanted`` are regions that the user named; then nothing is left out.
    """
    kept, bare = wanted.copy(), []
    for name, first, last in panel.sites.chromosomes():
        low, high = np.searchsorted(matched, [first, last])
        if low == high and wanted[first:last].any():
            bare.append(name)
            kept[first:last] = False
    if not bare:
        return wanted
    names = ", ".join(bare)
    if named:
        logger.warning("the target has no site on %s: imputed without any observed site", names)
        return wanted
    logger.warning("the target has no site on %s: not written (--region would)", names)
    return kept


def genetic_positions(
    panel: Panel, maps: GeneticMap, wanted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """cM of the sites of all chromosomes with wanted ones: float64 [sites], elsewhere 0.

    Raises:
        InputError: the map lacks one of these chromosomes.
    """
    cm = np.zeros(panel.n_sites)
    for name, first, last in panel.sites.chromosomes():
        if wanted[first:last].any():
            cm[first:last] = maps.centimorgans(name, panel.positions[first:last])
    return cm
