"""The ways to run one call on the CPU, and its floor, each as a function without arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import ways
from benchmarks.floors import floor
from benchmarks.steps import require_gradients
from tests.ops.table import Call


def peers(call: Call, trained: bool | None = None) -> dict[str, Callable[[], object]]:
    """Return the ways by name, and "floor".

    Args:
        trained: whether they make the gradients that training needs; where the op has any, without it.
    """
    trained = bool(call.entry.trained) if trained is None else trained
    require_gradients([call])
    suiting = {name: way for name, way in ways.ways(call.entry).items() if way.suits(call.arguments)}
    return {**{name: partial(way.step(trained), call) for name, way in suiting.items()}, "floor": floor(call)}
