"""Index a VCF.gz (``.tbi``) or BCF (``.csi``) while its records are written."""

import io
import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import OutputError
from snvrag.vcf.bgzf import BgzfWriter, virtual

_MIN_SHIFT, _DEPTH = 14, 5
_MAX_POSITION = 1 << 29
# No bin: where a chromosome's records begin and end, and how many they are (``bcftools index -s``).
_SUMMARY = ((1 << 3 * (_DEPTH + 1)) - 1) // 7 + 1


class RecordIndex:
    """Bins and tiles of records as they are added, in order of position within each chromosome.

    Args:
        contigs: the header's contigs, in order.
    """

    def __init__(self, contigs: Sequence[str]) -> None:
        self._contigs = tuple(contigs)
        self._bins: dict[str, dict[int, list[list[int]]]] = {}
        self._tiles: dict[str, dict[int, int]] = {}
        self._records: dict[str, int] = {}

    def add(
        self,
        chrom: str,
        start: NDArray[np.int64],
        end: NDArray[np.int64],
        offsets: NDArray[np.int64],
    ) -> None:
        """Add n records of one chromosome that follow each other in the file.

        Args:
            chrom: its name.
            start: int64 [n], first position, counted from 0.
            end: int64 [n], the position after the last.
            offsets: int64 [n + 1], where in the content each record begins and the last ends.

        Raises:
            OutputError: a position does not fit an index (2^29).
        """
        if int(end.max()) > _MAX_POSITION:
            beyond = int(start[np.argmax(end)]) + 1
            raise OutputError(f"{chrom}:{beyond} lies beyond what an index can hold")
        self._records[chrom] = self._records.get(chrom, 0) + len(start)
        bins = self._bins.setdefault(chrom, {})
        number = _bin(start, end)
        for i, j in pairwise([*_changes(number), len(number)]):
            chunks = bins.setdefault(int(number[i]), [])
            if chunks and chunks[-1][1] == offsets[i]:
                chunks[-1][1] = int(offsets[j])
            else:
                chunks.append([int(offsets[i]), int(offsets[j])])
        tiles = self._tiles.setdefault(chrom, {})
        first, last = start >> _MIN_SHIFT, (end - 1) >> _MIN_SHIFT
        for i in np.union1d(_changes(first), np.flatnonzero(last > first)).tolist():
            for tile in range(int(first[i]), int(last[i]) + 1):
                tiles.setdefault(tile, int(offsets[i]))

    def tbi(self, blocks: NDArray[np.int64]) -> bytes:
        """A compressed tabix index (tabix specification, table 1) for VCF.

        ``blocks`` are where the blocks of the records' file begin.
        """
        names = b"".join(name.encode() + b"\x00" for name in self._bins)
        head = struct.pack("<8i", len(self._bins), 2, 1, 2, 0, ord("#"), 0, len(names))
        out = [b"TBI\x01", head, names]
        for name, bins in self._bins.items():
            out.append(struct.pack("<i", len(bins) + 1))
            for number, chunks in bins.items():
                out.append(struct.pack("<Ii", number, len(chunks)) + _packed(chunks, blocks))
            out.append(struct.pack("<Ii", _SUMMARY, 2) + self._summary(name, blocks))
            tiles = self._filled_tiles(name)
            out.append(struct.pack("<i", len(tiles)))
            out.append(_packed(tiles, blocks))
        return _compressed(b"".join(out))

    def csi(self, blocks: NDArray[np.int64]) -> bytes:
        """A compressed CSI index (CSI specification, version 1) for BCF: all contigs in order."""
        out = [b"CSI\x01", struct.pack("<4i", _MIN_SHIFT, _DEPTH, 0, len(self._contigs))]
        for name in self._contigs:
            bins = self._bins.get(name, {})
            tiles = self._filled_tiles(name) if bins else []
            out.append(struct.pack("<i", len(bins) + bool(bins)))
            for number, chunks in bins.items():
                # Readers skip chunks that end before it, so an earlier offset is safe, a later not.
                lowest = min(chunks[0][0], tiles[min(_first_tile(number), len(tiles) - 1)])
                out.append(struct.pack("<I", number) + _packed([lowest], blocks))
                out.append(struct.pack("<i", len(chunks)) + _packed(chunks, blocks))
            if bins:
                out.append(struct.pack("<IQi", _SUMMARY, 0, 2) + self._summary(name, blocks))
        return _compressed(b"".join(out))

    def _summary(self, chrom: str, blocks: NDArray[np.int64]) -> bytes:
        chunks = self._bins[chrom].values()
        span = [min(own[0][0] for own in chunks), max(own[-1][1] for own in chunks)]
        return _packed(span, blocks) + struct.pack("<QQ", self._records[chrom], 0)

    def _filled_tiles(self, chrom: str) -> list[int]:
        """Offset of the first record that overlaps each tile, or the nearest tile before it."""
        tiles, offsets, known = self._tiles[chrom], [], 0
        for tile in range(max(tiles) + 1):
            known = tiles.get(tile, known)
            offsets.append(known)
        return offsets


def _bin(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Smallest bin holding each [start, end) (SAM specification, section 5.3)."""
    found = np.zeros(len(start), dtype=np.int64)
    for level in range(1, _DEPTH + 1):
        shift = _MIN_SHIFT + 3 * (_DEPTH - level)
        inside = start >> shift == (end - 1) >> shift
        found = np.where(inside, ((1 << 3 * level) - 1) // 7 + (start >> shift), found)
    return found


def _changes(values: NDArray[np.int64]) -> list[int]:
    """Where runs of equal values begin."""
    found: list[int] = np.flatnonzero(np.diff(values, prepend=-1)).tolist()
    return found


def _first_tile(number: int) -> int:
    """The first 16 kb tile that a bin covers."""
    level = 0
    while ((1 << 3 * (level + 1)) - 1) // 7 <= number:
        level += 1
    return (number - ((1 << 3 * level) - 1) // 7) << 3 * (_DEPTH - level)


def _packed(offsets: Sequence[int] | Sequence[list[int]], blocks: NDArray[np.int64]) -> bytes:
    return virtual(np.array(offsets, dtype=np.int64), blocks).astype("<u8").tobytes()


def _compressed(data: bytes) -> bytes:
    out = io.BytesIO()
    writer = BgzfWriter(out)
    writer.write(data)
    writer.finish()
    return out.getvalue()
