"""Images that cannot be read: how many of them a run puts up with."""

from __future__ import annotations

import warnings


class FaultLimit:
    """Warns of each unreadable file once, and stops when there are too many."""

    def __init__(self, limit: int) -> None:
        self._limit, self._seen = limit, set[str]()

    def check(self, faults: list[str]) -> None:
        """
        Raises:
            ValueError: more unreadable files than the limit.
        """
        for fault in faults:
            if fault not in self._seen:
                self._seen.add(fault)
                warnings.warn(f"skipped an image that cannot be read: {fault}", stacklevel=3)
        if len(self._seen) > self._limit:
            listed = "\n".join(f"    {fault}" for fault in sorted(self._seen))
            raise ValueError(f"{len(self._seen)} images cannot be read, data.max_corrupt is {self._limit}:\n{listed}")
