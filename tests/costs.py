"""What a computation costs, in what can be counted. The "meta" device stands in for an accelerator: it has no values, so
that whatever would wait for one (`item`, `tolist`, `bool`, `numpy`) raises."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Operations(TorchDispatchMode):
    """Sees all that is done within it.

    Attributes:
        names: of the operations, views left out.
        elsewhere: name and shape of each tensor that is made on the CPU, or moved from there to the meta device. A
            tensor of no dimension is a number, which needs no move.
        doubles: names of the operations that make a tensor of double precision on the meta device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.elsewhere: list[tuple[str, tuple[int, ...]]] = []
        self.doubles: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        made = [part for part in tree_leaves(result) if isinstance(part, torch.Tensor)]
        if made and not func.is_view:
            self.names.append(name)
            taken = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
            moved = taken if all(part.is_meta for part in made) else []
            self.elsewhere += [(name, tuple(part.shape)) for part in made if not part.is_meta]
            self.elsewhere += [(name, tuple(part.shape)) for part in moved if not part.is_meta and part.ndim]
            wide = any(part.is_meta and part.dtype in (torch.float64, torch.complex128) for part in made)
            self.doubles += [name] * wide
        return result
