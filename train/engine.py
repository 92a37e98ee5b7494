"""Training: one run from its configuration to its last checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from train.checkpoint import load_checkpoint, load_weights
from train.config import FitConfig, InferenceConfig, check_config, to_json, with_data_paths
from train.data import EvaluationSet, TrainingSet, open_annotations
from train.errors import CheckpointError, UserError
from train.evaluation import check_categories, views_of
from train.files import write_text
from train.interrupt import Interrupt
from train.network import build_network, start_from_imagenet
from train.run_directory import RunDirectory
from train.tasks import Task, make_task, skeleton_of
from train.trainer import Trainer, stored_config


def fit(config: FitConfig) -> Path:
    """Trains, or with `config.resume` goes on training, and returns the run directory.

    The run's status.json says afterwards whether it is finished, was interrupted (SIGINT, SIGTERM or `stop_after`: the
    step is finished and saved) or has failed. Raises ConfigError, DatasetError, CheckpointError, TrainingError.
    """
    check_config(config)
    config = with_data_paths(config)
    # Accelerate keeps its settings for the whole process; a second run in it may have others.
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
    run, checkpoint = None, None
    if config.resume is None:
        RunDirectory.check_free(config.run)
    else:
        run = RunDirectory.open(config.resume, clean=accelerator.is_main_process)
        checkpoint = load_checkpoint(run.last)

    train_set = open_training_set(config)
    categories = train_set.annotations.categories
    task = make_task(config.model.task, categories)
    torch.manual_seed(config.seed)
    model = build_network(config, task)
    if config.model.imagenet is not None and checkpoint is None:
        start_from_imagenet(model, config.model.imagenet)
    val_set = open_val_set(config, task, model.divisor)
    if checkpoint is not None:
        if checkpoint.categories != categories:
            raise CheckpointError(
                f"{checkpoint.path}: categories: differ from those of {config.data.train_annotations}"
            )
        load_weights(model, checkpoint)
    trainer = Trainer(config, accelerator, task, model, train_set, val_set, checkpoint)
    if run is None:
        run = trainer.create_run()
    elif accelerator.is_main_process:
        write_text(run.config, to_json(stored_config(config)))
        run.set_state("running")

    with Interrupt() as interrupt:
        try:
            reason = trainer.train(run, interrupt)
        except KeyboardInterrupt:
            run.set_state("interrupted", "a second interruption, since the last checkpoint")
            raise
        except BaseException as error:
            message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            run.set_state("failed", message)
            raise
    if accelerator.is_main_process:
        run.set_state("finished" if reason is None else "interrupted", reason)
    return run.path


def open_training_set(config: FitConfig) -> TrainingSet:
    """The configured training set; for poses its images with people. Raises DatasetError."""
    data, skeleton = config.data, skeleton_of(config.model.task)
    assert data.train_annotations is not None
    assert data.train_images is not None
    annotations = open_annotations(data.train_annotations, skeleton)
    if skeleton is not None:
        annotations = annotations.occupied()  # as CenterNet: most of COCO's images show nobody
    if data.train_share < 1:
        count = max(1, round(data.train_share * len(annotations)))
        drawn = np.random.default_rng(config.seed).permutation(len(annotations))[:count]
        annotations = annotations.chosen(np.sort(drawn))
    return TrainingSet(
        annotations.first(data.train_limit),
        data.train_images,
        data.input_size,
        augment=config.augment,
        seed=config.seed,
        skeleton=skeleton,
    )


def open_val_set(config: FitConfig, task: Task, divisor: int) -> EvaluationSet | None:
    """The set to evaluate on, where one is configured. Raises DatasetError."""
    data = config.data
    if data.val_images is None or data.val_annotations is None:
        return None
    annotations = open_annotations(data.val_annotations, task.skeleton).first(data.val_limit)
    check_categories(annotations, task.categories)
    views = views_of(InferenceConfig(), data.input_size, divisor)
    return EvaluationSet(annotations, data.val_images, views, skeleton=task.skeleton)
