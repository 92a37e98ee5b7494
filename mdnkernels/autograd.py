"""Fake kernels and autograd of the fused ops, for every backend that registers them with torch.

Such a backend has a namespace of torch.ops whose ops have the schemas of csrc/ops.cpp: mixture_nll and
heatmap_focal_loss give their gradients along with the loss, so that backward only multiplies them by what comes from
above. Each `register_*` gives one op of one namespace its shapes and its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from mdnkernels.eager.mixture import activate_scale, gather_points

Loss = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Mode = tuple[Tensor, Tensor, Tensor, Tensor]


def refuse_second_derivative(op: str, backend: str) -> None:
    if torch.is_grad_enabled():  # create_graph=True
        raise NotImplementedError(
            f"{op} of the {backend} backend is differentiable once; "
            'for second derivatives run it within mdnkernels.use_backend("eager")'
        )


def _scaled(gradient: Tensor, grad_loss: Tensor) -> Tensor:
    """`gradient`, of the loss, times what the loss itself is multiplied by further on."""
    if grad_loss.ndim == 0 and type(grad_loss) is Tensor and grad_loss.device.type == "cpu" and grad_loss.item() == 1:
        return gradient  # looking costs nothing on the CPU, and saves touching all of its memory once more
    factor = grad_loss if grad_loss.ndim == 0 else grad_loss.unsqueeze(1)
    return gradient * factor


def mixture_nll_outputs(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: str,
    scale_activation: str,
    min_scale: float,
    reduction: str,
    parameter_gradients: bool,
    target_gradient: bool,
) -> Loss:
    """Empty outputs of the op: its fake kernel, and what a kernel in Python fills.

    Beside an index the gradients are those of the gathered points; those of half-precision inputs stay in float32 until
    they have been multiplied by what comes from above, for a mean's would underflow.
    """
    batch, _, points = target.shape
    accumulate = torch.promote_types(loc.dtype, torch.float32)
    loss = target.new_empty((batch, points) if reduction == "none" else (), dtype=accumulate)

    def gradient(of: Tensor, wanted: bool, gathered: bool) -> Tensor:
        if not wanted:
            return of.new_empty(0, dtype=accumulate)
        if gathered or of.dtype != accumulate:
            return of.new_empty(batch, of.shape[1], points, dtype=accumulate)
        return torch.empty_like(of)

    parameters = (gradient(of, parameter_gradients, index is not None) for of in (logits, loc, scale))
    return loss, *parameters, gradient(target, target_gradient, False)  # type: ignore[return-value]


def _mixture_nll_context(ctx: Any, inputs: tuple[Any, ...], output: Loss) -> None:
    index = inputs[6]
    ctx.positions = inputs[0].shape[2]
    ctx.dtypes = [value.dtype for value in inputs[:4]]
    ctx.gradients_made = inputs[-2:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # the gradients are outputs too, and zeros of their size would be made for them
    ctx.save_for_backward(index, *output[1:])


def _mixture_nll_backward(
    namespace: str, backend: str, ctx: Any, grad_loss: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("mixture_nll", backend)
    index, *gradients = ctx.saved_tensors
    parameters_made, target_made = ctx.gradients_made
    results: list[Tensor | None] = [None] * 4
    for i, gradient in enumerate(gradients):
        if grad_loss is None or not ctx.needs_input_grad[i]:
            continue
        if not (target_made if i == 3 else parameters_made):
            raise RuntimeError(
                "mixture_nll was traced when its inputs required no gradient, so this graph makes none: "
                "trace or export it with inputs that require gradients"
            )
        result = _scaled(gradient, grad_loss)
        if index is not None and i < 3:
            result = getattr(torch.ops, namespace).scatter_points(result, index, ctx.positions)
        results[i] = result.to(ctx.dtypes[i])
    return *results, *[None] * 10


def _scatter_points_output(values: Tensor, index: Tensor, positions: int) -> Tensor:
    return values.new_empty(*values.shape[:2], positions)


def register_mixture_nll(namespace: str, backend: str) -> None:
    """Also of scatter_points, which its backward calls beside an index."""
    torch.library.register_fake(f"{namespace}::scatter_points", _scatter_points_output)
    torch.library.register_fake(f"{namespace}::mixture_nll", mixture_nll_outputs)
    backward = partial(_mixture_nll_backward, namespace, backend)
    torch.library.register_autograd(f"{namespace}::mixture_nll", backward, setup_context=_mixture_nll_context)


def mixture_mode_outputs(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor | None,
    index: Tensor | None,
    select: str,
    components: Sequence[int] | None,
    scale_activation: str,
    min_scale: float,
) -> Mode:
    """Empty outputs of the op, as `mixture_nll_outputs`; without a scale the second has no elements."""
    batch, _, points = loc.shape if index is None else (*loc.shape[:2], index.shape[1])
    by_point = index is None and loc.stride(1) == 1 and loc.stride(2) != 1

    def output(of: Tensor) -> Tensor:
        channels = of.shape[1] // logits.shape[1]
        if by_point:  # the modes of a map whose channels lie side by side have theirs so too
            return loc.new_empty(batch, points, channels).transpose(1, 2)
        return loc.new_empty(batch, channels, points)

    return (
        output(loc),
        loc.new_empty(0) if scale is None else output(scale),
        loc.new_empty(batch, points, dtype=torch.int64),
        loc.new_empty(batch, points),
    )


def _mixture_mode_context(ctx: Any, inputs: tuple[Any, ...], output: Mode) -> None:
    logits, loc, scale, index, *ctx.options = inputs
    component = output[2]
    ctx.mark_non_differentiable(component)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, loc if ctx.options[0] == "mean" else None, scale, index, component)


class _OrderedMath:
    """What the backward of mixture_mode computes beside products, with the same bits for any number of threads: on the
    CPU exponentials are the op's own and sums add one term after the other, for those of torch have other bits where
    threads cut a tensor elsewhere."""

    def __init__(self, namespace: str, device: torch.device) -> None:
        self.mode = getattr(torch.ops, namespace).mixture_mode if device.type == "cpu" else None

    def softmax(self, logits: Tensor) -> Tensor:
        """Over dimension 1 of (B, M, P): the weight of each component that is the only one to choose from."""
        if self.mode is None:
            return torch.softmax(logits, 1)
        components = range(logits.shape[1])
        weights = [self.mode(logits, logits, None, None, "weight", [m], "identity", 0.0)[3] for m in components]
        return torch.stack(weights, 1)

    def sigma(self, raw: Tensor, scale_activation: str, min_scale: float) -> Tensor:
        """All channels of the raw scales (B, K, P) activated: those of a mixture of one component."""
        if self.mode is None:
            return activate_scale(raw, scale_activation, min_scale)
        logits = raw.new_zeros(raw.shape[0], 1, raw.shape[2])
        return self.mode(logits, raw, raw, None, "weight", None, scale_activation, min_scale)[1]

    def slope(self, raw: Tensor, scale_activation: str) -> Tensor:
        """d sigma / d raw of (B, K, P)."""
        if scale_activation == "elu":
            return self.sigma(raw, "elu", 0.0).clamp(max=1)
        if scale_activation == "softplus":  # whose slope is the logistic function, a softmax over 0 and raw
            flat = raw.flatten(1).unsqueeze(1)
            return self.softmax(torch.cat([torch.zeros_like(flat), flat], 1))[:, 1].view(raw.shape)
        return self.sigma(raw, "exp", 0.0) if scale_activation == "exp" else torch.ones_like(raw)

    def sum(self, values: Tensor, dim: int) -> Tensor:
        return reduce(torch.add, values.unbind(dim))


def _of_component(values: Tensor, component: Tensor, count: int) -> Tensor:
    """The channels of `values` (B, M*K, P) that belong to `component` (B, P)."""
    values = values.unflatten(1, (count, -1))
    return values.gather(1, component[:, None, None].expand(-1, -1, *values.shape[2:])).squeeze(1)


def _to_component(gradient: Tensor, component: Tensor, count: int) -> Tensor:
    """The inverse: `gradient` (B, K, P) as the channels of `component`, all others zero."""
    batch, channels, points = gradient.shape
    whole = gradient.new_zeros(batch, count, channels, points)
    where = component[:, None, None].expand(-1, 1, channels, -1)
    return whole.scatter(1, where, gradient.unsqueeze(1)).flatten(1, 2)


def _mixture_mode_backward(
    namespace: str,
    backend: str,
    ctx: Any,
    grad_loc: Tensor | None,
    grad_scale: Tensor | None,
    _: None,
    grad_weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """From the chosen component, in PyTorch: predictions are seldom differentiated. Beside the zero-filled gradients it
    touches what that component alone holds ("mean" has a share in all of them)."""
    refuse_second_derivative("mixture_mode", backend)
    logits, loc, scale, index, component = ctx.saved_tensors
    select, _, scale_activation, _ = ctx.options
    count, positions = logits.shape[1], logits.shape[2]
    component = component.clamp(min=0)  # padding, whose gradients scatter_points drops
    if index is not None:
        logits, loc, scale = (None if maps is None else gather_points(maps, index) for maps in (logits, loc, scale))
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if scale is None:
        grad_scale = None
    math = _OrderedMath(namespace, logits.device)
    alpha = None
    if grad_weight is not None or select == "mean":
        alpha = math.softmax(logits.to(dtype))

    results: list[Tensor | None] = [None, None, None]
    if grad_weight is not None and alpha is not None:
        # d alpha_k / d logit_m = alpha_k (delta_mk - alpha_m)
        pull = grad_weight.to(dtype).unsqueeze(1) * alpha.gather(1, component.unsqueeze(1))
        results[0] = _to_component(pull, component, count) - alpha * pull
    if select == "mean" and alpha is not None:
        results = _mean_gradients(ctx, math, results[0], alpha, loc, scale, grad_loc, grad_scale)
    else:
        if grad_loc is not None and ctx.needs_input_grad[1]:
            results[1] = _to_component(grad_loc, component, count)
        if grad_scale is not None and ctx.needs_input_grad[2]:
            raw = _of_component(scale, component, count).to(dtype)
            pull = (grad_scale * math.slope(raw, scale_activation)).to(scale.dtype)
            results[2] = _to_component(pull, component, count)
    for i, result in enumerate(results):
        if result is None or not ctx.needs_input_grad[i]:
            results[i] = None
            continue
        if index is not None:
            result = getattr(torch.ops, namespace).scatter_points(result.to(dtype), index, positions)
        results[i] = result.to(logits.dtype)
    return *results, *[None] * 5


def _mean_gradients(
    ctx: Any,
    math: _OrderedMath,
    grad_logits: Tensor | None,
    alpha: Tensor,
    loc: Tensor,
    scale: Tensor | None,
    grad_loc: Tensor | None,
    grad_scale: Tensor | None,
) -> list[Tensor | None]:
    """Of sum_m share_m mu_m and sum_m share_m sigma_m, where share is alpha over the components that may be chosen."""
    _, components, scale_activation, min_scale = ctx.options
    count = alpha.shape[1]
    share = alpha
    if components is not None:
        allowed = torch.zeros(count, dtype=torch.bool, device=alpha.device)
        for component in components:  # one by one: a list would be copied to the device, which waits
            allowed[component] = True
        share = torch.where(allowed.view(1, -1, 1), alpha, 0.0)
    share = share / math.sum(share, 1).unsqueeze(1)
    results: list[Tensor | None] = [grad_logits, None, None]
    pull = torch.zeros_like(share)  # on the shares
    for i, values, gradient in ((1, loc, grad_loc), (2, scale, grad_scale)):
        if values is None or gradient is None:
            continue
        values, gradient = values.to(alpha.dtype), gradient.to(alpha.dtype).unsqueeze(1)
        each = share.unsqueeze(2) * gradient  # (B, M, K, P)
        if i == 2:
            each = each * math.slope(values, scale_activation).unflatten(1, (count, -1))
            values = math.sigma(values, scale_activation, min_scale)
        results[i] = each.flatten(1, 2)
        pull = pull + math.sum(values.unflatten(1, (count, -1)) * gradient, 2)
    if grad_loc is not None or grad_scale is not None:
        through_shares = share * (pull - math.sum(share * pull, 1).unsqueeze(1))
        results[0] = through_shares if grad_logits is None else grad_logits + through_shares
    return results


def register_mixture_mode(namespace: str, backend: str) -> None:
    """Its backward calls scatter_points, which `register_mixture_nll` registers."""
    torch.library.register_fake(f"{namespace}::mixture_mode", mixture_mode_outputs)
    backward = partial(_mixture_mode_backward, namespace, backend)
    torch.library.register_autograd(f"{namespace}::mixture_mode", backward, setup_context=_mixture_mode_context)


def patches_output(feature: Tensor, index: Tensor, kernel_size: int) -> Tensor:
    return feature.new_empty(feature.shape[0], index.shape[1], feature.shape[1] * kernel_size**2)


def _feature_gradient_output(
    grad_patches: Tensor, index: Tensor, size: Sequence[int], stride: Sequence[int], kernel_size: int
) -> Tensor:
    return grad_patches.new_empty_strided(size, stride)


def _patches_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feature, index, ctx.kernel_size = inputs
    ctx.set_materialize_grads(False)
    # Sizes and strides, not the feature itself, which may be freed before the backward pass. Those of a feature that
    # is not dense (sliced, expanded) become those that its copy would have.
    ctx.size, ctx.stride = feature.shape, torch.empty_like(feature, device="meta").stride()
    ctx.save_for_backward(index)


def _patches_backward(namespace: str, ctx: Any, grad_patches: Tensor | None) -> tuple[Tensor | None, None, None]:
    (index,) = ctx.saved_tensors
    if grad_patches is None or not ctx.needs_input_grad[0]:
        return None, None, None
    backward = getattr(torch.ops, namespace).gather_patches_backward
    return backward(grad_patches, index, ctx.size, ctx.stride, ctx.kernel_size), None, None


def _feature_gradient_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, index, _, _, ctx.kernel_size = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(index)


def _feature_gradient_backward(
    namespace: str, ctx: Any, grad_gradient: Tensor | None
) -> tuple[Tensor | None, None, None, None, None]:
    (index,) = ctx.saved_tensors
    if grad_gradient is None or not ctx.needs_input_grad[0]:
        return None, None, None, None, None
    patches = getattr(torch.ops, namespace).gather_patches(grad_gradient, index, ctx.kernel_size)
    return patches, None, None, None, None


def register_gather_patches(namespace: str) -> None:
    """It is linear: its backward is an op whose own backward is gather_patches."""
    for op, output, backward, context in (
        ("gather_patches", patches_output, _patches_backward, _patches_context),
        ("gather_patches_backward", _feature_gradient_output, _feature_gradient_backward, _feature_gradient_context),
    ):
        torch.library.register_fake(f"{namespace}::{op}", output)
        torch.library.register_autograd(f"{namespace}::{op}", partial(backward, namespace), setup_context=context)


def in_one_order(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both as they are where they lie in memory in one order without gaps, else copies that do."""
    for layout in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
        if logits.is_contiguous(memory_format=layout) and target.is_contiguous(memory_format=layout):
            return logits, target
    return logits.contiguous(), target.contiguous()


def heatmap_focal_loss_outputs(
    logits: Tensor, target: Tensor, alpha: float, beta: float, logits_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Empty outputs of the op, as `mixture_nll_outputs`."""
    loss = logits.new_empty((), dtype=torch.promote_types(logits.dtype, torch.float32))
    return loss, torch.empty_like(logits) if logits_gradient else logits.new_empty(0)


def _focal_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.gradient_made = inputs[-1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the gradient is an output too, and zeros of its size would be made for it
    ctx.save_for_backward(output[1])


def _focal_backward(backend: str, ctx: Any, grad_loss: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("heatmap_focal_loss", backend)
    if grad_loss is None:
        return None, None, None, None, None
    if not ctx.gradient_made:
        raise RuntimeError(
            "heatmap_focal_loss was traced when its inputs required no gradient, so this graph makes none: "
            "trace or export it with inputs that require gradients"
        )
    (gradient,) = ctx.saved_tensors
    return _scaled(gradient, grad_loss).to(gradient.dtype), None, None, None, None


def register_heatmap_focal_loss(namespace: str, backend: str) -> None:
    torch.library.register_fake(f"{namespace}::heatmap_focal_loss", heatmap_focal_loss_outputs)
    backward = partial(_focal_backward, backend)
    torch.library.register_autograd(f"{namespace}::heatmap_focal_loss", backward, setup_context=_focal_context)


def topk_peaks_outputs(heatmap: Tensor, k: int, kernel_size: int, logits: bool) -> tuple[Tensor, Tensor, Tensor]:
    shape = (heatmap.shape[0], k)
    return (
        heatmap.new_empty(shape),
        heatmap.new_empty(shape, dtype=torch.int64),
        heatmap.new_empty(shape, dtype=torch.int64),
    )


def register_topk_peaks(namespace: str) -> None:
    """Peaks are for inference: no gradient."""
    torch.library.register_fake(f"{namespace}::topk_peaks", topk_peaks_outputs)


def splat_gaussians_output(
    center: Tensor, radius: Tensor, label: Tensor, num_labels: int, height: int, width: int
) -> Tensor:
    return label.new_empty((label.shape[0], num_labels, height, width), dtype=torch.float32)


def register_splat_gaussians(namespace: str) -> None:
    torch.library.register_fake(f"{namespace}::splat_gaussians", splat_gaussians_output)
