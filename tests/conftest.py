"""Settings of all tests: Hypothesis draws new cases on a developer's machine, and the same cases every time in CI.

Shells start jobs in the background with Ctrl-C ignored, which processes hand on: here it is what it is in front.
"""

import os
import signal

from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
