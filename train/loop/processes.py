"""What the processes of one command tell one another, beside the gradients: nothing where there is only one."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, gather_object, get_int_from_env, reduce
from torch import Tensor, nn

T = TypeVar("T")

# Where launchers say how many processes they have started, as Accelerate reads them.
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

# Processes that share out an evaluation meet only at its end, and may be of different speed. One that dies is noticed
# at once, as its connections close.
PATIENCE = timedelta(days=1)


def restarts() -> int:
    """Return how often torchrun has started this machine's processes anew, because one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class Processes:
    """The processes of a command; every method but the properties must be called by all of them."""

    def __init__(
        self, state: Accelerator | PartialState | None, device: torch.device, patience: timedelta | None = None
    ) -> None:
        """Join the processes of `state`; None is for one alone. device: of this one. patience: with slower ones."""
        self._state = state
        self.device = device
        self.count = 1 if state is None else state.num_processes
        self.number = 0 if state is None else state.process_index
        # Through the device's own backend a number would wait for all that the device has still to do.
        on_host = self.count == 1 or device.type == "cpu"
        group = None if on_host else dist.new_group(backend="gloo", timeout=patience)
        self._host = group if isinstance(group, dist.ProcessGroup) else None

    @property
    def is_main(self) -> bool:
        """Whether this one writes files."""
        return self.number == 0

    def wait(self) -> None:
        """Wait until all are here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def gather_numbers(self, value: int) -> list[int]:
        """Return everyone's value, in the order of the processes; no device is waited for."""
        if self.count == 1:
            return [value]
        values = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(values, torch.tensor([value]), group=self._host)
        return [int(one) for one in values]

    def restarted(self) -> bool:
        """Tell whether they stand in for processes that died; torchrun tells it only on the machine where one did."""
        return max(self.gather_numbers(restarts())) > 0

    def gather_objects(self, values: list[Any]) -> list[Any]:
        """Return everyone's values in one list, in the order of the processes."""
        return gather_object(values)

    def gather_to_main(self, value: T) -> list[T] | None:
        """Return everyone's value, in the order of the processes, to the main process, and None to the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        dist.gather_object(value, values, dst=0, group=self._host)
        return values

    def send_from_main(self, value: T) -> T:
        """Return the main process's value to all."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._host)
        return values[0]

    def sum(self, values: Tensor) -> Tensor:
        """Add up everyone's tensor, on the device."""
        return values if self.count == 1 else reduce(values, "sum")

    def take_main_buffers(self, model: nn.Module) -> None:
        """Copy the main process's running statistics, which are those that are saved, to everyone's model."""
        if self.count > 1:
            for buffer in model.buffers():
                buffer.copy_(broadcast(buffer.contiguous(), from_process=0))


def launched_processes(device: torch.device) -> Processes:
    """Return the processes that a launcher (torchrun, accelerate launch) has started, or this one alone.

    device: for one alone; of several each takes its own of that type.
    """
    if get_int_from_env(WORLD_SIZES, 1) == 1:
        return Processes(None, device)
    # Without a GPU Accelerate must be told so, or it takes each process for a run of its own.
    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    return Processes(state, state.device, PATIENCE)


def what_died(error: BaseException) -> str | None:
    """Say which process has died where an error means that one has, and None where it means something else."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, RuntimeError) and "DataLoader worker" in reason:
        less = "where memory has run out, fewer --workers need less of it"
        return f"a process that loads images has died ({reason}); {less}"
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in reason):
        return f"another process of this run has died ({reason})"
    return None
