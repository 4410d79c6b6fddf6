"""Damaged and hostile files of every kind, each given to the command that reads it.

``python tests/corpus.py`` runs all of them (``make corpus``), ``--short`` every few of each kind,
``--only TEXT`` those whose name contains TEXT. Files are made anew from a fixed seed. A command
must end in time, within the memory of an undisturbed run and some more, by exit code 2 and one
sentence that names the file; or by 0 where another reader finds in the file what snvrag found.

This process never starts a thread, so that it may fork: each command runs in a child that has
imported all libraries already.
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import corpus_mutations as m
import corpus_oracles as oracles
import h5py
import numpy as np
from corpus_files import BERT, TRAIN, WINDOWS
from corpus_panels import CONSISTENT, PANELS

from snvrag.cli.app import run as run_command

SEED = 20_261_126
SECONDS, FIRST_SECONDS = 30, 300
EXTRA_BYTES = 400 << 20
ADDRESS_BYTES = 3 << 30
OURS = Path(__file__).parent
_SHORT = 79
SOUND, REFUSED, OTHERWISE = "accepted as sound", "refused", "DEFECT"

Prepare = Callable[[Path], None]
Judge = Callable[[Path, Path], str | None]
"""Given the case's folder and the undisturbed run's, says what is wrong with a result."""


@dataclass(frozen=True)
class Kind:
    """A kind of file, the command that reads it, and how to judge what that made of it."""

    name: str
    file: str
    """What is damaged, inside the folder."""
    needs: tuple[str, ...]
    words: list[str]
    output: str
    judge: Judge
    named: str = ""
    """Pattern of what the message must name; the file if empty."""
    as_text: bool = False
    """Have VCF read by the compiled reader, however small it is."""

    @property
    def needs_training(self) -> bool:
        """Whether it is, or takes, a run of ``train``."""
        return bool({"bert", "light"} & set(self.needs)) or self.words[0] == "train"

    @property
    def needs_torch(self) -> bool:
        """Whether the command imports torch."""
        return "bert" in self.needs or self.words[0] in {"train", "verify"}


@dataclass(frozen=True)
class Case:
    """One file and what is done to it."""

    kind: Kind
    name: str
    prepare: Prepare

    @property
    def title(self) -> str:
        return f"{self.kind.name}: {self.name}"


@dataclass
class Ending:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float
    peak: int
    """Bytes."""
    faults: list[str] = field(default_factory=list)


# Judges of results


def same(name: str) -> Judge:
    """The output must be that of the undisturbed run, byte by byte."""

    def judge(folder: Path, whole: Path) -> str | None:
        if (folder / name).read_bytes() != (whole / name).read_bytes():
            return f"{name} differs from the undisturbed one"
        return None

    return judge


def same_weights(name: str) -> Judge:
    """The weights must be those of the undisturbed run, but for the last bits of sums."""

    def judge(folder: Path, whole: Path) -> str | None:
        ours, theirs = (oracles.weights(at / name) for at in (folder, whole))
        alike = ours.keys() == theirs.keys() and all(
            np.allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-6) for key in ours
        )
        return None if alike else f"{name} differs from the undisturbed one"

    return judge


def _compared(found: object, expected: object) -> str | None:
    return None if found == expected else "another reader finds other content in the file"


def panel_as_read(source: str) -> Judge:
    def judge(folder: Path, whole: Path) -> str | None:
        found = oracles.panel_genotypes(folder / "out.h5")
        return _compared(found, oracles.genotypes(folder / source))

    return judge


def some_of_panel(choose: Callable[[Path, list[str], oracles.Rows], object]) -> Judge:
    """``choose`` tells samples and (CHROM, POS) that a list selects."""

    def judge(folder: Path, whole: Path) -> str | None:
        samples, rows = oracles.panel_genotypes(folder / "out.h5")
        all_samples, all_rows = oracles.panel_genotypes(folder / "panel.h5")
        found = samples, [row[:2] for row in rows]
        return _compared(found, choose(folder, all_samples, all_rows))

    return judge


def _by_samples(folder: Path, samples: list[str], rows: oracles.Rows) -> object:
    lines = (folder / "samples.txt").read_bytes().decode().splitlines()
    return [line.split()[0] for line in lines if line.split()], [row[:2] for row in rows]


def _by_regions(folder: Path, samples: list[str], rows: oracles.Rows) -> object:
    spans = []
    for line in (folder / "regions.txt").read_bytes().decode().splitlines():
        own = line.split()
        if own and not own[0].startswith("#"):
            first = int(own[1]) if len(own) > 1 else 1
            last = int(own[2]) if len(own) > 2 else first if len(own) > 1 else 1 << 40
            spans.append((own[0], first, last))
    kept = [row[:2] for row in rows if any(c == row[0] and a <= row[1] <= b for c, a, b in spans)]
    return samples, kept


def by_populations(folder: Path, whole: Path) -> str | None:
    """Populations of the output must be those of the table, with their frequencies."""
    lines = (folder / "populations.txt").read_bytes().decode().splitlines()
    table = {own[0]: own[2:] for own in (line.split() for line in lines) if own}
    with h5py.File(folder / "out.h5") as file:
        names = [name.decode() for name in file["frequencies/populations"][...]]
        samples = [name.decode() for name in file["samples"][...]]
    expected = sorted({table[sample][0] for sample in samples})
    return _compared(names, ["GLOBAL", *expected])


def typed_as_read(source: str) -> Judge:
    """What was measured must stand in the output as the target has it."""

    def judge(folder: Path, whole: Path) -> str | None:
        samples, rows = oracles.genotypes(folder / source)
        theirs = {row[:4]: row[4:] for row in rows}
        own_samples, own = oracles.columns(folder / "out.vcf.gz")
        if samples != own_samples:
            return "other samples"
        text = {
            (r[0], int(r[1]), r[3], r[4]): "IMP" in r[7]
            for r in oracles._vcf_lines(folder / "out.vcf.gz")[1:]
        }
        for chrom, pos, ref, alt, _, *cells in own:
            site = (chrom, int(pos), ref, alt)
            calls = theirs.get(site)
            if calls is None:
                if not text[site]:
                    return f"{site} is not in the target and not marked as imputed"
                continue
            for cell, call in zip(cells, calls, strict=True):
                if "." not in call and sorted(cell.split(":")[0]) != sorted(call.replace("/", "|")):
                    return f"{site}: {cell} where the target has {call}"
        return None

    return judge


def dosages_as_read(source: str) -> Judge:
    def judge(folder: Path, whole: Path) -> str | None:
        from snvrag.vcf import DosageReader

        with DosageReader(folder / source) as reader:
            found = [(*r.site, *(f"{d:.3f}" for d in r.dosage)) for r in reader]
        return _compared(found, oracles.dosages(folder / source))

    return judge


def merged_as_read(*sources: str) -> Judge:
    def judge(folder: Path, whole: Path) -> str | None:
        parts = [oracles.columns(folder / source) for source in sources]
        samples = [name for names, _ in parts for name in names]
        rows = [(*a[:5], *a[5:], *b[5:]) for a, b in zip(parts[0][1], parts[1][1], strict=True)]
        return _compared(
            oracles.columns(folder / f"out.{sources[0].partition('.')[2]}"), (samples, rows)
        )

    return judge


def map_as_read(source: str) -> Judge:
    def judge(folder: Path, whole: Path) -> str | None:
        from snvrag.genetic_map import GeneticMap

        read = GeneticMap.read(folder / source).points
        found = [
            (c, p, cm) for c, own in read.items() for p, cm in zip(*map(list, own), strict=True)
        ]
        wanted = oracles.map_points(folder / source)
        return _compared(
            found, sorted(wanted, key=lambda p: list(read).index(p[0].removeprefix("chr")))
        )

    return judge


def nothing_lost(folder: Path, whole: Path) -> str | None:
    """Damage must not pass ``verify``, unless the file is as it was."""
    ours, theirs = (oracles.json_content(at / "idx/manifest.json") for at in (folder, whole))
    return _compared(ours, theirs)


def panel_content(folder: Path, whole: Path) -> str | None:
    """A panel that passes must hold what it held."""
    found = oracles.panel_genotypes(folder / "panel.h5")
    return _compared(found, oracles.panel_genotypes(whole / "panel.h5"))


def anything(folder: Path, whole: Path) -> str | None:
    """For settings: any that are accepted are settings."""
    return None


# Kinds of files

IMPUTE = ["impute", "target.vcf", "-r", "panel.h5", "-o", "out.vcf.gz", "--threads", "1"]


def _convert(name: str, **more: object) -> Kind:
    words = ["convert", name, "-o", "out.h5", "--threads", "1"]
    kind = name.removeprefix("panel.") + (", compiled reader" if more else "")
    return Kind(f"panel as {kind}", name, (name,), words, "out.h5", panel_as_read(name), **more)


def _target(name: str) -> Kind:
    words = [name if word == "target.vcf" else word for word in IMPUTE]
    needs = (name, "panel.h5")
    kind = f"target as {name.removeprefix('target.')}"
    return Kind(kind, name, needs, words, "out.vcf.gz", typed_as_read(name))


def _imputed(name: str) -> Kind:
    words = ["evaluate", name, "truth.vcf", "-r", "panel.h5", "--per-site", "out.tsv"]
    needs = (name, "truth.vcf", "panel.h5")
    kind = f"imputed as {name.removeprefix('imputed.')}, evaluate"
    return Kind(kind, name, needs, words, "out.tsv", dosages_as_read(name))


def _merged(suffix: str) -> Kind:
    names = (f"half.{suffix}", f"other.{suffix}")
    words = ["merge", *names, "-o", f"out.{suffix}", "--hds"]
    kind = f"imputed as {suffix}, merge"
    return Kind(kind, names[0], names, words, f"out.{suffix}", merged_as_read(*names))


def _panel(name: str, words: list[str], output: str, needs: tuple[str, ...] = ()) -> Kind:
    return Kind(name, "panel.h5", ("panel.h5", "target.vcf", *needs), words, output, same(output))


def _list(name: str, file: str, option: str, judge: Judge) -> Kind:
    words = ["convert", "panel.vcf", "-o", "out.h5", "--threads", "1", option, file]
    named = r"panel\.vcf|regions\.txt" if option == "-R" else ""
    return Kind(name, file, (file, "panel.vcf", "panel.h5"), words, "out.h5", judge, named)


def _run(name: str, run: str, file: str) -> Kind:
    words = [*IMPUTE, "-m", run, "--device", "cpu", *(["-i", "idx"] if run == "bert" else [])]
    needs = ("panel.h5", "target.vcf", run, "idx")
    return Kind(name, f"{run}/{file}", needs, words, "out.vcf.gz", same("out.vcf.gz"), run)


def _checkpoint(file: str) -> Kind:
    words = ["train", "panel.h5", "-o", "bert", "-i", "idx", *BERT, *TRAIN, "--resume"]
    path = f"bert/checkpoints/step-00000008/{file}"
    judge = same_weights("bert/model.safetensors")
    needs = ("panel.h5", "bert", "idx")
    return Kind(f"checkpoint, {file}", path, needs, words, "", judge, "step-00000008")


VCF_KINDS = (
    _convert("panel.vcf"),
    _convert("panel.vcf", as_text=True),
    _convert("panel.vcf.gz"),
    _convert("panel.vcf.gz", as_text=True),
    _target("target.vcf"),
    _target("target.vcf.gz"),
    _imputed("imputed.vcf.gz"),
    _merged("vcf.gz"),
)
BCF_KINDS = (_convert("panel.bcf"), _target("target.bcf"), _imputed("imputed.bcf"), _merged("bcf"))
_VERIFY = ["verify", "idx", "--panel", "panel.h5", "--deep"]
PANEL_KINDS = (
    Kind("panel, verify", "panel.h5", ("idx", "panel.h5"), _VERIFY, "", panel_content),
    _panel("panel, impute", IMPUTE, "out.vcf.gz"),
    _panel("panel, build-index", ["build-index", "panel.h5", "out", *WINDOWS], "out/index_1.faiss"),
)
INDEX_KINDS = (
    Kind(
        "index, verify",
        "idx/index_1.faiss",
        ("idx", "panel.h5"),
        _VERIFY,
        "",
        same("idx/index_1.faiss"),
    ),
    Kind(
        "index, impute -m",
        "idx/index_1.faiss",
        ("idx", "panel.h5", "target.vcf", "bert"),
        _run("", "bert", "").words,
        "out.vcf.gz",
        same("out.vcf.gz"),
    ),
)
MANIFEST_KINDS = (
    Kind("manifest, verify", "idx/manifest.json", ("idx", "panel.h5"), _VERIFY, "", nothing_lost),
    Kind(
        "manifest, build-index",
        "idx/manifest.json",
        ("idx", "panel.h5"),
        ["build-index", "panel.h5", "idx", *WINDOWS],
        "",
        same("idx/index_1.faiss"),
        "idx",
    ),
)
CONFIG_KINDS = (
    _run("config.json, light", "light", "config.json"),
    _run("config.json, tiny", "bert", "config.json"),
)
WEIGHT_KINDS = (
    _run("weights, light", "light", "model.safetensors"),
    _run("weights, tiny", "bert", "model.safetensors"),
    _checkpoint("model.safetensors"),
    _checkpoint("optimizer.safetensors"),
)
STATE_KIND = _checkpoint("state.json")
_WORK = [*IMPUTE, "--work-dir", "work"]
_WORK_NEEDS = ("work", "panel.h5", "target.vcf")
PART_KIND = Kind(
    "part", "work/part-00000.npy", _WORK_NEEDS, _WORK, "out.vcf.gz", same("out.vcf.gz")
)
PLAN_KIND = Kind(
    "plan.json", "work/plan.json", _WORK_NEEDS, _WORK, "out.vcf.gz", same("out.vcf.gz"), "work"
)
MAP_KINDS = tuple(
    Kind(
        f"{name}, impute",
        name,
        (name, "panel.h5", "target.vcf"),
        [*IMPUTE, "--map", name],
        "out.vcf.gz",
        map_as_read(name),
    )
    for name in ("genetic.map", "genetic.map.gz")
)
LIST_KINDS = (
    _list("sample list", "samples.txt", "-S", some_of_panel(_by_samples)),
    _list("regions", "regions.txt", "-R", some_of_panel(_by_regions)),
    _list("populations", "populations.txt", "--populations", by_populations),
    Kind(
        "site list",
        "sites.txt",
        ("sites.txt", "imputed.vcf.gz", "truth.vcf", "panel.h5"),
        ["evaluate", "imputed.vcf.gz", "truth.vcf", "-r", "panel.h5", "--observed", "sites.txt"],
        "",
        anything,
    ),
)
TABLE_KIND = _list("frequency table", "table.npy", "--frequencies", anything)
TOML_KIND = Kind(
    "snvrag.toml", "snvrag.toml", ("snvrag.toml", "panel.h5", "idx"), ["train"], "run", anything
)


# Cases


def _bytes(kind: Kind, name: str, change: m.Change) -> Case:
    def prepare(folder: Path) -> None:
        path = folder / kind.file
        draw = random.Random(f"{SEED} {kind.name} {name}")  # noqa: S311 - no secret
        path.write_bytes(change(path.read_bytes(), draw))

    return Case(kind, name, prepare)


def _all(kind: Kind, changes: dict[str, m.Change]) -> list[Case]:
    return [_bytes(kind, name, change) for name, change in changes.items()]


def _opened(kind: Kind, name: str, change: Callable[[h5py.File, Path], None]) -> Case:
    def prepare(folder: Path) -> None:
        shutil.copy(folder / kind.file, folder / "sound.h5")
        with h5py.File(folder / kind.file, "r+") as file:
            change(file, folder)

    return Case(kind, name, prepare)


def _fitted(kind: Kind, name: str, change: m.Change) -> Case:
    """An index of which the manifest knows size and digest, and the manifest its own."""

    def prepare(folder: Path) -> None:
        import hashlib

        _bytes(kind, name, change).prepare(folder)
        data = (folder / kind.file).read_bytes()
        path = folder / "idx/manifest.json"
        content = json.loads(path.read_text())
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        content["windows"]["1"] = entry
        path.write_text(json.dumps(_with_digest(content)))

    return Case(kind, f"{name}, digest fitted", prepare)


def _with_digest(content: dict[str, object]) -> dict[str, object]:
    from snvrag.provenance import digest_json

    content.pop("digest", None)
    return {**content, "digest": digest_json(content)}


def _values(kind: Kind, base: Path, n: int, *, fitted: bool = False) -> list[Case]:
    content = json.loads((base / kind.file).read_text())
    draw = random.Random(f"{SEED} {kind.name} values")  # noqa: S311 - no secret
    found = []
    for name, data in m.values_of(content, draw, n):

        def prepare(folder: Path, data: bytes = data) -> None:
            made = json.loads(data)
            if fitted and isinstance(made, dict):
                made = _with_digest(made)
            (folder / kind.file).write_text(json.dumps(made))

        found.append(Case(kind, name, prepare))
    return found


def _special(kind: Kind, name: str, do: Callable[[Path], object]) -> Case:
    def prepare(folder: Path) -> None:
        do(folder / kind.file)

    return Case(kind, name, prepare)


def _files(kind: Kind) -> list[Case]:
    """What can stand in the place of a file that is none, or one of 3 GB."""

    def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
        def do(path: Path) -> None:
            path.unlink()
            make(path)

        return do

    found = [
        _special(kind, "a folder", instead(Path.mkdir)),
        _special(kind, "a link to itself", instead(lambda p: p.symlink_to(p.name))),
        _special(kind, "a link to nothing", instead(lambda p: p.symlink_to("nothing"))),
        _special(kind, "/dev/zero", instead(lambda p: p.symlink_to("/dev/zero"))),
        _special(kind, "3 GB of NUL behind", lambda p: m.sparse(p, 3 << 30)),
        _special(kind, "3 GB of NUL", lambda p: (p.write_bytes(b""), m.sparse(p, 3 << 30))),
    ]
    # A list may come through a pipe, which is waited for.
    if kind not in LIST_KINDS:
        found.append(_special(kind, "a pipe", instead(os.mkfifo)))
    return found


FAISS: dict[str, m.Change] = {
    "bits 2^31 - 1": lambda d, _: d[:4] + (0x7FFFFFFF).to_bytes(4, "little") + d[8:],
    "bits negative": lambda d, _: d[:4] + b"\xff" * 4 + d[8:],
    "bits 0": lambda d, _: d[:4] + bytes(4) + d[8:],
    "code size 2^31 - 1": lambda d, _: d[:8] + (0x7FFFFFFF).to_bytes(4, "little") + d[12:],
    "code size 0": lambda d, _: d[:8] + bytes(4) + d[12:],
    "code size 7": lambda d, _: d[:8] + (7).to_bytes(4, "little") + d[12:],
    "count 2^40": lambda d, _: d[:12] + (1 << 40).to_bytes(8, "little") + d[20:],
    "count -1": lambda d, _: d[:12] + b"\xff" * 8 + d[20:],
    "count 1": lambda d, _: d[:12] + (1).to_bytes(8, "little") + d[20:],
    "size 2^60": lambda d, _: d[:25] + (1 << 60).to_bytes(8, "little") + d[33:],
    "another kind": lambda d, _: b"IBHf" + d[4:],
}


def _vcf(kind: Kind, base: Path) -> list[Case]:
    if not kind.file.endswith(".gz"):
        return _all(kind, {**m.DAMAGE, **m.VCF})
    inside = {f"inside, {name}": m.of_text(change) for name, change in m.DAMAGE.items()}
    text = {name: m.of_text(change) for name, change in m.VCF.items()}
    bomb = m.TEXT_BOMB if "panel" in kind.file else {}
    return _all(kind, {**m.DAMAGE, **m.BGZF, **inside, **bomb, **text})


def _bcf(kind: Kind, base: Path) -> list[Case]:
    inside = {f"inside, {name}": m.of_text(change) for name, change in m.DAMAGE.items()}
    return _all(kind, {**m.DAMAGE, **m.BGZF, **m.BCF, **inside})


def _of_panel(kind: Kind, base: Path) -> list[Case]:
    bits = {f"more bits {i}": m.flip(3) for i in range(30)}
    left_out = () if kind.words is _VERIFY else CONSISTENT
    opened = [_opened(kind, n, change) for n, change in PANELS.items() if n not in left_out]
    return [*_all(kind, {**m.DAMAGE, **bits}), *opened]


def _index(kind: Kind, base: Path) -> list[Case]:
    # Other alleles under the right digests are for ``verify --deep`` to tell, by the panel.
    changes = {**m.DAMAGE, **FAISS} if kind.words is _VERIFY else FAISS
    fitted = [_fitted(kind, name, change) for name, change in changes.items()]
    return [*_all(kind, m.DAMAGE), *fitted]


def _json(kind: Kind, base: Path) -> list[Case]:
    values = _values(kind, base, 40, fitted=kind in MANIFEST_KINDS)
    return [*_all(kind, {**m.DAMAGE, **m.JSON}), *values]


def _map(kind: Kind, base: Path) -> list[Case]:
    changes = {**m.DAMAGE, **m.LISTS}
    if not kind.file.endswith(".gz"):
        return _all(kind, changes)
    inside = {f"inside, {name}": m.of_text(change) for name, change in changes.items()}
    bomb = _bytes(kind, "2 GB of blanks", lambda data, draw: m.gzip_bomb(2048))
    return [*_all(kind, {**m.DAMAGE, **inside}), bomb]


def _with(changes: dict[str, m.Change]) -> Callable[[Kind, Path], list[Case]]:
    return lambda kind, base: _all(kind, {**m.DAMAGE, **changes})


WAYS: tuple[tuple[tuple[Kind, ...], Callable[[Kind, Path], list[Case]]], ...] = (
    (VCF_KINDS, _vcf),
    (BCF_KINDS, _bcf),
    (PANEL_KINDS, _of_panel),
    (INDEX_KINDS, _index),
    ((*MANIFEST_KINDS, *CONFIG_KINDS, STATE_KIND, PLAN_KIND), _json),
    (WEIGHT_KINDS, _with(m.SAFETENSORS)),
    ((PART_KIND, TABLE_KIND), _with(m.NPY)),
    (MAP_KINDS, _map),
    (LIST_KINDS, _with(m.LISTS)),
    ((TOML_KIND,), _with(m.TOML)),
)


def cases(base: Path, *, trained: bool) -> list[Case]:
    """All cases, kind after kind; those of runs of ``train`` if ``trained``."""
    found: list[Case] = []
    for kinds, ways in WAYS:
        for kind in kinds:
            if trained or not kind.needs_training:
                found += ways(kind, base)
                found += [] if kind.as_text else _files(kind)
    return found


# Running


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def start(kind: Kind, folder: Path, whole: Path, *, usual: bool = True) -> Ending:
    """Run a kind's command in a child and judge how it ended."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(kind, folder, whole)
    # The first run may have to compile.
    status, usage = _await(child, began + (0 if usual else FIRST_SECONDS))
    code = os.waitstatus_to_exitcode(status)
    out, err = ((folder / name).read_text(errors="replace") for name in (".out", ".err"))
    return Ending(code, out, err, time.monotonic() - began, usage.ru_maxrss * 1024)


def _await(child: int, began: float) -> tuple[int, resource.struct_rusage]:
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage
        if time.monotonic() - began > SECONDS:
            os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            return signal.SIGALRM, usage
        time.sleep(0.005)


def _child(kind: Kind, folder: Path, whole: Path) -> None:
    code = 99
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for name, number in ((".out", 1), (".err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        limit = _address_space() + ADDRESS_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if kind.as_text:
            from snvrag.vcf import genotypes

            genotypes._MIN_TEXT_BYTES = 1
        code = run_command(kind.words)
        if code == 0:
            try:
                wrong = kind.judge(folder, whole)
            except Exception as error:
                traceback.print_exc()
                wrong = f"another reader refuses the file: {type(error).__name__}: {error}"
            if wrong:
                (folder / ".wrong").write_text(wrong)
    except BaseException:
        traceback.print_exc()
        code = 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _lay_out(kind: Kind, base: Path, folder: Path) -> None:
    for name in kind.needs:
        if (base / name).is_dir():
            shutil.copytree(base / name, folder / name)
        else:
            shutil.copy(base / name, folder / name)
    for lock in folder.rglob(".lock"):
        lock.unlink()


def faults_of(case: Case, end: Ending, folder: Path, usual: Ending) -> list[str]:
    """What is wrong with how a command ended."""
    kind, found = case.kind, []
    errors = re.findall(r"^error: .*$", end.err, re.MULTILINE)
    if end.code < 0:
        how = "took too long" if end.code == -signal.SIGALRM else signal.Signals(-end.code).name
        return [f"ended by {how}"]
    if "Traceback" in end.err and end.code:
        found.append("a traceback")
    if end.code not in (0, 2) and not (kind.words[0] == "verify" and end.code == 1):
        found.append(f"exit code {end.code}: {(errors or [end.err])[-1][:300]}")
    if end.code == 2:
        if len(errors) != 1 or "Traceback" in end.err:
            found.append(f"{len(errors)} error lines")
        elif kind is TOML_KIND and kind.file in end.err:
            # Which settings are in use was told; the error is of the option.
            pass
        elif not re.search(kind.named or re.escape(Path(kind.file).name), errors[0]):
            found.append(f"does not name the file: {errors[0][:300]}")
        if kind.output and (folder / kind.output).exists():
            found.append(f"{kind.output} was left")
    if (folder / ".wrong").exists():
        found.append(f"exit code 0: {(folder / '.wrong').read_text()[:300]}")
    if (folder / "marker").exists():
        found.append("CODE OF THE FILE WAS RUN")
    if end.peak > usual.peak + EXTRA_BYTES:
        found.append(f"{end.peak >> 20} MB of memory, undisturbed {usual.peak >> 20} MB")
    left = [p.name for p in folder.rglob("*") if re.fullmatch(r"\..*\.tmp", p.name)]
    if left:
        found.append(f"left {left[0]}")
    return found


def run_all(
    chosen: list[Case], base: Path, work: Path, tell: Callable[[str], None]
) -> list[tuple[Case, Ending]]:
    usual: dict[str, tuple[Path, Ending]] = {}
    results = []
    for case in chosen:
        kind = case.kind
        if kind.name not in usual:
            if kind.needs_torch:
                # Not before: it makes each fork slower.
                import snvrag.training  # noqa: F401
            whole = work / f"whole-{len(usual)}"
            whole.mkdir()
            _lay_out(kind, base, whole)
            end = start(kind, whole, whole, usual=False)
            if end.code or (whole / ".wrong").exists():
                raise SystemExit(f"{kind.name}: the sound file is refused: {end.code} {end.err}")
            usual[kind.name] = whole, end
        whole, sound = usual[kind.name]
        folder = work / "case"
        folder.mkdir()
        _lay_out(kind, base, folder)
        case.prepare(folder)
        end = start(kind, folder, whole)
        end.faults = faults_of(case, end, folder, sound)
        results.append((case, end))
        if end.faults:
            tell(f"{case.title}: {'; '.join(end.faults)}")
        shutil.rmtree(folder)
    return results


def short(found: list[Case]) -> list[Case]:
    """Every so many of each kind, other ones for each."""
    by_kind: dict[str, list[Case]] = {}
    for case in found:
        by_kind.setdefault(case.kind.name, []).append(case)
    slow = re.compile(r"MB|GB|20 M|500,000|letters|10\^8")
    chosen = []
    for i, own in enumerate(by_kind.values()):
        quick = [case for case in own if not slow.search(case.name)]
        chosen += quick[i % _SHORT :: _SHORT]
    return chosen


def table(results: list[tuple[Case, Ending]]) -> Iterator[str]:
    """Rows of format, mutations, outcomes, most time and most memory."""
    by_kind: dict[str, list[Ending]] = {}
    for case, end in results:
        by_kind.setdefault(case.kind.name, []).append(end)
    yield "| file | mutations | refused | sound | defects | most s | most MB |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, ends in by_kind.items():
        count = Counter(
            OTHERWISE if end.faults else SOUND if end.code == 0 else REFUSED for end in ends
        )
        yield (
            f"| {name} | {len(ends)} | {count[REFUSED]} | {count[SOUND]} | {count[OTHERWISE]} | "
            f"{max(end.seconds for end in ends):.1f} | {max(end.peak for end in ends) >> 20} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="run one in so many")
    parser.add_argument("--only", default="")
    parser.add_argument("--base", type=Path, help="sound files made before, or to make")
    parser.add_argument("--log", type=Path, help="a line for each case")
    given = parser.parse_args()
    # Imported before the first fork, so that no child has to.
    import snvrag.imputation
    import snvrag.verification  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="snvrag-corpus-") as work:
        base = given.base or Path(work, "base")
        if not (base / "worked.vcf.gz").exists():
            base.mkdir(parents=True, exist_ok=True)
            words = [sys.executable, str(OURS / "corpus_files.py"), str(base)]
            words += ["untrained"] if given.short else []
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = cases(base, trained=not given.short)
        chosen = [case for case in found if given.only in case.title]
        chosen = short(chosen) if given.short else chosen[:: given.every]
        began = time.monotonic()
        results = run_all(chosen, base.absolute(), Path(work), lambda line: print(line, flush=True))
    if given.log:
        lines = [
            json.dumps(
                {
                    "case": c.title,
                    "code": e.code,
                    "error": e.err[-400:],
                    "faults": e.faults,
                    "seconds": round(e.seconds, 2),
                    "MB": e.peak >> 20,
                }
            )
            for c, e in results
        ]
        given.log.write_text("\n".join(lines) + "\n")
    print("\n".join(table(results)))
    bad = sum(bool(end.faults) for _, end in results)
    print(f"{len(results)} files, {bad} defects, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
