"""A simulated chromosome of any size: panel, target at array sites, truth and map.

    python benchmarks/simulate.py FOLDER [--panel 2504] [--targets 200] [--sites 150000]

Ancestry as in ``examples/simulate_example.py`` (Gutenkunst et al. 2009), a third of the people from
each population, 1 cM/Mb with hotspots. Sites are a random subset of those that segregate in the
panel, at the density of the original's data (126 bp apart); array sites are common ones, one per
10 kb. Needs ``bgzip`` and ``tabix``. Nothing of it is kept in the repository.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import msprime
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from simulate_example import MUTATION_RATE, out_of_africa

BP_PER_SITE = 126
ARRAY_BP = 10_000
ARRAY_MIN_MAF = 0.05
CHROM = "20"
BASES = "ACGT"
_BLOCK = 2_000


def recombination_map(length: int) -> msprime.RateMap:
    """0.5 cM/Mb with a hotspot of 6.5 cM/Mb over 5 kb every 60 kb: 1 cM/Mb on average."""
    starts = np.arange(30_000, length - 5_000, 60_000, dtype=float)
    edges = np.concatenate([[0.0], np.stack([starts, starts + 5_000], axis=1).ravel(), [length]])
    rates = np.full(len(edges) - 1, 0.5e-8)
    rates[1::2] = 6.5e-8
    return msprime.RateMap(position=edges, rate=rates)


def write_vcf(
    path: Path, names: list[str], positions: np.ndarray, bases: np.ndarray, alleles: np.ndarray
) -> None:
    """bgzipped and indexed; ``alleles`` uint8 [sites, haplotypes], ``bases`` [sites, 2]."""
    head = (
        "##fileformat=VCFv4.3\n"
        f"##contig=<ID={CHROM},length={int(positions[-1]) + 1}>\n"
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Phased genotype">\n'
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(names) + "\n"
    )
    with path.open("wb") as out:
        squeeze = subprocess.Popen(["bgzip", "-@2", "-c"], stdin=subprocess.PIPE, stdout=out)
        assert squeeze.stdin is not None  # noqa: S101 - a pipe was asked for
        squeeze.stdin.write(head.encode())
        for start in range(0, len(positions), _BLOCK):
            rows = slice(start, start + _BLOCK)
            calls = np.empty((len(positions[rows]), len(names), 4), dtype=np.uint8)
            calls[:, :, 0] = alleles[rows, 0::2] + ord("0")
            calls[:, :, 1] = ord("|")
            calls[:, :, 2] = alleles[rows, 1::2] + ord("0")
            calls[:, :, 3] = ord("\t")
            calls[:, -1, 3] = ord("\n")
            for pos, (ref, alt), row in zip(positions[rows], bases[rows], calls, strict=True):
                site = f"{CHROM}\t{pos}\t.\t{BASES[ref]}\t{BASES[alt]}\t.\tPASS\t.\tGT\t"
                squeeze.stdin.write(site.encode() + row.tobytes())
        squeeze.stdin.close()
        if squeeze.wait():
            raise RuntimeError("bgzip failed")
    subprocess.run(["tabix", "-p", "vcf", "-f", str(path)], check=True)


def array_rows(
    positions: np.ndarray, maf: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """One common site per 10 kb: row numbers."""
    common = np.flatnonzero(maf >= ARRAY_MIN_MAF)
    bins = positions[common] // ARRAY_BP
    order = generator.permutation(len(common))
    _, first = np.unique(bins[order], return_index=True)
    return np.sort(common[order[first]])


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--panel", type=int, default=2504, help="panel samples")
    parser.add_argument("--targets", type=int, default=200, help="target samples")
    parser.add_argument("--sites", type=int, default=150_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    people = options.panel + options.targets
    length = options.sites * BP_PER_SITE
    names = ("YRI", "CEU", "CHB")
    counts = {name: people // 3 + (i < people % 3) for i, name in enumerate(names)}
    ancestry = msprime.sim_ancestry(
        samples=counts,
        demography=out_of_africa(),
        recombination_rate=recombination_map(length),
        sequence_length=length,
        random_seed=options.seed,
    )
    mutated = msprime.sim_mutations(
        ancestry,
        rate=MUTATION_RATE,
        model=msprime.BinaryMutationModel(),
        random_seed=options.seed,
    )
    generator = np.random.default_rng(options.seed)
    alleles = mutated.genotype_matrix().astype(np.uint8)
    position = mutated.tables.sites.position.astype(np.int64) + 1
    order = generator.permutation(people)
    columns = np.stack([2 * order, 2 * order + 1], axis=1).ravel()
    alleles = alleles[:, columns]
    count = alleles[:, : 2 * options.panel].sum(axis=1, dtype=np.int64)
    fine = (count > 0) & (count < 2 * options.panel) & np.r_[True, np.diff(position) > 0]
    rows = np.flatnonzero(fine)
    rows = np.sort(generator.choice(rows, min(options.sites, len(rows)), replace=False))
    alleles, position, count = alleles[rows], position[rows], count[rows]
    bases = np.stack([generator.permutation(4)[:2] for _ in range(len(rows))])
    af = count / (2 * options.panel)
    sites = array_rows(position, np.minimum(af, 1 - af), generator)
    panel, target = alleles[:, : 2 * options.panel], alleles[:, 2 * options.panel :]
    people_of_panel = [f"P{i:04d}" for i in range(options.panel)]
    people_of_target = [f"T{i:04d}" for i in range(options.targets)]
    write_vcf(options.folder / "panel.vcf.gz", people_of_panel, position, bases, panel)
    write_vcf(options.folder / "truth.vcf.gz", people_of_target, position, bases, target)
    write_vcf(
        options.folder / "target.array.vcf.gz",
        people_of_target,
        position[sites],
        bases[sites],
        target[sites],
    )
    observed = [f"{CHROM}\t{p}" for p in position[sites]]
    (options.folder / "sites.array.txt").write_text("\n".join(observed) + "\n")
    points = np.append(np.arange(1, length, 5_000), length - 1)
    cm = recombination_map(length).get_cumulative_mass(points) * 100
    plink = [f"{CHROM} . {c:.8f} {p}" for p, c in zip(points, cm, strict=True)]
    (options.folder / "map.plink.map").write_text("\n".join(plink) + "\n")
    minimac = [f"{CHROM}\t{p}\t{c:.8f}" for p, c in zip(points, cm, strict=True)]
    text = "\n".join(["#chrom\tpos\tcM", *minimac]) + "\n"
    (options.folder / "map.minimac4.txt").write_text(text)
    print(f"{len(rows):,} sites, {len(sites):,} of them on the array, {people:,} people")


if __name__ == "__main__":
    main()
