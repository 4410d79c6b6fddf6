"""``merge``: one file of all samples from imputed batches of samples.

A batch that was imputed by itself has the values that one run of all samples gives its samples;
only INFO/AF, DR2 and CR2 are of all samples together, and are computed anew from FORMAT/HDS.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.dosage import estimated_quality
from snvrag.errors import InputError, MismatchError, UsageError
from snvrag.imputed_file import check_imputed_output, index_paths, new_imputed_file
from snvrag.provenance import Progress, watch
from snvrag.vcf import count_records
from snvrag.vcf.batches import Batch, BatchRecords, join_records, open_batch
from snvrag.vcf.writer import HDS_HEADER, IndexedFile

_BLOCK_SITES = 1024
# Bounds what a block of records takes, about 40 bytes per haplotype and record.
_BLOCK_CALLS = 1_000_000
_OF_ONE_RUN = "merge batches of one target, imputed with the same panel, map, model and --region"


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What :func:`merge` did."""

    output: Path
    index: Path
    n_batches: int
    n_samples: int
    n_sites: int
    seconds: float


def merge(
    batches: Sequence[Path],
    output: Path,
    *,
    hds: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Put imputed batches of samples side by side, block by block: memory is constant in sites.

    Columns of samples are taken over as they are. INFO/IMP stays where no batch has a call.

    Args:
        batches: files that ``impute --hds`` wrote, all VCF.gz or all BCF, of the same sites in the
            same order; their samples follow each other in the order of the files.
        output: file to write, of the batches' kind, with its index.
        hds: also write FORMAT/HDS.
        force: replace ``output``.
        progress: called as ``progress("merging", sites, total)``; a total of 0 is unknown.

    Returns:
        Numbers of batches, samples and sites written.

    Raises:
        UsageError: no batch, a wrong output name, or output over an input.
        InputError: a batch is absent, damaged, without HDS or not as ``impute`` writes it, or a
            sample comes twice.
        MismatchError: the batches' headers or sites differ; names the first difference.
        OutputError: the output cannot be written.
    """
    began = time.perf_counter()
    if not batches:
        raise UsageError("merge: no batch is given", "name the files that impute --hds wrote")
    check_imputed_output(output, None, batches, force)
    bcf = output.name.endswith(".bcf")
    n_sites = 0
    check = watch(*batches)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(open_batch(path))) for path in batches]
        _check_headers(opened, output)
        first = opened[0]
        expected = count_records(first.path)
        samples = [name for batch in opened for name in batch.samples]
        lines = [*first.meta, *([HDS_HEADER] if hds else [])]
        step = max(1, min(_BLOCK_SITES, _BLOCK_CALLS // (2 * len(samples))))
        with new_imputed_file(
            output, lambda path: IndexedFile(path, lines, samples, first.contigs, bcf=bcf)
        ) as file:
            while True:
                found = [batch.read(step, hds=hds) for batch in opened]
                _check_sites(batches, found)
                if not len(found[0]):
                    break
                thousandths = np.concatenate([records.thousandths for records in found], axis=1)
                quality = estimated_quality(thousandths / 1000)
                _add(file, found[0], join_records(found, quality, hds=hds, bcf=bcf))
                n_sites += len(found[0])
                if progress:
                    progress("merging", n_sites, expected)
            check()
    return MergeReport(
        output=output,
        index=index_paths(output)[0],
        n_batches=len(batches),
        n_samples=len(samples),
        n_sites=n_sites,
        seconds=time.perf_counter() - began,
    )


def _check_headers(batches: Sequence[Batch], output: Path) -> None:
    first = batches[0]
    seen: dict[str, Path] = {}
    for batch in batches:
        if batch.bcf != output.name.endswith(".bcf"):
            kinds = ("VCF.gz", "BCF")
            raise UsageError(
                f"{batch.path}: is {kinds[batch.bcf]}, and {output} is not",
                "give an output of the batches' kind; bcftools view turns one into the other",
            )
        for ours, theirs in zip(first.meta, batch.meta, strict=False):
            if ours != theirs:
                raise MismatchError(
                    f"{batch.path}: its header has {theirs!r}, that of {first.path} {ours!r}",
                    _OF_ONE_RUN,
                )
        if len(first.meta) != len(batch.meta):
            raise MismatchError(
                f"{batch.path}: its header has {len(batch.meta)} lines, that of {first.path} "
                f"{len(first.meta)}",
                _OF_ONE_RUN,
            )
        for name in batch.samples:
            if name in seen:
                raise InputError(
                    f"{batch.path}: sample {name!r} is in {seen[name]} too",
                    "give each sample in one batch only",
                )
            seen[name] = batch.path


def _check_sites(paths: Sequence[Path], found: Sequence[BatchRecords]) -> None:
    first = found[0]
    for path, records in zip(paths[1:], found[1:], strict=True):
        for row, (ours, theirs) in enumerate(zip(first.site, records.site, strict=False)):
            if ours != theirs:
                same = "other alleles or another ID at "
                same = same if first.name(row) == records.name(row) else ""
                raise MismatchError(
                    f"{path}: has {same}{records.name(row)} where {paths[0]} has {first.name(row)}",
                    _OF_ONE_RUN,
                )
        if len(first) != len(records):
            longer, shorter = (paths[0], path) if len(first) > len(records) else (path, paths[0])
            rows = max(first, records, key=len)
            name = rows.name(min(len(first), len(records)))
            raise MismatchError(
                f"{shorter}: has no more records where {longer} has {name}", _OF_ONE_RUN
            )


def _add(file: IndexedFile, records: BatchRecords, joined: list[bytes]) -> None:
    """Write joined records, chromosome by chromosome."""
    first = 0
    for chrom, group in groupby(records.chrom):
        some = slice(first, first + len(list(group)))
        own = joined[some]
        offsets: NDArray[np.int64] = np.array([0, *accumulate(map(len, own))], dtype=np.int64)
        file.add(
            chrom,
            np.array(records.pos[some], dtype=np.int64),
            np.array(records.ref_length[some], dtype=np.int64),
            b"".join(own),
            offsets,
        )
        first = some.stop
