"""Published files: the same weights give the same outputs, and nothing that does not fit is taken."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdnkernels.models import (
    COCO_PERSON,
    DLA34,
    Detector,
    Hourglass,
    HourglassConfig,
    Network,
    PoseEstimator,
    build_model,
    load_imagenet,
    load_published,
    pose_regression,
    save_published,
    size_regression,
)
from mdnkernels.models.checkpoints import published_names
from tests.models import published
from tests.models.published import Weights

CLASSES = 3
# A normalised picture. The order of its colours does not matter.
PICTURE = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
TOLERANCE = {"rtol": 0, "atol": 1e-4}

# task, components, class-specific
KINDS = [
    ("detection", 0, False),
    ("detection", 3, False),
    ("detection", 0, True),
    ("detection", 3, True),
    ("pose", 0, False),
    ("pose", 3, False),
]
# Two stacks, and every kind of layer that hourglass-104 has.
SMALL = {"dims": (8, 12, 16), "modules": (2, 1, 3), "stacks": 2, "stem": 6, "cnv_dim": 10}
SMALL_WIDTH = 7
SMALL_CONFIG = HourglassConfig(stacks=2, dims=(8, 12, 16), blocks=(2, 1, 3), stem_width=6, feature_dim=10)

# Each published network: the function of what the heads read, and that of the heads.
GRAPHS: dict[str, tuple[Callable, Callable]] = {
    "hourglass": (
        functools.partial(published.hourglass, **SMALL),
        functools.partial(published.hourglass_heads, width=SMALL_WIDTH),
    ),
    "hourglass104": (published.hourglass, published.hourglass_heads),
    "dla34": (published.dla34, published.dla34_heads),
}
HEADS = {
    "heatmap": "hm",
    "offset": "reg",
    "size": "wh",
    "logits": "mdn_logits",
    "scale": "mdn_sigma",
    "keypoints": "hps",
    "keypoint_heatmap": "hm_hp",
    "keypoint_offset": "hp_offset",
}
MEANS = {"detection": "wh", "pose": "hps"}


def build(arch: str, task: str, components: int, class_specific: bool = False, min_scale: float = 9.0) -> Network:
    """Return our model in eval mode; "hourglass" is the small one."""
    if arch != "hourglass":
        classes = CLASSES if task == "detection" else 1
        return build_model(
            arch,
            task=task,
            num_classes=classes,
            components=components,
            class_specific=class_specific,
            min_scale=min_scale,
        ).eval()
    backbone, width = Hourglass(SMALL_CONFIG), SMALL_WIDTH
    if task == "pose":
        return PoseEstimator(backbone, width, pose_regression(COCO_PERSON, components, min_scale=min_scale)).eval()
    regression = size_regression(components, classes=CLASSES if class_specific else 1, min_scale=min_scale)
    return Detector(backbone, width, CLASSES, regression).eval()


def heads_of(task: str, components: int, class_specific: bool = False) -> dict[str, int]:
    """Return the channels of the published heads by their names."""
    if task == "pose":
        return published.pose_heads(components)
    return published.detection_heads(CLASSES, components, class_specific)


@functools.cache
def drawn_backbone(arch: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return random weights of the published network without heads, and what the heads read in `PICTURE`.

    The weights of DLA-34 have the classifier that its files carry along.
    """
    backbone, _ = GRAPHS[arch]
    weights = Weights()
    backbone(weights, torch.empty(1, 3, 128, 128, device="meta"))
    if arch == "dla34":
        published.add_classifier(weights, "base.")
    return weights.state, backbone(Weights(weights.state, complete=True), PICTURE)


@functools.cache
def drawn(arch: str, task: str, components: int, class_specific: bool = False) -> dict[str, Tensor]:
    """Return random weights of the published network."""
    backbone, features = drawn_backbone(arch)
    weights = Weights(dict(backbone), seed=1)
    GRAPHS[arch][1](weights, features, heads_of(task, components, class_specific))
    return weights.state


def published_outputs(arch: str, task: str, components: int, class_specific: bool = False) -> list[dict[str, Tensor]]:
    """Return the outputs of the published network with the weights of `drawn` for `PICTURE`."""
    weights = Weights(drawn(arch, task, components, class_specific), complete=True)
    _, features = drawn_backbone(arch)
    return GRAPHS[arch][1](weights, features, heads_of(task, components, class_specific))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """Run each test without gradients, for none needs any."""
    with torch.no_grad():
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


def write(file: Path, state: dict[str, object], **beside: object) -> None:
    torch.save({"epoch": 140, "state_dict": state, **beside}, file)


def check_outputs(model: Network, outputs: list[dict[str, Tensor]], images: Tensor, task: str) -> None:
    """Compare every map of every stack with the published one, to 1e-4."""
    names = HEADS | {"loc": MEANS[task]}
    ours = model(images)
    assert len(ours) == len(outputs)
    for stack, (maps, expected) in enumerate(zip(ours, outputs, strict=True)):
        assert {names[name] for name in maps} == set(expected)
        for name, value in maps.items():
            theirs = expected[names[name]]
            assert theirs.std() > 0.01, name
            if name == "size" and model.regression.classes > 1:
                theirs = theirs.unflatten(1, (CLASSES, 2)).transpose(1, 2).flatten(1, 2)
            torch.testing.assert_close(value, theirs, **TOLERANCE, msg=lambda text, n=name, s=stack: f"{n} {s}: {text}")


@pytest.mark.parametrize(("task", "components", "class_specific"), KINDS)
@pytest.mark.parametrize("arch", ["hourglass", "dla34"])
def test_the_same_weights_give_the_same_outputs(
    arch: str, task: str, components: int, class_specific: bool, file: Path
) -> None:
    write(file, drawn(arch, task, components, class_specific))
    model = build(arch, task, components, class_specific)
    load_published(model, file)
    check_outputs(model, published_outputs(arch, task, components, class_specific), PICTURE, task)


@pytest.mark.parametrize(
    ("task", "components"),
    [
        ("pose", 3),
        *(pytest.param(*kind, marks=pytest.mark.slow) for kind in (("detection", 3), ("detection", 0), ("pose", 0))),
    ],
)
def test_hourglass104_gives_the_published_outputs(task: str, components: int, file: Path) -> None:
    # 800 MB, not to be kept.
    state, features = drawn_backbone.__wrapped__("hourglass104")
    outputs = published.hourglass_heads(Weights(state), features, heads_of(task, components, False))
    write(file, state)
    del state
    with torch.device("meta"):
        model = build("hourglass104", task, components)
    model.to_empty(device="cpu")
    load_published(model, file)
    file.unlink()
    check_outputs(model, outputs, PICTURE, task)


def shape_alone(self: Weights, name: str, shape: list[int], like: Tensor, *_: float, **__: float) -> Tensor:
    """Return an empty entry in place of `Weights.entry`, which draws values."""
    return self.state.setdefault(name, torch.empty(*shape, device=like.device))


@functools.cache
def backbone_shapes(arch: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return the entries of the published network without heads, and what the heads read, on the "meta" device."""
    weights = Weights()
    return weights.state, GRAPHS[arch][0](weights, torch.empty(1, 3, 128, 128, device="meta"))


@pytest.mark.parametrize(("task", "components", "class_specific"), KINDS)
@pytest.mark.parametrize("arch", ["hourglass", "hourglass104", "dla34"])
def test_our_names_and_shapes_are_the_published_ones_and_back(
    arch: str, task: str, components: int, class_specific: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Weights, "entry", shape_alone)
    shapes, features = backbone_shapes(arch)
    weights = Weights(dict(shapes))
    GRAPHS[arch][1](weights, features, heads_of(task, components, class_specific))
    with torch.device("meta"):
        model = build(arch, task, components, class_specific)
    names = published_names(model)
    state = model.state_dict()
    assert set(names) == set(state)
    back = {theirs: ours for ours, theirs in names.items()}
    assert {back[theirs]: theirs for theirs in names.values()} == names
    assert {theirs: state[ours].shape for theirs, ours in back.items()} == {
        name: value.shape for name, value in weights.state.items()
    }


@pytest.mark.parametrize(("task", "class_specific"), [("detection", False), ("detection", True), ("pose", False)])
def test_the_strongest_component_and_its_sigma_are_the_published_ones(
    task: str, class_specific: bool, file: Path
) -> None:
    write(file, drawn("hourglass", task, 3, class_specific))
    model = build("hourglass", task, 3, class_specific, min_scale=10.0 - 1)
    load_published(model, file)
    cells = {name: maps.flatten(2) for name, maps in model(PICTURE)[-1].items()}
    maps = published_outputs("hourglass", task, 3, class_specific)[-1]
    classes = CLASSES if class_specific else 1
    means, sigma = published.strongest(
        maps[MEANS[task]], maps["mdn_sigma"], maps["mdn_logits"], 3, classes, min_sigma=10.0
    )
    first, second = maps["mdn_logits"].unflatten(1, (3, classes)).topk(2, 1).values.flatten(3).unbind(1)
    for label in range(classes):
        labels = torch.full((1, 32 * 32), label)
        mode = model.regression.mode(model.regression.read(cells, labels))
        clear = (first - second)[0, label] > 1e-3
        assert clear.sum() > 900
        for ours, theirs in ((mode.loc, means), (mode.scale, sigma)):
            expected = theirs[0, :, label].flatten(1)[:, clear]
            torch.testing.assert_close(ours[0][:, clear], expected, **TOLERANCE)


@pytest.mark.parametrize("arch", ["hourglass", "dla34"])
def test_a_model_for_rgb_sees_what_the_published_one_sees_in_bgr(arch: str, file: Path) -> None:
    write(file, drawn(arch, "detection", 0))
    model = build(arch, "detection", 0)
    load_published(model, file, colours="RGB")
    check_outputs(model, published_outputs(arch, "detection", 0), PICTURE.flip(1), "detection")


@pytest.mark.parametrize("form", ["as saved by many GPUs", "with an optimizer", "bare", "bare, by many GPUs", "old"])
def test_every_form_of_a_file_is_read(form: str, file: Path) -> None:
    state = drawn("hourglass", "detection", 3)
    prefixed = {f"module.{name}": value for name, value in state.items()}
    if form == "as saved by many GPUs":
        write(file, prefixed)
    elif form == "with an optimizer":
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=1e-4)
        write(file, state, optimizer=optimizer.state_dict())
    elif form == "old":  # PyTorch 0.4: no zip archive, and batch norms did not count
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        torch.save({"epoch": 140, "state_dict": state}, file, _use_new_zipfile_serialization=False)
    else:
        torch.save(state if form == "bare" else prefixed, file)
    model = build("hourglass", "detection", 3)
    load_published(model, file)
    for ours, theirs in published_names(model).items():
        assert torch.equal(model.state_dict()[ours], state.get(theirs, torch.tensor(0))), theirs


@pytest.mark.parametrize("colours", ["BGR", "RGB"])
@pytest.mark.parametrize(
    ("arch", "task", "components", "class_specific"),
    [("dla34", "pose", 3, False), *(("hourglass", *kind) for kind in KINDS)],
)
def test_save_and_load_give_the_same_bits_and_names(
    arch: str, task: str, components: int, class_specific: bool, colours: str, file: Path, tmp_path: Path
) -> None:
    state = drawn(arch, task, components, class_specific)
    write(file, state)
    model = build(arch, task, components, class_specific)
    load_published(model, file, colours=colours)

    again = tmp_path / "again.pth"
    save_published(model, again, colours=colours)
    content = torch.load(again, weights_only=True)
    assert content["epoch"] == 0
    assert set(content) == {"epoch", "state_dict"}
    expected = {name: value for name, value in state.items() if not name.startswith("base.fc.")}
    assert set(content["state_dict"]) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in content["state_dict"].items())

    second = build(arch, task, components, class_specific)
    load_published(second, again, colours=colours)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pth", "model.pth"]


def test_a_channels_last_model_is_written_in_the_published_layout(file: Path) -> None:
    model = build("hourglass", "detection", 3).to(memory_format=torch.channels_last)
    save_published(model, file)
    assert all(value.is_contiguous() for value in torch.load(file, weights_only=True)["state_dict"].values())


def test_a_write_that_fails_leaves_the_old_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("hourglass", "detection", 3)
    save_published(model, file)
    before = file.read_bytes()

    def fail(content: object, target: object) -> None:
        target.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save_published(model, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def refuse(model: torch.nn.Module, load: Callable[[], None]) -> str:
    """Load what must be refused, check that the model is as it was, and return the error's text."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape("model.pth")) as caught:
        load()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_entry_that_does_not_fit_is_named(prefix: str, file: Path) -> None:
    state = dict(drawn("hourglass", "detection", 3))
    del state["pre.0.bn.running_var"], state["wh.1.1.bias"]
    state |= {
        "dep.0.1.weight": torch.zeros(1),
        "base.fc.weight": torch.zeros(1),
        "hm.0.1.weight": torch.zeros(80, 7, 1, 1),
    }
    state["inters.0.bn1.weight"] = 3.0
    write(file, {prefix + name: value for name, value in state.items()})
    model = build("hourglass", "detection", 3)
    text = refuse(model, lambda: load_published(model, file))
    for named in (
        "pre.0.bn.running_var is missing",
        "wh.1.1.bias is missing",
        "dep.0.1.weight is surplus",
        "base.fc.weight is surplus",  # DLA-34's alone may carry it along
        "hm.0.1.weight has the shape (80, 7, 1, 1), not (3, 7, 1, 1)",
        "inters.0.bn1.weight is a float, not a tensor",
    ):
        assert named in text
    assert "more" not in text


def test_an_error_names_a_dozen_entries_and_counts_the_rest(file: Path) -> None:
    write(file, drawn("hourglass", "detection", 3))
    model = build("dla34", "detection", 3)
    text = refuse(model, lambda: load_published(model, file))
    assert len(re.findall("is missing|is surplus|the shape", text)) == 12
    names, given = set(published_names(model).values()), set(drawn("hourglass", "detection", 3))
    wrong = sum(not name.endswith("num_batches_tracked") for name in names - given) + len(given - names)
    assert text.endswith(f"and {wrong - 12} more")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"components": 5}, "mdn_logits.0.1.weight has the shape (3, 7, 1, 1), not (5, 7, 1, 1)"),
        ({"components": 0}, "mdn_sigma.0.1.weight is surplus"),
        ({"task": "pose"}, "hps.0.1.weight is missing"),
        ({"class_specific": True}, "wh.0.1.weight has the shape (6, 7, 1, 1), not (18, 7, 1, 1)"),
    ],
)
def test_a_file_of_another_kind_of_model_is_refused(change: dict, named: str, file: Path) -> None:
    write(file, drawn("hourglass", "detection", 3))
    model = build("hourglass", **{"task": "detection", "components": 3, **change})
    assert named in refuse(model, lambda: load_published(model, file))


@pytest.mark.parametrize("kind", ["text", "cut off", "of something else", "a list", "a whole module"])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(kind: str, file: Path) -> None:
    model = build("hourglass", "detection", 3)
    if kind == "text":
        file.write_text("404: Not Found\n")
    elif kind == "cut off":
        write(file, drawn("hourglass", "detection", 3))
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        torch.save({"of something else": {"model": {"x": torch.ones(1)}}, "a list": [1, 2]}.get(kind, model), file)
    assert "checkpoint" in refuse(model, lambda: load_published(model, file))


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("model.pth")):
        load_published(build("hourglass", "detection", 3), file)


def test_unknown_colours_and_backbones_are_refused(file: Path) -> None:
    model = build("hourglass", "detection", 3)
    with pytest.raises(ValueError, match="colours must be 'BGR' or 'RGB', not 'GBR'"):
        save_published(model, file, colours="GBR")
    model.backbone = torch.nn.Identity()
    with pytest.raises(ValueError, match="backbones Hourglass, DLA34, not Identity"):
        load_published(model, file)


def imagenet() -> dict[str, Tensor]:
    """Return random entries of the ImageNet file."""
    weights = Weights(seed=2)
    published.dla34_base(weights, torch.empty(1, 3, 64, 64, device="meta"))
    published.add_classifier(weights)
    return weights.state


@pytest.mark.parametrize("old", [False, True])
def test_imagenet_weights_fill_the_levels_and_leave_the_rest_fresh(old: bool, file: Path) -> None:
    state = imagenet()
    if old:
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(state, file)
    torch.manual_seed(0)
    fresh = build("dla34", "pose", 3)
    torch.manual_seed(0)
    model = build("dla34", "pose", 3)
    load_imagenet(model.backbone, file)
    for name, value in model.state_dict().items():
        if not name.startswith("backbone.levels."):
            assert torch.equal(value, fresh.state_dict()[name]), name
    x = PICTURE
    levels = published.dla34_base(Weights(state, complete=True), PICTURE)
    for level, expected in zip(model.backbone.levels, levels, strict=True):
        x = level(x)
        torch.testing.assert_close(x, expected, **TOLERANCE)


def test_imagenet_weights_that_do_not_fit_are_named(file: Path) -> None:
    state = imagenet()
    del state["level3.project.1.running_mean"]
    state |= {"level6.root.conv.weight": torch.zeros(1), "level0.0.weight": torch.zeros(16, 16, 1, 1)}
    torch.save(state, file)
    model = build("dla34", "detection", 0)
    text = refuse(model, lambda: load_imagenet(model.backbone, file))
    assert "level3.project.1.running_mean is missing" in text
    assert "level6.root.conv.weight is surplus" in text
    assert "level0.0.weight has the shape (16, 16, 1, 1), not (16, 16, 3, 3)" in text


def test_imagenet_weights_are_for_dla34_alone(file: Path) -> None:
    with pytest.raises(ValueError, match="for a DLA34 backbone, not for Hourglass"):
        load_imagenet(Hourglass(SMALL_CONFIG), file)


def test_a_detectors_file_is_not_taken_for_imagenets(file: Path) -> None:
    write(file, drawn("dla34", "detection", 0))
    backbone = DLA34()
    text = refuse(backbone, lambda: load_imagenet(backbone, file))
    assert "base_layer.0.weight is missing" in text
