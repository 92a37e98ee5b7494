"""Channels anywhere, targets without a channel, one mixture for many points: a plain call's numbers, in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mdnkernels
from mdnkernels import backends, mixture_mode, mixture_nll, mixture_posterior
from tests.ops.backends import BACKENDS, on, skip_where_missing

M, C, D, G = 3, 4, 2, 2
OPTIONS: dict[str, Any] = {"scale_order": "blocks", "block_size": D}
CHANNELS = {"logits": M, "loc": M * C, "scale": M * 2, "tril": M * 2, "target": C}


def drawn(*positions: int, batch: int = 2, **changed: tuple[int, ...]) -> dict[str, Tensor]:
    """Draw a call's tensors (B, K, *P); `changed` gives a tensor another (B, *P)."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, channels in CHANNELS.items():
        first, *others = changed.get(name, (batch, *positions))
        made[name] = torch.randn(first, channels, *others, generator=generator, dtype=torch.float64)
    made["mask"] = torch.rand(batch, G, *positions, generator=generator) < 0.7
    return made


def elsewhere(call: dict[str, Tensor], dim: int) -> dict[str, Tensor]:
    """Return the same numbers, laid out in memory with their channels in dimension `dim`."""
    return {name: value.movedim(1, dim).contiguous() for name, value in call.items()}


def leaves(call: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone().requires_grad_(value.is_floating_point()) for name, value in call.items()}


def received(monkeypatch: pytest.MonkeyPatch, op: str) -> list[Tensor]:
    """Return a list that will hold the tensors that the native backend of `op` is called with."""
    seen: list[Tensor] = []
    native = backends.TABLE[op]["native"]

    def spy(*arguments: Any) -> Any:
        seen.extend(value for value in arguments if isinstance(value, Tensor))
        return native(*arguments)

    monkeypatch.setitem(backends.TABLE[op], "native", spy)
    return seen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("positions", "dim"), [((7,), -1), ((5, 6), -1), ((5, 6), 2), ((), -1)], ids=str)
def test_channels_elsewhere_give_the_loss_and_gradients_of_channels_first(
    backend: str, positions: tuple[int, ...], dim: int
) -> None:
    skip_where_missing("mixture_nll", backend)
    plain = leaves(drawn(*positions))
    moved = leaves(elsewhere(drawn(*positions), dim))
    weight = torch.rand(2, *positions, dtype=torch.float64)
    with on(backend):
        expected = mixture_nll(**plain, weight=weight, reduction="none", **OPTIONS)
        given = mixture_nll(**moved, weight=weight, reduction="none", dim=dim, **OPTIONS)
        expected.sum().backward()
        given.sum().backward()
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
    for name in ("logits", "loc", "scale", "tril", "target"):
        torch.testing.assert_close(moved[name].grad, plain[name].grad.movedim(1, dim), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("positions", "dim"), [((7,), -1), ((5, 6), 2)], ids=str)
def test_posterior_and_mode_come_with_their_channels_where_those_of_the_mixture_are(
    backend: str, positions: tuple[int, ...], dim: int
) -> None:
    skip_where_missing("mixture_posterior", backend)
    plain = drawn(*positions)
    moved = elsewhere(plain, dim)
    with on(backend):
        posterior = mixture_posterior(**moved, dim=dim, **OPTIONS)
        torch.testing.assert_close(posterior, mixture_posterior(**plain, **OPTIONS).movedim(1, dim))
        parameters = [plain[name] for name in ("logits", "loc", "scale")]
        there = [moved[name] for name in ("logits", "loc", "scale")]
        for select in ("weight", "mean"):
            mode = mixture_mode(*parameters, tril=plain["tril"], select=select, **OPTIONS)
            given = mixture_mode(*there, tril=moved["tril"], select=select, dim=dim, **OPTIONS)
            for name in ("loc", "scale", "tril", "variance"):
                of_channels = getattr(mode, name)
                expected = None if of_channels is None else of_channels.movedim(1, dim)
                torch.testing.assert_close(getattr(given, name), expected)
            assert torch.equal(given.component, mode.component)
            torch.testing.assert_close(given.weight, mode.weight)


def test_points_of_an_index_have_their_channels_last() -> None:
    plain = drawn(5, 6, target=(2, 4))
    del plain["mask"]
    index = torch.tensor([[3, -1, 29, 3], [0, 0, 11, -1]])
    moved = elsewhere(plain, -1)
    expected = mixture_nll(**plain, index=index, reduction="none", **OPTIONS)
    given = mixture_nll(**moved, index=index, reduction="none", dim=-1, **OPTIONS)
    assert given.shape == (2, 4)
    torch.testing.assert_close(given, expected)
    posterior = mixture_posterior(**moved, index=index, dim=-1, **OPTIONS)
    assert posterior.shape == (2, 4, M)
    mode = mixture_mode(moved["logits"], moved["loc"], index=index, dim=-1)
    assert mode.loc.shape == (2, 4, C)
    assert mode.component.shape == (2, 4)


@pytest.mark.parametrize(("positions", "dim"), [((7,), -1), ((5, 6), -1), ((5, 6), 2), ((), 1)], ids=str)
def test_tensors_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch, positions: tuple[int, ...], dim: int) -> None:
    call = elsewhere(drawn(*positions), dim)
    seen = received(monkeypatch, "mixture_nll")
    mixture_nll(**call, dim=dim, **OPTIONS)
    from mdnkernels.mixture.arguments import as_points

    addresses = {as_points(value, None).data_ptr() for value in seen if value.ndim > 2 or not positions}
    assert addresses == {value.data_ptr() for value in call.values()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [1, -1])
@pytest.mark.parametrize(
    "changed",
    [
        {name: (1, 1) for name in ("logits", "loc", "scale", "tril")},
        {"logits": (2, 1)},
        {"scale": (1, 7), "tril": (2, 1)},
    ],
    ids=["one mixture", "shared weights", "shared spread"],
)
def test_a_parameter_of_size_one_serves_all_points_and_gathers_their_gradients(
    backend: str, dim: int, changed: dict[str, tuple[int, ...]]
) -> None:
    skip_where_missing("mixture_nll", backend)
    small = drawn(7, **changed)
    call = leaves(elsewhere(small, dim))
    whole = leaves({name: value.expand(2, -1, 7).contiguous() for name, value in small.items()})
    with on(backend):
        given = mixture_nll(**call, dim=dim, **OPTIONS)
        expected = mixture_nll(**whole, **OPTIONS)
        given.backward()
        expected.backward()
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
    for name in ("logits", "loc", "scale", "tril"):
        gathered = whole[name].grad.sum_to_size(small[name].shape).movedim(1, dim)
        torch.testing.assert_close(call[name].grad, gathered, rtol=1e-12, atol=1e-12)


def test_one_mixture_is_not_copied_for_its_points(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = received(monkeypatch, "mixture_nll")
    loc = torch.randn(1, C, 1, 1)
    mixture_nll(torch.zeros(1, 1, 1, 1), loc, torch.zeros(1, C, 1, 1), torch.randn(3, C, 8, 8))
    assert seen[1].shape == (3, C, 8, 8)
    assert seen[1].stride() == (0, 1, 0, 0)
    assert seen[1].data_ptr() == loc.data_ptr()


@pytest.mark.parametrize("dim", [1, -1])
@pytest.mark.parametrize("positions", [(4, 5), ()], ids=str)
def test_a_target_of_one_dimension_needs_no_channel(dim: int, positions: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, loc, scale = (torch.randn(2, *positions, M, generator=generator).movedim(-1, dim) for _ in range(3))
    target = torch.randn(2, *positions, generator=generator)
    mask = torch.rand(2, *positions, generator=generator) < 0.5
    given = mixture_nll(logits, loc, scale, target, mask=mask, dim=dim)
    expected = mixture_nll(logits, loc, scale, target.unsqueeze(dim), mask=mask.unsqueeze(dim), dim=dim)
    assert torch.equal(given, expected)
    assert mixture_posterior(logits, loc, scale, target, mask=mask, dim=dim).shape == logits.shape


def test_a_mask_of_whole_positions_needs_no_channel() -> None:
    call = drawn(7)
    steps = torch.rand(2, 7) < 0.5
    expected = mixture_nll(**{**call, "mask": steps.unsqueeze(1)}, **OPTIONS)
    assert torch.equal(mixture_nll(**{**call, "mask": steps}, **OPTIONS), expected)


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        ({}, {"dim": 0}, ValueError, ["dim", "batch", "got 0"]),
        ({}, {"dim": 3}, ValueError, ["dim", "3 dimensions of logits", "got 3"]),
        ({}, {"dim": -3}, ValueError, ["dim", "got -3"]),
        ({}, {"dim": 1.0}, TypeError, ["dim must be an int, got float"]),
        ({"target": torch.zeros(2, 7).double()}, {}, ValueError, ["target", "(2, 4, 7)", "(2, 7)"]),
        ({"target": torch.zeros(2, 4, 1).double()}, {}, ValueError, ["target", "(2, 4, 7)", "(2, 4, 1)"]),
        ({"logits": torch.zeros(2, 3, 2).double()}, {}, ValueError, ["loc", "(2, 12, 2)", "(2, 12, 7)"]),
        ({"mask": torch.ones(2, 2, 1).bool()}, {}, ValueError, ["mask", "(2, 2, 7)", "(2, 2, 1)"]),
        ({}, {"dim": -1}, ValueError, ["loc", "(2, 7, 12)", "with the channels of dim=2 in dimension 1"]),
    ],
    ids=["batch", "beyond", "before", "float", "no channel of four", "one target", "other points", "one mask", "moved"],
)
def test_what_could_mean_something_else_is_refused_by_name(
    change: dict[str, Tensor], options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        mixture_nll(**{**drawn(7), **change}, **options, **OPTIONS)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_graphs_hold_it_without_a_break(dynamic: bool) -> None:
    call = elsewhere(drawn(7, logits=(2, 1), loc=(1, 1)), -1)

    def loss(**given: Tensor) -> Tensor:
        return mixture_nll(**given, dim=-1, **OPTIONS)

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    with_gradient, expected = leaves(call), leaves(call)
    compiled(**with_gradient).backward()
    loss(**expected).backward()
    for name in ("logits", "loc", "target"):
        torch.testing.assert_close(with_gradient[name].grad, expected[name].grad)


def test_spec_and_module_take_dim() -> None:
    call = drawn(7)
    moved = elsewhere(call, -1)
    spec = mdnkernels.MixtureSpec(M, C, scales=2, block_size=D, scale_order="blocks", dim=-1)
    expected = mixture_nll(**call, **OPTIONS)
    torch.testing.assert_close(spec.nll(**moved), expected)
    torch.testing.assert_close(mdnkernels.MixtureNLLLoss(dim=-1, **OPTIONS)(**moved), expected)
    with pytest.raises(ValueError, match=r"loc must be .*MixtureSpec.* in dimension -1, got shape \(2, 12, 7\)"):
        spec.nll(**{**moved, "loc": call["loc"]})
    with pytest.raises(ValueError, match="dim must be the channels'"):
        mdnkernels.MixtureSpec(M, C, scales=1, dim=0)
    with pytest.raises(TypeError, match="dim must be an int, got str"):
        mdnkernels.MixtureNLLLoss(dim="last")  # type: ignore[arg-type]
