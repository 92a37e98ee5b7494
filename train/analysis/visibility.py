"""Whose face is visible in the truth, and how often a mixture takes people for seen from the front or the back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdnkernels.train.analysis.matching import match_results, single_objects
from mdnkernels.train.analysis.parts import keypoints_named, skeleton_of
from mdnkernels.train.analysis.subject import Section, Subject, mixtures_of
from mdnkernels.train.analysis.tables import markdown_table, percent
from mdnkernels.train.analysis.viewpoint import VIEWS, summarise_components
from mdnkernels.train.errors import ConfigError

SCORES = (0.5, 0.7)
_VISIBLE = 2  # COCO's flag; 1 is labelled and hidden, 0 not labelled


def analyse(subjects: Sequence[Subject]) -> Section:
    """Say how often the truth shows faces and keypoints, beside how often each mixture takes the front and the back.

    Raises ConfigError where no network has a mixture, and where the keypoints have no left and right, no nose and no
    eyes, or none is labelled.
    """
    mixtures = mixtures_of(subjects)
    one = mixtures[0]
    skeleton = skeleton_of(one)
    groups = {
        "face": keypoints_named(skeleton, "nose", "eye"),
        "nose": keypoints_named(skeleton, "nose"),
        "eyes": keypoints_named(skeleton, "eye"),
        "ears": keypoints_named(skeleton, "ear"),
    }
    if not groups["face"]:
        raise ConfigError(f"{one.run}: has no nose and no eyes among its keypoints, by which a visible face is known")
    people = [person for person in single_objects(one.truth) if any(person.get("keypoints", ())[2::3])]
    if not people:
        raise ConfigError(f"{one.annotations}: annotations: no keypoint of anyone is labelled")
    flags = np.array([person["keypoints"][2::3] for person in people], dtype=np.int64)
    truth = summarise_flags(flags, {name: group for name, group in groups.items() if group})
    face_visible = (flags[:, list(groups["face"])] == _VISIBLE).any(1)
    modes = {mixture.title: summarise_modes(mixture, people, face_visible) for mixture in mixtures}
    return Section(_lines(truth, modes), {"visibility": {"truth": truth, "networks": modes}}, {})


def summarise_flags(flags: NDArray[np.int64], groups: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return how many of the truth's people show which of their keypoints.

    flags: (P, J) COCO's, of people with at least one labelled. groups: positions of keypoints by name. Returns
    "people"; "labelled" and "visible", each a dict with the share of people of whom at least one keypoint of a group is
    so, by the group's name, and under "keypoints" the share of all P J keypoints.
    """
    summary: dict[str, Any] = {"people": len(flags)}
    for name, so in (("labelled", flags > 0), ("visible", flags == _VISIBLE)):
        shares = {group: float(so[:, list(places)].any(1).mean()) for group, places in groups.items()}
        summary[name] = shares | {"keypoints": float(so.mean())}
    return summary


def summarise_modes(
    mixture: Subject, people: Sequence[Mapping[str, Any]], face_visible: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Return for each of SCORES how a mixture's results with this score or more divide into views.

    people: the truth's. face_visible: (P,) of whom a face is seen. Each score has "predictions" and "views", their
    shares by VIEWS; and "face visible" and "face not visible", each with "found", the people who have a result, and the
    shares of the views of these. A component's view is that of `viewpoint.summarise_components`.
    """
    view = {m: one["view"] for m, one in summarise_components(mixture).items()}
    summary: dict[str, dict[str, Any]] = {}
    for score in SCORES:
        strong = mixture.strong_results(score)
        matches = match_results(mixture.results, people, score)
        summary[str(score)] = {
            "predictions": len(strong),
            "views": _shares([view[one["component"]] for one in strong]),
        }
        for name, wanted in (("face visible", True), ("face not visible", False)):
            pairs = zip(matches, face_visible, strict=True)
            found = [match.result for match, seen in pairs if match.result is not None and seen == wanted]
            views = [view[one["component"]] for one in found]
            summary[str(score)][name] = {"found": len(found), **_shares(views)}
    return summary


def _shares(views: Sequence[str]) -> dict[str, float]:
    """Return the share of each of VIEWS; nan where there is none."""
    return {view: views.count(view) / len(views) if views else float("nan") for view in VIEWS}


def _lines(truth: Mapping[str, Any], modes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    titles = {
        "face": "face: the nose or an eye",
        "nose": "nose",
        "eyes": "an eye",
        "ears": "an ear",
        "keypoints": "of all keypoints",
    }
    flags = [
        [title, percent(truth["labelled"][name], 1), percent(truth["visible"][name], 1)]
        for name, title in titles.items()
        if name in truth["labelled"]
    ]
    rows = []
    for title, scores in modes.items():
        for score, one in scores.items():
            row = [title, score, str(one["predictions"]), *(percent(one["views"][view], 1) for view in VIEWS)]
            for group in ("face visible", "face not visible"):
                row += [str(one[group]["found"]), percent(one[group]["front"], 1), percent(one[group]["back"], 1)]
            rows.append(row)
    header = ["network", "score from", "predictions", *VIEWS]
    header += [f"{group}: {what}" for group in ("face", "no face") for what in ("found", "front", "back")]
    return [
        "### Visible faces, and the front and the back by the components",
        "",
        f"Of the truth's {truth['people']} people with labelled keypoints, the share with at least one of these "
        "labelled, and visible, by COCO's flags (1 is labelled and hidden, 2 visible):",
        "",
        *markdown_table(["keypoints", "labelled", "visible"], flags),
        "The shares of the views that the components of the predictions are of: of all predictions, and of those found "
        "for people whose face is visible in the truth, or is not. A component is of the front where it places left "
        "parts of the body right of right ones, of the back where it does the opposite, as the section on the "
        "components' predictions says.",
        "",
        *markdown_table(header, rows),
    ]
