"""The index directory: haplotype indexes of all windows, each built the first time it is touched.

    <panel>.index/
      manifest.json      what the indexes belong to, size and SHA-256 of each, a digest of itself
      index_{w}.faiss    window w
      .lock              held while one process builds; empty

A file that the manifest does not list counts as not built. A listed file is only used after its
bytes match the listed digest; otherwise it is built again.
"""

import fcntl
import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snvrag.config import MaskConfig, WindowConfig
from snvrag.errors import InputError, MismatchError, OutputError
from snvrag.masking import validation_mask
from snvrag.panel import Panel
from snvrag.provenance import (
    atomic_file,
    digest_json,
    prepare_output_folder,
    read_json,
    write_json,
)
from snvrag.retrieval import BinaryIndex, Embedder, EmbeddingIndex, check_faiss
from snvrag.windows import WindowPlan

logger = logging.getLogger(__name__)

INDEX_FORMAT = "snvrag-index"
INDEX_VERSION = 1
MANIFEST = "manifest.json"
LOCK = ".lock"
DEFAULT_BUDGET = 256 * 2**20
KINDS = ("binary", "embedding")
Progress = Callable[[str, int, int], None]


def default_index_dir(panel: Path) -> Path:
    """``<panel>.index/`` beside the panel."""
    return panel.with_name(panel.name + ".index")


def index_name(window: int) -> str:
    """File name of one window's index."""
    return f"index_{window}.faiss"


class Kind(Protocol):
    """How one kind of index is made from a panel window and read back from bytes."""

    name: str

    def settings(self) -> dict[str, Any]:
        """What, beside panel and windows, the indexes depend on; part of the manifest."""

    def build(self, window: int) -> Any:
        """Make the index of a window."""

    def load(self, data: bytes, window: int, path: Path) -> Any:
        """Read an index back."""


class BinaryKind:
    """Packed alleles: depend on panel and windows only, so they are valid for ever."""

    name = "binary"

    def __init__(self, panel: Panel, plan: WindowPlan) -> None:
        self.panel, self.plan = panel, plan

    def settings(self) -> dict[str, Any]:
        """Nothing: no weights, no mask."""
        return {}

    def build(self, window: int) -> BinaryIndex:
        """Pack the window's alleles."""
        bounds = self.plan.windows[window]
        alleles = self.panel.alleles(bounds.start, bounds.end)
        return BinaryIndex.build(alleles, self.plan.config.window_size)

    def load(self, data: bytes, window: int, path: Path) -> BinaryIndex:
        """Read back packed alleles, checking their shape."""
        index = BinaryIndex.from_bytes(data, self.plan.windows[window].n_snps, path)
        expected = (self.panel.n_haplotypes, -(-self.plan.config.window_size // 8))
        if index.codes.shape != expected:
            raise InputError(f"{path}: holds {index.codes.shape} bytes, not {expected}")
        return index


class EmbeddingKind:
    """Embedded masked haplotypes: depend on weights and mask, and say so in the manifest."""

    name = "embedding"

    def __init__(self, panel: Panel, plan: WindowPlan, embedder: Embedder) -> None:
        self.panel, self.plan, self.embedder = panel, plan, embedder
        self.mask = MaskConfig()

    def settings(self) -> dict[str, Any]:
        """Fingerprint of the weights, and the mask's version, rate and seed."""
        return {
            "weights_fingerprint": self.embedder.fingerprint,
            "mask_version": "validation-1",
            "mask_rate": self.mask.validation_rate,
            "mask_seed": self.mask.validation_seed,
        }

    def build(self, window: int) -> EmbeddingIndex:
        """Embed the window's haplotypes under the validation mask."""
        bounds = self.plan.windows[window]
        alleles = self.panel.alleles(bounds.start, bounds.end)
        observed, af = self._pattern(window)
        length = self.plan.config.max_seq_len
        return EmbeddingIndex.build(alleles, observed, af, self.embedder, length)

    def load(self, data: bytes, window: int, path: Path) -> EmbeddingIndex:
        """Read back embedded haplotypes."""
        observed, af = self._pattern(window)
        length = self.plan.config.max_seq_len
        return EmbeddingIndex.from_bytes(data, path, observed, af, self.embedder, length)

    def _pattern(self, window: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        bounds = self.plan.windows[window]
        af = self.panel.af[bounds.start : bounds.end]
        return ~validation_mask(af, bounds.start, self.mask), af


@dataclass(slots=True)
class StoreStats:
    """Counters of one :class:`IndexStore`."""

    hits: int = 0
    """Found in memory."""
    misses: int = 0
    """Read from disk or built."""
    builds: int = 0
    build_seconds: float = 0.0


@dataclass(slots=True)
class Manifest:
    """The content of ``manifest.json``."""

    identity: dict[str, Any]
    windows: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read and check the manifest of ``folder``.

        Raises:
            InputError: unreadable, of another format or version, or edited.
        """
        path = folder / MANIFEST
        data = read_json(path)
        found = (data.get("format_name"), data.get("format_version"))
        if found != (INDEX_FORMAT, INDEX_VERSION):
            raise InputError(
                f"{path}: format {found[0]!r} version {found[1]!r}, not {INDEX_FORMAT!r} version "
                f"{INDEX_VERSION}"
            )
        digest = data.pop("digest", None)
        if digest != digest_json(data):
            raise InputError(f"{path}: was changed: its digest does not match its content")
        windows = data.pop("windows")
        return cls(data, {int(number): entry for number, entry in windows.items()})

    def write(self, folder: Path) -> None:
        """Write the manifest, atomically."""
        windows = {str(n): self.windows[n] for n in sorted(self.windows)}
        data = {**self.identity, "windows": windows}
        write_json(folder / MANIFEST, {**data, "digest": digest_json(data)})


def index_identity(panel: Panel, plan: WindowPlan, kind: Kind) -> dict[str, Any]:
    """What an index directory belongs to."""
    return {
        "format_name": INDEX_FORMAT,
        "format_version": INDEX_VERSION,
        "kind": kind.name,
        "panel_digest": panel.digest,
        "window_size": plan.config.window_size,
        "max_seq_len": plan.config.max_seq_len,
        "num_windows": plan.num_windows,
        "n_sites": plan.total_snps,
        "n_haplotypes": panel.n_haplotypes,
        "settings": kind.settings(),
    }


class IndexStore:
    """Haplotype indexes by window: memory, else disk, else built just in time.

    Several processes may share one folder. Use as a context manager.
    """

    def __init__(
        self, folder: Path, plan: WindowPlan, kind: Kind, manifest: Manifest, budget_bytes: int
    ) -> None:
        self.folder, self.plan, self.kind = folder, plan, kind
        self.stats = StoreStats()
        self._manifest = manifest
        self._budget = budget_bytes
        self._memory: OrderedDict[int, Any] = OrderedDict()
        self._held = 0

    @classmethod
    def open(
        cls,
        folder: Path,
        panel: Panel,
        plan: WindowPlan,
        *,
        kind: Kind | None = None,
        budget_bytes: int = DEFAULT_BUDGET,
        force: bool = False,
    ) -> "IndexStore":
        """Open the index directory of a panel, creating it where there is none.

        Args:
            folder: the index directory.
            panel: the panel that the indexes belong to.
            plan: its windows.
            kind: what to build; packed alleles if None.
            budget_bytes: memory for indexes in use.
            force: replace indexes of another panel, window size or kind.

        Raises:
            MismatchError: the folder belongs to another panel, window size or kind.
            InputError: its manifest is damaged.
            OutputError: the folder cannot be written to.
        """
        check_faiss()
        kind = kind or BinaryKind(panel, plan)
        try:
            prepare_output_folder(folder)
        except OutputError as error:
            raise OutputError(error.message, "choose another index folder with -i") from error
        store = cls(folder, plan, kind, Manifest({}), budget_bytes)
        with store._locked():
            store._manifest = _open_manifest(folder, index_identity(panel, plan, kind), force)
        return store

    def __enter__(self) -> "IndexStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._memory.clear()

    def get(self, window: int) -> Any:
        """The index of a window."""
        index = self._memory.get(window)
        if index is not None:
            self.stats.hits += 1
            self._memory.move_to_end(window)
            return index
        self.stats.misses += 1
        index = self._load(window)
        if index is None:
            with self._locked():
                # Another process may have built it while this one waited.
                self._manifest = self._reread()
                index = self._load(window) or self._build(window)
        self._remember(window, index)
        return index

    def context(self, window: int, flank: int) -> tuple[BinaryIndex, int, int]:
        """The joined index of a window and its flanks, and the panel rows it covers.

        Returns:
            index over ``end - start`` sites, ``start``, ``end``.
        """
        numbers = self.plan.context(window, flank)
        index = BinaryIndex.join([self.get(number) for number in numbers])
        return index, self.plan.windows[numbers[0]].start, self.plan.windows[numbers[-1]].end

    def _path(self, window: int) -> Path:
        return self.folder / index_name(window)

    def _reread(self) -> Manifest:
        manifest = Manifest.read(self.folder)
        if manifest.identity != self._manifest.identity:
            raise MismatchError(
                f"{self.folder / MANIFEST}: was replaced while in use",
                "let one panel use this folder, or choose another with -i",
            )
        return manifest

    def _load(self, window: int) -> Any:
        """The index from disk, or None where it is not built, missing or damaged."""
        entry = self._manifest.windows.get(window)
        if entry is None:
            return None
        path = self._path(window)
        try:
            return self.kind.load(read_index_file(path, entry), window, path)
        except InputError as error:
            logger.warning("window %d: %s; building it again", window, error.message)
        return None

    def _build(self, window: int) -> Any:
        began = time.perf_counter()
        index = self.kind.build(window)
        data = index.to_bytes()
        with atomic_file(self._path(window)) as temporary:
            temporary.write_bytes(data)
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._manifest.windows[window] = entry
        self._manifest.write(self.folder)
        seconds = time.perf_counter() - began
        self.stats.builds += 1
        self.stats.build_seconds += seconds
        logger.info(
            "JIT: built index for window %d (%s haplotypes, %d ms)",
            window,
            f"{index.n_haplotypes:,}",
            round(seconds * 1000),
        )
        return index

    def _remember(self, window: int, index: Any) -> None:
        self._memory[window] = index
        self._held += index.nbytes
        while self._held > self._budget and len(self._memory) > 1:
            _, oldest = self._memory.popitem(last=False)
            self._held -= oldest.nbytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock; the system releases it if the process dies."""
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def read_index_file(path: Path, entry: Mapping[str, Any]) -> bytes:
    """The bytes of a file that the manifest lists as ``entry``.

    Raises:
        InputError: it is gone, or its size or SHA-256 is another.
    """
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise InputError(f"{path.name} has {size:,} bytes, not {entry['bytes']:,}")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path.name} is gone") from error
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise InputError(f"the content of {path.name} has changed")
    return data


def _open_manifest(folder: Path, identity: dict[str, Any], force: bool) -> Manifest:
    """The folder's manifest, a new one where there is none, or with ``force`` in any case."""
    remedy = "rebuild it with: snvrag build-index PANEL.h5 INDEX_DIR --force, or choose another -i"
    if not force and (folder / MANIFEST).exists():
        try:
            manifest = Manifest.read(folder)
        except InputError as error:
            raise InputError(error.message, remedy) from error
        for key, value in identity.items():
            if manifest.identity.get(key) != value:
                raise MismatchError(
                    f"{folder}: the index directory has {key} {manifest.identity.get(key)!r}, "
                    f"needed is {value!r}",
                    remedy,
                )
        return manifest
    manifest = Manifest(identity)
    manifest.write(folder)
    if force:
        for stale in folder.glob("index_*.faiss"):
            stale.unlink()
    return manifest


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What :func:`build_index` did."""

    folder: Path
    kind: str
    num_windows: int
    """Windows of the panel."""
    built: int
    reused: int
    """Selected windows that were built already."""
    bytes: int
    """Of the selected windows' files."""
    seconds: float


def build_index(
    panel: Path,
    folder: Path | None = None,
    *,
    windows: str | None = None,
    config: WindowConfig | None = None,
    kind: str = "binary",
    embedder: Embedder | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the indexes of some or all windows ahead of time; an interrupted run continues.

    Args:
        panel: reference panel made by :func:`snvrag.convert`.
        folder: index directory; ``<panel>.index/`` if None.
        windows: selection such as ``0-9,20``; all if None.
        config: window size and sequence length.
        kind: ``binary`` or ``embedding``.
        embedder: the embedding, needed for kind ``embedding``.
        force: build everything again.
        progress: called as ``progress(task, done, total)``.

    Raises:
        UsageError, InputError, MismatchError, OutputError: see :meth:`IndexStore.open`.
    """
    began = time.perf_counter()
    with Panel.open(panel) as opened:
        plan = WindowPlan.from_chromosomes(opened.chromosomes(), config)
        chosen = plan.select(windows)
        made: Kind = BinaryKind(opened, plan)
        if kind != "binary":
            if kind not in KINDS or embedder is None:
                raise InputError(f"--kind {kind}: needs an embedding", f"one of {', '.join(KINDS)}")
            made = EmbeddingKind(opened, plan, embedder)
        target = folder or default_index_dir(panel)
        with IndexStore.open(target, opened, plan, kind=made, budget_bytes=0, force=force) as store:
            for done, window in enumerate(chosen, start=1):
                store.get(window)
                if progress:
                    progress("building indexes", done, len(chosen))
            built = store.stats.builds
            size = sum((target / index_name(window)).stat().st_size for window in chosen)
    return BuildReport(
        folder=target,
        kind=kind,
        num_windows=plan.num_windows,
        built=built,
        reused=len(chosen) - built,
        bytes=size,
        seconds=time.perf_counter() - began,
    )
