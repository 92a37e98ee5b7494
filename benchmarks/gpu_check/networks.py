"""Training steps and inference of whole networks in bfloat16: images a second and peak memory.

Sparse heads of a network with 3 components against dense heads of the same, and against the single-mode base, whose
heads are dense as published. Images of 512 x 512, drawn at random, in channels_last, with 16 objects or people each;
a step is targets, forward, loss, backward and Adam, as `train` does it, without the loading of images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.items import Items, Options
from models import COCO_PERSON, Network, build_model
from train.tasks.criterion import Criterion
from train.tasks.detection import DetectionCriterion, DetectionTargets, detection_targets
from train.tasks.pose import PoseCriterion, PoseTargets, pose_targets

OBJECTS, CLASSES = 16, 80
# Images at once in training and in inference; halved as often as the device's memory asks for it.
BATCHES = {"hourglass104": (24, 32), "dla34": (32, 32), "hourglass_small": (2, 2)}
PAIRS = (("hourglass104", "detection"), ("dla34", "pose"), ("hourglass104", "pose"), ("dla34", "detection"))
# Components and whether the heads are sparse; those of one network follow one another.
VARIANTS = {"sparse": (3, True), "dense": (3, False), "base": (0, False)}
WARMUP, LEAST_STEPS, SECONDS = 3, 5, 1.5


@dataclass(frozen=True)
class ModelChoice:
    """What a criterion asks of a network's configuration."""

    components: int
    class_specific: bool = False
    least_scale: float = 1.0


@dataclass(frozen=True)
class LossWeights:
    """Of CenterNet and the paper."""

    heatmap_weight: float = 1.0
    offset_weight: float = 1.0
    size_weight: float = 0.1
    keypoint_weight: float = 1.0

    def weight_of_pose(self, components: int) -> float:
        """Of the mixture's negative log-likelihood, or of the base's L1."""
        return 1.0 if components == 0 else 0.1


def items(options: Options) -> Items:
    pairs = (("hourglass_small", "detection"), ("hourglass_small", "pose")) if options.small else PAIRS
    order = [
        (arch, task, variant, work)
        for arch, task in pairs
        for variants in (("sparse", "dense"), ("base",))
        for work in ("training step", "inference")
        for variant in variants
    ]
    return {", ".join(row): partial(run_row, *row, options) for row in order}


def run_row(arch: str, task: str, variant: str, work: str, options: Options) -> dict[str, Any]:
    """Time one network at one kind of work, with as many images as there is memory for."""
    batch = BATCHES[arch][work == "inference"]
    refused = []
    while True:
        try:
            result = measure(prepare(arch, task, variant, work, batch, options), options)
            break
        except torch.OutOfMemoryError:
            refused.append(batch)
        # Outside of the handler, whose exception holds the tensors of the attempt.
        torch.cuda.empty_cache()
        if batch == 1:
            raise RuntimeError("out of memory with a single image")
        batch //= 2
    row = {"arch": arch, "task": task, "variant": variant, "work": work, "batch": batch}
    note = f"out of memory at {', '.join(map(str, refused))} images at once" if refused else ""
    return {**row, **result, "images_per_second": 1e3 * batch / result["ms"], "note": note}


def measure(run: Callable[[], Tensor], options: Options) -> dict[str, Any]:
    """The mean time of a call among others, and the most memory that was allocated. Raises AssertionError where what it
    gives is not finite."""
    on_gpu = options.device == "cuda"

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARMUP if on_gpu else 1):
        value = run()
    wait()
    assert value.isfinite().all(), f"the result is not finite: {value}"
    begin, steps = time.perf_counter(), 0
    while steps < (LEAST_STEPS if on_gpu else 1) or (on_gpu and time.perf_counter() - begin < SECONDS):
        value = run()
        steps += 1
        if steps % LEAST_STEPS == 0:
            wait()  # so that the clock sees the device's work
    wait()
    milliseconds = 1e3 * (time.perf_counter() - begin) / steps
    assert value.isfinite().all(), f"the result is not finite: {value}"
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return {"ms": milliseconds, "steps": steps, "peak_bytes": peak}


@lru_cache(maxsize=1)
def network(arch: str, task: str, components: int, device: str) -> Network:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    with torch.device(device):
        model = build_model(arch, task=task, num_classes=CLASSES if task == "detection" else 1, components=components)
    return model.to(device, memory_format=torch.channels_last)


def prepare(arch: str, task: str, variant: str, work: str, batch: int, options: Options) -> Callable[[], Tensor]:
    """What runs one step, or one batch of inference, and gives the loss or the scores."""
    components, sparse = VARIANTS[variant]
    model = network(arch, task, components, options.device)
    model.zero_grad(set_to_none=True)  # those of an earlier item are none of this one's memory
    side = 128 if options.small else 512
    images = torch.randn(batch, 3, side, side, device=options.device).contiguous(memory_format=torch.channels_last)
    autocast = partial(torch.autocast, options.device, torch.bfloat16)
    if work == "inference":
        model.eval()

        def infer() -> Tensor:
            with torch.no_grad(), autocast():
                return (model.predict(images) if sparse else model.decode(model(images)[-1])).score

        return infer

    model.train()
    criterion = criterion_of(task, components).to(options.device)
    truth = Truth(batch, side, options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4, fused=True)

    def step() -> Tensor:
        targets = truth.targets(task, side // model.stride, model.stride)
        at = (targets.index, *((targets.keypoint_index,) if isinstance(targets, PoseTargets) else ()))
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            outputs = model(images, *at) if sparse else model(images)
        # Losses are in float32, as behind Accelerate's mixed precision.
        outputs = [{name: values.float() for name, values in output.items()} for output in outputs]
        loss = criterion.total(criterion(outputs, targets))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def criterion_of(task: str, components: int) -> Criterion[Any]:
    if task == "pose":
        return PoseCriterion(ModelChoice(components, least_scale=9.0), LossWeights(), COCO_PERSON)
    return DetectionCriterion(ModelChoice(components), LossWeights())


class Truth:
    """Random objects, or people, inside of images."""

    def __init__(self, batch: int, side: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(batch, OBJECTS, *shape, generator=generator)

        extent = side * (0.05 + 0.4 * uniform(2))
        low = (side - extent) * uniform(2)
        joints = len(COCO_PERSON.names)
        points = low[:, :, None] + extent[:, :, None] * uniform(joints, 2)
        self.boxes = torch.cat((low, low + extent), -1).to(device)
        self.labels = torch.randint(CLASSES, (batch, OBJECTS), generator=generator).to(device)
        self.keypoints = torch.cat((points, torch.full((batch, OBJECTS, joints, 1), 2.0)), -1).to(device)

    def targets(self, task: str, cells: int, stride: int) -> DetectionTargets | PoseTargets:
        if task == "pose":
            return pose_targets(self.boxes, torch.zeros_like(self.labels), self.keypoints, (cells, cells), stride)
        return detection_targets(self.boxes, self.labels, CLASSES, (cells, cells), stride)
