"""Every op on every backend: shapes x layouts x dtypes x options x extremes, forward and backward, against eager in
float64. A new op is one line of OPS, with the function that makes its arguments."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import mdnkernels
from tests.ops.agreement import assert_agree, moved, results, widen
from tests.ops.backends import BACKENDS, device_of, on, skip_where_missing

SHAPES = {
    "one_cell": (1, 1, 1),
    "odd": (2, 5, 7),
    "one_row": (1, 1, 70),
    "one_column": (3, 67, 1),
    "aligned": (2, 8, 32),
    "large": (1, 33, 65),
    "empty": (0, 5, 7),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded")


def laid_out(value: Tensor, layout: str) -> Tensor:
    """`value` (B, K, H, W) in other memory: the same numbers, but for "expanded", whose rows are all the first."""
    if layout == "channels_last":
        return value.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return functional.pad(value, (1, 2, 3, 0))[:, :, 3:, 1:-2]
    if layout == "transposed":
        return value.transpose(1, 3).contiguous().transpose(1, 3)
    if layout == "expanded":
        return value[:, :, :1].expand_as(value)
    return value


@dataclass(frozen=True)
class Case:
    """One call: what it is made of; the numbers follow from the names, the same on every backend."""

    op: str
    variant: int
    shape: str = "odd"
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"

    def __str__(self) -> str:
        return f"{self.op}-{self.variant}-{self.shape}-{str(self.dtype)[6:]}-{self.layout}"

    @property
    def size(self) -> tuple[int, int, int]:
        return SHAPES[self.shape]

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(str(replace(self, layout="contiguous")).encode()))

    def call(self) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
        """The public function, its arguments and its options."""
        op = OPS[self.op]
        arguments, options = op.make(Draw(self), **op.variants[self.variant])
        return getattr(mdnkernels, self.op), arguments, options


class Draw:
    """A case's random tensors."""

    def __init__(self, case: Case) -> None:
        self.batch, self.height, self.width = case.size
        self.cells = self.height * self.width
        self.dtype, self.layout, self.generator = case.dtype, case.layout, case.generator()

    def uniform(self, channels: int) -> Tensor:
        """(B, K, H, W) in [0, 1), float64, contiguous."""
        return torch.rand(self.batch, channels, self.height, self.width, generator=self.generator, dtype=torch.float64)

    def normal(self, channels: int) -> Tensor:
        shape = (self.batch, channels, self.height, self.width)
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def integers(self, least: int, end: int, *shape: int) -> Tensor:
        return torch.randint(least, end, shape, generator=self.generator)

    def floats(self, value: Tensor) -> Tensor:
        """In the case's dtype and layout."""
        return laid_out(value.to(self.dtype), self.layout)

    def index(self, points: int) -> Tensor:
        """(B, N) flat positions, some padding, some repeated."""
        index = self.integers(-1, self.cells, self.batch, points)
        if points > 1:
            index[:, 1] = index[:, 0]
        return index


Made = tuple[list[Any], dict[str, Any]]


def sprinkle(value: Tensor, special: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """`value` with each of `special` at a twentieth of its places."""
    for number in special:
        value = torch.where(torch.rand(value.shape, generator=generator) < 0.05, number, value)
    return value


def stretch(value: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """`value` with a twentieth of its elements `factor` times as large."""
    return torch.where(torch.rand(value.shape, generator=generator) < 0.05, factor * value, value)


def mixture_parameters(draw: Draw, components: int, dims: int, scales: int, activation: str) -> list[Tensor]:
    """logits, loc and scale in float64."""
    logits, loc, scale = (draw.normal(components * channels) for channels in (1, dims, scales))
    if activation == "identity":
        scale = scale.abs() + 0.25
    return [logits, loc, scale]


def mixture_nll(
    draw: Draw,
    components: int = 3,
    dims: int = 4,
    scales: int = 2,
    groups: int | None = 2,
    points: int | None = None,
    observed: float = 0.6,
    weighted: bool = False,
    kappa: bool = False,
    extreme: bool = False,
    **options: Any,
) -> Made:
    parameters = mixture_parameters(draw, components, dims, scales, options.get("scale_activation", "elu"))
    target = 3 * draw.normal(dims)
    mask = None if groups is None else draw.uniform(groups) < observed
    weight = draw.uniform(1)
    if extreme:
        parameters = [stretch(value, 1e4, draw.generator) for value in parameters]
    parameters = [draw.floats(value) for value in parameters]
    if points is None:
        target = draw.floats(target)
        mask = None if mask is None else laid_out(mask, draw.layout)
        weight = draw.floats(weight)[:, 0]
    else:
        options["index"] = draw.index(points)
        where = draw.integers(0, max(draw.cells, 1), points)
        target = draw.floats(target).flatten(2)[:, :, where]
        mask = None if mask is None else mask.flatten(2)[:, :, where]
        weight = draw.floats(weight).flatten(2)[:, 0, where]
    if kappa:
        options["dim_scale"] = torch.linspace(0.5, 2, dims).to(draw.dtype)
    if weighted:
        options["weight"] = weight
    return [*parameters, target], {"mask": mask, **options}


def mixture_mode(
    draw: Draw,
    components: int = 4,
    dims: int = 6,
    scales: int = 2,
    points: int | None = None,
    extreme: bool = False,
    chosen: tuple[int, ...] | None = None,
    below: float = 0.0,
    **options: Any,
) -> Made:
    """below: how far the logits of the `chosen` components lie below those of the others."""
    parameters = mixture_parameters(draw, components, dims, scales, options.get("scale_activation", "elu"))
    if extreme:
        parameters = [stretch(value, 1e4, draw.generator) for value in parameters]
    if chosen is not None:
        parameters[0][:, list(chosen)] -= below
        options["components"] = chosen
    if points is not None:
        options["index"] = draw.index(points)
    return [draw.floats(value) for value in parameters], options


def topk_peaks(
    draw: Draw, k: int = 20, levels: int | None = None, special: tuple[float, ...] = (), **options: Any
) -> Made:
    heatmap = draw.normal(3)
    if levels is not None:  # plateaus and ties
        heatmap = (heatmap * levels).round() / levels
    return [draw.floats(sprinkle(heatmap, special, draw.generator)), k], options


def gather_patches(draw: Draw, channels: int = 6, points: int = 9, kernel_size: int = 3) -> Made:
    return [draw.floats(draw.normal(channels)), draw.index(points), kernel_size], {}


def heatmap_focal_loss(draw: Draw, spread: float = 3.0, positives: float = 0.05, **options: Any) -> Made:
    logits, target = draw.normal(3) * spread, draw.uniform(3)
    target = torch.where(draw.uniform(3) < positives, 1.0, 0.9 * target)
    return [draw.floats(logits), draw.floats(target)], options


def splat_gaussians(draw: Draw, objects: int = 6, labels: int = 3, largest: int = 4) -> Made:
    shape = (draw.batch, objects)
    center = torch.stack([draw.integers(0, draw.width, *shape), draw.integers(0, draw.height, *shape)], -1)
    radius, label = draw.integers(0, largest + 1, *shape), draw.integers(-1, labels, *shape)
    if draw.layout != "contiguous":
        center, radius, label = center.permute(2, 1, 0).contiguous().permute(2, 1, 0), radius.T.contiguous().T, label
    return [center, radius, label, labels, (draw.height, draw.width)], {}


@dataclass(frozen=True)
class Op:
    """How an op is called."""

    make: Callable[..., Made]
    # Options of `make`, a variant each; the first one is ordinary.
    variants: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    dtypes: tuple[torch.dtype, ...] = DTYPES
    layouts: tuple[str, ...] = LAYOUTS


OPS = {
    "mixture_nll": Op(
        mixture_nll,
        [
            {},
            {"family": "laplace", "scale_activation": "softplus", "weighted": True, "kappa": True},
            {"scale_activation": "exp", "reduction": "none", "groups": None, "components": 1, "scales": 4},
            {"scale_activation": "identity", "reduction": "sum", "groups": 4, "scales": 1, "kappa": True},
            {"dims": 34, "groups": 17, "components": 2, "reduction": "sum", "weighted": True},
            {"points": 11, "weighted": True},
            {"points": 11, "family": "laplace", "reduction": "none", "groups": None, "components": 5, "dims": 2},
            {"points": 0},
            {"observed": 0.0},
            {"observed": 0.02, "groups": 1, "reduction": "none"},
            {"extreme": True, "reduction": "none"},
            {"extreme": True, "family": "laplace", "points": 33},  # one more than a warp
        ],
    ),
    "mixture_mode": Op(
        mixture_mode,
        [
            {},
            {"select": "density", "scale_activation": "softplus"},
            {"select": "mean", "scale_activation": "exp", "scales": 3},
            {"select": "density", "scale_activation": "identity", "components": 1, "scales": 1},
            {"points": 11},
            {"points": 11, "select": "mean", "components": 3, "dims": 2},
            {"points": 0, "select": "density"},
            {"extreme": True},
            # Below float32's least number every chosen alpha is 0: the logits alone tell them apart.
            {"chosen": (3, 1), "below": 120.0},
            {"chosen": (2, 1), "below": 95.0, "select": "mean", "scale_activation": "softplus"},
            {"chosen": (0, 3), "below": 200.0, "select": "mean", "points": 11},
        ],
    ),
    "topk_peaks": Op(
        topk_peaks,
        [
            {},
            {"k": 1, "kernel_size": 5},
            {"k": 100, "kernel_size": 1},
            {"logits": True},
            {"levels": 1, "k": 60},
            {"special": (float("nan"), float("inf"), float("-inf")), "k": 60},
        ],
    ),
    "gather_patches": Op(gather_patches, [{}, {"kernel_size": 1, "channels": 16}, {"kernel_size": 7}, {"points": 0}]),
    "heatmap_focal_loss": Op(
        heatmap_focal_loss,
        [{}, {"alpha": 1.5, "beta": 3.5}, {"alpha": 0.0, "beta": 0.0}, {"positives": 0.0}, {"spread": 3000.0}],
    ),
    "splat_gaussians": Op(
        splat_gaussians,
        [{}, {"objects": 0}, {"objects": 40, "largest": 80, "labels": 1}],
        dtypes=(torch.float32,),
        layouts=("contiguous", "transposed"),
    ),
}


def cases() -> Iterator[Case]:
    """The ordinary variant in every layout of every shape, in float32, and of every dtype, at an odd shape; the others
    in every shape and dtype, with the layouts in turn, two at a time."""
    for name, op in OPS.items():
        for variant in range(len(op.variants)):
            forms = [{"shape": shape} for shape in SHAPES] + [{"dtype": dtype} for dtype in op.dtypes[1:]]
            for i, form in enumerate(forms):
                turn = (variant + i) % len(op.layouts)
                for layout in op.layouts if variant == 0 else sorted({op.layouts[turn], op.layouts[turn - 1]}):
                    yield Case(name, variant, layout=layout, **form)


@lru_cache(maxsize=4)
def expected_of(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    function, arguments, options = case.call()
    with mdnkernels.use_backend("eager"):
        return results(
            function, [widen(value) for value in arguments], {key: widen(value) for key, value in options.items()}
        )


def dtype_of_results(case: Case) -> torch.dtype:
    return torch.float32 if case.op == "splat_gaussians" else case.dtype


# Backends innermost: they share the expectation.
@pytest.mark.parametrize(("case", "backend"), [(case, backend) for case in cases() for backend in BACKENDS], ids=str)
def test_every_op_agrees_with_eager_in_float64(case, backend):
    skip_where_missing(case.op, backend)
    function, arguments, options = case.call()
    device = device_of(backend)
    arguments = [moved(value, device) for value in arguments]
    with on(backend):
        actual = results(function, arguments, {name: moved(value, device) for name, value in options.items()})
    assert_agree(actual, expected_of(case), dtype_of_results(case))
    for gradient, argument in zip(actual[1], arguments, strict=False):
        assert gradient.dtype == argument.dtype


SEEDS = range(20)


@pytest.mark.parametrize(
    "case",
    [
        Case(name, variant, shape, layout=layout)
        for name, op in OPS.items()
        for variant in range(len(op.variants))
        for shape, layout in (("odd", "contiguous"), ("large", op.layouts[1]))
    ],
    ids=str,
)
def test_cuda_kernels_give_the_same_bits_in_every_order_of_threads_and_blocks(case):
    skip_where_missing(case.op, "cuda_on_cpu")
    function, arguments, options = case.call()
    outcomes = []
    for seed in SEEDS:
        with on("cuda_on_cpu", seed):
            outputs, gradients = results(function, list(arguments), options)
        outcomes.append([value.flatten().view(torch.uint8) for value in (*outputs, *gradients)])
    for outcome in outcomes[1:]:
        for value, first in zip(outcome, outcomes[0], strict=True):
            assert torch.equal(value, first)
