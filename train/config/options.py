"""What can be chosen, as frozen typed dataclasses: the command line is made from them and config.json holds them.

A field's docstring is its help text. Lengths are in pixels, times in the unit that the name says.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import cattrs
from tyro.conf import Positional, arg

from train.errors import ConfigError
from train.tasks import TaskName, task_class
from train.tasks.weights import LossWeights

# What there is says `train.loop.network.pick_device`.
Device = Annotated[str, arg(metavar="{auto,cpu,cuda,cuda:N}")]
MixedPrecision = Literal["no", "bf16", "fp16"]
Resolution = Literal["fixed", "original"]
Orientation = Literal["stored", "exif"]
C = TypeVar("C")


@dataclass(frozen=True)
class DataConfig:
    """COCO-format images and annotations, of any categories; --coco or --train-images and --train-annotations."""

    coco: Path | None = None
    """COCO 2017's folder, with train2017, val2017 and annotations: stands for the four options that follow."""
    train_images: Path | None = None
    """Folder of the training images."""
    train_annotations: Path | None = None
    """COCO instances file (for poses: keypoints file) of the training images."""
    val_images: Path | None = None
    """Folder of the images to evaluate on."""
    val_annotations: Path | None = None
    """COCO annotation file of the images to evaluate on."""
    train_limit: int | None = None
    """Use only the first so many training images (for poses: of those with people)."""
    train_share: float = 1.0
    """Use only a random share of the training images, which --seed fixes."""
    val_limit: int | None = None
    """Use only the first so many images of the evaluation set."""
    input_size: int = 512
    """Side of the square that the network sees, in pixels; a multiple of what the architecture asks for."""
    orientation: Orientation = "stored"
    """How the annotations take the images: stored as the pixels lie in the file, exif turned upright by their EXIF
    orientation, as viewers show them; check-data tells which it is."""
    workers: int = 4
    """Processes that decode and warp images; 0 does it in the main process."""


@dataclass(frozen=True)
class AugmentConfig:
    """CenterNet's augmentation of training images; its defaults, all on."""

    augment: bool = True
    """Off: training images are only fitted into the input, as in evaluation."""
    crop_scales: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
    """Side of the random window over the image's longer side, one of these: below 1 enlarges the objects."""
    crop_border: int = 128
    """Keep the window's centre this many pixels inside the image, halved until it fits a small one."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    colour: float = 0.4
    """Range of the random brightness, contrast and saturation factors, around 1."""
    lighting: float = 0.1
    """Standard deviation of the random shift along the principal axes of colour."""
    rotate: float = 0.0
    """Probability of a rotation."""
    rotate_degrees: float = 30.0
    """Standard deviation of its angle, which is cut off at twice that."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    task: TaskName = "detection"
    """detection: boxes of any categories; pose: people, or one other category, with the keypoints that the training
    annotations name."""
    arch: str = "hourglass_small"
    """Backbone: hourglass104 and dla34 (as published, for GPUs) or hourglass_small (trains on a CPU)."""
    components: int = 3
    """Mixture components of the box size or the pose; 0 is the single-mode CenterNet base with an L1 loss."""
    min_scale: float | None = None
    """Least sigma of a component in output cells (of a pose: before each keypoint's constant). By default 1 for box
    sizes, and 9 for poses as in the published code."""
    keypoint_sigmas: tuple[float, ...] | None = None
    """Poses: OKS's constants, one for all keypoints or one for each in the annotations' order; they scale the mixture's
    sigmas too. By default COCO's for the 17 keypoints of its persons; for other keypoints their median, for each."""
    class_specific: bool = False
    """Predict a size for each class (the paper's control experiment), not one for all."""
    imagenet: Path | None = None
    """dla34: start from this file of ImageNet weights, as published with DLA."""
    activation_checkpointing: bool = False
    """Compute the backbone's intermediate results again in the backward pass: less memory, more time, same results."""

    @property
    def least_scale(self) -> float:
        """Return min_scale, or the task's own where it is not given."""
        return task_class(self.task).min_scale if self.min_scale is None else self.min_scale


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with a step schedule, and the losses' weights. The defaults are the published hourglass 1x schedule."""

    epochs: int = 50
    """Passes over the training images."""
    batch: int = 12
    """Images per step, over all processes together."""
    lr: float = 2.5e-4
    """Learning rate before any drop."""
    drop_epochs: tuple[int, ...] = (40,)
    """Multiply the learning rate by --drop-factor after each of these epochs."""
    drop_factor: float = 0.1
    """What the learning rate is multiplied by at a drop."""
    heatmap_weight: float = LossWeights.heatmap_weight
    """Weight of the focal loss of the centre heatmaps."""
    offset_weight: float = LossWeights.offset_weight
    """Weight of the centres' L1 offset loss. The paper's text has 0.1, its code and CenterNet have 1."""
    size_weight: float = LossWeights.size_weight
    """Weight of the size loss: the mixture's negative log-likelihood, or L1 for the base and for a pose's box. As
    published, the same for both."""
    pose_weight: float | None = LossWeights.pose_weight
    """Weight of the pose loss. By default as published: 0.1 for the mixture's negative log-likelihood, 1 for the base's
    L1."""
    keypoint_weight: float = LossWeights.keypoint_weight
    """Weight of the keypoint heatmaps' focal loss and of the keypoints' L1 offset loss."""
    accumulate: int = 1
    """Take each process's images of a step in so many parts, one after the other: less memory, the same gradient, but
    that batch norm sees the parts one by one."""
    clip_norm: float | None = None
    """Shrink a step's gradient to this norm where its own is larger."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, such as 0.999: what is then evaluated and predicts."""


@dataclass(frozen=True)
class FitConfig:
    """Train a detector or pose estimator on COCO-format data; leaves a run directory with all that came of it."""

    run: Path
    """Run directory to make. It must not exist yet; to go on with one that does, use --resume."""
    recipe: Annotated[str | None, Positional, arg(metavar="[RECIPE]")] = None
    """One of the paper's models, listed above: sets the options' defaults."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    """Fixes the initial weights, the order of the images and their augmentation."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU. Of several processes each takes its own GPU."""
    mixed_precision: MixedPrecision = "no"
    """Arithmetic of the network under autocast; the losses are in float32 either way."""
    compile: bool = False
    """Compile the network with torch.compile: slow first steps, faster ones from then on."""
    sync_batch_norm: bool = False
    """With several processes: batch norm over all images of a step, not over those of each process."""
    channels_last: bool = True
    """Keep images and weights in channels_last order, which convolutions run faster in, on CPUs and GPUs alike."""
    log_every: int = 20
    """Steps between two records of the log."""
    checkpoint_minutes: float = 10.0
    """Save a checkpoint when so much time has passed since the last one; every epoch's end saves one too."""
    evaluate_every: int = 0
    """Epochs between two evaluations on the val set; 0 evaluates at the end only."""
    stop_after: int | None = None
    """Stop in good order after so many steps of this session, as an interruption would; --resume goes on."""
    resume: Path | None = None
    """Continue this run directory with the configuration that it holds. Options given beside --resume replace it; those
    that change which images an epoch takes, or their order, only between two epochs."""


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained network looks at an image."""

    flip: bool = False
    """Look at the mirror image too, and average the two."""
    flip_stronger: bool = False
    """The same, but take each box's size, or pose, from the view whose component weighs more."""
    resolution: Resolution = "fixed"
    """fixed fits images into the square of the training; original keeps their size, one image a step."""
    scales: tuple[float, ...] = (1.0,)
    """Look at the images enlarged and shrunk by these factors; several are merged by soft-NMS."""
    component: int | None = None
    """Take every box's size, or every pose, from this mixture component, not from the strongest one."""
    refine: bool = True
    """Poses: move keypoints to near peaks of their heatmaps."""
    detections: int = 100
    """Objects per image that are kept; COCO counts at most 100 boxes or 20 poses."""
    mixed_precision: MixedPrecision = "no"
    """Arithmetic of the network under autocast; boxes and poses are decoded in float32 either way."""
    compile: bool = False
    """Compile the network with torch.compile: slow first images, faster ones from then on."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a trained network with COCO's numbers; writes detections.json and metrics.json."""

    run: Annotated[Path | None, Positional, arg(metavar="[RUN]")] = None
    """Run directory whose last checkpoint and val set are taken."""
    checkpoint: Path | None = None
    """Checkpoint to evaluate instead of the run's last one."""
    split: Literal["val", "test-dev"] = "val"
    """test-dev writes the server's file of an image list without annotations (--images, --annotations) and no score."""
    images: Path | None = None
    """Folder of images to evaluate on instead of the run's val images."""
    annotations: Path | None = None
    """COCO annotation file of these images; for test-dev its image list (image_info_test-dev2017.json)."""
    output: Path | None = None
    """Folder to write to. Without it: RUN/evaluation, or runs/evaluation for a bare --checkpoint."""
    limit: int | None = None
    """Use only the first so many images."""
    orientation: Orientation | None = None
    """How the annotations take the images, as for fit. Without it: as the run was trained."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    batch: int = 8
    """Images per step, in each process."""
    workers: int = 4
    """Processes that decode and warp images; 0 does it in the main process."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU."""


@dataclass(frozen=True)
class PredictConfig:
    """Find objects or poses in images; writes predictions.json and a picture per image, coloured by component."""

    images: Annotated[tuple[Path, ...], Positional, arg(metavar="IMAGE ...", help_behavior_hint="(required)")]
    """Image files; folders, for the images directly in them; and patterns in quotes, such as 'photos/**/*.jpg'."""
    run: Path | None = None
    """Run directory whose last checkpoint is taken."""
    checkpoint: Path | None = None
    """Checkpoint to use instead of a run's last one."""
    output: Path | None = None
    """New or empty folder to write to. Without it: RUN/predictions or, without a run, runs/predictions, -2, -3, ..."""
    threshold: float = 0.3
    """Leave out what has a lower score."""
    orientation: Orientation = "exif"
    """exif turns images upright by their EXIF orientation, as viewers show them; stored takes the pixels as they lie in
    the file. Boxes, sizes and pictures that are written are all of the image so taken."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    pictures: bool = True
    """Draw a picture per image."""
    ellipse_score: float = 0.5
    """Poses: draw the ellipses, one sigma around each keypoint, of those with at least this score; 1.1 draws none."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU."""


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained network as a graph that runs without this code: torch.export (.pt2) or ONNX (.onnx)."""

    output: Path
    """File to write: NAME.pt2, from images to detections or poses, or NAME.onnx, from images to maps."""
    run: Annotated[Path | None, Positional, arg(metavar="[RUN]")] = None
    """Run directory whose last checkpoint is taken."""
    checkpoint: Path | None = None
    """Checkpoint to use instead of a run's last one."""
    size: tuple[int, int] | None = None
    """Height and width of the images that the graph takes. Without it: the square of the training."""
    flip: bool = False
    """.pt2: look at the mirror image too, and average the two."""
    detections: int = 100
    """.pt2: objects per image that are given."""


@dataclass(frozen=True)
class CheckDataConfig:
    """Report what a data set holds and what is wrong in it; writes check.json and a picture of augmented samples."""

    images: Path
    """Folder of the images."""
    annotations: Path
    """COCO instances file, or keypoints file for poses."""
    task: TaskName = "detection"
    """What it is to be used for."""
    keypoint_sigmas: tuple[float, ...] | None = None
    """As for fit: the constants of OKS, one for all keypoints or one for each."""
    output: Path = Path("runs/data-check")
    """Folder to write to."""
    limit: int | None = None
    """Look at only the first so many images."""
    orientation: Orientation = "stored"
    """How the annotations take the images, as for fit."""
    samples: int = 6
    """Samples in the picture."""
    input_size: int = 512
    """Side of the square that the network sees, in pixels; a multiple of 4."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0
    """Fixes the augmentation."""


@dataclass(frozen=True)
class DemoConfig:
    """Train mixtures and single-mode bases on small synthetic sets of boxes and poses and compare them in a report."""

    output: Path = Path("runs/demo")
    """Folder to make: for each task its data and both runs, and report/ with report.md."""
    tasks: tuple[TaskName, ...] = ("detection", "pose")
    """What to train for."""
    components: int = 3
    """Mixture components of the box size or the pose, at least 1."""
    train_pictures: int = 1500
    """Synthetic training pictures of each task."""
    val_pictures: int = 300
    """Synthetic pictures of each task to evaluate on."""
    image_size: int = 96
    """Side of the pictures, in pixels; a multiple of 32."""
    epochs: int = 7
    """Passes over the training pictures, the same for all networks."""
    batch: int = 8
    """Images per step."""
    lr: float = 1e-3
    """Learning rate of all networks before its one drop."""
    seed: int = 0
    """Fixes data, initial weights, order and augmentation, the same for all networks."""
    workers: int = 0
    """Processes that decode and warp images; 0 does it in the main process, the fastest for pictures this small."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU."""


# What each field must satisfy, by name, wherever it stands: the check and how to say it.
_RULES = {
    **dict.fromkeys(
        (
            "input_size",
            "train_limit",
            "val_limit",
            "limit",
            "epochs",
            "batch",
            "log_every",
            "stop_after",
            "detections",
            "samples",
        ),
        (lambda value: value >= 1, "at least 1"),
    ),
    **dict.fromkeys(
        ("train_pictures", "val_pictures", "image_size", "accumulate"), (lambda value: value >= 1, "at least 1")
    ),
    **dict.fromkeys(
        ("workers", "components", "component", "crop_border", "seed", "checkpoint_minutes", "evaluate_every"),
        (lambda value: value >= 0, "at least 0"),
    ),
    "train_share": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    **dict.fromkeys(
        ("lr", "drop_factor", "clip_norm"), (lambda value: 0 < value < float("inf"), "positive and finite")
    ),
    "ema": (lambda value: 0 < value < 1, "between 0 and 1, both left out"),
    **dict.fromkeys(
        (
            *("heatmap_weight", "offset_weight", "size_weight", "pose_weight", "keypoint_weight"),
            *("lighting", "min_scale", "rotate_degrees"),
        ),
        (lambda value: 0 <= value < float("inf"), "at least 0 and finite"),
    ),
    **dict.fromkeys(("flip", "rotate", "threshold", "colour"), (lambda value: 0 <= value <= 1, "between 0 and 1")),
    **dict.fromkeys(
        ("crop_scales", "scales"),
        (lambda value: value and all(0 < v < float("inf") for v in value), "one or more positive numbers"),
    ),
    "keypoint_sigmas": (
        lambda value: value and all(0 < v < 1 for v in value),
        "one or more numbers above 0 and below 1, as COCO's 0.025 to 0.107",
    ),
    "tasks": (lambda value: value != (), "one or both of detection and pose"),
    "drop_epochs": (lambda value: all(v >= 1 for v in value), "epochs, counted from 1"),
    "ellipse_score": (lambda value: value >= 0, "at least 0"),
}


def check_config(config: Any) -> None:
    """Raises ConfigError where a number is out of its range, naming the option, what was given and what is needed."""
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            check_config(value)
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"--{entry.name.replace('_', '-')}: must fit 64 bits")
        elif value is not None and entry.name in _RULES:
            allowed, need = _RULES[entry.name]
            if not allowed(value):
                raise ConfigError(f"--{entry.name.replace('_', '-')}: must be {need}, not {value}")


def with_data_paths(config: FitConfig) -> FitConfig:
    """The configuration with --coco written out as the four paths it stands for, beside those that were given.

    Raises ConfigError where the training data or half of the val set is missing.
    """
    data = config.data
    if data.coco is not None:
        kind = task_class(config.model.task).coco_annotations
        paths = {
            f"{split}_{part}": getattr(data, f"{split}_{part}") or path
            for split in ("train", "val")
            for part, path in (
                ("images", data.coco / f"{split}2017"),
                ("annotations", data.coco / "annotations" / f"{kind}_{split}2017.json"),
            )
        }
        data = dataclasses.replace(data, coco=None, **paths)
    if data.train_images is None or data.train_annotations is None:
        raise ConfigError("--train-images and --train-annotations: are needed, or --coco")
    if (data.val_images is None) != (data.val_annotations is None):
        raise ConfigError("--val-images and --val-annotations: both are needed, or neither")
    return dataclasses.replace(config, data=data)


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration as nested dicts of JSON's types."""
    return _CONVERTER.unstructure(config)


def from_plain(kind: type[C], plain: Any, source: str) -> C:
    """A configuration of type `kind` from nested dicts.

    Raises ConfigError that names `source` and the field for an unknown or missing field, a wrong type or range.
    """
    try:
        config = _CONVERTER.structure(plain, kind)
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except Exception as error:  # cattrs raises groups, and many types inside them; transform_error names the fields
        problems = cattrs.transform_error(error, path="config", format_exception=_describe)
        raise ConfigError(f"{source}: {'; '.join(problems)}") from error
    return config


def _describe(error: BaseException, kind: type | None) -> str:
    if isinstance(error, (KeyError, cattrs.ForbiddenExtraKeysError)):
        return cattrs.v.format_exception(error, kind)
    return str(error)


def to_json(config: Any) -> str:
    """The text of config.json."""
    return json.dumps(to_plain(config), indent=2) + "\n"


def read_config(kind: type[C], path: Path) -> C:
    """A configuration from its file. Raises ConfigError that names file and field."""
    try:
        plain = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; is this a run directory?") from None
    except (OSError, ValueError, RecursionError) as error:  # the last for lists that are nested without end
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    return from_plain(kind, plain, str(path))


def _make_converter() -> cattrs.Converter:
    """cattrs would take 3.7 for an int and "no" for True: here a value has its type already or is refused."""

    def strict(kind: type, *accepted: type) -> Any:
        def structure(value: Any, _: Any) -> Any:
            if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)):
                return kind(value)
            raise TypeError(f"expected {kind.__name__}, got {value!r}")

        return structure

    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(int, strict(int, int))
    converter.register_structure_hook(float, strict(float, int, float))
    converter.register_structure_hook(bool, strict(bool, bool))
    converter.register_structure_hook(str, strict(str, str))
    converter.register_structure_hook(Path, strict(Path, str))
    converter.register_unstructure_hook(Path, str)
    return converter


_CONVERTER = _make_converter()
