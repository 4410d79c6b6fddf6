"""Write imputed VCF.gz or BCF, with its index.

Every sample's column has a fixed width (three decimals everywhere), so a block of records is one
byte matrix filled by table look-ups. Output is BGZF; ``.vcf.gz`` gets a ``.tbi``, ``.bcf`` a
``.csi``, from the virtual offsets of the records.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cyvcf2
import numpy as np
from numpy.typing import NDArray

from snvrag.errors import OutputError
from snvrag.vcf.files import BGZF_EOF

_BLOCK = 65_280
_LEVEL = 4
_DECIMALS = np.array([f"{i / 1000:.3f}".encode() for i in range(2001)], dtype="S5")
_DIGITS = _DECIMALS.view(np.uint8).reshape(2001, 5)
_MIN_SHIFT, _DEPTH = 14, 5
_MAX_TBI_POSITION = 1 << 29

DR2_TEXT = "var(HDS)/(p(1-p)), p = mean HDS; 0 if HDS is constant (Minimac4's R2)"
CR2_TEXT = (
    "Expected squared correlation of HDS and the true ALT alleles of these haplotypes, where the "
    "true alleles vary: E[cov^2]/(var(HDS)E[var(true)]), alleles independent with P(ALT) = HDS; 0 "
    "if HDS is constant. For many carriers it is DR2"
)
HEADER = (
    '##INFO=<ID=AF,Number=A,Type=Float,Description="Estimated ALT allele frequency: mean HDS">',
    f'##INFO=<ID=DR2,Number=A,Type=Float,Description="{DR2_TEXT}">',
    f'##INFO=<ID=CR2,Number=A,Type=Float,Description="{CR2_TEXT}">',
    '##INFO=<ID=IMP,Number=0,Type=Flag,Description="Imputed: not measured in the target">',
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="Phased genotype: each HDS > 0.5; a typed '
    'genotype as given">',
    '##FORMAT=<ID=DS,Number=A,Type=Float,Description="Estimated ALT dosage: sum of HDS">',
    '##FORMAT=<ID=GP,Number=G,Type=Float,Description="Genotype probabilities from HDS p, q: '
    '(1-p)(1-q), p(1-q)+q(1-p), pq">',
)
HDS_HEADER = (
    '##FORMAT=<ID=HDS,Number=.,Type=Float,Description="P(ALT) of each haplotype, in the order '
    'of GT">'
)


@dataclass(frozen=True, slots=True)
class ImputedBlock:
    """n consecutive records to write; the target has H real haplotypes."""

    chrom: Sequence[str]
    pos: NDArray[np.int64]
    id: Sequence[str]
    ref: Sequence[str]
    alt: Sequence[str]
    hds: NDArray[np.float32]
    """float32 [n, H]: P(ALT) per haplotype; 0 or 1 where typed."""
    imputed: NDArray[np.bool_]
    """bool [n]: no measured call at this site."""
    af: NDArray[np.float64]
    """float64 [n]."""
    dr2: NDArray[np.float64]
    """float64 [n]."""
    cr2: NDArray[np.float64]
    """float64 [n]."""


class ImputedWriter:
    """Write blocks of imputed records to ``path`` (a temporary name) and index them.

    Args:
        path: the file to write; VCF.gz, or BCF where ``bcf``.
        samples: sample IDs.
        ploidy: 1 or 2 for each sample.
        contigs: contig name to length (None if unknown), in order.
        meta: further ``##`` lines.
        hds: also write FORMAT/HDS.
        bcf: write BCF.
    """

    def __init__(
        self,
        path: Path,
        samples: Sequence[str],
        ploidy: NDArray[np.int64],
        contigs: Mapping[str, int | None],
        *,
        meta: Sequence[str] = (),
        hds: bool = False,
        bcf: bool = False,
    ) -> None:
        self.path, self._hds, self._bcf = path, hds, bcf
        self._text = path.with_name(path.name + ".txt.tmp") if bcf else path
        self._handle = self._text.open("wb")
        self._buffer = bytearray()
        self._first = np.concatenate([[0], np.cumsum(ploidy)[:-1]])
        self._diploid = ploidy == 2
        lines = ["##fileformat=VCFv4.3", '##FILTER=<ID=PASS,Description="All filters passed">']
        lines += [
            f"##contig=<ID={name}>" if length is None else f"##contig=<ID={name},length={length}>"
            for name, length in contigs.items()
        ]
        lines += [*meta, *HEADER, *([HDS_HEADER] if hds else [])]
        fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
        lines.append("\t".join([*fixed, *samples]))
        self._write("".join(line + "\n" for line in lines).encode())

    def add(self, block: ImputedBlock) -> None:
        """Write a block of records, which follow all earlier ones in position."""
        columns = self._columns(block.hds)
        keys = "GT:DS:GP:HDS" if self._hds else "GT:DS:GP"
        rows = zip(
            *(block.chrom, block.pos.tolist(), block.id, block.ref, block.alt, block.af.tolist()),
            *(block.dr2.tolist(), block.cr2.tolist(), block.imputed.tolist(), columns),
            strict=True,
        )
        out = []
        for chrom, pos, name, ref, alt, af, dr2, cr2, imputed, column in rows:
            info = f"AF={af:.5g};DR2={dr2:.3f};CR2={cr2:.3f}" + (";IMP" if imputed else "")
            out.append(f"{chrom}\t{pos}\t{name}\t{ref}\t{alt}\t.\tPASS\t{info}\t{keys}".encode())
            out.append(column)
        self._write(b"".join(out))

    def finish(self) -> Path:
        """Complete the file, write its index beside it and return the index's path."""
        self._flush(everything=True)
        self._handle.write(BGZF_EOF)
        self._handle.close()
        if not self._bcf:
            return write_index(self.path, bcf=False)
        try:
            reader = cyvcf2.VCF(str(self._text))
            writer = cyvcf2.Writer(str(self.path), reader, mode="wb")
            for record in reader:
                writer.write_record(record)
            writer.close()
            reader.close()
        finally:
            self._text.unlink(missing_ok=True)
        return write_index(self.path, bcf=True)

    def abort(self) -> None:
        """Close and remove what only this class knows of."""
        self._handle.close()
        if self._bcf:
            self._text.unlink(missing_ok=True)

    def _columns(self, hds: NDArray[np.float32]) -> list[bytes]:
        """Sample columns of each record, tabs and newline included."""
        n = len(hds)
        thousandths = np.rint(hds.astype(np.float64) * 1000).astype(np.int64)
        pieces = []
        for sample, first in enumerate(self._first):
            if self._diploid[sample]:
                pieces.append(self._diploid_column(hds, thousandths, int(first)))
            else:
                pieces.append(self._haploid_column(thousandths[:, first], hds[:, first] > 0.5))
        newline = np.full((n, 1), ord("\n"), dtype=np.uint8)
        matrix = np.concatenate([*pieces, newline], axis=1)
        width = matrix.shape[1]
        data = matrix.tobytes()
        return [data[i : i + width] for i in range(0, n * width, width)]

    def _diploid_column(
        self, hds: NDArray[np.float32], thousandths: NDArray[np.int64], first: int
    ) -> NDArray[np.uint8]:
        p, q = hds[:, first].astype(np.float64), hds[:, first + 1].astype(np.float64)
        het = np.rint((p * (1 - q) + q * (1 - p)) * 1000).astype(np.int64)
        alt = np.rint(p * q * 1000).astype(np.int64)
        alt = np.minimum(alt, 1000 - het)
        parts: list[Any] = [
            b"\t", _digit(p > 0.5), b"|", _digit(q > 0.5),
            b":", _DIGITS[np.rint((p + q) * 1000).astype(np.int64)],
            b":", _DIGITS[1000 - het - alt], b",", _DIGITS[het], b",", _DIGITS[alt],
        ]  # fmt: skip
        if self._hds:
            parts += [b":", _DIGITS[thousandths[:, first]]]
            parts += [b",", _DIGITS[thousandths[:, first + 1]]]
        return _beside(parts, len(hds))

    def _haploid_column(
        self, thousandths: NDArray[np.int64], carries: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        dose = _DIGITS[thousandths]
        parts = [b"\t", _digit(carries), b":", dose]
        parts += [b":", _DIGITS[1000 - thousandths], b",", dose]
        if self._hds:
            parts += [b":", dose]
        return _beside(parts, len(thousandths))

    def _write(self, data: bytes) -> None:
        self._buffer += data
        self._flush(everything=False)

    def _flush(self, *, everything: bool) -> None:
        while len(self._buffer) >= _BLOCK or (everything and self._buffer):
            self._handle.write(bgzf_block(bytes(self._buffer[:_BLOCK])))
            del self._buffer[:_BLOCK]


def _digit(flag: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return (flag.astype(np.uint8) + ord("0"))[:, None]


def _beside(parts: Sequence[Any], n: int) -> NDArray[np.uint8]:
    columns = [
        np.broadcast_to(np.frombuffer(part, dtype=np.uint8), (n, len(part)))
        if isinstance(part, bytes)
        else part
        for part in parts
    ]
    return np.concatenate(columns, axis=1)


def bgzf_block(data: bytes) -> bytes:
    """One BGZF block of at most 65,280 bytes."""
    squeeze = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
    body = squeeze.compress(data) + squeeze.flush()
    head = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x06\x00BC\x02\x00"
    size = struct.pack("<H", len(body) + 25)
    return head + size + body + struct.pack("<II", zlib.crc32(data), len(data))


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """File offset and content of each BGZF block."""
    with path.open("rb") as handle:
        offset = 0
        while head := handle.read(18):
            size = struct.unpack("<H", head[16:18])[0] + 1
            data = handle.read(size - 18)
            yield offset, zlib.decompress(data[:-8], -15)
            offset += size


class _Stream:
    """Bytes of a BGZF file with the virtual offset of each position."""

    def __init__(self, path: Path) -> None:
        self._blocks = _blocks(path)
        self._data = bytearray()
        self._starts: list[tuple[int, int]] = []
        self._at = 0
        self._length = 0

    def fill(self, n: int) -> bool:
        """Make sure that n more bytes are there; False at the end of the file."""
        while self._at + n > len(self._data):
            block = next(self._blocks, None)
            if block is None:
                return False
            self._starts.append((len(self._data), block[0]))
            self._data += block[1]
        return True

    def tell(self) -> int:
        """Virtual offset of the current position."""
        for start, offset in reversed(self._starts):
            if start <= self._at:
                return (offset << 16) | (self._at - start)
        return 0

    def read(self, n: int) -> bytes:
        """The next n bytes; forgets blocks that lie behind."""
        data = bytes(self._data[self._at : self._at + n])
        self._at += n
        while len(self._starts) > 1 and self._starts[1][0] <= self._at:
            drop = self._starts[1][0]
            del self._data[:drop]
            self._at -= drop
            self._starts = [(start - drop, offset) for start, offset in self._starts[1:]]
        return data

    def line(self) -> bytes | None:
        """The next line without its newline; None at the end."""
        span = 1 << 12
        while True:
            more = self.fill(span)
            end = self._data.find(b"\n", self._at)
            if end >= 0:
                return self.read(end + 1 - self._at)[:-1]
            if not more:
                return None
            span *= 2


def _text_records(stream: _Stream) -> Iterator[tuple[str, int, int, int, int]]:
    while True:
        begin = stream.tell()
        line = stream.line()
        if line is None:
            return
        if not line.startswith(b"#"):
            chrom, pos, _, ref, _ = line.split(b"\t", 4)
            start = int(pos) - 1
            yield chrom.decode(), start, start + len(ref), begin, stream.tell()


def _bcf_records(stream: _Stream) -> Iterator[tuple[str, int, int, int, int]]:
    stream.fill(9)
    length = struct.unpack("<I", stream.read(9)[5:])[0]
    stream.fill(length)
    header = stream.read(length).decode()
    names = [
        line.split("ID=")[1].split(",")[0].rstrip(">")
        for line in header.splitlines()
        if line.startswith("##contig=")
    ]
    while stream.fill(32):
        begin = stream.tell()
        shared, individual, chrom, pos, span = struct.unpack("<IIiii", stream.read(20))
        rest = shared + individual - 12
        stream.fill(rest)
        stream.read(rest)
        stream.fill(1)
        yield names[chrom], pos, pos + span, begin, stream.tell()


def _bin(begin: int, end: int) -> int:
    """Smallest bin holding [begin, end) (SAM specification, section 5.3)."""
    end -= 1
    for level in range(_DEPTH, 0, -1):
        shift = _MIN_SHIFT + 3 * (_DEPTH - level)
        if begin >> shift == end >> shift:
            return int(((1 << 3 * level) - 1) // 7 + (begin >> shift))
    return 0


def write_index(path: Path, *, bcf: bool) -> Path:
    """Index a sorted VCF.gz (``.tbi``) or BCF (``.csi``) and return the index's path.

    Raises:
        OutputError: a position does not fit the index (2^29).
    """
    stream = _Stream(path)
    bins: dict[str, dict[int, list[tuple[int, int]]]] = {}
    linear: dict[str, dict[int, int]] = {}
    for chrom, start, end, first, last in (_bcf_records if bcf else _text_records)(stream):
        if end > _MAX_TBI_POSITION:
            raise OutputError(f"{path}: {chrom}:{start + 1} lies beyond what an index can hold")
        chunks = bins.setdefault(chrom, {}).setdefault(_bin(start, end), [])
        if chunks and chunks[-1][1] == first:
            chunks[-1] = (chunks[-1][0], last)
        else:
            chunks.append((first, last))
        for tile in range(start >> _MIN_SHIFT, ((end - 1) >> _MIN_SHIFT) + 1):
            linear.setdefault(chrom, {}).setdefault(tile, first)
    data = _csi(path, bins, linear) if bcf else _tbi(bins, linear)
    index = path.with_name(path.name + (".csi" if bcf else ".tbi"))
    blocks = [bgzf_block(data[i : i + _BLOCK]) for i in range(0, len(data), _BLOCK)]
    index.write_bytes(b"".join([*blocks, BGZF_EOF]))
    return index


def _tbi(
    bins: Mapping[str, Mapping[int, list[tuple[int, int]]]],
    linear: Mapping[str, Mapping[int, int]],
) -> bytes:
    """A tabix index (tabix specification, table 1) for VCF."""
    names = b"".join(name.encode() + b"\x00" for name in bins)
    head = struct.pack("<8i", len(bins), 2, 1, 2, 0, ord("#"), 0, len(names))
    out = [b"TBI\x01", head, names]
    for name, own in bins.items():
        out.append(struct.pack("<i", len(own)))
        for number, chunks in own.items():
            out.append(struct.pack("<Ii", number, len(chunks)))
            out += [struct.pack("<QQ", a, b) for a, b in chunks]
        offsets = _offsets(linear[name])
        out.append(struct.pack(f"<i{len(offsets)}Q", len(offsets), *offsets))
    return b"".join(out)


def _offsets(tiles: Mapping[int, int]) -> list[int]:
    """Offset of the first record that overlaps each tile, or the nearest tile before it."""
    offsets, known = [], 0
    for tile in range(max(tiles) + 1):
        known = tiles.get(tile, known)
        offsets.append(known)
    return offsets


def _csi(
    path: Path,
    bins: Mapping[str, Mapping[int, list[tuple[int, int]]]],
    linear: Mapping[str, Mapping[int, int]],
) -> bytes:
    """A CSI index (CSI specification, version 1) for BCF: one reference per header contig."""
    names = list(cyvcf2.VCF(str(path)).seqnames)
    out = [b"CSI\x01", struct.pack("<3i", _MIN_SHIFT, _DEPTH, 0), struct.pack("<i", len(names))]
    for name in names:
        own = bins.get(name, {})
        offsets = _offsets(linear[name]) if own else []
        out.append(struct.pack("<i", len(own)))
        for number, chunks in own.items():
            # Readers skip chunks that end before it, so an earlier offset is safe, a later not.
            lowest = min(chunks[0][0], offsets[min(_first_tile(number), len(offsets) - 1)])
            out.append(struct.pack("<IQi", number, lowest, len(chunks)))
            out += [struct.pack("<QQ", a, b) for a, b in chunks]
    return b"".join(out)


def _first_tile(number: int) -> int:
    """The first 16 kb tile that a bin covers."""
    level = 0
    while ((1 << 3 * (level + 1)) - 1) // 7 <= number:
        level += 1
    return (number - ((1 << 3 * level) - 1) // 7) << 3 * (_DEPTH - level)
