"""Write imputed VCF.gz or BCF, with its index.

Numbers have three decimals at most, without zeros behind. Output is BGZF; ``.vcf.gz`` gets a
``.tbi``, ``.bcf`` a ``.csi``, gathered while the records are written.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import OutputError
from snvrag.vcf.bgzf import BgzfWriter
from snvrag.vcf.columns import CELL_BYTES, HDS_BYTES, SCALE, fill_thousandths, write_text
from snvrag.vcf.indexing import RecordIndex

PROBABILITY_SCALE = SCALE
"""What :attr:`ImputedBlock.probability` counts in: P(ALT) = 1."""

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


# BCF (VCF specification, section 6.3): a typed value begins with length << 4 | type.
_INT8, _FLOAT, _CHAR = 1, 5, 7
_LONG = 15
_MISSING = 0x7F800001
END_OF_VECTOR = 0x7F800002
"""Bits of the float that stands for a value that a shorter vector has not."""
_DICTIONARY = ("PASS", "AF", "DR2", "CR2", "IMP", "GT", "DS", "GP", "HDS")
"""Numbers of the header's filters and fields, by their order there."""


@dataclass(frozen=True, slots=True)
class ImputedBlock:
    """n consecutive records of one chromosome to write; the target has H real haplotypes."""

    chrom: str
    pos: NDArray[np.int64]
    """int64 [n], counted from 1."""
    id: Sequence[str]
    ref: Sequence[str]
    alt: Sequence[str]
    probability: NDArray[np.uint16]
    """uint16 [n, H]: P(ALT) per haplotype in 65,535ths; 0 or 65,535 where typed."""
    imputed: NDArray[np.bool_]
    """bool [n]: no measured call at this site."""
    af: NDArray[np.float64]
    """float64 [n]."""
    dr2: NDArray[np.float64]
    """float64 [n]."""
    cr2: NDArray[np.float64]
    """float64 [n]."""


class IndexedFile:
    """A VCF.gz or BCF that is indexed while its records, which are ready, are written.

    Args:
        path: the file to write, under a temporary name.
        lines: header lines that begin with ``##``.
        samples: sample IDs.
        contigs: names in the header's order.
        bcf: write BCF.
    """

    def __init__(
        self,
        path: Path,
        lines: Sequence[str],
        samples: Sequence[str],
        contigs: Sequence[str],
        *,
        bcf: bool,
    ) -> None:
        self.path, self._bcf = path, bcf
        self._handle = path.open("wb")
        self._out = BgzfWriter(self._handle)
        self._index = RecordIndex(contigs)
        fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
        header = "".join(f"{line}\n" for line in (*lines, "\t".join([*fixed, *samples]))).encode()
        if bcf:
            header = b"BCF\x02\x02" + struct.pack("<I", len(header) + 1) + header + b"\x00"
        self._out.write(header)

    def add(
        self,
        chrom: str,
        pos: NDArray[np.int64],
        lengths: NDArray[np.int64],
        data: bytes | memoryview,
        offsets: NDArray[np.int64],
    ) -> None:
        """Write n records of one chromosome, which follow all earlier ones in position.

        Args:
            chrom: its name.
            pos: int64 [n], counted from 1.
            lengths: int64 [n], of REF.
            data: the records.
            offsets: int64 [n + 1], where in ``data`` each begins and the last ends.

        Raises:
            OutputError: a position does not fit an index (2^29).
        """
        start = pos - 1
        try:
            self._index.add(chrom, start, start + lengths, self._out.tell() + offsets)
        except OutputError as error:
            raise OutputError(f"{self.path}: {error.message}") from error
        self._out.write(data)

    def finish(self) -> Path:
        """Complete the file, write its index beside it and return the index's path."""
        blocks = self._out.finish()
        self._handle.close()
        index = self.path.with_name(self.path.name + (".csi" if self._bcf else ".tbi"))
        index.write_bytes(self._index.csi(blocks) if self._bcf else self._index.tbi(blocks))
        return index

    def abort(self) -> None:
        """Close the file, as it is."""
        self._handle.close()


class ImputedWriter:
    """Write blocks of imputed records to ``path`` (a temporary name) and index them.

    Args:
        path: the file to write; VCF.gz, or BCF where ``bcf``.
        samples: sample IDs.
        ploidy: 1 or 2 for each sample.
        contigs: contig name to length (None if unknown), in order.
        meta: further ``##`` lines, of no filter and no field.
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
        self._hds, self._bcf = hds, bcf
        self._ploidy = np.asarray(ploidy, dtype=np.int64)
        self._contigs = {name: number for number, name in enumerate(contigs)}
        lines = ["##fileformat=VCFv4.3", '##FILTER=<ID=PASS,Description="All filters passed">']
        lines += [
            f"##contig=<ID={name}>" if length is None else f"##contig=<ID={name},length={length}>"
            for name, length in contigs.items()
        ]
        lines += [*meta, *HEADER, *([HDS_HEADER] if hds else [])]
        self._file = IndexedFile(path, lines, samples, list(contigs), bcf=bcf)

    def add(self, block: ImputedBlock) -> None:
        """Write a block of records, which follow all earlier ones in position.

        Raises:
            OutputError: a position does not fit an index (2^29).
        """
        data, offsets = self._binary(block) if self._bcf else self._text(block)
        lengths = np.fromiter(map(len, block.ref), dtype=np.int64, count=len(block.pos))
        self._file.add(block.chrom, block.pos, lengths, data, offsets)

    def finish(self) -> Path:
        """Complete the file, write its index beside it and return the index's path."""
        return self._file.finish()

    def abort(self) -> None:
        """Close the file, as it is."""
        self._file.abort()

    def _text(self, block: ImputedBlock) -> tuple[memoryview, NDArray[np.int64]]:
        """The records as lines, and where each begins and the last ends."""
        keys = "GT:DS:GP:HDS" if self._hds else "GT:DS:GP"
        rows = zip(
            *(block.pos.tolist(), block.id, block.ref, block.alt, block.af.tolist()),
            *(block.dr2.tolist(), block.cr2.tolist(), block.imputed.tolist()),
            strict=True,
        )
        fixed = [
            f"{block.chrom}\t{pos}\t{name}\t{ref}\t{alt}\t.\tPASS\t"
            f"{info_text(af, dr2, cr2, imputed)}\t{keys}".encode()
            for pos, name, ref, alt, af, dr2, cr2, imputed in rows
        ]
        n, joined = len(fixed), np.frombuffer(b"".join(fixed), dtype=np.uint8)
        ends = np.cumsum(np.fromiter(map(len, fixed), dtype=np.int64, count=n))
        width = CELL_BYTES + (HDS_BYTES if self._hds else 0)
        out = np.empty(len(joined) + n * (len(self._ploidy) * width + 1), dtype=np.uint8)
        offsets = np.empty(n + 1, dtype=np.int64)
        write_text(block.probability, self._ploidy, self._hds, joined, ends, out, offsets)
        return out[: offsets[-1]].data, offsets

    def _binary(self, block: ImputedBlock) -> tuple[bytes, NDArray[np.int64]]:
        """The records in BCF, and where each begins and the last ends."""
        columns = self._binary_columns(block.probability)
        counts = (
            2 << 16 | (4 if imputed else 3) for imputed in block.imputed.tolist()
        )  # alleles, INFO fields
        n_formats = 4 if self._hds else 3
        rows = zip(
            *(block.pos.tolist(), block.id, block.ref, block.alt, block.af.tolist()),
            *(block.dr2.tolist(), block.cr2.tolist(), block.imputed.tolist()),
            *(counts, columns),
            strict=True,
        )
        number = self._contigs[block.chrom]
        records = []
        for pos, name, ref, alt, af, dr2, cr2, imputed, count, column in rows:
            fixed = struct.pack(
                "<iiiIII",
                *(number, pos - 1, len(ref), _MISSING, count, n_formats << 24 | len(self._ploidy)),
            )
            shared = b"".join(
                [
                    *(fixed, _string("" if name == "." else name), _string(ref), _string(alt)),
                    bytes([1 << 4 | _INT8, _DICTIONARY.index("PASS")]),
                    info_binary(af, dr2, cr2, imputed),
                ]
            )
            records.append(struct.pack("<II", len(shared), len(column)) + shared + column)
        lengths = np.fromiter(map(len, records), dtype=np.int64, count=len(records))
        return b"".join(records), np.concatenate([[0], np.cumsum(lengths)])

    def _binary_columns(self, probability: NDArray[np.uint16]) -> list[bytes]:
        """FORMAT fields of each record."""
        n, samples = len(probability), len(self._ploidy)
        diploid = self._ploidy == 2
        filled = np.zeros((6, n, samples), dtype=np.int16)
        first = np.cumsum(self._ploidy) - self._ploidy
        fill_thousandths(probability, first, diploid, filled)
        carried = probability > SCALE // 2
        # Of an allele: its number plus 1, twice, plus 1 behind "|".
        second = np.where(diploid, 2 * carried[:, first + diploid] + 3, 0x81)
        values = (filled / 1000).astype("<f4")
        values.view("<u4")[1::4, :, ~diploid] = END_OF_VECTOR  # HDS and GP of a second haplotype
        fields = [
            np.stack([2 * carried[:, first] + 2, second], axis=2).astype(np.uint8),
            values[2][:, :, None],
            np.moveaxis(values[3:], 0, 2),
            np.moveaxis(values[:2], 0, 2),
        ]
        whole = [
            part
            for key, data in zip(FIELD_KEYS, fields[: None if self._hds else -1], strict=False)
            for part in (
                np.broadcast_to(np.frombuffer(key, dtype=np.uint8), (n, len(key))),
                np.ascontiguousarray(data).view(np.uint8).reshape(n, -1),
            )
        ]
        matrix = np.concatenate(whole, axis=1)
        return [row.tobytes() for row in matrix]


def info_text(af: float, dr2: float, cr2: float, imputed: bool) -> str:
    """A record's INFO in VCF."""
    return f"AF={af:.5g};DR2={dr2:.3f};CR2={cr2:.3f}" + (";IMP" if imputed else "")


def info_binary(af: float, dr2: float, cr2: float, imputed: bool) -> bytes:
    """A record's INFO in BCF."""
    numbers = _info("AF", float(f"{af:.5g}")) + _info("DR2", round(dr2, 3))
    return numbers + _info("CR2", round(cr2, 3)) + (_key("IMP") + b"\x00" if imputed else b"")


def _key(name: str) -> bytes:
    return bytes([1 << 4 | _INT8, _DICTIONARY.index(name)])


def _info(name: str, value: float) -> bytes:
    return _key(name) + bytes([1 << 4 | _FLOAT]) + struct.pack("<f", value)


FIELD_KEYS = tuple(
    _key(name) + bytes([length << 4 | kind])
    for name, length, kind in (
        *(("GT", 2, _INT8), ("DS", 1, _FLOAT)),
        *(("GP", 3, _FLOAT), ("HDS", 2, _FLOAT)),
    )
)
"""What comes before the values of each FORMAT field in BCF."""


def _string(text: str) -> bytes:
    data = text.encode()
    if len(data) < _LONG:
        return bytes([len(data) << 4 | _CHAR]) + data
    # The length follows as a typed int32.
    return struct.pack("<BBi", _LONG << 4 | _CHAR, 1 << 4 | 3, len(data)) + data
