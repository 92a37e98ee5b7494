"""A training step and a look at a batch never wait for the device; what is not finite is found without that."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu_check.networks import random_truth, task_of
from mdnkernels import native
from mdnkernels.models import build_model
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import DataConfig, InferenceConfig, OptimizerConfig
from mdnkernels.train.errors import TrainingError
from mdnkernels.train.inference.evaluation import predict_on_device
from mdnkernels.train.loop.ema import WeightAverage
from mdnkernels.train.loop.finite import FiniteLosses
from mdnkernels.train.loop.processes import Processes
from mdnkernels.train.loop.step import Stepper
from mdnkernels.train.run.log import LossMeter
from tests.train.waits import DEVICE, kernels_on_meta, no_waits

SIDE = 64
BOTH_TASKS = pytest.mark.parametrize("task_name", ["detection", "pose"])


class OneProcess:
    """What the step asks of Accelerate, in one process and without half precision."""

    scaler = None

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        return model

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, norm: float) -> None:
        nn.utils.clip_grad_norm_(parameters, norm)


def make_stepper(arch: str, task_name: str, device: torch.device, **options: Any) -> Stepper:
    torch.manual_seed(0)
    task = task_of(task_name)
    with torch.device(device):
        model = build_model(arch, task=task_name, num_classes=len(task.categories), components=3)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    config = FitConfig(Path("run"), data=DataConfig(coco=Path("coco")), optimizer=OptimizerConfig(**options))
    accelerator: Any = OneProcess(device)
    return Stepper(config, accelerator, Processes(None, device), task, model, optimizer)


def loaded_batch(task_name: str) -> dict[str, Any]:
    """Return a batch of two images as the loader gives it, on the CPU."""
    colour = torch.tensor([[1.1, 0.9, 1.2, 4, 0.1, 0, 0]] * 2)
    image = torch.randint(0, 255, (2, SIDE, SIDE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    classes = len(task_of(task_name).categories)
    transform = torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3)
    ids = torch.tensor([7, 9])
    truth = random_truth(2, SIDE, classes, "cpu")
    return {"image": image, "colour": colour, **truth, "image_id": ids, "transform": transform}


@pytest.fixture
def fused_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fused Adam take the device, as it takes a GPU."""
    module = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
@pytest.mark.parametrize(
    ("arch", "task_name"), [("hourglass_tiny", "detection"), ("hourglass_tiny", "pose"), ("dla34", "detection")]
)
@pytest.mark.usefixtures("fused_adam")
def test_no_step_waits_for_the_device_until_a_record_is_due(
    arch: str, task_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets, forward, loss, backward, clipping, fused Adam, average, usage and the sums of the losses."""
    stepper = make_stepper(arch, task_name, DEVICE, accumulate=2, clip_norm=1.0)
    average, meter = WeightAverage(stepper.model.train(), 0.9), LossMeter()
    batch = loaded_batch(task_name)
    # The first step makes what is copied to the device once: constants and the state of Adam.
    with kernels_on_meta(monkeypatch):
        stepper.step(batch, 1, 2)
        with no_waits():
            for number in (2, 3):
                meter.add(stepper.step(batch, number, 2), 2, 0.0, 1.0)
                average.update(stepper.model)
    for read in (meter.read, stepper.usage.read, stepper.check):
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            read()


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
@BOTH_TASKS
@pytest.mark.parametrize("options", [{"flip": True, "scales": (1.0, 0.5)}, {"select": "mean"}, {"component": 1}])
def test_no_look_at_a_batch_waits_for_the_device(
    task_name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image at every scale, normalised, predicted, moved into its pixels, and merged."""
    task, config = task_of(task_name), InferenceConfig(**options, detections=8)
    with torch.device(DEVICE):
        model = build_model("hourglass_tiny", task=task_name, num_classes=len(task.categories), components=3).eval()
    scales = [loaded_batch(task_name) for _ in config.scales]
    with torch.no_grad(), kernels_on_meta(monkeypatch):
        for each_component in {False, config.component is None}:
            predict_on_device(model, scales, task, config, DEVICE, each_component)
            with no_waits():
                found = predict_on_device(model, scales, task, config, DEVICE, each_component)
            assert len(found) == (4 if each_component else 1)
            assert found[0].box.shape == (2, 8, 4)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x + torch.ones(3).to(x.device),
        lambda x: x[[0, 2]],
        lambda x: torch.zeros(3).copy_(x),
        lambda x: torch.repeat_interleave(x, x.long()),
        lambda x: torch.unique(x),
    ],
)
def test_what_would_wait_is_noticed(waits: Any) -> None:
    x = torch.ones(3, device=DEVICE)
    with no_waits(), pytest.raises((AssertionError, NotImplementedError, RuntimeError)):
        waits(x)


def test_first_step_that_is_not_finite_is_named_when_the_device_is_read() -> None:
    finite = FiniteLosses(Processes(None, torch.device("cpu")))
    found = []
    for number, loss in ((11, 1.0), (12, float("nan")), (13, float("inf")), (14, 2.0)):
        losses = {"heatmap": torch.tensor(0.5 * number), "total": torch.tensor(loss)}
        found.append(finite.add(losses, number, [number, 100 + number]).item())
    assert found == [0, 1, 1, 1]
    with pytest.raises(TrainingError, match=r"^step 12: .* \(heatmap 6, total nan\); image ids: 12, 112$"):
        finite.check()
    finite.check()
    assert finite.add({"total": torch.tensor(1.0)}, 15, [1]).item() == 0
    finite.check()


def test_weights_stay_as_they_are_from_a_step_that_is_not_finite_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the check comes later than the step."""
    stepper, batch = make_stepper("hourglass_tiny", "detection", torch.device("cpu")), loaded_batch("detection")
    monkeypatch.setattr(stepper, "_reads_each_step", False)
    weights = [value.detach().clone() for value in stepper.model.parameters()]
    stepper.step(batch, 1, 1)
    stepped = [value.detach().clone() for value in stepper.model.parameters()]
    assert any(not torch.equal(one, other) for one, other in zip(weights, stepped, strict=True))
    broken = batch["colour"].clone()
    broken[:, 4:] = torch.nan
    stepper.step({**batch, "colour": broken}, 2, 1)
    stepper.step(batch, 3, 1)
    for one, other in zip(stepped, stepper.model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(TrainingError, match=r"step 2: the loss is not finite .*; image ids: 7, 9"):
        stepper.check()
