"""VCF and BCF, in and out. Only this package knows cyvcf2.

:mod:`snvrag.vcf.writer` is imported where it is needed: numba takes a while to start.
"""

from snvrag.vcf.blocks import NO_SECOND_HAPLOTYPE, GenotypeBlock, SiteCounts, SkippedRecord
from snvrag.vcf.dosages import QUALITY_FIELDS, DosageReader, DosageRecord
from snvrag.vcf.files import check_complete, count_records
from snvrag.vcf.genotypes import GenotypeReader, SampleSelection
from snvrag.vcf.site_list import read_sites

__all__ = [
    "NO_SECOND_HAPLOTYPE",
    "QUALITY_FIELDS",
    "DosageReader",
    "DosageRecord",
    "GenotypeBlock",
    "GenotypeReader",
    "SampleSelection",
    "SiteCounts",
    "SkippedRecord",
    "check_complete",
    "count_records",
    "read_sites",
]
