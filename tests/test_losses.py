import dataclasses
import math

import pytest
import torch

from snvrag.config import PRESET_TRAINING, TrainConfig
from snvrag.losses import genotype_loss, masked_loss, training_loss


def test_loss_ignores_everything_but_scored_positions():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, generator=generator, requires_grad=True)
    labels = (torch.rand(3, 9, generator=generator) > 0.5).float()
    scored = torch.rand(3, 9, generator=generator) > 0.5
    masked_loss(logits, labels, scored).backward()
    assert torch.equal(logits.grad != 0, scored)
    noise = torch.where(scored, labels, 1 - labels)
    assert masked_loss(logits, noise, scored) == masked_loss(logits, labels, scored)


def test_loss_of_a_perfect_prediction_is_nothing():
    """ORIGINAL B29: a second softmax left 0.0227 per perfect haplotype call."""
    labels = torch.tensor([[0.0, 1.0]])
    scored = torch.ones(1, 2, dtype=torch.bool)
    for gamma in (0.0, 2.0):
        assert masked_loss((labels * 2 - 1) * 40, labels, scored, gamma) < 1e-12


def test_focal_loss_matches_its_formula():
    logit, p = torch.tensor([[0.3]]), 1 / (1 + math.exp(-0.3))
    scored = torch.ones(1, 1, dtype=torch.bool)
    for gamma in (0.0, 0.5, 2.0):
        expected = -((1 - p) ** gamma) * math.log(p)
        value = masked_loss(logit, torch.ones(1, 1), scored, gamma).item()
        assert value == pytest.approx(expected, rel=1e-5)


def test_nothing_scored_is_zero_loss():
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert masked_loss(torch.randn(1, 2), torch.zeros(1, 2), nothing).item() == 0.0


def batch(samples=3, sites=7, padding=2, seed=0):
    """Logits, labels, scored and row_sample of diploid samples; the last columns are padding."""
    generator = torch.Generator().manual_seed(seed)
    rows, length = 2 * samples, sites + padding
    logits = torch.randn(rows, length, generator=generator)
    labels = (torch.rand(rows, length, generator=generator) > 0.5).float()
    row_sample = torch.arange(samples).repeat_interleave(2)
    scored = (torch.rand(samples, length, generator=generator) > 0.4)[row_sample]
    scored[:, sites:] = False
    return logits, labels, scored, row_sample


def mean_loss(logits, labels, scored, row_sample, config):
    """As the trainer forms it."""
    return training_loss(logits, labels, scored, row_sample, config) / scored.sum()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_mean_depends_neither_on_batch_size_nor_on_padding(gamma):
    """ORIGINAL B31, B32: a sum grew with the batch, and padding was averaged in."""
    config = TrainConfig(focal_gamma=gamma, genotype_weight=0.5)
    logits, labels, scored, row_sample = batch()
    once = mean_loss(logits, labels, scored, row_sample, config)
    twice = mean_loss(
        logits.repeat(2, 1),
        labels.repeat(2, 1),
        scored.repeat(2, 1),
        torch.cat([row_sample, row_sample + 3]),
        config,
    )
    torch.testing.assert_close(once, twice)
    cut = mean_loss(logits[:, :7], labels[:, :7], scored[:, :7], row_sample, config)
    torch.testing.assert_close(once, cut)


def test_the_focus_on_hard_sites_is_a_choice_and_off_by_default():
    """ORIGINAL B37: γ = 5 left next to nothing of all but the hardest sites."""
    assert {config.focal_gamma for config in PRESET_TRAINING.values()} == {0.0}

    def slope(gamma):
        # p of the truth: one half, and nine tenths.
        logits = torch.tensor([[0.0, math.log(9.0)]], requires_grad=True)
        masked_loss(logits, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), gamma).backward()
        return (logits.grad[0, 1] / logits.grad[0, 0]).item()

    assert slope(0.0) == pytest.approx(0.2)
    assert slope(5.0) < 1e-3 < slope(2.0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_certain_and_right_prediction_has_a_finite_slope(gamma):
    logits = torch.tensor([[200.0, 0.1]], requires_grad=True)
    masked_loss(logits, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), gamma).backward()
    assert logits.grad[0, 0] == 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_genotype_loss_is_that_of_the_four_phased_classes(gamma):
    logits, labels, scored, row_sample = batch()
    alt = torch.sigmoid(logits.double())
    total = 0.0
    for sample in range(3):
        first, second = alt[2 * sample], alt[2 * sample + 1]
        # 0|0, 0|1, 1|0, 1|1
        classes = torch.stack([(1 - first) * (1 - second), (1 - first) * second])
        classes = torch.cat([classes, torch.stack([first * (1 - second), first * second])])
        torch.testing.assert_close(classes.sum(0), torch.ones_like(first))
        truth = (2 * labels[2 * sample] + labels[2 * sample + 1]).long()
        p = classes.gather(0, truth[None])[0]
        each = -((1 - p) ** gamma) * p.log()
        total += each[scored[2 * sample]].sum()
    found = genotype_loss(logits, labels, scored, row_sample, gamma)
    assert found.item() == pytest.approx(total.item(), rel=1e-5)


def test_haploid_samples_have_two_genotype_classes():
    logits, labels, scored, _ = batch()
    alone = torch.arange(len(logits))
    for gamma in (0.0, 2.0):
        found = genotype_loss(logits, labels, scored, alone, gamma)
        torch.testing.assert_close(found, masked_loss(logits, labels, scored, gamma))


def test_without_focus_the_genotype_loss_says_nothing_new():
    """Why its weight is 0 by default: Σ_h -log p(h) is the haplotypes' cross-entropy."""
    logits, labels, scored, row_sample = batch()
    genotypes = genotype_loss(logits, labels, scored, row_sample, 0.0)
    torch.testing.assert_close(genotypes, masked_loss(logits, labels, scored, 0.0))
    focused = genotype_loss(logits, labels, scored, row_sample, 2.0)
    assert focused > masked_loss(logits, labels, scored, 2.0)


def test_a_perfect_genotype_costs_nothing_and_unscored_sites_get_no_gradient():
    """ORIGINAL B29: a second softmax left 0.2047 per perfect genotype call."""
    logits, labels, scored, row_sample = batch()
    for gamma in (0.0, 2.0):
        assert genotype_loss((labels * 2 - 1) * 40, labels, scored, row_sample, gamma) < 1e-10
        logits.requires_grad_().grad = None
        genotype_loss(logits, labels, scored, row_sample, gamma).backward()
        assert torch.equal(logits.grad != 0, scored)


def test_the_weights_are_constant_factors():
    """ORIGINAL B36: weights that jumped tenfold with the size of the loss."""
    plain = TrainConfig(focal_gamma=2.0)
    weighted = dataclasses.replace(plain, genotype_weight=0.25)
    for scale in (0.01, 1.0, 30.0):
        logits, labels, scored, row_sample = batch()
        logits = logits * scale
        haplotypes = training_loss(logits, labels, scored, row_sample, plain)
        both = training_loss(logits, labels, scored, row_sample, weighted)
        genotypes = genotype_loss(logits, labels, scored, row_sample, 2.0)
        torch.testing.assert_close(both, haplotypes + 0.25 * genotypes)
