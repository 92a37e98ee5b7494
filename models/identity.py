"""What a state dict says of the network that it is of: the arguments of `build_model` that made it.

A file that does not fit a model is mostly one of other classes or components; a message should name them, and not the
shapes that follow from them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mdnkernels.models.architectures import ARCHITECTURES
from mdnkernels.models.network import Network
from mdnkernels.models.published_names import HEADS, form_of, published_names, renamed

_OWN_HEAD = re.compile(r"heads\.\d+\.heads\.(\w+)\.output\.weight")
_PUBLISHED_HEAD = re.compile(r"(\w+)\.(?:\d+\.1|2)\.weight")
_OUR_NAMES = {theirs: ours for ours, theirs in HEADS.items()}


def options_of(entries: Mapping[Any, Any], *, published: bool, class_specific: bool = False) -> dict[str, Any]:
    """Return the arguments of `build_model` that the heads of a state dict tell, nothing where it has no such heads.

    "task"; of detection "num_classes"; "components"; of poses "keypoints", which are the skeleton's. published: whether
    the names are those of published files. class_specific: whether a size belongs to each class, which the file does
    not tell from a mixture of more components.
    """
    channels = _head_channels(entries, published)
    if "heatmap" not in channels:
        return {}
    if "keypoint_heatmap" in channels:
        return {
            "task": "pose",
            "components": channels.get("logits", 0),
            "keypoints": channels["keypoint_heatmap"],
        }
    classes = channels["heatmap"]
    of_each = classes if class_specific else 1
    return {"task": "detection", "num_classes": classes, "components": channels.get("logits", 0) // of_each}


def arch_of(entries: Mapping[Any, Any], *, published: bool) -> str | None:
    """Return the architecture whose backbone a state dict holds, None where it is none of `ARCHITECTURES`."""
    for arch in ARCHITECTURES:
        needed = _backbone_shapes(arch, published)
        if all(_shape(entries.get(name)) == shape for name, shape in needed.items()):
            return arch
    return None


def describe_other_network(model: Network, given: Mapping[Any, Any], *, published: bool) -> str | None:
    """Say which arguments of `build_model` a state dict was made with where the model was made with others.

    None where it does not tell, or tells the same.
    """
    own = model.state_dict()
    names = published_names(model) if published else {name: name for name in own}
    needed = {names[name]: value for name, value in own.items()}
    class_specific = model.regression.classes > 1
    wanted = options_of(needed, published=published, class_specific=class_specific)
    found = options_of(given, published=published, class_specific=class_specific)
    backbone = {names[name] for name in own if name.startswith("backbone.") and not name.endswith("tracked")}
    if any(_shape(given.get(name)) != needed[name].shape for name in backbone):
        wanted["arch"], found["arch"] = (arch_of(one, published=published) for one in (needed, given))
    differing = [name for name, value in found.items() if value is not None and value != wanted.get(name)]
    if not differing:
        return None
    theirs = ", ".join(f"{name}={found[name]!r}" for name in differing)
    ours = ", ".join(f"{name}={wanted[name]!r}" for name in differing if wanted.get(name) is not None)
    return f"build_model makes the file's network with {theirs}{'; this model has ' if ours else ''}{ours}"


def _head_channels(entries: Mapping[Any, Any], published: bool) -> dict[str, int]:
    """Return the channels of each head by our name; of a mixture in a published file, the means' by the base's name."""
    channels = {}
    for name, value in entries.items():
        match = (_PUBLISHED_HEAD if published else _OWN_HEAD).fullmatch(str(name))
        ours = None if match is None else _OUR_NAMES.get(match[1]) if published else match[1]
        if ours is not None and isinstance(value, Tensor) and value.dim() == 4:
            channels[ours] = value.shape[0]
    return channels


@functools.cache
def _backbone_shapes(arch: str, published: bool) -> dict[str, torch.Size]:
    with torch.device("meta"):
        backbone = ARCHITECTURES[arch].backbone()
    rules = form_of(backbone).backbone if published else ()
    return {
        renamed(name, rules) if published else f"backbone.{name}": value.shape
        for name, value in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None
