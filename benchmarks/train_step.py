"""One training step of ``base`` beside a plain network of the original's operations.

    python benchmarks/train_step.py [--samples 4] [--threads 1] [--repeats 3] [--device cpu|cuda]

Equal dims, layers, heads and length (384 x 12 x 12, 512 tokens), the same number of samples, both
haplotypes, K = 1; forward, loss, backward, clipping, optimiser; retrieval and evidence are left
out of both. On the CPU the two alternate and CPU seconds (user + system) count. On CUDA ours
alone runs, in bfloat16, against the rate of a bfloat16 matrix product on the same card.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snvrag.config import PRESET_TRAINING, PRESETS
from snvrag.copying import N_FEATURES
from snvrag.distributed import Ranks, set_precision
from snvrag.losses import masked_loss
from snvrag.model import RagBert
from snvrag.optimizer import gradient_step, make_optimizer

LENGTH = 512
BASE = PRESETS["base"]
D = BASE.dims


class PlainEmbedding(nn.Module):
    """Token + position + frequency, the frequency encoded for every haplotype anew; then fused."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(12, D, padding_idx=0)
        self.rates = nn.Parameter(torch.logspace(0, 2, 32))
        self.encoder = nn.Sequential(nn.Linear(64, D), nn.LayerNorm(D), nn.GELU(), nn.Linear(D, D))
        self.register_buffer("position", torch.randn(LENGTH, D))
        self.convolutions = nn.Sequential(
            nn.Conv1d(1, 4, 9, padding=4),
            nn.LeakyReLU(0.05),
            nn.BatchNorm1d(4),
            nn.Conv1d(4, 4, 9, padding=4),
            nn.LeakyReLU(0.05),
            nn.BatchNorm1d(4),
            nn.Conv1d(4, 1, 9, padding=4),
        )
        self.mix = nn.Linear(D + 2, D)
        self.norm = nn.LayerNorm(D)

    def forward(self, tokens: Tensor, af: Tensor) -> Tensor:
        """[B, L] to [B, L, D]."""
        angle = 2 * torch.pi * af[..., None] * self.rates
        encoded = self.encoder(torch.cat([angle.sin(), angle.cos()], -1))
        x = F.dropout(self.token(tokens) + self.position + encoded, 0.1, True)
        place = torch.linspace(0, 1, LENGTH).expand(len(x), 1, LENGTH)
        place = self.convolutions(place).transpose(1, 2)
        mixed = F.leaky_relu(self.mix(torch.cat([x, place, af[..., None]], -1)), 0.1)
        return self.norm(x + mixed)


class PlainFusion(nn.Module):
    """One retrieved haplotype, weighted by channel and by rarity, added to the query."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, D), nn.Sigmoid())
        self.encoder = nn.Sequential(nn.Linear(2, D), nn.LayerNorm(D), nn.GELU())
        self.adapter = nn.Sequential(
            nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D), nn.Sigmoid()
        )
        self.joint = nn.Sequential(
            nn.Linear(2 * D, 4 * D), nn.GELU(), nn.Linear(4 * D, D), nn.LayerNorm(D)
        )
        self.scales = nn.Parameter(torch.tensor([0.1, 0.1]))

    def forward(self, query: Tensor, retrieved: Tensor, af: Tensor) -> Tensor:
        """[B, L, D]."""
        pair = torch.stack([af, af], -1)
        context = self.gate(pair) * self.encoder(pair) * self.scales[0] + af[..., None]
        fused = self.joint(torch.cat([query, retrieved * self.adapter(context)], -1))
        rarity = torch.log1p(1 / (torch.minimum(af, 1 - af) + 1e-6)).clamp(max=3)
        return query + self.scales[1] * fused * rarity[..., None]


class PlainBlock(nn.Module):
    """Post-norm; attention written out; dropout on its weights; LeakyReLU and a wide norm."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(D, D) for _ in range(4))
        self.norms = nn.ModuleList([nn.LayerNorm(D), nn.LayerNorm(D), nn.LayerNorm(4 * D)])
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D]."""
        rows = len(x)

        def heads(y: Tensor) -> Tensor:
            return y.view(rows, LENGTH, BASE.heads, -1).transpose(1, 2)

        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        weights = F.dropout((q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1), 0.1, True)
        mixed = self.out((weights @ v).transpose(1, 2).reshape(rows, LENGTH, D))
        x = F.dropout(self.norms[0](x + mixed), 0.1, True)
        wide = self.norms[2](F.leaky_relu(self.up(x), 0.1))
        fed = F.dropout(F.leaky_relu(self.down(wide), 0.1), 0.1, True)
        x = F.dropout(self.norms[1](x + fed), 0.1, True)
        return F.dropout(x, 0.1, True)


class PlainNetwork(nn.Module):
    """The two haplotypes of a sample in two passes through the same layers; three heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fusion = PlainEmbedding(), PlainFusion()
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(BASE.layers))
        self.head = nn.Sequential(
            *(nn.Linear(D + 2, 4 * D), nn.GELU(), nn.Linear(4 * D, D), nn.LayerNorm(D)),
            *(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, 2)),
        )
        self.genotype = nn.Sequential(
            *(nn.Linear(7, 16), nn.LeakyReLU(), nn.LayerNorm(16)),
            *(nn.Linear(16, 16), nn.LeakyReLU(), nn.Linear(16, 16), nn.Linear(16, 4)),
        )

    def forward(self, tokens: Tensor, retrieved: Tensor, af: Tensor) -> tuple[list[Tensor], Tensor]:
        """Tokens [2, B, L] to probabilities [B, L, 2] of both haplotypes and [B, L, 4]."""
        answers = []
        for haplotype, donor in zip(tokens, retrieved, strict=True):
            x = self.fusion(self.embedding(haplotype, af), self.embedding(donor, af), af)
            for block in self.blocks:
                x = block(x)
            pair = torch.stack([af, af], -1)
            answers.append(self.head(torch.cat([x, pair], -1)).softmax(-1))
        frequencies = torch.stack([(1 - af) ** 2, 2 * af * (1 - af), af**2], -1)
        genotype = self.genotype(torch.cat([*answers, frequencies], -1)).softmax(-1)
        return answers, genotype


def focal_sum(probability: Tensor, truth: Tensor, masked: Tensor) -> Tensor:
    """Summed focal loss, gamma 2, on a second softmax as the original has it."""
    p = probability.softmax(-1)[masked].gather(1, truth[masked][:, None])
    return -((1 - p) ** 2 * torch.log(p + 1e-10)).sum()


def plain_step(samples: int) -> Callable[[], None]:
    """A step of the plain network on random data, with Adam."""
    torch.manual_seed(0)
    network = PlainNetwork().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, weight_decay=0.01)
    tokens, donors = torch.randint(5, 7, (2, 2, samples, LENGTH))
    truth = tokens - 5
    masked = torch.rand(samples, LENGTH) < 0.5
    tokens[:, masked] = 4
    af = torch.rand(LENGTH).expand(samples, LENGTH)

    def step() -> None:
        haplotypes, genotype = network(tokens, donors, af)
        loss = 4 * focal_sum(genotype, 2 * truth[0] + truth[1], masked)
        for answer, alleles in zip(haplotypes, truth, strict=True):
            loss = loss + 3 * focal_sum(answer, alleles, masked)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_step(samples: int, device: torch.device, *, compiled: bool = False) -> Callable[[], None]:
    """A step of ``base`` on random data of the same shape."""
    torch.manual_seed(0)
    network = RagBert(BASE, LENGTH).to(device).train()
    if compiled:
        network.compile_blocks()
    optimizer = make_optimizer(network, PRESET_TRAINING["base"], device)
    rows = 2 * samples
    tokens = torch.randint(3, 5, (rows, LENGTH))
    labels = (tokens == 4).float()
    masked = torch.rand(rows, LENGTH) < 0.5
    inputs = {
        "tokens": torch.where(masked, 2, tokens),
        "af": torch.rand(LENGTH).expand(samples, LENGTH),
        "row_sample": torch.arange(samples).repeat_interleave(2),
        "retrieved": torch.randint(3, 5, (rows, BASE.k, LENGTH)),
        "distances": torch.ones(rows, BASE.k),
        "valid": torch.ones(rows, BASE.k, dtype=torch.bool),
        "features": torch.rand(rows, LENGTH, N_FEATURES),
        "sign": torch.ones(LENGTH),
    }
    inputs = {name: value.to(device) for name, value in inputs.items()}
    labels, masked = labels.to(device), masked.to(device)
    scored = int(masked.sum())

    def step() -> None:
        network.key_rows((0,), np.arange(samples).repeat(2))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(**inputs)
        masked_loss(logits, labels, masked).backward()
        gradient_step(optimizer, Ranks(device=device), scored, 1e-5, 1.0)

    return step


def model_flops(rows: int) -> float:
    """Floating-point operations of a step in matrix products, backward counted twice forward."""
    layer = 24 * D * D + 4 * LENGTH * D
    around = 2 * (4 * D * D) + 2 * (D + N_FEATURES) * D
    return 3.0 * rows * LENGTH * (BASE.layers * layer + around)


def seconds_on_cuda(work: Callable[[], None], repeats: int) -> float:
    """Seconds per call, after three calls to warm up."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def measure_cuda(samples: int, repeats: int) -> None:
    """Tokens per second and model-FLOPs utilisation against a matrix product."""
    device = torch.device("cuda")
    set_precision(device)
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device=device)

    def product() -> None:
        torch.mm(a, a)

    peak = 2 * 8192**3 / seconds_on_cuda(product, 50)
    print(f"{torch.cuda.get_device_name()}: bf16 matrix product {peak / 1e12:.0f} TFLOP/s")
    for compiled in (False, True):
        seconds = seconds_on_cuda(our_step(samples, device, compiled=compiled), repeats)
        rate = model_flops(2 * samples) / seconds
        print(
            f"base, batch {samples}{', compiled' if compiled else ''}: {1000 * seconds:.1f} ms, "
            f"{2 * samples * LENGTH / seconds:,.0f} tokens/s, {rate / peak:.1%} of that rate"
        )


def measure_cpu(samples: int, threads: int, repeats: int) -> None:
    """Alternate the two and print the best of each in CPU and wall seconds."""
    torch.set_num_threads(threads)
    steps = {"plain": plain_step(samples), "snvrag": our_step(samples, torch.device("cpu"))}
    best = {name: (float("inf"), float("inf")) for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            spent = (time.process_time() - cpu, time.perf_counter() - wall)
            if repeat:  # the first only warms up
                best[name] = min(best[name], spent)
    for name, (cpu, wall) in best.items():
        print(f"{name:7} {cpu:6.2f} CPU s {wall:6.2f} wall s  {samples / cpu:.3f} samples/CPU s")
    print(f"ratio {best['plain'][0] / best['snvrag'][0]:.2f} ({threads} threads, batch {samples})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, help="samples per batch; 4, on CUDA 72")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    if given.device == "cuda":
        measure_cuda(given.samples or 72, given.repeats)
    else:
        measure_cpu(given.samples or 4, given.threads, given.repeats)


if __name__ == "__main__":
    main()
