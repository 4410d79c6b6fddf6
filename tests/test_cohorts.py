import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import mosaic, write_vcf

from snvrag.batch_plan import BatchPlan
from snvrag.cli.app import run
from snvrag.cohorts import Cohort, Cohorts, MatchedAlleles
from snvrag.config import MaskConfig, ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.conversion import convert
from snvrag.dataset import WindowBatches
from snvrag.errors import InputError
from snvrag.genetic_map import GeneticMap
from snvrag.index_store import IndexStore
from snvrag.panel import Panel
from snvrag.sites import match_sites
from snvrag.tokens import MASK, REF
from snvrag.windows import WindowPlan

CONFIG = RunConfig(
    WindowConfig(60, 64),
    MaskConfig(),
    ModelConfig(dims=16, heads=2, layers=1),
    TrainConfig(batch_size=8, epochs=1),
)
QUICK = ["--window-size", "60", "--max-seq-len", "64", "--dims", "16", "--layers", "1"]
QUICK += ["--epochs", "1", "--preset", "tiny", "--device", "cpu"]


@pytest.fixture
def write_people(tmp_path):
    """``write_people(name, alleles, ids, drop=, swap=, extra=, wrong=)`` makes a panel file.

    ``drop`` leaves sites out, ``swap`` exchanges REF and ALT, ``wrong`` gives them another ALT,
    ``extra`` adds a site one base after each.
    """

    def make(name, alleles, ids, *, drop=(), swap=(), extra=(), wrong=(), ploidies=None):
        path = write_vcf(tmp_path / f"{name}.vcf", alleles, ploidies=ploidies)
        header, records = [], []
        for line in path.read_text().splitlines():
            (header if line.startswith("#") else records).append(line.split("\t"))
        header[-1][9:] = ids
        lines = list(header)
        for row, record in enumerate(records):
            fields = list(record)
            if row in swap:
                fields[3:5] = ["C", "A"]
                flip = str.maketrans("01", "10")
                fields[9:] = [call.translate(flip) for call in fields[9:]]
            if row in wrong:
                fields[4] = "G"
            if row not in drop:
                lines.append(fields)
            if row in extra:
                lines.append([fields[0], str(int(fields[1]) + 1), *record[2:]])
        path.write_text("\n".join("\t".join(line) for line in lines) + "\n")
        output = tmp_path / f"{name}.h5"
        convert(path, output)
        return output

    return make


@pytest.fixture
def setting(tmp_path):
    """``setting(panel, targets, validation)`` -> (panel, store, cohorts, batches)."""
    opened = []

    def make(path, targets=None, validation=None, config=CONFIG, folder="index"):
        files = [Panel.open(p) if p else None for p in (path, targets, validation)]
        opened.extend(f for f in files if f)
        panel = files[0]
        plan = WindowPlan.from_chromosomes(panel.chromosomes(), config.windows)
        store = IndexStore.open(tmp_path / folder, panel, plan)
        opened.append(store)
        cohorts = Cohorts.choose(panel, store, config.train, *files[1:])
        cm = GeneticMap.uniform().along(panel.chromosomes(), panel.positions)
        device = torch.device("cpu")
        return panel, cohorts, WindowBatches(panel, store, plan, config, cohorts, cm, device)

    yield make
    for thing in reversed(opened):
        thing.__exit__(None, None, None)


def ids(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


def all_batches(batches, samples, epochs=(0, 3)):
    for epoch in epochs:
        for window in range(batches.plan.num_windows):
            plan = BatchPlan(window, 0, np.asarray(samples))
            yield window, epoch, plan, batches.batch(plan, epoch)


def test_a_file_that_equals_the_panel_gives_the_panels_own_batches(write_people, setting):
    """The path for other files, held to the one for panel samples by equality."""
    alleles = mosaic(24, 130)
    path = write_people("panel", alleles, ids("P", 12))
    judges = write_people("judges", mosaic(4, 130, seed=5), ["J0", "J1"])
    copy = write_people("copy", alleles, ids("P", 12))
    _, plain_cohorts, plain = setting(path, None, judges)
    _, cohorts, batches = setting(path, copy, judges)
    assert plain_cohorts.training.samples.tolist() == list(range(12))
    assert isinstance(cohorts.training.haplotypes, MatchedAlleles)
    pairs = zip(all_batches(plain, [0, 5, 11]), all_batches(batches, [0, 5, 11]), strict=True)
    for (*_, one), (*_, other) in pairs:
        for field in dataclasses.fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


def test_sites_are_matched_flipped_and_neither_observed_nor_scored_where_absent(
    write_people, setting
):
    """ORIGINAL B19, B20, B24: rows are matched by site, alleles compared."""
    path = write_people("panel", mosaic(24, 130), ids("P", 12))
    truth = mosaic(7, 130, seed=3)
    drop, swap, wrong = {0, 3, 59, 60, 61, 129}, {1, 7, 64, 100}, {5, 70}
    targets = write_people(
        "targets",
        truth,
        ids("T", 4),
        drop=drop,
        swap=swap,
        wrong=wrong,
        extra={2, 3, 60, 61, 80},
        ploidies=[2, 1, 2, 2],
    )
    panel, cohorts, batches = setting(path, targets)
    absent = sorted(drop | wrong)
    matched = np.setdiff1d(np.arange(130), absent)
    assert np.flatnonzero(~cohorts.training.matched).tolist() == absent
    columns = cohorts.training.haplotypes.columns(matched)
    np.testing.assert_array_equal(columns, truth[:, matched].T)
    for window, epoch, plan, batch in all_batches(batches, [0, 1, 3]):
        bounds = batches.plan.windows[window]
        sites = slice(bounds.start, bounds.end)
        rows = [0, 1, 2, 5, 6]
        n = bounds.n_snps
        masked = batches.mask(plan, epoch, bounds.start, bounds.end)
        known = cohorts.training.matched[sites]
        expected = np.where(masked | ~known, MASK, truth[rows, sites] + REF)
        np.testing.assert_array_equal(batch.tokens[:, 1 : n + 1], expected)
        scored = batch.scored[:, 1 : n + 1].numpy()
        assert not scored[:, ~known].any()
        assert scored.any()
        labels = batch.labels[:, 1 : n + 1].numpy()
        np.testing.assert_array_equal(labels[:, known], truth[rows, sites][:, known])
    assert "0 of them in the panel), 122 of 130 panel sites" in cohorts.describe(panel)["targets"]


def test_absent_sites_of_a_target_reach_no_input(write_people, setting):
    """What stands in for an absent site changes nothing: REF or ALT, it is not read."""
    path = write_people("panel", mosaic(24, 130), ids("P", 12))
    targets = write_people(
        "targets", mosaic(6, 130, seed=3), ids("T", 3), drop=set(range(0, 130, 3))
    )
    _, cohorts, batches = setting(path, targets)
    before = [b for *_, b in all_batches(batches, [0, 2])]
    fetch = MatchedAlleles._fetch

    def other(self, window):
        index = fetch(self, window)
        bounds = self.plan.windows[window]
        alleles = index.alleles(np.arange(self.n_haplotypes))
        alleles[:, ~cohorts.training.matched[bounds.start : bounds.end]] = 1
        return type(index).build(alleles, self.plan.config.window_size)

    cohorts.training.haplotypes.forget()
    MatchedAlleles._fetch = other
    try:
        after = [b for *_, b in all_batches(batches, [0, 2])]
    finally:
        MatchedAlleles._fetch = fetch
    for one, two in zip(before, after, strict=True):
        for name in ("tokens", "af", "retrieved", "distances", "features", "sign", "scored"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert torch.equal(one.labels * one.scored, two.labels * two.scored)


def test_windows_without_a_matched_site_are_skipped_and_counted(write_people, setting):
    """ORIGINAL B22: an empty first, middle or last window."""
    path = write_people("panel", mosaic(24, 290), ids("P", 12))
    for gone in ({0}, {2}, {4}, {0, 2, 4}):
        drop = {row for row in range(290) if row // 60 in gone}
        name = "t" + "".join(map(str, sorted(gone)))
        targets = write_people(name, mosaic(6, 290, seed=3), ids("T", 3), drop=drop)
        panel, cohorts, _ = setting(path, targets)
        assert cohorts.training.windows.tolist() == [w for w in range(5) if w not in gone]
        expected = f"{len(gone)} windows without a site skipped"
        assert expected in cohorts.describe(panel)["targets"]


def test_a_target_in_the_panel_sees_the_panel_without_itself(write_people, setting):
    """ORIGINAL B27: with its own haplotypes in the panel a target sees what it sees without."""
    alleles = mosaic(24, 130)
    names = ids("P", 12)
    targets = write_people("targets", alleles[6:8], ["P3"])
    judges = write_people("judges", mosaic(2, 130, seed=9), ["J"])
    whole = write_people("whole", alleles, names)
    rest = write_people("rest", np.delete(alleles, [6, 7], axis=0), names[:3] + names[4:])
    panel, cohorts, with_self = setting(whole, targets, judges, folder="a")
    smaller, _, without = setting(rest, targets, judges, folder="b")
    assert cohorts.training.same_person(0, panel).tolist() == [6, 7]
    assert "1 samples (1 of them in the panel)" in cohorts.describe(panel)["targets"]
    # Masks follow the frequency table, which holds the target or not: hold them still.
    with_self.mask = without.mask
    pairs = zip(all_batches(with_self, [0]), all_batches(without, [0]), strict=True)
    for (*_, one), (*_, two) in pairs:
        for name in ("tokens", "af", "retrieved", "distances", "valid", "labels", "scored"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert smaller.n_samples == 11


def test_what_a_target_has_in_the_panel_under_its_own_id_changes_no_input(write_people, setting):
    alleles = mosaic(24, 130)
    targets = write_people("targets", alleles[6:8], ["P3"])
    judges = write_people("judges", mosaic(2, 130, seed=9), ["J"])
    changed = alleles.copy()
    changed[6:8] ^= 1
    paths = [
        write_people(name, rows, ids("P", 12)) for name, rows in (("a", alleles), ("b", changed))
    ]
    one, two = (setting(p, targets, judges, folder=p.stem)[2] for p in paths)
    # Masks follow the frequency table, which the change moves: hold them still.
    two.mask = one.mask
    for (*_, a), (*_, b) in zip(all_batches(one, [0]), all_batches(two, [0]), strict=True):
        for name in ("tokens", "af", "retrieved", "distances", "labels", "scored", "sign"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        # Haplotypes without weight still take a place in the order of the sums.
        torch.testing.assert_close(a.features, b.features, rtol=1e-4, atol=2e-3)


def test_people_validated_on_are_out_of_the_panel_and_out_of_training(write_people, setting):
    """ORIGINAL B28: validation people in the panel, or among the training people."""
    alleles = mosaic(24, 130)
    path = write_people("panel", alleles, ids("P", 12))
    judges = write_people("judges", alleles[[4, 5, 20, 21]], ["P2", "P10"])
    targets = write_people("targets", alleles[[4, 5, 8, 9]], ["P2", "P4"])
    panel, cohorts, batches = setting(path, targets, judges)
    assert cohorts.held_out.tolist() == [2, 10]
    assert cohorts.training.names() == {"P4"}
    assert cohorts.dropped == 1
    described = cohorts.describe(panel)
    assert "1 samples left out that are validated on" in described["targets"]
    assert "out of the panel for everybody" in described["validation"]
    others = np.setdiff1d(np.arange(24), [4, 5, 20, 21])
    for window in range(2):
        sites = slice(60 * window, 60 * window + 60)
        allowed = {alleles[h, sites].tobytes() for h in others}
        for epoch, samples in ((None, [0, 1]), (0, [1])):
            batch = batches.batch(BatchPlan(window, 0, np.array(samples)), epoch)
            own = [8, 9] if epoch == 0 else []
            rows = np.setdiff1d(others, own)
            expected = alleles[rows, sites].mean(0)
            np.testing.assert_allclose(batch.af[0, 1:61], expected, atol=1e-6)
            for donor in batch.retrieved.flatten(0, 1):
                found = (donor[1:61] - REF).numpy().astype(np.uint8)
                assert found.tobytes() in allowed
    # Without --targets, too, they do not train.
    _, cohorts, _ = setting(path, None, judges)
    assert cohorts.training.samples.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 11]
    # Without --validation, targets that the split holds out do not train.
    everybody = write_people("everybody", alleles, ids("P", 12))
    panel, cohorts, _ = setting(path, everybody)
    assert not cohorts.training.names() & cohorts.validation.names()
    assert len(cohorts.training.samples) == 12 - len(cohorts.validation.samples)


def test_files_that_do_not_fit_are_refused_with_both_names(write_people, setting, tmp_path):
    path = write_people("panel", mosaic(8, 60), ids("P", 4))
    elsewhere = tmp_path / "other.h5"
    convert(write_vcf(tmp_path / "o.vcf", mosaic(4, 60), chroms=["chr7"] * 60), elsewhere)
    with pytest.raises(InputError, match=r"other\.h5: none of its 60 sites.*chr7:.*20:"):
        setting(path, elsewhere)
    everybody = write_people("everybody", mosaic(8, 60), ids("P", 4))
    with pytest.raises(InputError, match="none is left to train on"):
        setting(path, None, everybody)
    most = write_people("most", mosaic(6, 60), ids("P", 3))
    strangers = write_people("strangers", mosaic(4, 60), ids("T", 2))
    with pytest.raises(InputError, match="too few are left to copy from"):
        setting(path, strangers, most)


def test_matched_alleles_keep_to_their_budget(write_people):
    path = write_people("panel", mosaic(24, 290), ids("P", 12))
    with Panel.open(path) as panel:
        plan = WindowPlan.from_chromosomes(panel.chromosomes(), WindowConfig(60, 64))
        match = match_sites(panel.sites, panel.sites)
        one = MatchedAlleles(panel, match, plan).get(0).nbytes
        store = MatchedAlleles(panel, match, plan, budget_bytes=2 * one)
        for window in (*range(5), 0, 3):
            alleles = store.get(window).alleles(np.arange(24))
            bounds = plan.windows[window]
            np.testing.assert_array_equal(alleles, panel.alleles(bounds.start, bounds.end))
            assert store._held <= 2 * one
        assert len(Cohort.of_file(panel, panel, plan).windows) == 5


def test_train_with_targets_and_validation_and_resume_with_them_only(
    write_people, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_people("panel", mosaic(24, 130), ids("P", 12))
    write_people("targets", mosaic(8, 130, seed=3), ids("T", 4), drop=set(range(60)))
    write_people("other", mosaic(8, 130, seed=4), ids("T", 4), drop=set(range(60)))
    write_people("judges", mosaic(4, 130, seed=5), ["P1", "V"], swap={7, 8})
    words = ["train", "panel.h5", *QUICK, "-o", "run", "--validation", "judges.h5"]
    assert run([*words, "--targets", "targets.h5", "--log-file", "log.txt"]) == 0
    log = Path("log.txt").read_text()
    assert "4 samples (0 of them in the panel), 70 of 130 panel sites, 1 windows" in log
    assert "2 samples (1 of them in the panel), 130 of 130 panel sites" in log
    saved = json.loads(Path("run/config.json").read_text())
    with Panel.open(Path("targets.h5")) as targets, Panel.open(Path("judges.h5")) as judges:
        assert saved["targets_digest"] == targets.digest
        assert saved["validation_digest"] == judges.digest
    assert {Path(p).name for p in saved["provenance"]["inputs"]} == {
        "panel.h5",
        "targets.h5",
        "judges.h5",
    }
    capsys.readouterr()
    for change in (["--targets", "other.h5"], []):
        assert run([*words, *change, "--resume"]) == 2
        assert "targets_digest" in capsys.readouterr().err
    assert run([*words, "--targets", "targets.h5", "--resume"]) == 0
    assert run(["train", "panel.h5", *QUICK, "--targets", "absent.h5"]) == 2
    assert "absent.h5: no such panel" in capsys.readouterr().err
