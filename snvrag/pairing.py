"""Imputed and true genotypes side by side: two files read in step, one block of sites in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError
from snvrag.provenance import Progress
from snvrag.sites import SiteFinder, SiteTable, plain_chromosome
from snvrag.vcf import DosageReader, DosageRecord

_EVERY = 256
# Genotypes of a block: large enough for numpy, a few megabytes in all its arrays.
_BLOCK_GENOTYPES = 1 << 17
# What rounding of DS to three decimals can add.
_DOSAGE_SLACK = 0.0011
# Of products of haplotype dosages, which carry that error too.
_PROBABILITY_SLACK = 0.005
_Genotypes = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class PairedBlock:
    """Imputed and true genotypes at m masked sites of n samples, as counts of ALT."""

    rows: NDArray[np.int64]
    """int64 [m]: the panel's rows."""
    truth: NDArray[np.int8]
    """int8 [m, n]; negative is unknown."""
    dosage: NDArray[np.float32]
    """float32 [m, n]."""
    guess: NDArray[np.int8]
    """int8 [m, n]: best guess; negative is missing."""
    ploidy: NDArray[np.int8]
    """int8 [m, n], 1 or 2."""
    qualities: NDArray[np.float64]
    """float64 [m, fields]: INFO by ``QUALITY_FIELDS``; NaN where there is none."""
    probability: NDArray[np.float32] | None
    """float32 [m, n, 3]: of 0, 1 and 2 ALT alleles; None where a record has none."""
    probability_sources: frozenset[str]
    """The fields that they came from."""


class NotInStepError(Exception):
    """The records of a file are not in the panel's order."""


def paired_blocks(
    imputed: DosageReader,
    truth: DosageReader,
    sites: SiteTable,
    measured: NDArray[np.bool_] | None,
    *,
    whole: bool = False,
    progress: Progress | None = None,
) -> Iterator[PairedBlock]:
    """Pair the masked sites of an imputed file with the truth; memory holds one block.

    Records that share a position may come in any order, others in the panel's.

    Args:
        imputed: records with DS, HDS, GP or GT, from the file's beginning.
        truth: the same, of at least the same samples.
        sites: the panel's; records of other sites are passed over.
        measured: bool [panel sites]; the others are masked. None: masked are the records that
            the imputed file marks.
        whole: take records in any order; memory then holds the truth, two bytes per genotype.
        progress: called as ``progress(task, done, total)`` in records.

    Yields:
        Blocks of paired sites in the order of the imputed file, at least one.

    Raises:
        NotInStepError: a file is not in the panel's order, without ``whole``.
        InputError: a file is damaged, a sample or a masked site is missing, a record comes twice,
            a dosage is missing or no dosage, or a sample is haploid in one file and diploid in
            the other.
    """
    finder = SiteFinder(sites)
    true = _Truth(truth, imputed.samples, finder, measured, whole=whole)
    paired = np.zeros(len(sites), dtype=bool)
    per_block = max(1, _BLOCK_GENOTYPES // len(imputed.samples))
    held: list[_Pair] = []
    last = 0
    for number, record in enumerate(imputed, start=1):
        if progress and number % _EVERY == 0:
            progress("comparing", min(number, len(sites)), len(sites))
        first, row = finder.find(*record.site)
        if row is None or not (record.imputed if measured is None else not measured[row]):
            continue
        if first < last and not whole:
            raise NotInStepError
        last = first
        name = ":".join(map(str, record.site))
        if paired[row]:
            raise InputError(
                f"{imputed.source}: has more than one record {name}",
                "bcftools norm --rm-dup exact leaves one",
            )
        _check_values(imputed.source, name, record)
        known = true.find(first, row)
        if known is None:
            continue
        paired[row] = True
        ploidy = _common_ploidy(imputed, truth, record, *known)
        held.append(_Pair(row, known[0], ploidy, record))
        if len(held) == per_block:
            yield _block(held)
            held.clear()
    true.read_rest()
    _check_complete(imputed, truth, sites, true.seen, paired, all_masked=measured is not None)
    if held:
        yield _block(held)


@dataclass(frozen=True, slots=True)
class _Pair:
    row: int
    truth: _Genotypes
    ploidy: _Genotypes
    record: DosageRecord


def _block(pairs: Sequence[_Pair]) -> PairedBlock:
    records = [pair.record for pair in pairs]
    probability = [r.probability for r in records if r.probability is not None]
    complete = len(probability) == len(records)
    return PairedBlock(
        rows=np.array([pair.row for pair in pairs], dtype=np.int64),
        truth=np.array([pair.truth for pair in pairs]),
        dosage=np.array([r.dosage for r in records]),
        guess=np.array([r.genotype for r in records]),
        ploidy=np.array([pair.ploidy for pair in pairs]),
        qualities=np.array([r.qualities for r in records], dtype=np.float64),
        probability=np.array(probability) if complete else None,
        probability_sources=frozenset(r.probability_source for r in records),
    )


class _Truth:
    """ALT counts and ploidy of the imputed samples at masked panel sites.

    It holds the records of one position, or with ``whole`` those of the file.
    """

    def __init__(
        self,
        reader: DosageReader,
        samples: Sequence[str],
        finder: SiteFinder,
        measured: NDArray[np.bool_] | None,
        *,
        whole: bool,
    ) -> None:
        lacking = [s for s in samples if s not in set(reader.samples)]
        if lacking:
            raise InputError(
                f"{reader.source}: has no sample {lacking[0]} ({len(lacking)} imputed samples are "
                "missing)",
                "give the truth of the imputed samples",
            )
        column = {name: number for number, name in enumerate(reader.samples)}
        self._columns = np.array([column[s] for s in samples])
        self._finder = finder
        self._measured = measured
        self._whole = whole
        self.seen = np.zeros(finder.n_sites, dtype=bool)
        """bool [panel sites]: which ones were read."""
        self._held: dict[int, tuple[_Genotypes, _Genotypes]] = {}
        self._place = 0
        self._records = self._masked(reader)
        self._next = next(self._records, None)
        if whole:
            self.read_rest()

    def find(self, first: int, row: int) -> tuple[_Genotypes, _Genotypes] | None:
        """ALT counts and ploidy, int8 [samples] each, of a panel row whose position begins at
        row ``first``; without ``whole``, ``first`` never falls."""
        if not self._whole:
            self._advance(first)
        return self._held.get(row)

    def read_rest(self) -> None:
        """Read to the end of the file."""
        self._advance(self._finder.n_sites)

    def _advance(self, first: int) -> None:
        while self._next is not None and self._next[0] <= first:
            place, row, record = self._next
            if place != self._place and not self._whole:
                self._held.clear()
            self._place = place
            self._held[row] = (record.genotype[self._columns], record.ploidy[self._columns])
            self._next = next(self._records, None)

    def _masked(self, reader: DosageReader) -> Iterator[tuple[int, int, DosageRecord]]:
        last = 0
        for record in reader:
            first, row = self._finder.find(*record.site)
            if row is None or (self._measured is not None and self._measured[row]):
                continue
            if first < last and not self._whole:
                raise NotInStepError
            last = first
            self.seen[row] = True
            yield first, row, record


def _common_ploidy(
    imputed: DosageReader,
    truth: DosageReader,
    record: DosageRecord,
    alleles: _Genotypes,
    told: _Genotypes,
) -> _Genotypes:
    """Ploidy of a record's samples, by the truth, else by the record: int8 [samples], 1 or 2."""
    ploidy = np.where(told > 0, told, record.ploidy)
    # What neither tells is diploid, as bare dosages are.
    ploidy[ploidy == 0] = 2
    differs = (alleles >= 0) & (record.ploidy > 0) & (record.ploidy != ploidy)
    if differs.any():
        sample = imputed.samples[int(differs.argmax())]
        raise InputError(
            f"{imputed.source}: record {':'.join(map(str, record.site))}: sample {sample} has "
            f"another ploidy than in {truth.source}",
            "bcftools +fixploidy gives both files the same",
        )
    return ploidy


def _check_values(source: Path, name: str, record: DosageRecord) -> None:
    dosage, probability = record.dosage, record.probability
    if np.isnan(dosage).any():
        raise InputError(
            f"{source}: record {name} has a missing dosage", "impute it, or leave the record out"
        )
    most = np.where(record.ploidy > 0, record.ploidy, 2)
    wrong = (dosage < -_DOSAGE_SLACK) | (dosage > most + _DOSAGE_SLACK)
    if wrong.any():
        worst = int(wrong.argmax())
        raise InputError(
            f"{source}: record {name} has dosage {dosage[worst]:g}, outside 0 to {most[worst]}",
            "DS must count ALT alleles",
        )
    if probability is None:
        return
    # Missing ones compare as neither.
    beyond = (probability < -_PROBABILITY_SLACK) | (probability > 1 + _PROBABILITY_SLACK)
    if beyond.any():
        raise InputError(
            f"{source}: record {name} has genotype probability {probability[beyond][0]:g}, outside "
            "0 to 1",
            "GP and HDS must hold probabilities, not their logarithms",
        )


def _check_complete(
    imputed: DosageReader,
    truth: DosageReader,
    sites: SiteTable,
    seen: NDArray[np.bool_],
    paired: NDArray[np.bool_],
    *,
    all_masked: bool,
) -> None:
    """Refuse files that share nothing, and what the truth has and the imputed file lacks."""
    chromosomes = [
        (plain_chromosome(name), bool(seen[a:b].any())) for name, a, b in sites.chromosomes()
    ]
    others = sum(reader.not_biallelic for reader in (imputed, truth))
    passed_over = f"; {others:,} records without just one ALT were passed over" * (others > 0)
    if not seen.any():
        raise InputError(
            f"{truth.source}: holds no panel site that was imputed (contigs: "
            f"{', '.join(truth.contigs) or 'none named'} in the truth, "
            f"{', '.join(name for name, _ in chromosomes)} in the panel{passed_over})",
            "check that truth and panel are of one build and chromosome, and --observed",
        )
    if not paired.any():
        raise InputError(
            f"{imputed.source}: no masked site is both in the truth and in the panel (contigs: "
            f"{', '.join(name for name, found in chromosomes if found)} in truth and panel, "
            f"{', '.join(imputed.contigs) or 'none named'} in the imputed file{passed_over})",
            "check that imputed file, truth and panel are of one build and chromosome",
        )
    lacking = np.flatnonzero(seen & ~paired)
    if all_masked and len(lacking):
        raise InputError(
            f"{imputed.source}: lacks the masked site {sites.key(int(lacking[0]))}, and "
            f"{len(lacking) - 1:,} more",
            "impute all panel sites, or name what was measured with --observed",
        )
