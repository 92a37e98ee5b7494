"""Training, evaluation and prediction: `python -m train --help`, and from Python the names below.

    from mdnkernels.train import Predictor
    found = Predictor.from_run("runs/mine")("photo.jpg")

They are imported when they are first asked for: the command line says its help without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdnkernels.train.config.commands import EvaluateConfig, ExportConfig, FitConfig
    from mdnkernels.train.config.options import (
        AugmentConfig,
        DataConfig,
        InferenceConfig,
        ModelConfig,
        OptimizerConfig,
    )
    from mdnkernels.train.config.recipes import recipe
    from mdnkernels.train.errors import UserError
    from mdnkernels.train.inference.evaluation import evaluate
    from mdnkernels.train.inference.export import export
    from mdnkernels.train.inference.found import Prediction
    from mdnkernels.train.inference.predictor import Predictor
    from mdnkernels.train.loop.engine import fit
    from mdnkernels.train.run.log import read_log

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FitConfig",
    "InferenceConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Prediction",
    "Predictor",
    "UserError",
    "evaluate",
    "export",
    "fit",
    "read_log",
    "recipe",
]

_PLACES = {
    "config.commands": ("EvaluateConfig", "ExportConfig", "FitConfig"),
    "config.options": ("AugmentConfig", "DataConfig", "InferenceConfig", "ModelConfig", "OptimizerConfig"),
    "config.recipes": ("recipe",),
    "errors": ("UserError",),
    "inference.evaluation": ("evaluate",),
    "inference.export": ("export",),
    "inference.found": ("Prediction",),
    "inference.predictor": ("Predictor",),
    "loop.engine": ("fit",),
    "run.log": ("read_log",),
}
_PLACE_OF = {name: f"{__name__}.{place}" for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
