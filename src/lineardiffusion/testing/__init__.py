"""A kit for people who write operators and processes.

`check_operator` and `check_process` raise with what is wrong and by how much; `Opaque` hides the structure of an
operator; `strategies` (which needs hypothesis) draws shapes, schedules, operators and processes for property tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lineardiffusion.testing.operators import Opaque as Opaque
from lineardiffusion.testing.operators import check_operator as check_operator
from lineardiffusion.testing.processes import check_process as check_process


def __getattr__(name: str) -> Any:
    if name == "strategies":  # hypothesis is imported for those who ask for it only
        return import_module("lineardiffusion.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
