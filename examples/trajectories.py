"""Where will the car be? M modes of T steps of (x, y), each step with its correlation, trained by end point.

One past has several futures. One Gaussian drives between the exits of a crossing; three modes take one each. What a
mode does not know is mostly how far the car gets, so x and y are correlated: ellipses lie along the road. Steps that
nobody saw are masked. Only the mode that ends nearest to the truth learns from it (`assign=`).

    python examples/trajectories.py

The picture: forty true futures of one car in grey, and what one Gaussian and the mixture say of them.
"""

import argparse
import math

import torch
from matplotlib import pyplot as plt
from torch import nn

from mdnkernels import MixtureLinear, covariance_from_tril

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--output", default="examples/pictures/trajectories.png")
options = parser.parse_args()
torch.manual_seed(0)
T, TURN, RADIUS = 12, math.pi / 3, 14.0  # half a second a step; metres


def draw_cars(count, spread=1.0):
    """Return what is known (N, 2), the steps to come (N, 2 T) and which of them are seen (N, T)."""
    speed, distance = (1 + spread * (torch.rand(2, count, 1) - 0.5)) * torch.tensor([8.0, 14.0]).view(2, 1, 1)
    way = torch.randint(-1, 2, speed.shape)  # left, straight on or right
    time = torch.arange(1, T + 1) / 2
    travelled = speed * time + 0.5 * (0.5 * torch.randn_like(speed)).clamp(-0.8, 0.8) * time.square()
    angle = ((travelled - distance) / RADIUS).clamp(0, TURN)
    before, after = torch.minimum(travelled, distance), (travelled - distance - RADIUS * TURN).clamp(min=0)
    ahead = torch.where(way == 0, travelled, before + RADIUS * angle.sin() + after * math.cos(TURN))
    aside = way * (RADIUS * (1 - angle.cos()) + after * math.sin(TURN)) + 0.25 * time * torch.randn_like(speed)
    steps = torch.stack([aside, ahead], -1) + 0.2 * torch.randn(len(way), T, 2)
    lost = torch.where(torch.rand(len(way), 1) < 0.3, torch.randint(3, T, way.shape), T)
    return torch.cat([speed / 8, distance / 14], 1), steps.flatten(1), torch.arange(T) < lost


COLOURS = {"One Gaussian": ["#d1352b"], "Three modes": ["#2a6fb5", "#2f9e62", "#8a4fbf"]}
pictures, (past, truth, _) = {}, draw_cars(40, spread=0.0)
for title, modes in (("One Gaussian", 1), ("Three modes", 3)):
    body = nn.Sequential(nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
    head = MixtureLinear(128, modes, dims=2 * T, block_size=2, min_scale=0.1)
    future = draw_cars(4000)[1]
    head.init_from_targets(future, features=future[:, -2:])  # one mode for each cluster of end points
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(options.steps):
        known, future, seen = draw_cars(256)
        parameters = head(body(known))
        end = torch.arange(len(seen)), slice(None), seen.sum(1) - 1  # the last step that was seen
        ends = parameters["loc"].view(-1, modes, T, 2)[end] - future.view(-1, 1, T, 2)[end]
        loss = head.spec.nll(**parameters, target=future, mask=seen, assign=ends.norm(dim=-1).argmin(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        known, future, seen = draw_cars(5000)
        print(f"{title}: nll {head.loss(body(known), future, mask=seen) / seen.sum(1).float().mean():.2f} a step")
        mixture = head.distribution(body(past[0]))
    sigma, tril = mixture.component_scale.view(modes, T, 2), mixture.component_tril.view(modes, T, 1)
    factor = torch.linalg.cholesky(covariance_from_tril(sigma, tril))
    pictures[title] = mixture.component_loc.view(modes, T, 2), factor

figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), sharex=True, sharey=True, layout="constrained")
circle = torch.stack([f(torch.linspace(0, 2 * math.pi, 60)) for f in (torch.cos, torch.sin)])
for axes, (title, (loc, factor)) in zip(panels, pictures.items(), strict=True):
    axes.plot(*truth.view(40, T, 2).permute(2, 1, 0), color="#b8c0c8", linewidth=2)
    for m, colour in enumerate(COLOURS[title]):
        axes.plot(*loc[m].T, "o-", color=colour, linewidth=3)
        for t in (5, 8, 11):
            axes.fill(*(loc[m, t, :, None] + 2 * factor[m, t] @ circle), color=colour, alpha=0.25)
    axes.set_title(title, size=20, color=COLOURS[title][0])
    axes.set(xticks=[], yticks=[], aspect="equal")
figure.savefig(options.output, dpi=120)
