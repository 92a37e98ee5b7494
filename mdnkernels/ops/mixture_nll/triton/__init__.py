"""mixture_nll in Triton: one kernel gives the loss and, where they will be wanted, its gradients.

Memory story. A program holds the M components of a block of positions as one tile, (M, block), and walks over the
dimensions; each thread moves 16 bytes of a planar channel at a time (8 where that keeps more on chip). logits, loc and
target are read once: where they fit, the standardised residuals of all dimensions, and the entries that correlate pairs
of them, stay in registers until the posterior is known and the gradients are written, once. Where they do not fit, the
block's loc and target are read a second time, from the caches; so are, always, the few scales and the mask's bytes. A
sector of memory at none of whose positions anything is observed is not read but for its mask. With a mean that must
first be counted, a small kernel reads the mask, the index and the weight beforehand; then the last program of the main
kernel adds all programs' sums, and there are two launches.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from mdnkernels.mixture import families
from mdnkernels.mixture.objective import Objective
from mdnkernels.mixture.triton import VALUE_OF_PULL
from mdnkernels.ops.gather_patches.triton import add_patches
from mdnkernels.ops.mixture_nll import autograd
from mdnkernels.ops.mixture_nll.triton.kernels import mixture_nll_kernel, observed_weight_kernel
from mdnkernels.triton.launch import CHUNK, COUNTERS, NAMESPACE, op, padded, strides, wrap_triton, write_total

_WARPS = 4
_COUNTED = 1024  # positions that a program counts at a time: eight masks for each thread


def _kept_words(loc: Tensor, mask: Tensor | None, tril: Tensor | None, family: str) -> int:
    """Return how many of a thread's 255 registers may hold what is kept from reading to writing, so that none spills.

    Masks, correlation and the 64-bit constants of double need more of the others; most of all does a family whose value
    is no multiple of its pull, where the logarithms of all unrolled dimensions are computed at once.
    """
    if family not in VALUE_OF_PULL:
        return 40
    return 160 if mask is None and tril is None and loc.dtype != torch.float64 else 120


def _launch(
    tensors: tuple[Tensor | None, ...],
    density: tuple[str, float, str, float, bool, int],
    objective: tuple[str, float, float, float, float, bool],
    *,
    reduction: str,
    gradients: tuple[Tensor | None, ...],
    loss: Tensor | None,
    posterior: Tensor | None,
) -> None:
    """Launch the kernels.

    Args:
        tensors: logits, loc, scale, target, tril, mask, weight, index, dim_scale and assigned.
        density, objective: the options of `Density` and of `Objective`.
        gradients: of logits, loc, scale, target and tril; None for what is not wanted.
        loss, posterior: which of the two is computed.
    """
    logits, loc, scale, target, tril, mask, weight, index, dim_scale, assigned = tensors
    assert logits is not None
    assert loc is not None
    assert scale is not None
    assert target is not None
    family, family_parameter, scale_activation, min_scale, interleaved, block_size = density
    assign, temperature, power, loc_factor, scale_factor, natural = objective
    grad_logits, grad_loc, grad_scale, grad_target, grad_tril = gradients
    batch, dims, points = target.shape
    total, components = batch * points, logits.shape[1]
    scales, groups = scale.shape[1] // components, 1 if mask is None else mask.shape[1]
    entries = 0 if tril is None else tril.shape[1] // components
    own = entries > block_size * (block_size - 1) // 2 or block_size == dims
    # Pairs take the registers' way where their scales come in an order of their own: both dimensions' scales are one,
    # or neighbours.
    pairs = block_size == 2 and (scales % 2 == 0 or scales == 1 if interleaved else dims // scales % 2 == 0)
    unit = 2 if pairs else 1
    together = 2 if pairs and interleaved and scales > 1 else 1
    first, step = (together, scales) if interleaved else (dims // scales, unit)
    step = max(step, unit)
    rows, wide = padded(components), index is None and loc.stride(2) == 1
    # As many neighbouring positions a thread as make 16 bytes of a planar channel, or half of them where only then the
    # residuals stay in registers; one where positions do not lie side by side: more programs then share the waiting.
    widest = 16 // max(loc.element_size(), 4) if wide else 1
    words = (dims + 2 * scales + (entries if pairs else 0)) * max(loc.element_size(), 4) // 4
    room = _kept_words(loc, mask, tril, family)
    fitting = [each for each in (widest, widest // 2) if each > 0 and words * max(each, rows // 8) <= room]
    keep = any(each is not None for each in gradients) and (pairs or block_size == 1) and len(fitting) > 0
    block = max(32 * _WARPS * (fitting[0] if keep else widest) // rows, 16)

    observed = (*(mask, *strides(mask, 3)), *(weight, *strides(weight, 2)), *(index, *strides(index, 2)))
    observed = (*observed, assigned, *strides(assigned, 2))
    observed_weight = finished = None
    if reduction == "mean" and any(each is not None for each in (mask, weight, index, assigned)):
        observed_weight = loc.new_empty(COUNTERS, dtype=torch.float64)
        finished = loc.new_empty(1, dtype=torch.int32)
        rounds = triton.cdiv(total, COUNTERS * _COUNTED)
        wrap_triton(observed_weight_kernel)[(COUNTERS,)](
            *observed, observed_weight, finished, total, points, rounds, G=groups, BLOCK=_COUNTED
        )
    programs = triton.cdiv(total, block)
    summed = loss is not None and reduction != "none"
    partial = loc.new_empty(programs, dtype=torch.float64) if summed else None
    made = families.with_parameter(family, family_parameter)
    if total > 0:
        wrap_triton(mixture_nll_kernel)[(programs,)](
            *(logits, *logits.stride(), loc, *loc.stride(), scale, *scale.stride(), target, *target.stride()),
            *(tril, *strides(tril, 3), *observed, dim_scale, *strides(dim_scale, 1)),
            # The bits of the double: a number among a kernel's arguments would be rounded to float32.
            *struct.unpack("q", struct.pack("d", float(temperature))),
            *(observed_weight, partial, finished, loss, loss if reduction == "none" else None),
            *(posterior, *strides(posterior, 3)),
            *(grad_logits, *strides(grad_logits, 3), grad_loc, *strides(grad_loc, 3)),
            *(grad_scale, *strides(grad_scale, 3), grad_target, *strides(grad_target, 3)),
            *(grad_tril, *strides(grad_tril, 3)),
            *(total, points, programs),
            M=components,
            C=dims,
            S=scales,
            G=groups,
            D=block_size,
            Q=entries,
            OWN=own,
            INTERLEAVED=interleaved,
            UNIT=unit,
            R=together,
            FIRST=first,
            STEP=step,
            FAMILY=family,
            family_parameter=family_parameter,
            family_constant=made.constant,
            LOG_SIGMA=made.log_sigma,
            value_of_pull=VALUE_OF_PULL.get(family, 0.0),
            ACTIVATION=scale_activation,
            min_scale=min_scale,
            MEAN=reduction == "mean",
            ASSIGN=assign,
            TEMPERED=temperature != 1,
            POWER=power,
            LOC_FACTOR=loc_factor,
            SCALE_FACTOR=scale_factor,
            NATURAL=natural,
            KEEP=keep,
            COUNTERS=COUNTERS,
            CHUNK=CHUNK,
            ROWS=rows,
            BLOCK=block,
            NEIGHBOURS=min(32 // loc.element_size(), block) if wide else 1,
            num_warps=_WARPS,
        )
    if loss is not None and partial is not None and (finished is None or total == 0):
        write_total(partial, observed_weight, total if reduction == "mean" else 1, loss)


@op(
    "mixture_nll",
    "(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? tril, Tensor? mask, Tensor? weight, "
    "Tensor? index, Tensor? dim_scale, Tensor? assigned, str family, float family_parameter, str scale_activation, "
    "float min_scale, bool interleaved, int block_size, str assign, float temperature, float gradient_power, "
    "float loc_factor, float scale_factor, bool natural, str reduction, bool parameter_gradients, "
    "bool target_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _mixture_nll(*arguments: Any) -> autograd.Loss:
    outputs = autograd.mixture_nll_outputs(*arguments)
    tensors, density, objective = arguments[:10], arguments[10:16], arguments[16:22]
    reduction, parameter_gradients, target_gradient = arguments[22:]
    logits, loc, scale, target, tril = tensors[:5]
    block_size = density[-1]
    loss, grad_logits, grad_loc, grad_scale, grad_target, grad_tril = outputs
    of_parameters: tuple[Tensor | None, ...] = (None, None, None, None)
    if parameter_gradients:
        of_parameters = (grad_logits, grad_loc, grad_scale, None if tril is None else grad_tril)
    elif target_gradient and block_size > 1:
        # The slopes of correlated dimensions go through the gradient of loc, which is made, with the others, for this.
        points = target.shape[2]
        of_parameters = tuple(
            None if each is None else loss.new_empty(each.shape[0], each.shape[1], points)
            for each in (logits, loc, scale, tril)
        )
    *first, last = of_parameters
    _launch(
        tensors,
        density,
        objective,
        reduction=reduction,
        gradients=(*first, grad_target if target_gradient else None, last),
        loss=loss,
        posterior=None,
    )
    return outputs


@op("scatter_points", "(Tensor values, Tensor index, SymInt positions) -> Tensor")
def _scatter_points(values: Tensor, index: Tensor, positions: int) -> Tensor:
    """Add points as patches of one cell, on a map of one row."""
    maps = values.new_zeros(*values.shape[:2], positions)
    add_patches(values.transpose(1, 2), index, maps.unsqueeze(2), 1)
    return maps


@op(
    "mixture_posterior",
    "(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? tril, Tensor? mask, Tensor? index, "
    "Tensor? dim_scale, str family, float family_parameter, str scale_activation, float min_scale, bool interleaved, "
    "int block_size, float temperature) -> Tensor",
)
def _mixture_posterior(*arguments: Any) -> Tensor:
    posterior = autograd.mixture_posterior_output(*arguments)
    *tensors, index, dim_scale = arguments[:8]
    density, temperature = arguments[8:14], arguments[14]
    _launch(
        (*tensors, None, index, dim_scale, None),
        density,
        Objective(temperature=temperature).options,
        reduction="none",
        gradients=(None,) * 5,
        loss=None,
        posterior=posterior,
    )
    return posterior


autograd.register(NAMESPACE, "triton")
mixture_posterior: Callable[..., Tensor] = partial(autograd.mixture_posterior, NAMESPACE)
mixture_nll: Callable[..., Tensor] = partial(autograd.mixture_nll, NAMESPACE)
