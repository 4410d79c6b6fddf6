from itertools import pairwise

import numpy as np
import pytest

from snvrag.dosage import BIN_EDGES, PooledR2, frequency_bin, leave_one_out_counts
from snvrag.metrics import Score


def test_pooled_r2_is_the_squared_correlation_however_it_is_fed():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 500).astype(float)
    dosage = truth * 0.7 + generator.random(500)
    pooled = PooledR2()
    for part in range(0, 500, 90):
        pooled.add(truth[part : part + 90], dosage[part : part + 90])
    assert pooled.value() == pytest.approx(np.corrcoef(truth, dosage)[0, 1] ** 2, rel=1e-10)


def test_pooled_r2_of_a_constant_is_undefined():
    pooled = PooledR2()
    pooled.add(np.array([0.0, 1.0]), np.array([0.1, 0.1]))
    assert np.isnan(pooled.value())
    assert np.isnan(PooledR2().value())


def make_score(seed=0):
    generator = np.random.default_rng(seed)
    rows, sites = 6, 50
    af = generator.random(sites)
    truth = (generator.random((rows, sites)) < af).astype(np.float32)
    probability = np.clip(truth * 0.6 + generator.random((rows, sites)) * 0.4, 0, 1)
    row_sample = np.array([0, 0, 1, 1, 2, 2])
    scored = (generator.random((3, sites)) < 0.6)[row_sample]
    score = Score()
    score.add(probability, truth, scored, row_sample, af, 0.05)
    return score, probability, truth, scored, af


def test_figures_count_the_minor_allele_of_scored_sites_only():
    score, probability, truth, scored, af = make_score()
    p = np.where(af > 0.5, 1 - probability, probability)
    t = np.where(af > 0.5, 1 - truth, truth)
    guess, carried = (p > 0.5)[scored], (t > 0.5)[scored]
    figures = score.summary()
    assert figures["accuracy"] == pytest.approx((guess == carried).mean())
    assert figures["precision"] == pytest.approx(carried[guess].mean())
    assert figures["recall"] == pytest.approx(guess[carried].mean())
    likelihood = np.where(carried, p[scored], 1 - p[scored])
    assert figures["loss"] == pytest.approx(-np.log(np.maximum(likelihood, 1e-7)).mean())
    both = scored[::2]
    dosage, true_dosage = p[::2] + p[1::2], t[::2] + t[1::2]
    expected = np.corrcoef(dosage[both], true_dosage[both])[0, 1] ** 2
    assert figures["r2"] == pytest.approx(expected)


def test_rare_and_common_split_at_the_threshold_on_either_side():
    score = Score()
    af = np.array([0.01, 0.99, 0.05, 0.5])
    ones = np.ones((2, 4))
    score.add(ones, ones, ones.astype(bool), np.array([0, 0]), af, 0.05)
    assert score.groups["rare"].n == 4
    assert score.groups["common"].n == 4


def test_truth_against_itself_is_perfect():
    _, _, truth, scored, af = make_score()
    score = Score()
    score.add(truth, truth, scored, np.array([0, 0, 1, 1, 2, 2]), af, 0.05)
    figures = score.summary()
    assert figures["accuracy"] == figures["f1"] == pytest.approx(1.0)
    assert figures["r2"] == pytest.approx(1.0)


def test_state_survives_json():
    import json

    score = make_score()[0]
    again = Score.from_state(json.loads(json.dumps(score.state())))
    assert again.state() == score.state()
    assert again.summary() == pytest.approx(score.summary(), nan_ok=True)


def test_parts_scored_apart_and_merged_are_the_whole():
    """By samples, as ranks and micro-batches cut, and by sites, as windows do."""
    whole, probability, truth, scored, af = make_score()
    pairs = np.array([0, 0, 1, 1, 2, 2])
    by_sample, by_site = Score(), Score()
    for rows in (slice(0, 2), slice(2, 6)):
        part = Score()
        own = pairs[rows] - pairs[rows][0]
        part.add(probability[rows], truth[rows], scored[rows], own, af, 0.05)
        by_sample.merge(Score.from_state(part.state()))
    for sites in (slice(0, 13), slice(13, 50)):
        part = Score()
        part.add(probability[:, sites], truth[:, sites], scored[:, sites], pairs, af[sites], 0.05)
        by_site.merge(part)
    for merged in (by_sample, by_site):
        assert merged.summary() == pytest.approx(whole.summary(), nan_ok=True, rel=1e-9)


def test_r2_by_frequency_uses_the_bins_of_evaluate():
    generator = np.random.default_rng(3)
    samples, sites = 40, 300
    af = generator.choice([0.0, 0.005, 0.0050001, 0.03, 0.05, 0.2, 0.5, 0.8, 0.97], sites)
    truth = (generator.random((2 * samples, sites)) < np.maximum(af, 0.02)).astype(float)
    probability = np.clip(truth * 0.5 + generator.random(truth.shape) * 0.5, 0, 1)
    pairs = np.repeat(np.arange(samples), 2)
    score = Score()
    score.add(probability, truth, np.ones(truth.shape, dtype=bool), pairs, af, 0.05)
    figures = score.summary()
    maf = np.minimum(af, 1 - af)
    for low, high in pairwise(BIN_EDGES):
        inside = (maf > low + (1e-9 if low else 0)) & (maf <= high + 1e-9)
        value = figures[f"r2_maf_{high:g}"]
        if not inside.any():
            assert np.isnan(value)
            continue
        flip = af[inside] > 0.5
        p, t = probability[:, inside], truth[:, inside]
        p, t = np.where(flip, 1 - p, p), np.where(flip, 1 - t, t)
        dosage, true_dosage = p[::2] + p[1::2], t[::2] + t[1::2]
        expected = np.corrcoef(dosage.ravel(), true_dosage.ravel())[0, 1] ** 2
        assert value == pytest.approx(expected, rel=1e-9), high
    assert not np.isnan(figures["r2_maf_0.005"])
    assert np.isnan(figures["r2_maf_0.1"])


def test_frequencies_on_an_edge_belong_to_the_bin_that_ends_there():
    found = frequency_bin(np.array([0.0, 0.005, 24 / 480, 0.0500001, 0.5, 1e-9]))
    assert found.tolist() == [-1, 0, 3, 4, 6, 0]


def test_calibration_error_is_that_of_twenty_bins():
    score, probability, truth, scored, af = make_score(1)
    p = np.where(af > 0.5, 1 - probability, probability)[scored]
    t = np.where(af > 0.5, 1 - truth, truth)[scored]
    place = np.minimum((p * 20).astype(int), 19)
    expected = sum(
        (place == b).sum() / len(p) * abs(p[place == b].mean() - t[place == b].mean())
        for b in np.unique(place)
    )
    assert score.summary()["ece"] == pytest.approx(expected)


def test_calibrated_probabilities_have_a_small_error_and_squeezed_ones_a_large_one():
    """ORIGINAL B29: the second softmax confined P(ALT) to 0.269 … 0.731."""
    generator = np.random.default_rng(0)
    p = generator.beta(0.3, 0.3, (40, 2000))
    truth = (generator.random(p.shape) < p).astype(float)
    pairs, everything = np.repeat(np.arange(20), 2), np.ones(p.shape, dtype=bool)
    af = np.full(2000, 0.4)
    errors = []
    for answer in (p, np.exp(p) / (np.exp(p) + np.exp(1 - p))):
        score = Score()
        score.add(answer, truth, everything, pairs, af, 0.05)
        errors.append(score.summary()["ece"])
    assert errors[0] < 0.01
    assert errors[1] > 0.15


def test_nothing_scored_is_undefined_not_zero():
    assert all(np.isnan(value) for value in Score().summary().values())


def test_leave_one_out_counts():
    counts, totals = leave_one_out_counts(
        np.array([3, 1, 4]),
        np.array([8, 8, 7]),
        np.array([[1, 1, 2], [0, 0, 0]]),
        np.array([[2], [0]]),
    )
    assert counts.tolist() == [[2, 0, 2], [3, 1, 4]]
    assert totals.tolist() == [[6, 6, 5], [8, 8, 7]]
