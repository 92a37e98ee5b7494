"""Bishop's inverse problem: least squares goes through the middle of nothing, the mixture sits on every branch.

One x is explained by up to three y, as a robot's arm reaches one point in several ways. The least-squares answer is the
average of all of them, where there is no data at all. A mixture density network gives each branch a component.

    python examples/inverse_problem.py

The picture: what two networks say of the same points. Left a line, right a density.
Source: Bishop, "Mixture Density Networks", 1994, section 5.
"""

import argparse

import torch
from matplotlib import pyplot as plt
from torch import nn

from mdnkernels import MixtureLinear

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--output", default="examples/pictures/inverse_problem.png")
options = parser.parse_args()
torch.manual_seed(0)


def draw_points(count):
    y = torch.rand(count, 1)
    return y + 0.3 * torch.sin(2 * torch.pi * y) + 0.2 * torch.rand(count, 1) - 0.1, y


x, y = draw_points(2000)
line = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
body = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
head = MixtureLinear(64, components=3, dims=1, min_scale=0.01)
head.init_from_targets(y)
optimizer = torch.optim.Adam([*line.parameters(), *body.parameters(), *head.parameters()])
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=options.steps)
for _ in range(options.steps):
    rows = torch.randint(len(x), (256,))
    loss = nn.functional.mse_loss(line(x[rows]), y[rows]) + head.loss(body(x[rows]), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

with torch.no_grad():
    x_new, y_new = draw_points(2000)
    sigma = (line(x_new) - y_new).square().mean().sqrt()
    print(f"Least squares: nll {-torch.distributions.Normal(line(x_new), sigma).log_prob(y_new).mean():.3f}")
    print(f"Mixture: nll {head.loss(body(x_new), y_new):.3f}")
    side = torch.linspace(0, 1, 500).unsqueeze(1)
    curve, mixture = line(side), head.distribution(body(side))  # 500 mixtures
    density = mixture.log_prob(side.unsqueeze(1)).exp()  # (y, x): of each y under each x's mixture

plt.rcParams.update({"font.size": 17, "axes.spines.top": False, "axes.spines.right": False})
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.6), sharey=True, layout="constrained")
left.scatter(x, y, s=9, color="#8fb0d0", linewidths=0)
left.plot(side, curve, color="#d1352b", linewidth=6)
ink = (density.sqrt() / 3.2).clamp(max=1)
right.imshow(ink, extent=(0, 1, 0, 1), origin="lower", cmap="Blues", alpha=(3 * ink).clamp(max=1), aspect="auto")
left.set_title("Least squares:\nthe middle of nothing", fontsize=20, color="#d1352b")
right.set_title("Mixture:\nevery branch", fontsize=20, color="#084488")
for axes in (left, right):
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 1], yticks=[0, 1], xlabel="given x")
left.set_ylabel("what is y?")
figure.savefig(options.output, dpi=120)
