"""The networks: RAG-BERT, a transformer over one window's tokens fused with retrieved haplotypes,
and the light network, which looks at each site's evidence alone. Both end in the same head.

* One row is one haplotype of one window: ``[SOS, s_1 … s_n, PAD …]``, L = ``max_seq_len`` tokens.
* Embedding = token + sinusoidal position + Fourier features of the ALT frequency.
* Retrieved haplotypes are embedded complete (unmasked), with gradient, by the same embedding,
  pooled over K by a learned softmax and gated into the query before the transformer.
* Pre-norm blocks with fused attention; padding takes no part in attention.
* The output logit is ``prior + f (Σ_i a_i (X_i - prior) + v)``: the copying model's logit, moved
  towards the logits X_i of single settings of its bank, and shifted. The layers that make a and v
  start at zero, so an untrained network predicts exactly what the copying model does. f is 1
  near the range of evidence that training saw and falls to 0 far outside of it.
* Evidence and head are about the panel's minor allele; the answer is turned to ALT at the end.

Pure torch: no files, no command line, no retrieval.
"""

import hashlib
import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from snvrag.config import ModelConfig
from snvrag.copying import N_FEATURES, N_LOGITS, SURE_LOGIT
from snvrag.evidence import COUNT_FEATURE, FEATURE_LIMIT, NOBODY, SCALE, SHIFT
from snvrag.tokens import MASK, N_TOKENS, PAD, REF, SOS


def to_sequence(x: Tensor, max_seq_len: int, *, first: float = 0, fill: float = 0) -> Tensor:
    """Shift per-site values behind the SOS and pad them: [..., n] becomes [..., max_seq_len].

    Every per-site array goes through here, which is what keeps tokens, mask, frequency, evidence
    and labels in step: site i stands at position i + 1.
    """
    padding = max_seq_len - 1 - x.shape[-1]
    if padding < 0:
        raise ValueError(f"{x.shape[-1]} sites and one SOS do not fit {max_seq_len} tokens")
    sos = x.new_full((*x.shape[:-1], 1), first)
    return torch.cat([sos, x, x.new_full((*x.shape[:-1], padding), fill)], dim=-1)


def allele_tokens(alleles: Tensor, max_seq_len: int, masked: Tensor | None = None) -> Tensor:
    """Token rows of 0/1 alleles: int64 [..., max_seq_len]; MASK where ``masked`` [n] is True."""
    tokens = alleles.long() + REF
    if masked is not None:
        tokens = torch.where(masked, MASK, tokens)
    return to_sequence(tokens, max_seq_len, first=SOS, fill=PAD)


def sinusoidal_positions(length: int, dims: int) -> Tensor:
    """Sine and cosine position code of Vaswani et al. 2017: float32 [length, dims]."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dims, 2, dtype=torch.float32) * (-math.log(1e4) / dims))
    code = torch.zeros(length, dims)
    code[:, 0::2] = torch.sin(position * rate)
    code[:, 1::2] = torch.cos(position * rate)
    return code


class FrequencyEncoder(nn.Module):
    """Fourier features of the ALT frequency, then a two-layer MLP: [..., L] to [..., L, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # Rates from 1 to 100 tell apart frequencies from a half down to a hundredth.
        self.rates = nn.Parameter(torch.logspace(0, 2, config.af_frequencies))
        self.mlp = nn.Sequential(
            nn.Linear(2 * config.af_frequencies, config.dims),
            nn.GELU(),
            nn.Linear(config.dims, config.dims),
        )

    def forward(self, af: Tensor) -> Tensor:
        """Encode ALT frequencies in [0, 1]."""
        angle = 2 * math.pi * af[..., None] * self.rates
        encoded: Tensor = self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return encoded


class SiteEmbedding(nn.Module):
    """Token + position + frequency, the additive embedding shared by query and reference."""

    def __init__(self, config: ModelConfig, max_seq_len: int) -> None:
        super().__init__()
        self.token = nn.Embedding(N_TOKENS, config.dims, padding_idx=PAD)
        self.frequency = FrequencyEncoder(config)
        self.register_buffer(
            "position", sinusoidal_positions(max_seq_len, config.dims), persistent=False
        )
        nn.init.normal_(self.token.weight, std=0.5)
        with torch.no_grad():
            self.token.weight[PAD].zero_()

    def context(self, af: Tensor) -> Tensor:
        """The part that all haplotypes of a sample share: position + frequency, [..., L, D]."""
        position: Tensor = self.get_buffer("position")
        shared: Tensor = self.frequency(af) + position
        return shared

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Embed tokens int [..., L] within ``context`` [..., L, D]."""
        embedded: Tensor = self.token(tokens) + context
        return embedded

    def fingerprint(self) -> str:
        """Hex digest of the embedding's weights, which an ``embedding`` index depends on."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class SiteEmbedder:
    """A :class:`SiteEmbedding` as the embedding index calls it: numpy, eval mode, no gradient."""

    def __init__(self, embedding: SiteEmbedding) -> None:
        self.embedding = embedding
        self.fingerprint = embedding.fingerprint()

    def __call__(self, tokens: NDArray[np.int64], af: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed tokens int64 [n, L] with frequencies float32 [L] to float32 [n, L, D]."""
        training = self.embedding.training
        self.embedding.eval()
        try:
            with torch.no_grad():
                context = self.embedding.context(torch.from_numpy(af))
                embedded = self.embedding(torch.from_numpy(tokens), context)
        finally:
            self.embedding.train(training)
        return np.asarray(embedded.numpy(), dtype=np.float32)


class RetrievalFusion(nn.Module):
    """Pool K retrieved haplotypes per site and gate them into the query."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.score = nn.Linear(config.dims, 1, bias=False)
        # Pooling starts near the weights 1 / (1 + d)², d the Hamming distance.
        self.sharpness = nn.Parameter(torch.tensor(2.0))
        self.gate = nn.Linear(3 * config.dims, config.dims)
        self.value = nn.Linear(config.dims, config.dims)

    def forward(
        self, query: Tensor, retrieved: Tensor, distances: Tensor, valid: Tensor, context: Tensor
    ) -> Tensor:
        """Fuse.

        Args:
            query: [R, L, D].
            retrieved: [R, K, L, D], embedded complete haplotypes.
            distances: float32 [R, K], Hamming.
            valid: bool [R, K].
            context: [R, L, D], position and frequency.

        Returns:
            [R, L, D]; equal to ``query`` for a row without any valid neighbour.
        """
        score = (
            self.score(retrieved).squeeze(-1) - self.sharpness * torch.log1p(distances)[..., None]
        )
        score = score.masked_fill(~valid[..., None], -1e9)
        pooled = torch.einsum("rkl,rkld->rld", score.softmax(dim=1), retrieved)
        gate = torch.sigmoid(self.gate(torch.cat([query, pooled, context], dim=-1)))
        some = valid.any(dim=1)[:, None, None]
        return query + torch.where(some, gate * self.value(pooled), 0.0)


class RowDropout(nn.Module):
    """Dropout whose draws on the CPU belong to the row, not to its place in the batch.

    After :meth:`key_rows` a row meets the same draws whatever micro-batch or process it is in and
    whatever ran before, so results depend on neither. They also cost a sixth of torch's own
    there. On CUDA, or without keys, it is :func:`torch.nn.functional.dropout`.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        # In steps of 2**-16, since four draws are cut from each 64-bit number.
        self.p = round(p * 2**16) / 2**16
        self._streams: list[np.random.SFC64] = []

    def key_rows(self, key: tuple[int, ...], samples: NDArray[np.integer]) -> None:
        """Name the rows of the next forward pass: ``key`` and sample number [R] of each.

        A sample's rows stand together; its haplotypes are told apart by their order.
        """
        if self.p == 0.0:
            return
        first = np.r_[True, samples[1:] != samples[:-1]]
        haplotype = np.arange(len(samples)) - np.maximum.accumulate(
            np.where(first, np.arange(len(samples)), 0)
        )
        self._streams = [
            np.random.SFC64(np.random.SeedSequence([*key, int(sample), int(h)]))
            for sample, h in zip(samples, haplotype, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of [R, L, D]."""
        if not self.training or self.p == 0.0:
            return x
        if x.device.type != "cpu" or len(self._streams) != len(x):
            return F.dropout(x, self.p, True)
        kept: Tensor = x * self._keep(x[0].shape).mul_(1.0 / (1.0 - self.p)).to(x.dtype)
        return kept

    def _keep(self, shape: torch.Size) -> Tensor:
        """Float32 [R, *shape] of 0 and 1."""
        size = math.prod(shape)
        keep = torch.empty(len(self._streams), size)
        limit = round(self.p * 2**16) - 2**15
        for row, stream in zip(keep, self._streams, strict=True):
            draws = torch.from_numpy(stream.random_raw(-(-size // 4)).view(np.int16)[:size])
            torch.ge(draws, limit, out=row)
        return keep.view(-1, *shape)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a four-fold GELU feed-forward layer."""

    def __init__(self, config: ModelConfig, dropout: RowDropout) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(config.dims)
        self.qkv = nn.Linear(config.dims, 3 * config.dims)
        self.out = nn.Linear(config.dims, config.dims)
        self.norm_feed = nn.LayerNorm(config.dims)
        self.up = nn.Linear(config.dims, 4 * config.dims)
        self.down = nn.Linear(4 * config.dims, config.dims)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """Transform [R, L, D]; ``attend`` bool [R, 1, 1, L] is False at padding, None if none."""
        rows, length, dims = x.shape
        qkv = self.qkv(self.norm_attention(x))
        # Shape: 3 x (R, H, L, D / H)
        q, k, v = qkv.view(rows, length, 3, self.heads, dims // self.heads).permute(2, 0, 3, 1, 4)
        # No dropout on the attention weights: with it, the CPU has no fused kernel.
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        mixed = self.out(mixed.transpose(1, 2).reshape(rows, length, dims))
        x = x + self.dropout(mixed)
        fed = self.down(F.gelu(self.up(self.norm_feed(x))))
        out: Tensor = x + self.dropout(fed)
        return out


def standardise(features: Tensor) -> Tensor:
    """Columns [..., N_FEATURES] shifted, scaled to order one and clamped."""
    shift, scale = features.new_tensor(SHIFT), features.new_tensor(1.0 / SCALE)
    return ((features - shift) * scale).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)


def prior_logit(features: Tensor) -> Tensor:
    """Logit of the minor allele by the copying model alone: [...] of [..., N_FEATURES]."""
    return torch.logit(torch.sigmoid(features[..., :N_LOGITS]).mean(dim=-1))


def is_sure(features: Tensor) -> Tensor:
    """:func:`snvrag.evidence.is_sure` of a tensor."""
    logits = features[..., :N_LOGITS]
    return (logits.amax(dim=-1) < -SURE_LOGIT) | (logits.amin(dim=-1) > SURE_LOGIT)


class CopyingHead(nn.Module):
    """From a site's hidden vector and its evidence to the logit of the minor allele.

    Where all settings of the copying model are sure and agree, theirs is the answer.
    """

    low: Tensor
    high: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.mix = nn.Linear(dims, N_LOGITS)
        self.shift = nn.Linear(dims, 1)
        for layer in (self.mix, self.shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("low", torch.full((N_FEATURES,), -math.inf))
        self.register_buffer("high", torch.full((N_FEATURES,), math.inf))

    def set_range(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """The range in which the network is to be trusted: float32 [N_FEATURES] each."""
        self.low.copy_(torch.from_numpy(low))
        self.high.copy_(torch.from_numpy(high))

    def trust(self, features: Tensor) -> Tensor:
        """1 up to a unit of each column's scale outside the range, 0 from two units on: [...]."""
        outside = torch.maximum(self.low - features, features - self.high)
        worst = (outside * features.new_tensor(1.0 / SCALE)).amax(dim=-1)
        return (2.0 - worst).clamp(0.0, 1.0)

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        """Logit float32 [..., L] of ``hidden`` [..., L, D] and raw ``features`` [..., L, F]."""
        prior = prior_logit(features)
        towards = features[..., :N_LOGITS] - prior[..., None]
        delta = (self.mix(hidden).float() * towards).sum(-1) + self.shift(hidden)[..., 0].float()
        if not self.training:
            delta = delta * self.trust(features)
        delta = torch.where(is_sure(features), 0.0, delta)
        # Where nobody else carries the minor allele there is nothing to learn: nobody has it.
        return torch.where(features[..., COUNT_FEATURE] > 0, prior + delta, NOBODY)


class Network(nn.Module):
    """What both networks share: their inputs, and the way their answer is given."""

    def forward(
        self,
        tokens: Tensor,
        af: Tensor,
        row_sample: Tensor,
        retrieved: Tensor,
        distances: Tensor,
        valid: Tensor,
        features: Tensor,
        sign: Tensor,
    ) -> Tensor:
        """Logit of ALT at every position: float32 [R, L].

        Args:
            tokens: int64 [R, L], R haplotypes.
            af: float32 [S, L], ALT frequency as seen by each of S samples.
            row_sample: int64 [R], the sample (row of ``af``) of each haplotype.
            retrieved: int64 [R, K, L], tokens of the retrieved haplotypes, complete.
            distances: float32 [R, K].
            valid: bool [R, K].
            features: float32 [R, L, N_FEATURES], evidence as the copying model gives it.
            sign: float32 [L], 1 where the minor allele is ALT, -1 where it is REF.
        """
        raise NotImplementedError

    def key_rows(self, key: tuple[int, ...], samples: NDArray[np.integer]) -> None:
        """Name the rows of the next forward pass; see :meth:`RowDropout.key_rows`."""

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Let torch.compile fuse, with one of its backends, what most of the time goes into."""
        raise NotImplementedError

    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


class LightNetwork(Network):
    """A perceptron over each site's evidence; it looks at nothing else."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [N_FEATURES, *[config.dims] * config.layers]
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.GELU(approximate="tanh")]
        self.body = nn.Sequential(*layers)
        self.head = CopyingHead(config.dims)

    def forward(
        self,
        tokens: Tensor,
        af: Tensor,
        row_sample: Tensor,
        retrieved: Tensor,
        distances: Tensor,
        valid: Tensor,
        features: Tensor,
        sign: Tensor,
    ) -> Tensor:
        """See :meth:`Network.forward`."""
        return sign * self.refine(features)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """See :meth:`Network.compile_blocks`."""
        self.body.compile(backend=backend)

    def refine(self, features: Tensor) -> Tensor:
        """Logit of the minor allele, float32 [...], of raw evidence [..., N_FEATURES]."""
        # Most sites are sure ones, which no network is asked about.
        asked = ~is_sure(features)
        some = features[asked]
        refined: Tensor = self.head(self.body(standardise(some)), some)
        sure = torch.where(features[..., COUNT_FEATURE] > 0, prior_logit(features), NOBODY)
        return sure.masked_scatter(asked, refined)


class RagBert(Network):
    """The transformer; see the module's docstring."""

    def __init__(self, config: ModelConfig, max_seq_len: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = SiteEmbedding(config, max_seq_len)
        self.fusion = RetrievalFusion(config)
        self.evidence = nn.Linear(N_FEATURES, config.dims)
        self.dropout = RowDropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, self.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dims)
        self.hidden = nn.Linear(config.dims + N_FEATURES, config.dims)
        self.head = CopyingHead(config.dims)

    def key_rows(self, key: tuple[int, ...], samples: NDArray[np.integer]) -> None:
        """See :meth:`Network.key_rows`."""
        self.dropout.key_rows(key, samples)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile the blocks; one compiled body serves all of them."""
        for block in self.blocks:
            block.compile(backend=backend)

    def forward(
        self,
        tokens: Tensor,
        af: Tensor,
        row_sample: Tensor,
        retrieved: Tensor,
        distances: Tensor,
        valid: Tensor,
        features: Tensor,
        sign: Tensor,
    ) -> Tensor:
        """See :meth:`Network.forward`."""
        context = self.embedding.context(af)[row_sample]
        query = self.embedding(tokens, context)
        donors = self.embedding(retrieved, context[:, None])
        # There is evidence at masked sites only.
        z = torch.where((tokens == MASK)[..., None], standardise(features), 0.0)
        x = self.fusion(query, donors, distances, valid, context) + self.evidence(z)
        real = tokens != PAD
        attend = None if bool(real.all()) else real[:, None, None, :]
        for block in self.blocks:
            x = block(x, attend)
        hidden = F.gelu(self.hidden(torch.cat([self.norm(x), z], dim=-1)))
        refined: Tensor = self.head(hidden, features)
        return sign * refined


def build_network(config: ModelConfig, max_seq_len: int) -> "LightNetwork | RagBert":
    """The network that ``config`` describes, with fresh weights."""
    return LightNetwork(config) if config.network == "light" else RagBert(config, max_seq_len)
