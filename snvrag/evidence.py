"""What the retrieved haplotypes say about each masked site of a window.

Two things come out: a *prior* probability of ALT (the distance-weighted vote of the nearest
haplotypes), whose logit the network only ever corrects, and *features* for the network.

Only the query's alleles at observed sites are read, so a masked allele cannot reach its own
prediction.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

VOTERS = 8
PRIOR_CLIP = 1e-3
AF_CLIP = 1e-4
_RUN_POWERS = (4, 8)
# One scale per feature brings each to order one, as the network's inputs should be.
FEATURE_SCALES = (
    ("logit of the vote of the 8 nearest", 1 / 3),
    ("logit of the vote of all retrieved", 1 / 3),
    ("logit of the vote weighted by match length^4", 1 / 3),
    ("logit of the vote weighted by match length^8", 1 / 3),
    ("log longest match among ALT carriers", 1 / 3),
    ("log longest match among REF carriers", 1 / 3),
    ("allele of the nearest haplotype, +1 ALT, -1 REF", 1.0),
    ("logit of the leave-one-out ALT frequency", 1 / 3),
    ("log distance in sites to the nearest observed site to the left", 1 / 3),
    ("log distance in sites to the nearest observed site to the right", 1 / 3),
    ("log Hamming distance of the nearest haplotype", 1 / 3),
    ("concentration of the weights by match length^4", 1.0),
)
N_FEATURES = len(FEATURE_SCALES)
_FEATURE_LIMIT = 6.0


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Nearest haplotypes of a batch of queries, over a window and its flanks.

    R queries, K neighbours, C context sites, of which columns ``[first, last)`` are the window.
    """

    alleles: Tensor
    """uint8 [R, K, C]: complete alleles of the neighbours, nearest first."""
    valid: Tensor
    """bool [R, K]: False where fewer than K neighbours exist."""
    distances: Tensor
    """float32 [R, K]: Hamming distance over the sites that ranked them."""
    queries: Tensor
    """uint8 [R, C]: the queries' alleles; read at observed sites only."""
    observed: Tensor
    """bool [C]: sites that the queries were measured at."""
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence per query and window site (n = last - first)."""

    prior_logit: Tensor
    """float32 [R, n]: logit of the vote, clipped to [.001, .999]."""
    features: Tensor
    """float32 [R, n, N_FEATURES], scaled to order one."""
    nearest: Tensor
    """float32 [R, n]: allele of the single nearest haplotype, a baseline."""


def vote(weights: Tensor, alleles: Tensor, fallback: Tensor) -> Tensor:
    """Weighted share of ALT: float32 [R, n], clipped to [.001, .999].

    Args:
        weights: float32 [R, K] or [R, K, n], not negative; zero for absent neighbours.
        alleles: float32 [R, K, n].
        fallback: float32 [R, n], taken where all weights are zero.
    """
    if weights.ndim == 2:
        total = weights.sum(1, keepdim=True)
        share = torch.einsum("rk,rkn->rn", weights, alleles)
    else:
        total = weights.sum(1)
        share = (weights * alleles).sum(1)
    probability = torch.where(total > 0, share / total.clamp_min(1e-30), fallback)
    return probability.clamp(PRIOR_CLIP, 1.0 - PRIOR_CLIP)


def distance_weights(distances: Tensor, valid: Tensor) -> Tensor:
    """Vote weight of each neighbour, 1 / (1 + d)²: float32 [R, K], 0 where not valid."""
    return torch.where(valid, (1.0 + distances).pow(-2), torch.zeros_like(distances))


def match_lengths(found: Retrieved) -> Tensor:
    """Observed sites in the unbroken match around each window site: float32 [R, K, n].

    0 where the neighbour differs at the nearest observed sites to both sides.
    """
    columns = torch.nonzero(found.observed).squeeze(1)
    n_rows, n_neighbours, _ = found.alleles.shape
    sites = torch.arange(found.first, found.last, device=columns.device)
    n_observed = len(columns)
    if n_observed == 0:
        return torch.zeros(n_rows, n_neighbours, len(sites), device=columns.device)
    differs = found.alleles[:, :, columns] != found.queries[:, None, columns]
    index = torch.arange(n_observed, dtype=torch.int32, device=columns.device)
    edge = torch.full((n_rows, n_neighbours, 1), -1, dtype=torch.int32, device=columns.device)
    last = torch.where(differs, index, -1).cummax(2).values
    following = torch.where(differs, index, n_observed).flip(2).cummin(2).values.flip(2)
    # Gap g lies before observed site g: its left neighbour is g - 1, its right one g.
    left = torch.cat([edge, last], dim=2)
    right = torch.cat([following, edge + 1 + n_observed], dim=2)
    run = (right - left - 1).clamp_min(0).float()
    return run[:, :, torch.searchsorted(columns, sites)]


def gap_distances(found: Retrieved) -> tuple[Tensor, Tensor]:
    """Sites from each window site to the nearest observed site, left and right: float32 [n] each.

    An observed site is at distance 0; beyond the last observed site the context's width stands.
    """
    columns = torch.nonzero(found.observed).squeeze(1)
    width = found.observed.shape[0]
    sites = torch.arange(found.first, found.last, device=columns.device)
    padded = torch.cat([columns.new_tensor([-width]), columns, columns.new_tensor([2 * width])])
    right = padded[torch.searchsorted(columns, sites) + 1] - sites
    left = sites - padded[torch.searchsorted(columns, sites, right=True)]
    return left.clamp_max(width).float(), right.clamp_max(width).float()


def gather_evidence(found: Retrieved, af: Tensor) -> Evidence:
    """Prior and features of every query at every window site.

    Args:
        found: the retrieved haplotypes.
        af: float32 [R, n], ALT frequency among haplotypes of other samples.
    """
    alleles = found.alleles[:, :, found.first : found.last].float()
    weights = distance_weights(found.distances, found.valid)
    prior = vote(weights[:, :VOTERS], alleles[:, :VOTERS], af)
    runs = match_lengths(found)
    present = found.valid[:, :, None]
    by_run = [torch.where(present, (1.0 + runs).pow(power), 0.0) for power in _RUN_POWERS]
    sharp = by_run[0] / by_run[0].sum(1, keepdim=True).clamp_min(1e-30)
    length = torch.where(present, torch.log1p(runs), 0.0)
    left, right = gap_distances(found)
    some = found.valid[:, :1]
    nearest = torch.where(some, alleles[:, 0], (af > 0.5).float())
    closest = torch.where(some, torch.log1p(found.distances[:, :1]), 0.0)
    columns = [
        torch.logit(prior),
        torch.logit(vote(weights, alleles, af)),
        *(torch.logit(vote(weight, alleles, af)) for weight in by_run),
        (length * alleles).amax(1),
        (length * (1.0 - alleles)).amax(1),
        2.0 * nearest - 1.0,
        torch.logit(af.clamp(AF_CLIP, 1.0 - AF_CLIP)),
        torch.log1p(left).expand_as(prior),
        torch.log1p(right).expand_as(prior),
        closest.expand_as(prior),
        sharp.square().sum(1),
    ]
    scales = torch.tensor([scale for _, scale in FEATURE_SCALES], device=prior.device)
    features = (torch.stack(columns, dim=-1) * scales).clamp(-_FEATURE_LIMIT, _FEATURE_LIMIT)
    return Evidence(torch.logit(prior), features, nearest)
