"""The writer of imputed records: text, BCF and index, against what they stand for."""

import subprocess
from fractions import Fraction

import cyvcf2
import numpy as np
import pytest

from snvrag.errors import OutputError
from snvrag.vcf.bgzf import BLOCK, BgzfWriter
from snvrag.vcf.columns import round_probabilities
from snvrag.vcf.writer import PROBABILITY_SCALE, ImputedBlock, ImputedWriter

PLOIDY = np.array([2, 1, 2, 2, 1, 2])
ONE = PROBABILITY_SCALE


def block(probability, pos, ref=None, chrom="20"):
    n = len(pos)
    generator = np.random.default_rng(1)
    return ImputedBlock(
        chrom=chrom,
        pos=np.array(pos),
        id=[f"rs{i}" * (1 + 9 * (i % 2)) if i % 3 else "." for i in range(n)],
        ref=ref or ["A"] * n,
        alt=["C"] * n,
        probability=probability.astype(np.uint16),
        imputed=generator.random(n) < 0.5,
        af=generator.random(n),
        dr2=generator.random(n),
        cr2=generator.random(n),
    )


def written(path, blocks, ploidy=PLOIDY, contigs=("20",), **options):
    samples = [f"T{i}" for i in range(len(ploidy))]
    writer = ImputedWriter(path, samples, ploidy, dict.fromkeys(contigs), **options)
    for some in blocks:
        writer.add(some)
    index = writer.finish()
    assert index.name == path.name + (".csi" if options.get("bcf") else ".tbi")
    return path


def number(value):
    """Three decimals at most, rounded exactly."""
    thousandths = int(value * 1000 + Fraction(1, 2))
    return f"{thousandths / 1000:.3f}".rstrip("0").rstrip(".")


def cell(probabilities, hds):
    """A sample's column, in exact arithmetic."""
    p = [Fraction(int(x), ONE) for x in probabilities]
    genotype = "|".join("1" if x > Fraction(1, 2) else "0" for x in p)
    if len(p) == 1:
        rest = [1 - Fraction(int(p[0] * 1000 + Fraction(1, 2)), 1000), p[0]]
    else:
        het = Fraction(int((p[0] * (1 - p[1]) + p[1] * (1 - p[0])) * 1000 + Fraction(1, 2)), 1000)
        alt = min(Fraction(int(p[0] * p[1] * 1000 + Fraction(1, 2)), 1000), 1 - het)
        rest = [1 - het - alt, het, alt]
    fields = [genotype, number(sum(p)), ",".join(map(number, rest))]
    return ":".join([*fields, *([",".join(map(number, p))] if hds else [])])


@pytest.mark.parametrize("hds", [False, True])
def test_columns_hold_the_probabilities_to_three_decimals(tmp_path, hds):
    generator = np.random.default_rng(0)
    rare = generator.integers(0, ONE + 1, (300, PLOIDY.sum())) // 100
    rare[generator.random(rare.shape) < 0.7] = 0
    edges = generator.choice([0, 1, 32, 33, 32_767, 32_768, ONE - 33, ONE - 1, ONE], rare.shape)
    anything = generator.integers(0, ONE + 1, rare.shape)
    probability = np.concatenate([rare, edges, anything])
    path = written(
        tmp_path / "a.vcf.gz", [block(probability, 1 + np.arange(len(probability)))], hds=hds
    )
    view = subprocess.run(["gzip", "-dc", path], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in view.stdout.splitlines() if line[0] != "#"]
    assert len(lines) == len(probability)
    first = np.cumsum(PLOIDY) - PLOIDY
    for fields, row in zip(lines, probability, strict=True):
        expected = [
            cell(row[a : a + n], hds) for a, n in zip(first.tolist(), PLOIDY.tolist(), strict=True)
        ]
        assert fields[9:] == expected


@pytest.mark.parametrize("hds", [False, True])
def test_bcf_holds_what_the_text_holds(tmp_path, hds):
    generator = np.random.default_rng(2)
    probability = generator.integers(0, ONE + 1, (200, PLOIDY.sum()))
    records = [block(probability, 5 + 7 * np.arange(200), ref=["ACGTACGTACGTACGTA"] * 200)]
    text, binary = (
        written(tmp_path / name, records, hds=hds, bcf=name == "a.bcf", contigs=("19", "20"))
        for name in ("a.vcf.gz", "a.bcf")
    )
    lines = [[str(record) for record in cyvcf2.VCF(str(path))] for path in (text, binary)]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 200


@pytest.mark.external
@pytest.mark.parametrize("name", ["a.vcf.gz", "a.bcf"])
def test_the_index_finds_every_record_of_a_region(tmp_path, name):
    """Records of several bins, some across the edges of tiles, on two of three contigs."""
    generator = np.random.default_rng(3)
    blocks, places = [], {}
    for chrom in ("20", "22"):
        pos = np.sort(generator.choice(np.arange(1, 3_000_000), 3000, replace=False))
        lengths = generator.choice([1, 1, 1, 40, 20_000], 3000)
        places[chrom] = pos, pos + lengths
        ref = ["A" * n for n in lengths]
        for first in range(0, 3000, 700):
            some = slice(first, first + 700)
            probability = generator.integers(0, ONE + 1, (len(pos[some]), PLOIDY.sum()))
            blocks.append(block(probability, pos[some], ref[some], chrom))
    path = written(tmp_path / name, blocks, contigs=("20", "21", "22"), bcf=name == "a.bcf")

    def bcftools(*words):
        done = subprocess.run(["bcftools", *words], capture_output=True, text=True, check=True)
        return done.stdout.split()

    for chrom, (pos, end) in places.items():
        for begin in [1, 16_385, 131_073, 1_048_577, *generator.integers(1, 3_000_000, 10)]:
            last = begin + int(generator.choice([0, 100, 40_000]))
            inside = pos[(pos <= last) & (end > begin)]
            found = bcftools("query", "-f", "%POS\n", "-r", f"{chrom}:{begin}-{last}", str(path))
            assert found == [str(p) for p in inside]
    assert bcftools("index", "-n", str(path)) == ["6000"]


def test_a_position_beyond_the_index_is_refused(tmp_path):
    writer = ImputedWriter(tmp_path / "a.vcf.gz", ["T"], np.array([2]), {"20": None})
    with pytest.raises(OutputError, match="20:536870913 lies beyond"):
        writer.add(block(np.zeros((2, 2)), [5, (1 << 29) + 1]))
    writer.abort()


@pytest.mark.parametrize("pieces", [[0], [BLOCK], [1, BLOCK - 1, 5], [7] * 30_000, [3 * BLOCK + 2]])
def test_blocks_are_whole_and_told_where_they_begin(tmp_path, pieces):
    path = tmp_path / "a.gz"
    data = np.random.default_rng(4).integers(0, 4, sum(pieces)).astype(np.uint8).tobytes()
    with path.open("wb") as handle:
        writer, at = BgzfWriter(handle), 0
        for size in pieces:
            writer.write(data[at : at + size])
            at += size
            assert writer.tell() == at
        starts = writer.finish()
    view = subprocess.run(["gzip", "-dc", path], capture_output=True, check=True)
    assert view.stdout == data
    raw = path.read_bytes()
    assert len(starts) == -(-len(data) // BLOCK) + 1
    assert all(raw[start : start + 4] == b"\x1f\x8b\x08\x04" for start in starts)


@pytest.mark.parametrize("odd", [None, np.nan, np.inf, -np.inf])
def test_probabilities_are_rounded_and_those_that_are_no_number_noticed(odd):
    generator = np.random.default_rng(5)
    values = generator.uniform(-0.1, 1.1, (7, 300)).astype(np.float32)
    values[0, :4] = [0, 1, 0.5, 1e-6]
    if odd is not None:
        values[3, 170] = odd
    rounded = np.zeros((300, 9), dtype=np.uint16)
    finite = round_probabilities(values, values.view(np.uint32), rounded[:, 1:8])
    assert finite == (odd is None)
    expected = np.rint(values.clip(0, 1).astype(np.float64) * ONE)
    same = np.isfinite(values)
    np.testing.assert_array_equal(rounded[:, 1:8].T[same], expected[same])
    assert not rounded[:, [0, 8]].any()
