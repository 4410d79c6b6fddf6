"""From typing ``snvrag train`` to its first optimiser step, and ``snvrag --help``.

    python benchmarks/train_start.py [VCF]

Uses the real panel beside the checkout where it is there, else the bundled example. Files are in
the page cache (the second of two runs is reported). Also times ``build-index`` over all windows.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/data/chr20/dev/panel.vcf.gz"
EXAMPLE = ROOT / "snvrag/example_data/panel.vcf.gz"
SNVRAG = [sys.executable, "-m", "snvrag"]


def first_step(words: list[str]) -> tuple[float, float]:
    """Seconds from the start of the process to the line that tells of the first step, and its MB.

    Both are NaN where the process ends without. The memory is the highest so far.
    """
    began = time.perf_counter()
    process = subprocess.Popen([*SNVRAG, *words], stderr=subprocess.PIPE, text=True)
    seconds = peak = float("nan")
    assert process.stderr is not None  # noqa: S101 - a pipe was asked for
    for line in process.stderr:
        if re.match("first optimiser step", line):
            seconds = time.perf_counter() - began
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
            break
    process.kill()
    process.communicate()
    return seconds, peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vcf", nargs="?", type=Path, default=REAL if REAL.exists() else EXAMPLE)
    source: Path = parser.parse_args().vcf
    with tempfile.TemporaryDirectory() as folder:
        panel = f"{folder}/panel.h5"
        subprocess.run([*SNVRAG, "convert", str(source), "-o", panel, "-q"], check=True)
        for name in ("a", "b"):
            seconds, peak = first_step(["train", panel, "-o", f"{folder}/{name}", "--no-progress"])
        print(f"{source}: first optimiser step {seconds:.2f} s after the command, {peak:.0f} MB")
        began = time.perf_counter()
        command = [*SNVRAG, "build-index", panel, f"{folder}/index", "--force"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"build-index, whole command {time.perf_counter() - began:.2f} s:")
        print(done.stdout.strip())
        began = time.perf_counter()
        subprocess.run([*SNVRAG, "--help"], check=True, capture_output=True)
        print(f"snvrag --help {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
