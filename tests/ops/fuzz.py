"""Random shapes, strides, dtypes, devices, masks and mistakes at every public function: `make fuzz` (CASES=20000).

A case passes when the function gives what the eager backend gives in float64, in the dtype and shape that its docstring
says; on the meta device, when it gives that shape and dtype; or when a planted mistake, tensors on two devices among
them, raises ValueError, TypeError or IndexError. Anything else is a failure, printed with its
seed: `python -m tests.ops.fuzz --first SEED --cases 1` repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mdnkernels
from tests.ops.agreement import assert_agree, moved, results, widen
from tests.ops.backends import BACKENDS, device_of, missing, on

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DOCUMENTED = (ValueError, TypeError, IndexError)


class Case:
    """One random call."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.random.choice(DTYPES)
        self.positions = self.draw_positions()

    def draw_positions(self) -> tuple[int, ...]:
        count = self.random.choice([0, 1, 1, 2, 2, 2, 3])
        return tuple(self.random.choice([1, 2, 3, 5, 8, 17, 32, 40]) for _ in range(count))

    def tensor(self, *shape: int, scale: float = 1.0) -> Tensor:
        return self.layout((torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale).to(self.dtype))

    def layout(self, value: Tensor, overlapping: bool = True) -> Tensor:
        """The same numbers under other strides, NaN lying in what gaps there are; or a view whose elements overlap."""
        kinds = ["plain", "plain", "permuted", "channels_last", "sliced", "stepped"]
        kind = self.random.choice(kinds + ["expanded", "window"] * overlapping)
        if kind == "permuted" and value.ndim > 1:
            order = list(range(value.ndim))
            self.random.shuffle(order)
            inverse = [order.index(axis) for axis in range(value.ndim)]
            return value.permute(order).contiguous().permute(inverse)
        if kind == "channels_last" and value.ndim == 4:
            return value.contiguous(memory_format=torch.channels_last)
        if kind in ("sliced", "stepped") and value.ndim:
            axis = self.random.randrange(value.ndim)
            size = list(value.shape)
            size[axis] *= 3
            wide = value.new_full(size, torch.nan if value.is_floating_point() else 1)
            first = self.random.randrange(3)
            if kind == "stepped":
                inner = wide[(slice(None),) * axis + (slice(first, None, 3),)]
            else:
                inner = wide.narrow(axis, first * value.shape[axis], value.shape[axis])
            return inner.copy_(value)
        if kind == "expanded" and value.ndim and value.numel():
            axes = self.random.sample(range(value.ndim), self.random.randint(1, value.ndim))
            for axis in axes:
                value = value.narrow(axis, 0, 1).expand([-1 if a != axis else n for a, n in enumerate(value.shape)])
            return value
        if kind == "window" and value.ndim and value.numel() >= sum(value.shape):
            return value.flatten()[: sum(value.shape)].as_strided(value.shape, (1,) * value.ndim)
        return value

    def index(self, batch: int, limit: int) -> Tensor:
        count = self.random.choice([0, 1, 3, 9, 33])
        return torch.randint(-1, limit, (batch, count), generator=self.generator)


def mixture(case: Case) -> tuple[list[Tensor], dict[str, Any], int]:
    """Parameters (logits, loc, scale), the options common to both mixture ops, and C."""
    pick = case.random.choice
    batch, components, dims = pick([0, 1, 2, 5]), pick([1, 2, 3, 5]), pick([1, 2, 4, 6])
    scales = pick([d for d in range(1, dims + 1) if dims % d == 0])
    activation = pick(["elu", "softplus", "exp", "identity"])
    parameters = [case.tensor(batch, components * size, *case.positions) for size in (1, dims, scales)]
    if activation == "identity":
        parameters[2] = parameters[2].abs() + 0.25
    options = {"scale_activation": activation, "min_scale": pick([0.25, 1.0])}
    if pick([True, False, False]) and torch.Size(case.positions).numel() > 0:
        options["index"] = case.index(batch, torch.Size(case.positions).numel())
    return parameters, options, dims


def mixture_nll(case: Case) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    parameters, options, dims = mixture(case)
    batch = parameters[0].shape[0]
    where = case.positions if "index" not in options else (options["index"].shape[1],)
    groups = case.random.choice([g for g in range(1, dims + 1) if dims % g == 0])
    if case.random.random() < 0.6:
        share = case.random.choice([0.0, 0.05, 0.5, 1.0])
        options["mask"] = case.layout(torch.rand(batch, groups, *where, generator=case.generator) < share)
    if case.random.random() < 0.4:
        options["weight"] = case.layout(torch.rand(batch, *where, generator=case.generator).to(case.dtype))
    if case.random.random() < 0.4:
        options["dim_scale"] = (torch.rand(dims, generator=case.generator) + 0.5).to(case.dtype)
    options["family"] = case.random.choice(["gaussian", "laplace"])
    options["reduction"] = case.random.choice(["mean", "sum", "none"])
    return mdnkernels.mixture_nll, [*parameters, case.tensor(batch, dims, *where)], options


def mixture_mode(case: Case) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    parameters, options, _ = mixture(case)
    options["select"] = case.random.choice(["weight", "density", "mean"])
    components = parameters[0].shape[1]
    if case.random.random() < 0.3:
        options["components"] = case.random.sample(range(components), case.random.randint(1, components))
    return mdnkernels.mixture_mode, parameters, options


def topk_peaks(case: Case) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    shape = (case.random.choice([0, 1, 3]), case.random.choice([1, 4]), *(case.random.choice([1, 7, 33]) for _ in "hw"))
    heatmap = case.layout(case.tensor(*shape).mul(case.random.choice([1, 4])).round(decimals=1))
    options = {"kernel_size": case.random.choice([1, 3, 5]), "logits": case.random.random() < 0.5}
    return mdnkernels.topk_peaks, [heatmap, case.random.choice([1, 5, 100])], options


def gather_patches(case: Case) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    batch, height, width = case.random.choice([0, 1, 3]), case.random.choice([1, 4, 9]), case.random.choice([1, 5, 16])
    feature = case.tensor(batch, case.random.choice([1, 3, 16]), height, width)
    return mdnkernels.gather_patches, [feature, case.index(batch, height * width), case.random.choice([1, 3, 5])], {}


def heatmap_focal_loss(case: Case) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    shape = (case.random.choice([0, 1, 3]), 2, *case.positions)
    logits = case.tensor(*shape, scale=case.random.choice([1.0, 30.0]))
    target = torch.rand(*shape, generator=case.generator)
    target = case.layout(torch.where(target > 0.9, 1.0, target).to(case.dtype))
    options = {"alpha": case.random.choice([0.0, 1.0, 2.0, 2.5]), "beta": case.random.choice([0.0, 3.5, 4.0])}
    return mdnkernels.heatmap_focal_loss, [logits, target], case.random.choice([{}, options])


def splat_gaussians(case: Case) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    batch, count = case.random.choice([0, 1, 3]), case.random.choice([0, 1, 20])
    height, width, labels = case.random.choice([1, 8, 33]), case.random.choice([1, 9, 32]), case.random.choice([1, 4])

    def draw(least: int, limit: int) -> Tensor:
        return torch.randint(least, limit, (batch, count), generator=case.generator)

    center = case.layout(torch.stack([draw(0, width), draw(0, height)], -1), overlapping=False)
    return mdnkernels.splat_gaussians, [center, draw(0, 12), draw(-1, labels), labels, (height, width)], {}


OPS = {
    op.__name__: op
    for op in (mixture_nll, mixture_mode, topk_peaks, gather_patches, heatmap_focal_loss, splat_gaussians)
}


def check_on_meta(function: Callable[..., Any], arguments: list[Any], options: dict[str, Any]) -> None:
    """Shapes and dtypes of outputs and gradients, without any numbers."""
    with mdnkernels.use_backend("eager"):
        expected = results(function, list(arguments), options)
    actual = results(
        function,
        [moved(value, "meta") for value in arguments],
        {k: moved(value, "meta") for k, value in options.items()},
    )
    for group, wanted in zip(actual, expected, strict=True):
        for a, e in zip(group, wanted, strict=True):
            assert a.device.type == "meta", "left the meta device"
            assert (a.shape, a.dtype) == (e.shape, e.dtype), (a.shape, a.dtype, e.shape, e.dtype)


def break_one(case: Case, arguments: list[Any], options: dict[str, Any]) -> bool:
    """Plants a mistake that must be refused; False where this call has no place for it."""
    tensors = [i for i, value in enumerate(arguments) if isinstance(value, Tensor)]
    place = case.random.choice(tensors)
    value = arguments[place]
    kind = case.random.choice(["dimension", "dtype", "type", "index", "option", "device"])
    if kind == "dimension":
        arguments[place] = value.unsqueeze(0).expand(2, *value.shape)
    elif kind == "dtype":
        arguments[place] = value.to(torch.int32)
    elif kind == "type":
        arguments[place] = value.tolist()
    elif kind == "index" and options.get("index") is not None and options["index"].numel():
        options["index"] = options["index"].clone()
        options["index"][0, 0] = case.random.choice([-2, 10**6])
    elif kind == "device" and len(tensors) > 1:
        arguments[place] = moved(value, "meta")
    elif kind == "option" and "family" in options:
        options[case.random.choice(["family", "reduction", "scale_activation"])] = "nonsense"
    else:
        return False
    return not (kind == "dimension" and len(tensors) == 1 and value.ndim != 4)


def run(seed: int) -> str:
    """One case; returns its name for the count, raises where it fails."""
    case = Case(seed)
    name = case.random.choice(list(OPS))
    function, arguments, options = OPS[name](case)
    if case.random.random() < 0.15 and break_one(case, arguments, options):
        try:
            function(*arguments, **options)
        except DOCUMENTED as error:
            if not str(error):
                raise AssertionError("an error without words") from error
            return f"{name}: refused"
        raise AssertionError("a mistake was accepted")
    if case.random.random() < 0.05:
        check_on_meta(function, arguments, options)
        return f"{name}: meta"
    with mdnkernels.use_backend("eager"):
        expected = results(
            function, [widen(value) for value in arguments], {key: widen(value) for key, value in options.items()}
        )
    backend = case.random.choice([b for b in BACKENDS if missing(name, b) is None])
    device = device_of(backend)
    with on(backend, seed):
        actual = results(
            function, [moved(value, device) for value in arguments], {k: moved(v, device) for k, v in options.items()}
        )
    dtype = case.dtype if name != "splat_gaussians" else torch.float32
    assert_agree(actual, expected, dtype)
    return f"{name}: {backend}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    failures, began = 0, time.monotonic()
    for seed in range(options.first, options.first + options.cases):
        try:
            counts[run(seed)] += 1
        except Exception as error:
            failures += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            if options.cases == 1:
                traceback.print_exc()
    for name, count in sorted(counts.items()):
        print(f"{count:7} {name}")
    print(f"{options.cases} cases, {failures} failed, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
