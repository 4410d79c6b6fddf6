"""The light network at work in ``impute``, without torch, whose import takes longer than its work.

The network itself is :class:`snvrag.model.LightNetwork`; a test holds the two together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snvrag.chunks import Chunk
from snvrag.compiling import IN_PARALLEL
from snvrag.config import ModelConfig
from snvrag.copying import N_FEATURES, N_LOGITS, refine_rows
from snvrag.evidence import COUNT_FEATURE, FEATURE_LIMIT, NOBODY, SCALE, SHIFT
from snvrag.trained_run import TrainedRun
from snvrag.weights import WEIGHTS, check_shapes, read_tensors

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LightWeights:
    """What the network has learned, all float32."""

    layers: tuple[_Array, ...]
    """[D, N_FEATURES], then [D, D] each."""
    biases: tuple[_Array, ...]
    """[D] each."""
    head: _Array
    """[N_LOGITS + 1, D]: one row per setting's logit, then the shift."""
    head_bias: _Array
    """[N_LOGITS + 1]."""
    low: _Array
    """[N_FEATURES]: the range of evidence in which the network is to be trusted."""
    high: _Array
    """[N_FEATURES]."""

    @classmethod
    def load(cls, run: TrainedRun) -> "LightWeights":
        """Read the best weights of a run of preset ``light``.

        Raises:
            InputError: the file is absent or damaged.
            MismatchError: it holds another network than the run's settings describe.
        """
        path = run.path / WEIGHTS
        tensors = read_tensors(path)
        found = {name: tensor.shape for name, tensor in tensors.items()}
        check_shapes(path, found, light_shapes(run.config.model))
        made = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in tensors.items()}
        names = [f"body.{2 * i}" for i in range(run.config.model.layers)]
        return cls(
            tuple(made[f"{name}.weight"] for name in names),
            tuple(made[f"{name}.bias"] for name in names),
            np.concatenate([made["head.mix.weight"], made["head.shift.weight"]]),
            np.concatenate([made["head.mix.bias"], made["head.shift.bias"]]),
            made["head.low"],
            made["head.high"],
        )

    def refine(self, features: _Array) -> _Array:
        """Logit of the minor allele float32 [N] of raw evidence float32 [N, N_FEATURES]."""
        logits = np.empty(len(features), dtype=np.float32)
        with IN_PARALLEL:
            refine_rows(
                features,
                N_LOGITS,
                COUNT_FEATURE,
                np.float32(NOBODY),
                SHIFT,
                np.float32(1.0) / SCALE,
                np.float32(FEATURE_LIMIT),
                self.low,
                self.high,
                self.layers,
                self.biases,
                self.head,
                self.head_bias,
                logits,
            )
        return logits

    def logits(
        self, chunk: Chunk, some: slice, minor_is_alt: NDArray[np.bool_], features: _Array
    ) -> _Array:
        """See :meth:`snvrag.networks.Refines.logits`; every site answers for itself."""
        minor = self.refine(features.reshape(-1, N_FEATURES)).reshape(features.shape[:2])
        return np.where(minor_is_alt, minor, -minor)


def light_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a light network."""
    shapes: dict[str, tuple[int, ...]] = {"head.low": (N_FEATURES,), "head.high": (N_FEATURES,)}
    wide = N_FEATURES
    for i in range(config.layers):
        shapes[f"body.{2 * i}.weight"] = (config.dims, wide)
        shapes[f"body.{2 * i}.bias"] = (config.dims,)
        wide = config.dims
    for name, n_out in (("mix", N_LOGITS), ("shift", 1)):
        shapes[f"head.{name}.weight"] = (n_out, wide)
        shapes[f"head.{name}.bias"] = (n_out,)
    return shapes
