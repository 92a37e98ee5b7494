"""What of the paper's findings the measured numbers show, each by one rule that is written before it is measured.

A difference of two networks is shown where the 95 % interval of its mean over the seeds, each network's with the same
seeds, does not hold 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from mdnkernels.train.contenders.jobs import contender_title
from mdnkernels.train.contenders.measures import SIZE_KINDS, Measures
from mdnkernels.train.contenders.worlds import World
from mdnkernels.train.reproduce.plan import Plan
from mdnkernels.train.reproduce.statistics import Estimate, estimate, paired_difference

Verdict = Literal["agrees", "does not agree", "not shown"]

# The paper's correlations of component and scale, and of component and category.
SCALE_CORRELATION, CATEGORY_CORRELATION = 0.76, 0.10
# The choice of a component follows the view where it reaches this share of what a classifier does.
OF_CLASSIFIER = 0.8
# Where the view cannot be told, a weight up to this one is near one half.
NEAR_HALF = 0.65
# Share of the objects from which on one component has all of them.
ALL = 0.99
# Points of AP; a gain that is surely smaller is none.
NEGLIGIBLE = 2.0


class Finding(NamedTuple):
    """A finding of the paper, and what became of it here."""

    claim: str
    verdict: Verdict
    measured: str
    why: str
    """What else was measured that explains it; may be empty."""


class Results:
    """The measures of the networks of one kind of world."""

    def __init__(self, plan: Plan, measures: Mapping[tuple[str, int, int], Measures]) -> None:
        """measures: by the world's name, the components and the seed."""
        self.plan = plan
        self._measures = measures

    def values(self, name: str, components: int, world: World | None = None) -> list[float]:
        """Return a measure of a network, one value for each seed; of the main world where none is given."""
        world = world or self.plan.main
        return [self._measures[world.name, components, seed].get(name, math.nan) for seed in self.plan.seeds]

    def estimate(self, name: str, components: int, world: World | None = None) -> Estimate:
        """Return the mean of `values` and its interval."""
        return estimate(self.values(name, components, world))

    def difference(self, name: str, one: int, other: int, world: World | None = None) -> Estimate:
        """Return how far a measure of one network lies above the other's."""
        return paired_difference(self.values(name, one, world), self.values(name, other, world))

    def gains(self, name: str, one: int, other: int, world: World) -> list[float]:
        """Return the differences, one for each seed."""
        pairs = zip(self.values(name, one, world), self.values(name, other, world), strict=True)
        return [first - second for first, second in pairs]


def findings(results: Results) -> list[Finding]:
    """Return the findings of a kind of world."""
    plan = results.plan
    found = [_gain(results, other, score) for score in SCORES[plan.kind] for other in (0, 1)]
    if plan.task == "detection":
        found += [_follows_scale(results) if plan.kind == "sizes" else _follows_scale_of_categories(results)]
    else:
        found += [_follows_view(results), _keeps_both(results), _back_is_less_certain(results)]
    return [*found, _no_collapse(results), *_knob(results)]


SCORES: dict[str, dict[str, str]] = {
    "sizes": {
        "AP": "AP",
        "AP kinds": "mean AP of the three kinds of size",
        "overlap rare": "overlap of the rare sizes",
    },
    # Here AP is the mean of the three kinds'.
    "kinds": {"AP": "AP", "overlap rare": "overlap of the rare sizes"},
    "views": {"AP": "AP", "AP regressed": "AP of the regression alone"},
}
"""What contenders of a kind of world are compared by: measures and their names in a sentence."""

KNOB_SCORES: dict[str, tuple[str, ...]] = {"sizes": ("AP",), "kinds": ("AP",), "views": ("AP", "AP regressed")}
"""Of these, what there is at every value of the knob."""


def _gain(results: Results, other: int, score: str) -> Finding:
    mixture, name = results.plan.mixture, SCORES[results.plan.kind][score]
    gain = results.difference(score, mixture, other)
    return Finding(
        claim=f"{contender_title(mixture)} has a higher {name} than "
        + ("the single-mode base" if other == 0 else "one component"),
        verdict=verdict_of(gain),
        measured=f"{name}: {results.estimate(score, mixture).text()} against "
        f"{results.estimate(score, other).text()}, difference {gain.text(sign=True)}",
        why=_why_of_gain(results, other, score),
    )


def verdict_of(gain: Estimate) -> Verdict:
    """Return whether a difference that is claimed to be positive is so beyond the seeds' spread."""
    if gain.above_zero:
        return "agrees"
    return "does not agree" if gain.below_zero else "not shown"


def verdict_of_none(gain: Estimate) -> Verdict:
    """Return whether a difference that is claimed to be none, or negative, is below NEGLIGIBLE beyond the spread."""
    if gain.above_zero:
        return "does not agree"
    return "agrees" if gain.mean + gain.half < NEGLIGIBLE else "not shown"


def verdict_of_level(*reached: bool | None) -> Verdict:
    """Return whether levels are all reached; None stands for one that is not defined."""
    if None in reached:
        return "not shown"
    return "agrees" if all(reached) else "does not agree"


def _at_least(one: Estimate, level: float) -> bool | None:
    return None if math.isnan(one.mean) else one.mean >= level


def _why_of_gain(results: Results, other: int, score: str) -> str:
    """Return what explains a gain or the want of it, where nothing beside it has said so."""
    if results.plan.task == "detection":
        return _where_boxes_differ(results, other) if score == "AP" else ""
    return _what_peaks_do(results) if score == "AP" else _what_view_does(results)


def _what_peaks_do(results: Results) -> str:
    changes = [
        f"{contender_title(count)} "
        + paired_difference(results.values("AP", count), results.values("AP regressed", count)).text(sign=True)
        for count in results.plan.followed
    ]
    return (
        f"keypoints that move to the peaks of their heatmaps, which know of no component, change AP by: "
        f"{', '.join(changes)}"
    )


def _where_boxes_differ(results: Results, other: int) -> str:
    mixture = results.plan.mixture
    kinds = []
    for what in ("AP", "overlap"):
        gains = [
            f"{name} {results.difference(f'{what} {name}', mixture, other).text(sign=True)}" for name in SIZE_KINDS
        ]
        kinds.append(f"{what} {', '.join(gains)}")
    return f"by kind of size: {'; '.join(kinds)}"


def _what_view_does(results: Results) -> str:
    follows = results.estimate("cramers v", results.plan.mixture)
    if math.isnan(follows.mean):
        return "one component is taken for all figures, so that the mixture answers as a single mode does"
    ceiling = results.estimate("classifier", results.plan.mixture)
    if follows.mean < OF_CLASSIFIER * ceiling.mean:
        return (
            f"the choice of a component does not follow the view (Cramer's V {follows.text(2)}, of 1), so that the "
            "mixture gains nothing from keeping two poses apart"
        )
    return f"the choice of a component follows the view (Cramer's V {follows.text(2)})"


def _follows_scale(results: Results) -> Finding:
    mixture = results.plan.mixture
    scale, category = (results.estimate(name, mixture) for name in ("pearson", "category pearson"))
    apart = _at_least(category, CATEGORY_CORRELATION + 0.005)  # of the two digits that the paper gives
    return Finding(
        claim=f"components stand for scale and not for categories (the paper: correlations {SCALE_CORRELATION} and "
        f"{CATEGORY_CORRELATION:.1f})",
        verdict=verdict_of_level(_at_least(scale, SCALE_CORRELATION), None if apart is None else not apart),
        measured=f"correlation of log size with the component {scale.text(2)}, with the category {category.text(2)}; "
        f"Cramer's V of component and category {results.estimate('cramers v', mixture).text(2)}",
        why=f"of {mixture} components, {results.estimate('used', mixture).text()} are taken for 1 % or more of the "
        "detections",
    )


def _follows_scale_of_categories(results: Results) -> Finding:
    """Say whether components stand for scale where a category is a kind of size, and theirs cannot be told apart."""
    mixture = results.plan.mixture
    scale, category = (results.estimate(name, mixture) for name in ("pearson", "category pearson"))
    return Finding(
        claim=f"components stand for scale (the paper: correlation {SCALE_CORRELATION})",
        verdict=verdict_of_level(_at_least(scale, SCALE_CORRELATION)),
        measured=f"correlation of log size with the component {scale.text(2)}",
        why=f"a category is a kind of size here, and correlates with it as well ({category.text(2)}); whether "
        "components stand for scale or for categories is seen where the two are independent",
    )


def _follows_view(results: Results) -> Finding:
    mixture = results.plan.mixture
    follows, ceiling = (results.estimate(name, mixture) for name in ("cramers v", "classifier"))
    told, hidden = (
        f"{results.estimate(f'OKS {name}', mixture).text(2)} to the truth, "
        f"{results.estimate(f'either {name}', mixture).text(2)} to the nearer of it and its left-right exchange"
        for name in ("told", "hidden")
    )
    return Finding(
        claim=f"components stand for the view: where it can be told, their choice follows it at least "
        f"{OF_CLASSIFIER:g} times as well as a classifier of front and back, on the same backbone and pictures, does",
        verdict=verdict_of_level(None if math.isnan(follows.mean) else follows.mean >= OF_CLASSIFIER * ceiling.mean),
        measured=f"association with the view (Cramer's V) of the component {follows.text(2)}, of the classifier "
        f"{ceiling.text(2)}",
        why=f"similarity of {contender_title(mixture)}'s poses where the view can be told: {told}; where not: {hidden}",
    )


def _keeps_both(results: Results) -> Finding:
    mixture = results.plan.mixture
    told, hidden = (results.estimate(f"weight {name}", mixture) for name in ("told", "hidden"))
    near = None if math.isnan(hidden.mean) else hidden.mean <= NEAR_HALF
    return Finding(
        claim="where nothing tells the view, both poses keep about half of the weight",
        verdict=verdict_of_level(near, None if near is None else told.mean > hidden.mean),
        measured=f"mixing weight of the component that is taken, where nothing tells the view: {hidden.text(2)}; where "
        f"it can be told: {told.text(2)}",
        why="",
    )


def _back_is_less_certain(results: Results) -> Finding:
    mixture = results.plan.mixture
    ratio = paired_difference(results.values("sigma back over front", mixture), [1.0] * len(results.plan.seeds))
    return Finding(
        claim="back views are less certain: their sigma is larger",
        verdict=verdict_of(ratio),
        measured=f"sigma of back views over that of front views "
        f"{results.estimate('sigma back over front', mixture).text(2)}",
        why="here a back differs from a front in its cues alone, and nose and eyes are not labelled from the back",
    )


def _no_collapse(results: Results) -> Finding:
    several = [count for count in results.plan.components if count > 1]
    largest = {count: results.estimate("largest share", count) for count in several}
    collapsed = (_at_least(share, ALL) for share in largest.values())
    return Finding(
        claim="no mixture collapses to one component",
        verdict=verdict_of_level(*(None if one is None else not one for one in collapsed)),
        measured="share of the component that is taken most: "
        + ", ".join(f"{contender_title(count)} {share.text(2)}" for count, share in largest.items()),
        why="",
    )


def _knob(results: Results) -> list[Finding]:
    """Compare the gain over one component at the ends of the knob; nothing where the knob is not turned."""
    plan = results.plan
    if len(plan.knob) < 2:
        return []
    closed, opened = plan.knob[0], plan.knob[-1]
    boxes = plan.task == "detection"
    where = "where all sizes are alike" if boxes else "where every view can be told"
    what = "spread of the sizes" if boxes else "share of figures whose view cannot be told"
    found = []
    for score in KNOB_SCORES[plan.kind]:
        name = SCORES[plan.kind][score]
        at_closed, at_open = (results.gains(score, plan.mixture, 1, world) for world in (closed, opened))
        nothing, growth = estimate(at_closed), paired_difference(at_open, at_closed)
        found += [
            Finding(
                claim=f"{where}, several components gain no {name} over one",
                verdict=verdict_of_none(nothing),
                measured=f"difference at {closed.knob:g}: {nothing.text(sign=True)}",
                why="",
            ),
            Finding(
                claim=f"the gain in {name} over one component grows with the {what}",
                verdict=verdict_of(growth),
                measured=f"difference at {opened.knob:g}: {estimate(at_open).text(sign=True)}, which is "
                f"{growth.text(sign=True)} more than at {closed.knob:g}",
                why="",
            ),
        ]
    return found
