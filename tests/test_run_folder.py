"""Which folder a run writes to, and when it may."""

import os

import pytest

from snvrag import run_folder
from snvrag.config import MaskConfig, ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.errors import MismatchError, OutputError, SnvragError, UsageError
from snvrag.observer import SilentObserver
from snvrag.run_folder import next_run_folder
from snvrag.training import train

CONFIG = RunConfig(
    WindowConfig(60, 64),
    MaskConfig(),
    ModelConfig(dims=16, heads=2, layers=1, af_frequencies=4, dropout=0.0),
    TrainConfig(batch_size=8, epochs=1, epoch_batches=2, warmup_steps=1, patience=9),
)


@pytest.fixture(autouse=True)
def quick_curves(monkeypatch):
    monkeypatch.setattr(run_folder, "plot_training", lambda rows, best, path: path.touch())


def test_an_occupied_folder_is_refused_then_replaced_with_force(mosaic_panel, tmp_path):
    run, index = tmp_path / "r", tmp_path / "i"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        train(mosaic_panel, run, config=CONFIG, index_dir=index)
    train(mosaic_panel, run, config=CONFIG, index_dir=index, force=True)
    report = train(mosaic_panel, run, config=CONFIG, index_dir=index, force=True)
    assert report.epochs == 1
    assert (run / "notes.txt").read_text() == "mine"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_the_next_free_run_folder(tmp_path):
    assert next_run_folder(tmp_path).name == "snvrag-run"
    (tmp_path / "snvrag-run").mkdir()
    assert next_run_folder(tmp_path).name == "snvrag-run"
    (tmp_path / "snvrag-run" / ".lock").touch()
    assert next_run_folder(tmp_path).name == "snvrag-run"
    (tmp_path / "snvrag-run" / "x").touch()
    assert next_run_folder(tmp_path).name == "snvrag-run-2"


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def faulty_options(tmp_path, monkeypatch, fault):
    """Options of ``train`` that are refused, each only once its part of the run is looked at."""
    if fault == "pattern":
        return {"config": RunConfig(CONFIG.windows, MaskConfig(validation_patterns=("sites",)))}
    if fault == "map":
        path = tmp_path / "other.map"
        path.write_text("7 . 0 100\n7 . 1 2000\n")
        return {"config": CONFIG, "genetic_map": path}
    if fault == "threads":
        return {"config": CONFIG, "threads": 0}

    def absent():
        raise UsageError("--tensorboard: the tensorboard package is not installed")

    monkeypatch.setattr("snvrag.training.tensorboard_writer", absent)
    return {"config": CONFIG, "tensorboard": True}


@pytest.mark.parametrize("fault", ["pattern", "map", "threads", "tensorboard"])
def test_what_is_refused_costs_no_earlier_run(mosaic_panel, tmp_path, monkeypatch, fault):
    old, new, index = tmp_path / "old", tmp_path / "new", tmp_path / "i"
    train(mosaic_panel, old, config=CONFIG, index_dir=index)
    before = contents(old)
    options = faulty_options(tmp_path, monkeypatch, fault)
    for folder, force in ((old, True), (new, False)):
        with pytest.raises(SnvragError):
            train(mosaic_panel, folder, index_dir=index, force=force, **options)
    assert contents(old) == before
    assert not new.exists()


class Intruder(SilentObserver):
    """Starts another run in the folder of the one that it observes."""

    def __init__(self, start):
        self.start, self.told = start, []

    def on_batch(self, status):
        for options in ({"force": True}, {"resume": True}):
            with pytest.raises(MismatchError) as caught:
                self.start(**options)
            self.told.append(caught.value)


def test_a_run_folder_is_for_one_process_at_a_time(mosaic_panel, tmp_path):
    def start(**options):
        return train(
            mosaic_panel, tmp_path / "r", config=CONFIG, index_dir=tmp_path / "i", **options
        )

    intruder = Intruder(start)
    report = start(observer=intruder)
    assert len(intruder.told) == 4
    for error in intruder.told:
        begins = f"{tmp_path / 'r'}: is in use by process {os.getpid()} on "
        assert error.message.startswith(begins)
        assert "another -o" in error.hint
    assert report.epochs == 1
    assert start(resume=True).already_finished


def test_a_run_that_another_process_finished_meanwhile_stays(mosaic_panel, tmp_path, monkeypatch):
    """Both found the folder free; the second must look again once it has the lock."""
    run, index = tmp_path / "r", tmp_path / "i"

    def choose(output, **options):
        monkeypatch.undo()
        monkeypatch.setattr(run_folder, "plot_training", lambda rows, best, path: path.touch())
        train(mosaic_panel, run, config=CONFIG, index_dir=index)
        return output

    monkeypatch.setattr("snvrag.training.choose_run_folder", choose)
    with pytest.raises(OutputError, match="not empty"):
        train(mosaic_panel, run, config=CONFIG, index_dir=index)
    assert (run / "model.safetensors").exists()
