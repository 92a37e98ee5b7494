"""A trained network as a file, from the command line: what runs the file finds what the network finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from mdnkernels.train import Predictor
from mdnkernels.train.__main__ import main
from mdnkernels.train.data.colour import MEAN, STD
from mdnkernels.train.errors import CheckpointError
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.network import restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint
from tests.train.drawn_data import DataPaths, tiny_fit

PHOTOGRAPH = "val2017"


@pytest.fixture(scope="module")
def run(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exporting")
    return fit(tiny_fit(drawn, folder / "run", arch="hourglass_tiny", epochs=1, train_limit=4))


@pytest.fixture
def photographs(coco_mini: Path) -> list[Path]:
    return sorted((coco_mini / PHOTOGRAPH).glob("*.jpg"))[:3]


def normalised(paths: list[Path]) -> Tensor:
    """Return photographs as an exported graph takes them, (B, 3, 64, 64), by the words of its description."""
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((64, 64)), dtype=np.float64) / 255 for path in paths]
    images = (np.stack(pixels) - MEAN) / STD
    return torch.from_numpy(images.transpose(0, 3, 1, 2)).float().contiguous()


def expected(run: Path, images: Tensor, k: int) -> dict[str, Tensor]:
    model, _ = restore_network(load_checkpoint(run / "checkpoints" / "last.pt"))
    return model.predict(images, k=k)._asdict()


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.long
def test_an_onnx_file_finds_what_the_network_finds_in_photographs(
    run: Path, photographs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", str(run), "--to", "onnx", "--detections", "9"]) == 0
    file = run / "network.onnx"
    assert capsys.readouterr().out.startswith(
        f"{file}: images (B, 3, 64, 64) to the 9 best of each image: box, score, label"
    )
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    for count in (1, 3):
        images = normalised(photographs[:count])
        found = session.run(None, {"images": images.numpy()})
        same(dict(zip(names, map(torch.from_numpy, found), strict=True)), expected(run, images, 9))
    told = json.loads(session.get_modelmeta().custom_metadata_map["mdnkernels"])
    assert (told["classes"], told["category_ids"]) == (["plate", "bar", "ring"], [3, 7, 9])
    assert (told["mean"], told["std"]) == (list(MEAN), list(STD))


def test_a_pt2_file_finds_what_the_network_finds_in_photographs(
    run: Path, photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "graph.pt2"
    assert main(["export", str(run), "--output", str(file), "--detections", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}: images (B, 3, 64, 64) to the 9 best of each image, a dict of tensors"
    assert lines[-1] == "class indices stand for plate, bar, ring"
    extra = {"mdnkernels.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    for count in (1, 3):
        images = normalised(photographs[:count])
        same(program(images), expected(run, images, 9))
    assert json.loads(extra["mdnkernels.json"])["classes"] == ["plate", "bar", "ring"]


def test_a_safetensors_file_is_a_predictor(run: Path, photographs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "network.safetensors"
    assert main(["export", str(run), "--to", "safetensors", "--output", str(file)]) == 0
    weights = safetensors.torch.load_file(file)
    checkpoint = load_checkpoint(run / "checkpoints" / "last.pt")
    assert weights.keys() == checkpoint.model.keys()
    for name, value in checkpoint.model.items():
        assert torch.equal(weights[name], value), name
    options: dict[str, Any] = {"threshold": 0, "device": "cpu"}
    mine, theirs = Predictor.from_safetensors(file, **options), Predictor.from_run(run, **options)
    assert mine.names == theirs.names
    for one, other in zip(mine(photographs), theirs(photographs), strict=True):
        assert len(one) > 0
        assert one.to_coco() == other.to_coco()
    with safetensors.safe_open(file, framework="pt") as opened:
        assert str(run.parent) not in json.dumps(opened.metadata())


def test_safetensors_of_other_tools_and_damaged_ones_are_refused(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "network.safetensors"
    assert main(["export", str(run), "--output", str(file)]) == 0
    with safetensors.safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
    weights = safetensors.torch.load_file(file)
    told = json.loads(metadata["mdnkernels"])
    cases = {
        "there is no such file": None,
        "is not a readable safetensors file": file.read_bytes()[:100],
        "does not say which network it holds": safetensors.torch.save(weights, {"format": "pt"}),
        "version: is 7": safetensors.torch.save(weights, {"mdnkernels": json.dumps({**told, "version": 7})}),
        "does not describe a network": safetensors.torch.save(weights, {"mdnkernels": "{}"}),
        "num_classes=3; this model has num_classes=2: ": safetensors.torch.save(
            weights, {"mdnkernels": json.dumps({**told, "categories": told["categories"][:2]})}
        ),
    }
    for message, content in cases.items():
        other = tmp_path / "other.safetensors"
        if content is not None:
            other.write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            Predictor.from_safetensors(other)
        assert str(other) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "there.pt2"], "is there already"),
        (["--output", "graph.pt"], "must end in .onnx, .pt2, .safetensors"),
        ([], "--to or --output: one of them is needed"),
        (["--to", "onnx", "--output", "graph.pt2"], "the file's name must end in .onnx"),
        (["--to", "safetensors", "--flip"], "safetensors holds the weights alone"),
        (["--output", "graph.pt2", "--maps"], "maps are of ONNX files"),
        (["--to", "onnx", "--size", "60", "64"], "multiples of"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    run: Path,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").write_text("kept")
    before = sorted(run.iterdir())
    capsys.readouterr()
    assert main(["export", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --")
    assert message in error
    assert len(error.splitlines()) == 1
    assert Path("there.pt2").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt2"]
    assert sorted(run.iterdir()) == before


def test_onnx_without_its_packages_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    output = str(run.parent / "absent.onnx")
    assert main(["export", str(run), "--output", output]) == 2
    error = "error: ONNX export needs onnx and onnxscript: pip install 'mdnkernels[export]'\n"
    assert capsys.readouterr().err == error
