"""Every op within the rest of torch: opcheck, compile, export, autocast, torch.func, double backward, DDP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mdnkernels
from mdnkernels import native
from tests.ops.agreement import factors_for, outputs_of, results, weighted_sum
from tests.ops.table import REPRESENTATIVES, Call, Variant

M, C = 3, 2
BACKENDS = ["native", "eager"]
SIZES = [(7, 9), (8, 11), (13, 6), (31, 12)]
REDUCED_OTHERWISE = {"reduction", "points"}
DIFFERENTIABLE = [variant for variant in REPRESENTATIVES if variant.differentiable]
# The mean over a map: the gradient from above is 1.
WITH_A_LOSS = [one for one in DIFFERENTIABLE if one.entry.fused_gradient and not one.options.keys() & REDUCED_OTHERWISE]
every_variant = pytest.mark.parametrize("variant", REPRESENTATIVES, ids=str)
every_differentiable_variant = pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)


def given(variant: Variant) -> list[str]:
    """Return the differentiable arguments that the variant has."""
    arguments = variant.leaves()
    return [name for name in variant.differentiable if name in arguments]


needs_native = pytest.mark.skipif(native.problem is not None, reason=str(native.problem))


def tensors_of(arguments: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in arguments.items() if isinstance(value, Tensor)}


def outputs_and_gradients(
    variant: Variant, arguments: dict[str, Any], function: Callable[..., Any] | None = None
) -> list[Tensor]:
    """Return what `function`, the variant's own by default, gives for these arguments, and their gradients."""
    outputs, gradients = results(Call(variant.entry, arguments), function)
    return [*outputs, *gradients]


def assert_all_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-6)


class Recorder(TorchDispatchMode):
    """The native ops that are called, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "mdnkernels":
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


@needs_native
@every_variant
def test_every_native_op_of_a_call_and_of_its_backward_passes_opcheck(variant: Variant):
    with mdnkernels.use_backend("native"), Recorder() as recorder:
        outputs_and_gradients(variant, variant.leaves())
    assert recorder.calls
    for op, arguments in recorder.calls:
        leaves = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments]
        torch.library.opcheck(op, tuple(leaves))


@pytest.mark.parametrize("backend", ["native", pytest.param("eager", marks=pytest.mark.slow)])
@every_variant
def test_one_compiled_graph_serves_all_sizes(backend: str, variant: Variant):
    """Not through inductor, whose minutes the tests of each op spend: what ties a graph to a size comes before it."""
    torch.compiler.reset()
    compiled = torch.compile(variant.function, fullgraph=True, dynamic=True, backend="aot_eager")
    with mdnkernels.use_backend(backend):
        for i, size in enumerate(SIZES):
            arguments = variant.leaves(size, batch=2 + i)
            expected = outputs_and_gradients(variant, arguments)
            # Integers are taken for constants at the first call, and for numbers that vary at the second.
            with torch.compiler.set_stance("fail_on_recompile") if i > 1 else nullcontext():
                assert_all_close(outputs_and_gradients(variant, arguments, compiled), expected)


class Exportable(nn.Module):
    """A call as a module of its tensors; everything else is constant."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.function, arguments = variant.function, variant.leaves()
        self.constants = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
        self.names = list(tensors_of(arguments))

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        return outputs_of(self.function(**dict(zip(self.names, tensors, strict=True)), **self.constants))


def dynamic_shapes(variant: Variant) -> tuple[dict[int, Any], ...]:
    """Return what changes of batch, map and number of points, from one call to another of other sizes of each."""
    sizes = {"batch": (2, 3), "height": (7, 5), "width": (9, 8), "points": (16, 13)}
    dims = {pair: torch.export.Dim(name, min=2) for name, pair in sizes.items()}
    calls = [variant.leaves((sizes["height"][i], sizes["width"][i]), batch=sizes["batch"][i]) for i in range(2)]
    return tuple(
        {axis: dims[pair] for axis, pair in enumerate(zip(one.shape, other.shape, strict=True)) if pair[0] != pair[1]}
        for one, other in zip(*(tensors_of(call).values() for call in calls), strict=True)
    )


@pytest.mark.parametrize("backend", ["native", pytest.param("eager", marks=pytest.mark.slow)])
@every_variant
def test_an_exported_graph_serves_all_sizes(backend: str, variant: Variant):
    module, example = Exportable(variant), tensors_of(variant.leaves())
    other_size = SIZES[0] if "size" in module.constants else SIZES[2]  # a size given as numbers is a constant
    with mdnkernels.use_backend(backend):
        exported = torch.export.export(module, tuple(example.values()), dynamic_shapes=(dynamic_shapes(variant),))
        others = tensors_of(variant.leaves(other_size, batch=5, seed=1))
        assert_all_close(exported.module()(*others.values()), module(*others.values()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_variant
def test_autocast_changes_nothing_inside_an_op(backend: str, dtype: torch.dtype, variant: Variant):
    """Inputs come as autocast left them; arithmetic stays in at least float32."""
    arguments = variant.leaves(dtype=dtype)
    with mdnkernels.use_backend(backend):
        expected = outputs_and_gradients(variant, arguments)
        with torch.autocast("cpu", torch.bfloat16):
            actual = outputs_of(variant.function(**arguments))
        for a, e in zip(actual, expected, strict=False):
            assert a.dtype == e.dtype
            assert torch.equal(a, e)
        if variant.differentiable:
            leaves = [arguments[name] for name in given(variant)]
            gradients = torch.autograd.grad(weighted_sum(actual), leaves, allow_unused=True)
            for gradient, e in zip(gradients, expected[len(actual) :], strict=True):
                assert gradient is None or torch.equal(gradient, e)


@every_variant
def test_vmap_gives_what_a_loop_gives_and_its_gradients(variant: Variant):
    """Masks, indices and checks of their range included."""
    sets = [variant.leaves(seed=seed) for seed in range(3)]
    constants = {name: value for name, value in sets[0].items() if not isinstance(value, Tensor)}
    stacked = {name: torch.stack([tensors_of(each)[name] for each in sets]) for name in tensors_of(sets[0])}
    leaves = [stacked[name].requires_grad_() for name in given(variant)]
    mapped = torch.func.vmap(lambda tensors: tuple(outputs_of(variant.function(**tensors, **constants))))(stacked)
    with mdnkernels.use_backend("eager"):
        each = [outputs_of(variant.function(**{n: v[i] for n, v in stacked.items()}, **constants)) for i in range(3)]
    expected = [torch.stack(values) for values in zip(*each, strict=True)]
    assert_all_close(list(mapped), expected)
    if leaves:
        actual, wanted = (
            torch.autograd.grad(weighted_sum(list(r)), leaves, allow_unused=True) for r in (mapped, expected)
        )
        assert_all_close([g for g in actual if g is not None], [g for g in wanted if g is not None])


def test_vmap_still_refuses_an_index_out_of_range():
    index = torch.tensor([[[3]], [[20]]])
    with pytest.raises(IndexError, match="index must lie in"):
        torch.func.vmap(mdnkernels.gather_patches)(torch.zeros(2, 1, 1, 4, 5), index)


@needs_native
@every_variant
def test_native_within_a_transform_is_refused_where_it_is_asked_for(variant: Variant):
    tensors = {name: value.unsqueeze(0) for name, value in tensors_of(variant.leaves()).items()}
    constants = {name: value for name, value in variant.leaves().items() if not isinstance(value, Tensor)}
    with mdnkernels.use_backend("native"), pytest.raises(RuntimeError, match=r"torch\.func transforms .* only eager"):
        torch.func.vmap(lambda values: tuple(outputs_of(variant.function(**values, **constants))))(tensors)


@every_differentiable_variant
def test_torch_func_grad_is_the_gradient(variant: Variant):
    arguments, name = variant.leaves(), given(variant)[-1]
    detached = {key: value.detach() if isinstance(value, Tensor) else value for key, value in arguments.items()}

    def total(value: Tensor) -> Tensor:
        outputs = outputs_of(variant.function(**{**detached, name: value}))
        return torch.stack([output.sum() for output in outputs if output.is_floating_point()]).sum()

    leaf = detached[name].clone().requires_grad_()
    assert_all_close([torch.func.grad(total)(detached[name])], [torch.autograd.grad(total(leaf), leaf)[0]])


@every_differentiable_variant
def test_forward_mode_gives_the_derivative_that_reverse_mode_gives(variant: Variant):
    """By default: for the fused backends it is eager that runs, since they have no forward-mode rules."""
    arguments, name = variant.leaves(dtype=torch.float64), given(variant)[-1]
    leaf = arguments[name]
    direction = torch.linspace(-1, 1, leaf.numel(), dtype=torch.float64).view(leaf.shape)
    outputs = outputs_of(variant.function(**arguments))
    expected = torch.autograd.grad(weighted_sum(outputs), leaf, allow_unused=True)[0]
    expected = 0.0 if expected is None else (expected * direction).sum().item()
    plain = {key: value.detach() if isinstance(value, Tensor) else value for key, value in arguments.items()}
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(leaf.detach(), direction)
        duals = outputs_of(variant.function(**{**plain, name: dual}))
        tangents = [forward_ad.unpack_dual(value).tangent for value in duals]
        actual = sum((tangent * factors_for(tangent)).sum().item() for tangent in tangents if tangent is not None)
    assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)


@needs_native
@every_differentiable_variant
def test_forward_mode_of_a_fused_backend_is_refused_where_that_is_asked_for(variant: Variant):
    arguments = {key: value.detach() if isinstance(value, Tensor) else value for key, value in variant.leaves().items()}
    with mdnkernels.use_backend("native"), forward_ad.dual_level():
        variant.function(**arguments)  # no tangent: nothing to refuse
        for name in given(variant):
            dual = forward_ad.make_dual(arguments[name], torch.ones_like(arguments[name]))
            with pytest.raises(NotImplementedError, match="'native' was asked for, but for forward-mode derivatives"):
                variant.function(**{**arguments, name: dual})


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # an op batch by batch
@pytest.mark.parametrize("vectorised", ["is_grads_batched", "vmap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@needs_native
@every_differentiable_variant
def test_batched_gradients_are_those_of_one_call_after_the_other(variant: Variant, dtype: torch.dtype, vectorised: str):
    arguments = variant.leaves(dtype=dtype)
    leaves = [arguments[name] for name in given(variant)]
    with mdnkernels.use_backend("native"):
        for output in outputs_of(variant.function(**arguments)):
            if not output.requires_grad:
                continue
            generator = torch.Generator().manual_seed(0)
            rows = torch.randn(3, *output.shape, generator=generator).to(output.dtype)

            def gradients(row: Tensor, output: Tensor = output, **options: Any) -> list[Tensor]:
                found = torch.autograd.grad(output, leaves, row, retain_graph=True, allow_unused=True, **options)
                return [gradient for gradient in found if gradient is not None]

            each = [torch.stack(values) for values in zip(*map(gradients, rows), strict=True)]
            if vectorised == "vmap":
                together = list(torch.func.vmap(gradients)(rows))
            else:
                together = gradients(rows, is_grads_batched=True)
            torch.testing.assert_close(together, each)


@needs_native
@every_differentiable_variant
def test_a_kept_graph_gives_its_gradient_again_whatever_became_of_the_first(variant: Variant):
    """Clipping, hooks and old code write to a gradient in place, through .data and numpy unseen by autograd."""
    with mdnkernels.use_backend("native"):
        arguments = variant.leaves()
        leaves = [arguments[name] for name in given(variant)]
        outputs = [value for value in outputs_of(variant.function(**arguments)) if value.requires_grad]
        ones = [torch.ones_like(value) for value in outputs]
        first = torch.autograd.grad(outputs, leaves, ones, retain_graph=True)
        expected = [gradient.clone() for gradient in first]
        for i, gradient in enumerate(first):
            if i % 2:
                gradient.data.zero_()
            else:
                gradient.mul_(0.5)
        for keep in (True, False):
            again = torch.autograd.grad(outputs, leaves, ones, retain_graph=keep)
            for gradient, wanted in zip(again, expected, strict=True):
                assert torch.equal(gradient, wanted)
                gradient.fill_(3.0)


class Counter(TorchDispatchMode):
    """Bytes of the results of all ops but views."""

    made = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.made += sum(value.nbytes for value in tree_leaves(result) if isinstance(value, Tensor))
        return result


@needs_native
@pytest.mark.parametrize("variant", WITH_A_LOSS, ids=str)
def test_the_backward_pass_of_an_ordinary_step_makes_no_copy_of_the_gradients(variant: Variant):
    with mdnkernels.use_backend("native"):
        arguments = variant.leaves(size=(40, 50))
        loss = variant.function(**arguments)
        with Counter() as kept:
            loss.backward(retain_graph=True)
        for name in given(variant):
            arguments[name].grad = None
        with Counter() as ordinary:
            loss.backward()
    assert ordinary.made < 1000 < kept.made


@needs_native
@every_differentiable_variant
def test_second_derivatives_are_eagers_or_are_refused(variant: Variant):
    arguments = variant.leaves(dtype=torch.float64)
    leaves = [arguments[name] for name in given(variant)]

    def first(function: Callable[..., Any]) -> list[Tensor]:
        gradients = torch.autograd.grad(
            weighted_sum(outputs_of(function(**arguments))), leaves, create_graph=True, allow_unused=True
        )
        return [gradient for gradient in gradients if gradient is not None]

    with mdnkernels.use_backend("eager"):
        expected = first(variant.function)
    with mdnkernels.use_backend("native"):
        if variant.entry.linear:  # its second derivative is 0, through an op of its own
            assert_all_close(first(variant.function), expected)
        else:
            with pytest.raises(NotImplementedError, match=r'differentiable once.*use_backend."eager".'):
                first(variant.function)


@needs_native
@every_differentiable_variant
def test_a_graph_traced_without_gradients_refuses_to_train_or_trains(variant: Variant):
    """What it must not do is to give no gradient, or zeros, without a word."""
    module, example = Exportable(variant), tensors_of(variant.leaves())
    exported = torch.export.export(module, tuple(example.values())).module()
    arguments = {name: value.requires_grad_(name in variant.differentiable) for name, value in example.items()}
    leaves = [arguments[name] for name in given(variant)]
    total = weighted_sum(exported(*arguments.values()))
    wanted = torch.autograd.grad(weighted_sum(module(*arguments.values())), leaves, allow_unused=True)
    if variant.entry.fused_gradient:  # its graph holds no gradient
        with pytest.raises(RuntimeError, match="required no gradient"):
            torch.autograd.grad(total, leaves, allow_unused=True)
    else:
        actual = torch.autograd.grad(total, leaves, allow_unused=True)
        assert_all_close([g for g in actual if g is not None], [g for g in wanted if g is not None])


class Regressor(nn.Module):
    """A convolution that predicts a mixture, with its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, M + 2 * M * C, 1)

    def forward(self, features: torch.Tensor, target: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        logits, loc, scale = self.head(features).split([M, M * C, M * C], dim=1)
        return mdnkernels.mixture_nll(logits, loc, scale, target, reduction=reduction)


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 4, 5, 6, generator=generator), torch.randn(size, C, 5, 6, generator=generator)


def test_under_autocast_half_precision_outputs_meet_a_float32_target():
    torch.manual_seed(0)
    model, (features, target) = Regressor(), batch(3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(features, target)
    assert loss.dtype == torch.float32
    loss.backward()
    gradient = model.head.weight.grad.clone()
    model.zero_grad()
    expected = model(features, target)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    torch.testing.assert_close(gradient, model.head.weight.grad, rtol=0, atol=2e-2 * gradient.abs().max().item())


def _train_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Regressor())
    features, target = (value[2 * rank : 2 * rank + 2] for value in batch(4))
    model(features, target).backward()
    if rank == 0:
        torch.save([parameter.grad for parameter in model.parameters()], Path(folder) / "gradients.pt")
    torch.distributed.destroy_process_group()


def test_two_data_parallel_processes_have_the_gradients_of_one(tmp_path: Path):
    torch.multiprocessing.spawn(_train_rank, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    model = Regressor()
    model(*batch(4)).backward()
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for actual, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(actual, parameter.grad, rtol=1e-5, atol=1e-7)
