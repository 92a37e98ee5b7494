"""Depth at edges: a pixel is near or far and never between, but a depth camera averages what it sees.

A regression of one depth puts the pixels of an edge half-way, where no surface is: flying pixels. Of two Laplace
components one takes each surface. The stronger one is the answer, and the spread of both the uncertainty, which is
largest at edges. Targets are dense, (B, H, W), as depth comes.

    python examples/depth.py

The picture: what the camera gives, the depth by one Laplace and by the mixture, and where that is uncertain.
"""

import argparse

import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.nn import functional

from mdnkernels import MixtureConv2d

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=400)
parser.add_argument("--output", default="examples/pictures/depth.png")
options = parser.parse_args()
torch.manual_seed(0)
SIDE = 40


def draw_scenes(count):
    """Return what the camera gives (N, 1, H, W), blurred, noisy and over 2 metres; the depth (N, H, W) in metres."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    depth = 7 - y + 0.5 * torch.randn(count, 1, 1)  # a wall that leans back
    for _ in range(4):
        (cx, cy, width, height, away), box = torch.rand(5, count, 1, 1), torch.rand(count, 1, 1) < 0.5
        across, down = (x - 2 * cx + 1).abs() / (0.2 + 0.4 * width), (y - 2 * cy + 1).abs() / (0.2 + 0.4 * height)
        inside = torch.where(box, torch.maximum(across, down), across.square() + down.square()) < 1
        depth = torch.where(inside, torch.minimum(depth, 2 + 3 * away), depth)
    seen = functional.avg_pool2d(functional.pad(depth.unsqueeze(1), (3, 3, 3, 3), mode="replicate"), 7, stride=1)
    return (seen - 5) / 2 + 0.05 * torch.randn_like(seen), depth


answers = {}
seen, truth = draw_scenes(32)
for name, components in (("One Laplace", 1), ("Mixture", 2)):
    layers = [nn.Conv2d(1, 16, 5, padding=2, padding_mode="replicate"), nn.ReLU()]
    layers += [nn.Conv2d(16, 16, 5, padding=2, padding_mode="replicate"), nn.ReLU()]
    body, head = nn.Sequential(*layers), MixtureConv2d(16, components, dims=1, family="laplace", min_scale=0.02)
    head.init_from_targets(draw_scenes(4)[1].reshape(-1, 1))
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=options.steps)
    for _ in range(options.steps):
        given, depth = draw_scenes(8)
        loss = head.loss(body(given), depth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        mixture = head.distribution(body(seen))
        answers[name] = answer = head.spec.mode(**head(body(seen))).loc.squeeze(1)
        deviation = mixture.variance.sqrt().squeeze(-1)
        around = functional.unfold(truth.unsqueeze(1), 7, padding=3)  # (N, 49, H * W), the depths near each pixel
        flying = (around - answer.flatten(1).unsqueeze(1)).abs().amin(1) > 0.5  # half a metre from any of them
        print(f"{name}: nll {head.loss(body(seen), truth):.2f}, flying pixels {100 * flying.float().mean():.1f} %")

figure, panels = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
for axes, depth in zip(panels, (2 * seen[0, 0] + 5, *(answer[0] for answer in answers.values())), strict=False):
    axes.imshow(depth, cmap="viridis", vmin=2, vmax=8)
panels[3].imshow(deviation[0], cmap="magma")
for axes, title in zip(panels, ("Camera", *answers, "Its uncertainty"), strict=True):
    axes.set_title(title, size=19)
    axes.axis("off")
figure.savefig(options.output, dpi=100)
