"""Where in its epoch a run goes on, also with another batch size, and what must not change inside an epoch."""

from __future__ import annotations

import dataclasses
import logging

from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.data.sampler import ImageList, batches_left
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.checkpoint import Checkpoint, Progress

logger = logging.getLogger("mdnkernels.train")


def resumed_progress(checkpoint: Checkpoint, config: FitConfig, now: ImageList) -> Progress:
    """Give where a run goes on with `config` and the training images `now`, so that none is taken twice or left out.

    The position is a number of images in the epoch's order, so that another batch size, or number of processes, goes on
    from it. Another order has other images there: inside an epoch that is refused. Between two epochs it is allowed,
    and a warning says so where the images are others.

    Raises ConfigError that names the option, or the list, with what it was and is.
    """
    progress, before = checkpoint.progress, checkpoint.training_list
    changed = _changed_options(checkpoint.config, config)
    other_list = "--train-limit" in changed or "--train-share" in changed if before is None else before != now
    other_seed = checkpoint.config.seed != config.seed
    difference = f"--seed: is {config.seed}, was {checkpoint.config.seed}" if other_seed else ""
    if other_list:
        difference = _difference(changed, config, before, now)
    if not difference:
        if before is None and progress.images:
            logger.warning(
                "%s: is of an older version, and whether the training images have changed since then is not known",
                checkpoint.path,
            )
        return progress
    length = now.images if before is None else before.images
    size = min(checkpoint.config.optimizer.batch, length)
    left = batches_left(length, size, progress.images) if progress.images else []
    if left:
        raise ConfigError(
            f"{difference}: the run stopped inside epoch {progress.epoch + 1}, after {progress.images} of its {length} "
            f"images, and in another order some would be taken twice and others never; go on as before, up to the "
            f"epoch's end with --stop-after {len(left)}, and change it then"
        )
    if other_list:
        logger.warning("goes on with other training images: %s", difference)
    # Of an epoch that has no batch left by the old order, none is taken by the new one.
    return dataclasses.replace(progress, images=max(progress.images, now.images) if progress.images else 0)


def _changed_options(before: FitConfig, now: FitConfig) -> dict[str, str]:
    """Return the options that choose the training images and have changed: by name, what each is and was."""
    names = ("train_annotations", "train_limit", "train_share")
    values = {name: (getattr(now.data, name), getattr(before.data, name)) for name in names}
    return {
        f"--{name.replace('_', '-')}": f"is {is_now}, was {was}"
        for name, (is_now, was) in values.items()
        if is_now != was
    }


def _difference(changed: dict[str, str], config: FitConfig, before: ImageList | None, now: ImageList) -> str:
    options = "; ".join(f"{name}: {values}" for name, values in changed.items())
    if before is None or before.images == now.images:
        counts = "other images, or the same in another order"
    else:
        counts = f"{now.images} images, before {before.images}"
    return f"{options or config.data.train_annotations}: {counts}"
