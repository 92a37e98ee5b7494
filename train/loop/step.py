"""One optimizer step on one batch: in parts and on several processes, yet with the gradient of the whole batch."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.data.colour import normalise
from mdnkernels.train.data.sets import batch_tensor
from mdnkernels.train.loop.finite import FiniteLosses
from mdnkernels.train.loop.processes import Processes
from mdnkernels.train.loop.usage import UsageMeter
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.tasks.criterion import Criterion


class Stepper:
    """Takes steps with a network and an optimizer that `accelerator` has prepared.

    No step waits for the device: losses, their check and the components' shares stay there until they are read.
    """

    def __init__(
        self, config: FitConfig, accelerator: Accelerator, processes: Processes, task: Task, model: Any, optimizer: Any
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.processes = processes
        self.task = task
        self.model = model
        self.optimizer = optimizer
        network = accelerator.unwrap_model(model)
        self.criterion: Criterion[Any] = task.criterion(network, config.optimizer).to(accelerator.device)
        self.usage = UsageMeter(processes)
        self._finite = FiniteLosses(processes)
        self._reads_each_step = accelerator.device.type == "cpu"
        self.stride = network.stride
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format

    def step(self, batch: dict[str, Any], number: int, parts: int) -> dict[str, Tensor]:
        """Take one optimizer step, which all processes take together; `usage` counts its objects.

        batch: this process's images, at least `parts` of them. number: of the step, for messages. parts: how many the
        batch is taken in. Returns the losses of all processes' images with their "total".

        Where a loss is not finite, this and later steps leave the weights as they are, and `check` raises; on the CPU,
        which need not be waited for, it is called here.
        """
        images, truth = self._copy_to_device(batch)
        size = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        targets = self.task.targets(truth, size, self.stride)
        whole = self.processes.sum(self.criterion.counts(targets))
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[dict[str, Tensor]] = []
        for part in range(parts):
            rows = slice(len(images) * part // parts, len(images) * (part + 1) // parts)
            some = targets._make(values[rows] for values in targets)
            last = part + 1 == parts
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                outputs = self.task.outputs(self.model, self._input(images, truth, rows), some)
                added = self.criterion.parts_of(self.criterion(outputs, some), self.criterion.counts(some), whole)
                # Processes' gradients are averaged where their sum is meant.
                self.accelerator.backward(self.criterion.total(added) * self.processes.count)
            losses.append({name: value.detach() for name, value in added.items()})
            self.usage.add(self.criterion.usage(outputs, some))
        together = self._sum_over_processes(losses)
        not_finite = self._finite.add(together, number, batch["image_id"].tolist())
        if self._reads_each_step:
            self.check()
        elif self.accelerator.scaler is None:  # which leaves such steps out itself
            # As a loss scaler tells the fused Adam, which then changes nothing.
            inner_optimizer(self.optimizer).found_inf = not_finite
        if self.config.optimizer.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        return together

    def _copy_to_device(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Copy the images, as they were loaded, and all that goes with them to the device."""
        device = self.accelerator.device
        names = ("colour", "boxes", "labels", "keypoints")
        return batch_tensor(batch, "image", device), {name: batch_tensor(batch, name, device) for name in names}

    def _input(self, images: Tensor, truth: dict[str, Tensor], rows: slice) -> Tensor:
        return normalise(images[rows], truth["colour"][rows]).contiguous(memory_format=self.memory_format)

    def _sum_over_processes(self, losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Add up the losses of the whole batch, of which these are this process's parts, and their total."""
        names = list(losses[0])
        sums = torch.stack([torch.stack([part[name] for name in names]) for part in losses]).sum(0)
        together = dict(zip(names, self.processes.sum(sums).unbind(), strict=True))
        return {**together, "total": self.criterion.total(together)}

    def check(self) -> None:
        """Raise TrainingError, in every process, where the loss of a step since the last call was not finite.

        This waits for the device, and all processes must call it.
        """
        self._finite.check()


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that Accelerate has wrapped, or the one given where it has not."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
