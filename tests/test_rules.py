"""Bug rules that no other file of tests holds; docs/rules.md lists all of them."""

import time

import numpy as np
import pytest
import torch
from conftest import panel_cohorts

from snvrag.batch_plan import BatchPlan, plan_epoch
from snvrag.config import MaskConfig, ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.dataset import WindowBatches, ranking_sites
from snvrag.genetic_map import GeneticMap
from snvrag.index_store import IndexStore
from snvrag.losses import training_loss
from snvrag.model import FrequencyEncoder, build_network
from snvrag.panel import Panel
from snvrag.sites import SiteTable, match_sites
from snvrag.tokens import ALT, MASK, N_TOKENS, PAD, REF, SOS
from snvrag.windows import WindowPlan

CONFIG = RunConfig(
    WindowConfig(60, 64),
    MaskConfig(),
    ModelConfig(dims=16, heads=2, layers=1, k=3, af_frequencies=4, dropout=0.0),
    TrainConfig(batch_size=8),
)


@pytest.fixture
def batches(mosaic_panel, tmp_path):
    """Batches of the mosaic panel, samples 0 and 1 held out."""
    with Panel.open(mosaic_panel) as panel:
        plan = WindowPlan.from_chromosomes(panel.chromosomes(), CONFIG.windows)
        with IndexStore.open(tmp_path / "index", panel, plan) as store:
            cohorts = panel_cohorts(panel, store, (0, 1))
            cm = GeneticMap.uniform().along(panel.chromosomes(), panel.positions)
            yield WindowBatches(panel, store, plan, CONFIG, cohorts, cm, torch.device("cpu"))


def item(window, samples, number=0):
    return BatchPlan(window, number, np.array(samples))


@pytest.mark.parametrize("epoch", [0, 1, 5, None])
def test_query_and_reference_share_the_mask_in_every_epoch(batches, epoch):
    """B3, B4, B5: neighbours are the nearest at the batch's own observed sites, epoch 0 included.

    Brute force over the alleles, in every window, in training and in validation.
    """
    panel, plan = batches.panel, batches.plan
    samples = [0, 1] if epoch is None else [4, 9, 17]
    for window in plan.windows:
        batch = batches.batch(item(window.index, samples), epoch)
        near = plan.context(window.index, CONFIG.train.flank_windows)
        start, end = plan.windows[near[0]].start, plan.windows[near[-1]].end
        observed = ~batches.mask(item(window.index, samples), epoch, start, end)
        sites = ranking_sites(observed, window.start - start, window.end - start, CONFIG.train)
        alleles = panel.alleles(start, end)[:, sites].astype(int)
        row = 0
        for sample in samples:
            own = panel.own_haplotypes(sample)
            for haplotype in own:
                distance = np.abs(alleles - alleles[haplotype]).sum(1)
                distance[[*own, *panel.own_haplotypes(0), *panel.own_haplotypes(1)]] = 10_000
                order = np.argsort(distance, kind="stable")[: CONFIG.model.k]
                assert batch.distances[row].tolist() == distance[order].tolist()
                inside = panel.alleles(window.start, window.end)[order]
                tokens = batch.retrieved[row, :, 1 : 1 + window.n_snps].numpy()
                assert np.array_equal(tokens, inside + REF)
                row += 1


def test_all_samples_of_a_batch_share_one_mask_that_their_alleles_do_not_decide(batches):
    """B2: masks that followed each sample's genotypes told them."""
    tokens = batches.batch(item(1, [4, 9, 17]), 0).tokens
    masked = tokens == MASK
    assert masked.any()
    assert (masked == masked[0]).all()
    others = batches.batch(item(1, [5, 6]), 0).tokens == MASK
    assert torch.equal(others[0], masked[0])


def test_the_order_of_samples_within_a_batch_only_orders_the_rows(batches):
    """B18: results were appended by window, and the batch's order was lost."""
    samples = [4, 9, 17]
    order = [2, 0, 1]
    straight = batches.batch(item(2, samples), 0)
    turned = batches.batch(item(2, [samples[i] for i in order]), 0)
    rows = torch.tensor([2 * i + h for i in order for h in (0, 1)])
    for name in ("tokens", "retrieved", "distances", "valid", "labels", "scored", "nearest"):
        assert torch.equal(getattr(turned, name), getattr(straight, name)[rows]), name
    torch.testing.assert_close(turned.features, straight.features[rows])
    assert torch.equal(turned.af, straight.af[order])


def loss_of(network, batch):
    loss = training_loss(
        network(**batch.inputs()), batch.labels, batch.scored, batch.row_sample, CONFIG.train
    )
    return loss / batch.scored.sum()


def test_other_weights_change_what_is_fused_and_build_no_index(batches):
    """B9, B15: the index is never stale, and the retrieved path is live and learns.

    An optimiser step changes the fused features; neighbours stay the nearest; nothing is rebuilt.
    """
    torch.manual_seed(0)
    network = build_network(CONFIG.model, 64)
    # Without this the head hides whatever is fused, as it corrects nothing yet.
    torch.nn.init.normal_(network.head.mix.weight, std=0.3)
    fused = []
    network.fusion.register_forward_hook(lambda module, args, output: fused.append(output.detach()))
    before = batches.batch(item(1, [4, 9]), 0)
    builds = batches.store.stats.builds
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    loss_of(network, before).backward()
    assert network.embedding.token.weight.grad[[REF, ALT]].abs().sum() > 0
    optimizer.step()
    after = batches.batch(item(1, [4, 9]), 0)
    with torch.no_grad():
        network(**after.inputs())
    assert (fused[0] - fused[1]).abs().max() > 1e-3
    assert torch.equal(before.retrieved, after.retrieved)
    assert torch.equal(before.distances, after.distances)
    assert batches.store.stats.builds == builds > 0


def test_the_graph_does_not_grow_with_the_number_of_haplotypes(batches):
    """B52: one copy node per haplotype, from writing sample by sample into a big tensor."""
    network = build_network(CONFIG.model, 64)

    def nodes(batch):
        seen, left = set(), [loss_of(network, batch).grad_fn]
        while left:
            node = left.pop()
            if node is not None and node not in seen:
                seen.add(node)
                left += [parent for parent, _ in node.next_functions]
        return len(seen)

    few, many = ([4, 9], [4, 5, 6, 7, 8, 9, 10, 11])
    assert nodes(batches.batch(item(1, few), 0)) == nodes(batches.batch(item(1, many), 0))


def test_neighbouring_frequencies_are_told_apart():
    """B42: as one raw number the allele frequency was lost among the dims."""
    encoder = FrequencyEncoder(ModelConfig(dims=16, heads=2, af_frequencies=32))
    angle = 2 * torch.pi * torch.tensor([0.01, 0.02, 0.3, 0.31])[:, None] * encoder.rates
    features = torch.cat([angle.sin(), angle.cos()], dim=-1)
    for a, b in ((0, 1), (2, 3)):
        assert (features[a] - features[b]).norm() > 1.0
    encoded = encoder(torch.tensor([0.01, 0.02]))
    assert (encoded[0] - encoded[1]).norm() > 0.05


def test_the_vocabulary_is_fixed():
    """B56: its size followed the populations of the panel at hand."""
    assert sorted([PAD, SOS, MASK, REF, ALT]) == list(range(N_TOKENS))
    assert build_network(CONFIG.model, 64).embedding.token.weight.shape == (N_TOKENS, 16)


def test_planning_an_epoch_of_a_million_items_is_arithmetic():
    """B48: asking every item for its window took 20 minutes. Measured 0.04 s."""
    began = time.process_time()
    plans = plan_epoch(np.arange(2500), np.arange(400), 72, seed=1, epoch=3)
    assert time.process_time() - began < 1.0
    assert sum(len(plan.samples) for plan in plans) == 1_000_000


def test_matching_two_files_of_150_000_sites_is_no_product_of_their_sizes():
    """B23: position by position it took minutes. Measured 0.7 s."""
    generator = np.random.default_rng(0)
    alleles = np.array(["A", "C", "G", "T"])

    def table(n):
        pos = np.sort(generator.choice(10_000_000, n, replace=False))
        ref = generator.integers(0, 4, n)
        chrom = np.full(n, "21")
        return SiteTable(chrom, pos, np.full(n, "."), alleles[ref], alleles[(ref + 1) % 4])

    whole = table(150_000)
    shifted = SiteTable(whole.chrom, whole.pos + 1, whole.id, whole.ref, whole.alt)
    for target in (whole, shifted):
        began = time.process_time()
        match = match_sites(whole, target)
        seconds = time.process_time() - began
        assert len(match.panel_rows) + len(match.excluded) == 150_000
        assert seconds < 3.0
        if target is whole:
            assert np.array_equal(match.panel_rows, match.target_rows)
            assert len(match.panel_rows) == 150_000
