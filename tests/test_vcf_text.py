"""Text read by the compiled loop gives what htslib gives: blocks, counts of skipped, errors."""

import contextlib
import dataclasses
import datetime
import logging

import numpy as np
import pytest
from conftest import mosaic, write_vcf
from helpers_vcf import BGZF_EOF, bgzip, block, vcf_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snvrag.conversion import convert
from snvrag.errors import InputError, OutputError
from snvrag.sites import Region
from snvrag.vcf import GenotypeReader, SampleSelection, genotypes, text

HEADER = """##fileformat=VCFv4.2
##contig=<ID=20,length=9999999>
##contig=<ID=X,length=9999999>
##FILTER=<ID=q10,Description="low">
##INFO=<ID=AF,Number=A,Type=Float,Description="Frequency">
##INFO=<ID=AC,Number=A,Type=Integer,Description="Count">
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=DB,Number=0,Type=Flag,Description="Flag">
##INFO=<ID=CSQ,Number=.,Type=String,Description="Text">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=DS,Number=1,Type=Float,Description="Dosage">
##FORMAT=<ID=GP,Number=G,Type=Float,Description="Probabilities">
##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">
##FORMAT=<ID=PS,Number=1,Type=String,Description="Text">
"""
OPTIONS = st.fixed_dictionaries(
    {
        "include_indels": st.booleans(),
        "drop_incomplete": st.booleans(),
        "want_info_af": st.sampled_from([False, False, False, True]),
        "is_target": st.booleans(),
        "regions": st.sampled_from([None, None, [Region("20", 3, 9)], [Region("X"), Region("20")]]),
        "samples": st.sampled_from([None, None, "S0", "^S0"]),
    }
)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def every_size_is_read_as_text(monkeypatch):
    monkeypatch.setattr(genotypes, "_MIN_TEXT_BYTES", 1)


def outcome(source, block_sites, *, by_htslib, pool=None, **options):
    """Everything that reading shows, the error too, and whether htslib had to help."""
    chosen = options.pop("samples", None)
    helped = by_htslib
    blocks, error, reader = [], None, None
    try:
        reader = GenotypeReader.open(
            source,
            samples=SampleSelection.parse(chosen) if chosen else None,
            pool=pool,
            **options,
        )
        if by_htslib:
            reader._text = None
        helped = reader._text is None
        with contextlib.closing(reader), follow() as messages:
            for found in reader.blocks(block_sites):
                counts = dataclasses.astuple(found.counts)
                arrays = [found.genotypes, found.info_af.view(np.int32), *counts]
                site = [found.chrom, found.pos, found.id, found.ref, found.alt]
                blocks.append((*site, *(array.tolist() for array in arrays)))
        helped |= bool(messages)
    except InputError as caught:
        error, helped = (caught.message, caught.hint), True
    shown = reader and (reader.skipped, reader.skipped_records, reader.samples)
    records = reader.records if reader and error is None else 0
    return (blocks, error, shown, records), helped


@contextlib.contextmanager
def follow():
    """Messages that tell of a return to htslib."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("snvrag.vcf.genotypes")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def assert_same(source, block_sites=3, **options):
    expected, _ = outcome(source, block_sites, by_htslib=True, **options)
    found, helped = outcome(source, block_sites, by_htslib=False, **options)
    assert found == expected
    return found, helped


ALLELES = st.sampled_from("0011.")
CELLS = st.one_of(
    st.builds("{}|{}".format, st.sampled_from("01"), st.sampled_from("01")),
    st.builds("{}{}{}".format, ALLELES, st.sampled_from("||||/"), ALLELES),
    st.sampled_from(["0", "1", ".", "2|1", "0|12", "0|0|1", "00|1", "|0", "", "0|x", "-1|0"]),
)
FIELDS = {
    "DS": st.sampled_from(["0.5", ".", "2", "1e-3", "-0.1", "1.5E+2", "nan", "1.2.3", "x", ""]),
    "GP": st.sampled_from(["0,0.5,0.5", ".", "1,2", ".,.,.", "1,,2", "0.1,", "1e400"]),
    "DP": st.sampled_from(["3", ".", "-4", "999999999", "99999999999", "1.5", "0x1", ""]),
    "PS": st.sampled_from(["a", "chr:1", "x|y", ".", "a,b", ";;", ""]),
}
PLAIN_FIELDS = {"DS": "0.5", "GP": "0,0.5,0.5", "DP": "3", "PS": "a"}
SITES = st.tuples(
    st.sampled_from(["20"] * 20 + ["X", "X", "un", "2 0", "<1>", ""]),
    st.sampled_from([0, 0, 1, 1, 1, 2, 2, -1]),
    st.sampled_from([".", "rs1", "rs1;rs2", "a b", "é"]),
    st.sampled_from(["A", "C", "N", "a", "AC", "R", ".", "AT"]),
    st.sampled_from(["C", "G", "T", "GT", "C,G", ".", "*", "<DEL>", "C,.", "C,", "C,<*>", "]X:1]"]),
    st.sampled_from([".", "30", "1e3", "x"]),
    st.sampled_from([".", "PASS", "q10", "new", "q10;new", ";", "a b"]),
    st.sampled_from(
        ["."] * 3
        + ["AF=0.25", "AF=0.5;AC=3;DB", "AC=1;AF=1e-3", "END=3", "END=900;CSQ=a|b,c", "AF=.", "AF"]
        + [
            "AF=0.1,0.2",
            "AC=x",
            "AF=x",
            "DB=1",
            "NEW=1;OTHER",
            ";",
            "=1",
            "AC=",
            "CSQ=a b",
            "CSQ=é",
        ]
        + ["AF=0.5;AF=0.1", "AC=99999999999", "AF=0.123456789012345678", "1000G;AF=1"]
    ),
)


@st.composite
def lines(draw, rare):
    """Lines of a body; with ``rare`` every kind of oddity, else what panels are made of."""
    n_samples = draw(st.integers(1, 4))
    position, rows = 1, []
    keys = draw(st.sampled_from([[], [], ["DS"], ["DS", "GP"], ["DP", "PS"]]))
    ploidy = draw(st.lists(st.sampled_from([2, 2, 2, 1]), min_size=n_samples, max_size=n_samples))
    for _ in range(draw(st.integers(1, 12))):
        site = draw(SITES)
        chrom, step, name, ref, alt, qual, filters, info = site
        position = max(1, position + step)
        if not rare:
            chrom, name = "20", "rs1"
            ref = draw(st.sampled_from(["A", "C", "AC"]))
            alt = draw(st.sampled_from(["G", "T", "G,T", "<DEL>"]))
            qual, filters, info = ".", "PASS", "AF=0.25;CSQ=x|y"
        elif draw(st.integers(0, 9)) == 0:
            keys = draw(st.sampled_from([[], ["DS"], ["DS", "DS"], ["UNKNOWN"]]))
        cells = []
        for sample in range(n_samples):
            if rare and draw(st.integers(0, 3)) == 0:
                cell = draw(CELLS)
            else:
                cell = "|".join(draw(st.sampled_from("01")) for _ in range(ploidy[sample]))
            for key in keys[: draw(st.integers(0, len(keys))) if rare else len(keys)]:
                odd = rare and draw(st.integers(0, 5)) == 0 and key in FIELDS
                cell += ":" + (draw(FIELDS[key]) if odd else PLAIN_FIELDS.get(key, "1"))
            cells.append(cell)
        form = ":".join(["GT", *keys])
        if rare and draw(st.integers(0, 30)) == 0:
            form = draw(st.sampled_from(["DS", "", "GT:"]))
        fixed = [chrom, str(position), name, ref, alt, qual, filters, info, form]
        rows.append("\t".join([*fixed, *cells]))
    names = "\t".join(f"S{i}" for i in range(n_samples))
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + names
    return HEADER + columns + "\n", rows


@st.composite
def mutated(draw):
    """A file with a byte or line changed, lost or doubled somewhere in its body."""
    head, rows = draw(lines(rare=draw(st.booleans())))
    data = bytearray("\n".join(rows).encode() + b"\n")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        byte = draw(st.sampled_from(list(b"\t\n|/:;,.01239xAG-\r\x00 =\xff#")))
        if kind == "change":
            data[at] = byte
        elif kind == "remove":
            del data[at]
        elif kind == "insert":
            data.insert(at, byte)
        else:
            del data[at + 1 :]
        if not data:
            break
    return head.encode() + bytes(data)


@given(lines(rare=False), OPTIONS, st.integers(1, 5))
@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
def test_plain_files_are_read_alike_and_without_htslib(tmp_path, file, options, block_sites):
    head, rows = file
    source = tmp_path / "p.vcf"
    source.write_text(head + "\n".join(rows) + "\n")
    if options["samples"] == "^S0" and head.count("\tS") == 1:
        options["samples"] = None
    (_, error, _, _), helped = assert_same(source, block_sites, **options)
    assert error or not helped


@given(mutated(), OPTIONS, st.integers(1, 5), st.booleans(), st.integers(20, 400))
@settings(max_examples=400, deadline=None, suppress_health_check=QUIET)
def test_odd_and_damaged_text_is_read_or_refused_as_by_htslib(
    tmp_path, data, options, block_sites, compressed, block_bytes
):
    source = tmp_path / ("p.vcf.gz" if compressed else "p.vcf")
    source.write_bytes(bgzip(data, block_bytes) if compressed else data)
    assert_same(source, block_sites, **options)


ROWS = [f"20 {p} A C 0|1 1|1 {p % 2}|0" for p in range(1, 1500)]
NAMES = ["S0", "S1", "S2"]


def write(tmp_path, rows, change=lambda text: text, *, block_bytes=5000):
    source = tmp_path / "p.vcf.gz"
    source.write_bytes(bgzip(change(vcf_text(rows, NAMES)).encode(), block_bytes))
    return source


@pytest.mark.parametrize(
    ("change", "is_plain"),
    [
        (lambda t: t, True),
        (lambda t: t.rstrip("\n"), True),
        (lambda t: t.replace("##contig=<ID=20,length=9999999>\n", ""), True),
        (lambda t: t.replace("\tGT\t", "\tGT:XX\t"), False),
        (lambda t: t.replace("\n", "\r\n"), False),
        (lambda t: t.replace("\tS2\n", "\tS2\tS3\n"), False),
        (lambda t: t + "\n", False),
        (lambda t: t + "20\t1600\t.\tA", False),
        (lambda t: t + "20\tx\t.\tA\tC\t.\t.\t.\tGT\t0|0\t0|0\t0|0\n", False),
        (lambda t: t + "20\t1600\t.\tA\tC\t.\t.\t.\tGT\t0|0\t0|0\n", False),
        (lambda t: t + "20\t1600\t.\tA\tC\t.\t.\t.\tGT\t0|0\t0|0\t0|0\t0|0\n", False),
        (lambda t: t.replace("Type=String", "Type=Integer"), False),
        (lambda t: t.replace("1|1", "10|1"), False),
    ],
)
def test_only_plain_text_is_read_without_htslib(tmp_path, change, is_plain):
    _, helped = assert_same(write(tmp_path, ROWS, change), 200)
    assert helped is not is_plain


def damaged_blocks():
    """Names, and what is done to the blocks of a BGZF file in front of its last one."""
    whole = vcf_text(ROWS, NAMES).encode()
    parts = [whole[i : i + 5000] for i in range(0, len(whole), 5000)]
    blocks = [block(part) for part in parts]

    def with_third(data):
        return b"".join([*blocks[:3], data, *blocks[4:]])

    third = blocks[3]
    return {
        "whole": b"".join(blocks),
        "checksum": with_third(third[:-8] + bytes([third[-8] ^ 1]) + third[-7:]),
        "size": with_third(third[:-4] + bytes([third[-4] ^ 1]) + third[-3:]),
        "data": with_third(third[:60] + bytes([third[60] ^ 0xFF]) + third[61:]),
        "head": with_third(b"\x1f\x8c" + third[2:]),
        "length": with_third(third[:16] + bytes([third[16] ^ 1]) + third[17:]),
        "an end in the middle": with_third(BGZF_EOF + third),
        "a block lost": with_third(b""),
        "a block cut": with_third(third[:50]),
    }


@pytest.mark.parametrize("name", damaged_blocks())
def test_damaged_compression_is_told_as_htslib_would(tmp_path, name):
    source = tmp_path / "p.vcf.gz"
    source.write_bytes(damaged_blocks()[name] + BGZF_EOF)
    _, helped = assert_same(source, 200)
    assert helped is (name != "whole")


@pytest.mark.parametrize("piece_blocks", [1, 3, 32])
@pytest.mark.parametrize("block_bytes", [7, 100, 60_000])
def test_pieces_may_end_anywhere(tmp_path, monkeypatch, piece_blocks, block_bytes):
    monkeypatch.setattr(text, "_PIECE_BLOCKS", piece_blocks)
    monkeypatch.setattr(text, "_PIECE_BYTES", block_bytes)
    source = write(tmp_path, ROWS[:40], block_bytes=block_bytes)
    plain = tmp_path / "p.vcf"
    plain.write_text(vcf_text(ROWS[:40], NAMES))
    (by_text, *_), helped = assert_same(source, 7)
    assert not helped
    assert assert_same(plain, 7)[0][0] == by_text


def test_an_error_behind_good_blocks_comes_after_them(tmp_path):
    rows = [*ROWS[:50], "20 2000 A C 0/1 0|0 0|0"]
    (blocks, error, _, _), helped = assert_same(write(tmp_path, rows), 10)
    assert len(blocks) == 5
    assert helped
    assert "20:2000: the genotype of sample S0 is unphased" in error[0]


@pytest.mark.parametrize("suffix", [".vcf", ".vcf.gz"])
def test_the_panel_is_the_same_bytes_whatever_the_threads(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("snvrag.provenance.datetime", FixedClock)
    plain = write_vcf(tmp_path / "p.vcf", mosaic(20, 3000))
    source = tmp_path / f"q{suffix}"
    source.write_bytes(bgzip(plain.read_bytes()) if suffix == ".vcf.gz" else plain.read_bytes())
    monkeypatch.setattr("snvrag.conversion.block_size", lambda n: 512)
    files = []
    for threads in (1, 2, 5):
        convert(source, tmp_path / "p.h5", threads=threads, force=True)
        files.append((tmp_path / "p.h5").read_bytes())
    assert files[0] == files[1] == files[2]


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, tzinfo=tz)


def test_an_error_in_a_thread_is_raised_and_leaves_nothing(tmp_path, monkeypatch):
    source = write(tmp_path, ROWS)
    monkeypatch.setattr("snvrag.conversion.block_size", lambda n: 100)

    def full(self, first, genotypes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snvrag.panel.PanelWriter._store", full)
    with pytest.raises(OutputError, match="No space left"):
        convert(source, tmp_path / "p.h5", threads=2)
    assert [path.name for path in tmp_path.iterdir()] == ["p.vcf.gz"]
