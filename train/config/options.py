"""What can be chosen, in the groups that commands share, as frozen typed dataclasses.

The command line is made from them, and config.json holds them. A field's docstring is its help text, its type has the
rule that its value must follow (`train.config.rules`). Lengths are in pixels, times in the unit that the name says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from mdnkernels.train.config.rules import (
    AtLeastOne,
    AtLeastZero,
    CheckedBy,
    NotNegative,
    Positive,
    PositiveNumbers,
    ZeroToOne,
    must_be,
    one_or_more,
)
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks import TaskName
from mdnkernels.train.tasks.weights import LossWeights, MixtureStacks

Device = Annotated[str, arg(metavar="{auto,cpu,cuda,cuda:N}"), CheckedBy("mdnkernels.train.loop.network:pick_device")]
ImageFolder = Annotated[Path, CheckedBy("mdnkernels.train.data.sets:CocoImages")]
AnnotationFile = Annotated[Path, CheckedBy("mdnkernels.train.data.coco_file:read_annotations")]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Threads = AtLeastOne | None
Resolution = Literal["fixed", "original"]
Orientation = Literal["stored", "exif"]
Start = Literal["data", "zero"]
Keep = Literal["last", "best"]
Select = Literal["weight", "density", "mean"]
FamilyName = Annotated[
    str,
    arg(metavar="{gaussian,laplace,student_t:DF,logistic,discretised_logistic:BIN_WIDTH}"),
    CheckedBy("mdnkernels.train.tasks.base:family_of_option"),
]
KeypointSigmas = Annotated[
    tuple[float, ...],
    one_or_more("numbers above 0 and below 1, as COCO's 0.025 to 0.107", lambda sigma: 0 < sigma < 1),
    CheckedBy("mdnkernels.train.data.skeletons:sigmas_of"),
]


def default_workers() -> int:
    """Return one worker for each core of this process, 4 at most: torch warns of more, which only take turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


@dataclass(frozen=True)
class DataConfig:
    """COCO-format images and annotations, of any categories; --coco or --train-images and --train-annotations."""

    coco: Annotated[Path, CheckedBy("mdnkernels.train.data.sets:CocoImages")] | None = None
    """COCO 2017's folder, with train2017, val2017 and annotations: stands for the four options that follow."""
    train_images: ImageFolder | None = None
    """Folder of the training images."""
    train_annotations: AnnotationFile | None = None
    """COCO instances file (for poses: keypoints file) of the training images."""
    val_images: ImageFolder | None = None
    """Folder of the images to evaluate on."""
    val_annotations: AnnotationFile | None = None
    """COCO annotation file of the images to evaluate on."""
    train_limit: AtLeastOne | None = None
    """Use only the first so many training images (for poses: of those with people)."""
    train_share: Annotated[float, must_be("above 0 and at most 1", lambda share: 0 < share <= 1)] = 1.0
    """Use only a random share of the training images, which --seed fixes."""
    val_limit: AtLeastOne | None = None
    """Use only the first so many images of the evaluation set."""
    input_size: Annotated[AtLeastOne, CheckedBy("mdnkernels.train.loop.network:build_network")] = 512
    """Side of the square that the network sees, in pixels; a multiple of what the architecture asks for."""
    orientation: Orientation = "stored"
    """How the annotations take the images: stored as the pixels lie in the file, exif turned upright by their EXIF
    orientation, as viewers show them; check-data tells which it is."""
    workers: AtLeastZero = field(default_factory=default_workers)
    """Processes that decode and warp images, by default one a core and 4 at most; 0 does it in the main process."""

    def check_together(self) -> None:
        """Raise ConfigError where the training data or half of the val set is missing."""
        if self.coco is not None:
            return
        self.training_paths()
        if (self.val_images is None) != (self.val_annotations is None):
            raise ConfigError("--val-images and --val-annotations: both are needed, or neither")

    def training_paths(self) -> tuple[Path, Path]:
        """Return the training images' folder and annotation file. Raises ConfigError where one is missing."""
        if self.train_images is None or self.train_annotations is None:
            raise ConfigError("--train-images and --train-annotations: are needed, or --coco")
        return self.train_images, self.train_annotations


@dataclass(frozen=True)
class AugmentConfig:
    """CenterNet's augmentation of training images; its defaults, all on."""

    augment: bool = True
    """Off: training images are only fitted into the input, as in evaluation."""
    crop_scales: PositiveNumbers = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
    """Side of the random window over the image's longer side, one of these: below 1 enlarges the objects."""
    crop_border: AtLeastZero = 128
    """Keep the window's centre this many pixels inside the image, halved until it fits a small one."""
    flip: ZeroToOne = 0.5
    """Probability of a left-right flip."""
    colour: ZeroToOne = 0.4
    """Range of the random brightness, contrast and saturation factors, around 1."""
    lighting: NotNegative = 0.1
    """Standard deviation of the random shift along the principal axes of colour."""
    rotate: ZeroToOne = 0.0
    """Probability of a rotation."""
    rotate_degrees: NotNegative = 30.0
    """Standard deviation of its angle, which is cut off at twice that."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    task: TaskName = "detection"
    """detection: boxes of any categories; pose: people, or one other category, with the keypoints that the training
    annotations name."""
    arch: Annotated[str, CheckedBy("models:build_model")] = "hourglass_small"
    """Backbone: hourglass104 and dla34 (as published, for GPUs), hourglass_small (trains on a CPU) or hourglass_tiny
    (trains in a minute, on pictures of 48 pixels)."""
    components: AtLeastZero = 3
    """Mixture components of the box size or the pose; 0 is the single-mode CenterNet base with an L1 loss."""
    family: FamilyName = "gaussian"
    """Distribution of a mixture component around its mean; laplace minds far misses less than gaussian, and student_t
    least, the less the fewer its degrees of freedom: student_t:4."""
    min_scale: NotNegative | None = None
    """Least sigma of a component in output cells (of a pose: before each keypoint's constant). By default 1 for box
    sizes, and 9 for poses as in the published code."""
    keypoint_sigmas: KeypointSigmas | None = None
    """Poses: OKS's constants, one for all keypoints or one for each in the annotations' order; they scale the mixture's
    sigmas too. By default COCO's for the 17 keypoints of its persons; for other keypoints their median, for each."""
    start: Start = "data"
    """data: the components start at clusters of the training objects (k-means of boxes' log sizes, of poses' shapes),
    the base at their mean. zero: all start alike, near zero, and one component often takes everything."""
    class_specific: bool = False
    """Predict a size for each class (the paper's control experiment), not one for all."""
    imagenet: Annotated[Path, CheckedBy("models:load_imagenet")] | None = None
    """dla34: start from this file of ImageNet weights, as published with DLA."""
    activation_checkpointing: bool = False
    """Compute the backbone's intermediate results again in the backward pass: less memory, more time, same results."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with a step schedule, and the losses' weights. The defaults are the published hourglass 1x schedule."""

    epochs: AtLeastOne = 50
    """Passes over the training images."""
    batch: AtLeastOne = 12
    """Images per step, over all processes together."""
    lr: Positive = 2.5e-4
    """Learning rate before any drop."""
    drop_epochs: (
        Annotated[tuple[int, ...], must_be("epochs, counted from 1", lambda epochs: min(epochs, default=1) >= 1)] | None
    ) = None
    """Multiply the learning rate by --drop-factor after each of these epochs. By default once, as published ten epochs
    before the end, in a run of fewer than 50 epochs for its last fifth."""
    drop_factor: Positive = 0.1
    """What the learning rate is multiplied by at a drop."""
    heatmap_weight: NotNegative = LossWeights.heatmap_weight
    """Weight of the focal loss of the centre heatmaps."""
    offset_weight: NotNegative = LossWeights.offset_weight
    """Weight of the centres' L1 offset loss. The paper's text has 0.1, its code and CenterNet have 1."""
    size_weight: NotNegative = LossWeights.size_weight
    """Weight of the size loss: the mixture's negative log-likelihood, or L1 for the base and for a pose's box. As
    published, the same for both."""
    pose_weight: NotNegative | None = LossWeights.pose_weight
    """Weight of the pose loss. By default as published: 0.1 for the mixture's negative log-likelihood, 1 for the base's
    L1."""
    keypoint_weight: NotNegative = LossWeights.keypoint_weight
    """Weight of the keypoint heatmaps' focal loss and of the keypoints' L1 offset loss."""
    mixture_stacks: MixtureStacks = LossWeights.mixture_stacks
    """Stacks of the network whose mixture is trained, where there are several: all, or last as in the published code of
    poses, which leaves the others' mixture out of the mean over the stacks (its mdn_inter is off)."""
    choice_weight: NotNegative = LossWeights.choice_weight
    """What the gradient into a mixture's choice of component is multiplied by, its other gradients left as they are.
    Poses that start at front and back leave 1 little to learn the view from; 10 makes up for their loss's 0.1."""
    accumulate: AtLeastOne = 1
    """Take each process's images of a step in so many parts, one after the other: less memory, the same gradient, but
    that batch norm sees the parts one by one."""
    clip_norm: Positive | None = None
    """Shrink a step's gradient to this norm where its own is larger."""
    ema: Annotated[float, must_be("between 0 and 1, both left out", lambda decay: 0 < decay < 1)] | None = None
    """Decay of an exponential moving average of the weights, such as 0.999: what is then evaluated and predicts."""

    @property
    def drops(self) -> tuple[int, ...]:
        """Return the epochs after which the learning rate drops: drop_epochs, or what follows from the epochs."""
        if self.drop_epochs is not None:
            return self.drop_epochs
        last = self.epochs - min(10, max(1, self.epochs // 5))
        return (last,) if last > 0 else ()

    def check_drops(self) -> None:
        """Raise ConfigError where the training would end before the learning rate has dropped so often as it should.

        For new runs: one that goes on may have been made when nothing asked for this.
        """
        late = [epoch for epoch in self.drops if epoch >= self.epochs]
        if late:
            raise ConfigError(
                f"--drop-epochs: {', '.join(map(str, late))}: not before the end of --epochs {self.epochs}, where the "
                f"learning rate could drop; give earlier ones, or none for a constant rate"
            )


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained network looks at an image."""

    flip: bool = False
    """Look at the mirror image too, and average the two."""
    flip_stronger: bool = False
    """Average both views, but take each size, or pose, from the view whose component weighs more."""
    resolution: Resolution = "fixed"
    """fixed fits images into the square of the training; original keeps their size, one image a step."""
    scales: PositiveNumbers = (1.0,)
    """Look at the images enlarged and shrunk by these factors; several are merged by soft-NMS."""
    component: Annotated[AtLeastZero, CheckedBy("mdnkernels.train.loop.network:check_inference")] | None = None
    """Take every box's size, or every pose, from this mixture component, not from the strongest one."""
    select: Select = "weight"
    """What of the mixture gives each size, or pose. weight: the component of largest weight. density: the one whose
    density is largest at its own mean, which favours small sigmas. mean: the mean over all components by weight, with
    their mean sigma; results name, and pictures have the colour of, the component of largest weight all the same."""
    refine: bool = True
    """Poses: move keypoints to near peaks of their heatmaps."""
    detections: AtLeastOne = 100
    """Objects per image that are kept; COCO counts at most 100 boxes or 20 poses."""
    precision: Annotated[Precision, CheckedBy("mdnkernels.train.loop.network:pick_precision")] = "auto"
    """Arithmetic of the network: auto takes bfloat16 on a GPU that has it, and float32 elsewhere; on a CPU with
    bfloat16 arithmetic (AMX, AVX-512) bfloat16 is several times as fast. The heads' last layers and the decoding are in
    float32 either way."""
    compile: bool = False
    """Compile the network with torch.compile: slow first images, faster ones from then on."""

    def check_together(self) -> None:
        """Raise ConfigError where two options choose among the components, each in another way."""
        if self.select != "weight" and self.component is not None:
            raise ConfigError(f"--select {self.select}, --component: give one; --component {self.component} chooses")
        if self.select == "mean" and self.flip_stronger:
            raise ConfigError(
                "--select mean, --flip-stronger: the mean has no component whose weight could be larger; take --flip"
            )
