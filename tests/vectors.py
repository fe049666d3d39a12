"""Numbers that others' code produced: how tests read and compare them."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def load(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a file."""
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def relative_error(result: Tensor, expected: Tensor) -> float:
    """‖result − expected‖ / ‖expected‖"""
    return float((result - expected).norm() / expected.norm())
