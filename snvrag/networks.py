"""Which network answers in ``impute``: a trained one, or none beside the copying model.

Torch takes seconds to import, and the copying model does without: it is imported only with a run.
"""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snvrag.config import WindowConfig
from snvrag.copying import DEFAULT_BANK
from snvrag.errors import UsageError
from snvrag.genetic_map import GeneticMap
from snvrag.panel import Panel
from snvrag.provenance import sha256_file
from snvrag.target import TargetHaplotypes
from snvrag.windows import WindowPlan

if TYPE_CHECKING:
    from snvrag.index_store import IndexStore
    from snvrag.refinement import Refiner
    from snvrag.run_folder import TrainedRun

logger = logging.getLogger(__name__)

# Torch and its kernels (measured), and the indexes that a network reads at once.
_TORCH_BYTES = 250 << 20
_INDEX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ChosenNetwork:
    """The network of ``impute -m``, or its absence."""

    windows: WindowConfig
    digest: str | None
    meta: list[str]
    """Header lines that say what answered."""
    run: "TrainedRun | None" = None
    store: "IndexStore | None" = None
    device: Any = None
    n_bytes: int | None = None
    """Memory that network and torch take; None without a network."""

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
            UsageError: an option of networks is given without a run.
            InputError: the run is absent or damaged.
            MismatchError: it was trained for other sites, or the index directory is of another
                panel or window size.
        """
        if path is None:
            _refuse_network_options(index_dir, device)
            bank = " ".join(f"(c={c:g},e={e:g})" for c, e in DEFAULT_BANK)
            return cls(WindowConfig(), None, [f"##snvrag_copying_bank={bank}"])
        from snvrag import distributed, retrieval
        from snvrag.checkpoint import WEIGHTS
        from snvrag.index_store import IndexStore, default_index_dir
        from snvrag.refinement import forward_bytes
        from snvrag.run_folder import load_run

        run = load_run(path)
        run.check_panel(panel)
        if not run.portable and run.identity.get("map_digest") != maps.digest:
            logger.warning(
                "%s was trained with another genetic map than the one in use (%s)",
                path,
                maps.source,
            )
        distributed.set_threads(threads)
        retrieval.set_threads(threads)
        place = distributed.resolve_device(device)
        run.network.to(place)
        store = None
        if run.config.model.network != "light":
            plan = WindowPlan.from_chromosomes(panel.chromosomes(), run.config.windows)
            folder = index_dir or default_index_dir(panel.path)
            store = stack.enter_context(
                IndexStore.open(folder, panel, plan, budget_bytes=_INDEX_BYTES)
            )
        digest = sha256_file(path / WEIGHTS)
        meta = [f"##snvrag_model={path.resolve().name} {run.config.model.network} {digest}"]
        n_bytes = _TORCH_BYTES + forward_bytes(run)
        if store is not None:
            n_bytes += _INDEX_BYTES
        return cls(run.config.windows, digest, meta, run, store, place, n_bytes)

    def refiner(
        self, panel: Panel, target: TargetHaplotypes, exclude: NDArray[np.int64]
    ) -> "Refiner | None":
        """The network at work on a target; None without a network."""
        if self.run is None:
            return None
        from snvrag.refinement import Refiner

        return Refiner(self.run, panel, self.store, target, exclude, self.device)


def _refuse_network_options(index_dir: Path | None, device: str) -> None:
    # The copying model runs on the CPU, so that asking for it asks for nothing else.
    on_other = device not in ("auto", "cpu")
    for option, given in (("--index-dir", index_dir is not None), (f"--device {device}", on_other)):
        if given:
            raise UsageError(
                f"{option} is for a network, and the copying model alone is in use",
                "name the network's run with -m RUN, or leave the option out",
            )
