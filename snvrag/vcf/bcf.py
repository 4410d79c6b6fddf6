"""Whether the records of a BCF are what its header says (BCF 2.2, section 6.3 of the VCF
specification), told before htslib reads them: it trusts lengths and types further than it should.
"""

import struct
from collections.abc import Iterator

import numpy as np

from snvrag.vcf.text import MAX_HEADER, DoubtError, most_bytes

MAGIC = b"BCF\x02\x02"
_FIXED = 24
_TEXT, _FLOAT = 7, 5
_WIDTHS = {0: 0, 1: 1, 2: 2, 3: 4, _FLOAT: 4, _TEXT: 1}
"""Bytes of a value, by type."""
_WHOLE = {1: "<i1", 2: "<i2", 3: "<i4"}
_MORE = 15
_MAX_POS = 0x7FFFFFFE


class _Text:
    """Inflated bytes, taken from the front."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._data, self._at = pieces, b"", 0

    def take(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        if len(self._data) - self._at < size:
            parts, held = [self._data[self._at :]], len(self._data) - self._at
            while held < size and (piece := next(self._pieces, b"")):
                parts.append(piece)
                held += len(piece)
            self._data, self._at = b"".join(parts), 0
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found


def count_sound(pieces: Iterator[bytes], n_samples: int) -> int | None:
    """How many records come before the first one that is not sound; None if all are.

    Args:
        pieces: all that the file holds, inflated.
        n_samples: samples that the header names.
    """
    n_sound = 0
    try:
        for _ in _sound_records(pieces, n_samples):
            n_sound += 1
    except DoubtError:
        return n_sound
    return None


def _sound_records(pieces: Iterator[bytes], n_samples: int) -> Iterator[None]:
    text = _Text(pieces)
    head = text.take(len(MAGIC) + 4)
    length = int.from_bytes(head[len(MAGIC) :], "little")
    if head[: len(MAGIC)] != MAGIC or length > MAX_HEADER:
        raise DoubtError
    header = text.take(length)
    if len(header) < length:
        raise DoubtError
    rules = RecordRules(header, n_samples)
    while sizes := text.take(8):
        n_shared, n_own = record_sizes(sizes, n_samples)
        rules.check(text.take(n_shared + n_own), n_shared, n_own)
        yield


def record_sizes(data: bytes, n_samples: int) -> tuple[int, int]:
    """Bytes of both parts of a record, which its first eight tell.

    Raises:
        DoubtError: they are no sizes of a record.
    """
    if len(data) < 8:
        raise DoubtError
    n_shared, n_own = struct.unpack("<II", data)
    if n_shared < _FIXED or n_shared + n_own > most_bytes(n_samples):
        raise DoubtError
    return n_shared, n_own


class RecordRules:
    """What a record must keep to.

    Args:
        header: text of the file's header.
        n_samples: samples that it names.
    """

    def __init__(self, header: bytes, n_samples: int) -> None:
        kinds = (b"##FILTER=<", b"##INFO=<", b"##FORMAT=<")
        self._gt = _numbers(header, kinds, {b"PASS": 0}).get(b"GT", -1)
        self._contigs = set(_numbers(header, (b"##contig=<",), {}).values())
        self._n_samples = n_samples

    def check(self, data: bytes, n_shared: int, n_own: int) -> None:
        """Look at both parts of a record.

        Raises:
            DoubtError: it is not sound.
        """
        if len(data) < n_shared + n_own:
            raise DoubtError
        try:
            self._check_shared(data, n_shared)
            self._check_own(data, n_shared)
        except (struct.error, IndexError) as error:
            raise DoubtError from error

    def _check_shared(self, data: bytes, n_shared: int) -> None:
        chrom, pos, length = struct.unpack_from("<iii", data)
        n_info, n_alleles, counts = struct.unpack_from("<HHI", data, 16)
        if chrom not in self._contigs or not -1 <= pos < _MAX_POS or length < 0:
            raise DoubtError
        if counts & 0xFFFFFF != self._n_samples or n_alleles < 1:
            raise DoubtError
        at = _skip(data, _FIXED, n_shared, {0, _TEXT})
        for _ in range(n_alleles):
            at = _skip(data, at, n_shared, {_TEXT})
        at = _skip(data, at, n_shared, {0, 1, 2, 3})
        for _ in range(n_info):
            _, at = _number(data, at, n_shared)
            at = _skip(data, at, n_shared, set(_WIDTHS))
        if at != n_shared:
            raise DoubtError

    def _check_own(self, data: bytes, at: int) -> None:
        n_alleles, counts = struct.unpack_from("<HI", data, 18)
        for _ in range(counts >> 24):
            key, at = _number(data, at, len(data))
            kind, count, at = _kind(data, at, len(data))
            size = _WIDTHS[kind] * count * self._n_samples
            if key == self._gt and size:
                _check_genotypes(data, at, kind, count * self._n_samples, n_alleles)
            elif key == self._gt or not kind or at + size > len(data):
                raise DoubtError
            at += size
        if at != len(data):
            raise DoubtError


def _check_genotypes(data: bytes, at: int, kind: int, n: int, n_alleles: int) -> None:
    if kind not in _WHOLE or at + n * _WIDTHS[kind] > len(data):
        raise DoubtError
    values = np.frombuffer(data, dtype=_WHOLE[kind], count=n, offset=at)
    # Two times the allele's number and one, and whether it is phased: section 6.3.3. An allele
    # beyond those of the record is for the reader to tell, unless no reader could hold it.
    below = values[values < 0]
    end = np.iinfo(values.dtype).min + 1
    if (below != end).any() or values.max() > 2 * max(n_alleles, 1 << 14):
        raise DoubtError


def _kind(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Type and number of values, and where these begin."""
    kind, count = data[at] & 15, data[at] >> 4
    at += 1
    if count == _MORE:
        count, at = _number(data, at, end)
    if kind not in _WIDTHS or count < 0 or at > end:
        raise DoubtError
    return kind, count, at


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A whole number with its type before it, and what is behind it."""
    kind, size = data[at], _WIDTHS.get(data[at] & 15, 0)
    if kind >> 4 != 1 or kind & 15 not in _WHOLE or at + 1 + size > end:
        raise DoubtError
    return int.from_bytes(data[at + 1 : at + 1 + size], "little", signed=True), at + 1 + size


def _skip(data: bytes, at: int, end: int, kinds: set[int]) -> int:
    kind, count, at = _kind(data, at, end)
    at += _WIDTHS[kind] * count
    if kind not in kinds or at > end:
        raise DoubtError
    return at


def _numbers(header: bytes, kinds: tuple[bytes, ...], known: dict[bytes, int]) -> dict[bytes, int]:
    """Numbers that header lines of these kinds give to their IDs: section 6.2.1."""
    numbers, following = dict(known), max(known.values(), default=-1) + 1
    for line in header.split(b"\n"):
        if line.startswith(kinds) and (name := _value(line, b"ID=")) not in numbers:
            given = _value(line, b"IDX=")
            numbers[name] = int(given) if given.isdigit() else following
            following = max(following, numbers[name] + 1)
    return numbers


def _value(line: bytes, key: bytes) -> bytes:
    for before in (b"<" + key, b"," + key):
        _, found, rest = line.partition(before)
        if found:
            return rest.partition(b",")[0].partition(b">")[0]
    return b""
