"""Read what ``impute`` wrote, as it stands: records of one batch of samples, to join with others'.

Columns are taken over byte by byte, so that joining changes no value of a sample; only the
haplotype dosages are read as numbers.
"""

import contextlib
import dataclasses
import io
import itertools
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.compiling import compiled
from snvrag.errors import InputError
from snvrag.vcf.bcf import RecordRules, record_sizes
from snvrag.vcf.files import check_complete, how_to_check
from snvrag.vcf.soundness import inflated_file
from snvrag.vcf.text import MAX_HEADER, DoubtError, most_bytes
from snvrag.vcf.writer import (
    END_OF_VECTOR,
    FIELD_KEYS,
    HDS_HEADER,
    HEADER,
    info_binary,
    info_text,
)

_FORMAT = b"GT:DS:GP:HDS"
_HDS = "##FORMAT=<ID=HDS,"
_IMPUTE_AGAIN = "impute the batch again with --hds"
# BCF: two numbers of 8 bytes, then CHROM, POS, rlen and QUAL, numbers of alleles and INFO, and of
# FORMAT fields and samples.
_LENGTHS, _FIXED = 8, 24
_SAME = 16
_INFO_BYTES, _IMP_BYTES = 21, 3
_WITH_IMP = 4
_WIDTHS = (2, 4, 12, 8)
"""Bytes per sample of GT, DS, GP and HDS."""
_TAB, _COLON, _COMMA, _DOT, _ZERO = (np.uint8(ord(c)) for c in "\t:,.0")


@dataclass(frozen=True, slots=True)
class BatchRecords:
    """n consecutive records of one file, whose samples have H haplotypes."""

    site: list[bytes]
    """All that is before INFO, in the form of the file: equal in all batches."""
    chrom: list[str]
    pos: list[int]
    ref_length: list[int]
    imputed: list[bool]
    thousandths: NDArray[np.int16]
    """int16 [n, H]: HDS times 1000."""
    columns: list[tuple[bytes, ...]]
    """Of all samples: one text for VCF, one vector per field for BCF; HDS where it is wanted."""

    def __len__(self) -> int:
        return len(self.site)

    def name(self, row: int) -> str:
        """CHROM:POS of a record."""
        return f"{self.chrom[row]}:{self.pos[row]}"


@contextlib.contextmanager
def _told(path: Path, place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, struct.error, DoubtError) as error:
        raise InputError(f"{path}: damaged after {place}", how_to_check(path)) from error


class Batch:
    """An imputed file, opened; read it from front to end."""

    bcf: bool

    def __init__(self, path: Path, handle: io.BufferedReader) -> None:
        self.path, self._handle = path, handle
        self._place = "the header"
        with self._guarded():
            header = self._header()
        lines = header.decode(errors="replace").splitlines()
        known = {HDS_HEADER, *HEADER}
        if lines and not any(line.startswith(_HDS) for line in lines):
            raise InputError(f"{path}: has no haplotype dosages (FORMAT/HDS)", _IMPUTE_AGAIN)
        if not lines or not known <= set(lines):
            raise self._foreign("the header")
        self.meta = [x for x in lines[:-1] if x != HDS_HEADER and not x.startswith("##bcftools_")]
        """The header's lines that begin with ``##``, without HDS's and those of bcftools."""
        found = (re.match(r"##contig=<ID=([^,>]+)", line) for line in self.meta)
        self.contigs = [match[1] for match in found if match]
        self.samples = lines[-1].split("\t")[9:]

    def read(self, n: int, *, hds: bool) -> BatchRecords:
        """The next n records, fewer at the end; with ``hds`` their columns contain HDS.

        Raises:
            InputError: damaged, or not as ``impute`` writes it; names the record.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def _header(self) -> bytes:
        raise NotImplementedError

    def _guarded(self) -> contextlib.AbstractContextManager[None]:
        return _told(self.path, self._place)

    def _foreign(self, place: str) -> InputError:
        return InputError(
            f"{self.path}: {place} is not as impute writes it",
            f"{_IMPUTE_AGAIN}, and merge before other tools change the files",
        )


def _is_record(row: list[bytes]) -> bool:
    return len(row) == 10 and row[8] == _FORMAT and row[1].isdigit() and row[0].isascii()


class _TextBatch(Batch):
    bcf = False
    _ploidy: NDArray[np.int64] | None = None

    def _header(self) -> bytes:
        lines, size = [self._handle.readline(MAX_HEADER)], 0
        while lines[-1].startswith(b"##") and size < MAX_HEADER:
            size += len(lines[-1])
            lines.append(self._handle.readline(MAX_HEADER))
        return b"".join(lines)

    def read(self, n: int, *, hds: bool) -> BatchRecords:
        """See :meth:`Batch.read`."""
        with self._guarded():
            lines = [line.rstrip(b"\n") for line in itertools.islice(self._lines(), n)]
        if not lines:
            return BatchRecords([], [], [], [], [], np.empty((0, 0), dtype=np.int16), [])
        rows = [line.split(b"\t", 9) for line in lines]
        for row in rows:
            place = b":".join(row[:2]).decode(errors="replace")
            if not _is_record(row):
                raise self._foreign(f"record {place}")
            self._place = f"record {place}"
        cells = [row[9] for row in rows]
        thousandths, columns = self._cells(rows, cells, hds=hds)
        return BatchRecords(
            site=[b"\t".join(row[:7]) for row in rows],
            chrom=[row[0].decode() for row in rows],
            pos=[int(row[1]) for row in rows],
            ref_length=[len(row[3]) for row in rows],
            imputed=[row[7].endswith(b";IMP") for row in rows],
            thousandths=thousandths,
            columns=[(column,) for column in columns],
        )

    def _lines(self) -> Iterator[bytes]:
        most = most_bytes(len(self.samples))
        while line := self._handle.readline(most):
            if len(line) == most:
                raise DoubtError
            yield line

    def _cells(
        self, rows: list[list[bytes]], cells: list[bytes], *, hds: bool
    ) -> tuple[NDArray[np.int16], list[bytes]]:
        data = np.frombuffer(b"".join(cells), dtype=np.uint8)
        ends = np.cumsum([0, *map(len, cells)])
        if self._ploidy is None:
            first = cells[0].split(b"\t")
            self._ploidy = np.array([1 + cell.rpartition(b":")[2].count(b",") for cell in first])
        thousandths = np.empty((len(cells), int(self._ploidy.sum())), dtype=np.int16)
        shorter, new_ends = np.empty(len(data), dtype=np.uint8), np.zeros_like(ends)
        bad = _read_cells(data, ends, self._ploidy, thousandths, shorter, new_ends)
        if bad >= 0 or len(self._ploidy) != len(self.samples):
            place = b":".join(rows[max(bad, 0)][:2]).decode()
            raise self._foreign(f"record {place}")
        if hds:
            return thousandths, cells
        whole = shorter[: new_ends[-1]].tobytes()
        return thousandths, [whole[a:b] for a, b in itertools.pairwise(new_ends.tolist())]


class _BinaryBatch(Batch):
    bcf = True
    _real: NDArray[np.bool_] | None = None
    """bool [2 * samples]: which values of HDS are of a haplotype."""
    _rules: RecordRules | None = None

    def _header(self) -> bytes:
        self._handle.read(5)
        (length,) = struct.unpack("<I", self._handle.read(4))
        if length > MAX_HEADER:
            raise DoubtError
        return self._handle.read(length).rstrip(b"\x00")

    def read(self, n: int, *, hds: bool) -> BatchRecords:
        """See :meth:`Batch.read`."""
        found = BatchRecords([], [], [], [], [], np.empty((0, 0), dtype=np.int16), [])
        values: list[bytes] = []
        while len(found) < n and (row := self._record()):
            shared, fields = row
            chrom, pos, ref_length = struct.unpack("<iii", shared[:12])
            n_info = struct.unpack("<H", shared[_SAME : _SAME + 2])[0]
            end = len(shared) - _INFO_BYTES - (_IMP_BYTES if n_info == _WITH_IMP else 0)
            found.site.append(shared[:_SAME] + shared[_FIXED:end])
            found.chrom.append(self.contigs[chrom])
            found.pos.append(pos + 1)
            found.ref_length.append(ref_length)
            found.imputed.append(n_info == _WITH_IMP)
            found.columns.append(fields if hds else fields[:-1])
            values.append(fields[-1])
        if not values:
            return found
        numbers = np.frombuffer(b"".join(values), dtype="<f4").reshape(len(values), -1)
        real = numbers.view("<u4") != END_OF_VECTOR
        if self._real is None:
            self._real = real[0]
        sound = (real == self._real).all(axis=1)
        sound &= ((numbers >= 0) & (numbers <= 1) | ~real).all(axis=1)
        if not sound.all():
            raise self._foreign(f"record {found.name(int(np.argmin(sound)))}")
        thousandths = np.rint(numbers[:, self._real].astype(np.float64) * 1000)
        return dataclasses.replace(found, thousandths=thousandths.astype(np.int16))

    def _record(self) -> tuple[bytes, tuple[bytes, ...]] | None:
        """The shared part of the next record and the values of its FORMAT fields."""
        with self._guarded():
            head = self._handle.read(_LENGTHS)
            if not head:
                return None
            n_shared, n_individual = record_sizes(head, len(self.samples))
            data = self._handle.read(n_shared + n_individual)
            if self._rules is None:
                self._rules = RecordRules("\n".join(self.meta).encode(), len(self.samples))
            self._rules.check(data, n_shared, n_individual)
            chrom, pos = struct.unpack("<ii", data[:8])
        name = self.contigs[chrom] if 0 <= chrom < len(self.contigs) else "?"
        self._place = f"record {name}:{pos + 1}"
        shared, rest, fields = data[:n_shared], data[n_shared:], []
        for key, width in zip(FIELD_KEYS, _WIDTHS, strict=True):
            size = len(key) + width * len(self.samples)
            if not rest.startswith(key) or len(rest) < size:
                raise self._foreign(self._place)
            fields.append(rest[len(key) : size])
            rest = rest[size:]
        if rest or name == "?" or n_shared < _FIXED + _INFO_BYTES + _IMP_BYTES:
            raise self._foreign(self._place)
        return shared, tuple(fields)


@compiled()
def _read_number(data: Any, i: Any, last: Any) -> Any:
    """Thousandths of a number from 0 to 1 of at most three decimals, -1 if it is none; its end."""
    value: Any = 0
    decimals, digits = 0, 0
    pointed = False
    while i < last and data[i] != _TAB and data[i] != _COMMA:
        digit = np.int64(data[i]) - np.int64(_ZERO)
        if data[i] == _DOT and not pointed:
            pointed = True
        elif 0 <= digit <= 9 and decimals < 3 and digits < 4:
            value = 10 * value + digit
            digits += 1
            decimals += pointed
        else:
            return -1, i
        i += 1
    for _ in range(3 - decimals):
        value *= 10
    return (value if digits and value <= 1000 else -1), i


@compiled()
def _read_cells(
    data: Any, ends: Any, ploidy: Any, thousandths: Any, shorter: Any, new_ends: Any
) -> Any:
    """Read HDS, the fourth value of each sample, and copy what is before it.

    Args:
        data: uint8, the samples' columns of n records, one after the other.
        ends: int64 [n + 1], where each record's begin and the last end.
        ploidy: int64 [samples].
        thousandths: int16 [n, H], filled.
        shorter: uint8, filled with the columns without HDS.
        new_ends: int64 [n + 1], filled: where each record's begin in ``shorter``.

    Returns:
        The first record that is not as it must be; -1 if all are.
    """
    at = 0
    for row in range(len(ends) - 1):
        i, last, column = ends[row], ends[row + 1], 0
        for sample in range(len(ploidy)):
            colons = 0
            while i < last and data[i] != _TAB:
                colons += data[i] == _COLON
                i += 1
                if colons == 3:
                    break
                shorter[at] = data[i - 1]
                at += 1
            if colons != 3:
                return row
            for haplotype in range(ploidy[sample]):
                value, i = _read_number(data, i, last)
                more = i < last and data[i] == _COMMA
                if value < 0 or more != (haplotype + 1 < ploidy[sample]):
                    return row
                i += more
                thousandths[row, column] = value
                column += 1
            if (i < last) != (sample + 1 < len(ploidy)):
                return row
            if i < last:
                shorter[at] = _TAB
                at += 1
                i += 1
        new_ends[row + 1] = at
    return -1


def open_batch(path: Path) -> Batch:
    """Open a ``.vcf.gz`` or ``.bcf`` that ``impute --hds`` wrote.

    Raises:
        InputError: absent, damaged, without HDS, or not written by ``impute``.
    """
    check_complete(path)
    handle = inflated_file(path)
    try:
        with _told(path, "its start"):
            start = handle.peek(5)[:5]
        for magic, kind in ((b"BCF\x02\x02", _BinaryBatch), (b"##fil", _TextBatch)):
            if start == magic:
                return kind(path, handle)
        raise InputError(f"{path}: is neither a VCF.gz nor a BCF", "give files that impute wrote")
    except BaseException:
        handle.close()
        raise


def join_records(
    batches: Sequence[BatchRecords],
    quality: Sequence[NDArray[np.float64]],
    *,
    hds: bool,
    bcf: bool,
) -> list[bytes]:
    """The records of all batches side by side, with AF, DR2 and CR2 of all samples together."""
    imputed = [all(flags) for flags in zip(*(batch.imputed for batch in batches), strict=True)]
    columns = zip(*(batch.columns for batch in batches), strict=True)
    rows = zip(
        *(batches[0].site, columns, *(values.tolist() for values in quality), imputed), strict=True
    )
    if bcf:
        return [_joined_binary(*row) for row in rows]
    keys = _FORMAT if hds else _FORMAT.rpartition(b":")[0]
    return [
        b"\t".join([site, info_text(*numbers).encode(), keys, *(text for (text,) in own)]) + b"\n"
        for site, own, *numbers in rows
    ]


def _joined_binary(
    site: bytes, columns: Any, af: float, dr2: float, cr2: float, imputed: bool
) -> bytes:
    fields = [b"".join(parts) for parts in zip(*columns, strict=True)]
    n_samples = len(fields[0]) // _WIDTHS[0]
    counts = struct.pack("<II", 2 << 16 | (4 if imputed else 3), len(fields) << 24 | n_samples)
    shared = site[:_SAME] + counts + site[_SAME:] + info_binary(af, dr2, cr2, imputed)
    individual = b"".join(key + data for key, data in zip(FIELD_KEYS, fields, strict=False))
    return struct.pack("<II", len(shared), len(individual)) + shared + individual
