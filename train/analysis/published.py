"""What others have published of the networks that runs are of, to stand beside a run's own numbers on COCO."""

from __future__ import annotations

from typing import NamedTuple

from mdnkernels.train.analysis.paper import is_coco_val2017
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.tasks import TaskName

SOURCE = "CenterNet's code, readme/MODEL_ZOO.md; images a second on one TITAN Xp"


class Published(NamedTuple):
    """A network's numbers when it looks at images in one way."""

    flip: bool
    AP: float
    images_per_second: float


# Single-mode bases, of COCO's val2017 at 512 x 512: (task, backbone, epochs) -> without and with flip.
CENTERNET: dict[tuple[TaskName, str, int], tuple[Published, ...]] = {
    ("detection", "hourglass104", 50): (Published(False, 0.403, 1000 / 71), Published(True, 0.422, 1000 / 129)),
    ("detection", "dla34", 140): (Published(False, 0.363, 1000 / 19), Published(True, 0.382, 1000 / 36)),
    ("pose", "hourglass104", 50): (Published(True, 0.587, 1000 / 151),),
    ("pose", "hourglass104", 150): (Published(True, 0.640, 1000 / 151),),
    ("pose", "dla34", 140): (Published(True, 0.547, 1000 / 44),),
}


def published_of(subject: Subject) -> tuple[Published, ...]:
    """Return what is published of a network: the base's backbone, trained for as long; nothing on other data."""
    if subject.components or not is_coco_val2017(subject.truth):
        return ()
    model, data = subject.config.model, subject.config.data
    if data.train_share < 1 or data.train_limit is not None or data.input_size != 512:
        return ()
    return CENTERNET.get((subject.task.name, model.arch, subject.config.optimizer.epochs), ())
