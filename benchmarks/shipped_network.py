"""Train the light network that ships with snvrag: on simulated panels only, for every panel.

    python benchmarks/shipped_network.py [FOLDER] [--panels FOLDER] [--steps 6000] [--threads 1]

Panels of several demographies (msprime), sizes, recombination maps and kinds of error are simulated
and converted, then one network of preset ``light`` learns from batches of all of them in turn, each
sample predicted from the others of its panel. It is judged on held-out samples of each of these
panels, and on panels that it never learns from. FOLDER (``snvrag/shipped`` by default) gets
``config.json`` and ``model.safetensors``; panels are kept for the next run if ``--panels`` names a
place for them. Needs ``bgzip`` and ``tabix``.
"""

import argparse
import contextlib
import copy
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msprime
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from simulate import CHROM, write_vcf
from simulate_example import out_of_africa

from snvrag import convert, copying, retrieval
from snvrag.batch import Batch
from snvrag.batch_plan import BatchPlan, plan_validation
from snvrag.checkpoint import WEIGHTS, save_weights
from snvrag.cohorts import Cohorts
from snvrag.config import PRESET_TRAINING, PRESETS, MaskConfig, RunConfig
from snvrag.copying import EVIDENCE_BANK, N_FEATURES
from snvrag.dataset import WindowBatches
from snvrag.distributed import set_threads
from snvrag.genetic_map import GeneticMap
from snvrag.index_store import IndexStore, default_index_dir
from snvrag.losses import masked_loss
from snvrag.metrics import R2_BINS, Score
from snvrag.model import LightNetwork
from snvrag.optimizer import learning_rate
from snvrag.panel import Panel
from snvrag.provenance import write_json
from snvrag.trained_run import BANK, CONFIG, RUN_FORMAT, RUN_VERSION
from snvrag.windows import WindowPlan

SHIPPED = Path(__file__).resolve().parents[1] / "snvrag" / "shipped"
LENGTH = 2_500_000
# With which Gutenkunst et al. inferred their sizes, so that sites come as densely as in people.
MUTATION_RATE = 2.35e-8
SAMPLES_PER_BATCH = 8
EMA = 0.99
RARE = 0.05
MASKS = MaskConfig(
    raise_every=1,
    array_spacing=(2000.0, 3000.0, 4500.0, 9000.0),
    random_observed=(0.03, 0.05, 0.10, 0.20, 0.50),
)
RUN = RunConfig(
    mask=MASKS, model=PRESETS["light"], train=replace(PRESET_TRAINING["light"], bank="default")
)
JUDGE = replace(RUN, train=replace(RUN.train, validation_fraction=0.25))
EXAM_SAMPLES = 24
# Validation windows take three patterns in turn: no multiple of three, so that all three occur.
EXAM_STRIDE = 4


@dataclass(frozen=True, slots=True)
class Errors:
    """What is wrong with the haplotypes of a panel."""

    found: float = 1.0
    """Probability that a site is found by one carrier of its rarer allele."""
    missed: float = 0.0
    """Share of rarer alleles that are called as the other one."""
    false_singletons: float = 0.0
    """Sites of a single, wrong carrier, as a share of the true singletons."""
    switches: float = 0.0
    """Switch errors per Mb and sample."""
    rare_flips: float = 0.0
    """Share of singletons on the wrong haplotype; 1 / k of it at alleles carried k times."""


CLEAN = Errors(switches=0.05, rare_flips=0.05, missed=0.0005)
GOOD = Errors(0.95, 0.003, 0.02, 0.4, 0.25)
FAIR = Errors(0.75, 0.006, 0.05, 1.0, 0.45)
ROUGH = Errors(0.6, 0.015, 0.1, 2.5, 0.5)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a panel is made."""

    name: str
    demography: str
    people: tuple[tuple[str, int], ...]
    errors: Errors
    map_noise: float | None
    """Standard deviation of the log rates in the map that is used; None is no map."""
    seed: int
    conversion: float = 0.0
    """Gene conversions per base pair."""


def _recipe(
    name: str,
    demography: str,
    who: str,
    errors: Errors,
    noise: float | None,
    seed: int,
    **more: float,
) -> Recipe:
    people = tuple((p, int(n)) for p, n in (part.split("=") for part in who.split()))
    return Recipe(name, demography, people, errors, noise, seed, **more)


LEARNED = (
    _recipe("ceu100", "africa", "CEU=100", FAIR, 0.3, 1),
    _recipe("ceu240", "africa", "CEU=240", FAIR, 0.3, 2, conversion=2e-8),
    _recipe("growth240", "growth", "CEU=240", ROUGH, 0.3, 3),
    _recipe("growth500", "growth", "CEU=500", GOOD, 0.5, 4, conversion=2e-8),
    _recipe("yri240", "africa", "YRI=240", FAIR, 0.5, 5),
    _recipe("chb500", "africa", "CHB=500", GOOD, 0.1, 6),
    _recipe("mixed1000", "africa", "YRI=334 CEU=333 CHB=333", FAIR, 0.3, 7),
    _recipe("admixed500", "admixed", "ADMIX=500", FAIR, 0.3, 8),
    _recipe("admixed100", "admixed", "ADMIX=60 CEU=20 YRI=20", GOOD, None, 9),
    _recipe("constant100", "constant", "POP=100", CLEAN, 0.1, 10),
    _recipe("constant240", "constant", "POP=240", ROUGH, None, 11),
    _recipe("growth1000", "growth", "CEU=1000", GOOD, 0.3, 12),
)
JUDGES = (
    _recipe("judge-growth240", "growth", "CEU=150 CHB=90", FAIR, 0.3, 101, conversion=2e-8),
    _recipe("judge-founders200", "founders", "POP=200", GOOD, 0.3, 102),
    _recipe("judge-yri150", "africa", "YRI=150", ROUGH, 0.5, 103),
    _recipe("judge-mixed800", "growth", "YRI=250 CEU=300 CHB=250", CLEAN, None, 104),
)


def demography(name: str) -> msprime.Demography:
    """Populations and their history.

    ``africa`` is Gutenkunst et al. 2009, ``growth`` has that of Tennessen et al. 2012 added,
    ``admixed`` the Americans of Browning et al. 2011, ``founders`` a recent bottleneck among
    Europeans; ``constant`` is one population of constant size.
    """
    if name == "constant":
        found = msprime.Demography()
        found.add_population(name="POP", initial_size=10_000)
        return found
    found = out_of_africa()
    if name == "growth":
        for population, rate in (("CEU", 0.0195), ("YRI", 0.0166)):
            own = found[population]
            then = own.initial_size * math.exp(-own.growth_rate * 204)
            found.add_population_parameters_change(
                time=204, population=population, initial_size=then, growth_rate=own.growth_rate
            )
            own.initial_size, own.growth_rate = then * math.exp(rate * 204), rate
    elif name == "admixed":
        found.add_population(name="ADMIX", initial_size=54_664, growth_rate=0.05)
        found.add_admixture(
            time=12,
            derived="ADMIX",
            ancestral=["YRI", "CEU", "CHB"],
            proportions=[1 / 6, 1 / 3, 1 / 2],
        )
    elif name == "founders":
        found.add_population(name="POP", initial_size=20_000, growth_rate=math.log(20e3 / 300) / 40)
        found.add_admixture(time=40, derived="POP", ancestral=["CEU"], proportions=[1.0])
    found.sort_events()
    return found


def true_map(generator: np.random.Generator) -> msprime.RateMap:
    """Hotspots of 2 kb at random places on a background that varies by 250 kb; 0.8 to 1.8 cM/Mb."""
    edges = np.arange(0, LENGTH + 1, 2_000, dtype=float)
    n = len(edges) - 1
    region = np.repeat(generator.lognormal(0.0, 0.6, -(-n // 125)), 125)[:n]
    hot = (generator.random(n) < 2_000 / 40_000) * generator.gamma(0.6, 1.0, n)
    rates = region * (0.25 / n + 0.75 * hot / hot.sum())
    return msprime.RateMap(
        position=edges, rate=rates / rates.mean() * generator.uniform(0.8e-8, 1.8e-8)
    )


def with_errors(
    alleles: np.ndarray, position: np.ndarray, errors: Errors, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Alleles uint8 [sites, haplotypes] and positions as a panel would report them."""
    n = alleles.shape[1]
    count = alleles.sum(axis=1, dtype=np.int64)
    flip = count * 2 > n
    rarer = alleles ^ flip[:, None].astype(np.uint8)
    count = np.minimum(count, n - count)
    known = generator.random(len(count)) < 1.0 - (1.0 - errors.found) ** count
    rarer, flip, position, count = rarer[known], flip[known], position[known], count[known]
    rarer &= generator.random(rarer.shape, dtype=np.float32) >= errors.missed
    n_false = int(errors.false_singletons * (count == 1).sum())
    false = np.zeros((n_false, n), dtype=np.uint8)
    false[np.arange(n_false), generator.integers(n, size=n_false)] = 1
    free = np.setdiff1d(np.arange(1, LENGTH), position)
    position = np.concatenate([position, generator.choice(free, n_false, replace=False)])
    order = np.argsort(position)
    rarer = np.concatenate([rarer, false])[order]
    flip = np.concatenate([flip, np.zeros(n_false, dtype=bool)])[order]
    position = position[order]
    count = rarer.sum(axis=1, dtype=np.int64)
    share = errors.rare_flips / np.maximum(count, 1)
    swapped = generator.random((len(rarer), n // 2), dtype=np.float32) < share[:, None]
    for sample in range(n // 2):
        cuts = generator.uniform(0, LENGTH, generator.poisson(errors.switches * LENGTH / 1e6))
        swapped[:, sample] ^= np.searchsorted(np.sort(cuts), position) % 2 == 1
    pairs = rarer.reshape(len(rarer), n // 2, 2)
    pairs = np.where(swapped[:, :, None], pairs[:, :, ::-1], pairs)
    kept = (count > 0) & (count < n)
    found = pairs.reshape(rarer.shape) ^ flip[:, None].astype(np.uint8)
    return found[kept], position[kept]


def write_map(
    path: Path, rates: msprime.RateMap, noise: float, generator: np.random.Generator
) -> None:
    """The map that is used: points every 4 kb, whose rates are off by a lognormal factor."""
    points = np.append(np.arange(1, LENGTH, 4_000), LENGTH)
    cm = (
        np.diff(rates.get_cumulative_mass(points))
        * 100
        * generator.lognormal(0.0, noise, len(points) - 1)
    )
    cm = np.concatenate([[0.0], np.cumsum(cm)])
    lines = [f"{CHROM} . {c:.8f} {p}" for p, c in zip(points, cm, strict=True)]
    path.write_text("\n".join(lines) + "\n")


def simulate(recipe: Recipe, folder: Path) -> Path:
    """The panel file of a recipe, made unless it is there; its map, if any, lies beside it."""
    path = folder / f"{recipe.name}.h5"
    if path.exists():
        return path
    generator = np.random.default_rng(recipe.seed)
    rates = true_map(generator)
    ancestry = msprime.sim_ancestry(
        samples=dict(recipe.people),
        demography=demography(recipe.demography),
        recombination_rate=rates,
        gene_conversion_rate=recipe.conversion,
        gene_conversion_tract_length=300,
        random_seed=recipe.seed,
    )
    mutated = msprime.sim_mutations(
        ancestry,
        rate=MUTATION_RATE,
        model=msprime.BinaryMutationModel(),
        random_seed=recipe.seed,
    )
    alleles, position = with_errors(
        mutated.genotype_matrix().astype(np.uint8),
        mutated.tables.sites.position.astype(np.int64) + 1,
        recipe.errors,
        generator,
    )
    n = alleles.shape[1] // 2
    columns = (2 * generator.permutation(n)[:, None] + np.arange(2)).ravel()
    bases = np.stack([generator.permutation(4)[:2] for _ in range(len(position))])
    if recipe.map_noise is not None:
        write_map(map_of(path), rates, recipe.map_noise, generator)
    vcf = folder / f"{recipe.name}.vcf.gz"
    write_vcf(vcf, [f"S{i:04d}" for i in range(n)], position, bases, alleles[:, columns])
    convert(vcf, path)
    for made in folder.glob(f"{recipe.name}.vcf.gz*"):
        made.unlink()
    return path


def map_of(panel: Path) -> Path:
    """Where the genetic map of a simulated panel lies."""
    return panel.with_suffix(".map")


Exam = list[tuple[Batch, np.ndarray]]
"""Batches, with the ALT frequencies of all of the panel's sites."""


@dataclass(frozen=True, slots=True)
class School:
    """An open panel and its batches."""

    recipe: Recipe
    panel: Panel
    batches: WindowBatches

    @classmethod
    def open(
        cls, recipe: Recipe, folder: Path, config: RunConfig, stack: contextlib.ExitStack
    ) -> "School":
        """Simulate if need be, and open."""
        path = simulate(recipe, folder)
        panel = stack.enter_context(Panel.open(path))
        plan = WindowPlan.from_chromosomes(panel.chromosomes(), config.windows)
        store = stack.enter_context(IndexStore.open(default_index_dir(path), panel, plan))
        cohorts = Cohorts.choose(panel, store, config.train, None, None)
        maps = GeneticMap.read(map_of(path)) if map_of(path).exists() else GeneticMap.uniform()
        cm = maps.along(panel.chromosomes(), panel.positions)
        device = torch.device("cpu")
        batches = WindowBatches(panel, store, plan, config, cohorts, cm, device)
        return cls(recipe, panel, batches)

    def lesson(self, step: int, generator: np.random.Generator) -> Batch:
        """A random batch of training samples, of a random window."""
        cohort = self.batches.cohorts.training
        samples = generator.choice(cohort.samples, SAMPLES_PER_BATCH, replace=False)
        item = BatchPlan(int(generator.choice(cohort.windows)), step, np.sort(samples))
        # The epoch decides the rate of guided masks, which here are drawn at random as well.
        return self.batches.batch(item, step % len(MASKS.levels))

    def exam(self, stride: int) -> Exam:
        """Batches of held-out samples in every ``stride``-th window."""
        cohort = self.batches.cohorts.validation
        samples = cohort.samples[:EXAM_SAMPLES]
        items = plan_validation(samples, cohort.windows[::stride], len(samples))
        return [(self.batches.batch(item, None), self.panel.af) for item in items]


def lessons(schools: Sequence[School], steps: int, seed: int) -> Iterator[Batch]:
    """One batch per step, of the panels in turn, in an order drawn anew each round."""
    generator = np.random.default_rng([seed, 7])
    order: list[int] = []
    for step in range(steps):
        order = order or generator.permutation(len(schools)).tolist()
        yield schools[order.pop()].lesson(step, generator)


@torch.inference_mode()
def examine(network: LightNetwork | None, exam: Exam) -> dict[str, float]:
    """Cross-entropy and r² by bin and over all, of a network or of the copying model alone."""
    score = Score()
    for batch, af in exam:
        logits = batch.copying_logit if network is None else network(**batch.inputs())
        window = batch.window
        inside = slice(1, 1 + window.n_snps)
        score.add(
            torch.sigmoid(logits[:, inside]).numpy(),
            batch.labels[:, inside].numpy(),
            batch.scored[:, inside].numpy(),
            batch.row_sample.numpy(),
            af[window.start : window.end],
            RARE,
        )
    return {name: score.summary()[name] for name in ("loss", *R2_BINS, "r2")}


def learn(batches: Iterator[Batch], steps: int, seed: int) -> LightNetwork:
    """The moving average of the weights over a run of AdamW."""
    torch.manual_seed(seed)
    network = LightNetwork(RUN.model)
    average = copy.deepcopy(network)
    train = RUN.train
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=train.weight_decay)
    low, high = torch.full((N_FEATURES,), math.inf), torch.full((N_FEATURES,), -math.inf)
    began, total = time.perf_counter(), 0.0
    for step, batch in enumerate(batches):
        logits = network(**batch.inputs())
        loss = masked_loss(logits, batch.labels, batch.scored) / batch.n_scored
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), train.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, train)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1.0 - EMA)
        seen = batch.features[batch.scored]
        low = torch.minimum(low, seen.amin(dim=0))
        high = torch.maximum(high, seen.amax(dim=0))
        total += loss.item()
        if (step + 1) % 500 == 0:
            seconds = time.perf_counter() - began
            print(f"step {step + 1}: loss {total / 500:.5f}, {seconds:.0f} s", flush=True)
            total = 0.0
    average.head.set_range(low.numpy(), high.numpy())
    return average.eval()


def report(network: LightNetwork, exams: dict[str, Exam]) -> None:
    """Print the figures of the copying model and of the network on every panel."""
    names = ("loss", *(name.removeprefix("r2_maf_") for name in R2_BINS), "all")
    print(f"{'':28}" + " ".join(f"{name:>7}" for name in names))
    for panel, exam in exams.items():
        for who, values in (("copying", examine(None, exam)), ("network", examine(network, exam))):
            row = " ".join(f"{value:7.4f}" for value in values.values())
            print(f"{panel:20}{who:8}{row}", flush=True)


def write(network: LightNetwork, output: Path) -> None:
    """A run folder of the network alone, for panels of any sites."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(
        output / CONFIG,
        {
            "format_name": RUN_FORMAT,
            "format_version": RUN_VERSION,
            "portable": True,
            BANK: EVIDENCE_BANK,
            "config": json.loads(json.dumps(asdict(RUN))),
            "trained_on": [json.loads(json.dumps(asdict(recipe))) for recipe in LEARNED],
        },
    )
    save_weights(network, output / WEIGHTS)


def main() -> None:
    """Simulate, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=SHIPPED)
    parser.add_argument("--panels", type=Path, help="folder of simulated panels")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    set_threads(options.threads)
    retrieval.set_threads(options.threads)
    copying.set_threads(options.threads)
    with contextlib.ExitStack() as stack:
        folder = options.panels or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        schools = [School.open(recipe, folder, RUN, stack) for recipe in LEARNED]
        judges = [School.open(recipe, folder, JUDGE, stack) for recipe in JUDGES]
        batches = lessons(schools, options.steps, options.seed)
        network = learn(batches, options.steps, options.seed)
        exams = {school.recipe.name: school.exam(EXAM_STRIDE) for school in schools}
        exams |= {judge.recipe.name: judge.exam(1) for judge in judges}
        report(network, exams)
    write(network, options.output)


if __name__ == "__main__":
    main()
