"""``evaluate``: how accurate imputed dosages are, by minor-allele frequency, site and sample.

All figures count the panel's minor allele, except ``nonref_concordance``; bins are of the panel's
minor-allele frequency, closed on the right. The definitions are those of GLIMPSE2_concordance
(without ``--use-alt-af``): counting ALT instead inflates the rare bins.
"""

from collections.abc import Sequence
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
from snvrag.panel import Panel
from snvrag.provenance import Progress
from snvrag.sites import plain_chromosome
from snvrag.vcf import DosageReader, check_complete, read_sites

_CONSTANT = 1e-9
_EVERY = 256
# What rounding of DS to three decimals can add.
_DOSAGE_SLACK = 0.0011
Key = tuple[str, int, str, str]
_Genotypes = NDArray[np.int8]


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
class SiteAccuracy:
    """Accuracy per masked site; arrays of one length."""

    keys: list[Key]
    maf: NDArray[np.float64]
    r2: NDArray[np.float64]
    """NaN where the truth is monomorphic."""
    quality: NDArray[np.float64]
    """INFO/DR2 or R2 of the file; NaN where there is none."""
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
    """INFO/DR2 or R2 against true r²; None where the file has none."""
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
        }


@dataclass(frozen=True, slots=True)
class _Compared:
    """True and imputed genotypes at masked sites: [sites, samples], ALT counts and ploidy."""

    keys: list[Key]
    af: NDArray[np.float64]
    truth: NDArray[np.int8]
    dosage: NDArray[np.float32]
    guess: NDArray[np.int8]
    ploidy: NDArray[np.int8]
    quality: NDArray[np.float64]
    reliability: GenotypeReliability


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
    marks (``IMP``, or ``IMPUTED`` without ``TYPED``).

    Args:
        imputed: VCF/BCF with DS, HDS, GP or GT.
        truth: VCF/BCF with GT of at least the same samples.
        panel: reference panel, which gives frequencies and minor alleles.
        observed: VCF, or text of CHROM POS, of the sites that were measured.
        label: name of the method; the file's name if None.
        progress: called as ``progress(task, done, total)`` in records.

    Raises:
        UsageError: neither ``observed`` nor marks tell which sites were imputed.
        InputError: a file is damaged, a sample or a masked site is missing, a dosage is missing
            or no dosage, or a sample is haploid in one file and diploid in the other.
    """
    for source in (imputed, truth):
        check_complete(source)
    frequency = _panel_frequencies(panel)
    known = None if observed is None else _observed_sites(observed)
    reader = DosageReader(imputed)
    if known is None and not reader.marks_imputed:
        reader.close()
        raise UsageError(
            f"{imputed}: marks no site as imputed (INFO/IMP or IMPUTED)",
            "name the measured sites with --observed FILE",
        )
    compared = _compare(reader, truth, frequency, known, progress)
    return _summarise(label or imputed.name, reader.samples, compared)


def _panel_frequencies(path: Path) -> dict[Key, float]:
    with Panel.open(path) as panel:
        sites = panel.sites
        chrom = [plain_chromosome(str(c)) for c in sites.chrom]
        # Counted, not looked up: the bins are of the panel's genotypes.
        af = panel.ac / np.maximum(panel.an, 1)
        rows = zip(
            chrom, sites.pos.tolist(), sites.ref.tolist(), sites.alt.tolist(), af, strict=True
        )
        return {(c, p, r, a): float(f) for c, p, r, a, f in rows}


def _observed_sites(path: Path) -> set[tuple[str, int]]:
    sites = read_sites(path)
    return {
        (plain_chromosome(chrom), pos)
        for chrom, pos in zip(sites.chrom.tolist(), sites.pos.tolist(), strict=True)
    }


def _compare(
    reader: DosageReader,
    truth: Path,
    frequency: dict[Key, float],
    observed: set[tuple[str, int]] | None,
    progress: Progress | None,
) -> _Compared:
    """Stream the imputed file past the truth, which is held as a byte or two per genotype."""
    true = _read_truth(truth, reader.samples, frequency, observed, progress)
    keys: dict[Key, None] = {}
    rows: list[tuple[_Genotypes, NDArray[np.float32], _Genotypes, _Genotypes, float]] = []
    reliability = GenotypeReliability()
    for number, record in enumerate(reader, start=1):
        if progress and number % _EVERY == 0:
            progress("comparing", min(number, len(frequency)), len(frequency))
        key = (plain_chromosome(record.site[0]), *record.site[1:])
        masked = record.imputed if observed is None else key[:2] not in observed
        if not masked or key not in frequency:
            continue
        name = ":".join(map(str, record.site))
        if key in keys:
            raise InputError(
                f"{reader.source}: has more than one record {name}",
                "bcftools norm --rm-dup exact leaves one",
            )
        _check_dosage(reader.source, name, record.dosage, record.ploidy)
        if key in true:
            keys[key] = None
            alleles, told = true[key]
            ploidy = np.where(told > 0, told, record.ploidy)
            # What neither tells is diploid, as bare dosages are.
            ploidy[ploidy == 0] = 2
            differs = (alleles >= 0) & (record.ploidy > 0) & (record.ploidy != ploidy)
            if differs.any():
                sample = reader.samples[int(differs.argmax())]
                raise InputError(
                    f"{reader.source}: record {name}: sample {sample} has another ploidy than in "
                    f"{truth}",
                    "bcftools +fixploidy gives both files the same",
                )
            rows.append((alleles, record.dosage, record.genotype, ploidy, record.quality))
            flip = frequency[key] > 0.5
            source = record.probability_source
            reliability.add(record.probability, source, alleles, ploidy, flip=flip)
    reader.close()
    lacking = [] if observed is None else [key for key in true if key not in keys]
    if not keys:
        raise InputError(
            f"{reader.source}: no masked site is both in the truth and in the panel (contigs: "
            f"{', '.join(dict.fromkeys(k[0] for k in true))} in truth and panel, "
            f"{', '.join(reader.contigs) or 'none named'} in the imputed file)",
            "check that imputed file, truth and panel are of one build and chromosome",
        )
    if lacking:
        raise InputError(
            f"{reader.source}: lacks the masked site {':'.join(map(str, lacking[0]))}, and "
            f"{len(lacking) - 1:,} more",
            "impute all panel sites, or name what was measured with --observed",
        )
    genotypes, dosage, guess, ploidies, quality = zip(*rows, strict=True)
    return _Compared(
        list(keys),
        np.array([frequency[k] for k in keys]),
        np.array(genotypes),
        np.array(dosage),
        np.array(guess),
        np.array(ploidies),
        np.array(quality),
        reliability,
    )


def _read_truth(
    source: Path,
    samples: Sequence[str],
    frequency: dict[Key, float],
    observed: set[tuple[str, int]] | None,
    progress: Progress | None,
) -> dict[Key, tuple[_Genotypes, _Genotypes]]:
    """ALT counts and ploidy of the imputed samples at panel sites that were not measured."""
    reader = DosageReader(source)
    lacking = [s for s in samples if s not in set(reader.samples)]
    if lacking:
        raise InputError(
            f"{source}: has no sample {lacking[0]} ({len(lacking)} imputed samples are missing)",
            "give the truth of the imputed samples",
        )
    columns = np.array([reader.samples.index(s) for s in samples])
    found: dict[Key, tuple[_Genotypes, _Genotypes]] = {}
    # Hardly ever changes from record to record: kept once.
    ploidies: dict[bytes, _Genotypes] = {}
    for number, record in enumerate(reader, start=1):
        if progress and number % _EVERY == 0:
            progress("reading the truth", min(number, len(frequency)), len(frequency))
        key = (plain_chromosome(record.site[0]), *record.site[1:])
        if key in frequency and (observed is None or key[:2] not in observed):
            ploidy = record.ploidy[columns]
            ploidy = ploidies.setdefault(ploidy.tobytes(), ploidy)
            found[key] = (record.genotype[columns], ploidy)
    reader.close()
    if not found:
        panel = ", ".join(dict.fromkeys(key[0] for key in frequency))
        raise InputError(
            f"{source}: holds no panel site that was imputed (contigs: "
            f"{', '.join(reader.contigs) or 'none named'} in the truth, {panel} in the panel)",
            "check that truth and panel are of one build and chromosome, and --observed",
        )
    return found


def _check_dosage(
    source: Path, name: str, dosage: NDArray[np.float32], ploidy: NDArray[np.int8]
) -> None:
    if np.isnan(dosage).any():
        raise InputError(
            f"{source}: record {name} has a missing dosage", "impute it, or leave the record out"
        )
    most = np.where(ploidy > 0, ploidy, 2)
    wrong = (dosage < -_DOSAGE_SLACK) | (dosage > most + _DOSAGE_SLACK)
    if wrong.any():
        worst = int(wrong.argmax())
        raise InputError(
            f"{source}: record {name} has dosage {dosage[worst]:g}, outside 0 to {most[worst]}",
            "DS must count ALT alleles",
        )


def _summarise(label: str, samples: Sequence[str], data: _Compared) -> Evaluation:
    flip = (data.af > 0.5)[:, None]
    known = data.truth >= 0
    truth = np.where(flip, data.ploidy - data.truth, data.truth).astype(np.float64)
    dosage = np.where(flip, data.ploidy - data.dosage, data.dosage).astype(np.float64)
    guess = np.where(flip, data.ploidy - data.guess, data.guess)
    maf = minor_allele_frequency(data.af)
    site_r2 = per_site_r2(truth, dosage, known)
    agrees = (data.truth == data.guess) & known
    nonref = known & ~((data.truth == 0) & (data.guess == 0))
    nonmajor = known & ~((truth == 0) & (guess == 0))

    def accuracy(low: float, high: float, rows: NDArray[np.bool_]) -> BinAccuracy:
        pooled = PooledR2()
        pooled.add(truth[rows][known[rows]], dosage[rows][known[rows]])
        own = site_r2[rows]
        own = own[~np.isnan(own)]
        return BinAccuracy(
            low=low,
            high=high,
            n_sites=int(rows.sum()),
            n_genotypes=int(known[rows].sum()),
            aggregate_r2=pooled.value(),
            mean_site_r2=float(own.mean()) if len(own) else float("nan"),
            nonref_concordance=_share(agrees[rows], nonref[rows]),
            nonmajor_concordance=_share(agrees[rows], nonmajor[rows]),
            concordance=_share(agrees[rows], known[rows]),
        )

    place = frequency_bin(maf)
    bins = [
        accuracy(low, high, place == number)
        for number, (low, high) in enumerate(pairwise(BIN_EDGES))
    ]
    people = []
    for column, name in enumerate(samples):
        pooled = PooledR2()
        have = known[:, column]
        pooled.add(truth[have, column], dosage[have, column])
        own = agrees[:, column]
        people.append(
            SampleAccuracy(
                name, pooled.value(), _share(own, nonmajor[:, column]), _share(own, have)
            )
        )
    calibration = Reliability()
    ploidy = data.ploidy[known]
    calibration.add(dosage[known] / ploidy, truth[known] / ploidy)
    return Evaluation(
        label=label,
        n_samples=len(samples),
        bins=bins,
        all=accuracy(0.0, 0.5, np.ones(len(maf), dtype=bool)),
        samples=people,
        calibration=calibration.result(),
        gp_calibration=data.reliability.result(),
        quality=quality_accuracy(data.quality, site_r2),
        sites=SiteAccuracy(
            data.keys,
            maf,
            site_r2,
            data.quality,
            agrees.sum(axis=1) / np.maximum(known.sum(axis=1), 1),
        ),
    )


def _share(agrees: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float:
    total = int(counted.sum())
    return int((agrees & counted).sum()) / total if total else float("nan")


def per_site_r2(
    truth: NDArray[np.float64], dosage: NDArray[np.float64], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Squared correlation per site: float64 [sites].

    NaN where the truth is constant, 0 where only the dosage is.

    Args:
        truth: [sites, samples].
        dosage: [sites, samples].
        known: bool [sites, samples]; other pairs are left out.
    """
    weight = known.astype(np.float64)
    n = np.maximum(weight.sum(axis=1), 1)
    x, y = truth * weight, dosage * weight
    sx, sy = x.sum(axis=1), y.sum(axis=1)
    vx = (x * x).sum(axis=1) - sx * sx / n
    vy = (y * y).sum(axis=1) - sy * sy / n
    covariance = (x * y).sum(axis=1) - sx * sy / n
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(vy > _CONSTANT, covariance**2 / (vx * vy), 0.0)
    return np.where(vx > _CONSTANT, r2, np.nan)


def write_tables(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Write per-site figures as TSV to ``path`` (a temporary name)."""
    lines = ["label\tCHROM\tPOS\tREF\tALT\tMAF\tr2\tquality\tconcordance"]
    for evaluation in evaluations:
        sites = evaluation.sites
        rows = zip(sites.keys, sites.maf, sites.r2, sites.quality, sites.concordance, strict=True)
        for (chrom, pos, ref, alt), maf, r2, quality, concordance in rows:
            figures = "\t".join(_text(x) for x in (maf, r2, quality, concordance))
            lines.append(f"{evaluation.label}\t{chrom}\t{pos}\t{ref}\t{alt}\t{figures}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text(value: float) -> str:
    return "NA" if np.isnan(value) else f"{value:.6g}"
