"""Training steps and inference of whole networks in bfloat16: images a second and peak memory.

Sparse heads of a network with 3 components against dense heads of the same, and against the single-mode base, whose
heads are dense as published. Images of 512 x 512, drawn at random, in channels_last, with 16 objects or people each;
a step is targets, forward, loss, backward and Adam, as `train` does it, without the loading of images. Steps and
inference with sparse heads must not wait for the device: the profiler counts copies to the host and waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.items import Items, Options
from mdnkernels.models import COCO_PERSON, Network, build_model
from mdnkernels.train.data.coco import Category
from mdnkernels.train.tasks import TaskName, make_task, task_class
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.tasks.weights import LossWeights

OBJECTS, CLASSES = 16, 80
# Images at once in training and in inference; halved as often as the device's memory asks for it.
BATCHES = {"hourglass104": (24, 32), "dla34": (32, 32), "hourglass_small": (2, 2)}
PAIRS = (("hourglass104", "detection"), ("dla34", "pose"), ("hourglass104", "pose"), ("dla34", "detection"))
# Components and whether the heads are sparse; those of one network follow one another.
VARIANTS = {"sparse": (3, True), "dense": (3, False), "base": (0, False)}
WARMUP, LEAST_STEPS, SECONDS = 3, 5, 1.5
PROFILED_STEPS, PROFILED_BATCH = 10, 2
WORKS = ("training step", "inference")


def items(options: Options) -> Items:
    pairs = (("hourglass_small", "detection"), ("hourglass_small", "pose")) if options.small else PAIRS
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for arch, task in pairs:
        for variants in (("sparse", "dense"), ("base",)):
            rows = [(arch, task, variant, work) for work in WORKS for variant in variants]
            found |= {", ".join(row): partial(run_row, *row, options) for row in rows}
            if "sparse" in variants:
                name = f"{arch}, {task}: nothing waits for the device, "
                found |= {name + work: partial(check_waits, arch, task, work, options) for work in WORKS}
    return found


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
    """Return the mean time of a call among others, and the most memory that was allocated.

    Raises AssertionError where what the call gives is not finite.
    """
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


def check_waits(arch: str, task: str, work: str, options: Options) -> dict[str, Any]:
    """Count the copies to the host and the waits in ten steps or looks. Raises AssertionError where there are any."""
    run = prepare(arch, task, "sparse", work, PROFILED_BATCH, options)
    for _ in range(WARMUP if options.device == "cuda" else 1):
        run()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    if options.device == "cuda":
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities[: 1 + (options.device == "cuda")]) as profiler:
        for _ in range(PROFILED_STEPS if options.device == "cuda" else 1):
            run()
    counts = waits_among(event.name for event in profiler.events())
    assert not any(counts.values()), f"in {PROFILED_STEPS} calls: {counts}"
    return {"arch": arch, "task": task, "work": work, **counts}


def waits_among(names: Iterable[str]) -> dict[str, int]:
    """Count by the names of the profiler's events what a host waits for: copies from the device, and streams."""
    every = list(names)
    return {
        "copies_to_host": sum("DtoH" in name for name in every),
        "stream_waits": sum(name in ("cudaStreamSynchronize", "cudaEventSynchronize") for name in every),
    }


@lru_cache(maxsize=1)
def network(arch: str, task: str, components: int, device: str) -> Network:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    with torch.device(device):
        model = build_model(
            arch,
            task=task,
            num_classes=len(task_of(task).categories),
            components=components,
            min_scale=task_of(task).min_scale,
        )
    return model.to(device, memory_format=torch.channels_last)


def prepare(arch: str, task: str, variant: str, work: str, batch: int, options: Options) -> Callable[[], Tensor]:
    """Return what runs one step, or one batch of inference, and gives the loss or the scores."""
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
    the_task = task_of(task)
    criterion = the_task.criterion(model, LossWeights()).to(options.device)
    truth = random_truth(batch, side, len(the_task.categories), options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4, fused=True)

    def step() -> Tensor:
        targets = the_task.targets(truth, (side // model.stride, side // model.stride), model.stride)
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            outputs = the_task.outputs(model, images, targets) if sparse else model(images)
        # Losses are in float32, as behind Accelerate's mixed precision.
        outputs = [{name: values.float() for name, values in output.items()} for output in outputs]
        loss = criterion.total(criterion(outputs, targets))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def task_of(name: str) -> Task:
    """Return the named task on data of CLASSES categories, or of one where it takes one alone."""
    one: TaskName = name  # type: ignore[assignment]  # of PAIRS
    categories = [Category(number, str(number)) for number in range(CLASSES)]
    return make_task(one, categories[:1] if task_class(one).one_category else categories)


def random_truth(batch: int, side: int, classes: int, device: str) -> dict[str, Tensor]:
    """Return random objects, with the keypoints of people, inside of images, as training loads them."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, OBJECTS, *shape, generator=generator)

    extent = side * (0.05 + 0.4 * uniform(2))
    low = (side - extent) * uniform(2)
    joints = len(COCO_PERSON.names)
    points = low[:, :, None] + extent[:, :, None] * uniform(joints, 2)
    return {
        "boxes": torch.cat((low, low + extent), -1).to(device),
        "labels": torch.randint(classes, (batch, OBJECTS), generator=generator).to(device),
        "keypoints": torch.cat((points, torch.full((batch, OBJECTS, joints, 1), 2.0)), -1).to(device),
    }
