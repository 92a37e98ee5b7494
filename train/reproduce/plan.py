"""Which networks are trained: all contenders in each kind's main world, some of them at other values of its knob."""

from __future__ import annotations

from typing import NamedTuple

from mdnkernels.train.config.commands import ReproduceConfig
from mdnkernels.train.contenders.jobs import Job
from mdnkernels.train.contenders.worlds import CHANGES, WORLDS, World
from mdnkernels.train.tasks import TaskName


class Plan(NamedTuple):
    """What is compared in one kind of world."""

    task: TaskName
    main: World
    components: tuple[int, ...]
    """Of the contenders in the main world: 0 for the base, 1, and more, in ascending order."""
    mixture: int
    """Components of the mixture that is followed over the knob, with the base and the mixture of one."""
    knob: tuple[World, ...]
    """The worlds of all values of the knob, the main one among them; that one alone where no knob is turned."""
    seeds: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The kind of its worlds."""
        return self.main.kind

    @property
    def followed(self) -> tuple[int, ...]:
        """Components of the contenders that are trained in every world."""
        return (0, 1, self.mixture)

    def jobs(self) -> list[Job]:
        """Return what to train, seed by seed, so that an interrupted run has whole seeds."""
        return [
            Job(world, components, seed)
            for seed in self.seeds
            for world in sorted(self.knob, key=lambda world: world != self.main)
            for components in (self.components if world == self.main else self.followed)
        ]


def plans(config: ReproduceConfig, task: TaskName) -> list[Plan]:
    """Return what a configuration asks for of a task: one plan for each kind of world."""
    changes = {name: getattr(config, name) for name in CHANGES}
    several = sorted(count for count in config.components if count > 1)
    made = []
    for family in WORLDS[task]:
        main = family.world(family.main, changes)
        first = config.first_seed + family.skipped_seeds
        made.append(
            Plan(
                task=task,
                main=main,
                components=tuple(sorted(config.components)),
                mixture=family.mixture if family.mixture in several else several[0],
                knob=tuple(family.world(value, changes) for value in family.knob) if config.knobs else (main,),
                seeds=tuple(range(first, first + config.seeds)),
            )
        )
    return made
