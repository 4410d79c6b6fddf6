import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snvrag.example import DATA, example_files, prepare_example
from snvrag.panel import Panel
from snvrag.provenance import sha256_file
from snvrag.sites import SiteTable
from snvrag.vcf import GenotypeReader
from snvrag.windows import WindowPlan

ROOT = Path(__file__).resolve().parents[1]


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
        assert sha256_file(tmp_path / name) == sha256_file(DATA / name), name


def test_the_example_is_small_and_has_what_a_demonstration_needs():
    files = example_files()
    paths = [getattr(files, name) for name in files.__dataclass_fields__]
    assert all(path.is_file() for path in paths)
    assert sum(path.stat().st_size for path in paths) < 300_000
    panel, sites, genotypes = read(files.panel_vcf)
    targets, truth_sites, _ = read(files.truth_vcf)
    same, array_sites, _ = read(files.target_vcf)
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
