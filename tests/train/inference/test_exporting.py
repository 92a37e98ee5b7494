"""A trained network as a file, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdnkernels.train.__main__ import main
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.network import restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint
from tests.train.drawn_data import DataPaths, tiny_fit


def test_a_trained_network_is_exported_and_what_is_there_is_kept(
    drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=1, train_limit=4))
    graph = tmp_path / "graph.pt2"
    capsys.readouterr()
    assert main(["export", str(run), "--output", str(graph), "--detections", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{graph}: images (B, 3, 64, 64) to the 9 best of each image, a dict of tensors"
    assert lines[-1] == "class indices stand for plate, bar, ring"
    model, _ = restore_network(load_checkpoint(run / "checkpoints" / "last.pt"))
    images = torch.randn(3, 3, 64, 64)
    found = torch.export.load(graph).module()(images)
    for name, values in model.predict(images, k=9)._asdict().items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-4)

    before = graph.read_bytes()
    for output, message in ((graph, "is there already"), (tmp_path / "graph.pt", "must end in .pt2")):
        assert main(["export", str(run), "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --output")
        assert message in error
        assert len(error.splitlines()) == 1
    assert graph.read_bytes() == before
