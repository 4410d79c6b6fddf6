"""The training loop: window-grouped batches, validation on held-out samples, checkpoints."""

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from snvrag import copying, retrieval
from snvrag.array_sites import ArraySites, with_array_sites
from snvrag.checkpoint import (
    WEIGHTS,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from snvrag.cohorts import Cohorts, opened
from snvrag.config import DEFAULT_LOG_EVERY, ModelConfig, RunConfig, TrainConfig, run_config
from snvrag.dataset import (
    Batch,
    WindowBatches,
    plan_epoch,
    plan_validation,
)
from snvrag.distributed import available_memory, resident_memory, resolve_device, set_threads
from snvrag.errors import InputError, UsageError, WorkError
from snvrag.genetic_map import GeneticMap
from snvrag.index_store import IndexStore, default_index_dir
from snvrag.losses import training_loss
from snvrag.metrics import METHODS, Score
from snvrag.model import build_network
from snvrag.observer import SilentObserver, TrainingObserver, TrainReport
from snvrag.panel import Panel
from snvrag.run_folder import (
    CHECKPOINTS,
    TRAIN_LOG,
    check_identity,
    check_run_folder,
    next_run_folder,
    open_tensorboard,
    prepare_run_folder,
    run_identity,
    write_identity,
    write_metrics,
    write_scalars,
)
from snvrag.run_log import RunLog
from snvrag.windows import WindowPlan

logger = logging.getLogger(__name__)

_CHECKPOINT_SECONDS = 20.0
# Saving may take at most this share of the time, however large the model.
_CHECKPOINT_SHARE = 0.05
_FINAL_LR_SHARE = 0.1
_STATUS_FIGURES = ("loss", "rare_f1", "r2")


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Learning rate of optimiser step ``step`` (from 0): linear warm-up, then cosine to a tenth."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, total_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (_FINAL_LR_SHARE + (1.0 - _FINAL_LR_SHARE) * cosine)


def rows_that_fit(config: ModelConfig, max_seq_len: int, memory: int) -> int:
    """Haplotype rows per micro-batch whose activations fit ``memory`` bytes, at least 2.

    Counted: about 20 vectors of D floats per token and layer kept for the backward pass, and 12
    more plus 3 for each encoded haplotype around them.
    """
    per_token = 20 * config.layers + 12 + 3 * config.k
    return max(2, memory // (4 * config.dims * max_seq_len * per_token))


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
    log_every: int = DEFAULT_LOG_EVERY,
    observer: TrainingObserver | None = None,
) -> TrainReport:
    """Train a model on a reference panel, building haplotype indexes just in time.

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
        max_memory: bytes for activations; by default half of what is free.
        resume: go on from the newest checkpoint in ``output``.
        force: replace the run in ``output``.
        tensorboard: also write TensorBoard events to ``output/logs``.
        log_every: batches between two status lines in ``output/train.log``.
        observer: told of progress.

    Raises:
        UsageError, InputError, OutputError, MismatchError: wrong options, input or folders.
        WorkError: the loss became infinite or not a number.
    """
    started = time.perf_counter()
    config = config or run_config({})
    if log_every < 1:
        raise UsageError(f"--log-every {log_every}: must be at least 1")
    maps = GeneticMap.read(genetic_map) if genetic_map else GeneticMap.uniform()
    if output is None:
        if resume:
            raise UsageError("--resume needs the run's folder", "add -o RUN")
        output = next_run_folder(Path.cwd())
    with Panel.open(panel) as reference, opened(targets) as learners, opened(validation) as judges:
        plan = WindowPlan.from_chromosomes(reference.chromosomes(), config.windows)
        sites = None if array_sites is None else ArraySites.read(array_sites, reference)
        config = with_array_sites(config, sites)
        check_run_folder(output, resume=resume, force=force)
        with IndexStore.open(index_dir or default_index_dir(panel), reference, plan) as store:
            cohorts = Cohorts.choose(reference, store, config.train, learners, judges)
            prepare_run_folder(output, resume=resume, force=force)
            with RunLog(output / TRAIN_LOG, observer, log_every) as log:
                trainer = Trainer(
                    reference,
                    store,
                    plan,
                    config,
                    output,
                    resolve_device(device),
                    started,
                    log,
                    maps,
                    cohorts,
                    sites,
                )
                retrieval.set_threads(threads)
                copying.set_threads(threads)
                trainer.start(
                    set_threads(threads), max_memory, resume=resume, tensorboard=tensorboard
                )
                return trainer.run()


@dataclass(slots=True)
class Progress:
    """Where a run stands: everything beside weights and generators that a resume needs."""

    epoch: int = 0
    next_batch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    bad_epochs: int = 0
    finished: bool = False
    stopped_early: bool = False
    epoch_seconds: float = 0.0


class Trainer:
    """One run: owns model, optimiser and position; :func:`train` sets it up."""

    def __init__(
        self,
        panel: Panel,
        store: IndexStore,
        plan: WindowPlan,
        config: RunConfig,
        output: Path,
        device: torch.device,
        started: float,
        observer: TrainingObserver | None,
        maps: GeneticMap,
        cohorts: Cohorts,
        sites: ArraySites | None = None,
    ) -> None:
        self.panel, self.store, self.plan, self.config = panel, store, plan, config
        self.sites = sites
        self.output, self.device, self.started = output, device, started
        self.observer: TrainingObserver = observer or SilentObserver()
        self.cohorts = cohorts
        cm = maps.along(panel.chromosomes(), panel.positions)
        self.batches = WindowBatches(
            panel,
            store,
            plan,
            config,
            cohorts,
            cm,
            device,
            None if sites is None else sites.rows,
        )
        torch.manual_seed(config.train.seed)
        self.model = build_network(config.model, config.windows.max_seq_len).to(device)
        if config.train.index_kind == "embedding":
            self.batches.embed(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay
        )
        learners = cohorts.training
        per_window = math.ceil(len(learners.samples) / config.train.batch_size)
        self.batches_per_epoch = per_window * len(learners.windows)
        if config.train.epoch_batches:
            self.batches_per_epoch = min(self.batches_per_epoch, config.train.epoch_batches)
        steps = math.ceil(self.batches_per_epoch / config.train.accumulate)
        self.total_steps = steps * config.train.epochs
        self.progress = Progress()
        self.identity = run_identity(panel, plan, config, maps.digest) | cohorts.identity(panel)
        self.score = Score()
        self.rows: list[dict[str, float | int]] = []
        self.first_step_seconds = math.nan
        self.max_rows = 2
        self.tensorboard: Any = None
        self._saved_at = time.perf_counter()
        self._save_seconds = 0.0

    def start(
        self, threads: int, max_memory: int | None, *, resume: bool, tensorboard: bool
    ) -> None:
        """Restore or begin: write ``config.json``, report the start block."""
        memory = max_memory or available_memory(self.device)
        self.max_rows = rows_that_fit(self.config.model, self.config.windows.max_seq_len, memory)
        found = checkpoints(self.output / CHECKPOINTS) if resume else []
        if resume and not found:
            logger.warning("%s: no complete checkpoint to resume, starting afresh", self.output)
        if found:
            self._restore(found[-1])
        else:
            origin = {str(self.panel.path): self.panel.digest} | self.cohorts.inputs()
            if self.sites is not None:
                origin[str(self.sites.source)] = self.sites.digest
            write_identity(self.output, self.identity, seed=self.config.train.seed, inputs=origin)
        train = self.config.train
        if train.warmup_steps >= self.total_steps:
            logger.warning(
                "warm-up of %d steps is not shorter than the run of %d steps: the learning rate "
                "never reaches %g",
                train.warmup_steps,
                self.total_steps,
                train.lr,
            )
        if tensorboard:
            self.tensorboard = open_tensorboard(self.output)
        self.observer.on_start(self._start_block(threads))

    def _start_block(self, threads: int) -> dict[str, object]:
        return {
            "panel": str(self.panel.path),
            "panel_samples": self.panel.n_samples,
            "panel_sites": self.panel.n_sites,
            "load_seconds": round(time.perf_counter() - self.started, 2),
            "training_samples": len(self.cohorts.training.samples),
            "validation_samples": len(self.cohorts.validation.samples),
            **self.cohorts.describe(self.panel),
            "samples": len(self.cohorts.training.samples) * len(self.cohorts.training.windows),
            "batches": self.batches_per_epoch,
            "window_size": self.config.windows.window_size,
            "num_windows": self.plan.num_windows,
            "max_seq_len": self.config.windows.max_seq_len,
            "sampler": "window-grouped",
            "array_sites": "none given" if self.sites is None else str(self.sites),
            **self.batches.masks.describe([(w.start, w.end) for w in self.plan.windows]),
            "parameters": self.model.parameter_count(),
            "device": str(self.device),
            "threads": threads,
            "index_dir": str(self.store.folder),
            "output": str(self.output),
        }

    def _restore(self, path: Path) -> None:
        check_identity(self.output, self.identity)
        state = load_checkpoint(path, self.model, self.optimizer)
        try:
            self.progress = Progress(**state["progress"])
            self.score = Score.from_state(state["score"])
            self.rows = list(state["rows"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: the saved state is not usable ({error})") from error
        logger.info("resuming at epoch %d, step %d", self.progress.epoch + 1, self.progress.step)

    def run(self) -> TrainReport:
        """Train until the epochs are done or the rare-variant metric stops improving."""
        already_finished = self.progress.finished
        while not self.progress.finished:
            self._train_epoch()
            self._finish_epoch()
        if self.tensorboard is not None:
            self.tensorboard.close()
        best = self.rows[self.progress.best_epoch - 1] if self.rows else {}
        report = TrainReport(
            output=self.output,
            index_dir=self.store.folder,
            epochs=len(self.rows),
            steps=self.progress.step,
            best_epoch=self.progress.best_epoch,
            best=dict(best),
            seconds=time.perf_counter() - self.started,
            first_step_seconds=self.first_step_seconds,
            jit_builds=self.store.stats.builds,
            stopped_early=self.progress.stopped_early,
            already_finished=already_finished,
        )
        self.observer.on_end(report)
        return report

    def _train_epoch(self) -> None:
        progress, train = self.progress, self.config.train
        plans = plan_epoch(
            self.cohorts.training.samples,
            self.cohorts.training.windows,
            train.batch_size,
            train.seed,
            progress.epoch,
            train.epoch_batches,
        )
        self.model.train()
        if self.batches.embedding is not None:
            self.batches.embedding.begin_epoch(progress.epoch)
        self.optimizer.zero_grad(set_to_none=True)
        began, before = time.perf_counter(), progress.epoch_seconds
        done_before = progress.next_batch
        while progress.next_batch < len(plans):
            first = progress.next_batch
            group = plans[first : first + train.accumulate]
            for item in group:
                batch = self.batches.batch(item, progress.epoch)
                self._backward(batch, len(group))
                progress.next_batch += 1
                progress.epoch_seconds = before + time.perf_counter() - began
                samples = train.batch_size * (progress.next_batch - done_before)
                self._report_batch(item.window, len(plans), samples / (time.perf_counter() - began))
            self._step()
            if self._checkpoint_due():
                self._save()

    def _backward(self, batch: Batch, group_size: int) -> None:
        scored = batch.n_scored
        if scored == 0:
            return
        for part in batch.parts(self.max_rows):
            with self._autocast():
                logits = self._forward(part)
            loss = training_loss(
                logits, part.labels, part.scored, part.row_sample, self.config.train
            )
            if not bool(torch.isfinite(loss)):
                raise WorkError(
                    f"the loss became {loss.item()} at step {self.progress.step + 1}",
                    "use a smaller --lr",
                )
            (loss / (scored * group_size)).backward()  # type: ignore[no-untyped-call]
            self._add_score(self.score, part, torch.sigmoid(logits.detach()))

    def _forward(self, part: Batch) -> torch.Tensor:
        logits: torch.Tensor = self.model(**part.inputs())
        return logits

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"
        )

    def _step(self) -> None:
        progress = self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress.step, self.total_steps, self.config.train)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        if math.isnan(self.first_step_seconds):
            self.first_step_seconds = time.perf_counter() - self.started
            logger.info("first optimiser step after %.1f s", self.first_step_seconds)

    def _add_score(self, score: Score, part: Batch, probability: torch.Tensor) -> None:
        window = part.window
        sites = slice(1, 1 + window.n_snps)
        score.add(
            probability[:, sites].float().cpu().numpy(),
            part.labels[:, sites].cpu().numpy(),
            part.scored[:, sites].cpu().numpy(),
            part.row_sample.cpu().numpy(),
            self.panel.af[window.start : window.end],
            self.config.mask.rare_threshold,
        )

    def _report_batch(self, window: int, batches: int, samples_per_s: float) -> None:
        figures = self.score.summary()
        self.observer.on_batch(
            {
                "epoch": self.progress.epoch + 1,
                "epochs": self.config.train.epochs,
                "window": window,
                "num_windows": self.plan.num_windows,
                "batch": self.progress.next_batch,
                "batches": batches,
                "step": self.progress.step,
                **{name: figures[name] for name in _STATUS_FIGURES},
                "samples_per_s": samples_per_s,
                "jit_builds": self.store.stats.builds,
                "rss_mb": resident_memory() / 2**20,
                "lr": self.optimizer.param_groups[0]["lr"],
            }
        )

    @torch.no_grad()
    def validate(self) -> dict[str, Score]:
        """Score model, copying model, nearest haplotype and frequency on the held-out samples."""
        scores = {method: Score() for method in METHODS}
        self.model.eval()
        judges = self.cohorts.validation
        plans = plan_validation(judges.samples, judges.windows, self.config.train.validation_batch)
        for item in plans:
            for part in self.batches.batch(item, None).parts(4 * self.max_rows):
                with self._autocast():
                    logits = self._forward(part)
                answers = {
                    "model": torch.sigmoid(logits),
                    "copying": torch.sigmoid(part.copying_logit),
                    "nearest": part.nearest,
                    "af": part.af[part.row_sample],
                }
                for method, probability in answers.items():
                    self._add_score(scores[method], part, probability)
        return scores

    def _finish_epoch(self) -> None:
        progress, train = self.progress, self.config.train
        began = time.perf_counter()
        scores = {method: score.summary() for method, score in self.validate().items()}
        rare = scores["model"]["rare_f1"]
        metric = scores["model"]["f1"] if math.isnan(rare) else rare
        progress.epoch += 1
        row: dict[str, float | int] = {
            "epoch": progress.epoch,
            "step": progress.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_seconds": round(progress.epoch_seconds, 3),
            "validation_seconds": round(time.perf_counter() - began, 3),
            "jit_builds": self.store.stats.builds,
        }
        row |= {f"train_{name}": value for name, value in self.score.summary().items()}
        for method, figures in scores.items():
            prefix = "val" if method == "model" else method
            row |= {f"{prefix}_{name}": value for name, value in figures.items()}
        self.rows.append(row)
        if progress.best_epoch == 0 or metric > progress.best + train.min_delta:
            progress.bad_epochs = 0
        else:
            progress.bad_epochs += 1
        if progress.best_epoch == 0 or metric > progress.best:
            progress.best, progress.best_epoch = metric, progress.epoch
            save_weights(self.model, self.output / WEIGHTS)
        progress.stopped_early = progress.bad_epochs >= train.patience
        progress.finished = progress.stopped_early or progress.epoch >= train.epochs
        progress.next_batch, progress.epoch_seconds, self.score = 0, 0.0, Score()
        write_metrics(self.output, self.rows)
        write_scalars(self.tensorboard, row, progress.step)
        self._save()
        self.observer.on_epoch(row)

    def _checkpoint_due(self) -> bool:
        every = self.config.train.checkpoint_every
        if every:
            return self.progress.step % every == 0
        wait = max(_CHECKPOINT_SECONDS, self._save_seconds / _CHECKPOINT_SHARE)
        return time.perf_counter() - self._saved_at >= wait

    def _save(self) -> None:
        began = time.perf_counter()
        state = {
            "step": self.progress.step,
            "progress": asdict(self.progress),
            "score": self.score.state(),
            "rows": self.rows,
        }
        save_checkpoint(self.output / CHECKPOINTS, self.model, self.optimizer, state)
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - began
