"""Verdicts follow from the numbers by the rules, here from numbers that are made by hand."""

import dataclasses
from collections.abc import Callable

import pytest

from mdnkernels.train.config.commands import ReproduceConfig
from mdnkernels.train.contenders.measures import Measures
from mdnkernels.train.reproduce.figures import contenders_figure, kinds_figure, knob_figure
from mdnkernels.train.reproduce.findings import Finding, Results, findings
from mdnkernels.train.reproduce.plan import Plan, plans
from mdnkernels.train.reproduce.report import contender_table, difference_table, knob_table
from mdnkernels.train.tasks import TaskName

CONFIG = ReproduceConfig(seeds=3, first_seed=0)
# Sizes that are categories have later seeds.
SKIPPED = 10
# What a seed does to every network alike.
LUCK = (0.0, 5.0, -4.0)


def made_up(plan: Plan, measure: Callable[[str, int, int], Measures]) -> Results:
    """Return results of which `measure` says those of a world's name, the components and the seed."""
    keys = [(job.world.name, job.components, job.seed) for job in plan.jobs()]
    return Results(plan, {key: measure(*key) for key in keys})


def plan_of(kind: str, config: ReproduceConfig = CONFIG) -> Plan:
    tasks: tuple[TaskName, ...] = ("detection", "pose")
    (found,) = (one for task in tasks for one in plans(config, task) if one.kind == kind)
    return found


def boxes(
    gain: float, *, pearson: float = 0.9, largest: float = 0.8, wobble: float = 0.1, kind: str = "sizes"
) -> Results:
    """Return boxes where a mixture of several gains so much at spread 1 and nothing at 0."""

    def measure(world: str, components: int, seed: int) -> Measures:
        knob = float(world.split("-")[1])
        several = components > 1
        seed %= SKIPPED
        ap = 40 + LUCK[seed] + wobble * (seed - 1) * components + (gain * knob if several else 0)
        kinds = {f"AP {name}": ap for name in ("small", "middle", "large", "kinds")}
        kinds |= {f"overlap {name}": ap for name in ("small", "middle", "large", "rare")}
        category = pearson if kind == "kinds" else 0.05
        split = {"pearson": pearson, "category pearson": category, "cramers v": 0.04}
        split |= {"largest share": largest, "used": 3.0}
        return {"AP": ap, "AP75": ap, **kinds, **(split if several else {})}

    return made_up(plan_of(kind), measure)


def verdicts(found: list[Finding]) -> dict[str, str]:
    return {one.claim: one.verdict for one in found}


def test_a_gain_beyond_the_seeds_spread_agrees() -> None:
    found = verdicts(findings(boxes(4.0)))
    assert found["MDN_3 has a higher AP than one component"] == "agrees"
    assert found["MDN_3 has a higher AP than the single-mode base"] == "agrees"
    assert found["the gain in AP over one component grows with the spread of the sizes"] == "agrees"
    assert found["where all sizes are alike, several components gain no AP over one"] == "agrees"
    assert found["no mixture collapses to one component"] == "agrees"


def test_a_gain_within_the_seeds_spread_is_not_shown() -> None:
    found = verdicts(findings(boxes(1.0, wobble=2.0)))
    assert found["MDN_3 has a higher AP than one component"] == "not shown"
    assert found["where all sizes are alike, several components gain no AP over one"] == "not shown"


def test_a_loss_does_not_agree() -> None:
    found = verdicts(findings(boxes(-4.0)))
    assert found["MDN_3 has a higher AP than one component"] == "does not agree"


def test_components_must_reach_the_paper_s_correlation() -> None:
    (claim,) = (claim for claim in verdicts(findings(boxes(4.0))) if claim.startswith("components stand for scale"))
    assert verdicts(findings(boxes(4.0)))[claim] == "agrees"
    assert verdicts(findings(boxes(4.0, pearson=0.7)))[claim] == "does not agree"
    assert verdicts(findings(boxes(4.0, pearson=float("nan"))))[claim] == "not shown"


def test_a_category_for_each_size_says_nothing_of_scale_against_category() -> None:
    """There the correlation with the category is as high as with the component, and not held against it."""
    found = verdicts(findings(boxes(4.0, kind="kinds")))
    assert found["MDN_3 has a higher AP than one component"] == "agrees"
    assert found["components stand for scale (the paper: correlation 0.76)"] == "agrees"
    assert not [claim for claim in found if "categories" in claim or "kinds of size" in claim]
    low = verdicts(findings(boxes(4.0, kind="kinds", pearson=0.7)))
    assert low["components stand for scale (the paper: correlation 0.76)"] == "does not agree"


def test_a_component_that_has_all_is_a_collapse() -> None:
    assert verdicts(findings(boxes(4.0, largest=0.995)))["no mixture collapses to one component"] == "does not agree"


@pytest.mark.parametrize(("kind", "panels"), [("sizes", 3), ("kinds", 2)])
def test_tables_and_figures_hold_every_contender(kind: str, panels: int) -> None:
    results = boxes(4.0, kind=kind)
    rows = contender_table(results, results.plan.main)
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["base", "MDN_1", "MDN_2", "MDN_3", "MDN_5"]
    assert difference_table(results)[-2].startswith("| MDN_3 | +4.0 ± ")
    assert len(contenders_figure(results).axes) == panels
    assert len(kinds_figure(results).axes[0].containers) >= 3


def test_the_gain_is_shown_at_every_value_of_the_knob() -> None:
    results = boxes(4.0)
    assert [row.split("|")[1].strip() for row in knob_table(results, "AP")[2:]] == ["0", "1"]
    assert len(knob_figure(results).axes[0].get_lines()) >= 2


@pytest.mark.parametrize(("kind", "mixture", "others"), [("sizes", 3, 1), ("kinds", 3, 0), ("views", 2, 2)])
def test_every_contender_meets_the_same_seeds(kind: str, mixture: int, others: int) -> None:
    whole = plan_of(kind)
    skipped = SKIPPED if kind == "kinds" else 0
    jobs = whole.jobs()
    assert len(set(jobs)) == len(jobs) == 3 * (5 + 3 * others)
    for world in whole.knob:
        for seed in range(skipped, skipped + 3):
            counts = [job.components for job in jobs if (job.world, job.seed) == (world, seed)]
            assert counts == ([0, 1, 2, 3, 5] if world == whole.main else [0, 1, mixture])
    alone = plan_of(kind, dataclasses.replace(CONFIG, knobs=False, first_seed=7))
    assert {(job.world, job.seed) for job in alone.jobs()} == {(whole.main, skipped + seed) for seed in (7, 8, 9)}
