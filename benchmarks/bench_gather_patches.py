"""gather_patches beside its peers, in one run: `make benchmark`.

Peers: the eager backend, torch.compile of it, and F.conv2d at all cells followed by a gather of its outputs, which is
what a sparse head replaces (the patches still have a matrix product before them, which is timed along with the native
op as "native + linear"). The floor reads each window's elements and writes the patches once, in memory already
touched; backward it fills the gradient with zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import mdnkernels
from benchmarks.alternating import alternating_medians
from benchmarks.floors import moving
from tests.ops.table import OPS, Case


class Inputs:
    """The table's workload, with the weight of a convolution to go on with."""

    def __init__(self, layout: str) -> None:
        call = Case(OPS["gather_patches"], layout).call()
        self.feature, self.index, self.kernel_size = call.arguments.values()
        self.feature.requires_grad_()
        generator, channels = torch.Generator().manual_seed(0), self.feature.shape[1]
        self.weight = torch.randn(channels, channels, self.kernel_size, self.kernel_size, generator=generator)
        self.grad = torch.randn(*self.index.shape, channels * self.kernel_size**2, generator=generator)
        self.grad_outputs = torch.randn(*self.index.shape, channels, generator=generator)

    def patches(self) -> Tensor:
        return mdnkernels.gather_patches(self.feature, self.index, self.kernel_size)

    def linear(self) -> Tensor:
        return functional.linear(self.patches(), self.weight.flatten(1))

    def convolution(self) -> Tensor:
        whole = functional.conv2d(self.feature, self.weight, padding=self.kernel_size // 2).flatten(2)
        index = self.index.clamp(min=0).unsqueeze(1).expand(-1, whole.shape[1], -1)
        return whole.gather(2, index).transpose(1, 2)


def step(inputs: Inputs, function: Callable[[], Tensor], backward: bool, backend: str) -> Callable[[], object]:
    def run() -> object:
        with mdnkernels.use_backend(backend), torch.set_grad_enabled(backward):
            result = function()
            if not backward:
                return result
            grad = inputs.grad if result.shape == inputs.grad.shape else inputs.grad_outputs
            return torch.autograd.grad(result, inputs.feature, grad)

    return run


def floor(inputs: Inputs, backward: bool) -> Callable[[], object]:
    zeroed = [torch.zeros_like(inputs.feature)] if backward else []
    return moving(copied=[inputs.grad], zeroed=zeroed)


PEERS: dict[str, Callable[[Inputs, bool], Callable[[], object]]] = {
    "native": lambda inputs, backward: step(inputs, inputs.patches, backward, "native"),
    "native + linear": lambda inputs, backward: step(inputs, inputs.linear, backward, "native"),
    "eager": lambda inputs, backward: step(inputs, inputs.patches, backward, "eager"),
    "torch.compile(eager)": lambda inputs, backward: step(
        inputs, torch.compile(inputs.patches, fullgraph=True), backward, "eager"
    ),
    "conv2d at all cells, then gather": lambda inputs, backward: step(inputs, inputs.convolution, backward, "native"),
    "floor (copy)": floor,
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward + backward"])
@pytest.mark.parametrize("layout", ["planar", "channels_last"])
def test_gather_patches(benchmark, layout, backward, peer):
    passes = "forward + backward" if backward else "forward"
    benchmark.group = f"gather_patches, 8 x 256 x 128 x 128, 32 objects, {layout}, {passes}"
    run = PEERS[peer](Inputs(layout), backward)
    run()
    rounds = 2 if peer.startswith("conv2d") else 15
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=min(rounds - 1, 3))


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward + backward"])
def test_native_is_no_slower_than_compiled_eager(benchmark, backward):
    """Alternate the two, so that a busy moment of the machine meets both."""
    inputs = Inputs("planar")
    contestants = {name: PEERS[name](inputs, backward) for name in ("native", "torch.compile(eager)")}
    medians = alternating_medians(contestants, rounds=15, warmup=3)
    benchmark.extra_info.update(medians)
    benchmark.group = f"gather_patches, {'forward + backward' if backward else 'forward'}: the ratio that is asked for"
    benchmark.pedantic(contestants["native"], rounds=3)
    ratio = medians["torch.compile(eager)"] / medians["native"]
    print("\n" + ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in medians.items()) + f": {ratio:.1f} times")
    assert ratio > (1 if backward else 0.8)  # forward is a copy, and both reach its speed
