"""Networks for detection and pose: a backbone, heads, and their decoding."""

from __future__ import annotations

from mdnkernels import Family
from mdnkernels.models.architectures import ARCHITECTURES, Architecture
from mdnkernels.models.checkpoints import load_imagenet, load_published, save_published
from mdnkernels.models.decode import Detections, decode_detections
from mdnkernels.models.detector import Detector, size_regression
from mdnkernels.models.dla import DLA34
from mdnkernels.models.heads import Head, HeadConfig
from mdnkernels.models.hourglass import Hourglass, HourglassConfig
from mdnkernels.models.merging import merge_scales, placed
from mdnkernels.models.network import Backbone, Network
from mdnkernels.models.pose import PoseEstimator, Poses, pose_regression
from mdnkernels.models.regression import MIN_SCALE, MixtureRegression, Regression, SingleMode
from mdnkernels.models.skeleton import COCO_PERSON, Skeleton

__all__ = [
    "ARCHITECTURES",
    "COCO_PERSON",
    "DLA34",
    "TASKS",
    "Architecture",
    "Backbone",
    "Detections",
    "Detector",
    "Head",
    "HeadConfig",
    "Hourglass",
    "HourglassConfig",
    "MixtureRegression",
    "Network",
    "PoseEstimator",
    "Poses",
    "Regression",
    "SingleMode",
    "Skeleton",
    "build_model",
    "decode_detections",
    "load_imagenet",
    "load_published",
    "merge_scales",
    "placed",
    "pose_regression",
    "save_published",
    "size_regression",
]


TASKS = ("detection", "pose")


def build_model(
    arch: str,
    *,
    task: str = "detection",
    num_classes: int = 1,
    components: int,
    class_specific: bool = False,
    skeleton: Skeleton = COCO_PERSON,
    family: str | Family = "gaussian",
    min_scale: float = MIN_SCALE,
    activation_checkpointing: bool = False,
) -> Detector | PoseEstimator:
    """Build a network with fresh weights.

    arch: a key of `ARCHITECTURES`. task: "detection", a `Detector` of num_classes >= 1 classes, or "pose", a
    `PoseEstimator` of one class with the skeleton's keypoints. components: of the mixture over box sizes or poses; 0 is
    the single-mode CenterNet base, trained with L1. class_specific: detection with a size for each class, the paper's
    control experiment. family: of the mixture, as in `mdnkernels.mixture_nll`; the base has none but the default.
    min_scale: the least sigma of a component, in output cells (sigma = ELU(raw) + 1 + min_scale).
    activation_checkpointing: training keeps the inputs of the backbone's parts alone and computes the rest again in the
    backward pass, with the same results. `model.backbone.activation_checkpointing` switches it later. Under
    torch.compile, which decides itself what to keep, it does nothing. Raises ValueError that names what is wrong and
    what there is.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown arch {arch!r}; there are {', '.join(ARCHITECTURES)}")
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {', '.join(TASKS)}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    if task == "pose" and (num_classes != 1 or class_specific):
        raise ValueError("task 'pose' has one class: num_classes must be 1 and class_specific False")
    if task == "pose":
        regression = pose_regression(skeleton, components, family=family, min_scale=min_scale)
    else:
        classes = num_classes if class_specific else 1
        regression = size_regression(components, classes=classes, family=family, min_scale=min_scale)
    head_width = ARCHITECTURES[arch].head_width
    backbone = ARCHITECTURES[arch].backbone()
    backbone.activation_checkpointing = activation_checkpointing
    if task == "pose":
        return PoseEstimator(backbone, head_width, regression, skeleton=skeleton)
    return Detector(backbone, head_width, num_classes, regression)
