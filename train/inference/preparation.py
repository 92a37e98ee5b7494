"""A trained network made ready to look at images: on its device, in the chosen arithmetic, as fast as it can be."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from mdnkernels.models import Head
from mdnkernels.models.folding import fold_batch_norms
from mdnkernels.models.winograd import use_winograd
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.loop.network import pick_precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prepare_for_inference(model: Any, config: InferenceConfig, device: torch.device) -> Any:
    """Return the model on the device for inference alone: as fast as its precision allows, and as configured compiled.

    Batch norms are folded and weights lie in channels_last order and, for half precision, in that. On a CPU in float32
    large 3x3 convolutions go by Winograd's minimal filtering. model: in eval mode; it is changed in place. The first
    images of a size wait for the compiler. Raises ConfigError where the device has no such arithmetic.
    """
    fold_batch_norms(model)
    model = model.to(device, memory_format=torch.channels_last)
    precision = pick_precision(config.precision, device)
    if precision != "float32":
        keep_weights_in(model, DTYPES[precision])
    elif device.type == "cpu" and not config.compile:
        use_winograd(model)
    if config.compile:
        model.predict = torch.compile(model.predict)
        model.predict_each = torch.compile(model.predict_each)
    return model


def keep_weights_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of all convolutions that autocast would convert at each batch, in place."""
    # Autocast leaves them in float32.
    kept = {module.output for module in model.modules() if isinstance(module, Head)}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module not in kept:
            module.to(dtype)


def autocast_context(config: InferenceConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the network is to run. Raises ConfigError where the device has no such arithmetic."""
    precision = pick_precision(config.precision, device)
    return contextlib.nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])
