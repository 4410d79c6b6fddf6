"""``train``: opens what a run needs, and sets up its loop."""

import contextlib
import time
from pathlib import Path

from snvrag import copying, retrieval
from snvrag.array_sites import ArraySites, with_array_sites
from snvrag.cohorts import Cohorts, opened
from snvrag.config import DEFAULT_LOG_EVERY, RunConfig, run_config
from snvrag.distributed import (
    join,
    set_precision,
    set_threads,
)
from snvrag.errors import UsageError
from snvrag.genetic_map import GeneticMap
from snvrag.index_store import IndexStore, default_index_dir
from snvrag.observer import TrainingObserver, TrainReport
from snvrag.panel import Panel
from snvrag.run_events import EventLog
from snvrag.run_folder import (
    TRAIN_LOG,
    choose_run_folder,
    occupied_run_folder,
    tensorboard_writer,
)
from snvrag.run_history import EVENTS
from snvrag.run_log import RunLog
from snvrag.trainer import Trainer
from snvrag.windows import WindowPlan


def train(
    panel: Path,
    output: Path | None = None,
    *,
    config: RunConfig | None = None,
    index_dir: Path | None = None,
    genetic_map: Path | None = None,
    array_sites: Path | None = None,
    targets: Path | None = None,
    validation: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    max_memory: int | None = None,
    resume: bool = False,
    force: bool = False,
    tensorboard: bool = False,
    compile_blocks: bool = False,
    log_every: int = DEFAULT_LOG_EVERY,
    observer: TrainingObserver | None = None,
) -> TrainReport:
    """Train a model on a reference panel, building haplotype indexes just in time.

    Started by ``torchrun``, the processes share every batch: each takes its part of the samples,
    and the sums of their gradients and counts are those of one process.

    Args:
        panel: reference panel made by :func:`snvrag.convert`.
        output: run folder; by default the next free ``snvrag-run`` in the current folder.
        config: settings; those of preset ``light`` if None.
        index_dir: folder of haplotype indexes; by default ``<panel>.index/``.
        genetic_map: map file; 1 cM per Mb if None.
        array_sites: VCF/BCF, or text of CHROM POS, of the sites that mask pattern ``sites`` leaves
            observed.
        targets: panel file of the people to train on; the panel's own samples if None.
        validation: panel file of the people to validate on; a part of the panel's samples if None.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        threads: CPU threads of torch.
        max_memory: bytes for activations; by default half of what is free, on CUDA four fifths.
        resume: go on from the newest checkpoint in ``output``.
        force: replace the run in ``output``.
        tensorboard: also write TensorBoard events to ``output/logs``.
        compile_blocks: compile the transformer blocks with ``torch.compile``.
        log_every: batches between two status lines in ``output/train.log``.
        observer: told of progress.

    Returns:
        The best epoch with its metrics, and where the run lies.

    Raises:
        UsageError, InputError, OutputError, MismatchError: wrong options, input or folders.
        WorkError: the loss became infinite or not a number, or another process was lost.
        RankError: another process failed, and has said why.
    """
    started = time.perf_counter()
    config = config or run_config({})
    if log_every < 1:
        raise UsageError(f"--log-every {log_every}: must be at least 1")
    with join(device) as ranks, contextlib.ExitStack() as stack:
        maps = GeneticMap.read(genetic_map) if genetic_map else GeneticMap.uniform()
        chosen = ranks.once(lambda: str(choose_run_folder(output, resume=resume, force=force)))
        folder = Path(chosen)
        reference = stack.enter_context(Panel.open(panel))
        learners = stack.enter_context(opened(targets))
        judges = stack.enter_context(opened(validation))
        plan = WindowPlan.from_chromosomes(reference.chromosomes(), config.windows)
        sites = None if array_sites is None else ArraySites.read(array_sites, reference)
        config = with_array_sites(config, sites)
        where = index_dir or default_index_dir(panel)
        store = stack.enter_context(IndexStore.open(where, reference, plan))
        cohorts = Cohorts.choose(reference, store, config.train, learners, judges)
        set_precision(ranks.device)
        trainer = Trainer(
            reference, store, plan, config, folder, ranks, started, maps, cohorts, sites
        )
        torch_threads = set_threads(threads)
        retrieval.set_threads(threads)
        copying.set_threads(threads)
        if compile_blocks:
            trainer.model.compile_blocks()
        trainer.identity["compile"] = compile_blocks
        writer = tensorboard_writer() if tensorboard and ranks.is_main else None

        def occupy() -> str:
            # Last, since it may remove an earlier run: whatever can be refused has been by now.
            stack.enter_context(occupied_run_folder(folder, resume=resume, force=force))
            return ""

        ranks.once(occupy)
        told = observer
        if ranks.is_main:
            told = stack.enter_context(RunLog(folder / TRAIN_LOG, observer, log_every))
        events = stack.enter_context(EventLog(folder / EVENTS, reference, plan, told))
        store.on_touch = events.on_touch
        trainer.start(events, torch_threads, max_memory, resume=resume, tensorboard=writer)
        return trainer.run()
