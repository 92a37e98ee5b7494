"""Exported networks give what the models give."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdnkernels.models import Skeleton, save_published
from mdnkernels.models.export import export_inference, export_onnx, main, write_graph
from mdnkernels.models.regression import Flip
from tests.models.networks import BOTH_TASKS, IMAGES, awake
from tests.processes import python

BATCHES = [IMAGES[:1], IMAGES, torch.cat((IMAGES, -IMAGES))]


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        torch.testing.assert_close(ours[name], values, rtol=1e-4, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("arch", "task", "components", "flip"),
    [
        ("hourglass_small", "detection", 0, None),
        ("hourglass_small", "detection", 3, "stronger"),
        ("hourglass_small", "pose", 3, None),
        ("hourglass_small", "pose", 0, "average"),
        pytest.param("dla34", "detection", 3, None, marks=pytest.mark.slow),
        pytest.param("dla34", "pose", 3, "stronger", marks=pytest.mark.slow),
    ],
)
def test_an_exported_graph_predicts_for_any_batch(arch: str, task: str, components: int, flip: str | None) -> None:
    model = awake(arch, task, components, torch.float32).eval()
    program = export_inference(model, IMAGES[:1], k=7, flip=flip)
    for images in BATCHES:
        same(program.module()(images), model.predict(images, k=7, flip=flip)._asdict())


def test_an_exported_graph_has_the_networks_own_keypoints() -> None:
    skeleton = Skeleton(("nose", "left", "right", "tail"), (0.1, 0.2, 0.2, 0.3), flip_pairs=((1, 2),))
    model = awake("hourglass_small", "pose", 2, torch.float32, skeleton=skeleton).eval()
    found = export_inference(model, IMAGES, k=7, flip="average").module()(IMAGES)
    assert found["keypoints"].shape == (len(IMAGES), 7, 4, 2)
    same(found, model.predict(IMAGES, k=7, flip="average")._asdict())


def test_an_exported_graph_runs_where_there_is_no_model_code(tmp_path: Path) -> None:
    model = awake("hourglass_small", "detection", 3, torch.float32).eval()
    torch.export.save(export_inference(model, IMAGES, k=7), tmp_path / "graph.pt2")
    torch.save((IMAGES, model.predict(IMAGES, k=7)._asdict()), tmp_path / "expected.pt")
    code = (
        "import sys, torch, mdnkernels\n"
        "images, expected = torch.load('expected.pt')\n"
        "found = torch.export.load('graph.pt2').module()(images)\n"
        "assert 'models' not in sys.modules\n"
        "for name, values in expected.items(): torch.testing.assert_close(found[name], values)\n"
    )
    done = python(f"import os; os.chdir({str(tmp_path)!r})\n{code}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arch", "task", "components"),
    [*(("hourglass_small", task, 3) for task in BOTH_TASKS), ("dla34", "detection", 0)],
)
def test_onnxruntime_gives_the_maps(arch: str, task: str, components: int, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = awake(arch, task, components, torch.float32).eval()
    names = export_onnx(model, tmp_path / "maps.onnx", size=(32, 64), maps=True)
    assert [file.name for file in tmp_path.iterdir()] == ["maps.onnx"]
    try:
        session = onnxruntime.InferenceSession(tmp_path / "maps.onnx")
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        pytest.skip(f"this onnxruntime is too old: {error}")
    assert [output.name for output in session.get_outputs()] == names
    for images in BATCHES:
        found = {
            n: torch.from_numpy(v) for n, v in zip(names, session.run(None, {"images": images.numpy()}), strict=True)
        }
        with torch.no_grad():
            (expected,) = model(images)
        same(found, expected)
        assert torch.equal(model.decode(found, k=5).label, model.decode(expected, k=5).label)


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "flip"), [("detection", None), pytest.param("pose", "average", marks=pytest.mark.slow)]
)
def test_onnxruntime_gives_what_predict_gives(task: str, flip: Flip | None, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = awake("hourglass_tiny", task, 3, torch.float32).eval()
    file = tmp_path / "graph.onnx"
    names = export_onnx(model, file, size=(32, 64), k=7, flip=flip, description="a text")
    session = onnxruntime.InferenceSession(file)
    assert session.get_modelmeta().custom_metadata_map["mdnkernels"] == "a text"
    for images in BATCHES:
        found = dict(zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()})), strict=True))
        same(found, model.predict(images, k=7, flip=flip)._asdict())


def test_without_the_packages_an_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    model = awake("hourglass_small", "detection", 0, torch.float32).eval()
    with pytest.raises(ImportError, match=r"pip install 'mdnkernels\[export\]'"):
        export_onnx(model, tmp_path / "maps.onnx", size=(32, 64))


def test_a_size_that_the_network_cannot_take_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = awake("hourglass_small", "detection", 0, torch.float32).eval()
    with pytest.raises(ValueError, match="multiples of 32"):
        export_onnx(model, tmp_path / "maps.onnx", size=(32, 60))
    with pytest.raises(ValueError, match="multiples of 32"):
        export_inference(model, IMAGES[..., :60])


def test_a_network_in_training_mode_is_refused(tmp_path: Path) -> None:
    model = awake("hourglass_small", "detection", 0, torch.float32)
    with pytest.raises(ValueError, match="training mode"):
        export_inference(model, IMAGES)
    with pytest.raises(ValueError, match="training mode"):
        export_onnx(model, tmp_path / "maps.onnx", size=(32, 64))


def test_a_written_graph_has_no_batch_norm_and_gives_the_same(tmp_path: Path) -> None:
    model = awake("hourglass_small", "detection", 3, torch.float32).eval()
    expected = model.predict(IMAGES, k=7, flip="stronger")._asdict()
    what = write_graph(model, tmp_path / "graph.pt2", (32, 64), k=7, flip="stronger")
    assert what == "images (B, 3, 32, 64) to the 7 best of each image, a dict of tensors"
    program = torch.export.load(tmp_path / "graph.pt2")
    assert not [node for node in program.graph.nodes if "batch_norm" in str(node.target)]
    same(program.module()(IMAGES), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["graph.pt2"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Write a published file of DLA-34 for poses with two components, and return its path."""
    save_published(awake("dla34", "pose", 2, torch.float32), tmp_path / "published.pth")
    return tmp_path / "published.pth"


@pytest.mark.slow
def test_a_published_network_becomes_a_graph_on_the_command_line(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    output = published.with_name("graph.onnx")
    assert (
        main(["dla34", "pose", str(published), str(output), "--components", "2", "--size", "32", "64", "--maps"]) == 0
    )
    assert "graph.onnx: images (B, 3, 32, 64) to maps heatmap, offset, size, logits" in capsys.readouterr().out
    assert sorted(file.name for file in output.parent.iterdir()) == ["graph.onnx", "published.pth"]


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("published.pth", (), "must end in .pt2"),
        ("there.onnx", (), "is there already"),
        ("graph.onnx", ("--maps", "--flip", "average"), "before peaks and flips"),
        ("graph.pt2", ("--maps",), "maps are of ONNX files"),
        ("graph.onnx", ("--components", "3"), "does not hold this model"),
        ("graph.pt2", ("--size", "32", "60"), "multiples of 32"),
        ("graph.pt2", ("--classes", "4"), "has one class"),
        ("graph.pt2", ("--components", "-1"), "components must be 0"),
        ("absent/graph.pt2", (), "the folder is not there"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line_and_write_nothing(
    published: Path, output: str, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there = published.with_name("there.onnx")
    there.touch()
    command = ["dla34", "pose", str(published), str(published.parent / output), "--components", "2"]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert message in error
    assert sorted(published.parent.iterdir()) == [published, there]


def test_the_command_line_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in ("weights", "output", "--size", "python -m train export"):
        assert expected in text
