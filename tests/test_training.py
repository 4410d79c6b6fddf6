import csv
import dataclasses
import functools
import itertools
import json
import logging
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import mosaic

from snvrag import run_folder
from snvrag.checkpoint import load_weights
from snvrag.config import MaskConfig, ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.dataset import WindowBatches
from snvrag.distributed import Ranks
from snvrag.errors import InputError, MismatchError, UsageError, WorkError
from snvrag.masking import MaskMaker
from snvrag.metrics import Score
from snvrag.model import RagBert
from snvrag.observer import SilentObserver
from snvrag.optimizer import gradient_step, learning_rate, make_optimizer, rows_that_fit
from snvrag.trainer import Trainer, selection_metric
from snvrag.training import train

CONFIG = RunConfig(
    WindowConfig(60, 64),
    MaskConfig(),
    ModelConfig(dims=16, heads=2, layers=1, af_frequencies=4, dropout=0.1),
    TrainConfig(batch_size=8, epochs=2, warmup_steps=3, lr=3e-3, patience=9),
)


@pytest.fixture(autouse=True)
def quick_curves(monkeypatch):
    """Drawing takes longer than these epochs; tests/test_run_log.py holds it to account."""
    monkeypatch.setattr(run_folder, "plot_training", lambda rows, best, path: path.touch())


def with_train(**changes):
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **changes))


class Recorder(SilentObserver):
    def __init__(self, stop_after=None):
        self.batches, self.rows, self.block, self.stop_after = [], [], {}, stop_after

    def on_start(self, block):
        self.block = dict(block)

    def on_batch(self, status):
        self.batches.append(dict(status))
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt

    def on_epoch(self, row):
        self.rows.append(dict(row))


def jit_lines(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("JIT:")]


def test_each_window_is_built_once_and_never_again(mosaic_panel, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    index = tmp_path / "index"
    recorder = Recorder()
    report = train(mosaic_panel, tmp_path / "a", config=CONFIG, index_dir=index, observer=recorder)
    lines = jit_lines(caplog)
    assert len(lines) == report.jit_builds == 5
    assert sorted(int(line.split("window ")[1].split()[0]) for line in lines) == [0, 1, 2, 3, 4]
    first_epoch = [b["jit_builds"] for b in recorder.batches if b["epoch"] == 1]
    assert first_epoch[-1] == 5
    caplog.clear()
    train(mosaic_panel, tmp_path / "b", config=CONFIG, index_dir=index)
    assert jit_lines(caplog) == []


def test_run_folder_holds_what_it_should(mosaic_panel, tmp_path):
    run = tmp_path / "run"
    recorder = Recorder()
    report = train(mosaic_panel, run, config=CONFIG, index_dir=tmp_path / "i", observer=recorder)
    names = {p.name for p in run.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "metrics.csv",
        "metrics.jsonl",
        "metrics.png",
        "events.jsonl",
        "train.log",
        "checkpoints",
        ".lock",
    }
    with (run / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [int(r["epoch"]) for r in rows] == [1, 2]
    for method in ("val", "copying", "nearest", "af"):
        assert 0.0 <= float(rows[-1][f"{method}_accuracy"]) <= 1.0
        assert 0.0 <= float(rows[-1][f"{method}_r2"]) <= 1.0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert report.epochs == 2
    assert report.steps == 2 * 5 * math.ceil(36 / 8)
    assert report.best == recorder.rows[report.best_epoch - 1]
    model = RagBert(CONFIG.model, 64)
    load_weights(model, run / "model.safetensors")
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["model"]["dims"] == 16
    block = recorder.block
    assert (block["num_windows"], block["max_seq_len"], block["sampler"]) == (
        5,
        64,
        "window-grouped",
    )
    assert (block["panel_samples"], block["panel_sites"]) == (40, 250)


def test_the_first_epochs_baselines_do_not_depend_on_training(mosaic_panel, tmp_path):
    """Validation mask, split and neighbours stay the same in every epoch."""
    recorder = Recorder()
    train(mosaic_panel, tmp_path / "r", config=CONFIG, index_dir=tmp_path / "i", observer=recorder)
    first, second = recorder.rows
    for key in first:
        if key.startswith(("copying_", "nearest_", "af_")):
            assert first[key] == pytest.approx(second[key], nan_ok=True), key
    assert first["val_loss"] != second["val_loss"]


def test_training_beats_frequency_nearest_haplotype_and_copying(tmp_path, make_panel):
    path = make_panel(mosaic(120, 250, founders=10, seed=1))
    config = with_train(epochs=6, lr=1e-2)
    recorder = Recorder()
    train(path, tmp_path / "r", config=config, index_dir=tmp_path / "i", observer=recorder)
    last = recorder.rows[-1]
    for method in ("af", "nearest", "copying"):
        assert last["val_r2"] > last[f"{method}_r2"], (method, last)
        assert last["val_loss"] < last[f"{method}_loss"], (method, last)
    assert last["val_accuracy"] > last["af_accuracy"]


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(mosaic_panel, tmp_path):
    index = tmp_path / "i"
    for name, config in (("a", CONFIG), ("b", CONFIG), ("c", with_train(seed=1))):
        train(mosaic_panel, tmp_path / name, config=config, index_dir=index)
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in "abc"]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("stop_after", [1, 7, 25, 26, 40])
def test_an_interrupted_run_resumes_to_the_same_weights(mosaic_panel, tmp_path, stop_after):
    index = tmp_path / "i"
    config = with_train(checkpoint_every=2)
    train(mosaic_panel, tmp_path / "whole", config=config, index_dir=index)
    with pytest.raises(KeyboardInterrupt):
        train(
            mosaic_panel,
            tmp_path / "cut",
            config=config,
            index_dir=index,
            observer=Recorder(stop_after),
        )
    report = train(mosaic_panel, tmp_path / "cut", config=config, index_dir=index, resume=True)
    assert report.epochs == 2
    for name in ("model.safetensors",):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    final = [
        sorted((tmp_path / run / "checkpoints").iterdir())[-1] / "model.safetensors"
        for run in ("whole", "cut")
    ]
    assert final[0].read_bytes() == final[1].read_bytes()
    figures = []
    for run in ("whole", "cut"):
        rows = [json.loads(x) for x in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        figures.append(
            [{k: v for k, v in r.items() if "seconds" not in k and k != "jit_builds"} for r in rows]
        )
    assert figures[0] == figures[1]


def test_resume_of_nothing_starts_afresh_and_of_a_finished_run_does_nothing(
    mosaic_panel, tmp_path, caplog
):
    run, index = tmp_path / "r", tmp_path / "i"
    report = train(mosaic_panel, run, config=CONFIG, index_dir=index, resume=True)
    assert "starting afresh" in caplog.text
    assert not report.already_finished
    before = (run / "model.safetensors").read_bytes()
    again = train(mosaic_panel, run, config=CONFIG, index_dir=index, resume=True)
    assert again.already_finished
    assert (run / "model.safetensors").read_bytes() == before


def test_resume_with_other_settings_names_the_difference(mosaic_panel, tmp_path, make_panel):
    run = tmp_path / "r"
    train(mosaic_panel, run, config=CONFIG, index_dir=tmp_path / "i")
    with pytest.raises(MismatchError, match=r"config\.train\.lr was 0\.003 .* is 0\.5 now"):
        train(mosaic_panel, run, config=with_train(lr=0.5), index_dir=tmp_path / "i", resume=True)
    other = make_panel(mosaic(80, 250, seed=5))
    with pytest.raises(MismatchError, match="panel_digest"):
        train(other, run, config=CONFIG, index_dir=tmp_path / "j", resume=True)


def test_settings_that_no_weight_depends_on_may_change(mosaic_panel, tmp_path):
    run, index = tmp_path / "r", tmp_path / "i"
    train(mosaic_panel, run, config=CONFIG, index_dir=index)
    other = with_train(checkpoint_every=3, validation_batch=5)
    assert train(mosaic_panel, run, config=other, index_dir=index, resume=True).already_finished
    with pytest.raises(MismatchError) as caught:
        train(mosaic_panel, run, config=with_train(seed=5), index_dir=index, resume=True)
    assert "--force without --resume replaces the run" in caught.value.hint


def test_a_run_records_whether_it_was_compiled(mosaic_panel, tmp_path, monkeypatch):
    monkeypatch.setattr(RagBert, "compile_blocks", lambda self: None)
    run, index = tmp_path / "r", tmp_path / "i"
    train(mosaic_panel, run, config=CONFIG, index_dir=index, compile_blocks=True)
    assert json.loads((run / "config.json").read_text())["compile"] is True
    with pytest.raises(MismatchError, match="compile was True when the run began and is False"):
        train(mosaic_panel, run, config=CONFIG, index_dir=index, resume=True)


def test_learning_rate_warms_up_then_falls_to_a_tenth():
    config = TrainConfig(lr=1.0, warmup_steps=10)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_the_first_step_uses_the_first_rate(mosaic_panel, tmp_path):
    """ORIGINAL B39: step 1 ran at the full rate."""
    recorder = Recorder()
    train(mosaic_panel, tmp_path / "r", config=CONFIG, index_dir=tmp_path / "i", observer=recorder)
    assert recorder.batches[1]["lr"] == pytest.approx(CONFIG.train.lr / 3)


def test_every_step_is_taken_at_the_scheduled_rate(mosaic_panel, tmp_path, monkeypatch):
    """ORIGINAL B39: the rate was set after the step."""
    rates = []
    original = torch.optim.AdamW.step

    def spy(self, *arguments, **options):
        rates.extend({group["lr"] for group in self.param_groups})
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(mosaic_panel, tmp_path / "r", config=CONFIG, index_dir=tmp_path / "i")
    assert rates == [learning_rate(step, 50, CONFIG.train) for step in range(50)]
    assert rates[0] < rates[3] == CONFIG.train.lr > rates[-1]


def test_a_step_without_a_scored_site_changes_nothing():
    model = torch.nn.Linear(2, 1)
    optimizer = make_optimizer(model, TrainConfig(), torch.device("cpu"))
    model(torch.ones(1, 2)).sum().backward()
    before = [p.clone() for p in model.parameters()]
    gradient_step(optimizer, Ranks(), 0, lr=0.1, clip=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    gradient_step(optimizer, Ranks(), 4, lr=0.1, clip=1e9)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_resumed_run_keeps_its_micro_batches(mosaic_panel, tmp_path, monkeypatch):
    """Free memory differs from session to session; the order of sums must not."""
    rows = []
    original = Trainer.run

    def spy(self):
        rows.append(self.max_rows)
        return original(self)

    monkeypatch.setattr(Trainer, "run", spy)
    monkeypatch.setattr("snvrag.trainer.available_memory", lambda device: 2**20)
    with pytest.raises(KeyboardInterrupt):
        train(
            mosaic_panel,
            tmp_path / "r",
            config=with_train(checkpoint_every=1),
            index_dir=tmp_path / "i",
            observer=Recorder(3),
        )
    monkeypatch.setattr("snvrag.trainer.available_memory", lambda device: 2**22)
    for memory in (None, 2**24):
        train(
            mosaic_panel,
            tmp_path / "r",
            config=with_train(checkpoint_every=1),
            index_dir=tmp_path / "i",
            max_memory=memory,
            resume=True,
        )
    assert rows[0] == rows[1] < rows[2]


def test_the_processes_of_a_machine_share_the_memory_given(mosaic_panel, tmp_path, monkeypatch):
    rows = []
    original = Trainer.run

    def spy(self):
        rows.append(self.max_rows)
        return original(self)

    monkeypatch.setattr(Trainer, "run", spy)
    for sharers, memory in ((1, 2**22), (2, 2**23), (2, 2**22)):
        monkeypatch.setattr(Trainer, "_sharers", lambda self, n=sharers: n)
        train(
            mosaic_panel,
            tmp_path / f"r{len(rows)}",
            config=with_train(epochs=1, epoch_batches=1),
            index_dir=tmp_path / "i",
            max_memory=memory,
        )
    assert rows[0] == rows[1] > rows[2] > 2


def test_a_warm_up_longer_than_the_run_is_a_warning_with_both_numbers(
    mosaic_panel, tmp_path, caplog
):
    config = with_train(warmup_steps=500, epochs=1)
    train(mosaic_panel, tmp_path / "r", config=config, index_dir=tmp_path / "i")
    assert "warm-up of 500 steps" in caplog.text
    assert "run of 25 steps" in caplog.text
    caplog.clear()
    # The last step of a warm-up just as long is taken at the full rate.
    config = with_train(warmup_steps=25, epochs=1)
    train(mosaic_panel, tmp_path / "r2", config=config, index_dir=tmp_path / "i")
    assert "warm-up" not in caplog.text


def first_gradients(panel, tmp_path, monkeypatch, batch_size, accumulate):
    """What the optimiser is given at each step of an epoch, the weights staying untrained."""
    config = dataclasses.replace(
        with_train(batch_size=batch_size, accumulate=accumulate, epochs=1),
        model=dataclasses.replace(CONFIG.model, dropout=0.0),
    )
    taken = []

    def stay(self):
        taken.append([p.grad.clone() for group in self.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.AdamW, "step", stay)
    name = f"{batch_size}x{accumulate}"
    report = train(panel, tmp_path / name, config=config, index_dir=tmp_path / "i")
    assert report.steps == len(taken)
    return taken


def test_accumulation_equals_the_larger_batch(mosaic_panel, tmp_path, monkeypatch):
    """All sites of a step's batches weigh the same, whatever the size of their batch."""
    original = MaskMaker.training

    def by_window(self, start, end, *, epoch, window, batch):
        return original(self, start, end, epoch=epoch, window=window, batch=0)

    # What else the samples of a batch have in common: the mask, and who judges the copying bank.
    monkeypatch.setattr(MaskMaker, "training", by_window)
    monkeypatch.setattr(WindowBatches, "_own_rows", lambda *_: np.zeros(0, np.int64))
    # 36 samples: batches of 8 end in one of 4, which must weigh half.
    parts = first_gradients(mosaic_panel, tmp_path, monkeypatch, 8, 5)
    whole = first_gradients(mosaic_panel, tmp_path, monkeypatch, 36, 1)
    assert len(parts) == len(whole) == 5
    for step in zip(parts, whole, strict=True):
        assert max(float(gradient.abs().max()) for gradient in step[1]) > 1e-4
        for a, b in zip(*step, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_leftover_batches_never_cross_an_epoch(mosaic_panel, tmp_path, monkeypatch):
    taken = first_gradients(mosaic_panel, tmp_path, monkeypatch, 8, 2)
    assert len(taken) == math.ceil(25 / 2)


def test_micro_batches_do_not_change_the_gradient(mosaic_panel, tmp_path):
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.0), train=CONFIG.train
    )
    gradients = []
    original = Trainer._step

    def spy(self, scored):
        if self.progress.step == 3:
            gradients.append([p.grad.clone() for p in self.model.parameters()])
        return original(self, scored)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", spy)
        for name, memory in (("a", None), ("b", 1)):
            train(
                mosaic_panel,
                tmp_path / name,
                config=config,
                index_dir=tmp_path / "i",
                max_memory=memory,
            )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def script_metric(monkeypatch, values):
    scripted = iter(values)
    monkeypatch.setattr("snvrag.trainer.selection_metric", lambda figures, gamma: next(scripted))


def test_early_stopping_keeps_the_best_epoch(mosaic_panel, tmp_path, monkeypatch):
    """ORIGINAL B45: a worse epoch was saved as the best one."""
    script_metric(monkeypatch, [0.5, 0.4, 0.6, 0.55, 0.58, 0.57])
    original = Trainer.validate
    weights = []

    def spy(self):
        weights.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return original(self)

    monkeypatch.setattr(Trainer, "validate", spy)
    run = tmp_path / "r"
    config = with_train(epochs=20, patience=3)
    report = train(mosaic_panel, run, config=config, index_dir=tmp_path / "i")
    assert (report.best_epoch, report.epochs, report.stopped_early) == (3, 6, True)
    model = RagBert(config.model, 64)
    load_weights(model, run / "model.safetensors")
    assert all(torch.equal(v, weights[2][k]) for k, v in model.state_dict().items())


def test_steady_improvement_below_the_least_step_does_not_stop_a_run(
    mosaic_panel, tmp_path, monkeypatch
):
    script_metric(monkeypatch, [0.5 + 0.0009 * epoch for epoch in range(8)] + [0.5063] * 12)
    config = with_train(epochs=20, epoch_batches=1, patience=3, min_delta=0.001)
    report = train(mosaic_panel, tmp_path / "r", config=config, index_dir=tmp_path / "i")
    # 0.9, 1.8, 2.7 … thousandths: every second epoch is a step, and the seventh's is the last.
    assert (report.best_epoch, report.epochs, report.stopped_early) == (8, 10, True)


def scored(truth, guess, af):
    score = Score()
    columns = np.array(truth, float)[:, None], np.array(guess, float)[:, None]
    mask = np.ones_like(columns[0], bool)
    score.add(columns[1], columns[0], mask, np.arange(len(truth)), np.array([af]), 0.05)
    return score


def test_all_epochs_are_judged_by_the_same_metric():
    common = scored([1, 1, 0, 0], [1, 0, 0, 0], 0.3)
    carried = common.summary()["f1"]
    # Nobody carries the rare allele: whether the network calls it must not choose the metric.
    for guess in ([0, 0, 0, 0], [0, 0, 0, 1]):
        score = scored([0, 0, 0, 0], guess, 0.01)
        score.merge(common)
        assert math.isnan(score.summary()["rare_f1"]) == (sum(guess) == 0)
        assert selection_metric(score.summary(), 2.0) == score.summary()["f1"] > 0
        assert selection_metric(score.summary(), 0.0) == -math.log(score.summary()["loss"])
    with_carrier = scored([1, 0, 0, 0], [0, 0, 0, 0], 0.01)
    with_carrier.merge(common)
    assert selection_metric(with_carrier.summary(), 2.0) == 0.0 != carried
    assert selection_metric(with_carrier.summary(), 0.0) == -math.log(
        with_carrier.summary()["rare_loss"]
    )
    assert (
        selection_metric(Score().summary(), 2.0) == selection_metric(Score().summary(), 0.0) == 0.0
    )


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_reaches_the_weights():
    model = torch.nn.Linear(2, 1)
    optimizer = make_optimizer(model, TrainConfig(), torch.device("cpu"))
    before = [p.clone() for p in model.parameters()]
    for bad in (math.inf, math.nan):
        optimizer.zero_grad()
        (model(torch.ones(1, 2)) * bad).sum().backward()
        with pytest.raises(WorkError, match="norm of the gradient became"):
            gradient_step(optimizer, Ranks(), 4, lr=0.1, clip=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_weights_that_became_nan_are_not_saved_as_the_best(mosaic_panel, tmp_path, monkeypatch):
    original = Trainer.validate

    def spoiled(self):
        with torch.no_grad():
            next(self.model.parameters()).fill_(math.nan)
        return original(self)

    monkeypatch.setattr(Trainer, "validate", spoiled)
    with pytest.raises(WorkError, match="validation loss became nan in epoch 1"):
        train(mosaic_panel, tmp_path / "r", config=CONFIG, index_dir=tmp_path / "i")
    assert not (tmp_path / "r" / "model.safetensors").exists()


def test_samples_per_second_count_the_samples_of_partial_batches(
    mosaic_panel, tmp_path, monkeypatch
):
    ticks = itertools.count()
    monkeypatch.setattr("snvrag.trainer.time.perf_counter", lambda: float(next(ticks)))
    recorder, totals = Recorder(), []
    original = Trainer._report_batch

    def spy(self, window, batches, samples_per_s):
        # The clock goes on by one second with each look at it.
        totals.append(samples_per_s * (next(ticks) - 1 - began[-1]))
        return original(self, window, batches, samples_per_s)

    began = []
    epoch = Trainer._train_epoch

    def begin(self):
        began.append(next(ticks) + 1)
        return epoch(self)

    monkeypatch.setattr(Trainer, "_report_batch", spy)
    monkeypatch.setattr(Trainer, "_train_epoch", begin)
    config = with_train(epochs=1)
    train(mosaic_panel, tmp_path / "r", config=config, index_dir=tmp_path / "i", observer=recorder)
    assert totals[-1] == pytest.approx(36 * 5)


def test_rows_that_fit_shrink_with_memory_and_never_below_a_sample():
    rows = [rows_that_fit(ModelConfig(), 512, m) for m in (2**34, 2**30, 2**20)]
    assert rows[0] > rows[1] > rows[2] == 2


def test_bad_device_and_missing_panel(mosaic_panel, tmp_path):
    with pytest.raises(UsageError, match="--device tpu"):
        train(mosaic_panel, tmp_path / "r", config=CONFIG, device="tpu", index_dir=tmp_path / "i")
    with pytest.raises(InputError, match="absent"):
        train(tmp_path / "absent.h5", tmp_path / "r2", config=CONFIG)
    assert not (tmp_path / "r2").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_comes_to_the_same(mosaic_panel, tmp_path):
    figures = []
    for device in ("cpu", "cuda"):
        config = dataclasses.replace(
            CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.0), train=CONFIG.train
        )
        recorder = Recorder()
        train(
            mosaic_panel,
            tmp_path / device,
            config=config,
            index_dir=tmp_path / "i",
            device=device,
            observer=recorder,
        )
        figures.append(recorder.rows[-1])
    for key in ("copying_r2", "nearest_r2", "af_r2"):
        assert figures[0][key] == pytest.approx(figures[1][key], abs=1e-4)
    assert figures[0]["val_r2"] == pytest.approx(figures[1]["val_r2"], abs=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_interrupted_run_resumes_on_cuda(mosaic_panel, tmp_path):
    """To the figures of an undisturbed run, not its bytes: sums on CUDA have no fixed order."""
    config = with_train(checkpoint_every=2)
    run = functools.partial(
        train, mosaic_panel, config=config, index_dir=tmp_path / "i", device="cuda"
    )
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", observer=Recorder(26))
    report = run(tmp_path / "cut", resume=True)
    assert (report.epochs, report.steps) == (2, 50)
    rows = [
        [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    for whole, cut in zip(*rows, strict=True):
        assert cut["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-2)
        assert cut["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-2)
