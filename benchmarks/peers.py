"""Beagle, Minimac4 and snvrag side by side on one target: accuracy, CPU and wall seconds, memory.

    python benchmarks/peers.py [--data DIR] [--targets array random10 random50] [--plot PNG]

Every tool runs on one thread, one after the other; a tool that is not installed is skipped. The
accuracy is ``snvrag evaluate``'s: aggregate dosage r² of the panel's minor allele. For snvrag the
second of two runs counts, since numba compiles the kernels once per installation (the first run's
CPU seconds are shown too); its panel is converted beforehand, as Minimac4's is compressed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from snvrag.evaluation import Evaluation, evaluate
from snvrag.panel import Panel
from snvrag.plots import plot_accuracy

DATA = Path(__file__).resolve().parents[2] / "shared/data/chr20/dev"
EFFECTIVE_SIZE = 20_000


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    cpu: float
    wall: float
    peak_mb: float


def measure(command: list[str]) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; holds the end of what it printed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]}: {said.decode()[-400:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(cpu, time.perf_counter() - began, usage.ru_maxrss / 1024)


def run_snvrag(data: Path, target: Path, folder: Path) -> tuple[Path, Cost]:
    """Impute with the copying model."""
    out = folder / "snvrag.vcf.gz"
    command = [sys.executable, "-m", "snvrag", "impute", str(target), "-r"]
    command += [str(folder / "panel.h5"), "-o", str(out), "--threads", "1", "--force", "-q"]
    command += ["--map", str(data.parent / "map.plink.map")]
    first = measure(command)
    cost = measure(command)
    print(f"    snvrag, first run of the installation: {first.cpu:.1f} CPU s")
    return out, cost


def run_beagle(data: Path, target: Path, folder: Path) -> tuple[Path, Cost]:
    """Impute with Beagle 5.4 and its map."""
    prefix = folder / "beagle"
    command = ["beagle", f"gt={target}", f"ref={data / 'panel.vcf.gz'}", f"out={prefix}"]
    command += [f"map={data.parent / 'map.plink.map'}", "nthreads=1"]
    return prefix.with_suffix(".vcf.gz"), measure(command)


def scaled_map(data: Path, folder: Path) -> Path:
    """The map times 4 Ne / haplotypes, Ne = 20,000: what gives Minimac4 its best accuracy here."""
    path = folder / "map.scaled.txt"
    with Panel.open(folder / "panel.h5") as panel:
        factor = 4 * EFFECTIVE_SIZE / panel.n_haplotypes
    lines = (data.parent / "map.minimac4.txt").read_text().splitlines()
    rows = [line.split() for line in lines[1:]]
    scaled = [f"{chrom}\t{pos}\t{float(cm) * factor:.6f}" for chrom, pos, cm in rows]
    path.write_text("\n".join([lines[0], *scaled]) + "\n")
    return path


def run_minimac4(data: Path, target: Path, folder: Path) -> tuple[Path, Cost]:
    """Impute with Minimac4; the panel is compressed beforehand, its time not counted."""
    out, panel = folder / "minimac4.vcf.gz", folder / "panel.msav"
    command = ["minimac4", "--compress-reference", str(data / "panel.vcf.gz"), "-o", str(panel)]
    if not panel.exists():
        measure(command)
    command = ["minimac4", str(panel), str(target), "-o", str(out), "-O", "vcf.gz"]
    command += ["-f", "GT,HDS,DS,GP", "-t", "1", "-m", str(scaled_map(data, folder))]
    return out, measure(command)


TOOLS = (
    ("snvrag", None, run_snvrag),
    ("Beagle 5.4", "beagle", run_beagle),
    ("Minimac4", "minimac4", run_minimac4),
)


def compare(data: Path, name: str, folder: Path) -> list[Evaluation]:
    """Run all tools on one target and print their rows."""
    target, observed = data / f"target.{name}.vcf.gz", data / f"sites.{name}.txt"
    found = []
    print(f"{name}:")
    for label, program, work in TOOLS:
        if program is not None and shutil.which(program) is None:
            print(f"  {label:11} skipped: {program} is not installed")
            continue
        out, cost = work(data, target, folder)
        accuracy = evaluate(
            out, data / "truth.vcf.gz", folder / "panel.h5", observed=observed, label=label
        )
        found.append(accuracy)
        bins = " ".join(f"{b.aggregate_r2:6.3f}" for b in [*accuracy.bins, accuracy.all])
        print(f"  {label:11} {bins} {cost.cpu:7.1f} {cost.wall:7.1f} {cost.peak_mb:7.0f}")
    return found


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--targets", nargs="+", default=["array", "random10", "random50"])
    parser.add_argument("--plot", type=Path, help="PNG of the first target")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"skipped: {arguments.data} is not there")
        return
    edges = "<=.005 <=.01  <=.02  <=.05  <=.1   <=.2   <=.5   all"
    print(
        f"aggregate dosage r² by panel MAF; one thread\n  {'':11} {edges}   CPU s  wall s      MB"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = str(arguments.data / "panel.vcf.gz")
        command = [sys.executable, "-m", "snvrag", "convert", source, "-q", "-o"]
        measure([*command, str(folder / "panel.h5")])
        for number, target in enumerate(arguments.targets):
            found = compare(arguments.data, target, folder)
            if arguments.plot and number == 0:
                plot_accuracy(found, arguments.plot)


if __name__ == "__main__":
    main()
