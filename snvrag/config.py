"""Settings as frozen dataclasses; every check names the flag that sets the field.

Defaults stand here once: the command line, the library, ``snvrag.toml`` and the docs read them.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from snvrag.errors import InputError, UsageError

DEFAULT_WINDOW_SIZE = 511
DEFAULT_MAX_SEQ_LEN = 512
DEFAULT_LOG_EVERY = 500
DEFAULT_MIN_OVERLAP = 0.1
"""Least share of a target's records within the panel's span that must be panel sites."""
DEFAULT_IMPUTE_MEMORY = 2 * 2**30
"""Bytes that ``impute`` may take."""
SOS_TOKENS = 1


def _require(condition: bool, message: str, hint: str | None = None) -> None:
    if not condition:
        raise UsageError(message, hint)


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """Window size in SNPs and the model's sequence length in tokens.

    One SOS token precedes the sites, so ``window_size + 1 <= max_seq_len``; ``max_seq_len`` is
    never derived from ``window_size``.
    """

    window_size: int = DEFAULT_WINDOW_SIZE
    max_seq_len: int = DEFAULT_MAX_SEQ_LEN

    def __post_init__(self) -> None:
        _require(
            self.window_size >= 1,
            f"--window-size {self.window_size}: a window needs at least one SNP",
        )
        needed = self.window_size + SOS_TOKENS
        _require(
            needed <= self.max_seq_len,
            f"--window-size {self.window_size} needs {needed} tokens ({self.window_size} SNPs + "
            f"1 SOS), but MAX_SEQ_LEN is {self.max_seq_len}",
            f"add --max-seq-len {needed}, or use --window-size {self.max_seq_len - SOS_TOKENS}"
            if self.max_seq_len > SOS_TOKENS
            else f"add --max-seq-len {needed}",
        )


GUIDED, ARRAY, RANDOM, SITES = MASK_PATTERNS = ("guided", "array", "random", "sites")


@dataclass(frozen=True, slots=True)
class MaskConfig:
    """Which sites are masked; see :mod:`snvrag.masking` for the patterns."""

    levels: tuple[float, ...] = (0.30, 0.40, 0.50, 0.60, 0.70, 0.80)
    """Curriculum of pattern ``guided``: mask rates of common sites."""
    raise_every: int = 2
    """Epochs per level."""
    rare_threshold: float = 0.05
    """Minor-allele frequency below which a site is rare."""
    rare_rate: float = 0.70
    """Mask rate of rare sites in pattern ``guided``, until the curriculum's is higher."""
    array_share: float = 0.35
    """Share of the training batches masked by pattern ``array``."""
    random_share: float = 0.25
    """Share of the training batches masked by pattern ``random``; the rest is ``guided``."""
    sites_share: float = 0.5
    """Share masked by pattern ``sites`` where sites are listed; the others share the rest."""
    array_spacing: tuple[float, ...] = (2000.0, 3000.0, 4500.0)
    """Base pairs per observed site of pattern ``array``; a batch draws one of them."""
    array_min_maf: float = 0.05
    """Least minor-allele frequency of an observed site in pattern ``array``."""
    random_observed: tuple[float, ...] = (0.05, 0.10, 0.20, 0.50)
    """Observed shares of pattern ``random``; a batch draws one of them."""
    array_sites_digest: str = ""
    """Of the panel rows of pattern ``sites``; set by the run, empty where none are listed."""
    validation_patterns: tuple[str, ...] = (GUIDED, ARRAY, RANDOM)
    """Patterns that validation windows take in turn; ``sites`` comes first where sites are
    listed."""
    validation_rate: float = 0.50
    """Mask rate of common sites where validation is ``guided``."""
    validation_spacing: float = 3000.0
    """Base pairs per observed site where validation is ``array``."""
    validation_observed: float = 0.10
    """Observed share where validation is ``random``."""
    validation_seed: int = 2024

    def __post_init__(self) -> None:
        _require(len(self.levels) > 0, "--mask-levels: at least one mask rate is needed")
        rates = (*self.levels, self.rare_rate, self.validation_rate, self.validation_observed)
        for rate in (*rates, *self.random_observed):
            _require(0.0 <= rate <= 1.0, f"mask rate {rate}: a rate lies between 0 and 1")
        _require(self.raise_every >= 1, "--mask-raise-every: must be at least one epoch")
        _require(0.0 <= self.rare_threshold <= 0.5, "--rare-threshold: lies between 0 and 0.5")
        _require(0.0 <= self.array_min_maf <= 0.5, "array_min_maf: lies between 0 and 0.5")
        for name in ("array_share", "random_share", "sites_share"):
            share = getattr(self, name)
            flag = f"--{name.replace('_', '-')}"
            _require(0.0 <= share <= 1.0, f"{flag} {share}: a share lies between 0 and 1")
        _require(
            self.array_share + self.random_share <= 1.0 + 1e-9,
            f"--array-share {self.array_share} and --random-share {self.random_share}: are more "
            "than all batches",
            "what they leave is masked by allele frequency",
        )
        _require(len(self.array_spacing) > 0, "--array-spacing: at least one spacing is needed")
        for spacing in (*self.array_spacing, self.validation_spacing):
            _require(spacing >= 1.0, f"--array-spacing {spacing:g}: must be at least 1 base pair")
        _require(len(self.random_observed) > 0, "random_observed: at least one share is needed")
        _require(len(self.validation_patterns) > 0, "--validation-patterns: at least one is needed")
        for pattern in self.validation_patterns:
            _require(
                pattern in MASK_PATTERNS,
                f"--validation-patterns {pattern}: unknown pattern",
                f"some of {', '.join(MASK_PATTERNS)}",
            )


NETWORKS = ("bert", "light")
TRAINING_INDEXES = ("binary", "embedding")
FITTED = "fitted"
BANKS = (FITTED, "default")
REFRESH_EPOCH = "epoch"
REFRESH_POLICIES = (REFRESH_EPOCH, "never")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of the network; see ``docs/model.md`` for the equations."""

    network: str = "bert"
    """``bert`` is the transformer over a window, ``light`` a perceptron over each site."""
    dims: int = 64
    """Width D of every token's vector, or of the perceptron's layers."""
    layers: int = 2
    """Transformer blocks, or layers of the perceptron."""
    heads: int = 2
    """Attention heads; divides ``dims``."""
    k: int = 4
    """Retrieved haplotypes that are encoded and fused, per query haplotype; not in ``light``."""
    af_frequencies: int = 16
    """Learned Fourier frequencies of the allele-frequency encoder."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("dims", "layers", "heads", "k", "af_frequencies"):
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            _require(1 <= value <= _LARGEST, f"{flag} {value}: must lie between 1 and {_LARGEST}")
        _require(
            self.dims % (2 * self.heads) == 0,
            f"--dims {self.dims} is no even multiple of --heads {self.heads}",
            "the heads share the dims evenly, and the position code needs pairs of dims",
        )
        _require(self.network in NETWORKS, f"network {self.network!r}: one of bert, light")
        _require(0.0 <= self.dropout < 1.0, f"--dropout {self.dropout}: lies in [0, 1)")


# Beyond this a damaged file speaks, not a user.
_LARGEST = 1 << 14

PRESETS: Mapping[str, ModelConfig] = {
    "light": ModelConfig(network="light", dims=64, layers=3, heads=1, k=1, dropout=0.0),
    "tiny": ModelConfig(dims=64, layers=2, heads=2, k=4, dropout=0.0),
    "small": ModelConfig(dims=128, layers=4, heads=4, k=4, dropout=0.05),
    "base": ModelConfig(dims=384, layers=12, heads=12, k=1, af_frequencies=32, dropout=0.1),
}
PRESET_NAMES = ("auto", *PRESETS)


def resolve_preset(name: str, *, cuda: bool) -> str:
    """The preset behind ``name``: ``auto`` is ``base`` with CUDA and ``light`` without.

    Raises:
        UsageError: there is no preset of that name.
    """
    if name == "auto":
        return "base" if cuda else "light"
    _require(
        name in PRESETS, f"--preset {name}: unknown preset", f"one of {', '.join(PRESET_NAMES)}"
    )
    return name


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How training goes, apart from the shape of the network."""

    epochs: int = 20
    batch_size: int = 72
    """Samples of one window per batch; each sample brings all its haplotypes."""
    accumulate: int = 1
    """Batches per optimiser step."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.01
    warmup_steps: int = 50
    """Optimiser steps of linear warm-up, before the cosine decay to a tenth of ``lr``."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    focal_gamma: float = 0.0
    """0 is cross-entropy, which keeps dosages calibrated; the original used 2."""
    genotype_weight: float = 0.0
    """Weight of the loss of phased genotypes beside that of haplotypes; matters with γ only."""
    patience: int = 5
    """Epochs without improvement of the rare-variant metric before training stops."""
    min_delta: float = 0.001
    epoch_batches: int = 0
    """Batches per epoch, drawn anew each epoch; 0 is all of them."""
    flank_windows: int = 1
    """Windows to either side whose observed sites may help to rank haplotypes."""
    flank_observed: int = 8
    """Observed sites to either side of the window that help to rank haplotypes."""
    min_observed: int = 40
    """Ranking reaches further into the flanks until it has this many observed sites."""
    index_kind: str = "binary"
    """What the nearest haplotypes are found with: packed alleles, or the network's embedding."""
    refresh_index: str = REFRESH_EPOCH
    """When ``embedding`` indexes take up the network's weights: each ``epoch``, or ``never``."""
    bank: str = FITTED
    """Settings of the copying model: ``fitted`` to the panel by leave-one-out, or ``default``."""
    evidence_observed: int = 1500
    """Most observed sites to either side that the copying model looks at, within 2 cM."""
    validation_fraction: float = 0.1
    """Share of the panel's samples held out for validation."""
    validation_batch: int = 48
    validation_items: int = 4_800
    """Most pairs of a held-out sample and a window that are validated on, the same ones each epoch;
    0 is all of them."""
    checkpoint_every: int = 0
    """Optimiser steps between checkpoints; 0 is every 20 seconds. Each epoch's end saves one."""
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "patience", "validation_batch"):
            value = getattr(self, name)
            _require(value >= 1, f"--{name.replace('_', '-')} {value}: must be at least 1")
        for name in (
            "warmup_steps",
            "epoch_batches",
            "validation_items",
            "flank_windows",
            "flank_observed",
            "evidence_observed",
            "min_observed",
            "checkpoint_every",
            "seed",
        ):
            value = getattr(self, name)
            _require(value >= 0, f"--{name.replace('_', '-')} {value}: must not be negative")
            _require(value < 1 << 63, f"--{name.replace('_', '-')} {value}: must be below 2^63")
        for name in ("lr", "weight_decay", "clip", "focal_gamma", "genotype_weight", "min_delta"):
            value = getattr(self, name)
            flag = "gamma" if name == "focal_gamma" else name.replace("_", "-")
            _require(math.isfinite(value), f"--{flag} {value}: must be a finite number")
        for name in ("weight_decay", "min_delta"):
            value = getattr(self, name)
            _require(value >= 0, f"--{name.replace('_', '-')} {value}: must not be negative")
        _require(self.lr > 0, f"--lr {self.lr}: must be positive")
        _require(self.clip > 0, f"--clip {self.clip}: must be positive")
        for name, known in (
            ("index_kind", TRAINING_INDEXES),
            ("refresh_index", REFRESH_POLICIES),
            ("bank", BANKS),
        ):
            _require(
                getattr(self, name) in known,
                f"--{name.replace('_', '-')} {getattr(self, name)}: is neither of "
                f"{', '.join(known)}",
            )
        _require(
            self.genotype_weight >= 0,
            f"--genotype-weight {self.genotype_weight}: must not be negative",
        )
        _require(self.focal_gamma >= 0, f"--gamma {self.focal_gamma}: must not be negative")
        _require(
            0.0 < self.validation_fraction < 1.0,
            f"--validation-fraction {self.validation_fraction}: lies between 0 and 1",
        )


# A small network takes small batches and large steps; `base` keeps the original's figures.
PRESET_TRAINING: Mapping[str, TrainConfig] = {
    "light": TrainConfig(
        epochs=10, batch_size=8, lr=2e-3, warmup_steps=100, epoch_batches=300, patience=10
    ),
    "tiny": TrainConfig(epochs=4, batch_size=16, lr=2e-3, warmup_steps=20),
    "small": TrainConfig(epochs=8, batch_size=24, lr=1e-3, warmup_steps=50),
    "base": TrainConfig(epochs=20, batch_size=72, lr=7.5e-5, warmup_steps=500, accumulate=2),
}


NOT_IN_IDENTITY = ("checkpoint_every", "validation_batch")
"""Settings of ``train`` that no weight depends on: a run may be resumed with others."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The settings of a training run, as saved in ``config.json``.

    Beside them, panel, map, files of samples and ``--compile`` decide the weights, and are saved
    there too; :data:`NOT_IN_IDENTITY` names the settings that do not.
    """

    windows: WindowConfig = field(default_factory=WindowConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _require(
            self.train.index_kind == "binary" or self.model.network == "bert",
            "--index-kind embedding: the network of preset light has no embedding",
            "use --preset tiny, small or base, or --index-kind binary",
        )
        if self.train.refresh_index != REFRESH_EPOCH:
            _refuse_refresh(self.train)


def _refuse_refresh(train: TrainConfig) -> None:
    _require(
        train.index_kind != "binary",
        f"--refresh-index {train.refresh_index}: a binary index depends on no weights and is "
        "never stale",
        "leave it out, or add --index-kind embedding",
    )


_KIND_NAMES: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple[float, ...]: "a list of numbers",
    tuple[str, ...]: "a list of texts",
}


def checked(value: Any, kind: Any, where: str) -> Any:
    """``value`` from JSON or TOML as a ``kind`` of setting; whole numbers become floats.

    Raises:
        InputError: it is of another type; ``where`` names the file and the setting.
    """
    if kind in (tuple[float, ...], tuple[str, ...]) and isinstance(value, list | tuple):
        item_kind = kind.__args__[0]
        made = tuple(float(i) if item_kind is float and type(i) is int else i for i in value)
        if all(type(item) is item_kind for item in made):
            return made
    elif type(value) is kind:
        return value
    elif kind is float and type(value) is int:
        return float(value)
    raise InputError(
        f"{where} is {value!r}, where {_KIND_NAMES[kind]} is needed", "correct the value"
    )


def from_mapping(cls: type[Any], data: Mapping[str, Any], where: str) -> Any:
    """Build config dataclass ``cls`` from ``data``, refusing unknown keys and wrong types.

    Raises:
        InputError: ``where`` (a file, for the message) has an unknown key or a wrong type.
        UsageError: a value is out of range.
    """
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise InputError(
                f"{where}: unknown setting {key!r}", f"known settings: {', '.join(sorted(known))}"
            )
        values[key] = checked(value, known[key].type, f"{where}: {key}")
    return cls(**values)


OPTION_FIELDS = {"gamma": "focal_gamma", "mask_levels": "levels", "mask_raise_every": "raise_every"}
_FLAGS = {field: option for option, field in OPTION_FIELDS.items()}
# Where the perceptron over each site's evidence has nothing to apply them to.
NOT_IN_LIGHT = ("heads", "k", "af_frequencies", "dropout")
_FLANKS = ("flank_windows", "flank_observed", "min_observed")
_GUIDED = ("levels", "raise_every", "rare_rate")
_SECTIONS: Mapping[str, type[Any]] = {
    "windows": WindowConfig,
    "mask": MaskConfig,
    "model": ModelConfig,
    "train": TrainConfig,
}


def run_config_from_json(data: Mapping[str, Any], where: str) -> RunConfig:
    """Read a :class:`RunConfig` back from its ``dataclasses.asdict`` form.

    Raises:
        InputError: it is no table of tables, or has an unknown setting, a wrong type or a value
            out of range.
    """
    if not isinstance(data, Mapping):
        raise InputError(
            f"{where}: the settings (config) are {type(data).__name__}, where a table is needed",
            "give a folder that snvrag train wrote, or train again",
        )
    unknown = set(data) - set(_SECTIONS)
    if unknown:
        raise InputError(f"{where}: unknown section {sorted(unknown)[0]!r}")
    built = {}
    for name, cls in _SECTIONS.items():
        section = data.get(name, {})
        if not isinstance(section, Mapping):
            raise InputError(f"{where}: section {name!r} is not a table")
        of_section = partial(from_mapping, cls, section, f"{where}, section {name}")
        built[name] = _named(where, of_section)
    config: RunConfig = _named(where, lambda: RunConfig(**built))
    return config


def _named(where: str, make: Callable[[], Any]) -> Any:
    """What ``make`` gives; a value out of range is an error of the file, not of an option."""
    try:
        return make()
    except UsageError as error:
        raise InputError(f"{where}: {error.message}", error.hint) from error


def run_config(
    settings: Mapping[str, Any], *, cuda: bool = False, where: str = "settings"
) -> RunConfig:
    """Settings by option name, such as ``{"preset": "small", "epochs": 3, "gamma": 2}``.

    What is not given comes from the preset (``auto`` if none is named).

    Args:
        settings: option names with underscores; None stands for not given.
        cuda: whether ``auto`` may be the preset for CUDA.
        where: what to call the settings in errors.

    Raises:
        InputError: an unknown name or a wrong type.
        UsageError: a value out of range, or one that the other settings leave without effect.
    """
    given = {OPTION_FIELDS.get(k, k): v for k, v in settings.items() if v is not None}
    preset = resolve_preset(str(given.pop("preset", "auto")), cuda=cuda)
    base = {"model": PRESETS[preset], "train": PRESET_TRAINING[preset]}
    explicit = set(given)
    built: dict[str, Any] = {}
    for name, cls in _SECTIONS.items():
        own = {f.name for f in fields(cls)}
        chosen = {k: given.pop(k) for k in list(given) if k in own}
        defaults = base.get(name)
        if defaults is not None:
            chosen = {k: getattr(defaults, k) for k in own} | chosen
        built[name] = from_mapping(cls, chosen, where)
    if given:
        raise InputError(f"{where}: unknown setting {sorted(given)[0]!r}")
    config = RunConfig(**built)
    _refuse_without_effect(config, explicit)
    return config


def _refuse_without_effect(config: RunConfig, explicit: Set[str]) -> None:
    """Refuse settings that were asked for and that the others leave without effect."""
    if "refresh_index" in explicit:
        _refuse_refresh(config.train)

    def refuse(names: Sequence[str], idle: bool, why: str, remedy: str) -> None:
        for name in names:
            if idle and name in explicit:
                flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
                raise UsageError(f"{flag}: {why}", f"leave it out, or {remedy}")

    mask, light = config.mask, config.model.network == "light"
    why = "the network of preset light has no use for it"
    refuse(NOT_IN_LIGHT, light, why, "use --preset tiny, small or base")
    why = "an embedding index looks at the window alone"
    refuse(_FLANKS, config.train.index_kind != "binary", why, "use --index-kind binary")
    why = "no batch is masked like an array"
    refuse(["array_spacing"], mask.array_share == 0, why, "raise --array-share")
    why = "no batch is masked at random"
    refuse(["random_observed"], mask.random_share == 0, why, "raise --random-share")
    why = "no batch is masked by allele frequency"
    others = mask.array_share + mask.random_share
    refuse(_GUIDED, others >= 1.0 - 1e-9, why, "lower --array-share or --random-share")
    why = "there is one level to stay at"
    refuse(["raise_every"], len(mask.levels) == 1, why, "give more --mask-levels")
