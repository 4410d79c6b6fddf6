"""Simulate the example that ships with snvrag: panel, targets, truth, map and populations.

    python examples/simulate_example.py [FOLDER]

Ancestry follows the three-population out-of-Africa model of Gutenkunst et al. 2009 (PLoS Genetics
5:e1000695), with the parameters of their table 1 at 25 years per generation. With the versions of
``constraints.txt`` the output is the same byte for byte.
"""

import argparse
import math
import struct
import zlib
from pathlib import Path

import msprime
import numpy as np

SEED = 20260101
CHROM = "22"
FIRST_POSITION = 20_000_000
LENGTH = 650_000
MUTATION_RATE = 1.29e-8
PANEL_PER_POPULATION = {"YRI": 60, "CEU": 80, "CHB": 60}
TARGETS_PER_POPULATION = {"YRI": 6, "CEU": 8, "CHB": 6}
SUPER_POPULATION = {"YRI": "AFR", "CEU": "EUR", "CHB": "EAS"}
MAX_SITES = 2_900
# One common site every so many base pairs, as on a SNP array.
ARRAY_SPACING = 3_000
ARRAY_MIN_MAF = 0.05
_BGZF_BLOCK = 65_280
_BGZF_EOF = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def out_of_africa() -> msprime.Demography:
    """Gutenkunst et al. 2009, table 1."""
    generation = 25
    t_af, t_b, t_eu_as = 220e3 / generation, 140e3 / generation, 21.2e3 / generation
    n_a, n_af, n_b, n_eu0, n_as0 = 7300, 12300, 2100, 1000, 510
    r_eu, r_as = 0.004, 0.0055
    n_eu, n_as = n_eu0 / math.exp(-r_eu * t_eu_as), n_as0 / math.exp(-r_as * t_eu_as)
    demography = msprime.Demography()
    demography.add_population(name="YRI", initial_size=n_af)
    demography.add_population(name="CEU", initial_size=n_eu, growth_rate=r_eu)
    demography.add_population(name="CHB", initial_size=n_as, growth_rate=r_as)
    demography.add_population(name="OOA", initial_size=n_b)
    demography.add_population(name="AMH", initial_size=n_af)
    demography.add_population(name="ANC", initial_size=n_a)
    demography.set_symmetric_migration_rate(["CEU", "CHB"], 9.6e-5)
    demography.set_symmetric_migration_rate(["YRI", "CHB"], 1.9e-5)
    demography.set_symmetric_migration_rate(["YRI", "CEU"], 3e-5)
    demography.add_population_split(time=t_eu_as, derived=["CEU", "CHB"], ancestral="OOA")
    demography.add_symmetric_migration_rate_change(
        time=t_eu_as, populations=["YRI", "OOA"], rate=25e-5
    )
    demography.add_population_split(time=t_b, derived=["YRI", "OOA"], ancestral="AMH")
    demography.add_population_split(time=t_af, derived=["AMH"], ancestral="ANC")
    return demography


def recombination_map() -> msprime.RateMap:
    """A background of 0.5 cM/Mb with a hotspot of 15 cM/Mb over 5 kb every 60 kb."""
    edges, rates = [0.0], []
    for start in range(40_000, LENGTH, 60_000):
        edges += [float(start), float(start + 5_000)]
        rates += [0.5e-8, 15e-8]
    edges.append(float(LENGTH))
    rates.append(0.5e-8)
    return msprime.RateMap(position=edges, rate=rates)


def simulate() -> tuple[np.ndarray, np.ndarray]:
    """Positions [sites] and alleles [sites, haplotypes], populations in the order of the tables."""
    samples = {
        name: PANEL_PER_POPULATION[name] + TARGETS_PER_POPULATION[name]
        for name in PANEL_PER_POPULATION
    }
    ancestry = msprime.sim_ancestry(
        samples=samples,
        demography=out_of_africa(),
        recombination_rate=recombination_map(),
        sequence_length=LENGTH,
        random_seed=SEED,
    )
    mutated = msprime.sim_mutations(
        ancestry, rate=MUTATION_RATE, model=msprime.BinaryMutationModel(), random_seed=SEED
    )
    return mutated.tables.sites.position.astype(np.int64), mutated.genotype_matrix()


def bgzip(text: str) -> bytes:
    """BGZF bytes of ``text``: gzip members of at most 64 kB with their size in an extra field."""
    data, out = text.encode(), []
    for start in range(0, len(data), _BGZF_BLOCK):
        block = data[start : start + _BGZF_BLOCK]
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = squeeze.compress(block) + squeeze.flush()
        size = struct.pack("<H", len(body) + 25)
        head = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x06\x00BC\x02\x00" + size
        out.append(head + body + struct.pack("<II", zlib.crc32(block), len(block)))
    return b"".join([*out, _BGZF_EOF])


def vcf_text(
    names: list[str], positions: np.ndarray, bases: list[tuple[str, str]], alleles: np.ndarray
) -> str:
    """A phased VCF of alleles [sites, haplotypes]."""
    fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    lines = [
        "##fileformat=VCFv4.3",
        "##source=snvrag examples/simulate_example.py (msprime, Gutenkunst et al. 2009)",
        f"##contig=<ID={CHROM},length=50818468>",
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Phased genotype">',
        "\t".join([*fixed, *names]),
    ]
    for position, (ref, alt), row in zip(positions, bases, alleles, strict=True):
        calls = [f"{a}|{b}" for a, b in zip(row[0::2], row[1::2], strict=True)]
        site = [CHROM, str(position), f"sim{position}", ref, alt, ".", "PASS", ".", "GT"]
        lines.append("\t".join(site + calls))
    return "\n".join(lines) + "\n"


def array_sites(positions: np.ndarray, maf: np.ndarray) -> np.ndarray:
    """Row numbers of an array: the most frequent common site of each stretch of the chromosome."""
    stretch = (positions - positions[0]) // ARRAY_SPACING
    chosen = []
    for number in np.unique(stretch):
        rows = np.flatnonzero((stretch == number) & (maf >= ARRAY_MIN_MAF))
        if len(rows):
            chosen.append(int(rows[np.argmax(maf[rows])]))
    return np.array(chosen)


def main() -> None:
    """Write the five files."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[1] / "snvrag" / "example_data"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    offsets, alleles = simulate()
    names, panel, targets, populations = [], [], [], ["sample\tpop\tsuper_pop"]
    for population, n_panel in PANEL_PER_POPULATION.items():
        for number in range(n_panel + TARGETS_PER_POPULATION[population]):
            (panel if number < n_panel else targets).append(len(names))
            names.append(f"{population}{number + 1:03d}")
            populations.append(f"{names[-1]}\t{population}\t{SUPER_POPULATION[population]}")
    columns = {
        key: np.array([2 * s + phase for s in group for phase in (0, 1)])
        for key, group in (("panel", panel), ("targets", targets))
    }
    frequency = alleles[:, columns["panel"]].mean(axis=1)
    kept = np.flatnonzero((frequency > 0) & (frequency < 1))[:MAX_SITES]
    positions = FIRST_POSITION + offsets[kept]
    maf = np.minimum(frequency[kept], 1 - frequency[kept])
    generator = np.random.default_rng(SEED)
    bases = [tuple(generator.choice(list("ACGT"), 2, replace=False)) for _ in kept]
    on_array = array_sites(positions, maf)

    def write(name: str, group: str, members: list[int], rows: np.ndarray) -> None:
        text = vcf_text(
            [names[i] for i in members],
            positions[rows],
            [bases[i] for i in rows],
            alleles[kept[rows]][:, columns[group]],
        )
        (folder / name).write_bytes(bgzip(text))

    everything = np.arange(len(kept))
    write("panel.vcf.gz", "panel", panel, everything)
    write("truth.vcf.gz", "targets", targets, everything)
    write("target.vcf.gz", "targets", targets, on_array)
    (folder / "populations.panel").write_text("\n".join(populations) + "\n")
    rates = recombination_map()
    knots = [float(x) for x in rates.position]
    centimorgans = rates.get_cumulative_mass(knots) * 100
    lines = [
        f"{CHROM} . {cm:.6f} {FIRST_POSITION + int(bp)}"
        for bp, cm in zip(knots, centimorgans, strict=True)
    ]
    (folder / "genetic_map.plink.map").write_text("\n".join(lines) + "\n")
    print(
        f"{folder}: {len(kept)} sites, {len(panel)} panel and {len(targets)} target samples, "
        f"{len(on_array)} array sites"
    )


if __name__ == "__main__":
    main()
