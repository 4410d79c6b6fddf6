"""Training with indexes of the network's own embedding: exact neighbours, staleness, policy."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from conftest import mosaic

from snvrag.cli.app import run
from snvrag.config import MaskConfig, ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.errors import UsageError
from snvrag.live_embedding import LiveEmbedding
from snvrag.model import SiteEmbedding
from snvrag.trainer import Trainer
from snvrag.training import train

MODEL = ModelConfig(dims=16, heads=2, layers=1, k=3, af_frequencies=4, dropout=0.1)
CONFIG = RunConfig(
    WindowConfig(60, 64),
    MaskConfig(),
    MODEL,
    TrainConfig(
        batch_size=18, epochs=3, epoch_batches=3, warmup_steps=1, lr=1e-2, index_kind="embedding"
    ),
)


def with_policy(policy):
    return dataclasses.replace(
        CONFIG, train=dataclasses.replace(CONFIG.train, refresh_index=policy)
    )


def change(embedding):
    with torch.no_grad():
        embedding.token.weight.mul_(1.5)


def setup(policy, seed=0):
    torch.manual_seed(seed)
    embedding = SiteEmbedding(MODEL, 64)
    alleles = mosaic(30, 60, seed=seed)
    generator = np.random.default_rng(seed)
    keep = generator.random(30) < 0.8
    af = alleles.mean(0).astype(np.float32)
    observed = generator.random(60) < 0.5
    exclude = np.array([[4, 5], [4, 5], [8, 9]])
    live = LiveEmbedding(embedding, 64, policy, keep)

    def search(window=0, observed=observed):
        return live.search(window, alleles, observed, af, alleles[[4, 5, 8]], 3, exclude)

    expected = []
    for own, (a, b) in zip((4, 5, 8), exclude, strict=True):
        distance = (alleles[:, observed] != alleles[own][observed]).sum(1).astype(int)
        distance[[a, b, *np.flatnonzero(~keep)]] = 1000
        expected.append(sorted(distance)[:3])
    return embedding, live, search, keep, np.array(expected), observed


@pytest.mark.parametrize("policy", ["epoch", "never"])
def test_neighbours_are_the_nearest_at_observed_sites_whatever_the_weights(policy):
    embedding, live, search, keep, expected, _ = setup(policy)
    for epoch in range(3):
        live.begin_epoch(epoch)
        found = search()
        assert np.array_equal(found.distances, expected)
        assert keep[found.ids].all()
        assert not np.isin(found.ids[0], [4, 5]).any()
        change(embedding)


def test_an_index_serves_its_window_and_mask_only():
    _, live, search, _, _, observed = setup("epoch")
    search()
    search()
    assert live.builds == 1
    search(window=1)
    assert live.builds == 2
    search(window=1, observed=~observed)
    assert live.builds == 3


def test_stale_weights_are_noticed_and_taken_up_each_epoch(caplog):
    caplog.set_level(logging.INFO)
    embedding, live, search, *_ = setup("epoch")
    search()
    live.begin_epoch(0)
    assert not live.is_stale
    assert caplog.records == []
    change(embedding)
    assert live.is_stale
    search()
    assert live.builds == 1
    live.begin_epoch(1)
    assert live.fingerprint == embedding.fingerprint()
    assert "built anew from epoch 2 on" in caplog.text
    search()
    assert live.builds == 2


def test_stale_weights_are_noticed_and_kept_on_request(caplog):
    embedding, live, search, *_ = setup("never")
    before = live.fingerprint
    search()
    for epoch in (1, 2):
        change(embedding)
        live.begin_epoch(epoch)
    assert live.is_stale
    assert live.fingerprint == before
    search()
    assert live.builds == 1
    assert len(caplog.records) == 1
    assert "--refresh-index never" in caplog.text


@pytest.mark.parametrize(("policy", "told"), [("epoch", 2), ("never", 1)])
def test_training_obeys_the_policy(mosaic_panel, tmp_path, caplog, policy, told, monkeypatch):
    caplog.set_level(logging.INFO)
    stale = []
    original = Trainer.validate

    def spy(self):
        stale.append(self.batches.embedding.is_stale)
        return original(self)

    monkeypatch.setattr(Trainer, "validate", spy)
    report = train(
        mosaic_panel, tmp_path / "run", config=with_policy(policy), index_dir=tmp_path / "index"
    )
    assert report.epochs == 3
    lines = [r for r in caplog.records if r.getMessage().startswith("embedding index: ")]
    assert len(lines) == told
    assert stale == [True, True, True]


def test_the_light_network_has_no_embedding():
    with pytest.raises(UsageError, match="--index-kind embedding"):
        dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, network="light"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--refresh-index", "never"], "binary index depends on no weights"),
        (["--index-kind", "embedding", "--preset", "light"], "has no embedding"),
        (["--index-kind", "float", "--preset", "tiny"], "is neither of binary, embedding"),
        (
            ["--index-kind", "embedding", "--preset", "tiny", "--refresh-index", "daily"],
            "is neither of epoch, never",
        ),
    ],
)
def test_bad_combinations_are_one_sentence(mosaic_panel, capsys, tmp_path, options, message):
    words = ["train", str(mosaic_panel), "-o", str(tmp_path / "run"), *options]
    assert run(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
