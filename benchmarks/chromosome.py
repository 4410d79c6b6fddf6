"""Everything at chromosome scale in one run: snvrag beside other tools, and how its cost grows.

    python benchmarks/chromosome.py [--size small|full] [--data FOLDER] [--only SECTION …]
                                    [--model RUN|shipped] [--vcf2zarr PROGRAM] [--repeat N]
                                    [--dims 384] [--embedded 256] [--plot PNG]

The data are those of ``benchmarks/simulate.py`` in FOLDER, simulated where they are not there:
``full`` is 2,504 panel samples, 150,000 sites and 200 targets. Sections, all of them by default:

convert    converters side by side, and the panel file's bytes against the VCF.gz's
index      ``snvrag build-index`` of all windows; one window just in time, through the API
train      from typing ``snvrag train`` to the first optimiser step, no index built before
retrieval  a batch of 72 samples, K = 32, against IndexFlatL2, on the alleles of one window
impute     all targets: no network, ``--model``, Beagle 5.4 and Minimac4, with their accuracy
growth     ``convert`` and ``impute`` without a network at an eighth, a quarter, half and all of the
           sites, targets or panel samples; the slope of log CPU seconds over log size, with and
           without what the same command takes on almost nothing (*start-up*)

CPU seconds are user + system. In ``impute`` and ``growth`` every process has one thread, and no two
run at a time; the best seconds and the highest peak memory of N runs count. Compiled kernels are
warmed up first. A tool that is not installed is skipped. Needs ``bcftools``; Linux.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cyvcf2
import numpy as np
from convert import compare as compare_converters
from peers import Case, Cost, header, measure, row, say, snvrag_command
from peers import compare as compare_peers
from retrieval import compare as compare_indexes
from train_start import SNVRAG, first_step

from snvrag.index_store import IndexStore
from snvrag.panel import Panel
from snvrag.plots import require_matplotlib
from snvrag.windows import WindowPlan

SIMULATE = Path(__file__).resolve().with_name("simulate.py")
SIZES = {
    "small": ["--panel", "200", "--targets", "20", "--sites", "10000"],
    "full": ["--panel", "2504", "--targets", "200", "--sites", "150000"],
}
TARGET = "array"
LAST_SIMULATED = "map.minimac4.txt"
K = 32
JIT_WINDOWS = 20
PARTS = (8, 4, 2, 1)


@dataclass(frozen=True)
class Size:
    """How much of the data is used: the first sites, targets and panel samples."""

    sites: int
    targets: int
    samples: int


# Almost nothing: what a command takes before any work. A window is sure to have an array site.
START = Size(511, 1, 10)
NAMES = {"sites": "sites", "targets": "targets", "samples": "panel samples"}


@dataclass
class Bench:
    """The data and where to work on them; the panel is converted on first use."""

    data: Path
    work: Path
    options: argparse.Namespace

    @property
    def vcf(self) -> Path:
        """The panel's file."""
        return self.data / "panel.vcf.gz"

    @property
    def panel(self) -> Path:
        """The converted panel."""
        path = self.work / "panel.h5"
        if not path.exists():
            measure(convert_command(self.vcf, path))
        return path

    @property
    def map(self) -> Path:
        """The genetic map."""
        return self.data / "map.plink.map"


def convert_command(vcf: Path, panel: Path) -> list[str]:
    """``snvrag convert`` on one thread."""
    return [*SNVRAG, "convert", str(vcf), "-o", str(panel), "--threads", "1", "--force", "-q"]


def spent(cost: Cost) -> str:
    """A cost in words."""
    return (
        f"{cost.cpu_seconds:.2f} CPU s, {cost.wall_seconds:.2f} s wall, peak {cost.peak_mb:.0f} MB"
    )


def best(costs: Sequence[Cost]) -> Cost:
    """Least seconds and highest memory of some runs."""
    return Cost(
        min(cost.cpu_seconds for cost in costs),
        min(cost.wall_seconds for cost in costs),
        max(cost.peak_mb for cost in costs),
    )


def convert_section(bench: Bench) -> None:
    """Converters and the panel's bytes."""
    compare_converters(bench.vcf, bench.options.vcf2zarr, bench.options.repeat)
    ours, theirs = bench.panel.stat().st_size, bench.vcf.stat().st_size
    print(f"panel file {ours:,} bytes, VCF.gz {theirs:,}: {ours / theirs:.2f}")


def index_section(bench: Bench) -> None:
    """All windows by the command; single ones just in time, of which the median is told."""
    folder = bench.work / "index"
    command = [*SNVRAG, "build-index", str(bench.panel), str(folder), "--force", "-q"]
    cost = best([measure(command) for _ in range(bench.options.repeat)])
    files = list(folder.glob("index_*.faiss"))
    size = sum(path.stat().st_size for path in files)
    print(f"build-index, {len(files)} windows, {size:,} bytes: {spent(cost)}")
    wall, cpu = [], []
    with Panel.open(bench.panel) as panel:
        plan = WindowPlan.from_chromosomes(panel.chromosomes())
        with IndexStore.open(bench.work / "jit", panel, plan) as store:
            for window in range(min(JIT_WINDOWS, plan.num_windows)):
                began, used = time.perf_counter(), time.process_time()
                store.get(window)
                wall.append(time.perf_counter() - began)
                cpu.append(time.process_time() - used)
    print(
        f"one window just in time, panel read and index written, median of {len(wall)}: "
        f"{statistics.median(wall) * 1e3:.1f} ms wall, {statistics.median(cpu) * 1e3:.1f} CPU ms"
    )


def train_section(bench: Bench) -> None:
    """The second of two runs, each with an index folder of its own."""
    for name in ("train-a", "train-b"):
        run = bench.work / name
        words = ["train", str(bench.panel), "-o", str(run), "-i", str(run.with_suffix(".index"))]
        seconds, peak = first_step([*words, "--map", str(bench.map), "--no-progress"])
    print(f"first optimiser step {seconds:.2f} s after the command, peak {peak:.0f} MB")


def retrieval_section(bench: Bench) -> None:
    """On the first window's alleles."""
    with Panel.open(bench.panel) as panel:
        window = WindowPlan.from_chromosomes(panel.chromosomes()).windows[0]
        alleles = panel.alleles(window.start, window.end)
    compare_indexes(alleles, bench.options.dims, bench.options.embedded, K)


def impute_section(bench: Bench) -> None:
    """All tools that are installed, on one thread."""
    samples = len(cyvcf2.VCF(str(bench.data / f"target.{TARGET}.vcf.gz")).samples)
    print(f"{samples} targets, one thread; aggregate dosage r² by panel MAF")
    print(header(confidence=False))
    case = Case(bench.data, TARGET, bench.panel.parent, bench.options.model)
    for found in compare_peers(case, None):
        print(row(TARGET, found, confidence=False), flush=True)


class Subsets:
    """Parts of the data, made by bcftools, each in a folder of its own."""

    def __init__(self, bench: Bench) -> None:
        self._data, self._folder = bench.data, bench.work / "subsets"
        with Panel.open(bench.panel) as panel:
            self._chrom = panel.chromosomes()[0][0]
            self._positions, self._samples = panel.positions, list(panel.samples)
        self._targets = cyvcf2.VCF(str(bench.data / f"target.{TARGET}.vcf.gz")).samples
        self.whole = Size(len(self._positions), len(self._targets), len(self._samples))

    def case(self, size: Size) -> Case:
        """A folder with panel, target and map of this size, made where it is not there."""
        folder = self._folder / "-".join(map(str, (size.sites, size.targets, size.samples)))
        if not folder.exists():
            folder.mkdir(parents=True)
            for kind in ("plink.map", "minimac4.txt"):
                (folder / f"map.{kind}").symlink_to((self._data / f"map.{kind}").resolve())
            self._cut("panel.vcf.gz", size, self._samples[: size.samples], folder)
            self._cut(f"target.{TARGET}.vcf.gz", size, self._targets[: size.targets], folder)
        return Case(folder, TARGET, folder, None)

    def _cut(self, name: str, size: Size, people: list[str], folder: Path) -> None:
        source, made = (self._data / name).resolve(), folder / name
        if size.sites == self.whole.sites and people in (self._samples, self._targets):
            made.symlink_to(source)
            return
        listed = folder / "people.txt"
        listed.write_text("\n".join(people) + "\n")
        region = f"{self._chrom}:1-{self._positions[size.sites - 1]}"
        words = ["bcftools", "view", "-I", "-r", region, "-S", str(listed), "-Oz", "-o", str(made)]
        subprocess.run([*words, str(source)], check=True)


@dataclass(frozen=True)
class Point:
    """What both commands take at one size."""

    size: Size
    convert: Cost
    impute: Cost


def measure_point(case: Case) -> tuple[Cost, Cost]:
    """Convert and impute once."""
    convert = measure(convert_command(case.data / "panel.vcf.gz", case.folder / "panel.h5"))
    out, command = snvrag_command(case)
    impute = measure(command)
    out.unlink()
    return convert, impute


def measure_points(subsets: Subsets, sizes: list[Size], repeat: int) -> list[Point]:
    """The sizes take turns, so that what else the machine does meets all of them."""
    cases = [subsets.case(size) for size in sizes]
    # Compiles what is not compiled yet.
    measure_point(cases[-1])
    found: list[list[tuple[Cost, Cost]]] = [[] for _ in sizes]
    for turn in range(repeat):
        for costs, case in zip(found, cases, strict=True):
            costs.append(measure_point(case))
        say(f"    turn {turn + 1} of {repeat} done")
    return [
        Point(size, *map(best, zip(*costs, strict=True)))
        for size, costs in zip(sizes, found, strict=True)
    ]


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Least-squares slope of log seconds over log sizes; NaN where a logarithm has none."""
    if min(seconds) <= 0 or len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def growth_section(bench: Bench) -> None:
    """Print and plot what convert and impute take at four sizes of each kind."""
    if shutil.which("bcftools") is None:
        print("skipped: bcftools is not installed")
        return
    subsets = Subsets(bench)
    axes = {axis: [part_of(subsets.whole, axis, part) for part in PARTS] for axis in NAMES}
    # All of the data is the last of every axis.
    sizes = list(dict.fromkeys([START, *(size for of in axes.values() for size in of)]))
    found = dict(zip(sizes, measure_points(subsets, sizes, bench.options.repeat), strict=True))
    print(f"{'':8} {'panel':>7} {'':>7} {'---- convert ----':>23} {'---- impute ----':>23}")
    titles = f"{'CPU s':>7} {'wall s':>7} {'MB':>7} "
    print(f"{'sites':>8} {'samples':>7} {'targets':>7} {titles}{titles}")
    start = found[START]
    print_point(start, "start-up")
    points = {axis: [found[size] for size in of] for axis, of in axes.items()}
    for axis, of in points.items():
        for point in of:
            print_point(point)
        print_slopes(axis, of, start)
    if bench.options.plot:
        plot(points, start, bench.options.plot)


def part_of(whole: Size, axis: str, part: int) -> Size:
    """A ``part``-th of the sites, targets or samples, and all of the others."""
    return replace(whole, **{axis: max(1, getattr(whole, axis) // part)})


def print_point(point: Point, note: str = "") -> None:
    """One line of the table."""
    size = point.size
    costs = " ".join(
        f"{cost.cpu_seconds:7.2f} {cost.wall_seconds:7.2f} {cost.peak_mb:7.0f}"
        for cost in (point.convert, point.impute)
    )
    print(f"{size.sites:8,} {size.samples:7,} {size.targets:7,} {costs} {note}", flush=True)


def commands_of(axis: str) -> tuple[str, ...]:
    """What depends on the axis: convert reads no targets."""
    return ("impute",) if axis == "targets" else ("convert", "impute")


def print_slopes(axis: str, points: list[Point], start: Point) -> None:
    """One line a command."""
    sizes = [getattr(point.size, axis) for point in points]
    for command in commands_of(axis):
        seconds = [getattr(point, command).cpu_seconds for point in points]
        fixed = getattr(start, command).cpu_seconds
        peaks = [getattr(point, command).peak_mb for point in points]
        print(
            f"    {NAMES[axis]}: {command} CPU ~ size^{slope(sizes, seconds):.2f}, without the "
            f"start-up ^{slope(sizes, [s - fixed for s in seconds]):.2f}; "
            f"memory {peaks[0]:.0f} to {peaks[-1]:.0f} MB",
            flush=True,
        )


def plot(points: dict[str, list[Point]], start: Point, path: Path) -> None:
    """CPU seconds (both axes logarithmic) above, peak memory below, one column an axis."""
    require_matplotlib()
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(
        2, len(points), figsize=(9, 5), sharex="col", sharey="row", layout="constrained"
    )
    looks = {"impute": ("C0", "o"), "convert": ("C1", "s")}
    for column, (axis, found) in enumerate(points.items()):
        above, below = rows[0][column], rows[1][column]
        sizes = np.array([getattr(point.size, axis) for point in found])
        for command in commands_of(axis):
            color, marker = looks[command]
            costs = [getattr(point, command) for point in found]
            seconds = [cost.cpu_seconds for cost in costs]
            label = f"{command}, slope {slope(list(sizes), seconds):.2f}"
            above.loglog(sizes, seconds, marker + "-", color=color, label=label)
            linear = seconds[-1] * sizes / sizes[-1]
            above.loglog(sizes, linear, ":", color=color, alpha=0.6)
            fixed = getattr(start, command).cpu_seconds
            above.axhline(fixed, color=color, linewidth=0.8, linestyle="--", alpha=0.6)
            peaks = [cost.peak_mb for cost in costs]
            below.semilogx(sizes, peaks, marker + "-", color=color, label=command)
        above.legend(fontsize=7)
        above.yaxis.set_major_formatter("{x:g}")
        below.set_ylim(bottom=0)
        below.set_xlabel(NAMES[axis])
        below.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
        below.minorticks_off()
        for axes in (above, below):
            axes.grid(alpha=0.3)
    rows[0][0].set_ylabel("CPU seconds, one thread")
    rows[1][0].set_ylabel("peak memory, MB")
    figure.suptitle("dotted: linear; dashed: start-up", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "convert": convert_section,
    "index": index_section,
    "train": train_section,
    "retrieval": retrieval_section,
    "impute": impute_section,
    "growth": growth_section,
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="of what is simulated")
    parser.add_argument("--data", type=Path, help="folder of the data; default a temporary one")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--model", type=Path, default=Path("shipped"), help="run folder or shipped")
    parser.add_argument("--vcf2zarr", default="vcf2zarr", help="bio2zarr's program")
    parser.add_argument("--repeat", type=int, default=2, help="runs, of which the best counts")
    parser.add_argument("--dims", type=int, default=384, help="of the float embedding")
    parser.add_argument("--embedded", type=int, default=256, help="haplotypes it is measured on")
    parser.add_argument("--plot", type=Path, help="PNG of the growth")
    return parser.parse_args()


def main() -> None:
    """Simulate where needed, and run the sections."""
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        data = options.data or Path(name) / "data"
        if not (data / LAST_SIMULATED).exists():
            command = [sys.executable, str(SIMULATE), str(data), *SIZES[options.size]]
            subprocess.run(command, check=True)
        bench = Bench(data, Path(name), options)
        for section in options.only:
            print(f"\n== {section}", flush=True)
            SECTIONS[section](bench)


if __name__ == "__main__":
    main()
