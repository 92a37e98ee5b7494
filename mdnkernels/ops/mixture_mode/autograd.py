"""mixture_mode of a namespace: its gradient, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from mdnkernels.mixture.eager import activate_scale, gather_points
from mdnkernels.ops.derivatives import refuse_second_derivative

Mode = tuple[Tensor, Tensor, Tensor, Tensor]


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
    """Return empty outputs of the op, as `mixture_nll_outputs` does; without a scale the second has no elements."""
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
    """What the backward of mixture_mode computes beside products, with the same bits for any number of threads.

    On the CPU exponentials are the op's own and sums add one term after the other: those of torch have other bits where
    threads cut a tensor elsewhere.
    """

    def __init__(self, namespace: str, device: torch.device) -> None:
        self.mode = getattr(torch.ops, namespace).mixture_mode if device.type == "cpu" else None

    def softmax(self, logits: Tensor) -> Tensor:
        """Return the softmax over dimension 1 of (B, M, P): each component's weight where it alone can be chosen."""
        if self.mode is None:
            return torch.softmax(logits, 1)
        components = range(logits.shape[1])
        weights = [self.mode(logits, logits, None, None, "weight", [m], "identity", 0.0)[3] for m in components]
        return torch.stack(weights, 1)

    def sigma(self, raw: Tensor, scale_activation: str, min_scale: float) -> Tensor:
        """Return the raw scales (B, K, P) activated, as the scales of a mixture of one component."""
        if self.mode is None:
            return activate_scale(raw, scale_activation, min_scale)
        logits = raw.new_zeros(raw.shape[0], 1, raw.shape[2])
        return self.mode(logits, raw, raw, None, "weight", None, scale_activation, min_scale)[1]

    def slope(self, raw: Tensor, scale_activation: str) -> Tensor:
        """Return d sigma / d raw of (B, K, P)."""
        if scale_activation == "elu":
            return self.sigma(raw, "elu", 0.0).clamp(max=1)
        if scale_activation == "softplus":  # whose slope is the logistic function, a softmax over 0 and raw
            flat = raw.flatten(1).unsqueeze(1)
            return self.softmax(torch.cat([torch.zeros_like(flat), flat], 1))[:, 1].view(raw.shape)
        return self.sigma(raw, "exp", 0.0) if scale_activation == "exp" else torch.ones_like(raw)

    def sum(self, values: Tensor, dim: int) -> Tensor:
        return reduce(torch.add, values.unbind(dim))


def _of_component(values: Tensor, component: Tensor, count: int) -> Tensor:
    """Return the channels of `values` (B, M*K, P) that belong to `component` (B, P)."""
    values = values.unflatten(1, (count, -1))
    return values.gather(1, component[:, None, None].expand(-1, -1, *values.shape[2:])).squeeze(1)


def _to_component(gradient: Tensor, component: Tensor, count: int) -> Tensor:
    """Undo `_of_component`: return `gradient` (B, K, P) as the channels of `component`, all others zero."""
    batch, channels, points = gradient.shape
    whole = gradient.new_zeros(batch, count, channels, points)
    where = component[:, None, None].expand(-1, 1, channels, -1)
    return _joined(whole.scatter(1, where, gradient.unsqueeze(1)))


def _joined(values: Tensor) -> Tensor:
    """Return (B, M, K, P) as (B, M*K, P), not by flatten, which the vmap behind is_grads_batched does not know."""
    batch, count, channels, points = values.shape
    return values.reshape(batch, count * channels, points)


def _mixture_mode_backward(
    namespace: str,
    backend: str,
    ctx: Any,
    grad_loc: Tensor | None,
    grad_scale: Tensor | None,
    _: None,
    grad_weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients in PyTorch: predictions are seldom differentiated.

    Beside the zero-filled gradients it touches what the chosen component alone holds; "mean" has a share in all.
    """
    refuse_second_derivative("mixture_mode", backend)
    logits, loc, scale, index, component = ctx.saved_tensors
    select, components, scale_activation, min_scale = ctx.options
    count, positions = logits.shape[1], logits.shape[2]
    component = component.clamp(min=0)  # padding, whose gradients scatter_points drops
    if index is not None:
        logits, loc, scale = (None if maps is None else gather_points(maps, index) for maps in (logits, loc, scale))
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if scale is None:
        grad_scale = None
    math = _OrderedMath(namespace, logits.device)
    alpha = None

    results: list[Tensor | None] = [None, None, None]
    if grad_weight is not None:
        alpha = math.softmax(logits.to(dtype))
        # d alpha_k / d logit_m = alpha_k (delta_mk - alpha_m)
        pull = grad_weight.to(dtype).unsqueeze(1) * alpha.gather(1, component.unsqueeze(1))
        results[0] = _to_component(pull, component, count) - alpha * pull
    if select == "mean":
        if components is not None:  # the rest is that of a mixture of these alone
            logits, loc, scale = (
                None if maps is None else _among_chosen(maps, components, count) for maps in (logits, loc, scale)
            )
        share = alpha if alpha is not None and components is None else math.softmax(logits.to(dtype))
        through_mean = _mean_gradients(math, share, loc, scale, grad_loc, grad_scale, scale_activation, min_scale)
        for i, gradient in enumerate(through_mean):
            if gradient is None:
                continue
            if components is not None:
                gradient = _among_all(gradient, components, count)
            through_weight = results[i]
            results[i] = gradient if through_weight is None else through_weight + gradient
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


def _among_chosen(maps: Tensor, components: Sequence[int], count: int) -> Tensor:
    """Return the channels of `maps` (B, M*K, P) that belong to `components`.

    They are taken one by one: a list of components as an index would be copied to the device, which waits.
    """
    each = maps.unflatten(1, (count, -1))
    return torch.stack([each[:, component] for component in components], 1).flatten(1, 2)


def _among_all(gradient: Tensor, components: Sequence[int], count: int) -> Tensor:
    """Undo `_among_chosen`: return `gradient` (B, len(components)*K, P) as these components' channels, others zero."""
    batch, channels, points = gradient.shape
    each = gradient.reshape(batch, len(components), channels // len(components), points)
    nothing = torch.zeros_like(each[:, 0])
    place = {component: i for i, component in enumerate(components)}
    return _joined(torch.stack([each[:, place[m]] if m in place else nothing for m in range(count)], 1))


def _mean_gradients(
    math: _OrderedMath,
    share: Tensor,
    loc: Tensor,
    scale: Tensor | None,
    grad_loc: Tensor | None,
    grad_scale: Tensor | None,
    scale_activation: str,
    min_scale: float,
) -> list[Tensor | None]:
    """Return the gradients of sum_m share_m mu_m and sum_m share_m sigma_m for logits, loc and scale.

    share: (B, M, P), the softmax of the logits.
    """
    count = share.shape[1]
    results: list[Tensor | None] = [None, None, None]
    pull = None  # on the shares
    for i, values, gradient in ((1, loc, grad_loc), (2, scale, grad_scale)):
        if values is None or gradient is None:
            continue
        values, gradient = values.to(share.dtype), gradient.to(share.dtype).unsqueeze(1)
        each = share.unsqueeze(2) * gradient  # (B, M, K, P)
        if i == 2:
            each = each * math.slope(values, scale_activation).unflatten(1, (count, -1))
            values = math.sigma(values, scale_activation, min_scale)
        results[i] = _joined(each)
        on_shares = math.sum(values.unflatten(1, (count, -1)) * gradient, 2)
        pull = on_shares if pull is None else pull + on_shares
    if pull is not None:
        results[0] = share * (pull - math.sum(share * pull, 1).unsqueeze(1))
    return results


def register(namespace: str, backend: str) -> None:
    """Register the op's shapes and gradient, which calls the scatter_points that mixture_nll registers."""
    torch.library.register_fake(f"{namespace}::mixture_mode", mixture_mode_outputs)
    backward = partial(_mixture_mode_backward, namespace, backend)
    torch.library.register_autograd(f"{namespace}::mixture_mode", backward, setup_context=_mixture_mode_context)


def mixture_mode(
    namespace: str, logits: Tensor, loc: Tensor, scale: Tensor | None, *index_to_min_scale: Any
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """See `mdnkernels.mixture_mode`. Here every tensor is (B, channels, P); gives loc, scale, component and weight."""
    op = getattr(torch.ops, namespace).mixture_mode
    mode_loc, mode_scale, component, weight = op(logits, loc, scale, *index_to_min_scale)
    return mode_loc, None if scale is None else mode_scale, component, weight
