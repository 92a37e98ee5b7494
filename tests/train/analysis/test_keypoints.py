"""AP of subsets of the keypoints: that of COCO's evaluation of these keypoints alone, and one worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mdnkernels.models import COCO_PERSON, Skeleton
from mdnkernels.train.analysis.keypoints import analyse, displaced_truth, subset_precisions, subsets_of
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.data.coco import Category, CocoAnnotations
from mdnkernels.train.data.sets import open_annotations
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks.pose import PoseTask
from mdnkernels.train.tasks.score import average_precision, keypoint_similarities, score_results
from tests.train.animals import SKELETON as ANIMAL

JOINTS = len(COCO_PERSON.names)


def random_truth(images: int = 6) -> dict[str, Any]:
    """Return people, three far apart in each image. Of each some keypoints, of one all of them are not labelled."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(3 * images):
        x, labels = 300.0 * (number % 3), rng.integers(0, 3, JOINTS)
        if number % 4 == 1:
            labels[:5] = 0
        if number % 4 == 2:
            labels[5:] = 0
        if number == 9:
            labels[:] = 0
        points = np.stack((x + 80 * rng.random(JOINTS), 80 * rng.random(JOINTS), labels), 1)
        annotations.append(
            {
                "id": number + 1,
                "image_id": number // 3 + 1,
                "category_id": 1,
                "bbox": [x, 0.0, 80.0, 80.0],
                "area": float(rng.uniform(1000, 6000)),
                "iscrowd": int(number == 7),
                "keypoints": (points * (labels > 0)[:, None]).ravel().tolist(),
                "num_keypoints": int((labels > 0).sum()),
            }
        )
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 700, "height": 100} for n in range(1, images + 1)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.names), "skeleton": []}],
        "annotations": annotations,
    }


def random_results(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a result near each person, inside the box, and some that are of no one's place or of the wrong one's."""
    rng = np.random.default_rng(1)
    results = []
    for person in [*truth["annotations"], *truth["annotations"][::5]]:
        points = np.reshape(person["keypoints"], (-1, 3)).copy()
        inside = np.array(person["bbox"][:2]) + 80 * rng.random((JOINTS, 2))
        points[:, :2] = np.where(points[:, 2:] > 0, points[:, :2] + rng.normal(0, 3, (JOINTS, 2)), inside)
        points[:, 2] = 1
        results.append(
            {
                "image_id": person["image_id"],
                "category_id": 1,
                "bbox": person["bbox"],
                "keypoints": points.ravel().tolist(),
                "score": float(rng.random()),
            }
        )
    return results


def read(truth: dict[str, Any], folder: Path, skeleton: Skeleton = COCO_PERSON) -> CocoAnnotations:
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    return open_annotations(path, skeleton)


def index(
    truth: dict[str, Any], entries: list[dict[str, Any]], keypoints: tuple[int, ...] = tuple(range(JOINTS))
) -> COCO:
    """Return the entries as COCO's own, with no other keypoints than these."""
    coco = COCO()
    coco.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
    for number, entry in enumerate(entries, start=1):
        own = np.reshape(entry["keypoints"], (-1, 3))[list(keypoints)]
        numbers = {"id": number, "keypoints": own.ravel().tolist(), "num_keypoints": int((own[:, 2] > 0).sum())}
        coco.dataset["annotations"].append({"iscrowd": 0, "area": 1000.0, **entry, **numbers})
    coco.createIndex()
    return coco


def sliced_ap(truth: dict[str, Any], results: list[dict[str, Any]], keypoints: tuple[int, ...]) -> float:
    """Return COCO's AP where the files have no other keypoints, which is the same for people who are far apart."""
    of_truth, of_results = index(truth, truth["annotations"], keypoints), index(truth, results, keypoints)
    evaluator = COCOeval(of_truth, of_results, "keypoints")
    evaluator.params.kpt_oks_sigmas = np.array(COCO_PERSON.sigmas)[list(keypoints)]
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return float(evaluator.stats[0])


def test_a_subsets_ap_is_that_of_files_without_the_other_keypoints(tmp_path: Path) -> None:
    truth = random_truth()
    results = random_results(truth)
    subsets = subsets_of(COCO_PERSON)
    found = subset_precisions(read(truth, tmp_path), results, COCO_PERSON, subsets)
    expected = {name: sliced_ap(truth, results, keypoints) for name, keypoints in subsets.items()}
    assert len(set(expected.values())) > 5
    assert found == pytest.approx(expected)


def with_stray_results(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Return results of which some are partly outside the box of thrice the sides of someone without keypoints."""
    results, unlabelled = random_results(truth), truth["annotations"][9]
    for shift in (-120.0, 40.0, 120.0):
        across = unlabelled["bbox"][0] + shift + np.linspace(0, 60, JOINTS)
        points = np.stack((across, np.linspace(-100, 300, JOINTS), np.ones(JOINTS)), 1)
        results.append(results[0] | {"image_id": unlabelled["image_id"], "keypoints": points.ravel().tolist()})
    return results


def test_similarities_in_one_go_are_cocos(tmp_path: Path) -> None:
    truth = random_truth()
    results = with_stray_results(truth)
    evaluator = COCOeval(index(truth, truth["annotations"]), index(truth, results), "keypoints")
    evaluator.evaluate()
    kept = []
    for image in range(1, 7):
        expected = np.asarray(evaluator.computeOks(image, 1))
        assert keypoint_similarities(evaluator, image, 1) == pytest.approx(expected)
        kept.append(expected)
    strays = kept[3][:, 0]  # with the one without keypoints
    assert len(np.unique(strays.round(6))) > 3
    assert keypoint_similarities(evaluator, 99, 1) == evaluator.computeOks(99, 1) == []


def test_ap_alone_is_that_of_the_whole_evaluation(tmp_path: Path) -> None:
    truth = random_truth()
    annotations, results = read(truth, tmp_path), with_stray_results(truth)
    for kind in ("keypoints", "bbox"):
        names = PoseTask.metrics if kind == "keypoints" else [str(number) for number in range(12)]
        areas = [1.0] * len(results)
        score = score_results(annotations, results, areas, kind=kind, metrics=names, skeleton=COCO_PERSON)
        whole = score.metrics[names[0]]
        assert 0 < whole < 1
        assert average_precision(annotations, results, kind=kind, skeleton=COCO_PERSON) == pytest.approx(whole)


def test_only_an_images_twenty_best_results_count_and_no_result_is_no_ap(tmp_path: Path) -> None:
    truth = random_truth(1)
    annotations = read(truth, tmp_path)
    right = [one | {"score": 0.5} for one in displaced_truth(annotations, 0)]
    elsewhere = [right[0] | {"keypoints": [9000.0, 9000, 1] * JOINTS, "score": 0.9}] * 20
    everything = {"all": tuple(range(JOINTS))}
    assert subset_precisions(annotations, right, COCO_PERSON, everything)["all"] == pytest.approx(1)
    assert subset_precisions(annotations, elsewhere[1:] + right, COCO_PERSON, everything)["all"] > 0
    assert subset_precisions(annotations, elsewhere + right, COCO_PERSON, everything)["all"] == 0
    assert subset_precisions(annotations, [], COCO_PERSON, everything)["all"] == 0


def test_subsets_are_those_that_the_skeleton_has() -> None:
    assert subsets_of(COCO_PERSON) == {
        "all": tuple(range(17)),
        "facial": (0, 1, 2, 3, 4),
        "non-facial": tuple(range(5, 17)),
        "nose": (0,),
        "ears": (3, 4),
        "shoulders": (5, 6),
        "wrists": (9, 10),
        "hips": (11, 12),
        "ankles": (15, 16),
    }
    animal = {"all": (0, 1, 2, 3, 4), "facial": (0, 1, 2), "non-facial": (3, 4), "nose": (0,), "ears": (1, 2)}
    assert subsets_of(ANIMAL) == animal
    assert list(subsets_of(Skeleton(("tip", "end"), (0.1, 0.1)))) == ["all"]
    assert list(subsets_of(Skeleton(("nose", "left_eye"), (0.1, 0.1)))) == ["all", "nose"]


@pytest.mark.parametrize("pixels", [0, 1, 2, 3])
def test_the_displaced_truths_ap_is_the_share_of_thresholds_that_its_distance_reaches(
    pixels: int, tmp_path: Path
) -> None:
    truth = random_truth()
    for person in truth["annotations"]:
        person["area"] = 500.0
    annotations = read(truth, tmp_path)
    nose = {"nose": (0,), "hips": (11, 12), "ears": (3, 4)}
    found = subset_precisions(annotations, displaced_truth(annotations, pixels), COCO_PERSON, nose)
    for name, sigma in (("nose", 0.026), ("hips", 0.107), ("ears", 0.035)):
        similarity = math.exp(-(pixels**2) / (2 * 500 * (2 * sigma) ** 2))
        assert found[name] == pytest.approx(sum(similarity >= 0.5 + 0.05 * step for step in range(10)) / 10)


def test_each_labelled_keypoint_is_displaced_by_as_much_and_in_its_own_direction(tmp_path: Path) -> None:
    annotations = read(random_truth(), tmp_path)
    found = displaced_truth(annotations, 2)
    counted = (annotations.keypoints[..., 2] > 0).any(1) & ~annotations.crowd
    assert len(found) == counted.sum() < len(counted)
    points = np.array([one["keypoints"] for one in found]).reshape(-1, JOINTS, 3)[..., :2]
    labelled = annotations.keypoints[counted, :, 2] > 0
    moved = (points - annotations.keypoints[counted, :, :2])[labelled]
    assert np.hypot(*moved.T) == pytest.approx(np.full(len(moved), 2.0))
    assert np.abs(moved.mean(0)).max() < 0.3
    assert displaced_truth(annotations, 2) == found


def test_a_report_has_the_networks_and_the_displaced_truth(tmp_path: Path) -> None:
    truth = random_truth()
    read(truth, tmp_path)
    task = PoseTask([Category(1, "person")])
    results = random_results(truth)
    subjects = [
        Subject(title, tmp_path, task, components, tmp_path, tmp_path / "truth.json", results[:some], {})
        for title, components, some in (("base", 0, 4), ("MDN_3", 3, 99))
    ]
    section = analyse(subjects)
    scores = section.numbers["keypoint_ap"]["networks"]
    everything = sliced_ap(truth, results, tuple(range(JOINTS)))
    assert scores["MDN_3"]["all"] == pytest.approx(everything)
    assert scores["base"]["all"] < everything
    (line,) = (line for line in section.lines if line.startswith("| MDN_3"))
    assert line.startswith(f"| MDN_3 | {100 * everything:.1f} |")
    assert [line.split(" | ")[0] for line in section.lines if "beside |" in line] == [
        f"| truth, {pixels} px beside" for pixels in (1, 2, 3)
    ]
    # Of the images that were evaluated alone.
    del subjects[1].truth["images"][2:], subjects[0].truth["images"][2:]
    part = {**truth, "images": truth["images"][:2], "annotations": truth["annotations"][:6]}
    expected = sliced_ap(part, [one for one in results if one["image_id"] < 3], tuple(range(JOINTS)))
    assert analyse(subjects).numbers["keypoint_ap"]["networks"]["MDN_3"]["all"] == pytest.approx(expected)


def test_a_truth_without_keypoints_is_refused(tmp_path: Path) -> None:
    truth = random_truth()
    for person in truth["annotations"]:
        person["keypoints"], person["num_keypoints"] = [0] * 3 * JOINTS, 0
    read(truth, tmp_path)
    subject = Subject("a", tmp_path, PoseTask([Category(1, "person")]), 2, tmp_path, tmp_path / "truth.json", [], {})
    with pytest.raises(ConfigError, match="no keypoint of anyone is labelled"):
        analyse([subject])
