"""The sites of a genotyping array, as rows of a panel."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.config import MaskConfig, RunConfig
from snvrag.errors import InputError, UsageError
from snvrag.panel import Panel
from snvrag.sites import rows_listed
from snvrag.vcf import read_sites

_MIN_SITES = 2


@dataclass(frozen=True, slots=True)
class ArraySites:
    """The sites that a list names."""

    source: Path
    n_listed: int
    """Sites in the list."""
    rows: NDArray[np.bool_]
    """bool [panel sites]: listed."""

    @classmethod
    def read(cls, source: Path, panel: Panel) -> "ArraySites":
        """Read a VCF/BCF, or a text of CHROM POS, and find its sites in a panel.

        Raises:
            InputError: unreadable, malformed, or fewer than two of its sites are in the panel.
        """
        listed = read_sites(source)
        rows = rows_listed(panel.sites, listed)
        if rows.sum() < _MIN_SITES:
            theirs = ", ".join(dict.fromkeys(listed.chrom.tolist())) or "none"
            ours = ", ".join(
                f"{name}:{panel.positions[first]:,}-{panel.positions[last - 1]:,}"
                for name, first, last in panel.sites.chromosomes()
            )
            raise InputError(
                f"{source}: {rows.sum()} of its {len(listed):,} sites are in {panel.path} (list: "
                f"{theirs}; panel: {ours}), at least {_MIN_SITES} are needed",
                "check that both are of one genome build and chromosome",
            )
        return cls(source, len(listed), rows)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the rows, equal for all lists that name the same panel sites."""
        return hashlib.sha256(np.packbits(self.rows).tobytes()).hexdigest()

    def __str__(self) -> str:
        return f"{int(self.rows.sum()):,} panel sites of {self.n_listed:,} in {self.source}"


def with_array_sites(config: RunConfig, sites: ArraySites | None) -> RunConfig:
    """Settings that record which sites are listed, so that no other list can resume the run.

    Raises:
        UsageError: a share of the batches is to show listed sites, and none are listed.
    """
    if sites is None and config.mask.sites_share != MaskConfig().sites_share:
        raise UsageError(
            f"--sites-share {config.mask.sites_share}: no sites are listed",
            "leave it out, or add --array-sites",
        )
    digest = "" if sites is None else sites.digest
    return replace(config, mask=replace(config.mask, array_sites_digest=digest))
