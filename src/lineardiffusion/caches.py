"""Caches that are bounded in bytes: what is not asked for any more goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")

# Of every value, beside what its size says: the objects that it is made of, about.
_OBJECTS = 2**13


class BoundedCache(Generic[Value]):
    """Values by key, the least recently used of which are dropped beyond a number of bytes; one is always kept.

    Copies and pickles are empty.

    Arguments:
        limit: in bytes.
        size: bytes of the numbers of a value, as far as they count; 8 KiB are added for its objects.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self.limit, self._size = limit, size
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._bytes = 0

    def find(self, key: Hashable) -> Value | None:
        """The value of a key, if there is one."""
        entry = self._values.get(key)
        if entry is None:
            return None
        self._values.move_to_end(key)
        return entry[0]

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made where there is none."""
        known = self.find(key)
        if known is not None:
            return known
        value = make()
        size = _OBJECTS + self._size(value)
        self._values[key] = value, size
        self._bytes += size
        while self._bytes > self.limit and len(self._values) > 1:
            self._bytes -= self._values.popitem(last=False)[1][1]
        return value

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit, self._size)
