"""The whole way in Python: convert, retrieve, train, impute, evaluate.

    python examples/python_api.py OUTPUT_FOLDER

takes the example that comes with the package (simulated people); with ``--panel``, ``--target``,
``--truth`` and ``--map`` your own files.
"""

import argparse
from pathlib import Path

import numpy as np

import snvrag
from snvrag.config import run_config
from snvrag.example import example_files
from snvrag.index_store import IndexStore, default_index_dir


def retrieve(panel_file: Path, window: int, n_observed: int) -> None:
    """Print whom the first sample of a panel is nearest to, by ``n_observed`` sites of a window."""
    with snvrag.Panel.open(panel_file) as panel:
        plan = snvrag.WindowPlan.from_chromosomes(panel.chromosomes())
        where = plan.windows[window]
        # The first touch of a window builds its index; who comes later, even in another process,
        # reads it.
        with IndexStore.open(default_index_dir(panel_file), panel, plan) as store:
            index = store.get(window)
        observed = np.zeros(where.n_snps, dtype=bool)  # bool [sites]
        observed[np.linspace(0, where.n_snps - 1, n_observed).astype(int)] = True
        own = panel.own_haplotypes(0)  # int64 [1 or 2]
        queries = panel.alleles(where.start, where.end)[own]  # uint8 [2, sites]
        exclude = np.tile(own, (len(own), 1))  # nobody finds their own haplotypes
        found = index.masked(observed).search(queries, k=3, exclude=exclude)
        for phase, (ids, distances) in enumerate(zip(found.ids, found.distances, strict=True)):
            people = [panel.samples[i] for i in panel.haplotype_sample[ids]]
            near = ", ".join(f"{p} ({d})" for p, d in zip(people, distances, strict=True))
            print(f"  haplotype {phase} of {panel.samples[0]}: {near}")


def main() -> None:
    """Run every step, each into ``OUTPUT_FOLDER``."""
    example = example_files()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--panel", type=Path, default=example.panel_vcf)
    parser.add_argument("--target", type=Path, default=example.target_vcf)
    parser.add_argument("--truth", type=Path, default=example.truth_vcf)
    parser.add_argument("--map", type=Path, default=example.genetic_map)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)

    panel = given.folder / "panel.h5"
    converted = snvrag.convert(given.panel, panel, force=True)
    print(f"{converted.n_sites:,} sites of {converted.n_haplotypes:,} haplotypes: {panel}")

    print("nearest haplotypes (sites that differ, of 40 observed in the first window):")
    retrieve(panel, window=0, n_observed=40)

    config = run_config({"preset": "light", "epochs": given.epochs})
    run = given.folder / "run"
    report = snvrag.train(panel, run, config=config, genetic_map=given.map, force=True)
    best = report.best
    print(f"trained {report.epochs} epochs in {report.seconds:.0f} s; held-out samples:")
    print(f"  r² {best['val_r2']:.4f}, copying model {best['copying_r2']:.4f}")

    for name, model in (("copying model", None), ("with network", run)):
        output = given.folder / f"{name.replace(' ', '-')}.vcf.gz"
        snvrag.impute(given.target, panel, output, model=model, genetic_map=given.map, force=True)
        found = snvrag.evaluate(output, given.truth, panel, label=name)
        by_bin = ", ".join(f"≤{b.high:g}: {b.aggregate_r2:.3f}" for b in found.bins)
        print(f"{name}: aggregate r² {found.all.aggregate_r2:.4f} ({by_bin})")


if __name__ == "__main__":
    try:
        main()
    except snvrag.SnvragError as error:
        # One sentence on what is wrong, one on what to do about it.
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None
