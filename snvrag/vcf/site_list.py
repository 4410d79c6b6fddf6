"""Which sites a file names, whatever its form: the records of a VCF/BCF, or lines of text."""

from pathlib import Path

import numpy as np

from snvrag.errors import InputError
from snvrag.sites import SiteTable, read_site_list
from snvrag.vcf.files import check_complete, how_to_check, open_vcf
from snvrag.vcf.soundness import sound_records

_VCF_NAMES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")


def read_sites(path: Path) -> SiteTable:
    """Sites of a VCF/BCF, one row per ALT, or of a text of CHROM POS, whose alleles are empty.

    Raises:
        InputError: unreadable, damaged or malformed.
    """
    if not path.name.endswith(_VCF_NAMES):
        return read_site_list(path)
    check_complete(path)
    vcf = open_vcf(path)
    rows: list[tuple[str, int, str, str]] = []
    number = 0
    try:
        for record in sound_records(vcf, path, len(vcf.samples)):
            number += 1
            place = (record.CHROM, record.POS, record.REF)
            rows += [(*place, alt) for alt in record.ALT] or [(*place, "")]
    except Exception as error:  # cyvcf2 raises bare Exception for what htslib rejects
        raise InputError(f"{path}: damaged after record {number}", how_to_check(path)) from error
    finally:
        vcf.close()
    if not rows:
        raise InputError(f"{path}: lists no site", "give a file with records")
    chrom, pos, ref, alt = zip(*rows, strict=True)
    return SiteTable(
        np.array(chrom, dtype=str),
        np.array(pos, dtype=np.int64),
        np.full(len(rows), "."),
        np.array(ref, dtype=str),
        np.array(alt, dtype=str),
    )
