"""torch.compile changes no figure; traced on the CPU without a compiler, as in any checkout."""

import dataclasses
from functools import partial

import pytest
import torch
from test_model import CONFIG, LENGTH, LIGHT, make_inputs, trained_like

from snvrag import run_folder
from snvrag.config import ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.model import LightNetwork, RagBert
from snvrag.training import train

# torch's tracer looks at the grad of intermediate tensors, which torch itself warns of.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def answer_and_gradients(network, inputs):
    logits = network(**inputs)
    logits.square().mean().backward()
    return [logits.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("config", [CONFIG, LIGHT], ids=["bert", "light"])
def test_compiled_blocks_give_the_same_answers_and_gradients(config):
    plain, compiled = trained_like(config).train(), trained_like(config).train()
    compiled.compile_blocks("aot_eager")
    inputs = make_inputs()
    expected, found = answer_and_gradients(plain, inputs), answer_and_gradients(compiled, inputs)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert plain.state_dict().keys() == compiled.state_dict().keys()


@pytest.mark.parametrize("kind", [RagBert, LightNetwork])
def test_a_compiled_run_trains_validates_and_resumes(mosaic_panel, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(run_folder, "plot_training", lambda rows, best, path: path.touch())
    monkeypatch.setattr(
        kind, "compile_blocks", partial_method(kind.compile_blocks, backend="aot_eager")
    )
    model = ModelConfig(dims=16, heads=2, layers=2, af_frequencies=4, dropout=0.1)
    if kind is LightNetwork:
        model = dataclasses.replace(model, network="light")
    config = RunConfig(
        WindowConfig(60, 64),
        model=model,
        train=TrainConfig(batch_size=8, epochs=2, epoch_batches=2, warmup_steps=1, patience=9),
    )
    rows = []
    for compiled in (False, True):
        report = train(
            mosaic_panel,
            tmp_path / f"{compiled}",
            config=config,
            index_dir=tmp_path / "i",
            compile_blocks=compiled,
        )
        rows.append(report.best)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert rows[0]["val_loss"] == pytest.approx(rows[1]["val_loss"], rel=1e-4)
    again = train(
        mosaic_panel,
        tmp_path / "True",
        config=config,
        index_dir=tmp_path / "i",
        compile_blocks=True,
        resume=True,
    )
    assert again.already_finished
    assert run_folder.load_run(tmp_path / "True").config == config


def partial_method(function, **options):
    return lambda self: partial(function, self, **options)()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", [CONFIG, LIGHT], ids=["bert", "light"])
def test_inductor_on_cuda_gives_the_same_answers(config):
    plain, compiled = trained_like(config).cuda(), trained_like(config).cuda()
    compiled.compile_blocks()
    inputs = {name: value.cuda() for name, value in make_inputs(length=LENGTH).items()}
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs), compiled(**inputs), rtol=1e-3, atol=1e-3)
