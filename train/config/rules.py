"""Rules of options, which stand at their fields (`epochs: Annotated[int, at_least(1)]`), and the check that reads them.

Every field of numbers, texts or paths has a `Rule`, or says by `CheckedBy` who else refuses a wrong value; a test goes
through all of them. What options must be to one another is said by `check_together` of the class that holds them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from mdnkernels.train.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """What the value of an option must be, where it is given."""

    allows: Callable[[Any], bool]
    complaint: str
    """What is said of a value that is not allowed; {value} stands for it."""


@dataclass(frozen=True)
class CheckedBy:
    """Marks an option whose value can only be judged where it is used: a file, or what a network has."""

    place: str
    """MODULE:NAME of what refuses a wrong value."""


@runtime_checkable
class CheckedTogether(Protocol):
    """A configuration with rules between its options."""

    def check_together(self) -> None:
        """Raise ConfigError where one option contradicts or lacks another."""


def must_be(need: str, allows: Callable[[Any], bool], reason: str = "") -> Rule:
    """Return the rule whose complaint is "must be NEED, not VALUE", and the reason behind it where there is one."""
    return Rule(allows, f"must be {need}, not {{value}}{'; ' if reason else ''}{reason}")


def at_least(least: int, reason: str = "") -> Rule:
    """Return the rule of a number with a lower limit."""
    return must_be(f"at least {least}", lambda value: value >= least, reason)


def multiple_of(divisor: int, reason: str) -> Rule:
    """Return the rule of a whole number; the reason goes on after "is no multiple of DIVISOR, "."""
    return Rule(lambda value: value % divisor == 0, f"{{value}} is no multiple of {divisor}, {reason}")


def one_or_more(each: str, allows: Callable[[float], bool]) -> Rule:
    """Return the rule of a tuple that is not empty and whose numbers are all allowed. each: what they must be."""
    return must_be(f"one or more {each}", lambda values: bool(values) and all(map(allows, values)))


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


AtLeastOne = Annotated[int, at_least(1)]
AtLeastZero = Annotated[int, at_least(0)]
Positive = Annotated[float, must_be("positive and finite", _is_positive)]
NotNegative = Annotated[float, must_be("at least 0 and finite", lambda value: 0 <= value < math.inf)]
ZeroToOne = Annotated[float, must_be("between 0 and 1", lambda value: 0 <= value <= 1)]
PositiveNumbers = Annotated[tuple[float, ...], one_or_more("positive numbers", _is_positive)]


def check_config(config: Any) -> None:
    """Check a configuration, a dataclass, and the configurations in its fields.

    Raises ConfigError that names the option as the command line writes it, what was given and what is needed.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value, option = getattr(config, name), f"--{name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            check_config(value)
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"{option}: must fit 64 bits")
        elif value is not None:
            for rule in rules_of(hint):
                if isinstance(rule, Rule) and not rule.allows(value):
                    raise ConfigError(f"{option}: {rule.complaint.format(value=value)}")
    if isinstance(config, CheckedTogether):
        config.check_together()


def rules_of(hint: Any) -> list[Rule | CheckedBy]:
    """Return what a field's type, with its annotations, says of its value: `Annotated[int, rule] | None`, for one."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        return [*rules_of(inner), *(mark for mark in marks if isinstance(mark, Rule | CheckedBy))]
    return [] if get_origin(hint) is tuple else [rule for part in get_args(hint) for rule in rules_of(part)]
