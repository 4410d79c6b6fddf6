"""Which network answers in ``impute``: a trained one, or none beside the copying model.

Torch takes seconds to import, and the copying model and the light network do without: it is
imported only for a network that reads whole windows.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snvrag.chunks import Chunk
from snvrag.config import WindowConfig
from snvrag.copying import DEFAULT_BANK, PICK_ABOVE, Bank
from snvrag.errors import UsageError
from snvrag.genetic_map import GeneticMap
from snvrag.light import LightWeights
from snvrag.panel import Panel
from snvrag.provenance import digest_json, sha256_file
from snvrag.target import TargetCalls
from snvrag.trained_run import TrainedRun, load_run
from snvrag.weights import WEIGHTS
from snvrag.windows import WindowPlan

logger = logging.getLogger(__name__)

# Torch and its kernels (measured), and the indexes that a network reads at once.
_TORCH_BYTES = 250 << 20
_INDEX_BYTES = 64 << 20


class Refines(Protocol):
    """Corrects the copying model's answer by its evidence."""

    def logits(
        self,
        chunk: Chunk,
        some: slice,
        minor_is_alt: NDArray[np.bool_],
        features: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Logit of ALT, float32 [T, L], of target haplotypes ``some`` at a chunk's sites.

        Where a haplotype has a call, the value has no meaning.

        Args:
            chunk: the sites, whole windows.
            some: numbers of the target haplotypes.
            minor_is_alt: bool [L].
            features: float32 [T, L, N_FEATURES], evidence about the minor allele.
        """
        ...


# Given the target, and int64 [H, 2], the panel haplotypes that each of its haplotypes must not see.
MakeRefiner = Callable[[TargetCalls, NDArray[np.int64]], Refines]


@dataclass(frozen=True, slots=True)
class ChosenNetwork:
    """The network of ``impute -m``, or its absence."""

    windows: WindowConfig
    bank: Bank
    """Settings of the copying model."""
    digest: str | None
    """Of all that decides the network's answers."""
    meta: list[str]
    """Header lines that say what answered."""
    refiner: MakeRefiner | None = None
    n_bytes: int | None = None
    """Memory that the network takes; None without one."""
    device: str = "cpu"
    """Where it runs."""
    reads_windows: bool = False
    """Whether it answers for whole windows of several haplotypes at once."""

    @classmethod
    def open(
        cls,
        path: Path | None,
        panel: Panel,
        maps: GeneticMap,
        index_dir: Path | None,
        device: str,
        threads: int | None,
        stack: contextlib.ExitStack,
    ) -> "ChosenNetwork":
        """Load a run and what its network looks things up in; nothing if ``path`` is None.

        Raises:
            UsageError: an option is given that the network, or its absence, has no use for.
            InputError: the run is absent or damaged.
            MismatchError: it was trained for other sites, its weights are of another network, or
                the index directory is of another panel or window size.
        """
        if path is None:
            _refuse_options(index_dir, device, "the copying model alone is in use")
            return cls(WindowConfig(), DEFAULT_BANK, None, [_bank_line(DEFAULT_BANK)])
        run = load_run(path)
        run.check_panel(panel)
        if not run.portable and run.identity.get("map_digest") != maps.digest:
            logger.warning(
                "%s was trained with another genetic map than the one in use (%s)",
                path,
                maps.source,
            )
        if run.portable and panel.n_haplotypes > PICK_ABOVE:
            logger.warning(
                "%s learned from smaller panels: with %s haplotypes the copying model alone, "
                "without -m, is the more accurate; a network trained on this panel may be better",
                path,
                f"{panel.n_haplotypes:,}",
            )
        kind = run.config.model.network
        if kind == "light":
            _refuse_options(index_dir, device, f"the light network of {path} is in use")
            refiner, n_bytes = _light(run)
            device = "cpu"
        else:
            refiner, n_bytes, device = _window_network(
                run, panel, index_dir, device, threads, stack
            )
        digest = sha256_file(run.path / WEIGHTS)
        meta = [_bank_line(run.bank), f"##snvrag_model={run.path.resolve().name} {kind} {digest}"]
        decides = digest_json([digest, run.bank])
        reads_windows = kind != "light"
        return cls(
            run.config.windows, run.bank, decides, meta, refiner, n_bytes, device, reads_windows
        )


def _light(run: TrainedRun) -> tuple[MakeRefiner, int]:
    weights = LightWeights.load(run)
    return lambda target, exclude: weights, 0


def _window_network(
    run: TrainedRun,
    panel: Panel,
    index_dir: Path | None,
    device: str,
    threads: int | None,
    stack: contextlib.ExitStack,
) -> tuple[MakeRefiner, int, str]:
    from snvrag import distributed, retrieval
    from snvrag.index_store import IndexStore, default_index_dir
    from snvrag.model import RagBert
    from snvrag.refinement import Refiner, forward_bytes
    from snvrag.run_folder import load_network

    distributed.set_threads(threads)
    retrieval.set_threads(threads)
    place = distributed.resolve_device(device)
    network = load_network(run).to(place)
    assert isinstance(network, RagBert)  # noqa: S101 - for the type checker
    plan = WindowPlan.from_chromosomes(panel.chromosomes(), run.config.windows)
    store = stack.enter_context(
        IndexStore.open(
            index_dir or default_index_dir(panel.path), panel, plan, budget_bytes=_INDEX_BYTES
        )
    )

    def make(target: TargetCalls, exclude: NDArray[np.int64]) -> Refiner:
        return Refiner(run, network, panel, store, target, exclude, place)

    return make, _TORCH_BYTES + _INDEX_BYTES + forward_bytes(run, network), str(place)


def _bank_line(bank: Bank) -> str:
    settings = " ".join(f"(c={c:g},e={e:g})" for c, e in bank)
    return f"##snvrag_copying_bank={settings}"


def _refuse_options(index_dir: Path | None, device: str, reason: str) -> None:
    # All this runs on the CPU, so that asking for it asks for nothing else.
    on_other = device not in ("auto", "cpu")
    for option, given in (("--index-dir", index_dir is not None), (f"--device {device}", on_other)):
        if given:
            raise UsageError(
                f"{option} is for a network that reads whole windows, and {reason}",
                "name such a network's run with -m RUN, or leave the option out",
            )
