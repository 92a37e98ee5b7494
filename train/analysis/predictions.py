"""Pictures of what networks find, beside the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mdnkernels.train.analysis.matching import single_objects
from mdnkernels.train.analysis.subject import MIN_SCORE, Section, Subject
from mdnkernels.train.data.images import ImageError, open_image, read_rgb
from mdnkernels.train.drawing.pictures import grid
from mdnkernels.train.errors import ConfigError

SAMPLES = 6


def analyse(subjects: Sequence[Subject]) -> Section:
    """Show the first pictures with something to find: the truth, and each network's results, coloured by component.

    Results with keypoints have an ellipse around each at one sigma. Raises ConfigError where no picture can be read.
    """
    one = subjects[0]
    name = f"{one.task.name}_predictions.png"
    ellipses = "" if one.task.skeleton is None else ", with ellipses at one sigma of each keypoint"
    lines = [
        f"### Predictions on the first val pictures (score >= {MIN_SCORE}), coloured by component{ellipses}",
        "",
        f"![predictions]({name})",
        "",
    ]
    return Section(lines, {}, {name: draw_side_by_side(subjects)})


def draw_side_by_side(subjects: Sequence[Subject], samples: int = SAMPLES) -> Image.Image:
    """Draw a row for each of the first pictures with something to find: the truth, then what each network found.

    A picture that cannot be read is passed over. Raises ConfigError where none can.
    """
    one = subjects[0]
    columns = [("truth", _by_image(single_objects(one.truth)))]
    columns += [(subject.title, _by_image(subject.strong_results())) for subject in subjects]
    pictures: list[Image.Image] = []
    for identity, image in _readable(one.truth["images"], one.images, columns[0][1]):
        for number, (_, found) in enumerate(columns):
            picture = one.task.picture(
                image,
                found.get(identity, []),
                truth=number == 0,
                min_score=MIN_SCORE,
                ellipse_score=MIN_SCORE,
                legend=False,
                min_side=480,
            )
            pictures.append(picture)
        if len(pictures) == samples * len(columns):
            break
    if not pictures:
        raise ConfigError(f"{one.images}: no picture in which {one.annotations} has an object can be read")
    captions = [caption for caption, _ in columns] * (len(pictures) // len(columns))
    components = max(subject.components for subject in subjects)
    return grid(pictures, len(columns), captions=captions, num_components=components)


def _by_image(entries: Sequence[Mapping[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        found[entry["image_id"]].append(dict(entry))
    return found


def _readable(
    images: Sequence[Mapping[str, Any]], folder: Path, objects: Mapping[int, Any]
) -> Iterator[tuple[int, Image.Image]]:
    """Give the ids and the pictures of the images that have objects and can be read."""
    for entry in images:
        if entry["id"] not in objects:
            continue
        try:
            with open_image(folder / entry["file_name"]) as image:
                picture = read_rgb(image)
        except ImageError:
            continue
        yield entry["id"], picture
