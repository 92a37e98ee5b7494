"""Errors that a user can mend: the command line prints them as one line, without a traceback."""


class UserError(Exception):
    """Something given from outside is wrong; the message says what was given, what is needed and where."""


class ConfigError(UserError):
    """A configuration, from the command line or from a run directory, cannot be used."""


class DatasetError(UserError):
    """A data set cannot be used: the message names its file and the field in it."""


class CheckpointError(UserError):
    """A checkpoint cannot be used or written: the message names its file and the field in it."""


class TrainingError(UserError):
    """Training cannot go on: the loss is no longer finite, or a process that is needed has died."""


class EvaluationError(UserError):
    """An evaluation cannot go on: a process that is needed has died."""


class UnreadableImageError(UserError):
    """An image cannot be read: the message names it, and `reason` says why without its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason
