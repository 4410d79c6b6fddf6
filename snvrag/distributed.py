"""Device, threads and memory of the process, and the other processes of a ``torchrun``.

Every rank runs the same program on its share of each batch; :class:`Ranks` holds the few things
they must agree on. Strings travel through the launcher's key-value store as plain text, numbers
by ``all_reduce``: nothing is ever unpickled. Without ``RANK`` and ``WORLD_SIZE`` in the
environment there is one rank and every method is a formality.
"""

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from snvrag.errors import RankError, SnvragError, UsageError, WorkError

_FALLBACK_MEMORY = 4 * 2**30
_POLL_SECONDS = 0.01
# A rank may wait while another builds indexes or reads a slow disk.
_TIMEOUT = timedelta(minutes=30)
_FAILED, _EXIT_CODE, _DONE = "failed", "exit-code", "done"
_INTERRUPTED = 130
_MOST_THREADS = 1 << 12

Tree = TypeVar("Tree")


@dataclass(slots=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    """Ranks on this machine, which share its memory."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Any = None
    _calls: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and speaks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This rank's share of ``n`` items in a row; shares differ by at most one item."""
        first = n * self.rank // self.world_size
        return slice(first, n * (self.rank + 1) // self.world_size)

    def once(self, action: Callable[[], str]) -> str:
        """What ``action`` returns on rank 0, on every rank; the others wait for it.

        Raises:
            RankError: another rank failed meanwhile.
        """
        if self.world_size == 1:
            return action()
        self._calls += 1
        key = f"once-{self._calls}"
        if self.is_main:
            text = action()
            self.store.set(key, text)
            return text
        deadline = time.monotonic() + _TIMEOUT.total_seconds()
        while not self.store.check([key]):
            if self.store.check([_FAILED]):
                raise self._told_elsewhere()
            if time.monotonic() > deadline:
                raise WorkError(f"rank 0 has not answered for {_TIMEOUT}", "look at its output")
            time.sleep(_POLL_SECONDS)
        return str(self.store.get(key).decode())

    def sum_numbers(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over ranks, in float64."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def sum_tree(self, tree: Tree) -> Tree:
        """Sum over ranks of every number in nested dicts and lists of one shape; text stays."""
        if self.world_size == 1:
            return tree
        leaves: list[float] = []

        def collect(value: float) -> float:
            leaves.append(value)
            return value

        _map_numbers(tree, collect)
        totals = iter(self.sum_numbers(leaves))
        summed: Tree = _map_numbers(tree, lambda value: type(value)(next(totals)))
        return summed

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every ``grad`` by its sum over ranks; a rank without one counts as zero.

        A parameter that no rank has a gradient for keeps None, so that the optimiser skips it as
        in a run of one process.
        """
        if self.world_size == 1:
            return
        present = self.sum_numbers([p.grad is not None for p in parameters])
        used = [p for p, count in zip(parameters, present, strict=True) if count]
        if not used:
            return
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in used]
        )
        dist.all_reduce(flat)
        for parameter, total in zip(
            used, torch.split(flat, [p.numel() for p in used]), strict=True
        ):
            parameter.grad = total.view_as(parameter)

    def _part(self) -> None:
        """Wait until no rank sends any more: one that left earlier would cut connections in use.

        Through the store, since a barrier would itself be traffic on those connections.
        """
        # The store goes with rank 0 where that holds it; by then all is done.
        with contextlib.suppress(RuntimeError):
            self.store.add(_DONE, 1)
            while self.store.add(_DONE, 0) < self.world_size and not self.store.check([_FAILED]):
                time.sleep(_POLL_SECONDS)

    def _record_failure(self, exit_code: int) -> bool:
        """Note that this rank ends; whether it is the first to, which is the one that speaks."""
        first = bool(self.store.add(_FAILED, 1) == 1)
        if first:
            self.store.set(_EXIT_CODE, str(exit_code))
        return first

    def _told_elsewhere(self) -> RankError:
        return RankError(int(self.store.get(_EXIT_CODE)))


@contextlib.contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, for the time of the block.

    An exception in the block ends all ranks: the first rank to fail raises it as it is, the
    others raise :class:`RankError` with the same exit code. NCCL carries the sums where
    ``device`` is CUDA (each rank takes device ``LOCAL_RANK``), gloo elsewhere. Within the block of
    an outer ``join``, that one's ranks are returned.

    Args:
        device: ``auto``, ``cpu`` or ``cuda[:N]``.

    Raises:
        UsageError: there is no such device, or the environment is not torchrun's.
        RankError: another rank failed, and has said why.
        WorkError: another rank went away without a word.
    """
    if _joined:
        yield _joined[-1]
        return
    ranks = _connect(device)
    _joined.append(ranks)
    try:
        with contextlib.nullcontext() if ranks.world_size == 1 else _ending_together(ranks):
            yield ranks
    finally:
        _joined.pop()


_joined: list[Ranks] = []


@contextlib.contextmanager
def _ending_together(ranks: Ranks) -> Iterator[None]:
    try:
        yield
    except RankError:
        raise
    except SnvragError as error:
        if not ranks._record_failure(error.exit_code):
            raise ranks._told_elsewhere() from error
        raise
    except KeyboardInterrupt as error:
        # torchrun ends the other ranks by a signal once one has failed.
        if not ranks._record_failure(_INTERRUPTED):
            raise ranks._told_elsewhere() from error
        raise
    except BaseException as error:
        if not ranks._record_failure(WorkError.exit_code):
            raise ranks._told_elsewhere() from error
        if isinstance(error, RuntimeError) and _is_lost_connection(error):
            raise WorkError(
                f"rank {ranks.rank} lost touch with the others ({str(error).splitlines()[0]})",
                "see whether one was killed, for memory perhaps; then go on with --resume",
            ) from error
        raise
    else:
        ranks._part()
        dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistBackendError) or "gloo" in text or "NCCL" in text


def _connect(device: str) -> Ranks:
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        own = resolve_device(device)
        if own.type == "cuda" and own.index is not None:
            # Torch's generator of random numbers is that of the current device.
            torch.cuda.set_device(own)
        return Ranks(device=own)
    missing = {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - set(os.environ)
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {size} but {sorted(missing)[0]} is not set",
            "start with: torchrun --nproc-per-node N -m snvrag train …",
        )
    local = int(os.environ["LOCAL_RANK"])
    own = resolve_device(device)
    if own.type == "cuda":
        if ":" in device:
            raise UsageError(
                f"--device {device}: torchrun gives each process a device of its own",
                "use --device cuda, and CUDA_VISIBLE_DEVICES to choose among them",
            )
        own = resolve_device(f"cuda:{local}")
        torch.cuda.set_device(own)
    # Its functions take the group that there is when it is imported as a default argument. Torch's
    # optimisers import it; after the group was made, they would keep the group and its threads
    # beyond destroy_process_group, and such threads can abort the interpreter's end.
    importlib.import_module("torch.distributed.nn.functional")
    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    store.set_timeout(_TIMEOUT)
    dist.init_process_group(
        "nccl" if own.type == "cuda" else "gloo",
        store=PrefixStore("torch", store),
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
    )
    shared = PrefixStore("snvrag", store)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    return Ranks(rank, size, local_size, own, shared)


def _map_numbers(tree: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Mapping):
        return {key: _map_numbers(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_map_numbers(value, function) for value in tree]
    return function(tree) if isinstance(tree, int | float) else tree


def resolve_device(name: str) -> torch.device:
    """The torch device behind ``auto``, ``cpu`` or ``cuda[:N]``.

    Raises:
        UsageError: the name is none of these, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise UsageError(f"--device {name}: unknown device", "one of auto, cpu, cuda, cuda:N")
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise UsageError(
            f"--device {name}: this machine has {count} CUDA devices", "use --device cpu or auto"
        )
    return torch.device(name)


def set_threads(threads: int | None) -> int:
    """Limit torch to ``threads`` CPU threads; returns how many it uses."""
    if threads is not None:
        if not 1 <= threads <= _MOST_THREADS:
            raise UsageError(f"--threads {threads}: must lie between 1 and {_MOST_THREADS:,}")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def set_precision(device: torch.device) -> None:
    """The one statement on TF32: on CUDA, float32 products of the network may use it.

    Most of them run in bfloat16 anyway. Retrieval stays exact: products of ±1 summed in float32
    are whole numbers in either format.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to ``device``; to CUDA from pinned memory, without waiting for the copy."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def available_memory(device: torch.device) -> int:
    """Bytes that a run may plan with: of what is free now half, on CUDA four fifths."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free * 4 // 5
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    except OSError:
        pass
    return _FALLBACK_MEMORY


def resident_memory() -> int:
    """Bytes of memory the process holds now (resident set), 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
