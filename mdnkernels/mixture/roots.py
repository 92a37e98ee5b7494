"""The search for where an increasing function is 0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Every third of them a bisection: more than any dtype has digits.
_STEPS = 240

Evaluation = tuple[Tensor, Tensor, Tensor]


def between(low: Tensor, high: Tensor, evaluate: Callable[[Tensor], Evaluation]) -> Tensor:
    """Return where in [low, high] a function is 0, elementwise, by Newton's method with bisections.

    A step that leaves the bracket is a bisection, and every third one is, so that the number of steps has a bound.
    Where low is not below high, the result is between them without a search: infinite or NaN where they are.

    evaluate: gives the function, or any other of its sign, at x; Newton's next x, NaN or infinite where it has none;
    and the length of a step from an x that is as good as the root, infinite where that is not known.
    """
    x = low / 2 + high / 2
    settled = ~(low < high)
    for step in range(1, _STEPS + 1):
        if settled.all():
            break
        excess, newton, precision = evaluate(x)
        low, high = torch.where(excess < 0, x, low), torch.where(excess > 0, x, high)
        middle = low / 2 + high / 2
        found = newton.isfinite() & precision.isfinite() & ((newton - x).abs() <= precision)
        settled = settled | found | (excess == 0) | (middle == low) | (middle == high)
        following = torch.where((newton > low) & (newton < high), newton, middle) if step % 3 else middle
        x = torch.where(settled, x, following)
    return x
