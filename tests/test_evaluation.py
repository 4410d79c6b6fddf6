import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_vcf import write_vcf_rows

from snvrag.calibration import GenotypeReliability
from snvrag.cli.app import run as run_command
from snvrag.cli.evaluate import _labels
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
    assert all(c.predicted == pytest.approx(c.observed) for c in found.calibration.bins)
    assert found.calibration.ece == pytest.approx(0.0)
    assert found.gp_calibration is None
    assert found.quality is None


MIXED_PEOPLE = ["A", "B", "C", "D", "E"]
# REF is the minor allele at 100 and 300, ALT at 200; B and D are haploid but for the last record.
MIXED = [
    "X 100 A C 1|1 1 0|1 0 1|1",
    "X 200 A C 0|0 1 0|1 0 0|0",
    "X 300 A C 1|1 0 1|1 1 1|1",
    "X 400 A C 1|1 1|1 0|1 1|1 1|1",
]


@pytest.fixture
def mixed(tmp_path):
    """Truth of mixed ploidy, and a panel of the same frequencies."""
    write_vcf_rows(tmp_path / "truth.vcf", MIXED, MIXED_PEOPLE, ("X",))
    panel = ["X 100 A C 1|1 0|1", "X 200 A C 0|0 0|1", "X 300 A C 1|1 0|1", "X 400 A C 1|1 0|1"]
    write_vcf_rows(tmp_path / "panel.vcf", panel, ["P", "Q"], ("X",))
    convert(tmp_path / "panel.vcf", tmp_path / "panel.h5")
    (tmp_path / "observed.txt").write_text("X\t1\n")
    return tmp_path


def scored(folder, imputed):
    observed = folder / "observed.txt"
    return evaluate(imputed, folder / "truth.vcf", folder / "panel.h5", observed=observed)


def test_mixed_ploidy_truth_against_itself_is_one(mixed):
    found = scored(mixed, mixed / "truth.vcf")
    assert found.all.n_sites == 4
    for figures in (found.all, *found.samples[1:4]):
        assert figures.nonmajor_concordance == figures.concordance == 1.0
    assert found.all.aggregate_r2 == found.all.mean_site_r2 == pytest.approx(1.0)
    assert found.calibration.ece == pytest.approx(0.0)


def test_the_major_allele_everywhere_never_agrees_at_minor_ones(mixed):
    guess = [
        *("X 100 A C 1|1 1 1|1 1 1|1", "X 200 A C 0|0 0 0|0 0 0|0"),
        *("X 300 A C 1|1 1 1|1 1 1|1", "X 400 A C 1|1 1|1 1|1 1|1 1|1"),
    ]
    found = scored(mixed, write_vcf_rows(mixed / "i.vcf", guess, MIXED_PEOPLE, ("X",)))
    assert found.all.nonmajor_concordance == 0.0
    # Of 20 genotypes 6 carry the panel's minor allele.
    assert found.all.concordance == pytest.approx(14 / 20)
    # Per haplotype: .5 for the three diploid ones, 1 for the three haploid ones.
    assert found.calibration.ece == pytest.approx((3 * 0.5 + 3 * 1.0) / 20)


def test_haploid_probabilities_count_as_homozygous(mixed):
    text = (mixed / "truth.vcf").read_text().replace("\tGT", "\tGP").replace("ID=GT", "ID=GP")
    text = text.replace("Number=1,Type=String", "Number=G,Type=Float")
    for call, value in (("1|1", "0,0,1"), ("0|1", "0,1,0"), ("0|0", "1,0,0")):
        text = text.replace(f"\t{call}", f"\t{value}")
    for call, value in (("0", "1,0"), ("1", "0,1")):
        text = re.sub(rf"\t{call}(?=[\t\n])", f"\t{value}", text)
    (mixed / "i.vcf").write_text(text)
    found = scored(mixed, mixed / "i.vcf")
    assert found.all.concordance == 1.0
    genotypes = found.gp_calibration.genotypes
    assert found.gp_calibration.ece == pytest.approx(0.0)
    counts = {k: {b.observed: b.n for b in c.bins} for k, c in genotypes.items()}
    assert counts["hom_minor"] == {0.0: 17, 1.0: 3}
    assert counts["hom_major"] == {0.0: 6, 1.0: 14}
    assert counts["het"] == {0.0: 11, 1.0: 3}


def test_haploid_data_have_a_calibration_error_without_heterozygotes():
    tested = GenotypeReliability()
    probability = np.array([[[0.8, 0.2, 0.0], [0.3, 0.7, 0.0]]])
    truth, ploidy = np.array([[0, 1]], dtype=np.int8), np.ones((1, 2), dtype=np.int8)
    tested.add(probability, ["GP"], truth, ploidy, flip=np.array([False]))
    found = tested.result()
    assert np.isnan(found.genotypes["het"].ece)
    assert found.ece == pytest.approx(0.25)


def test_dosages_alone_take_the_ploidy_of_the_truth(mixed):
    text = (mixed / "truth.vcf").read_text().replace("\tGT", "\tDS").replace("ID=GT", "ID=DS")
    text = text.replace("Type=String", "Type=Float")
    for call, value in (("1|1", "2"), ("0|1", "1"), ("0|0", "0")):
        text = text.replace(f"\t{call}", f"\t{value}")
    (mixed / "i.vcf").write_text(text)
    found = scored(mixed, mixed / "i.vcf")
    assert found.all.nonmajor_concordance == found.all.concordance == 1.0
    assert found.all.aggregate_r2 == pytest.approx(1.0)


def test_another_ploidy_than_in_the_truth_is_refused(mixed):
    other = write_vcf_rows(
        mixed / "i.vcf", [MIXED[0].replace(" 0 ", " 0|0 ")], MIXED_PEOPLE, ("X",)
    )
    with pytest.raises(InputError, match=r"X:100:A:C: sample D has another ploidy than in .*truth"):
        scored(mixed, other)
    three = write_vcf_rows(
        mixed / "i.vcf", [MIXED[0].replace("0|1", "0|1|1")], MIXED_PEOPLE, ("X",)
    )
    with pytest.raises(InputError, match="X:100: sample C has ploidy 3"):
        scored(mixed, three)


def test_all_masked_sites_count_in_the_last_line_and_say_so(small, capsys):
    """As in the scorer beside the real data: sites that the panel has one allele of are in it."""
    rows = ["20 100 A C 0|1 0|0", "20 200 A C 0|1 0|0", "20 300 A C 0|0 0|0"]
    write_vcf_rows(small / "p.vcf", rows, ["P", "Q"])
    convert(small / "p.vcf", small / "p.h5")
    truth, observed = str(small / "truth.vcf"), str(small / "observed.txt")
    words = ["evaluate", truth, truth, "-r", str(small / "p.h5"), "--observed", observed]
    assert run_command(words) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "all, 0 too" in x]
    found = evaluate(*map(Path, (truth, truth, small / "p.h5")), observed=Path(observed))
    assert (sum(b.n_sites for b in found.bins), found.all.n_sites) == (1, 2)
    assert re.search(r"all, 0 too\W+2\b", line)


def test_what_was_measured_must_be_known(small):
    truth = small / "truth.vcf"
    with pytest.raises(UsageError, match="marks no site") as caught:
        evaluate(truth, truth, small / "panel.h5")
    assert "--observed" in caught.value.hint


def test_missing_sites_samples_and_duplicates_are_errors(small):
    truth, panel, observed = small / "truth.vcf", small / "panel.h5", small / "observed.txt"
    less = write_vcf_rows(small / "less.vcf", TRUTH[:3], PEOPLE)
    with pytest.raises(InputError, match="lacks the masked site 20:400:A:C, and 0 more"):
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
    sums = (truth, dosage, truth**2, dosage**2, truth * dosage)
    found = per_site_r2(np.full(20, 15.0), *(x.sum(axis=1) for x in sums))
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
    assert _labels([Path("a/x.vcf.gz"), Path("x.vcf.gz")], None) == ["a/x.vcf.gz", "x.vcf.gz"]
    assert _labels([Path("a/x.vcf.gz"), Path("y.vcf.gz")], None) == ["x.vcf.gz", "y.vcf.gz"]
    assert run_command(["evaluate", truth, "-r", str(small / "panel.h5")]) == 2


def with_fields(path, rows, fields, header=(), info="IMP"):
    """A VCF of ``CHROM POS REF ALT value value …`` whose records have ``fields``."""
    lines = ["##fileformat=VCFv4.3", "##contig=<ID=20>"]
    lines.append('##INFO=<ID=IMP,Number=0,Type=Flag,Description="Imputed">')
    lines.append('##INFO=<ID=DR2,Number=A,Type=Float,Description="Quality">')
    lines += [f'##FORMAT=<ID={f},Number=.,Type=Float,Description="{f}">' for f in header]
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
    fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    lines.append("\t".join([*fixed, *PEOPLE]))
    for row in rows:
        chrom, pos, ref, alt, *calls = row.split()
        lines.append("\t".join([chrom, pos, ".", ref, alt, ".", ".", info, fields, *calls]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_genotype_probabilities_are_binned_for_the_panels_minor_allele(small):
    # At 20:300 REF is the minor allele of the panel, so 1|1 is hom_major there.
    rows = [
        "20 200 A C .9,.1,0 .2,.7,.1 1,0,0 .6,.4,0",
        "20 300 A C 0,0,1 0,.4,.6 0,1,0 0,.2,.8",
    ]
    imputed = with_fields(small / "i.vcf", rows, "GP", ["GP"])
    found = evaluate(imputed, small / "truth.vcf", small / "panel.h5").gp_calibration
    assert found.source == "GP"
    predicted = {
        # truth: 0 1 0 0 at 20:200, 2 2 1 2 (ALT major) at 20:300
        "hom_major": ([0.9, 0.2, 1.0, 0.6, 1.0, 0.6, 0.0, 0.8], [1, 0, 1, 1, 1, 1, 0, 1]),
        "het": ([0.1, 0.7, 0.0, 0.4, 0.0, 0.4, 1.0, 0.2], [0, 1, 0, 0, 0, 0, 1, 0]),
        "hom_minor": ([0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0] * 8),
    }
    for name, (probability, outcome) in predicted.items():
        own = found.genotypes[name]
        groups = {}
        for p, o in zip(probability, outcome, strict=True):
            groups.setdefault(min(int(round(p * 20, 6)), 19), []).append((p, o))
        assert sum(b.n for b in own.bins) == 8
        means = sorted((float(np.mean([p for p, _ in g])), len(g)) for g in groups.values())
        assert [(pytest.approx(m, abs=1e-6), n) for m, n in means] == [
            (b.predicted, b.n) for b in own.bins
        ]
        error = sum(abs(sum(p - o for p, o in g)) for g in groups.values()) / 8
        assert own.ece == pytest.approx(error, abs=1e-6)
    assert found.ece == pytest.approx(np.mean([c.ece for c in found.genotypes.values()]))


def test_probabilities_come_from_haplotype_dosages_or_are_absent(small):
    rows = ["20 200 A C 0:0,0 1:.5,.5 0:0,0 0:.1,0", "20 400 A C 1:.9,.1 0:0,0 0:0,0 2:1,1"]
    both = with_fields(small / "h.vcf", rows, "DS:HDS", ["DS", "HDS"])
    found = evaluate(both, small / "truth.vcf", small / "panel.h5").gp_calibration
    assert found.source == "HDS"
    het = [(b.predicted, b.observed, b.n) for b in found.genotypes["het"].bins]
    # .9 and .1: het is .9² + .1² = .82; .5 and .5: .5; .1 and 0: .1.
    assert [b[0] for b in het] == pytest.approx([0.0, 0.1, 0.5, 0.82], abs=1e-6)
    assert [b[2] for b in het] == [5, 1, 1, 1]
    only = with_fields(small / "d.vcf", [r.replace(":0,0", "") for r in rows], "DS", ["DS"])
    text = only.read_text().replace(":.5,.5", "").replace(":.1,0", "").replace(":.9,.1", "")
    only.write_text(text.replace(":1,1", ""))
    assert evaluate(only, small / "truth.vcf", small / "panel.h5").gp_calibration is None


def test_perfect_probabilities_have_no_calibration_error_and_wrong_ones_have(small):
    right = "20 200 A C 1,0,0 0,1,0 1,0,0 1,0,0"
    wrong = "20 200 A C 0,0,1 0,0,1 0,0,1 0,0,1"
    errors = []
    for name, row in (("right", right), ("wrong", wrong)):
        imputed = with_fields(small / f"{name}.vcf", [row], "GP", ["GP"])
        found = evaluate(imputed, small / "truth.vcf", small / "panel.h5")
        errors.append((found.gp_calibration.ece, found.calibration.ece))
    assert errors[0] == (0.0, 0.0)
    assert errors[1] == pytest.approx(((0.75 + 0.25 + 1.0) / 3, 7 / 8))


def test_quality_scores_are_held_to_the_true_r2():
    from snvrag.calibration import quality_accuracy

    generator = np.random.default_rng(1)
    quality = generator.random(500)
    r2 = np.clip(quality + generator.normal(0, 0.1, 500), 0, 1)
    quality[:5], r2[5:9] = np.nan, np.nan
    maf = np.concatenate([[0.0, 0.05], generator.uniform(0.001, 0.5, 498)])
    found = quality_accuracy(quality, r2, maf)
    both = ~(np.isnan(quality) | np.isnan(r2))
    assert found.n_sites == 491 == sum(b.n_sites for b in found.bins)
    assert found.correlation == pytest.approx(np.corrcoef(quality[both], r2[both])[0, 1])
    assert found.mean_difference == pytest.approx((quality - r2)[both].mean())
    inside = both & (quality > 0.8) & (quality <= 0.9)
    (group,) = [b for b in found.bins if b.low == 0.8]
    assert group.n_sites == inside.sum()
    assert group.mean_site_r2 == pytest.approx(r2[inside].mean())
    assert found.rms_difference == pytest.approx(np.sqrt(((quality - r2)[both] ** 2).mean()))
    assert np.sum(found.scatter) == 491
    cell = both & (quality >= 0.6) & (quality < 0.65) & (r2 >= 0.7) & (r2 < 0.75)
    assert found.scatter[12][14] == cell.sum() > 0
    assert [(g.low, g.high) for g in found.by_frequency] == [(0, 0.005), (0.005, 0.05), (0.05, 0.5)]
    low = both & (maf > 0.005) & (maf <= 0.05)
    group = found.by_frequency[1]
    assert group.n_sites == low.sum()
    assert group.correlation == pytest.approx(np.corrcoef(quality[low], r2[low])[0, 1])
    assert group.mean_difference == pytest.approx((quality - r2)[low].mean())


def test_quality_of_few_sites_and_at_the_ends():
    from snvrag.calibration import quality_accuracy

    maf = np.array([0.0, 0.05, 0.3])
    assert quality_accuracy(np.full(3, np.nan), np.ones(3), maf) is None
    assert np.isnan(quality_accuracy(np.ones(3), np.array([0.1, 0.2, 0.3]), maf).correlation)
    ends = quality_accuracy(np.array([0.0, 1.0, 1.2]), np.array([0.0, 1.0, 1.0]), maf)
    assert [b.n_sites for b in ends.bins] == [1, 0, 0, 0, 0, 0, 2]
    # Sites monomorphic in the panel are of no group; 0.05 belongs to the one that ends there.
    assert [g.n_sites for g in ends.by_frequency] == [0, 1, 1]
    assert np.isnan(ends.by_frequency[0].mean_difference)
    assert (ends.scatter[0][0], ends.scatter[19][19]) == (1, 2)


def test_dosages_that_are_none_and_files_without_samples_are_errors(small):
    truth, panel = small / "truth.vcf", small / "panel.h5"
    for value, word in (("7.5", "dosage 7.5, outside"), ("-1", "dosage -1"), (".", "missing")):
        bad = with_fields(small / "b.vcf", [f"20 200 A C {value} 0 0 0"], "DS", ["DS"])
        with pytest.raises(InputError, match=f"20:200:A:C has .*{word}"):
            evaluate(bad, truth, panel)
    lines = truth.read_text().splitlines()
    bare = ["\t".join(x.split("\t")[:8]) if not x.startswith("##") else x for x in lines]
    (small / "bare.vcf").write_text("\n".join(bare) + "\n")
    for pair in ((small / "bare.vcf", truth), (truth, small / "bare.vcf")):
        with pytest.raises(InputError, match=r"bare\.vcf: there is no sample"):
            evaluate(*pair, panel, observed=small / "observed.txt")
    (small / "none.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="lists no site"):
        evaluate(truth, truth, panel, observed=small / "none.txt")
    other = write_vcf_rows(small / "c21.vcf", ["21 100 A C 0|1 0|0 0|0 0|0"], PEOPLE, ("21",))
    with pytest.raises(InputError, match=r"contigs: 20 in truth and panel, 21 in the imputed"):
        evaluate(other, truth, panel, observed=small / "observed.txt")
    with pytest.raises(InputError, match=r"c21\.vcf: holds no panel site .* 21 in the truth"):
        evaluate(truth, other, panel, observed=small / "observed.txt")


def test_bad_words_end_before_the_work_with_one_sentence_and_a_hint(small, capsys):
    truth, panel = str(small / "truth.vcf"), str(small / "panel.h5")
    words = ["evaluate", truth, truth, "-r", panel, "--observed", str(small / "observed.txt")]
    kept = {p.name: p.read_bytes() for p in small.iterdir()}
    for more, sentence in (
        (["--plot", panel, "--force"], "is one of the inputs"),
        (["--per-site", truth, "--force"], "is one of the inputs"),
        (["--plot", str(small / "no" / "p.png")], "does not exist"),
        (["--plot", str(small / "x"), "--per-site", str(small / "x")], "name one file"),
        (["--per-site", str(small)], "is a folder"),
    ):
        assert run_command([*words, *more]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(rf"error: [^\n]*{sentence}[^\n]*\nhint: [^\n]+\n", err), err
    for missing in (
        ["evaluate", truth, str(small / "none.vcf"), truth, "-r", panel],
        ["evaluate", truth, str(small / "none.vcf"), "-r", panel],
        ["evaluate", truth, truth, "-r", str(small / "none.h5")],
        [*words[:5], "--observed", str(small / "none.txt")],
    ):
        assert run_command(missing) == 2
        assert re.fullmatch(r"error: \S+none\S+: no such file\nhint: .+\n", capsys.readouterr().err)
    assert {p.name: p.read_bytes() for p in small.iterdir()} == kept


def test_the_command_shows_calibration_and_quality(small, capsys):
    rows = [
        "20 200 A C .9,.1,0 .2,.7,.1 1,0,0 .6,.4,0",
        "20 300 A C 0,0,1 0,.4,.6 0,1,0 0,.2,.8",
        "20 400 A C 0,1,0 0,.4,.6 1,0,0 0,.2,.8",
    ]
    imputed = with_fields(small / "i.vcf", rows, "GP", ["GP"], info="DR2=0.85;IMP")
    words = ["evaluate", str(imputed), str(small / "truth.vcf"), "-r", str(small / "panel.h5")]
    assert run_command(words) == 0
    out = capsys.readouterr().out
    assert "INFO/CR2, DR2 or R2 against true r²:\ncorrelation -" in out
    assert "genotype probabilities (GP) 0." in out
    assert run_command([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["quality"]["correlation"] is None
    assert data["quality"]["n_sites"] == 3
    assert [g["n_sites"] for g in data["quality"]["by_frequency"]] == [0, 0, 3]
    assert np.sum(data["quality"]["scatter"]) == 3
    assert set(data["gp_calibration"]["genotypes"]) == {"hom_major", "het", "hom_minor"}
    assert set(data["calibration"][0]) == {"predicted", "observed", "n"}
    assert 0 < data["ece"] < 0.2
    plain = str(small / "truth.vcf")
    words = ["evaluate", plain, plain, "-r", str(small / "panel.h5")]
    assert run_command([*words, "--observed", str(small / "observed.txt")]) == 0
    out = capsys.readouterr().out
    assert "has no INFO/CR2" in out
    assert "genotype probabilities absent" in out


def test_the_figure_has_a_panel_for_each_question(small, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    from snvrag.plots import plot_accuracy

    rows = ["20 200 A C .9,.1,0 .2,.7,.1 1,0,0 .6,.4,0", "20 400 A C 0,1,0 0,.4,.6 1,0,0 0,.2,.8"]
    imputed = with_fields(small / "i.vcf", rows, "GP", ["GP"], info="DR2=0.85;IMP")
    found = evaluate(imputed, small / "truth.vcf", small / "panel.h5", label="one")
    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    plot_accuracy([found, replace(found, label="two")] * 3, small / "p.png")
    by_maf, by_quality, dosage, genotype = kept[0].axes
    assert by_maf.get_xscale() == "log"
    assert list(by_quality.lines[0].get_xdata()) == [pytest.approx(0.85)]
    sites = by_quality.collections[0].get_offsets()
    both = ~np.isnan(found.sites.r2)
    np.testing.assert_allclose(sites, np.c_[found.sites.quality, found.sites.r2][both])
    assert list(dosage.lines[0].get_xdata()) == [b.predicted for b in found.calibration.bins]
    for line, own in zip(genotype.lines, found.gp_calibration.genotypes.values(), strict=False):
        assert list(line.get_ydata()) == [b.observed for b in own.bins]
    assert [text.get_text() for text in genotype.get_legend().texts] == [
        *("hom major", "het", "hom minor")
    ]
    of_files = [by_quality.get_legend(), dosage.get_legend(), genotype.artists[0]]
    ends = [["one", "two"] * 3] * 3
    assert [[text.get_text().split(" (")[0] for text in x.texts] for x in of_files] == ends
    for axes, legend in zip((by_quality, dosage, genotype), of_files, strict=True):
        assert legend.get_window_extent().y1 < axes.get_window_extent().y0
    monkeypatch.undo()
    plt.close("all")


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


def scores_of_the_reference(imputed, dev_folder, name, folder):
    """What ``evaluate.py`` beside the real data says."""
    scorer = dev_folder.parent.parent / "evaluate.py"
    command = [sys.executable, str(scorer), "--truth", str(dev_folder / "truth.vcf.gz")]
    command += ["--imputed", str(imputed), "--quiet", "--json", str(folder / "s.json")]
    command += ["--panel", str(dev_folder / "panel.vcf.gz")]
    command += ["--observed", str(dev_folder / f"sites.{name}.txt")]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((folder / "s.json").read_text())


def assert_equal_scores(found, scored):
    pairs = zip([*found.bins, found.all], [*scored["bins"].values(), scored["all"]], strict=True)
    for ours, theirs in pairs:
        assert ours.n_sites == theirs["n_sites"]
        assert ours.n_genotypes == theirs["n_genotypes"]
        for own, other in (
            ("aggregate_r2", "r2_agg"),
            ("mean_site_r2", "r2_site"),
            ("nonref_concordance", "nrc"),
            ("nonmajor_concordance", "nmc"),
            ("concordance", "conc"),
        ):
            assert getattr(ours, own) == pytest.approx(theirs[other], abs=1e-6), own


@pytest.mark.parametrize("name", ["array", "random10", "random50"])
def test_agrees_with_the_reference_scorer_and_reaches_the_rivals(dev_run, dev_folder, name):
    """Bar: Minimac4's best setting and Beagle with map, less the issue's tolerances."""
    imputed = dev_run / f"{name}.vcf.gz"
    found = evaluate(imputed, dev_folder / "truth.vcf.gz", dev_run / "panel.h5")
    assert_equal_scores(found, scores_of_the_reference(imputed, dev_folder, name, dev_run))
    peers = json.loads((dev_folder.parent.parent / "peers.json").read_text())
    methods = peers["splits"]["chr20/dev"]["targets"][name]["methods"]
    tolerances = (0.02, 0.02, 0.01, 0.005, 0.005, 0.005, 0.005)
    for rival in ("minimac4.mapNe", "beagle.map"):
        bars = [v["r2_agg"] for k, v in methods[rival]["bins"].items() if k.startswith("(")]
        for ours, bar, tolerance in zip(found.bins, bars, tolerances, strict=True):
            assert ours.aggregate_r2 >= bar - tolerance, (rival, ours.low, ours.aggregate_r2, bar)


def beagle(dev_folder, target, folder):
    command = ["beagle", f"gt={target}", f"ref={dev_folder / 'panel.vcf.gz'}", "gp=true"]
    command += [f"out={folder / 'out'}", "nthreads=1"]
    subprocess.run(command, check=True, capture_output=True)


def minimac4(dev_folder, target, folder):
    panel = str(folder / "panel.msav")
    source = str(dev_folder / "panel.vcf.gz")
    subprocess.run(
        ["minimac4", "--compress-reference", source, "-o", panel], check=True, capture_output=True
    )
    command = ["minimac4", panel, str(target), "-o", str(folder / "out.vcf.gz"), "-O", "vcf.gz"]
    command += ["-f", "GT,HDS,DS,GP"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.external
@pytest.mark.slow
@pytest.mark.parametrize("tool", [beagle, minimac4])
def test_scores_of_other_tools_equal_the_reference_scorers(dev_folder, tmp_path, tool):
    if shutil.which(tool.__name__) is None:
        pytest.skip(f"{tool.__name__} is not installed")
    convert(dev_folder / "panel.vcf.gz", tmp_path / "panel.h5")
    tool(dev_folder, dev_folder / "target.array.vcf.gz", tmp_path)
    imputed, truth = tmp_path / "out.vcf.gz", dev_folder / "truth.vcf.gz"
    scored = scores_of_the_reference(imputed, dev_folder, "array", tmp_path)
    observed = dev_folder / "sites.array.txt"
    found = evaluate(imputed, truth, tmp_path / "panel.h5", observed=observed)
    assert_equal_scores(found, scored)
    # The file's own marks of what was imputed say the same.
    by_marks = evaluate(imputed, truth, tmp_path / "panel.h5")
    assert by_marks.as_json() == found.as_json()
    assert found.gp_calibration.source == "GP"
    assert found.gp_calibration.ece < 0.02
    assert found.quality.correlation > 0.5
