"""``evaluate``: how accurate imputed dosages are, by minor-allele frequency, site and sample.

All figures count the panel's minor allele, except ``nonref_concordance``; bins are of the panel's
minor-allele frequency, closed on the right. The definitions are those of GLIMPSE2_concordance
(without ``--use-alt-af``): counting ALT instead inflates the rare bins.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.calibration import (
    Calibration,
    GenotypeCalibration,
    GenotypeReliability,
    QualityAccuracy,
    Reliability,
    quality_accuracy,
)
from snvrag.dosage import BIN_EDGES, PooledR2, frequency_bin, minor_allele_frequency
from snvrag.errors import InputError, UsageError
from snvrag.pairing import NotInStepError, PairedBlock, paired_blocks
from snvrag.panel import Panel
from snvrag.provenance import Progress
from snvrag.sites import SiteTable, plain_chromosome
from snvrag.vcf import QUALITY_FIELDS, DosageReader, read_sites

logger = logging.getLogger(__name__)

_CONSTANT = 1e-9
_COMMON = 0.05
# A stretch has at least so many masked sites, and more where there would be too many stretches.
_REGION_SITES, _REGIONS = 250, 800


@dataclass(frozen=True, slots=True)
class BinAccuracy:
    """Accuracy over some sites; undefined figures are NaN."""

    low: float
    high: float
    """Minor-allele frequencies in (low, high]; of all masked sites together in [0, 0.5], with those
    that are monomorphic in the panel and lie in no bin."""
    n_sites: int
    n_genotypes: int
    aggregate_r2: float
    """Squared correlation of true and imputed dosage over all genotypes together."""
    mean_site_r2: float
    """Mean of the per-site squared correlations; sites monomorphic in the truth left out."""
    nonref_concordance: float
    """Matching best guesses, pairs that are both hom-REF left out (1 - NRD)."""
    nonmajor_concordance: float
    """The same with the panel's major allele in the place of REF."""
    concordance: float


@dataclass(frozen=True, slots=True)
class SampleAccuracy:
    """Accuracy of one sample over all masked sites."""

    sample: str
    r2: float
    nonmajor_concordance: float
    concordance: float


@dataclass(frozen=True, slots=True)
class RegionAccuracy:
    """Accuracy of common variants in a stretch of a chromosome."""

    chromosome: str
    first: int
    """1-based position of its first masked site."""
    last: int
    n_sites: int
    """Masked sites with a minor-allele frequency above 0.05 that vary in the truth."""
    mean_site_r2: float
    """Of these; NaN without any."""


@dataclass(frozen=True, slots=True)
class SiteAccuracy:
    """Accuracy per masked site; arrays of one length."""

    table: SiteTable
    """The panel's sites that were compared, in the imputed file's order."""
    maf: NDArray[np.float64]
    r2: NDArray[np.float64]
    """NaN where the truth is monomorphic."""
    quality: NDArray[np.float64]
    """INFO/CR2, DR2 or R2 of the file; NaN where there is none."""
    concordance: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy of one imputed file."""

    label: str
    n_samples: int
    bins: list[BinAccuracy]
    all: BinAccuracy
    """All masked sites, also those that the panel has one allele of."""
    samples: list[SampleAccuracy]
    calibration: Calibration
    """Of the imputed dosage of the minor allele, per haplotype (halved if diploid)."""
    gp_calibration: GenotypeCalibration | None
    """Of genotype probabilities; None where the file has neither GP nor HDS."""
    quality: QualityAccuracy | None
    """INFO/CR2, DR2 or R2 against true r²; None where the file has none."""
    qualities: dict[str, QualityAccuracy]
    """The same for each of these fields that the file has."""
    regions: list[RegionAccuracy]
    """Stretches of equal numbers of masked sites, some 800 in all, in the panel's order."""
    sites: SiteAccuracy

    def as_json(self) -> dict[str, Any]:
        """The object that ``snvrag evaluate --json`` prints, per-site figures left out."""
        return {
            "label": self.label,
            "n_samples": self.n_samples,
            "bins": [asdict(b) for b in self.bins],
            "all": asdict(self.all),
            "samples": [asdict(s) for s in self.samples],
            "calibration": [asdict(c) for c in self.calibration.bins],
            "ece": self.calibration.ece,
            "gp_calibration": asdict(self.gp_calibration) if self.gp_calibration else None,
            "quality": asdict(self.quality) if self.quality else None,
            "qualities": {name: asdict(found) for name, found in self.qualities.items()},
            "regions": [asdict(region) for region in self.regions],
        }


def evaluate(
    imputed: Path,
    truth: Path,
    panel: Path,
    *,
    observed: Path | None = None,
    label: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare an imputed file with the truth at masked sites.

    Masked are the sites that ``observed`` does not name; without it, those that the imputed file
    marks (``IMP``, or ``IMPUTED`` without ``TYPED``). Imputed file and truth are read in step, so
    memory grows with the panel's sites, not with the samples; files whose records are in another
    order than the panel's are read once more with all of the truth in memory.

    Args:
        imputed: VCF/BCF with DS, HDS, GP or GT.
        truth: VCF/BCF with GT of at least the same samples.
        panel: reference panel, which gives frequencies and minor alleles.
        observed: VCF, or text of CHROM POS, of the sites that were measured.
        label: name of the method; the file's name if None.
        progress: called as ``progress(task, done, total)`` in records.

    Returns:
        Accuracy by bin of minor-allele frequency, by sample and by site; r² and concordances lie in
        [0, 1] and are NaN where undefined.

    Raises:
        UsageError: neither ``observed`` nor marks tell which sites were imputed.
        InputError: a file is damaged, a sample or a masked site is missing, a dosage is missing
            or no dosage, or a sample is haploid in one file and diploid in the other.
    """
    with Panel.open(panel) as opened:
        sites = opened.sites
        # Counted, not looked up: the bins are of the panel's genotypes.
        af = opened.ac / np.maximum(opened.an, 1)
    measured = None if observed is None else _measured(observed, sites)
    # Once more only for files whose records are in another order than the panel's.
    for whole in (False, True):
        with DosageReader(imputed) as reader, DosageReader(truth) as true:
            if measured is None and not reader.marks_imputed:
                raise UsageError(
                    f"{imputed}: marks no site as imputed (INFO/IMP or IMPUTED)",
                    "name the measured sites with --observed FILE",
                )
            sums = _Sums(len(reader.samples))
            try:
                for block in paired_blocks(
                    reader, true, sites, measured, whole=whole, progress=progress
                ):
                    sums.add(block, af[block.rows])
            except NotInStepError:
                continue
            if not sums.n_genotypes:
                raise InputError(
                    f"{truth}: all genotypes at the masked sites are missing",
                    "give the true genotypes of the imputed samples",
                )
            return sums.result(label or imputed.name, reader.samples, sites, af)
    raise AssertionError("records in any order were refused")


def _measured(path: Path, sites: SiteTable) -> NDArray[np.bool_]:
    """Which panel sites lie at an observed position: bool [panel sites]."""
    observed = read_sites(path)
    found = np.zeros(len(sites), dtype=bool)
    names, number = np.unique(observed.chrom, return_inverse=True)
    plain = np.array([plain_chromosome(name) for name in names.tolist()])[number]
    for name, first, last in sites.chromosomes():
        positions = observed.pos[plain == plain_chromosome(name)]
        found[first:last] = np.isin(sites.pos[first:last], positions)
    if found.all():
        raise InputError(
            f"{path}: names every site of the panel, so none is left to score",
            "name only what was measured, such as the array's sites",
        )
    if not found.any():
        logger.warning("%s: names no site of the panel: all are scored", path)
    return found


_PAIRS = ("n", "t", "d", "tt", "dd", "td", "agrees")
_CONCORDANCES = ("nonref", "nonref_agrees", "nonmajor", "nonmajor_agrees")
_SITES = ("sites", "varying", "r2")


class _Sums:
    """What the figures are made of, added up block by block; four numbers are kept per site."""

    def __init__(self, n_samples: int) -> None:
        # The last bin takes the sites that lie in none.
        self._bins = _zeros((*_PAIRS, *_CONCORDANCES, *_SITES), len(BIN_EDGES))
        self._samples = _zeros((*_PAIRS, *_CONCORDANCES), n_samples)
        self._calibration = Reliability()
        self._genotypes = GenotypeReliability()
        self._rows: list[NDArray[np.int64]] = []
        self._r2: list[NDArray[np.float64]] = []
        self._qualities: list[NDArray[np.float64]] = []
        self._concordance: list[NDArray[np.float64]] = []

    @property
    def n_genotypes(self) -> int:
        """Known true genotypes so far."""
        return int(self._bins["n"].sum())

    def add(self, block: PairedBlock, af: NDArray[np.float64]) -> None:
        """Add m sites, whose ALT frequency in the panel is ``af`` [m]."""
        flip = (af > 0.5)[:, None]
        known = block.truth >= 0
        truth = np.where(flip, block.ploidy - block.truth, block.truth)
        guess = np.where(flip, block.ploidy - block.guess, block.guess)
        t = np.where(known, truth, 0).astype(np.float64)
        d = np.where(flip, block.ploidy - block.dosage, block.dosage).astype(np.float64) * known
        agrees = (block.truth == block.guess) & known
        nonref = known & ~((block.truth == 0) & (block.guess == 0))
        nonmajor = known & ~((truth == 0) & (guess == 0))
        pairs = dict(zip(_PAIRS, (known, t, d, t * t, d * d, t * d, agrees), strict=True))
        counted = (nonref, nonref & agrees, nonmajor, nonmajor & agrees)
        pairs |= dict(zip(_CONCORDANCES, counted, strict=True))
        per_site = {name: x.sum(axis=1, dtype=np.float64) for name, x in pairs.items()}
        r2 = per_site_r2(*(per_site[name] for name in _PAIRS[:6]))
        varying = ~np.isnan(r2)
        per_bin = per_site | {
            "sites": np.ones(len(r2)),
            "varying": varying,
            "r2": np.nan_to_num(r2),
        }
        place = frequency_bin(minor_allele_frequency(af))
        for name, values in per_bin.items():
            np.add.at(self._bins[name], place, values)
        for name, x in pairs.items():
            self._samples[name] += x.sum(axis=0)
        self._rows.append(block.rows)
        self._r2.append(r2)
        self._qualities.append(block.qualities)
        self._concordance.append(per_site["agrees"] / np.maximum(per_site["n"], 1))
        ploidy = block.ploidy[known]
        self._calibration.add(d[known] / ploidy, t[known] / ploidy)
        self._genotypes.add(
            block.probability, block.probability_sources, block.truth, block.ploidy, flip=flip[:, 0]
        )

    def result(
        self, label: str, samples: Sequence[str], sites: SiteTable, af: NDArray[np.float64]
    ) -> Evaluation:
        """The figures; ``sites`` and ``af`` are the panel's."""
        rows, r2 = np.concatenate(self._rows), np.concatenate(self._r2)
        fields = np.concatenate(self._qualities)
        quality = _first_present(fields)
        maf = minor_allele_frequency(af[rows])
        by_field = {
            name: quality_accuracy(column, r2, maf)
            for name, column in zip(QUALITY_FIELDS, fields.T, strict=True)
        }
        edges = pairwise(BIN_EDGES)
        per_bin = [
            {name: x[i] for name, x in self._bins.items()} for i in range(len(BIN_EDGES) - 1)
        ]
        per_sample = [
            {name: x[i] for name, x in self._samples.items()} for i in range(len(samples))
        ]
        return Evaluation(
            label=label,
            n_samples=len(samples),
            bins=[_bin(low, high, own) for (low, high), own in zip(edges, per_bin, strict=True)],
            all=_bin(0.0, 0.5, {name: x.sum() for name, x in self._bins.items()}),
            samples=[_sample(name, own) for name, own in zip(samples, per_sample, strict=True)],
            calibration=self._calibration.result(),
            gp_calibration=self._genotypes.result(),
            quality=quality_accuracy(quality, r2, maf),
            qualities={name: found for name, found in by_field.items() if found},
            regions=_regions(sites, rows, r2, maf),
            sites=SiteAccuracy(
                sites.take(rows),
                maf,
                r2,
                quality,
                np.concatenate(self._concordance),
            ),
        )


def _regions(
    sites: SiteTable,
    rows: NDArray[np.int64],
    r2: NDArray[np.float64],
    maf: NDArray[np.float64],
) -> list[RegionAccuracy]:
    order = np.argsort(rows)
    rows, judged = rows[order], (maf > _COMMON)[order] & ~np.isnan(r2[order])
    ordered = r2[order]
    size = max(_REGION_SITES, -(-len(rows) // _REGIONS))
    found = []
    for name, first, last in sites.chromosomes():
        begin, end = np.searchsorted(rows, (first, last)).tolist()
        for start in range(begin, end, size):
            own = slice(start, min(start + size, end))
            scored = ordered[own][judged[own]]
            region = RegionAccuracy(
                chromosome=plain_chromosome(name),
                first=int(sites.pos[rows[own][0]]),
                last=int(sites.pos[rows[own][-1]]),
                n_sites=len(scored),
                mean_site_r2=float(scored.mean()) if len(scored) else float("nan"),
            )
            found.append(region)
    return found


def _first_present(fields: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first column that is not NaN: [sites] of [sites, fields]."""
    first = (~np.isnan(fields)).argmax(axis=1)
    return np.asarray(np.take_along_axis(fields, first[:, None], axis=1)[:, 0])


def _zeros(names: Sequence[str], length: int) -> dict[str, NDArray[np.float64]]:
    return {name: np.zeros(length) for name in names}


def _pooled_r2(own: Mapping[str, np.float64]) -> float:
    return PooledR2(int(own["n"]), *(float(own[name]) for name in _PAIRS[1:6])).value()


def _share(agrees: np.float64, counted: np.float64) -> float:
    return float(agrees / counted) if counted else float("nan")


def _bin(low: float, high: float, own: Mapping[str, np.float64]) -> BinAccuracy:
    return BinAccuracy(
        low=low,
        high=high,
        n_sites=int(own["sites"]),
        n_genotypes=int(own["n"]),
        aggregate_r2=_pooled_r2(own),
        mean_site_r2=_share(own["r2"], own["varying"]),
        nonref_concordance=_share(own["nonref_agrees"], own["nonref"]),
        nonmajor_concordance=_share(own["nonmajor_agrees"], own["nonmajor"]),
        concordance=_share(own["agrees"], own["n"]),
    )


def _sample(name: str, own: Mapping[str, np.float64]) -> SampleAccuracy:
    return SampleAccuracy(
        sample=name,
        r2=_pooled_r2(own),
        nonmajor_concordance=_share(own["nonmajor_agrees"], own["nonmajor"]),
        concordance=_share(own["agrees"], own["n"]),
    )


def per_site_r2(
    n: NDArray[np.float64],
    t: NDArray[np.float64],
    d: NDArray[np.float64],
    tt: NDArray[np.float64],
    dd: NDArray[np.float64],
    td: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Squared correlation of truth t and dosage d per site: float64 [sites].

    NaN where the truth is constant, 0 where only the dosage is.

    Args:
        n: pairs per site [sites].
        t, d, tt, dd, td: their sums, of squares and of products, [sites] each.
    """
    n = np.maximum(n, 1)
    var_t = tt - t * t / n
    var_d = dd - d * d / n
    covariance = td - t * d / n
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(var_d > _CONSTANT, covariance**2 / (var_t * var_d), 0.0)
    return np.where(var_t > _CONSTANT, r2, np.nan)


def write_tables(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Write per-site figures as TSV to ``path`` (a temporary name)."""
    with path.open("w", encoding="utf-8") as out:
        out.write("label\tCHROM\tPOS\tREF\tALT\tMAF\tr2\tquality\tconcordance\n")
        for evaluation in evaluations:
            sites = evaluation.sites
            table = sites.table
            keys = zip(table.chrom, table.pos, table.ref, table.alt, strict=True)
            rows = zip(sites.maf, sites.r2, sites.quality, sites.concordance, strict=True)
            for (chrom, pos, ref, alt), row in zip(keys, rows, strict=True):
                key = f"{plain_chromosome(chrom)}\t{pos}\t{ref}\t{alt}"
                figures = "\t".join(_text(x) for x in row)
                out.write(f"{evaluation.label}\t{key}\t{figures}\n")


def _text(value: float) -> str:
    return "NA" if np.isnan(value) else f"{value:.6g}"
