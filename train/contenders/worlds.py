"""Synthetic worlds with a knob, and how networks are trained in each: what a comparison of them is made in.

A world's knob says how much of the regression's target is open: how unlike the sizes of rare objects are to those of
the others, or of how many figures nothing shows whether they face the viewer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mdnkernels.train.config.options import AugmentConfig, ModelConfig, OptimizerConfig
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.synthetic.coloured import COLOURED, ColouredSceneConfig
from mdnkernels.train.synthetic.detection import SHAPES, DetectionSceneConfig, rare_sizes
from mdnkernels.train.synthetic.poses import FIGURES, PoseSceneConfig
from mdnkernels.train.synthetic.sets import SyntheticPaths, SyntheticSet
from mdnkernels.train.tasks import TaskName

CELL = 4
"""Pixels of an output cell of the networks trained here."""

# What the command line may change of a setting.
CHANGES = ("train_pictures", "val_pictures", "image_size", "epochs", "batch", "lr")

_SETS: dict[type, SyntheticSet[Any]] = {
    ColouredSceneConfig: COLOURED,
    DetectionSceneConfig: SHAPES,
    PoseSceneConfig: FIGURES,
}


@dataclass(frozen=True)
class Setting:
    """How every network of a world is trained: the same pictures, steps and rates for all."""

    train_pictures: int
    val_pictures: int
    image_size: int
    """Side of the square pictures in pixels."""
    epochs: int
    batch: int = 8
    lr: float = 1e-3
    """Learning rate before its drop, which is for the last fifth of the epochs."""
    arch: str = "hourglass_small"
    crop_scales: tuple[float, ...] = AugmentConfig.crop_scales
    """Of the random windows of the training pictures, as in `AugmentConfig`."""
    crop_border: float = 0.25
    """Least distance of such a window's centre from the picture's border, as a share of the side; 0.5 moves none."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The losses' weights, and what else differs from the defaults; epochs, batch and lr are those above."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What differs from the defaults; task, arch and components are given from outside."""

    def changed(self, changes: dict[str, Any]) -> Setting:
        """Return the setting with the changes that are not None."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


@dataclass(frozen=True)
class World:
    """A kind of pictures at one value of its knob, and how networks are trained on them."""

    kind: str
    """Name of the family of worlds that differ in the knob alone."""
    task: TaskName
    knob: float
    scene: ColouredSceneConfig | DetectionSceneConfig | PoseSceneConfig
    setting: Setting

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.kind}-{self.knob:g}"

    def data(self, folder: Path) -> SyntheticPaths:
        """Return where its pictures lie in a folder."""
        return _SETS[type(self.scene)].paths(folder)

    def write(self, folder: Path, seed: int) -> SyntheticPaths:
        """Draw its pictures into a folder, as `SyntheticSet.write` does."""
        setting = self.setting
        return _SETS[type(self.scene)].write(
            folder,
            train=setting.train_pictures,
            val=setting.val_pictures,
            image_size=setting.image_size,
            seed=seed,
            scene=self.scene,
        )

    def model(self, components: int) -> ModelConfig:
        """Return the network with so many components, 0 for the single-mode base."""
        return dataclasses.replace(self.setting.model, task=self.task, arch=self.setting.arch, components=components)

    def optimizer(self) -> OptimizerConfig:
        """Return how it is trained."""
        setting = self.setting
        return dataclasses.replace(setting.optimizer, epochs=setting.epochs, batch=setting.batch, lr=setting.lr)

    def augment(self) -> AugmentConfig:
        """Return how its training pictures are varied."""
        setting = self.setting
        border = int(setting.crop_border * setting.image_size)
        return AugmentConfig(crop_border=border, crop_scales=setting.crop_scales)


SMALLEST_PICTURE = 96
"""Side in pixels of pictures that boxes of 20 cells fit into."""

SIZES = Setting(train_pictures=400, val_pictures=250, image_size=128, epochs=14)
KINDS = Setting(
    train_pictures=400,
    val_pictures=600,
    image_size=128,
    epochs=5,
    # Windows that cut large objects off would make most of what is learnt of so few of them.
    crop_scales=(0.9, 1.0, 1.1),
    crop_border=0.44,
)
VIEWS = Setting(
    train_pictures=1500,
    val_pictures=400,
    image_size=48,
    epochs=8,
    arch="hourglass_tiny",
    # Windows that cut off heads would hide the view, which must be seen to be learnt.
    crop_scales=(0.9, 1.0, 1.1),
    crop_border=0.44,
    # At 1 the choice of a component learns next to nothing of the view in so few steps.
    optimizer=OptimizerConfig(choice_weight=10.0),
)


def sizes_world(spread: float, changes: dict[str, Any] | None = None) -> World:
    """Return boxes of three kinds of size, of which 86 % are alike and 7 % each are smaller and larger.

    spread: of the kinds: at 1 they are of 4, 10 and 20 cells, at 0 all of 10; a box's category says nothing of its
    kind. changes: of the setting. Raises ConfigError for pictures too small for the largest boxes.
    """
    setting = _of_boxes(SIZES, changes)
    scene = DetectionSceneConfig(
        min_objects=2,
        max_objects=8,
        kinds=rare_sizes(spread, side=setting.image_size // CELL),
        max_aspect=1.2,
        max_rotation=10,
        min_visible=0.9,
    )
    return World("sizes", "detection", spread, scene, setting)


def kinds_world(spread: float, changes: dict[str, Any] | None = None) -> World:
    """Return boxes of the same kinds of size, each of which is a category of its own colour.

    spread, changes: as in `sizes_world`. Raises ConfigError as it does.
    """
    setting = _of_boxes(KINDS, changes)
    scene = ColouredSceneConfig(kinds=rare_sizes(spread, side=setting.image_size // CELL))
    return World("kinds", "detection", spread, scene, setting)


def _of_boxes(setting: Setting, changes: dict[str, Any] | None) -> Setting:
    """Return a setting with its changes. Raises ConfigError for pictures too small for the largest boxes."""
    setting = setting.changed(changes or {})
    if setting.image_size < SMALLEST_PICTURE or setting.image_size % 32:
        raise ConfigError(
            f"--image-size: must be a multiple of 32 of at least {SMALLEST_PICTURE} for boxes, the largest of which "
            f"have 80 pixels, not {setting.image_size}"
        )
    return setting


def views_world(hidden: float, changes: dict[str, Any] | None = None) -> World:
    """Return one figure that fills its picture, whose limbs hang rather than wave, seen from the front or the back.

    hidden: share of the figures of which nothing tells the view, so that left and right are a toss-up. changes: of the
    setting.
    """
    scene = PoseSceneConfig(
        max_objects=1, smallest=0.85, largest=0.97, inside=1.0, spread=0.2, occluded=0.1, hidden=hidden
    )
    return World("views", "pose", hidden, scene, VIEWS.changed(changes or {}))


class Family(NamedTuple):
    """The worlds of a kind, which differ in their knob alone."""

    world: Callable[[float, dict[str, Any] | None], World]
    """Makes one: (value of the knob, changes of the setting)."""
    knob: tuple[float, ...]
    """Values of the knob, in ascending order; of several, nothing is open at the first."""
    main: float
    """The value at which all contenders are compared."""
    mixture: int
    """Components of the mixture that has one for each kind of size, or for each view."""
    skipped_seeds: int = 0
    """Of the seeds that are asked for, each is so many further on: those before are known from an earlier draft."""


WORLDS: dict[TaskName, tuple[Family, ...]] = {
    "detection": (
        Family(sizes_world, knob=(0.0, 1.0), main=1.0, mixture=3),
        Family(kinds_world, knob=(1.0,), main=1.0, mixture=3, skipped_seeds=10),
    ),
    "pose": (Family(views_world, knob=(0.0, 0.4, 1.0), main=0.4, mixture=2),),
}
"""The worlds of each task; the first are the demo's."""
