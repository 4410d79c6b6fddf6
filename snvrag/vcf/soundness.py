"""Records as htslib reads them, but only those that are sound.

Htslib passes over some damage, and trusts some numbers so far that the process ends: what it may
read is looked at first. A region that is read by an index is not: that would be all of the file.
"""

import io
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from snvrag.vcf import bcf
from snvrag.vcf.blocks import NO_SECOND_HAPLOTYPE
from snvrag.vcf.files import GZIP_MAGIC, header_contigs
from snvrag.vcf.text import BLOCK_HEAD, MAX_HEADER, DoubtError, inflate_block, most_bytes

_PIECE_BYTES = 1 << 21
_FIXED_COLUMNS, _WITH_FORMAT = 8, 9
# Section 1.4.7 of the VCF specification, but for what begins a line of the header.
_CONTIG = re.compile(rb"[0-9A-Za-z!$%&+./:;?@^_|~-][0-9A-Za-z!#$%&*+./:;=?@^_|~-]*")
# htslib takes POS without a digit for 0.
_START = re.compile(rb"\n([^\t\n]*)(\t\d)?")
END_OF_VECTOR = np.iinfo(np.int32).min + 1
"""Where a genotype of fewer alleles than others ends."""
_BEYOND = np.iinfo(np.int32).max


def sound_records(vcf: Any, source: Path, n_samples: int) -> Iterator[Any]:
    """All records of an opened file.

    Args:
        vcf: opened by cyvcf2, and not read from yet.
        source: the file.
        n_samples: samples that its header names.

    Raises:
        DoubtError: the next record is not sound.
    """
    if _is_bcf(source):
        with source.open("rb", buffering=_PIECE_BYTES) as file:
            n_sound = bcf.count_sound(_pieces(file), n_samples)
    else:
        # Of a line that is damaged and whose contig the header does not name, cyvcf2 gives a record
        # that is read in part and can end the process when it is looked at.
        names, n_sound = check_text(source, n_samples, header_contigs(vcf))
        for name in names:
            vcf.add_to_header(f"##contig=<ID={name}>")
    yield from itertools.islice(vcf, n_sound)
    if n_sound is not None:
        raise DoubtError


def encoded_genotypes(record: Any) -> NDArray[np.int32]:
    """Genotypes of a record as BCF encodes them: int32 [samples, ploidy]; see :func:`alleles_of`.

    cyvcf2's own array keeps 16 bits of an allele's number, by which allele 65,536 is REF.

    Raises:
        Exception: the record has no GT.
    """
    values: NDArray[np.int32] = record.format("GT", int)
    if values is None:
        raise ValueError("no GT")
    return values


def alleles_of(encoded: NDArray[np.int32]) -> NDArray[np.int32]:
    """Numbers of the alleles, of the same shape: -1 is missing, -2 no further haplotype."""
    alleles = (encoded >> 1) - 1
    if encoded.min() < 0:
        alleles[encoded < 0] = _BEYOND
        alleles[encoded == END_OF_VECTOR] = NO_SECOND_HAPLOTYPE
    return alleles


def check_text(
    source: Path, n_samples: int, contigs: Iterable[str]
) -> tuple[list[str], int | None]:
    """Look at the lines of a VCF or VCF.gz for what htslib does not refuse as it should.

    Args:
        source: the file.
        n_samples: samples that the header names.
        contigs: contigs that it names.

    Returns:
        Contigs that records name and the header does not, and how many records come before the
        first that is not sound, if there is one.
    """
    known = {name.encode() for name in contigs}
    names: dict[bytes, None] = {}
    records = 0
    try:
        with source.open("rb", buffering=_PIECE_BYTES) as file:
            for lines in _lines(_pieces(file), most_bytes(n_samples)):
                bad = _first_odd(lines, n_samples)
                for found in _START.finditer(lines, 0, bad - 1):
                    if found[1] in known and found[2]:
                        continue
                    if not (_CONTIG.fullmatch(found[1]) and found[2]):
                        bad = found.start() + 1
                        break
                    names[found[1]] = None
                    known.add(found[1])
                records += lines.count(b"\n", 1, bad)
                if bad < len(lines):
                    return [name.decode() for name in names], records
    except DoubtError:
        return [name.decode() for name in names], records
    return [name.decode() for name in names], None


def _first_odd(lines: bytes, n_samples: int) -> int:
    """Where the first line begins that holds NUL or too many columns; else the length."""
    wanted = _WITH_FORMAT + n_samples - 1 if n_samples else _FIXED_COLUMNS - 1
    n_lines = lines.count(b"\n") - 1
    if lines.count(b"\t") == n_lines * wanted and b"\0" not in lines:
        return len(lines)
    begin = 1
    for line in lines[1:].split(b"\n"):
        # Too few are htslib's to tell, which knows what it takes.
        if line.count(b"\t") > wanted or b"\0" in line:
            return begin
        begin += len(line) + 1
    return len(lines)


def _lines(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Whole lines behind the header, with the line end before them.

    Raises:
        DoubtError: header or line too long, or the compression is damaged.
    """
    text, begin = b"", -1
    for piece in pieces:
        text += piece
        begin = 0 if text.startswith(b"#CHROM") else text.find(b"\n#CHROM") + 1
        begin = text.find(b"\n", begin) if begin or text.startswith(b"#CHROM") else -1
        if begin >= 0:
            break
        if len(text) > MAX_HEADER:
            raise DoubtError
    if begin < 0:
        return
    carry = text[begin:]
    for piece in itertools.chain([b""], pieces):
        text = carry + piece
        end = text.rfind(b"\n")
        if end > 0:
            yield text[: end + 1]
        carry = text[max(end, 0) :]
        if len(carry) > most:
            raise DoubtError
    if len(carry) > 1:
        yield carry + b"\n"


def _is_bcf(source: Path) -> bool:
    with source.open("rb", buffering=_PIECE_BYTES) as file:
        try:
            return next(_pieces(file), b"").startswith(b"BCF")
        except DoubtError:
            return False


class _Inflated(io.RawIOBase):
    """A file's content, inflated, as a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=_PIECE_BYTES)
        self._pieces = _pieces(self._file)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See :meth:`io.RawIOBase.readinto`."""
        if not self._left:
            self._left = memoryview(next(self._pieces, b""))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def inflated_file(path: Path) -> io.BufferedReader:
    """Open a BGZF file; reading raises :class:`DoubtError` where a block is damaged."""
    return io.BufferedReader(_Inflated(path), 1 << 16)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """All that a file holds, inflated if it is BGZF, about 2 MB at a time.

    Raises:
        DoubtError: a block is damaged; all before it was given.
    """
    if file.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
        file.seek(0)
        while piece := file.read(_PIECE_BYTES):
            yield piece
        return
    file.seek(0)
    parts: list[bytes] = []
    held = 0
    try:
        for part in _inflated(file):
            parts.append(part)
            held += len(part)
            if held >= _PIECE_BYTES:
                yield b"".join(parts)
                parts, held = [], 0
    except DoubtError:
        if parts:
            yield b"".join(parts)
        raise
    if parts:
        yield b"".join(parts)


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """Content of each BGZF block, its checksum and its size found right."""
    while head := file.read(12):
        extra = file.read(int.from_bytes(head[10:12], "little"))
        size = _block_size(extra)
        if head[:4] != BLOCK_HEAD or size is None:
            raise DoubtError
        block = head + extra + file.read(max(0, size - len(head) - len(extra)))
        if part := inflate_block(block):
            yield part


def _block_size(extra: bytes) -> int | None:
    """Size of a block by its extra fields: SAM specification, section 4.1."""
    at = 0
    while at + 4 <= len(extra):
        length = int.from_bytes(extra[at + 2 : at + 4], "little")
        if extra[at : at + 2] == b"BC" and length == 2:
            return int.from_bytes(extra[at + 4 : at + 6], "little") + 1
        at += 4 + length
    return None
