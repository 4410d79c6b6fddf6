"""AdamW, its learning rate, and the one gradient step that all ranks take together."""

import math

import torch
from torch import nn

from snvrag.config import ModelConfig, TrainConfig
from snvrag.distributed import Ranks
from snvrag.errors import WorkError

_FINAL_LR_SHARE = 0.1
SMALLER_STEPS = "use a smaller --lr"


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Learning rate of optimiser step ``step`` (from 0): linear warm-up, then cosine to a tenth."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, total_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (_FINAL_LR_SHARE + (1.0 - _FINAL_LR_SHARE) * cosine)


def rows_that_fit(config: ModelConfig, max_seq_len: int, memory: int) -> int:
    """Haplotype rows per micro-batch whose activations fit ``memory`` bytes, at least 2.

    Counted: about 20 vectors of D floats per token and layer kept for the backward pass, and 12
    more plus 3 for each encoded haplotype around them.
    """
    per_token = 20 * config.layers + 12 + 3 * config.k
    return max(2, memory // (4 * config.dims * max_seq_len * per_token))


def make_optimizer(
    model: nn.Module, config: TrainConfig, device: torch.device
) -> torch.optim.AdamW:
    """AdamW; one fused kernel for all parameters on CUDA."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )


def gradient_step(
    optimizer: torch.optim.Optimizer, ranks: Ranks, scored: float, lr: float, clip: float
) -> None:
    """Step down the mean gradient over all scored sites of the step.

    Every rank holds gradients of *sums* of the loss, so their sum over ranks divided by ``scored``
    is the gradient of one process that saw everything, however the samples were dealt out. A step
    without any scored site leaves weights and moments alone.

    Args:
        optimizer: its parameters hold the gradients; they are None afterwards.
        ranks: all of them call this together.
        scored: scored positions of the step on all ranks.
        lr: learning rate of this step.
        clip: largest norm of the mean gradient.

    Raises:
        WorkError: on all ranks, the gradient is infinite or not a number; weights stay as they are.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    if scored:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        ranks.sum_gradients(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_div_(gradients, scored)
        # The sum over ranks is the same on all of them, so all raise or none.
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip).item()
        if not math.isfinite(norm):
            raise WorkError(f"the norm of the gradient became {norm}", SMALLER_STEPS)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
