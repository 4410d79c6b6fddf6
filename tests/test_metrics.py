import numpy as np
import pytest

from snvrag.dosage import PooledR2, leave_one_out_counts
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
    assert again == score


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
