"""The target of an imputation: its haplotypes at the sites it shares with the panel."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError
from snvrag.panel import Panel
from snvrag.provenance import Progress, atomic_file
from snvrag.sites import SiteMatch, SiteTable, match_sites, plain_chromosome
from snvrag.vcf import NO_SECOND_HAPLOTYPE, GenotypeReader, SampleSelection

_BLOCK_SITES = 2048
# Bounds what a block takes while it is read, about 8 bytes per sample and record.
_BLOCK_CALLS = 8_000_000


@dataclass(frozen=True, slots=True)
class TargetCalls:
    """What was measured in H target haplotypes, at m sites of the panel."""

    panel_rows: NDArray[np.int64]
    """int64 [m]: panel rows of the sites, increasing."""
    alleles: NDArray[np.int8]
    """int8 [H, m]: as the panel counts them; -1 is missing."""

    @property
    def n_haplotypes(self) -> int:
        """H."""
        return len(self.alleles)

    def observed(self, first: int, last: int) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
        """What was measured in panel rows ``[first, last)``.

        Returns:
            bool [last - first], whether a row is a matched site, and the calls there, int8 [H, J].
        """
        low, high = np.searchsorted(self.panel_rows, [first, last])
        observed = np.zeros(last - first, dtype=bool)
        observed[self.panel_rows[low:high] - first] = True
        return observed, self.alleles[:, low:high]


@dataclass(frozen=True, slots=True)
class TargetHaplotypes:
    """Haplotypes of the target at matched panel sites; H haplotypes, m matched sites."""

    source: Path
    samples: tuple[str, ...]
    file_samples: tuple[str, ...]
    """All samples of the file, also those that were not selected."""
    ploidy: NDArray[np.int64]
    """int64 [samples]: 1 or 2."""
    match: SiteMatch
    calls: NDArray[np.int8]
    """int8 [H, m]: alleles as the panel counts them; -1 is missing."""
    excluded: tuple[tuple[str, str], ...]
    """``(CHROM:POS:REF:ALT, reason)`` of each record left out."""
    contig_lengths: dict[str, int]

    @classmethod
    def read(
        cls,
        source: Path,
        panel: Panel,
        min_overlap: float,
        progress: Progress | None = None,
        samples: SampleSelection | None = None,
    ) -> "TargetHaplotypes":
        """Read a phased target, all samples or some, and match it to a panel.

        Raises:
            InputError: without a selected sample, damaged, unsorted, unphased or without a call at
                any panel site, or fewer than ``min_overlap`` of its records within the panel's span
                are panel sites.
        """
        reader = GenotypeReader.open(source, samples=samples, include_indels=True, is_target=True)
        try:
            positions = set(panel.positions.tolist())
            table, kept, genotypes = _read_blocks(reader, positions, progress)
        finally:
            reader.close()
        match = match_sites(panel.sites, table)
        excluded = [(table.key(row), reason) for row, reason in match.excluded]
        excluded += [(r.site, r.reason) for r in reader.skipped_records]
        _check_overlap(source, panel, table, match, excluded, min_overlap)
        rows = np.searchsorted(kept, match.target_rows)
        chosen = genotypes[rows]
        if not (chosen >= 0).any():
            raise InputError(
                f"{source}: all genotypes at the panel's sites are missing",
                "give a phased VCF with called genotypes",
            )
        flip = match.flipped[:, None, None] & (chosen >= 0)
        alleles = np.where(flip, 1 - chosen, chosen).astype(np.int8)
        flat = alleles.reshape(len(rows), -1).T
        real = (genotypes[0] != NO_SECOND_HAPLOTYPE).ravel()
        return cls(
            source=source,
            samples=tuple(reader.samples),
            file_samples=tuple(reader.file_samples),
            ploidy=real.reshape(-1, 2).sum(axis=1).astype(np.int64),
            match=match,
            calls=np.ascontiguousarray(flat[real]),
            excluded=tuple(excluded),
            contig_lengths=reader.contig_lengths,
        )

    @property
    def n_haplotypes(self) -> int:
        """H."""
        return len(self.calls)

    def measured(self) -> TargetCalls:
        """The calls and where they are."""
        return TargetCalls(self.match.panel_rows, self.calls)

    def observed(self, first: int, last: int) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
        """See :meth:`TargetCalls.observed`."""
        return self.measured().observed(first, last)

    def is_typed(self) -> NDArray[np.bool_]:
        """Which matched sites have a call: bool [m]."""
        return np.asarray(self.calls.max(axis=0) >= 0)

    def own_haplotypes(self, panel: Panel) -> NDArray[np.int64]:
        """Panel haplotypes of each haplotype's own sample, by name: int64 [H, 2], -1 is none."""
        number = {name: i for i, name in enumerate(panel.samples)}
        own = np.full((len(self.samples), 2), -1, dtype=np.int64)
        for row, name in enumerate(self.samples):
            if name in number:
                ids = panel.own_haplotypes(number[name])
                own[row, : len(ids)] = ids
        return np.repeat(own, self.ploidy, axis=0)

    def strangers(self, panel: Panel) -> NDArray[np.bool_]:
        """Panel haplotypes of samples that are not in the target's file: bool [n]."""
        own = set(self.file_samples)
        known = np.array([name in own for name in panel.samples], dtype=bool)
        return ~known[panel.haplotype_sample]

    def contig_length(self, name: str) -> int | None:
        """Length of a contig by the target's header, whatever its ``chr``."""
        return self.contig_lengths.get(plain_chromosome(name))

    def report_excluded(self, path: Path | None) -> None:
        """Write the records left out as TSV: CHROM, POS, REF, ALT, reason."""
        if path is None:
            return
        lines = ["CHROM\tPOS\tREF\tALT\treason"]
        for site, reason in self.excluded:
            chrom, pos, ref, alt = site.rsplit(":", 3)
            lines.append(f"{chrom}\t{pos}\t{ref}\t{alt}\t{reason}")
        with atomic_file(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read_blocks(
    reader: GenotypeReader, positions: set[int], progress: Progress | None
) -> tuple[SiteTable, NDArray[np.int64], NDArray[np.int8]]:
    """All sites, and the genotypes of those at panel positions with their row numbers."""
    columns: dict[str, list[object]] = {name: [] for name in ("chrom", "pos", "id", "ref", "alt")}
    kept: list[int] = []
    genotypes: list[NDArray[np.int8]] = []
    size = max(1, min(_BLOCK_SITES, _BLOCK_CALLS // len(reader.samples)))
    for block in reader.blocks(size):
        if progress:
            progress("reading", reader.records, reader.expected)
        rows = [i for i, position in enumerate(block.pos) if position in positions]
        kept += [len(columns["pos"]) + i for i in rows]
        genotypes.append(block.genotypes[rows])
        for name, values in columns.items():
            values.extend(getattr(block, name))
    if not columns["pos"]:
        reasons = ", ".join(f"{n} {why}" for why, n in reader.skipped.items()) or "no record"
        raise InputError(
            f"{reader.source}: holds no biallelic record to impute from ({reasons})",
            "give a phased VCF with genotypes",
        )
    table = SiteTable(
        np.array(columns["chrom"], dtype=str),
        np.array(columns["pos"], dtype=np.int64),
        np.array(columns["id"], dtype=str),
        np.array(columns["ref"], dtype=str),
        np.array(columns["alt"], dtype=str),
    )
    return table, np.array(kept, dtype=np.int64), np.concatenate(genotypes)


def _check_overlap(
    source: Path,
    panel: Panel,
    table: SiteTable,
    match: SiteMatch,
    excluded: list[tuple[str, str]],
    min_overlap: float,
) -> None:
    inside = 0
    for name, first, last in panel.sites.chromosomes():
        own = np.array([plain_chromosome(c) for c in np.unique(table.chrom)])
        names = np.unique(table.chrom)[own == plain_chromosome(name)]
        here = np.isin(table.chrom, names)
        here &= table.pos >= panel.positions[first]
        inside += int((here & (table.pos <= panel.positions[last - 1])).sum())
    share = len(match.panel_rows) / inside if inside else 0.0
    if len(match.panel_rows) and share >= min_overlap:
        return
    theirs = ", ".join(dict.fromkeys(table.chrom.tolist()))
    ours = ", ".join(
        f"{name}:{panel.positions[first]:,}-{panel.positions[last - 1]:,}"
        for name, first, last in panel.sites.chromosomes()
    )
    if not inside:
        raise InputError(
            f"{source}: no record lies within the panel's span (target: {theirs}; panel: {ours})",
            "give the panel and the target of one chromosome and genome build; chr20 and 20 are "
            "taken as one name, others must agree (bcftools annotate --rename-chrs)",
        )
    reasons = Counter(reason for _, reason in excluded).most_common(2)
    why = "; ".join(f"{n:,} {reason}" for reason, n in reasons)
    raise InputError(
        f"{source}: {len(match.panel_rows):,} of {inside:,} records within the panel's span are "
        f"panel sites (target: {theirs}; panel: {ours}; {why or 'nothing left out'})",
        "check that both are of one genome build and chromosome; --min-overlap lowers the bar",
    )
