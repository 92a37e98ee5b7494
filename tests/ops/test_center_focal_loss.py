from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdnkernels
from tests.example_count import examples
from tests.native.simd import LEVELS, run_at_level
from tests.ops.table import OPS, Draw
from tests.ops.test_heatmap_focal_loss import LAYOUTS
from tests.ops.test_heatmap_focal_loss import by_hand as focal_by_hand
from tests.ops.test_splat_gaussians import by_hand as splat_by_hand

BACKENDS = ["native", "eager"]
BELOW_ONE = 1 - 2**-24


def drawn(shape, count, seed=0, dtype=torch.float32, **options):
    """Return logits and objects of a call."""
    batch, labels, *size = shape
    draw = Draw(batch, tuple(size), dtype, seed=seed)
    return OPS["center_focal_loss"].arguments(draw, points=count, labels=labels, **options)


def loss_and_gradient(call, backend, **options):
    logits = call["logits"].detach().requires_grad_()
    with mdnkernels.use_backend(backend):
        loss = mdnkernels.center_focal_loss(**{**call, **options, "logits": logits})
        return loss.detach(), torch.autograd.grad(loss, logits)[0]


def loss_of_the_two_ops(call, backend, **options):
    """Draw the targets, then take their loss."""
    logits = call["logits"].detach().requires_grad_()
    with mdnkernels.use_backend(backend):
        labels, *size = logits.shape[1:]
        target = mdnkernels.splat_gaussians(call["center"], call["radius"], call["label"], labels, size)
        target = target.double() if logits.dtype == torch.float64 else target
        loss = mdnkernels.heatmap_focal_loss(logits, target, **options)
        return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("powers", [(2, 4), (1.5, 3), (0, 0)])
def test_loss_is_the_formula_cell_by_cell(powers, backend):
    call = drawn((2, 3, 7, 9), 5, dtype=torch.float64)
    target = splat_by_hand(call["center"], call["radius"], call["label"], 3, (7, 9)).double()
    loss, _ = loss_and_gradient(call, backend, alpha=float(powers[0]), beta=float(powers[1]))
    assert loss.item() == pytest.approx(focal_by_hand(call["logits"], target, *powers), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=examples(60), deadline=None)
@given(
    shape=st.one_of(
        st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(1, 40)] * 2),
        st.sampled_from([(1, 2, 1, 9001), (1, 2, 9001, 1), (0, 2, 3, 4), (2, 9, 70, 65)]),
    ),
    count=st.integers(0, 20),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    powers=st.sampled_from([(2.0, 4.0), (0.0, 2.0), (1.5, 3.5), (2.0, 0.0)]),
    seed=st.integers(0, 9),
)
def test_it_is_the_loss_of_the_two_ops(backend, shape, count, layout, dtype, powers, seed):
    call = drawn(shape, count, seed, dtype, largest=12)
    call["logits"] = LAYOUTS[layout](call["logits"])
    options = dict(zip(("alpha", "beta"), powers, strict=True))
    loss, gradient = loss_and_gradient(call, backend, **options)
    expected, expected_gradient = loss_of_the_two_ops(call, backend, **options)
    assert loss.dtype == expected.dtype
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss, expected, rtol=1e-6 if dtype != torch.float64 else 1e-12, atol=0)
    # The very bits: both draw the same targets, and neither's sums decide a gradient.
    assert torch.equal(gradient, expected_gradient)


def test_the_gradient_has_the_layout_of_logits():
    call = drawn((2, 3, 8, 9), 4)
    call["logits"] = LAYOUTS["channels_last"](call["logits"])
    assert loss_and_gradient(call, "native")[1].stride() == call["logits"].stride()


@pytest.mark.parametrize("backend", BACKENDS)
def test_objects_that_share_a_centre_are_one_positive(backend):
    call = drawn((2, 2, 6, 7), 1)
    call["center"] = torch.tensor([[[3, 2]] * 3, [[3, 2], [3, 2], [4, 2]]])
    call["radius"] = torch.tensor([[1, 2, 0], [1, 1, 1]])
    call["label"] = torch.tensor([[0, 0, 1], [1, 1, 1]])
    target = splat_by_hand(call["center"], call["radius"], call["label"], 2, (6, 7))
    assert (target == 1).sum() == 4
    loss, _ = loss_and_gradient(call, backend)
    assert loss.item() == pytest.approx(focal_by_hand(call["logits"], target), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 3, 7, 4099])
def test_the_sum_is_divided_once_by_the_number_of_positives(count, backend):
    """Each of `count` cells is a centre, with the same loss: their mean is that of one.

    It has its bits where no lane of a vector adds more than two of them: of more, the sum in float32 is rounded.
    """
    logits = torch.full((1, 1, 1, count), 0.7)
    center = torch.stack([torch.arange(count), torch.zeros(count, dtype=torch.int64)], -1)[None]
    zeros = torch.zeros(1, count, dtype=torch.int64)
    one = {"logits": logits[..., :1], "center": center[:, :1], "radius": zeros[:, :1], "label": zeros[:, :1]}
    call = {"logits": logits, "center": center, "radius": zeros, "label": zeros}
    loss, gradient = loss_and_gradient(call, backend)
    alone, slope = loss_and_gradient(one, backend)
    torch.testing.assert_close(loss, alone, rtol=0 if backend == "native" and count < 8 else 1e-6, atol=0)
    torch.testing.assert_close(gradient * count, slope.expand_as(gradient), rtol=2.5e-7, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_ignored_object_is_neither_a_centre_nor_background(backend):
    call = drawn((1, 1, 9, 9), 1)
    call |= {"center": torch.tensor([[[4, 4], [7, 1]]]), "radius": torch.tensor([[2, 1]])}
    call |= {"label": torch.zeros(1, 2, dtype=torch.int64), "ignore": torch.tensor([[True, False]])}
    loss, gradient = loss_and_gradient(call, backend)
    target = splat_by_hand(call["center"], call["radius"], call["label"], 1, (9, 9))
    target[0, 0, 4, 4] = BELOW_ONE
    assert loss.item() == pytest.approx(focal_by_hand(call["logits"], target), rel=1e-6)
    assert gradient[0, 0, 4, 4].abs() < 1e-25
    assert gradient[0, 0, 1, 7] < 0
    call["ignore"] = torch.tensor([[True, True]])  # without a positive the sum is not divided
    target[0, 0, 1, 7] = BELOW_ONE
    assert loss_and_gradient(call, backend)[0].item() == pytest.approx(focal_by_hand(call["logits"], target), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_centre_stays_one_beneath_an_ignored_object(backend):
    call = drawn((1, 1, 9, 9), 1)
    call |= {"center": torch.tensor([[[4, 4], [4, 4]]]), "radius": torch.tensor([[2, 2]])}
    call["label"] = torch.zeros(1, 2, dtype=torch.int64)
    expected = loss_and_gradient(call, backend)
    for ignore in ([True, False], [False, True]):
        actual = loss_and_gradient({**call, "ignore": torch.tensor([ignore])}, backend)
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cells_around_a_centre_are_none_however_wide_the_object(backend):
    """In float32 the Gaussian of a radius above 12,000 is 1 in neighbouring cells too."""
    call = drawn((1, 1, 5, 40), 1)
    call |= {"center": torch.tensor([[[20, 2]]]), "radius": torch.tensor([[10**6]])}
    call["label"] = torch.zeros(1, 1, dtype=torch.int64)
    _, gradient = loss_and_gradient(call, backend)
    assert gradient[0, 0, 2, 20] < 0
    gradient[0, 0, 2, 20] = 0
    assert (gradient >= 0).all()
    assert gradient.max() < 1e-15


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_may_hold_anything(backend):
    call = drawn((1, 2, 5, 6), 1)
    call |= {"center": torch.tensor([[[-7, 99]]]), "radius": torch.tensor([[-3]]), "label": torch.tensor([[-1]])}
    empty = torch.zeros(1, 0, dtype=torch.int64)
    none = {**call, "center": empty[..., None].expand(1, 0, 2), "radius": empty, "label": empty}
    for actual, expected in zip(loss_and_gradient(call, backend), loss_and_gradient(none, backend), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("ignored", [0.0, 0.5])
def test_gradcheck(ignored, layout, backend):
    call = drawn((2, 2, 4, 5), 4, dtype=torch.float64, ignored=ignored)
    logits = LAYOUTS[layout](call.pop("logits")).requires_grad_()
    with mdnkernels.use_backend(backend):
        assert torch.autograd.gradcheck(lambda value: mdnkernels.center_focal_loss(value, **call), logits)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_large_gradients_written_past_the_caches_are_complete(layout):
    call = drawn((2, 5, 401, 503), 30, largest=40)  # 8 MB
    call["logits"] = LAYOUTS[layout](call["logits"])
    loss, gradient = loss_and_gradient(call, "native")
    expected, expected_gradient = loss_of_the_two_ops(call, "native")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("level", LEVELS)
def test_every_simd_level_of_this_machine_agrees_with_eager(level):
    script = """
import torch
from mdnkernels import native
from tests.ops.test_center_focal_loss import drawn, loss_and_gradient
print("level", native.simd_level())
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for powers in ({}, {"alpha": 1.5, "beta": 3.5}):
        call = drawn((2, 3, 31, 37), 9, dtype=dtype, ignored=0.3)
        actual = loss_and_gradient(call, "native", **powers)
        expected = loss_and_gradient({**call, "logits": call["logits"].double()}, "eager", **powers)
        for a, e in zip(actual, expected, strict=True):
            tolerance = 1e-5 if a.dtype == torch.float32 else torch.finfo(a.dtype).eps * 100
            assert (a.double() - e).abs().max() <= min(max(tolerance, 1e-6), 1e-2) * e.abs().max(), (a, e)
"""
    assert f"level {level}" in run_at_level(script, level)


@pytest.mark.parametrize(
    ("backend", "dynamic"),
    [
        pytest.param(*case, marks=() if case == ("native", False) else pytest.mark.slow)
        for case in itertools.product(BACKENDS, (False, True))
    ],
)
def test_compiles_as_one_graph_with_its_gradient(backend, dynamic):
    torch.compiler.reset()

    @torch.compile(fullgraph=True, dynamic=dynamic)
    def compiled(logits, center, radius, label):
        return mdnkernels.center_focal_loss(logits, center, radius, label) * 3

    with mdnkernels.use_backend(backend):
        for shape in ((2, 3, 4, 5), (2, 3, 6, 7)):
            call = drawn(shape, 4)
            logits = call["logits"].requires_grad_()
            loss = compiled(**call)
            expected, gradient = loss_and_gradient(call, backend)
            torch.testing.assert_close(loss, expected * 3)
            torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], gradient * 3)


def test_second_derivative_of_native_is_refused_and_eager_has_it():
    call = drawn((1, 1, 2, 3), 1, dtype=torch.float64)
    logits = call.pop("logits").requires_grad_()
    with (
        mdnkernels.use_backend("native"),
        pytest.raises(NotImplementedError, match="center_focal_loss of the native backend is differentiable once"),
    ):
        torch.autograd.grad(mdnkernels.center_focal_loss(logits, **call), logits, create_graph=True)
    with mdnkernels.use_backend("eager"):
        assert torch.autograd.gradgradcheck(lambda value: mdnkernels.center_focal_loss(value, **call), logits)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"logits": torch.zeros(1, 2, 3, 4, dtype=torch.int64)}, TypeError, "logits"),
        ({"logits": torch.zeros(2, 3, 4)}, ValueError, "logits must be"),
        ({"logits": torch.zeros(2, 2, 3, 4)}, ValueError, "label must be"),
        ({"logits": torch.zeros(1, 0, 3, 4)}, ValueError, "at least one label"),
        ({"center": torch.zeros(1, 1, 2)}, TypeError, "center"),
        ({"center": torch.tensor([[[4, 1]]])}, IndexError, "width"),
        ({"center": torch.tensor([[[1, 3]]])}, IndexError, "height"),
        ({"radius": torch.tensor([[-1]])}, IndexError, "radius"),
        ({"radius": torch.tensor([1])}, ValueError, "radius"),
        ({"label": torch.tensor([[2]])}, IndexError, "label"),
        ({"label": torch.tensor([[-2]])}, IndexError, "label"),
        ({"ignore": torch.tensor([[1]])}, TypeError, "ignore"),
        ({"ignore": torch.tensor([True])}, ValueError, "ignore"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"beta": "4"}, TypeError, "beta"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, word):
    good = {
        "logits": torch.zeros(1, 2, 3, 4),
        "center": torch.tensor([[[1, 1]]]),
        "radius": torch.tensor([[1]]),
        "label": torch.tensor([[0]]),
    }
    with pytest.raises(error, match=word):
        mdnkernels.center_focal_loss(**{**good, **change})
