"""torch.compile sees the kernels inside of the ops, without a GPU: the graph is made and not run."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

from tests.triton.ahead_of_time import CALLS


class GraphMadeError(Exception):
    pass


def kernels_in_graph(call) -> list[str]:
    """The Triton kernels of the graph that torch.compile makes of a call for the compiler behind it."""
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        raise GraphMadeError

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend=aot_autograd(fw_compiler=record))
    with pytest.raises(Exception, match="GraphMadeError"):
        compiled()
    return [
        kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).__name__
        for node in graphs[0].graph.nodes
        if "triton_kernel_wrapper" in str(node.target)
    ]


@pytest.mark.parametrize(
    ("call", "kernels"),
    [
        ("nll pose", ["mixture_nll_kernel", "total_kernel"]),
        ("nll indexed", ["observed_weight_kernel", "mixture_nll_kernel", "total_kernel"]),
        ("mode mean", ["mixture_mode_kernel"]),
        ("peaks", ["peaks_kernel", "merge_kernel", "merge_kernel", "write_peaks_kernel"]),
        ("patches", ["gather_patches_kernel"]),
        ("focal", ["count_positives_kernel", "focal_kernel", "total_kernel"]),
        ("splat", ["splat_gaussians_kernel"]),
    ],
)
def test_the_compiled_graph_holds_the_kernels(call, kernels):
    assert kernels_in_graph(CALLS[call]) == kernels
