"""What the processes of one run tell one another, beside the gradients: nothing where there is only one."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn


def restarts() -> int:
    """How often torchrun has started this machine's processes anew, because one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class Processes:
    """The processes of a run; every method but the properties must be called by all of them."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.count = accelerator.num_processes
        self.number = accelerator.process_index
        # Through the device's own backend a number would wait for all that the device has still to do.
        on_host = self.count == 1 or accelerator.device.type == "cpu"
        self._host = None if on_host else dist.new_group(backend="gloo")

    @property
    def is_main(self) -> bool:
        """Whether this one writes the run's files."""
        return self._accelerator.is_main_process

    def wait(self) -> None:
        """Until all are here."""
        self._accelerator.wait_for_everyone()

    def numbers(self, value: int) -> list[int]:
        """Everyone's value, in the order of the processes; no device is waited for."""
        if self.count == 1:
            return [value]
        values = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(values, torch.tensor([value]), group=self._host)
        return [int(one) for one in values]

    def restarted(self) -> bool:
        """Whether they stand in for processes that died; torchrun tells it only on the machine where one did."""
        return max(self.numbers(restarts())) > 0

    def objects(self, values: list[Any]) -> list[Any]:
        """Everyone's values in one list, in the order of the processes."""
        return gather_object(values)

    def sum(self, values: Tensor) -> Tensor:
        """Of everyone's tensor, on the device."""
        return values if self.count == 1 else self._accelerator.reduce(values, "sum")

    def take_buffers(self, model: nn.Module) -> None:
        """Everyone's running statistics become the main process's, which are those that are saved."""
        if self.count > 1:
            for buffer in model.buffers():
                buffer.copy_(broadcast(buffer.contiguous(), from_process=0))
