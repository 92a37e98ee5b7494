"""The files of the published networks: CenterNet's, those of the paper's code, and DLA-34's ImageNet weights.

A published checkpoint holds {"epoch": ..., "state_dict": ...}, perhaps an optimizer's state, perhaps a "module." before
every name. Its layers have the same shapes as ours under other names, which `models.published_names` translates.
What differs beside the names:

- Channels. Means are m * C + d there and here (component m, dimension d; x and y in turn), sigmas m * 2 + (x, y),
  logits m; class-specific mixtures have each of these times K, plus the class, in both. (The published loss calls the
  first sigma "sigma_y"; it divides the residual in x.) The class-specific size of the base alone is class * 2 + d there
  and d * K + class here: its channels are reordered.
- Sigma. There it is ELU(raw) + mdn_min_sigma, an option of the command line, 10 by default; here it is ELU(raw) + 1 +
  min_scale. No file holds it: a mixture's sigmas are right where `build_model` was given min_scale = mdn_min_sigma - 1.
  The name of a published run's folder says which it was: _MDN_3_10.0 has 3 components and an mdn_min_sigma of 10.
- Family. The published mixtures are Gaussian; no file says so.
- Stacks. The published code of poses trains the mixture of the last stack alone unless mdn_inter is on (`fit
  --mixture-stacks last` does so too): the other stacks' mixture heads then hold their initialisation.
- Colours. The published networks take BGR, as OpenCV reads pictures; `train` makes RGB. DLA-34's ImageNet weights take
  RGB, though CenterNet gave them BGR.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mdnkernels.models.dla import DLA34
from mdnkernels.models.entries import describe_mismatch
from mdnkernels.models.files import write_atomically
from mdnkernels.models.identity import describe_other_network
from mdnkernels.models.network import Backbone, Network
from mdnkernels.models.published_names import DLA_RULES, form_of, published_names, renamed
from mdnkernels.models.regression import SingleMode

# Of images that a network takes, after normalisation.
Colours = Literal["BGR", "RGB"]


def load_published(model: Network, path: str | os.PathLike[str], *, colours: Colours = "BGR") -> None:
    """Fill a model with a published checkpoint of the same architecture, task, classes and components.

    colours: of the images that this model will be given. "BGR" is what the published networks take; with "RGB", which
    `train` makes, the first convolution's input channels change places. The model's outputs, for the same image in
    whichever order, are those of the published network.

    A mixture's least sigma is not in the file and cannot be checked: the model must have been built with min_scale =
    mdn_min_sigma - 1, which is 9 for the published default. With any other, its sigmas are wrong, and with them what
    select="density" chooses.

    Only tensors are read; code in the file is not executed. Raises ValueError that names the file, the num_classes,
    components, task or arch that it was made with where the model has others, and every entry that is missing, surplus
    or of another shape (a dozen, then how many more), and the model is as it was. Two things are
    not asked for: num_batches_tracked, which files of old versions of PyTorch lack, and the ImageNet classifier that
    DLA-34's files carry along.
    """
    form = form_of(model.backbone)
    given = read_published(path)
    _fill(model, path, given, published_names(model), _orders(model, colours), form.ignored)


def save_published(model: Network, path: str | os.PathLike[str], *, colours: Colours = "BGR") -> None:
    """Write a model as a published checkpoint, which the published code and `load_published` read.

    colours: of the images that this model takes; the file is for BGR. `load_published` with the same colours gives the
    same bits. The file takes the place of one at `path` only when it is complete. The published code must be told
    mdn_min_sigma = min_scale + 1, of the model's `regression.spec`.
    """
    names, orders = published_names(model), _orders(model, colours)
    entries = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        if name in orders:
            dim, order = orders[name]
            value = value.index_select(dim, order.argsort())
        entries[names[name]] = value.contiguous()
    content = {"epoch": 0, "state_dict": entries}
    write_atomically(Path(path), lambda file: torch.save(content, file))


def load_imagenet(backbone: Backbone, path: str | os.PathLike[str]) -> None:
    """Fill the levels of a DLA-34 backbone with its ImageNet weights (dla34-ba72cf86.pth), for images in RGB.

    The aggregations, which ImageNet's classifier lacks, keep their weights; the classifier's fc.weight and fc.bias are
    passed over. As strict as `load_published`. Raises ValueError for any other backbone too.
    """
    if not isinstance(backbone, DLA34):
        raise ValueError(f"there are ImageNet weights for a DLA34 backbone, not for {type(backbone).__name__}")
    prefix = "levels."
    names = {name: renamed(prefix + name, DLA_RULES).removeprefix("base.") for name in backbone.levels.state_dict()}
    _fill(backbone.levels, path, read_published(path), names, {}, frozenset({"fc.weight", "fc.bias"}))


def _orders(model: Network, colours: str) -> dict[str, tuple[int, Tensor]]:
    """Return the entries whose channels have another order in the file: the dimension, and of each channel theirs."""
    if colours not in ("BGR", "RGB"):
        raise ValueError(f"colours must be 'BGR' or 'RGB', not {colours!r}")
    orders = {}
    if colours == "RGB":
        orders[f"backbone.{form_of(model.backbone).first}"] = (1, torch.tensor([2, 1, 0]))
    regression = model.regression
    if isinstance(regression, SingleMode):
        class_outer = torch.arange(regression.classes * regression.dims).view(regression.classes, regression.dims)
        for stack in range(len(model.heads)):
            for kind in ("weight", "bias"):
                orders[f"heads.{stack}.heads.{regression.head}.output.{kind}"] = (0, class_outer.T.flatten())
    return orders


def _fill(
    module: nn.Module,
    path: str | os.PathLike[str],
    given: Mapping[Any, Any],
    names: Mapping[str, str],
    orders: Mapping[str, tuple[int, Tensor]],
    ignored: frozenset[str],
) -> None:
    """Fill the module from what the file holds, all of it or, with a ValueError, nothing."""
    needed = module.state_dict()
    counts = {theirs for name, theirs in names.items() if name.endswith("num_batches_tracked")}
    wrong = describe_mismatch(
        {names[name]: value for name, value in needed.items()}, given, optional=counts, ignored=ignored
    )
    if wrong:
        other = describe_other_network(module, given, published=True) if isinstance(module, Network) else None
        raise ValueError(f"{path}: does not hold this model: {'' if other is None else f'{other}: '}{wrong}")
    values: dict[str, Tensor] = {}
    for name, ours in needed.items():
        value = given[names[name]] if names[name] in given else torch.zeros_like(ours)
        values[name] = value.index_select(*orders[name]) if name in orders else value
    module.load_state_dict(values)


def read_published(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Read the state dict in a file, without its wrapper and prefix.

    Only tensors are read. Raises ValueError for a file that holds none, and OSError for one that cannot be opened.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise  # says itself which file could not be opened, and why
    except Exception as error:  # a file of another kind makes torch.load raise almost anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: is not a readable checkpoint (damaged, or of another kind?): {reason}") from error
    if isinstance(content, Mapping) and {"format", "config", "model"} <= content.keys():
        raise ValueError(
            f"{path}: is not a published checkpoint but one of `python -m train fit`: "
            "mdnkernels.train.Predictor.from_checkpoint reads it"
        )
    entries = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(entries, Mapping) or not any(isinstance(value, Tensor) for value in entries.values()):
        raise ValueError(
            f"{path}: is not a published checkpoint: it holds no names with tensors, as 'state_dict' or bare"
        )
    prefix = "module."
    if all(isinstance(name, str) and name.startswith(prefix) for name in entries):
        return {name.removeprefix(prefix): value for name, value in entries.items()}
    return dict(entries)
