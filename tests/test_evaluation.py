import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers_vcf import write_vcf_rows

from snvrag.cli.app import run as run_command
from snvrag.conversion import convert
from snvrag.errors import InputError, UsageError
from snvrag.evaluation import evaluate, per_site_r2
from snvrag.imputation import impute

TRUTH = [
    "20 100 A C 0|1 1|1 0|0 0|1",
    "20 200 A C 0|0 0|1 0|0 0|0",
    "20 300 A C 1|1 1|1 0|1 1|1",
    "20 400 A C 0|1 0|0 0|0 1|1",
]
PEOPLE = ["A", "B", "C", "D"]


@pytest.fixture
def small(tmp_path):
    write_vcf_rows(tmp_path / "truth.vcf", TRUTH, PEOPLE)
    convert(tmp_path / "truth.vcf", tmp_path / "panel.h5")
    (tmp_path / "observed.txt").write_text("#CHROM\tPOS\n20\t100\n")
    return tmp_path


def test_truth_against_itself_is_one_everywhere(small):
    truth, panel = small / "truth.vcf", small / "panel.h5"
    found = evaluate(truth, truth, panel, observed=small / "observed.txt")
    assert found.all.n_sites == 3
    for group in [*found.bins, found.all]:
        if group.n_sites:
            assert group.aggregate_r2 == pytest.approx(1.0)
            assert group.mean_site_r2 == pytest.approx(1.0)
            assert group.nonref_concordance == group.nonmajor_concordance == group.concordance == 1
    assert all(s.concordance == 1.0 for s in found.samples)
    assert all(c.predicted == pytest.approx(c.observed) for c in found.calibration)


def test_what_was_measured_must_be_known(small):
    truth = small / "truth.vcf"
    with pytest.raises(UsageError, match="marks no site") as caught:
        evaluate(truth, truth, small / "panel.h5")
    assert "--observed" in caught.value.hint


def test_missing_sites_samples_and_duplicates_are_errors(small):
    truth, panel, observed = small / "truth.vcf", small / "panel.h5", small / "observed.txt"
    less = write_vcf_rows(small / "less.vcf", TRUTH[:3], PEOPLE)
    with pytest.raises(InputError, match="lacks the masked site 20:400:A:C"):
        evaluate(less, truth, panel, observed=observed)
    other = write_vcf_rows(small / "other.vcf", TRUTH, ["A", "B", "C", "Z"])
    with pytest.raises(InputError, match="no sample Z"):
        evaluate(other, truth, panel, observed=observed)
    twice = write_vcf_rows(small / "twice.vcf", [*TRUTH, TRUTH[3]], PEOPLE)
    with pytest.raises(InputError, match="more than one record"):
        evaluate(twice, truth, panel, observed=observed)
    (small / "bad.txt").write_text("20 x\n")
    with pytest.raises(InputError, match=r"bad\.txt, line 1"):
        evaluate(truth, truth, panel, observed=small / "bad.txt")


def test_site_r2_matches_numpy():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, (20, 15)).astype(float)
    dosage = truth * 0.5 + generator.random((20, 15))
    truth[3] = 1.0
    dosage[4] = 0.7
    found = per_site_r2(truth, dosage, np.ones((20, 15), dtype=bool))
    assert np.isnan(found[3])
    assert found[4] == 0.0
    for row in (0, 1, 2, 5):
        assert found[row] == pytest.approx(np.corrcoef(truth[row], dosage[row])[0, 1] ** 2)


def test_command_line_tables_json_and_figure(small, capsys):
    truth = str(small / "truth.vcf")
    words = ["evaluate", truth, truth, truth, "-r", str(small / "panel.h5")]
    words += ["--observed", str(small / "observed.txt"), "--label", "one", "--label", "two"]
    assert run_command([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [e["label"] for e in data["evaluations"]] == ["one", "two"]
    assert set(data["evaluations"][0]["bins"][0]) >= {
        *("low", "high", "n_sites", "n_genotypes", "aggregate_r2", "mean_site_r2"),
        "nonref_concordance",
    }
    plot, sites = small / "p.png", small / "s.tsv"
    assert run_command([*words, "--plot", str(plot), "--per-site", str(sites)]) == 0
    out = capsys.readouterr().out
    assert "one: 4 samples" in out
    assert plot.read_bytes().startswith(b"\x89PNG")
    rows = sites.read_text().splitlines()
    assert rows[0].startswith("label\tCHROM\tPOS")
    assert len(rows) == 1 + 2 * 3
    assert run_command([*words, "--label", "three"]) == 2
    assert "3 labels for 2" in capsys.readouterr().err
    assert run_command(["evaluate", truth, "-r", str(small / "panel.h5")]) == 2


@pytest.fixture(scope="module")
def dev_run(tmp_path_factory):
    """Real data imputed without a model, by pattern."""
    from conftest import DEV

    if not DEV.is_dir():
        pytest.skip(f"real data not found at {DEV}")
    folder = tmp_path_factory.mktemp("dev")
    convert(DEV / "panel.vcf.gz", folder / "panel.h5")
    for name in ("array", "random10", "random50"):
        impute(
            DEV / f"target.{name}.vcf.gz",
            folder / "panel.h5",
            folder / f"{name}.vcf.gz",
            genetic_map=DEV.parent / "map.plink.map",
        )
    return folder


@pytest.mark.parametrize("name", ["array", "random10", "random50"])
def test_agrees_with_the_reference_scorer_and_reaches_the_rivals(dev_run, dev_folder, name):
    """Bar: Minimac4's best setting and Beagle with map, less the issue's tolerances."""
    scorer = dev_folder.parent.parent / "evaluate.py"
    command = [sys.executable, str(scorer), "--truth", str(dev_folder / "truth.vcf.gz")]
    command += ["--imputed", str(dev_run / f"{name}.vcf.gz"), "--quiet"]
    command += ["--panel", str(dev_folder / "panel.vcf.gz"), "--json", str(dev_run / "s.json")]
    command += ["--observed", str(dev_folder / f"sites.{name}.txt")]
    subprocess.run(command, check=True)
    scored = json.loads((dev_run / "s.json").read_text())
    found = evaluate(dev_run / f"{name}.vcf.gz", dev_folder / "truth.vcf.gz", dev_run / "panel.h5")
    bins = list(scored["bins"].values())
    for ours, theirs in zip(found.bins, bins, strict=True):
        assert ours.n_sites == theirs["n_sites"]
        assert ours.aggregate_r2 == pytest.approx(theirs["r2_agg"], abs=1e-6)
        assert ours.mean_site_r2 == pytest.approx(theirs["r2_site"], abs=1e-6)
        assert ours.nonref_concordance == pytest.approx(theirs["nrc"], abs=1e-6)
        assert ours.nonmajor_concordance == pytest.approx(theirs["nmc"], abs=1e-6)
    assert found.all.aggregate_r2 == pytest.approx(scored["all"]["r2_agg"], abs=1e-6)
    peers = json.loads((dev_folder.parent.parent / "peers.json").read_text())
    methods = peers["splits"]["chr20/dev"]["targets"][name]["methods"]
    tolerances = (0.02, 0.02, 0.01, 0.005, 0.005, 0.005, 0.005)
    for rival in ("minimac4.mapNe", "beagle.map"):
        bars = [v["r2_agg"] for k, v in methods[rival]["bins"].items() if k.startswith("(")]
        for ours, bar, tolerance in zip(found.bins, bars, tolerances, strict=True):
            assert ours.aggregate_r2 >= bar - tolerance, (rival, ours.low, ours.aggregate_r2, bar)


@pytest.mark.external
@pytest.mark.slow
def test_scores_of_minimac4_equal_the_reference_scorers(dev_folder, tmp_path):
    if shutil.which("minimac4") is None:
        pytest.skip("minimac4 is not installed")
    panel = tmp_path / "panel.msav"
    source = str(dev_folder / "panel.vcf.gz")
    subprocess.run(
        ["minimac4", "--compress-reference", source, "-o", str(panel)],
        check=True,
        capture_output=True,
    )
    out = tmp_path / "m.vcf.gz"
    target = str(dev_folder / "target.array.vcf.gz")
    command = ["minimac4", str(panel), target, "-o", str(out), "-O", "vcf.gz", "-f", "GT,HDS,DS,GP"]
    subprocess.run(command, check=True, capture_output=True)
    spec = importlib.util.spec_from_file_location(
        "scorer", dev_folder.parent.parent / "evaluate.py"
    )
    assert spec is not None
    scorer = str(dev_folder.parent.parent / "evaluate.py")
    command = [sys.executable, scorer, "--truth", str(dev_folder / "truth.vcf.gz"), "--quiet"]
    command += ["--imputed", str(out), "--panel", source, "--json", str(tmp_path / "s.json")]
    command += ["--observed", str(dev_folder / "sites.array.txt")]
    subprocess.run(command, check=True)
    scored = json.loads((tmp_path / "s.json").read_text())
    convert(dev_folder / "panel.vcf.gz", tmp_path / "panel.h5")
    found = evaluate(out, dev_folder / "truth.vcf.gz", tmp_path / "panel.h5")
    for ours, theirs in zip(found.bins, scored["bins"].values(), strict=True):
        assert ours.aggregate_r2 == pytest.approx(theirs["r2_agg"], abs=1e-6)
