"""A contender is drawn, trained and evaluated once, goes on where it was stopped, and is not taken for another."""

import dataclasses
import json
from pathlib import Path

import pytest

from mdnkernels.train.contenders import jobs
from mdnkernels.train.contenders.jobs import Job, Trained, draw_data, train
from mdnkernels.train.contenders.worlds import WORLDS, kinds_world, sizes_world, views_world
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.tasks import TaskName

TINY = {"train_pictures": 4, "val_pictures": 2, "image_size": 96, "epochs": 2, "batch": 2}


def test_a_finished_job_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(sizes_world(1.0, TINY), components=2, seed=5)
    # Stopped in the middle, as by a signal; then the same call goes on.
    monkeypatch.setattr(jobs, "fit", lambda config: fit(dataclasses.replace(config, stop_after=3)))
    draw_data(job, tmp_path)
    with pytest.raises(jobs.TrainingError, match="was interrupted; the same command goes on"):
        train(job, tmp_path, "cpu")
    first = json.loads((job.run(tmp_path) / "times.json").read_text())["seconds"]
    monkeypatch.setattr(jobs, "fit", fit)
    train(job, tmp_path, "cpu")
    done = Trained(job, tmp_path)
    assert done.subject.title == "MDN_2"
    assert done.seconds > first > 0
    assert "AP" in done.subject.metrics

    def refuse(_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(jobs, "fit", refuse)
    pictures = {path: path.stat().st_mtime_ns for path in (job.data(tmp_path) / "train").iterdir()}
    draw_data(job, tmp_path)
    train(job, tmp_path, "cpu")
    assert pictures == {path: path.stat().st_mtime_ns for path in (job.data(tmp_path) / "train").iterdir()}

    other = dataclasses.replace(job, world=sizes_world(1.0, {**TINY, "lr": 2e-3}))
    with pytest.raises(ConfigError, match=r"--output: .*mdn2: was made with other settings"):
        train(other, tmp_path, "cpu")
    for name, value in (("val_pictures", 3), ("image_size", 128)):
        other = dataclasses.replace(job, world=sizes_world(1.0, {**TINY, name: value}))
        with pytest.raises(ConfigError, match=r"--output: .*data: was made with other settings"):
            draw_data(other, tmp_path)


def test_contenders_of_a_seed_differ_in_their_components_alone(tmp_path: Path) -> None:
    world = views_world(0.4, TINY)
    one, other = (Job(world, components, 3).config(tmp_path, "cpu") for components in (0, 3))
    assert one.run != other.run
    assert dataclasses.replace(one.model, components=3) == other.model
    assert dataclasses.replace(one, run=other.run, model=other.model) == other
    assert one.model.start == "data"


@pytest.mark.parametrize("task", ["detection", "pose"])
def test_worlds_of_other_kinds_and_knobs_have_other_folders(task: TaskName) -> None:
    knobs = (0.0, 0.25, 0.5, 1.0)
    names = {Job(family.world(knob, None), 0, 0).run(Path()) for family in WORLDS[task] for knob in knobs}
    assert len(names) == 4 * len(WORLDS[task])


def test_pictures_too_small_for_the_boxes_are_refused() -> None:
    for world in (sizes_world, kinds_world):
        for size in (64, 112):
            with pytest.raises(ConfigError, match="--image-size: must be a multiple of 32 of at least 96 for boxes"):
                world(1.0, {"image_size": size})
