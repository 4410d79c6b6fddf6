"""What training minimises, all from logits and all summed over masked sites.

The sums are divided once, by the masked haplotype sites of the whole batch, so the loss depends
neither on batch size nor on mask rate nor on padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from snvrag.config import TrainConfig

_SURE = 1e-12


def _focal(cross_entropy: Tensor, gamma: float) -> Tensor:
    """``(1 - p)^γ (-log p)`` of ``-log p`` (Lin et al. 2017); γ = 0 is cross-entropy."""
    if gamma == 0:
        return cross_entropy
    # Below γ = 1 the power's slope at 0 is infinite, and 0 · ∞ would end the run.
    return cross_entropy * (-torch.expm1(-cross_entropy)).clamp_min(_SURE).pow(gamma)


def masked_loss(logits: Tensor, labels: Tensor, scored: Tensor, gamma: float = 0.0) -> Tensor:
    """Sum of the focal loss (Lin et al. 2017) over scored positions; γ = 0 is cross-entropy.

    ``-(1 - p)^γ log p`` with p the probability of the true allele, from logits. Divide by the
    number of scored positions of the whole batch for the mean.

    Args:
        logits: float32 [R, L], logit of ALT.
        labels: float32 [R, L], 1 for ALT.
        scored: bool [R, L], masked real sites; nothing else adds to the loss or its gradient.
    """
    chosen, truth = logits[scored], labels[scored]
    loss = F.binary_cross_entropy_with_logits(chosen, truth, reduction="none")
    return _focal(loss, gamma).sum()


def genotype_loss(
    logits: Tensor, labels: Tensor, scored: Tensor, row_sample: Tensor, gamma: float = 0.0
) -> Tensor:
    """Sum of the focal loss of the phased genotypes at scored sites.

    A diploid has four classes (0|0, 0|1, 1|0, 1|1), a haploid two. Haplotypes are independent
    given what the network saw, so ``log p(g) = Σ_h log p(allele of h)``; of the classes only the
    true one counts. With γ = 0 this is :func:`masked_loss`; with γ > 0 a genotype stays hard as
    long as either of its alleles is.

    Args:
        logits: float32 [R, L], logit of ALT.
        labels: float32 [R, L], 1 for ALT.
        scored: bool [R, L], equal for the haplotypes of one sample.
        row_sample: int64 [R], sample 0 … S-1 of each haplotype.
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    each = torch.where(scored, each, 0.0)
    n_samples = int(row_sample.max()) + 1
    joint = each.new_zeros(n_samples, each.shape[1]).index_add(0, row_sample, each)
    counted = scored.new_zeros(n_samples, each.shape[1]).index_put((row_sample,), scored)
    return _focal(joint[counted], gamma).sum()


def training_loss(
    logits: Tensor, labels: Tensor, scored: Tensor, row_sample: Tensor, config: TrainConfig
) -> Tensor:
    """Haplotype loss plus ``genotype_weight`` times genotype loss, summed over scored sites."""
    loss = masked_loss(logits, labels, scored, config.focal_gamma)
    if config.genotype_weight > 0:
        genotypes = genotype_loss(logits, labels, scored, row_sample, config.focal_gamma)
        loss = loss + config.genotype_weight * genotypes
    return loss
