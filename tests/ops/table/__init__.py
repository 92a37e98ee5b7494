"""The one table of ops that every parametrised test, fuzz, benchmark and emulator run reads: a file an op.

A new op is a file here: how its arguments are drawn, its variants, what is differentiable, its dtypes and layouts, the
calls that are timed and the least bytes of these. A new variant is one line of that file.

    draw.py   the random tensors of a call
    entry.py  what the table says of an op
    OP.py     ENTRY, one for each op of `mdnkernels.backends.TABLE`

| reader | what it takes |
| --- | --- |
| tests/ops/test_matrix.py | every variant, in every shape, dtype and layout, on every backend |
| tests/ops/test_torch_integration.py, test_threads.py, test_backends.py, test_large.py | the representatives |
| tests/ops/fuzz.py | random options |
| benchmarks, benchmarks/gpu_check, tests/triton | the workloads |
| tests/ops/test_OP.py, tests/cuda_on_cpu/test_OP.py | `arguments`, with options of their own |
"""

from __future__ import annotations

import importlib
from itertools import chain, zip_longest

from mdnkernels import backends
from tests.ops.table.draw import LAYOUTS, Draw, laid_out
from tests.ops.table.entry import Call, Case, Entry, Moved, Variant, Workload

__all__ = [
    "CASES",
    "LAYOUTS",
    "OPS",
    "REPRESENTATIVES",
    "Call",
    "Case",
    "Draw",
    "Entry",
    "Moved",
    "Variant",
    "Workload",
    "laid_out",
]

OPS: dict[str, Entry] = {op: importlib.import_module(f"tests.ops.table.{op}").ENTRY for op in backends.TABLE}
REPRESENTATIVES = tuple(Variant(entry, name) for entry in OPS.values() for name in entry.representatives)

# The first of every op, then the second ones, the ops that have most before the others: where time is short, those that
# matter most are there.
_BY_OP = sorted(([Case(entry, name) for name in entry.workloads] for entry in OPS.values()), key=len, reverse=True)
CASES = tuple(case for case in chain(*zip_longest(*_BY_OP)) if case is not None)
