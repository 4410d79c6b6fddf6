import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import mosaic, panel_cohorts

from snvrag.batch_plan import BatchPlan, plan_epoch, plan_validation
from snvrag.cohorts import split_samples
from snvrag.config import MaskConfig, ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.dataset import WindowBatches, ranking_sites, rows_within_reach
from snvrag.errors import InputError
from snvrag.genetic_map import GeneticMap
from snvrag.index_store import IndexStore
from snvrag.panel import Panel
from snvrag.tokens import ALT, MASK, PAD, REF, SOS
from snvrag.windows import WindowPlan

CONFIG = RunConfig(
    WindowConfig(60, 64),
    MaskConfig(),
    ModelConfig(dims=16, heads=2, layers=1),
    TrainConfig(batch_size=8, epochs=2),
)


@pytest.fixture
def batches_of(tmp_path):
    """``batches_of(path)`` -> (panel, WindowBatches) with samples 0, 1 held out."""
    opened = []

    def make(path, config=CONFIG, validation=(0, 1), folder="index", listed=None):
        panel = Panel.open(path)
        opened.append(panel)
        plan = WindowPlan.from_chromosomes(panel.chromosomes(), config.windows)
        store = IndexStore.open(tmp_path / folder, panel, plan)
        opened.append(store)
        cohorts = panel_cohorts(panel, store, validation)
        cm = GeneticMap.uniform().along(panel.chromosomes(), panel.positions)
        device = torch.device("cpu")
        return panel, WindowBatches(panel, store, plan, config, cohorts, cm, device, listed)

    yield make
    for thing in reversed(opened):
        thing.__exit__(None, None, None)


def item(window, samples, number=0):
    return BatchPlan(window, number, np.array(samples))


def test_every_sample_meets_every_window_once_and_windows_stay_together():
    samples = np.array([1, 2, 4, 5, 9])
    plans = plan_epoch(samples, np.arange(7), 2, seed=3, epoch=0)
    seen = sorted((p.window, int(s)) for p in plans for s in p.samples)
    assert seen == [(w, s) for w in range(7) for s in samples]
    order = [p.window for p in plans]
    changes = sum(a != b for a, b in pairwise(order))
    assert changes == 6
    assert order != sorted(order)
    assert (
        len({tuple(np.concatenate([p.samples for p in plans if p.window == w])) for w in range(7)})
        > 1
    )


def test_the_order_follows_seed_and_epoch_alone():
    def order(seed, epoch):
        plans = plan_epoch(np.arange(9), np.arange(5), 4, seed, epoch)
        return [(p.window, p.number, *p.samples.tolist()) for p in plans]

    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5)
    assert order(1, 4) != order(2, 4)


def test_a_limit_draws_other_batches_each_epoch_windows_in_a_row():
    everything = plan_epoch(np.arange(9), np.arange(5), 4, 1, 0)
    known = {(p.window, p.number): p.samples.tolist() for p in everything}
    drawn = [plan_epoch(np.arange(9), np.arange(5), 4, 1, 0, limit) for limit in (6, 15, 99)]
    assert [len(p) for p in drawn] == [6, 15, 15]
    assert all(known[p.window, p.number] == p.samples.tolist() for p in drawn[0])
    order = [p.window for p in drawn[0]]
    assert sum(a != b for a, b in pairwise(order)) == len(set(order)) - 1
    chosen = {
        tuple((p.window, p.number) for p in plan_epoch(np.arange(9), np.arange(5), 4, 1, e, 6))
        for e in range(4)
    }
    assert len(chosen) == 4


def test_plans_answer_like_a_list():
    plans = plan_epoch(np.arange(9), np.arange(5), 4, 1, 0)
    whole = list(plans)
    assert len(whole) == len(plans) == 15
    for part in (slice(2, 5), slice(13, 99), slice(1, None, 2), slice(20, None)):
        places = [(p.window, p.number) for p in plans[part]]
        assert places == [(p.window, p.number) for p in whole[part]]
    assert plans[-1].samples.tolist() == whole[-1].samples.tolist()
    with pytest.raises(IndexError):
        plans[15]


def test_split_is_by_sample_disjoint_and_complete():
    split = split_samples(50, 0.1, seed=0)
    assert len(split.validation) == 5
    assert sorted([*split.train, *split.validation]) == list(range(50))
    assert len(split_samples(3, 0.9, seed=0).train) == 2
    with pytest.raises(InputError, match="2 samples"):
        split_samples(2, 0.1, seed=0)


def test_validation_plan_covers_all():
    plans = plan_validation(np.arange(5), np.arange(2), 3)
    assert [(p.window, p.number, len(p.samples)) for p in plans] == [
        (0, 0, 3),
        (0, 1, 2),
        (1, 0, 3),
        (1, 1, 2),
    ]


@pytest.mark.parametrize(
    ("n_samples", "n_windows", "limit"), [(250, 294, 4_800), (5, 1_000, 50), (1_000, 2, 50)]
)
def test_validation_of_a_chromosome_is_a_fixed_draw(n_samples, n_windows, limit):
    samples, windows = np.arange(7, 7 + n_samples), np.arange(n_windows)
    draws = [plan_validation(samples, windows, size, 3, limit) for size in (48, 7, 48)]
    pairs = [sorted((p.window, int(s)) for p in plans for s in p.samples) for plans in draws]
    assert pairs[0] == pairs[1] == pairs[2]
    assert len(set(pairs[0])) == len(pairs[0])
    assert 0.8 * limit <= len(pairs[0]) <= limit
    seen_windows, seen_samples = (len({pair[i] for pair in pairs[0]}) for i in range(2))
    assert min(seen_windows, n_windows, limit**0.5 - 1) == min(n_windows, limit**0.5 - 1)
    assert seen_samples >= min(n_samples, limit**0.5 - 1)


def test_ranking_reaches_into_the_flanks_until_enough_sites_are_observed():
    observed = np.ones(30, dtype=bool)
    chosen = ranking_sites(observed, 10, 20, TrainConfig(flank_observed=2, min_observed=0))
    assert np.flatnonzero(chosen).tolist() == list(range(8, 22))
    sparse = np.zeros(30, dtype=bool)
    sparse[[0, 3, 5, 15, 25, 29]] = True
    chosen = ranking_sites(sparse, 10, 20, TrainConfig(flank_observed=1, min_observed=5))
    assert np.flatnonzero(chosen).tolist() == [3, 5, 15, 25, 29]
    assert not ranking_sites(np.zeros(30, dtype=bool), 10, 20, TrainConfig()).any()


def test_flanks_share_the_mask_of_their_window_in_every_pattern(mosaic_panel, batches_of):
    listed = np.zeros(250, dtype=bool)
    listed[::20] = True
    panel, batches = batches_of(mosaic_panel, listed=listed)
    patterns = set()
    for number in range(20):
        plan = item(1, [3], number)
        patterns.add(batches.masks.training_pattern(epoch=0, window=1, batch=number).name)
        whole = batches.mask(plan, 0, 0, panel.n_sites)
        np.testing.assert_array_equal(whole[60:120], batches.mask(plan, 0, 60, 120))
    assert patterns == {"guided", "array", "random", "sites"}
    np.testing.assert_array_equal(batches.mask(item(0, [0]), None, 0, 250), ~listed)


def test_reach_is_two_centimorgans_and_ends_with_the_chromosome():
    plan = WindowPlan.from_chromosomes([("1", 50), ("2", 25)], WindowConfig(10, 64))
    cm = np.concatenate([np.arange(50), np.arange(25)]) * 0.1
    reach = rows_within_reach([("1", 50), ("2", 25)], plan, cm)
    assert reach.dtype == np.int64
    for window, (low, high) in zip(plan.windows, reach, strict=True):
        first, last = (0, 50) if window.start < 50 else (50, 75)
        rows = np.arange(first, last)
        near = (cm[rows] >= cm[window.start] - 2.0) & (cm[rows] <= cm[window.end - 1] + 2.0)
        assert rows[near].tolist() == list(range(low, high))


def test_indexes_in_memory_follow_the_context_not_the_file(make_panel, batches_of):
    """ORIGINAL B50: embeddings of all windows stayed in memory."""
    alleles = mosaic(24, 600)
    path = make_panel(alleles, spacing=100_000)
    _, batches = batches_of(path)
    for window in range(10):
        batches.batch(item(window, [4]), 0)
    # 6 cM each: a window looks at the one before and the one after.
    held = batches.store._memory
    assert len(held) <= 6
    assert len(held) * 24 * 8 == batches.store._held


@pytest.mark.parametrize("epoch", [0, 3, None])
def test_tokens_mask_labels_and_frequencies_are_in_step(mosaic_panel, batches_of, epoch):
    panel, batches = batches_of(mosaic_panel)
    samples = [0, 1] if epoch is None else [5, 2, 30]
    for window in batches.plan.windows:
        plan = item(window.index, samples)
        batch = batches.batch(plan, epoch)
        n = window.n_snps
        truth = panel.alleles(window.start, window.end)
        rows = np.concatenate([panel.own_haplotypes(s) for s in samples])
        masked = batches.mask(plan, epoch, window.start, window.end)
        expected = np.where(masked, MASK, truth[rows] + REF)
        assert (batch.tokens[:, 0] == SOS).all()
        np.testing.assert_array_equal(batch.tokens[:, 1 : n + 1], expected)
        assert (batch.tokens[:, n + 1 :] == PAD).all()
        np.testing.assert_array_equal(batch.labels[:, 1 : n + 1], truth[rows])
        assert batch.tokens.shape[1] == 64
        for name in ("labels", "scored", "nearest"):
            tensor = getattr(batch, name)
            assert (tensor[:, 0] == 0).all()
            assert (tensor[:, n + 1 :] == 0).all()
        assert not batch.scored[:, 1 : n + 1][:, torch.from_numpy(~masked)].any()


def test_frequencies_leave_out_the_query_and_the_held_out_samples(mosaic_panel, batches_of):
    panel, batches = batches_of(mosaic_panel)
    truth = panel.alleles(0, 60).astype(int)
    for samples, epoch in (([7], 0), ([0], None)):
        batch = batches.batch(item(0, samples), epoch)
        own = panel.own_haplotypes(samples[0])
        others = np.setdiff1d(np.arange(80), np.concatenate([own, [0, 1, 2, 3]]))
        np.testing.assert_allclose(batch.af[0, 1:61], truth[others].mean(0), atol=1e-6)


def test_sites_that_only_the_query_carries_are_not_scored(make_panel, batches_of):
    alleles = mosaic(20, 60)
    alleles[:, 10] = 0
    alleles[8, 10] = 1
    alleles[:, 11] = 1
    alleles[9, 11] = 0
    alleles[:, 12] = 0
    alleles[[0, 8], 12] = 1
    everything = MaskConfig(levels=(1.0,), array_share=0.0, random_share=0.0)
    config = dataclasses.replace(CONFIG, mask=everything)
    _, batches = batches_of(make_panel(alleles), config)
    scored = batches.batch(item(0, [4, 5]), 0).scored
    assert not scored[:2, [11, 12, 13]].any()
    assert not scored[2:, 11 + 1 : 12].any()
    # Site 12 is carried by sample 0, which is held out, and by sample 4.
    assert scored[2:, 13].all()


def test_no_query_retrieves_its_own_sample_or_a_held_out_one(make_panel, batches_of):
    alleles = mosaic(24, 120)
    path = make_panel(alleles)
    panel, batches = batches_of(path)
    for epoch, samples in ((0, [2, 5, 9]), (None, [0, 1])):
        for window in (0, 1):
            batch = batches.batch(item(window, samples), epoch)
            site = slice(batches.plan.windows[window].start, batches.plan.windows[window].end)
            truth = panel.alleles(site.start, site.stop)
            rows = np.concatenate([panel.own_haplotypes(s) for s in samples])
            for row, haplotype in enumerate(rows):
                sample = panel.haplotype_sample[haplotype]
                banned = np.isin(panel.haplotype_sample, [sample, 0, 1])
                allowed = {truth[h].tobytes() for h in np.flatnonzero(~banned)}
                for donor in batch.retrieved[row]:
                    found = (donor[1 : 1 + truth.shape[1]] - REF).numpy().astype(np.uint8)
                    assert found.tobytes() in allowed


def test_changing_masked_alleles_of_the_query_changes_no_input(make_panel, batches_of):
    """Leakage: the truth at masked sites reaches labels only."""
    alleles = mosaic(24, 120)
    panel, batches = batches_of(make_panel(alleles, "before"), folder="a")
    plan = item(0, [3])
    own = panel.own_haplotypes(3)
    masked = batches.mask(plan, 0, 0, 120)
    changed = alleles.copy()
    changed[np.ix_(own, np.flatnonzero(masked))] ^= 1
    _, other = batches_of(make_panel(changed, "after"), folder="b")
    # The mask follows the frequency table, which the change moves: hold the mask still.
    other.mask = batches.mask
    before, after = batches.batch(plan, 0), other.batch(plan, 0)
    for name in ("tokens", "af", "retrieved", "distances", "sign", "nearest"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    # The query's own haplotypes have no weight in the sums over carriers, but take a place in
    # their order, which moves the rounding.
    torch.testing.assert_close(before.features, after.features, rtol=1e-4, atol=2e-3)
    assert torch.equal(before.scored, after.scored)
    assert not torch.equal(before.labels, after.labels)


def test_masked_alleles_of_the_reference_change_no_neighbour(make_panel, batches_of):
    """ORIGINAL B1: query masked, panel not."""
    alleles = mosaic(24, 60)
    panel, batches = batches_of(make_panel(alleles, "before"), folder="a")
    plan = item(0, [3])
    masked = batches.mask(plan, 0, 0, 60)
    others = np.flatnonzero(panel.haplotype_sample != 3)
    changed = alleles.copy()
    changed[np.ix_(others, np.flatnonzero(masked))] ^= 1
    _, other = batches_of(make_panel(changed, "after"), folder="b")
    other.mask = batches.mask
    before, after = batches.batch(plan, 0), other.batch(plan, 0)
    assert torch.equal(before.distances, after.distances)
    flipped = torch.where(before.retrieved == REF, ALT, REF)[:, :, 1:61]
    hidden = torch.from_numpy(masked)
    assert torch.equal(after.retrieved[:, :, 1:61][..., hidden], flipped[..., hidden])
    assert torch.equal(
        after.retrieved[:, :, 1:61][..., ~hidden], before.retrieved[:, :, 1:61][..., ~hidden]
    )


def test_frequency_table_rules_the_mask_not_the_genotypes(mosaic_panel, batches_of, monkeypatch):
    """ORIGINAL rule 15: AF is looked up, never recomputed."""
    monkeypatch.setattr(Panel, "af", np.zeros(250, dtype=np.float32))
    guided = MaskConfig(array_share=0.0, random_share=0.0)
    _, batches = batches_of(mosaic_panel, dataclasses.replace(CONFIG, mask=guided))
    rates = np.mean([batches.mask(item(0, [3], b), 0, 0, 60).mean() for b in range(200)])
    assert rates == pytest.approx(0.7, abs=0.02)


def test_windows_visited_out_of_order_give_their_own_data(mosaic_panel, batches_of):
    """ORIGINAL B14: a cached window served for another one."""
    _, batches = batches_of(mosaic_panel)
    first = batches.batch(item(0, [4]), 0)
    batches.batch(item(1, [4]), 0)
    again = batches.batch(item(0, [4]), 0)
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(again, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_parts_hold_whole_samples_and_all_rows(mosaic_panel, batches_of):
    _, batches = batches_of(mosaic_panel)
    batch = batches.batch(item(0, [4, 9, 11, 20, 6]), 0)
    for limit in (1, 2, 3, 4, 100):
        parts = list(batch.parts(limit))
        assert all(len(p.tokens) <= max(2, limit) for p in parts)
        assert torch.equal(torch.cat([p.tokens for p in parts]), batch.tokens)
        spread = torch.cat([p.af[p.row_sample] for p in parts])
        assert torch.equal(spread, batch.af[batch.row_sample])


def test_a_window_of_one_site_and_a_batch_of_one_sample(make_panel, batches_of):
    _, batches = batches_of(make_panel(mosaic(12, 61)))
    batch = batches.batch(item(1, [4]), 0)
    assert batch.window.n_snps == 1
    assert torch.isfinite(batch.features).all()


def test_haploid_samples_bring_one_row(make_panel, batches_of):
    alleles = mosaic(11, 60)
    panel, batches = batches_of(make_panel(alleles, ploidies=[2, 2, 1, 2, 1, 2, 1]))
    batch = batches.batch(item(0, [2, 3, 4]), 0)
    assert batch.row_sample.tolist() == [0, 1, 1, 2]
    own = np.concatenate([panel.own_haplotypes(s) for s in (2, 3, 4)])
    np.testing.assert_array_equal(batch.labels[:, 1:61], panel.alleles(0, 60)[own])
    others = np.setdiff1d(np.arange(11), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(batch.af[0, 1:61], alleles[others].mean(0), atol=1e-6)
