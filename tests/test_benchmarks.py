"""The benchmarks are run by hand: these tests only see that they still start."""

import importlib
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest

from snvrag.config import ModelConfig

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NEEDS = {"simulate": "msprime", "shipped_network": "msprime"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_starts(path):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_slope_of_growth_is_the_power(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    slope = importlib.import_module("chromosome").slope
    assert slope([1, 2, 4, 8], [3.0, 6.0, 12.0, 24.0]) == pytest.approx(1)
    assert slope([10, 100], [5.0, 500.0]) == pytest.approx(2)
    assert math.isnan(slope([1, 2], [0.0, 1.0]))


def test_the_step_benchmark_measures_both_networks(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("train_step", FOLDER / "train_step.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(bench, "BASE", ModelConfig(dims=16, layers=1, heads=2, k=1))
    monkeypatch.setattr(bench, "D", 16)
    monkeypatch.setattr(bench, "LENGTH", 32)
    bench.measure_cpu(samples=2, threads=1, repeats=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["plain", "snvrag", "ratio"]
