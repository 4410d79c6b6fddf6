"""What each part is worth on ``chr20/dev``: retrieval, copying model, flanks, networks.

    python benchmarks/ablation.py --run light=RUN [--run tiny=RUN2 …] [--targets array …]

Aggregate dosage r² of the panel's minor allele at masked sites, by the panel's minor-allele
frequency. Without runs: nearest haplotypes and copying models, in windows of several sizes with
several flanks. Of the first run named, its fitted copying model alone too. Runs may be of any
preset and window size; train them with ``snvrag train`` on the same panel file (``--panel``).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.config import DEFAULT_MIN_OVERLAP
from snvrag.conversion import convert
from snvrag.copying import DEFAULT_BANK, Bank, Reference, copying_probability
from snvrag.dosage import BIN_EDGES, frequency_bin, minor_allele_frequency
from snvrag.genetic_map import GeneticMap
from snvrag.imputation import impute
from snvrag.panel import Panel
from snvrag.retrieval import BinaryIndex
from snvrag.target import TargetHaplotypes
from snvrag.trained_run import load_run
from snvrag.vcf import DosageReader

DATA = Path(__file__).resolve().parents[2] / "shared/data/chr20/dev"
TARGETS = ("array", "random10", "random50")
WHOLE = 10**9


class Case:
    """One target against the panel, and its truth."""

    def __init__(self, data: Path, panel: Panel, name: str) -> None:
        self.path = data / f"target.{name}.vcf.gz"
        self.panel = panel
        self.target = TargetHaplotypes.read(self.path, panel, DEFAULT_MIN_OVERLAP)
        maps = GeneticMap.read(data.parent / "map.plink.map")
        self.cm = maps.along(panel.chromosomes(), panel.positions)
        self.rows = self.target.match.panel_rows
        self.masked = ~np.isin(np.arange(panel.n_sites), self.rows)
        self.truth = dosages(data / "truth.vcf.gz")
        self.alleles = panel.alleles(0, panel.n_sites)

    def r2(self, dosage: NDArray[np.float64]) -> list[float]:
        """Of dosages [sites, samples] of ALT: r² per bin, then over all masked sites."""
        af = self.panel.af
        flip = (af > 0.5)[:, None]
        ours, truth = (np.where(flip, 2 - d, d) for d in (dosage, self.truth))
        place = frequency_bin(minor_allele_frequency(self.panel.ac / self.panel.an))
        chosen = [place == number for number in range(len(BIN_EDGES) - 1)]
        values = []
        for rows in [*chosen, np.ones(len(af), dtype=bool)]:
            use = rows & self.masked
            values.append(np.corrcoef(ours[use].ravel(), truth[use].ravel())[0, 1] ** 2)
        return values

    def per_sample(self, haplotypes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Dosages [sites, samples] of P(ALT) [haplotypes, sites]; all samples are diploid."""
        return np.asarray((haplotypes[0::2] + haplotypes[1::2]).T, dtype=np.float64)

    def windows(self, size: int, flank: int) -> list[tuple[int, int, int, int]]:
        """Rows start, end of each window, and first, last with ``flank`` sites to either side."""
        n = self.panel.n_sites
        starts = range(0, n, size)
        return [(a, min(a + size, n), max(0, a - flank), min(n, a + size + flank)) for a in starts]

    def nearest(self, k: int, size: int, flank: int) -> NDArray[np.float64]:
        """Vote of the ``k`` nearest haplotypes by Hamming distance, weighted by 1 / (1 + d)²."""
        out = np.empty((self.target.n_haplotypes, self.panel.n_sites))
        for start, end, first, last in self.windows(size, flank):
            observed, calls = self.target.observed(first, last)
            query = np.zeros((len(calls), last - first), dtype=np.uint8)
            query[:, observed] = calls.clip(min=0)
            index = BinaryIndex.build(self.alleles[:, first:last], last - first)
            found = index.masked(observed).search(query, k)
            weight = 1.0 / (1.0 + found.distances) ** 2
            vote = self.alleles[found.ids, start:end] * weight[..., None]
            out[:, start:end] = vote.sum(1) / weight.sum(1)[:, None]
        return self.per_sample(out)

    def copying(self, bank: Bank, size: int, flank: int) -> NDArray[np.float64]:
        """The copying model over windows of ``size`` sites with ``flank`` sites of context."""
        out = np.empty((self.target.n_haplotypes, self.panel.n_sites), dtype=np.float32)
        for start, end, first, last in self.windows(size, flank):
            observed, calls = self.target.observed(first, last)
            columns = np.flatnonzero(observed)
            at_observed = np.ascontiguousarray(self.alleles[:, first + columns].T)
            reference = Reference.of_core(
                [self.alleles[:, start:end].T.copy()], start - first, columns, at_observed
            )
            out[:, start:end] = copying_probability(
                reference,
                np.ascontiguousarray(calls),
                self.cm[first:last],
                self.panel.positions[first:last],
                bank=bank,
            )
        return self.per_sample(out)

    def network(self, run: Path, map_path: Path) -> NDArray[np.float64]:
        """What ``snvrag impute -m RUN`` writes."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "out.vcf.gz"
            # Indexes of the run's own window size; a light network reads none.
            light = load_run(run).config.model.network == "light"
            indexes = None if light else Path(folder) / "index"
            impute(
                self.path,
                self.panel.path,
                output,
                model=run,
                index_dir=indexes,
                genetic_map=map_path,
            )
            return dosages(output)


def dosages(path: Path) -> NDArray[np.float64]:
    """ALT dosages [records, samples]."""
    reader = DosageReader(path)
    try:
        return np.array([record.dosage for record in reader], dtype=np.float64)
    finally:
        reader.close()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--panel", type=Path, help="converted panel; converted anew if not given")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"skipped: {arguments.data} is not there")
        return
    runs = [(name, Path(path)) for name, path in (entry.split("=", 1) for entry in arguments.run)]
    map_path = arguments.data.parent / "map.plink.map"
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.panel
        if path is None:
            path = Path(folder) / "panel.h5"
            convert(arguments.data / "panel.vcf.gz", path)
        with Panel.open(path) as panel:
            for name in arguments.targets:
                case = Case(arguments.data, panel, name)
                print(f"| {name} | ≤.005 | ≤.01 | ≤.02 | ≤.05 | ≤.1 | ≤.2 | ≤.5 | all |")
                print("|---" * 9 + "|")

                def show(label: str, dosage: NDArray[np.float64], case: Case = case) -> None:
                    cells = [f"{v:.4f}".lstrip("0") for v in case.r2(dosage)]
                    print(f"| {label} | {' | '.join(cells)} |", flush=True)

                for k in (1, 4, 32):
                    show(f"{k} nearest, window of 511 alone", case.nearest(k, 511, 0))
                show("4 nearest, and 511 sites either side", case.nearest(4, 511, 511))
                for size in (255, 511, 1023):
                    show(
                        f"copying model, window of {size} alone",
                        case.copying(DEFAULT_BANK, size, 0),
                    )
                show("copying model, and 511 either side", case.copying(DEFAULT_BANK, 511, 511))
                show("copying model, region", case.copying(DEFAULT_BANK, WHOLE, 0))
                if runs:
                    fitted = load_run(runs[0][1]).bank
                    show("copying model, fitted bank", case.copying(fitted, WHOLE, 0))
                for label, run in runs:
                    show(label, case.network(run, map_path))


if __name__ == "__main__":
    main()
