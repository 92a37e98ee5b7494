"""Accuracy and speed in several ways: each row is an evaluation made so, and sizes are those that the network sees."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mdnkernels.train.inference.evaluation
from mdnkernels.train.analysis import epochs, resolution, speed
from mdnkernels.train.analysis.evaluations import Evaluation, Machine
from mdnkernels.train.analysis.published import published_of
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks.pose import PoseTask
from tests.train.analysis.saving import saved_pixels
from tests.train.analysis.test_accuracy import cells

MACHINE = Machine("cpu", 8, 0)


class Answer(NamedTuple):
    """An evaluation that was not made."""

    metrics: dict[str, float]


def test_rows_are_evaluations_with_and_without_flip_and_refinement(
    pose_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(subject: Subject, inference: InferenceConfig, *, timed: bool) -> Answer:
        assert timed
        ap = 0.5 + 0.25 * inference.flip - 0.125 * inference.refine
        return Answer(dict.fromkeys(PoseTask.metrics, -1.0) | {"AP": ap, "images_per_second": 100 * ap})

    monkeypatch.setattr(Subject, "evaluate", answer)
    section = speed.analyse([Subject.of_run(pose_run, machine=MACHINE)])
    texts = [line.strip("| ").split(" | ") for line in section.lines if line.startswith("| poses |")]
    assert [[*line[:4], line[-1]] for line in texts] == [
        ["poses", "no", "yes", "37.5", "37.5"],
        ["poses", "yes", "yes", "62.5", "62.5"],
        ["poses", "no", "no", "50.0", "50"],
        ["poses", "yes", "no", "75.0", "75"],
    ]
    numbers = [(row["flip"], row["refine"], row["AP"]) for row in section.numbers["poses"]]
    assert numbers == [(False, True, 0.375), (True, True, 0.625), (False, False, 0.5), (True, False, 0.75)]
    assert "|  | flip | refined | AP |" in "\n".join(section.lines)


def test_boxes_have_no_refinement_and_speed_is_the_networks_own(runs: Path) -> None:
    section = speed.analyse([Subject.of_run(runs / "mixture", machine=MACHINE)])
    assert [row.keys() >= {"flip", "AP", "images_per_second"} for row in section.numbers["mixture"]] == [True, True]
    assert all("refine" not in row for row in section.numbers["mixture"])
    made = [json.loads(path.read_text()) for path in (runs / "mixture" / "evaluations").glob("*/made.json")]
    timed = [one for one in made if one["inference"]["flip"]]
    assert [one["each_component"] for one in timed] == [False]


def test_sizes_are_multiples_of_the_trainings_that_the_network_can_take(runs: Path) -> None:
    subject = Subject.of_run(runs / "base", machine=MACHINE)
    ways = resolution.resolutions(subject)
    assert list(ways) == ["64", "96", "128", "original"]
    data = dataclasses.replace(subject.config.data, input_size=96)
    vars(subject)["config"] = dataclasses.replace(subject.config, data=data)
    # Half of the divisor, 16, rounds to the nearest multiple of 32.
    assert list(resolution.resolutions(subject))[:3] == ["96", "128", "192"]


def test_grid_shows_the_network_images_of_these_sizes(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[set[int]] = []
    predict_batch = mdnkernels.train.inference.evaluation.predict_batch

    def noting(model: Any, scales: Any, *rest: Any) -> Any:
        sizes.append({max(one["image"].shape[2:]) for one in scales})
        return predict_batch(model, scales, *rest)

    monkeypatch.setattr(mdnkernels.train.inference.evaluation, "predict_batch", noting)
    monkeypatch.setattr(resolution, "SIDES", (1.0, 2.0))
    monkeypatch.setattr(resolution, "SCALES", ((1.0,), (0.5, 1.0, 1.5)))
    subject = Subject.of_run(runs / "base", machine=MACHINE)
    section = resolution.analyse([subject])
    grid = section.numbers["base"]
    assert [(point["input"], point["scales"]) for point in grid] == [
        (side, scales) for side in ("64", "128", "original") for scales in (1, 3)
    ]
    assert sizes[:4] == [{64}, {32, 64, 96}, {128}, {64, 128, 192}]
    # Images of 80 pixels, padded, one at a time.
    assert sizes[4:] == [{96}] * 8 + [{64, 96, 128}] * 8
    table = [line.split("|") for line in section.lines if line.startswith("| base |")]
    assert [float(row[5]) for row in table] == pytest.approx([one["images_per_second"] for one in grid], rel=0.01)
    (figure,) = section.figures.values()
    saved_pixels(figure, tmp_path)
    evaluated = subject.evaluate(InferenceConfig(scales=(2.0,)), timed=True)
    assert evaluated.metrics["AP"] == grid[2]["AP"]


def test_accuracy_over_epochs_is_that_of_the_log(runs: Path, tmp_path: Path) -> None:
    subjects = [Subject.of_run(runs / name, machine=MACHINE) for name in ("mixture", "base")]
    section = epochs.analyse(subjects)
    table = cells(section)
    assert table["epoch"] == ["mixture", "base"]
    for column, subject in enumerate(subjects):
        last = json.loads((subject.run / "evaluation" / "metrics.json").read_text())
        assert section.numbers[subject.title][2] == last["AP"]
        assert float(table["2"][column]) == pytest.approx(100 * last["AP"], abs=0.0501)
    (figure,) = section.figures.values()
    saved_pixels(figure, tmp_path)


def test_a_log_of_hand_is_read_by_epoch(runs: Path, tmp_path: Path) -> None:
    log = [
        {"kind": "step", "step": 1, "epoch": 1, "loss/total": 3.0},
        {"kind": "evaluation", "step": 2, "epoch": 1, "metrics/AP": 0.25},
        {"kind": "evaluation", "step": 8, "epoch": 4, "metrics/AP": 0.125},
        {"kind": "evaluation", "step": 8, "epoch": 4, "metrics/AP": 0.5},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in log))
    subject = dataclasses.replace(Subject.of_run(runs / "base", machine=MACHINE), run=tmp_path)
    assert epochs.accuracy_by_epoch(subject) == {1: 0.25, 4: 0.5}
    (tmp_path / "log.jsonl").write_text(json.dumps(log[1]) + "\n")
    with pytest.raises(ConfigError, match="no run was evaluated at several epochs; fit --evaluate-every 1"):
        epochs.analyse([subject])


def test_published_numbers_stand_beside_the_base_on_coco_alone(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Subject.of_run(runs / "base", machine=MACHINE)
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in (*range(139, 5138), 581781)]
    coco = {"images": images, "annotations": []}

    def as_coco(arch: str, epochs: int, components: int = 0, **truth: Any) -> Subject:
        subject = dataclasses.replace(base, components=components)
        config = subject.config
        config = dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, arch=arch),
            optimizer=dataclasses.replace(config.optimizer, epochs=epochs),
            data=dataclasses.replace(config.data, input_size=512),
        )
        vars(subject).update(config=config, truth={**coco, **truth})
        return subject

    plain, flipped = published_of(as_coco("hourglass104", 50))
    assert (plain.AP, flipped.AP) == (0.403, 0.422)
    assert plain.images_per_second == pytest.approx(14.08, abs=0.01)
    assert published_of(as_coco("hourglass104", 150)) == ()
    assert published_of(as_coco("hourglass104", 50, components=3)) == ()
    assert published_of(as_coco("hourglass104", 50, images=images[:100])) == ()
    subject = as_coco("dla34", 140)
    monkeypatch.setattr(Subject, "evaluate", lambda self, *_, **__: Evaluation(self.run / "evaluation"))
    text = "\n".join(speed.analyse([subject]).lines)
    assert "| published | no | 36.3 |" in text
    assert "| published | yes | 38.2 |" in text
    assert "Published: CenterNet's code" in text
