"""What a computation costs, in what can be counted. The "meta" device stands in for an accelerator: it has no values,
so that whatever would wait for one (`item`, `tolist`, `bool`, `numpy`) raises."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Operations(TorchDispatchMode):
    """Sees all that is done within it.

    Attributes:
        names: of the operations, views left out.
        elsewhere: name and shape of each tensor that is made on the CPU, or moved from there to the meta device. A
            tensor of no dimension is a number, which needs no move unless it is copied.
        waits: those of them that are moved at once, for which a device has to be done with all else (`non_blocking`).
            So are lists that index a tensor, and a number that becomes one of its entries: a GPU has them from the CPU,
            though on the meta device they are made where they are needed.
        doubles: name and shape of each tensor of double precision that is made on the meta device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.elsewhere: list[tuple[str, tuple[int, ...]]] = []
        self.waits: list[tuple[str, tuple[int, ...]]] = []
        self.doubles: list[tuple[str, tuple[int, ...]]] = []
        self._entries = _Entries(self.waits)

    def __enter__(self):
        self._entries.__enter__()
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self._entries.__exit__(*raised)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        made = [part for part in tree_leaves(result) if isinstance(part, torch.Tensor)]
        if made and not func.is_view:
            self.names.append(name)
            taken = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
            arrived = taken if all(part.is_meta for part in made) else []
            copied = name in ("_to_copy", "copy_")
            moved = [(name, tuple(part.shape)) for part in arrived if not part.is_meta and (part.ndim or copied)]
            self.elsewhere += [(name, tuple(part.shape)) for part in made if not part.is_meta] + moved
            self.waits += [] if (kwargs or {}).get("non_blocking") else moved
            wide = [part for part in made if part.is_meta and part.dtype in (torch.float64, torch.complex128)]
            self.doubles += [(name, tuple(part.shape)) for part in wide]
        return result


class _Entries(TorchFunctionMode):
    """Sees what Python gives to entries of tensors on the meta device, and by which lists it asks for them."""

    def __init__(self, waits: list[tuple[str, tuple[int, ...]]]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].is_meta:
            given = [part for part in (args[1] if isinstance(args[1], tuple) else (args[1],)) if isinstance(part, list)]
            given += [part for part in args[2:] if not isinstance(part, torch.Tensor)]
            self._waits += [(func.__name__, tuple(args[0].shape)) for _ in given]
        return func(*args, **(kwargs or {}))
