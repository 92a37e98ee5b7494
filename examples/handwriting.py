"""Handwriting, a pen's step at a time: 2-D, correlated, sampled at a temperature.

After each step a recurrent network gives a mixture over the next one, (dx, dy), which are correlated, for hands slant.
Which letter comes next is open: there are several answers, and their mean is no letter. `Mixture.tempered` makes the
hand that writes neater or wilder.

    python examples/handwriting.py

The picture: a line of the training set, and what the network writes at three temperatures.
Source: Graves, "Generating Sequences With Recurrent Neural Networks", 2013, section 5.
"""

import argparse

import torch
from matplotlib import pyplot as plt
from torch import nn

from mdnkernels import MixtureLinear

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1200)
parser.add_argument("--output", default="examples/pictures/handwriting.png")
options = parser.parse_args()
torch.manual_seed(0)
LETTERS, POINTS = 7, 12
SHAPES = torch.tensor([[1.0, 1.0], [2.5, 0.8], [1.0, -0.1], [1.0, -0.7]])  # of e, l, i, n: height, how wide the loop is


def draw_strokes(count):
    """Return the steps (N, LETTERS * POINTS, 2) of a pen that writes joined letters; each hand has its own slant."""
    shape = SHAPES[torch.randint(len(SHAPES), (count, LETTERS, 1))] * (1 + 0.05 * torch.randn(count, LETTERS, 1, 2))
    phase = torch.linspace(0, 2 * torch.pi, POINTS + 1)
    y = shape[..., 0] * (1 - phase.cos()) / 2
    x = 0.18 * phase + 0.42 * shape[..., 1] * phase.sin() + (0.35 + 0.1 * torch.randn(count, 1, 1)) * y
    return torch.stack([x, y], -1).diff(dim=2).flatten(1, 2) + 0.01 * torch.randn(count, LETTERS * POINTS, 2)


def pad(strokes):
    """Return what is known before each step: nothing before the first, then the step before."""
    return nn.functional.pad(strokes[:, :-1], (0, 0, 1, 0))


body, head = nn.GRU(2, 128, batch_first=True), MixtureLinear(128, components=6, dims=2, block_size=2, min_scale=0.005)
parameters = [*body.parameters(), *head.parameters()]
head.init_from_targets(draw_strokes(50).flatten(0, 1))
optimizer = torch.optim.Adam(parameters)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=options.steps)
for _ in range(options.steps):
    strokes = draw_strokes(64)
    loss = head.loss(body(pad(strokes))[0], strokes)  # of features (B, T, K) and targets (B, T, 2)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()

lines = {"From the training set": draw_strokes(1)[0]}
with torch.no_grad():
    strokes = draw_strokes(200)
    mixture = head.distribution(body(pad(strokes))[0])
    one = torch.distributions.Normal(mixture.mean, mixture.variance.sqrt())
    print(f"Its mean and variance alone: nll {-one.log_prob(strokes).sum(-1).mean():.2f} a step")
    print(f"Mixture: nll {-mixture.log_prob(strokes).mean():.2f} a step")
    for temperature in (0.5, 1.0, 2.0):
        step, memory, written = torch.zeros(1, 1, 2), None, []
        for _ in range(LETTERS * POINTS):
            features, memory = body(step, memory)
            step = head.distribution(features).tempered(temperature).sample()
            written.append(step[0, 0])
        lines[f"Written at temperature {temperature:g}"] = torch.stack(written)

figure, panels = plt.subplots(4, 1, figsize=(6, 9), layout="constrained")
for axes, (title, steps) in zip(panels, lines.items(), strict=True):
    axes.plot(*steps.cumsum(0).T, color="#777777" if axes is panels[0] else "#084488", linewidth=4)
    axes.set_title(title, size=20, loc="left")
    axes.set(xlim=(-0.3, 9), ylim=(-0.4, 3), aspect="equal")
    axes.axis("off")
figure.savefig(options.output, dpi=90)
