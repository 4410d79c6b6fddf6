"""The benchmarks are run by hand: these tests only see that they still start."""

import importlib.util
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
