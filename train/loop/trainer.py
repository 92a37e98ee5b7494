"""The training loop of one run: epochs, steps, checkpoints, evaluations."""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mdnkernels.models.network import Network
from mdnkernels.models.start import RegressionStart
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import InferenceConfig, OptimizerConfig
from mdnkernels.train.data.sampler import EpochBatchSampler, ImageList
from mdnkernels.train.data.sets import BadSamples, EvaluationSet, TrainingSet, training_loader
from mdnkernels.train.errors import TrainingError
from mdnkernels.train.inference.components import describe_components
from mdnkernels.train.inference.evaluation import merge_findings, predict_set, sample_pictures, write_evaluation
from mdnkernels.train.inference.record import EvaluationRecord, name_of_device
from mdnkernels.train.loop.batch_norm import synchronise_batch_norm
from mdnkernels.train.loop.ema import WeightAverage
from mdnkernels.train.loop.interrupt import Interrupt
from mdnkernels.train.loop.network import freeze_untrained_heads, pick_precision
from mdnkernels.train.loop.processes import Processes
from mdnkernels.train.loop.step import Stepper
from mdnkernels.train.loop.usage import UnusedComponents, share_text
from mdnkernels.train.run.best import BestScore
from mdnkernels.train.run.checkpoint import Checkpoint, Progress, load_optimizer, load_weights, save_checkpoint
from mdnkernels.train.run.directory import RunDirectory
from mdnkernels.train.run.log import LossMeter, RunLog, read_log
from mdnkernels.train.run.resuming import resumed_progress
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.tasks.score import Score
from mdnkernels.train.tasks.start import describe_start

logger = logging.getLogger("mdnkernels.train")


def learning_rate(config: OptimizerConfig, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0.

    It is a function of the configuration alone, so that no schedule has to be saved.
    """
    drops = sum(epoch >= drop for drop in config.drops)
    return config.lr * config.drop_factor**drops


def stored_config(config: FitConfig) -> FitConfig:
    """Return what of a configuration belongs to the run and not to the session."""
    return dataclasses.replace(config, resume=None, stop_after=None)


class Trainer:
    """The state of a run in this process: model, optimizer, data, and how far it is."""

    def __init__(
        self,
        config: FitConfig,
        accelerator: Accelerator,
        processes: Processes,
        task: Task,
        model: Network,
        train_set: TrainingSet,
        val_set: EvaluationSet | None,
        checkpoint: Checkpoint | None,
        start: RegressionStart | None = None,
    ) -> None:
        """Take a new network, or one with a checkpoint's weights. start: where a new one's regression starts."""
        self.config = config
        self.start = start
        self.accelerator = accelerator
        self.device = accelerator.device
        self.task = task
        self.val_set = val_set
        self.processes = processes
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        model = model.to(self.device).to(memory_format=memory_format)
        freeze_untrained_heads(model, config.optimizer)
        self.average = None if config.optimizer.ema is None else WeightAverage(model, config.optimizer.ema)
        self.model, self.optimizer = self._prepare(model)
        self.stepper = Stepper(config, accelerator, self.processes, task, self.model, self.optimizer)
        self.progress = Progress()
        self.training_list = ImageList.of(train_set.annotations)
        if checkpoint is not None:
            self._restore(checkpoint)
        self.sampler = EpochBatchSampler(
            len(train_set),
            config.optimizer.batch,
            config.seed,
            process=self.processes.number,
            processes=self.processes.count,
        )
        self.loader = training_loader(train_set, self.sampler, config.data.workers, pin=self.device.type == "cuda")
        self.bad = BadSamples(len(train_set), train_set.annotations.path)
        self.meter = LossMeter()
        self.unused = UnusedComponents(config)
        self.best = BestScore()
        self.saved = time.monotonic()
        self.stop_at = None if config.stop_after is None else self.progress.step + config.stop_after

    def _prepare(self, model: nn.Module) -> tuple[Any, Any]:
        """Return the network as it trains, and its optimizer."""
        if self.config.sync_batch_norm and self.processes.count > 1:
            model = synchronise_batch_norm(model, self.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.config.optimizer.lr, fused=True)
        # Of a 1 x 1 kernel, whose strides have two names for the same order.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        prepared, optimizer = self.accelerator.prepare(model, optimizer)
        if self.config.compile:
            # In place: a wrapper would add its own name to that of every tensor in the checkpoint.
            self.accelerator.unwrap_model(prepared).compile()
        return prepared, optimizer

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take over all of a checkpoint but the weights, which the model has already."""
        load_optimizer(self.optimizer, checkpoint)
        if self.accelerator.scaler is not None and checkpoint.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.scaler)
        if self.average is not None and checkpoint.average is not None:
            load_weights(self.average.model, checkpoint, average=True)
        self.progress = resumed_progress(checkpoint, self.config, self.training_list)

    def create_run(self) -> RunDirectory:
        """Make the run's directory, with the untrained network as its first checkpoint."""
        if self.processes.is_main:
            RunDirectory.create(self.config.run, stored_config(self.config), self.save)
        self.processes.wait()
        return RunDirectory(self.config.run)

    def train(self, run: RunDirectory, interrupt: Interrupt) -> str | None:
        """Train for the epochs that are left, then evaluate; return why it stopped before the end, or None."""
        epochs = self.config.optimizer.epochs
        log = RunLog(
            run.log if self.processes.is_main else None,
            step=self.progress.step,
            steps=self._steps_of_run(),
        )
        log.say(self._introduction(run))
        self._log_start(log)
        if self.config.keep == "best" and self.processes.is_main:
            self.best = BestScore.of_run(run, self.config)
        try:
            evaluated = self._owes_evaluation(run)
            stopped = self._evaluate(run, log, interrupt) if evaluated else None
            if stopped is not None:
                return stopped
            while self.progress.epoch < epochs:
                stopped = self._train_epoch(run, log, interrupt)
                self.save(run.last)
                if stopped is not None:
                    log.say(f"stopped ({stopped}) after step {self.progress.step}; go on with --resume {run.path}")
                    return stopped
                evaluated = self._is_evaluation_due()
                stopped = self._evaluate(run, log, interrupt) if evaluated else None
                if stopped is not None:
                    return stopped
            stopped = None if evaluated else self._evaluate(run, log, interrupt)
            if stopped is not None:
                return stopped
            log.say(f"finished: {run.path}")
            return None
        finally:
            log.close()

    def _is_evaluation_due(self) -> bool:
        """Tell whether the epochs that are done end with an evaluation."""
        every = self.config.evaluate_every
        return every > 0 and self.progress.epoch % every == 0

    def _owes_evaluation(self, run: RunDirectory) -> bool:
        """Tell whether a run that goes on was stopped in an evaluation, perhaps that of its best network."""
        if self.config.keep != "best" or self.progress.images or not self.progress.epoch:
            return False
        steps = [entry["step"] for entry in read_log(run.log) if entry["kind"] == "evaluation"]
        return self.processes.send_from_main(self._is_evaluation_due() and self.progress.step not in steps)

    def _log_start(self, log: RunLog) -> None:
        """Say where the regression starts, and record the centres of its clusters."""
        if self.start is None:
            return
        for line in describe_start(self.start, self.stepper.criterion.regression.quantity):
            log.say(line)
        log.note(
            "start",
            step=0,
            epoch=1,
            share=self.start.share.tolist(),
            loc=self.start.loc.tolist(),
            sigma=None if self.start.sigma is None else self.start.sigma.tolist(),
        )

    def _steps_of_run(self) -> int:
        """Count the steps done and those left; where the batch size has changed, epochs are not all alike."""
        epochs = self.config.optimizer.epochs - self.progress.epoch
        if epochs <= 0:
            return self.progress.step
        this_epoch = len(self.sampler.batches_left(self.progress.images))
        return self.progress.step + this_epoch + (epochs - 1) * self.sampler.batches

    def _train_epoch(self, run: RunDirectory, log: RunLog, interrupt: Interrupt) -> str | None:
        """Train for what is left of the current epoch; return why it stopped inside it, or None."""
        epoch, from_start = self.progress.epoch, self.progress.images == 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optimizer, epoch)
        self.model.train()
        self.sampler.set_position(epoch, self.progress.images)
        began = asked = time.perf_counter()
        for batch, positions in zip(self.loader, self.sampler.left, strict=True):
            waited = time.perf_counter() - asked
            self.bad.add(batch["bad"])
            step = self.progress.step
            images = self.processes.gather_numbers(len(batch["image"]))
            # A process of which no image can be read has nothing to step with: all of them leave the batch out.
            if min(images) > 0:
                step += 1
                parts = min(self.config.optimizer.accumulate, *images)
                losses = self._train_step(batch, step, parts)
                self.meter.add(losses, sum(images), waited, time.perf_counter() - asked)
                log.advance()
                if step % self.config.log_every == 0:
                    self._log_step(step, log)
            self.progress = Progress(epoch, positions.stop, step)
            stopped = self._stop_reason(interrupt)
            if stopped is not None:
                return stopped
            if time.monotonic() - self.saved >= 60 * self.config.checkpoint_minutes:
                self.save(run.last)
            asked = time.perf_counter()
        self.progress = Progress(epoch + 1, 0, self.progress.step)
        usage = self.stepper.usage.read_epoch()
        log.record(
            "epoch",
            step=self.progress.step,
            epoch=epoch + 1,
            seconds=time.perf_counter() - began,
            skipped_images=len(set(self.processes.gather_objects(sorted(self.bad.seen)))),
            **{f"mixture_epoch/{name}": value for name, value in usage.items()},
        )
        # Of an epoch that an earlier session began, too few objects may be left to judge by.
        warning = self.unused.warning(usage, epoch + 1) if from_start else None
        if warning is not None and self.processes.is_main:
            logger.warning("%s", warning)
        return None

    def _train_step(self, batch: dict[str, Any], step: int, parts: int) -> dict[str, Tensor]:
        """Take an optimizer step; return the losses with their "total"."""
        losses = self.stepper.step(batch, step, parts)
        if self.average is not None:
            self.average.update(self.accelerator.unwrap_model(self.model))
        return losses

    def _log_step(self, step: int, log: RunLog) -> None:
        self.stepper.check()
        usage = self.stepper.usage.read()
        values = self.meter.read() | {f"mixture/{name}": value for name, value in usage.items()}
        rate = self.optimizer.param_groups[0]["lr"]
        losses = " ".join(f"{name[5:]} {value:.4g}" for name, value in values.items() if name.startswith("loss/"))
        speed = f"{values['images_per_second']:.3g} images/s"
        log.progress(f"step {step} {losses} lr {rate:g} {speed}{share_text(usage)}")
        log.record("step", step=step, epoch=self.progress.epoch + 1, learning_rate=rate, **values)

    def _stop_reason(self, interrupt: Interrupt) -> str | None:
        arrived = self._signal(interrupt)
        if arrived is not None:
            return arrived
        if self.stop_at is not None and self.progress.step >= self.stop_at:
            return f"--stop-after {self.config.stop_after}"
        return None

    def _signal(self, interrupt: Interrupt) -> str | None:
        """Return the signal that has reached this process or another: all stop at the same place."""
        arrived = max(self.processes.gather_numbers(interrupt.number))
        return signal.Signals(arrived).name if arrived else None

    def _evaluate(self, run: RunDirectory, log: RunLog, interrupt: Interrupt) -> str | None:
        """Write what the network now finds in the val set; return the signal that ended this early."""
        if self.val_set is None:
            return None
        log.say(f"evaluating {len(self.val_set)} images after epoch {self.progress.epoch}")
        model = self.accelerator.unwrap_model(self.model) if self.average is None else self.average.model
        self.processes.take_main_buffers(model)
        # The arithmetic is that of the training.
        inference = InferenceConfig(precision=pick_precision(self.config.precision, self.device))
        batch = max(1, self.config.optimizer.batch // self.processes.count)
        found = predict_set(
            model,
            self.val_set,
            self.task,
            inference,
            device=self.device,
            batch=batch,
            workers=self.config.data.workers,
            autocast=self.accelerator.autocast(),
            process=self.processes.number,
            processes=self.processes.count,
            stop=lambda: interrupt.requested is not None,
        )
        stopped = self._signal(interrupt)
        if stopped is not None:
            epoch, epochs = self.progress.epoch, self.config.optimizer.epochs
            does_it = epoch >= epochs or self.config.keep == "best"
            left_out = "does it" if does_it else "leaves it out and goes on"
            log.say(f"stopped ({stopped}) in the evaluation after epoch {epoch}; --resume {run.path} {left_out}")
            return stopped
        together = merge_findings(found, self.val_set, self.processes)
        score = None if together is None else self.task.score(self.val_set.annotations, together.results)
        self._keep_best(run, log, score)
        if together is not None and score is not None:
            shares = describe_components(together.results, model.components)
            write_evaluation(run.evaluation, together, score, self._evaluation_record(inference, batch), shares)
            log.say(score.table.rstrip())
            metrics = {f"metrics/{name}": value for name, value in score.metrics.items()}
            log.record("evaluation", step=self.progress.step, epoch=self.progress.epoch, **metrics)
            for name, picture in sample_pictures(self.val_set, self.task, together.results, model.components):
                log.picture(name, picture, step=self.progress.step)
        self.processes.wait()
        return None

    def _keep_best(self, run: RunDirectory, log: RunLog, score: Score | None) -> None:
        """Save the network as the run's best where its score, which the main process has, is the highest so far.

        Before the score is recorded: a run that is killed in between evaluates again.
        """
        if self.config.keep != "best":
            return
        is_best = score is not None and self.best.beaten_by(score.metrics["AP"])
        if self.processes.send_from_main(is_best):
            self._write(run.best, ap=self.best.ap)
            log.say(f"{run.best}: the best so far by its AP")

    def _evaluation_record(self, inference: InferenceConfig, batch: int) -> EvaluationRecord:
        data = self.config.data
        assert data.val_images is not None
        assert data.val_annotations is not None
        return EvaluationRecord(
            step=self.progress.step,
            checkpoint=None,
            images=data.val_images.resolve(),
            annotations=data.val_annotations.resolve(),
            orientation=data.orientation,
            limit=data.val_limit,
            inference=inference,
            each_component=False,
            command="fit",
            device=name_of_device(self.device),
            batch=batch,
            processes=self.processes.count,
        )

    def save(self, path: Path) -> None:
        """Write a checkpoint. Raises TrainingError, and keeps the last one, where a loss or weights are not finite."""
        self._write(path)
        self.saved = time.monotonic()

    def _write(self, path: Path, ap: float | None = None) -> None:
        """Write a checkpoint, as `save` does. ap: of the best one."""
        self.stepper.check()
        if self.processes.is_main:
            scaler = self.accelerator.scaler
            weights = self.accelerator.unwrap_model(self.model).state_dict()
            broken = [name for name, value in weights.items() if not value.isfinite().all()]
            if broken:
                raise TrainingError(f"step {self.progress.step}: weights are not finite: {', '.join(broken[:3])}")
            save_checkpoint(
                path,
                config=stored_config(self.config),
                categories=self.task.categories,
                skeleton=self.task.skeleton,
                progress=self.progress,
                training_list=self.training_list,
                model=weights,
                average=None if self.average is None else self.average.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                scaler=None if scaler is None else scaler.state_dict(),
                ap=ap,
            )

    def _introduction(self, run: RunDirectory) -> str:
        model = self.accelerator.unwrap_model(self.model)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        inside = f" and {self.progress.images} images of the next" if self.progress.images else ""
        return (
            f"{run.path}: {self.config.model.arch} for {self.config.model.task}, {model.regression.title}, "
            f"{len(self.task.categories)} categories, {parameters:,} parameters, {self.sampler.length} images, "
            f"{self.progress.epoch} of {self.config.optimizer.epochs} epochs done{inside}, on {self.device}"
        )
