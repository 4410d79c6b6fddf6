import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snvrag.config import MaskConfig
from snvrag.errors import UsageError
from snvrag.masking import (
    MaskMaker,
    MaskPattern,
    curriculum_rate,
    mask_probabilities,
    uniform_by_row,
)

KEY = {"epoch": 0, "window": 3, "batch": 0}
GUIDED = MaskConfig(array_share=0.0, random_share=0.0)
ARRAY = MaskConfig(array_share=1.0, random_share=0.0)
RANDOM = MaskConfig(array_share=0.0, random_share=1.0)


def maker(af, config=GUIDED, *, seed=1, spacing=100, chromosomes=None, listed=None):
    """Masks over sites ``spacing`` bp apart, on one chromosome unless told."""
    af = np.asarray(af, dtype=np.float32)
    positions = 1 + spacing * np.arange(len(af), dtype=np.int64)
    return MaskMaker(
        chromosomes or [("1", len(af))], positions, af, config, seed=seed, listed=listed
    )


def sites(n, seed=0):
    """A maker of ``n`` sites on two chromosomes with clustered positions and skewed AF."""
    generator = np.random.default_rng(seed)
    first = n // 3
    positions = np.concatenate(
        [np.sort(generator.integers(1, 20_000, k)) for k in (first, n - first)]
    )
    af = (generator.random(n) ** 3).astype(np.float32)
    listed = generator.random(n) < 0.1
    return [("1", first), ("2", n - first)], positions, af, listed


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


@pytest.mark.parametrize("config", [GUIDED, RANDOM, ARRAY], ids=["guided", "random", "array"])
@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"window": 4}, {"batch": 1}])
def test_mask_depends_on_each_part_of_its_key(change, config):
    def mask(seed=1, **key):
        return maker(np.full(500, 0.3), config, seed=seed).training(0, 500, **{**KEY, **key})

    assert np.array_equal(mask(), mask())
    assert not np.array_equal(mask(), mask(**change))


@given(st.data())
def test_a_mask_is_the_same_in_every_slice(data):
    """ORIGINAL B3, and flanks that continue the window's mask, for every pattern."""
    n = data.draw(st.integers(3, 120))
    chromosomes, positions, af, listed = sites(n, data.draw(st.integers(0, 50)))
    masks = MaskMaker(chromosomes, positions, af, MaskConfig(), seed=1, listed=listed)
    edges = [0, chromosomes[0][1], n]
    side = data.draw(st.integers(0, 1))
    a, b, c = sorted(data.draw(st.integers(edges[side], edges[side + 1])) for _ in range(3))
    pattern = data.draw(
        st.sampled_from(
            [
                MaskPattern("guided", 0.4),
                MaskPattern("random", 0.2),
                MaskPattern("sites"),
                *(MaskPattern("array", size, 0.7) for size in (1.0, 37.0, 2000.0, 1e6)),
            ]
        )
    )
    whole = masks.mask(pattern, ("k",), a, c)
    parts = [masks.mask(pattern, ("k",), a, b), masks.mask(pattern, ("k",), b, c)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    window = data.draw(st.integers(0, 9))
    whole = masks.validation(a, c, window=window)
    parts = [masks.validation(a, b, window=window), masks.validation(b, c, window=window)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@given(st.integers(1, 150), st.integers(0, 100), st.sampled_from([1.0, 50.0, 2000.0, 4500.0]))
def test_array_like_masks_observe_one_common_site_per_bin(n, seed, size):
    generator = np.random.default_rng(seed)
    positions = np.sort(generator.integers(1, 30_000, n))
    af = (generator.random(n) ** 3).astype(np.float32)
    masks = MaskMaker([("1", n)], positions, af, MaskConfig(), seed=1)
    offset = float(generator.random())
    observed = ~masks.mask(MaskPattern("array", size, offset), ("k", seed), 0, n)
    common = np.minimum(af.astype(float), 1 - af.astype(float)) >= 0.05
    assert not (observed & ~common).any()
    number = (positions + int(offset * size)) // int(size)
    chosen = number[observed]
    # Exactly one in every bin that has a candidate.
    np.testing.assert_array_equal(chosen, np.unique(number[common]))


def test_every_candidate_of_a_bin_is_chosen_equally_often_including_both_ends():
    af = [0.3, 0.01, 0.5, 0.96, 0.94, 0.06]
    masks = maker(af, ARRAY)
    pattern = MaskPattern("array", 10_000.0)
    draws = [~masks.mask(pattern, ("k", i), 0, 6) for i in range(4000)]
    np.testing.assert_allclose(np.mean(draws, axis=0), [0.25, 0, 0.25, 0, 0.25, 0.25], atol=0.03)


def test_array_grid_is_shifted_at_random_by_up_to_one_bin():
    masks = maker(np.full(400, 0.3), ARRAY)
    patterns = [masks.training_pattern(epoch=0, window=w, batch=0) for w in range(3000)]
    offsets = np.array([p.offset for p in patterns])
    np.testing.assert_allclose(np.histogram(offsets, 5, (0, 1))[0], 600, rtol=0.15)
    sizes, counts = np.unique([p.value for p in patterns], return_counts=True)
    assert sizes.tolist() == [2000, 3000, 4500]
    np.testing.assert_allclose(counts, 1000, rtol=0.15)
    # 40 kb of dense common sites: one observed site per 2, 3 or 4.5 kb.
    observed = [(~masks.training(0, 400, epoch=0, window=w, batch=0)).sum() for w in range(300)]
    expected = [40_000 / p.value for p in patterns[:300]]
    assert np.abs(np.array(observed) - expected).max() <= 2


def test_rates_belong_to_their_own_site_including_both_ends():
    """ORIGINAL B7: the rate of site i came from the frequency of site i - 1."""
    af = np.array([0.01, 0.4, 0.02, 0.97, 0.5, 0.3])
    padded = np.concatenate([np.full(17, 0.5), af, np.full(5, 0.01)])
    drawn = [maker(padded, seed=s).training(17, 23, **KEY) for s in range(4000)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), [0.7, 0.3, 0.7, 0.7, 0.3, 0.3], atol=0.03)


def test_random_masks_have_the_rates_of_the_list_at_every_site():
    masks = maker([0.01, 0.4, 0.02, 0.97], RANDOM)
    for share in RANDOM.random_observed:
        pattern = MaskPattern("random", share)
        drawn = [~masks.mask(pattern, ("k", i), 0, 4) for i in range(4000)]
        np.testing.assert_allclose(np.mean(drawn, axis=0), share, atol=0.03)
    values = [masks.training_pattern(epoch=0, window=w, batch=0).value for w in range(4000)]
    found, counts = np.unique(values, return_counts=True)
    assert tuple(found) == RANDOM.random_observed
    np.testing.assert_allclose(counts, 1000, rtol=0.15)


def test_listed_sites_alone_are_observed_by_their_pattern():
    listed = np.zeros(40, dtype=bool)
    listed[[0, 7, 39]] = True
    config = MaskConfig(sites_share=1.0)
    masks = maker(np.full(40, 0.3), config, listed=listed)
    np.testing.assert_array_equal(masks.training(0, 40, **KEY), ~listed)
    np.testing.assert_array_equal(masks.training(5, 10, **KEY), ~listed[5:10])


def test_shares_of_the_patterns():
    def counted(masks):
        names = [
            masks.training_pattern(epoch=e, window=w, batch=b).name
            for e in range(4)
            for w in range(500)
            for b in range(2)
        ]
        return {name: names.count(name) / len(names) for name in set(names)}

    plain = maker(np.full(40, 0.3), MaskConfig())
    assert plain.shares == pytest.approx(
        {"guided": 0.4, "array": 0.35, "random": 0.25, "sites": 0.0}
    )
    assert counted(plain) == pytest.approx({"guided": 0.4, "array": 0.35, "random": 0.25}, abs=0.03)
    listed = maker(np.full(40, 0.3), MaskConfig(), listed=np.ones(40, dtype=bool))
    expected = {"guided": 0.2, "array": 0.175, "random": 0.125, "sites": 0.5}
    assert listed.shares == pytest.approx(expected)
    assert counted(listed) == pytest.approx(expected, abs=0.03)
    assert counted(maker(np.full(40, 0.3), GUIDED)) == {"guided": 1.0}
    assert counted(maker(np.full(40, 0.3), ARRAY)) == {"array": 1.0}


def test_the_default_mixture_reaches_from_30_to_97_percent_masked():
    generator = np.random.default_rng(0)
    # Frequencies and density of sequence data: 10 sites per kb, a quarter of them common.
    af = np.where(generator.random(20_000) < 0.25, generator.uniform(0.05, 0.5, 20_000), 0.01)
    windows = [(i, i + 500) for i in range(0, 20_000, 500)]
    training, validation = maker(af, MaskConfig()).realised_rates(windows)
    assert training["guided"] == pytest.approx(0.3 * 0.25 + 0.7 * 0.75, abs=0.02)
    assert training["array"] > 0.95
    assert 0.5 <= training["random"] <= 0.95
    assert validation["guided"] == pytest.approx(0.5 * 0.25 + 0.7 * 0.75, abs=0.02)
    assert validation["array"] == pytest.approx(1 - 1 / 30, abs=0.005)
    assert validation["random"] == pytest.approx(0.9, abs=0.01)


def test_rare_rate_follows_the_curriculum_once_that_is_higher():
    config = MaskConfig()
    np.testing.assert_array_equal(mask_probabilities(np.array([0.01, 0.3]), 0.8, config), 0.8)
    np.testing.assert_array_equal(mask_probabilities(np.array([0.05]), 0.3, config), 0.3)


def test_curriculum_rises_every_second_epoch_and_then_stays():
    rates = [curriculum_rate(epoch, MaskConfig()) for epoch in range(14)]
    assert rates == [0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8, 0.8, 0.8, 0.8]
    masks = maker(np.full(2000, 0.3))
    drawn = [masks.training(0, 2000, epoch=e, window=0, batch=0).mean() for e in range(14)]
    np.testing.assert_allclose(drawn, rates, atol=0.04)


def test_validation_patterns_take_turns_at_their_stated_rates():
    masks = maker(np.full(60_000, 0.3), MaskConfig())
    names = [masks.validation_pattern(w).name for w in range(5)]
    assert names == ["guided", "array", "random", "guided", "array"]
    rates = [masks.validation(0, 60_000, window=w).mean() for w in range(3)]
    np.testing.assert_allclose(rates, [0.5, 1 - 1 / 30, 0.9], atol=0.01)
    listed = maker(np.full(9, 0.3), MaskConfig(), listed=np.ones(9, dtype=bool))
    names = [listed.validation_pattern(w).name for w in range(5)]
    assert names == ["sites", "guided", "array", "random", "sites"]
    config = MaskConfig(validation_patterns=("random",))
    assert maker(np.full(9, 0.3), config).validation_pattern(4).name == "random"


def test_validation_masks_never_change():
    """ORIGINAL B33: the same sites are scored in every epoch, run and version."""
    digests = set()
    for seed in (1, 2):
        masks = maker(np.linspace(0, 1, 2000), MaskConfig(), seed=seed)
        own = [masks.validation(0, 2000, window=w) for w in range(6)]
        digests.add(hashlib.sha256(np.packbits(own).tobytes()).hexdigest())
    assert digests == {"bbecda48ecad51500505112dd1c1354b480a22f8e7088bde72366bd131749412"}


def test_validation_rate_is_a_value_not_a_place_in_the_curriculum():
    """ORIGINAL B34: other levels made a validation rate of 50 % one of 70 %."""
    af = np.full(3000, 0.3)
    changed = dataclasses.replace(
        MaskConfig(), levels=(0.1, 0.9), array_spacing=(100.0,), random_observed=(0.9,)
    )
    for window in range(3):
        np.testing.assert_array_equal(
            maker(af, MaskConfig()).validation(0, 3000, window=window),
            maker(af, changed).validation(0, 3000, window=window),
        )


def test_masks_are_equal_in_another_process():
    """ORIGINAL B4-B6: workers drew other masks than the process that built the index."""
    script = (
        "import numpy as np, hashlib; from snvrag.config import MaskConfig;"
        "from snvrag.masking import MaskMaker;"
        "m = MaskMaker([('1', 900)], 1 + 100 * np.arange(900), np.linspace(0, 1, 900,"
        "dtype=np.float32), MaskConfig(), seed=1);"
        "d = [m.training(0, 900, epoch=e, window=w, batch=b)"
        "for e in (0, 3) for w in range(9) for b in (0, 1)];"
        "print(hashlib.sha256(np.packbits(d).tobytes()).hexdigest())"
    )
    masks = maker(np.linspace(0, 1, 900, dtype=np.float32), MaskConfig())
    drawn = [
        masks.training(0, 900, epoch=e, window=w, batch=b)
        for e in (0, 3)
        for w in range(9)
        for b in (0, 1)
    ]
    expected = hashlib.sha256(np.packbits(drawn).tobytes()).hexdigest()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hash_seed},
        )
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("af", [0.0, 0.01, 1.0, 0.5])
def test_windows_of_one_site_and_windows_without_a_common_site(af):
    masks = maker(np.full(12, af), MaskConfig(), listed=np.zeros(12, dtype=bool))
    for window in range(12):
        for start, end in ((0, 1), (11, 12), (0, 12), (5, 5)):
            own = masks.training(start, end, epoch=0, window=window, batch=0)
            assert own.shape == (end - start,)
            assert masks.validation(start, end, window=window).shape == (end - start,)
    if af != 0.5:
        assert masks.mask(MaskPattern("array", 50.0), ("k",), 0, 12).all()


def test_time_follows_the_slice_not_the_chromosome(monkeypatch):
    asked = []

    def counted(key, start, end):
        asked.append(end - start)
        return uniform_by_row(key, start, end)

    masks = maker(np.full(100_000, 0.3), ARRAY)
    monkeypatch.setattr("snvrag.masking.uniform_by_row", counted)
    masks.training(50_000, 50_511, **KEY)
    assert max(asked) <= 511 + 2 * 45


def test_a_slice_over_two_chromosomes_is_refused():
    masks = maker(np.full(20, 0.3), ARRAY, chromosomes=[("1", 10), ("2", 10)])
    with pytest.raises(ValueError, match="two chromosomes"):
        masks.training(8, 12, **KEY)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"levels": (0.3, 1.5)}, r"1\.5"),
        ({"array_share": 0.8, "random_share": 0.3}, "--array-share"),
        ({"random_share": -0.1}, "--random-share"),
        ({"sites_share": 2.0}, "--sites-share"),
        ({"array_spacing": ()}, "--array-spacing"),
        ({"array_spacing": (0.0,)}, "--array-spacing"),
        ({"random_observed": (1.2,)}, r"1\.2"),
        ({"validation_patterns": ()}, "--validation-patterns"),
        ({"validation_patterns": ("guided", "dense")}, "dense"),
    ],
)
def test_settings_out_of_range_are_refused(values, word):
    with pytest.raises(UsageError, match=word):
        MaskConfig(**values)


def test_validation_by_sites_needs_a_list():
    with pytest.raises(UsageError, match="'sites'") as caught:
        maker([0.3], MaskConfig(validation_patterns=("sites",)))
    assert "--array-sites" in caught.value.hint
