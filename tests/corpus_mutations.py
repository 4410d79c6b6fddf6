"""Ways to damage a file, and files made by an attacker; every one is a function of a seed alone."""

import gzip
import json
import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

from helpers_vcf import BGZF_EOF, bgzip, block

Change = Callable[[bytes, random.Random], bytes]


def flip(n_bits: int) -> Change:
    """Change that many bits, anywhere."""

    def change(data: bytes, draw: random.Random) -> bytes:
        made = bytearray(data)
        for _ in range(n_bits):
            made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
        return bytes(made)

    return change


def _cut(share: float, less: int = 0) -> Change:
    return lambda data, draw: data[: max(0, int(len(data) * share) - less)]


def _piece(kind: str) -> Change:
    def change(data: bytes, draw: random.Random) -> bytes:
        size = draw.choice([1, 16, 64, 256])
        size = min(size, len(data) // 4 or 1)
        a = draw.randrange(max(1, len(data) - 2 * size))
        b = draw.randrange(a + size, max(a + size + 1, len(data) - size + 1))
        one, two = data[a : a + size], data[b : b + size]
        return {
            "swapped": data[:a] + two + data[a + size : b] + one + data[b + size :],
            "doubled": data[:b] + one + data[b:],
            "zeroed": data[:a] + bytes(len(one)) + data[a + size :],
            "ones": data[:a] + b"\xff" * len(one) + data[a + size :],
            "lost": data[:a] + data[a + size :],
            "random": data[:a] + draw.randbytes(len(one)) + data[a + size :],
        }[kind]

    return change


DAMAGE: dict[str, Change] = {
    **{f"one bit {i}": flip(1) for i in range(6)},
    **{f"30 bits {i}": flip(30) for i in range(2)},
    "empty": _cut(0),
    "cut to 7 bytes": lambda data, draw: data[:7],
    "cut at a tenth": _cut(0.1),
    "cut at half": _cut(0.5),
    "cut at nine tenths": _cut(0.9),
    "last byte lost": _cut(1, 1),
    "last 29 bytes lost": _cut(1, 29),
    **{
        f"piece {kind} {i}": _piece(kind)
        for kind in ("swapped", "doubled", "zeroed", "ones", "lost", "random")
        for i in range(2)
    },
    "more behind": lambda data, draw: data + draw.randbytes(100),
    "twice": lambda data, draw: data + data,
    "NUL before": lambda data, draw: b"\x00" + data,
}


# BGZF


def blocks_of(data: bytes) -> list[bytes]:
    """The blocks of a BGZF file, the end-of-file block left out."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at + 16 : at + 18], "little") + 1
        found.append(data[at : at + size])
        at += size
    return [one for one in found if one != BGZF_EOF]


def _bgzf(change: Callable[[list[bytes], int], list[bytes]]) -> Change:
    def made(data: bytes, draw: random.Random) -> bytes:
        blocks = blocks_of(data)
        return b"".join([*change(blocks, draw.randrange(1, max(2, len(blocks)))), BGZF_EOF])

    return made


def _in_block(at: int, form: str, change: Callable[[int], int]) -> Change:
    """Change a number at a place in one block, counted from its end where negative."""

    def put(blocks: list[bytes], i: int) -> list[bytes]:
        i = min(i, len(blocks) - 1)
        one = bytearray(blocks[i])
        where = at % len(one)
        limit = 1 << 8 * struct.calcsize(form)
        struct.pack_into(form, one, where, change(struct.unpack_from(form, one, where)[0]) % limit)
        return [*blocks[:i], bytes(one), *blocks[i + 1 :]]

    return _bgzf(put)


def _text_bomb(data: bytes, draw: random.Random) -> bytes:
    """One record with an ALT of 192 MB, 190 kB compressed."""
    text = gzip.decompress(data).decode()
    head, _, rest = text.partition("\tA\tC\t")
    whole = (head + "\tA\t").encode()
    full = block(b"C" * 65_280)
    return bgzip(whole)[: -len(BGZF_EOF)] + full * 3000 + bgzip(("\t" + rest).encode())


BGZF: dict[str, Change] = {
    "BSIZE + 1": _in_block(16, "<H", lambda x: x + 1),
    "BSIZE - 1": _in_block(16, "<H", lambda x: x - 1),
    "BSIZE 0": _in_block(16, "<H", lambda x: 0),
    "BSIZE 65,535": _in_block(16, "<H", lambda x: 65_535),
    "XLEN 0": _in_block(10, "<H", lambda x: 0),
    "XLEN 65,535": _in_block(10, "<H", lambda x: 65_535),
    "ISIZE + 1": _in_block(-4, "<I", lambda x: x + 1),
    "ISIZE 0": _in_block(-4, "<I", lambda x: 0),
    "ISIZE 4 GB": _in_block(-4, "<I", lambda x: 0xFFFFFFFF),
    "checksum": _in_block(-8, "<I", lambda x: x ^ 1),
    "blocks swapped": _bgzf(lambda b, i: [*b[: i - 1], *b[i : i + 1], b[i - 1], *b[i + 1 :]]),
    "block doubled": _bgzf(lambda b, i: [*b[:i], *b[i : i + 1], *b[i:]]),
    "block lost": _bgzf(lambda b, i: [*b[:i], *b[i + 1 :]]),
    "block zeroed": _bgzf(lambda b, i: [*b[:i], bytes(len(b[i % len(b)])), *b[i + 1 :]]),
    "end in the middle": _bgzf(lambda b, i: [*b[:i], BGZF_EOF, *b[i:]]),
    "no end": lambda data, draw: data[: -len(BGZF_EOF)],
    "gzip": lambda data, draw: gzip.compress(gzip.decompress(data), mtime=0),
    "plain deflate": lambda data, draw: zlib.compress(gzip.decompress(data)),
}
TEXT_BOMB = {"192 MB in one ALT": _text_bomb}


def of_text(change: Change) -> Change:
    """The same change of what is compressed."""

    def made(data: bytes, draw: random.Random) -> bytes:
        return bgzip(change(gzip.decompress(data), draw), 2000)

    return made


# VCF


def _record(change: Callable[[list[bytes]], list[bytes]], which: int = 10) -> Change:
    """Change the fields of one record, CHROM first."""

    def made(data: bytes, draw: random.Random) -> bytes:
        lines = data.split(b"\n")
        first = next(i for i, line in enumerate(lines) if line[:1] not in (b"#", b""))
        at = first + which
        lines[at] = b"\t".join(change(lines[at].split(b"\t")))
        return b"\n".join(lines)

    return made


def _field(column: int, value: bytes) -> Change:
    return _record(lambda fields: [*fields[:column], value, *fields[column + 1 :]])


def _replace(old: bytes, new: bytes, count: int = -1) -> Change:
    return lambda data, draw: data.replace(old, new, count)


_DEFINE = b'##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">'
VCF: dict[str, Change] = {
    "POS 0": _field(1, b"0"),
    "POS negative": _field(1, b"-5"),
    "POS 2^31 - 1": _field(1, b"2147483647"),
    "POS 2^31": _field(1, b"2147483648"),
    "POS 2^63": _field(1, b"9223372036854775808"),
    "POS of 400 digits": _field(1, b"9" * 400),
    "POS 1e3": _field(1, b"1e3"),
    "POS empty": _field(1, b""),
    "CHROM empty": _field(0, b""),
    "CHROM of 70,000 letters": _field(0, b"c" * 70_000),
    "CHROM in latin-1": _field(0, "é".encode("latin-1")),
    "ID in latin-1": _field(2, "é".encode("latin-1")),
    "ID in UTF-8": _field(2, "rsé".encode()),
    "ID of 70,000 letters": _field(2, b"x" * 70_000),
    "REF of 70,000 letters": _field(3, b"A" * 70_000),
    "ALT of 2,000,000 letters": _field(4, b"C" * 2_000_000),
    "40,000 ALT": _field(4, b",".join([b"C"] * 40_000)),
    "70,000 ALT": _field(4, b",".join([b"C"] * 70_000)),
    "REF empty": _field(3, b""),
    "ALT in latin-1": _field(4, "é".encode("latin-1")),
    "NUL in REF": _field(3, b"A\x00"),
    "NUL in a genotype": _field(12, b"0\x00|1"),
    "NUL behind a genotype": _field(12, b"0|1\x00"),
    "NUL in CHROM": _field(0, b"2\x000"),
    "allele 2^31": _field(12, b"2147483648|0"),
    "allele 127": _field(12, b"127|0"),
    "allele 128": _field(12, b"128|0"),
    "allele 256": _field(12, b"256|1"),
    "allele 65,537": _field(12, b"65537|0"),
    "allele negative": _field(12, b"-1|0"),
    "ploidy 1": _field(12, b"1"),
    "ploidy 3": _field(12, b"0|1|0"),
    "ploidy 5,000": _field(12, b"|".join([b"0"] * 5000)),
    "genotype empty": _field(12, b""),
    "genotype of text": _field(12, b"x|y"),
    "genotype with blanks": _field(12, b" 0|1"),
    "genotype with a tab": _field(12, b"0\t1"),
    "unphased": _field(12, b"0/1"),
    "FORMAT empty": _field(8, b""),
    "FORMAT without GT": _field(8, b"XX"),
    "FORMAT GT twice": _record(lambda f: [*f[:8], b"GT:GT", *(b"0|1:1|0" for _ in f[9:])]),
    "FORMAT of 300 keys": _record(lambda f: [*f[:8], b"GT" + b":K" * 300, *f[9:]]),
    "INFO of 3 MB": _field(7, b"X=" + b"y" * 3_000_000),
    "INFO END before POS": _field(7, b"END=1"),
    "INFO END 2^40": _field(7, b"END=1099511627776"),
    "QUAL of text": _field(5, b"good"),
    "FILTER unknown": _field(6, b"zzz"),
    "a column more": _record(lambda f: [*f, b"0|1"]),
    "a column less": _record(lambda f: f[:-1]),
    "two columns": _record(lambda f: f[:2]),
    "a line of tabs": _record(lambda f: [b""] * 40),
    "an empty line": _record(lambda f: [b""]),
    "a record twice": _record(lambda f: [*f[:-1], f[-1] + b"\n" + b"\t".join(f)]),
    "CRLF": _replace(b"\n", b"\r\n"),
    "CR": _replace(b"\n", b"\r"),
    "CRLF in the header": lambda d, _: d.replace(b"\n", b"\r\n", d.count(b"\n#") + 1),
    "no newline at the end": lambda data, draw: data.rstrip(b"\n"),
    "UTF-8 with a mark": lambda data, draw: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data, draw: data.decode().encode("utf-16"),
    "no fileformat": lambda data, draw: data.partition(b"\n")[2],
    "no #CHROM": lambda data, draw: b"\n".join(
        line for line in data.split(b"\n") if not line.startswith(b"#CHROM")
    ),
    "two #CHROM": _replace(b"#CHROM", b"#CHROM\tPOS\n#CHROM", 1),
    "header only": lambda data, draw: b"\n".join(
        line for line in data.split(b"\n") if line.startswith(b"#")
    ),
    "GT not defined": _replace(_DEFINE + b"\n", b""),
    "GT defined as Integer": _replace(
        b"ID=GT,Number=1,Type=String", b"ID=GT,Number=1,Type=Integer"
    ),
    "GT defined as Float": _replace(b"ID=GT,Number=1,Type=String", b"ID=GT,Number=1,Type=Float"),
    "GT defined without Type": _replace(b",Number=1,Type=String,Description", b",Description"),
    "contig line cut": _replace(b"##contig=<ID=20,length=1000000>", b"##contig=<ID=20,leng"),
    "contig length 2^70": _replace(b"length=1000000", b"length=1180591620717411303424"),
    "contig length negative": _replace(b"length=1000000", b"length=-1"),
    "contig length of text": _replace(b"length=1000000", b"length=many"),
    "contig ID empty": _replace(b"contig=<ID=20", b"contig=<ID="),
    "contig IDX lies": _replace(b"##contig=<ID=20", b"##contig=<IDX=900,ID=20"),
    "contig IDX huge": _replace(b"##contig=<ID=20,", b"##contig=<ID=20,IDX=2147483647,"),
    "FORMAT IDX huge": _replace(b"##FORMAT=<ID=GT,", b"##FORMAT=<ID=GT,IDX=2000000000,"),
    "FORMAT IDX negative": _replace(b"##FORMAT=<ID=GT,", b"##FORMAT=<ID=GT,IDX=-7,"),
    "header line of 3 MB": _replace(b"##contig", b"##x=" + b"y" * 3_000_000 + b"\n##contig", 1),
    "header of 100,000 lines": lambda d, _: d.replace(
        b"##contig", b"".join(b"##contig=<ID=c%d>\n" % i for i in range(100_000)) + b"##contig", 1
    ),
    "header in latin-1": _replace(b"Genotype", "é".encode("latin-1")),
    "NUL in the header": _replace(b"Genotype", b"Geno\x00type"),
    "a sample twice": lambda d, _: d.replace(b"\tT3", b"\tT2").replace(b"\tS3\t", b"\tS2\t", 1),
    "a sample in latin-1": lambda d, _: d.replace(b"T3", b"T\xe9").replace(
        b"\tS3\t", b"\t\xe9\t", 1
    ),
    "a sample without name": lambda d, _: d.replace(b"\tT3", b"\t").replace(b"\tS3\t", b"\t\t", 1),
    "no samples": _record(lambda fields: fields[:8]),
}


# BCF


def _bcf(change: Callable[[bytearray, int, int], bytes | None], which: int = 5) -> Change:
    """Change inflated BCF, told where one record begins and where the header does."""

    def made(data: bytes, draw: random.Random) -> bytes:
        raw = bytearray(gzip.decompress(data))
        at = 9 + struct.unpack_from("<I", raw, 5)[0]
        for _ in range(which):
            at += 8 + sum(struct.unpack_from("<II", raw, at))
        return bgzip(change(raw, at, 9) or bytes(raw), 4000)

    return made


def _put(offset: int, form: str, value: int) -> Change:
    def put(raw: bytearray, at: int, head: int) -> None:
        struct.pack_into(form, raw, at + offset, value)

    return _bcf(put)


def _header_length(value: int) -> Change:
    def put(raw: bytearray, at: int, head: int) -> None:
        struct.pack_into("<I", raw, 5, value)

    return _bcf(put)


def _individual(offset: int, value: int) -> Change:
    def put(raw: bytearray, at: int, head: int) -> None:
        shared = struct.unpack_from("<I", raw, at)[0]
        raw[at + 8 + shared + offset] = value

    return _bcf(put)


def _bcf_sized(extra: int) -> Change:
    """A record that claims, and holds, that many bytes more at the end."""

    def put(raw: bytearray, at: int, head: int) -> bytes:
        shared, own = struct.unpack_from("<II", raw, at)
        struct.pack_into("<I", raw, at + 4, own + extra)
        end = at + 8 + shared + own
        return bytes(raw[:end]) + bytes(extra) + bytes(raw[end:])

    return _bcf(put)


_BIG = 0xFFFFFFFF
BCF: dict[str, Change] = {
    "magic 2.9": lambda d, _: bgzip(b"BCF\x02\x09" + gzip.decompress(d)[5:], 4000),
    "header length 0": _header_length(0),
    "header length 4 GB": _header_length(_BIG),
    "header length 2 GB": _header_length(0x7FFFFFFF),
    "l_shared 0": _put(0, "<I", 0),
    "l_shared 23": _put(0, "<I", 23),
    "l_shared 4 GB": _put(0, "<I", _BIG),
    "l_shared 2 GB": _put(0, "<I", 0x7FFFFFFF),
    "l_shared 1 GB": _put(0, "<I", 1 << 30),
    "l_indiv 0": _put(4, "<I", 0),
    "l_indiv 4 GB": _put(4, "<I", _BIG),
    "l_indiv 2 GB": _put(4, "<I", 0x7FFFFFFF),
    "l_indiv 1": _put(4, "<I", 1),
    "more in a record": _bcf_sized(100),
    "CHROM -1": _put(8, "<i", -1),
    "CHROM 1,000": _put(8, "<i", 1000),
    "CHROM 2^31 - 1": _put(8, "<i", 0x7FFFFFFF),
    "POS -2": _put(12, "<i", -2),
    "POS -1": _put(12, "<i", -1),
    "POS 2^31 - 1": _put(12, "<i", 0x7FFFFFFF),
    "POS -2^31": _put(12, "<i", -0x80000000),
    "rlen negative": _put(16, "<i", -1),
    "rlen 2^31 - 1": _put(16, "<i", 0x7FFFFFFF),
    "n_info 65,535": _put(24, "<H", 65_535),
    "n_allele 0": _put(26, "<H", 0),
    "n_allele 1": _put(26, "<H", 1),
    "n_allele 3": _put(26, "<H", 3),
    "n_allele 65,535": _put(26, "<H", 65_535),
    "n_sample 0": _put(28, "<I", 1 << 24),
    "n_sample one less": _bcf(
        lambda raw, at, head: struct.pack_into(
            "<I", raw, at + 28, struct.unpack_from("<I", raw, at + 28)[0] - 1
        )
    ),
    "n_sample one more": _bcf(
        lambda raw, at, head: struct.pack_into(
            "<I", raw, at + 28, struct.unpack_from("<I", raw, at + 28)[0] + 1
        )
    ),
    "n_sample 16 M": _put(28, "<I", 1 << 24 | 0xFFFFFF),
    "n_fmt 0": _bcf(lambda raw, at, head: raw.__setitem__(at + 31, 0)),
    "n_fmt 255": _bcf(lambda raw, at, head: raw.__setitem__(at + 31, 255)),
    **{f"type of ID {kind:#x}": _put(32, "<B", kind) for kind in (0x00, 0x1F, 0xF7, 0xF3, 0xFF)},
    **{f"key of FORMAT {i}: {v:#x}": _individual(i, v) for i in (0, 1) for v in (0, 0x7F, 0xFF)},
    **{
        f"type of GT {kind:#x}": _individual(2, kind)
        for kind in (0x00, 0x01, 0x11, 0x31, 0x22, 0x23, 0x25, 0x27, 0xF1, 0xFF)
    },
    **{
        f"allele byte {v:#x}": _individual(3, v) for v in (0x00, 0x01, 0x05, 0x7F, 0x80, 0x81, 0xFF)
    },
}


# JSON

JSON: dict[str, Change] = {
    "lists in lists": lambda data, draw: b"[" * 200_000,
    "tables in tables": lambda data, draw: b'{"a":' * 200_000,
    "tables in tables, closed": lambda d, _: b'{"a":' * 90_000 + b"1" + b"}" * 90_000,
    "20 M empty lists": lambda data, draw: b'{"windows": [' + b"[]," * 20_000_000 + b"[]]}",
    "a number of 100,000 digits": lambda d, _: d.replace(b": 4", b": " + b"4" * 100_000, 1),
    "1e999": lambda data, draw: data.replace(b": 4", b": 1e999", 1),
    "NaN": lambda data, draw: data.replace(b": 4", b": NaN", 1),
    "-Infinity": lambda data, draw: data.replace(b": 4", b": -Infinity", 1),
    "UTF-16": lambda data, draw: data.decode().encode("utf-16"),
    "a list": lambda data, draw: b"[" + data + b"]",
    "null": lambda data, draw: b"null",
    "a lone surrogate": lambda data, draw: data.replace(b'"', b'"\\ud800', 1),
    "format name twice": lambda d, _: (
        d.replace(b"{", b'{"format_name": "other",', 1).rstrip().removesuffix(b"}")
        + b', "format_name": "snvrag"}'
    ),
}


def values_of(data: dict[str, object], draw: random.Random, n: int) -> list[tuple[str, bytes]]:
    """JSON with one value somewhere replaced by one of another type or size, n of them."""
    odd = [
        None,
        True,
        -1,
        0,
        2**70,
        1e300,
        "",
        "x" * 5000,
        [],
        {},
        [[1]],
        {"a": 1},
        "../../x",
        "\0",
    ]
    places: list[tuple[object, ...]] = []

    def walk(value: object, path: tuple[object, ...]) -> None:
        if path:
            places.append(path)
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, (*path, key))
        elif isinstance(value, list):
            for i, inner in enumerate(value[:3]):
                walk(inner, (*path, i))

    walk(data, ())
    found = []
    for _ in range(n):
        path, value = draw.choice(places), draw.choice(odd)
        made = json.loads(json.dumps(data))
        inner = made
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        shown = "x" * 5 + "…" if value == "x" * 5000 else value
        name = f"{'.'.join(map(str, path))} = {json.dumps(shown)}"
        found.append((name, json.dumps(made).encode()))
    return found


# safetensors


def _safetensors(change: Callable[[dict[str, dict[str, object]]], None]) -> Change:
    def made(data: bytes, draw: random.Random) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return made


def _tensor(**values: object) -> Change:
    def change(header: dict[str, dict[str, object]]) -> None:
        name = next(key for key in header if key != "__metadata__")
        header[name].update(values)

    return _safetensors(change)


def _length(value: int) -> Change:
    return lambda data, draw: value.to_bytes(8, "little") + data[8:]


def _swap_names(header: dict[str, dict[str, object]]) -> None:
    names = [key for key in header if key != "__metadata__"]
    by_shape: dict[str, list[str]] = {}
    for name in names:
        by_shape.setdefault(str(header[name]["shape"]), []).append(name)
    one, two = next(same for same in by_shape.values() if len(same) > 1)[:2]
    header[one], header[two] = header[two], header[one]


def _nan(data: bytes, draw: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little") + 8
    return data[:length] + struct.pack("<f", float("nan")) * ((len(data) - length) // 4)


SAFETENSORS: dict[str, Change] = {
    "header length 0": _length(0),
    "header length 2^60": _length(1 << 60),
    "header length 2^64 - 1": _length((1 << 64) - 1),
    "header length 90 MB": _length(90_000_000),
    "header length one less": lambda d, _: (
        (int.from_bytes(d[:8], "little") - 1).to_bytes(8, "little") + d[8:]
    ),
    "header of 90 MB": lambda d, _: (90_000_000).to_bytes(8, "little") + b" " * 90_000_000,
    "shape 2^40": _tensor(shape=[1 << 40, 64]),
    "shape 2^63": _tensor(shape=[1 << 63]),
    "shape negative": _tensor(shape=[-1, 64]),
    "shape of 0": _tensor(shape=[0]),
    "offsets beyond": _tensor(data_offsets=[0, 1 << 50]),
    "offsets backwards": _tensor(data_offsets=[64, 0]),
    "offsets of text": _tensor(data_offsets="all"),
    **{
        f"dtype {kind}": _tensor(dtype=kind)
        for kind in ("F64", "BF16", "I32", "BOOL", "F8_E4M3", "O")
    },
    "two tensors change places": _safetensors(_swap_names),
    "no metadata": _safetensors(lambda header: header.pop("__metadata__")),
    "other metadata": _safetensors(
        lambda header: header["__metadata__"].__setitem__("code", "gASVIgAAAAAAAACMBXBvc2l4lIw=")
    ),
    "all NaN": _nan,
}


# NPY


def _npy(header: str) -> Change:
    def made(data: bytes, draw: random.Random) -> bytes:
        text = header.encode().ljust(118) + b"\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data[128:]

    return made


def _described(descr: str, shape: str, order: bool = False) -> Change:
    return _npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")


NPY: dict[str, Change] = {
    "objects": _described("'|O'", "(4,)"),
    "shape 2^62": _described("'<u2'", f"({1 << 62}, 8)"),
    "shape 2^70": _described("'<u2'", f"({1 << 70},)"),
    "shape negative": _described("'<u2'", "(-1, 8)"),
    "shape of text": _described("'<u2'", "('a',)"),
    "shape of True": _described("'<u2'", "(True, 8)"),
    "dtype of 2 GB": _described("'|V2147483647'", "(1,)"),
    "dtype unknown": _described("'quick'", "(1,)"),
    "a record": _described("[('a', '<u2')]", "(188, 8)"),
    "a call": _npy("__import__('os').system('touch marker')"),
    "columns first": _described("'<u2'", "(180, 8)", order=True),
    "header of 60 kB": lambda d, _: (
        b"\x93NUMPY\x01\x00" + (60_000).to_bytes(2, "little") + b"(" * 60_000
    ),
    "a zip": lambda data, draw: b"PK\x05\x06" + bytes(18),
}


# TOML and lists of text

TOML: dict[str, Change] = {
    "lists in lists": lambda data, draw: data + b"a = " + b"[" * 30_000,
    "tables in tables": lambda data, draw: data + b"a = " + b"{a=" * 20_000,
    "a key of 30,000 parts": lambda data, draw: data + b".".join([b"a"] * 30_000) + b" = 1\n",
    "a key of 500,000 parts": lambda data, draw: data + b".".join([b"a"] * 500_000) + b" = 1\n",
    "20,000 tables": lambda data, draw: (
        data + b"".join(b"[train.a%d]\n" % i for i in range(20_000))
    ),
    "3 MB": lambda data, draw: data + b"#" * 3_000_000,
    "a number of 10,000 digits": lambda d, _: d.replace(b"seed = 7", b"seed = " + b"7" * 10_000),
    "seed 2^70": lambda data, draw: data.replace(b"seed = 7", b"seed = %d" % 2**70),
    "seed negative": lambda data, draw: data.replace(b"seed = 7", b"seed = -7"),
    "lr nan": lambda data, draw: data.replace(b"2e-3", b"nan"),
    "lr inf": lambda data, draw: data.replace(b"2e-3", b"inf"),
    "epochs 2^62": lambda data, draw: data.replace(b"_batches = 1", b"_batches = %d" % 2**62),
    "a date": lambda data, draw: data.replace(b"seed = 7", b"seed = 1979-05-27T07:32:00Z"),
    "a call": lambda data, draw: data + b"epochs = __import__('os').system('touch marker')\n",
    "a key twice": lambda data, draw: data + b"seed = 8\n",
    "unknown": lambda data, draw: data + b"speed = 8\n",
    "panel of NUL": lambda data, draw: data.replace(b'"panel.h5"', b'"a\\u0000b"'),
    "panel of 5,000 letters": lambda d, _: d.replace(b'"panel.h5"', b'"' + b"a" * 5000 + b'"'),
    "output of NUL": lambda data, draw: data.replace(b'"run"', b'"a\\u0000b"'),
    "output of 5,000 letters": lambda d, _: d.replace(b'"run"', b'"' + b"a" * 5000 + b'"'),
    "window size 2^40": lambda d, _: d.replace(b"_size = 60", b"_size = %d" % 2**40).replace(
        b"_len = 64", b"_len = %d" % 2**41
    ),
    "batch size 2^40": lambda data, draw: data.replace(
        b"batch_size = 4", b"batch_size = %d" % 2**40
    ),
    "threads 2^40": lambda data, draw: data.replace(b"threads = 1", b"threads = %d" % 2**40),
}


def _line(text: bytes) -> Change:
    def made(data: bytes, draw: random.Random) -> bytes:
        lines = data.split(b"\n")
        return b"\n".join([*lines[:1], text, *lines[1:]])

    return made


LISTS: dict[str, Change] = {
    "a line of NUL": _line(b"\x00"),
    "a line in latin-1": _line("20\t1é".encode("latin-1")),
    "a line of one word": _line(b"20"),
    "a line of 2 MB": _line(b"20 " + b"7" * 2_000_000),
    "2^31": _line(b"20\t2147483648\t2147483649\t2147483648"),
    "2^63": _line(b"20\t9223372036854775808\t1e30\t9223372036854775808"),
    "a number of 5,000 digits": _line(b"20\t" + b"9" * 5000 + b"\t1\t" + b"9" * 5000),
    "negative": _line(b"20\t-5\t-1\t-7"),
    "nan": _line(b"20 . nan 200"),
    "inf": _line(b"20 . inf 200"),
    "-inf": _line(b"20 . -inf 200"),
    "underscores": _line(b"20 1_000 2_000 1_000"),
    "digits of another script": _line("20\t١٢٣\t٤٥٦\t٧٨٩".encode()),
    "CRLF": _replace(b"\n", b"\r\n"),
    "CR": _replace(b"\n", b"\r"),
    "UTF-8 with a mark": lambda data, draw: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data, draw: data.decode("latin-1").encode("utf-16"),
    "form feeds": _replace(b"\n", b"\x0c"),
    "lines end in U+2028": _replace(b"\n", "\u2028".encode()),
}


def sparse(path: Path, size: int) -> None:
    """Make a file as large as that which takes no room."""
    with path.open("r+b") as file:
        file.truncate(size)


def gzip_bomb(megabytes: int) -> bytes:
    """gzip of that many MB of blanks, a thousandth of their size."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(squeeze.compress(b" " * 2**20) for _ in range(megabytes)) + squeeze.flush()


def bcf_of(vcf: Path, output: Path) -> None:
    """Convert by bcftools."""
    subprocess.run(
        ["bcftools", "view", "-Ob", "-o", output, vcf], check=True, stderr=subprocess.DEVNULL
    )
