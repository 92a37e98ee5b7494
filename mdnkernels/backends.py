"""Which implementations of each op exist here, which one runs, and how to choose.

`native` is C++ on the CPU and CUDA C++ on a GPU, `triton` is Triton on a GPU, `eager` is plain PyTorch on any device.
The first of them that an op has for the tensors' device runs; on the CPU, where Triton has only its interpreter, it
must be asked for. `use_backend` or the environment variable MDNKERNELS_BACKEND asks for one by name; one that is not
there is an error that says why, never another backend. Within torch.func transforms (vmap, grad) and for forward-mode
derivatives (torch.autograd.forward_ad) eager is all that is there: it has their rules from PyTorch.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mdnkernels import native, triton

BACKENDS = ("native", "triton", "eager")

# The one table of implementations, of which each op's folder adds its own. Each function takes the checked arguments of
# its op, positionally and in one form.
TABLE: dict[str, dict[str, Callable[..., Any]]] = {}

_FOLDERS: dict[str, str] = {}  # of each op, as a package
_loaded: set[str] = set()  # the ops whose implementation in Triton is in the table
_TRITON_AT_ONCE = triton.problem is None and (
    triton.INTERPRETED
    or (
        torch.cuda.device_count() > 0  # asks the driver's management library: forks stay usable
        and (native.cuda_problem is not None or os.environ.get("MDNKERNELS_BACKEND") == "triton")
    )
)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def add(*ops: str) -> None:
    """Take the implementations of `ops`, which share the folder of the first, into the table.

    They are the functions of their names in mdnkernels.ops.OP.eager, in mdnkernels.ops.OP.triton, which is loaded later
    (`load_triton`), and in mdnkernels.ops.OP.autograd on the ops of the native library, once their fake kernels and
    gradients are registered.
    """
    folder = f"mdnkernels.ops.{ops[0]}"
    autograd = importlib.import_module(f"{folder}.autograd")
    if native.problem is None:
        autograd.register(native.NAMESPACE, "native")
    for op in ops:
        TABLE[op] = {
            "native": functools.partial(getattr(autograd, op), native.NAMESPACE),
            "triton": functools.partial(_load_and_run, op),
            "eager": getattr(importlib.import_module(f"{folder}.eager"), op),
        }
        _FOLDERS[op] = folder


def load_at_import() -> None:
    """Load what a call may choose unasked: Triton's ops on a GPU for which there is no native library.

    torch.compile must find them registered. The package calls this when all of its ops are in the table: in Triton, one
    op uses another.
    """
    if _TRITON_AT_ONCE:
        load_triton()


def load_triton() -> None:
    """Take the ops in Triton into the table and register them with torch, where that has not happened.

    With its imports, of torch's compiler above all, that takes as long as importing torch. So it happens with the
    package's import (`load_at_import`) only where a call may choose Triton unasked.
    """
    there = triton.imports()
    for op, folder in _FOLDERS.items():
        if op not in _loaded:
            TABLE[op]["triton"] = getattr(importlib.import_module(f"{folder}.triton"), op) if there else triton.absent
            _loaded.add(op)


def _load_and_run(op: str, *arguments: Any) -> Any:
    """Stand for an op in Triton until it is loaded."""
    load_triton()
    return TABLE[op]["triton"](*arguments)


def missing(op: str, backend: str, device_type: str) -> str | None:
    """Return why `backend` cannot run `op` on a device of this type, or None where it can."""
    if backend == "eager":
        return None
    if backend not in TABLE[op]:
        return f"{op} has no {backend} implementation in this version"
    if backend == "triton":
        return triton.missing(device_type)
    if device_type == "cuda":
        return native.cuda_problem
    if device_type != "cpu":
        return f"the native library has no {device_type} kernels in this version"
    return native.problem


def select(op: str, *tensors: Tensor | None) -> Callable[..., Any]:
    """Return the implementation of `op` that runs now on `tensors`, its arguments, whose first says the device.

    Raises:
        RuntimeError: the backend that was asked for is not there; says why.
        NotImplementedError: it cannot run within a torch.func transform, or has no forward-mode derivative.
    """
    wanted, device = chosen(), next(tensor.device for tensor in tensors if tensor is not None)
    if wanted != "eager":
        reason = _needs_eager(tensors)
        if reason is not None and wanted is not None:
            raise NotImplementedError(f"backend {wanted!r} was asked for, but {reason} only eager runs")
        if reason is not None:
            wanted = "eager"
    if wanted is not None:
        reason = missing(op, wanted, device.type)
        if reason is not None:
            raise RuntimeError(f"backend {wanted!r} was asked for, but {reason}")
        return TABLE[op][wanted]
    return TABLE[op][chosen_by_default(op, device.type)]


def _needs_eager(tensors: Sequence[Tensor | None]) -> str | None:
    """Return what asks for derivatives or batches whose rules the fused ops do not have, or None where nothing does."""
    if torch._C._are_functorch_transforms_active():
        return "within torch.func transforms (vmap, grad, jvp and others)"
    if forward_ad._current_level >= 0 and any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    ):
        return "for forward-mode derivatives (torch.autograd.forward_ad)"
    return None


def chosen_by_default(op: str, device_type: str) -> str:
    """Return the name of the backend that runs `op` where none is asked for."""
    return next(
        backend
        for backend in BACKENDS
        if missing(op, backend, device_type) is None and (backend, device_type) != ("triton", "cpu")
    )


def chosen() -> str | None:
    """Return the backend that was asked for, or None."""
    return _chosen or _from_environment


class Choice:
    """A choice of `use_backend`. It holds from its making on; used as `with`, until the end of the block."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._entered = False
        _choices.append(self)
        _settle()

    def __enter__(self) -> None:
        if self._entered:
            raise RuntimeError("a choice of a backend serves one block: call use_backend again")
        self._entered = True
        # Within its block it holds, whatever was chosen since it was made.
        _choices.remove(self)
        _choices.append(self)
        _settle()

    def __exit__(self, *error: object) -> None:
        # Not the choice from before put back: threads may leave their blocks in the order in which they entered them.
        _choices.remove(self)
        _settle()

    def __call__(self, function: _Function) -> _Function:
        """Decorate `function`: the choice holds while it runs, and not before."""
        with self:
            pass
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            raise TypeError("use_backend decorates functions that run when they are called, not generators")

        @functools.wraps(function)
        def chosen_within(*arguments: Any, **options: Any) -> Any:
            with use_backend(self._name):
                return function(*arguments, **options)

        return chosen_within  # type: ignore[return-value]


_from_environment: str | None = None
_choices: list[Choice] = []  # those that hold now: the last one decides
# Its backend. What is compiled depends on this string alone, not on how many choices there are.
_chosen: str | None = None


def _settle() -> None:
    """Let the last choice decide. Threads may change the list meanwhile: the last to write sees it unchanged."""
    global _chosen
    while True:
        last = _choices[-1:]
        _chosen = last[0]._name if last else None
        if _choices[-1:] == last:
            return


def use_backend(name: str | None) -> Choice:
    """Run every op on one backend from here on, or, as `with mdnkernels.use_backend("eager"): ...`, within a block.

    The choice holds for the whole process, all threads included, until another is made; the end of its block undoes it.
    An op that the backend does not have raises RuntimeError when it is called. Within torch.func transforms, and for
    inputs with a forward-mode tangent, a fused backend raises NotImplementedError: only eager has their rules.

    Args:
        name: "native", "triton" or "eager". None asks for none: MDNKERNELS_BACKEND's or the first that is there runs.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: it can run nothing here; says why.
    """
    if name is not None:
        _check_name("backend", name)
        reasons = [missing(op, name, device) for op in TABLE for device in ("cpu", "cuda")]
        if all(reason is not None for reason in reasons):
            raise RuntimeError(f"backend {name!r} was asked for, but {reasons[0]}")
    if name == "triton":
        load_triton()
        if triton.problem is not None:
            raise RuntimeError(f"backend {name!r} was asked for, but {triton.problem}")
    return Choice(name)


def _check_name(source: str, name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")


if _wanted := os.environ.get("MDNKERNELS_BACKEND"):
    _check_name("MDNKERNELS_BACKEND", _wanted)
    _from_environment = _wanted
elif native.problem is not None:
    warnings.warn(f"mdnkernels runs on the eager backend: {native.problem}", RuntimeWarning, stacklevel=2)
