"""The training loop: window-grouped batches, validation on held-out samples, checkpoints."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snvrag.array_sites import ArraySites
from snvrag.bank import CopyingFit, fit_copying
from snvrag.batch import Batch
from snvrag.batch_plan import BatchPlan, plan_epoch, plan_validation
from snvrag.checkpoint import (
    Checkpoint,
    agree_on_checkpoint,
    save_checkpoint,
    save_weights,
)
from snvrag.cohorts import Cohorts
from snvrag.config import RunConfig
from snvrag.dataset import WindowBatches
from snvrag.distributed import (
    Ranks,
    available_memory,
    resident_memory,
)
from snvrag.errors import InputError, WorkError
from snvrag.genetic_map import GeneticMap
from snvrag.index_store import IndexStore
from snvrag.losses import training_loss
from snvrag.metrics import METHODS, Score, selection_metric
from snvrag.model import build_network
from snvrag.observer import SilentObserver, TrainingObserver, TrainReport
from snvrag.optimizer import (
    SMALLER_STEPS,
    gradient_step,
    learning_rate,
    make_optimizer,
    rows_that_fit,
)
from snvrag.panel import Panel
from snvrag.provenance import read_json
from snvrag.run_folder import (
    CHECKPOINTS,
    TENSORBOARD,
    check_identity,
    run_identity,
    write_identity,
    write_metrics,
    write_scalars,
)
from snvrag.trained_run import BANK, CONFIG, bank_from_json
from snvrag.weights import WEIGHTS
from snvrag.windows import WindowPlan

logger = logging.getLogger(__name__)

_CHECKPOINT_SECONDS = 20.0
# Saving may take at most this share of the time, however large the model.
_CHECKPOINT_SHARE = 0.05
# Drawing the curves takes about a second: after each epoch, but not more often than this.
_DRAW_SECONDS = 20.0
_STATUS_FIGURES = ("loss", "rare_f1", "r2")


@dataclass(slots=True)
class Progress:
    """Where a run stands: everything beside weights and generators that a resume needs."""

    epoch: int = 0
    next_batch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    bad_epochs: int = 0
    patience_reference: float = -math.inf
    """What the metric must exceed by ``min_delta``; the value that did so last."""
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
        ranks: Ranks,
        started: float,
        maps: GeneticMap,
        cohorts: Cohorts,
        sites: ArraySites | None = None,
    ) -> None:
        self.panel, self.store, self.plan, self.config = panel, store, plan, config
        self.sites, self.cohorts = sites, cohorts
        self.output, self.ranks, self.device = output, ranks, ranks.device
        self.started = started
        self.observer: TrainingObserver = SilentObserver()
        cm = maps.along(panel.chromosomes(), panel.positions)
        listed = None if sites is None else sites.rows
        self.batches = WindowBatches(panel, store, plan, config, cohorts, cm, self.device, listed)
        torch.manual_seed(config.train.seed)
        self.model = build_network(config.model, config.windows.max_seq_len).to(self.device)
        if config.train.index_kind == "embedding":
            self.batches.embed(self.model)
        self.optimizer = make_optimizer(self.model, config.train, self.device)
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
        self._saved_at = self._drawn_at = time.perf_counter()
        self._save_seconds = 0.0

    def start(
        self,
        observer: TrainingObserver | None,
        threads: int,
        max_memory: int | None,
        *,
        resume: bool,
        tensorboard: Any = None,
    ) -> None:
        """Restore or begin: write ``config.json``, report the start block.

        Args:
            observer: told of progress by rank 0.
            threads: CPU threads of torch, for the start block.
            max_memory: bytes for activations, of all processes that share the device's memory;
                None is a part of what is free.
            resume: go on from the newest checkpoint.
            tensorboard: class of the TensorBoard writer, if events are to be written.
        """
        if observer is not None and self.ranks.is_main:
            self.observer = observer
        memory = (max_memory or available_memory(self.device)) // self._sharers()
        self.max_rows = rows_that_fit(self.config.model, self.config.windows.max_seq_len, memory)
        found = None
        if resume:
            found = agree_on_checkpoint(self.output, CHECKPOINTS, self.ranks)
        if found is not None:
            self._restore(found, keep_rows=max_memory is None)
        else:
            self._begin()
        train = self.config.train
        if train.warmup_steps > self.total_steps:
            logger.warning(
                "warm-up of %d steps is longer than the run of %d steps: the learning rate "
                "never reaches %g",
                train.warmup_steps,
                self.total_steps,
                train.lr,
            )
        if tensorboard is not None and self.ranks.is_main:
            self.tensorboard = tensorboard(str(self.output / TENSORBOARD))
        self.observer.on_start(self._start_block(threads))

    def _begin(self) -> None:
        """Fit the copying model and write ``config.json``."""
        fit: CopyingFit | None = None

        def settings() -> str:
            nonlocal fit
            fit = fit_copying(self.batches, self.observer.on_progress)
            return json.dumps([fit.bank, fit.low, fit.high])

        bank, low, high = json.loads(self.ranks.once(settings))
        self.batches.bank = bank_from_json(bank, "rank 0")
        self.model.head.set_range(np.array(low, np.float32), np.array(high, np.float32))
        if fit is not None:
            logger.info("copying model %s, %.1f s", fit, fit.seconds)
        if self.ranks.is_main:
            origin = {str(self.panel.path): self.panel.digest} | self.cohorts.inputs()
            if self.sites is not None:
                origin[str(self.sites.source)] = self.sites.digest
            identity = {**self.identity, BANK: bank}
            write_identity(self.output, identity, seed=self.config.train.seed, inputs=origin)

    def _embedding_copy(self) -> torch.nn.Module | None:
        """What embedding indexes are built with, if there are any."""
        return None if self.batches.embedding is None else self.batches.embedding.copy

    def _sharers(self) -> int:
        """Processes that share the memory of this one's device."""
        return self.ranks.local_size if self.device.type == "cpu" else 1

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
            "copying_bank": " ".join(f"(c={c:g},e={e:g})" for c, e in self.batches.bank),
            "parameters": self.model.parameter_count(),
            "device": str(self.device),
            "threads": threads,
            "processes": self.ranks.world_size,
            "index_dir": str(self.store.folder),
            "output": str(self.output),
        }

    def _restore(self, found: Checkpoint, *, keep_rows: bool) -> None:
        check_identity(self.output, self.identity)
        where = self.output / CONFIG
        self.batches.bank = bank_from_json(read_json(where).get(BANK), str(where))
        found.restore(self.model, self.optimizer, self._embedding_copy())
        state = found.state
        try:
            self.progress = Progress(**state["progress"])
            self.rows = list(state["rows"])
            # The other ranks' share of the epoch so far is in these sums already.
            self.score = Score.from_state(state["score"]) if self.ranks.is_main else Score()
            # Other micro-batches would add up in another order.
            self.max_rows = int(state["max_rows"]) if keep_rows else self.max_rows
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{found.path}: the saved state is not usable ({error})") from error
        # Shown if the epoch has no step left; the next step sets its own.
        last = learning_rate(max(self.progress.step - 1, 0), self.total_steps, self.config.train)
        for group in self.optimizer.param_groups:
            group["lr"] = last
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
            jit_builds=self._jit_builds(),
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
        # Within an epoch, a resumed run goes on with the copy that the epoch began with.
        if self.batches.embedding is not None and progress.next_batch == 0:
            self.batches.embedding.begin_epoch(progress.epoch)
        self.optimizer.zero_grad(set_to_none=True)
        began, before = time.perf_counter(), progress.epoch_seconds
        samples = 0
        while progress.next_batch < len(plans):
            first = progress.next_batch
            scored = 0
            for item in plans[first : first + train.accumulate]:
                share = item.share(self.ranks.share(len(item.samples)))
                if len(share.samples):
                    scored += self._backward(self.batches.batch(share, progress.epoch), share)
                progress.next_batch += 1
                progress.epoch_seconds = before + time.perf_counter() - began
                samples += len(item.samples)
                self._report_batch(item.window, len(plans), samples / (time.perf_counter() - began))
            if self._step(scored):
                self._save()

    def _backward(self, batch: Batch, item: BatchPlan) -> int:
        """Add the gradient of the batch's summed loss; returns its number of scored positions."""
        scored = batch.n_scored
        if scored == 0:
            return 0
        sample = 0
        for part in batch.parts(self.max_rows):
            samples = item.samples[sample : sample + len(part.af)]
            sample += len(part.af)
            key = (self.config.train.seed, self.progress.epoch, item.window, item.number)
            self.model.key_rows(key, samples[part.row_sample.cpu().numpy()])
            if self.device.type == "cuda":
                # Torch draws there: from the rows' own seed, in every rank and resumed run.
                seed = np.random.SeedSequence([*key, int(samples[0])]).generate_state(1)[0]
                torch.cuda.manual_seed(int(seed))
            with self._autocast():
                logits = self._forward(part)
            loss = training_loss(
                logits, part.labels, part.scored, part.row_sample, self.config.train
            )
            if not bool(torch.isfinite(loss)):
                raise WorkError(
                    f"the loss became {loss.item()} at step {self.progress.step + 1}",
                    SMALLER_STEPS,
                )
            loss.backward()  # type: ignore[no-untyped-call]
            self._add_score(self.score, part, torch.sigmoid(logits.detach()))
        return scored

    def _forward(self, part: Batch) -> torch.Tensor:
        logits: torch.Tensor = self.model(**part.inputs())
        return logits

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"
        )

    def _step(self, scored: int) -> bool:
        """Step all ranks; returns whether they are to save a checkpoint now, as rank 0 decides."""
        progress, train = self.progress, self.config.train
        due = self._checkpoint_due() and self.ranks.is_main
        total, save = self.ranks.sum_numbers([scored, due])
        lr = learning_rate(progress.step, self.total_steps, train)
        gradient_step(self.optimizer, self.ranks, total, lr, train.clip)
        progress.step += 1
        if math.isnan(self.first_step_seconds):
            self.first_step_seconds = time.perf_counter() - self.started
            logger.info("first optimiser step after %.1f s", self.first_step_seconds)
        return bool(save)

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
        judges, train = self.cohorts.validation, self.config.train
        plans = plan_validation(
            judges.samples,
            judges.windows,
            train.validation_batch,
            train.seed,
            train.validation_items,
        )
        # Batches of validation stand alone, so whole ones are dealt out.
        own = plans[self.ranks.rank :: self.ranks.world_size]
        for number, item in enumerate(own):
            self.observer.on_progress("validating", number, len(own))
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
        return {method: self._over_ranks(score) for method, score in scores.items()}

    def _over_ranks(self, score: Score) -> Score:
        return Score.from_state(self.ranks.sum_tree(score.state()))

    def _finish_epoch(self) -> None:
        progress, train = self.progress, self.config.train
        began = time.perf_counter()
        judged = self.validate()
        scores = {method: score.summary() for method, score in judged.items()}
        self._check_finite(judged["model"], scores["model"]["loss"])
        metric = selection_metric(scores["model"], train.focal_gamma)
        progress.epoch += 1
        row: dict[str, float | int] = {
            "epoch": progress.epoch,
            "step": progress.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_seconds": round(progress.epoch_seconds, 3),
            "validation_seconds": round(time.perf_counter() - began, 3),
            "jit_builds": self._jit_builds(),
        }
        train_score = self._over_ranks(self.score)
        row |= {f"train_{name}": value for name, value in train_score.summary().items()}
        for method, figures in scores.items():
            prefix = "val" if method == "model" else method
            row |= {f"{prefix}_{name}": value for name, value in figures.items()}
        self.rows.append(row)
        # Not against the best: steps below min_delta add up to an improvement.
        if metric > progress.patience_reference + train.min_delta:
            progress.patience_reference, progress.bad_epochs = metric, 0
        else:
            progress.bad_epochs += 1
        if progress.best_epoch == 0 or metric > progress.best:
            progress.best, progress.best_epoch = metric, progress.epoch
            if self.ranks.is_main:
                save_weights(self.model, self.output / WEIGHTS)
        progress.stopped_early = progress.bad_epochs >= train.patience
        progress.finished = progress.stopped_early or progress.epoch >= train.epochs
        progress.next_batch, progress.epoch_seconds, self.score = 0, 0.0, Score()
        if self.ranks.is_main:
            due = progress.finished or time.perf_counter() - self._drawn_at > _DRAW_SECONDS
            write_metrics(self.output, self.rows, progress.best_epoch, draw=due)
            if due:
                self._drawn_at = time.perf_counter()
        write_scalars(self.tensorboard, row, progress.step)
        self._save()
        self.observer.on_epoch(row)

    def _check_finite(self, score: Score, loss: float) -> None:
        if score.groups["all"].n and not math.isfinite(loss):
            raise WorkError(
                f"the validation loss became {loss} in epoch {self.progress.epoch + 1}",
                SMALLER_STEPS,
            )

    def _jit_builds(self) -> int:
        return int(self.ranks.sum_numbers([self.store.stats.builds])[0])

    def _checkpoint_due(self) -> bool:
        """Whether the step about to be taken is to be saved."""
        every = self.config.train.checkpoint_every
        if every:
            return (self.progress.step + 1) % every == 0
        wait = max(_CHECKPOINT_SECONDS, self._save_seconds / _CHECKPOINT_SHARE)
        return time.perf_counter() - self._saved_at >= wait

    def _save(self) -> None:
        began = time.perf_counter()
        self.panel.check_unchanged()
        state = {
            "step": self.progress.step,
            "progress": asdict(self.progress),
            "score": self._over_ranks(self.score).state(),
            "rows": self.rows,
            "max_rows": self.max_rows,
        }
        if self.ranks.is_main:
            copy, folder = self._embedding_copy(), self.output / CHECKPOINTS
            save_checkpoint(folder, self.model, self.optimizer, state, copy)
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - began
