"""torch.compile sees the kernels inside of the ops, without a GPU: the graph is made and not run."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

import mdnkernels
from mdnkernels.ops.gather_patches import triton as patches
from mdnkernels.ops.heatmap_focal_loss import triton as focal
from mdnkernels.ops.mixture_mode import triton as mode
from mdnkernels.ops.mixture_nll import triton as mixture
from mdnkernels.ops.splat_gaussians import triton as splat
from mdnkernels.ops.topk_peaks import triton as peaks
from tests.triton.ahead_of_time import HEATMAP, POINTS, NoDevice, mixture_maps


class GraphMadeError(Exception):
    pass


def kernels_in_graph(function, *arguments) -> list[str]:
    """The Triton kernels of the graph that torch.compile hands to the compiler behind it."""
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        raise GraphMadeError

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=record))
    device = patch.object(triton.runtime.driver, "_active", NoDevice(90))  # the kernels' writes are found in their code
    with device, pytest.raises(Exception, match="GraphMadeError"):
        compiled(*arguments)
    return [
        kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).fn.__name__
        for node in graphs[0].graph.nodes
        if "triton_kernel_wrapper" in str(node.target)
    ]


def maps():
    return [value.flatten(2).requires_grad_(i < 3) for i, value in enumerate(mixture_maps())]


def test_of_the_loss():
    def loss(*points):
        return mixture.mixture_nll(*points, None, None, None, None, mdnkernels.Gaussian(), "elu", 1.0, "mean")

    assert kernels_in_graph(loss, *maps()) == ["mixture_nll_kernel", "total_kernel"]


def test_of_the_loss_at_points():
    def loss(logits, loc, scale, target):
        return mixture.mixture_nll(
            logits, loc, scale, target[:, :, :32], None, None, POINTS, None, mdnkernels.Laplace(), "exp", 0.1, "mean"
        )

    assert kernels_in_graph(loss, *maps()) == ["observed_weight_kernel", "mixture_nll_kernel", "total_kernel"]


def test_of_the_mode():
    def predict(logits, loc, scale, _):
        return mode.mixture_mode(logits, loc, scale, None, "mean", None, "elu", 1.0)

    assert kernels_in_graph(predict, *maps()) == ["mixture_mode_kernel"]


def test_of_peaks():
    kernels = kernels_in_graph(lambda heatmap: peaks.topk_peaks(heatmap, 100, 3, False), HEATMAP)
    assert kernels == ["peaks_kernel", "merge_kernel", "merge_kernel", "write_peaks_kernel"]


def test_of_patches():
    feature = HEATMAP.clone().requires_grad_()
    assert kernels_in_graph(lambda value: patches.gather_patches(value, POINTS, 3), feature) == [
        "gather_patches_kernel"
    ]


def test_of_the_focal_loss():
    logits = HEATMAP.clone().requires_grad_()
    kernels = kernels_in_graph(lambda value: focal.heatmap_focal_loss(value, HEATMAP, 2.0, 4.0), logits)
    assert kernels == ["count_positives_kernel", "focal_kernel", "total_kernel"]


def test_of_targets():
    center = POINTS[..., None].expand(-1, -1, 2)
    kernels = kernels_in_graph(lambda label: splat.splat_gaussians(center, label, label, 80, (128, 128)), POINTS)
    assert kernels == ["splat_gaussians_kernel"]
