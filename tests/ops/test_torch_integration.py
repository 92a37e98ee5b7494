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
from tests.ops.calls import CALLS, DIFFERENTIABLE, Call, outputs_and_gradients, outputs_of, weighted_sum

M, C = 3, 2
BACKENDS = ["native", "eager"]
SIZES = [(7, 9), (8, 11), (13, 6), (31, 12)]
FACTOR_ONE = ("mixture_nll dense", "mixture_nll sparse", "heatmap_focal_loss")  # whose output is a loss
every_call = pytest.mark.parametrize("call", CALLS, ids=str)
every_differentiable_call = pytest.mark.parametrize("call", DIFFERENTIABLE, ids=str)
needs_native = pytest.mark.skipif(native.problem is not None, reason=str(native.problem))


def tensors_of(arguments: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in arguments.items() if isinstance(value, Tensor)}


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
@every_call
def test_every_native_op_of_a_call_and_of_its_backward_passes_opcheck(call: Call):
    with mdnkernels.use_backend("native"), Recorder() as recorder:
        outputs_and_gradients(call, call.arguments())
    assert recorder.calls
    for op, arguments in recorder.calls:
        leaves = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments]
        torch.library.opcheck(op, tuple(leaves))


@pytest.mark.parametrize("backend", ["native", pytest.param("eager", marks=pytest.mark.slow)])
@every_call
def test_one_compiled_graph_serves_all_sizes(backend: str, call: Call):
    """Not through inductor, whose minutes the tests of each op spend: what ties a graph to a size comes before it."""
    torch.compiler.reset()
    compiled = torch.compile(call.function, fullgraph=True, dynamic=True, backend="aot_eager")
    with mdnkernels.use_backend(backend):
        for i, size in enumerate(SIZES):
            arguments = call.arguments(size, batch=2 + i)
            expected = outputs_and_gradients(call, arguments)
            # Integers are taken for constants at the first call, and for numbers that vary at the second.
            with torch.compiler.set_stance("fail_on_recompile") if i > 1 else nullcontext():
                assert_all_close(outputs_and_gradients(call, arguments, compiled), expected)


class Exportable(nn.Module):
    """A call as a module of its tensors; everything else is constant."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.function, arguments = call.function, call.arguments()
        self.constants = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
        self.names = list(tensors_of(arguments))

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        return outputs_of(self.function(**dict(zip(self.names, tensors, strict=True)), **self.constants))


def dynamic_shapes(tensors: dict[str, Tensor]) -> tuple[dict[int, Any], ...]:
    """Batch, map and number of points may all change."""
    dim = {name: torch.export.Dim(name, min=2) for name in ("batch", "height", "width", "points")}
    shapes: dict[str, dict[int, Any]] = {}
    for name, value in tensors.items():
        if name == "dim_scale":
            shapes[name] = {}
        elif name in ("index", "center", "radius", "label"):
            shapes[name] = {0: dim["batch"], 1: dim["points"]}
        elif value.ndim == 3 and name == "target":
            shapes[name] = {0: dim["batch"], 2: dim["points"]}
        else:
            shapes[name] = {0: dim["batch"], value.ndim - 2: dim["height"], value.ndim - 1: dim["width"]}
    return tuple(shapes.values())


@pytest.mark.parametrize("backend", ["native", pytest.param("eager", marks=pytest.mark.slow)])
@every_call
def test_an_exported_graph_serves_all_sizes(backend: str, call: Call):
    module, example = Exportable(call), tensors_of(call.arguments())
    other_size = SIZES[0] if "size" in module.constants else SIZES[2]  # a size given as numbers is a constant
    with mdnkernels.use_backend(backend):
        exported = torch.export.export(module, tuple(example.values()), dynamic_shapes=(dynamic_shapes(example),))
        others = tensors_of(call.arguments(other_size, batch=5, seed=1))
        assert_all_close(exported.module()(*others.values()), module(*others.values()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_call
def test_autocast_changes_nothing_inside_an_op(backend: str, dtype: torch.dtype, call: Call):
    """Inputs come as autocast left them; arithmetic stays in at least float32."""
    arguments = call.arguments(dtype=dtype)
    with mdnkernels.use_backend(backend):
        expected = outputs_and_gradients(call, arguments)
        with torch.autocast("cpu", torch.bfloat16):
            actual = outputs_of(call.function(**arguments))
        for a, e in zip(actual, expected, strict=False):
            assert a.dtype == e.dtype
            assert torch.equal(a, e)
        if call.differentiable:
            leaves = [arguments[name] for name in call.differentiable]
            gradients = torch.autograd.grad(weighted_sum(actual), leaves, allow_unused=True)
            for gradient, e in zip(gradients, expected[len(actual) :], strict=True):
                assert gradient is None or torch.equal(gradient, e)


@every_call
def test_vmap_gives_what_a_loop_gives_and_its_gradients(call: Call):
    """Masks, indices and checks of their range included."""
    sets = [call.arguments(seed=seed) for seed in range(3)]
    constants = {name: value for name, value in sets[0].items() if not isinstance(value, Tensor)}
    stacked = {name: torch.stack([tensors_of(each)[name] for each in sets]) for name in tensors_of(sets[0])}
    leaves = [stacked[name].requires_grad_() for name in call.differentiable]
    mapped = torch.func.vmap(lambda tensors: tuple(outputs_of(call.function(**tensors, **constants))))(stacked)
    with mdnkernels.use_backend("eager"):
        each = [outputs_of(call.function(**{n: v[i] for n, v in stacked.items()}, **constants)) for i in range(3)]
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
@every_call
def test_native_within_a_transform_is_refused_where_it_is_asked_for(call: Call):
    tensors = {name: value.unsqueeze(0) for name, value in tensors_of(call.arguments()).items()}
    constants = {name: value for name, value in call.arguments().items() if not isinstance(value, Tensor)}
    with mdnkernels.use_backend("native"), pytest.raises(RuntimeError, match=r"torch\.func transforms .* only eager"):
        torch.func.vmap(lambda values: tuple(outputs_of(call.function(**values, **constants))))(tensors)


@every_differentiable_call
def test_torch_func_grad_is_the_gradient(call: Call):
    arguments, name = call.arguments(), call.differentiable[-1]
    detached = {key: value.detach() if isinstance(value, Tensor) else value for key, value in arguments.items()}

    def total(value: Tensor) -> Tensor:
        outputs = outputs_of(call.function(**{**detached, name: value}))
        return torch.stack([output.sum() for output in outputs if output.is_floating_point()]).sum()

    leaf = detached[name].clone().requires_grad_()
    assert_all_close([torch.func.grad(total)(detached[name])], [torch.autograd.grad(total(leaf), leaf)[0]])


@every_differentiable_call
def test_forward_mode_gives_the_derivative_that_reverse_mode_gives(call: Call):
    """By default: for the fused backends it is eager that runs, since they have no forward-mode rules."""
    arguments, name = call.arguments(dtype=torch.float64), call.differentiable[-1]
    leaf = arguments[name]
    direction = torch.linspace(-1, 1, leaf.numel(), dtype=torch.float64).view(leaf.shape)
    outputs = outputs_of(call.function(**arguments))
    expected = torch.autograd.grad(weighted_sum(outputs), leaf, allow_unused=True)[0]
    expected = 0.0 if expected is None else (expected * direction).sum().item()
    plain = {key: value.detach() if isinstance(value, Tensor) else value for key, value in arguments.items()}
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(leaf.detach(), direction)
        duals = outputs_of(call.function(**{**plain, name: dual}))
        tangents = [forward_ad.unpack_dual(value).tangent for value in duals]
        actual = sum(
            (tangent * torch.linspace(0.5, 1.5, tangent.numel(), dtype=torch.float64).view(tangent.shape)).sum().item()
            for tangent in tangents
            if tangent is not None
        )
    assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)


@needs_native
@every_differentiable_call
def test_forward_mode_of_a_fused_backend_is_refused_where_that_is_asked_for(call: Call):
    arguments = {key: value.detach() if isinstance(value, Tensor) else value for key, value in call.arguments().items()}
    with mdnkernels.use_backend("native"), forward_ad.dual_level():
        call.function(**arguments)  # no tangent: nothing to refuse
        for name in call.differentiable:
            dual = forward_ad.make_dual(arguments[name], torch.ones_like(arguments[name]))
            with pytest.raises(NotImplementedError, match="'native' was asked for, but for forward-mode derivatives"):
                call.function(**{**arguments, name: dual})


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # an op batch by batch
@pytest.mark.parametrize("vectorised", ["is_grads_batched", "vmap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@needs_native
@every_differentiable_call
def test_batched_gradients_are_those_of_one_call_after_the_other(call: Call, dtype: torch.dtype, vectorised: str):
    arguments = call.arguments(dtype=dtype)
    leaves = [arguments[name] for name in call.differentiable]
    with mdnkernels.use_backend("native"):
        for output in outputs_of(call.function(**arguments)):
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
@every_differentiable_call
def test_a_kept_graph_gives_its_gradient_again_whatever_became_of_the_first(call: Call):
    """Clipping, hooks and old code write to a gradient in place, through .data and numpy unseen by autograd."""
    with mdnkernels.use_backend("native"):
        arguments = call.arguments()
        leaves = [arguments[name] for name in call.differentiable]
        outputs = [value for value in outputs_of(call.function(**arguments)) if value.requires_grad]
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
@pytest.mark.parametrize("call", [each for each in DIFFERENTIABLE if each.name in FACTOR_ONE], ids=str)
def test_the_backward_pass_of_an_ordinary_step_makes_no_copy_of_the_gradients(call: Call):
    with mdnkernels.use_backend("native"):
        arguments = call.arguments(size=(40, 50))
        loss = call.function(**arguments)
        with Counter() as kept:
            loss.backward(retain_graph=True)
        for name in call.differentiable:
            arguments[name].grad = None
        with Counter() as ordinary:
            loss.backward()
    assert ordinary.made < 1000 < kept.made


@needs_native
@every_differentiable_call
def test_second_derivatives_are_eagers_or_are_refused(call: Call):
    arguments = call.arguments(dtype=torch.float64)
    leaves = [arguments[name] for name in call.differentiable]

    def first(function: Callable[..., Any]) -> list[Tensor]:
        gradients = torch.autograd.grad(
            weighted_sum(outputs_of(function(**arguments))), leaves, create_graph=True, allow_unused=True
        )
        return [gradient for gradient in gradients if gradient is not None]

    with mdnkernels.use_backend("eager"):
        expected = first(call.function)
    with mdnkernels.use_backend("native"):
        if call.function is mdnkernels.gather_patches:  # linear: its second derivative is 0, through an op of its own
            assert_all_close(first(call.function), expected)
        else:
            with pytest.raises(NotImplementedError, match=r'differentiable once.*use_backend."eager".'):
                first(call.function)


@needs_native
@every_differentiable_call
def test_a_graph_traced_without_gradients_refuses_to_train_or_trains(call: Call):
    """What it must not do is to give no gradient, or zeros, without a word."""
    module, example = Exportable(call), tensors_of(call.arguments())
    exported = torch.export.export(module, tuple(example.values())).module()
    arguments = {name: value.requires_grad_(name in call.differentiable) for name, value in example.items()}
    leaves = [arguments[name] for name in call.differentiable]
    total = weighted_sum(exported(*arguments.values()))
    wanted = torch.autograd.grad(weighted_sum(module(*arguments.values())), leaves, allow_unused=True)
    if call.function in (mdnkernels.mixture_nll, mdnkernels.heatmap_focal_loss):  # their graph holds no gradient
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
