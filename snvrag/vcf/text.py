"""The body of a VCF or VCF.gz as text, inflated by several threads and cut at line ends."""

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from snvrag.vcf.files import BGZF_EOF, GZIP_MAGIC

# A block of BGZF: gzip with one extra field, which holds the block's size less one.
BLOCK_HEAD = bytes.fromhex("1f8b0804")
_BLOCK_EXTRA = bytes.fromhex("060042430200")
_HEAD_BYTES = 18
_MAX_BLOCK_TEXT = 1 << 16
_PIECE_BLOCKS = 32
_PIECE_BYTES = _PIECE_BLOCKS * _MAX_BLOCK_TEXT
_READ_BYTES = 1 << 20
_LOOKAHEAD = 8  # pieces
_FIRST_LINE, _HEADER_END = b"##fileformat=VCF", b"#CHROM\t"


MAX_HEADER = 1 << 26
"""Most bytes of a header."""
_MAX_RECORD, _MAX_RECORD_SAMPLE = 1 << 26, 1 << 12


def most_bytes(n_samples: int) -> int:
    """Most bytes that a record of VCF or BCF may have: no file decides on the memory alone."""
    return _MAX_RECORD + n_samples * _MAX_RECORD_SAMPLE


class DoubtError(Exception):
    """The file may hold something that only htslib should judge."""


@dataclass(frozen=True, slots=True)
class TextSettings:
    """What to read, and how."""

    source: Path
    format_types: Mapping[str, str]
    """Type of each FORMAT field of the header."""
    slots: NDArray[np.int32]
    """int32 [samples in the file]: number among the selected samples; -1 is not selected."""
    is_target: bool
    drop_incomplete: bool
    want_info_af: bool
    is_wanted: Callable[[str, int], bool] | None
    """Called with CHROM and POS; None: all records are wanted."""
    pool: Executor | None
    """Inflates ahead; None: nothing does."""


def text_bytes(source: Path, enough: int) -> int:
    """Bytes of text in a complete VCF or VCF.gz, counted up to ``enough``; 0 of another file."""
    with source.open("rb") as file:
        if file.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
            return source.stat().st_size
        file.seek(0)
        total = 0
        try:
            for block in _blocks(file):
                total += int(struct.unpack_from("<I", block, len(block) - 4)[0])
                if total >= enough:
                    break
        except DoubtError:
            return 0
    return total


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Compressed blocks with text, up to the end-of-file block."""
    data, at = b"", 0
    while True:
        if len(data) - at < _MAX_BLOCK_TEXT:
            data, at = data[at:] + file.read(_READ_BYTES), 0
            if not data:
                raise DoubtError
        head = data[at : at + _HEAD_BYTES]
        if not (head.startswith(BLOCK_HEAD) and head[10:16] == _BLOCK_EXTRA):
            raise DoubtError
        end = at + int.from_bytes(head[16:18], "little") + 1
        block = data[at:end]
        at = end
        if block == BGZF_EOF:
            # More may follow where files were put one behind the other.
            if at < len(data) or file.read(1):
                raise DoubtError
            return
        if len(block) < len(BGZF_EOF):
            raise DoubtError
        yield block


def inflate_block(block: bytes) -> bytes:
    """The content of one BGZF block.

    Raises:
        DoubtError: it is damaged, or more than one.
    """
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        part = inflater.decompress(block, _MAX_BLOCK_TEXT + 1)
    except zlib.error as error:
        raise DoubtError from error
    # The end of a block is only seen with its checksum and size found right.
    if not inflater.eof or inflater.unused_data or len(part) > _MAX_BLOCK_TEXT:
        raise DoubtError
    return part


def _inflate(blocks: list[bytes]) -> bytes:
    parts = [inflate_block(block) for block in blocks]
    if not all(parts):
        raise DoubtError
    return b"".join(parts)


def _pieces(file: BinaryIO, pool: Executor | None) -> Iterator[bytes]:
    """All text of a file in order, in pieces of about 2 MB."""
    head = file.read(len(GZIP_MAGIC))
    file.seek(0)
    if head != GZIP_MAGIC:
        while piece := file.read(_PIECE_BYTES):
            yield piece
        return
    waiting: deque[Future[bytes]] = deque()
    blocks: list[bytes] = []
    try:
        for block in _blocks(file):
            blocks.append(block)
            if len(blocks) < _PIECE_BLOCKS:
                continue
            if pool is None:
                yield _inflate(blocks)
            else:
                waiting.append(pool.submit(_inflate, blocks))
                if len(waiting) > _LOOKAHEAD:
                    yield waiting.popleft().result()
            blocks = []
        while waiting:
            yield waiting.popleft().result()
        if blocks:
            yield _inflate(blocks)
    finally:
        for future in waiting:
            future.cancel()


def body(
    source: Path, n_samples: int, pool: Executor | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """Whole lines behind the header of a VCF or VCF.gz.

    Args:
        source: the file.
        n_samples: samples that the header names.
        pool: inflates ahead; None: this thread inflates.

    Yields:
        Text, where in it the first line begins, and where the last one ends, newline included.

    Raises:
        DoubtError: the compressed data, or where the header ends, is not as expected.
    """
    with source.open("rb") as file:
        pieces = _pieces(file, pool)
        text, begin = b"", 0
        for piece in pieces:
            text += piece
            begin = _body_start(text, n_samples)
            if begin or len(text) > MAX_HEADER:
                break
        if not (begin and text.startswith(_FIRST_LINE)):
            raise DoubtError
        end = text.rfind(b"\n") + 1
        if begin < end:
            yield text, begin, end
        carry = text[end:]
        for piece in pieces:
            if len(carry) > most_bytes(n_samples):
                raise DoubtError
            begin, end = 0, piece.rfind(b"\n") + 1
            if carry:
                begin = piece.find(b"\n") + 1
                carry += piece[:begin] if begin else piece
                if not begin:
                    continue
                yield carry, 0, len(carry)
            if begin < end:
                yield piece, begin, end
            carry = piece[end:]
        if carry:
            carry += b"\n"
            yield carry, 0, len(carry)


def _body_start(text: bytes, n_samples: int) -> int:
    """Where the body begins; 0 where the header's last line is not there in full."""
    at = 0 if text.startswith(_HEADER_END) else text.find(b"\n" + _HEADER_END) + 1
    end = text.find(b"\n", at) + 1
    if not end or not text.startswith(_HEADER_END, at):
        return 0
    if text.count(b"\t", at, end) != 8 + n_samples or text[end - 2 : end - 1] == b"\r":
        raise DoubtError
    return end
