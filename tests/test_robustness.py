"""What a user can do wrong, and what can go wrong around a run: one sentence, one hint."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import mosaic, write_panel_and_truth
from helpers_vcf import bgzip

from snvrag import imputation, workdir
from snvrag.cli.app import run as run_command
from snvrag.conversion import convert
from snvrag.errors import MismatchError, OutputError
from snvrag.evaluation import evaluate
from snvrag.imputation import impute
from snvrag.vcf import DosageReader

N_SITES = 1200
ROWS = [f"20 {p} A C 0|1 1|1" for p in (100, 200, 300)]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A panel of 30 samples, a target of 3 others at every tenth site, and their truth."""
    folder = tmp_path_factory.mktemp("robust")
    alleles = mosaic(66, N_SITES, founders=8, switch_rate=0.002)
    write_panel_and_truth(folder, alleles, 60)
    lines = (folder / "truth.vcf").read_text().splitlines()
    kept = [x for i, x in enumerate(lines) if x.startswith("#") or i % 10 == 0]
    (folder / "target.vcf").write_text("\n".join(kept) + "\n")
    (folder / "target.vcf.gz").write_bytes(bgzip((folder / "target.vcf").read_bytes(), 900))
    return folder


@pytest.fixture
def place(case, tmp_path, monkeypatch):
    """A folder of its own with the case's files, as the current one."""
    for name in ("panel.h5", "target.vcf", "target.vcf.gz", "truth.vcf"):
        shutil.copy(case / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def target_lines(place):
    lines = (place / "target.vcf").read_text().splitlines()
    head = [x for x in lines if x.startswith("#")]
    return head, lines[len(head) :]


def rewrite(place, records, head=None):
    (place / "t.vcf").write_text("\n".join([*(head or target_lines(place)[0]), *records]) + "\n")


def changed(place, column, value, rows=slice(None)):
    """The target with one column of some records replaced."""
    _, records = target_lines(place)
    fields = [x.split("\t") for x in records]
    for own in fields[rows]:
        own[column] = value
    rewrite(place, ["\t".join(x) for x in fields])


def truncated(place):
    (place / "t.vcf.gz").write_bytes((place / "target.vcf.gz").read_bytes()[:-400])


def damaged(place):
    data = bytearray((place / "target.vcf.gz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    (place / "t.vcf.gz").write_bytes(data)


def gzipped(place):
    (place / "t.vcf.gz").write_bytes(gzip.compress((place / "target.vcf").read_bytes()))


def without_samples(place):
    head, records = target_lines(place)
    short = ["\t".join(x.split("\t")[:8]) for x in [head[-1], *records]]
    rewrite(place, short[1:], [*head[:-1], short[0]])


def unsorted(place):
    _, records = target_lines(place)
    rewrite(place, records[::-1])


def without_records(place):
    rewrite(place, [])


def doubled_sample(place):
    head, records = target_lines(place)
    rewrite(place, records, [*head[:-1], head[-1].replace("T1", "T0")])


def without_genotypes(place):
    head, records = target_lines(place)
    dosage = '##FORMAT=<ID=DS,Number=1,Type=Float,Description="Dosage">'
    values = "\t".join(["DS", "0", "1", "0"])
    rewrite(
        place,
        ["\t".join([*x.split("\t")[:8], values]) for x in records],
        [*head[:-1], dosage, head[-1]],
    )


def all_missing(place):
    _, records = target_lines(place)
    rewrite(place, ["\t".join([*x.split("\t")[:9], *[".|."] * 3]) for x in records])


def mixed_ploidy(place):
    changed(place, 10, "0", slice(5, None))


TARGETS = {
    "missing": (None, r"t\.vcf: cannot be read \(No such file"),
    "folder": (lambda p: (p / "t.vcf").mkdir(), r"t\.vcf: cannot be read \(Is a directory"),
    "empty": (lambda p: (p / "t.vcf").touch(), r"t\.vcf: is empty"),
    "text": (lambda p: (p / "t.vcf").write_text("hello\n"), "is not a readable VCF or BCF"),
    "truncated": (truncated, r"t\.vcf\.gz: is truncated"),
    "damaged": (damaged, r"t\.vcf\.gz: damaged after record \d+ \(20:\d+\)"),
    "gzip": (gzipped, "is compressed with gzip, not bgzip"),
    "unphased": (lambda p: changed(p, 10, "0/1"), r"20:\d+: the genotype of sample T1 is unphased"),
    "multi-allelic": (lambda p: changed(p, 4, "C,G"), r"no biallelic record .*multi-allelic"),
    "other chromosome": (lambda p: changed(p, 0, "21"), r"target: 21; panel: 20:100-120,000"),
    "other alleles": (lambda p: changed(p, 4, "G"), r"120 other alleles than the panel"),
    "no sample": (without_samples, "there is no sample in the header"),
    "no record": (without_records, r"no biallelic record to impute from \(no record\)"),
    "sample twice": (doubled_sample, "sample 'T0' appears twice|not a readable"),
    "unsorted": (unsorted, "not sorted: record 20:"),
    "an allele too many": (lambda p: changed(p, 10, "0|2"), r"20:\d+: sample T1 has allele 2"),
    "no GT in a record": (without_genotypes, r"record 20:\d+ has no GT"),
    "all missing": (all_missing, "all genotypes at the panel's sites are missing"),
    "mixed ploidy": (mixed_ploidy, r"20:\d+: the ploidy of sample T1 changes here"),
}


def assert_refused(words, sentence, capsys, place):
    before = contents(place)
    assert run_command(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    # Facts of the plan may come before; the error is one line, and so is what to do about it.
    match = re.search(r"^error: ([^\n]+)\nhint: [^\n]+\n\Z", err, re.MULTILINE)
    assert match, err
    assert re.search(sentence, match[1]), err
    assert "Traceback" not in err
    assert contents(place) == before


@pytest.mark.parametrize("name", TARGETS)
def test_bad_targets(place, capsys, name):
    prepare, sentence = TARGETS[name]
    if prepare:
        prepare(place)
    target = "t.vcf.gz" if (place / "t.vcf.gz").exists() else "t.vcf"
    words = ["impute", target, "-r", "panel.h5", "-o", "o.vcf.gz", "--excluded", "x.tsv"]
    assert_refused(words, sentence, capsys, place)


def imputed(place, fields, value, *, number=".", kind="Float", info="IMP"):
    """``i.vcf``: the target's records with ``fields``, one value for all; DR2 is of type kind."""
    head, records = target_lines(place)
    head[-1:-1] = [
        '##INFO=<ID=IMP,Number=0,Type=Flag,Description="Imputed">',
        f'##INFO=<ID=DR2,Number=1,Type={kind},Description="Quality">',
        f'##FORMAT=<ID=DS,Number=1,Type={kind},Description="Dosage">',
        f'##FORMAT=<ID=GP,Number={number},Type=Float,Description="Probabilities">',
    ]
    rows = ["\t".join([*x.split("\t")[:7], info, fields, *[value] * 3]) for x in records]
    (place / "i.vcf").write_text("\n".join([*head, *rows]) + "\n")


def truth_without_calls(place):
    imputed(place, "DS", "1")
    rewrite(place, [re.sub(r"\d\|\d", ".|.", x) for x in target_lines(place)[1]])


def everything_observed(place):
    imputed(place, "DS", "1")
    # Sites of the panel are 100 bp apart.
    (place / "all.txt").write_text("".join(f"20\t{100 + 100 * i}\n" for i in range(N_SITES)))


def several_alleles(place):
    imputed(place, "DS", "1")
    text = (place / "i.vcf").read_text().replace("\tA\tC\t", "\tA\tC,G\t")
    (place / "i.vcf").write_text(text)


_OF_TYPE = r"i\.vcf: record 20:\d+: .*another type or number of values"
IMPUTED = {
    "an allele too many": (lambda p: imputed(p, "GT", "0|2"), r"20:\d+: sample T0 has allele 2"),
    "dosage as text": (lambda p: imputed(p, "DS", "x1", kind="String"), _OF_TYPE),
    "quality as text": (
        lambda p: imputed(p, "GT", "0|1", kind="String", info="IMP;DR2=x"),
        _OF_TYPE,
    ),
    "one probability": (lambda p: imputed(p, "GP", ".5"), _OF_TYPE),
    "four probabilities": (lambda p: imputed(p, "GP", ".1,.2,.3,.4"), _OF_TYPE),
    "no probability": (
        lambda p: imputed(p, "DS:GP", "1:-3,-.1,-2"),
        r"20:\d+:A:C has genotype probability -3, outside 0 to 1",
    ),
    "no number": (lambda p: imputed(p, "DS", "x"), r"i\.vcf: damaged after record 0"),
    "several ALT": (several_alleles, "120 records without just one ALT were passed over"),
    "truth without calls": (truth_without_calls, r"t\.vcf: all genotypes .* are missing"),
    "everything observed": (everything_observed, r"all\.txt: names every site of the panel"),
}


@pytest.mark.parametrize("name", IMPUTED)
def test_bad_imputed_files(place, capsys, name):
    prepare, sentence = IMPUTED[name]
    prepare(place)
    truth = "t.vcf" if (place / "t.vcf").exists() else "truth.vcf"
    words = ["evaluate", "i.vcf", truth, "-r", "panel.h5", "--per-site", "s.tsv"]
    if (place / "all.txt").exists():
        words += ["--observed", "all.txt"]
    assert_refused(words, sentence, capsys, place)


def test_observed_sites_of_another_chromosome_are_told(place, caplog):
    (place / "o.txt").write_text("21\t100\n")
    target = place / "target.vcf"
    found = evaluate(target, target, place / "panel.h5", observed=place / "o.txt")
    assert found.all.n_sites == N_SITES // 10
    assert "o.txt: names no site of the panel: all are scored" in caplog.text


def test_what_a_run_folder_is_not_is_told(place, capsys):
    words = ["impute", "target.vcf", "-r", "panel.h5", "-o", "o.vcf.gz", "-m"]
    assert_refused([*words, "none"], "none: no such run folder", capsys, place)
    assert_refused([*words, "."], r"\.: holds no config\.json", capsys, place)


def later_version(place):
    shutil.copy(place / "panel.h5", place / "p.h5")
    with h5py.File(place / "p.h5", "r+") as file:
        file.attrs["format_version"] = 2


PANELS = {
    "missing": (None, r"p\.h5: no such panel file"),
    "of a later version": (later_version, "'snvrag-panel' version 2, not 'snvrag-panel' version 1"),
    "a folder": (lambda p: (p / "p.h5").mkdir(), r"p\.h5: is a folder"),
    "a VCF": (lambda p: shutil.copy(p / "target.vcf.gz", p / "p.h5"), "not a readable HDF5"),
    "other HDF5": (lambda p: h5py.File(p / "p.h5", "w").close(), "format None"),
    "cut short": (
        lambda p: (p / "p.h5").write_bytes((p / "panel.h5").read_bytes()[:9000]),
        r"p\.h5: ",
    ),
}


@pytest.mark.parametrize("command", ["impute", "evaluate"])
@pytest.mark.parametrize("name", PANELS)
def test_bad_panels(place, capsys, name, command):
    prepare, sentence = PANELS[name]
    if prepare:
        prepare(place)
    words = ["impute", "target.vcf", "-r", "p.h5", "-o", "o.vcf.gz"]
    if command == "evaluate":
        (place / "seen.txt").write_text("20 1000\n")
        words = ["evaluate", "truth.vcf", "truth.vcf", "-r", "p.h5", "--observed", "seen.txt"]
        sentence = sentence.replace("no such panel file", "no such file")
    assert_refused(words, sentence, capsys, place)


MAPS = {
    "missing": (None, "cannot be read"),
    "empty": ("", "is empty"),
    "of another chromosome": ("21 . 1.0 1000\n", "has no chromosome 20"),
    "unsorted": ("20 . 2.0 2000\n20 . 1.0 1000\n", "line 2: position or cM is smaller"),
    "not a map": ("some words\n", "map: "),
}


@pytest.mark.parametrize("name", MAPS)
def test_bad_maps(place, capsys, name):
    text, sentence = MAPS[name]
    if text is not None:
        (place / "map").write_text(text)
    words = ["impute", "target.vcf", "-r", "panel.h5", "-o", "o.vcf.gz", "--map", "map"]
    assert_refused(words, sentence, capsys, place)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--region", "chr20"], "has no chromosome 'chr20'"),
        (["--region", "20:1-5"], "no panel site lies in 20:1-5"),
        (["--region", "20:9-5"], "ends before it starts"),
        (["--max-memory", "30M"], "one window with its flanks needs about"),
        (["--max-memory", "much"], "is not an amount of memory"),
        (["--min-overlap", "2"], "min-overlap"),
        (["--excluded", "no/x.tsv"], "the folder no does not exist"),
        (["--work-dir", "panel.h5"], "the folder cannot be created"),
        (["-o", "no/o.vcf.gz"], "the folder no does not exist"),
        (["-o", "o.vcf"], r"must end in \.vcf\.gz or \.bcf"),
        (["-o", "target.vcf.gz"], "target.vcf.gz exists already"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_bad_options(place, capsys, words, sentence):
    assert_refused(
        ["impute", "target.vcf", "-r", "panel.h5", "-o", "o.vcf.gz", *words],
        sentence,
        capsys,
        place,
    )


def test_chr20_and_20_are_one_name_either_way(place):
    panel = (place / "target.vcf").read_text()
    prefixed = panel.replace("ID=20", "ID=chr20").replace("\n20\t", "\nchr20\t")
    (place / "p.vcf").write_text(prefixed.replace("\tT", "\tP"))
    convert(place / "p.vcf", place / "chr.h5")
    report = impute(place / "target.vcf", place / "chr.h5", place / "o.vcf.gz")
    assert report.matched == len(target_lines(place)[1])
    reader = DosageReader(place / "o.vcf.gz")
    assert reader.contigs == ["chr20"]
    reader.close()


@pytest.mark.external
@pytest.mark.parametrize("kind", ["none", "tbi", "csi", "stale"])
@pytest.mark.parametrize("suffix", ["vcf.gz", "bcf"])
def test_any_index_of_the_target_will_do_and_none_is_needed(case, tmp_path, kind, suffix):
    if shutil.which("bcftools") is None:
        pytest.skip("bcftools is not installed")
    target = tmp_path / f"t.{suffix}"
    out = "-Ob" if suffix == "bcf" else "-Oz"
    subprocess.run(["bcftools", "view", out, "-o", target, case / "target.vcf"], check=True)
    if kind == "stale":
        Path(f"{target}.csi").write_bytes(b"not an index")
    elif kind == "csi" or (kind == "tbi" and suffix == "vcf.gz"):
        subprocess.run(
            ["bcftools", "index", "--csi" if kind == "csi" else "-t", target], check=True
        )
    report = impute(target, case / "panel.h5", tmp_path / "o.vcf.gz")
    assert report.matched == N_SITES // 10
    plain = impute(case / "target.vcf", case / "panel.h5", tmp_path / "p.vcf.gz")
    assert plain.matched == report.matched
    assert (tmp_path / "o.vcf.gz").read_bytes() == (tmp_path / "p.vcf.gz").read_bytes()


@pytest.fixture
def mounted(tmp_path):
    """Mount a small tmpfs on a folder; the test is skipped where that is not allowed."""
    folder = tmp_path / "mount"
    folder.mkdir()
    made = []

    def mount(options):
        if not made and (os.geteuid() != 0 or shutil.which("mount") is None):
            pytest.skip("mounting needs root")
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not allowed here")
        made.append(folder)
        return folder

    yield mount
    for path in made:
        subprocess.run(["umount", str(path)], check=True)


def test_a_read_only_folder_is_told_before_the_work(place, mounted, capsys):
    folder = mounted("ro")
    words = ["impute", "target.vcf", "-r", "panel.h5"]
    assert_refused([*words, "-o", f"{folder}/o.vcf.gz"], "Read-only file system", capsys, place)
    more = ["-o", "o.vcf.gz", "--work-dir", f"{folder}/work"]
    assert_refused([*words, *more], "mount/work: the folder cannot be created", capsys, place)


def test_free_space_is_checked_on_a_real_disk(place, mounted, capsys):
    folder = mounted("size=16k")
    words = ["impute", "target.vcf", "-r", "panel.h5"]
    assert_refused([*words, "-o", f"{folder}/o.vcf.gz"], r"MB are free, about", capsys, place)


@pytest.mark.parametrize("name", ["o.vcf.gz", "o.bcf"])
def test_a_disk_that_fills_up_while_writing_is_named_and_left_clean(
    case, tmp_path, mounted, monkeypatch, name
):
    folder = mounted("size=16k")
    monkeypatch.setattr(imputation, "check_space", lambda *_: None)
    work = tmp_path / "work"
    with pytest.raises(OutputError, match=rf"{name}: cannot be written \(No space left"):
        impute(case / "target.vcf", case / "panel.h5", folder / name, work_dir=work)
    assert list(folder.iterdir()) == []
    # What was computed is kept: with space, the same command only has to write.
    assert len(list(work.glob("part-*.npy"))) == 1
    report = impute(case / "target.vcf", case / "panel.h5", tmp_path / name, work_dir=work)
    assert report.reused == 1


def test_a_disk_that_fills_up_under_the_parts_is_named_and_left_clean(
    case, tmp_path, mounted, monkeypatch
):
    folder = mounted("size=12k")
    monkeypatch.setattr(imputation, "check_space", lambda *_: None)
    with pytest.raises(OutputError, match=r"part-00000\.npy: cannot be written") as caught:
        impute(
            case / "target.vcf",
            case / "panel.h5",
            tmp_path / "o.vcf.gz",
            work_dir=folder / "work",
        )
    assert "free space" in caught.value.hint
    assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


def test_two_runs_on_one_work_directory(case, tmp_path):
    words = (case / "target.vcf", case / "panel.h5")
    second = []

    def start_another(task, done, total):
        if task == "writing" and not second:
            with pytest.raises(MismatchError, match=f"in use by process {os.getpid()}") as caught:
                impute(*words, tmp_path / "b.vcf.gz", work_dir=tmp_path / "work")
            second.append(caught.value.hint)

    impute(*words, tmp_path / "a.vcf.gz", work_dir=tmp_path / "work", progress=start_another)
    assert "--work-dir" in second[0]
    assert not (tmp_path / "b.vcf.gz").exists()
    assert impute(*words, tmp_path / "b.vcf.gz", work_dir=tmp_path / "work").reused == 1
    assert (tmp_path / "a.vcf.gz").read_bytes() == (tmp_path / "b.vcf.gz").read_bytes()


SLOW = """
import sys, time
from snvrag import chunks, impute_chunks
from snvrag.cli.entry import main
chunks._FLANK_CM = 0.04
chunks._CORE_WINDOWS = 1
whole = impute_chunks.write_part
def slow(path, result):
    whole(path, result)
    time.sleep({pause})
impute_chunks.write_part = slow
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_half_way_the_same_command_goes_on(place, number):
    words = ["impute", "target.vcf", "-r", "panel.h5", "-o", "o.vcf.gz"]

    def start(pause, output="o.vcf.gz"):
        return subprocess.Popen(
            [sys.executable, "-c", SLOW.format(pause=pause), *words[:-1], output],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first = start(60)
    part = place / "o.vcf.gz.work" / "part-00000.npy"
    deadline = time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(number)
    _, err = first.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert first.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert "o.vcf.gz.work keeps what is done: the same command goes on from there" in err
        assert err.rstrip().endswith("interrupted")
        assert "Traceback" not in err
    assert not (place / "o.vcf.gz").exists()
    second = start(0)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "(1 from an earlier run)" in out
    assert sorted(p.name for p in place.glob("o.vcf.gz*")) == ["o.vcf.gz", "o.vcf.gz.tbi"]
    third = start(0, "whole.vcf.gz")
    third.communicate(timeout=60)
    assert third.returncode == 0
    assert (place / "o.vcf.gz").read_bytes() == (place / "whole.vcf.gz").read_bytes()


def test_changed_input_is_not_mixed_with_old_parts(case, tmp_path):
    lines = (case / "target.vcf").read_text().splitlines()
    (tmp_path / "t.vcf").write_text("\n".join(lines) + "\n")
    words = (tmp_path / "t.vcf", case / "panel.h5", tmp_path / "o.vcf.gz")
    impute(*words, work_dir=tmp_path / "work")
    for name in ("o.vcf.gz", "o.vcf.gz.tbi"):
        (tmp_path / name).unlink()
    (tmp_path / "t.vcf").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(MismatchError, match="another run \\(target differs\\)"):
        impute(*words, work_dir=tmp_path / "work")


def test_a_damaged_part_is_refused_not_written(case, tmp_path):
    work = tmp_path / "work"
    impute(case / "target.vcf", case / "panel.h5", tmp_path / "a.vcf.gz", work_dir=work)
    (part,) = work.glob("part-*.npy")
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(MismatchError, match=r"part-00000\.npy: is damaged") as caught:
        impute(case / "target.vcf", case / "panel.h5", tmp_path / "b.vcf.gz", work_dir=work)
    assert "remove" in caught.value.hint
    assert not (tmp_path / "b.vcf.gz").exists()


def test_the_header_says_how_every_figure_was_made(case, tmp_path):
    impute(case / "target.vcf", case / "panel.h5", tmp_path / "o.vcf.gz", hds=True)
    text = gzip.decompress((tmp_path / "o.vcf.gz").read_bytes()).decode()
    header = {
        found[1]: line
        for line in text.splitlines()
        if (found := re.match(r"##(?:INFO|FORMAT)=<ID=(\w+)", line))
    }
    assert set(header) == {"AF", "DR2", "CR2", "IMP", "GT", "DS", "GP", "HDS"}
    assert "E[cov^2]/(var(HDS)E[var(true)])" in header["CR2"]
    assert "var(HDS)/(p(1-p))" in header["DR2"]
    assert "(1-p)(1-q), p(1-q)+q(1-p), pq" in header["GP"]
    assert re.search(r"^##snvrag_panel=panel\.h5 digest [0-9a-f]{64}$", text, re.MULTILINE)


def test_every_site_of_the_panel_comes_once_whatever_the_chunks(case, tmp_path, monkeypatch):
    from snvrag import chunks

    monkeypatch.setattr(chunks, "_FLANK_CM", 0.04)
    monkeypatch.setattr(chunks, "_CORE_WINDOWS", 1)
    report = impute(case / "target.vcf", case / "panel.h5", tmp_path / "o.vcf.gz")
    assert report.chunks == 3
    reader = DosageReader(tmp_path / "o.vcf.gz")
    positions = [record.site[1] for record in reader]
    reader.close()
    assert positions == (100 + 100 * np.arange(N_SITES)).tolist()


def test_the_space_needed_counts_parts_and_output(tmp_path, monkeypatch):
    asked = []
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(path):
        asked.append(Path(path))
        return usage._replace(free=6 * 1000 * 50 - 1)

    monkeypatch.setattr(workdir.shutil, "disk_usage", disk_usage)
    with pytest.raises(OutputError, match="are needed"):
        workdir.check_space(tmp_path / "work", tmp_path / "o.vcf.gz", 1000, 50)
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: usage._replace(free=6 * 1000 * 50))
    workdir.check_space(tmp_path / "work", tmp_path / "o.vcf.gz", 1000, 50)
    assert asked[0] == tmp_path


def test_the_space_of_one_disk_is_one_sum_less_the_parts_that_are_there(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    work, output = tmp_path / "a" / "work", tmp_path / "b" / "o.vcf.gz"
    output.parent.mkdir()

    def check(free):
        monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: usage._replace(free=free))
        workdir.check_space(work, output, 1000, 50)

    check(6 * 1000 * 50)
    with pytest.raises(OutputError, match="are needed"):
        check(6 * 1000 * 50 - 1)
    work.mkdir(parents=True)
    (work / "part-00000.npy").write_bytes(bytes(40_000))
    check(6 * 1000 * 50 - 40_000)
    (work / "part-00001.npy").write_bytes(bytes(80_000))
    check(4 * 1000 * 50)
    with pytest.raises(OutputError, match="are needed"):
        check(4 * 1000 * 50 - 1)
