import dataclasses

import numpy as np
import pytest
import torch

from snvrag.config import ModelConfig
from snvrag.copying import N_FEATURES
from snvrag.evidence import COUNT_FEATURE
from snvrag.model import (
    NOBODY,
    RagBert,
    RowDropout,
    SiteEmbedding,
    allele_tokens,
    build_network,
    prior_logit,
    to_sequence,
)
from snvrag.tokens import ALT, MASK, PAD, REF, SOS

CONFIG = ModelConfig(dims=16, layers=2, heads=2, k=3, af_frequencies=4, dropout=0.0)
LIGHT = ModelConfig(network="light", dims=16, layers=2, heads=1, k=1)
LENGTH = 24


def make_inputs(n_sites=20, rows=4, k=3, seed=0, length=LENGTH):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    alleles = (rand(rows, n_sites) > 0.5).long()
    donors = (rand(rows, k, n_sites) > 0.5).long()
    masked = rand(n_sites) > 0.5
    return {
        "tokens": allele_tokens(alleles, length, masked),
        "af": to_sequence(rand(rows // 2, n_sites), length),
        "row_sample": torch.arange(rows) // 2,
        "retrieved": allele_tokens(donors, length),
        "distances": (rand(rows, k) * 5).floor(),
        "valid": torch.ones(rows, k, dtype=torch.bool),
        "features": to_sequence(rand(rows, N_FEATURES, n_sites) - 0.5, length)
        .transpose(1, 2)
        .contiguous()
        .abs(),
        "sign": to_sequence((rand(n_sites) > 0.3).float() * 2 - 1, length, first=1, fill=1),
    }


def trained_like(config=CONFIG, length=LENGTH, seed=1):
    """A network whose Δ is not zero, as after some training."""
    torch.manual_seed(seed)
    return move(build_network(config, length)).eval()


def move(network):
    for layer in (network.head.mix, network.head.shift):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return network


def test_rows_start_with_sos_and_every_array_shifts_alike():
    alleles = torch.tensor([[0, 1, 1, 0]])
    masked = torch.tensor([False, False, True, False])
    assert allele_tokens(alleles, 7, masked).tolist() == [[SOS, REF, ALT, MASK, REF, PAD, PAD]]
    assert allele_tokens(alleles, 7).tolist() == [[SOS, REF, ALT, ALT, REF, PAD, PAD]]
    assert to_sequence(masked, 7).tolist() == [False, False, False, True, False, False, False]
    assert to_sequence(torch.tensor([0.1, 0.2]), 4).tolist() == pytest.approx([0, 0.1, 0.2, 0])


def test_more_sites_than_the_sequence_holds_is_refused():
    assert to_sequence(torch.zeros(511), 512).shape == (512,)
    with pytest.raises(ValueError, match="512 sites"):
        to_sequence(torch.zeros(512), 512)


@pytest.mark.parametrize("config", [CONFIG, LIGHT], ids=["bert", "light"])
def test_an_untrained_network_returns_the_copying_models_answer_exactly(config):
    inputs = make_inputs()
    logits = build_network(config, LENGTH).eval()(**inputs)
    prior = inputs["sign"] * prior_logit(inputs["features"])
    carried = inputs["features"][..., COUNT_FEATURE] > 0
    assert carried.sum() > 50
    assert torch.equal(logits[carried], prior[carried])


@pytest.mark.parametrize("config", [CONFIG, LIGHT], ids=["bert", "light"])
def test_nobody_has_an_allele_that_nobody_else_carries(config):
    inputs = make_inputs()
    inputs["features"][:, 5, COUNT_FEATURE] = 0
    logits = trained_like(config)(**inputs)
    prior = inputs["sign"] * prior_logit(inputs["features"])
    assert torch.equal(logits[:, 5], (inputs["sign"] * NOBODY)[5].expand(len(logits)))
    assert not torch.equal(logits[:, 6], prior[:, 6])


def test_the_light_network_looks_at_each_site_alone():
    inputs, network = make_inputs(), trained_like(LIGHT)
    before = network(**inputs)
    changed = {**inputs, "features": inputs["features"].clone()}
    changed["features"][:, 7] += 0.3
    changed["tokens"] = torch.full_like(inputs["tokens"], MASK)
    after = network(**changed)
    same = torch.arange(LENGTH) != 7
    assert torch.equal(before[:, same], after[:, same])
    assert not torch.equal(before[:, 7], after[:, 7])


@pytest.mark.parametrize("config", [CONFIG, LIGHT], ids=["bert", "light"])
def test_which_allele_is_minor_only_turns_the_answer(config):
    inputs, network = make_inputs(), trained_like(config)
    turned = {**inputs, "sign": -inputs["sign"]}
    assert torch.equal(network(**inputs), -network(**turned))


def test_padding_does_not_change_predictions():
    model = trained_like(length=64)
    short = make_inputs(length=LENGTH)
    long = make_inputs(length=64)
    with torch.no_grad():
        a = model_with_length(model, LENGTH)(**short)[:, 1:21]
        b = model(**long)[:, 1:21]
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def model_with_length(model, length):
    other = RagBert(CONFIG, length).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_padding_does_not_change_predictions_on_cuda():
    """Without padding no mask goes to attention, and another kernel answers."""
    model = trained_like(length=64)
    answers = []
    for length in (21, 64):
        inputs = {name: value.cuda() for name, value in make_inputs(length=length).items()}
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            answers.append(model_with_length(model, length).cuda()(**inputs)[:, 1:21])
    torch.testing.assert_close(answers[0], answers[1], rtol=0.03, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", [CONFIG, LIGHT], ids=["bert", "light"])
def test_bfloat16_comes_to_the_answers_of_float32(config):
    """ORIGINAL B29: logits are float32 again before the loss is taken."""
    network, inputs = trained_like(config), make_inputs()
    with torch.no_grad():
        exact = network(**inputs)
        inputs = {name: value.cuda() for name, value in inputs.items()}
        with torch.autocast("cuda", torch.bfloat16):
            rounded = network.cuda()(**inputs)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(exact, rounded.cpu(), rtol=0.03, atol=0.05)


def test_rows_do_not_influence_one_another():
    model, inputs = trained_like(), make_inputs()
    with torch.no_grad():
        whole = model(**inputs)
        alone = model(
            **{
                name: value[2:]
                for name, value in inputs.items()
                if name not in {"af", "row_sample", "sign"}
            },
            sign=inputs["sign"],
            af=inputs["af"][1:],
            row_sample=inputs["row_sample"][2:] - 1,
        )
    torch.testing.assert_close(whole[2:], alone, rtol=0, atol=1e-5)


def test_a_single_row_and_a_single_site_give_finite_numbers():
    inputs = make_inputs(n_sites=1, rows=2)
    assert torch.isfinite(trained_like()(**inputs)).all()


def test_gradient_reaches_the_embedding_through_the_retrieved_path_alone():
    """ORIGINAL B15, B16: integer buffers and no_grad once cut this path."""
    model, inputs = trained_like(), make_inputs()
    embedding = model.embedding
    context = embedding.context(inputs["af"])[inputs["row_sample"]]
    query = embedding(inputs["tokens"], context).detach()
    donors = embedding(inputs["retrieved"], context.detach()[:, None])
    fused = model.fusion(query, donors, inputs["distances"], inputs["valid"], context.detach())
    fused.square().sum().backward()
    gradient = embedding.token.weight.grad
    assert gradient[REF].abs().max() > 0
    assert gradient[ALT].abs().max() > 0


def test_finite_difference_of_the_retrieved_path():
    torch.set_default_dtype(torch.float64)
    try:
        model = move(RagBert(CONFIG, LENGTH)).double().eval()
        inputs = {
            name: value.double() if value.is_floating_point() else value
            for name, value in make_inputs().items()
        }
        weight = model.embedding.token.weight

        def value():
            return model(**inputs)[:, 1:21].square().sum()

        value().backward()
        slope = weight.grad[ALT, 3].item()
        with torch.no_grad():
            weight[ALT, 3] += 1e-4
            up = value()
            weight[ALT, 3] -= 2e-4
            down = value()
        # The model returns float32 Δ, which bounds what a difference quotient can show.
        assert (up - down).item() / 2e-4 == pytest.approx(slope, rel=0.05, abs=0.05)
    finally:
        torch.set_default_dtype(torch.float32)


def test_retrieved_haplotypes_change_the_prediction_and_absent_ones_do_not():
    model, inputs = trained_like(), make_inputs()
    with torch.no_grad():
        base = model(**inputs)
        swapped = inputs["retrieved"].clone()
        swapped[:, 2] = torch.where(swapped[:, 2] == REF, ALT, swapped[:, 2])
        assert not torch.equal(base, model(**{**inputs, "retrieved": swapped}))
        valid = inputs["valid"].clone()
        valid[:, 2] = False
        first = model(**{**inputs, "valid": valid})
        second = model(**{**inputs, "valid": valid, "retrieved": swapped})
    assert torch.equal(first, second)


def test_a_donor_equal_to_the_query_has_the_querys_features():
    """ORIGINAL B41: query and retrieved once lived in different feature spaces."""
    embedding = SiteEmbedding(CONFIG, LENGTH)
    tokens = allele_tokens(torch.tensor([[0, 1, 1]]), LENGTH)
    context = embedding.context(torch.rand(1, LENGTH))
    same = embedding(tokens[:, None], context[:, None])[:, 0]
    assert torch.equal(embedding(tokens, context), same)


def test_fingerprint_follows_the_weights():
    torch.manual_seed(0)
    a, b = SiteEmbedding(CONFIG, LENGTH), SiteEmbedding(CONFIG, LENGTH)
    assert a.fingerprint() != b.fingerprint()
    b.load_state_dict(a.state_dict())
    assert a.fingerprint() == b.fingerprint()


def test_dropout_is_off_in_eval():
    model = move(RagBert(dataclasses.replace(CONFIG, dropout=0.5), LENGTH))
    inputs = make_inputs()
    with torch.no_grad():
        assert torch.equal(model.eval()(**inputs), model(**inputs))
        assert not torch.equal(model.train()(**inputs), model(**inputs))


def dropped(samples, p=0.25, layers=1, shape=(40, 31)):
    dropout = RowDropout(p).train()
    dropout.key_rows((7, 0, 3, 1), np.asarray(samples))
    x = torch.ones(len(samples), *shape)
    return torch.stack([dropout(x) for _ in range(layers)])


def test_a_row_meets_the_same_dropout_wherever_it_stands():
    whole = dropped([4, 4, 9, 12, 12], layers=2)
    assert torch.equal(whole[:, 2:], dropped([9, 12, 12], layers=2))
    assert torch.equal(whole[:, :2], dropped([4, 4], layers=2))
    for a in range(5):
        for b in range(a):
            assert not torch.equal(whole[0, a], whole[0, b])
    assert not torch.equal(whole[0], whole[1])


def test_dropout_keeps_the_mean_and_its_rate():
    x = dropped(np.arange(50), p=0.1, shape=(100, 40))[0]
    assert (x == 0).float().mean().item() == pytest.approx(0.1, abs=0.005)
    assert x.mean().item() == pytest.approx(1.0, abs=0.005)
    assert len(x.unique()) == 2


def test_dropout_is_off_in_evaluation_and_torchs_own_without_keys():
    dropout = RowDropout(0.5)
    x = torch.ones(3, 50, 20)
    assert torch.equal(dropout.eval()(x), x)
    assert 0.4 < (dropout.train()(x) == 0).float().mean().item() < 0.6
    dropout.key_rows((1,), np.array([0, 0]))
    torch.manual_seed(0)
    first = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(first, dropout(x))
