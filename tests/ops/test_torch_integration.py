"""The ops within the rest of torch: autocast, threads, forked processes, data-parallel training, vmap."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import mdnkernels
from tests.ops.cases import MixtureCase, loss_and_gradients

M, C = 3, 2


class Regressor(nn.Module):
    """A convolution that predicts a mixture, with its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, M + 2 * M * C, 1)

    def forward(self, features: torch.Tensor, target: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        logits, loc, scale = self.head(features).split([M, M * C, M * C], dim=1)
        return mdnkernels.mixture_nll(logits, loc, scale, target, reduction=reduction)


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 4, 5, 6, generator=generator), torch.randn(size, C, 5, 6, generator=generator)


def test_under_autocast_half_precision_outputs_meet_a_float32_target():
    torch.manual_seed(0)
    model, (features, target) = Regressor(), batch(3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(features, target)
    assert loss.dtype == torch.float32
    loss.backward()
    gradient = model.head.weight.grad.clone()
    model.zero_grad()
    expected = model(features, target)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    torch.testing.assert_close(gradient, model.head.weight.grad, rtol=0, atol=2e-2 * gradient.abs().max().item())


def test_calls_from_many_threads_give_what_one_thread_gets():
    arguments, others = MixtureCase(dtype=torch.float32, positions=(31, 37)).make()
    expected = loss_and_gradients("native", arguments, others, torch.float32)

    def call(_: int) -> list[torch.Tensor]:
        leaves = [value.detach().requires_grad_() for value in arguments]
        loss = mdnkernels.mixture_nll(*leaves, **others)
        return [loss, *torch.autograd.grad(0.5 * loss, leaves)]

    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(call, range(16)):
            for actual, wanted in zip(result, expected, strict=True):
                torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-8)


def _loss_in_child(arguments, others, queue):
    torch.set_num_threads(1)  # torch's own thread pool does not outlive a fork
    queue.put(mdnkernels.mixture_nll(*arguments, **others).item())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_can_go_on_calling():
    arguments, others = MixtureCase(dtype=torch.float32).make()
    arguments = [value.detach() for value in arguments]
    expected = mdnkernels.mixture_nll(*arguments, **others).item()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_loss_in_child, args=(arguments, others, queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


def _train_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Regressor())
    features, target = (value[2 * rank : 2 * rank + 2] for value in batch(4))
    model(features, target).backward()
    if rank == 0:
        torch.save([parameter.grad for parameter in model.parameters()], Path(folder) / "gradients.pt")
    torch.distributed.destroy_process_group()


def test_two_data_parallel_processes_have_the_gradients_of_one(tmp_path: Path):
    torch.multiprocessing.spawn(_train_rank, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    model = Regressor()
    model(*batch(4)).backward()
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for actual, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(actual, parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_vmap_gives_what_a_loop_gives(backend):
    """Natively through torch's own fallback, one call after another."""
    arguments, others = MixtureCase(groups=None, weighted=False, kappa=False, positions=(5,)).make()
    stacked = [torch.stack([value.detach() * factor for factor in (1, 2, 3)]) for value in arguments]
    with mdnkernels.use_backend(backend):
        mapped = torch.func.vmap(lambda *values: mdnkernels.mixture_nll(*values, **others))(*stacked)
        expected = [mdnkernels.mixture_nll(*(value[i] for value in stacked), **others) for i in range(3)]
    torch.testing.assert_close(mapped, torch.stack(expected))
