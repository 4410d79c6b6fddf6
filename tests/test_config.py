import dataclasses
import json
import math

import pytest

from snvrag.cli.toml import read_toml
from snvrag.config import (
    PRESET_TRAINING,
    PRESETS,
    MaskConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    WindowConfig,
    resolve_preset,
    run_config_from_json,
)
from snvrag.errors import InputError, UsageError


def test_presets_and_their_training_settings_have_the_same_names():
    assert set(PRESETS) == set(PRESET_TRAINING)
    assert (PRESETS["base"].dims, PRESETS["base"].layers, PRESETS["base"].heads) == (384, 12, 12)
    assert PRESET_TRAINING["base"].batch_size == 72


def test_auto_preset_follows_the_device():
    assert resolve_preset("auto", cuda=False) == "light"
    assert resolve_preset("auto", cuda=True) == "base"
    with pytest.raises(UsageError, match="huge"):
        resolve_preset("huge", cuda=False)


def test_run_config_survives_json():
    config = RunConfig(
        WindowConfig(255),
        MaskConfig(levels=(0.2,), validation_patterns=("random", "sites"), array_sites_digest="1"),
        ModelConfig(dims=96),
        TrainConfig(seed=7),
    )
    data = json.loads(json.dumps(dataclasses.asdict(config)))
    assert run_config_from_json(data, "x") == config


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"model": {"depth": 3}}, "depth"),
        ({"model": {"dims": "64"}}, "dims"),
        ({"engine": {}}, "engine"),
        ({"train": 3}, "train"),
        ({"train": {"lr": True}}, "lr"),
        ({"mask": {"array_sites": "a.txt"}}, "array_sites"),
    ],
)
def test_damaged_configs_are_refused_by_name(data, word):
    with pytest.raises(InputError, match=word):
        run_config_from_json(data, "config.json")


@pytest.mark.parametrize(
    ("cls", "values", "flag"),
    [
        (ModelConfig, {"dims": 65}, "--dims"),
        (ModelConfig, {"dims": 6, "heads": 2}, "--dims"),
        (ModelConfig, {"k": 0}, "--k"),
        (ModelConfig, {"network": "cnn"}, "network"),
        (ModelConfig, {"dropout": 1.0}, "--dropout"),
        (TrainConfig, {"epochs": 0}, "--epochs"),
        (TrainConfig, {"lr": 0.0}, "--lr"),
        (TrainConfig, {"lr": math.inf}, "--lr"),
        (TrainConfig, {"focal_gamma": math.inf}, "--gamma"),
        (TrainConfig, {"genotype_weight": math.nan}, "--genotype-weight"),
        (TrainConfig, {"clip": math.inf}, "--clip"),
        (TrainConfig, {"weight_decay": math.nan}, "--weight-decay"),
        (TrainConfig, {"weight_decay": -0.1}, "--weight-decay"),
        (TrainConfig, {"min_delta": math.inf}, "--min-delta"),
        (TrainConfig, {"min_delta": -0.1}, "--min-delta"),
        (TrainConfig, {"validation_fraction": 1.0}, "--validation-fraction"),
        (TrainConfig, {"warmup_steps": -1}, "--warmup-steps"),
        (WindowConfig, {"window_size": 0}, "--window-size"),
    ],
)
def test_bad_values_name_their_flag(cls, values, flag):
    with pytest.raises(UsageError, match=flag):
        cls(**values)


def test_toml(tmp_path):
    path = tmp_path / "snvrag.toml"
    path.write_text('[train]\npanel = "p.h5"\nepochs = 3\n')
    assert read_toml(path) == {"panel": "p.h5", "epochs": 3}
    for text in ("[train\n", "[model]\n", "train = 3\n", "[train]\nx = '\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=r"snvrag\.toml"):
            read_toml(path)
    with pytest.raises(InputError, match="absent"):
        read_toml(tmp_path / "absent.toml")
