"""How many examples hypothesis draws: all of them in `make test-slow`, a third in `make test`."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("MDNKERNELS_TESTS") == "slow"


def examples(count: int) -> int:
    """Return how many of `count` examples this run draws."""
    return count if THOROUGH else -(-count // 3)
