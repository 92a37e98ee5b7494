"""What published files call the entries of our networks: the tables that translate, as `models.checkpoints` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mdnkernels.models.dla import DLA34
from mdnkernels.models.hourglass import Hourglass
from mdnkernels.models.network import Backbone, Network

# Patterns in our names and what stands there in the published ones, applied in turn.
Rules = Sequence[tuple[str, str]]

HOURGLASS_RULES: Rules = (
    (r"^stem\.0\.0\.", "pre.0.conv."),
    (r"^stem\.0\.1\.", "pre.0.bn."),
    (r"^stem\.1\.", "pre.1."),
    (r"^hourglasses\.", "kps."),
    (r"\bstay\b", "up1"),
    (r"\bdown\b", "low1"),
    (r"\binner\b", "low2"),
    (r"\bup\b", "low3"),
    (r"^outputs\.(\d+)\.0\.", r"cnvs.\1.conv."),
    (r"^outputs\.(\d+)\.1\.", r"cnvs.\1.bn."),
    (r"^merges\.(\d+)\.residual\.", r"inters.\1."),
    (r"^merges\.(\d+)\.from_input\.", r"inters_.\1."),
    (r"^merges\.(\d+)\.from_feature\.", r"cnvs_.\1."),
)
DLA_RULES: Rules = (
    (r"^levels\.0\.0\.", "base.base_layer."),
    (r"^levels\.0\.1\.", "base.level0."),
    (r"^levels\.(\d)\.", r"base.level\1."),
    (r"\bfirst\b", "tree1"),
    (r"\bsecond\b", "tree2"),
    (r"\broot\.0\.", "root.conv."),
    (r"\broot\.1\.", "root.bn."),
    (r"\bunread\b", "project"),
    (r"^up\.(\d)\.", r"dla_up.ida_\1."),
    (r"^join\.", "ida_up."),
    # Published aggregations count their layers from 1.
    *(
        (rf"\b(ida_\w+)\.{ours}\.{i}\.", rf"\1.{theirs}_{i + 1}.")
        for ours, theirs in (("project", "proj"), ("upsample", "up"), ("node", "node"))
        for i in range(3)
    ),
    (r"\b((?:proj|node)_\d)\.(weight|bias)$", r"\1.conv.\2"),
    (r"\b((?:proj|node)_\d)\.taps\.", r"\1.conv.conv_offset_mask."),
    (r"\b((?:proj|node)_\d)\.bn\.", r"\1.actf.0."),
)
HEADS = {
    "heatmap": "hm",
    "offset": "reg",
    "size": "wh",
    "logits": "mdn_logits",
    "scale": "mdn_sigma",
    "keypoints": "hps",
    "keypoint_heatmap": "hm_hp",
    "keypoint_offset": "hp_offset",
}
# A mixture's means have the name of what they stand in for.
MEANS = {"size": "wh", "pose": "hps"}


@dataclass(frozen=True)
class Form:
    """How published files hold one architecture.

    backbone: rules for its names. hidden, output: what a head's two layers are called. first: our name of the weight
    that reads the image. ignored: published entries that no published network reads either.
    """

    backbone: Rules
    hidden: str
    output: str
    first: str
    ignored: frozenset[str] = frozenset()


FORMS: dict[type[Backbone], Form] = {
    Hourglass: Form(HOURGLASS_RULES, "{head}.{stack}.0.conv", "{head}.{stack}.1", first="stem.0.0.weight"),
    # The classifier of the ImageNet weights that training began with stays in the file.
    DLA34: Form(
        DLA_RULES,
        "{head}.0",
        "{head}.2",
        first="levels.0.0.0.weight",
        ignored=frozenset({"base.fc.weight", "base.fc.bias"}),
    ),
}


def published_names(model: Network) -> dict[str, str]:
    """Return what published files call each entry of the model's state dict."""
    form = form_of(model.backbone)
    heads = HEADS | {"loc": MEANS[model.regression.quantity]}
    names = {f"backbone.{name}": renamed(name, form.backbone) for name in model.backbone.state_dict()}
    for stack, group in enumerate(model.head_groups):
        for name in group.heads:
            for layer in ("hidden", "output"):
                theirs = getattr(form, layer).format(head=heads[name], stack=stack)
                for kind in ("weight", "bias"):
                    names[f"heads.{stack}.heads.{name}.{layer}.{kind}"] = f"{theirs}.{kind}"
    return names


def form_of(backbone: Backbone) -> Form:
    """Return how published files hold a backbone. Raises ValueError for one that they do not hold."""
    if type(backbone) not in FORMS:
        known = ", ".join(kind.__name__ for kind in FORMS)
        raise ValueError(f"published files hold backbones {known}, not {type(backbone).__name__}")
    return FORMS[type(backbone)]


def renamed(name: str, rules: Rules) -> str:
    """Return the published name of an entry."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
