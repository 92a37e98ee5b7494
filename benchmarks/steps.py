"""What is timed of an op: the forward pass, or a training step, which makes its gradients anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tests.ops.table import Call

Step = Callable[[Call], object]


def leaves(call: Call) -> list[Tensor]:
    """Return the arguments that take a gradient in training."""
    return [call.arguments[name] for name in call.entry.trained]


def require_gradients(calls: Iterable[Call]) -> None:
    for call in calls:
        for leaf in leaves(call):
            leaf.requires_grad_()


def forward_pass(function: Callable[..., Any]) -> Step:
    """Return what calls the function with a call's arguments, without gradients."""

    def run(call: Call) -> object:
        with torch.no_grad():
            return function(**call.arguments)

    return run


def training_step(function: Callable[..., Any]) -> Step:
    """Return what calls the function and makes the gradients of the call's leaves, which require them.

    The gradient of the result is made in the first call, which is not timed.
    """
    ones: dict[torch.Size, Tensor] = {}

    def run(call: Call) -> object:
        result = function(**call.arguments)
        above = ones.get(result.shape)
        if above is None:
            above = ones[result.shape] = torch.ones_like(result)
        return torch.autograd.grad(result, leaves(call), above)

    return run


def step(function: Callable[..., Any], trained: bool) -> Step:
    return training_step(function) if trained else forward_pass(function)
