"""Values: what is told once, and altered by nobody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

ClassT = TypeVar("ClassT")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[ClassT]) -> type[ClassT]:
    """Return *cls* as a dataclass with slots that nobody alters, which the type checker sees to and not each instance.

    `frozen=True` looks after that when the program runs, and makes an instance take four times as long to be made. A
    request makes some twenty of them, with eighty fields in all, which took a seventh of the time of a hit. It also has
    half as many methods again compiled for each class, all of them whenever the proxy starts.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
