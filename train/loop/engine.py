"""Training: one run from its configuration to its last checkpoint."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from mdnkernels.models.skeleton import Skeleton
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.data_paths import with_data_paths
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.config.serialisation import settled, to_json
from mdnkernels.train.data.objects import can_be_targets, why_no_object
from mdnkernels.train.data.sets import EvaluationSet, TrainingSet, open_annotations
from mdnkernels.train.data.skeletons import check_mirroring, check_sigmas
from mdnkernels.train.errors import CheckpointError, DatasetError, TrainingError, UserError
from mdnkernels.train.inference.evaluation import check_categories, views_of, warn_of_nothing_to_find
from mdnkernels.train.loop.interrupt import Interrupt
from mdnkernels.train.loop.network import build_network, pick_device, pick_precision, start_from_imagenet
from mdnkernels.train.loop.processes import Processes, what_died
from mdnkernels.train.loop.trainer import Trainer, stored_config
from mdnkernels.train.run.checkpoint import load_checkpoint, load_weights
from mdnkernels.train.run.directory import RunDirectory
from mdnkernels.train.run.files import write_text
from mdnkernels.train.tasks import make_task, task_class
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.tasks.start import start_from_data
from mdnkernels.train.threads import use_free_cores

# Accelerate's names of the precisions.
ACCELERATE_NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def fit(config: FitConfig) -> Path:
    """Train, or with `config.resume` go on training, and return the path of the run directory.

    What came of it lies there, as `train.run.directory` says: checkpoints/last.pt, and best.pt with `keep="best"`;
    log.jsonl, whose losses and AP numbers `read_log(run / "log.jsonl")` gives as a list of dicts; evaluation/ with
    metrics.json. Paths may be texts. Progress goes to stderr.

    The run's status.json says afterwards whether it is finished, was interrupted (SIGINT, SIGTERM or `stop_after`: the
    step is finished and saved) or has failed. Where torchrun has restarted the processes of a run, it goes on from its
    last checkpoint. Raises ConfigError, DatasetError, CheckpointError, TrainingError; and KeyboardInterrupt after a
    SIGINT, in good order: what comes next in a script, or in the program, was not meant to run on half a training.
    """
    config = settled(config)
    if config.resume is None:
        config.optimizer.check_drops()
    config = with_data_paths(config)
    accelerator = make_accelerator(config)
    use_free_cores(accelerator.device, config.threads)
    processes = Processes(accelerator, accelerator.device)
    config = resume_after_restart(config, processes)
    run, checkpoint = None, None
    if config.resume is None:
        RunDirectory.check_free(config.run)
    else:
        run = RunDirectory.open(config.resume, clean=processes.is_main)
        checkpoint = load_checkpoint(run.last)

    train_set = open_training_set(config, None if checkpoint is None else checkpoint.skeleton)
    categories = train_set.annotations.categories
    task = make_task(config.model.task, categories, train_set.annotations.skeleton)
    torch.manual_seed(config.seed)
    model = build_network(config, task)
    if config.model.imagenet is not None and checkpoint is None:
        start_from_imagenet(model, config.model.imagenet)
    start = None
    if config.model.start == "data" and checkpoint is None:
        start = start_from_data(model, task, train_set, config.seed)
    val_set = open_val_set(config, task, model.divisor)
    if checkpoint is not None:
        if checkpoint.categories != categories:
            raise CheckpointError(
                f"{checkpoint.path}: categories: differ from those of {config.data.train_annotations}"
            )
        load_weights(model, checkpoint)
    trainer = Trainer(config, accelerator, processes, task, model, train_set, val_set, checkpoint, start)
    if run is None:
        run = trainer.create_run()
    elif processes.is_main:
        write_text(run.config, to_json(stored_config(config)))
        run.set_state("running")

    with Interrupt() as interrupt:
        try:
            reason = trainer.train(run, interrupt)
        except KeyboardInterrupt:
            run.set_state("interrupted", "a second interruption, since the last checkpoint")
            raise
        except BaseException as error:
            known = explain_error(error, run)
            run.fail(str(known) if isinstance(known, UserError) else f"{type(known).__name__}: {known}")
            if known is error:
                raise
            raise known from error
    if processes.is_main:
        run.set_state("finished" if reason is None else "interrupted", reason)
    # A launcher ends all processes when one has ended so: not before the main one has written everything.
    processes.wait()
    if signal.SIGINT.name in (reason, interrupt.requested):
        raise KeyboardInterrupt(reason)
    return run.path


def make_accelerator(config: FitConfig) -> Accelerator:
    """Prepare the devices and processes that the configuration and the launcher ask for. Raises ConfigError."""
    # Without a GPU Accelerate must be told so, or it takes each process that torchrun starts for a run of its own.
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # all images of a run have one size
    # Accelerate keeps its settings for the whole process; a second run in it may have others.
    AcceleratorState._reset_state()
    return Accelerator(cpu=device.type == "cpu", mixed_precision=ACCELERATE_NAMES[precision])


def resume_after_restart(config: FitConfig, processes: Processes) -> FitConfig:
    """Return the configuration, with `resume` where torchrun has restarted a run that was made with it."""
    run = RunDirectory(config.run)
    if config.resume is None and processes.restarted() and run.config.is_file():
        return dataclasses.replace(config, resume=config.run) if run.read_config() == stored_config(config) else config
    return config


def explain_error(error: BaseException, run: RunDirectory) -> BaseException:
    """Return the error, as a TrainingError where its cause lies outside: the disk or another process."""
    go_on = f"the last checkpoint is kept; go on with --resume {run.path}"
    if isinstance(error, OSError) and error.errno is not None:
        return TrainingError(f"{error.filename or run.path}: {error.strerror}; {go_on}")
    dead = what_died(error)
    return error if dead is None else TrainingError(f"{dead}; {go_on}")


def open_training_set(config: FitConfig, known: Skeleton | None = None) -> TrainingSet:
    """Open the training set that the paths of `with_data_paths` name; for poses its images with people.

    known: the skeleton of a run that goes on; a new one has the annotations' own. Raises DatasetError, also where no
    annotation can be a target, and ConfigError where --keypoint-sigmas or --flip do not go with the skeleton.
    """
    data, wanted = config.data, task_class(config.model.task).skeleton_to_read(config.model.keypoint_sigmas)
    images, file = data.training_paths()
    listed = annotations = open_annotations(file, None if wanted is None else known or wanted)
    nothing = why_no_object(listed)
    if nothing is not None:
        raise DatasetError(f"{listed.path}: no object to train on: {nothing}")
    skeleton = annotations.skeleton
    if skeleton is not None:
        check_sigmas(skeleton, config.model.keypoint_sigmas)
        if config.augment.augment and config.augment.flip > 0:
            check_mirroring(skeleton, f"--flip {config.augment.flip:g}", "train with --flip 0")
        annotations = annotations.occupied()  # as CenterNet: most of COCO's images show nobody
    if data.train_share < 1:
        count = max(1, round(data.train_share * len(annotations)))
        drawn = np.random.default_rng(config.seed).permutation(len(annotations))[:count]
        annotations = annotations.chosen(np.sort(drawn))
    annotations = annotations.first(data.train_limit)
    if why_no_object(annotations) is not None:
        raise DatasetError(
            f"{listed.path}: no object to train on in the {len(annotations)} images that --train-limit and "
            f"--train-share leave of {len(listed)}, which have {int(can_be_targets(listed).sum())}"
        )
    return TrainingSet(
        annotations,
        images,
        data.input_size,
        augment=config.augment,
        seed=config.seed,
        skeleton=skeleton,
        orientation=data.orientation,
    )


def open_val_set(config: FitConfig, task: Task, divisor: int) -> EvaluationSet | None:
    """Open the set to evaluate on, where one is configured. Raises DatasetError."""
    data = config.data
    if data.val_images is None or data.val_annotations is None:
        return None
    annotations = open_annotations(data.val_annotations, task.skeleton).first(data.val_limit)
    check_categories(annotations, task.categories)
    warn_of_nothing_to_find(annotations)
    views = views_of(InferenceConfig(), data.input_size, divisor)
    return EvaluationSet(annotations, data.val_images, views, skeleton=task.skeleton, orientation=data.orientation)
