"""``impute``: a phased target VCF in, dosages at every panel site out.

The copying model answers alone, or a trained network refines its answer.

The panel is worked through in chunks: a core of windows, which the chunk answers for, and flanks
that only lend evidence. Each chunk's result is a part file in a work directory, so an interrupted
run goes on where it stopped; the output is written from the parts at the end.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snvrag import __version__
from snvrag.chunks import Chunk, plan_chunks
from snvrag.config import WindowConfig
from snvrag.copying import (
    ALL_STATES,
    STATE_WINDOWS,
    Reference,
    copying_probability,
    longest_runs,
    select_states,
    set_threads,
)
from snvrag.dosage import estimated_frequency, estimated_r2
from snvrag.errors import InputError, MismatchError, OutputError, UsageError
from snvrag.genetic_map import GeneticMap
from snvrag.networks import ChosenNetwork
from snvrag.panel import Panel
from snvrag.provenance import (
    Progress,
    atomic_file,
    check_output_file,
    digest_json,
    prepare_output_folder,
    read_json,
    sha256_file,
    write_json,
)
from snvrag.sites import Region
from snvrag.target import TargetHaplotypes
from snvrag.vcf import ImputedBlock, ImputedWriter

if TYPE_CHECKING:
    from snvrag.refinement import Refiner

logger = logging.getLogger(__name__)

PLAN = "plan.json"
LOCK = ".lock"
DEFAULT_MIN_OVERLAP = 0.1
DEFAULT_MEMORY = 2 * 2**30
_BLOCK_SITES = 1024
_SCALE = 65_535
_BATCH_BYTES = 128 << 20
# Per target haplotype and core site; with a network its evidence, standardised too, and more.
_BYTES_PER_SITE = 8
_REFINED_BYTES_PER_SITE = 256


@dataclass(frozen=True, slots=True)
class ImputeReport:
    """What :func:`impute` did."""

    output: Path
    index: Path
    n_samples: int
    n_sites: int
    """Records written."""
    n_typed: int
    """Of these, sites measured in the target."""
    matched: int
    """Target records matched to the panel, also outside the region."""
    flipped: int
    """Of these, with REF and ALT swapped."""
    excluded: dict[str, int]
    """Target records left out, by reason."""
    chunks: int
    reused: int
    """Chunks taken from an earlier, interrupted run."""
    seconds: float


def impute(
    target: Path,
    panel: Path,
    output: Path,
    *,
    model: Path | None = None,
    index_dir: Path | None = None,
    genetic_map: Path | None = None,
    regions: Sequence[Region] | None = None,
    excluded: Path | None = None,
    min_overlap: float = DEFAULT_MIN_OVERLAP,
    work_dir: Path | None = None,
    hds: bool = False,
    allow_self: bool = False,
    threads: int | None = None,
    device: str = "auto",
    max_memory: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ImputeReport:
    """Impute a phased target against a panel; the copying model needs no training.

    Args:
        target: phased VCF/BCF; missing calls are imputed.
        panel: reference panel made by :func:`snvrag.convert`.
        output: ``.vcf.gz`` or ``.bcf`` to write, with its index.
        model: run folder of :func:`snvrag.train`, whose network refines the copying model's
            answer; it must have been trained for the panel's sites.
        index_dir: folder of haplotype indexes, which all networks but the light one read; by
            default ``<panel>.index/``.
        genetic_map: map file; 1 cM per Mb if None.
        regions: write panel sites in these only; all if None.
        excluded: TSV to write, of target records left out and why.
        min_overlap: least share of the target's records within the panel's span that must match.
        work_dir: folder for finished parts; ``<output>.work`` if None, removed at the end.
        hds: also write FORMAT/HDS.
        allow_self: let a target sample copy from the panel sample of the same name.
        threads: CPU threads.
        device: where the network runs, ``auto``, ``cpu`` or ``cuda[:N]``.
        max_memory: bytes to plan with; 2 GiB if None.
        force: replace ``output``, and a work directory of another run.
        progress: called as ``progress(task, done, total)``.

    Raises:
        UsageError: wrong output name, or too little memory for one window.
        InputError: target, map or panel unsuitable, or too little overlap.
        OutputError: output or work directory cannot be written, or too little space.
        MismatchError: the work directory is of another run, or in use; the network was trained
            for other sites.
    """
    began = time.perf_counter()
    _check_outputs(output, excluded, force)
    set_threads(threads)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Panel.open(panel))
        maps = GeneticMap.read(genetic_map) if genetic_map else GeneticMap.uniform()
        network = ChosenNetwork.open(model, opened, maps, index_dir, device, threads, stack)
        haplotypes = TargetHaplotypes.read(target, opened, min_overlap)
        haplotypes.report_excluded(excluded)
        wanted = _wanted_rows(opened, regions)
        cm = maps.along(opened.chromosomes(), opened.positions)
        memory = max_memory or DEFAULT_MEMORY
        matched = len(haplotypes.match.panel_rows)
        chunks = plan_chunks(opened, cm, wanted, memory, matched, network.windows)
        identity = {
            "format_name": "snvrag-impute",
            "version": __version__,
            "panel_digest": opened.digest,
            "target": sha256_file(target),
            "map": sha256_file(genetic_map) if genetic_map else None,
            "rows": digest_json(np.flatnonzero(wanted).tolist()),
            "allow_self": allow_self,
            "model": network.digest,
            "chunks": [[c.start, c.end, c.first, c.last] for c in chunks],
        }
        folder = work_dir or output.with_name(output.name + ".work")
        _check_space(folder, output, int(wanted.sum()), haplotypes.n_haplotypes)
        with _work_directory(folder, identity, force=force) as parts:
            exclude = haplotypes.own_haplotypes(opened)
            if allow_self:
                exclude[:] = -1
            refiner = network.refiner(opened, haplotypes, exclude)
            reused = 0
            work: ChromosomeWork | None = None
            for done, chunk in enumerate(chunks, start=1):
                if _part(parts, chunk).exists():
                    reused += 1
                else:
                    if work is None or work.chrom != chunk.chrom:
                        work = ChromosomeWork.prepare(
                            opened, haplotypes, cm, chunk, exclude, network.windows, refiner
                        )
                    _impute_chunk(_part(parts, chunk), chunk, opened, haplotypes, cm, work)
                if progress:
                    progress("imputing", done, len(chunks))
            index = _write(
                output, opened, haplotypes, wanted, chunks, parts, hds, progress, network.meta
            )
        if work_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
        typed = int(wanted[haplotypes.match.panel_rows].sum())
        return ImputeReport(
            output=output,
            index=index,
            n_samples=len(haplotypes.samples),
            n_sites=int(wanted.sum()),
            n_typed=typed,
            matched=len(haplotypes.match.panel_rows),
            flipped=int(haplotypes.match.flipped.sum()),
            excluded=dict(Counter(reason for _, reason in haplotypes.excluded)),
            chunks=len(chunks),
            reused=reused,
            seconds=time.perf_counter() - began,
        )


def _check_outputs(output: Path, excluded: Path | None, force: bool) -> None:
    if not output.name.endswith((".vcf.gz", ".bcf")):
        raise UsageError(
            f"--output {output}: the name must end in .vcf.gz or .bcf", f"try {output}.vcf.gz"
        )
    check_output_file(output, force=force)
    if excluded is not None:
        check_output_file(excluded, force=force)


def _wanted_rows(panel: Panel, regions: Sequence[Region] | None) -> NDArray[np.bool_]:
    if not regions:
        return np.ones(panel.n_sites, dtype=bool)
    wanted = np.zeros(panel.n_sites, dtype=bool)
    names = [name for name, _ in panel.chromosomes()]
    chrom = panel.sites.chrom
    for region in regions:
        if region.chrom not in names:
            raise InputError(
                f"{panel.path}: has no chromosome {region.chrom!r}",
                f"it has {', '.join(names)}; names match exactly (chr20 is not 20)",
            )
        inside = (chrom == region.chrom) & (panel.positions >= region.start)
        wanted |= inside & (region.end is None or panel.positions <= region.end)
    if not wanted.any():
        raise InputError(
            f"{panel.path}: no panel site lies in {', '.join(map(str, regions))}",
            "see the panel's positions with: snvrag windows PANEL.h5",
        )
    return wanted


def _check_space(folder: Path, output: Path, n_sites: int, n_haplotypes: int) -> None:
    """Refuse to start where the parts or the output would fill the disk."""
    place = folder if folder.exists() else folder.parent
    needed = {place: 2 * n_sites * n_haplotypes}
    # Three to four bytes of compressed text per haplotype at most.
    needed[output.parent] = needed.get(output.parent, 0) + 4 * n_sites * n_haplotypes
    for path, n_bytes in needed.items():
        if path.is_dir() and shutil.disk_usage(path).free < n_bytes:
            raise OutputError(
                f"{path}: {shutil.disk_usage(path).free / 2**20:,.0f} MB are free, about "
                f"{n_bytes / 2**20:,.0f} MB are needed",
                "free some space, or choose another --work-dir or -o",
            )


@contextlib.contextmanager
def _work_directory(folder: Path, identity: dict[str, Any], *, force: bool) -> Iterator[Path]:
    """Lock the work directory and make sure that its parts belong to this very run."""
    prepare_output_folder(folder)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise MismatchError(
                f"{folder}: is in use by process {holder or '?'}",
                "wait for it, or choose another --work-dir",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        plan = folder / PLAN
        if plan.exists():
            saved = read_json(plan)
            differing = [k for k in identity if saved.get(k) != identity[k]]
            if differing and not force:
                raise MismatchError(
                    f"{folder}: holds parts of another run ({differing[0]} differs)",
                    "add --force to discard them, or choose another --work-dir",
                )
            if differing:
                for part in folder.glob("part-*.npy"):
                    part.unlink()
        write_json(plan, identity)
        yield folder
    finally:
        os.close(descriptor)


def _part(folder: Path, chunk: Chunk) -> Path:
    return folder / f"part-{chunk.number:05d}.npy"


@dataclass(frozen=True, slots=True)
class ChromosomeWork:
    """What all chunks of a chromosome share: observed alleles and the runs that choose states."""

    chrom: str
    start: int
    """The chromosome's first panel row."""
    at_observed: NDArray[np.uint8]
    """uint8 [J, n]: panel alleles at the chromosome's observed sites."""
    observed: NDArray[np.int64]
    """int64 [J]: their panel rows."""
    runs: NDArray[np.int32] | None
    """int32 [H, windows, k]; None where all haplotypes are states."""
    exclude: NDArray[np.int64]
    """int64 [H, 2]: panel haplotypes that a target haplotype must not see; -1 is none."""
    judges: NDArray[np.bool_] | None
    """bool [n]: haplotypes of samples that are not in the target too; see ``Reference``."""
    window_size: int
    refiner: "Refiner | None"

    @classmethod
    def prepare(
        cls,
        panel: Panel,
        target: TargetHaplotypes,
        cm: NDArray[np.float64],
        chunk: Chunk,
        exclude: NDArray[np.int64],
        windows: WindowConfig,
        refiner: "Refiner | None",
    ) -> "ChromosomeWork":
        """Read the observed alleles of a chunk's chromosome and search the runs."""
        start = 0
        for name, n_sites in panel.chromosomes():
            if name == chunk.chrom:
                break
            start += n_sites
        end = start + n_sites
        size = windows.window_size
        mask, calls = target.observed(start, end)
        rows = start + np.flatnonzero(mask)
        parts = [
            panel.alleles(a, min(a + size, end))[:, mask[a - start : a - start + size]].T
            for a in range(start, end, size)
        ]
        at_observed = np.ascontiguousarray(np.concatenate(parts))
        runs = None
        if panel.n_haplotypes > ALL_STATES and len(rows):
            number = ((rows - start) // size).astype(np.int64)
            runs = longest_runs(at_observed, calls, cm[rows], number, -(-n_sites // size))
        judges = np.ones(panel.n_haplotypes, dtype=bool)
        judges[exclude[exclude >= 0]] = False
        # Where most of the panel is the target, too few are left to say which allele is minor.
        enough = 2 * judges.sum() >= len(judges)
        return cls(
            chunk.chrom,
            start,
            at_observed,
            rows,
            runs,
            exclude,
            judges if enough else None,
            size,
            refiner,
        )


def _impute_chunk(
    path: Path,
    chunk: Chunk,
    panel: Panel,
    target: TargetHaplotypes,
    cm: NDArray[np.float64],
    work: ChromosomeWork,
) -> None:
    """Make the part of one chunk."""
    rows = slice(chunk.first, chunk.last)
    low, high = np.searchsorted(work.observed, [chunk.first, chunk.last])
    reference = Reference.of_core(
        panel.alleles(chunk.start, chunk.end),
        chunk.start - chunk.first,
        work.observed[low:high] - chunk.first,
        work.at_observed[low:high],
        work.judges,
    )
    _, calls = target.observed(chunk.first, chunk.last)
    size = work.window_size
    near = slice(
        max(0, (chunk.start - work.start) // size - STATE_WINDOWS),
        -(-(chunk.end - work.start) // size) + STATE_WINDOWS,
    )
    n = target.n_haplotypes
    result = np.empty((chunk.end - chunk.start, n), dtype=np.uint16)
    per_site = _BYTES_PER_SITE if work.refiner is None else _REFINED_BYTES_PER_SITE
    batch = max(1, _BATCH_BYTES // (per_site * (chunk.end - chunk.start)))
    for first in range(0, n, batch):
        some = slice(first, min(first + batch, n))
        states = select_states(
            reference.n_haplotypes,
            some.stop - some.start,
            None if work.runs is None else work.runs[some, near],
            work.exclude[some],
        )
        if work.refiner is None:
            found = copying_probability(
                reference, calls[some], cm[rows], panel.positions[rows], states=states
            )
        else:
            found = work.refiner.probability(chunk, some, reference, calls[some], cm[rows], states)
        result[:, some] = np.rint(found.T.astype(np.float64) * _SCALE)
    with atomic_file(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, result, allow_pickle=False)


def _write(
    output: Path,
    panel: Panel,
    target: TargetHaplotypes,
    wanted: NDArray[np.bool_],
    chunks: Sequence[Chunk],
    folder: Path,
    hds: bool,
    progress: Progress | None,
    model_meta: Sequence[str],
) -> Path:
    """Write the output and its index from the parts; returns the index's path."""
    contigs = {
        name: target.contig_length(name) for name in dict.fromkeys(chunk.chrom for chunk in chunks)
    }
    meta = [
        f"##source=snvrag {__version__}",
        f"##snvrag_panel={panel.path.name} digest {panel.digest}",
        *model_meta,
    ]
    bcf = output.name.endswith(".bcf")
    index = output.with_name(output.name + (".csi" if bcf else ".tbi"))
    made: Path | None = None
    try:
        with atomic_file(output) as temporary:
            writer = ImputedWriter(
                temporary, target.samples, target.ploidy, contigs, meta=meta, hds=hds, bcf=bcf
            )
            try:
                for done, chunk in enumerate(chunks, start=1):
                    for block in _blocks(panel, target, wanted, chunk, _part(folder, chunk)):
                        writer.add(block)
                    if progress:
                        progress("writing", done, len(chunks))
                made = writer.finish()
            finally:
                writer.abort()
        made.replace(index)
    finally:
        if made is not None:
            made.unlink(missing_ok=True)
    return index


def _blocks(
    panel: Panel, target: TargetHaplotypes, wanted: NDArray[np.bool_], chunk: Chunk, part: Path
) -> Iterator[ImputedBlock]:
    """The records of one chunk, measured calls in place of imputed ones."""
    stored = np.load(part, mmap_mode="r", allow_pickle=False)
    sites = panel.sites
    for start in range(chunk.start, chunk.end, _BLOCK_SITES):
        end = min(start + _BLOCK_SITES, chunk.end)
        hds = stored[start - chunk.start : end - chunk.start].astype(np.float32) / _SCALE
        observed, calls = target.observed(start, end)
        measured = calls.T >= 0
        typed = np.zeros(end - start, dtype=bool)
        columns = np.flatnonzero(observed)
        typed[columns] = measured.any(axis=1)
        hds[columns] = np.where(measured, calls.T, hds[columns])
        rows = np.flatnonzero(wanted[start:end])
        if not len(rows):
            continue
        at = rows + start
        yield ImputedBlock(
            chrom=sites.chrom[at].tolist(),
            pos=sites.pos[at],
            id=sites.id[at].tolist(),
            ref=sites.ref[at].tolist(),
            alt=sites.alt[at].tolist(),
            hds=hds[rows],
            imputed=~typed[rows],
            af=estimated_frequency(hds[rows]),
            dr2=estimated_r2(hds[rows]),
        )
