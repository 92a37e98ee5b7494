"""How components share the objects of training: over every object of an epoch, and a warning where one has none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import mdnkernels.train.loop.engine
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.processes import Processes
from mdnkernels.train.loop.usage import UnusedComponents, UsageMeter, share_text
from mdnkernels.train.run.log import read_log
from mdnkernels.train.tasks.detection import DetectionCriterion, DetectionTargets
from tests.train.drawn_data import DataPaths, tiny_fit
from tests.train.loop.test_engine import resume

ALONE = Processes(None, torch.device("cpu"))


def sums(objects: int, share: list[float], chosen: list[int], entropy: float, sigma: list[float]) -> dict[str, Tensor]:
    values = {"objects": [objects], "share": share, "chosen": chosen, "choice_entropy": [entropy], "sigma": sigma}
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


def test_meter_gives_means_since_it_was_read_and_over_the_epoch() -> None:
    meter = UsageMeter(ALONE)
    meter.add(sums(4, [3, 1], [4, 0], 2, [8, 4]))
    meter.add(sums(0, [0, 0], [0, 0], 0, [0, 0]))
    first = meter.read()
    assert first == {
        "objects": 4,
        "choice_entropy": 0.5,
        "share_0": 0.75,
        "share_1": 0.25,
        "chosen_0": 1,
        "chosen_1": 0,
        "sigma_0": 2,
        "sigma_1": 1,
    }
    meter.add(sums(12, [1, 11], [0, 12], 6, [12, 60]))
    assert meter.read()["share_0"] == pytest.approx(1 / 12)
    meter.add(sums(4, [0, 4], [0, 4], 0, [4, 0]))
    epoch = meter.read_epoch()
    assert epoch == {
        "objects": 20,
        "choice_entropy": 0.4,
        "share_0": 0.2,
        "share_1": 0.8,
        "chosen_0": 0.2,
        "chosen_1": 0.8,
        "sigma_0": 1.2,
        "sigma_1": 3.2,
    }
    # The next epoch begins empty; what no record has had yet is still to be read.
    assert meter.read()["objects"] == 4
    meter.add(sums(1, [1, 0], [1, 0], 0, [1, 1]))
    assert meter.read_epoch()["objects"] == 1


def test_an_epoch_of_more_objects_than_float32_can_count_is_counted() -> None:
    meter = UsageMeter(ALONE)
    for _ in range(3):
        meter.add(sums(2**24, [2**24, 0], [2**24, 0], 0, [0, 0]))
        meter.add(sums(1, [0, 1], [0, 1], 0, [0, 0]))
        meter.read()
    assert meter.read_epoch()["objects"] == pytest.approx(3 * 2**24, abs=3)


def test_nothing_is_said_without_objects_and_of_the_base() -> None:
    meter = UsageMeter(ALONE)
    assert meter.read() == meter.read_epoch() == {}
    assert share_text({}) == ""
    meter.add(sums(0, [0, 0], [0, 0], 0, [0, 0]))
    usage = meter.read()
    assert usage["objects"] == 0
    assert math.isnan(usage["share_0"])
    assert share_text(usage) == ""
    assert share_text({"objects": 3, "share_0": 0.951, "share_1": 0.049}) == " share 95/5 %"
    assert share_text({"objects": 3, "share_0": 1.0}) == ""


def epoch_of(*shares: float) -> dict[str, float]:
    return {"objects": 1000, **{f"share_{m}": share for m, share in enumerate(shares)}}


def test_an_unused_component_is_warned_of_once_until_it_recovers(drawn: DataPaths, tmp_path: Path) -> None:
    unused = UnusedComponents(tiny_fit(drawn, tmp_path / "run", components=3))
    assert unused.warning(epoch_of(0.01, 0.5, 0.49), 1) is None
    first = unused.warning(epoch_of(0.0012, 0.5088, 0.49), 2)
    assert first is not None
    assert first.startswith("epoch 2: component 0 has 0.12 % of the 1000 objects (less than 1%)")
    assert "--components 2" in first
    assert unused.warning(epoch_of(0.0, 0.51, 0.49), 3) is None
    both = unused.warning(epoch_of(0.0, 0.995, 0.005), 4)
    assert both is not None
    assert "component 0 has 0.00 % and component 2 has 0.50 %" in both
    assert "--components 1" in both
    assert unused.warning(epoch_of(0.2, 0.4, 0.4), 5) is None
    assert unused.warning(epoch_of(0.0, 0.5, 0.5), 6) is not None


@pytest.mark.parametrize(("start", "advice"), [("zero", "a new run with --start data"), ("data", "another --seed")])
def test_the_warning_advises_what_the_run_did_not_have(
    drawn: DataPaths, tmp_path: Path, start: str, advice: str
) -> None:
    unused = UnusedComponents(tiny_fit(drawn, tmp_path / "run", start=start))
    message = unused.warning(epoch_of(1.0, 0.0), 1)
    assert message is not None
    assert advice in message
    assert message.endswith("--components 1, as many as have a share")


def test_what_cannot_be_judged_is_not_warned_of(drawn: DataPaths, tmp_path: Path) -> None:
    unused = UnusedComponents(tiny_fit(drawn, tmp_path / "run"))
    nan = float("nan")
    for usage in ({}, {"objects": 0, "share_0": nan, "share_1": nan}, {"objects": 9, "share_0": 1.0}):
        assert unused.warning(usage, 1) is None


@pytest.fixture
def posteriors(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Return a list that training fills with the posteriors, by torch.distributions, and choices of each part."""
    seen: list[tuple[Tensor, Tensor]] = []
    forward = DetectionCriterion.forward

    def noting(self: DetectionCriterion, outputs: list[dict[str, Tensor]], targets: DetectionTargets) -> Any:
        real = targets.index >= 0
        logits, loc, raw = (outputs[-1][name].detach().transpose(1, 2)[real] for name in ("logits", "loc", "scale"))
        size = targets.size.transpose(1, 2)[real]
        sigma = torch.nn.functional.elu(raw.view(len(raw), -1, 2)) + 2
        log_phi = Independent(Normal(loc.view_as(sigma), sigma), 1).log_prob(size[:, None])
        seen.append(((logits.log_softmax(1) + log_phi).softmax(1), logits.argmax(1)))
        return forward(self, outputs, targets)

    monkeypatch.setattr(DetectionCriterion, "forward", noting)
    return seen


def mean_share(seen: list[tuple[Tensor, Tensor]]) -> list[float]:
    return torch.cat([share for share, _ in seen]).mean(0).tolist()


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_log(run / "log.jsonl") if record["kind"] == kind]


def share_in(record: dict[str, Any], prefix: str) -> list[float]:
    return [record[f"{prefix}/share_{m}"] for m in range(2)]


def test_epochs_and_records_hold_the_shares_of_all_their_objects(
    drawn: DataPaths, tmp_path: Path, posteriors: list[tuple[Tensor, Tensor]]
) -> None:
    """Eight images in batches of two, taken in two parts: eight parts an epoch, a record after each third step."""
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=2, batch=2, accumulate=2, log_every=3, lr=0.01))
    assert len(posteriors) == 16
    for epoch, record in enumerate(records(run, "epoch")):
        seen = posteriors[8 * epoch : 8 * epoch + 8]
        chosen = torch.cat([choice for _, choice in seen])
        assert record["mixture_epoch/objects"] == len(chosen)
        assert record["mixture_epoch/chosen_1"] == pytest.approx(chosen.float().mean().item())
        assert share_in(record, "mixture_epoch") == pytest.approx(mean_share(seen), abs=1e-5)
        assert "mixture/share_0" not in record
    steps = records(run, "step")
    assert [record["step"] for record in steps] == [3, 6]
    for number, record in enumerate(steps):
        assert share_in(record, "mixture") == pytest.approx(
            mean_share(posteriors[6 * number : 6 * number + 6]), abs=1e-5
        )


def with_dead_component(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every new network give component 1 no weight."""
    build = mdnkernels.train.loop.engine.build_network

    def built(*arguments: Any) -> Any:
        model = build(*arguments)
        for group in model.head_groups:
            bias = dict(group.items())["logits"].output.bias
            bias.data.copy_(torch.tensor([50.0, -50.0]))
        return model

    monkeypatch.setattr(mdnkernels.train.loop.engine, "build_network", built)


def test_a_run_warns_once_of_a_component_that_no_object_belongs_to(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    with_dead_component(monkeypatch)
    fit(tiny_fit(drawn, tmp_path / "run", epochs=3, start="zero"))
    (message,) = warned
    assert message.startswith("epoch 1: component 1 has 0.00 % of the ")


def test_a_resumed_epoch_counts_its_session_and_is_too_short_for_a_warning(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: list[str],
    posteriors: list[tuple[Tensor, Tensor]],
) -> None:  # fmt: skip
    with_dead_component(monkeypatch)
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=2, stop_after=1, start="zero"))
    assert records(run, "epoch") == []
    resume(run)
    assert records(run, "epoch")[0]["mixture_epoch/objects"] == len(posteriors[1][1])
    assert [message.partition(":")[0] for message in warned] == ["epoch 2"]
