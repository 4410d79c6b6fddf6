"""Device, threads, seeds and memory of the process."""

import os
from pathlib import Path

import torch

from snvrag.errors import UsageError

_FALLBACK_MEMORY = 4 * 2**30


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
        if threads < 1:
            raise UsageError(f"--threads {threads}: must be at least 1")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def available_memory(device: torch.device) -> int:
    """Bytes that a run may plan with: half of what is free now, on the device it runs on."""
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
