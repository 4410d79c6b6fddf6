"""The index directory: haplotype indexes of all windows, each built the first time it is touched.

    <panel>.index/
      manifest.json      what the indexes belong to, size and SHA-256 of each, a digest of itself
      index_{w}.faiss    window w
      .lock              held while one process builds; empty

A file that the manifest does not list counts as not built. A listed file is only used after its
bytes match the listed digest; otherwise it is built again.

The manifest is rewritten per 64th of its windows or second, as rewriting it for every window makes
building n windows cost n²; what a killed process had not listed yet is built again.
"""

import fcntl
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snvrag.config import WindowConfig
from snvrag.errors import InputError, MismatchError, OutputError, SnvragError
from snvrag.folder_lock import take_lock
from snvrag.index_kinds import BinaryKind, Kind, make_kind
from snvrag.panel import Panel
from snvrag.provenance import (
    Progress,
    atomic_file,
    check_regular,
    digest_json,
    prepare_output_folder,
    read_json,
    remove_temporaries,
    write_json,
)
from snvrag.retrieval import (
    Embedder,
    check_faiss,
    index_name,
)
from snvrag.window_store import DEFAULT_BUDGET, WindowStore
from snvrag.windows import WindowPlan

logger = logging.getLogger(__name__)

LOCK = ".lock"
INDEX_FORMAT = "snvrag-index"
INDEX_VERSION = 1
MANIFEST = "manifest.json"
COUNTS = ("window_size", "max_seq_len", "num_windows", "n_sites", "n_haplotypes")
_OTHERS = {"kind": str, "panel_digest": str, "settings": dict, "windows": dict}
_FLUSH_SHARE = 64
_FLUSH_SECONDS = 1.0
_CHOOSE_ANOTHER = "choose another index folder with -i"


def default_index_dir(panel: Path) -> Path:
    """``<panel>.index/`` beside the panel."""
    return panel.with_name(panel.name + ".index")


@dataclass(slots=True)
class StoreStats:
    """Counters of one :class:`IndexStore`."""

    hits: int = 0
    misses: int = 0
    """Not in memory: read from disk or built."""
    builds: int = 0


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
        # A right digest proves no right content.
        wrong = (
            [name for name in COUNTS if type(data.get(name)) is not int]
            or [name for name, kind in _OTHERS.items() if type(data.get(name)) is not kind]
            or [name for name in COUNTS if data[name] < 1]
            or [f"window {n}" for n, entry in data["windows"].items() if not _is_entry(n, entry)]
        )
        if wrong:
            raise InputError(f"{path}: unusable {', '.join(wrong)}")
        windows = data.pop("windows")
        return cls(data, {int(number): entry for number, entry in windows.items()})

    def write(self, folder: Path) -> None:
        """Write the manifest, atomically."""
        windows = {str(n): self.windows[n] for n in sorted(self.windows)}
        data = {**self.identity, "windows": windows}
        write_json(folder / MANIFEST, {**data, "digest": digest_json(data)})


def _is_entry(number: str, entry: object) -> bool:
    fields = {name: type(value) for name, value in entry.items()} if isinstance(entry, dict) else {}
    return number.isascii() and number.isdecimal() and fields == {"bytes": int, "sha256": str}


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


def read_index_file(path: Path, entry: Mapping[str, Any]) -> bytes:
    """The bytes of a file that the manifest lists as ``entry``.

    Raises:
        InputError: it is gone, or its size or SHA-256 is another.
    """
    try:
        check_regular(path)
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


class IndexStore(WindowStore):
    """Haplotype indexes by window: memory, else disk, else built just in time.

    Several processes may share one folder. Use as a context manager.
    """

    def __init__(
        self, folder: Path, plan: WindowPlan, kind: Kind, manifest: Manifest, budget_bytes: int
    ) -> None:
        super().__init__(plan, kind.panel.n_haplotypes, budget_bytes)
        self.folder, self.kind = folder, kind
        self.stats = StoreStats()
        self.on_touch: Callable[[int, bool, float], None] | None = None
        """Told the window, whether it was built or else read, and the seconds, of each index that
        comes to memory."""
        self._manifest = manifest
        self._pending: dict[int, dict[str, Any]] = {}
        self._flushed = time.monotonic()
        self._stamp: tuple[int, ...] | None = None

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
            force: replace what belongs to another panel, window size or kind, or is damaged.

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
            raise OutputError(error.message, _CHOOSE_ANOTHER) from error
        store = cls(folder, plan, kind, Manifest({}), budget_bytes)
        with store._locked():
            # All is written with the lock held: who has it knows that nobody is writing these.
            remove_temporaries(folder, MANIFEST, "index_*.faiss")
            store._manifest = _open_manifest(folder, index_identity(panel, plan, kind), force)
            store._stamp = store._manifest_stamp()
        return store

    def __enter__(self) -> "IndexStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """List in the manifest what was built, and release the memory."""
        self.forget()
        if self._pending:
            with self._locked():
                self._reread()
                self._flush()

    def get(self, window: int) -> Any:
        """The index of a window."""
        self.stats.hits += window in self._memory
        return super().get(window)

    def _fetch(self, window: int) -> Any:
        self.stats.misses += 1
        began = time.perf_counter()
        index = self._load(window, logging.DEBUG)
        if index is None:
            with self._locked():
                # Another process may have built it while this one waited.
                self._reread()
                index = self._load(window, logging.WARNING)
                if index is None:
                    return self._build(window)
        self._tell(window, time.perf_counter() - began, built=False)
        return index

    def _tell(self, window: int, seconds: float, *, built: bool) -> None:
        if self.on_touch is not None:
            self.on_touch(window, built, seconds)

    def rebuild(self, window: int) -> Any:
        """Build the index of a window anew, whatever is there."""
        with self._locked():
            self._reread()
            index = self._build(window)
        self._remember(window, index)
        return index

    def _manifest_stamp(self) -> tuple[int, ...] | None:
        """Changes whenever the manifest is replaced; None where there is none."""
        try:
            found = (self.folder / MANIFEST).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _reread(self) -> None:
        """Take up what other processes have listed. The lock is held."""
        stamp = self._manifest_stamp()
        if stamp == self._stamp and stamp is not None:
            return
        identity = self._manifest.identity
        if stamp is None:
            logger.warning("%s: was emptied while in use; building again", self.folder)
            self._pending.clear()
            self._manifest = Manifest(identity)
            return
        manifest = Manifest.read(self.folder)
        if manifest.identity != identity:
            raise MismatchError(
                f"{self.folder / MANIFEST}: was replaced while in use",
                "let one panel use this folder, or choose another with -i",
            )
        manifest.windows.update(self._pending)
        self._manifest, self._stamp = manifest, stamp

    def _flush(self) -> None:
        """Write the manifest. The lock is held and the manifest up to date."""
        self._manifest.write(self.folder)
        self._stamp = self._manifest_stamp()
        self._pending.clear()
        self._flushed = time.monotonic()

    def _load(self, window: int, level: int) -> Any:
        """The index from disk, or None where it is not built, missing or damaged."""
        entry = self._manifest.windows.get(window)
        if entry is None:
            return None
        path = self.folder / index_name(window)
        try:
            return self.kind.load(read_index_file(path, entry), window, path)
        except InputError as error:
            logger.log(level, "window %d: %s; building it again", window, error.message)
        return None

    def _build(self, window: int) -> Any:
        began = time.perf_counter()
        index = self.kind.build(window)
        self.kind.panel.check_unchanged()
        data = index.to_bytes()
        with atomic_file(self.folder / index_name(window), durable=False) as temporary:
            temporary.write_bytes(data)
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._manifest.windows[window] = self._pending[window] = entry
        waited = time.monotonic() - self._flushed
        many = len(self._pending) * _FLUSH_SHARE >= len(self._manifest.windows)
        if many or waited > _FLUSH_SECONDS:
            self._flush()
        seconds = time.perf_counter() - began
        self.stats.builds += 1
        line = "JIT: built index for window %d (%s haplotypes, %d ms)"
        logger.info(line, window, f"{index.n_haplotypes:,}", round(seconds * 1000))
        self._tell(window, seconds, built=True)
        return index

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock; the system releases it if the process dies."""
        with ExitStack() as stack:
            try:
                # Someone may have removed the folder while it was in use.
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = stack.enter_context((self.folder / LOCK).open("ab"))
                take_lock(handle.fileno(), self.folder, fcntl.LOCK_EX)
            except OSError as error:
                message = f"{self.folder}: cannot be locked ({error.strerror})"
                raise OutputError(message, _CHOOSE_ANOTHER) from error
            yield


def _open_manifest(folder: Path, identity: dict[str, Any], force: bool) -> Manifest:
    """The folder's manifest; a new one where there is none, or ``force`` replaces a wrong one."""
    remedy = "rebuild it with: snvrag build-index PANEL.h5 INDEX_DIR --force, or choose another -i"
    if (folder / MANIFEST).exists():
        try:
            manifest = Manifest.read(folder)
            for key, value in identity.items():
                found = manifest.identity.get(key)
                if found != value:
                    raise MismatchError(
                        f"{folder}: the index directory has {key} {found!r}, needed is {value!r}"
                    )
            return manifest
        except SnvragError as error:
            if not force:
                raise type(error)(error.message, remedy) from error
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
        force: build the selected windows again, and replace what belongs to another panel.
        progress: called as ``progress(task, done, total)``.

    Returns:
        How many windows were built and reused, and the bytes of their files.

    Raises:
        UsageError, InputError, MismatchError, OutputError: see :meth:`IndexStore.open`.
    """
    began = time.perf_counter()
    with Panel.open(panel) as opened:
        plan = WindowPlan.from_chromosomes(opened.chromosomes(), config)
        chosen = plan.select(windows)
        made = make_kind(kind, opened, plan, embedder)
        target = folder or default_index_dir(panel)
        with IndexStore.open(target, opened, plan, kind=made, budget_bytes=0, force=force) as store:
            touch = store.rebuild if force else store.get
            for done, window in enumerate(chosen, start=1):
                touch(window)
                if progress:
                    progress("building indexes", done, len(chosen))
            built = store.stats.builds
            size = sum((target / index_name(window)).stat().st_size for window in chosen)
    seconds = time.perf_counter() - began
    return BuildReport(target, kind, plan.num_windows, built, len(chosen) - built, size, seconds)
