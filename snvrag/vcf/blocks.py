"""Which records are kept, and what is kept of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError

MISSING = -1
NO_SECOND_HAPLOTYPE = -2
PLOIDY = 2
SKIP_INCOMPLETE = "missing or unphased genotype (--drop-incomplete)"
_BASES = frozenset("ACGTNacgtn")
_SKIP_MULTIALLELIC = "multi-allelic"
_SKIP_NO_ALT = "no ALT allele"
_SKIP_SYMBOLIC = "symbolic or star allele"
_SKIP_INDEL = "indel (see --include-indels)"
_SKIP_DUPLICATE = "duplicate of an earlier record"

# Pairs of alleles 0 and 1 as numbers of two bytes; the first two are each other's on big-endian
# machines.
_FIRST_ALT, _SECOND_ALT, _BOTH_ALT = 0x0001, 0x0100, 0x0101


@dataclass(frozen=True, slots=True)
class SiteCounts:
    """Counts per site, int64 [n] each; a haploid call counts as a REF or HOM person."""

    ac: NDArray[np.int64]
    """ALT alleles."""
    an: NDArray[np.int64]
    """Called haplotypes."""
    ref: NDArray[np.int64]
    """People without ALT."""
    het: NDArray[np.int64]
    """People with one allele of each kind."""
    people: NDArray[np.int64]
    """People with any call."""

    @classmethod
    def of(cls, genotypes: NDArray[np.int8]) -> "SiteCounts":
        """Count int8 [n, samples, 2]."""
        # As one number for both alleles: passes over these are several times as fast.
        pairs = np.ascontiguousarray(genotypes).view(np.uint16)[:, :, 0]

        def count(what: NDArray[np.bool_]) -> NDArray[np.int64]:
            return np.asarray(np.count_nonzero(what, axis=1), dtype=np.int64)

        ref, hom = count(pairs == 0), count(pairs == _BOTH_ALT)
        het = count(pairs == _FIRST_ALT) + count(pairs == _SECOND_ALT)
        people = np.full_like(ref, genotypes.shape[1])
        if (ref + het + hom == people).all():
            return cls(ac=het + 2 * hom, an=2 * people, ref=ref, het=het, people=people)
        first, second = (np.ascontiguousarray(genotypes[:, :, i]) for i in range(2))
        alt_1, alt_2, called_1, called_2 = first == 1, second == 1, first >= 0, second >= 0
        called = called_1 | called_2
        return cls(
            ac=count(alt_1) + count(alt_2),
            an=count(called_1) + count(called_2),
            ref=count(called & ~(alt_1 | alt_2)),
            het=count((alt_1 != alt_2) & called_1 & called_2),
            people=count(called),
        )

    def frequencies(self) -> NDArray[np.float32]:
        """REF, HET, HOM and AF: float32 [4, n]; 0 where nothing is called."""
        people, haplotypes = np.maximum(self.people, 1), np.maximum(self.an, 1)
        hom = self.people - self.ref - self.het
        rows = [self.ref / people, self.het / people, hom / people, self.ac / haplotypes]
        return np.stack(rows).astype(np.float32)


@dataclass(frozen=True, slots=True)
class GenotypeBlock:
    """Some consecutive kept records, n sites."""

    chrom: list[str]
    pos: list[int]
    id: list[str]
    ref: list[str]
    alt: list[str]
    genotypes: NDArray[np.int8]
    """int8 [n, samples, 2]: 0/1, −1 missing, −2 no second haplotype."""
    info_af: NDArray[np.float32]
    """float32 [n]: INFO/AF, NaN where absent or not asked for."""
    known_counts: SiteCounts | None = None
    """Counted while reading."""

    @property
    def counts(self) -> SiteCounts:
        """Counts of all samples per site."""
        return self.known_counts or SiteCounts.of(self.genotypes)


@dataclass(frozen=True, slots=True)
class SkippedRecord:
    """A record that was left out, and why."""

    site: str
    """``CHROM:POS:REF:ALT``, several ALT separated by commas."""
    reason: str


@dataclass(slots=True)
class RecordFilter:
    """Keeps records that are biallelic, of the right type, in order and no duplicate."""

    source: Path
    include_indels: bool
    is_target: bool
    skipped: Counter[str]
    skipped_records: list[SkippedRecord]
    chrom: str = ""
    position: int = 0
    _done: set[str] = field(default_factory=set)
    _here: set[tuple[str, str]] = field(default_factory=set)

    def move_to(self, position: int) -> None:
        """Note that records up to one at ``position`` were kept, of which the next is none."""
        self.position = position
        self._here.clear()

    def keeps(self, chrom: str, position: int, ref: str, alts: Sequence[str]) -> bool:
        """Whether to keep the next record; counts it if not.

        Raises:
            InputError: the file is not sorted.
        """
        if chrom != self.chrom:
            if chrom in self._done:
                raise self._unsorted(chrom, position, f"{chrom} comes in two places")
            self.chrom = chrom
            self.move_to(0)
            self._done.add(chrom)
        if position < self.position:
            raise self._unsorted(chrom, position, f"comes after position {self.position}")
        if position > self.position:
            self.move_to(position)
        reason = self._reason_to_skip(ref, alts)
        if reason is None:
            alleles = (ref, alts[0])
            if alleles in self._here:
                reason = _SKIP_DUPLICATE
            self._here.add(alleles)
        if reason is not None:
            self.skipped[reason] += 1
            if self.is_target:
                site = f"{chrom}:{position}:{ref}:{','.join(alts) or '.'}"
                self.skipped_records.append(SkippedRecord(site, reason))
        return reason is None

    def _unsorted(self, chrom: str, position: int, what: str) -> InputError:
        return InputError(
            f"{self.source}: not sorted: record {chrom}:{position} {what}",
            f"bcftools sort {self.source} -Oz -o sorted.vcf.gz",
        )

    def _reason_to_skip(self, ref: str, alts: Sequence[str]) -> str | None:
        if len(alts) != 1:
            return _SKIP_MULTIALLELIC if alts else _SKIP_NO_ALT
        alt = alts[0]
        if len(ref) == 1 and len(alt) == 1 and ref in _BASES and alt in _BASES:
            return None
        if not (set(ref) <= _BASES and set(alt) <= _BASES):
            return _SKIP_SYMBOLIC if alt != "." else _SKIP_NO_ALT
        return None if self.include_indels else _SKIP_INDEL
