import gzip
import json
import shutil
import subprocess
import time

import h5py
import numpy as np
import pytest
from conftest import DEV, mosaic, write_vcf
from helpers_vcf import bgzip, vcf_text, write_vcf_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snvrag.conversion import convert, read_populations
from snvrag.errors import InputError, OutputError, SnvragError, UsageError
from snvrag.panel import Panel
from snvrag.sites import Region
from snvrag.vcf import SampleSelection

TWO = ["A", "B"]
GOOD = ["20 100 A C 0|1 1|1", "20 200 G T 0|0 0|1"]


def run(tmp_path, rows, names=TWO, *, name="in.vcf.gz", contigs=("20",), **options):
    source = write_vcf_rows(tmp_path / name, rows, names, contigs)
    return convert(source, tmp_path / "out.h5", **options)


def leftovers(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if p.suffix in {".h5", ".tmp"})


@st.composite
def panels(draw):
    """Random small panels: several chromosomes, haploid and diploid samples."""
    ploidies = draw(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=5))
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**32 - 1))
    n = sum(sizes)
    alleles = np.random.default_rng(seed).integers(0, 2, (sum(ploidies), n)).astype(np.uint8)
    chroms = [f"chr{i}" for i, size in enumerate(sizes, start=1) for _ in range(size)]
    return alleles, ploidies, chroms, sizes


@given(panels())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_goes_in_comes_out(tmp_path, panel):
    alleles, ploidies, chroms, sizes = panel
    source = write_vcf(tmp_path / "p.vcf", alleles, chroms=chroms, ploidies=ploidies)
    report = convert(source, tmp_path / "p.h5", force=True)
    with Panel.open(tmp_path / "p.h5") as opened:
        np.testing.assert_array_equal(opened.alleles(0, len(chroms)), alleles)
        assert opened.chromosomes() == [(f"chr{i}", n) for i, n in enumerate(sizes, start=1)]
        assert (
            opened.haplotype_sample.tolist() == np.repeat(range(len(ploidies)), ploidies).tolist()
        )
        np.testing.assert_array_equal(opened.ac, alleles.sum(0))
        assert (opened.an == sum(ploidies)).all()
        np.testing.assert_allclose(opened.af, alleles.mean(0), atol=1e-6)
        own = [opened.own_haplotypes(s).tolist() for s in range(len(ploidies))]
        assert [x for ids in own for x in ids] == list(range(sum(ploidies)))
        assert [len(x) for x in own] == ploidies
    assert report.n_haplotypes == sum(ploidies)


def test_layout_is_scikit_allels(tmp_path):
    allel = pytest.importorskip("allel")
    source = write_vcf(tmp_path / "p.vcf", mosaic(8, 40))
    convert(source, tmp_path / "p.h5")
    allel.vcf_to_hdf5(str(source), str(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "p.h5") as ours, h5py.File(tmp_path / "a.h5") as theirs:
        np.testing.assert_array_equal(ours["calldata/GT"][:], theirs["calldata/GT"][:])
        np.testing.assert_array_equal(ours["variants/POS"][:], theirs["variants/POS"][:])
        assert ours["calldata/GT"].dtype == theirs["calldata/GT"].dtype == np.int8
        for name in ("samples", "variants/CHROM", "variants/REF", "variants/ID"):
            assert ours[name].dtype.kind == "S"
            assert ours[name][:].tolist() == theirs[name][:].tolist()
        assert ours["variants/ALT"][:].tolist() == theirs["variants/ALT"][:, 0].tolist()
        assert allel.GenotypeDaskArray(ours["calldata/GT"]).compute().shape == (40, 4, 2)


def test_real_genotypes_equal_cyvcf2_and_scikit_allel(tmp_path, dev_folder):
    import cyvcf2

    allel = pytest.importorskip("allel")
    source = dev_folder / "panel.vcf.gz"
    report = convert(source, tmp_path / "p.h5")
    assert (report.n_sites, report.n_samples, report.n_haplotypes) == (17_574, 240, 480)
    expected = np.array([v.genotype.array()[:, :2] for v in cyvcf2.VCF(str(source))])
    positions = allel.read_vcf(str(source), fields=["calldata/GT", "variants/POS"])
    with Panel.open(tmp_path / "p.h5") as panel:
        stored = panel.genotypes(0, panel.n_sites)
        np.testing.assert_array_equal(stored, expected)
        np.testing.assert_array_equal(stored, positions["calldata/GT"])
        np.testing.assert_array_equal(panel.positions, positions["variants/POS"])
        assert panel.sites.key(0) == "20:1000226:A:T"


@pytest.mark.slow
def test_not_clearly_slower_than_scikit_allel_on_real_data(tmp_path, dev_folder):
    allel = pytest.importorskip("allel")
    source = dev_folder / "panel.vcf.gz"
    ours, theirs = [], []
    for _ in range(4):
        began = time.process_time()
        convert(source, tmp_path / "p.h5", force=True)
        ours.append(time.process_time() - began)
        began = time.process_time()
        allel.vcf_to_hdf5(str(source), str(tmp_path / "a.h5"), overwrite=True)
        theirs.append(time.process_time() - began)
    # The benchmark measures; this notices a fall, whatever else runs on the machine.
    assert min(ours) <= 1.25 * min(theirs), (ours, theirs)


def test_digest_is_of_the_content_alone(tmp_path):
    a = run(tmp_path, GOOD)
    b = run(tmp_path, GOOD, name="other.vcf", force=True)
    assert a.digest == b.digest
    changed = [GOOD[0].replace("0|1", "1|0"), GOOD[1]]
    assert run(tmp_path, changed, force=True).digest != a.digest
    assert run(tmp_path, GOOD, ["A", "C"], force=True).digest != a.digest


def test_provenance_and_format_are_recorded(tmp_path):
    run(tmp_path, GOOD)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["format_name"] == "snvrag-panel"
        assert file.attrs["format_version"] == 1
        origin = json.loads(file.attrs["provenance"])
    assert next(iter(origin["inputs"])).endswith("in.vcf.gz")


def test_records_left_out_are_counted_by_reason_and_never_folded(tmp_path):
    rows = [
        "20 100 A C 0|1 1|1",
        "20 110 A C,G 0|1 2|1",
        "20 120 A AC 0|1 1|1",
        "20 130 A <DEL> 0|1 1|1",
        "20 140 A * 0|1 1|1",
        "20 150 A . 0|0 0|0",
        "20 160 G T 0|0 0|1",
        "20 160 G T 1|1 1|1",
        "20 160 G A 1|0 0|0",
        "20 170 C G 0|0 0|0",
    ]
    report = run(tmp_path, rows)
    assert report.skipped == {
        "multi-allelic": 1,
        "indel (see --include-indels)": 1,
        "symbolic or star allele": 2,
        "no ALT allele": 1,
        "duplicate of an earlier record": 1,
    }
    assert report.monomorphic == 1
    with Panel.open(tmp_path / "out.h5") as panel:
        assert [panel.sites.key(i) for i in range(4)] == [
            "20:100:A:C",
            "20:160:G:T",
            "20:160:G:A",
            "20:170:C:G",
        ]
        assert panel.alleles(0, 4).tolist() == [
            [0, 0, 1, 0],
            [1, 0, 0, 0],
            [1, 0, 0, 0],
            [1, 1, 0, 0],
        ]
    kept = run(tmp_path, rows, include_indels=True, force=True)
    assert kept.n_sites == 5


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("20 200 G T 0/1 0|0", ["20:200", "sample A", "unphased"]),
        ("20 200 G T 0|0 0/0", ["20:200", "sample B", "unphased"]),
        ("20 200 G T 0|0 .|.", ["20:200", "sample B", "missing"]),
        ("20 200 G T 0|0 0|.", ["20:200", "sample B", "missing"]),
        ("20 200 G T 0|0 1", ["20:200", "sample B", "ploidy"]),
        ("20 200 G T 0|0 0|0|1", ["20:200", "ploidy 3"]),
        ("20 50 G T 0|0 0|0", ["20:50", "not sorted"]),
    ],
)
def test_bad_records_name_record_and_sample_and_leave_nothing(tmp_path, bad, words):
    with pytest.raises(InputError) as caught:
        run(tmp_path, [GOOD[0], bad])
    for word in ["in.vcf.gz", *words]:
        assert word in caught.value.message
    assert caught.value.hint
    assert leftovers(tmp_path) == []


def test_incomplete_records_can_be_dropped_and_are_counted(tmp_path):
    rows = [GOOD[0], "20 150 G T 0/1 0|0", "20 160 G T 0|0 .|.", GOOD[1]]
    report = run(tmp_path, rows, drop_incomplete=True)
    assert report.n_sites == 2
    assert sum(report.skipped.values()) == 2


def test_a_chromosome_in_two_places_is_unsorted(tmp_path):
    rows = ["20 100 A C 0|1 1|1", "21 100 A C 0|1 1|1", "20 200 A C 0|1 1|1"]
    with pytest.raises(InputError, match="two places"):
        run(tmp_path, rows, contigs=("20", "21"))


def test_haploid_calls_are_one_haplotype(tmp_path):
    rows = ["X 100 A C 0|1 1", "X 200 G T 1|1 0"]
    report = run(tmp_path, rows, contigs=("X",))
    assert report.n_haplotypes == 3
    with Panel.open(tmp_path / "out.h5") as panel:
        assert panel.genotypes(0, 2)[:, 1].tolist() == [[1, -2], [0, -2]]
        assert panel.haplotype_sample.tolist() == [0, 0, 1]
        assert panel.an.tolist() == [3, 3]


def test_all_haploid(tmp_path):
    run(tmp_path, ["X 100 A C 0 1", "X 200 G T 1 0"], contigs=("X",))
    with Panel.open(tmp_path / "out.h5") as panel:
        assert panel.alleles(0, 2).tolist() == [[0, 1], [1, 0]]


def test_populations_and_genotype_frequencies(tmp_path):
    table = tmp_path / "pops.txt"
    table.write_text("sample pop super_pop\nC YRI AFR\nB CHB EAS\nA CEU EUR\nD GBR EUR\n")
    run(tmp_path, ["20 1 A C 0|1 1|1 0|0"], ["A", "B", "C"], populations=table)
    with h5py.File(tmp_path / "out.h5") as file:
        names = [x.decode() for x in file["frequencies/populations"][:]]
        assert names == ["GLOBAL", "AFR", "EAS", "EUR"]
        column = {n: file[f"frequencies/{n}"][:, 0].tolist() for n in ("REF", "HET", "HOM", "AF")}
    assert column["AF"] == pytest.approx([0.5, 0.0, 1.0, 0.5])
    assert column["REF"] == pytest.approx([1 / 3, 1, 0, 0])
    assert column["HET"] == pytest.approx([1 / 3, 0, 0, 1])
    assert column["HOM"] == pytest.approx([1 / 3, 0, 1, 0])


def test_population_tables_with_and_without_header(tmp_path):
    path = tmp_path / "p"
    path.write_text("A CEU EUR male\nB YRI AFR female\n")
    assert read_populations(path) == {"A": "EUR", "B": "AFR"}
    path.write_text("#Sample\tpop\nA\tCEU\nB\tYRI\n")
    assert read_populations(path) == {"A": "CEU", "B": "YRI"}
    for text, word in (
        ("A CEU EUR\nA CEU EUR\n", "twice"),
        ("sample pop super_pop\nA x\n", "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            read_populations(path)


def test_a_sample_without_population_is_named(tmp_path):
    table = tmp_path / "pops.txt"
    table.write_text("sample pop\nA CEU\n")
    with pytest.raises(InputError, match="sample B"):
        run(tmp_path, GOOD, populations=table)


def test_a_given_frequency_table_is_what_the_panel_returns(tmp_path):
    """ORIGINAL rule 15: a table that contradicts the genotypes rules."""
    table = np.zeros((4, 1, 2), dtype=np.float32)
    table[3, 0] = [0.25, 0.75]
    np.save(tmp_path / "f.npy", table)
    run(tmp_path, GOOD, frequencies=tmp_path / "f.npy")
    with Panel.open(tmp_path / "out.h5") as panel:
        assert panel.af.tolist() == [0.25, 0.75]
        assert panel.ac.tolist() == [3, 1]


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((4, 1, 3)),
        np.zeros((4, 1, 1)),
        np.zeros((3, 1, 2)),
        np.zeros((4, 2, 2)),
        np.zeros((4, 2)),
        np.full((4, 1, 2), 1.5),
        np.zeros((4, 1, 2), dtype=int),
        np.array([None]),
    ],
)
def test_unfit_frequency_tables_are_refused(tmp_path, table):
    np.save(tmp_path / "f.npy", table, allow_pickle=True)
    with pytest.raises(InputError, match=r"f\.npy"):
        run(tmp_path, GOOD, frequencies=tmp_path / "f.npy")
    assert leftovers(tmp_path) == []


def test_af_from_info(tmp_path):
    rows = ["20 100 A C AF=0.125 0|1 1|1", "20 200 G T AF=0.5 0|0 0|1"]
    run(tmp_path, rows, af_from_info=True)
    with Panel.open(tmp_path / "out.h5") as panel:
        assert panel.af.tolist() == [0.125, 0.5]
    with pytest.raises(InputError, match="20:100 has no INFO/AF"):
        run(tmp_path, GOOD, af_from_info=True, force=True)


def test_samples_selection(tmp_path):
    rows = ["20 100 A C 0|1 1|1 0|0", "20 200 G T 0|0 0|1 1|1"]
    three = ["A", "B", "C"]
    run(tmp_path, rows, three, samples=SampleSelection.parse("C,A"))
    with Panel.open(tmp_path / "out.h5") as panel:
        assert panel.samples == ("C", "A")
        assert panel.alleles(0, 2).tolist() == [[0, 1], [0, 1], [0, 0], [1, 0]]
    run(tmp_path, rows, three, samples=SampleSelection.parse("^B"), force=True)
    with Panel.open(tmp_path / "out.h5") as panel:
        assert panel.samples == ("A", "C")
    (tmp_path / "names").write_text("B\n")
    chosen = SampleSelection.from_file(f"^{tmp_path / 'names'}")
    assert chosen.apply(three, tmp_path) == ["A", "C"]
    for text, word in (("A,Z", "no sample 'Z'"), ("A,A", "twice"), ("^A,B,C", "no sample")):
        with pytest.raises(InputError, match=word):
            SampleSelection.parse(text).apply(three, tmp_path)
    with pytest.raises(UsageError, match="empty"):
        SampleSelection.parse("A,,B")


@pytest.mark.parametrize("indexed", [False, True])
def test_regions_with_and_without_an_index(tmp_path, indexed):
    rows = [f"{c} {p} A C 0|1 1|1" for c in ("20", "21") for p in (100, 200, 300)]
    source = write_vcf_rows(tmp_path / "in.vcf.gz", rows, TWO, ("20", "21"))
    if indexed:
        if shutil.which("tabix") is None:
            pytest.skip("tabix is not installed")
        subprocess.run(["tabix", "-p", "vcf", str(source)], check=True)
    regions = [Region("21", 200, None), Region("20", 100, 250), Region("20", 200, 200)]
    convert(source, tmp_path / "out.h5", regions=regions)
    with Panel.open(tmp_path / "out.h5") as panel:
        keys = [panel.sites.key(i).rsplit(":", 2)[0] for i in range(panel.n_sites)]
    assert keys == ["20:100", "20:200", "21:200", "21:300"]
    with pytest.raises(InputError, match="no contig 'chr20'") as caught:
        convert(source, tmp_path / "out2.h5", regions=[Region("chr20")])
    assert "20, 21" in caught.value.hint
    with pytest.raises(InputError, match="no site is left"):
        convert(source, tmp_path / "out2.h5", regions=[Region("20", 150, 160)])
    assert not (tmp_path / "out2.h5").exists()


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
    text = vcf_text([f"20 {p} A C 0|1 1|1" for p in range(1, 20_000)], TWO).encode()
    whole = bgzip(text, 20_000)
    cases = {
        "cut": whole[: len(whole) // 2],
        "cut at a block": whole[:-28],
        "flipped": whole[:3000] + bytes([whole[3000] ^ 0xFF]) + whole[3001:],
        "gzip": gzip.compress(text),
        "empty": b"",
        "no vcf": b"hello\n",
        "header only": bgzip(text.split(b"#CHROM")[0]),
    }
    for name, data in cases.items():
        source = tmp_path / "bad.vcf.gz"
        source.write_bytes(data)
        with pytest.raises(InputError, match=r"bad\.vcf\.gz") as caught:
            convert(source, tmp_path / "out.h5")
        assert "\n" not in caught.value.message, name
        assert caught.value.hint, name
        assert leftovers(tmp_path) == [], name


def test_missing_file_and_unwritable_output(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        convert(tmp_path / "absent.vcf.gz", tmp_path / "out.h5")
    run(tmp_path, GOOD)
    with pytest.raises(OutputError, match="does not exist"):
        convert(tmp_path / "in.vcf.gz", tmp_path / "no" / "o.h5")
    with pytest.raises(OutputError, match="exists already"):
        run(tmp_path, GOOD)


def test_a_vcf_without_samples_or_genotypes(tmp_path):
    lines = vcf_text(["20 100 A C"], []).splitlines()
    (tmp_path / "s.vcf").write_text(
        "\n".join(x.removesuffix("\tFORMAT") for x in lines[:-1]) + "\n"
    )
    with pytest.raises(InputError, match="no sample"):
        convert(tmp_path / "s.vcf", tmp_path / "out.h5")
    text = "\n".join(x for x in vcf_text(GOOD, TWO).splitlines() if "FORMAT=<" not in x)
    (tmp_path / "g.vcf").write_text(text.replace("\tGT\t", "\tDP\t") + "\n")
    with pytest.raises(InputError, match="FORMAT/GT"):
        convert(tmp_path / "g.vcf", tmp_path / "out.h5")


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    source = write_vcf(tmp_path / "p.vcf", mosaic(4, 9000))

    def interrupt(task, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "p.h5", progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["p.vcf"]


def test_bcf_and_plain_text_give_the_same_panel(tmp_path):
    if shutil.which("bcftools") is None:
        pytest.skip("bcftools is not installed")
    source = write_vcf_rows(tmp_path / "in.vcf", GOOD, TWO)
    bcf = tmp_path / "in.bcf"
    subprocess.run(["bcftools", "view", "-Ob", "-o", str(bcf), str(source)], check=True)
    a = convert(source, tmp_path / "a.h5")
    assert convert(bcf, tmp_path / "b.h5").digest == a.digest


def test_blocks_do_not_change_the_result(tmp_path, monkeypatch):
    source = write_vcf(tmp_path / "p.vcf", mosaic(6, 700))
    digests = set()
    for size in (1, 100, 512, 4096):
        monkeypatch.setattr("snvrag.conversion.block_size", lambda n, size=size: size)
        digests.add(convert(source, tmp_path / "p.h5", force=True).digest)
    assert len(digests) == 1


def test_damaged_panels_are_refused_by_dataset(tmp_path):
    run(tmp_path, GOOD)
    path = tmp_path / "out.h5"
    whole = path.read_bytes()

    def damage(change):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(InputError) as caught, Panel.open(path) as panel:
            panel.alleles(0, panel.n_sites)
        assert "out.h5" in caught.value.message
        return caught.value.message

    def replace(name, data):
        def change(file):
            del file[name]
            file[name] = data

        return change

    assert "variants/POS" in damage(lambda f: f.__delitem__("variants/POS"))
    assert "variants/AF" in damage(replace("variants/AF", np.zeros(3, dtype="f4")))
    assert "variants/AC" in damage(replace("variants/AC", np.zeros(2, dtype="f8")))
    assert "calldata/GT" in damage(replace("calldata/GT", np.zeros((2, 2), dtype="i1")))
    assert "calldata/GT" in damage(replace("calldata/GT", np.full((2, 2, 2), 3, dtype="i1")))
    assert "format" in damage(lambda f: f.attrs.__setitem__("format_name", "other"))
    assert "version" in damage(lambda f: f.attrs.__setitem__("format_version", 99))
    assert "digest" in damage(lambda f: f.attrs.__delitem__("digest"))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"out\.h5"):
        Panel.open(path)
    path.write_text("hello")
    with pytest.raises(SnvragError, match="HDF5"):
        Panel.open(path)


def test_dev_folder_is_where_the_tests_look():
    assert DEV.parts[-3:] == ("data", "chr20", "dev")
