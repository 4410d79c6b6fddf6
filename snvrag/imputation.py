"""``impute``: a phased target VCF in, dosages at every panel site out.

The copying model answers alone, or a trained network refines its answer.

The panel is worked through in chunks: a core of windows, which the chunk answers for, and flanks
that only lend evidence. Each chunk's result is a part file in a work directory, so an interrupted
run goes on where it stopped; the output is written from the parts at the end.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag import __version__
from snvrag.chunks import (
    BATCH_HAPLOTYPES,
    Chunk,
    ChunkPlanner,
    Part,
    Plan,
    threads_per_job,
    untyped_windows,
)
from snvrag.config import DEFAULT_IMPUTE_MEMORY, DEFAULT_MIN_OVERLAP
from snvrag.copying import set_threads
from snvrag.dosage import estimated_quality
from snvrag.errors import UsageError
from snvrag.genetic_map import GeneticMap
from snvrag.impute_chunks import PartMaker
from snvrag.impute_jobs import make_parts
from snvrag.imputed_file import check_imputed_output, index_paths, new_imputed_file
from snvrag.networks import ChosenNetwork
from snvrag.panel import Panel
from snvrag.provenance import (
    Progress,
    digest_json,
    sha256_file,
    watch,
)
from snvrag.selection import genetic_positions, leave_out_bare_chromosomes, wanted_rows
from snvrag.sites import Region
from snvrag.target import TargetHaplotypes
from snvrag.vcf import SampleSelection
from snvrag.vcf.writer import PROBABILITY_SCALE, ImputedBlock, ImputedWriter
from snvrag.workdir import (
    StoredChunk,
    check_space,
    part_path,
    plan_or_resume,
    shared_arrays,
    work_directory,
)

logger = logging.getLogger(__name__)

_BLOCK_SITES = 1024
# Bounds what a block of records takes to be written, about 60 bytes per haplotype and record, and
# keeps it in the cache.
_BLOCK_CALLS = 100_000


@dataclass(frozen=True, slots=True)
class ImputeReport:
    """What :func:`impute` did."""

    output: Path
    index: Path
    n_samples: int
    n_sites: int
    """Records written."""
    n_typed: int
    """Of these, sites with a call in the target: those without INFO/IMP."""
    matched: int
    """Target records matched to the panel, also outside the region."""
    flipped: int
    """Of these, with REF and ALT swapped."""
    excluded: dict[str, int]
    """Target records left out, by reason."""
    chunks: int
    """Pieces of work: chunks of sites, each for one or more groups of target haplotypes."""
    reused: int
    """Of these, taken from an earlier, interrupted run."""
    estimated_memory: int
    """Bytes that all processes together were expected to take at most, by the plan."""
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
    samples: SampleSelection | None = None,
    excluded: Path | None = None,
    min_overlap: float = DEFAULT_MIN_OVERLAP,
    work_dir: Path | None = None,
    hds: bool = False,
    allow_self: bool = False,
    threads: int | None = None,
    jobs: int = 1,
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
            answer; it must have been trained for the panel's sites. ``shipped`` is the network
            that comes with the package, for any sites.
        index_dir: folder of haplotype indexes, which all networks but the light one read; by
            default ``<panel>.index/``.
        genetic_map: map file; 1 cM per Mb if None.
        regions: write panel sites in these only; if None, all of the chromosomes that share a site
            with the target.
        samples: impute these samples of the target only.
        excluded: TSV to write, of target records left out and why.
        min_overlap: least share of the target's records within the panel's span that must match.
        work_dir: folder for finished parts; ``<output>.work`` if None, removed at the end.
        hds: also write FORMAT/HDS.
        allow_self: let a target sample copy from the panel sample of the same name.
        threads: CPU threads of all processes together; those of the machine if None.
        jobs: processes that compute. The result does not depend on it, as long as the share of
            ``max_memory`` of each allows the same chunks.
        device: where the network runs, ``auto``, ``cpu`` or ``cuda[:N]``.
        max_memory: bytes that all processes together may take; 2 GiB for each if None.
        force: replace ``output``, and a work directory of another run.
        progress: called as ``progress(task, done, total)`` in sites; the tasks are ``imputing``
            and ``writing``; before them ``reading``, of the target in records, whose total may be
            unknown (0), and ``hashing``, in MB.

    Returns:
        What was written, matched and left out. The dosages themselves are in ``output``.

    Raises:
        UsageError: wrong output name, output over an input or another output, a network's option
            without ``model``, too little memory for one window, or several processes for a network
            on a GPU.
        InputError: target, map or panel unsuitable, or too little overlap.
        OutputError: output or work directory cannot be written, or too little space.
        MismatchError: the work directory is of another run, in use, or of parts that
            ``max_memory``, ``jobs`` and ``threads`` do not allow; the network was trained for other
            sites.
        WorkError: a process died, for example for lack of memory.
    """
    began = time.perf_counter()
    check_imputed_output(output, excluded, (target, panel, genetic_map), force)
    own_threads = threads_per_job(threads, jobs)
    set_threads(threads)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Panel.open(panel))
        check = watch(target, genetic_map)
        maps = GeneticMap.read(genetic_map) if genetic_map else GeneticMap.uniform()
        network = ChosenNetwork.open(model, opened, maps, index_dir, device, threads, stack)
        wanted = wanted_rows(opened, regions)
        _check_jobs(jobs, network)
        haplotypes = TargetHaplotypes.read(target, opened, min_overlap, progress, samples)
        digests = [sha256_file(path, progress) if path else None for path in (target, genetic_map)]
        check()
        matched = haplotypes.match.panel_rows
        wanted = leave_out_bare_chromosomes(opened, wanted, matched, named=bool(regions))
        cm = genetic_positions(opened, maps, wanted)
        planner = ChunkPlanner(
            opened,
            cm,
            max_memory or jobs * DEFAULT_IMPUTE_MEMORY,
            matched,
            network.windows,
            haplotypes.n_haplotypes,
            own_threads,
            network.n_bytes,
            jobs,
            BATCH_HAPLOTYPES if network.reads_windows else 1,
        )
        identity = {
            "format_name": "snvrag-impute",
            "version": __version__,
            "panel_digest": opened.digest,
            "target": digests[0],
            "samples": digest_json(haplotypes.samples),
            "map": digests[1],
            "rows": digest_json(np.flatnonzero(wanted).tolist()),
            "allow_self": allow_self,
            "model": network.digest,
        }
        folder = work_dir or output.with_name(output.name + ".work")
        plan = plan_or_resume(folder, identity, wanted, planner, force=force)
        logger.info("%s, %d samples", planner.describe(plan), len(haplotypes.samples))
        typed = matched[haplotypes.is_typed()]
        if bare := untyped_windows(opened, wanted, typed, network.windows):
            logger.info("%d windows hold no typed site and go by their flanks", bare)
        check_space(folder, output, int(wanted.sum()), haplotypes.n_haplotypes)
        keep = work_dir is not None
        with work_directory(folder, identity, plan, force=force, keep=keep) as place:
            exclude = haplotypes.own_haplotypes(opened)
            judges = haplotypes.strangers(opened)
            if allow_self:
                exclude[:], judges[:] = -1, True
            maker = PartMaker(opened, haplotypes.measured(), cm, exclude, judges, network)
            left = [part for part in plan.parts() if not part_path(place, part).exists()]
            tell = _telling(progress, plan, left)
            if jobs == 1:
                _compute(maker, left, place, tell)
            elif left:
                setup = {
                    "panel": str(panel),
                    "model": _text(model),
                    "index_dir": _text(index_dir),
                    "genetic_map": _text(genetic_map),
                    "device": device,
                    "threads": own_threads,
                    # Each process opens these by name.
                    "digests": [opened.digest, maps.digest, network.digest],
                }
                with shared_arrays(place, **maker.arrays()) as arrays:
                    setup["arrays"] = str(arrays)
                    make_parts(left, place, jobs, own_threads, setup, tell)
            index = _write(
                output, opened, haplotypes, wanted, plan, place, hds, progress, network.meta
            )
            # Last: an interrupted run must not find its own file in the way.
            haplotypes.report_excluded(excluded)
        return ImputeReport(
            output=output,
            index=index,
            n_samples=len(haplotypes.samples),
            n_sites=int(wanted.sum()),
            n_typed=int(wanted[typed].sum()),
            matched=len(matched),
            flipped=int(haplotypes.match.flipped.sum()),
            excluded=dict(Counter(reason for _, reason in haplotypes.excluded)),
            chunks=len(plan.parts()),
            reused=len(plan.parts()) - len(left),
            estimated_memory=planner.total_bytes(plan.chunks),
            seconds=time.perf_counter() - began,
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _check_jobs(jobs: int, network: ChosenNetwork) -> None:
    if jobs > 1 and network.device != "cpu":
        raise UsageError(
            f"--jobs {jobs}: the network runs on {network.device}, which one process uses alone",
            "leave --jobs out, or add --device cpu",
        )


def _telling(
    progress: Progress | None, plan: Plan, left: Sequence[Part]
) -> Callable[[float], None]:
    """Tells progress, in sites, where it is told how much of ``left`` is done, in calls."""
    total = sum(chunk.end - chunk.start for chunk in plan.chunks)
    n_haplotypes = plan.edges[-1]
    before = total * n_haplotypes - sum(part.calls for part in left)

    def tell(done: float) -> None:
        if progress:
            progress("imputing", int((before + done) / n_haplotypes), total)

    return tell


def _compute(
    maker: PartMaker, parts: Sequence[Part], folder: Path, tell: Callable[[float], None]
) -> None:
    """Compute parts in this process."""
    done = 0
    for part in parts:

        def tell_share(share: float, before: int = done, part: Part = part) -> None:
            tell(before + share * part.calls)

        maker.make(part_path(folder, part), part, tell_share)
        done += part.calls
    tell(done)


def _write(
    output: Path,
    panel: Panel,
    target: TargetHaplotypes,
    wanted: NDArray[np.bool_],
    plan: Plan,
    folder: Path,
    hds: bool,
    progress: Progress | None,
    model_meta: Sequence[str],
) -> Path:
    """Write the output and its index from the parts; returns the index's path."""
    contigs = {
        name: target.contig_length(name)
        for name in dict.fromkeys(chunk.chrom for chunk in plan.chunks)
    }
    meta = [
        f"##source=snvrag {__version__}",
        f"##snvrag_panel={panel.path.name} digest {panel.digest}",
        *model_meta,
    ]

    def make_writer(path: Path) -> ImputedWriter:
        bcf = output.name.endswith(".bcf")
        return ImputedWriter(
            path, target.samples, target.ploidy, contigs, meta=meta, hds=hds, bcf=bcf
        )

    with new_imputed_file(output, make_writer) as writer:
        total = sum(chunk.end - chunk.start for chunk in plan.chunks)
        done = 0
        for chunk in plan.chunks:
            stored = StoredChunk(folder, plan, chunk)
            for within, block in _blocks(panel, target, wanted, chunk, stored):
                writer.add(block)
                if progress:
                    progress("writing", done + within, total)
            done += chunk.end - chunk.start
        panel.check_unchanged()
        if progress:
            progress("writing", total, total)
    return index_paths(output)[0]


def _blocks(
    panel: Panel,
    target: TargetHaplotypes,
    wanted: NDArray[np.bool_],
    chunk: Chunk,
    stored: StoredChunk,
) -> Iterator[tuple[int, ImputedBlock]]:
    """The records of one chunk, measured calls in place of imputed ones, and the sites done."""
    sites = panel.sites
    step = max(1, min(_BLOCK_SITES, _BLOCK_CALLS // target.n_haplotypes))
    for start in range(chunk.start, chunk.end, step):
        end = min(start + step, chunk.end)
        probability = np.array(stored.rows(start - chunk.start, end - chunk.start))
        observed, calls = target.observed(start, end)
        measured = calls.T >= 0
        typed = np.zeros(end - start, dtype=bool)
        columns = np.flatnonzero(observed)
        typed[columns] = measured.any(axis=1)
        known = calls.T.astype(np.uint16) * np.uint16(PROBABILITY_SCALE)
        probability[columns] = np.where(measured, known, probability[columns])
        rows = np.flatnonzero(wanted[start:end])
        if not len(rows):
            continue
        at = rows + start
        if len(rows) < len(probability):
            probability = probability[rows]
        af, dr2, cr2 = estimated_quality(probability / np.float64(PROBABILITY_SCALE))
        block = ImputedBlock(
            chrom=chunk.chrom,
            pos=sites.pos[at],
            id=sites.id[at].tolist(),
            ref=sites.ref[at].tolist(),
            alt=sites.alt[at].tolist(),
            probability=probability,
            imputed=~typed[rows],
            af=af,
            dr2=dr2,
            cr2=cr2,
        )
        yield end - chunk.start, block
