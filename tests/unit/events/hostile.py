"""Values whose own methods raise, or lie, whatever they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, tzinfo
from enum import Enum, IntEnum
from typing import Any, Final, NoReturn
from uuid import UUID


def refuse(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("no method of this value may be called")


class Hostile:
    """Raises from every method that a careless reader would call; has no class either."""

    __str__ = __repr__ = __eq__ = __hash__ = __bool__ = __format__ = __len__ = refuse  # type: ignore[assignment]
    __int__ = __float__ = __index__ = __iter__ = __getattr__ = __lt__ = __le__ = __ge__ = __sub__ = refuse
    __class__ = property(refuse)  # type: ignore[assignment]


class HostileText(str):
    """A str that raises, or lies, when it is used as one."""

    __slots__ = ()
    __str__ = __repr__ = __eq__ = __hash__ = __format__ = refuse  # type: ignore[assignment]


class HostileNumber(int):
    """An int that raises when it is used as one."""

    __int__ = __float__ = __index__ = __eq__ = __hash__ = __str__ = __repr__ = __le__ = __ge__ = refuse  # type: ignore[assignment]


class HostileFloat(float):
    """A float that raises when it is used as one."""

    __int__ = __float__ = __eq__ = __hash__ = __str__ = __repr__ = __sub__ = refuse  # type: ignore[assignment]


class HostileZone(tzinfo):
    """A time zone that raises when asked for its offset."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        refuse()


class HostileMapping(Mapping[str, Any]):
    """A mapping that raises when read."""

    def __getitem__(self, key: str) -> Any:
        refuse()

    def __iter__(self) -> Iterator[str]:
        refuse()

    __len__ = refuse


class Colour(Enum):
    """An enumeration that holds something hostile, and something harmless."""

    HOSTILE = Hostile  # a class: not text
    TEXT = "red"


class Size(IntEnum):
    """Whole numbers by name."""

    LARGE = 5


class HostileId(UUID):
    """A UUID that cannot be written."""

    __str__ = __repr__ = refuse  # type: ignore[assignment]


HOSTILE: Final[Mapping[str, Callable[[], Any]]] = {
    "object": Hostile,
    "int": lambda: HostileNumber(3),
    "float": lambda: HostileFloat(1.5),
    "time": lambda: datetime(2026, 1, 23, tzinfo=HostileZone()),
    "mapping": HostileMapping,
    "enum": lambda: Colour.HOSTILE,
    "uuid": lambda: HostileId(int=1),
}
"""How to make one of each; pytest itself would trip over the values."""
