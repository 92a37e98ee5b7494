"""Where a regression starts: every stack says the clusters of the objects, whatever the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mdnkernels.models import build_model, size_regression
from mdnkernels.models.start import ObjectSample
from tests.models.networks import CENTRES, IMAGES

KINDS = torch.tensor([[4.0, 5.0], [10.0, 8.0], [20.0, 24.0]])


def sample_of(kinds: Tensor, label: Tensor, factor: float = 1.0) -> ObjectSample:
    """Return objects of these kinds, exact but for a relative spread of 2 %."""
    random = np.random.default_rng(0)
    target = factor * KINDS[kinds] * torch.from_numpy(1 + 0.02 * random.normal(size=(len(kinds), 2)))
    known = torch.ones(target.shape, dtype=torch.bool)
    return ObjectSample(target, known, label, target.log(), known)


@pytest.fixture
def kinds() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).choice(3, 600, p=(0.07, 0.86, 0.07)))


@pytest.mark.parametrize("components", [0, 1, 3])
def test_every_stack_says_the_start_at_every_object(kinds: Tensor, components: int) -> None:
    torch.manual_seed(0)
    model = build_model("hourglass_small", num_classes=3, components=components, min_scale=0.0).eval()
    sample = sample_of(kinds, torch.zeros_like(kinds))
    start = model.regression.start(sample)
    model.start_regression(start.biases, weight_factor=0.0)
    if components == 3:
        expected = torch.stack([sample.target[kinds == k].mean(0) for k in range(3)])
        shares = torch.tensor([(kinds == k).double().mean() for k in range(3)])
        spread = torch.stack([sample.target[kinds == k].std(0, correction=0) for k in range(3)])
    else:
        expected, shares = sample.target.mean(0, keepdim=True), torch.ones(1, dtype=torch.float64)
        spread = sample.target.std(0, correction=0, keepdim=True)
    torch.testing.assert_close(start.share[0].double(), shares, rtol=1e-6, atol=0)
    outputs = model(IMAGES, CENTRES)
    assert len(outputs) == model.backbone.stacks
    for output in outputs:
        loc = output["size" if components == 0 else "loc"].unflatten(1, (-1, 2))
        torch.testing.assert_close(loc.double(), expected[None, :, :, None].expand_as(loc), rtol=1e-5, atol=0)
        if components:
            assert all((group.heads["logits"].output.bias == 0).all() for group in model.head_groups)
            # ELU's sigma with a floor of 0 is exp(raw) below 1 and raw + 1 above.
            raw = output["scale"].unflatten(1, (-1, 2)).double()
            sigma = torch.where(raw < 0, raw.exp(), raw + 1)
            torch.testing.assert_close(sigma, spread[None, :, :, None].expand_as(sigma), rtol=1e-4, atol=0)


def test_weights_of_loc_and_scale_are_made_small_and_those_of_the_choice_stay(kinds: Tensor) -> None:
    torch.manual_seed(0)
    model = build_model("hourglass_small", num_classes=3, components=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_regression(model.regression.start(sample_of(kinds, kinds)).biases)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    heads = [f"heads.{stack}.heads" for stack in range(model.backbone.stacks)]
    regressed = [f"{head}.{name}.output" for head in heads for name in ("loc", "scale")]
    biases = {f"{head}.logits.output.bias" for head in heads} | {f"{head}.bias" for head in regressed}
    assert changed == biases | {f"{head}.weight" for head in regressed}
    for head in regressed:
        torch.testing.assert_close(model.state_dict()[f"{head}.weight"], 0.1 * before[f"{head}.weight"])


@pytest.mark.parametrize("components", [0, 3])
def test_a_class_with_its_own_sizes_starts_at_its_own_objects(kinds: Tensor, components: int) -> None:
    """Class 1 is twice as large as class 0; class 2 has no object and starts at all of them."""
    label = torch.arange(len(kinds)) % 2
    twice = sample_of(kinds, label, 2.0)
    sample = sample_of(kinds, label)
    target = torch.where(label[:, None] == 1, twice.target, sample.target)
    sample = sample._replace(target=target, feature=target.log())
    torch.manual_seed(0)
    model = build_model("hourglass_small", num_classes=3, components=components, class_specific=True).eval()
    model.start_regression(model.regression.start(sample).biases, weight_factor=0.0)
    (output, *_) = model(IMAGES, CENTRES)
    for y, factor in ((0, 1.0), (1, 2.0)):
        values = model.regression.read(output, torch.full_like(CENTRES, y))
        loc = values[0 if components == 0 else 1].unflatten(1, (-1, 2))[0, :, :, 0]
        own = target[label == y]
        if components:
            expected = torch.stack([own[kinds[label == y] == k].mean(0) for k in range(3)])
            torch.testing.assert_close(loc.double(), expected, rtol=1e-5, atol=0)
            torch.testing.assert_close(loc, factor * KINDS, rtol=0.02, atol=0)
        else:
            torch.testing.assert_close(loc[0].double(), own.mean(0), rtol=1e-5, atol=0)
    if components == 0:
        of_none = model.regression.read(output, torch.full_like(CENTRES, 2))[0][0, :, 0]
        torch.testing.assert_close(of_none.double(), target.mean(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("components", [0, 1, 3])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_one_object_and_equal_objects_give_a_start_that_can_be_trained(components: int, count: int) -> None:
    target = torch.full((count, 2), 7.0, dtype=torch.float64)
    known = torch.ones(target.shape, dtype=torch.bool)
    sample = ObjectSample(target, known, torch.zeros(count, dtype=torch.int64), target.log(), known)
    start = size_regression(components).start(sample)
    assert all(bias.isfinite().all() for bias in start.biases.values())
    assert start.loc[0, 0].tolist() == [7.0, 7.0]
    if components:
        assert start.sigma is not None
        assert (start.sigma > 1).all()  # the floor
        assert len({tuple(row) for row in start.loc[0].tolist()}) == components
        assert start.share[0].tolist() == [1.0] + [0.0] * (components - 1)


def test_what_is_not_observed_leaves_the_mean() -> None:
    target = torch.tensor([[1.0, torch.nan], [3.0, 8.0], [torch.nan, torch.nan]])
    known = ~target.isnan()
    sample = ObjectSample(target, known, torch.zeros(3, dtype=torch.int64), torch.zeros(3, 1), torch.ones(3, 1).bool())
    assert size_regression(0).start(sample).biases["size"].tolist() == [2.0, 8.0]


def test_nothing_observed_and_other_heads_are_refused() -> None:
    nothing = torch.zeros(4, 2, dtype=torch.bool)
    sample = ObjectSample(
        torch.zeros(4, 2), nothing, torch.zeros(4, dtype=torch.int64), torch.zeros(4, 1), torch.ones(4, 1).bool()
    )
    for components in (0, 2):
        with pytest.raises(ValueError, match="observed"):
            size_regression(components).start(sample)
    model = build_model("hourglass_small", components=2)
    with pytest.raises(ValueError, match=r"heads of .* have the channels \{'logits': 2, 'loc': 4, 'scale': 4\}"):
        model.start_regression({"size": torch.zeros(2)})
