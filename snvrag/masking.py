"""Which sites are hidden: pure functions of a key and the panel row.

A mask is drawn from a counter-based generator (Philox, Salmon et al. 2011): the key comes from
(seed, epoch, window, batch), the counter is the panel row. So a site's draw does not depend on
which slice is asked for, in which order, or in which process: query and reference, window and
flanks, workers, ranks and resumed runs all see the same mask.

Which of four patterns a batch gets is drawn from its key too:

* ``guided``: rare sites at one rate, common sites at the curriculum's.
* ``array``: one common site per so many base pairs is observed, as on a genotyping array.
* ``random``: a share of all sites is observed.
* ``sites``: the sites of a given list are observed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snvrag.config import ARRAY, GUIDED, RANDOM, SITES, MaskConfig
from snvrag.errors import UsageError

_WORDS_PER_COUNT = 4  # one Philox4x64 counter yields four 64-bit words
_VALIDATION_KEY = "validation"
_TRAINING_KEY = "training"
_PATTERN_KEY = "pattern"
# Names the rules by which validation masks follow from their settings.
VALIDATION_VERSION = "validation-2"
_PROBES = 60

Key = tuple[object, ...]


def uniform_by_row(key: Key, start: int, end: int) -> NDArray[np.float64]:
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
    rare = _maf(af) < config.rare_threshold
    return np.where(rare, max(config.rare_rate, rate), rate)


def _maf(af: NDArray[np.floating]) -> NDArray[np.float64]:
    frequency = np.asarray(af, dtype=np.float64)
    return np.minimum(frequency, 1.0 - frequency)


@dataclass(frozen=True, slots=True)
class MaskPattern:
    """How the sites of one batch are chosen."""

    name: str
    """One of :data:`snvrag.config.MASK_PATTERNS`."""
    value: float = 0.0
    """``guided``: mask rate of common sites; ``array``: base pairs per observed site; ``random``:
    share of observed sites; ``sites``: without meaning."""
    offset: float = 0.0
    """``array``: how far its grid is shifted, as a share of ``value``."""


class MaskMaker:
    """All masks of a run. A mask is bool, True is masked.

    ``[a, c)`` of a mask equals ``[a, b)`` followed by ``[b, c)``; a call costs time in proportion
    to the rows that it asks for.

    Args:
        chromosomes: ``(name, number of sites)`` in panel order.
        positions: int64 [sites], increasing within a chromosome.
        af: float [sites], ALT frequency.
        config: rates and shares.
        seed: seed of the training masks; validation masks have their own.
        listed: bool [sites], the sites of pattern ``sites``; None if there is no such list.

    Raises:
        UsageError: validation is to use pattern ``sites``, but there is no list.
    """

    def __init__(
        self,
        chromosomes: Sequence[tuple[str, int]],
        positions: NDArray[np.int64],
        af: NDArray[np.floating],
        config: MaskConfig,
        *,
        seed: int,
        listed: NDArray[np.bool_] | None = None,
    ) -> None:
        self.config, self._seed = config, seed
        self._edges = np.cumsum([0, *(n for _, n in chromosomes)])
        self._positions, self._af, self._listed = positions, af, listed
        self._validation = config.validation_patterns
        if listed is None and SITES in self._validation:
            raise UsageError(
                "--validation-patterns: 'sites' needs a list of sites", "add --array-sites FILE"
            )
        if listed is not None and SITES not in self._validation:
            self._validation = (SITES, *self._validation)

    @property
    def shares(self) -> dict[str, float]:
        """Expected share of training batches of each pattern; they sum to 1."""
        config = self.config
        sites = 0.0 if self._listed is None else config.sites_share
        guided = 1.0 - config.array_share - config.random_share
        shares = {GUIDED: guided, ARRAY: config.array_share, RANDOM: config.random_share}
        return {name: (1.0 - sites) * share for name, share in shares.items()} | {SITES: sites}

    def training_pattern(self, *, epoch: int, window: int, batch: int) -> MaskPattern:
        """The pattern of one training batch."""
        key = (_PATTERN_KEY, self._seed, epoch, window, batch)
        which, value, offset = uniform_by_row(key, 0, 3).tolist()
        possible = {name: share for name, share in self.shares.items() if share > 0}
        edges = np.cumsum(list(possible.values()))
        number = int(np.searchsorted(edges, which, side="right"))
        # Rounding may leave the last edge a hair below 1.
        name = list(possible)[min(number, len(possible) - 1)]
        if name == GUIDED:
            return MaskPattern(name, curriculum_rate(epoch, self.config))
        if name == SITES:
            return MaskPattern(name)
        values = self.config.array_spacing if name == ARRAY else self.config.random_observed
        return MaskPattern(name, values[int(value * len(values))], offset)

    def validation_pattern(self, window: int) -> MaskPattern:
        """The pattern of a window in every validation: they take turns."""
        config = self.config
        name = self._validation[window % len(self._validation)]
        if name == ARRAY:
            key = (_VALIDATION_KEY, ARRAY, config.validation_seed)
            offset = float(uniform_by_row(key, 0, 1)[0])
            return MaskPattern(name, config.validation_spacing, offset)
        values = {GUIDED: config.validation_rate, RANDOM: config.validation_observed, SITES: 0.0}
        return MaskPattern(name, values[name])

    def training(
        self, start: int, end: int, *, epoch: int, window: int, batch: int
    ) -> NDArray[np.bool_]:
        """Mask of panel rows ``[start, end)`` of one chromosome for a training batch.

        ``window`` is the batch's own window: rows of its flanks are drawn under the same key.
        """
        pattern = self.training_pattern(epoch=epoch, window=window, batch=batch)
        key = (_TRAINING_KEY, self._seed, epoch, window, batch)
        return self.mask(pattern, key, start, end)

    def validation(self, start: int, end: int, *, window: int) -> NDArray[np.bool_]:
        """Mask of panel rows ``[start, end)`` of one chromosome when ``window`` is validated.

        Depends on the settings' values and the rows only: it is the same in every epoch and run.
        """
        key = (_VALIDATION_KEY, self.config.validation_seed)
        return self.mask(self.validation_pattern(window), key, start, end)

    def mask(self, pattern: MaskPattern, key: Key, start: int, end: int) -> NDArray[np.bool_]:
        """Mask of panel rows ``[start, end)`` of one chromosome by a pattern and a key."""
        if pattern.name == SITES:
            assert self._listed is not None  # noqa: S101 - for the type checker
            return ~self._listed[start:end]
        if pattern.name == ARRAY:
            return ~self._array_like(pattern, key, start, end)
        draws = uniform_by_row(key, start, end)
        if pattern.name == RANDOM:
            return draws >= pattern.value
        return draws < mask_probabilities(self._af[start:end], pattern.value, self.config)

    def _array_like(
        self, pattern: MaskPattern, key: Key, start: int, end: int
    ) -> NDArray[np.bool_]:
        """Observed rows: in each bin of positions the common site with the smallest draw."""
        observed = np.zeros(end - start, dtype=bool)
        if start == end:
            return observed
        chromosome = int(np.searchsorted(self._edges, start, side="right")) - 1
        first, last = (int(edge) for edge in self._edges[chromosome : chromosome + 2])
        if end > last:
            raise ValueError(f"rows {start}-{end} are of two chromosomes")
        size = max(1, round(pattern.value))
        shift = int(pattern.offset * size)
        # Whole bins, so that a bin at an end of the slice has the same winner in every slice.
        positions = self._positions[first:last]
        bins = (self._positions[[start, end - 1]] + shift) // size
        edges = np.array([bins[0], bins[1] + 1]) * size - shift
        low, high = (first + int(row) for row in np.searchsorted(positions, edges))
        common = np.flatnonzero(_maf(self._af[low:high]) >= self.config.array_min_maf)
        number = (self._positions[low + common] + shift) // size
        order = np.lexsort((uniform_by_row(key, low, high)[common], number))
        new = np.diff(number[order], prepend=-1) > 0
        rows = low + common[order[new]]
        observed[rows[(rows >= start) & (rows < end)] - start] = True
        return observed

    def realised_rates(
        self, windows: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Share of masked sites by pattern, in the first epoch and in validation.

        Counted over batches of 60 windows spread over the run, or of all if there are fewer.

        Args:
            windows: ``(first row, one past the last)`` of every window.
        """
        training: dict[str, list[NDArray[np.bool_]]] = {}
        validation: dict[str, list[NDArray[np.bool_]]] = {}
        n = len(windows)
        for probe in range(_PROBES):
            window, batch = (probe * n // _PROBES, 0) if n > _PROBES else (probe % n, probe // n)
            name = self.training_pattern(epoch=0, window=window, batch=batch).name
            mask = self.training(*windows[window], epoch=0, window=window, batch=batch)
            training.setdefault(name, []).append(mask)
            name = self.validation_pattern(window).name
            mask = self.validation(*windows[window], window=window)
            validation.setdefault(name, []).append(mask)
        first, second = (
            {name: float(np.concatenate(parts).mean()) for name, parts in sorted(found.items())}
            for found in (training, validation)
        )
        return first, second

    def describe(self, windows: Sequence[tuple[int, int]]) -> dict[str, str]:
        """The patterns with their shares and realised rates, in words."""
        training, validation = self.realised_rates(windows)
        return {
            "masks": ", ".join(
                f"{name} {self.shares[name]:.0%} of batches ({rate:.1%} masked)"
                for name, rate in training.items()
            ),
            "validation_masks": ", ".join(
                f"{name} ({rate:.1%} masked)" for name, rate in validation.items()
            ),
        }
