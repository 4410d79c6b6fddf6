"""Which sites are hidden: pure functions of a key and the panel row.

A mask is drawn from a counter-based generator (Philox, Salmon et al. 2011): the key comes from
(seed, epoch, window, batch), the counter is the panel row. So a site's draw does not depend on
which slice is asked for, in which order, or in which process: query and reference, window and
flanks, workers, ranks and resumed runs all see the same mask.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from snvrag.config import MaskConfig

_WORDS_PER_COUNT = 4  # one Philox4x64 counter yields four 64-bit words
_VALIDATION_KEY = "validation"
_TRAINING_KEY = "training"


def uniform_by_row(key: tuple[object, ...], start: int, end: int) -> NDArray[np.float64]:
    """Uniform draws in [0, 1) for panel rows ``[start, end)`` under ``key``: float64 [end - start].

    ``uniform_by_row(key, a, c)`` equals the draws of ``[a, b)`` followed by those of ``[b, c)``.
    """
    material = hashlib.blake2b(repr(key).encode(), digest_size=16, person=b"snvrag-mask-1").digest()
    first = start // _WORDS_PER_COUNT
    generator = np.random.Philox(key=int.from_bytes(material, "little"), counter=first)
    skip = start - first * _WORDS_PER_COUNT
    raw = np.asarray(generator.random_raw(skip + end - start), dtype=np.uint64)[skip:]
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def curriculum_rate(epoch: int, config: MaskConfig) -> float:
    """Mask rate of common sites in ``epoch`` (from 0): raised every ``raise_every`` epochs."""
    level = min(epoch // config.raise_every, len(config.levels) - 1)
    return config.levels[level]


def mask_probabilities(
    af: NDArray[np.floating], rate: float, config: MaskConfig
) -> NDArray[np.float64]:
    """Probability of being masked, per site: float64, shaped like ``af`` (ALT frequency).

    Rare sites (minor-allele frequency below ``rare_threshold``) get ``rare_rate`` or ``rate``,
    whichever is higher; all others get ``rate``.
    """
    frequency = np.asarray(af, dtype=np.float64)
    rare = np.minimum(frequency, 1.0 - frequency) < config.rare_threshold
    return np.where(rare, max(config.rare_rate, rate), rate)


def training_mask(
    af: NDArray[np.floating],
    start: int,
    *,
    seed: int,
    epoch: int,
    window: int,
    batch: int,
    config: MaskConfig,
) -> NDArray[np.bool_]:
    """Mask of panel rows ``[start, start + len(af))`` for one training batch; True is masked.

    ``window`` is the batch's own window: rows of its flanks are drawn under the same key.
    """
    draws = uniform_by_row((_TRAINING_KEY, seed, epoch, window, batch), start, start + len(af))
    return draws < mask_probabilities(af, curriculum_rate(epoch, config), config)


def validation_mask(af: NDArray[np.floating], start: int, config: MaskConfig) -> NDArray[np.bool_]:
    """The one mask of panel rows ``[start, start + len(af))`` that validation uses for ever."""
    draws = uniform_by_row((_VALIDATION_KEY, config.validation_seed), start, start + len(af))
    return draws < mask_probabilities(af, config.validation_rate, config)
