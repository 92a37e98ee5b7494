"""What each command can be told: one frozen typed dataclass a command, as `train.config.options` describes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mdnkernels.train.config.options import (
    AnnotationFile,
    AugmentConfig,
    DataConfig,
    Device,
    ImageFolder,
    InferenceConfig,
    Keep,
    KeypointSigmas,
    ModelConfig,
    OptimizerConfig,
    Orientation,
    Precision,
    Threads,
    default_workers,
)
from mdnkernels.train.config.rules import (
    AtLeastOne,
    AtLeastZero,
    CheckedBy,
    Positive,
    ZeroToOne,
    at_least,
    multiple_of,
    must_be,
)
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks import TaskName

# Folders and files that a command opens or makes say themselves what is wrong with them.
RunFolder = Annotated[Path, CheckedBy("mdnkernels.train.loop.network:find_checkpoint")]
CheckpointFile = Annotated[Path, CheckedBy("mdnkernels.train.run.checkpoint:load_checkpoint")]
NewRunFolder = Annotated[Path, CheckedBy("mdnkernels.train.run.directory:RunDirectory")]
OutputFolder = Annotated[Path, CheckedBy("pathlib:Path.mkdir")]


def _compares(components: tuple[int, ...]) -> bool:
    return {0, 1} < set(components) and min(components) == 0 and len(set(components)) == len(components)


@dataclass(frozen=True)
class FitConfig:
    """Train a detector or pose estimator on COCO-format data; leaves a run directory with all that came of it."""

    run: NewRunFolder
    """Run directory to make. It must not exist yet; to go on with one that does, use --resume."""
    recipe: Annotated[
        str | None, Positional, arg(metavar="[RECIPE]"), CheckedBy("mdnkernels.train.config.recipes:recipe")
    ] = None
    """One of the paper's models, listed above: sets the options' defaults."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: AtLeastZero = 0
    """Fixes the initial weights, the order of the images and their augmentation."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU. Of several processes each takes its own GPU."""
    threads: Threads = None
    """Threads of arithmetic on the CPU. Without it: OMP_NUM_THREADS, or as many as there are cores that others leave
    free at the start."""
    precision: Annotated[Precision, CheckedBy("mdnkernels.train.loop.network:pick_precision")] = "auto"
    """Arithmetic of the network: auto takes bfloat16 on a GPU that has it, and float32 elsewhere. Weights, the heads'
    last layers, losses and Adam are in float32 either way. float16 is for GPUs without bfloat16."""
    compile: bool = False
    """Compile the network with torch.compile: slow first steps, faster ones from then on."""
    sync_batch_norm: bool = False
    """With several processes: batch norm over all images of a step, not over those of each process."""
    channels_last: bool = True
    """Keep images and weights in channels_last order, which convolutions run faster in, on CPUs and GPUs alike."""
    log_every: AtLeastOne = 20
    """Steps between two records of the log."""
    checkpoint_minutes: Annotated[float, at_least(0)] = 10.0
    """Save a checkpoint when so much time has passed since the last one; every epoch's end saves one too."""
    evaluate_every: AtLeastZero = 0
    """Epochs between two evaluations on the val set; 0 evaluates at the end only."""
    keep: Keep = "last"
    """last keeps the last checkpoint. best keeps beside it the one whose evaluation had the highest AP on the val set,
    the earlier of two alike, for --checkpoint best of evaluate, predict and export; it needs --evaluate-every."""
    stop_after: AtLeastOne | None = None
    """Stop in good order after so many steps of this session, as an interruption would; --resume goes on."""
    resume: NewRunFolder | None = None
    """Continue this run directory with the configuration that it holds. Options given beside --resume replace it; those
    that change which images an epoch takes, or their order, only between two epochs."""

    def check_together(self) -> None:
        """Raise ConfigError where the base is asked for what only a mixture has, and --keep best lacks evaluations."""
        if self.model.components == 0 and self.optimizer.mixture_stacks == "last":
            raise ConfigError("--mixture-stacks last: needs a mixture, and --components 0 is the single-mode base")
        if self.keep == "best" and self.evaluate_every == 0:
            raise ConfigError("--keep best: needs --evaluate-every 1 or more: of one evaluation the best is the last")
        if self.keep == "best" and self.data.coco is None and self.data.val_images is None:
            raise ConfigError("--keep best: needs --val-images and --val-annotations to tell what is best")


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a trained network with COCO's numbers; writes detections.json and metrics.json."""

    run: Annotated[RunFolder | None, Positional, arg(metavar="[RUN]")] = None
    """Run directory whose last checkpoint and val set are taken."""
    checkpoint: CheckpointFile | None = None
    """Checkpoint to evaluate instead of the run's last one: a file, or best for the run's best one."""
    split: Literal["val", "test-dev"] = "val"
    """test-dev writes the server's file of an image list without annotations (--images, --annotations) and no score."""
    images: ImageFolder | None = None
    """Folder of images to evaluate on instead of the run's val images."""
    annotations: AnnotationFile | None = None
    """COCO annotation file of these images; for test-dev its image list (image_info_test-dev2017.json)."""
    output: OutputFolder | None = None
    """Folder to write to. Without it: RUN/evaluation, or runs/evaluation for a bare --checkpoint."""
    limit: AtLeastOne | None = None
    """Use only the first so many images."""
    orientation: Orientation | None = None
    """How the annotations take the images, as for fit. Without it: as the run was trained."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    each_component: bool = True
    """Mixtures: score each component alone too, from the same pass of the network. Left out with --component."""
    batch: AtLeastOne = 8
    """Images per step, in each process."""
    workers: AtLeastZero = field(default_factory=default_workers)
    """Processes that decode and warp images, by default one a core and 4 at most; 0 does it in the main process."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU."""
    threads: Threads = None
    """Threads of arithmetic on the CPU. Without it: OMP_NUM_THREADS, or as many as there are cores that others leave
    free at the start."""

    def check_together(self) -> None:
        """Raise ConfigError where images and annotations, which belong together, are not both there."""
        if (self.images is None) != (self.annotations is None):
            raise ConfigError("--images and --annotations: both are needed, or neither")
        if self.split == "test-dev" and self.images is None:
            raise ConfigError("--split test-dev: needs --images and --annotations, the test images and their list")


@dataclass(frozen=True)
class PredictConfig:
    """Find objects or poses in images; writes predictions.json and a picture per image, coloured by component."""

    images: Annotated[
        tuple[Path, ...],
        Positional,
        arg(metavar="IMAGE ...", help_behavior_hint="(required)"),
        CheckedBy("mdnkernels.train.data.image_files:find_images"),
    ]
    """Image files; folders, for the images directly in them; and patterns in quotes, such as 'photos/**/*.jpg'."""
    run: RunFolder | None = None
    """Run directory whose last checkpoint is taken."""
    checkpoint: CheckpointFile | None = None
    """Checkpoint to use instead of a run's last one: a file, or best for the run's best one."""
    output: OutputFolder | None = None
    """New or empty folder to write to. Without it: RUN/predictions or, without a run, runs/predictions, -2, -3, ..."""
    threshold: ZeroToOne = 0.3
    """Leave out what has a lower score."""
    orientation: Orientation = "exif"
    """exif turns images upright by their EXIF orientation, as viewers show them; stored takes the pixels as they lie in
    the file. Boxes, sizes and pictures that are written are all of the image so taken."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    pictures: bool = True
    """Draw a picture per image."""
    ellipse_score: Annotated[float, at_least(0)] = 0.5
    """Poses: draw the ellipses, one sigma around each keypoint, of those with at least this score; 1.1 draws none."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU."""
    threads: Threads = None
    """Threads of arithmetic on the CPU. Without it: OMP_NUM_THREADS, or as many as there are cores that others leave
    free at the start."""


ExportFormat = Literal["onnx", "pt2", "safetensors"]


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained network for use elsewhere, as ONNX, torch.export or safetensors.

    ONNX and torch.export go from images to detections or poses, for any batch; safetensors holds the weights with their
    configuration. ONNX needs what pip install 'mdnkernels[export]' brings.
    """

    run: Annotated[RunFolder | None, Positional, arg(metavar="[RUN]")] = None
    """Run directory whose last checkpoint is taken."""
    checkpoint: CheckpointFile | None = None
    """Checkpoint to use instead of a run's last one: a file, or best for the run's best one."""
    to: ExportFormat | None = None
    """What to write. Without it: what the end of --output says."""
    output: Annotated[Path | None, CheckedBy("mdnkernels.models.export:write_graph")] = None
    """File to write, which must not be there yet. Without it: RUN/network.onnx, .pt2 or .safetensors."""
    size: Annotated[tuple[int, int], must_be("two sides of at least 1", lambda size: min(size) >= 1)] | None = None
    """Graphs: height and width of the images. Without it: the square of the training."""
    flip: bool = False
    """Graphs: look at the mirror image too, and average the two."""
    detections: AtLeastOne = 100
    """Graphs: objects per image that are given."""
    maps: bool = False
    """ONNX: give the network's maps instead, before peaks are looked for."""

    def check_together(self) -> None:
        """Raise ConfigError where weights alone are asked for what only a graph has."""
        weights = self.to == "safetensors" or (self.output is not None and self.output.suffix == ".safetensors")
        if weights and (self.size is not None or self.flip or self.detections != 100 or self.maps):
            raise ConfigError(
                "--size, --flip, --detections, --maps: are of graphs; safetensors holds the weights alone"
            )


@dataclass(frozen=True)
class CheckDataConfig:
    """Report what a data set holds and what is wrong in it; writes check.json and a picture of augmented samples."""

    images: ImageFolder
    """Folder of the images."""
    annotations: AnnotationFile
    """COCO instances file, or keypoints file for poses."""
    task: TaskName = "detection"
    """What it is to be used for."""
    keypoint_sigmas: KeypointSigmas | None = None
    """As for fit: the constants of OKS, one for all keypoints or one for each."""
    output: OutputFolder = Path("runs/data-check")
    """Folder to write to."""
    limit: AtLeastOne | None = None
    """Look at only the first so many images."""
    orientation: Orientation = "stored"
    """How the annotations take the images, as for fit."""
    samples: AtLeastOne = 6
    """Samples in the picture."""
    input_size: Annotated[AtLeastOne, multiple_of(4, "the pixels of an output cell")] = 512
    """Side of the square that the network sees, in pixels; a multiple of 4."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: AtLeastZero = 0
    """Fixes the augmentation."""


Tasks = Annotated[tuple[TaskName, ...], must_be("one or both of detection and pose", bool)]
# What the trainings of a comparison may be told: None for what the world of each task has of its own.
WorldPictures = AtLeastOne | None
WorldImageSize = Annotated[AtLeastOne, multiple_of(16, "which the networks need")] | None
Processes = AtLeastZero | None


@dataclass(frozen=True)
class AnalyseConfig:
    """Compare trained runs with the truth and with one another; writes report.md, analysis.json and figures."""

    runs: Annotated[
        tuple[Path, ...],
        Positional,
        arg(metavar="RUN ...", help_behavior_hint="(required)"),
        CheckedBy("mdnkernels.train.analysis.command:open_subjects"),
    ]
    """Run directories, of one task and one val set. What they lack of evaluations is made and kept in them."""
    only: Annotated[tuple[str, ...], CheckedBy("mdnkernels.train.analysis.command:wanted_analyses")] = ()
    """Make these analyses alone, by their names: accuracy (of the model and of each component alone), speed,
    resolution, epochs, and more; a wrong name is answered with all of them."""
    output: OutputFolder | None = None
    """Folder to write to. Without it: analysis in the first run."""
    batch: AtLeastOne = 8
    """Images per step of the evaluations that are missing."""
    workers: AtLeastZero = field(default_factory=default_workers)
    """Processes that decode and warp images, by default one a core and 4 at most; 0 does it in the main process."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU."""


@dataclass(frozen=True)
class DemoConfig:
    """Train mixtures and single-mode bases on small synthetic sets of boxes and poses and compare them in a report."""

    output: OutputFolder = Path("runs/demo")
    """Folder to make: for each task its data and both runs, and report/ with report.md."""
    tasks: Tasks = ("detection", "pose")
    """What to train for."""
    components: Annotated[int, at_least(1, "the base is trained beside it")] | None = None
    """Mixture components of the box size or the pose. Without it: 3 for three kinds of size, 2 for two views."""
    train_pictures: WorldPictures = None
    """Synthetic training pictures of each task. Without it: what the task's world takes to be learnt in minutes."""
    val_pictures: WorldPictures = None
    """Synthetic pictures of each task to evaluate on."""
    image_size: WorldImageSize = None
    """Side of the pictures, in pixels; a multiple of 16, for boxes of 32 and at least 96."""
    epochs: AtLeastOne | None = None
    """Passes over the training pictures, the same for all networks of a task."""
    batch: AtLeastOne | None = None
    """Images per step."""
    lr: Positive | None = None
    """Learning rate of all networks before its one drop."""
    seed: AtLeastZero = 0
    """Fixes data, initial weights, order and augmentation, the same for all networks."""
    processes: Processes = None
    """Networks trained at once, each in a process of one thread; 0 trains in the main process. Without it: as many as
    there are cores."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU."""


@dataclass(frozen=True)
class ReproduceConfig:
    """Train base and mixtures in synthetic worlds, several seeds each, and write which of the paper's findings hold.

    The worlds have knobs: how unlike the sizes of rare boxes are, and of how many figures the view cannot be told. What
    is finished already is not trained again: the same command goes on with what was interrupted.
    """

    output: OutputFolder = Path("runs/reproduce")
    """Folder for data and runs, and report/ with findings.md, its figures in findings/, and findings.json."""
    tasks: Tasks = ("detection", "pose")
    """What to train for."""
    components: Annotated[tuple[AtLeastZero, ...], must_be("0, 1 and at least one larger number", _compares)] = (
        0,
        1,
        2,
        3,
        5,
    )
    """Networks to compare, by their components; 0 is the single-mode base."""
    seeds: AtLeastOne = 3
    """Seeds of each network, from --first-seed on: of the pictures, the initial weights, order and augmentation."""
    first_seed: AtLeastZero = 10
    """The first of them. Worlds and settings were chosen on seeds 0, 1, 2, 100, 101, 200 and 201."""
    knobs: bool = True
    """Train base, MDN_1 and one mixture more at further values of each world's knob."""
    train_pictures: WorldPictures = None
    """Training pictures of each world and seed. Without it, as for the options that follow: the world's own."""
    val_pictures: WorldPictures = None
    """Pictures of each world and seed to evaluate on."""
    image_size: WorldImageSize = None
    """Side of the pictures, in pixels; a multiple of 16, for boxes of 32 and at least 96."""
    epochs: AtLeastOne | None = None
    """Passes over the training pictures."""
    batch: AtLeastOne | None = None
    """Images per step."""
    lr: Positive | None = None
    """Learning rate of all networks before its one drop."""
    processes: Processes = None
    """Networks trained at once, each in a process of one thread; 0 trains in the main process. Without it: as many as
    there are cores."""
    device: Device = "auto"
    """auto takes a GPU where there is one; cuda:1 is the second GPU."""
