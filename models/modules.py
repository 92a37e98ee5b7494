"""A list of modules that knows of which type they are; PyTorch's own says `Module` of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class ModulesInOrder(nn.ModuleList, Generic[M]):
    """An `nn.ModuleList` of modules of one type."""

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[M]) -> None: ...
        def __iter__(self) -> Iterator[M]: ...
        def __getitem__(self, idx: Any) -> M: ...  # type: ignore[override]  # of one position; no slices
