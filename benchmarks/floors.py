"""The floor of an op on the CPU: moving the bytes that it must move, into memory already touched, and nothing else.

What an op reads and gives back in the same size is copied, what it only reads is read, and what it only writes is
filled with zeros. On a GPU the floor is a device copy of as many bytes (`gpu_check/timing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.steps import leaves
from tests.ops.table import Call
from tests.ops.table.entry import size_of


def floor(call: Call) -> Callable[[], object]:
    """Return what moves the bytes of a call: with its gradients where it takes them, all observed."""
    op, tensors = call.entry.op, call.tensors
    if op == "splat_gaussians":
        _, _, _, labels, size = call.arguments.values()
        return moving(zeroed=[torch.zeros(tensors["label"].shape[0], labels, *size)])
    if op == "topk_peaks":
        return moving(read=[tensors["heatmap"]])
    if op == "mixture_mode":
        return mode_floor(call)
    if op == "gather_patches":
        feature, index, side = call.arguments.values()
        patches = torch.ones(*index.shape, feature.shape[1] * side**2, dtype=feature.dtype)
        return moving(copied=[patches, patches], zeroed=[torch.zeros_like(feature)])
    if op == "mixture_posterior":
        return moving(read=list(tensors.values()), zeroed=[torch.zeros_like(tensors["logits"], dtype=torch.float32)])
    others = [value for name, value in tensors.items() if name not in call.entry.trained]
    if "index" in tensors:
        return moving(read=others, zeroed=[torch.zeros_like(leaf) for leaf in leaves(call)])
    return moving(copied=leaves(call), read=others)


def moving(
    copied: Sequence[Tensor] = (), read: Sequence[Tensor] = (), zeroed: Sequence[Tensor] = ()
) -> Callable[[], object]:
    """Return what copies, reads and fills with zeros, each tensor as a whole."""
    sources = [value.detach() for value in copied]
    outputs = [torch.zeros_like(value) for value in sources]
    words = [as_words(value.detach()) for value in read]

    def run() -> object:
        for output, source in zip(outputs, sources, strict=True):
            output.copy_(source)
        for value in zeroed:
            value.zero_()
        return [value.amax() for value in words]

    return run


def as_words(value: Tensor) -> Tensor:
    """Return the bytes of a tensor as 8-byte integers, in the order of memory: a sum of bytes takes far longer."""
    order = sorted(range(value.ndim), key=lambda dim: value.stride(dim), reverse=True)
    flat = value.permute(order).flatten()
    whole = flat.numel() * flat.element_size() // 8 * 8 // flat.element_size()
    return flat[:whole].view(torch.int64)


def mode_floor(call: Call, share: float = 1.0) -> Callable[[], object]:
    """Return what reads the logits, copies one component's loc and scale, and writes its number and weight.

    The component takes turns, so that it lies where the op's lies: not in a cache that all of loc does not fit into.

    Args:
        share: how many times as many bytes of loc and scale are read: 1 for the chosen component's alone.
    """
    logits, loc, scale = (call.tensors[name].flatten(2) for name in ("logits", "loc", "scale"))
    components, positions = logits.shape[1], logits[:, 0].shape
    sources = [value.flatten() for value in (loc.contiguous(), scale.contiguous())]
    outputs = [torch.zeros(source.numel() // components, dtype=source.dtype) for source in sources]
    component, weight = torch.zeros(positions, dtype=torch.int64), torch.zeros(positions, dtype=logits.dtype)
    read, turn = torch.zeros(positions, dtype=logits.dtype), 0

    def run() -> object:
        nonlocal turn
        turn = (turn + 1) % components
        for output, source in zip(outputs, sources, strict=True):
            size = output.numel()
            output.copy_(source.narrow(0, turn * size, size))
            rest, at = int((share - 1) * size), turn
            while rest > 0:
                at = (at + 1) % components
                as_words(source.narrow(0, at * size, min(rest, size))).amax()
                rest -= size
        torch.sum(logits, 1, out=read)
        component.zero_()
        weight.zero_()
        return outputs

    return run


def moved_bytes(call: Call) -> int:
    """Return the bytes that the table says a call must move: with its gradients where it takes them."""
    moved = call.entry.moved(call.arguments)
    return moved.both if call.entry.trained else moved.forward


def gradient_bytes(call: Call) -> int:
    return size_of(*leaves(call))
