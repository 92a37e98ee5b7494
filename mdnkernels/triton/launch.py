"""How the kernels become ops of torch, and what their launches share.

An op is a `torch.library.triton_op`, whose kernels torch.compile and torch.export see and can schedule with the code
around them. Under the Triton interpreter there is nothing to see: there it is an opaque custom op.

Block sizes follow from fixed rules, not from autotuning: every kernel is limited by memory, and what decides is that
each thread moves 16 bytes at a time, which follows from shapes and dtypes alone. So no first call of a new shape stops
to time configurations, which would wait for the device and cannot happen within a CUDA graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

NAMESPACE = "mdnkernels_triton"
INTERPRETED: bool = triton.knobs.runtime.interpret

# Programs of a pass that only counts, and partial sums it leaves: enough for the device, few enough for every program
# of the next pass to add them all.
COUNTERS = 128
CHUNK = 1024  # sums that one program adds at a time


def op(name: str, schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that registers a function as an op of `NAMESPACE`.

    The `triton_op` of torch 2.10 reads an op's schema from the function's signature, whatever schema it is given. So
    the function is given the schema's signature, and may take its arguments as one tuple.
    """

    def register(function: Callable[..., Any]) -> Any:
        function.__signature__ = _signature(f"{NAMESPACE}::{name}{schema}")  # type: ignore[attr-defined]
        registration: Callable[..., Any] = torch.library.custom_op if INTERPRETED else torch.library.triton_op
        return registration(f"{NAMESPACE}::{name}", function, mutates_args=(), schema=schema)

    return register


# The names of a schema's types, to torch's own.
_TYPES = {"Tensor": Tensor, "Optional": Optional, "List": list, "str": str, "float": float, "bool": bool, "int": int}


def _type(of_schema: Any) -> Any:
    """Return the annotation of a schema's type, Optional[List[int]] for instance."""
    return eval(str(of_schema), {}, _TYPES)


def _signature(schema: str) -> inspect.Signature:
    """Return the signature of a function that takes what an op's schema says."""
    parsed = torch._C.parse_schema(schema)
    parameters = [
        inspect.Parameter(each.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=_type(each.type))
        for each in parsed.arguments
    ]
    returned = tuple(_type(each.type) for each in parsed.returns)
    of_result = returned[0] if len(returned) == 1 else tuple.__class_getitem__(returned)
    return inspect.Signature(parameters, return_annotation=of_result)


def wrap_triton(kernel: Any) -> Any:
    """Return `kernel` such that torch.compile sees it."""
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)


def padded(count: int) -> int:
    """Return the least power of two that is at least `count`, as the extents of Triton's tensors must be."""
    return 1 << max(int(count) - 1, 0).bit_length()


def strides(value: Tensor | None, count: int) -> tuple[int, ...]:
    """Return the strides of a tensor of `count` dimensions, or zeros, which nothing uses, where it is absent."""
    return (0,) * count if value is None else value.stride()


@triton.jit
def write_sum(partial, count, weights, number, loss, COUNTERS: tl.constexpr, CHUNK: tl.constexpr):
    """Write the loss: the sum of `count` partial sums over that of `weights`, where they are given, else over `number`.

    A divisor of 0 counts as 1. One program adds in one order and in double, so the result has the same bits every time.
    """
    lane = tl.arange(0, CHUNK)
    total = tl.zeros((CHUNK,), tl.float64)
    for first in range(0, count, CHUNK):
        total += tl.load(partial + first + lane, mask=first + lane < count, other=0.0, cache_modifier=".cg")
    result = tl.sum(total, 0)
    share = tl.cast(number, tl.float64)
    if weights is not None:
        share = tl.sum(tl.load(weights + tl.arange(0, COUNTERS)), 0)
    result = result / tl.where(share == 0, 1.0, share)
    tl.store(loss, result.to(loss.dtype.element_ty))


@triton.jit
def add_partial_sums(partial, finished, count, weights, loss, COUNTERS: tl.constexpr, CHUNK: tl.constexpr):
    """Write the loss as `write_sum` does, in the last of `count` programs to come here; each left its partial sum.

    finished: counts programs, from the 0 that an earlier kernel left.
    """
    tl.debug_barrier()
    if tl.atomic_add(finished, 1, sem="acq_rel", scope="gpu") == count - 1:
        write_sum(partial, count, weights, 1, loss, COUNTERS, CHUNK)


@triton.jit
def total_kernel(partial, count, weights, number, loss, COUNTERS: tl.constexpr, CHUNK: tl.constexpr):
    """Write the loss as `write_sum` does, after the kernel that left the partial sums."""
    write_sum(partial, count, weights, number, loss, COUNTERS, CHUNK)


def write_total(partial: Tensor, weights: Tensor | None, number: int, loss: Tensor) -> None:
    """Launch `total_kernel`."""
    wrap_triton(total_kernel)[(1,)](*(partial, partial.shape[0], weights, number, loss), COUNTERS=COUNTERS, CHUNK=CHUNK)
