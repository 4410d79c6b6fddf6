"""``convert``: a phased VCF/BCF becomes the HDF5 reference panel, frequencies included."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.arrays import map_array
from snvrag.errors import InputError
from snvrag.panel import FREQUENCIES, GLOBAL, PanelWriter
from snvrag.provenance import (
    Progress,
    atomic_file,
    check_output_file,
    provenance,
    read_lines,
    sha256_file,
    watch,
)
from snvrag.sites import Region
from snvrag.vcf import GenotypeBlock, GenotypeReader, SampleSelection, SiteCounts

# A block of genotypes, two int32 each as the reader stacks them, stays below this.
_BLOCK_BYTES = 32 * 2**20
_BLOCK_SITES = 512
_MAX_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What :func:`convert` wrote."""

    output: Path
    n_sites: int
    n_samples: int
    n_haplotypes: int
    chromosomes: tuple[str, ...]
    skipped: dict[str, int]
    """Records left out, by reason."""
    monomorphic: int
    """Kept sites at which all haplotypes agree."""
    seconds: float
    bytes: int
    digest: str


def convert(
    source: Path,
    output: Path,
    *,
    regions: Sequence[Region] | None = None,
    samples: SampleSelection | None = None,
    populations: Path | None = None,
    frequencies: Path | None = None,
    af_from_info: bool = False,
    include_indels: bool = False,
    drop_incomplete: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Convert a phased, complete VCF/VCF.gz/BCF to a panel file, streaming.

    Biallelic SNVs are kept (and biallelic indels with ``include_indels``); multi-allelic, symbolic
    and duplicate records are left out and counted, never folded. Allele and genotype frequencies
    are computed here, once, or taken from ``frequencies`` (NPY, float [4, populations, sites] in
    the order REF, HET, HOM, AF, first population GLOBAL) or from INFO/AF.

    Args:
        source: VCF, bgzipped VCF or BCF; sorted.
        output: the HDF5 file to write.
        regions: keep records that start in these; all if None.
        samples: keep or leave out these samples.
        populations: whitespace table ``sample pop super_pop`` with a header, for frequencies by
            (super-)population.
        frequencies: a frequency table that replaces the computed one.
        af_from_info: take the GLOBAL ALT frequency from INFO/AF.
        include_indels: keep biallelic indels.
        drop_incomplete: leave out records with missing or unphased genotypes instead of failing.
        force: replace ``output``.
        threads: CPU threads, those this process may use if None; the file does not depend on it.
        progress: called as ``progress(task, done, total)``; total 0 is unknown. The tasks are
            ``converting``, in records, and ``hashing`` of the source, in MB.

    Returns:
        Numbers of sites, samples and haplotypes, and of records left out, by reason.

    Raises:
        InputError: the input is damaged, unsorted, unphased, incomplete or leaves no site; names
            file and record.
        OutputError: ``output`` cannot be written.
    """
    began = time.perf_counter()
    check_output_file(output, force=force)
    check = watch(source, populations, frequencies)
    given_up = threading.Event()
    with _pool(threads, given_up) as pool:
        hashing = pool.submit(sha256_file, source, given_up=given_up) if pool else None
        reader = GenotypeReader.open(
            source,
            regions=regions,
            samples=samples,
            include_indels=include_indels,
            drop_incomplete=drop_incomplete,
            want_info_af=af_from_info,
            pool=pool,
        )
        try:
            groups = _population_groups(populations, reader.samples)
            table = _read_frequency_table(frequencies, len(groups)) if frequencies else None
            source_of_af = _Frequencies(source, groups, table, frequencies, af_from_info)
            with atomic_file(output) as temporary:
                writer = PanelWriter(temporary, reader.samples, list(groups), pool)
                try:
                    totals = _stream(reader, writer, source_of_af, progress)
                    if hashing and progress and not hashing.done():
                        progress(f"hashing {source.name}", 0, 0)
                    sha256 = hashing.result() if hashing else sha256_file(source, progress)
                    origin = provenance(inputs={str(source): sha256})
                    digest = writer.finish(origin)
                    check()
                finally:
                    writer.close()
        finally:
            reader.close()
    return ConvertReport(
        output=output,
        n_sites=totals.n_sites,
        n_samples=len(reader.samples),
        n_haplotypes=totals.n_haplotypes,
        chromosomes=tuple(totals.chromosomes),
        skipped=dict(reader.skipped),
        monomorphic=totals.monomorphic,
        seconds=time.perf_counter() - began,
        bytes=output.stat().st_size,
        digest=digest,
    )


@contextlib.contextmanager
def _pool(threads: int | None, given_up: threading.Event) -> Iterator[ThreadPoolExecutor | None]:
    """Threads beside this one, which has the least to do; None to work in this one alone.

    At the end ``given_up`` is set: by then all is done, or it is not to be waited for.
    """
    if threads is None:
        affinity = hasattr(os, "sched_getaffinity")
        threads = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    if threads == 1:
        yield None
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="snvrag-convert") as pool:
        try:
            yield pool
        finally:
            given_up.set()
            pool.shutdown(cancel_futures=True)


@dataclass(slots=True)
class _Totals:
    n_sites: int = 0
    n_haplotypes: int = 0
    monomorphic: int = 0
    chromosomes: dict[str, None] = field(default_factory=dict)


def _stream(
    reader: GenotypeReader,
    writer: PanelWriter,
    frequencies: "_Frequencies",
    progress: Progress | None,
) -> _Totals:
    totals = _Totals()
    block_sites = block_size(len(reader.samples))
    for block in reader.blocks(block_sites):
        counts = block.counts
        rows = frequencies.of_block(block, counts, totals.n_sites)
        strings = {"CHROM": block.chrom, "ID": block.id, "REF": block.ref, "ALT": block.alt}
        pair = np.stack([counts.ac, counts.an]).astype(np.int32)
        writer.append(strings, block.pos, block.genotypes, pair, rows)
        totals.n_sites += len(block.pos)
        totals.n_haplotypes = int(counts.an[0])
        totals.monomorphic += int(((counts.ac == 0) | (counts.ac == counts.an)).sum())
        totals.chromosomes |= dict.fromkeys(block.chrom)
        if progress:
            progress("converting", reader.records, reader.expected)
    if totals.n_sites == 0:
        reasons = ", ".join(f"{n} {why}" for why, n in reader.skipped.items()) or "no record at all"
        raise InputError(
            f"{reader.source}: no site is left to convert ({reasons})",
            "check --region and the kind of records in the file",
        )
    frequencies.check_used(totals.n_sites)
    return totals


def block_size(n_samples: int) -> int:
    """Sites read at a time: whole chunks, as many as the memory bound allows, at least one."""
    bytes_per_chunk = _BLOCK_SITES * n_samples * 2 * 4
    return _BLOCK_SITES * max(1, min(_MAX_BLOCKS, _BLOCK_BYTES // bytes_per_chunk))


class _Frequencies:
    """Frequency rows per block: computed, from a given table, or AF from INFO."""

    def __init__(
        self,
        source: Path,
        groups: dict[str, NDArray[np.int64] | None],
        table: NDArray[np.float32] | None,
        table_path: Path | None,
        af_from_info: bool,
    ) -> None:
        self.source, self.groups = source, groups
        self.table, self.table_path, self.af_from_info = table, table_path, af_from_info

    def of_block(self, block: GenotypeBlock, counts: SiteCounts, first: int) -> NDArray[np.float32]:
        """float32 [4, populations, n] for the sites from number ``first`` on."""
        if self.table is not None:
            rows = self.table[:, :, first : first + len(block.pos)]
            if rows.shape[2] != len(block.pos):
                raise self._wrong_size("more")
            return rows
        per_group = [
            counts if members is None else SiteCounts.of(block.genotypes.take(members, axis=1))
            for members in self.groups.values()
        ]
        rows = np.stack([group.frequencies() for group in per_group], axis=1)
        if self.af_from_info:
            known = (block.info_af >= 0) & (block.info_af <= 1)
            if not known.all():
                i = int(np.flatnonzero(~known)[0])
                raise InputError(
                    f"{self.source}: record {block.chrom[i]}:{block.pos[i]} has no INFO/AF between "
                    "0 and 1",
                    "leave --af-from-info out: frequencies are then counted",
                )
            rows[FREQUENCIES.index("AF"), 0] = block.info_af
        return rows

    def check_used(self, n_sites: int) -> None:
        """Refuse a table with more sites than the panel."""
        if self.table is not None and self.table.shape[2] != n_sites:
            raise self._wrong_size(f"{n_sites:,}")

    def _wrong_size(self, n_sites: str) -> InputError:
        size = 0 if self.table is None else self.table.shape[2]
        return InputError(
            f"{self.table_path}: has {size:,} sites and the panel {n_sites}",
            "give a table made for exactly the converted sites, in their order",
        )


def _population_groups(
    path: Path | None, samples: Sequence[str]
) -> dict[str, NDArray[np.int64] | None]:
    """Sample numbers of GLOBAL (None: all) and then of each population, by name."""
    groups: dict[str, NDArray[np.int64] | None] = {GLOBAL: None}
    if path is None:
        return groups
    population = read_populations(path)
    absent = [s for s in samples if s not in population]
    if absent:
        raise InputError(
            f"{path}: does not list sample {absent[0]} ({len(absent)} samples are missing)",
            "list every sample of the panel: sample pop super_pop",
        )
    names = np.array([population[s] for s in samples])
    groups |= {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    return groups


def read_populations(path: Path) -> dict[str, str]:
    """Sample to population of a table ``sample pop [super_pop …]``; super_pop where there is one.

    Columns are found by name in the header; a table without one is read as
    ``sample pop super_pop``.

    Raises:
        InputError: unreadable, a line with too few columns, or a sample listed twice.
    """
    lines = read_lines(path)
    rows = [(n, line.split()) for n, line in enumerate(lines, start=1) if line.strip()]
    header = [name.lower().lstrip("#") for name in rows[0][1]] if rows else []
    sample_column, column = 0, 2 if rows and len(rows[0][1]) > 2 else 1
    if "sample" in header:
        sample_column = header.index("sample")
        column = (
            header.index("super_pop" if "super_pop" in header else "pop")
            if ({"super_pop", "pop"} & set(header))
            else 1
        )
        rows = rows[1:]
    population: dict[str, str] = {}
    for number, fields in rows:
        if len(fields) <= max(sample_column, column):
            raise InputError(
                f"{path}, line {number}: {len(fields)} columns, at least "
                f"{max(sample_column, column) + 1} are needed",
                "write: sample pop super_pop",
            )
        if fields[sample_column] in population:
            raise InputError(
                f"{path}, line {number}: sample {fields[sample_column]} is listed twice"
            )
        population[fields[sample_column]] = fields[column]
    return population


def _read_frequency_table(path: Path, n_populations: int) -> NDArray[np.float32]:
    try:
        table = map_array(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: is not a readable NPY file ({error})", "save it with numpy.save"
        ) from error
    if table.dtype.kind != "f" or table.ndim != 3:
        raise InputError(f"{path}: holds no 3-dimensional float array", "see docs/formats.md")
    if table.shape[:2] != (len(FREQUENCIES), n_populations):
        raise InputError(
            f"{path}: shape {table.shape}, where ({len(FREQUENCIES)}, {n_populations}, sites) is "
            f"needed: {', '.join(FREQUENCIES)} for GLOBAL and each population of --populations",
            "see docs/formats.md",
        )
    values = np.asarray(table, dtype=np.float32)
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"{path}: holds values outside 0 to 1", "frequencies lie between 0 and 1")
    return values
