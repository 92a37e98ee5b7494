"""What a network finds in a data set, in the images' own pixels, and COCO's score for it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from mdnkernels.models import merge_scales, placed
from mdnkernels.train.config.commands import EvaluateConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.config.serialisation import settled
from mdnkernels.train.data.coco import Category, CocoAnnotations
from mdnkernels.train.data.colour import normalise
from mdnkernels.train.data.images import ImageError, open_image, read_rgb
from mdnkernels.train.data.objects import why_no_object
from mdnkernels.train.data.sets import BadSamples, EvaluationSet, batch_tensor, evaluation_loader, open_annotations
from mdnkernels.train.data.transforms import Views
from mdnkernels.train.errors import ConfigError, DatasetError, EvaluationError
from mdnkernels.train.inference.components import component_table, describe_components
from mdnkernels.train.inference.preparation import autocast_context, prepare_for_inference
from mdnkernels.train.inference.record import FILE as RECORD_FILE
from mdnkernels.train.inference.record import EvaluationRecord, name_of_device
from mdnkernels.train.loop.network import check_inference, find_checkpoint, pick_device, pick_precision, restore_network
from mdnkernels.train.loop.processes import Processes, launched_processes, what_died
from mdnkernels.train.run.checkpoint import Checkpoint, load_checkpoint
from mdnkernels.train.run.directory import RunDirectory
from mdnkernels.train.run.files import write_json
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.tasks.score import Score, category_table
from mdnkernels.train.threads import use_free_cores

logger = logging.getLogger("mdnkernels.train")

# What the evaluation server takes of an entry.
SERVER_FIELDS = ("image_id", "category_id", "bbox", "keypoints", "score")


class Findings(NamedTuple):
    """What a network found in a data set."""

    results: list[dict[str, Any]]
    """COCO's entries, of the task's `results`, with their image_id."""
    skipped: list[str]
    """Image files that could not be read; they count as images in which nothing was found."""
    images: int
    """How many were looked at."""
    seconds: float
    """How long the network and its decoding took for them, without loading and warping."""
    alone: tuple[list[dict[str, Any]], ...] = ()
    """What each component of a mixture finds alone, like `results`, where that was asked for."""


def evaluate(config: EvaluateConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Score a checkpoint on its run's val set, or on the configured one; write detections.json and metrics.json.

    say: is told COCO's table, that of the categories where there are several, that of the components, and the speed.

    Under a launcher (torchrun, accelerate launch) the processes share the images out; the main one scores and writes.
    Returns a dict of COCO's numbers by name, such as "AP" and "AP50", -1 where there is nothing to measure;
    "categories", a list with each category's own (`Score.categories`); "images_per_second"; of a mixture "components",
    for each component its "share" and COCO's numbers of it alone (`describe_components`). For test-dev
    "images_per_second" alone. metrics.json holds the same, and how many images could not be read. Raises ConfigError,
    DatasetError, CheckpointError; EvaluationError where a process that is needed has died.
    """
    try:
        return _evaluate(config, say)
    except Exception as error:
        dead = what_died(error)
        if dead is None:
            raise
        raise EvaluationError(f"{dead}; the evaluation is not finished") from error


def _evaluate(config: EvaluateConfig, say: Callable[[str], None]) -> dict[str, Any]:
    config = settled(config)
    file = find_checkpoint(config.run, config.checkpoint)
    checkpoint = load_checkpoint(file)
    model, task = restore_network(checkpoint)
    check_inference(model, task, config.inference)
    labelled = config.split == "val"
    images, annotations = _paths_of(config, checkpoint)
    limit = config.limit
    if limit is None and config.images is None:
        limit = checkpoint.config.data.val_limit
    entries = open_annotations(annotations, task.skeleton, labelled=labelled).first(limit)
    if labelled:
        check_categories(entries, checkpoint.categories)
        warn_of_nothing_to_find(entries)
    views = views_of(config.inference, checkpoint.config.data.input_size, model.divisor)
    orientation = config.orientation or checkpoint.config.data.orientation
    dataset = EvaluationSet(entries, images, views, skeleton=task.skeleton, orientation=orientation)
    processes = launched_processes(pick_device(config.device))
    device = processes.device
    use_free_cores(device, config.threads)
    autocast = autocast_context(config.inference, device)
    # Of one component by name there is no choice to compare it with.
    components = model.components if labelled and config.inference.component is None else 0
    each_component = components > 0 and config.each_component
    share = predict_set(
        prepare_for_inference(model, config.inference, device),
        dataset,
        task,
        config.inference,
        device=device,
        batch=config.batch,
        workers=config.workers,
        autocast=autocast,
        each_component=each_component,
        process=processes.number,
        processes=processes.count,
    )
    found = merge_findings(share, dataset, processes)
    metrics: dict[str, Any] = {}
    if found is not None:
        output = config.output or (Path("runs/evaluation") if config.run is None else config.run / "evaluation")
        score = task.score(entries, found.results) if labelled else None
        described = describe_components(
            found.results, components, [task.score(entries, results) for results in found.alone]
        )
        record = EvaluationRecord(
            step=checkpoint.progress.step,
            checkpoint=None if config.run is not None and file == RunDirectory(config.run).last else file.resolve(),
            images=images.resolve(),
            annotations=annotations.resolve(),
            orientation=orientation,
            limit=limit,
            inference=dataclasses.replace(
                config.inference, precision=pick_precision(config.inference.precision, device)
            ),
            each_component=each_component,
            command="evaluate",
            device=name_of_device(device),
            batch=config.batch,
            processes=processes.count,
        )
        metrics = write_evaluation(output, found, score, record, described)
        if score is not None:
            say(score.table.rstrip("\n"))
            if len(score.categories) > 1:
                say(category_table(score.categories))
        if described:
            say(component_table(described, metrics).rstrip("\n"))
        where = f"{device}" if processes.count == 1 else f"{processes.count} processes ({device.type})"
        say(f"{output}: {metrics['images_per_second']:.3g} images/s in the network and its decoding, on {where}")
    return processes.send_from_main(metrics)


def _paths_of(config: EvaluateConfig, checkpoint: Checkpoint) -> tuple[Path, Path]:
    """Return the folder of images and the annotation file, of the command or else of the run.

    Raises ConfigError where neither has them.
    """
    images, annotations = config.images, config.annotations
    if images is None or annotations is None:
        images, annotations = checkpoint.config.data.val_images, checkpoint.config.data.val_annotations
    if images is None or annotations is None:
        raise ConfigError("--images and --annotations: are needed, as the run was trained without a val set")
    return images, annotations


def views_of(config: InferenceConfig, input_size: int, divisor: int) -> Views:
    """Return at which sizes images are looked at. input_size: of the training. divisor: of the network."""
    return Views(input_size, divisor, config.resolution, config.scales)


@torch.no_grad()
def predict_set(
    model: Any,
    dataset: EvaluationSet,
    task: Task,
    config: InferenceConfig,
    *,
    device: torch.device,
    batch: int,
    workers: int,
    autocast: contextlib.AbstractContextManager[Any] | None = None,
    each_component: bool = False,
    process: int = 0,
    processes: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> Findings:
    """Return what the network finds in a data set, or in this process's share of it; eval mode is set and undone here.

    model: on `device`. batch: images a step; 1 where each has its own resolution. each_component: of a mixture, decode
    each component alone too. processes: they deal out the batches that one alone would take, each to one of them. stop:
    asked after each batch whether to look at no more.
    """
    batch = 1 if config.resolution == "original" else batch
    rows = range(len(dataset))
    batches = [list(rows[start : start + batch]) for start in range(0, len(rows), batch)][process::processes]
    bad = BadSamples(len(dataset), dataset.annotations.path)
    # What the configuration chooses, and each component alone.
    results: list[list[dict[str, Any]]] = [[] for _ in range(1 + (model.components if each_component else 0))]
    images, seconds = 0, 0.0
    was_training = model.training
    model.eval()
    try:
        with autocast or contextlib.nullcontext():
            for scales in evaluation_loader(dataset, batches, workers, pin=device.type == "cuda"):
                bad.add(scales[0]["bad"])
                if len(scales[0]["image"]) == 0:
                    continue
                began = time.perf_counter()
                # On the CPU: the device is done.
                found = predict_batch(model, scales, task, config, device, each_component)
                seconds += time.perf_counter() - began
                images += len(scales[0]["image"])
                for row, image_id in enumerate(scales[0]["image_id"].tolist()):
                    width, height = scales[0]["original_size"][row].tolist()
                    for kept, choice in zip(results, found, strict=True):
                        one = choice._make(values[row] for values in choice)
                        kept += [{"image_id": image_id, **entry} for entry in task.results(one, (width, height))]
                if stop():
                    break
    finally:
        model.train(was_training)
    return Findings(results[0], sorted(bad.seen), images, seconds, tuple(results[1:]))


def merge_findings(found: Findings, dataset: EvaluationSet, processes: Processes) -> Findings | None:
    """Return what all processes that shared a data set have found: in the main process, and None in the others.

    Results are in the order of the data set's images, as one process alone finds them. Raises DatasetError, in all of
    them, where they could not read too many images between them.
    """
    source, skipped = dataset.annotations.path, sum(processes.gather_numbers(len(found.skipped)))
    if skipped > BadSamples(len(dataset), source).limit:
        raise DatasetError(f"{source}: images: {skipped} of {len(dataset)} cannot be read, too many to skip")
    shares = processes.gather_to_main(found)
    if shares is None:
        return None
    row_of = {int(identity): row for row, identity in enumerate(dataset.annotations.image_ids)}

    def in_order(parts: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return sorted(itertools.chain.from_iterable(parts), key=lambda one: row_of[one["image_id"]])

    return Findings(
        results=in_order(share.results for share in shares),
        skipped=sorted(file for share in shares for file in share.skipped),
        images=sum(share.images for share in shares),
        seconds=max(share.seconds for share in shares),
        alone=tuple(map(in_order, zip(*(share.alone for share in shares), strict=True))),
    )


def sample_pictures(
    dataset: EvaluationSet, task: Task, results: Sequence[dict[str, Any]], components: int, count: int = 4
) -> Iterator[tuple[str, Image]]:
    """Give a name for each of the first images that can be read, and the image with what was found in it.

    results: of the data set, with their image_id. components: of the network.
    """
    for index in range(min(count, len(dataset))):
        entry = dataset.annotations[index]
        found = [result for result in results if result["image_id"] == entry.id]
        try:
            with open_image(dataset.images / entry.file_name) as image:
                picture = read_rgb(image, dataset.orientation)
                yield f"val/{entry.id}", task.picture(picture, found, num_components=components)
        except ImageError:
            continue


def predict_batch(
    model: Any,
    scales: Sequence[dict[str, Any]],
    task: Task,
    config: InferenceConfig,
    device: torch.device,
    each_component: bool = False,
) -> list[Any]:
    """Return what the network finds in a batch of `collate_views`: on the CPU, in the images' pixels.

    scales: the batch at each scale, whose results are merged where there are several. each_component: behind what the
    configuration chooses stands what each component of a mixture finds alone. A GPU is waited for once, at the end.
    """
    return copy_to_host(predict_on_device(model, scales, task, config, device, each_component), device)


def predict_on_device(
    model: Any,
    scales: Sequence[dict[str, Any]],
    task: Task,
    config: InferenceConfig,
    device: torch.device,
    each_component: bool,
) -> list[Any]:
    """Return what `predict_batch` does, on the device, which is not waited for."""
    found: list[list[Any]] = []
    for loaded in scales:
        images: Tensor = normalise(batch_tensor(loaded, "image", device))
        transform = loaded["transform"].float().to(device, non_blocking=True)
        choices = task.predict_each(model, images, config) if each_component else [task.predict(model, images, config)]
        found.append([placed(choice, transform) for choice in choices])
    return [merge_scales(choice, config.detections) for choice in zip(*found, strict=True)]


def copy_to_host(found: Sequence[Any], device: torch.device) -> list[Any]:
    """Return named tuples of a device's tensors on the CPU; all copies are under way before a GPU is waited for."""
    if device.type != "cuda":
        return [choice._make(values.cpu() for values in choice) for choice in found]

    def copy(values: Tensor) -> Tensor:
        there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return there.copy_(values, non_blocking=True)

    copies = [choice._make(map(copy, choice)) for choice in found]
    torch.cuda.current_stream(device).synchronize()
    return copies


def write_evaluation(
    folder: Path,
    found: Findings,
    score: Score | None,
    record: EvaluationRecord,
    components: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write detections.json (COCO's results format), metrics.json and the record; return the numbers in metrics.json.

    components: of `describe_components`. Without a score detections.json is as the evaluation server takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Killed from here on, the folder holds no evaluation that could be taken for a whole one.
    (folder / RECORD_FILE).unlink(missing_ok=True)
    results = found.results
    if score is None:
        results = [{name: entry[name] for name in SERVER_FIELDS if name in entry} for entry in results]
    write_json(folder / "detections.json", results, indent=None)
    metrics: dict[str, Any] = {} if score is None else dict(score.metrics)
    if score is not None and score.categories:
        metrics["categories"] = list(score.categories)
    metrics["images_per_second"] = found.images / found.seconds if found.seconds else 0.0
    if components:
        metrics["components"] = list(components)
    write_json(folder / "metrics.json", {**metrics, "skipped_images": len(found.skipped)})
    record.write(folder)
    if found.skipped:
        logger.warning("%d images could not be read and count as images without detections", len(found.skipped))
    return metrics


def check_categories(annotations: CocoAnnotations, known: Sequence[Category]) -> None:
    """Raise DatasetError where a data set has a category that the model was not trained on."""
    for category in annotations.categories:
        if category not in known:
            raise DatasetError(
                f"{annotations.path}: categories: id {category.id} ({category.name}) is unknown to the model"
            )


def warn_of_nothing_to_find(annotations: CocoAnnotations) -> None:
    """Warn where no annotation of a set to evaluate on counts: COCO's numbers for it are no result."""
    nothing = why_no_object(annotations)
    if nothing is not None:
        logger.warning(
            "%s: no object to find: %s; AP and AR will be 0, or -1 for nothing to measure", annotations.path, nothing
        )
