"""torch.compile sees the kernels inside of the ops, without a GPU: the graph is made and not run."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

from tests.ops.table import Call
from tests.triton.ahead_of_time import CALLS, NoDevice, on_triton

KERNELS = {
    "mixture_nll, pose, no mask": ["mixture_nll_kernel", "total_kernel"],
    "mixture_nll, pose, 32 objects by index": ["observed_weight_kernel", "mixture_nll_kernel"],
    "mixture_mode, pose, mean": ["mixture_mode_kernel"],
    "topk_peaks, k = 100": ["peaks_kernel", "select_kernel"],
    "gather_patches, planar": ["gather_patches_kernel"],
    "heatmap_focal_loss": ["count_positives_kernel", "focal_kernel", "total_kernel"],
    "splat_gaussians": ["splat_gaussians_kernel"],
    "center_focal_loss": ["count_centers_kernel", "center_focal_kernel", "total_kernel"],
}


class GraphMadeError(Exception):
    pass


def kernels_in_graph(call: Call) -> list[str]:
    """Return the Triton kernels of the graph that torch.compile hands to the compiler behind it."""
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        raise GraphMadeError

    torch.compiler.reset()
    compiled = torch.compile(call.function, fullgraph=True, backend=aot_autograd(fw_compiler=record))
    for name in call.entry.trained:
        call.arguments[name].requires_grad_()
    device = patch.object(triton.runtime.driver, "_active", NoDevice(90))  # the kernels' writes are found in their code
    with device, on_triton(), pytest.raises(Exception, match="GraphMadeError"):
        compiled(**call.arguments)
    return [
        kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).fn.__name__
        for node in graphs[0].graph.nodes
        if "triton_kernel_wrapper" in str(node.target)
    ]


@pytest.mark.parametrize("call", KERNELS)
def test_the_kernels_of_an_op_are_in_the_graph(call: str):
    assert kernels_in_graph(CALLS[call]()) == KERNELS[call]
