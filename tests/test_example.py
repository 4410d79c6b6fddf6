import gzip
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import mosaic, write_panel_and_truth

from snvrag.conversion import convert
from snvrag.errors import OutputError
from snvrag.example import DATA, example_files, prepare_example
from snvrag.index_store import build_index, default_index_dir
from snvrag.panel import Panel
from snvrag.sites import SiteTable
from snvrag.vcf import GenotypeReader
from snvrag.windows import WindowPlan

ROOT = Path(__file__).resolve().parents[1]
# zlib-ng, which some Python builds carry, compresses the same text to other bytes.
CLASSIC_ZLIB = "zlib-ng" not in zlib.ZLIB_RUNTIME_VERSION


def read(path):
    reader = GenotypeReader.open(path)
    blocks = list(reader.blocks(4096))
    reader.close()
    assert len(blocks) == 1
    block = blocks[0]
    table = SiteTable(
        *(np.array(x) for x in (block.chrom, block.pos, block.id, block.ref, block.alt))
    )
    return reader.samples, [table.key(i) for i in range(len(table))], block.genotypes


def test_the_script_regenerates_the_files_byte_for_byte(tmp_path):
    msprime = pytest.importorskip("msprime")
    pinned = re.search(r"^msprime==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if msprime.__version__ != pinned.group(1):
        pytest.skip(f"msprime {msprime.__version__} is not the pinned {pinned.group(1)}")
    script = ROOT / "examples" / "simulate_example.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    names = sorted(p.name for p in DATA.iterdir() if p.is_file())
    assert names == sorted(p.name for p in tmp_path.iterdir())
    for name in names:
        new, committed = (tmp_path / name).read_bytes(), (DATA / name).read_bytes()
        if name.endswith(".gz"):
            assert gzip.decompress(new) == gzip.decompress(committed), name
        if CLASSIC_ZLIB or not name.endswith(".gz"):
            assert new == committed, name


def test_the_example_is_small_and_has_what_a_demonstration_needs():
    files = example_files()
    paths = [getattr(files, name) for name in files.__dataclass_fields__]
    assert all(path.is_file() for path in paths)
    assert sum(path.stat().st_size for path in paths) < 300_000
    panel, sites, genotypes = read(files.panel_vcf)
    targets, truth_sites, truth = read(files.truth_vcf)
    same, array_sites, array = read(files.target_vcf)
    assert (len(panel), len(targets)) == (200, 20)
    assert same == targets
    assert not set(panel) & set(targets)
    assert truth_sites == sites
    assert set(array_sites) < set(sites)
    assert len(array_sites) < len(sites) / 10
    windows = WindowPlan.from_total(len(sites)).windows
    assert len(windows) >= 4
    assert windows[-1].n_snps < 511
    counts = genotypes.sum(axis=(1, 2))
    assert ((counts > 0) & (counts < 400)).all()
    rows = [sites.index(key) for key in array_sites]
    assert (array == truth[rows]).all()
    frequency = counts[rows] / 400
    assert np.minimum(frequency, 1 - frequency).min() >= 0.05


@pytest.mark.external
@pytest.mark.parametrize("name", ["panel.vcf.gz", "target.vcf.gz", "truth.vcf.gz"])
def test_htslib_reads_and_indexes_the_example(tmp_path, name):
    bcftools = shutil.which("bcftools")
    if bcftools is None:
        pytest.skip("bcftools is not on PATH")
    index = ["index", "-t", "-o", str(tmp_path / "x.tbi"), str(DATA / name)]
    done = subprocess.run([bcftools, *index], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_example_has_linkage_disequilibrium():
    """The nearest haplotype at other sites tells far more than the frequency."""
    _, _, genotypes = read(example_files().panel_vcf)
    haplotypes = genotypes.reshape(len(genotypes), -1).T[:, :511].astype(np.float32)
    hidden = np.arange(511) % 2 == 0
    signs = 2 * haplotypes[:, ~hidden] - 1
    likeness = signs @ signs.T
    for sample in range(200):
        likeness[2 * sample : 2 * sample + 2, 2 * sample : 2 * sample + 2] = -np.inf
    copied = haplotypes[likeness.argmax(1)][:, hidden]
    truth = haplotypes[:, hidden]
    r2_copied = np.corrcoef(copied.ravel(), truth.ravel())[0, 1] ** 2
    frequency = np.broadcast_to(truth.mean(0), truth.shape)
    r2_frequency = np.corrcoef(frequency.ravel(), truth.ravel())[0, 1] ** 2
    assert r2_copied > 0.7 > r2_frequency + 0.1


def test_the_example_is_laid_out_once_and_mended_when_damaged(tmp_path):
    path = prepare_example(tmp_path / "e")
    first = path.stat().st_mtime_ns
    with Panel.open(path) as panel:
        digest = panel.digest
        assert panel.n_samples == 200
    assert prepare_example(tmp_path / "e").stat().st_mtime_ns == first
    path.write_bytes(path.read_bytes()[:5000])
    with Panel.open(prepare_example(tmp_path / "e")) as panel:
        assert panel.digest == digest


def test_the_example_of_another_release_is_replaced_with_its_indexes(tmp_path):
    """The old indexes would be refused beside the new panel."""
    files = example_files()
    path = tmp_path / "panel.h5"
    convert(files.target_vcf, path)
    build_index(path)
    with Panel.open(prepare_example(tmp_path)) as panel:
        assert panel.n_samples == 200
    assert not list(default_index_dir(path).glob("index_*.faiss"))
    assert build_index(path).built == 6


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "taken").write_text("a file in the folder's place")
    with pytest.raises(OutputError, match="taken") as caught:
        prepare_example(tmp_path / "taken")
    assert "a folder you can write to" in caught.value.hint


def test_the_python_example_runs_every_step(tmp_path):
    """With files of its own, as a reader would call it; the bundled ones are larger."""
    write_panel_and_truth(tmp_path, mosaic(46, 600, founders=8, switch_rate=0.002), 40)
    lines = (tmp_path / "truth.vcf").read_text().splitlines(keepends=True)
    head = [x for x in lines if x.startswith("#")]
    (tmp_path / "target.vcf").write_text("".join([*head, *lines[len(head) :: 10]]))
    (tmp_path / "map").write_text("20 . 0 1\n20 . 0.06 60000\n")
    given = {"panel": "panel.vcf", "target": "target.vcf", "truth": "truth.vcf", "map": "map"}
    options = [word for name, file in given.items() for word in (f"--{name}", tmp_path / file)]
    script = ROOT / "examples" / "python_api.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "out", "--epochs", "1", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert re.search(r"600 sites of 40 haplotypes", shown)
    assert re.search(r"haplotype 1 of S0: S\d+ \(\d+\)", shown)
    assert "S0 (" not in shown  # nobody finds their own haplotypes
    scores = re.findall(r"aggregate r² (0\.\d+)", shown)
    assert len(scores) == 2
    assert all(float(r2) > 0.8 for r2 in scores)
    assert not list(tmp_path.rglob("*.work"))


def test_the_python_example_names_a_missing_file_without_traceback(tmp_path):
    script = ROOT / "examples" / "python_api.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "out", "--panel", tmp_path / "none.vcf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.match(r"error: .*none\.vcf: .*\nhint: ", done.stderr)
