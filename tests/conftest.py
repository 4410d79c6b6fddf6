import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

# As the command line does, before anything loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch

from snvrag.cohorts import Cohort, Cohorts
from snvrag.conversion import convert
from snvrag.index_store import IndexStore
from snvrag.panel import Panel

# Networks this small are faster on one thread, far more so on a machine with other work.
torch.set_num_threads(1)

# Tests interrupt processes of their own. A shell lets its background jobs ignore the signal, and
# what is ignored stays so in their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

DEV = Path(__file__).resolve().parents[2] / "shared" / "data" / "chr20" / "dev"


def write_vcf(
    path: Path,
    alleles: np.ndarray,
    *,
    chroms: list[str] | None = None,
    ploidies: list[int] | None = None,
    spacing: int = 10,
) -> Path:
    """A plain-text phased VCF of 0/1 ``alleles`` [haplotypes, sites]; diploid unless told."""
    n_haplotypes, n_sites = alleles.shape
    ploidies = ploidies or [2] * (n_haplotypes // 2)
    chroms = chroms or ["20"] * n_sites
    lines = ["##fileformat=VCFv4.2"]
    lines += [f"##contig=<ID={c},length=1000000>" for c in dict.fromkeys(chroms)]
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
    fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    lines.append("\t".join([*fixed, *(f"S{i}" for i in range(len(ploidies)))]))
    edges = np.concatenate([[0], np.cumsum(ploidies)])
    for site in range(n_sites):
        column = alleles[:, site]
        calls = ["|".join(map(str, column[a:b])) for a, b in pairwise(edges)]
        row = [
            chroms[site],
            str(100 + spacing * site),
            ".",
            "A",
            "C",
            ".",
            "PASS",
            ".",
            "GT",
            *calls,
        ]
        lines.append("\t".join(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_panel_and_truth(folder: Path, alleles: np.ndarray, panel_haplotypes: int) -> None:
    """``panel.h5`` of the first haplotypes, ``truth.vcf`` of the others as people T0, T1, …"""
    write_vcf(folder / "panel.vcf", alleles[:panel_haplotypes], spacing=100)
    convert(folder / "panel.vcf", folder / "panel.h5")
    truth = write_vcf(folder / "truth.vcf", alleles[panel_haplotypes:], spacing=100)
    truth.write_text(truth.read_text().replace("\tS", "\tT"))


def mosaic(
    n_haplotypes: int, n_sites: int, *, founders: int = 6, seed: int = 0, switch_rate: float = 0.01
) -> np.ndarray:
    """Haplotypes copied in long pieces from a few founders: uint8 [n_haplotypes, n_sites]."""
    generator = np.random.default_rng(seed)
    frequency = generator.choice([0.02, 0.1, 0.3, 0.5], n_sites)
    pool = (generator.random((founders, n_sites)) < frequency).astype(np.uint8)
    switch = generator.random((n_haplotypes, n_sites)) < switch_rate
    switch[:, 0] = True
    piece = np.cumsum(switch, axis=1)
    donor = generator.integers(0, founders, (n_haplotypes, n_sites))
    chosen = np.take_along_axis(donor, piece, axis=1)
    return pool[chosen, np.arange(n_sites)]


def impute_and_measure(
    target: Path, panel: Path, output: Path, model: Path | None = None
) -> tuple[int, int]:
    """Impute in a process of its own: bytes by the estimate and bytes that it took at most."""
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom snvrag import impute\n"
        "target, panel, output, *model = map(Path, sys.argv[1:])\n"
        "r = impute(target, panel, output, model=model[0] if model else None)\n"
        # Not ru_maxrss, which a child has from its parent.
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())\n"
        "print(r.estimated_memory, int(peak[1]) * 1024)"
    )
    words = [sys.executable, "-c", code, target, panel, output, *([model] if model else [])]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    estimate, peak = map(int, done.stdout.split())
    return estimate, peak


@pytest.fixture
def make_panel(tmp_path: Path) -> Callable[..., Path]:
    """``make_panel(alleles, **of write_vcf)`` converts alleles to a panel file."""

    def make(alleles: np.ndarray, name: str = "panel", **options: object) -> Path:
        source = write_vcf(tmp_path / f"{name}.vcf", alleles, **options)
        output = tmp_path / f"{name}.h5"
        convert(source, output)
        return output

    return make


@pytest.fixture(scope="session")
def mosaic_panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted panel of 40 diploid samples and 250 sites with linkage disequilibrium."""
    folder = tmp_path_factory.mktemp("mosaic")
    source = write_vcf(folder / "panel.vcf", mosaic(80, 250))
    convert(source, folder / "panel.h5")
    return folder / "panel.h5"


@pytest.fixture(scope="session")
def dev_folder() -> Path:
    """The real 1000 Genomes data beside the checkout."""
    if not DEV.is_dir():
        pytest.skip(f"real data not found at {DEV}")
    return DEV


def panel_cohorts(panel: Panel, store: IndexStore, held_out: Sequence[int]) -> Cohorts:
    """The panel's own samples, those of ``held_out`` to validate on and all others to train on."""
    judges = np.array(held_out, dtype=np.int64)
    train = np.setdiff1d(np.arange(panel.n_samples), judges)
    return Cohorts(
        Cohort.of_panel(panel, store, train), Cohort.of_panel(panel, store, judges), judges
    )
