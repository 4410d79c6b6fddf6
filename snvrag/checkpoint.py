"""Weights as safetensors, everything else as JSON; folders appear whole or not at all.

    run/
      config.json            what was trained, on which panel, with which settings
      model.safetensors      the best weights so far (rare-variant F1 on held-out samples)
      metrics.csv .jsonl     one row per epoch; metrics.png its curves, with matplotlib
      train.log              start block, status lines, epochs; grows while training runs
      checkpoints/step-N/    model.safetensors, optimizer.safetensors, state.json: for --resume

Nothing here is ever unpickled, and weights carry no provenance, so equal runs give equal bytes.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from snvrag.errors import InputError, MismatchError
from snvrag.provenance import atomic_file, atomic_folder, read_json, write_json

# One key only: safetensors writes several in random order, and equal runs must give equal bytes.
WEIGHTS_FORMAT = {"snvrag": "weights-1"}
STATE_FORMAT = "snvrag-checkpoint"
FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
_KEEP = 2
_RNG = "rng.cpu"
_RNG_CUDA = "rng.cuda"


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all parameters to ``path``, atomically."""
    with atomic_file(path) as temporary:
        _save({k: v.detach().cpu() for k, v in model.state_dict().items()}, temporary)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load all parameters from ``path``.

    Raises:
        InputError: the file is absent or damaged.
        MismatchError: its tensors are not exactly those of ``model``; lists the differences.
    """
    tensors = _load(path)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        missing = sorted(set(wanted) - set(found))
        unexpected = sorted(set(found) - set(wanted))
        reshaped = sorted(n for n in set(wanted) & set(found) if wanted[n] != found[n])
        raise MismatchError(
            f"{path}: holds another network (missing {missing[:3]}, unexpected {unexpected[:3]}, "
            f"other shape {reshaped[:3]})",
            "use the preset and sizes that the model was trained with",
        )
    model.load_state_dict(tensors)


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint ``step-N`` (N = ``state["step"]``) under ``folder``; keep the last two.

    It holds weights, optimiser moments, the random generators and ``state``.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{int(state['step']):08d}"
    with atomic_folder(path) as temporary:
        save_weights(model, temporary / WEIGHTS)
        _save(_optimizer_tensors(optimizer) | _rng_tensors(), temporary / OPTIMIZER)
        header = {"format_name": STATE_FORMAT, "format_version": FORMAT_VERSION}
        write_json(temporary / STATE, header | dict(state))
    for old in checkpoints(folder)[:-_KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints under ``folder``, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / STATE).is_file())


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore model, optimiser and random generators from ``path``; returns the saved state.

    Raises:
        InputError: a file is absent, damaged or of another format version.
        MismatchError: it belongs to another network.
    """
    state = read_json(path / STATE)
    if (state.get("format_name"), state.get("format_version")) != (STATE_FORMAT, FORMAT_VERSION):
        raise InputError(
            f"{path / STATE}: format {state.get('format_name')!r} version "
            f"{state.get('format_version')!r}, not {STATE_FORMAT!r} version {FORMAT_VERSION}",
            "train afresh with --force",
        )
    load_weights(model, path / WEIGHTS)
    tensors = _load(path / OPTIMIZER)
    torch.set_rng_state(tensors.pop(_RNG))
    cuda = tensors.pop(_RNG_CUDA, None)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        moments.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return state


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    moments = optimizer.state_dict()["state"]
    return {
        f"{number}.{key}": torch.as_tensor(value).detach().cpu()
        for number, entries in moments.items()
        for key, value in entries.items()
    }


def _rng_tensors() -> dict[str, Tensor]:
    tensors = {_RNG: torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors[_RNG_CUDA] = torch.cuda.get_rng_state()
    return tensors


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=WEIGHTS_FORMAT)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as handle:
            if handle.metadata() != WEIGHTS_FORMAT:
                raise InputError(
                    f"{path}: is marked {handle.metadata()!r}, not {WEIGHTS_FORMAT!r}",
                    "give a file that snvrag train wrote",
                )
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read as safetensors ({error})", "restore it, or train afresh"
        ) from error
