"""Weights as safetensors, everything else as JSON; folders appear whole or not at all.

    run/
      config.json            what was trained, on which panel, with which settings
      model.safetensors      the best weights so far (at rare sites of held-out samples)
      metrics.csv .jsonl     one row per epoch; metrics.png its curves, with matplotlib
      train.log              start block, status lines, epochs; grows while training runs
      checkpoints/step-N/    model.safetensors, optimizer.safetensors, state.json: for --resume
      .lock                  held by the process that trains; names it

Nothing here is ever unpickled, and weights carry no provenance, so equal runs give equal bytes.
"""

import json
import logging
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from snvrag.distributed import Ranks
from snvrag.errors import InputError
from snvrag.provenance import (
    atomic_file,
    atomic_folder,
    digest_json,
    read_json,
    remove_temporaries,
    remove_whole,
    write_json,
)
from snvrag.weights import WEIGHTS, check_shapes, read_tensors, weights_format

logger = logging.getLogger(__name__)

STATE_FORMAT = "snvrag-checkpoint"
FORMAT_VERSION = 4
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
_HEADER = {"format_name": STATE_FORMAT, "format_version": FORMAT_VERSION}
_DIGEST = "digest"
_KEEP = 2
_RNG = "rng.cpu"
_RNG_CUDA = "rng.cuda"
_COPY = "copy."


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all parameters to ``path``, atomically."""
    with atomic_file(path) as temporary:
        _save(_weight_tensors(model), temporary)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load all parameters from ``path``.

    Raises:
        InputError: the file is absent or damaged.
        MismatchError: its tensors are not exactly those of ``model``; lists the differences.
    """
    _apply_weights(model, _load(path), path)


def _apply_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    check_shapes(path, {name: tuple(value.shape) for name, value in tensors.items()}, wanted)
    model.load_state_dict(tensors)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    copy: nn.Module | None = None,
) -> Path:
    """Write a checkpoint ``step-N`` (N = ``state["step"]``) under ``folder``; keep the last two.

    Those of later steps go: a resume that went on from an earlier one found them damaged.

    It holds weights, optimiser moments, the random generators, ``state`` and, if there is one, a
    ``copy`` of part of the network as it was at another step.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{int(state['step']):08d}"
    with atomic_folder(path) as temporary:
        _save(_weight_tensors(model), temporary / WEIGHTS)
        tensors = _optimizer_tensors(optimizer) | _rng_tensors()
        if copy is not None:
            tensors |= {f"{_COPY}{name}": value for name, value in _weight_tensors(copy).items()}
        _save(tensors, temporary / OPTIMIZER)
        # Through JSON, so that its digest is that of what the file gives back.
        told = json.loads(json.dumps({**_HEADER, **state}))
        # The folder as a whole is waited for.
        write_json(temporary / STATE, told | {_DIGEST: digest_json(told)}, durable=False)
    # Later steps are what a resume passed over as damaged: they are no longer of this run.
    later = [p for p in folder.glob("step-*") if p.name > path.name]
    for old in later + [p for p in checkpoints(folder) if p not in later][:-_KEEP]:
        remove_whole(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints under ``folder``, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / STATE).is_file())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint read whole, before anything of it is applied."""

    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read the checkpoint folder ``path``.

        Raises:
            DamagedError: a file is absent, cut short or not what it must be.
            InputError: it is of another format version.
        """
        try:
            state = read_json(path / STATE)
            found = (state.get("format_name"), state.get("format_version"))
            if found == tuple(_HEADER.values()):
                if state.pop(_DIGEST, None) != digest_json(state):
                    raise InputError(f"{path / STATE}: was changed: its digest does not match")
                return cls(path, _load(path / WEIGHTS), _load(path / OPTIMIZER), state)
        except InputError as error:
            raise DamagedError(error.message, "train afresh with --force") from error
        raise InputError(
            f"{path / STATE}: format {found[0]!r} version {found[1]!r}, not {STATE_FORMAT!r} "
            f"version {FORMAT_VERSION}",
            "train afresh with --force",
        )

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, copy: nn.Module | None = None
    ) -> None:
        """Put weights, moments and the random generators back, and ``copy``'s weights if given.

        Raises:
            MismatchError: the checkpoint belongs to another network.
            DamagedError: it holds what no checkpoint holds.
        """
        try:
            self._restore(model, optimizer, copy)
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            told = str(error).partition("\n")[0]
            raise DamagedError(
                f"{self.path}: cannot be resumed ({told})", "train afresh with --force"
            ) from error

    def _restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, copy: nn.Module | None
    ) -> None:
        _apply_weights(model, self.weights, self.path / WEIGHTS)
        tensors = dict(self.optimizer)
        names = [name for name in tensors if name.startswith(_COPY)]
        copied = {name.removeprefix(_COPY): tensors.pop(name) for name in names}
        if copy is not None:
            _apply_weights(copy, copied, self.path / OPTIMIZER)
        torch.set_rng_state(tensors.pop(_RNG))
        cuda = tensors.pop(_RNG_CUDA, None)
        if cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(cuda)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, key = name.partition(".")
            moments.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})


class DamagedError(InputError):
    """A checkpoint that is not whole."""


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None; a warning names each one passed over.

    Raises:
        InputError: the newest whole one is of another format version.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return Checkpoint.read(path)
        except DamagedError as error:
            logger.warning("%s: incomplete checkpoint passed over (%s)", path, error.message)
    return None


def remove_leftovers(run: Path) -> None:
    """Remove what a killed process was writing when it died, in a run and its checkpoints."""
    # A report or an imputed file may be on its way into the same folder.
    remove_temporaries(run, "config.json", WEIGHTS, "metrics.*")
    for folder in run.glob("*/"):
        remove_temporaries(folder, "step-*")


def agree_on_checkpoint(run: Path, folder: str, ranks: Ranks) -> Checkpoint | None:
    """The checkpoint to resume, on every rank the one that rank 0 finds whole; None if none is."""
    found: Checkpoint | None = None

    def search() -> str:
        nonlocal found
        remove_leftovers(run)
        found = newest_checkpoint(run / folder)
        return "" if found is None else found.path.name

    name = ranks.once(search)
    if not name:
        logger.warning("%s: no complete checkpoint to resume, starting afresh", run)
        return None
    return found or Checkpoint.read(run / folder / name)


def _weight_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


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
    # safetensors makes files that nobody else may read; an ordinary new file shows the usual mode.
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    metadata = weights_format({name: value.numpy() for name, value in tensors.items()})
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    except SafetensorError as error:
        # A full disk, for example: its own error says so in words only.
        raise OSError(str(error)) from error
    path.chmod(mode)


def _load(path: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in read_tensors(path).items()}
