"""A type for the type checker alone: an `nn.ModuleList` whose modules are all of one kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Generic, TypeVar

    Kind = TypeVar("Kind", bound=nn.Module)

    class ListOf(nn.ModuleList, Generic[Kind]):
        """What an `nn.ModuleList` hands out as mere modules, by their own type."""

        def __init__(self, modules: Iterable[Kind] = ()) -> None: ...
        def __getitem__(self, index: int) -> Kind: ...
        def __iter__(self) -> Iterator[Kind]: ...

else:
    ListOf = nn.ModuleList
