"""Where a run's settings come from: options of ``train``, over those of snvrag.toml."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from snvrag.cli.options import parse_memory
from snvrag.cli.toml import TOML_NAME, read_toml
from snvrag.config import checked
from snvrag.errors import InputError, RankError, SnvragError, UsageError

PATHS = {"panel", "output", "index_dir", "genetic_map", "array_sites", "targets", "validation"}
# Options of the command that are no settings, or that another name stands for.
_NO_SETTINGS = {"common", "resume", "window_path", "old_window_size"}
# Limits of Linux and macOS.
_MAX_PATH, _MAX_NAME = 1024, 256
# Settings of snvrag.toml that the library calls otherwise.
_ALIASES = {"map": "genetic_map", "compile": "compile_blocks"}
_RUNTIME_KINDS: Mapping[str, Any] = {
    "device": str,
    "threads": int,
    "max_memory": str,
    "tensorboard": bool,
    "compile_blocks": bool,
    "log_every": int,
}
_LISTS = {"mask_levels": "0.3,0.5,0.8", "array_spacing": "2000,3000"}


def is_main_process() -> bool:
    """Whether this process is rank 0, or the only one; asks the environment alone."""
    return os.environ.get("RANK", "0") == "0"


def train_settings(given: Mapping[str, Any], note: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's settings, and how it runs: options, over snvrag.toml where they name no panel.

    Raises:
        UsageError, InputError: an option or the file is wrong.
        RankError: the same, in another process of a torchrun than the one that says it.
    """
    try:
        settings = _options_over_toml(given, note)
        return settings, _runtime_settings(settings)
    except SnvragError as error:
        # All processes read the same; they have not joined yet, so that nobody else could tell.
        if is_main_process():
            raise
        raise RankError(error.exit_code) from error


def _options_over_toml(given: Mapping[str, Any], note: Any) -> dict[str, Any]:
    options = {**given, "threads": given["common"].threads}
    if None not in (options["window_size"], options["old_window_size"]):
        raise UsageError("--window_size: is the old name of --window-size", "give one of the two")
    if options["window_size"] is None:
        options["window_size"] = options["old_window_size"]
    for name, example in _LISTS.items():
        flag = f"--{name.replace('_', '-')}"
        options[name] = _numbers(flag, options[name], example)
    if options["validation_patterns"] is not None:
        options["validation_patterns"] = tuple(options["validation_patterns"].split(","))
    # A flag that is not there says nothing against snvrag.toml.
    options = {
        name: value
        for name, value in options.items()
        if name not in _NO_SETTINGS and value is not None and value is not False
    }
    chosen = ({} if "panel" in options else _toml_settings(note)) | options
    for name in PATHS & set(chosen):
        if not isinstance(chosen[name], str | Path) or not _may_be_path(str(chosen[name])):
            raise InputError(
                f"{TOML_NAME}: {name} is {shorten(repr(chosen[name]), 80)}, where a path is needed",
                "correct the value",
            )
        chosen[name] = Path(chosen[name])
    if "sites_share" in chosen and "array_sites" not in chosen:
        raise UsageError(
            f"--sites-share {chosen['sites_share']}: no sites are listed",
            "leave it out, or add --array-sites",
        )
    if "validation_fraction" in chosen and "validation" in chosen:
        raise UsageError(
            f"--validation-fraction {chosen['validation_fraction']}: --validation names who is "
            "validated on",
            "give one of the two",
        )
    return chosen


def _may_be_path(text: str) -> bool:
    if "\0" in text or len(text) >= _MAX_PATH:
        return False
    return all(len(part) < _MAX_NAME for part in Path(text).parts)


def _toml_settings(note: Any) -> dict[str, Any]:
    """Settings of the current folder's snvrag.toml under the library's names; {} without one."""
    toml = Path(TOML_NAME)
    if not (toml.exists() or toml.is_symlink()):
        return {}
    settings = {_ALIASES.get(name, name): value for name, value in read_toml(toml).items()}
    if not isinstance(settings.get("panel"), str):
        raise UsageError(f"{toml}: names no panel", 'add: panel = "panel.h5" under [train]')
    note(f"using the settings of ./{toml} (panel {settings['panel']})")
    return settings


def _runtime_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Take out of ``settings`` what decides where and how a run goes, as ``train`` takes it."""
    found: dict[str, Any] = {"device": "auto"}
    for name, kind in _RUNTIME_KINDS.items():
        if name in settings:
            found[name] = checked(settings.pop(name), kind, f"{TOML_NAME}: {name}")
    found["max_memory"] = parse_memory(found.get("max_memory"))
    if found.get("threads", 1) < 1:
        raise UsageError(f"--threads {found['threads']}: must be at least 1")
    return found


def _numbers(flag: str, text: str | None, example: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    wrong = UsageError(f"{flag} {text}: is no list of numbers", f"write {example}")
    if not re.fullmatch(r"\s*[0-9.]+\s*(,\s*[0-9.]+\s*)*", text):
        raise wrong
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise wrong from error
