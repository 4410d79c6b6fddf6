"""ORIGINAL B50: memory of a run must not grow with the number of windows, or of sites."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from snvrag.panel import PanelWriter

SAMPLES = 1000
WINDOW = 127
# A window of 0.3 cM: within 30 windows lie two whole contexts of 2 cM to either side.
SPACING = 2400


def long_panel(path, n_windows):
    """A panel of common founders' pieces, written block by block."""
    generator = np.random.default_rng(0)
    names = [f"S{i}" for i in range(SAMPLES)]
    writer = PanelWriter(path, names, ["GLOBAL"])
    edges = [*range(0, n_windows * WINDOW, 2000), n_windows * WINDOW]
    for first, last in pairwise(edges):
        n = last - first
        founders = generator.random((40, n)) < generator.uniform(0.02, 0.5, n)
        genotypes = founders[generator.integers(0, 40, SAMPLES * 2)].T.reshape(n, SAMPLES, 2)
        ac = genotypes.sum(axis=(1, 2))
        af = ac / (2 * SAMPLES)
        rows = np.stack([(1 - af) ** 2, 2 * af * (1 - af), af**2, af]).astype(np.float32)
        strings = {"CHROM": ["20"] * n, "ID": ["."] * n, "REF": ["A"] * n, "ALT": ["C"] * n}
        positions = (1 + SPACING * np.arange(first, last)).tolist()
        counts = np.stack([ac, np.full(n, 2 * SAMPLES)]).astype(np.int32)
        writer.append(strings, positions, genotypes.astype(np.int8), counts, rows[:, None])
    writer.finish({})
    writer.close()
    return path


def peak_megabytes(*words):
    script = (
        "import re, sys; from pathlib import Path; from snvrag.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        # Not ru_maxrss, which a child has from its parent.
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())\n"
        "print(int(peak[1]) / 1024)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("others", [False, True], ids=["panel samples", "other files"])
def test_memory_of_training_does_not_grow_with_the_number_of_windows(tmp_path, others):
    peaks = {}
    # The first run may compile kernels, which takes memory of its own.
    for n_windows in (30, 30, 300):
        panel = tmp_path / f"{n_windows}.h5"
        if not panel.exists():
            long_panel(panel, n_windows)
        words = ["train", panel, "-o", tmp_path / f"run{n_windows}", "--preset", "tiny"]
        words += ["--window-size", WINDOW, "--max-seq-len", WINDOW + 1, "--epochs", 1]
        words += ["--epoch-batches", 20, "--batch-size", 8, "--validation-fraction", 0.001]
        words += ["--max-memory", "64M", "--device", "cpu", "--threads", 1, "-q", "--force"]
        if others:
            words += ["--targets", panel]
        peaks[n_windows] = peak_megabytes(*words)
    assert peaks[300] <= 1.1 * peaks[30], peaks


def sparse_target(path, n_windows):
    """Four people with a call at every twentieth site of :func:`long_panel`."""
    generator = np.random.default_rng(1)
    lines = ["##fileformat=VCFv4.2", "##contig=<ID=20>"]
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
    lines.append("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tT0\tT1\tT2\tT3")
    for site in range(0, n_windows * WINDOW, 20):
        calls = "\t".join("|".join(map(str, pair)) for pair in generator.integers(0, 2, (4, 2)))
        lines.append(f"20\t{1 + SPACING * site}\t.\tA\tC\t.\tPASS\t.\tGT\t{calls}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_memory_of_impute_and_merge_does_not_grow_with_the_number_of_sites(tmp_path):
    peaks = {"impute": {}, "merge": {}}
    # Both are of several chunks. The first run may compile.
    for n_windows in (400, 400, 1600):
        panel, target = tmp_path / f"{n_windows}.h5", tmp_path / f"{n_windows}.vcf"
        if not panel.exists():
            long_panel(panel, n_windows)
            sparse_target(target, n_windows)
        halves = [tmp_path / f"{n_windows}.{i}.vcf.gz" for i in range(2)]
        for half, samples in zip(halves, ("T0,T1", "T2,T3"), strict=True):
            words = ["impute", target, "-r", panel, "-o", half, "-s", samples, "--hds", "--force"]
            peak = peak_megabytes(*words, "--max-memory", "400M", "--threads", 1, "-q")
            peaks["impute"][n_windows] = peak
        words = ["merge", *halves, "-o", tmp_path / f"{n_windows}.vcf.gz", "--force", "-q"]
        peaks["merge"][n_windows] = peak_megabytes(*words)
    # Names of sites and the index being gathered may grow.
    names = 200 * WINDOW * (1600 - 400) / 2**20
    for command, peak in peaks.items():
        assert peak[1600] <= peak[400] + names, (command, peaks)
