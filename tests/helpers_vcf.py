"""Small VCF files for tests: text from rows, and deterministic BGZF compression."""

import struct
import zlib
from pathlib import Path

BGZF_EOF = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def vcf_text(rows: list[str], samples: list[str], contigs: tuple[str, ...] = ("20",)) -> str:
    """A VCF whose records are ``CHROM POS REF ALT GT GT …``, separated by blanks."""
    lines = ["##fileformat=VCFv4.2", *(f"##contig=<ID={c},length=9999999>" for c in contigs)]
    lines.append('##INFO=<ID=AF,Number=A,Type=Float,Description="Frequency">')
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
    fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    lines.append("\t".join(fixed + samples))
    for row in rows:
        chrom, pos, ref, alt, *calls = row.split()
        info = "."
        if calls and calls[0].startswith("AF="):
            info, *calls = calls
        lines.append("\t".join([chrom, pos, ".", ref, alt, ".", "PASS", info, "GT", *calls]))
    return "\n".join(lines) + "\n"


def write_vcf_rows(
    path: Path, rows: list[str], samples: list[str], contigs: tuple[str, ...] = ("20",)
) -> Path:
    """Write :func:`vcf_text` to ``path``, compressed if it ends in ``.gz``."""
    text = vcf_text(rows, samples, contigs)
    if path.suffix == ".gz":
        path.write_bytes(bgzip(text.encode()))
    else:
        path.write_text(text)
    return path


def bgzip(data: bytes, block_bytes: int = 60_000) -> bytes:
    """BGZF with its end-of-file block."""
    return b"".join(
        [*(block(data[i : i + block_bytes]) for i in range(0, len(data), block_bytes)), BGZF_EOF]
    )


def block(data: bytes) -> bytes:
    """One BGZF block."""
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = squeeze.compress(data) + squeeze.flush()
    head = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x06\x00BC\x02\x00"
    size = struct.pack("<H", len(body) + 25)
    return head + size + body + struct.pack("<II", zlib.crc32(data), len(data))
