"""A device that cannot be waited for: `meta`, whose tensors have shapes and no values.

What needs a value of such a tensor on the host raises: `.item()`, `tolist`, `bool`, `nonzero`, masks as indices, copies
to the CPU. `no_waits` refuses the copies from the host too for which a GPU would be waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mdnkernels import backends

DEVICE = torch.device("meta")
# They take Python's numbers, which lie on the host.
MADE_OF_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class _NoNumbers(TorchFunctionMode):
    """Refuses tensors that are made of Python's numbers on the device, and lists as indices."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in MADE_OF_NUMBERS:
            assert result.device != DEVICE, "numbers are copied from the host, and the device is waited for"
        if function in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == DEVICE:
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(one, (list, np.ndarray)) for one in indices), "an index is copied from the host"
        return result


class _NoCopies(TorchDispatchMode):
    """Refuses copies between the host and the device that are not told to go on meanwhile."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        result = function(*args, **options)
        name = function.overloadpacket
        if name in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            given = args[:2] if name is torch.ops.aten.copy_ else (args[0], result)
            crosses = len({one.device.type for one in given}) > 1
            goes_on = options.get("non_blocking") or args[2:] == (True,)
            assert goes_on or not crosses, f"{function} from {given[0].device} to {given[1].device} waits"
        if name in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
            indices = [one for one in args[1] if one is not None]
            assert all(one.device == args[0].device for one in indices), "an index is copied from the host"
        return result


@contextmanager
def no_waits() -> Iterator[None]:
    """Raise AssertionError at a copy for which the host would wait for a GPU in the place of `meta`."""
    with _NoNumbers(), _NoCopies():
        yield


@contextmanager
def kernels_on_meta(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ops take their native kernels' shapes on `meta`, as they take the kernels on a GPU."""
    with patch.context() as during:
        during.setattr(backends, "missing", lambda op, backend, device: None if backend == "native" else "not here")
        yield
