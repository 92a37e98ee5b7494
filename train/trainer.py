"""The training loop of one run: epochs, steps, checkpoints, evaluations."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from train.checkpoint import Checkpoint, Progress, load_optimizer, save_checkpoint
from train.colour import normalise
from train.config import FitConfig, InferenceConfig, OptimizerConfig
from train.criterion import mixture_statistics
from train.data import BadSamples, EvaluationSet, TrainingSet, batch_tensor, training_loader
from train.errors import TrainingError
from train.evaluation import Findings, find, write_evaluation
from train.interrupt import Interrupt
from train.run_directory import RunDirectory
from train.run_log import LossMeter, RunLog
from train.sampler import EpochBatchSampler
from train.tasks import Task


def learning_rate(config: OptimizerConfig, epoch: int) -> float:
    """Of an epoch, counted from 0: a pure function, so that no schedule has to be saved."""
    drops = sum(epoch >= drop for drop in config.drop_epochs)
    return config.lr * config.drop_factor**drops


def stored_config(config: FitConfig) -> FitConfig:
    """What of a configuration belongs to the run and not to the session."""
    return dataclasses.replace(config, resume=None, stop_after=None)


class Trainer:
    """The state of a run in this process: model, optimizer, data, and how far it is."""

    def __init__(
        self,
        config: FitConfig,
        accelerator: Accelerator,
        task: Task,
        model: Any,
        train_set: TrainingSet,
        val_set: EvaluationSet | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.device = accelerator.device
        self.task = task
        self.val_set = val_set
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        model = model.to(memory_format=self.memory_format)
        self.model, self.optimizer = accelerator.prepare(
            model, torch.optim.Adam(model.parameters(), lr=config.optimizer.lr, fused=True)
        )
        self.criterion = task.criterion(config.model, config.optimizer).to(self.device)
        self.stride = model.stride
        self.progress = Progress()
        if checkpoint is not None:
            load_optimizer(self.optimizer, checkpoint)
            if accelerator.scaler is not None and checkpoint.scaler is not None:
                accelerator.scaler.load_state_dict(checkpoint.scaler)
            self.progress = checkpoint.progress
        self.sampler = EpochBatchSampler(
            len(train_set),
            config.optimizer.batch,
            config.seed,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.loader = training_loader(train_set, self.sampler, config.data.workers, pin=self.device.type == "cuda")
        self.bad = BadSamples(len(train_set), train_set.annotations.path)
        self.meter = LossMeter()
        self.saved = time.monotonic()
        self.stop_at = None if config.stop_after is None else self.progress.step + config.stop_after

    def create_run(self) -> RunDirectory:
        """The run's directory, with the untrained network as its first checkpoint."""
        if self.accelerator.is_main_process:
            RunDirectory.create(self.config.run, stored_config(self.config), self.save)
        self.accelerator.wait_for_everyone()
        return RunDirectory(self.config.run)

    def train(self, run: RunDirectory, interrupt: Interrupt) -> str | None:
        """The epochs that are left, then the evaluation; returns why it stopped before the end, or None."""
        epochs = self.config.optimizer.epochs
        log = RunLog(
            run.log if self.accelerator.is_main_process else None,
            step=self.progress.step,
            steps=epochs * self.sampler.batches,
        )
        log.say(self._introduction(run))
        evaluated = False
        try:
            while self.progress.epoch < epochs:
                stopped = self._train_epoch(run, log, interrupt)
                self.save(run.last)
                if stopped is not None:
                    log.say(f"stopped ({stopped}) after step {self.progress.step}; go on with --resume {run.path}")
                    return stopped
                every = self.config.evaluate_every
                evaluated = every > 0 and self.progress.epoch % every == 0
                if evaluated:
                    self._evaluate(run, log)
            if not evaluated:
                self._evaluate(run, log)
            log.say(f"finished: {run.path}")
            return None
        finally:
            log.close()

    def _train_epoch(self, run: RunDirectory, log: RunLog, interrupt: Interrupt) -> str | None:
        """What is left of the current epoch; returns why it stopped inside it, or None."""
        epoch = self.progress.epoch
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optimizer, epoch)
        self.model.train()
        self.sampler.set_position(epoch, self.progress.batch)
        began = asked = time.perf_counter()
        for number, batch in enumerate(self.loader, start=self.progress.batch):
            waited = time.perf_counter() - asked
            self.bad.add(batch["bad"])
            step = self.progress.step
            if len(batch["image"]) > 0:
                step += 1
                losses, statistics = self._train_step(batch, step)
                self.meter.add(losses, len(batch["image"]), waited, time.perf_counter() - asked)
                log.advance()
                if step % self.config.log_every == 0:
                    self._log_step(step, log, statistics)
            self.progress = Progress(epoch, number + 1, step)
            stopped = self._stop_reason(interrupt)
            if stopped is not None:
                return stopped
            if time.monotonic() - self.saved >= 60 * self.config.checkpoint_minutes:
                self.save(run.last)
            asked = time.perf_counter()
        self.progress = Progress(epoch + 1, 0, self.progress.step)
        log.record(
            "epoch",
            step=self.progress.step,
            epoch=epoch + 1,
            seconds=time.perf_counter() - began,
            skipped_images=len(self.bad),
        )
        return None

    def _train_step(self, batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One optimizer step; returns the losses with their "total", and what the log wants to know of the mixture."""
        images = normalise(batch_tensor(batch, "image", self.device), batch_tensor(batch, "colour", self.device))
        truth = {name: batch_tensor(batch, name, self.device) for name in ("boxes", "labels", "keypoints")}
        size = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        targets = self.task.targets(truth, size, self.stride)
        outputs = self.task.outputs(self.model, images.contiguous(memory_format=self.memory_format), targets)
        losses = self.criterion(outputs, targets)
        total = self.criterion.total(losses)
        finite = total.isfinite()
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        # Asked only now, so that the host does not wait for the device between the forward and the backward pass.
        if not finite.item():
            values = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
            images_here = ", ".join(map(str, batch["image_id"].tolist()))
            raise TrainingError(f"step {step}: the loss is not finite ({values}); image ids: {images_here}")
        self.optimizer.step()
        wanted = self.config.model.components > 0 and step % self.config.log_every == 0
        if not wanted:
            return {**losses, "total": total}, {}
        logits, _, scale = self.criterion.regression_at(outputs[-1], targets)
        statistics = mixture_statistics(logits, scale, targets.index >= 0, self.config.model.least_scale)
        return {**losses, "total": total}, statistics

    def _log_step(self, step: int, log: RunLog, statistics: dict[str, Tensor]) -> None:
        values = self.meter.read() | {f"mixture/{name}": float(value) for name, value in statistics.items()}
        rate = self.optimizer.param_groups[0]["lr"]
        losses = " ".join(f"{name[5:]} {value:.4g}" for name, value in values.items() if name.startswith("loss/"))
        log.progress(f"step {step} {losses} lr {rate:g} {values['images_per_second']:.3g} images/s")
        log.record("step", step=step, epoch=self.progress.epoch + 1, learning_rate=rate, **values)

    def _stop_reason(self, interrupt: Interrupt) -> str | None:
        if interrupt.requested is not None:
            return interrupt.requested
        if self.stop_at is not None and self.progress.step >= self.stop_at:
            return f"--stop-after {self.config.stop_after}"
        return None

    def _evaluate(self, run: RunDirectory, log: RunLog) -> None:
        if self.val_set is None:
            return
        log.say(f"evaluating {len(self.val_set)} images after epoch {self.progress.epoch}")
        found = find(
            self.accelerator.unwrap_model(self.model),
            self.val_set,
            self.task,
            InferenceConfig(),
            device=self.device,
            batch=self.config.optimizer.batch,
            workers=self.config.data.workers,
            autocast=self.accelerator.autocast(),
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        results, skipped = gather_object(found.results), gather_object(found.skipped)
        if self.accelerator.is_main_process:
            score = self.task.score(self.val_set.annotations, results)
            write_evaluation(run.evaluation, Findings(results, skipped, found.images, found.seconds), score)
            log.say(score.table.rstrip())
            metrics = {f"metrics/{name}": value for name, value in score.metrics.items()}
            log.record("evaluation", step=self.progress.step, epoch=self.progress.epoch, **metrics)
        self.accelerator.wait_for_everyone()

    def save(self, path: Path) -> None:
        """The checkpoint of this moment. Raises TrainingError, and keeps the last one, where weights are not finite."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            weights = self.accelerator.unwrap_model(self.model).state_dict()
            broken = [name for name, value in weights.items() if not value.isfinite().all()]
            if broken:
                raise TrainingError(f"step {self.progress.step}: weights are not finite: {', '.join(broken[:3])}")
            save_checkpoint(
                path,
                config=stored_config(self.config),
                categories=self.task.categories,
                progress=self.progress,
                model=weights,
                optimizer=self.optimizer.state_dict(),
                scaler=None if scaler is None else scaler.state_dict(),
            )
        self.saved = time.monotonic()

    def _introduction(self, run: RunDirectory) -> str:
        model = self.accelerator.unwrap_model(self.model)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        name = "single-mode base" if model.components == 0 else f"{model.components} components"
        return (
            f"{run.path}: {self.config.model.arch} for {self.config.model.task}, {name}, "
            f"{len(self.task.categories)} categories, {parameters:,} parameters, {self.sampler.length} images, "
            f"{self.progress.epoch} of {self.config.optimizer.epochs} epochs done, on {self.device}"
        )
