"""The reference panel on disk: HDF5 in scikit-allel's layout plus a frequency table.

``docs/formats.md`` lists the datasets. Only this module knows HDF5.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError
from snvrag.panel_storage import stored_wrongly
from snvrag.provenance import changed_while_read, file_stamp
from snvrag.sites import SiteTable
from snvrag.unfailing_file import UnfailingFile

PANEL_FORMAT = "snvrag-panel"
PANEL_VERSION = 1
GLOBAL = "GLOBAL"
FREQUENCIES = ("REF", "HET", "HOM", "AF")
NO_SECOND_HAPLOTYPE = -2
_HOW_TO_MAKE = "make it with: snvrag convert PANEL.vcf.gz -o panel.h5"
_CHUNK_SITES = 512
_CHUNK_SAMPLES = 8192
_CHUNK_ROWS = 1 << 16
_CHUNK_BYTES = 1 << 23
# Windows are no multiple of a chunk: without room for one, each is decompressed for two windows.
_READ_CACHE_BYTES = 16 << 20
_SITE_STRINGS = ("CHROM", "ID", "REF", "ALT")
# Measured on 1000 Genomes genotypes: a third to a tenth of the bytes of gzip or lzf, and the
# fastest to read. Level 5 takes two fifths longer than 4 for 2% of the bytes.
# Blosc keeps no checksum: without one of HDF5's, a changed byte becomes other genotypes.
_COMPRESSION = {
    **hdf5plugin.Blosc(cname="zstd", clevel=4, shuffle=hdf5plugin.Blosc.BITSHUFFLE),
    "fletcher32": True,
}
# HDF5 since 1.10, whose structure has checksums too.
_LIBRARY = ("v110", "v110")


class PanelWriter:
    """Write a panel block by block; memory holds one block and about 30 bytes per site.

    Use :func:`snvrag.convert`, which checks what goes in. Call :meth:`append` for each block and
    then :meth:`finish` once. With a pool, its threads compress and hash a block while the caller
    prepares the next one; memory then holds two. The file is the same.
    """

    def __init__(
        self,
        path: Path,
        samples: Sequence[str],
        populations: Sequence[str],
        pool: Executor | None = None,
    ) -> None:
        self._target = UnfailingFile(path)
        # HDF5 writes through Python code here, which must not be left by a KeyboardInterrupt: it is
        # raised in the main thread only.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snvrag-panel")
        self._pool = pool
        self._n_sites = 0
        self._pending: list[Future[None]] = []
        self._samples = list(samples)
        self._populations = list(populations)
        self._strings: dict[str, list[NDArray[np.bytes_]]] = {n: [] for n in _SITE_STRINGS}
        self._positions: list[NDArray[np.int32]] = []
        self._counts: list[NDArray[np.int32]] = []
        self._frequencies: list[NDArray[np.float32]] = []
        self._hash = hashlib.sha256()
        self._file, self._genotypes = self._thread.submit(self._create, path, len(samples)).result()

    def _create(self, path: Path, n: int) -> tuple[h5py.File, h5py.Dataset]:
        """The file, and the dataset of the genotypes of n samples."""
        driver = {"driver": "fileobj", "fileobj": self._target}
        file = h5py.File(path, "w", libver=_LIBRARY, **driver)
        genotypes = file.create_dataset(
            "calldata/GT",
            shape=(0, n, 2),
            maxshape=(None, n, 2),
            chunks=(_CHUNK_SITES, min(n, _CHUNK_SAMPLES), 2),
            dtype="i1",
            **_COMPRESSION,
        )
        return file, genotypes

    @property
    def n_sites(self) -> int:
        """Sites appended so far."""
        return self._n_sites

    def append(
        self,
        strings: Mapping[str, Sequence[str]],
        positions: Sequence[int],
        genotypes: NDArray[np.int8],
        counts: NDArray[np.int32],
        frequencies: NDArray[np.float32],
    ) -> None:
        """Append n sites.

        Args:
            strings: ``CHROM``, ``ID``, ``REF`` and ``ALT``, n each.
            positions: 1-based, n.
            genotypes: int8 [n, samples, 2]; with a pool, not to be written to afterwards.
            counts: int32 [2, n], ALT alleles and called haplotypes.
            frequencies: float32 [4, populations, n] in the order of :data:`FREQUENCIES`.
        """
        self._wait()
        genotypes = np.ascontiguousarray(genotypes)
        store = self._thread.submit(self._store, self._n_sites, genotypes)
        self._n_sites += len(positions)
        self._pending.append(store)
        if self._pool is None:
            self._digest(genotypes)
            self._wait()
        else:
            self._pending.append(self._pool.submit(self._digest, genotypes))
        for name in _SITE_STRINGS:
            self._strings[name].append(np.array([s.encode() for s in strings[name]]))
        self._positions.append(np.asarray(positions, dtype=np.int32))
        self._counts.append(counts)
        self._frequencies.append(frequencies)

    def _store(self, first: int, genotypes: NDArray[np.int8]) -> None:
        self._genotypes.resize(first + len(genotypes), axis=0)
        self._genotypes[first:] = genotypes

    def _digest(self, genotypes: NDArray[np.int8]) -> None:
        self._hash.update(genotypes.data)

    def _wait(self) -> None:
        pending, self._pending = self._pending, []
        wait(pending)
        for future in pending:
            future.result()
        self._target.check()

    def finish(self, provenance: dict[str, Any]) -> str:
        """Write everything beside the genotypes; returns the content digest.

        Raises:
            OSError: something could not be written.
        """
        self._wait()
        digest = self._thread.submit(self._write_rest, provenance).result()
        self._target.check()
        return digest

    def _write_rest(self, provenance: dict[str, Any]) -> str:
        file = self._file
        self._write("samples", np.array([s.encode() for s in self._samples]))
        for name in _SITE_STRINGS:
            self._write(f"variants/{name}", np.concatenate(self._strings[name]))
        self._write("variants/POS", np.concatenate(self._positions))
        counts = np.concatenate(self._counts, axis=1)
        self._write("variants/AC", counts[0])
        self._write("variants/AN", counts[1])
        table = np.concatenate(self._frequencies, axis=2)
        self._write("variants/AF", table[FREQUENCIES.index("AF"), 0])
        names = np.array([p.encode() for p in self._populations])
        self._write("frequencies/populations", names)
        for i, name in enumerate(FREQUENCIES):
            self._write(f"frequencies/{name}", table[i])
        file.attrs["format_name"] = PANEL_FORMAT
        file.attrs["format_version"] = PANEL_VERSION
        digest = self._hash.hexdigest()
        file.attrs["digest"] = digest
        file.attrs["provenance"] = json.dumps(provenance)
        file.close()
        return digest

    def _write(self, name: str, data: NDArray[Any]) -> None:
        # Alleles of indels can be long: a chunk of them is to be no larger for that.
        rows = max(1, _CHUNK_BYTES // (data.itemsize * int(np.prod(data.shape[:-1]))))
        chunks = (*data.shape[:-1], min(data.shape[-1], _CHUNK_ROWS, rows))
        self._file.create_dataset(name, data=data, chunks=chunks, **_COMPRESSION)
        _digest_of(self._hash, name, data)

    def close(self) -> None:
        """Close the file; it is a panel only after :meth:`finish`."""
        wait(self._pending)
        self._thread.submit(self._file.close).result()
        self._thread.shutdown()
        self._target.close()


def _digest_of(digest: Any, name: str, data: NDArray[Any]) -> None:
    digest.update(f"{name} {data.dtype.str} {data.shape}".encode())
    digest.update(np.ascontiguousarray(data).tobytes())


class Panel:
    """A reference panel opened for reading; use as a context manager.

    Haplotypes are numbered through the samples, real ones only: ``2 * sample + phase`` where all
    samples are diploid, one number for a haploid sample.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self._stamp = self._current_stamp()
        self._check()
        self.digest = str(file.attrs["digest"])
        self.n_sites, self.n_samples = (int(x) for x in file["calldata/GT"].shape[:2])

    @classmethod
    def open(cls, path: Path | str) -> "Panel":
        """Open a panel made by :func:`snvrag.convert`.

        Raises:
            InputError: absent, not HDF5, of another format or version, or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"{path}: is a folder" if path.is_dir() else f"{path}: no such panel file",
                _HOW_TO_MAKE,
            )
        try:
            file = h5py.File(path, "r", rdcc_nbytes=_READ_CACHE_BYTES)
        except OSError as error:
            raise InputError(f"{path}: is not a readable HDF5 file", _HOW_TO_MAKE) from error
        try:
            return cls(path, file)
        except InputError:
            file.close()
            raise
        except Exception as error:  # h5py raises all kinds for what HDF5 cannot make sense of
            file.close()
            raise InputError(f"{path}: is damaged ({error})", "convert the panel again") from error
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> "Panel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _current_stamp(self) -> tuple[int, int]:
        # Of the file that is open, whatever its name leads to by now.
        return file_stamp(os.fstat(self._file.id.get_vfd_handle()))

    def check_unchanged(self) -> None:
        """See that what was read so far is of one and the same file, before it is put to use.

        Raises:
            InputError: the file was written to since it was opened.
        """
        if self._current_stamp() != self._stamp:
            raise changed_while_read(self.path)

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}", "convert the panel again")

    def _check(self) -> None:
        attributes = self._file.attrs
        found = (attributes.get("format_name"), attributes.get("format_version"))
        if [str(value) for value in found] != [PANEL_FORMAT, str(PANEL_VERSION)]:
            raise InputError(
                f"{self.path}: format {found[0]!r} version {found[1]}, not {PANEL_FORMAT!r} "
                f"version {PANEL_VERSION}",
                _HOW_TO_MAKE,
            )
        if not re.fullmatch("[0-9a-f]{64}", str(attributes.get("digest"))):
            raise self._damaged("has no content digest")
        gt = self._dataset("calldata/GT", "i1", 3)
        n_sites, n_samples, ploidy = gt.shape
        if ploidy != 2 or n_sites == 0 or n_samples == 0:
            raise self._damaged(f"calldata/GT has shape {gt.shape}")
        expected = {"samples": ("S", (n_samples,)), "variants/AF": ("f4", (n_sites,))}
        expected |= {f"variants/{n}": ("S", (n_sites,)) for n in _SITE_STRINGS}
        expected |= {f"variants/{n}": ("i4", (n_sites,)) for n in ("POS", "AC", "AN")}
        for name, (kind, shape) in expected.items():
            dataset = self._dataset(name, kind, len(shape))
            if dataset.shape != shape:
                raise self._damaged(f"{name} has shape {dataset.shape}, not {shape}")

    def _dataset(self, name: str, kind: str, dimensions: int) -> h5py.Dataset:
        dataset = self._file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise self._damaged(f"has no dataset {name}")
        text = dataset.dtype.str.lstrip("<>|=")
        if dataset.ndim != dimensions or not text.startswith(kind):
            raise self._damaged(f"{name} is {dataset.dtype} with {dataset.ndim} dimensions")
        if wrong := stored_wrongly(self._file, self.path, name):
            raise self._damaged(f"{name} {wrong}")
        return dataset

    def _read(self, name: str, selection: Any = ...) -> NDArray[Any]:
        try:
            return np.asarray(self._file[name][selection])
        except (OSError, KeyError, RuntimeError) as error:
            raise self._damaged(f"{name} cannot be read ({error})") from error

    def _strings(self, name: str) -> NDArray[np.str_]:
        data = self._read(name)
        characters = data.view(np.uint8)
        # Tabs and line ends would cut the lines of a VCF; a blank may stand in names.
        if ((characters < ord(" ")) & (characters > 0)).any() or not data.all():
            raise self._damaged(f"{name} holds empty names, or control characters in them")
        try:
            return np.char.decode(data, "utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"{name} holds what is not text") from error

    @cached_property
    def samples(self) -> tuple[str, ...]:
        """Sample IDs, in order."""
        return tuple(self._strings("samples").tolist())

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """1-based positions: int64 [sites]."""
        return self._read("variants/POS").astype(np.int64)

    @cached_property
    def sites(self) -> SiteTable:
        """All sites."""
        ids, ref, alt = (self._strings(f"variants/{n}") for n in ("ID", "REF", "ALT"))
        chrom = self._chrom
        sites = SiteTable(chrom, self.positions, ids, ref, alt)
        spans = sites.chromosomes()
        falls = any((np.diff(sites.pos[a:b]) < 0).any() for _, a, b in spans)
        if falls or sites.pos.min() < 0 or len({name for name, _, _ in spans}) < len(spans):
            raise self._damaged("its sites are not in order")
        return sites

    @cached_property
    def af(self) -> NDArray[np.float32]:
        """ALT frequency from the frequency table, population GLOBAL: float32 [sites]."""
        found = self._read("variants/AF")
        if not ((found >= 0) & (found <= 1)).all():
            raise self._damaged("variants/AF holds what is no frequency")
        return found

    @cached_property
    def ac(self) -> NDArray[np.int32]:
        """ALT alleles counted: int32 [sites]."""
        found = self._read("variants/AC")
        if not ((found >= 0) & (found <= self.an)).all():
            raise self._damaged("variants/AC holds what is no count")
        return found

    @cached_property
    def an(self) -> NDArray[np.int32]:
        """Haplotypes counted: int32 [sites]."""
        found = self._read("variants/AN")
        if not ((found >= 0) & (found <= 2 * self.n_samples)).all():
            raise self._damaged("variants/AN holds what is no count")
        return found

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the panel came from, as :func:`snvrag.provenance.provenance` recorded it."""
        try:
            data = json.loads(str(self._file.attrs["provenance"]))
        except (KeyError, ValueError) as error:
            raise self._damaged("has no readable provenance") from error
        return data if isinstance(data, dict) else {}

    def content_digest(self) -> str:
        """What :attr:`digest` must be, counted anew from all that the file holds."""
        digest = hashlib.sha256()
        for first in range(0, self.n_sites, _CHUNK_SITES):
            digest.update(self.genotypes(first, first + _CHUNK_SITES).tobytes())
        names = ["samples", *(f"variants/{name}" for name in _SITE_STRINGS)]
        names += [f"variants/{name}" for name in ("POS", "AC", "AN", "AF")]
        for name in [*names, "frequencies/populations", *(f"frequencies/{n}" for n in FREQUENCIES)]:
            _digest_of(digest, name, self._read(name))
        return digest.hexdigest()

    @cached_property
    def _real(self) -> NDArray[np.bool_]:
        """bool [samples * 2]: which allele columns are haplotypes."""
        first_site: NDArray[np.int8] = self._read("calldata/GT", 0).ravel()
        found = np.not_equal(first_site, NO_SECOND_HAPLOTYPE)
        if not found[::2].all():
            raise self._damaged("calldata/GT holds samples without haplotypes")
        return found

    @cached_property
    def haplotype_sample(self) -> NDArray[np.int64]:
        """Sample number of each haplotype: int64 [haplotypes]."""
        return np.flatnonzero(self._real) // 2

    @property
    def n_haplotypes(self) -> int:
        """Number of real haplotypes."""
        return len(self.haplotype_sample)

    def own_haplotypes(self, sample: int) -> NDArray[np.int64]:
        """Haplotype numbers of one sample: int64 [1 or 2]."""
        low, high = np.searchsorted(self.haplotype_sample, [sample, sample + 1])
        return np.arange(low, high, dtype=np.int64)

    @cached_property
    def _chrom(self) -> NDArray[np.str_]:
        return self._strings("variants/CHROM")

    @cached_property
    def _chromosomes(self) -> list[tuple[str, int]]:
        chrom = self._chrom
        starts = np.flatnonzero(np.r_[True, chrom[1:] != chrom[:-1]])
        if len(set(chrom[starts])) < len(starts):
            raise self._damaged("variants/CHROM has a chromosome in two places")
        sizes = np.diff(np.r_[starts, len(chrom)])
        return [(str(chrom[i]), int(n)) for i, n in zip(starts, sizes, strict=True)]

    def chromosomes(self) -> list[tuple[str, int]]:
        """``(name, number of sites)`` of each chromosome, in file order."""
        return list(self._chromosomes)

    def genotypes(self, start: int, end: int) -> NDArray[np.int8]:
        """Genotypes of sites ``[start, end)``: int8 [sites, samples, 2]."""
        return self._read("calldata/GT", slice(start, end))

    def site_alleles(self, start: int, end: int) -> NDArray[np.uint8]:
        """Alleles of sites ``[start, end)``: uint8 [end - start, haplotypes], values 0 and 1.

        Raises:
            InputError: the stored genotypes are damaged or incomplete there.
        """
        alleles = self.genotypes(start, end).reshape(end - start, -1).view(np.uint8)
        if not self._real.all():
            alleles = alleles.compress(self._real, axis=1)
        if alleles.size and alleles.max() > 1:
            raise self._damaged(
                f"calldata/GT holds alleles other than 0 and 1 in sites {start}-{end}"
            )
        return alleles

    def alleles(self, start: int, end: int) -> NDArray[np.uint8]:
        """The same by haplotype: uint8 [haplotypes, end - start]."""
        return np.ascontiguousarray(self.site_alleles(start, end).T)
