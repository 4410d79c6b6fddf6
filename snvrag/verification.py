"""``verify``: check an index directory against its manifest and its panel."""

import re
import shlex
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from snvrag import __version__
from snvrag.config import SOS_TOKENS, WindowConfig
from snvrag.errors import InputError, SnvragError
from snvrag.index_store import COUNTS, MANIFEST, Manifest, read_index_file
from snvrag.packing import packed_bytes
from snvrag.panel import Panel
from snvrag.provenance import Progress
from snvrag.retrieval import BinaryIndex, index_name, read_faiss
from snvrag.windows import WindowPlan

_INDEX_NAME = re.compile(r"index_(\d+)\.faiss")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, whether it holds, and what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class VerifyReport:
    """What :func:`verify` found. ``missing``, ``corrupt`` and ``stale`` are window numbers."""

    index_dir: Path
    window_size: int | None = None
    max_seq_len: int | None = None
    num_windows: int | None = None
    present: int = 0
    """Listed windows whose file is sound."""
    missing: list[int] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    """Sound files that belong to another panel, or whose alleles are not the panel's."""
    checks: list[Check] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    """What to run to mend what was found."""

    @property
    def ok(self) -> bool:
        """Whether all checks hold."""
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The object that ``snvrag verify --json`` prints."""
        names = ("window_size", "max_seq_len", "num_windows", "present", "missing", "corrupt")
        return {
            "ok": self.ok,
            "index_dir": str(self.index_dir),
            **{name: getattr(self, name) for name in names},
            "stale": self.stale,
            "checks": [asdict(check) for check in self.checks],
        }

    def add(self, name: str, ok: bool, detail: str) -> None:
        """Record a check."""
        self.checks.append(Check(name, ok, detail))


def verify(
    index_dir: Path,
    *,
    panel: Path | None = None,
    deep: bool = False,
    allow_partial: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check an index directory; changes nothing.

    Args:
        index_dir: the folder.
        panel: the panel it must belong to; for a folder ``X.index`` beside a file ``X``, that
            file if None.
        deep: compare every allele with the panel's.
        allow_partial: accept windows that are not built yet; a listed file that is gone still
            fails.
        progress: called as ``progress(task, done, total)``.

    Returns:
        Every check with its outcome; ``ok`` is whether all passed.

    Raises:
        InputError: the folder does not exist or holds neither manifest nor indexes, or the panel
            cannot be read.
    """
    files = _index_files(index_dir)
    report = VerifyReport(index_dir)
    report.add("version", True, f"snvrag {__version__}")
    manifest = _check_manifest(report, sorted(files))
    if manifest is None:
        report.advice.append(_command(panel_of(index_dir, panel), index_dir, "--force"))
        return report
    _check_files(report, manifest, files, allow_partial, progress)
    found = panel_of(index_dir, panel)
    _check_panel(report, manifest, found, panel is not None, deep, progress)
    _add_machine(report)
    _advise(report, found)
    return report


def _index_files(index_dir: Path) -> dict[int, Path]:
    if not index_dir.is_dir():
        raise InputError(
            f"{index_dir}: no such index folder", "make it with: snvrag build-index PANEL.h5"
        )
    found = {}
    for path in index_dir.iterdir():
        match = _INDEX_NAME.fullmatch(path.name)
        if match:
            found[int(match.group(1))] = path
    if not found and not (index_dir / MANIFEST).exists():
        raise InputError(
            f"{index_dir}: is no index folder: neither {MANIFEST} nor index_*.faiss is in it",
            "make one with: snvrag build-index PANEL.h5",
        )
    return found


def _check_manifest(report: VerifyReport, files: list[int]) -> Manifest | None:
    """The manifest if it can be trusted, else None with the failed check recorded."""
    path = report.index_dir / MANIFEST
    if not path.exists():
        report.add("manifest", False, f"{MANIFEST} is missing beside {len(files)} index files")
        return None
    try:
        manifest = Manifest.read(report.index_dir)
    except SnvragError as error:
        report.add("manifest", False, error.message)
        return None
    values = {name: manifest.identity[name] for name in COUNTS}
    report.add("manifest", True, f"{manifest.identity['kind']} indexes, content digest matches")
    report.window_size, report.max_seq_len = values["window_size"], values["max_seq_len"]
    report.num_windows = values["num_windows"]
    try:
        WindowConfig(values["window_size"], values["max_seq_len"])
        fits, detail = True, "<="
    except SnvragError:
        fits, detail = False, "exceeds"
    needed = values["window_size"] + SOS_TOKENS
    report.add(
        "MAX_SEQ_LEN",
        fits,
        f"window size {values['window_size']} + {SOS_TOKENS} SOS = {needed} {detail} "
        f"{values['max_seq_len']}",
    )
    return manifest


def _check_files(
    report: VerifyReport,
    manifest: Manifest,
    files: dict[int, Path],
    allow_partial: bool,
    progress: Progress | None,
) -> None:
    size, problems, gone = 0, [], []
    for done, (window, entry) in enumerate(sorted(manifest.windows.items()), start=1):
        path = report.index_dir / index_name(window)
        if window not in files:
            gone.append(window)
            continue
        try:
            data = read_index_file(path, entry)
            _check_shape(data, path, manifest)
            report.present += 1
            size += len(data)
        except InputError as error:
            report.corrupt.append(window)
            problems.append(error.message)
        if progress:
            progress("checking indexes", done, len(manifest.windows))
    total = manifest.identity["num_windows"]
    never = [w for w in range(total) if w not in manifest.windows]
    report.missing = sorted([*gone, *never])
    complete = not gone and (allow_partial or not never)
    count = f"{len(manifest.windows) - len(gone)} of {total} built, {size:,} bytes sound"
    if gone:
        count += f"; listed but gone: {_shorten(gone)}"
    if never:
        count += f"; not built: {_shorten(never)}"
    beyond = sorted(w for w in manifest.windows if w >= total)
    if beyond:
        complete, count = False, f"{count}; beyond the last window: {_shorten(beyond)}"
    report.add("index count", complete, count)
    intact = "sizes, digests, dimensions and haplotype counts match"
    report.add("index files", not problems, "; ".join(problems[:_SHOWN]) or intact)
    unlisted = sorted(set(files) - set(manifest.windows))
    if unlisted:
        detail = f"not listed in the manifest, counted as not built: {_shorten(unlisted)}"
        report.add("unlisted files", True, detail)


def _check_shape(data: bytes, path: Path, manifest: Manifest) -> None:
    """That a file, whose digest is right already, is the kind of index the manifest says."""
    kind = manifest.identity["kind"]
    index = read_faiss(data, kind, Path(path.name))
    count, dimension = int(index.ntotal), int(index.d)
    expected = manifest.identity["n_haplotypes"]
    if count != expected:
        raise InputError(f"{path.name} holds {count:,} haplotypes, not {expected:,}")
    if kind == BinaryIndex.kind:
        bits = 8 * packed_bytes(manifest.identity["window_size"])
        if dimension != bits:
            raise InputError(f"{path.name} has {dimension} bits per haplotype, not {bits}")
    elif dimension % manifest.identity["max_seq_len"]:
        raise InputError(
            f"{path.name} has {dimension} floats per haplotype, no multiple of MAX_SEQ_LEN"
        )


def panel_of(index_dir: Path, panel: Path | None) -> Path | None:
    """The panel that an index folder belongs to: the one named, or the one it lies beside."""
    if panel is not None:
        return panel
    folder = index_dir if index_dir.suffix == ".index" else index_dir.resolve()
    beside = folder.with_suffix("")
    return beside if folder.suffix == ".index" and beside.is_file() else None


def _check_panel(
    report: VerifyReport,
    manifest: Manifest,
    panel: Path | None,
    named: bool,
    deep: bool,
    progress: Progress | None,
) -> None:
    if panel is None:
        if deep:
            raise InputError("--deep needs the panel to compare with", "add --panel PANEL.h5")
        return
    with Panel.open(panel) as opened:
        plan = _plan_of(opened, manifest)
        actual = {
            "panel_digest": opened.digest,
            "n_haplotypes": opened.n_haplotypes,
            "n_sites": opened.n_sites,
            "num_windows": plan.num_windows,
        }
        differing = {
            name: f"{name} {_abbreviated(value)}, the indexes have "
            f"{_abbreviated(manifest.identity[name])}"
            for name, value in actual.items()
            if manifest.identity[name] != value
        }
        found = "" if named else " (found beside the folder)"
        detail = f"{panel.name}{found}: digest {opened.digest[:12]}, {opened.n_sites:,} sites"
        if differing:
            detail = f"{panel.name}{found}: {'; '.join(differing.values())}"
        report.add("panel", not differing, detail)
        if deep:
            sound = opened.content_digest() == opened.digest
            told = "is what its digest says" if sound else "is not what its digest says"
            report.add("panel content", sound, f"{panel.name}: {told}")
        whole = sorted(set(manifest.windows) - set(report.missing) - set(report.corrupt))
        if differing:
            report.stale = whole
        elif deep and manifest.identity["kind"] != BinaryIndex.kind:
            report.add("alleles", True, "not compared: embedding indexes hold no alleles")
        elif deep:
            _check_alleles(report, plan, opened, whole, progress)


def _plan_of(panel: Panel, manifest: Manifest) -> WindowPlan:
    # MAX_SEQ_LEN has its own check and does not move windows.
    size = manifest.identity["window_size"]
    return WindowPlan.from_chromosomes(panel.chromosomes(), WindowConfig(size, size + SOS_TOKENS))


def _abbreviated(value: object) -> str:
    return str(value)[:12]


def _check_alleles(
    report: VerifyReport,
    plan: WindowPlan,
    panel: Panel,
    windows: list[int],
    progress: Progress | None,
) -> None:
    for done, number in enumerate(windows, start=1):
        window = plan.windows[number]
        path = report.index_dir / index_name(number)
        index = BinaryIndex.from_bytes(path.read_bytes(), window.n_snps, path)
        alleles = panel.site_alleles(window.start, window.end)
        expected = BinaryIndex.of_sites(alleles, plan.config.window_size)
        if not np.array_equal(index.codes, expected.codes):
            report.stale.append(number)
        if progress:
            progress("comparing alleles", done, len(windows))
    detail = f"differ from the panel: windows {_shorten(report.stale)}"
    same = f"equal the panel's in {len(windows)} windows"
    report.add("alleles", not report.stale, detail if report.stale else same)


def _add_machine(report: VerifyReport) -> None:
    """The guide's last item, for information: a GPU is never required."""
    if shutil.which("nvidia-smi") is None:
        report.add("GPU memory", True, "no NVIDIA GPU: training uses the CPU")
        return
    import torch

    if not torch.cuda.is_available():
        report.add("GPU memory", True, "the installed torch sees no GPU")
        return
    free, total = torch.cuda.mem_get_info()
    report.add("GPU memory", True, f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free")


def _advise(report: VerifyReport, panel: Path | None) -> None:
    settings = [check for check in report.checks if check.name == "MAX_SEQ_LEN" and not check.ok]
    beyond = any(window >= (report.num_windows or 0) for window in report.corrupt)
    broken = sorted({*report.missing, *report.corrupt})
    if report.stale or settings or beyond:
        report.advice.append(_command(panel, report.index_dir, "--force"))
    elif broken and not report.ok:
        report.advice.append(_command(panel, report.index_dir, f"--windows {ranges(broken)}"))


def _command(panel: Path | None, index_dir: Path, options: str) -> str:
    name = "PANEL.h5" if panel is None else shlex.quote(str(panel))
    return f"snvrag build-index {name} {shlex.quote(str(index_dir))}/ {options}"


def ranges(numbers: list[int]) -> str:
    """Sorted numbers as a selection such as ``0-9,20``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _shorten(numbers: list[int]) -> str:
    parts = ranges(numbers).split(",")
    return ",".join(parts[:_SHOWN]) + (",…" if len(parts) > _SHOWN else "")
