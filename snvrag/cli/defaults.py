"""Help pages show the defaults of the settings of ``train``, which depend on the preset."""

import inspect
from collections.abc import Callable
from typing import get_args

from snvrag.config import NOT_IN_LIGHT, OPTION_FIELDS, PRESETS, RunConfig, run_config


def show_preset_defaults(command: Callable[..., None]) -> Callable[..., None]:
    """Give the options of ``command`` that are settings of a run their defaults to show."""
    presets = {name: _values(run_config({"preset": name})) for name in PRESETS}
    for name, parameter in inspect.signature(command).parameters.items():
        field = OPTION_FIELDS.get(name, name)
        values = {
            preset: _text(own[field])
            for preset, own in presets.items()
            if field in own and not (preset == "light" and field in NOT_IN_LIGHT)
        }
        if not values:
            continue
        same = len(set(values.values())) == 1
        option = get_args(parameter.annotation)[1]
        option.show_default = ", ".join(
            set(values.values())
            if same
            else (f"{preset} {text}" for preset, text in values.items())
        )
    return command


def _values(config: RunConfig) -> dict[str, object]:
    sections = (config.windows, config.mask, config.model, config.train)
    return {name: getattr(part, name) for part in sections for name in part.__slots__}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
