"""``merge``: batches of samples give the file that one run of all samples gives."""

import gzip
import json
import shutil
import subprocess

import cyvcf2
import numpy as np
import pytest
from conftest import mosaic, write_vcf
from helpers_vcf import bgzip

from snvrag import merging
from snvrag.cli.app import run as run_command
from snvrag.conversion import convert
from snvrag.errors import InputError, MismatchError, OutputError, UsageError
from snvrag.imputation import impute
from snvrag.merging import merge
from snvrag.vcf import SampleSelection

N_SITES = 700
BATCHES = (("T0", "T3", "T4"), ("T1",), ("T2", "T5", "S7"))
ALL = [name for batch in BATCHES for name in batch]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Batches and the whole of a target with a haploid sample, missing calls and one of the panel.

    ``chr20`` and ``21`` in one file.
    """
    folder = tmp_path_factory.mktemp("merge")
    alleles = mosaic(53, N_SITES, founders=8, switch_rate=0.004)
    chroms = ["chr20"] * 400 + ["21"] * 300
    write_vcf(folder / "panel.vcf", alleles[:40], chroms=chroms, spacing=100)
    convert(folder / "panel.vcf", folder / "panel.h5")
    ploidies = [2, 2, 1, 2, 2, 2, 2]
    path = write_vcf(folder / "t.vcf", alleles[40:], chroms=chroms, ploidies=ploidies, spacing=100)
    lines = path.read_text().replace("\tS", "\tT").replace("\tT6", "\tS7").splitlines()
    head = [x for x in lines if x.startswith("#")]
    rows = [x.split("\t") for x in lines[len(head) :: 7]]
    # Typed in one batch, in none, and in all but one.
    for row, samples in ((3, range(1, 7)), (5, range(7)), (8, [1])):
        for sample in samples:
            rows[row][9 + sample] = "." if ploidies[sample] == 1 else ".|."
    path.write_text("\n".join([*head, *map("\t".join, rows)]) + "\n")
    for kind in ("vcf.gz", "bcf"):
        for number, names in enumerate([*BATCHES, tuple(ALL)]):
            for hds in (True, False):
                out = folder / f"{'hds' if hds else 'plain'}{number}.{kind}"
                chosen = SampleSelection(names)
                impute(path, folder / "panel.h5", out, samples=chosen, hds=hds)
    return folder


def batches(case, kind="vcf.gz"):
    return [case / f"hds{i}.{kind}" for i in range(len(BATCHES))]


def text(path):
    return subprocess.run(
        ["bcftools", "view", "--no-version", str(path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.external
@pytest.mark.parametrize("hds", [True, False])
@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_batches_merged_are_the_whole_but_for_the_rounding_of_hds(
    case, tmp_path, monkeypatch, kind, hds
):
    # Blocks that end within a chromosome, and one that spans two.
    monkeypatch.setattr(merging, "_BLOCK_SITES", 150)
    report = merge(batches(case, kind), tmp_path / f"all.{kind}", hds=hds)
    assert (report.n_batches, report.n_samples, report.n_sites) == (3, 7, N_SITES)
    expected = text(case / f"{'hds' if hds else 'plain'}3.{kind}")
    found = text(tmp_path / f"all.{kind}")
    assert len(found) == len(expected)
    seen = {"AF": [], "DR2": [], "CR2": []}
    for line, other in zip(found, expected, strict=True):
        if line.startswith("#"):
            assert line == other
            continue
        ours, theirs = line.split("\t"), other.split("\t")
        assert ours[:7] + ours[8:] == theirs[:7] + theirs[8:]
        assert ours[7].endswith(";IMP") == theirs[7].endswith(";IMP")
        for a, b in zip(ours[7].split(";")[:3], theirs[7].split(";")[:3], strict=True):
            name, value = a.split("=")
            assert b.startswith(f"{name}=")
            seen[name].append((float(value), float(b.split("=")[1])))
    af, expected_af = np.array(seen["AF"]).T
    np.testing.assert_allclose(af, expected_af, atol=0.0006)
    common = np.minimum(expected_af, 1 - expected_af) > 0.02
    assert common.sum() > 200
    for name in ("DR2", "CR2"):
        values = np.array(seen[name])[common]
        np.testing.assert_allclose(values[:, 0], values[:, 1], atol=0.03)
        assert np.abs(values[:, 0] - values[:, 1]).mean() < 0.002


@pytest.mark.external
@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_the_index_finds_every_record(case, tmp_path, kind):
    merge(batches(case, kind), tmp_path / f"all.{kind}")
    found = {}
    for command in (["-s"], ["-n"]):
        done = subprocess.run(
            ["bcftools", "index", *command, str(tmp_path / f"all.{kind}")],
            capture_output=True,
            text=True,
            check=True,
        )
        found[command[0]] = done.stdout
    assert found["-n"].strip() == str(N_SITES)
    assert [line.split("\t")[0::2] for line in found["-s"].splitlines()] == [
        ["chr20", "400"],
        ["21", "300"],
    ]
    reader = cyvcf2.VCF(str(tmp_path / f"all.{kind}"))
    assert [record.POS for record in reader("21:50000-50400")] == [
        50000 + 100 * i for i in range(5)
    ]


@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_merged_batches_can_be_merged_again_and_one_batch_is_itself(case, tmp_path, kind):
    first, second, third = batches(case, kind)
    merge([first, second], tmp_path / f"two.{kind}", hds=True)
    merge([tmp_path / f"two.{kind}", third], tmp_path / f"all.{kind}", hds=True)
    merge([first, second, third], tmp_path / f"at-once.{kind}", hds=True)
    assert (tmp_path / f"all.{kind}").read_bytes() == (tmp_path / f"at-once.{kind}").read_bytes()
    merge([second], tmp_path / f"one.{kind}", hds=True)
    whole, alone = cyvcf2.VCF(str(second)), cyvcf2.VCF(str(tmp_path / f"one.{kind}"))
    for ours, theirs in zip(alone, whole, strict=True):
        np.testing.assert_array_equal(ours.format("HDS"), theirs.format("HDS"))
        assert bool(ours.INFO.get("IMP")) == bool(theirs.INFO.get("IMP"))


def changed(path, output, change):
    """A copy of a VCF.gz, its lines changed."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    output.write_bytes(bgzip(("\n".join(change(lines)) + "\n").encode()))
    return output


def replaced(number, old, new):
    def change(lines):
        start = next(i for i, line in enumerate(lines) if not line.startswith("#"))
        lines = list(lines)
        assert old in lines[start + number]
        lines[start + number] = lines[start + number].replace(old, new, 1)
        return lines

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:-2], r"b\.vcf\.gz: has no more records where .*hds0\.vcf\.gz has 21:69900"),
        (lambda x: [*x, x[-1].replace("21\t70000", "21\t70100")], r"hds0\.vcf\.gz: has no more"),
        (replaced(2, "\t300\t", "\t301\t"), r"b\.vcf\.gz: has chr20:301 where .* has chr20:300"),
        (replaced(2, "\tA\tC\t", "\tA\tG\t"), r"has other alleles or another ID at chr20:300"),
        (lambda x: [y.replace("digest ", "digest 0") for y in x], "its header has '##snvrag_panel"),
        (lambda x: [y for y in x if "##contig=<ID=21" not in y], r"its header has"),
    ],
)
def test_batches_that_do_not_agree_are_refused_with_the_first_difference(
    case, tmp_path, change, message
):
    other = changed(case / "hds1.vcf.gz", tmp_path / "b.vcf.gz", change)
    with pytest.raises(MismatchError, match=message) as caught:
        merge([case / "hds0.vcf.gz", other], tmp_path / "o.vcf.gz")
    assert "same panel" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.vcf.gz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(2, "GT:DS:GP:HDS", "GT:DS:GP"), "record chr20:300 is not as impute writes it"),
        (replaced(2, ":HDS\t", ":HDS\t0|0\t"), "record chr20:300 is not as impute"),
        (replaced(2, "GT:DS:GP:HDS\t0", "GT:DS:GP:HDS\t0:0:0:0:0"), "record chr20:300 is not"),
        (lambda x: [y.replace("ID=CR2", "ID=CR3") for y in x], "the header is not as impute"),
        (lambda x: [y for y in x if "=<ID=HDS" not in y], "has no haplotype dosages"),
    ],
)
def test_what_impute_did_not_write_is_refused_with_the_record(case, tmp_path, change, message):
    other = changed(case / "hds1.vcf.gz", tmp_path / "b.vcf.gz", change)
    with pytest.raises(InputError, match=message) as caught:
        merge([case / "hds0.vcf.gz", other], tmp_path / "o.vcf.gz")
    assert "--hds" in caught.value.hint


@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_batches_without_hds_are_refused_with_the_remedy(case, tmp_path, kind):
    with pytest.raises(InputError, match=r"plain1\..*: has no haplotype dosages") as caught:
        merge([case / f"hds0.{kind}", case / f"plain1.{kind}"], tmp_path / f"o.{kind}")
    assert caught.value.hint == "impute the batch again with --hds"


@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_a_damaged_batch_is_told_and_nothing_is_written(case, tmp_path, kind):
    data = bytearray((case / f"hds1.{kind}").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / f"b.{kind}").write_bytes(data)
    with pytest.raises(InputError, match=r"b\..*: (damaged after|.* is not as impute)"):
        merge([case / f"hds0.{kind}", tmp_path / f"b.{kind}"], tmp_path / f"o.{kind}")
    (tmp_path / f"b.{kind}").write_bytes(data[:-40])
    with pytest.raises(InputError, match="truncated"):
        merge([case / f"hds0.{kind}", tmp_path / f"b.{kind}"], tmp_path / f"o.{kind}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"b.{kind}"]


def test_batches_without_a_record(case, tmp_path):
    """Such as are left when all sites were filtered out of them."""
    first, second = (
        changed(path, tmp_path / path.name, lambda x: [y for y in x if y.startswith("#")])
        for path in batches(case)[:2]
    )
    report = merge([first, second], tmp_path / "o.vcf.gz")
    assert (report.n_samples, report.n_sites) == (4, 0)
    lines = gzip.decompress((tmp_path / "o.vcf.gz").read_bytes()).decode().splitlines()
    assert lines[-1].split("\t")[9:] == ["T0", "T3", "T4", "T1"]
    with pytest.raises(MismatchError, match=r"hds1.*: has no more records where .*hds0"):
        merge([batches(case)[0], second], tmp_path / "p.vcf.gz")


@pytest.mark.external
def test_a_bcf_that_bcftools_wrote_anew_is_told_as_such(case, tmp_path):
    other = tmp_path / "b.bcf"
    subprocess.run(["bcftools", "view", "-o", str(other), str(case / "hds1.bcf")], check=True)
    with pytest.raises(InputError, match="the header is not as impute writes it") as caught:
        merge([case / "hds0.bcf", other], tmp_path / "o.bcf")
    assert "before other tools" in caught.value.hint


def test_files_of_no_use_and_outputs_in_the_way(case, tmp_path):
    first, second, _ = batches(case)
    with pytest.raises(InputError, match=r"hds0.*: sample 'T0' is in .*hds0"):
        merge([first, first], tmp_path / "o.vcf.gz")
    with pytest.raises(UsageError, match=r"hds1\.bcf: is BCF, and .*o\.vcf\.gz is not"):
        merge([first, case / "hds1.bcf"], tmp_path / "o.vcf.gz")
    with pytest.raises(UsageError, match=r"is one of the inputs"):
        shutil.copy(first, tmp_path / "a.vcf.gz")
        merge([tmp_path / "a.vcf.gz", second], tmp_path / "a.vcf.gz", force=True)
    with pytest.raises(UsageError, match="no batch"):
        merge([], tmp_path / "o.vcf.gz")
    (tmp_path / "text.vcf.gz").write_bytes(bgzip(b"hello\n"))
    with pytest.raises(InputError, match=r"neither a VCF\.gz nor a BCF"):
        merge([tmp_path / "text.vcf.gz"], tmp_path / "o.vcf.gz")
    (tmp_path / "o.vcf.gz").touch()
    with pytest.raises(OutputError, match="exists already"):
        merge([first, second], tmp_path / "o.vcf.gz")


def test_the_command(case, tmp_path, capsys):
    words = ["merge", *map(str, batches(case)), "-o", str(tmp_path / "o.vcf.gz")]
    assert run_command([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_batches"], found["n_samples"], found["n_sites"]) == (3, 7, N_SITES)
    assert run_command(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert run_command([*words, "--force"]) == 0
    assert "wrote" in capsys.readouterr().out
