"""Read imputed or true genotypes: dosages, best guesses and quality per record."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError
from snvrag.vcf.blocks import NO_SECOND_HAPLOTYPE
from snvrag.vcf.files import check_complete, contigs_of, how_to_check, open_vcf
from snvrag.vcf.soundness import alleles_of, encoded_genotypes, sound_records

QUALITY_FIELDS = ("CR2", "DR2", "R2", "INFO")
"""Scores that promise r² of a record, the best one first."""
_DIPLOID = 2


@dataclass(frozen=True, slots=True)
class DosageRecord:
    """One biallelic record of n samples."""

    site: tuple[str, int, str, str]
    """CHROM, POS, REF, ALT."""
    dosage: NDArray[np.float32]
    """float32 [n]: expected ALT count; NaN is missing."""
    genotype: NDArray[np.int8]
    """int8 [n]: best-guess ALT count; -1 is missing."""
    ploidy: NDArray[np.int8]
    """int8 [n]: alleles per genotype, 1 or 2; 0 where the record does not tell."""
    probability: NDArray[np.float32] | None
    """float32 [n, 3]: of 0, 1 and 2 ALT alleles (two values of a haploid sample, then 0); None
    where the record has neither GP nor HDS."""
    probability_source: str
    """``GP``, ``HDS`` or empty."""
    imputed: bool | None
    """Whether the record says it was imputed; None where the file has no such flag."""
    qualities: tuple[float, ...]
    """INFO fields by :data:`QUALITY_FIELDS`; NaN where there is none."""

    @property
    def quality(self) -> float:
        """INFO/CR2, else DR2, R2 or INFO; NaN where there is none."""
        return next((value for value in self.qualities if value == value), float("nan"))  # noqa: PLR0124


class DosageReader:
    """Stream :class:`DosageRecord` from a VCF/BCF.

    The dosage is FORMAT/DS, else the sum of HDS, else GP1 + 2·GP2, else the GT; the best guess is
    GT, else the haplotype dosages rounded, else the dosage rounded. Genotype probabilities are GP,
    else the products of the haplotype dosages. ``IMP`` (Beagle, snvrag), or ``IMPUTED``
    without ``TYPED`` (Minimac4) mark imputed records.
    """

    def __init__(self, source: Path) -> None:
        check_complete(source)
        self.source = source
        self._vcf = open_vcf(source)
        self.samples = list(self._vcf.samples)
        if not self.samples:
            self.close()
            raise InputError(
                f"{source}: there is no sample in the header",
                "give a VCF with dosages or genotypes",
            )
        self.contigs = contigs_of(self._vcf)
        flags = {
            str(line["ID"]) for line in self._vcf.header_iter() if line["HeaderType"] == "INFO"
        }
        self.not_biallelic = 0
        """Records passed over so far, of no ALT or several."""
        self.marks_imputed = bool(flags & {"IMP", "IMPUTED"})

    def close(self) -> None:
        """Close the file."""
        self._vcf.close()

    def __enter__(self) -> "DosageReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[DosageRecord]:
        for record in self._records():
            if len(record.ALT) != 1:
                self.not_biallelic += 1
                continue
            try:
                yield self._read(record)
            except InputError:
                raise
            except Exception as error:  # cyvcf2 raises bare Exception for a wrong type
                raise InputError(
                    f"{self.source}: record {record.CHROM}:{record.POS}: DS, HDS, GP, GT or DR2 "
                    "has another type or number of values than it must have",
                    f"compare the header with the specification: bcftools view -h {self.source}",
                ) from error

    def _records(self) -> Iterator[Any]:
        number, place = 0, "the header"
        try:
            for record in sound_records(self._vcf, self.source, len(self.samples)):
                next_place = f"{record.CHROM}:{record.POS}"
                # Not text, if it raises.
                len(record.REF + "".join(record.ALT))
                # A position that is too large comes out below 0, and no REF as a point.
                if record.POS < 0 or record.REF in {"", "."}:
                    raise ValueError("no position, or no REF")
                number, place = number + 1, next_place
                yield record
        except Exception as error:  # cyvcf2 raises bare Exception for what htslib rejects
            raise InputError(
                f"{self.source}: damaged after record {number} ({place})", how_to_check(self.source)
            ) from error

    def _read(self, record: Any) -> DosageRecord:
        site = (record.CHROM, record.POS, record.REF, record.ALT[0])
        fields = set(record.FORMAT or ())
        alleles = alleles_of(encoded_genotypes(record)) if "GT" in fields else None
        if alleles is not None and alleles.max() > 1:
            sample = self.samples[int((alleles > 1).any(axis=1).argmax())]
            raise InputError(
                f"{self.source}: record {site[0]}:{site[1]}: sample {sample} has allele "
                f"{alleles.max()}, but the record has one ALT",
                "leave the record out, or make the file again from the one with all ALT alleles",
            )
        genotype = None if alleles is None else _genotype_dosage(alleles)
        haplotypes = record.format("HDS") if "HDS" in fields else None
        probability = record.format("GP") if "GP" in fields else None
        if "DS" in fields:
            dosage = record.format("DS")[:, 0]
        elif haplotypes is not None:
            dosage = _sum_present(haplotypes)
        elif probability is not None:
            dosage = _three(probability) @ np.arange(3)
        elif genotype is not None:
            dosage = np.where(genotype < 0, np.nan, genotype)
        else:
            raise InputError(
                f"{self.source}: record {site[0]}:{site[1]} has none of DS, HDS, GP and GT",
                "give a file with dosages or genotypes",
            )
        if genotype is None:
            guess = np.rint(dosage) if haplotypes is None else _sum_present(haplotypes > 0.5)
            genotype = np.where(np.isnan(dosage), -1, guess).astype(np.int8)
        ploidy = _ploidy(len(self.samples), alleles, haplotypes, probability)
        if ploidy.max() > _DIPLOID:
            sample = self.samples[int(ploidy.argmax())]
            raise InputError(
                f"{self.source}: record {site[0]}:{site[1]}: sample {sample} has ploidy "
                f"{ploidy.max()}",
                "haploid and diploid genotypes can be compared",
            )
        source = "GP" if probability is not None else "HDS" if haplotypes is not None else ""
        if probability is not None:
            probability = _three(probability)
        elif haplotypes is not None:
            probability = _products(haplotypes)
        return DosageRecord(
            site=site,
            dosage=dosage.astype(np.float32),
            genotype=genotype,
            ploidy=ploidy,
            probability=probability,
            probability_source=source,
            imputed=self._flag(record),
            qualities=_qualities(record),
        )

    def _flag(self, record: Any) -> bool | None:
        if not self.marks_imputed:
            return None
        info = record.INFO
        if info.get("IMP"):
            return True
        return bool(info.get("IMPUTED")) and not info.get("TYPED")


def _ploidy(
    n_samples: int,
    alleles: NDArray[np.int32] | None,
    haplotypes: NDArray[np.float32] | None,
    probability: NDArray[np.float32] | None,
) -> NDArray[np.int8]:
    """Ploidy per sample by GT, else HDS, else GP: int8 [n], 0 where none of them tells."""
    found = np.zeros(n_samples, dtype=np.int8)
    if alleles is not None:
        count = (alleles != NO_SECOND_HAPLOTYPE).sum(axis=1)
        # A lone "." may stand for a missing genotype of any ploidy.
        told = (count > 1) | (alleles >= 0).any(axis=1)
        found[told] = count[told]
    for values, fewer in ((haplotypes, 0), (probability, 1)):
        if values is not None:
            count = (~np.isnan(values)).sum(axis=1) - fewer
            found = np.where((found == 0) & (count > 0), count, found).astype(np.int8)
    return found


def _genotype_dosage(alleles: NDArray[np.int32]) -> NDArray[np.int8]:
    """ALT count per sample, -1 where an allele is missing; haploid calls count one allele."""
    missing = (alleles == -1).any(axis=1)
    count = np.where(alleles > 0, 1, 0).sum(axis=1)
    return np.where(missing, -1, count).astype(np.int8)


def _three(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """GP [n, 3]; the absent third value of a haploid sample is 0, missing ones stay NaN."""
    n_values = probability.shape[1]
    if n_values == 1 and np.isnan(probability).all():
        # Missing in all samples.
        return np.full((len(probability), 3), np.nan, dtype=np.float32)
    if not _DIPLOID <= n_values <= _DIPLOID + 1:
        raise ValueError(f"{n_values} genotype probabilities of two alleles")
    three = np.zeros((len(probability), 3), dtype=np.float32)
    three[:, :n_values] = probability
    haploid = np.isnan(three[:, 2]) & ~np.isnan(three[:, 1])
    three[haploid, 2] = 0.0
    return three


def _products(haplotypes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Genotype probabilities [n, 3] of haplotype dosages [n, 1 or 2], taken as independent."""
    p = haplotypes[:, 0]
    # A haploid sample is as one whose second haplotype never carries ALT.
    q = np.nan_to_num(haplotypes[:, 1]) if haplotypes.shape[1] > 1 else np.zeros_like(p)
    return np.stack([(1 - p) * (1 - q), p * (1 - q) + q * (1 - p), p * q], axis=1)


def _sum_present(values: NDArray[Any]) -> NDArray[np.float64]:
    """Sum over haplotypes; the absent second one of a haploid sample (NaN) counts nothing.

    NaN where all are missing.
    """
    found = np.asarray(np.nansum(np.asarray(values, dtype=np.float64), axis=1))
    return np.where(np.isnan(values).all(axis=1), np.nan, found)


def _qualities(record: Any) -> tuple[float, ...]:
    values = (record.INFO.get(name) for name in QUALITY_FIELDS)
    scalars = (value[0] if isinstance(value, tuple) else value for value in values)
    return tuple(float("nan") if value is None else float(value) for value in scalars)
