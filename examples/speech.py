"""Speech features, (B, T, K): each sound can be said in two ways, and the average of both is heard as neither.

A network reads the sounds of an utterance and gives the energies of K bands in each frame. They are eight-bit numbers,
so a component is a discretised logistic. One component averages the two ways into four pale formants, the muffled
voice of regression; of two, each is a way to say it.

    python examples/speech.py

The picture: an utterance as it was said, and as one and two components have it. Frequency goes up, time to the right.
"""

import argparse

import torch
from matplotlib import pyplot as plt
from torch import nn

from mdnkernels import DiscretisedLogistic, MixtureLinear

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=400)
parser.add_argument("--output", default="examples/pictures/speech.png")
options = parser.parse_args()
torch.manual_seed(0)
SOUNDS, FRAMES, T, K = 8, 12, 96, 40  # an utterance is T frames, a sound FRAMES of them
FORMANTS = torch.rand(SOUNDS, 2, 2) * torch.tensor([14.0, 18.0]) + torch.tensor([3.0, 19.0])  # sound, way, band of two


def draw_utterances(count):
    """Return the sounds (B, T) and the energies (B, T, K) in 256 steps from 0 to 1."""
    sounds, ways = torch.randint(SOUNDS, (count, T // FRAMES)), torch.randint(2, (count, T // FRAMES))
    bands = FORMANTS[sounds, ways].repeat_interleave(FRAMES, 1)  # (B, T, 2)
    bands = nn.functional.avg_pool1d(bands.mT, 5, stride=1, padding=2, count_include_pad=False).mT  # the mouth moves
    away = torch.arange(K) - bands.unsqueeze(-1)
    energy = (torch.exp(-0.5 * (away / 1.5).square()) * torch.tensor([[0.8], [0.6]])).sum(-2)
    noisy = (0.1 + energy + 0.03 * torch.randn_like(energy)).clamp(0, 1)
    return sounds.repeat_interleave(FRAMES, 1), (255 * noisy).round() / 255


said, panels = draw_utterances(1), {}
panels["As it was said"] = said[1][0]
for title, components in (("One component", 1), ("Mixture, the likelier of two", 2)):
    embed, body = nn.Embedding(SOUNDS, 64), nn.Sequential(nn.Conv1d(64, 96, 7, padding=3), nn.SiLU())
    head = MixtureLinear(96, components, dims=K, family=DiscretisedLogistic(bin_width=1 / 255))
    head.init_from_targets(draw_utterances(20)[1].flatten(0, 1))
    optimizer = torch.optim.Adam([*embed.parameters(), *body.parameters(), *head.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=options.steps)
    for _ in range(options.steps):
        sounds, energy = draw_utterances(16)
        loss = head.loss(body(embed(sounds).mT).mT, energy)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        sounds, energy = draw_utterances(100)
        bits = head.loss(body(embed(sounds).mT).mT, energy) / K / torch.log(torch.tensor(2.0))
        print(f"{title}: nll {bits:.2f} bits a band")
        panels[title] = head.spec.mode(**head(body(embed(said[0]).mT).mT)).loc[0]

figure, axes = plt.subplots(3, 1, figsize=(8, 7), layout="constrained")
for each, (title, energy) in zip(axes, panels.items(), strict=True):
    each.imshow(energy.T, origin="lower", cmap="magma", vmin=0, vmax=1, aspect="auto")
    each.set_title(title, size=20, loc="left")
    each.axis("off")
figure.savefig(options.output, dpi=90)
