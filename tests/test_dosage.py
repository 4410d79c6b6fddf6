"""INFO/CR2: an expectation, held to the expectation itself."""

from itertools import product

import numpy as np
import pytest

from snvrag.dosage import estimated_r2, variance_ratio


def expectations(hds):
    """Over all truths: E[cov²] / (var(HDS) E[var]), and E[r²] where the true alleles vary."""
    squared = spread = r2 = varies = 0.0
    for true in product((0, 1), repeat=len(hds)):
        weight = np.prod([h if t else 1 - h for h, t in zip(hds, true, strict=True)])
        cov, var = np.cov([hds, true], bias=True)[0, 1], np.var(true)
        squared, spread = squared + weight * cov**2, spread + weight * var
        if var:
            r2, varies = r2 + weight * cov**2 / (np.var(hds) * var), varies + weight
    return squared / (np.var(hds) * spread), r2 / varies


@pytest.mark.parametrize(
    ("hds", "tolerance"),
    [
        ([0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1e-9),
        ([0.4, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0.06),
        ([0.3, 0.01, 0.02, 0.01, 0.01, 0.0, 0.01, 0.02], 0.02),
        ([0.9, 0.8, 0.1, 0.2, 0.3, 0.7, 0.6, 0.1], 0.02),
        ([1.0, 0.99, 0.5, 1.0, 1.0, 1.0, 0.97, 1.0], 0.02),
    ],
)
def test_cr2_is_the_expected_squared_correlation(hds, tolerance):
    """Exactly the ratio of expectations, and near to the expectation of the ratio."""
    ratio, expected = expectations(hds)
    found = estimated_r2(np.array([hds]))[0]
    assert found == pytest.approx(ratio, abs=1e-12)
    assert found == pytest.approx(expected, abs=tolerance)
    assert found >= variance_ratio(np.array([hds]))[0]


def test_cr2_of_known_of_constant_and_of_two_haplotypes():
    hds = np.array([[0.0, 1.0, 1.0, 0.0], [0.5] * 4, [0.1] * 4, [0.0] * 4, [1.0] * 4])
    for formula in (estimated_r2, variance_ratio):
        np.testing.assert_array_equal(formula(hds), [1, 0, 0, 0, 0])
    p = 0.4
    np.testing.assert_allclose(variance_ratio(np.array([[0.2, 0.6] * 2])), 0.04 / (p * (1 - p)))
    pair = np.array([[0.01, 0.0], [0.0, 1.0], [0.3, 0.3]], dtype=np.float32)
    np.testing.assert_array_equal(estimated_r2(pair), variance_ratio(pair))
    assert estimated_r2(pair)[0] < 0.02
    assert estimated_r2(pair[:, :1]).tolist() == [0, 0, 0]


def test_cr2_counts_both_alleles_alike_and_tends_to_the_variance_ratio():
    generator = np.random.default_rng(3)
    hds = generator.beta(0.1, 0.6, (20, 30))
    np.testing.assert_allclose(estimated_r2(hds), estimated_r2(1 - hds), atol=1e-12)
    gaps = [
        np.abs(estimated_r2(np.tile(hds, n)) - variance_ratio(np.tile(hds, n))).max()
        for n in (1, 10, 100, 1000)
    ]
    assert gaps[0] > 0.005
    np.testing.assert_allclose(np.divide(gaps[1:], gaps[:-1]), 0.1, rtol=0.1)
    assert ((estimated_r2(hds) > 0) & (estimated_r2(hds) <= 1)).all()
