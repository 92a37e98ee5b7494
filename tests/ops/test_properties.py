"""What the mixture's likelihood is, whatever the numbers: properties that hypothesis looks for exceptions to."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import mdnkernels
from mdnkernels import mixture_nll
from mdnkernels.mixture.eager import activate_scale
from tests.example_count import examples
from tests.ops.mixture_cases import MixtureCase, loss_and_gradients, mixture_cases
from tests.ops.reference import scale_of
from tests.ops.table.mixture import is_discrete

property_of_both_backends = settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
backends = pytest.mark.parametrize("backend", ["native", "eager"])


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        size = e.abs().max().item() if e.numel() else 0.0
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12 * max(size, 1.0))


def without_target(values: list[Tensor]) -> list[Tensor]:
    return [*values[:3], *values[4:]]


def dense(case: MixtureCase, **changes: Any) -> MixtureCase:
    return dataclasses.replace(case, points=None, **changes)


@backends
@property_of_both_backends
@given(case=mixture_cases(), data=st.data())
def test_permuting_components_changes_no_loss_and_permutes_the_gradients(backend, case, data):
    arguments, others = case.make()
    order = data.draw(st.permutations(range(case.components)))

    def turned(values: list[Tensor]) -> list[Tensor]:
        each = [value.unflatten(1, (case.components, -1))[:, order].flatten(1, 2) for value in without_target(values)]
        return [*each[:3], values[3], *each[3:]]

    loss, *gradients = loss_and_gradients(backend, arguments, others, torch.float64)
    if case.objective.get("assigned"):
        places = torch.tensor([*(order.index(m) for m in range(case.components)), -1])
        others["assign"] = places[others["assign"]]
    turned_loss, *turned_gradients = loss_and_gradients(backend, turned(arguments), others, torch.float64)
    assert_close([turned_loss, *turned_gradients], [loss, *turned(gradients)])


@backends
@property_of_both_backends
@given(case=mixture_cases(), data=st.data())
def test_masking_dimensions_equals_removing_them(backend, case, data):
    dims = case.dims
    kept = data.draw(st.lists(st.integers(0, dims - 1), min_size=1, unique=True).map(sorted))
    case = dataclasses.replace(case, groups=None, block=1, scales=data.draw(st.sampled_from([1, dims])))
    (logits, loc, scale, target), others = case.make()
    observed = torch.zeros(dims, dtype=torch.bool)
    observed[kept] = True
    mask = observed.view(1, dims, *[1] * (target.ndim - 2)).expand_as(target)
    masked = loss_and_gradients(backend, [logits, loc, scale, target], {**others, "mask": mask}, torch.float64)

    def without(value: Tensor, size: int) -> Tensor:
        """Return the channels of the kept dimensions, of `size` a component; a shared scale stays."""
        if size == 1 and dims > 1:
            return value
        return value.unflatten(1, (-1, size))[:, :, kept].flatten(1, 2)

    removed_others = {**others, "dim_scale": others["dim_scale"][kept]} if case.kappa else others
    removed = loss_and_gradients(
        backend,
        [logits, without(loc, dims), without(scale, case.scales), target[:, kept]],
        removed_others,
        torch.float64,
    )
    loss, grad_logits, grad_loc, grad_scale, grad_target = masked
    assert_close(
        [loss, grad_logits, without(grad_loc, dims), without(grad_scale, case.scales), grad_target[:, kept]], removed
    )
    gone = [d for d in range(dims) if d not in kept]
    assert (grad_loc.unflatten(1, (-1, dims))[:, :, gone] == 0).all()
    assert (grad_target[:, gone] == 0).all()


@backends
@property_of_both_backends
@given(case=mixture_cases(), factor=st.floats(1e-3, 1e3))
def test_scaling_the_units_by_a_adds_log_a_for_each_observed_dimension(backend, case, factor):
    """A mass has no unit where its bins have it too, nor has a correlation."""
    case = dataclasses.replace(case, scale_activation="identity", reduction="none", weighted=False)
    (logits, loc, scale, target, *tril), others = case.make()
    others["tril"] = tril[0] if tril else None
    with mdnkernels.use_backend(backend):
        loss = mixture_nll(logits, loc, scale, target, **others)
        if is_discrete(case.family):
            others["family"] = mdnkernels.DiscretisedLogistic(case.family.bin_width * factor)
        scaled = mixture_nll(logits, factor * loc, factor * scale, factor * target, **others)
    if case.groups is None:
        observed = torch.full_like(loss, case.dims)
    else:
        observed = others["mask"].sum(1).to(loss.dtype) * (case.dims // case.groups)
    if case.points is not None:
        observed = observed * (others["index"] >= 0)
    if case.objective.get("assigned"):
        observed = observed * (others["assign"] >= 0)
    if is_discrete(case.family):
        observed = 0 * observed
    torch.testing.assert_close(scaled, loss + observed * math.log(factor), rtol=1e-10, atol=1e-9)


@backends
@property_of_both_backends
@given(case=mixture_cases())
def test_one_component_is_torchs_gaussian_nll_loss(backend, case):
    case = dense(case, components=1, family="gaussian", groups=None, weighted=False, kappa=False, block=1, objective={})
    arguments, others = case.make()
    _, loc, scale, target = arguments
    actual = loss_and_gradients(backend, arguments, others, torch.float64)
    sigma = activate_scale(scale, case.scale_activation, case.min_scale)
    sigma = sigma[:, [scale_of(d, case.dims, case.scales, case.scale_order) for d in range(case.dims)]]
    each = functional.gaussian_nll_loss(loc, target, sigma.square(), full=True, eps=1e-300, reduction="none").sum(1)
    divisor = max(each.numel(), 1) if case.reduction == "mean" else 1
    loss = each if case.reduction == "none" else each.sum() / divisor
    factors = torch.linspace(0.5, 1.5, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].view(loss.shape)
    expected = torch.autograd.grad((loss * factors).sum(), [loc, scale, target])
    assert_close([actual[0], *actual[2:]], [loss, *expected])
    assert (actual[1].abs() <= 1e-15).all()  # one component's weight is 1, whatever its logit


@backends
@property_of_both_backends
@given(case=mixture_cases(), points=st.integers(0, 40))
def test_indexed_equals_dense_then_gather(backend, case, points):
    """Loss and gradients, repeated positions and padding included."""
    if torch.Size(case.positions).numel() == 0:
        return
    case = dataclasses.replace(case, points=points)
    arguments, others = case.make()
    index = others.pop("index")
    sparse = loss_and_gradients(backend, arguments, {**others, "index": index}, torch.float64)

    def gathered(value: Tensor) -> Tensor:
        flat = value.flatten(2) if value.ndim > 2 else value.unsqueeze(2)
        return flat.gather(2, index.clamp(min=0).unsqueeze(1).expand(-1, value.shape[1], -1))

    real = (index >= 0).unsqueeze(1)
    others["mask"] = real & others.get("mask", torch.ones_like(real))
    leaves = [value.detach().requires_grad_() for value in arguments]
    with mdnkernels.use_backend(backend):
        maps = [gathered(value) for value in without_target(leaves)]
        loss = mixture_nll(*maps[:3], leaves[3], tril=maps[3] if case.block > 1 else None, **others)
    factors = torch.linspace(0.5, 1.5, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].view(loss.shape)
    assert_close(sparse, [loss, *torch.autograd.grad((loss * factors).sum(), leaves)])


@backends
@property_of_both_backends
@given(case=mixture_cases())
def test_two_identical_components_are_one_with_the_sum_of_their_weights(backend, case):
    factors = {name: value for name, value in case.objective.items() if name in ("beta", "gradient")}
    arguments, others = dataclasses.replace(case, objective=factors).make()
    logits, loc, scale, target, *tril = (value.detach() for value in arguments)
    extra = logits[:, :1].flip(0) - 0.7
    parts = [value.unflatten(1, (case.components, -1)) for value in (loc, scale, *tril)]
    doubled = [torch.cat([part[:, :1], part], 1).flatten(1, 2) for part in parts]
    doubled.insert(2, target)
    two = loss_and_gradients(backend, [torch.cat([extra, logits], 1), *doubled], others, torch.float64)
    joined = torch.cat([torch.logaddexp(extra, logits[:, :1]), logits[:, 1:]], 1)
    one = loss_and_gradients(backend, [joined, loc, scale, target, *tril], others, torch.float64)
    share = torch.sigmoid(extra - logits[:, :1])  # of the joint component's gradient, that of the first copy
    grad_logits = torch.cat([share * one[1][:, :1], (1 - share) * one[1][:, :1], one[1][:, 1:]], 1)
    sums = []
    for gradient in (*two[2:4], *two[5:]):
        gradient = gradient.unflatten(1, (case.components + 1, -1))
        sums.append(torch.cat([gradient[:, :2].sum(1, keepdim=True), gradient[:, 2:]], 1).flatten(1, 2))
    sums.insert(2, two[4])
    assert_close([two[0], two[1], *sums], [one[0], grad_logits, *one[2:]])
