"""The deformable convolution of a CPU, against torchvision's operator and against its own promises."""

import re

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

import mdnkernels.models.deformable
from mdnkernels import native
from mdnkernels.models.deformable import deformable_convolution


def arguments(dtype: torch.dtype = torch.float64, *, batch: int = 2, height: int = 7, width: int = 5) -> list[Tensor]:
    """Return x, offset, mask, weight and bias, with taps on cells, between them, at the border and far outside."""
    torch.manual_seed(0)
    x = torch.randn(batch, 6, height, width, dtype=dtype)
    offset = torch.randn(batch, 18, height, width, dtype=dtype) * 2
    offset[:, :6] = offset[:, :6].round()
    offset[:, 6, 0, 0], offset[:, 7, 1, 1], offset[:, 8, 2, 2] = 1e9, -1e30, -torch.inf
    mask = torch.rand(batch, 9, height, width, dtype=dtype)
    return [x, offset, mask, torch.randn(4, 6, 3, 3, dtype=dtype), torch.randn(4, dtype=dtype)]


def torchvisions(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


def gradients(function, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [value.clone().requires_grad_() for value in inputs]
    out = function(*leaves)
    torch.manual_seed(1)
    return list(torch.autograd.grad(out, leaves, torch.randn(out.shape, dtype=out.dtype)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_values_and_gradients_are_torchvisions(dtype: torch.dtype, tolerance: float, layout: torch.memory_format):
    inputs = [value.contiguous(memory_format=layout) if value.dim() == 4 else value for value in arguments(dtype)]
    torch.testing.assert_close(deformable_convolution(*inputs), torchvisions(*inputs), rtol=0, atol=tolerance)
    ours, theirs = gradients(deformable_convolution, inputs), gradients(torchvisions, inputs)
    # torchvision's gradient beside an infinite offset is not a number.
    theirs[1].nan_to_num_(nan=0)
    for name, mine, other in zip(("x", "offset", "mask", "weight", "bias"), ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=10 * tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 6, 33])
def test_native_samples_of_inference_give_torchvisions_values(
    channels: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
):
    """In one block of cells and in many."""
    inputs = arguments(torch.float32)
    inputs[0], inputs[3] = torch.randn(2, channels, 7, 5), torch.randn(4, channels, 3, 3)
    inputs = [value.contiguous(memory_format=layout) if value.dim() == 4 else value for value in inputs]
    expected = torchvisions(*(value.double() for value in inputs))
    calls = []
    sample = native.sample_taps
    monkeypatch.setattr(native, "sample_taps", lambda *a: calls.append(a) or sample(*a))
    with torch.no_grad():
        for size in (2**18, 9 * channels * 16):
            monkeypatch.setattr(mdnkernels.models.deformable, "SAMPLES_IN_BLOCK", size)
            calls.clear()
            torch.testing.assert_close(deformable_convolution(*inputs).double(), expected, rtol=0, atol=2e-5)
            assert len(calls) == (1 if size == 2**18 else -(-70 // (16 * torch.get_num_threads())))


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
def test_native_samples_are_not_a_number_where_those_of_the_other_way_are():
    x, offset, mask, weight, bias = arguments(torch.float32)
    offset[0, 4, 3, 2], mask[1, 2, 0, 0], x[0, 1, 5, 4] = torch.nan, torch.nan, torch.nan
    with torch.no_grad():
        native_way = deformable_convolution(x, offset, mask, weight, bias)
        other = mdnkernels.models.deformable._by_rows(x, offset, mask, weight, bias)
    assert native_way.isnan().any()
    torch.testing.assert_close(native_way, other, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
def test_product_alone_is_in_half_precision_under_autocast():
    """The samples stay in float32: a place among 128 cells is more than bfloat16 can say."""
    inputs = arguments(torch.float32)
    with torch.no_grad():
        exact = deformable_convolution(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            near = deformable_convolution(*inputs)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.02 * exact.std()


def test_an_empty_batch_gives_an_empty_batch() -> None:
    inputs = arguments(batch=0)
    assert deformable_convolution(*inputs).shape == (0, 4, 7, 5)
    assert all((value == 0).all() for value in gradients(deformable_convolution, inputs))


def test_it_stays_on_a_cpu_where_that_is_not_the_default_device() -> None:
    inputs = arguments()
    with torch.device("meta"):
        out = deformable_convolution(*inputs)
    assert torch.equal(out, deformable_convolution(*inputs))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("argument", "shape", "named"),
    [
        (0, (6, 7, 5), "x must"),
        (1, (1, 18, 7, 5), "offset must"),
        (1, (2, 18, 1, 5), "offset must"),
        (2, (2, 1, 7, 5), "mask must"),
        (2, (2, 9, 1, 1), "mask must"),
        (3, (4, 6, 1, 9), "weight must"),
        (3, (4, 5, 3, 3), "weight must"),
        (3, (), "weight must"),
        (4, (1,), "bias must"),
    ],
)
def test_a_wrong_shape_is_named(argument: int, shape: tuple[int, ...], named: str, device: str) -> None:
    inputs = [value.to(device) for value in arguments()]
    inputs[argument] = torch.zeros(shape, dtype=torch.float64, device=device)
    with pytest.raises(ValueError, match=f"^{named} .* not {re.escape(str(shape))}$"):
        deformable_convolution(*inputs)


@pytest.mark.parametrize(("argument", "name"), [(1, "offset"), (2, "mask"), (3, "weight"), (4, "bias")])
def test_another_dtype_is_named(argument: int, name: str) -> None:
    inputs = arguments()
    inputs[argument] = inputs[argument].float()
    with pytest.raises(TypeError, match=f"^{name} must be torch.float64, as x is, not torch.float32$"):
        deformable_convolution(*inputs)


def test_a_tap_that_is_not_a_number_shows() -> None:
    inputs = arguments()
    inputs[1][0, 4, 2, 3] = torch.nan
    wrong = deformable_convolution(*inputs).isnan()
    assert wrong[0, :, 2, 3].all()
    assert wrong.sum() == 4


def test_nothing_of_the_samples_is_kept_for_the_backward_pass() -> None:
    inputs = [value.requires_grad_() for value in arguments(batch=1, height=32, width=32)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value.numel()) or value, lambda v: v):
        out = deformable_convolution(*inputs)
    assert out.requires_grad
    # torch 2.10 also keeps a tensor without elements.
    assert sorted(size for size in kept if size) == sorted(value.numel() for value in inputs)


def test_autocast_changes_nothing() -> None:
    inputs = arguments(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = deformable_convolution(*inputs)
    assert out.dtype == torch.float32
    assert torch.equal(out, deformable_convolution(*inputs))


def test_an_exported_graph_has_torchvisions_operator() -> None:
    class Layer(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return deformable_convolution(*inputs)

    inputs = tuple(arguments())
    graph = torch.export.export(Layer(), inputs)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert called == {"torchvision.deform_conv2d.default"}
    torch.testing.assert_close(graph.module()(*inputs), deformable_convolution(*inputs), rtol=0, atol=1e-12)


def test_a_cpu_multiplies_no_more_than_the_operator_does() -> None:
    inputs = arguments(batch=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        deformable_convolution(*inputs)
    assert counter.get_total_flops() == 2 * 4 * 6 * 9 * 7 * 5
