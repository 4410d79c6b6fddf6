"""Haplotype indexes: exact nearest haplotypes of one window by Hamming distance.

Query and reference share position, frequency and mask, so in the additive embedding of the model
everything cancels but the token difference at observed sites:
``‖q - r‖² = Hamming(q, r on observed sites) · ‖E[REF] - E[ALT]‖²``, whatever the weights.
:class:`BinaryIndex` therefore searches packed alleles; :class:`EmbeddingIndex` searches the float
vectors and is the oracle that the first is tested against.

Ties break by haplotype number, so results do not depend on threads. FAISS promises no order, but
its exact binary search by counting reads codes in ascending id and keeps the first of equal
distances; ``tests/test_retrieval.py`` holds it to that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError, UsageError, WorkError
from snvrag.packing import pack, pack_sites, packed_bytes, unpack_sites
from snvrag.tokens import ALT, MASK, PAD, REF, SOS

_FAISS_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")
_EMBED_BLOCK_BYTES = 256 * 2**20
# Above any number of queries: the BLAS path computes ‖x‖² + ‖y‖² - 2xy, whose cancellation costs
# up to a whole mismatch at these dimensions.
_NEVER_BLAS = 1 << 30
# Magic number, bytes of the header (the last 8 are the number of items that follow), bytes per
# item. FAISS allocates whatever a header claims, so the claim is checked first.
_BINARY_HEADER = (b"IBxF", 33, 1)
_FLOAT_HEADER = (b"IxF2", 45, 4)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Nearest haplotypes of q queries, sorted by (distance, id)."""

    ids: NDArray[np.int64]
    """int64 [q, k]: haplotype numbers, -1 where fewer than k exist."""
    distances: NDArray[np.int32]
    """int32 [q, k]: Hamming distance over observed sites, -1 where there is none."""


class HaplotypeIndex(Protocol):
    """What both kinds of index can do."""

    kind: str

    @property
    def n_haplotypes(self) -> int:
        """Number of haplotypes that can be found."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""

    def search(
        self, queries: NDArray[np.uint8], k: int, exclude: NDArray[np.int64] | None = None
    ) -> Neighbours:
        """Nearest k haplotypes of ``queries`` uint8 [q, sites], none of ``exclude`` [q, e]."""


def check_faiss() -> None:
    """Refuse to start when two FAISS wheels fight over the module ``faiss``.

    All wheels install the same files: the last one wins, and removing it leaves a stump.

    Raises:
        UsageError: more than one is installed, or the module is empty.
    """
    found = []
    for name in _FAISS_WHEELS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    names = [entry.split()[0] for entry in found] or ["faiss-cpu"]
    hint = f"pip uninstall -y {' '.join(names)} && pip install {names[-1]}"
    if len(found) > 1:
        raise UsageError(f"two FAISS wheels share one module: {', '.join(found)}", hint)
    if not hasattr(faiss, "IndexBinaryFlat"):
        raise UsageError("the installed faiss module is incomplete", hint)


def set_threads(threads: int | None) -> None:
    """Limit the CPU threads of searches; results do not depend on them."""
    if threads is not None:
        faiss.omp_set_num_threads(threads)


def index_name(window: int) -> str:
    """File name of one window's index."""
    return f"index_{window}.faiss"


def read_faiss(data: bytes, kind: str, path: Path) -> Any:
    """The FAISS index, ``IndexBinaryFlat`` or ``IndexFlatL2``, that a file's content holds.

    Raises:
        InputError: ``data`` is no index of that kind; ``path`` names it.
    """
    binary = kind == BinaryIndex.kind
    magic, header, item = _BINARY_HEADER if binary else _FLOAT_HEADER
    claimed = int.from_bytes(data[header - 8 : header], "little") * item
    if data[:4] != magic or claimed != len(data) - header:
        raise InputError(f"{path}: is no {kind} index of FAISS, or not whole")
    raw = np.frombuffer(data, dtype=np.uint8)
    try:
        return faiss.deserialize_index_binary(raw) if binary else faiss.deserialize_index(raw)
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: is no {kind} index of FAISS ({error})") from error


class BinaryIndex:
    """Packed alleles of one window, or of several joined: the default index.

    Args:
        codes: uint8 [haplotypes, bytes].
        parts: ``(sites, bytes)`` of each joined window, in order; bytes add up to the codes'.
        mask: uint8 [bytes], observed sites; all sites if None.
        ids: int64 [haplotypes], numbers of the rows; 0, 1, … if None.
    """

    kind = "binary"

    def __init__(
        self,
        codes: NDArray[np.uint8],
        parts: Sequence[tuple[int, int]],
        mask: NDArray[np.uint8] | None = None,
        ids: NDArray[np.int64] | None = None,
    ) -> None:
        self.codes = np.ascontiguousarray(codes)
        self.parts = tuple(parts)
        self._mask = mask
        self._ids = ids
        self._flat: Any = None

    @classmethod
    def build(cls, alleles: NDArray[np.uint8], window_size: int) -> "BinaryIndex":
        """Index alleles uint8 [haplotypes, sites]; every window is as wide as ``window_size``."""
        codes = pack(alleles, packed_bytes(window_size))
        return cls(codes, [(alleles.shape[1], codes.shape[1])])

    @classmethod
    def of_sites(cls, alleles: NDArray[np.uint8], window_size: int) -> "BinaryIndex":
        """The same of alleles by site, uint8 [sites, haplotypes]."""
        codes = pack_sites(alleles, packed_bytes(window_size))
        return cls(codes, [(len(alleles), codes.shape[1])])

    @classmethod
    def join(cls, indexes: Sequence["BinaryIndex"]) -> "BinaryIndex":
        """One index over consecutive windows: whole-window Hamming distances add up."""
        for index in indexes:
            index._require_complete()
        if len(indexes) == 1:
            return indexes[0]
        codes = np.concatenate([index.codes for index in indexes], axis=1)
        return cls(codes, [part for index in indexes for part in index.parts])

    @classmethod
    def from_bytes(cls, data: bytes, n_sites: int, path: Path) -> "BinaryIndex":
        """Read back what :meth:`to_bytes` gave.

        Raises:
            InputError: ``data`` is no such index; ``path`` names it.
        """
        flat = read_faiss(data, cls.kind, path)
        codes = faiss.vector_to_array(flat.xb).reshape(flat.ntotal, flat.code_size)
        return cls(codes, [(n_sites, codes.shape[1])])

    def to_bytes(self) -> bytes:
        """The index as a FAISS ``IndexBinaryFlat`` file."""
        self._require_complete()
        own = BinaryIndex(self.codes, self.parts)  # a flat index that is kept doubles the memory
        return bytes(faiss.serialize_index_binary(own._index()).tobytes())

    @property
    def n_haplotypes(self) -> int:
        """Number of haplotypes."""
        return len(self.codes)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return sum(sites for sites, _ in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes."""
        return self.codes.nbytes

    def alleles(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Alleles of haplotypes ``ids``: uint8 [len(ids), sites]."""
        self._require_complete()
        chosen = self.codes[ids]
        pieces, offset = [], 0
        for sites, width in self.parts:
            piece = chosen[:, offset : offset + width]
            pieces.append(np.unpackbits(piece, axis=1, count=sites))
            offset += width
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    def by_site(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Alleles of haplotypes ``ids`` of one window: uint8 [sites, len(ids)]."""
        self._require_one_window()
        return unpack_sites(self.codes[ids], self.n_sites)

    def columns(self, sites: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Alleles of all haplotypes at some sites of one window: uint8 [len(sites), haplotypes]."""
        self._require_one_window()
        bits = self.codes[:, sites >> 3].T >> (7 - (sites & 7)).astype(np.uint8)[:, None]
        return np.ascontiguousarray(bits & np.uint8(1))

    def masked(
        self, observed: NDArray[np.bool_], keep: NDArray[np.bool_] | None = None
    ) -> "BinaryIndex":
        """A copy for one observation pattern: query and reference are masked alike.

        Args:
            observed: bool [sites]; distances count these only.
            keep: bool [haplotypes]; the others can never be found.
        """
        mask = self._pack(observed[None])[0]
        if self._mask is not None:
            mask &= self._mask
        codes, ids = self.codes, self._ids
        if keep is not None:
            rows = np.flatnonzero(keep)
            codes, ids = codes[rows], rows if ids is None else ids[rows]
        return BinaryIndex(codes & mask, self.parts, mask, ids)

    def search(
        self,
        queries: NDArray[np.uint8],
        k: int,
        exclude: NDArray[np.int64] | None = None,
        device: str = "cpu",
    ) -> Neighbours:
        """Nearest haplotypes by (distance, id).

        Args:
            queries: 0/1 alleles uint8 [q, sites]; only observed sites are read.
            k: neighbours wanted.
            exclude: int64 [q, e], haplotype numbers that a query must not find; -1 for none.
            device: ``cpu`` searches with FAISS, ``cuda[:N]`` with a ±1 matrix product in torch.
        """
        wanted = min(k + (0 if exclude is None else exclude.shape[1]), self.n_haplotypes)
        codes = self._pack(queries)
        if self._mask is not None:
            codes &= self._mask
        if wanted == 0:
            nothing = np.empty((len(queries), 0), dtype=np.int64)
            return _select(nothing, nothing, k, exclude)
        if device == "cpu":
            distances, rows = self._index().search(self._observed_words(codes), wanted)
        else:
            distances, rows = _matmul_search(self.codes, codes, wanted, device)
        return _select(distances, rows if self._ids is None else self._ids[rows], k, exclude)

    def _require_complete(self) -> None:
        if self._mask is not None or self._ids is not None:
            raise ValueError("a masked copy can only be searched: its alleles are not whole")

    def _require_one_window(self) -> None:
        self._require_complete()
        assert len(self.parts) == 1  # noqa: S101 - the bits of joined windows are not in a row

    def _index(self) -> Any:
        if self._flat is None:
            codes = self._observed_words(self.codes)
            self._flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
            self._flat.use_heap = False  # counting is faster for more than a few neighbours
            self._flat.add(codes)
        return self._flat

    def _observed_words(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Without the eights of bytes in which nothing is observed: most of the flanks."""
        if self._mask is None or codes.shape[1] % 8:
            return codes
        words = np.flatnonzero(self._mask.view(np.uint64))
        if not 0 < len(words) < codes.shape[1] // 8:
            return codes
        return np.take(codes.view(np.uint64), words, axis=1).view(np.uint8)

    def _pack(self, rows: NDArray[Any]) -> NDArray[np.uint8]:
        pieces, first = [], 0
        for sites, width in self.parts:
            pieces.append(pack(rows[:, first : first + sites], width))
            first += sites
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)


def _select(
    distances: NDArray[np.integer],
    ids: NDArray[np.integer],
    k: int,
    exclude: NDArray[np.int64] | None,
) -> Neighbours:
    """Drop excluded ids, sort by (distance, id), cut or pad to k."""
    distances = distances.astype(np.int64)
    ids = ids.astype(np.int64)
    drop = ids < 0
    if exclude is not None:
        drop |= (ids[:, :, None] == exclude[:, None, :]).any(axis=2)
    last = np.iinfo(np.int64).max
    order = np.lexsort((ids, np.where(drop, last, distances)), axis=1)[:, :k]
    gone = np.take_along_axis(drop, order, axis=1)
    found = np.full((len(ids), k), -1, dtype=np.int64)
    found_distances = np.full((len(ids), k), -1, dtype=np.int32)
    n = order.shape[1]
    found[:, :n] = np.where(gone, -1, np.take_along_axis(ids, order, axis=1))
    found_distances[:, :n] = np.where(gone, -1, np.take_along_axis(distances, order, axis=1))
    return Neighbours(found, found_distances)


def _matmul_search(
    reference: NDArray[np.uint8], queries: NDArray[np.uint8], k: int, device: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distances and rows int64 [q, k] of packed codes, by a product of ±1 vectors in torch.

    Exact at any float32 setting: ±1 survives rounding to TF32 or bf16, and sums below 2**24 are
    whole in float32. Only autocast, which rounds the sums themselves, must be off.
    """
    import torch

    def signs(codes: NDArray[np.uint8]) -> Any:
        bits = torch.from_numpy(np.unpackbits(codes, axis=1)).to(device)
        return bits.float().mul_(2).sub_(1)

    a, b = signs(queries), signs(reference)
    with torch.autocast(a.device.type, enabled=False):
        distance = ((a.shape[1] - a @ b.T) / 2).round().long()
    # Distance and row in one key make every key distinct, so topk has no tie to break.
    key = distance * len(reference) + torch.arange(len(reference), device=device)
    best = key.topk(k, dim=1, largest=False, sorted=True).values.cpu().numpy()
    return best // len(reference), best % len(reference)


class Embedder(Protocol):
    """The model's embedding as :class:`EmbeddingIndex` needs it, in eval mode, without gradient."""

    fingerprint: str

    def __call__(self, tokens: NDArray[np.int64], af: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed tokens int64 [n, L] with frequencies float32 [L] to float32 [n, L, D]."""


class EmbeddingIndex:
    """FAISS ``IndexFlatL2`` over the flattened embeddings of masked haplotypes.

    The original design, kept as the oracle for :class:`BinaryIndex` and for embeddings that are
    not additive. Rows are ``[SOS, s_1 … s_n, PAD …]`` of L tokens; the vector has L·D floats.
    """

    kind = "embedding"

    def __init__(
        self,
        flat: Any,
        embedder: Embedder,
        observed: NDArray[np.bool_],
        af: NDArray[np.float32],
        max_seq_len: int,
        ids: NDArray[np.int64] | None = None,
    ) -> None:
        self._flat, self._embedder, self._ids = flat, embedder, ids
        self._observed, self._af, self._length = observed, af, max_seq_len

    @classmethod
    def build(
        cls,
        alleles: NDArray[np.uint8],
        observed: NDArray[np.bool_],
        af: NDArray[np.float32],
        embedder: Embedder,
        max_seq_len: int,
        keep: NDArray[np.bool_] | None = None,
    ) -> "EmbeddingIndex":
        """Embed and index haplotypes.

        Args:
            alleles: uint8 [haplotypes, sites].
            observed: bool [sites]; all other sites are MASK in reference and query.
            af: float32 [sites].
            embedder: the embedding.
            max_seq_len: L.
            keep: bool [haplotypes]; the others can never be found.
        """
        ids = None if keep is None else np.flatnonzero(keep)
        index = cls(None, embedder, observed, af, max_seq_len, ids)
        index._flat = faiss.IndexFlatL2(max_seq_len * index._dims())
        for block in index._embedded_blocks(alleles if ids is None else alleles[ids]):
            index._flat.add(block)
        return index

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        path: Path,
        observed: NDArray[np.bool_],
        af: NDArray[np.float32],
        embedder: Embedder,
        max_seq_len: int,
    ) -> "EmbeddingIndex":
        """Read back what :meth:`to_bytes` gave.

        Raises:
            InputError: ``data`` is no such index.
        """
        flat = read_faiss(data, cls.kind, path)
        return cls(flat, embedder, observed, af, max_seq_len)

    def to_bytes(self) -> bytes:
        """The index as a FAISS ``IndexFlatL2`` file."""
        return bytes(faiss.serialize_index(self._flat).tobytes())

    @property
    def n_haplotypes(self) -> int:
        """Number of haplotypes."""
        return int(self._flat.ntotal)

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors."""
        return int(self._flat.ntotal) * int(self._flat.d) * 4

    def search(
        self, queries: NDArray[np.uint8], k: int, exclude: NDArray[np.int64] | None = None
    ) -> Neighbours:
        """Nearest haplotypes; squared distances are returned in units of one mismatch.

        Raises:
            WorkError: the embedding does not tell REF from ALT.
        """
        wanted = min(k + (0 if exclude is None else exclude.shape[1]), self.n_haplotypes)
        if wanted == 0 or len(queries) == 0:
            nothing = np.empty((len(queries), 0), dtype=np.int64)
            return _select(nothing, nothing, k, exclude)
        unit = self._mismatch()
        threshold = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = _NEVER_BLAS
        try:
            found = [self._flat.search(block, wanted) for block in self._embedded_blocks(queries)]
        finally:
            faiss.cvar.distance_compute_blas_threshold = threshold
        distances = np.rint(np.concatenate([d for d, _ in found]) / unit).astype(np.int64)
        rows = np.concatenate([i for _, i in found])
        return _select(distances, rows if self._ids is None else self._ids[rows], k, exclude)

    def _tokens(self, alleles: NDArray[np.uint8]) -> NDArray[np.int64]:
        tokens = np.full((len(alleles), self._length), PAD, dtype=np.int64)
        tokens[:, 0] = SOS
        sites = np.where(self._observed, alleles.astype(np.int64) + REF, MASK)
        tokens[:, 1 : 1 + alleles.shape[1]] = sites
        return tokens

    def _embed(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        af = np.zeros(self._length, dtype=np.float32)
        af[1 : 1 + len(self._af)] = self._af
        return self._embedder(tokens, af)

    def _embedded_blocks(self, alleles: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        step = max(1, _EMBED_BLOCK_BYTES // (4 * self._length * self._dims()))
        for first in range(0, len(alleles), step):
            embedded = self._embed(self._tokens(alleles[first : first + step]))
            yield np.ascontiguousarray(embedded.reshape(len(embedded), -1))

    def _ref_and_alt(self) -> NDArray[np.float32]:
        """Embedded REF and ALT of the first site: float32 [2, D]."""
        tokens = np.full((2, self._length), PAD, dtype=np.int64)
        tokens[:, 1] = (REF, ALT)
        return self._embed(tokens)[:, 1]

    def _dims(self) -> int:
        return int(self._ref_and_alt().shape[1])

    def _mismatch(self) -> float:
        """‖E[REF] - E[ALT]‖², what one mismatch adds to a squared distance."""
        ref, alt = self._ref_and_alt().astype(np.float64)
        unit = float(((ref - alt) ** 2).sum())
        if not unit > 0 or not np.isfinite(unit):
            raise WorkError(
                f"‖E[REF] - E[ALT]‖² is {unit}: the embedding does not tell REF from ALT",
                "search with the binary index, which needs no embedding",
            )
        return unit
