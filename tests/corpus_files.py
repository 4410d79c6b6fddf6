"""Sound files of every kind that snvrag reads, small and always the same, for ``corpus``.

Run as a program, with a folder: writes them there. A process of its own, since ``corpus`` forks and
must not have begun any thread.
"""

import contextlib
import gzip
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from helpers_vcf import bgzip

from snvrag.cli.app import run

SITES, PANEL_SAMPLES, TARGET_SAMPLES = 180, 24, 4
SPACING = 300
WINDOWS = ["--window-size", "60", "--max-seq-len", "64"]
TRAIN = [
    *WINDOWS,
    "--epochs",
    "2",
    "--epoch-batches",
    "4",
    "--warmup-steps",
    "1",
    "--device",
    "cpu",
]
TRAIN += ["--threads", "1", "--bank", "default", "--checkpoint-every", "3", "--patience", "9"]
BERT = ["--preset", "tiny", "--dims", "8", "--layers", "1", "--heads", "1"]


def snvrag(*words: str | Path) -> None:
    """Run a command of snvrag, which must succeed."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = run(list(map(str, words)))
    if code:
        raise RuntimeError(f"snvrag {' '.join(map(str, words))}: exit code {code}")


def write_files(folder: Path, *, trained: bool = True) -> None:
    """Write all files to ``folder``, which exists; without runs of ``train`` if not ``trained``."""
    # Here, since it imports torch, without which ``corpus`` forks faster.
    from conftest import mosaic, write_vcf

    alleles = mosaic(2 * (PANEL_SAMPLES + TARGET_SAMPLES), SITES, switch_rate=0.02)
    n_panel = 2 * PANEL_SAMPLES
    panel = write_vcf(folder / "panel.vcf", alleles[:n_panel], spacing=SPACING)
    text = panel.read_text()
    (folder / "panel.vcf.gz").write_bytes(bgzip(text.encode(), 3000))
    truth = write_vcf(folder / "truth.vcf", alleles[n_panel:], spacing=SPACING)
    truth.write_text(truth.read_text().replace("\tS", "\tT"))
    lines = truth.read_text().splitlines()
    few = [x for i, x in enumerate(lines) if x.startswith("#") or i % 6 == 0]
    (folder / "target.vcf").write_text("\n".join(few) + "\n")
    (folder / "target.vcf.gz").write_bytes(bgzip((folder / "target.vcf").read_bytes(), 700))
    for name in ("panel", "target"):
        subprocess.run(
            ["bcftools", "view", "-Ob", "-o", folder / f"{name}.bcf", folder / f"{name}.vcf"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    _write_lists(folder)
    at = folder / "panel.h5"
    snvrag("convert", panel, "-o", at, "--populations", folder / "populations.txt")
    snvrag("build-index", at, folder / "idx", *WINDOWS)
    for name in ("imputed.vcf.gz", "imputed.bcf"):
        snvrag("impute", folder / "target.vcf", "-r", at, "-o", folder / name, "--hds")
    samples = (("T0,T1", "half"), ("T2,T3", "other"))
    for names, name in samples:
        for suffix in ("vcf.gz", "bcf"):
            words = ["impute", folder / "target.vcf", "-r", at, "-s", names, "--hds"]
            snvrag(*words, "-o", folder / f"{name}.{suffix}")
    if trained:
        snvrag(
            "train", at, "-o", folder / "light", "-i", folder / "idx", "--preset", "light", *TRAIN
        )
        snvrag("train", at, "-o", folder / "bert", "-i", folder / "idx", *BERT, *TRAIN)
    work = ["--work-dir", folder / "work"]
    snvrag("impute", folder / "target.vcf", "-r", at, "-o", folder / "worked.vcf.gz", *work)
    for path in folder.glob("*.lock"):
        path.unlink()


def _write_lists(folder: Path) -> None:
    samples = [f"S{i}" for i in range(PANEL_SAMPLES)]
    rows = [f"{s}\t{'AB'[i % 2]}P\t{'XYZ'[i % 3]}SP" for i, s in enumerate(samples)]
    (folder / "populations.txt").write_text("\n".join(["sample\tpop\tsuper_pop", *rows]) + "\n")
    (folder / "samples.txt").write_text("\n".join(samples[2:14]) + "\n")
    (folder / "regions.txt").write_text("20\t1000\t9000\n20\t20000\t30000\n")
    (folder / "regions.bed").write_text("20\t1000\t9000\n20\t20000\t30000\n")
    places = [100 + SPACING * i for i in range(0, SITES, 6)]
    (folder / "sites.txt").write_text("".join(f"20\t{p}\n" for p in places))
    points = [f"20 . {p / 40_000:.6f} {p}" for p in range(100, SPACING * SITES + 200, 900)]
    (folder / "genetic.map").write_text("\n".join(points) + "\n")
    (folder / "genetic.map.gz").write_bytes(
        gzip.compress((folder / "genetic.map").read_bytes(), mtime=0)
    )
    generator = np.random.default_rng(5)
    np.save(folder / "table.npy", generator.random((4, 1, SITES), dtype=np.float32))
    (folder / "snvrag.toml").write_text(
        "[train]\n"
        'panel = "panel.h5"\noutput = "run"\nindex_dir = "idx"\npreset = "light"\n'
        "window_size = 60\nmax_seq_len = 64\nepochs = 1\nepoch_batches = 1\nbatch_size = 4\n"
        'bank = "default"\nlr = 2e-3\narray_spacing = [2000.0, 3000.0]\nthreads = 1\nseed = 7\n'
    )


if __name__ == "__main__":
    write_files(Path(sys.argv[1]), trained=sys.argv[2:] != ["untrained"])
