"""The best checkpoint of a run, kept beside the last: which evaluation was better than all before it."""

from __future__ import annotations

import logging

from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.run.checkpoint import load_checkpoint
from mdnkernels.train.run.directory import RunDirectory

logger = logging.getLogger("mdnkernels.train")


class BestScore:
    """The highest AP of a run's evaluations so far; the checkpoint that had it knows it, so that both are of one write.

    A run that goes on, wherever it was killed, so goes on from the AP of the checkpoint that is there.
    """

    def __init__(self, ap: float | None = None) -> None:
        """ap: of the best evaluation; None before the first."""
        self.ap = ap

    @classmethod
    def of_run(cls, run: RunDirectory, config: FitConfig) -> BestScore:
        """Return what a run's best checkpoint says, where it has one and was evaluated on what `config` names.

        After another val set, or other images of it, no AP is comparable: the next evaluation is the best, and a
        warning says so. Raises CheckpointError for a damaged file.
        """
        if not run.best.is_file():
            return cls()
        before = load_checkpoint(run.best)
        if _measured_on(before.config) != _measured_on(config):
            logger.warning("%s: is of another val set; the next evaluation replaces it", run.best)
            return cls()
        return cls(before.ap)

    def beaten_by(self, ap: float) -> bool:
        """Tell whether an evaluation is better than all before it, and remember it where it is.

        ap: -1 where there was nothing to measure, which is better than nothing alone. Of two alike the earlier is
        better.
        """
        if self.ap is not None and not ap > self.ap:
            return False
        self.ap = ap
        return True


def _measured_on(config: FitConfig) -> tuple[object, ...]:
    data = config.data
    return (data.val_images, data.val_annotations, data.val_limit, data.orientation, data.input_size)
