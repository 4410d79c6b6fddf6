import dataclasses

import numpy as np
import pytest
import torch

from snvrag.evidence import (
    N_FEATURES,
    PRIOR_CLIP,
    Retrieved,
    distance_weights,
    gap_distances,
    gather_evidence,
    match_lengths,
    vote,
)


def make_retrieved(seed=0, rows=3, k=10, sites=40, first=8, last=30, rate=0.5):
    generator = np.random.default_rng(seed)
    alleles = generator.integers(0, 2, (rows, k, sites)).astype(np.uint8)
    queries = generator.integers(0, 2, (rows, sites)).astype(np.uint8)
    observed = generator.random(sites) < rate
    distances = np.sort((alleles != queries[:, None])[:, :, observed].sum(2), axis=1)
    return Retrieved(
        alleles=torch.from_numpy(alleles),
        valid=torch.ones(rows, k, dtype=torch.bool),
        distances=torch.from_numpy(distances.astype(np.float32)),
        queries=torch.from_numpy(queries),
        observed=torch.from_numpy(observed),
        first=first,
        last=last,
    )


def slow_match_length(found, row, k, site):
    """Walk outwards from the gap that the site lies in, over observed sites."""
    columns = np.flatnonzero(found.observed.numpy())
    same = (found.alleles[row, k] == found.queries[row]).numpy()
    right = [c for c in columns if c >= site]
    left = [c for c in columns if c < site][::-1]
    length = 0
    for side in (left, right):
        for column in side:
            if not same[column]:
                break
            length += 1
    return length


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_match_lengths_agree_with_a_walk(rate):
    found = make_retrieved(rate=rate)
    found.alleles[0, 0] = found.queries[0]
    fast = match_lengths(found)
    for row in range(3):
        for k in range(10):
            for i, site in enumerate(range(found.first, found.last)):
                assert fast[row, k, i] == slow_match_length(found, row, k, site)


def test_gap_distances():
    observed = torch.zeros(10, dtype=torch.bool)
    observed[[1, 6]] = True
    found = dataclasses.replace(make_retrieved(sites=10), observed=observed, first=0, last=10)
    left, right = gap_distances(found)
    assert left.tolist() == [10, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert right.tolist() == [1, 0, 4, 3, 2, 1, 0, 10, 10, 10]


def test_vote_is_the_distance_weighted_share():
    alleles = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]])
    weights = distance_weights(torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[True, True, False]]))
    assert weights.tolist() == [[1.0, 0.25, 0.0]]
    share = vote(weights, alleles, torch.full((1, 2), 0.3))
    assert share[0].tolist() == pytest.approx([1.0 / 1.25, PRIOR_CLIP])


def test_without_neighbours_the_frequency_stands_in():
    found = make_retrieved()
    none = torch.zeros_like(found.valid)
    found = dataclasses.replace(found, valid=none, distances=torch.full_like(found.distances, -1.0))
    af = torch.rand(3, 22)
    evidence = gather_evidence(found, af)
    torch.testing.assert_close(torch.sigmoid(evidence.prior_logit), af.clamp(1e-3, 1 - 1e-3))
    assert torch.isfinite(evidence.features).all()


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_evidence_is_finite_and_shaped(rate):
    evidence = gather_evidence(make_retrieved(rate=rate), torch.rand(3, 22))
    assert evidence.features.shape == (3, 22, N_FEATURES)
    assert evidence.prior_logit.shape == evidence.nearest.shape == (3, 22)
    assert torch.isfinite(evidence.features).all()


def test_masked_alleles_of_the_query_cannot_change_its_evidence():
    found = make_retrieved()
    flipped = torch.where(found.observed, found.queries, 1 - found.queries)
    af = torch.rand(3, 22)
    before = gather_evidence(found, af)
    after = gather_evidence(dataclasses.replace(found, queries=flipped), af)
    assert torch.equal(before.features, after.features)
    assert torch.equal(before.prior_logit, after.prior_logit)


def test_an_observed_mismatch_does_change_the_evidence():
    found = make_retrieved()
    flipped = torch.where(found.observed, 1 - found.queries, found.queries)
    af = torch.rand(3, 22)
    assert not torch.equal(
        gather_evidence(found, af).features,
        gather_evidence(dataclasses.replace(found, queries=flipped), af).features,
    )
