"""Settings of all tests: Hypothesis draws new cases on a developer's machine, and the same cases every time in CI.

The header of a session says on what the ops are tested: what cannot be in this process is no case of any test, so that
what is skipped is what this machine could have.

Processes that tests fork from a server, their own and those of a data loader, find torch imported (processes.py).

Shells start jobs in the background with Ctrl-C ignored, which processes hand on: here it is what it is in front.
"""

import os
import signal

import pytest
from hypothesis import settings

import tests.processes  # noqa: F401

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_report_header() -> list[str]:
    from tests.native.simd import LEVELS
    from tests.ops.backends import BACKENDS, absent

    reasons: dict[str, list[str]] = {}
    for backend, reason in absent().items():
        reasons.setdefault(reason, []).append(backend)
    without = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    return [
        f"ops on {', '.join(BACKENDS)}, SIMD levels {', '.join(LEVELS)}",
        *([f"ops not on {without}"] if without else []),
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first; the others keep their order."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
