"""Random shapes, strides, dtypes, devices, options and mistakes at every public function: `make fuzz` (CASES=20000).

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

import torch
from torch import Tensor

import mdnkernels
from tests.ops.agreement import assert_agree, expected_results, moved, results
from tests.ops.backends import BACKENDS, device_of, missing, on
from tests.ops.table import OPS, Call, Draw, Entry

DOCUMENTED = (ValueError, TypeError, IndexError)


class Case:
    """One random call."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.entry = OPS[self.random.choice(list(OPS))]
        self.dtype = self.random.choice(self.entry.dtypes)
        positions = draw_positions(self.random, self.entry)
        draw = Draw(self.random.choice([0, 1, 2, 3, 5]), positions, self.dtype, self.layout, seed=seed)
        self.call = self.entry.draw(draw, **self.entry.random_options(self.random))

    def layout(self, value: Tensor) -> Tensor:
        """Return the same numbers under other strides, NaN lying in what gaps there are; or overlapping elements."""
        kinds = ["plain", "plain", "permuted", "channels_last", "sliced", "stepped", "expanded", "window"]
        kind = self.random.choice(kinds)
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


def draw_positions(random: random.Random, entry: Entry) -> tuple[int, ...]:
    count = 2 if entry.maps_alone else random.choice([0, 1, 1, 2, 2, 2, 3])
    return tuple(random.choice([1, 2, 3, 5, 8, 17, 32, 40]) for _ in range(count))


def check_on_meta(call: Call) -> None:
    """Compare shapes and dtypes of outputs and gradients, without any numbers."""
    with mdnkernels.use_backend("eager"):
        expected = results(call)
    actual = results(call.changed(lambda value: moved(value, "meta")))
    for group, wanted in zip(actual, expected, strict=True):
        for a, e in zip(group, wanted, strict=True):
            assert a.device.type == "meta", "left the meta device"
            assert (a.shape, a.dtype) == (e.shape, e.dtype), (a.shape, a.dtype, e.shape, e.dtype)


def break_one(random: random.Random, call: Call) -> bool:
    """Plant a mistake that must be refused; return False where this call has no place for it."""
    arguments, tensors = call.arguments, call.tensors
    place = random.choice(list(tensors))
    words = [name for name, value in arguments.items() if isinstance(value, str)]
    kind = random.choice(["dimension", "dtype", "type", "index", "option", "device"])
    if kind == "dimension":
        # The only tensor may have any number of dimensions, but where it must be a map.
        if len(tensors) == 1 and not call.entry.maps_alone:
            return False
        arguments[place] = tensors[place].unsqueeze(0).expand(2, *tensors[place].shape)
    elif kind == "dtype":
        arguments[place] = tensors[place].to(torch.int32)
    elif kind == "type":
        arguments[place] = tensors[place].tolist()
    elif kind == "index" and "index" in tensors and tensors["index"].numel():
        arguments["index"] = tensors["index"].clone()
        arguments["index"][0, 0] = random.choice([-2, 10**6])
    elif kind == "device" and len(tensors) > 1:
        arguments[place] = moved(tensors[place], "meta")
    elif kind == "option" and words:
        arguments[random.choice(words)] = "nonsense"
    else:
        return False
    return True


def run(seed: int) -> str:
    """Run one case; return its name for the count; raise where it fails."""
    case = Case(seed)
    call, op = case.call, case.entry.op
    if case.random.random() < 0.15 and break_one(case.random, call):
        try:
            call.function(**call.arguments)
        except DOCUMENTED as error:
            if not str(error):
                raise AssertionError("an error without words") from error
            return f"{op}: refused"
        raise AssertionError("a mistake was accepted")
    if case.random.random() < 0.05:
        check_on_meta(call)
        return f"{op}: meta"
    expected = expected_results(call)
    backend = case.random.choice([b for b in BACKENDS if missing(op, b) is None])
    with on(backend, seed):
        actual = results(call.changed(lambda value: moved(value, device_of(backend))))
    assert_agree(actual, expected, case.entry.result_dtype(case.dtype))
    return f"{op}: {backend}"


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
