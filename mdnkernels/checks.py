"""Checks of arguments, made once, before any backend runs.

Each error names the argument, what was given and what is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def tensor(name: str, value: object, dtypes: Sequence[torch.dtype], like: Tensor | None = None) -> None:
    """Check that `value` is a strided tensor of one of `dtypes`, on the device of `like`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")
    if value.dtype not in dtypes:
        raise TypeError(
            f"{name} must be {' or '.join(str(d).removeprefix('torch.') for d in dtypes)}, got {value.dtype}"
        )
    if like is not None and value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, but the other tensors are on {like.device}")


def companion(name: str, value: object, like: Tensor) -> None:
    """Check that `value` has the dtype of `like`, or float32 where that is half precision (a target under autocast)."""
    half = like.dtype in (torch.bfloat16, torch.float16)
    tensor(name, value, (like.dtype, torch.float32) if half else (like.dtype,), like)


def shape(name: str, value: Tensor, expected: Sequence[int | torch.SymInt], meaning: str) -> None:
    """Check that `value` has exactly the shape `expected`, which the error spells as `meaning`."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {meaning} = {tuple(expected)}, got {tuple(value.shape)}")


def choice(name: str, value: object, options: Sequence[str]) -> None:
    """Check that `value` is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")


def integer(name: str, value: object, least: int) -> None:
    """Check that `value` is an int, or a traced one, of at least `least`; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def number(name: str, value: object, least: float) -> None:
    """Check that `value` is a finite number of at least `least`; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not least <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least {least}, got {value}")


def kernel_size(value: object) -> None:
    """Check that `value` is the side of a window with a centre: an odd int of at least 1."""
    integer("kernel_size", value, 1)
    if value % 2 == 0:  # type: ignore[operator]
        raise ValueError(f"kernel_size must be odd, got {value}")


def _readable(value: Tensor) -> Tensor | None:
    """Return `value` where reading it costs nothing, on the CPU and outside of a traced graph; None elsewhere.

    A tensor that torch.func transforms have wrapped comes out whole: what holds of all of its elements holds of each
    call that vmap stands for. Parameters and other subclasses are read as any tensor is; a fake one has no values.
    """
    if torch.compiler.is_compiling() or value.device.type != "cpu":
        return None
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    if type(value).__torch_dispatch__ is Tensor.__torch_dispatch__:  # its elements are its own
        with torch._C.DisableTorchFunctionSubclass():
            return value.detach()
    return None if is_fake(value) else value.detach()


def positive(name: str, value: Tensor) -> None:
    """Check that every element of `value` is positive and finite.

    Where `bounds` would not raise, it is not read.
    """
    readable = _readable(value)
    if readable is not None:
        bad = readable[~((readable > 0) & readable.isfinite())]
        if bad.numel():
            raise ValueError(f"{name} must be positive and finite, got {bad[0].item()}")


def bounds(name: str, value: Tensor, least: int, limit: int | torch.SymInt, meaning: str) -> None:
    """Check that every element of the integer tensor `value` lies in [least, limit); `meaning` says what limit counts.

    On the CPU an IndexError names the offender. On another device, and in a traced graph, the check is an assertion on
    the device itself: reading the values would stop the host until the device is done.
    """
    if value.numel() == 0 or value.device.type == "meta":
        return
    readable = _readable(value)
    if readable is not None:
        low, high = (int(bound) for bound in torch.aminmax(readable))
        if low < least or high >= limit:
            bad = low if low < least else high
            raise IndexError(f"{name} must lie in [{least}, {limit}) ({meaning}), got {bad}")
    else:
        inside = ((value >= least) & (value < limit)).all()
        # A graph whose words name the number would be one for this size alone.
        number = "limit" if torch.compiler.is_compiling() else str(limit)
        torch._assert_async(inside, f"{name} must lie in [{least}, {number}) ({meaning})")
