"""The copying model's settings, chosen by leave-one-out."""

import json

import numpy as np
import pytest
from conftest import mosaic, write_vcf

from snvrag.bank import FITTING, GRID, fit_copying
from snvrag.config import run_config
from snvrag.conversion import convert
from snvrag.copying import EVIDENCE_BANK
from snvrag.errors import UsageError
from snvrag.trainer import Trainer
from snvrag.training import train

SETTINGS = {
    "preset": "light",
    "dims": 16,
    "layers": 1,
    "window_size": 100,
    "max_seq_len": 104,
    "epochs": 1,
    "epoch_batches": 2,
    "batch_size": 10,
    "warmup_steps": 1,
}


def panel(folder, *, switch_rate, error=0.0, n=60, sites=400):
    alleles = mosaic(n, sites, founders=8, switch_rate=switch_rate)
    noise = np.random.default_rng(1).random(alleles.shape) < error
    write_vcf(folder / "p.vcf", alleles ^ noise, spacing=2000)
    convert(folder / "p.vcf", folder / "p.h5")
    return folder / "p.h5"


def fit(path, folder, monkeypatch, **settings):
    """The fit of a run, which ends before its first step."""
    found = []

    def catch(batches, progress):
        told = []
        found.append(fit_copying(batches, lambda *what: told.append(what)))
        # How far it is, in predictions, never backwards.
        assert {task for task, _, _ in told} == {FITTING}
        assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
        return found[0]

    monkeypatch.setattr("snvrag.trainer.fit_copying", catch)
    train(path, folder / "run", config=run_config(SETTINGS | settings))
    return found[0]


def test_the_chosen_bank_is_saved(tmp_path, monkeypatch):
    path = panel(tmp_path, switch_rate=0.004)
    found = fit(path, tmp_path, monkeypatch)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["bank"]
    assert tuple(map(tuple, saved)) == found.bank
    assert len(set(found.bank)) == len(EVIDENCE_BANK)
    assert set(found.bank) <= {*GRID, *EVIDENCE_BANK}
    assert 0 < found.losses[0] <= found.losses[1] < 1


def test_a_noisy_panel_gets_larger_mismatch_probabilities(tmp_path, monkeypatch):
    errors = []
    for name, error in (("clean", 0.0), ("noisy", 0.03)):
        (tmp_path / name).mkdir()
        path = panel(tmp_path / name, switch_rate=0.004, error=error)
        found = fit(path, tmp_path / name, monkeypatch, array_share=0, random_share=0)
        errors.append(np.log([e for _, e in found.bank]).mean())
    assert errors[1] > errors[0] + 0.5


def test_the_default_bank_is_kept_on_request(tmp_path, monkeypatch):
    path = panel(tmp_path, switch_rate=0.004)
    found = fit(path, tmp_path, monkeypatch, bank="default")
    assert found.bank == EVIDENCE_BANK
    with pytest.raises(UsageError, match="--bank best"):
        run_config({"bank": "best"})


def test_a_resumed_run_keeps_its_bank(tmp_path, monkeypatch):
    path = panel(tmp_path, switch_rate=0.004)
    config = run_config(SETTINGS | {"epochs": 3})
    train(path, tmp_path / "run", config=config)
    done = (tmp_path / "run" / "model.safetensors").read_bytes()
    used = []
    finish = Trainer._finish_epoch

    def stop(self):
        finish(self)
        used.append(self.batches.bank)
        if len(used) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_finish_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(path, tmp_path / "again", config=config)
    monkeypatch.setattr("snvrag.trainer.fit_copying", None)
    train(path, tmp_path / "again", config=config, resume=True)
    assert len(used) == 3
    assert len(set(used)) == 1
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == done


def test_batches_with_nothing_to_predict_do_not_stop_a_panel(tmp_path, monkeypatch):
    alleles = np.zeros((40, 2000), dtype=np.uint8)
    # Nobody shares a minor allele but in three windows of twenty sites.
    for window in (7, 50, 93):
        alleles[:, 20 * window : 20 * window + 20] = mosaic(
            40, 20, founders=4, switch_rate=0.01, seed=window
        )
    write_vcf(tmp_path / "p.vcf", alleles, spacing=200)
    convert(tmp_path / "p.vcf", tmp_path / "p.h5")
    small = {"window_size": 20, "max_seq_len": 24, "epoch_batches": 0}
    found = fit(tmp_path / "p.h5", tmp_path, monkeypatch, **small)
    assert np.isfinite(found.low).all()
    assert (np.array(found.low) <= found.high).all()
