"""The detector: sparse heads give what dense ones give, in training and in prediction."""

import pytest
import torch
from torch import Tensor

from mdnkernels import mixture_nll
from mdnkernels.models import Detector, Hourglass, HourglassConfig, build_model, size_regression
from tests.models.networks import CLASSES, assert_close, awake
from tests.models.reference import decode_detection

# Two images, 64 x 96 pixels: 16 x 24 cells. A repeated centre, all four corners, and padding.
INDEX = torch.tensor([[0, 23, 360, 383, 100, 100], [77, 200, 1, 24, -1, -1]])


def small(components: int, dtype: torch.dtype = torch.float64) -> Detector:
    torch.manual_seed(0)
    model = build_model("hourglass_small", num_classes=5, components=components).to(dtype)
    # Away from the initialisation, where every cell scores 0.1 and every box is a point.
    for head in model.heads[0].heads.values():
        torch.nn.init.normal_(head.output.weight)
    return model


def regression_loss(outputs: dict[str, Tensor], index: Tensor) -> Tensor:
    """Return a loss like the criterion's on (B, C, N) points, without the padding."""
    counted = index >= 0
    target = torch.linspace(1, 9, 2 * index.numel(), dtype=torch.float64).view(index.shape[0], 2, -1)
    loss = ((outputs["offset"] - target).square().sum(1) * counted).sum()
    if "size" in outputs:
        return loss + ((outputs["size"] - target).abs().sum(1) * counted).sum()
    return loss + mixture_nll(
        outputs["logits"], outputs["loc"], outputs["scale"], target, mask=counted[:, None], reduction="sum"
    )


def read(maps: Tensor, index: Tensor) -> Tensor:
    cells = index.clamp(min=0)[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, cells)


@pytest.mark.parametrize("components", [0, 3])
def test_outputs_have_the_shapes_of_the_contract(components: int, images: Tensor) -> None:
    model = small(components, torch.float32)
    channels = {"offset": 2, "size": 2} if components == 0 else {"offset": 2, "logits": 3, "loc": 6, "scale": 6}
    (dense,) = model(images)
    (sparse,) = model(images, torch.zeros(3, 4, dtype=torch.int64))
    assert dense.pop("heatmap").shape == sparse.pop("heatmap").shape == (3, 5, 16, 24)
    assert {name: tuple(v.shape) for name, v in dense.items()} == {n: (3, c, 16, 24) for n, c in channels.items()}
    assert {name: tuple(v.shape) for name, v in sparse.items()} == {n: (3, c, 4) for n, c in channels.items()}


@pytest.mark.parametrize("components", [0, 3])
def test_sparse_training_has_the_loss_and_every_gradient_of_dense_training(components: int, images: Tensor) -> None:
    model = small(components)
    images = images[:2].double().requires_grad_()

    def loss_and_gradients(sparse: bool) -> list[Tensor]:
        (outputs,) = model(images, INDEX) if sparse else model(images)
        heatmap = outputs.pop("heatmap")
        if not sparse:
            outputs = {name: read(maps, INDEX) for name, maps in outputs.items()}
        loss = heatmap.square().mean() + regression_loss(outputs, INDEX)
        return [loss, *torch.autograd.grad(loss, [images, *model.parameters()])]

    names = ["loss", "images", *(name for name, _ in model.named_parameters())]
    for name, ours, theirs in zip(names, loss_and_gradients(True), loss_and_gradients(False), strict=True):
        size = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours / size, theirs / size, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("components", "choice"),
    [(0, {}), (3, {}), (3, {"select": "density"}), (3, {"select": "mean"}), (3, {"components": [1]})],
    ids=["base", "weight", "density", "mean", "restricted"],
)
def test_predict_is_the_decoding_of_the_dense_maps(components: int, choice: dict, images: Tensor) -> None:
    model = small(components).eval()
    images = images.double()
    sparse = model.predict(images, k=20, **choice)
    dense = model.decode(model(images)[-1], k=20, **choice)
    assert (sparse.label >= 0).any()
    for name, ours, theirs in zip(sparse._fields, sparse, dense, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_predict_gives_k_rows_and_no_graph(images: Tensor) -> None:
    found = small(3, torch.float32).eval().predict(images, k=7)
    shapes = [(3, 7, 4), (3, 7), (3, 7), (3, 7), (3, 7), (3, 7, 2)]
    assert [tuple(values.shape) for values in found] == shapes
    assert not any(values.requires_grad for values in found)
    assert (found.score.diff(dim=1) <= 0).all()


def test_predict_runs_regression_heads_on_peaks_alone(images: Tensor) -> None:
    model = small(3, torch.float32).eval()
    ran = []
    for name, head in model.heads[0].heads.items():
        head.hidden.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.predict(images, k=7)
    assert ran == ["heatmap"]


def test_predict_uses_the_last_stack_and_no_head_of_an_earlier_one(images: Tensor) -> None:
    torch.manual_seed(0)
    backbone = Hourglass(HourglassConfig(2, (8, 12), (1, 1), 4, 6))
    model = Detector(backbone, head_width=6, num_classes=2, regression=size_regression(2)).double().eval()
    images = images.double()
    for parameter in model.heads[0].parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    first, last = model(images)
    assert first["heatmap"].isnan().all()
    for ours, theirs in zip(model.predict(images, k=5), model.decode(last, k=5), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((1, 3, 60, 96), r"60 x 96 pixels .* multiples of 32"),
        ((1, 3, 64, 100), r"64 x 100 pixels .* multiples of 32"),
        ((1, 1, 64, 96), r"\(B, 3, H, W\), not \(1, 1, 64, 96\)"),
        ((3, 64, 96), r"\(B, 3, H, W\), not \(3, 64, 96\)"),
    ],
)
def test_an_image_of_the_wrong_shape_is_named(shape: tuple[int, ...], named: str) -> None:
    model = small(0, torch.float32)
    for call in (model, model.predict):
        with pytest.raises(ValueError, match=named):
            call(torch.zeros(shape))


def test_raw_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"normalised, not torch\.uint8"):
        small(0, torch.float32)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_the_base_has_no_components_to_choose_from(images: Tensor) -> None:
    with pytest.raises(ValueError, match="single-mode base"):
        small(0, torch.float32).eval().predict(images, components=[0])


@pytest.mark.parametrize("components", [0, 2])
def test_a_class_specific_size_is_that_of_the_objects_class(components: int, images: Tensor) -> None:
    model = awake("hourglass_small", "detection", components, class_specific=True).eval()
    images = images[:2].double()
    with torch.no_grad():
        (maps,) = model(images)
    channels = {"size": 2 * CLASSES} if components == 0 else {"logits": 6, "loc": 12, "scale": 12}
    assert {name: maps[name].shape[1] for name in channels} == channels
    found = model.predict(images, k=30)
    assert set(found.label.flatten().tolist()) == set(range(CLASSES))
    assert_close(found, model.decode(maps, k=30))
    assert_close(found, decode_detection(maps, k=30, num_classes=CLASSES), 1e-4)


@pytest.mark.parametrize(("components", "allowed"), [(0, None), (3, None), (3, [1]), (3, [2, 0])])
def test_predict_is_what_loops_over_everything_find(components: int, allowed: list[int] | None, images: Tensor) -> None:
    model = awake("hourglass_small", "detection", components).eval()
    images = images.double()
    with torch.no_grad():
        (maps,) = model(images)
    found = model.predict(images, k=20, components=allowed)
    assert_close(found, decode_detection(maps, k=20, allowed=allowed), 1e-4)


@pytest.mark.parametrize("select", ["density", "mean"])
def test_the_densest_or_the_mean_is_what_loops_find(select: str, images: Tensor) -> None:
    model = awake("hourglass_small", "detection", 3).eval()
    images = images.double()
    with torch.no_grad():
        (maps,) = model(images)
    found = model.predict(images, k=20, select=select)
    assert not torch.equal(found.box, model.predict(images, k=20).box)
    assert_close(found, decode_detection(maps, k=20, select=select), 1e-4)


@pytest.mark.parametrize("flip", [None, "average", "stronger"])
def test_padding_holds_nothing(flip: str | None, images: Tensor) -> None:
    found = awake("hourglass_small", "detection", 3).eval().predict(images.double(), k=900, flip=flip)
    most = int((found.label >= 0).sum(1).max())
    assert 0 < most < 900
    for name, values in found._asdict().items():
        assert (values[:, most:] == (-1 if name in ("label", "component") else 0)).all(), name
