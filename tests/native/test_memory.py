"""Large outputs of the native ops live in recycled memory: csrc/core/cpu/memory.h."""

from __future__ import annotations

import multiprocessing
import os
import threading

import pytest
import torch
from torch import Tensor

import mdnkernels
from mdnkernels import native
from tests.processes import python

pytestmark = pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
recycling = pytest.mark.skipif(
    os.environ.get("MDNKERNELS_CACHE_MB") == "0" or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="memory is recycled with torch 2.11, unless MDNKERNELS_CACHE_MB is 0",
)

MAP = (4, 80, 64, 64)  # 5 MB of float32


@pytest.fixture(autouse=True)
def _no_blocks_kept() -> None:
    mdnkernels.empty_cache()


def splat(label: int = 0) -> Tensor:
    center = torch.full((MAP[0], 1, 2), 30)
    with mdnkernels.use_backend("native"):
        return mdnkernels.splat_gaussians(center, center[..., 0] * 0 + 4, center[..., 0] * 0 + label, MAP[1], MAP[2:])


@recycling
def test_a_freed_output_is_the_next_one_and_a_living_one_is_not():
    first = splat()
    place = first.data_ptr()
    assert splat().data_ptr() != place
    del first
    assert native.kept_bytes() >= 2 * 4 * torch.Size(MAP).numel()
    assert place in {(one := splat()).data_ptr(), (two := splat()).data_ptr()}
    assert one.data_ptr() != two.data_ptr()


@recycling
def test_a_view_keeps_its_memory_alive():
    cell = splat()[0, 0, 30, 30]
    others = [splat(label=1) for _ in range(3)]
    assert cell.item() == 1
    assert all(other[0, 0, 30, 30].item() == 0 for other in others)


def test_recycled_memory_does_not_show_what_it_held():
    expected = splat().clone()
    for _ in range(3):
        splat(label=7).fill_(float("nan"))
        assert torch.equal(splat(), expected)


@recycling
def test_empty_cache_gives_the_memory_back():
    splat()
    assert native.kept_bytes() > 0
    mdnkernels.empty_cache()
    assert native.kept_bytes() == 0


@recycling
def test_no_more_is_kept_than_the_limit():
    script = (
        "import torch, mdnkernels\n"
        "from mdnkernels import native\n"
        "feature = torch.zeros(1, 64, 128, 128)\n"
        "held = [mdnkernels.gather_patches(feature, torch.zeros(1, n, dtype=torch.int64)) for n in range(1000, 1010)]\n"
        "del held\n"
        "assert 10 * 2**20 < native.kept_bytes() <= 16 * 2**20, native.kept_bytes()\n"
    )
    done = python(script, MDNKERNELS_CACHE_MB="16")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["-1", "much", "1.5"])
def test_a_limit_that_is_no_number_of_megabytes_is_an_error_that_names_it(value):
    script = (
        "import torch, mdnkernels\n"
        "mdnkernels.splat_gaussians(torch.zeros(1, 1, 2).long(), *2 * [torch.zeros(1, 1).long()], 80, (64, 64))"
    )
    done = python(script, MDNKERNELS_CACHE_MB=value)
    assert done.returncode != 0
    assert f"MDNKERNELS_CACHE_MB must be a whole number of megabytes, got {value}" in done.stderr


def test_outputs_of_many_threads_do_not_mix():
    wrong: list[int] = []

    def work(label: int) -> None:
        for _ in range(30):
            heatmap = splat(label)
            if heatmap[0].amax((1, 2)).nonzero().flatten().tolist() != [label]:
                wrong.append(label)

    threads = [threading.Thread(target=work, args=(label,)) for label in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _in_child(queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    queue.put(float(splat()[0, 0, 30, 30]))


def test_a_forked_child_has_memory_of_its_own():
    mine = splat(label=3)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == 1
    child.join()
    assert mine[0, 3, 30, 30] == 1


def test_recycled_memory_can_be_shared_with_other_processes():
    heatmap = splat()
    expected = heatmap.clone()
    heatmap.share_memory_()
    assert heatmap.is_shared()
    assert torch.equal(heatmap, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_gradient_has_the_strides_of_its_input(memory_format):
    arguments = [torch.randn(2, channels, 128, 128) for channels in (3, 12, 6)]
    arguments = [value.to(memory_format=memory_format).requires_grad_() for value in arguments]
    target = torch.randn(2, 4, 128, 128)
    with mdnkernels.use_backend("native"):
        gradients = torch.autograd.grad(
            mdnkernels.mixture_nll(*arguments, target, scale_order="interleaved"), arguments
        )
    assert [value.stride() for value in gradients] == [value.stride() for value in arguments]
