"""``impute -m``: a trained network on targets, against the copying model and the panel's rules."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cyvcf2
import numpy as np
import pytest
import torch
from conftest import impute_and_measure, mosaic, write_panel_and_truth, write_vcf

import snvrag
from snvrag import networks
from snvrag.checkpoint import load_weights, save_weights
from snvrag.config import run_config
from snvrag.conversion import convert
from snvrag.copying import EVIDENCE_BANK, N_FEATURES
from snvrag.errors import InputError, MismatchError, UsageError, WorkError
from snvrag.evaluation import evaluate
from snvrag.evidence import COUNT_FEATURE, SCALE, SHIFT
from snvrag.imputation import impute
from snvrag.index_store import build_index
from snvrag.light import LightWeights, light_shapes
from snvrag.model import build_network, prior_logit, standardise
from snvrag.run_folder import load_network
from snvrag.trained_run import SHIPPED, TrainedRun, load_run
from snvrag.training import train
from snvrag.vcf import DosageReader

N_SITES = 400
KEPT = 8
WINDOWS = {"window_size": 100, "max_seq_len": 104}
TINY = {"dims": 16, "layers": 1, "heads": 2, "k": 2}


def write_target(path, alleles, *, missing=()):
    """Every KEPT-th site of ``alleles``, samples named T…, some calls missing."""
    write_vcf(path, alleles, spacing=100)
    lines = path.read_text().replace("\tS", "\tT").splitlines()
    body = [x for x in lines if not x.startswith("#")][::KEPT]
    for row, sample in missing:
        fields = body[row].split("\t")
        fields[9 + sample] = ".|."
        body[row] = "\t".join(fields)
    path.write_text("\n".join([x for x in lines if x.startswith("#")] + body) + "\n")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A panel, a target, its truth, and an untrained and a trained run of each network."""
    folder = tmp_path_factory.mktemp("refined")
    alleles = mosaic(68, N_SITES, founders=8, switch_rate=0.004)
    write_panel_and_truth(folder, alleles, 60)
    write_target(folder / "target.vcf", alleles[60:], missing=[(3, 1), (4, 1), (9, 2)])
    short = {"epochs": 1, "batch_size": 10, "epoch_batches": 3, "warmup_steps": 1, **WINDOWS}
    for name, settings in (
        ("light", {"preset": "light", "dims": 16}),
        ("bert", {"preset": "tiny", **TINY}),
    ):
        config = run_config(short | settings)
        train(folder / "panel.h5", folder / name, config=config)
        blank = folder / f"{name}-untrained"
        blank.mkdir()
        (blank / "config.json").write_text((folder / name / "config.json").read_text())
        network = build_network(config.model, config.windows.max_seq_len)
        save_weights(network, blank / "model.safetensors")
    return folder


def dosages(path):
    reader = DosageReader(path)
    try:
        return np.array([record.dosage for record in reader])
    finally:
        reader.close()


def run(case, folder, name="out.vcf.gz", **options):
    target = options.pop("target", case / "target.vcf")
    impute(target, case / "panel.h5", folder / name, **options)
    return dosages(folder / name)


@pytest.mark.parametrize("network", ["light", "bert"])
def test_an_untrained_network_imputes_as_its_copying_model_does(
    case, tmp_path, network, monkeypatch
):
    model = case / f"{network}-untrained"
    blank = run(case, tmp_path, model=model)
    monkeypatch.setattr("snvrag.networks.DEFAULT_BANK", load_run(model).bank)
    alone = run(case, tmp_path, "alone.vcf.gz")
    np.testing.assert_allclose(blank, alone, atol=1.001e-3)


@pytest.mark.parametrize("network", ["light", "bert"])
def test_a_trained_network_changes_the_result_and_stays_accurate(case, tmp_path, network):
    alone = run(case, tmp_path, "alone.vcf.gz")
    refined = run(case, tmp_path, model=case / network)
    assert np.abs(refined - alone).max() > 0.002
    r2 = [
        evaluate(tmp_path / name, case / "truth.vcf", case / "panel.h5").all.aggregate_r2
        for name in ("alone.vcf.gz", "out.vcf.gz")
    ]
    assert r2[1] > r2[0] - 0.01


@pytest.mark.parametrize("network", ["light", "bert"])
def test_results_do_not_depend_on_chunks_or_on_who_else_is_imputed(case, tmp_path, network):
    whole = run(case, tmp_path, "whole.vcf.gz", model=case / network)
    lines = (case / "target.vcf").read_text().splitlines()
    one = ["\t".join(x.split("\t")[:10]) if not x.startswith("##") else x for x in lines]
    (tmp_path / "one.vcf").write_text("\n".join(one) + "\n")
    alone = run(case, tmp_path, "one.vcf.gz", model=case / network, target=tmp_path / "one.vcf")
    np.testing.assert_allclose(alone[:, 0], whole[:, 0], atol=1.001e-3)


@pytest.mark.parametrize("network", ["light", "bert"])
def test_the_output_names_the_network(case, tmp_path, network):
    impute(
        case / "target.vcf", case / "panel.h5", tmp_path / "o.bcf", model=case / network, hds=True
    )
    vcf = cyvcf2.VCF(str(tmp_path / "o.bcf"))
    header = vcf.raw_header
    vcf.close()
    kind = "light" if network == "light" else "bert"
    assert f"##snvrag_model={network} {kind} " in header
    bank = " ".join(f"(c={c:g},e={e:g})" for c, e in load_run(case / network).bank)
    assert f"##snvrag_copying_bank={bank}\n" in header


def test_the_network_is_named_from_within_its_folder_too(case, tmp_path, monkeypatch):
    monkeypatch.chdir(case / "light")
    impute(case / "target.vcf", case / "panel.h5", tmp_path / "o.vcf.gz", model=Path())
    vcf = cyvcf2.VCF(str(tmp_path / "o.vcf.gz"))
    header = vcf.raw_header
    vcf.close()
    assert "##snvrag_model=light light " in header


def test_a_run_for_other_sites_is_refused_with_the_difference(case, tmp_path):
    write_vcf(tmp_path / "p.vcf", mosaic(20, 50), spacing=100)
    convert(tmp_path / "p.vcf", tmp_path / "p.h5")
    with pytest.raises(MismatchError, match=r"20:100-40,000, 400 sites.*20:100-5,000, 50 sites"):
        impute(case / "target.vcf", tmp_path / "p.h5", tmp_path / "o.vcf.gz", model=case / "light")
    assert not (tmp_path / "o.vcf.gz").exists()


@pytest.mark.parametrize("network", ["light", "bert"])
def test_a_portable_network_serves_other_sites_if_it_is_a_light_one(
    case, tmp_path, caplog, network
):
    write_vcf(tmp_path / "p.vcf", mosaic(20, 50), spacing=100)
    convert(tmp_path / "p.vcf", tmp_path / "p.h5")
    run_ = tmp_path / "run"
    shutil.copytree(case / network, run_)
    header = json.loads((run_ / "config.json").read_text())
    (run_ / "config.json").write_text(json.dumps(header | {"portable": True}))
    (tmp_path / "map.txt").write_text("pos chr cM\n1 20 0\n50000 20 0.2\n")
    options = {"model": run_, "genetic_map": tmp_path / "map.txt", "min_overlap": 0.0}
    if network == "bert":
        with pytest.raises(MismatchError, match="was trained for other sites"):
            impute(case / "target.vcf", tmp_path / "p.h5", tmp_path / "o.vcf.gz", **options)
        return
    impute(case / "target.vcf", tmp_path / "p.h5", tmp_path / "o.vcf.gz", **options)
    assert dosages(tmp_path / "o.vcf.gz").shape == (50, 4)
    assert "another genetic map" not in caplog.text


def test_the_shipped_network_is_small_and_beats_the_copying_model(case, tmp_path):
    folder = Path(snvrag.__file__).parent / "shipped"
    assert load_run(SHIPPED).path == folder
    assert sum(path.stat().st_size for path in folder.iterdir()) < 60_000
    run(case, tmp_path, name="alone.vcf.gz")
    run(case, tmp_path, name="network.vcf.gz", model=folder)
    alone, network = (
        evaluate(tmp_path / f"{name}.vcf.gz", case / "truth.vcf", case / "panel.h5").all
        for name in ("alone", "network")
    )
    assert network.aggregate_r2 > alone.aggregate_r2


def test_the_shipped_network_says_that_it_is_not_for_large_panels(
    case, tmp_path, caplog, monkeypatch
):
    run(case, tmp_path, model=SHIPPED)
    assert "learned from smaller panels" not in caplog.text
    monkeypatch.setattr(networks, "PICK_ABOVE", 50)
    run(case, tmp_path, model=SHIPPED, force=True)
    assert "learned from smaller panels: with 60 haplotypes" in caplog.text


def test_indexes_of_another_window_size_are_refused(case, tmp_path):
    build_index(case / "panel.h5", tmp_path / "index")
    with pytest.raises(MismatchError, match="window_size 511, needed is 100"):
        run(case, tmp_path, model=case / "bert", index_dir=tmp_path / "index")


def test_what_is_no_run_is_refused(case, tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json"):
        run(case, tmp_path, model=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format_name": "snvrag-run"}))
    with pytest.raises(InputError, match="version None, not 'snvrag-run' version"):
        run(case, tmp_path, model=tmp_path)
    header = json.loads((case / "light" / "config.json").read_text())
    for value, word in (([], "list"), ("x", "str"), (None, "NoneType")):
        (tmp_path / "config.json").write_text(json.dumps({**header, "config": value}))
        with pytest.raises(InputError, match=rf"config\.json: the settings .* are {word}, where"):
            run(case, tmp_path, model=tmp_path)
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text((case / "light" / "config.json").read_text())
    (folder / "model.safetensors").write_bytes((case / "bert" / "model.safetensors").read_bytes())
    with pytest.raises(MismatchError, match="holds another network"):
        run(case, tmp_path, model=folder)


def test_another_map_than_in_training_is_a_warning(case, tmp_path, caplog):
    (tmp_path / "map.txt").write_text("pos chr cM\n1 20 0\n50000 20 0.2\n")
    run(case, tmp_path, model=case / "light", genetic_map=tmp_path / "map.txt")
    assert "another genetic map" in caplog.text


@pytest.mark.parametrize("network", ["light", "bert"])
def test_a_target_sample_of_the_panel_does_not_see_itself(case, tmp_path, network):
    """Changing the panel's copy of the target's own sample changes nothing."""
    results = []
    for number, flip in enumerate((False, True)):
        alleles = mosaic(60, N_SITES, founders=8, switch_rate=0.004)
        target = alleles[:2].copy()
        if flip:
            masked = np.arange(N_SITES) % KEPT != 0
            alleles[:2, masked] ^= 1
        write_vcf(tmp_path / f"p{number}.vcf", alleles, spacing=100)
        convert(tmp_path / f"p{number}.vcf", tmp_path / f"p{number}.h5", force=True)
        write_target(tmp_path / f"t{number}.vcf", target)
        text = (tmp_path / f"t{number}.vcf").read_text().replace("\tT0", "\tS0")
        (tmp_path / f"t{number}.vcf").write_text(text)
        out = tmp_path / f"o{number}.vcf.gz"
        model = case / network
        impute(tmp_path / f"t{number}.vcf", tmp_path / f"p{number}.h5", out, model=model)
        results.append(dosages(out))
    np.testing.assert_allclose(results[0], results[1], atol=1.001e-3)


def test_weights_survive_the_round_trip(case):
    config = run_config({"preset": "light", "dims": 16})
    network = build_network(config.model, 104)
    load_weights(network, case / "light" / "model.safetensors")
    assert network.head.shift.weight.abs().max() > 0
    other = dataclasses.replace(config.model, dims=24)
    with pytest.raises(MismatchError, match="other shape"):
        load_weights(build_network(other, 104), case / "light" / "model.safetensors")
    assert torch.isfinite(network.head.shift.weight).all()


def evidence(rows, seed=0):
    """Plausible columns, some of them far out of any range, some rows of alleles of nobody."""
    generator = np.random.default_rng(seed)
    features = SHIFT + SCALE * generator.normal(0, 1.5, (rows, N_FEATURES))
    features[:, :5] = features[:, :5].clip(-9.2, 9.2)
    features[::7, COUNT_FEATURE] = 0
    return features.astype(np.float32)


@pytest.mark.parametrize(("dims", "layers"), [(16, 1), (64, 3), (30, 2)])
def test_compiled_light_network_gives_what_torch_gives(tmp_path, dims, layers):
    config = run_config({"preset": "light", "dims": dims, "layers": layers})
    network = build_network(config.model, config.windows.max_seq_len).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.head.set_range(SHIFT - SCALE, SHIFT + 2 * SCALE)
    save_weights(network, tmp_path / "model.safetensors")
    run = TrainedRun(tmp_path, config, EVIDENCE_BANK, {})
    features = evidence(1001)
    with torch.no_grad():
        expected = network.refine(torch.from_numpy(features)).numpy()
        trust = network.head.trust(torch.from_numpy(features))
    assert 0 < trust.mean() < 1
    assert {0.0} < set(trust.tolist())
    np.testing.assert_allclose(LightWeights.load(run).refine(features), expected, atol=2e-4)
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert light_shapes(config.model) == shapes


def test_out_of_range_the_correction_fades_to_nothing(case):
    network = load_network(load_run(case / "light"))
    with torch.no_grad():
        network.head.shift.bias.fill_(1.0)
        inside = torch.where(
            torch.isfinite(network.head.low), (network.head.low + network.head.high) / 2, 0.0
        )
        inside[COUNT_FEATURE] = inside[COUNT_FEATURE].clamp(min=1.0)
        rows = inside.repeat(4, 1)
        distance = torch.tensor([0.9, 1.25, 2.1, 5.0])
        column = 7
        rows[:, column] = network.head.high[column] + distance * float(SCALE[column])
        delta = network.refine(rows) - prior_logit(rows)
        inner = network.head(network.body(standardise(rows)), rows) - prior_logit(rows)
    assert torch.allclose(network.head.trust(rows), torch.tensor([1.0, 0.75, 0.0, 0.0]), atol=1e-5)
    assert torch.equal(delta, inner)
    assert delta[0].abs() > 0.1
    assert torch.equal(delta[2:], torch.zeros(2))


def test_the_range_is_that_of_the_training_evidence(case):
    head = load_network(load_run(case / "light")).head
    assert torch.isfinite(head.low).all()
    assert torch.isfinite(head.high).all()
    assert (head.low <= head.high).all()
    # 120 haplotypes without a tenth of validation and the query's own two.
    assert 2 <= float(2 ** head.high[COUNT_FEATURE] - 1) <= 120 / 2


def test_the_light_network_imputes_without_torch(case, tmp_path):
    words = ["impute", case / "target.vcf", "-r", case / "panel.h5", "-m", case / "light"]
    code = (
        "import sys\nfrom snvrag.cli.app import app\n"
        f"app({[str(w) for w in [*words, '-o', tmp_path / 'o.vcf.gz', '-q']]}, "
        "standalone_mode=False)\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.vcf.gz").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [({"device": "cuda"}, "--device cuda"), ({"index_dir": "i"}, "--index-dir")],
)
def test_options_of_window_networks_are_refused_with_the_light_one(case, tmp_path, options, word):
    with pytest.raises(UsageError, match=f"{word}.*light network"):
        run(case, tmp_path, model=case / "light", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bank", [None, [], [[8, 0.01]] * 4, [[0, 0.01]] * 5, [[8, 0.7]] * 5, "x"])
def test_a_run_without_a_sound_bank_is_refused(case, tmp_path, bank):
    saved = json.loads((case / "light" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"bank": bank}))
    with pytest.raises(InputError, match=r"config\.json: the copying model's bank"):
        load_run(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", ["light", "bert"])
def test_the_estimate_covers_what_the_process_takes_with_a_network(case, tmp_path, name):
    out = tmp_path / "out.vcf.gz"
    estimate, peak = impute_and_measure(case / "target.vcf", case / "panel.h5", out, case / name)
    assert peak < estimate < 1.8 * peak


def test_weights_that_are_no_numbers_are_refused(case, tmp_path):
    network = load_network(load_run(case / "light"))
    with torch.no_grad():
        network.head.shift.bias.fill_(float("nan"))
    save_weights(network, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((case / "light" / "config.json").read_text())
    with pytest.raises(InputError, match=r"head\.shift\.bias holds what is not a number"):
        run(case, tmp_path, model=tmp_path)
    with torch.no_grad():
        network.head.shift.bias.fill_(float("inf"))
        network.head.mix.bias.fill_(float("-inf"))
    save_weights(network, tmp_path / "model.safetensors")
    with pytest.raises(WorkError, match="is not a number"):
        run(case, tmp_path, model=tmp_path)
    assert not (tmp_path / "out.vcf.gz").exists()


@pytest.mark.parametrize("chromosomes", [None, 5, {"a": 1}, [[1]], "abcd", [["20", "x", 1, 2]]])
def test_a_damaged_list_of_chromosomes_is_no_crash(case, tmp_path, chromosomes):
    saved = json.loads((case / "light" / "config.json").read_text())
    saved |= {"sites_digest": "0", "chromosomes": chromosomes}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(MismatchError, match="trained for other sites"):
        run(case, tmp_path, model=tmp_path)


def test_absurd_sizes_in_a_damaged_run_are_refused_at_once(case, tmp_path):
    saved = json.loads((case / "light" / "config.json").read_text())
    saved["config"]["model"]["layers"] = 10**9
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match="--layers 1000000000"):
        run(case, tmp_path, model=tmp_path)
