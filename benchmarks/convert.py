"""Time converters of a VCF side by side: ``snvrag convert``, scikit-allel, bio2zarr, bcftools.

    python benchmarks/convert.py [VCF] [--repeat N] [--vcf2zarr PROGRAM]

The tools take turns, each run a process of its own from start to end, and the best of N counts:
wall and CPU seconds, peak memory of all its processes together, bytes written. A tool on one core
is bound to it. ``bcftools view -Ou`` writes nothing: it only reads, as a yardstick. What is not
installed is skipped. bio2zarr has many dependencies and so wants a folder of its own; it reads a
file with an index (``tabix VCF``):

    python -m venv bio2zarr && bio2zarr/bin/pip install 'bio2zarr[vcf]'
    python benchmarks/convert.py VCF --vcf2zarr bio2zarr/bin/vcf2zarr
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[2] / "shared/data/chr20/dev/panel.vcf.gz"
ALLEL = "import allel, sys; allel.vcf_to_hdf5(sys.argv[1], sys.argv[2], overwrite=True)"
_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Tool:
    """One row: what to run, on how many cores; ``{vcf}`` and ``{out}`` are filled in."""

    name: str
    words: tuple[str, ...]
    cores: int


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall: float
    cpu: float
    peak_mb: float
    written: int


class ToolError(Exception):
    """A tool failed; its last line."""


def tools(vcf2zarr: str, cores: int) -> list[Tool]:
    """All rows, those of one core first."""
    snvrag = (sys.executable, "-m", "snvrag", "convert", "{vcf}", "-o", "{out}", "--quiet")
    allel = (sys.executable, "-c", ALLEL, "{vcf}", "{out}")
    zarr = (vcf2zarr, "convert", "--no-progress", "{vcf}", "{out}", "--worker-processes")
    rows = [
        Tool("snvrag convert", (*snvrag, "--threads", "1"), 1),
        Tool("allel.vcf_to_hdf5", allel, 1),
        Tool("vcf2zarr convert -p 1", (*zarr, "1"), 1),
        Tool("bcftools view -Ou", ("bcftools", "view", "-Ou", "-o", "/dev/null", "{vcf}"), 1),
    ]
    if cores > 1:
        rows += [
            Tool("snvrag convert", (*snvrag, "--threads", str(cores)), cores),
            Tool("allel.vcf_to_hdf5", allel, cores),
            Tool(f"vcf2zarr convert -p {cores}", (*zarr, str(cores)), cores),
        ]
    return rows


def measure(tool: Tool, vcf: Path) -> Cost:
    """Run a tool once.

    Raises:
        ToolError: it is not there or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        words = [word.format(vcf=vcf, out=output) for word in tool.words]
        if shutil.which(words[0]) is None:
            raise ToolError(f"{words[0]} is not installed")
        usable = set(sorted(os.sched_getaffinity(0))[: tool.cores])
        before, began = os.times(), time.perf_counter()
        # Bound by taskset, not by a function run in the child: threads may run here.
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, usable)), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        peak: list[float] = [0.0]
        watch = threading.Thread(target=_watch, args=(process, peak))
        watch.start()
        errors = process.communicate()[1]
        wall, after = time.perf_counter() - began, os.times()
        watch.join()
        if process.returncode:
            lines = errors.strip().splitlines()
            raise ToolError(lines[-1] if lines else f"exit code {process.returncode}")
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        paths = [output, *output.rglob("*")] if output.is_dir() else [output]
        written = sum(p.stat().st_size for p in paths if p.is_file())
        return Cost(wall, cpu, peak[0], written)


def _watch(process: "subprocess.Popen[str]", peak: list[float]) -> None:
    """Keep the highest memory of a process and those it started, pages they share once."""
    while process.poll() is None:
        total = sum(_proportional_mb(pid) for pid in _family(process.pid))
        peak[0] = max(peak[0], total)
        time.sleep(_SAMPLE_SECONDS)


def _family(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(c) for t in threads for c in (t / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(member for child in children for member in _family(child))]


def _proportional_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vcf", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--vcf2zarr", default="vcf2zarr", help="bio2zarr's program.")
    arguments = parser.parse_args()
    if not arguments.vcf.exists():
        print(f"skipped: {arguments.vcf} is not there")
        return
    compare(arguments.vcf, arguments.vcf2zarr, arguments.repeat)


def compare(vcf: Path, vcf2zarr: str, repeat: int) -> None:
    """Run all tools ``repeat`` times and print a table."""
    size = vcf.stat().st_size
    rows = tools(vcf2zarr, len(os.sched_getaffinity(0)))
    costs: dict[Tool, list[Cost]] = {tool: [] for tool in rows}
    failed: dict[Tool, str] = {}
    for _ in range(repeat):
        for tool in rows:
            if tool in failed:
                continue
            try:
                costs[tool].append(measure(tool, vcf))
            except ToolError as error:
                failed[tool] = str(error)
    print(f"convert {vcf} ({size:,} bytes), best of {repeat}")
    print(
        f"{'tool':24} {'cores':>5} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'bytes':>13} "
        f"{'of VCF':>7} {'wall / snvrag':>13}"
    )
    for tool in rows:
        if tool in failed:
            print(f"{tool.name:24} {tool.cores:5} skipped: {failed[tool]}")
            continue
        wall = min(cost.wall for cost in costs[tool])
        cpu = min(cost.cpu for cost in costs[tool])
        peak = max(cost.peak_mb for cost in costs[tool])
        written = costs[tool][-1].written
        ours = next(t for t in rows if t.name.startswith("snvrag") and t.cores == tool.cores)
        ratio = wall / min(c.wall for c in costs[ours]) if costs[ours] else float("nan")
        print(
            f"{tool.name:24} {tool.cores:5} {wall:8.2f} {cpu:8.2f} {peak:8.0f} {written:13,} "
            f"{written / size:7.2f} {ratio:13.2f}"
        )


if __name__ == "__main__":
    main()
