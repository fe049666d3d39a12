"""How much memory an operator holds."""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from torch import Tensor

from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Basis
from lineardiffusion.operators.multipliers import Casts, Multiplier

_LOOKED_INTO = (LinearOperator, Basis, Casts, Multiplier, torch.nn.Module)


def parts_of(value: object, apart: Container[int] = ()) -> Iterator[object]:
    """The operators, tensors and so on that a value is made of, caches included, each once; without those whose
    identities are in `apart`, and what they are made of."""
    left: list[object] = [value]
    seen: set[int] = set()
    while left:
        part = left.pop()
        if id(part) in seen or id(part) in apart:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, (list, tuple)):
            left.extend(part)
        elif isinstance(part, dict):
            left.extend(part.values())
        elif isinstance(part, _LOOKED_INTO):
            left.extend(vars(part).values())


def held_bytes(value: object, apart: Container[int] = ()) -> int:
    """Bytes of the tensors among the parts of a value."""
    tensors = (part for part in parts_of(value, apart) if isinstance(part, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
