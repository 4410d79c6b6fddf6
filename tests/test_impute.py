import fcntl
import inspect
import json
import shutil
import subprocess
import sys

import cyvcf2
import numpy as np
import pytest
from conftest import impute_and_measure, mosaic, write_vcf
from helpers_vcf import bgzip, write_vcf_rows

from snvrag import chunks, workdir
from snvrag.chunks import ChunkPlanner
from snvrag.config import WindowConfig
from snvrag.conversion import convert
from snvrag.dosage import estimated_r2, variance_ratio
from snvrag.errors import InputError, MismatchError, OutputError, UsageError
from snvrag.evaluation import evaluate
from snvrag.imputation import impute
from snvrag.panel import Panel
from snvrag.sites import Region, SiteTable, match_sites
from snvrag.vcf import DosageReader

N_SITES = 2600
# What two of the six windows need beyond the process, with a window to either side.
SMALL_MEMORY = 1_400_000


def table(*sites):
    chrom, pos, ref, alt = zip(*sites, strict=True)
    empty = np.array(["."] * len(sites))
    return SiteTable(np.array(chrom), np.array(pos), empty, np.array(ref), np.array(alt))


def test_sites_match_flip_or_are_left_out_with_the_reason():
    panel = table(
        *(("20", 1, "A", "C"), ("20", 2, "A", "C"), ("20", 3, "A", "T"), ("20", 4, "A", "C")),
        *(("20", 5, "A", "C"), ("20", 6, "A", "C"), ("20", 6, "A", "G"), ("20", 7, "G", "C")),
    )
    target = table(
        *(("chr20", 1, "A", "C"), ("chr20", 2, "C", "A"), ("chr20", 3, "T", "A")),
        *(("chr20", 4, "T", "G"), ("chr20", 5, "A", "G"), ("chr20", 6, "A", "G")),
        *(("chr20", 6, "G", "A"), ("chr20", 9, "A", "C"), ("21", 1, "A", "C")),
        ("chr20", 7, "G", "C"),
    )
    match = match_sites(panel, target)
    assert match.panel_rows.tolist() == [0, 1, 6, 7]
    assert match.target_rows.tolist() == [0, 1, 5, 9]
    assert match.flipped.tolist() == [False, True, False, False]
    assert dict(match.excluded) == {
        2: "swapped and strand-ambiguous (A/T or C/G)",
        3: "alleles of the other strand",
        4: "other alleles than the panel",
        6: "panel site matched by an earlier record",
        7: "position not in the panel",
        8: "position not in the panel",
    }


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A panel of 60 samples, 8 others as truth, and these as target at every tenth site."""
    folder = tmp_path_factory.mktemp("impute")
    alleles = mosaic(136, N_SITES, founders=12, switch_rate=0.002)
    write_vcf(folder / "panel.vcf", alleles[:120], spacing=100)
    convert(folder / "panel.vcf", folder / "panel.h5")
    write_vcf(folder / "truth.vcf", alleles[120:], spacing=100)
    lines = (folder / "truth.vcf").read_text().replace("\tS", "\tT").splitlines()
    head = [x for x in lines if x.startswith("#")]
    records = lines[len(head) :]
    (folder / "truth.vcf").write_text("\n".join(lines) + "\n")
    (folder / "target.vcf").write_text("\n".join(head + records[::10]) + "\n")
    return folder


def run(case, tmp_path, name="out.vcf.gz", **options):
    options.setdefault("panel", case / "panel.h5")
    target = options.pop("target", case / "target.vcf")
    return impute(target, output=tmp_path / name, **options)


def read(path):
    reader = DosageReader(path)
    records = list(reader)
    reader.close()
    return records


def test_imputation_recovers_masked_alleles(case, tmp_path):
    report = run(case, tmp_path)
    assert (report.n_sites, report.n_typed, report.n_samples) == (N_SITES, 260, 8)
    found = evaluate(tmp_path / "out.vcf.gz", case / "truth.vcf", case / "panel.h5")
    assert found.all.n_sites == N_SITES - 260
    assert found.all.aggregate_r2 > 0.9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.vcf.gz", "out.vcf.gz.tbi"]


def test_records_follow_the_panel_and_typed_calls_stay(case, tmp_path):
    run(case, tmp_path, hds=True)
    with Panel.open(case / "panel.h5") as panel:
        keys = [panel.sites.key(i) for i in range(N_SITES)]
    records = read(tmp_path / "out.vcf.gz")
    assert [":".join(map(str, r.site)) for r in records] == keys
    truth = read(case / "truth.vcf")
    for row, (record, true) in enumerate(zip(records, truth, strict=True)):
        assert record.imputed == (row % 10 != 0)
        assert not np.isnan(record.dosage).any()
        if not record.imputed:
            np.testing.assert_array_equal(record.dosage, true.dosage)
            np.testing.assert_array_equal(record.genotype, true.genotype)


def test_genotypes_dosages_and_quality_agree_with_the_haplotype_dosages(case, tmp_path):
    run(case, tmp_path, hds=True)
    for record in cyvcf2.VCF(str(tmp_path / "out.vcf.gz")):
        hds = record.format("HDS")
        np.testing.assert_allclose(record.format("DS")[:, 0], hds.sum(1), atol=0.0016)
        gp = record.format("GP")
        np.testing.assert_allclose(gp.sum(1), 1.0, atol=1e-6)
        p, q = hds.T
        np.testing.assert_allclose(gp[:, 2], p * q, atol=0.0016)
        alleles = record.genotype.array()[:, :2]
        clear = np.abs(hds - 0.5) > 0.0006
        np.testing.assert_array_equal((alleles == 1)[clear], (hds > 0.5)[clear])
        flat = hds.reshape(1, -1)
        # DR2 is of the unrounded probabilities; where HDS hardly varies, the third decimal counts.
        if flat.var() > 1e-3:
            assert record.INFO["DR2"] == pytest.approx(variance_ratio(flat)[0], abs=0.02)
            assert record.INFO["CR2"] == pytest.approx(estimated_r2(flat)[0], abs=0.02)
        assert record.INFO["AF"] == pytest.approx(flat.mean(), abs=0.001)


def test_truth_at_masked_sites_cannot_matter_and_missing_calls_are_imputed(case, tmp_path):
    lines = (case / "target.vcf").read_text().splitlines()
    changed = []
    for number, line in enumerate(lines):
        fields = line.split("\t")
        if not line.startswith("#") and number % 3 == 0:
            fields[9] = ".|."
            fields[10] = "." if number % 2 else ".|1"
        changed.append("\t".join(fields))
    changed = [x.replace("\t.\t", "\t.|.\t") if x.endswith("|") else x for x in changed]
    text = "\n".join(changed).replace("\t.\t0|", "\t.|.\t0|").replace("\t.\t1|", "\t.|.\t1|") + "\n"
    (tmp_path / "t.vcf").write_text(text)
    run(case, tmp_path, target=tmp_path / "t.vcf")
    records = read(tmp_path / "out.vcf.gz")
    assert not any(np.isnan(r.dosage).any() for r in records)
    truth = read(case / "truth.vcf")
    first = np.array([r.dosage[0] for r in records])
    true = np.array([r.dosage[0] for r in truth])
    assert np.corrcoef(first, true)[0, 1] ** 2 > 0.8


def test_swapped_and_prefixed_targets_give_the_same_dosages(case, tmp_path):
    run(case, tmp_path, "a.vcf.gz")
    lines = (case / "target.vcf").read_text().splitlines()
    swap = str.maketrans("01", "10")
    out = []
    for number, line in enumerate(lines):
        if line.startswith("#"):
            out.append(line.replace("ID=20", "ID=chr20"))
            continue
        fields = line.split("\t")
        fields[0] = "chr20"
        if number % 2:
            fields[3], fields[4] = fields[4], fields[3]
            fields[9:] = [x.translate(swap) for x in fields[9:]]
        out.append("\t".join(fields))
    (tmp_path / "t.vcf").write_text("\n".join(out) + "\n")
    report = run(case, tmp_path, "b.vcf.gz", target=tmp_path / "t.vcf")
    assert report.flipped > 50
    a, b = read(tmp_path / "a.vcf.gz"), read(tmp_path / "b.vcf.gz")
    assert all(np.array_equal(x.dosage, y.dosage) for x, y in zip(a, b, strict=True))


def test_excluded_records_are_listed_with_the_reason(case, tmp_path):
    lines = (case / "target.vcf").read_text().splitlines()
    last = lines[-1].split("\t")
    later = "\t".join([last[0], "900001", ".", "A", "C", *last[5:]])
    multi = "\t".join([last[0], "900002", ".", "A", "C,G", *last[5:]])
    (tmp_path / "t.vcf").write_text("\n".join([*lines, later, multi]) + "\n")
    report = run(case, tmp_path, target=tmp_path / "t.vcf", excluded=tmp_path / "x.tsv")
    rows = [x.split("\t") for x in (tmp_path / "x.tsv").read_text().splitlines()]
    assert rows[0] == ["CHROM", "POS", "REF", "ALT", "reason"]
    assert rows[1] == ["20", "900001", "A", "C", "position not in the panel"]
    assert rows[2] == ["20", "900002", "A", "C,G", "multi-allelic"]
    assert report.excluded == {"position not in the panel": 1, "multi-allelic": 1}


def test_too_little_overlap_shows_both_files_contigs(case, tmp_path):
    rows = ["chr21 100 A C 0|1 1|1", "chr21 200 A C 0|1 1|1"]
    target = write_vcf_rows(tmp_path / "t.vcf", rows, ["A", "B"], ("chr21",))
    with pytest.raises(InputError, match=r"target: chr21; panel: 20:100-") as caught:
        run(case, tmp_path, target=target)
    assert "build" in caught.value.hint
    rows = [f"20 {p} A C 0|1 1|1" for p in (100, 101, 102, 103, 104)]
    target = write_vcf_rows(tmp_path / "t.vcf", rows, ["A", "B"])
    with pytest.raises(InputError, match="1 of 5 records"):
        run(case, tmp_path, target=target, min_overlap=0.5)
    assert run(case, tmp_path, target=target, min_overlap=0.1).matched == 1


def test_unphased_targets_are_refused_with_the_phasing_command(case, tmp_path):
    target = write_vcf_rows(tmp_path / "t.vcf", ["20 100 A C 0/0 0/1"], ["A", "B"])
    with pytest.raises(InputError, match="20:100: the genotype of sample B is unphased") as caught:
        run(case, tmp_path, target=target)
    assert "beagle gt=" in caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.vcf"]


def test_a_sample_in_the_panel_does_not_see_itself_unless_allowed(case, tmp_path):
    lines = (case / "panel.vcf").read_text().splitlines()
    kept = [x for i, x in enumerate(lines) if x.startswith("#") or i % 10 == 0]
    short = ["\t".join(x.split("\t")[:11]) if not x.startswith("##") else x for x in kept]
    (tmp_path / "t.vcf").write_text("\n".join(short) + "\n")
    whole = ["\t".join(x.split("\t")[:11]) if not x.startswith("##") else x for x in lines]
    (tmp_path / "truth.vcf").write_text("\n".join(whole) + "\n")
    r2 = []
    for allow in (False, True):
        run(case, tmp_path, f"{allow}.vcf.gz", target=tmp_path / "t.vcf", allow_self=allow)
        found = evaluate(tmp_path / f"{allow}.vcf.gz", tmp_path / "truth.vcf", case / "panel.h5")
        r2.append(found.all.aggregate_r2)
    assert r2[0] < r2[1]
    assert r2[1] > 0.98


def test_regions_write_the_same_dosages_for_their_sites(case, tmp_path):
    run(case, tmp_path, "all.vcf.gz")
    run(case, tmp_path, "some.vcf.gz", regions=[Region("20", 50_000, 70_000)])
    some = read(tmp_path / "some.vcf.gz")
    whole = {r.site: r for r in read(tmp_path / "all.vcf.gz")}
    assert [r.site[1] for r in some] == list(range(50_000, 70_001, 100))
    for record in some:
        np.testing.assert_allclose(record.dosage, whole[record.site].dosage, atol=0.002)
    with pytest.raises(InputError, match="no chromosome '21'"):
        run(case, tmp_path, "no.vcf.gz", regions=[Region("21")])
    with pytest.raises(InputError, match="no panel site"):
        run(case, tmp_path, "no.vcf.gz", regions=[Region("20", 1, 5)])


@pytest.fixture
def short_flanks(monkeypatch):
    """Flanks of two to three windows and data alone to count: a small case has several chunks."""
    monkeypatch.setattr(chunks, "_FLANK_CM", 0.12)
    monkeypatch.setattr(chunks, "_cpus", lambda: 2)
    for name in ("_PROCESS_BYTES", "_SITE_BYTES", "_RECORD_BYTES"):
        monkeypatch.setattr(chunks, name, 0)


@pytest.mark.usefixtures("short_flanks")
def test_less_memory_means_more_chunks_and_the_same_result(case, tmp_path):
    one = run(case, tmp_path, "one.vcf.gz")
    many = run(case, tmp_path, "many.vcf.gz", max_memory=SMALL_MEMORY)
    assert one.chunks == 1
    assert many.chunks > 1
    a, b = read(tmp_path / "one.vcf.gz"), read(tmp_path / "many.vcf.gz")
    difference = np.abs(np.array([x.dosage - y.dosage for x, y in zip(a, b, strict=True)]))
    # The flanks are 0.12 cM here, far below the 2 cM of a real run.
    assert difference.mean() < 1e-3
    assert difference.max() < 0.05
    with pytest.raises(UsageError, match="--max-memory"):
        run(case, tmp_path, "no.vcf.gz", max_memory=1000)


def test_lists_of_carriers_stay_within_their_integers(case, tmp_path, monkeypatch):
    whole = run(case, tmp_path, "a.vcf.gz")
    with Panel.open(case / "panel.h5") as panel:
        carriers = int(np.minimum(panel.ac, panel.an - panel.ac).sum())
    monkeypatch.setattr(chunks, "_MOST_CARRIERS", carriers // 2)
    parts = run(case, tmp_path, "b.vcf.gz")
    assert (whole.chunks, parts.chunks > 1) == (1, True)
    assert (tmp_path / "a.vcf.gz").read_bytes() == (tmp_path / "b.vcf.gz").read_bytes()


def test_the_estimate_grows_with_the_cells_of_the_related_prior(case):
    with Panel.open(case / "panel.h5") as panel:
        observed = np.arange(0, panel.n_sites, 5)
        wanted = np.ones(panel.n_sites, dtype=bool)

        def n_bytes(length, threads):
            cm = np.linspace(0, length, panel.n_sites)
            planner = ChunkPlanner(panel, cm, 2**40, observed, WindowConfig(), 8, threads)
            return max(chunk.n_bytes for chunk in planner.plan(wanted))

        for threads in (1, 4):
            more = n_bytes(100.5, threads) - n_bytes(0.5, threads)
            assert more == 8 * 100 * threads * panel.n_haplotypes


@pytest.mark.usefixtures("short_flanks")
def test_an_interrupted_run_continues_and_ends_the_same(case, tmp_path):
    run(case, tmp_path, "whole.vcf.gz", max_memory=SMALL_MEMORY)

    def interrupt(task, done, total):
        if any((tmp_path / "cut.vcf.gz.work").glob("part-*.npy")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(case, tmp_path, "cut.vcf.gz", max_memory=SMALL_MEMORY, progress=interrupt)
    assert not (tmp_path / "cut.vcf.gz").exists()
    assert (tmp_path / "cut.vcf.gz.work").is_dir()
    report = run(case, tmp_path, "cut.vcf.gz", max_memory=SMALL_MEMORY)
    assert report.reused == 1
    assert not (tmp_path / "cut.vcf.gz.work").exists()
    assert (tmp_path / "cut.vcf.gz").read_bytes() == (tmp_path / "whole.vcf.gz").read_bytes()


@pytest.mark.usefixtures("short_flanks")
@pytest.mark.parametrize("memory", [SMALL_MEMORY, None])
def test_progress_goes_forward_within_chunks_and_through_both_phases(
    case, tmp_path, monkeypatch, memory
):
    monkeypatch.setattr(chunks, "BATCH_HAPLOTYPES", 4)
    seen = {}
    run(
        case,
        tmp_path,
        max_memory=memory,
        progress=lambda task, done, total: seen.setdefault(task, []).append((done, total)),
    )
    assert list(seen) == ["reading", "hashing target.vcf", "imputing", "writing"]
    for task, steps in (("imputing", 4), ("writing", 3)):
        amounts = [done for done, _ in seen[task]]
        assert {total for _, total in seen[task]} == {N_SITES}
        assert amounts == sorted(amounts)
        assert amounts[-1] == N_SITES
        assert len(set(amounts)) >= steps


def test_the_plan_is_told_before_the_work(case, tmp_path, caplog):
    caplog.set_level("INFO", logger="snvrag")
    report = run(case, tmp_path, max_memory=2**30)
    (line,) = [m for m in caplog.messages if "of memory" in m]
    megabytes = f"{report.estimated_memory / 2**20:,.0f}"
    assert line == (
        f"about {megabytes} MB of memory (limit 1.0 GB), 6 windows in 1 chunk, 8 samples"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("samples", [8, 400])
def test_the_estimate_covers_what_the_process_takes_and_not_much_more(case, tmp_path, samples):
    text = (case / "target.vcf").read_text().splitlines()
    wide = []
    for line in text:
        fields = line.split("\t")
        if line.startswith("#CHROM"):
            fields[9:] = [f"T{i}" for i in range(samples)]
        elif not line.startswith("#"):
            fields[9:] = [fields[9 + i % 8] for i in range(samples)]
        wide.append("\t".join(fields))
    (tmp_path / "t.vcf").write_text("\n".join(wide) + "\n")
    # Compiling the kernels, once per installation, takes memory of its own.
    for name in ("first.vcf.gz", "second.vcf.gz"):
        estimate, peak = impute_and_measure(tmp_path / "t.vcf", case / "panel.h5", tmp_path / name)
    assert 0.9 * peak < estimate < 1.8 * peak


def test_a_work_directory_of_another_run_or_in_use_is_refused(case, tmp_path):
    work = tmp_path / "work"
    run(case, tmp_path, "a.vcf.gz", work_dir=work)
    assert json.loads((work / "plan.json").read_text())["format_name"] == "snvrag-impute"
    with pytest.raises(MismatchError, match="another run"):
        run(case, tmp_path, "b.vcf.gz", work_dir=work, allow_self=True)
    run(case, tmp_path, "b.vcf.gz", work_dir=work, allow_self=True, force=True)
    with (work / ".lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(MismatchError, match="in use by process"):
            run(case, tmp_path, "c.vcf.gz", work_dir=work, allow_self=True)


def test_outputs_are_checked_before_the_work(case, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\.vcf\.gz or \.bcf"):
        run(case, tmp_path, "out.vcf")
    with pytest.raises(OutputError, match="does not exist"):
        run(case, tmp_path, "no/out.vcf.gz")
    run(case, tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        run(case, tmp_path)
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda path: free)
    with pytest.raises(OutputError, match="are free"):
        run(case, tmp_path, "full.vcf.gz")


def test_haploid_targets(tmp_path):
    alleles = mosaic(60, 200, switch_rate=0.002)
    write_vcf(tmp_path / "p.vcf", alleles[:52], chroms=["X"] * 200, spacing=100)
    convert(tmp_path / "p.vcf", tmp_path / "p.h5")
    write_vcf(
        tmp_path / "t.vcf", alleles[52:], chroms=["X"] * 200, ploidies=[2, 1, 2, 1, 2], spacing=100
    )
    text = (tmp_path / "t.vcf").read_text().replace("\tS", "\tT")
    lines = text.splitlines()
    kept = [x for i, x in enumerate(lines) if x.startswith("#") or i % 5 == 0]
    (tmp_path / "t.vcf").write_text("\n".join(kept) + "\n")
    (tmp_path / "truth.vcf").write_text(text)
    impute(tmp_path / "t.vcf", tmp_path / "p.h5", tmp_path / "o.vcf.gz", hds=True)
    records = read(tmp_path / "o.vcf.gz")
    assert max(r.dosage[1] for r in records) <= 1.0
    truth = read(tmp_path / "truth.vcf")
    for column in range(5):
        a = np.array([r.dosage[column] for r in records])
        b = np.array([r.dosage[column] for r in truth])
        assert np.corrcoef(a, b)[0, 1] ** 2 > 0.7


@pytest.mark.external
@pytest.mark.parametrize("name", ["out.vcf.gz", "out.bcf"])
def test_bcftools_reads_and_finds_everything(case, tmp_path, name):
    if shutil.which("bcftools") is None:
        pytest.skip("bcftools is not installed")
    run(case, tmp_path, name, hds=True)
    path = str(tmp_path / name)

    def bcftools(*words):
        done = subprocess.run(["bcftools", *words], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout

    assert len(bcftools("view", "-H", path).splitlines()) == N_SITES
    for low, high in (
        (100, 100),
        (50_000, 70_000),
        (260_000, 260_000),
        (1, 99),
        (250_000, 900_000),
    ):
        lines = bcftools("query", "-f", "%POS\n", "-r", f"20:{low}-{high}", path).splitlines()
        assert [int(x) for x in lines] == [p for p in range(100, 260_001, 100) if low <= p <= high]
    assert f"number of records:\t{N_SITES}" in bcftools("stats", path)
    assert len(bcftools("query", "-f", "[%DS,%GP,%HDS ]%INFO/DR2\n", path).splitlines()) == N_SITES


@pytest.mark.external
@pytest.mark.parametrize("name", ["out.vcf.gz", "out.bcf"])
@pytest.mark.parametrize("field", ["DS", "HDS"])
def test_plink2_reads_the_dosages_and_finds_our_frequencies(case, tmp_path, name, field):
    if shutil.which("plink2") is None:
        pytest.skip("plink2 is not installed")
    run(case, tmp_path, name, hds=field == "HDS")
    kind = "--bcf" if name.endswith(".bcf") else "--vcf"
    command = ["plink2", kind, str(tmp_path / name), f"dosage={field}", "--freq"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "p")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = [line.split() for line in (tmp_path / "p.afreq").read_text().splitlines()]
    theirs = [float(row[head.index("ALT_FREQS")]) for row in rows]
    assert {row[head.index("OBS_CT")] for row in rows} == {"16"}
    vcf = cyvcf2.VCF(str(tmp_path / name))
    ours = [record.INFO["AF"] for record in vcf]
    # DS has three decimals; PLINK keeps dosages in steps of 1/16,384.
    np.testing.assert_allclose(theirs, ours, atol=0.0003)


@pytest.mark.external
@pytest.mark.parametrize("index", ["tbi", "csi"])
def test_tabix_and_bcftools_agree_with_our_index(case, tmp_path, index):
    if shutil.which("tabix") is None:
        pytest.skip("tabix is not installed")
    run(case, tmp_path)
    path, region = str(tmp_path / "out.vcf.gz"), "20:50000-70000"

    def positions():
        done = subprocess.run(["tabix", path, region], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return [line.split("\t")[1] for line in done.stdout.splitlines()]

    ours = positions()
    (tmp_path / "out.vcf.gz.tbi").unlink()
    flags = ["-C"] if index == "csi" else []
    subprocess.run(["tabix", *flags, "-p", "vcf", path], check=True)
    assert ours == positions() == [str(p) for p in range(50_000, 70_001, 100)]


@pytest.mark.external
def test_bcftools_counts_what_we_counted(case, tmp_path):
    if shutil.which("bcftools") is None:
        pytest.skip("bcftools is not installed")
    run(case, tmp_path)
    done = subprocess.run(
        ["bcftools", "stats", "-s", "-", str(tmp_path / "out.vcf.gz")],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("PSC")]
    genotypes = np.array([r.genotype for r in read(tmp_path / "out.vcf.gz")])
    for row, own in zip(rows, genotypes.T, strict=True):
        # Columns 4 to 6 of PSC: hom-REF, hom-ALT and het genotypes.
        assert [int(x) for x in row[3:6]] == [(own == g).sum() for g in (0, 2, 1)]
    plain = subprocess.run(
        ["bcftools", "view", "-i", "IMP=1 && CR2>=0.8", "-H", str(tmp_path / "out.vcf.gz")],
        capture_output=True,
        text=True,
        check=True,
    )
    kept = [r for r in read(tmp_path / "out.vcf.gz") if r.imputed and r.quality > 0.7995]
    assert len(plain.stdout.splitlines()) == len(kept) > 0


@pytest.mark.parametrize("name", ["out.vcf.gz", "out.bcf"])
def test_an_independent_reader_finds_the_written_values(case, tmp_path, name):
    run(case, tmp_path, name, hds=True)
    records = list(cyvcf2.VCF(str(tmp_path / name)))
    assert len(records) == N_SITES
    assert all(r.FORMAT == ["GT", "DS", "GP", "HDS"] for r in records)
    assert all(0 <= r.INFO[key] <= 1 for key in ("DR2", "CR2") for r in records)


def test_scikit_allel_reads_it(case, tmp_path):
    allel = pytest.importorskip("allel")
    run(case, tmp_path)
    found = allel.read_vcf(
        str(tmp_path / "out.vcf.gz"),
        fields=["calldata/GT", "calldata/DS", "calldata/GP", "variants/POS", "variants/CR2"],
        numbers={"calldata/GP": 3, "calldata/DS": 1, "variants/CR2": 1},
    )
    records = read(tmp_path / "out.vcf.gz")
    genotypes = allel.GenotypeArray(found["calldata/GT"])
    np.testing.assert_array_equal(genotypes.to_n_alt(), [r.genotype for r in records])
    dosage = found["calldata/DS"]
    np.testing.assert_allclose(dosage, [r.dosage for r in records], atol=1e-6)
    np.testing.assert_allclose(found["calldata/GP"].sum(axis=2), 1.0, atol=1e-6)
    assert found["variants/POS"].tolist() == [r.site[1] for r in records]
    np.testing.assert_allclose(found["variants/CR2"], [r.quality for r in records], atol=1e-6)


def test_even_force_does_not_replace_an_input(case, tmp_path):
    target = tmp_path / "t.vcf.gz"
    target.write_bytes(bgzip((case / "target.vcf").read_bytes()))
    before = target.read_bytes()
    for name, options in (("t.vcf.gz", {}), ("o.vcf.gz", {"excluded": target})):
        with pytest.raises(UsageError, match="is one of the inputs"):
            run(case, tmp_path, name, target=target, force=True, **options)
    assert target.read_bytes() == before


def test_an_old_index_of_the_other_kind_goes(case, tmp_path):
    (tmp_path / "out.vcf.gz.csi").write_bytes(b"of an earlier file")
    run(case, tmp_path, force=True)
    assert not (tmp_path / "out.vcf.gz.csi").exists()


def test_windows_without_typed_sites_are_told(case, tmp_path, caplog):
    lines = (case / "target.vcf").read_text().splitlines()
    head = [x for x in lines if x.startswith("#")]
    few = [x for x in lines[len(head) :] if not 51_200 <= int(x.split("\t")[1]) <= 153_300]
    (tmp_path / "t.vcf").write_text("\n".join(head + few) + "\n")
    caplog.set_level("INFO", logger="snvrag")
    assert run(case, tmp_path, target=tmp_path / "t.vcf").n_sites == N_SITES
    assert "2 windows hold no typed site and go by their flanks" in caplog.messages


def test_what_fails_before_the_work_leaves_nothing(case, tmp_path):
    map_of_21 = tmp_path / "map"
    map_of_21.write_text("21 . 1.0 1000\n")
    kept = sorted(p.name for p in tmp_path.iterdir())
    for options, error in (
        ({"genetic_map": map_of_21}, InputError),
        ({"regions": [Region("20", 1, 5)]}, InputError),
        ({"max_memory": 1000}, UsageError),
        ({"min_overlap": 1.1}, InputError),
    ):
        with pytest.raises(error):
            run(case, tmp_path, excluded=tmp_path / "x.tsv", **options)
        assert sorted(p.name for p in tmp_path.iterdir()) == kept


def test_an_interruption_before_the_first_part_leaves_no_work_directory(case, tmp_path):
    def interrupt(task, done, total):
        if task == "imputing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(case, tmp_path, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["tbi", "csi"])
def test_an_index_is_kept_with_its_file_and_replaced_without_it(case, tmp_path, kind):
    output, index = tmp_path / "out.vcf.gz", tmp_path / f"out.vcf.gz.{kind}"
    index.write_bytes(b"of someone else")
    output.write_bytes(b"theirs")
    with pytest.raises(OutputError, match=r"out\.vcf\.gz exists already"):
        run(case, tmp_path)
    assert index.read_bytes() == b"of someone else"
    # What a process leaves that is killed between the two.
    output.unlink()
    run(case, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"out.vcf.gz", "out.vcf.gz.tbi"}
    assert (tmp_path / "out.vcf.gz.tbi").read_bytes() != b"of someone else"


@pytest.mark.parametrize("name", ["out.vcf.gz", "out.vcf.gz.tbi", "../{}/out.vcf.gz"])
def test_the_list_of_excluded_records_is_no_other_output(case, tmp_path, name):
    excluded = tmp_path / name.format(tmp_path.name)
    with pytest.raises(UsageError, match=r"--excluded .* is the output or its index"):
        run(case, tmp_path, excluded=excluded)
    assert list(tmp_path.iterdir()) == []


def interrupt_after_the_first_part(folder):
    def interrupt(task, done, total):
        if any(folder.glob("part-*.npy")):
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.usefixtures("short_flanks")
def test_the_list_of_excluded_records_does_not_stop_the_second_try(case, tmp_path):
    options = {"max_memory": SMALL_MEMORY, "excluded": tmp_path / "x.tsv"}
    with pytest.raises(KeyboardInterrupt):
        interrupt = interrupt_after_the_first_part(tmp_path / "out.vcf.gz.work")
        run(case, tmp_path, progress=interrupt, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["out.vcf.gz.work"]
    assert run(case, tmp_path, **options).reused == 1
    assert (tmp_path / "x.tsv").read_text().startswith("CHROM")


@pytest.mark.usefixtures("short_flanks")
def test_an_interrupted_run_goes_on_with_more_memory_but_not_with_too_little(case, tmp_path):
    work = tmp_path / "out.vcf.gz.work"
    whole = run(case, tmp_path, "whole.vcf.gz", max_memory=SMALL_MEMORY)
    with pytest.raises(KeyboardInterrupt):
        interrupt = interrupt_after_the_first_part(work)
        run(case, tmp_path, max_memory=SMALL_MEMORY, progress=interrupt)
    kept = {p.name: p.read_bytes() for p in work.glob("*.*")}
    less = whole.estimated_memory - 1
    with pytest.raises(MismatchError, match="larger pieces than --max-memory") as caught:
        run(case, tmp_path, max_memory=less)
    assert "--force" in caught.value.hint
    assert {p.name: p.read_bytes() for p in work.glob("*.*")} == kept
    report = run(case, tmp_path, max_memory=2**30)
    assert (report.reused, report.chunks) == (1, whole.chunks)
    assert (tmp_path / "out.vcf.gz").read_bytes() == (tmp_path / "whole.vcf.gz").read_bytes()


@pytest.mark.usefixtures("short_flanks")
@pytest.mark.parametrize("windows", [None, 5, [1], [[1]], [["a", "b"]], [[0, 999]], [[0, 1, 2]]])
def test_a_damaged_plan_is_told(case, tmp_path, windows):
    work = tmp_path / "work"
    run(case, tmp_path, work_dir=work)
    saved = json.loads((work / "plan.json").read_text())
    (work / "plan.json").write_text(json.dumps(saved | {"windows": windows}))
    with pytest.raises(MismatchError, match=r"plan\.json: is damaged"):
        run(case, tmp_path, "b.vcf.gz", work_dir=work)
    run(case, tmp_path, "b.vcf.gz", work_dir=work, force=True)
    assert (tmp_path / "b.vcf.gz").read_bytes() == (tmp_path / "out.vcf.gz").read_bytes()


@pytest.mark.usefixtures("short_flanks")
def test_with_force_parts_that_are_too_large_are_made_again(case, tmp_path):
    work = tmp_path / "work"
    first = run(case, tmp_path, "a.vcf.gz", max_memory=SMALL_MEMORY, work_dir=work)
    less = first.estimated_memory - 1
    second = run(case, tmp_path, "a.vcf.gz", max_memory=less, work_dir=work, force=True)
    assert second.reused == 0
    assert second.estimated_memory <= less


@pytest.mark.parametrize(
    ("options", "word"), [({"device": "foo"}, "--device foo"), ({"index_dir": "i"}, "--index-dir")]
)
def test_options_of_networks_need_one(case, tmp_path, options, word):
    with pytest.raises(UsageError, match=word) as caught:
        run(case, tmp_path, **options)
    assert "-m RUN" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_record_without_any_call_is_not_typed(case, tmp_path):
    lines = (case / "target.vcf").read_text().splitlines()
    fields = lines[20].split("\t")
    lines[20] = "\t".join([*fields[:9], *[".|."] * 8])
    (tmp_path / "t.vcf").write_text("\n".join(lines) + "\n")
    report = run(case, tmp_path, target=tmp_path / "t.vcf")
    assert report.matched == 260
    typed = sum(not record.imputed for record in read(tmp_path / "out.vcf.gz"))
    assert report.n_typed == typed == 259


def test_chromosomes_without_a_site_of_the_target_are_named_and_not_written(tmp_path, caplog):
    alleles = mosaic(60, 300, switch_rate=0.002)
    chroms = ["20"] * 200 + ["21"] * 60 + ["22"] * 40
    write_vcf(tmp_path / "p.vcf", alleles[:52], chroms=chroms, spacing=100)
    convert(tmp_path / "p.vcf", tmp_path / "p.h5")
    write_vcf(tmp_path / "t.vcf", alleles[52:, :200], spacing=100)
    text = (tmp_path / "t.vcf").read_text().replace("\tS", "\tT").splitlines()
    text = [x for i, x in enumerate(text) if x.startswith("#") or i % 5 == 0]
    (tmp_path / "t.vcf").write_text("\n".join(text) + "\n")
    # The map of the one chromosome is enough.
    (tmp_path / "map").write_text("20 . 0.0 1\n20 . 1.0 1000000\n")
    inputs = (tmp_path / "t.vcf", tmp_path / "p.h5")
    report = impute(*inputs, tmp_path / "a.vcf.gz", genetic_map=tmp_path / "map")
    assert {r.site[0] for r in read(tmp_path / "a.vcf.gz")} == {"20"}
    assert report.n_sites == 200
    (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told == "the target has no site on 21, 22: not written (--region would)"
    caplog.clear()
    regions = [Region("20"), Region("22")]
    report = impute(*inputs, tmp_path / "b.vcf.gz", regions=regions)
    found = read(tmp_path / "b.vcf.gz")
    assert report.n_sites == 240
    assert {r.site[0] for r in found} == {"20", "22"}
    (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told == "the target has no site on 22: imputed without any observed site"
    frequency = alleles[:52, 260:].mean(axis=0)
    dosage = np.array([r.dosage[0] for r in found if r.site[0] == "22"])
    np.testing.assert_allclose(dosage / 2, frequency, atol=0.02)


def test_command_and_library_share_their_defaults():
    from snvrag import config
    from snvrag.cli.impute import impute as command

    own = inspect.signature(impute).parameters
    theirs = inspect.signature(command).parameters
    assert own["min_overlap"].default is theirs["min_overlap"].default is config.DEFAULT_MIN_OVERLAP
