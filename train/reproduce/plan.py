"""Which networks are trained: all contenders in each kind's main world, some of them at other values of its knob."""

from __future__ import annotations

from typing import NamedTuple

from train.config.commands import ReproduceConfig
from train.contenders.jobs import Job
from train.contenders.worlds import CHANGES, WORLDS, World
from train.tasks import TaskName


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
    more_seeds: tuple[int, ...]
    """Further seeds, of the followed contenders in the main world alone."""

    @property
    def kind(self) -> str:
        """The kind of its worlds."""
        return self.main.kind

    @property
    def followed(self) -> tuple[int, ...]:
        """Components of the contenders that are trained in every world."""
        return (0, 1, self.mixture)

    def seeds_of(self, components: int, world: World) -> tuple[int, ...]:
        """Return the seeds with which a contender is trained in a world."""
        return self.seeds + (self.more_seeds if world == self.main and components in self.followed else ())

    def jobs(self) -> list[Job]:
        """Return what to train, seed by seed, so that an interrupted run has whole seeds."""
        return [
            Job(world, components, seed)
            for seed in self.seeds + self.more_seeds
            for world in sorted(self.knob, key=lambda world: world != self.main)
            for components in (self.components if world == self.main else self.followed)
            if seed in self.seeds_of(components, world)
        ]


def plans(config: ReproduceConfig, task: TaskName) -> list[Plan]:
    """Return what a configuration asks for of a task: one plan for each kind of world."""
    changes = {name: getattr(config, name) for name in CHANGES}
    several = sorted(count for count in config.components if count > 1)
    made = []
    for family in WORLDS[task]:
        main = family.world(family.main, changes)
        first = config.first_seed + family.skipped_seeds
        after = first + config.seeds
        made.append(
            Plan(
                task=task,
                main=main,
                components=tuple(sorted(config.components)),
                mixture=family.mixture if family.mixture in several else several[0],
                knob=tuple(family.world(value, changes) for value in family.knob) if config.knobs else (main,),
                seeds=tuple(range(first, after)),
                more_seeds=tuple(range(after, after + config.more_seeds)) if family.more_seeds else (),
            )
        )
    return made
