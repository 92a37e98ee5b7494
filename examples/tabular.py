"""A table: how long does a delivery take? A distribution for each row, tested for calibration and by CRPS.

Some couriers ride, some drive, and the table does not say which. So a row has two likely times, and both spread with
distance and rain. A Gaussian of the same network covers both with one hump, and its 80 % intervals are not 80 %.

    python examples/tabular.py

The picture: the times of one order as they are and as both predict them; and of all new rows, how often the time is
below each predicted quantile. A calibrated forecast lies on the diagonal.
"""

import argparse

import torch
from matplotlib import pyplot as plt
from torch import nn

from mdnkernels import MixtureLinear

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--output", default="examples/pictures/tabular.png")
options = parser.parse_args()
torch.manual_seed(0)


def draw_orders(table):
    """Return the minutes (N, 1) of orders (N, 3): kilometres, millimetres of rain, hour of the day."""
    distance, rain, hour = table.unbind(1)
    rush = torch.exp(-((hour - 18) / 2).square())
    drives = torch.rand(len(table)) < 0.3 + 0.4 * (rain > 1)
    mean = torch.where(drives, 8 + (2 + 1.5 * rush) * distance, 6 + 5 * distance + rain)
    spread = torch.where(drives, 0.8 + 0.25 * distance * (0.3 + rush), 0.8 + 0.3 * distance + 0.3 * rain)
    return (mean + spread * torch.randn(len(table))).unsqueeze(1)


def draw_table(count):
    rain = (2 * torch.randn(count)).clamp(min=0)
    return torch.stack([1 + 7 * torch.rand(count), rain, 8 + 14 * torch.rand(count)], 1)


table, new_table, row = draw_table(10000), draw_table(4000), torch.tensor([[6.0, 0.5, 12.0]])
minutes, new_minutes = draw_orders(table), draw_orders(new_table)
mean, deviation = table.mean(0), table.std(0)
plt.rcParams["font.size"] = 16
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
time, levels = torch.linspace(10, 50, 400), torch.linspace(0.02, 0.98, 49)
left.hist(draw_orders(row.expand(5000, -1))[:, 0], 60, density=True, color="#c3cad1")
right.plot([0, 1], [0, 1], color="#c3cad1", linewidth=8)
for name, components, colour in (("One Gaussian", 1, "#d1352b"), ("Mixture", 4, "#084488")):
    body = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
    head = MixtureLinear(64, components, dims=1, min_scale=0.1)
    head.init_from_targets(minutes)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=options.steps)
    for _ in range(options.steps):
        rows = torch.randint(len(table), (256,))
        loss = head.loss(body((table[rows] - mean) / deviation), minutes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        forecast = head.distribution(body((new_table - mean) / deviation))
        nll, crps = -forecast.log_prob(new_minutes).mean(), forecast.crps(new_minutes).mean()
        below = (forecast.cdf(new_minutes) < levels).float().mean(0)
        print(f"{name}: nll {nll:.3f}, crps {crps:.3f} minutes, miscalibration {(below - levels).abs().mean():.4f}")
        density = head.distribution(body((row - mean) / deviation)).log_prob(time.view(-1, 1, 1)).exp()
    left.plot(time, density, color=colour, linewidth=4)
    right.plot(levels, below, color=colour, linewidth=4, label=name)
left.set(title="One order's time", xlabel="minutes", yticks=[])
right.set(title="Calibration", xlabel="predicted probability", ylabel="observed share", xticks=[0, 1], yticks=[0, 1])
right.legend(frameon=False)
figure.savefig(options.output, dpi=110)
