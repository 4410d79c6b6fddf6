"""Train on the panel alone, impute ``chr20/dev``, and compare with every setting of the rivals.

    python benchmarks/accuracy.py [--seeds 42 43 44] [--runs FOLDER] [-- options of snvrag train]

One run of ``snvrag train`` per seed (about six minutes on two cores for preset ``light``), its
network on the three targets, and the copying model alone beside it. The rivals' figures are those
of ``../shared/data/peers.json``: per bin the best of all settings of Beagle 5.4 and Minimac4. All
figures are aggregate dosage r² of the panel's minor allele at masked sites.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from snvrag.evaluation import Evaluation, evaluate

DATA = Path(__file__).resolve().parents[2] / "shared/data/chr20/dev"
TARGETS = ("array", "random10", "random50")
RIVALS = ("beagle", "minimac4")


def snvrag(*words: object) -> float:
    """Run a command quietly; returns its wall seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "snvrag", *map(str, words), "-q", "--force"]
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def best_rivals(data: Path) -> dict[str, list[float]]:
    """Per target the best rival's r² in each bin, and over all sites."""
    peers = json.loads((data.parents[1] / "peers.json").read_text())
    best = {}
    for target in TARGETS:
        methods = peers["splits"]["chr20/dev"]["targets"][target]["methods"]
        rows = [
            [b["r2_agg"] for b in m["bins"].values()] + [m["all"]["r2_agg"]]
            for name, m in methods.items()
            if name.startswith(RIVALS)
        ]
        best[target] = [max(column) for column in zip(*rows, strict=True)]
    return best


def impute(data: Path, folder: Path, target: str, label: str, run: Path | None) -> Evaluation:
    """Impute one target, with the network of ``run`` or without, and evaluate it."""
    out = folder / f"{target}.vcf.gz"
    words: list[object] = ["impute", data / f"target.{target}.vcf.gz", "-r", folder / "panel.h5"]
    words += ["--map", data.parent / "map.plink.map", "-o", out]
    snvrag(*words, *(["-m", run] if run else []))
    observed = data / f"sites.{target}.txt"
    truth = data / "truth.vcf.gz"
    return evaluate(out, truth, folder / "panel.h5", observed=observed, label=label)


def figures(found: Evaluation) -> list[float]:
    """r² per bin, and over all sites."""
    return [b.aggregate_r2 for b in [*found.bins, found.all]]


def line(name: str, values: list[float]) -> str:
    """One row of the table."""
    return f"  {name:18} " + " ".join(f"{v:6.4f}" for v in values)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--runs", type=Path, help="keep run folders here, and use those there")
    parser.add_argument("options", nargs="*", help="options of snvrag train, after --")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"skipped: {arguments.data} is not there")
        return
    rivals = best_rivals(arguments.data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snvrag("convert", arguments.data / "panel.vcf.gz", "-o", folder / "panel.h5")
        runs = []
        for seed in arguments.seeds:
            run = (arguments.runs or folder) / f"run-{seed}"
            words: list[object] = ["train", folder / "panel.h5", "-o", run, "--seed", seed]
            words += ["--map", arguments.data.parent / "map.plink.map", *arguments.options]
            runs.append(run)
            if (run / "model.safetensors").exists():
                print(f"seed {seed}: {run} is there already")
                continue
            print(f"seed {seed}: trained in {snvrag(*words):.0f} s", flush=True)
        print(f"  {'':18} <=.005 <=.01  <=.02  <=.05  <=.1   <=.2   <=.5   all")
        for target in TARGETS:
            print(target)
            print(line("best rival", rivals[target]))
            alone = impute(arguments.data, folder, target, "copying", None)
            print(line("copying model", figures(alone)))
            rows = [figures(impute(arguments.data, folder, target, run.name, run)) for run in runs]
            for run, values in zip(runs, rows, strict=True):
                print(line(run.name, values))
            lead = [
                min(c) - r for c, r in zip(zip(*rows, strict=True), rivals[target], strict=True)
            ]
            print(line("least lead", lead))
            spread = [max(c) - min(c) for c in zip(*rows, strict=True)]
            print(line("spread over seeds", spread), flush=True)


if __name__ == "__main__":
    main()
