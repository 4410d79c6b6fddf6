"""What a run tells while it runs: train.log, metrics files, curves, TensorBoard."""

import csv
import dataclasses
import json
import logging
import math
import re
import struct
import subprocess
import sys

import pytest

from snvrag import run_folder
from snvrag.config import MaskConfig, ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.errors import OutputError, UsageError
from snvrag.metrics import R2_BINS
from snvrag.observer import SilentObserver
from snvrag.run_log import RunLog
from snvrag.training import train

LIGHT = RunConfig(
    WindowConfig(60, 64),
    MaskConfig(rare_threshold=0.25),
    ModelConfig(network="light", dims=16, heads=1, layers=1, k=1, dropout=0.0),
    TrainConfig(batch_size=18, epochs=2, epoch_batches=4, warmup_steps=3, lr=3e-3),
)
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO|WARNING|ERROR) ")
FACTS = (
    *("panel samples", "panel sites", "load seconds", "samples", "batches", "window size"),
    *("num windows", "MAX_SEQ_LEN", "sampler", "device", "parameters"),
)


class Watcher(SilentObserver):
    """Reads the log as somebody who follows it would, at the first batch."""

    def __init__(self, path, stop=False):
        self.path, self.stop, self.seen = path, stop, None

    def on_batch(self, status):
        if self.seen is None:
            self.seen = self.path.read_text()
            if self.stop:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(mosaic_panel, tmp_path_factory):
    """A finished run, and what its log held at the first batch."""
    folder = tmp_path_factory.mktemp("finished")
    watcher = Watcher(folder / "run" / "train.log")
    train(
        mosaic_panel,
        folder / "run",
        config=LIGHT,
        index_dir=folder / "index",
        tensorboard=True,
        log_every=3,
        observer=watcher,
    )
    return folder / "run", watcher.seen


def test_the_log_can_be_followed_from_the_first_step(finished):
    """ORIGINAL B58: the log appeared after the run."""
    seen = finished[1]
    for fact in FACTS:
        assert re.search(rf" {fact} +\S", seen), fact
    assert re.search(r" panel samples +40\n", seen)
    assert re.search(r" panel sites +250\n", seen)
    assert re.search(r" MAX_SEQ_LEN +64\n", seen)
    assert re.search(r" num windows +5\n", seen)
    assert "JIT: built index for window" in seen
    assert "epoch 1/2  batch 1/4  window" in seen
    assert seen.endswith("\n")


def test_the_log_has_a_status_line_every_so_many_batches_and_one_per_epoch(finished):
    lines = (finished[0] / "train.log").read_text().splitlines()
    assert all(LINE.match(line) for line in lines)
    batches = [re.search(r"epoch (\d)/2  batch (\d)/4 ", line) for line in lines]
    found = [tuple(map(int, match.groups())) for match in batches if match]
    assert found == [(1, 1), (1, 3), (1, 4), (2, 1), (2, 3), (2, 4)]
    rows = (finished[0] / "metrics.jsonl").read_text().splitlines()
    for epoch, row in enumerate(map(json.loads, rows), start=1):
        (line,) = [x for x in lines if f"INFO epoch {epoch}: " in x]
        assert f"held out: loss {row['val_loss']:.4f} ({row['copying_loss']:.4f})" in line
        assert f"rare-F1 {row['val_rare_f1']:.4f}" in line
        assert f"ECE {row['val_ece']:.4f}" in line
    assert "training finished: 2 epochs, 8 steps" in lines[-1]


def test_a_resumed_run_goes_on_in_the_same_log(mosaic_panel, tmp_path):
    run, index = tmp_path / "run", tmp_path / "index"
    config = dataclasses.replace(LIGHT, train=dataclasses.replace(LIGHT.train, epochs=1))
    watcher = Watcher(run / "train.log", stop=True)
    with pytest.raises(KeyboardInterrupt):
        train(mosaic_panel, run, config=config, index_dir=index, observer=watcher)
    first = (run / "train.log").read_text()
    assert "ERROR ended by KeyboardInterrupt" in first.splitlines()[-1]
    train(mosaic_panel, run, config=config, index_dir=index, resume=True)
    second = (run / "train.log").read_text()
    assert second.startswith(first)
    assert "training finished" in second
    train(mosaic_panel, run, config=config, index_dir=index, force=True)
    assert "KeyboardInterrupt" not in (run / "train.log").read_text()


def test_the_log_takes_records_nobody_else_asked_for_and_leaves_logging_as_it_was(tmp_path, caplog):
    logger = logging.getLogger("snvrag")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with caplog.at_level(logging.WARNING), RunLog(tmp_path / "train.log", None, 1):
        logging.getLogger("snvrag.index_store").info("JIT: one")
        logging.getLogger("snvrag.training").warning("two")
        logging.getLogger("snvrag.cli").info("three")
    assert [record.getMessage() for record in caplog.records] == ["two"]
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
    text = (tmp_path / "train.log").read_text()
    assert [line.split(" ", 2)[2] for line in text.splitlines()] == ["INFO JIT: one", "WARNING two"]


def test_a_log_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "train.log").mkdir()
    with pytest.raises(OutputError, match=r"train\.log"), RunLog(tmp_path / "train.log", None, 1):
        pass


def test_log_every_must_be_a_count(mosaic_panel, tmp_path):
    with pytest.raises(UsageError, match="--log-every 0"):
        train(mosaic_panel, tmp_path / "run", config=LIGHT, log_every=0)
    assert not (tmp_path / "run").exists()


def test_every_metrics_file_has_the_same_figures(finished):
    run = finished[0]
    with (run / "metrics.csv").open() as handle:
        table = list(csv.DictReader(handle))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    parts = ("", "rare_", "common_")
    names = ("loss", "accuracy", "precision", "recall", "f1", "r2", "ece")
    wanted = {f"{part}{name}" for part in parts for name in names} | set(R2_BINS)
    for prefix in ("train", "val", "copying", "nearest", "af"):
        assert {f"{prefix}_{name}" for name in wanted} <= set(table[0])
    for row, line in zip(table, lines, strict=True):
        assert list(row) == list(line)
        assert None in line.values()
        for name, text in row.items():
            if line[name] is None:
                assert text == "", name
            else:
                assert float(text) == pytest.approx(line[name]), name


def test_tensorboard_has_every_figure_at_its_step(finished):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(finished[0] / "logs"))
    events.Reload()
    lines = [json.loads(x) for x in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    names = {name.replace("_", "/", 1): name for name in lines[0]}
    assert set(events.Tags()["scalars"]) == set(names)
    assert "val/r2_maf_0.5" in names
    for tag, name in names.items():
        scalars = events.Scalars(tag)
        assert [s.step for s in scalars] == [line["step"] for line in lines]
        for scalar, line in zip(scalars, lines, strict=True):
            value = math.nan if line[name] is None else line[name]
            assert scalar.value == pytest.approx(value, rel=1e-5, nan_ok=True), tag


def test_curves_are_drawn_after_each_epoch(finished):
    data = (finished[0] / "metrics.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert height > 800


def test_curves_of_one_epoch_and_of_undefined_figures(finished, tmp_path):
    """A run without rare sites or with empty bins is drawn too."""
    rows = [json.loads(x) for x in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    undefined = {
        name: math.nan if "rare" in name or "maf" in name or value is None else value
        for name, value in rows[0].items()
    }
    run_folder.write_metrics(tmp_path, [undefined], 1)
    assert (tmp_path / "metrics.png").stat().st_size > 10_000


def test_the_curves_mark_the_epoch_that_was_kept(finished, tmp_path, monkeypatch):
    """Not the one that a look at the rows alone would take."""
    titles = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.suptitle", lambda self, text, **style: titles.append(text)
    )
    rows = [json.loads(x) for x in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    rows = [
        {name: math.nan if value is None else value for name, value in row.items()}
        | {"val_f1": 0.9 - row["epoch"] / 10, "val_rare_f1": row["epoch"] / 10}
        for row in rows
    ]
    for best in (1, 2):
        run_folder.write_metrics(tmp_path, rows, best)
    assert [re.sub(r".*; ", "", title) for title in titles] == [
        "best epoch 1 (F1 0.8000, at rare sites 0.1000)",
        "best epoch 2 (F1 0.7000, at rare sites 0.2000)",
    ]


def test_without_matplotlib_there_is_no_figure_and_one_line_says_so(finished, tmp_path):
    script = (
        "import sys, json, logging, pathlib; sys.modules['matplotlib'] = None\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from snvrag.run_folder import write_metrics\n"
        "run, out = map(pathlib.Path, sys.argv[1:])\n"
        "nan = float('nan')\n"
        "rows = [json.loads(x) for x in (run / 'metrics.jsonl').read_text().splitlines()]\n"
        "for n in (1, 2): write_metrics(out, rows[:n], 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(finished[0]), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("matplotlib is not installed") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.csv", "metrics.jsonl"}
