"""``impute``: a phased target VCF in, dosages at every panel site out.

The copying model answers alone, or a trained network refines its answer.

The panel is worked through in chunks: a core of windows, which the chunk answers for, and flanks
that only lend evidence. Each chunk's result is a part file in a work directory, so an interrupted
run goes on where it stopped; the output is written from the parts at the end.
"""

import contextlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag import __version__
from snvrag.chromosome_alleles import ChromosomeAlleles
from snvrag.chunks import (
    BATCH_BYTES,
    BATCH_HAPLOTYPES,
    REFINED_SITE_BYTES,
    SITE_BYTES,
    Chunk,
    ChunkPlanner,
    describe_plan,
    untyped_windows,
)
from snvrag.config import DEFAULT_IMPUTE_MEMORY, DEFAULT_MIN_OVERLAP
from snvrag.copying import (
    Bank,
    copying_evidence,
    copying_probability,
    set_threads,
)
from snvrag.dosage import estimated_quality
from snvrag.errors import UsageError, WorkError
from snvrag.genetic_map import GeneticMap
from snvrag.networks import ChosenNetwork, Refines
from snvrag.panel import Panel
from snvrag.provenance import (
    Progress,
    atomic_file,
    check_output_file,
    digest_json,
    sha256_file,
)
from snvrag.selection import genetic_positions, leave_out_bare_chromosomes, wanted_rows
from snvrag.sites import Region
from snvrag.target import TargetHaplotypes
from snvrag.vcf.columns import round_probabilities
from snvrag.vcf.writer import PROBABILITY_SCALE, ImputedBlock, ImputedWriter
from snvrag.workdir import (
    check_space,
    part_path,
    plan_or_resume,
    read_part,
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
    reused: int
    """Chunks taken from an earlier, interrupted run."""
    estimated_memory: int
    """Bytes that the process was expected to take at most, by the plan."""
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
            answer; it must have been trained for the panel's sites. ``shipped`` is the network
            that comes with the package, for any sites.
        index_dir: folder of haplotype indexes, which all networks but the light one read; by
            default ``<panel>.index/``.
        genetic_map: map file; 1 cM per Mb if None.
        regions: write panel sites in these only; if None, all of the chromosomes that share a site
            with the target.
        excluded: TSV to write, of target records left out and why.
        min_overlap: least share of the target's records within the panel's span that must match.
        work_dir: folder for finished parts; ``<output>.work`` if None, removed at the end.
        hds: also write FORMAT/HDS.
        allow_self: let a target sample copy from the panel sample of the same name.
        threads: CPU threads.
        device: where the network runs, ``auto``, ``cpu`` or ``cuda[:N]``.
        max_memory: bytes that the process may take; 2 GiB if None.
        force: replace ``output``, and a work directory of another run.
        progress: called as ``progress(task, done, total)`` in sites; the tasks are ``imputing``
            and ``writing``; ``reading``, of the target in records, has no known total.

    Raises:
        UsageError: wrong output name, output over an input or another output, a network's option
            without ``model``, or too little memory for one window.
        InputError: target, map or panel unsuitable, or too little overlap.
        OutputError: output or work directory cannot be written, or too little space.
        MismatchError: the work directory is of another run, in use, or of parts that
            ``max_memory`` and ``threads`` do not allow; the network was trained for other sites.
    """
    began = time.perf_counter()
    _check_outputs(output, excluded, (target, panel, genetic_map), force)
    set_threads(threads)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Panel.open(panel))
        maps = GeneticMap.read(genetic_map) if genetic_map else GeneticMap.uniform()
        network = ChosenNetwork.open(model, opened, maps, index_dir, device, threads, stack)
        wanted = wanted_rows(opened, regions)
        haplotypes = TargetHaplotypes.read(target, opened, min_overlap, progress)
        matched = haplotypes.match.panel_rows
        wanted = leave_out_bare_chromosomes(opened, wanted, matched, named=bool(regions))
        cm = genetic_positions(opened, maps, wanted)
        planner = ChunkPlanner(
            opened,
            cm,
            max_memory or DEFAULT_IMPUTE_MEMORY,
            matched,
            network.windows,
            haplotypes.n_haplotypes,
            threads,
            network.n_bytes,
        )
        identity = {
            "format_name": "snvrag-impute",
            "version": __version__,
            "panel_digest": opened.digest,
            "target": sha256_file(target),
            "map": sha256_file(genetic_map) if genetic_map else None,
            "rows": digest_json(np.flatnonzero(wanted).tolist()),
            "allow_self": allow_self,
            "model": network.digest,
        }
        folder = work_dir or output.with_name(output.name + ".work")
        chunks = plan_or_resume(folder, identity, wanted, planner, force=force)
        plan = describe_plan(chunks, planner.memory)
        logger.info("%s, %d samples", plan, len(haplotypes.samples))
        typed = matched[haplotypes.is_typed()]
        if bare := untyped_windows(opened, wanted, typed, network.windows):
            logger.info("%d windows hold no typed site and go by their flanks", bare)
        check_space(folder, output, int(wanted.sum()), haplotypes.n_haplotypes)
        with work_directory(folder, identity, chunks, force=force) as parts:
            exclude = haplotypes.own_haplotypes(opened)
            if allow_self:
                exclude[:] = -1
            refiner = network.refiner and network.refiner(haplotypes, exclude)
            reused = 0
            judges = np.ones(opened.n_haplotypes, dtype=bool)
            judges[exclude[exclude >= 0]] = False
            alleles: ChromosomeAlleles | None = None
            for chunk, tell in _told("imputing", chunks, progress):
                part = part_path(parts, chunk)
                if part.exists():
                    reused += 1
                else:
                    if alleles is None or alleles.chrom != chunk.chrom:
                        alleles = ChromosomeAlleles(opened, matched, chunk.chrom, judges)
                    asked = (opened, haplotypes, cm, exclude, network.bank, refiner)
                    _impute_chunk(part, chunk, alleles, *asked, tell)
            index = _write(
                output, opened, haplotypes, wanted, chunks, parts, hds, progress, network.meta
            )
            # Last: an interrupted run must not find its own file in the way.
            haplotypes.report_excluded(excluded)
        if work_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
        return ImputeReport(
            output=output,
            index=index,
            n_samples=len(haplotypes.samples),
            n_sites=int(wanted.sum()),
            n_typed=int(wanted[typed].sum()),
            matched=len(matched),
            flipped=int(haplotypes.match.flipped.sum()),
            excluded=dict(Counter(reason for _, reason in haplotypes.excluded)),
            chunks=len(chunks),
            reused=reused,
            estimated_memory=max(chunk.n_bytes for chunk in chunks),
            seconds=time.perf_counter() - began,
        )


def _check_outputs(
    output: Path, excluded: Path | None, inputs: Sequence[Path | None], force: bool
) -> None:
    if not output.name.endswith((".vcf.gz", ".bcf")):
        raise UsageError(
            f"--output {output}: the name must end in .vcf.gz or .bcf", f"try {output}.vcf.gz"
        )
    own = (output, *_index_paths(output))
    if excluded is not None and excluded.resolve() in [path.resolve() for path in own]:
        raise UsageError(
            f"--excluded {excluded}: is the output or its index", "choose another name"
        )
    for option, written in (*(("--output", path) for path in own), ("--excluded", excluded)):
        if written is None or not written.exists():
            continue
        # Even --force must not replace what is being read.
        if any(path is not None and path.exists() and written.samefile(path) for path in inputs):
            raise UsageError(f"{option} {written}: is one of the inputs", "choose another name")
    for written in (*own, excluded):
        if written is not None:
            check_output_file(written, force=force)


def _index_paths(output: Path) -> tuple[Path, Path]:
    """The index that is written, and the one of the other kind, which htslib would prefer."""
    kinds = (".csi", ".tbi") if output.name.endswith(".bcf") else (".tbi", ".csi")
    first, second = (output.with_name(output.name + kind) for kind in kinds)
    return first, second


def _told(
    task: str, chunks: Sequence[Chunk], progress: Progress | None
) -> Iterator[tuple[Chunk, Callable[[float], None]]]:
    """Each chunk with a function that tells the share of it that is done."""
    total = sum(chunk.end - chunk.start for chunk in chunks)
    before = 0
    for chunk in chunks:
        size = chunk.end - chunk.start

        def tell(share: float, before: int = before, size: int = size) -> None:
            if progress:
                progress(task, before + int(share * size), total)

        yield chunk, tell
        tell(1.0)
        before += size


def _impute_chunk(
    path: Path,
    chunk: Chunk,
    alleles: ChromosomeAlleles,
    panel: Panel,
    target: TargetHaplotypes,
    cm: NDArray[np.float64],
    exclude: NDArray[np.int64],
    bank: Bank,
    refiner: Refines | None,
    tell: Callable[[float], None],
) -> None:
    """Make the part of one chunk."""
    rows = slice(chunk.first, chunk.last)
    reference = alleles.reference(chunk)
    _, calls = target.observed(chunk.first, chunk.last)
    n = target.n_haplotypes
    result = np.empty((chunk.end - chunk.start, n), dtype=np.uint16)
    per_site = SITE_BYTES if refiner is None else REFINED_SITE_BYTES
    batch = max(1, min(BATCH_HAPLOTYPES, BATCH_BYTES // (per_site * (chunk.end - chunk.start))))
    for first in range(0, n, batch):
        tell(first / n)
        some = slice(first, min(first + batch, n))
        asked = (reference, calls[some], cm[rows], panel.positions[rows])
        if refiner is None:
            found = copying_probability(*asked, exclude=exclude[some], bank=bank)
        else:
            features = copying_evidence(*asked, exclude=exclude[some], bank=bank)
            logits = refiner.logits(chunk, some, reference.minor_is_alt, features)
            found = np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)
        if not round_probabilities(found, found.view(np.uint32), result[:, some]):
            raise WorkError(
                f"{chunk.chrom}: a probability between panel sites {chunk.start:,} and "
                f"{chunk.end:,} is not a number",
                "impute without -m, or train again",
            )
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
    index, other = _index_paths(output)
    made: Path | None = None
    try:
        with atomic_file(output) as temporary:
            writer = ImputedWriter(
                temporary, target.samples, target.ploidy, contigs, meta=meta, hds=hds, bcf=bcf
            )
            try:
                for chunk, tell in _told("writing", chunks, progress):
                    for share, block in _blocks(panel, target, wanted, chunk, folder):
                        writer.add(block)
                        tell(share)
                made = writer.finish()
            finally:
                writer.abort()
        made.replace(index)
        other.unlink(missing_ok=True)
    finally:
        if made is not None:
            made.unlink(missing_ok=True)
    return index


def _blocks(
    panel: Panel, target: TargetHaplotypes, wanted: NDArray[np.bool_], chunk: Chunk, folder: Path
) -> Iterator[tuple[float, ImputedBlock]]:
    """The records of one chunk, measured calls in place of imputed ones, and the share done."""
    n_sites, n_haplotypes = chunk.end - chunk.start, target.n_haplotypes
    stored = read_part(part_path(folder, chunk), n_sites, n_haplotypes)
    sites = panel.sites
    step = max(1, min(_BLOCK_SITES, _BLOCK_CALLS // n_haplotypes))
    for start in range(chunk.start, chunk.end, step):
        end = min(start + step, chunk.end)
        probability = np.array(stored[start - chunk.start : end - chunk.start])
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
        yield (end - chunk.start) / n_sites, block
