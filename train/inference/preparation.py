"""A trained network made ready to look at images: on its device, in the chosen arithmetic, as fast as it can be."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from models.folding import fold_batch_norms
from train.config.options import InferenceConfig
from train.errors import ConfigError


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
    if config.mixed_precision == "no":
        return contextlib.nullcontext()
    if config.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError("--mixed-precision fp16: needs a GPU; take bf16 on a CPU")
    dtype = torch.bfloat16 if config.mixed_precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)
