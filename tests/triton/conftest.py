"""The op tests of this folder run under Triton's interpreter in a process of their own.

The interpreter must be chosen before triton is imported, and it would change what triton.jit gives to all other tests.
So `test_interpreted.py` starts pytest once more, on the files in `interpreted/`, which are not collected otherwise.
"""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
