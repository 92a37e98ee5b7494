"""Twelve joints, each with its covariance, on a backbone of torchvision: is it seen from the front or from behind?

Nothing tells which, so which arm is the left one is a toss-up. One Gaussian puts both on the spine, unsure of all. Two
components are two whole poses, an ellipse for each joint, and their odds. Hidden joints are masked, each by itself.

    python examples/keypoints.py

The picture: the pose by one Gaussian, and both poses of the mixture. Left limbs are orange, right limbs blue.
"""

import argparse

import numpy as np
import torch
import torchvision
from matplotlib import pyplot as plt
from torch import nn

from mdnkernels import MixtureLinear, covariance_from_tril
from mdnkernels.train.synthetic.figures import FINE, PAINTS, Look, draw_figure

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--output", default="examples/pictures/keypoints.png")
options = parser.parse_args()
torch.manual_seed(0)
rng, SIDE, JOINTS = np.random.default_rng(0), 48, 12  # joints from shoulders to ankles, each left before right
ORANGE, BLUE, GREY = "#e8821e", "#2a6fb5", "#777777"
LIMBS = (((0, 1, 7, 6, 0), GREY), ((0, 2, 4), ORANGE), ((6, 8, 10), ORANGE), ((1, 3, 5), BLUE), ((7, 9, 11), BLUE))


def draw_figures(count):
    """Return pictures (N, 3, H, W), joints (N, 24) in [-1, 1], x before y, and which are seen (N, 12)."""
    pictures, joints, shown = torch.zeros(count, 3, SIDE, SIDE), torch.zeros(count, JOINTS, 2), []
    for n in range(count):
        figure = draw_figure(rng, SIDE - 2.0, Look(rng.random() < 0.5, False, False), spread=0.6)  # in a hood
        parts = nn.functional.avg_pool2d(torch.from_numpy(figure.parts / len(PAINTS))[None], FINE)[0]
        (height, width), (top, left) = parts.shape, (rng.integers(SIDE - side + 1) for side in parts.shape)
        pictures[n, :, top : top + height, left : left + width] = parts
        joints[n] = torch.from_numpy(figure.keypoints[5:] + np.array([left, top])) / SIDE * 2 - 1
        shown.append(torch.from_numpy(figure.shown[5:]))
    return pictures, joints.flatten(1), torch.stack(shown)


pictures, joints, shown = draw_figures(min(32 * options.steps, 2000))
new_pictures, new_joints, new_shown = draw_figures(100)
panels, circle = [], torch.stack([f(torch.linspace(0, 2 * torch.pi, 40)) for f in (torch.cos, torch.sin)])
for name, components in (("One Gaussian", 1), ("Mixture", 2)):
    backbone = list(torchvision.models.resnet18(weights=None).children())[:6]  # to layer2, (N, 128, 6, 6)
    body = nn.Sequential(*backbone, nn.Flatten(), nn.Linear(128 * 36, 128), nn.ReLU())
    head = MixtureLinear(128, components, dims=2 * JOINTS, block_size=2, min_scale=0.01)
    head.init_from_targets(joints, features=joints[:, 0:1] - joints[:, 2:3])  # clusters of who stands which way round
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=options.steps)
    for _ in range(options.steps):
        rows = torch.randint(len(pictures), (32,))
        loss = head.loss(body(pictures[rows]), joints[rows], mask=shown[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    body.eval()
    with torch.no_grad():
        features = body(new_pictures)
        print(f"{name}: nll {head.loss(features, new_joints, mask=new_shown):.2f}")
        pose = head.distribution(features[:1])
        sigma, tril = pose.component_scale.view(-1, JOINTS, 2), pose.component_tril.view(-1, JOINTS, 1)
        factors = torch.linalg.cholesky(covariance_from_tril(sigma, tril))
        panels += zip(pose.weights[0], pose.component_loc.view(-1, JOINTS, 2), factors, strict=True)

bare = {"frame_on": False, "xticks": [], "yticks": []}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), sharex=True, sharey=True, layout="constrained", subplot_kw=bare)
for each, (weight, loc, factor) in zip(axes, panels, strict=True):
    each.imshow(new_pictures[0, 0], cmap="gray_r", vmax=2, extent=(-1, 1, 1, -1))
    for limb, colour in LIMBS:
        each.plot(*loc[list(limb)].T, color=colour, linewidth=4)
        each.fill(*(xy for k in limb for xy in loc[k, :, None] + 2 * factor[k] @ circle), color=colour, alpha=0.25)
    each.set_title("One Gaussian" if each is axes[0] else f"Mixture: {100 * weight:.0f} %", size=19)
figure.savefig(options.output, dpi=110)
