"""Whether the entries of a file can fill a module: both kinds of checkpoint ask here before they touch it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

# How many wrong entries a message names before it counts the rest.
NAMED = 12


def describe_mismatch(
    needed: Mapping[str, Tensor],
    given: Mapping[Any, Any],
    *,
    optional: Collection[str] = (),
    ignored: Collection[str] = (),
) -> str | None:
    """Say which entries of `given` are missing, surplus, of another shape or no tensors; None where none is wrong.

    optional: names that `given` may lack. ignored: names that it may have beside those that are needed.
    """
    problems: list[str] = []
    for name, value in needed.items():
        if name not in given:
            if name not in optional:
                problems.append(f"{name} is missing")
            continue
        found = given[name]
        if not isinstance(found, Tensor):
            problems.append(f"{name} is a {type(found).__name__}, not a tensor")
        elif found.shape != value.shape:
            problems.append(f"{name} has the shape {tuple(found.shape)}, not {tuple(value.shape)}")
    problems += [f"{name} is surplus" for name in given if name not in needed and name not in ignored]
    if not problems:
        return None
    more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    return "; ".join(problems[:NAMED]) + more
