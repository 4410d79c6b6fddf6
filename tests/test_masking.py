import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snvrag.config import MaskConfig
from snvrag.errors import UsageError
from snvrag.masking import (
    curriculum_rate,
    mask_probabilities,
    training_mask,
    uniform_by_row,
    validation_mask,
)

KEY = {"seed": 1, "epoch": 0, "window": 3, "batch": 0}


@given(st.integers(0, 10_000), st.integers(0, 200), st.integers(0, 200))
def test_draws_do_not_depend_on_the_slice(start, first, second):
    whole = uniform_by_row(("k",), start, start + first + second)
    left = uniform_by_row(("k",), start, start + first)
    right = uniform_by_row(("k",), start + first, start + first + second)
    np.testing.assert_array_equal(whole, np.concatenate([left, right]))


def test_draws_are_uniform_and_differ_by_key():
    draws = uniform_by_row(("a", 1), 0, 100_000)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    np.testing.assert_allclose(np.histogram(draws, 10, (0, 1))[0], 10_000, rtol=0.05)
    other = uniform_by_row(("a", 2), 0, 100_000)
    assert abs(np.corrcoef(draws, other)[0, 1]) < 0.02


def test_draws_are_pinned():
    # A change here silently changes every mask of every saved run.
    draws = uniform_by_row(("training", 42, 0, 0, 0), 0, 3)
    assert draws.tolist() == [0.43847732143175266, 0.20365526643572363, 0.524747408622655]


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"window": 4}, {"batch": 1}])
def test_mask_depends_on_each_part_of_its_key(change):
    af = np.full(500, 0.3)
    base = training_mask(af, 0, **KEY, config=MaskConfig())
    assert np.array_equal(base, training_mask(af, 0, **KEY, config=MaskConfig()))
    assert not np.array_equal(base, training_mask(af, 0, **{**KEY, **change}, config=MaskConfig()))


def test_flanks_continue_the_windows_mask():
    af = np.linspace(0, 1, 300)
    whole = training_mask(af, 100, **KEY, config=MaskConfig())
    part = training_mask(af[100:200], 200, **KEY, config=MaskConfig())
    np.testing.assert_array_equal(whole[100:200], part)


def test_rates_belong_to_their_own_site_including_both_ends():
    """ORIGINAL B7: the rate of site i came from the frequency of site i - 1."""
    af = np.array([0.01, 0.4, 0.02, 0.97, 0.5, 0.3])
    masks = np.array(
        [
            training_mask(af, 17, seed=s, epoch=0, window=0, batch=0, config=MaskConfig())
            for s in range(4000)
        ]
    )
    np.testing.assert_allclose(masks.mean(0), [0.7, 0.3, 0.7, 0.7, 0.3, 0.3], atol=0.03)


def test_rare_rate_follows_the_curriculum_once_that_is_higher():
    config = MaskConfig()
    np.testing.assert_array_equal(mask_probabilities(np.array([0.01, 0.3]), 0.8, config), 0.8)
    np.testing.assert_array_equal(mask_probabilities(np.array([0.05]), 0.3, config), 0.3)


def test_curriculum_rises_every_second_epoch_and_then_stays():
    rates = [curriculum_rate(epoch, MaskConfig()) for epoch in range(14)]
    assert rates == [0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8, 0.8, 0.8, 0.8]


def test_validation_mask_is_fixed_at_the_stated_rate():
    af = np.full(50_000, 0.3)
    mask = validation_mask(af, 0, MaskConfig())
    assert mask.mean() == pytest.approx(0.5, abs=0.01)
    # ORIGINAL B34: the rate is a value, so other curriculum levels leave it alone.
    other = validation_mask(af, 0, dataclasses.replace(MaskConfig(), levels=(0.1, 0.9)))
    np.testing.assert_array_equal(mask, other)


def test_rates_outside_zero_to_one_are_refused():
    with pytest.raises(UsageError, match=r"1\.5"):
        MaskConfig(levels=(0.3, 1.5))
