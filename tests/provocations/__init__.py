"""Wrong inputs to the public API, by area, and what the message of each has to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Provocation(NamedTuple):
    """A call, the error it has to raise, and what the message says: which argument, what was expected, what came, and
    where there is a remedy that."""

    call: Callable[[], Any]
    error: type[Exception]
    argument: str
    expected: str
    got: str
    remedy: str = ""

    def check(self, message: str) -> None:
        """Raise unless the message reads "argument: expected …, got …", with all that it has to say in this order."""
        assert message.startswith(f"{self.argument}: expected "), message
        place = len(self.argument) + len(": expected ")
        for part in (self.expected, "got ", self.got, self.remedy):
            found = message.find(part, place)
            assert found >= 0, f"{part!r} is missing in {message!r}"
            place = found + len(part)
