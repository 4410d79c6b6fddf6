"""Read imputed or true genotypes: dosages, best guesses and quality per record."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError
from snvrag.vcf.files import check_complete, open_vcf


@dataclass(frozen=True, slots=True)
class DosageRecord:
    """One biallelic record of n samples."""

    site: tuple[str, int, str, str]
    """CHROM, POS, REF, ALT."""
    dosage: NDArray[np.float32]
    """float32 [n]: expected ALT count; NaN is missing."""
    genotype: NDArray[np.int8]
    """int8 [n]: best-guess ALT count; -1 is missing."""
    imputed: bool | None
    """Whether the record says it was imputed; None where the file has no such flag."""
    quality: float
    """INFO/DR2, else R2 or INFO; NaN where there is none."""


class DosageReader:
    """Stream :class:`DosageRecord` from a VCF/BCF.

    The dosage is FORMAT/DS, else the sum of HDS, else GP1 + 2·GP2, else the GT; the best guess is
    GT, else the haplotype dosages rounded, else the dosage rounded. ``IMP`` (Beagle, snvrag), or
    ``IMPUTED`` without ``TYPED`` (Minimac4) mark imputed records.
    """

    def __init__(self, source: Path) -> None:
        check_complete(source)
        self.source = source
        self._vcf = open_vcf(source)
        self.samples = list(self._vcf.samples)
        flags = {
            str(line["ID"]) for line in self._vcf.header_iter() if line["HeaderType"] == "INFO"
        }
        self.marks_imputed = bool(flags & {"IMP", "IMPUTED"})

    def close(self) -> None:
        """Close the file."""
        self._vcf.close()

    def __iter__(self) -> Iterator[DosageRecord]:
        number = 0
        try:
            for record in self._vcf:
                number += 1
                if len(record.ALT) == 1:
                    yield self._read(record)
        except InputError:
            raise
        except Exception as error:  # cyvcf2 raises bare Exception for what htslib rejects
            raise InputError(
                f"{self.source}: damaged after record {number} ({error})",
                f"check it with: bgzip -t {self.source}",
            ) from error

    def _read(self, record: Any) -> DosageRecord:
        site = (record.CHROM, record.POS, record.REF, record.ALT[0])
        fields = set(record.FORMAT or ())
        genotype = _genotype_dosage(record) if "GT" in fields else None
        haplotypes = record.format("HDS") if "HDS" in fields else None
        if "DS" in fields:
            dosage = record.format("DS")[:, 0]
        elif haplotypes is not None:
            dosage = _sum_present(haplotypes)
        elif "GP" in fields:
            probability = record.format("GP")
            dosage = probability[:, 1] + 2 * probability[:, 2]
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
        return DosageRecord(
            site, dosage.astype(np.float32), genotype, self._flag(record), _quality(record)
        )

    def _flag(self, record: Any) -> bool | None:
        if not self.marks_imputed:
            return None
        info = record.INFO
        if info.get("IMP"):
            return True
        return bool(info.get("IMPUTED")) and not info.get("TYPED")


def _genotype_dosage(record: Any) -> NDArray[np.int8]:
    """ALT count per sample, -1 where an allele is missing; haploid calls count one allele."""
    alleles = record.genotype.array()[:, :-1]
    missing = (alleles == -1).any(axis=1)
    count = np.where(alleles > 0, 1, 0).sum(axis=1)
    return np.where(missing, -1, count).astype(np.int8)


def _sum_present(values: NDArray[Any]) -> NDArray[np.float64]:
    """Sum over haplotypes; the absent second one of a haploid sample (NaN) counts nothing."""
    return np.asarray(np.nansum(np.asarray(values, dtype=np.float64), axis=1))


def _quality(record: Any) -> float:
    for name in ("DR2", "R2", "INFO"):
        value = record.INFO.get(name)
        if value is not None:
            return float(value[0] if isinstance(value, tuple) else value)
    return float("nan")
