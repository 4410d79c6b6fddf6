"""VCF and BCF, in and out. Only this package knows cyvcf2."""

from snvrag.vcf.blocks import NO_SECOND_HAPLOTYPE, GenotypeBlock, SiteCounts, SkippedRecord
from snvrag.vcf.dosages import DosageReader, DosageRecord
from snvrag.vcf.files import check_complete
from snvrag.vcf.genotypes import GenotypeReader, SampleSelection
from snvrag.vcf.site_list import read_sites
from snvrag.vcf.writer import ImputedBlock, ImputedWriter

__all__ = [
    "NO_SECOND_HAPLOTYPE",
    "DosageReader",
    "DosageRecord",
    "GenotypeBlock",
    "GenotypeReader",
    "ImputedBlock",
    "ImputedWriter",
    "SampleSelection",
    "SiteCounts",
    "SkippedRecord",
    "check_complete",
    "read_sites",
]
