"""Bars over long work, where tqdm is installed."""

from __future__ import annotations

from typing import Any


def bar_kind(shown: bool) -> Any:
    """tqdm, or None where no bar is to be shown or none can be."""
    if not shown:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
