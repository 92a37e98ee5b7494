"""Whole networks, dense heads against sparse ones: `pytest benchmarks/bench_models.py --benchmark-only -s`.

All contestants run in one process with the same weights, batch 1, 512 x 512, float32, 16 people or objects. They
alternate, so that a busy moment of the machine meets all. A training step is forward, loss and backward. Inference
compares `predict` with the decoding of dense maps.

Peak memory is that of a process of its own for each contestant, and varies by some percent. At batch 1 the peak of a
training step is mostly weights and gradients, so what an image keeps for the backward pass is counted too.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from benchmarks.alternating import alternating_medians
from mdnkernels import heatmap_focal_loss
from mdnkernels.models import Network, build_model, deformable
from mdnkernels.models.cost import count
from mdnkernels.models.folding import fold_batch_norms
from mdnkernels.models.reading import read_cells
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.inference.preparation import autocast_context, prepare_for_inference

ARCHITECTURES = ["hourglass104", "dla34"]
TASKS = ["detection", "pose"]
SIDE, OBJECTS, JOINTS = 512, 16, 17
# The speed-ups that are wanted of hourglass104. Those of DLA-34 are only printed.
TRAINING = {("hourglass104", "detection"): 1.25, ("hourglass104", "pose"): 1.35}
INFERENCE = {"hourglass104": 1.1}


def build_network(arch: str, task: str, components: int) -> Network:
    return build_model(arch, task=task, num_classes=80 if task == "detection" else 1, components=components)


class Step:
    """A network and a batch, with a training step and a prediction, each dense and sparse."""

    def __init__(self, arch: str, task: str, components: int) -> None:
        torch.manual_seed(0)
        self.model = build_network(arch, task, components)
        self.model.to(memory_format=torch.channels_last)
        self.components = components
        self.images = torch.randn(1, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
        cells = SIDE // 4
        self.index = torch.randint(cells * cells, (1, OBJECTS))
        self.joints = torch.randint(cells * cells, (1, OBJECTS * JOINTS)) if task == "pose" else None
        self.heatmaps = {"heatmap": torch.zeros(1, self.model.num_classes, cells, cells)}
        self.heatmaps["heatmap"][0, 0].view(-1)[self.index[0]] = 1
        if self.joints is not None:
            self.heatmaps["keypoint_heatmap"] = torch.zeros(1, JOINTS, cells, cells)
            self.heatmaps["keypoint_heatmap"][0, 0].view(-1)[self.joints[0]] = 1
        self.target = torch.randn(1, 2 if self.joints is None else 2 * JOINTS, OBJECTS) * 8

    def train(self, sparse: bool) -> Callable[[], object]:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return lambda: torch.autograd.grad(self.total_loss(sparse), parameters)

    def total_loss(self, sparse: bool) -> Tensor:
        self.model.train()
        at = [self.index] if self.joints is None else [self.index, self.joints]
        outputs = self.model(self.images, *at) if sparse else self.model(self.images)
        return torch.stack([self.loss(output) for output in outputs]).sum()

    def kept_megabytes(self, sparse: bool) -> float:
        """Return the MiB beside the parameters that the forward pass keeps for backward; they grow with the batch."""
        parameters = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, Tensor] = {}

        def pack(value: Tensor) -> Tensor:
            # The tensor itself is held, so that no other gets its address.
            kept[value.untyped_storage().data_ptr()] = value
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            self.total_loss(sparse)
        return sum(value.untyped_storage().nbytes() for at, value in kept.items() if at not in parameters) / 2**20

    def loss(self, output: dict[str, Tensor]) -> Tensor:
        """Add the focal losses of the heatmaps, L1 of what has one mode, and the mixture's negative log-likelihood."""
        points = {}
        for name, values in output.items():
            index = self.joints if name == "keypoint_offset" else self.index
            points[name] = values if name in self.heatmaps or values.ndim == 3 else read_cells(values, index)
        loss = sum(heatmap_focal_loss(points.pop(name), target) for name, target in self.heatmaps.items())
        if self.components:
            spec = self.model.regression.spec
            loss = loss + spec.nll(*(points.pop(name) for name in spec.channels), self.target)
        return loss + sum(values.abs().mean() for values in points.values())

    def infer(self, sparse: bool) -> Callable[[], object]:
        """Return a function that predicts. Dense runs every head of every stack everywhere, as the published code."""

        def run() -> object:
            self.model.eval()
            with torch.no_grad():
                return self.model.predict(self.images) if sparse else self.model.decode(self.model(self.images)[-1])

        return run


def gmacs(arch: str, task: str, sparse: str) -> str:
    """Return a line with the multiply-accumulates of a forward pass in 1e9.

    `sparse` is "sparse, training" or "sparse, inference".
    """
    cost, base = (
        count(partial(build_network, arch, task, components), size=SIDE, objects=OBJECTS).multiply_accumulates
        for components in (3, 0)
    )
    named = {"sparse": cost[sparse], "dense": cost["dense"], "base": base["dense"]}
    return "GMAC " + ", ".join(f"{name} {number / 1e9:.1f}" for name, number in named.items())


def peak_megabytes(arch: str, task: str, components: int, kind: str, sparse: bool) -> float:
    """Return the peak MiB of a process that does this once, on Linux. The network and torch itself are counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (arch, task, components, kind, sparse))


def _peak_here(arch: str, task: str, components: int, kind: str, sparse: bool) -> float:
    getattr(Step(arch, task, components), kind)(sparse)()
    # getrusage's maximum would not do: a new process starts with its parent's.
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_training_step(benchmark, arch, task):
    benchmark.group = f"{arch}, {task}, training step, 3 components"
    step = Step(arch, task, 3)
    runs = {"sparse": step.train(True), "dense": step.train(False), "base, dense": Step(arch, task, 0).train(False)}
    medians = alternating_medians(runs, rounds=4, warmup=1)
    memory = {name: peak_megabytes(arch, task, 3, "train", name == "sparse") for name in ("sparse", "dense")}
    benchmark.extra_info.update(medians)
    benchmark.pedantic(runs["sparse"], rounds=1)
    print("\n" + ", ".join(f"{name} {median:.2f} s" for name, median in medians.items()), end=": ")
    print(f"sparse {medians['dense'] / medians['sparse']:.2f} x dense", end=", ")
    print(f"{medians['base, dense'] / medians['sparse']:.2f} x the base; peak", end=" ")
    print(", ".join(f"{name} {peak:.0f} MB" for name, peak in memory.items()), end="; kept for the backward pass ")
    print(", ".join(f"{name} {step.kept_megabytes(name == 'sparse'):.0f} MB" for name in memory), end="; ")
    print(gmacs(arch, task, "sparse, training"))
    if (arch, task) in TRAINING:
        assert medians["dense"] / medians["sparse"] >= 1 + (TRAINING[arch, task] - 1) / 2  # others may use the machine


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_inference(benchmark, arch, task):
    benchmark.group = f"{arch}, {task}, inference"
    step = Step(arch, task, 3)
    runs = {
        "3 components, sparse": step.infer(True),
        "3 components, dense": step.infer(False),
        "base, dense": Step(arch, task, 0).infer(False),
    }
    medians = alternating_medians(runs, rounds=6, warmup=2)
    memory = {name: peak_megabytes(arch, task, 3, "infer", name == "sparse") for name in ("sparse", "dense")}
    benchmark.extra_info.update(medians)
    benchmark.pedantic(runs["3 components, sparse"], rounds=1)
    sparse, dense, base = medians.values()
    print("\n" + ", ".join(f"{name} {median:.2f} s" for name, median in medians.items()), end=": ")
    print(f"sparse {dense / sparse:.2f} x dense, {base / sparse:.2f} x the base; peak", end=" ")
    print(", ".join(f"{name} {peak:.0f} MB" for name, peak in memory.items()), end="; ")
    print(gmacs(arch, task, "sparse, inference"))
    if arch in INFERENCE:
        assert base / sparse >= 1 + (INFERENCE[arch] - 1) / 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_prepared_inference(benchmark, arch):
    """As evaluation and prediction prepare it, against folded batch norms alone, each in float32 and bfloat16.

    What is only folded samples the taps of deformable convolutions by PyTorch's operators.
    """
    benchmark.group = f"{arch}, detection, inference"
    folded = Step(arch, "detection", 3)
    fold_batch_norms(folded.model.eval())
    contestants = {}
    for precision in ("float32", "bfloat16"):
        inference = InferenceConfig(precision=precision)
        step = Step(arch, "detection", 3)
        step.model = prepare_for_inference(step.model.eval(), inference, torch.device("cpu"))
        contestants[f"folded, {precision}"] = folded.infer(True), inference, False
        contestants[f"prepared, {precision}"] = step.infer(True), inference, True

    def run(infer: Callable[[], object], inference: InferenceConfig, native_taps: bool) -> Callable[[], object]:
        taps = nullcontext() if native_taps else patch.object(deformable, "_has_native_samples", lambda x: False)

        def under_autocast() -> object:
            with autocast_context(inference, torch.device("cpu")), taps:
                return infer()

        return under_autocast

    runs = {name: run(*contestant) for name, contestant in contestants.items()}
    medians = alternating_medians(runs, rounds=6, warmup=1)
    benchmark.extra_info.update(medians)
    benchmark.pedantic(runs["prepared, float32"], rounds=1)
    usual = medians["folded, float32"]
    print("\n" + ", ".join(f"{name} {median:.3f} s ({usual / median:.2f} x)" for name, median in medians.items()))
    assert usual / medians["prepared, float32"] > 1.15  # others may use the machine


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_folded_batch_norms(benchmark, arch):
    """Fold as evaluation and prediction do; count the processor's own time, because the gain is some percent."""
    benchmark.group = f"{arch}, detection, inference"
    kept, folded = Step(arch, "detection", 3), Step(arch, "detection", 3)
    fold_batch_norms(folded.model.eval())
    runs = {"folded batch norms": folded.infer(True), "batch norms": kept.infer(True)}
    medians = alternating_medians(runs, rounds=8, warmup=1, clock=time.process_time)
    benchmark.extra_info.update(medians)
    benchmark.pedantic(runs["folded batch norms"], rounds=1)
    ratio = medians["batch norms"] / medians["folded batch norms"]
    print("\n" + ", ".join(f"{name} {median:.2f} s" for name, median in medians.items()), f"{ratio:.3f} x", sep=": ")
    assert ratio > 1
