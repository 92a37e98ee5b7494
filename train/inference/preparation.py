"""A trained network made ready to look at images: on its device, in the chosen arithmetic, as fast as it can be."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from models.folding import fold_batch_norms
from train.config.options import InferenceConfig
from train.loop.network import pick_precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prepare_for_inference(model: Any, config: InferenceConfig, device: torch.device) -> Any:
    """Return the model on the device for inference alone: batch norms folded, compiled where the configuration says so.

    model: in eval mode; it is changed in place. The first images of a size wait for the compiler.
    """
    fold_batch_norms(model)
    model = model.to(device, memory_format=torch.channels_last)
    if config.compile:
        model.predict = torch.compile(model.predict)
        model.predict_each = torch.compile(model.predict_each)
    return model


def autocast_context(config: InferenceConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the network is to run. Raises ConfigError where the device has no such arithmetic."""
    precision = pick_precision(config.precision, device)
    return contextlib.nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])
