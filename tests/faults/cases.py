"""The commands that faults are injected into, and what must hold of their files."""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the panel's compression
from conftest import mosaic, write_vcf
from helpers_vcf import bgzip

from snvrag.checkpoint import Checkpoint
from snvrag.provenance import read_json
from snvrag.verification import verify
from snvrag.weights import read_tensors

N_SITES, N_PANEL, N_TARGETS = 1500, 60, 16
WINDOWS = ("--window-size", "150", "--max-seq-len", "160")
TRAIN = (
    *("train", "panel.h5", "-o", "run", "-i", "train.index", *WINDOWS, "--preset", "light"),
    *("--epochs", "3", "--epoch-batches", "6", "--checkpoint-every", "2", "--batch-size", "8"),
    *("--validation-items", "12", "--bank", "default", "--device", "cpu"),
)
IMPUTE = ("impute", "target.vcf.gz", "-r", "panel.h5", "--excluded", "excluded.tsv")
_UNSTEADY = {"train_seconds", "validation_seconds", "jit_builds"}

Contents = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A command, what it needs, and how its files are looked at."""

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    """Files and folders of the template that are put into the case's folder first."""
    outputs: tuple[str, ...]
    read: Callable[[Path], Contents]
    """What is under final names, by name; raises or asserts where something is incomplete."""
    again: Callable[[Path, Sequence[str]], list[str]]
    """The command that goes on after a fault, given the folder and the first command."""
    inputs: tuple[str, ...] = ()
    """What the kind ``change`` may change."""
    one_thread: bool = True


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def panel_contents(path: Path) -> Contents:
    """Every dataset and attribute of a panel, the time of its making left out."""
    found: Contents = {}
    with h5py.File(path, "r") as file:

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = hashlib.sha256(item[...].tobytes()).hexdigest()

        file.visititems(visit)
        found |= {name: str(value) for name, value in file.attrs.items() if name != "provenance"}
        found["inputs"] = sorted(json.loads(file.attrs["provenance"])["inputs"].values())
    return found


def panel_digest(path: Path) -> str:
    """The content digest that a panel states."""
    with h5py.File(path, "r") as file:
        return str(file.attrs["digest"])


def read_panel(folder: Path) -> Contents:
    """``out.h5``."""
    path = folder / "out.h5"
    return {"out.h5": panel_contents(path)} if path.exists() else {}


def read_index(folder: Path) -> Contents:
    """``index/``, verified as far as it is built."""
    path = folder / "index"
    if not (path / "manifest.json").exists():
        # A file that no manifest lists counts as not built.
        return {}
    manifest = read_json(path / "manifest.json")
    template = folder.parents[1] / "template"
    # After the kind ``change`` it may be of the other panel, which must be so throughout.
    panels = {panel_digest(template / name): name for name in ("panel.h5", "other-panel.h5")}
    panel = template / panels[manifest["panel_digest"]]
    report = verify(path, panel=panel, deep=True, allow_partial=True)
    assert report.ok, report.checks
    return {f"index {number}": entry for number, entry in manifest["windows"].items()} | {
        "manifest": {k: v for k, v in manifest.items() if k not in {"windows", "digest"}}
    }


def read_files(*names: str) -> Callable[[Path], Contents]:
    """Files that are compared as bytes."""

    def read(folder: Path) -> Contents:
        return {name: digest(folder / name) for name in names if (folder / name).exists()}

    return read


def read_run(folder: Path) -> Contents:
    """``run/``: all files open; of two runs that ended alike the result is equal."""
    run, found = folder / "run", {}
    if (run / "config.json").exists():
        config = read_json(run / "config.json")
        found["config.json"] = {k: v for k, v in config.items() if k != "provenance"}
    if (run / "model.safetensors").exists():
        read_tensors(run / "model.safetensors")
        found["model.safetensors"] = digest(run / "model.safetensors")
    if (run / "metrics.jsonl").exists():
        rows = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
        found["metrics.jsonl"] = [{k: v for k, v in r.items() if k not in _UNSTEADY} for r in rows]
    if (run / "metrics.csv").exists():
        lines = (run / "metrics.csv").read_text().splitlines()
        assert len({line.count(",") for line in lines}) == 1
        found["metrics.csv"] = [line.split(",")[0] for line in lines]
    for path in sorted((run / "checkpoints").glob("step-*")):
        step = Checkpoint.read(path)
        found[path.name] = {k: digest(path / k) for k in ("model.safetensors",)} | {
            "step": step.state["step"]
        }
    return found


def same_command(folder: Path, words: Sequence[str]) -> list[str]:
    """The same once more."""
    return list(words)


def with_force_if(*names: str) -> Callable[[Path, Sequence[str]], list[str]]:
    """The same once more, with ``--force`` where an output is there already."""

    def again(folder: Path, words: Sequence[str]) -> list[str]:
        there = any((folder / name).exists() for name in names)
        return [*words, "--force"] if there and "--force" not in words else list(words)

    return again


def with_resume(folder: Path, words: Sequence[str]) -> list[str]:
    """The same once more, with ``--resume`` if the run folder holds anything."""
    run = folder / "run"
    begun = run.is_dir() and any(path.name != ".lock" for path in run.iterdir())
    return [*words, "--resume"] if begun and "--resume" not in words else list(words)


def write_template(folder: Path) -> None:
    """Inputs of all cases, and others to replace them by, as VCF."""
    alleles = mosaic(2 * (N_PANEL + N_TARGETS), N_SITES, founders=12, switch_rate=0.002)
    for name, rows in (("panel", slice(2 * N_PANEL)), ("target", slice(2 * N_PANEL, None))):
        for prefix, chosen in (("", alleles[rows]), ("other-", 1 - alleles[rows])):
            path = write_vcf(folder / f"{prefix}{name}.vcf", chosen, spacing=100)
            text = path.read_text()
            if name == "target":
                text = text.replace("\tS", "\tT")
                if not prefix:
                    (folder / "truth.vcf").write_text(text)
                lines = text.splitlines()
                head = [x for x in lines if x.startswith("#")]
                text = "\n".join(head + lines[len(head) :: 10]) + "\n"
                # One that no panel site matches, for --excluded.
                text += lines[-1].replace("\t249900\t", "\t300000\t").replace("149900", "300000")
                text = text.rstrip("\n") + "\n"
            path.with_suffix(".vcf.gz").write_bytes(bgzip(text.encode(), 4000))
            path.unlink()


def prepare(template: Path, snvrag: Callable[..., None], needs: Collection[str]) -> None:
    """Make, by undisturbed commands, what cases need beside VCF files."""
    write_template(template)
    one = ("--threads", "1")
    for name in ("panel", "other-panel"):
        snvrag("convert", f"{name}.vcf.gz", "-o", f"{name}.h5", *one)
    impute = ("impute", "target.vcf.gz", "-r", "panel.h5", "--hds", *one)
    # Outputs of before, for --force to replace.
    shutil.copy(template / "other-panel.h5", template / "out.h5")
    if {"old.vcf.gz", "out.vcf.gz"} & set(needs):
        snvrag(*impute, "-o", "old.vcf.gz")
        for suffix in ("", ".tbi"):
            shutil.copy(template / f"old.vcf.gz{suffix}", template / f"out.vcf.gz{suffix}")
    if "batch0.vcf.gz" in needs:
        names = [f"T{i}" for i in range(N_TARGETS)]
        for number, some in enumerate((names[:8], names[8:], names[9:])):
            snvrag(*impute, "-s", ",".join(some), "-o", f"batch{number}.vcf.gz")
    if "half" in needs:
        snvrag(*TRAIN, *one)
        (template / "run").rename(template / "half")
        # As it was before the last checkpoint.
        shutil.rmtree(sorted((template / "half" / "checkpoints").glob("step-*"))[-1])
        shutil.rmtree(template / "train.index")


OTHER = {
    "panel.vcf.gz": "other-panel.vcf.gz",
    "target.vcf.gz": "other-target.vcf.gz",
    "panel.h5": "other-panel.h5",
    "batch1.vcf.gz": "batch2.vcf.gz",
}
"""What the kind ``change`` puts in the place of an input."""
VCF, BCF = ("out.vcf.gz", "out.vcf.gz.tbi"), ("out.bcf", "out.bcf.csi")
_IMPUTED = (*VCF, "excluded.tsv")
CASES = {
    case.name: case
    for case in (
        Case(
            "convert",
            ("convert", "panel.vcf.gz", "-o", "out.h5", "--threads", "2"),
            ("panel.vcf.gz",),
            ("out.h5",),
            read_panel,
            with_force_if("out.h5"),
            ("panel.vcf.gz",),
            one_thread=False,
        ),
        Case(
            "convert --force",
            ("convert", "panel.vcf.gz", "-o", "out.h5", "--force", "--threads", "1"),
            ("panel.vcf.gz", "out.h5"),
            ("out.h5",),
            read_panel,
            same_command,
            ("panel.vcf.gz",),
        ),
        Case(
            "build-index",
            ("build-index", "panel.h5", "index", "--window-size", "15", "--max-seq-len", "16"),
            ("panel.h5",),
            ("index",),
            read_index,
            same_command,
            ("panel.h5",),
        ),
        Case("train", TRAIN, ("panel.h5",), ("run", "train.index"), read_run, with_resume),
        Case(
            "train --resume",
            (*TRAIN, "--resume"),
            ("panel.h5", "half"),
            ("run", "train.index"),
            read_run,
            with_resume,
        ),
        Case(
            "impute",
            (*IMPUTE, "-o", "out.bcf"),
            ("panel.h5", "target.vcf.gz"),
            (*BCF, "excluded.tsv"),
            read_files(*BCF, "excluded.tsv"),
            with_force_if(*BCF, "excluded.tsv"),
            ("panel.h5", "target.vcf.gz"),
        ),
        Case(
            "impute --force",
            (*IMPUTE, "-o", "out.vcf.gz", "--force"),
            ("panel.h5", "target.vcf.gz", *VCF),
            _IMPUTED,
            read_files(*_IMPUTED),
            same_command,
        ),
        Case(
            "impute --jobs 2",
            (*IMPUTE, "-o", "out.vcf.gz", "--jobs", "2", "--threads", "2"),
            ("panel.h5", "target.vcf.gz"),
            _IMPUTED,
            read_files(*_IMPUTED),
            with_force_if(*_IMPUTED),
            ("panel.h5",),
            one_thread=False,
        ),
        Case(
            "merge",
            ("merge", "batch0.vcf.gz", "batch1.vcf.gz", "-o", "out.vcf.gz"),
            ("batch0.vcf.gz", "batch1.vcf.gz"),
            VCF,
            read_files(*VCF),
            with_force_if(*VCF),
            ("batch1.vcf.gz",),
        ),
        Case(
            "evaluate",
            ("evaluate", "old.vcf.gz", "truth.vcf", "-r", "panel.h5", "--per-site", "sites.tsv"),
            ("old.vcf.gz", "truth.vcf", "panel.h5"),
            ("sites.tsv",),
            read_files("sites.tsv"),
            with_force_if("sites.tsv"),
        ),
    )
}
