"""Training the mixture of the last stack alone: in a run, after a change of mind, and on several processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdnkernels import models
from mdnkernels.models.hourglass import Hourglass, HourglassConfig
from mdnkernels.train.loop.engine import fit
from tests.processes import module
from tests.train.drawn_data import DataPaths, tiny_fit
from tests.train.float64 import use_float64
from tests.train.loop.test_engine import last, resume
from tests.train.loop.test_processes import arguments, two_ranks

MIXTURE = ("logits", "loc", "scale")
# What `fit` then takes for hourglass_small has two stacks.
CONFIG = HourglassConfig(stacks=2, dims=(8, 12), blocks=(1, 1), stem_width=8, feature_dim=8)
PATCH = f"""
from mdnkernels import models
from mdnkernels.models.hourglass import Hourglass, HourglassConfig
models.ARCHITECTURES["hourglass_small"] = models.Architecture(lambda: Hourglass({CONFIG!r}), head_width=8)
"""


@pytest.fixture(autouse=True)
def two_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        models.ARCHITECTURES, "hourglass_small", models.Architecture(lambda: Hourglass(CONFIG), head_width=8)
    )


def heads_that_moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[tuple[int, str]]:
    """Return stack and name of the heads of which every weight has changed."""
    heads = {tuple(name.split(".")[1:4:2]) for name in before if name.startswith("heads.")}
    return {
        (int(stack), head)
        for stack, head in heads
        if all(not torch.equal(after[name], before[name]) for name in before if f"heads.{stack}.heads.{head}." in name)
    }


def test_mixture_of_the_last_stack_is_trained_alone_until_all_are(drawn: DataPaths, tmp_path: Path) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=3, stop_after=2, mixture_stacks="last"))
    # Of the same seed, but for one step.
    begun = fit(tiny_fit(drawn, tmp_path / "begun", epochs=3, stop_after=1, mixture_stacks="last"))
    first, middle = last(begun), last(run)
    others = {(stack, name) for stack in (0, 1) for name in ("heatmap", "offset")}
    assert heads_that_moved(first.model, middle.model) == others | {(1, name) for name in MIXTURE}
    assert len(middle.optimizer["state"]) == len(list(middle.optimizer["param_groups"][0]["params"])) - 3 * 4
    stored = middle.config
    resume(run, optimizer=dataclasses.replace(stored.optimizer, mixture_stacks="all"))
    assert heads_that_moved(middle.model, last(run).model) == others | {(s, name) for s in (0, 1) for name in MIXTURE}


def test_two_processes_train_the_last_stacks_mixture_to_the_weights_of_one(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DistributedDataParallel waits for the gradient of every weight that it is told of."""
    options = [*arguments(drawn, tmp_path / "two"), "--mixture-stacks", "last"]
    for done in two_ranks(PATCH + module("tests.train.one_rank", "none", "0", *options)):
        assert done.returncode == 0, done.stderr
    use_float64(monkeypatch.setattr)
    one = fit(tiny_fit(drawn, tmp_path / "one", epochs=3, ema=0.5, augment=False, mixture_stacks="last"))
    together = last(tmp_path / "two").model
    for name, value in last(one).model.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-5, msg=name)
