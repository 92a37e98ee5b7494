"""The published networks, written down a second time: as functions of a state dict under the published names.

The sources are Zhou et al., "Objects as Points", 2019, and Varamesh and Tuytelaars 2020, with the names, shapes and
order of their code's `large_hourglass.py`, `pose_dla_dcn.py` and `DCNv2`. Nothing here knows of `models/`, nor of
torchvision's deformable convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights:
    """A state dict that is written by reading: an entry is drawn the first time that a network asks for it.

    A network that runs once over an image on the "meta" device so gives its table of names and shapes, with random
    values. With `complete`, an entry that the state dict lacks is an error instead.
    """

    def __init__(self, state: dict[str, Tensor] | None = None, *, complete: bool = False, seed: int = 0) -> None:
        self.state = {} if state is None else state
        self.complete = complete
        self.generator = torch.Generator().manual_seed(seed)

    def entry(self, name: str, shape: Sequence[int], like: Tensor, spread: float = 0.1, centre: float = 0.0) -> Tensor:
        """Return the entry on the device of `like`. A new one is drawn uniformly from centre +- spread."""
        if name not in self.state:
            assert not self.complete, f"{name} is not in the state dict"
            drawn = torch.empty(*shape).uniform_(centre - spread, centre + spread, generator=self.generator)
            self.state[name] = drawn
        value = self.state[name]
        assert tuple(value.shape) == tuple(shape), (name, value.shape, shape)
        return value.to(like.device)

    def conv(self, name: str, x: Tensor, out: int, kernel: int, stride: int = 1, bias: bool = False) -> Tensor:
        weight = self.kernel(name, x, out, kernel)
        return F.conv2d(x, weight, self.entry(f"{name}.bias", [out], x) if bias else None, stride, kernel // 2)

    def kernel(self, name: str, x: Tensor, out: int, kernel: int, gain: float = 1) -> Tensor:
        """Return a convolution's weight, drawn so that it keeps the variance of what ReLU gives it."""
        spread = gain * (6 / (x.shape[1] * kernel**2)) ** 0.5
        return self.entry(f"{name}.weight", [out, x.shape[1], kernel, kernel], x, spread)

    def bn(self, name: str, x: Tensor) -> Tensor:
        size = [x.shape[1]]
        weight, bias = self.entry(f"{name}.weight", size, x, 0.2, centre=0.7), self.entry(f"{name}.bias", size, x)
        mean, var = self.entry(f"{name}.running_mean", size, x), self.entry(f"{name}.running_var", size, x, 0.5, 1.5)
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(1234))
        return F.batch_norm(x, mean, var, weight, bias)


def detection_heads(classes: int, components: int, class_specific: bool = False) -> dict[str, int]:
    """Return the channels of each head of a published detector."""
    copies = classes if class_specific else 1
    heads = {"hm": classes, "wh": 2 * max(components, 1) * copies, "reg": 2}
    if components:
        heads |= {"mdn_sigma": 2 * components * copies, "mdn_logits": components * copies}
    return heads


def pose_heads(components: int) -> dict[str, int]:
    """Return the channels of each head of a published pose estimator."""
    heads = {"hm": 1, "wh": 2, "hps": 34 * max(components, 1), "reg": 2, "hm_hp": 17, "hp_offset": 2}
    return heads | ({"mdn_logits": components, "mdn_sigma": 2 * components} if components else {})


def hourglass(
    w: Weights,
    image: Tensor,
    dims: Sequence[int] = (256, 256, 384, 384, 384, 512),
    modules: Sequence[int] = (2, 2, 2, 2, 2, 4),
    stacks: int = 2,
    stem: int = 128,
    cnv_dim: int = 256,
) -> list[Tensor]:
    """Return the features that the heads of each stack read."""
    inter = _residual(w, "pre.1", _convolution(w, "pre.0", image, stem, 7, 2), dims[0], 2)
    features = []
    for stack in range(stacks):
        cnv = _convolution(w, f"cnvs.{stack}", _kp_module(w, f"kps.{stack}", inter, dims, modules), cnv_dim, 3)
        features.append(cnv)
        if stack < stacks - 1:
            merged = _conv_bn(w, f"inters_.{stack}", inter, dims[0]) + _conv_bn(w, f"cnvs_.{stack}", cnv, dims[0])
            inter = _residual(w, f"inters.{stack}", F.relu(merged), dims[0])
    return features


def hourglass_heads(
    w: Weights, features: list[Tensor], heads: dict[str, int], width: int = 256
) -> list[dict[str, Tensor]]:
    """Return the outputs of each stack, by the published names of the heads."""
    outputs: list[dict[str, Tensor]] = [{} for _ in features]
    for stack, cnv in enumerate(features):
        for head, channels in heads.items():
            hidden = F.relu(w.conv(f"{head}.{stack}.0.conv", cnv, width, 3, bias=True))
            outputs[stack][head] = w.conv(f"{head}.{stack}.1", hidden, channels, 1, bias=True)
    return outputs


def _kp_module(w: Weights, name: str, x: Tensor, dims: Sequence[int], modules: Sequence[int]) -> Tensor:
    here, below, count = dims[0], dims[1], modules[0]
    up1 = x
    for i in range(count):
        up1 = _residual(w, f"{name}.up1.{i}", up1, here)
    low = x
    for i in range(count):
        low = _residual(w, f"{name}.low1.{i}", low, below, stride=2 if i == 0 else 1)
    if len(dims) > 2:
        low = _kp_module(w, f"{name}.low2", low, dims[1:], modules[1:])
    else:
        for i in range(modules[1]):
            low = _residual(w, f"{name}.low2.{i}", low, below)
    for i in range(count):
        low = _residual(w, f"{name}.low3.{i}", low, below if i < count - 1 else here)
    return up1 + low.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _residual(w: Weights, name: str, x: Tensor, out: int, stride: int = 1) -> Tensor:
    y = F.relu(w.bn(f"{name}.bn1", w.conv(f"{name}.conv1", x, out, 3, stride)))
    y = w.bn(f"{name}.bn2", w.conv(f"{name}.conv2", y, out, 3))
    if stride != 1 or x.shape[1] != out:
        x = _conv_bn(w, f"{name}.skip", x, out, stride)
    return F.relu(y + x)


def _convolution(w: Weights, name: str, x: Tensor, out: int, kernel: int, stride: int = 1) -> Tensor:
    return F.relu(w.bn(f"{name}.bn", w.conv(f"{name}.conv", x, out, kernel, stride)))


def _conv_bn(w: Weights, name: str, x: Tensor, out: int, stride: int = 1, kernel: int = 1) -> Tensor:
    return w.bn(f"{name}.1", w.conv(f"{name}.0", x, out, kernel, stride))


def dla34(w: Weights, image: Tensor) -> list[Tensor]:
    """Return the features that the heads of the one stack read."""
    layers = dla34_base(w, image, "base.")[2:]  # 64, 128, 256 and 512 channels at strides 4, 8, 16 and 32
    out = [layers[-1]]
    for i, start in enumerate((2, 1, 0)):
        _ida(w, f"dla_up.ida_{i}", layers, start, (64, 128, 256)[start], [2] * 3)
        out.insert(0, layers[-1])
    y = out[:3]
    _ida(w, "ida_up", y, 0, 64, [2, 4])
    return y[-1:]


def dla34_heads(w: Weights, features: list[Tensor], heads: dict[str, int]) -> list[dict[str, Tensor]]:
    """Return the outputs of the one stack, by the published names of the heads."""
    outputs = {}
    for head, channels in heads.items():
        hidden = F.relu(w.conv(f"{head}.0", features[0], 256, 3, bias=True))
        outputs[head] = w.conv(f"{head}.2", hidden, channels, 1, bias=True)
    return [outputs]


def dla34_base(w: Weights, image: Tensor, prefix: str = "") -> list[Tensor]:
    """Return the six levels of the classifier.

    `add_classifier` draws its last layer, which no detector reads.
    """
    x = F.relu(_conv_bn(w, f"{prefix}base_layer", image, 16, kernel=7))
    levels = [F.relu(_conv_bn(w, f"{prefix}level0", x, 16, kernel=3))]
    levels.append(F.relu(_conv_bn(w, f"{prefix}level1", levels[-1], 32, stride=2, kernel=3)))
    for level, depth, out in ((2, 1, 64), (3, 2, 128), (4, 2, 256), (5, 1, 512)):
        x = _tree(w, f"{prefix}level{level}", levels[-1], depth, out, stride=2, level_root=level > 2)
        levels.append(x)
    return levels


def add_classifier(w: Weights, prefix: str = "") -> None:
    """Draw the layer of ImageNet's 1000 classes, which the files of the classifier and of the detectors hold."""
    like = torch.empty(0)
    w.entry(f"{prefix}fc.weight", [1000, 512, 1, 1], like)
    w.entry(f"{prefix}fc.bias", [1000], like)


def _tree(
    w: Weights,
    name: str,
    x: Tensor,
    depth: int,
    out: int,
    stride: int = 1,
    level_root: bool = False,
    children: Sequence[Tensor] = (),
) -> Tensor:
    children = list(children)
    bottom = F.max_pool2d(x, stride, stride) if stride > 1 else x
    # A tree of two levels makes its projection too, which its first subtree does not look at.
    residual = _conv_bn(w, f"{name}.project", bottom, out) if x.shape[1] != out else bottom
    if level_root:
        children.append(bottom)
    if depth > 1:
        x1 = _tree(w, f"{name}.tree1", x, depth - 1, out, stride)
        return _tree(w, f"{name}.tree2", x1, depth - 1, out, children=[*children, x1])
    x1 = _block(w, f"{name}.tree1", x, residual, stride)
    x2 = _block(w, f"{name}.tree2", x1, x1)
    joined = w.conv(f"{name}.root.conv", torch.cat([x2, x1, *children], 1), out, 1)
    return F.relu(w.bn(f"{name}.root.bn", joined))


def _block(w: Weights, name: str, x: Tensor, residual: Tensor, stride: int = 1) -> Tensor:
    out = residual.shape[1]
    y = F.relu(w.bn(f"{name}.bn1", w.conv(f"{name}.conv1", x, out, 3, stride)))
    return F.relu(w.bn(f"{name}.bn2", w.conv(f"{name}.conv2", y, out, 3)) + residual)


def _ida(w: Weights, name: str, layers: list[Tensor], start: int, out: int, factors: Sequence[int]) -> None:
    """Replace the layers after `start` by their aggregation with the layers before them."""
    for i in range(start + 1, len(layers)):
        number = i - start
        factor = factors[number - 1]
        x = _deform_conv(w, f"{name}.proj_{number}", layers[i], out)
        kernel = w.entry(f"{name}.up_{number}.weight", [out, 1, 2 * factor, 2 * factor], x, 0.3, centre=0.3)
        x = F.conv_transpose2d(x, kernel, stride=factor, padding=factor // 2, groups=out)
        layers[i] = _deform_conv(w, f"{name}.node_{number}", x + layers[i - 1], out)


def _deform_conv(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    """Convolve at predicted places, with the taps of the kernel row by row.

    The predicted channels are offsets y and x of the first tap, of the second, and so on; then the weights of all nine.
    """
    batch, _, height, width = x.shape
    predicted = w.conv(f"{name}.conv.conv_offset_mask", x, 27, 3, bias=True)
    offset, mask = predicted[:, :18].unflatten(1, (9, 2)), predicted[:, 18:].sigmoid()
    weight = w.kernel(f"{name}.conv", x, out, 3, gain=2)  # the taps' weights are about a half
    y = w.entry(f"{name}.conv.bias", [out], x)[:, None, None].expand(batch, out, height, width)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for tap in range(9):
        at_y = rows.to(x) + (tap // 3 - 1) + offset[:, tap, 0]
        at_x = columns.to(x) + (tap % 3 - 1) + offset[:, tap, 1]
        grid = torch.stack((at_x / (width - 1), at_y / (height - 1)), -1) * 2 - 1
        read = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        y = y + F.conv2d(read * mask[:, tap, None], weight[:, :, tap // 3, tap % 3, None, None])
    return F.relu(w.bn(f"{name}.actf.0", y))


def strongest(
    means: Tensor, sigma: Tensor, logits: Tensor, components: int, classes: int, min_sigma: float
) -> tuple[Tensor, Tensor]:
    """Return mean (B, C, K, h, w) and sigma (B, 2, K, h, w) of the heaviest component for each of K classes."""
    means, sigma, logits = (maps.unflatten(1, (components, -1, classes)) for maps in (means, sigma, logits))
    best = logits.argmax(1, keepdim=True)
    sigma = (F.elu(sigma) + min_sigma).clamp(1e-4, 1e5)
    return tuple(maps.take_along_dim(best.expand(-1, 1, maps.shape[2], -1, -1, -1), 1)[:, 0] for maps in (means, sigma))
