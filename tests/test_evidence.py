"""The evidence of the copying model, against a slow reading of its definitions."""

import numpy as np
import pytest
import torch
from conftest import mosaic

from snvrag.copying import (
    EVIDENCE_BANK,
    N_FEATURES,
    N_LOGITS,
    REACH_CM,
    Reference,
    copying_evidence,
    copying_probability,
)
from snvrag.evidence import FEATURE_LIMIT, FEATURES
from snvrag.model import prior_logit, standardise

NEAR = 0.7


def case(n=24, sites=90, targets=3, share=0.3, seed=0, cm_per_site=0.01):
    generator = np.random.default_rng(seed)
    alleles = mosaic(n + targets, sites, seed=seed, switch_rate=0.05)
    reference, queries = alleles[:n], alleles[n:].astype(np.int8)
    observed = generator.random(sites) < share
    cm = np.cumsum(generator.uniform(0, 2 * cm_per_site, sites))
    bp = np.arange(sites, dtype=np.int64) * 500
    return reference, queries, observed, cm, bp


def slow_site(reference, query, observed, cm, site, allowed):
    """Runs around one site by walking, for every allowed haplotype."""
    columns = np.flatnonzero(observed)
    left, right = columns[columns < site], columns[columns > site]
    low = cm[left[-1]] if len(left) else cm[0]
    high = cm[right[0]] if len(right) else cm[-1]
    middle = np.float32(0.5 * (low + high))
    runs = {}
    for k in allowed:
        lefts = [cm[c] for c in left[::-1] if reference[k, c] != query[c]]
        rights = [cm[c] for c in right if reference[k, c] != query[c]]
        lefts, rights = [*lefts, cm[0], cm[0]], [*rights, cm[-1], cm[-1]]
        a, a2 = (max(x, middle - REACH_CM) for x in lefts[:2])
        b, b2 = (min(x, middle + REACH_CM) for x in rights[:2])
        runs[k] = (b - a, b2 - a2, min(middle - a, b - middle))
    return runs


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_run_features_agree_with_a_walk(share):
    reference, queries, observed, cm, bp = case(share=share)
    own = np.array([[0, 1], [4, -1], [-1, -1]])
    found = Reference.of(reference, observed)
    features = copying_evidence(found, queries[:, observed], cm, bp, exclude=own)
    checked = 0
    for t in range(3):
        allowed = np.setdiff1d(np.arange(len(reference)), own[t])
        for site in np.flatnonzero(~observed)[::5]:
            minor = reference[:, site] == found.minor_is_alt[site]
            runs = slow_site(reference, queries[t], observed, cm, site, allowed)
            groups = [[runs[k] for k in allowed if minor[k] == wanted] for wanted in (1, 0)]
            row = features[t, site]
            count = int(minor[allowed].sum())
            assert row[5] == pytest.approx(np.log2(1 + count))
            assert row[6] == pytest.approx(count / len(allowed))
            if not groups[0] or not groups[1]:
                continue
            checked += 1
            for i, group in enumerate(groups):
                by_run = sorted((r[0] for r in group), reverse=True)
                second = by_run[1] if len(by_run) > 1 else 0.0
                best = [max(r[0] for r in group), max(r[1] for r in group)]
                best += [max(r[2] for r in group), second]
                expected = np.log(np.maximum(best, 0) + 1e-4)
                np.testing.assert_allclose(row[13 + 4 * i : 17 + 4 * i], expected, atol=2e-3)
            top = [max(r[0] for r in group) for group in groups]
            tie = 1e-5
            better = sum(r[0] >= top[0] - tie for r in groups[1])
            assert row[21] == pytest.approx(np.log(1 + better), abs=1e-5)
            better = sum(r[0] >= top[1] - tie for r in groups[0])
            assert row[25] == pytest.approx(np.log(1 + better), abs=1e-5)
    assert checked >= 3


def test_posterior_features_agree_with_probabilities_of_single_settings():
    reference, queries, observed, cm, bp = case()
    found = Reference.of(reference, observed)
    features = copying_evidence(found, queries[:, observed], cm, bp)
    masked = ~observed
    for i, setting in enumerate(EVIDENCE_BANK):
        p = copying_probability(found, queries[:, observed], cm, bp, bank=(setting,))
        minor = np.where(found.minor_is_alt, p, 1 - p).astype(float).clip(1e-4, 1 - 1e-4)
        expected = np.log(minor / (1 - minor))[:, masked]
        np.testing.assert_allclose(features[:, masked, i], expected, atol=2e-3)
    weights = np.exp(features[:, masked, 10:13]) - 1e-6
    np.testing.assert_allclose(weights[..., 0], weights[..., 1:].max(-1), rtol=1e-3, atol=1e-5)
    assert (np.exp(features[:, masked, 9]) <= 1 + 1e-5).all()


def test_the_prior_is_the_copying_models_own_answer():
    reference, queries, observed, cm, bp = case()
    found = Reference.of(reference, observed)
    features = torch.from_numpy(copying_evidence(found, queries[:, observed], cm, bp))
    p = copying_probability(found, queries[:, observed], cm, bp, bank=EVIDENCE_BANK)
    minor = np.where(found.minor_is_alt, p, 1 - p)[:, ~observed]
    prior = torch.sigmoid(prior_logit(features)).numpy()[:, ~observed]
    np.testing.assert_allclose(prior, minor, atol=1.5e-4)


def test_long_contexts_in_blocks_give_what_short_ones_give():
    """More observed sites than one block of the kernel holds, and a core in their middle."""
    reference, queries, observed, cm, bp = case(sites=900, share=0.7)
    whole = copying_evidence(Reference.of(reference, observed), queries[:, observed], cm, bp)
    columns = np.flatnonzero(observed)
    at_observed = np.ascontiguousarray(reference[:, columns].T)
    part = Reference.of_core([reference.T[300:600].copy()], 300, columns, at_observed)
    some = copying_evidence(part, queries[:, observed], cm, bp)
    np.testing.assert_allclose(some, whole[:, 300:600], rtol=1e-5, atol=1e-5)


def test_masked_alleles_and_missing_calls_of_the_target_are_never_read():
    reference, queries, observed, cm, bp = case()
    found = Reference.of(reference, observed)
    calls = queries[:, observed].copy()
    calls[:, ::4] = -1
    before = copying_evidence(found, calls, cm, bp)
    still = observed.copy()
    still[np.flatnonzero(observed)[::4]] = False
    without = Reference.of(reference, still)
    after = copying_evidence(without, queries[:, still], cm, bp)
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


def test_excluded_haplotypes_leave_no_trace():
    reference, queries, observed, cm, bp = case()
    own = np.array([[0, 1]] * 3)
    judges = np.arange(len(reference)) > 1
    columns = np.flatnonzero(observed)

    def features(alleles):
        at_observed = np.ascontiguousarray(alleles[:, columns].T)
        found = Reference.of_core([alleles.T.copy()], 0, columns, at_observed, judges)
        return copying_evidence(found, queries[:, observed], cm, bp, exclude=own)

    changed = reference.copy()
    changed[:2] ^= 1
    # The sums of a row lose what was left out to rounding; a logit of 6 has four digits.
    np.testing.assert_allclose(features(reference), features(changed), atol=2e-4)


def test_an_excluded_haplotype_that_alone_matches_overflows_nothing():
    """Its likelihood exceeds the others' by thousands at every observed site."""
    reference = np.zeros((40, 400), dtype=np.uint8)
    reference[0, ::2] = 1
    reference[1, 1::2] = 1
    observed = np.arange(400) % 2 == 0
    query = reference[:1, observed].astype(np.int8)
    cm, bp = np.arange(400) * 0.01, np.arange(400, dtype=np.int64) * 1_000
    found = Reference.of(reference, observed)
    assert np.isfinite(copying_evidence(found, query, cm, bp, exclude=np.array([[0, -1]]))).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_observed_site_and_no_masked_site(share):
    reference, queries, observed, cm, bp = case(share=share)
    features = copying_evidence(Reference.of(reference, observed), queries[:, observed], cm, bp)
    assert features.shape == (3, 90, N_FEATURES)
    assert np.isfinite(features).all()
    if share == 0.0:
        frequency = np.minimum(reference.mean(0), 1 - reference.mean(0)).clip(1e-4, 1)
        p = 1 / (1 + np.exp(-features[:, :, :N_LOGITS]))
        np.testing.assert_allclose(p, np.broadcast_to(frequency[:, None], p.shape), atol=1e-4)
    else:
        assert (features == 0).all()


def test_scales_bring_real_evidence_to_order_one():
    reference, queries, observed, cm, bp = case(n=60, sites=300, targets=8)
    features = copying_evidence(Reference.of(reference, observed), queries[:, observed], cm, bp)
    z = standardise(torch.from_numpy(features[:, ~observed]))
    assert len(FEATURES) == N_FEATURES
    assert z.abs().max() <= FEATURE_LIMIT
    assert 0.05 < z.std() < 3
