import json
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import mosaic, write_vcf

from snvrag.array_sites import ArraySites
from snvrag.cli.app import run
from snvrag.errors import InputError
from snvrag.panel import Panel

QUICK = ["--window-size", "60", "--max-seq-len", "64", "--dims", "16", "--layers", "1"]


def positions(rows):
    return [100 + 10 * row for row in rows]


def text_of(path, rows, chrom="chr20"):
    lines = [f"{chrom}\t{p}" for p in positions(rows)]
    path.write_text("\n".join(["#CHROM\tPOS", *lines, f"{chrom}\t7"]) + "\n")
    return path


def test_a_text_and_a_vcf_of_the_same_sites_are_one_list(mosaic_panel, tmp_path):
    chosen = [3, 40, 41, 249]
    text = text_of(tmp_path / "array.txt", chosen)
    everything = write_vcf(tmp_path / "all.vcf", mosaic(2, 250)).read_text().splitlines()
    wanted = {str(p) for p in positions(chosen)}
    records = [x for x in everything if x.startswith("#") or x.split("\t")[1] in wanted]
    # The same place with other alleles, and a record of two ALTs, one of them the panel's.
    extra = [r.replace("\tA\tC\t", "\tA\tT\t") for r in records[-1:]]
    extra += ["20\t110\t.\tA\tG,C\t.\tPASS\t.\tGT\t0|1"]
    extra += ["20\t120\t.\tA\tG,T\t.\tPASS\t.\tGT\t0|1"]
    vcf = tmp_path / "array.vcf"
    vcf.write_text("\n".join(records + extra) + "\n")
    with Panel.open(mosaic_panel) as panel:
        from_text, from_vcf = ArraySites.read(text, panel), ArraySites.read(vcf, panel)
    assert np.flatnonzero(from_text.rows).tolist() == chosen
    assert np.flatnonzero(from_vcf.rows).tolist() == [1, *chosen]
    assert (from_text.n_listed, from_vcf.n_listed) == (5, 9)
    assert from_text.digest != from_vcf.digest
    assert "4 panel sites of 5 in" in str(from_text)


@pytest.mark.parametrize("rows", [[], [3]])
def test_a_list_without_the_panels_sites_names_both_files_contigs(mosaic_panel, tmp_path, rows):
    path = text_of(tmp_path / "array.txt", rows, "chrX" if not rows else "20")
    with Panel.open(mosaic_panel) as panel, pytest.raises(InputError) as caught:
        ArraySites.read(path, panel)
    message = str(caught.value)
    assert str(path) in message
    assert str(mosaic_panel) in message
    assert ("chrX" if not rows else "list: 20") in message
    assert "20:100-2,590" in message


def test_train_with_a_list_and_resume_with_it_only(mosaic_panel, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = text_of(tmp_path / "first.txt", range(0, 250, 10))
    other = text_of(tmp_path / "other.txt", range(1, 250, 10))
    same = tmp_path / "same.txt"
    same.write_text(first.read_text())
    words = ["train", str(mosaic_panel), *QUICK, "-i", "index", "-o", "run", "--epochs", "1"]
    words += ["--preset", "tiny", "--batch-size", "40", "--device", "cpu"]
    assert run([*words, "--array-sites", str(first), "--sites-share", "0.9", "-q"]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert len(config["config"]["mask"]["array_sites_digest"]) == 64
    assert config["config"]["mask"]["sites_share"] == 0.9
    capsys.readouterr()
    share = ["--sites-share", "0.9"]
    for change in (["--array-sites", str(other), *share], []):
        assert run([*words, "--resume", *change]) == 2
        assert "array_sites_digest" in capsys.readouterr().err
    assert run([*words, "--resume", "--array-sites", str(same), *share]) == 0
    assert "this run is finished" in capsys.readouterr().err


def test_the_start_block_tells_the_masks(mosaic_panel, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    array = text_of(tmp_path / "array.txt", range(0, 250, 10))
    words = ["train", str(mosaic_panel), *QUICK, "--preset", "tiny", "--epochs", "1"]
    words += ["--batch-size", "40", "--device", "cpu", "--array-sites", str(array)]
    words += ["--array-share", "0", "--validation-patterns", "random", "--log-file", "log.txt"]
    assert run(words) == 0
    logging.shutdown()
    log = Path("log.txt").read_text()
    assert "25 panel sites of 26 in" in log
    assert "sites 50% of batches (90.0% masked)" in log
    assert "guided 38% of batches" in log
    block = next(line for line in log.splitlines() if "validation masks" in line)
    assert "sites (90.0% masked)" in block
    assert "random (" in block
    assert "guided" not in block


def test_settings_of_masks_come_from_toml_too(mosaic_panel, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text_of(tmp_path / "array.txt", range(0, 250, 10))
    Path("snvrag.toml").write_text(
        f'[train]\npanel = "{mosaic_panel}"\noutput = "run"\nindex_dir = "index"\n'
        'window_size = 60\nmax_seq_len = 64\npreset = "tiny"\ndims = 16\nlayers = 1\nepochs = 1\n'
        'array_sites = "array.txt"\narray_spacing = [500]\nvalidation_patterns = ["array"]\n'
        "batch_size = 40\nmask_raise_every = 1\n"
    )
    assert run(["train", "--device", "cpu", "-q"]) == 0
    mask = json.loads(Path("run/config.json").read_text())["config"]["mask"]
    assert mask["array_spacing"] == [500.0]
    assert mask["validation_patterns"] == ["array"]
    assert mask["raise_every"] == 1
    assert mask["array_sites_digest"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--array-spacing", "2kb"], "--array-spacing 2kb"),
        (["--array-share", "0.9", "--random-share", "0.9"], "--array-share"),
        (["--validation-patterns", "dense"], "dense"),
        (["--validation-patterns", "sites"], "'sites'"),
        (["--array-sites", "absent.txt"], "absent.txt"),
        (["--array-sites", "absent.vcf.gz"], "absent.vcf.gz"),
    ],
)
def test_bad_mask_options_are_refused(mosaic_panel, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(["train", str(mosaic_panel), *QUICK, "-i", "index", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 2
