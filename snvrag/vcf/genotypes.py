"""Stream phased biallelic genotypes out of VCF, VCF.gz and BCF.

Everything that htslib only warns about, or says in its own words on stderr, becomes one error
here: a truncated file, an unknown sample, a region of a contig that is not there.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError, UsageError
from snvrag.provenance import read_lines
from snvrag.sites import Region
from snvrag.vcf.blocks import (
    MISSING,
    NO_SECOND_HAPLOTYPE,
    PLOIDY,
    SKIP_INCOMPLETE,
    GenotypeBlock,
    RecordFilter,
    SkippedRecord,
)
from snvrag.vcf.files import (
    check_complete,
    contig_lengths,
    contigs_of,
    formats,
    how_to_check,
    index_of,
    indexed_records,
    open_vcf,
)
from snvrag.vcf.soundness import END_OF_VECTOR, alleles_of, encoded_genotypes, sound_records
from snvrag.vcf.text import DoubtError, TextSettings, text_bytes

logger = logging.getLogger(__name__)

# Below, loading the compiled reader takes longer than htslib does.
_MIN_TEXT_BYTES = 24 * 2**20


@dataclass(frozen=True, slots=True)
class SampleSelection:
    """Samples to keep, in this order, or with ``exclude`` to leave out."""

    names: tuple[str, ...]
    exclude: bool = False
    listed_in: Path | None = None
    """The file that names them."""

    @classmethod
    def parse(cls, text: str) -> "SampleSelection":
        """Read ``A,B`` or ``^A,B``, as bcftools ``-s`` does."""
        exclude = text.startswith("^")
        names = tuple(name.strip() for name in text.removeprefix("^").split(","))
        if not all(names):
            raise UsageError(f"--samples {text}: an empty sample name", "write A,B or ^A,B")
        return cls(names, exclude)

    @classmethod
    def from_file(cls, text: str) -> "SampleSelection":
        """Read one sample a line from ``FILE`` or ``^FILE``, as bcftools ``-S`` does."""
        path = Path(text.removeprefix("^"))
        lines = read_lines(path)
        names = tuple(line.split()[0] for line in lines if line.strip())
        if not names:
            raise InputError(f"{path}: lists no sample", "write one sample ID a line")
        return cls(names, text.startswith("^"), path)

    def apply(self, available: Sequence[str], source: Path) -> list[str]:
        """The selected samples of ``available``.

        Raises:
            InputError: a name is not in ``available``, comes twice, or nothing is left.
        """
        unknown = [name for name in self.names if name not in set(available)]
        listed = f" of {self.listed_in}" if self.listed_in else ""
        if unknown:
            raise InputError(
                f"{source}: has no sample {unknown[0]!r}{listed}"
                + (f" ({len(unknown)} of the selected are unknown)" if len(unknown) > 1 else ""),
                f"it has {len(available)} samples, such as {', '.join(available[:3])}",
            )
        if self.exclude:
            chosen = [name for name in available if name not in set(self.names)]
        else:
            chosen = list(self.names)
        twice = [name for name, n in Counter(chosen).items() if n > 1]
        if twice:
            raise InputError(
                f"sample {twice[0]!r}{listed} is selected twice", "name each sample once"
            )
        if not chosen:
            raise InputError(f"{source}: the selection leaves no sample", "select fewer to exclude")
        return chosen


@dataclass(slots=True)
class GenotypeReader:
    """An opened VCF/BCF with its samples and regions checked; iterate :meth:`blocks`.

    ``skipped`` counts records left out, by reason, as reading goes on; for a target,
    ``skipped_records`` lists them. A target may have missing calls, a panel may not.
    """

    source: Path
    samples: list[str]
    file_samples: list[str]
    """All samples of the file, in its order."""
    regions: list[Region]
    include_indels: bool = False
    drop_incomplete: bool = False
    want_info_af: bool = False
    is_target: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_records: list[SkippedRecord] = field(default_factory=list)
    contig_lengths: dict[str, int] = field(default_factory=dict)
    """Lengths that the header gives, by name without ``chr``."""
    records: int = 0
    """Read so far."""
    expected: int = 0
    """To be read in all, by the file's index; 0 is unknown."""
    _place: str = "the header"
    """The last record read."""
    _order: NDArray[np.int64] | None = None
    _vcf: Any = None
    _haploid: NDArray[np.bool_] | None = None
    _text: TextSettings | None = None
    _n_columns: int = 0
    """Samples in the file."""

    @classmethod
    def open(
        cls,
        source: Path,
        *,
        regions: Sequence[Region] | None = None,
        samples: SampleSelection | None = None,
        include_indels: bool = False,
        drop_incomplete: bool = False,
        want_info_af: bool = False,
        is_target: bool = False,
        pool: Executor | None = None,
    ) -> "GenotypeReader":
        """Open ``source`` and check it, its samples and the regions before reading a record.

        Threads of ``pool`` inflate a VCF.gz ahead.

        Raises:
            InputError: absent, not VCF/BCF, truncated, without samples, or without a selected
                sample or contig.
        """
        check_complete(source)
        probe = open_vcf(source)
        available = list(probe.samples)
        twice = [name for name, n in Counter(available).items() if n > 1]
        if not available or twice:
            what = f"sample {twice[0]!r} appears twice in" if twice else "there is no sample in"
            raise InputError(f"{source}: {what} the header", "give a VCF with genotypes")
        if "GT" not in formats(probe):
            raise InputError(f"{source}: the header defines no FORMAT/GT", "give phased genotypes")
        chosen = samples.apply(available, source) if samples else available
        reader = cls(
            source=source,
            samples=chosen,
            file_samples=available,
            regions=_checked_regions(probe, source, regions or []),
            include_indels=include_indels,
            drop_incomplete=drop_incomplete,
            want_info_af=want_info_af,
            is_target=is_target,
        )
        reader.contig_lengths = contig_lengths(probe)
        reader.expected = 0 if reader.regions else indexed_records(probe)
        reader._n_columns = len(available)
        if _is_large_text(source) and not (reader.regions and index_of(source)):
            number = {name: i for i, name in enumerate(chosen)}
            reader._text = TextSettings(
                source=source,
                format_types=formats(probe),
                slots=np.array([number.get(name, -1) for name in available], dtype=np.int32),
                is_target=is_target,
                drop_incomplete=drop_incomplete,
                want_info_af=want_info_af,
                is_wanted=reader._in_regions if reader.regions else None,
                pool=pool,
            )
        probe.close()
        reader._vcf = open_vcf(source, None if chosen == available else chosen)
        position = {name: i for i, name in enumerate(reader._vcf.samples)}
        order = np.array([position[name] for name in chosen], dtype=np.int64)
        if not np.array_equal(order, np.arange(len(order))):
            reader._order = order
        return reader

    def close(self) -> None:
        """Close the file."""
        if self._vcf is not None:
            self._vcf.close()

    def blocks(self, block_sites: int) -> Iterator[GenotypeBlock]:
        """Yield kept records in blocks of at most ``block_sites``.

        Raises:
            InputError: damaged data, unsorted records, unphased or missing genotypes (unless
                dropped), a change of ploidy; names the record.
        """
        done = 0
        if self._text is not None:
            from snvrag.vcf.text_blocks import TextBlocks

            text = TextBlocks(self._text, self._filter())
            try:
                for block in text.blocks(block_sites):
                    self.records = text.records
                    done += 1
                    if block is not None:
                        yield block
                self.records = text.records
                return
            except (DoubtError, InputError, OSError):
                # Read again from the start, for htslib's record numbers, counts and errors.
                logger.info("%s: from block %d on, read by htslib", self.source, done + 1)
                self.records = 0
                self.skipped.clear()
                self.skipped_records.clear()
        for number, blocks in enumerate(self._htslib_blocks(block_sites)):
            if number >= done:
                yield from blocks

    def _filter(self) -> RecordFilter:
        return RecordFilter(
            self.source, self.include_indels, self.is_target, self.skipped, self.skipped_records
        )

    def _htslib_blocks(self, block_sites: int) -> Iterator[list[GenotypeBlock]]:
        """One block each, or none where all of its records are dropped."""
        batch: list[Any] = []
        arrays: list[NDArray[np.int32]] = []
        for record, (chrom, position, name, ref, alts) in self._wanted():
            af = record.INFO.get("AF") if self.want_info_af else None
            batch.append((chrom, position, name or ".", ref, alts[0], af))
            arrays.append(self._encoded(record))
            if len(batch) == block_sites:
                yield self._block(batch, arrays)
                batch, arrays = [], []
        if batch:
            yield self._block(batch, arrays)

    def _wanted(self) -> Iterator[tuple[Any, tuple[str, int, str | None, str, list[str]]]]:
        """Records to keep, and CHROM, POS, ID, REF and ALT of each."""
        judge = self._filter()
        for record in self._records():
            try:
                fields = record.CHROM, record.POS, record.ID, record.REF, record.ALT
            except UnicodeDecodeError as error:
                raise self._damaged() from error
            self.records += 1
            chrom, position, _, ref, alts = fields
            self._place = f"{chrom}:{position}"
            if judge.keeps(chrom, position, ref, alts):
                yield record, fields

    def _records(self) -> Iterator[Any]:
        try:
            if not self.regions:
                yield from self._in_file()
            elif index_of(self.source) is None:
                logger.info("%s: no index, reading all of it for the regions", self.source)
                for record in self._in_file():
                    if self._in_regions(record.CHROM, record.POS):
                        yield record
            else:
                for region in self.regions:
                    for record in self._vcf(str(region)):
                        if region.contains(record.CHROM, record.POS):
                            yield record
        except InputError:
            raise
        except Exception as error:  # cyvcf2 raises bare Exception for what htslib rejects
            raise self._damaged() from error

    def _in_file(self) -> Iterator[Any]:
        """All records of the file."""
        return sound_records(self._vcf, self.source, self._n_columns)

    def _damaged(self) -> InputError:
        return InputError(
            f"{self.source}: damaged after record {self.records} ({self._place})",
            how_to_check(self.source),
        )

    def _in_regions(self, chrom: str, position: int) -> bool:
        return any(r.contains(chrom, position) for r in self.regions)

    def _encoded(self, record: Any) -> NDArray[np.int32]:
        """Genotypes as BCF encodes them: int32 [samples, 2]."""
        try:
            found = encoded_genotypes(record)
        except Exception as error:  # cyvcf2 raises bare Exception
            raise InputError(
                f"{self.source}: record {record.CHROM}:{record.POS} has no GT",
                "give phased genotypes at every record",
            ) from error
        if found.shape[1] > PLOIDY:
            raise InputError(
                f"{self.source}: record {record.CHROM}:{record.POS} has ploidy {found.shape[1]}",
                "only haploid and diploid genotypes are supported",
            )
        if found.shape[1] < PLOIDY:
            found = np.column_stack([found, np.full(len(found), END_OF_VECTOR, dtype=np.int32)])
        return found

    def _block(self, batch: list[Any], arrays: list[NDArray[np.int32]]) -> list[GenotypeBlock]:
        encoded = np.stack(arrays)
        if self._order is not None:
            encoded = encoded[:, self._order]
        numbers = alleles_of(encoded)
        if numbers.max() > 1:
            self._raise_unknown_allele(batch, numbers)
        alleles = numbers.astype(np.int8)
        first, second = (np.ascontiguousarray(alleles[:, :, i]) for i in range(PLOIDY))
        haploid = second == NO_SECOND_HAPLOTYPE
        # A genotype is phased where its last allele is marked so.
        unphased = ((encoded[:, :, 1] & 1) == 0) & ~haploid
        if self.is_target:
            # Order means nothing where both alleles are equal or one is unknown.
            bad = unphased & (first >= 0) & (second >= 0) & (first != second)
        else:
            bad = (first == MISSING) | (second == MISSING) | unphased
        bad_sites = bad.any(axis=1)
        if bad_sites.any():
            if not self.drop_incomplete:
                self._raise_incomplete(batch, alleles, bad)
            self.skipped[SKIP_INCOMPLETE] += int(bad_sites.sum())
            keep = np.flatnonzero(~bad_sites)
            batch = [batch[i] for i in keep]
            alleles, haploid = alleles[keep], haploid[keep]
        if not batch:
            return []
        self._check_ploidy(batch, haploid)
        chrom, pos, ids, ref, alt, af = zip(*batch, strict=True)
        values = [float(x) if isinstance(x, float | int) else float("nan") for x in af]
        return [
            GenotypeBlock(
                list(chrom),
                list(pos),
                list(ids),
                list(ref),
                list(alt),
                alleles,
                np.array(values, dtype=np.float32),
            )
        ]

    def _raise_unknown_allele(self, batch: list[Any], alleles: NDArray[np.int32]) -> None:
        site, sample, _ = (int(x) for x in np.argwhere(alleles > 1)[0])
        raise InputError(
            f"{self.source}: record {batch[site][0]}:{batch[site][1]}: sample "
            f"{self.samples[sample]} has allele {alleles[site, sample].max()}, but the record has "
            "one ALT",
            "leave the record out, or make the file again from the one with all ALT alleles",
        )

    def _raise_incomplete(
        self, batch: list[Any], alleles: NDArray[np.int8], bad: NDArray[np.bool_]
    ) -> None:
        site, sample = (int(x) for x in np.argwhere(bad)[0])
        record, name = f"{batch[site][0]}:{batch[site][1]}", self.samples[sample]
        if self.is_target:
            raise InputError(
                f"{self.source}: record {record}: the genotype of sample {name} is unphased; "
                "target haplotypes must be phased",
                f"phase first: beagle gt={self.source} ref=PANEL.vcf.gz impute=false out=phased",
            )
        missing = bool((alleles[site, sample] == MISSING).any())
        what = "missing" if missing else "unphased"
        remedy = "phase and impute the panel first (Beagle, SHAPEIT), or"
        raise InputError(
            f"{self.source}: record {record}: the genotype of sample {name} is {what}; a reference "
            "panel must be phased and complete",
            f"{remedy} leave such records out with --drop-incomplete",
        )

    def _check_ploidy(self, batch: list[Any], haploid: NDArray[np.bool_]) -> None:
        if self._haploid is None:
            self._haploid = haploid[0]
        changed = haploid != self._haploid
        if changed.any():
            site, sample = (int(x) for x in np.argwhere(changed)[0])
            raise InputError(
                f"{self.source}: record {batch[site][0]}:{batch[site][1]}: the ploidy of sample "
                f"{self.samples[sample]} changes here",
                "convert PAR and non-PAR regions (and autosomes and chrX) to separate panels "
                "with --region",
            )


def _is_large_text(source: Path) -> bool:
    return text_bytes(source, _MIN_TEXT_BYTES) >= _MIN_TEXT_BYTES


def _checked_regions(vcf: Any, source: Path, regions: Sequence[Region]) -> list[Region]:
    """Regions in file order with overlaps merged, so that no record comes twice."""
    contigs = contigs_of(vcf)
    for region in regions:
        if contigs and region.chrom not in contigs:
            shown = ", ".join(contigs[:5]) + (", …" if len(contigs) > 5 else "")
            raise InputError(
                f"{source}: has no contig {region.chrom!r}",
                f"its contigs are {shown}; names match exactly (chr20 is not 20)",
            )
    rank = {name: i for i, name in enumerate(contigs)}
    merged: list[Region] = []
    for region in sorted(regions, key=lambda r: (rank.get(r.chrom, 0), r.chrom, r.start)):
        last = merged[-1] if merged else None
        if (
            last
            and last.chrom == region.chrom
            and (last.end is None or region.start <= last.end + 1)
        ):
            end = None if last.end is None or region.end is None else max(last.end, region.end)
            merged[-1] = Region(last.chrom, last.start, end)
        else:
            merged.append(region)
    return merged
