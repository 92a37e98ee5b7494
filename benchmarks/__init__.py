"""Each op and network beside its peers, and the check of a GPU."""

from typing import Any

# What the models' mixtures are.
PAPER: dict[str, Any] = {"scale_activation": "elu", "min_scale": 1.0, "scale_order": "interleaved"}
