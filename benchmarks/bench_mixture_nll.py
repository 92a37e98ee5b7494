"""mixture_nll, forward and backward, beside its peers, in one run: `make benchmark`.

Peers: the eager backend, torch.compile of it, torch.distributions.MixtureSameFamily, and the floor, which is copying as
many bytes as the op must read and write. Every peer makes its gradients anew, as a training step does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, distributions

import mdnkernels
from benchmarks.alternating import alternating_medians


@dataclass(frozen=True)
class Shape:
    """Sizes of one case: (B, C, *P) targets under M components with S scales and G masks."""

    batch: int
    components: int
    dims: int
    scales: int
    groups: int
    positions: tuple[int, ...]


POSE = Shape(8, 3, 34, 2, 17, (128, 128))
DETECTION = Shape(8, 3, 2, 2, 1, (128, 128))
ROWS = Shape(1_000_000, 5, 1, 1, 1, ())
SHAPES = {"pose": POSE, "detection": DETECTION, "rows": ROWS}


class Inputs:
    """Random inputs of one shape, all observed for the sake of MixtureSameFamily, which knows no mask."""

    def __init__(self, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(channels: int) -> Tensor:
            return torch.randn(shape.batch, channels, *shape.positions, generator=generator)

        self.shape = shape
        self.parameters = [normal(shape.components * size).requires_grad_() for size in (1, shape.dims, shape.scales)]
        self.target = normal(shape.dims)
        self.mask = torch.ones(shape.batch, shape.groups, *shape.positions, dtype=torch.bool)

    def loss(self) -> Tensor:
        return mdnkernels.mixture_nll(*self.parameters, self.target, mask=self.mask)


def step(loss: Callable[[], Tensor], parameters: list[Tensor]) -> Callable[[], object]:
    return lambda: torch.autograd.grad(loss(), parameters)


def native(inputs: Inputs) -> Callable[[], object]:
    def run() -> object:
        with mdnkernels.use_backend("native"):
            return step(inputs.loss, inputs.parameters)()

    return run


def eager(inputs: Inputs) -> Callable[[], object]:
    def run() -> object:
        with mdnkernels.use_backend("eager"):
            return step(inputs.loss, inputs.parameters)()

    return run


def compiled(inputs: Inputs) -> Callable[[], object]:
    loss = torch.compile(inputs.loss, fullgraph=True)

    def run() -> object:
        with mdnkernels.use_backend("eager"):
            return step(loss, inputs.parameters)()

    return run


def mixture_same_family(inputs: Inputs) -> Callable[[], object]:
    shape = inputs.shape

    def last(value: Tensor) -> Tensor:  # (B, M*K, *P) -> (B, *P, M, K)
        return value.unflatten(1, (shape.components, -1)).movedim((1, 2), (-2, -1))

    def loss() -> Tensor:
        logits, loc, scale = inputs.parameters
        sigma = torch.nn.functional.elu(last(scale)) + 2
        sigma = sigma.repeat(*(1,) * (sigma.ndim - 1), shape.dims // shape.scales)
        mixture = distributions.MixtureSameFamily(
            distributions.Categorical(logits=logits.movedim(1, -1)),
            distributions.Independent(distributions.Normal(last(loc), sigma), 1),
        )
        return -mixture.log_prob(inputs.target.movedim(1, -1)).mean()

    return step(loss, inputs.parameters)


def floor(inputs: Inputs) -> Callable[[], object]:
    """Reading parameters, target and mask once and writing the parameters' gradients into memory already touched."""
    sources = [value.detach() for value in inputs.parameters]
    outputs = [torch.zeros_like(value) for value in sources]

    def run() -> object:
        for output, source in zip(outputs, sources, strict=True):
            output.copy_(source)
        return inputs.target.sum(), inputs.mask.view(torch.int8).sum()

    return run


def bare_kernel(inputs: Inputs) -> Callable[[], object]:
    """The native op alone, without checks and autograd, with fresh outputs."""
    points = [value.detach().flatten(2) for value in inputs.parameters]
    options = (None, None, None, "gaussian", "elu", 1.0, "mean", True, False)
    target, mask = inputs.target.flatten(2), inputs.mask.flatten(2)
    return lambda: torch.ops.mdnkernels.mixture_nll(*points, target, mask, *options)


PEERS = {
    "native": native,
    "native, bare op": bare_kernel,
    "eager": eager,
    "torch.compile(eager)": compiled,
    "MixtureSameFamily": mixture_same_family,
    "floor (copy)": floor,
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(benchmark, shape, peer):
    if peer == "native, bare op" and not SHAPES[shape].positions:
        pytest.skip("the bare op takes (B, K, P) only")
    benchmark.group = f"mixture_nll, {shape}, forward + backward, float32"
    run = PEERS[peer](Inputs(SHAPES[shape]))
    run()
    benchmark.pedantic(run, rounds=11, warmup_rounds=10)  # a virtual machine's first touches of memory are slow


def test_native_is_at_least_four_times_as_fast_as_compiled_eager(benchmark):
    """On the pose shape, alternating the two so that a busy moment of the machine meets both."""
    inputs = Inputs(POSE)
    contestants = {"native": native(inputs), "compiled": compiled(inputs)}
    medians = alternating_medians(contestants, rounds=20, warmup=8)
    benchmark.extra_info.update(medians)
    benchmark.group = "mixture_nll, pose: the ratio that is asked for"
    benchmark.pedantic(contestants["native"], rounds=3)
    ratio = medians["compiled"] / medians["native"]
    print(f"\nnative {medians['native'] * 1e3:.1f} ms, compiled {medians['compiled'] * 1e3:.1f} ms: {ratio:.1f} times")
    assert ratio >= 4
