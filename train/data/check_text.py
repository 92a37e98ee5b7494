"""The report on a data set in words, with what can be done about what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Bad entries that are printed; check.json has all.
LISTED = 20


def text_of(report: dict[str, Any]) -> str:
    """Write the report out for people."""
    lines = [
        f"{report['images']} images, {report['images_without_objects']} of them without objects",
        f"{report['objects']} objects and {report['crowds']} crowds"
        f"; of an image: {_words(report['objects_per_image'])}",
        f"width in pixels: {_words(report['sides']['width'])}; height: {_words(report['sides']['height'])}",
        "by COCO's areas: " + ", ".join(f"{count} {name}" for name, count in report["areas"].items()),
        "categories: " + ", ".join(f"{one['name']} (id {one['id']}) {one['objects']}" for one in report["categories"]),
    ]
    if "keypoints" in report:
        one = report["keypoints"]
        lines.append(
            f"keypoints: {one['visible']} visible, {one['hidden']} hidden, {one['not_labelled']} not labelled; "
            f"{one['people_without']} people without any"
        )
    if "skeleton" in report:
        one = report["skeleton"]
        lines += [
            "constants of OKS: " + ", ".join(f"{name} {sigma:g}" for name, sigma in one["sigmas"].items()),
            "change places in mirrored images: " + (", ".join(map(" and ".join, one["flip_pairs"])) or "none"),
            f"{len(one['links'])} links to draw",
        ]
        if one["unpaired"]:
            lines.append(f"without a counterpart, so that training needs --flip 0: {', '.join(one['unpaired'])}")
    bad = report["bad_annotations"] + [f"{one['file']}: {one['reason']}" for one in report["bad_images"]]
    unused, without, turned = report["unused_categories"], report["people_without_keypoints"], report["turned"]
    nothing = report["no_object_to_train_on"]
    if nothing is not None:
        lines.append(f"no object to train on: {nothing}")
    if bad:
        lines.append(
            f"bad entries: {len(report['bad_annotations'])} annotations and {len(report['bad_images'])} images, "
            "which training leaves out"
        )
        lines += _listed(bad)
    if unused:
        lines.append(f"{len(unused)} {'category' if len(unused) == 1 else 'categories'} without annotations, left out")
        lines += _listed(unused)
    if without:
        lines.append(f"{len(without)} people without keypoints, who count as people with none labelled")
        lines += _listed(without)
    if turned["files"]:
        lines += _words_of_turned(turned)
    if report["transparent"]:
        lines.append(
            f"{len(report['transparent'])} images with transparent pixels, whose colours are taken all the same"
        )
        lines += _listed(report["transparent"])
    if report["doubts"]:
        lines.append("doubtful entries, which training takes as they stand:")
        lines += [f"  {line}" for doubt in report["doubts"] for line in _words_of_doubt(doubt)]
    wrongly_turned = turned["files"] and turned["likely"] != turned["taken"]
    if not (nothing or bad or unused or without or report["doubts"] or wrongly_turned):
        lines.append("no bad entries")
    return "\n".join(lines)


def _listed(entries: Sequence[str]) -> list[str]:
    more = [f"  and {len(entries) - LISTED} more, in check.json"] if len(entries) > LISTED else []
    return [f"  {one}" for one in entries[:LISTED]] + more


def _words_of_turned(turned: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{count} by {value}" for value, count in turned["orientations"].items())
    lines = [f"turned by their EXIF orientation: {turned['files']} images ({kinds}); taken here: {turned['taken']}"]
    lines += _listed(turned["first"])
    names = {"stored": "the stored", "exif": "the turned"}
    for what in ("sizes", "boxes"):
        told = [f"{count} only {names[name]} image" for name, count in turned[what].items() if count]
        if told:
            lines.append(f"  images whose {what} fit: {', '.join(told)}")
    sizes, boxes = turned["sizes"], turned["boxes"]
    if sizes["stored"] and boxes["exif"] and not sizes["exif"] and not boxes["stored"]:
        lines.append(
            "  the boxes seem to be of the turned images and the sizes of the stored: exchange width and height of "
            "these images in the list, and take --orientation exif"
        )
    elif turned["likely"] is None:
        verdict = "contradicts itself" if any((*sizes.values(), *boxes.values())) else "does not tell which it is of"
        lines.append(f"  the list {verdict}: compare samples.png of --orientation stored and exif")
    elif turned["likely"] != turned["taken"]:
        lines.append(
            f"  the list seems to be of {names[turned['likely']]} images: take --orientation {turned['likely']}"
        )
    return lines


def _words_of_doubt(doubt: dict[str, Any]) -> list[str]:
    lines = [doubt["text"], *_listed(doubt["examples"])]
    if doubt["count"] > len(doubt["examples"]):
        lines.append(f"  and {doubt['count'] - len(doubt['examples'])} more")
    if doubt["looks_like"] is not None:
        lines.append(f"  the file looks like {doubt['looks_like']}")
    if doubt["mend"]:
        lines += ['  to mend it, with root = json.load(open("..."))', *(f"    {line}" for line in doubt["mend"])]
    return lines


def _words(spread: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in spread.items()) or "none"
