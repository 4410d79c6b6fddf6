"""Beagle, Minimac4 and snvrag side by side on one target: accuracy, CPU and wall seconds, memory.

    python benchmarks/peers.py [--data DIR] [--targets array random10 random50] [--plot PNG]
                               [--model RUN] [--only NAME …] [--confidence] [--json]

Every tool runs on one thread, one after the other; a tool that is not installed is skipped. The
accuracy is ``snvrag evaluate``'s: aggregate dosage r² of the panel's minor allele. For snvrag the
second of two runs counts, since numba compiles the kernels once per installation (the first run's
CPU seconds are shown too); its panel is converted beforehand, as Minimac4's is compressed. With
``--model`` a row ``snvrag -m`` shows what a trained run makes of it.

With ``--confidence`` the table tells what probabilities and quality scores are worth: expected
calibration error of dosages and genotypes, and the file's own estimate (CR2, DR2 or R2) against
true r² at masked sites that vary in the truth. Two more columns part tool from formula: the
correlation when each tool's own haplotype dosages are scored by Minimac4's and Beagle's formula,
and by snvrag's.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cyvcf2
import numpy as np

from snvrag.dosage import estimated_r2, variance_ratio
from snvrag.evaluation import Evaluation, evaluate
from snvrag.panel import Panel
from snvrag.plots import plot_accuracy

DATA = Path(__file__).resolve().parents[2] / "shared/data/chr20/dev"
TARGETS = ("array", "random10", "random50")
EFFECTIVE_SIZE = 20_000
FORMULAS = {"ratio": variance_ratio, "snvrag": estimated_r2}
# A process has the peak memory of the one that started it, so a small one starts the command.
METER = (
    "import os, sys; pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ); "
    "_, status, used = os.wait4(pid, 0); "
    "print('\\n', used.ru_utime + used.ru_stime, used.ru_maxrss / 1024); "
    "sys.exit(os.waitstatus_to_exitcode(status) != 0)"
)
EDGES = ("<=.005", "<=.01", "<=.02", "<=.05", "<=.1", "<=.2", "<=.5", "all")


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Case:
    """One target, and where to work on it."""

    data: Path
    target: str
    folder: Path
    model: Path | None
    haplotypes: bool = False
    """Whether the tools write haplotype dosages too."""

    @property
    def vcf(self) -> Path:
        """The target's file."""
        return self.data / f"target.{self.target}.vcf.gz"

    def map(self, kind: str) -> Path:
        """The genetic map as ``plink.map`` or ``minimac4.txt``, with the data or one folder up."""
        own = self.data / f"map.{kind}"
        return own if own.exists() else self.data.parent / own.name


def measure(command: list[str]) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; holds the end of what it printed.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", METER, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stdout.decode()[-400:]}")
    cpu, peak = done.stdout.split()[-2:]
    return Cost(float(cpu), wall, float(peak))


def snvrag_command(case: Case, *more: str) -> tuple[Path, list[str]]:
    """What it writes and the command: imputes with the copying model or as ``more`` asks for."""
    out = case.folder / "snvrag.vcf.gz"
    command = [sys.executable, "-m", "snvrag", "impute", str(case.vcf), "-r"]
    command += [str(case.folder / "panel.h5"), "-o", str(out), "--threads", "1", "--force", "-q"]
    command += ["--map", str(case.map("plink.map")), *(["--hds"] if case.haplotypes else []), *more]
    return out, command


def run_snvrag(case: Case, *more: str) -> tuple[Path, Cost]:
    """Impute with the copying model, or with what ``more`` asks for."""
    out, command = snvrag_command(case, *more)
    first = measure(command)
    cost = measure(command)
    say(f"    snvrag, first run of the installation: {first.cpu_seconds:.1f} CPU s")
    return out, cost


def run_refined(case: Case) -> tuple[Path, Cost]:
    """Impute with a trained run."""
    return run_snvrag(case, "-m", str(case.model), "--device", "cpu")


def run_beagle(case: Case) -> tuple[Path, Cost]:
    """Impute with Beagle and its map."""
    prefix = case.folder / "beagle"
    command = ["beagle", f"gt={case.vcf}", f"ref={case.data / 'panel.vcf.gz'}", f"out={prefix}"]
    command += [f"map={case.map('plink.map')}", "nthreads=1", "gp=true"]
    command += ["ap=true"] if case.haplotypes else []
    return prefix.with_suffix(".vcf.gz"), measure(command)


def scaled_map(case: Case) -> Path:
    """The map times 4 Ne / haplotypes, Ne = 20,000: what gives Minimac4 its best accuracy here."""
    path = case.folder / "map.scaled.txt"
    with Panel.open(case.folder / "panel.h5") as panel:
        factor = 4 * EFFECTIVE_SIZE / panel.n_haplotypes
    lines = case.map("minimac4.txt").read_text().splitlines()
    rows = [line.split() for line in lines[1:]]
    scaled = [f"{chrom}\t{pos}\t{float(cm) * factor:.6f}" for chrom, pos, cm in rows]
    path.write_text("\n".join([lines[0], *scaled]) + "\n")
    return path


def run_minimac4(case: Case) -> tuple[Path, Cost]:
    """Impute with Minimac4; the panel is compressed beforehand, its time not counted."""
    out, panel = case.folder / "minimac4.vcf.gz", case.folder / "panel.msav"
    source = str(case.data / "panel.vcf.gz")
    if not panel.exists():
        measure(["minimac4", "--compress-reference", source, "-o", str(panel)])
    command = ["minimac4", str(panel), str(case.vcf), "-o", str(out), "-O", "vcf.gz"]
    command += ["-f", "GT,HDS,DS,GP", "-t", "1", "-m", str(scaled_map(case))]
    return out, measure(command)


Work = Callable[[Case], tuple[Path, Cost]]
# Name in the table, name for --only, program on PATH.
TOOLS: tuple[tuple[str, str, str | None, Work], ...] = (
    ("snvrag", "snvrag", None, run_snvrag),
    ("snvrag -m", "model", None, run_refined),
    ("Beagle 5.4", "beagle", "beagle", run_beagle),
    ("Minimac4", "minimac4", "minimac4", run_minimac4),
)


def say(text: str) -> None:
    """Progress, beside the table or the JSON."""
    print(text, file=sys.stderr)


def formula_correlations(path: Path, accuracy: Evaluation) -> dict[str, float]:
    """Correlation with true r² of each formula's score, from a file's haplotype dosages."""
    true = {accuracy.sites.table.key(i): r2 for i, r2 in enumerate(accuracy.sites.r2)}
    pairs = []
    for record in cyvcf2.VCF(str(path)):
        key = f"{record.CHROM}:{record.POS}:{record.REF}:{record.ALT[0]}"
        r2 = true.get(key, np.nan)
        fields = [name for name in ("HDS", "AP1", "AP2") if name in record.FORMAT]
        if np.isnan(r2) or not fields:
            continue
        hds = np.concatenate([record.format(name).ravel() for name in fields])[None]
        hds = hds[:, ~np.isnan(hds[0])]
        pairs.append((r2, *(float(formula(hds)[0]) for formula in FORMULAS.values())))
    if not pairs:
        return dict.fromkeys(FORMULAS, float("nan"))
    r2, *scores = np.array(pairs).T
    return {
        name: float(np.corrcoef(score, r2)[0, 1]) if score.std() and r2.std() else float("nan")
        for name, score in zip(FORMULAS, scores, strict=True)
    }


@dataclass(frozen=True)
class Result:
    """One tool on one target."""

    accuracy: Evaluation
    cost: Cost
    formulas: dict[str, float] | None
    """Of :data:`FORMULAS`; None unless asked for."""


def compare(case: Case, only: list[str] | None) -> list[Result]:
    """Run the tools on one target."""
    found = []
    for label, short, program, work in TOOLS:
        if (only and short not in only) or (short == "model" and case.model is None):
            continue
        if program is not None and shutil.which(program) is None:
            say(f"    {label} skipped: {program} is not installed")
            continue
        out, cost = work(case)
        accuracy = evaluate(
            out,
            case.data / "truth.vcf.gz",
            case.folder / "panel.h5",
            observed=case.data / f"sites.{case.target}.txt",
            label=label,
        )
        formulas = formula_correlations(out, accuracy) if case.haplotypes else None
        found.append(Result(accuracy, cost, formulas))
    return found


def header(*, confidence: bool) -> str:
    """The table's head; every row has the same columns."""
    begin = f"{'target':<9} {'tool':<11}"
    if confidence:
        names = ("ECE DS", "ECE GP", "r", "rare", "low", "common", "diff", "rms", *FORMULAS)
        return " ".join([begin, *(f"{name:>6}" for name in names)])
    edges = " ".join(f"{edge:>6}" for edge in EDGES)
    return f"{begin} {edges} {'CPU s':>7} {'wall s':>7} {'MB':>6} {'score r':>7}"


def row(target: str, found: Result, *, confidence: bool) -> str:
    """One line of the table."""
    accuracy, cost = found.accuracy, found.cost
    begin = f"{target:<9} {accuracy.label:<11}"
    if confidence:
        return " ".join([begin, *confidence_figures(found)])
    bins = " ".join(f"{b.aggregate_r2:6.3f}" for b in [*accuracy.bins, accuracy.all])
    spent = f"{cost.cpu_seconds:7.1f} {cost.wall_seconds:7.1f} {cost.peak_mb:6.0f}"
    score = f"{accuracy.quality.correlation:7.3f}" if accuracy.quality else f"{'-':>7}"
    return f"{begin} {bins} {spent} {score}"


def confidence_figures(found: Result) -> list[str]:
    """Figures of a line, ``-`` where the file does not have what they are made of."""
    accuracy, formulas = found.accuracy, found.formulas or {}
    genotypes, quality = accuracy.gp_calibration, accuracy.quality
    errors = [accuracy.calibration.ece, genotypes.ece if genotypes else float("nan")]
    scores = [float("nan")] * 6
    if quality:
        scores = [quality.correlation, *(g.correlation for g in quality.by_frequency)]
        scores += [quality.mean_difference, quality.rms_difference]
    texts = [f"{x:6.4f}" for x in errors] + [f"{x:6.3f}" for x in [*scores, *formulas.values()]]
    return [text.replace("nan", "  -") for text in texts]


def as_json(target: str, found: Result) -> dict[str, Any]:
    """One row's figures, without the per-sample ones."""
    figures = found.accuracy.as_json()
    del figures["samples"]
    more = {} if found.formulas is None else {"score_formulas": found.formulas}
    return {"target": target, **asdict(found.cost), **figures, **more}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--plot", type=Path, help="PNG of the first target")
    parser.add_argument("--model", type=Path, help="run folder of a trained network")
    names = [short for _, short, _, _ in TOOLS]
    parser.add_argument("--only", nargs="+", choices=names, help="these tools only")
    parser.add_argument(
        "--confidence",
        action="store_true",
        help="table of calibration and of scores against true r²",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    if arguments.only and "model" in arguments.only and arguments.model is None:
        parser.error("--only model needs --model RUN")
    return arguments


def main() -> None:
    """Run the comparison."""
    arguments = parse()
    if not arguments.data.is_dir():
        say(f"skipped: {arguments.data} is not there")
        return
    rows: list[dict[str, Any]] = []
    if not arguments.json:
        title = "aggregate dosage r² by panel MAF; one thread"
        if arguments.confidence:
            title = (
                "calibration errors; CR2, DR2 or R2 against true r² (MAF <=.005 rare, <=.05 low)"
            )
        print(f"{title}\n{header(confidence=arguments.confidence)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = str(arguments.data / "panel.vcf.gz")
        command = [sys.executable, "-m", "snvrag", "convert", source, "-q", "-o"]
        measure([*command, str(folder / "panel.h5")])
        for number, target in enumerate(arguments.targets):
            case = Case(arguments.data, target, folder, arguments.model, arguments.confidence)
            results = compare(case, arguments.only)
            for found in results:
                rows.append(as_json(target, found))
                if not arguments.json:
                    print(row(target, found, confidence=arguments.confidence), flush=True)
            if arguments.plot and number == 0:
                plot_accuracy([found.accuracy for found in results], arguments.plot)
    if arguments.json:
        # NaN is not JSON.
        text = json.dumps({"rows": rows}, default=str)
        print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=1))


if __name__ == "__main__":
    main()
