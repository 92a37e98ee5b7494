"""What the components of a mixture do: which share of the results each gives, and COCO's numbers of each alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mdnkernels.train.tasks.score import Score

# Results with a lower score do not count in a component's share: most of what a network keeps is background.
MIN_SCORE = 0.3


def component_shares(results: Sequence[Mapping[str, Any]], components: int) -> list[float | None]:
    """Return which share of the results with at least MIN_SCORE each component gave; None of no such result."""
    chosen = [one["component"] for one in results if one["score"] >= MIN_SCORE]
    return [chosen.count(m) / len(chosen) if chosen else None for m in range(components)]


def describe_components(
    results: Sequence[Mapping[str, Any]], components: int, alone: Sequence[Score] = ()
) -> list[dict[str, Any]]:
    """Return for each component its "share" of the results, and COCO's numbers of it alone where they are given.

    alone: the score of each component's results, where each gives every object's size or pose; or none of them.
    """
    shares = component_shares(results, components)
    numbers = [score.metrics for score in alone] or [{}] * components
    return [{"share": share, **own} for share, own in zip(shares, numbers, strict=True)]


def component_table(components: Sequence[Mapping[str, Any]], together: Mapping[str, float]) -> str:
    """Return the lines of a table: COCO's numbers of the mixture, then of each component alone, and the shares.

    components: of `describe_components`. together: the mixture's own numbers.
    """
    names = [name for name in together if name in components[0]]
    lines = [" ".join(("component", "   share", *(f"{name:>8}" for name in names)))]
    rows = [("all", None, together), *((str(m), one["share"], one) for m, one in enumerate(components))]
    for name, share, numbers in rows:
        part = "" if share is None else f"{100 * share:.1f} %"
        lines.append(" ".join((f"{name:<9}", f"{part:>8}", *(f"{numbers[key]:8.3f}" for key in names))))
    return "\n".join(lines) + f"\nshare: of the results with a score of {MIN_SCORE} or more\n"
