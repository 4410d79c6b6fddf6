"""Opening VCF and BCF files: complete, readable, with known contigs, or one clear error."""

import contextlib
from pathlib import Path
from typing import Any

import cyvcf2

from snvrag.errors import InputError
from snvrag.provenance import check_regular
from snvrag.sites import plain_chromosome

BGZF_EOF = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
GZIP_MAGIC = b"\x1f\x8b"

# Our own errors name file and record; htslib's lines beside them would only confuse.
cyvcf2.cyvcf2.set_htslib_log_level(0)


def check_complete(source: Path) -> None:
    """Make sure that a file is there and, if compressed, is BGZF and not cut short.

    Raises:
        InputError: absent, unreadable, empty, gzip instead of bgzip, or without the BGZF
            end-of-file block.
    """
    try:
        check_regular(source)
        size = source.stat().st_size
        with source.open("rb") as handle:
            head = handle.read(18)
            handle.seek(max(0, size - len(BGZF_EOF)))
            tail = handle.read()
    except OSError as error:
        raise InputError(
            f"{source}: cannot be read ({error.strerror})", "check the path of the file"
        ) from error
    if not head:
        raise InputError(f"{source}: is empty", "give a VCF, VCF.gz or BCF file")
    if not head.startswith(GZIP_MAGIC):
        if not head.startswith((b"##fileformat=VCF", b"BCF")):
            raise _unreadable(source)
        return
    if head[12:14] != b"BC":
        raise InputError(
            f"{source}: is compressed with gzip, not bgzip",
            f"gunzip -c {source} | bgzip > {source.name.split('.')[0]}.bgzip.vcf.gz",
        )
    if tail != BGZF_EOF:
        raise InputError(
            f"{source}: is truncated: the BGZF end-of-file block is missing",
            how_to_check(source),
        )


def how_to_check(source: Path) -> str:
    """What to do about a file that cannot be read to its end."""
    with source.open("rb") as handle:
        compressed = handle.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    if compressed:
        return f"check it with: bgzip -t {source}; then copy or compress it again"
    return f"see what is wrong with: bcftools view {source} > /dev/null"


def open_vcf(source: Path, samples: list[str] | None = None) -> Any:
    """Open a file with cyvcf2, all samples or some.

    Raises:
        InputError: htslib cannot read it.
    """
    try:
        opened = cyvcf2.VCF(str(source), samples=samples)
        names = opened.samples
    except Exception as error:  # cyvcf2 raises OSError or bare Exception, by the kind of damage
        raise _unreadable(source) from error
    if not all(names):
        raise InputError(f"{source}: a sample in the header has no name", "name all samples")
    return opened


def _unreadable(source: Path) -> InputError:
    return InputError(
        f"{source}: is not a readable VCF or BCF file", f"check it with: bcftools view -h {source}"
    )


def indexed_records(vcf: Any) -> int:
    """Records of a file by its index; 0 where there is none, or it does not tell."""
    try:
        return int(vcf.num_records)
    except Exception:  # cyvcf2 raises ValueError, or bare Exception for a damaged index
        return 0


def count_records(source: Path) -> int:
    """:func:`indexed_records` of a file that is not open."""
    with contextlib.closing(open_vcf(source)) as vcf:
        return indexed_records(vcf)


def formats(vcf: Any) -> dict[str, str]:
    """Types of the FORMAT fields that the header defines, by ID."""
    lines = [line.info() for line in vcf.header_iter() if line["HeaderType"] == "FORMAT"]
    return {str(line["ID"]): str(line.get("Type", "")) for line in lines}


def index_of(source: Path) -> Path | None:
    """The index beside a file, ``.csi`` or ``.tbi``, if there is one."""
    for suffix in (".csi", ".tbi"):
        path = source.with_name(source.name + suffix)
        if path.exists():
            return path
    return None


def contigs_of(vcf: Any) -> list[str]:
    """Contig names of header or index; empty where neither names any."""
    try:
        return list(vcf.seqnames)
    except Exception:  # neither header nor index names a contig
        return []


def header_contigs(vcf: Any) -> list[str]:
    """Contig names of the header alone."""
    return [str(line["ID"]) for line in vcf.header_iter() if line["HeaderType"] == "CONTIG"]


def contig_lengths(vcf: Any) -> dict[str, int]:
    """Contig lengths of the header, by name without ``chr``; empty where it gives none."""
    try:
        lengths = zip(vcf.seqnames, vcf.seqlens, strict=True)
        return {plain_chromosome(name): int(n) for name, n in lengths if n and n > 0}
    except (AttributeError, ValueError):
        return {}
