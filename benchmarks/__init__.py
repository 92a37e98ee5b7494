"""Each op and network beside its peers, one page of all of them, and the check of a GPU.

What is where:

    bench_OP.py     an op's peers, and the ratios that are asked for: `make benchmark`
    report          one page of all ops, with plots: `make bench-report`
    gpu_check       the check of a GPU
    sass            times computed from compiled code
    ways.py         the ways to run an op: backends, torch.compile, what stands in its place today
    steps.py        a forward pass, or a training step
    floors.py       the bytes of a call moved, and nothing else
    memory.py       the peak of a call's memory
    peers.py        a call's ways and its floor
    alternating.py  contestants timed in turn
"""

from typing import Any

# What the models' mixtures are.
PAPER: dict[str, Any] = {"scale_activation": "elu", "min_scale": 1.0, "scale_order": "interleaved"}
