"""Randomness that is a function of its keys."""

from __future__ import annotations

import hashlib

import torch

from lineardiffusion._checks import check_kind


def keyed_generator(*keys: int | str) -> torch.Generator:
    """A CPU generator seeded by all the keys, in their order.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> draws = [torch.rand((), generator=ld.training.keyed_generator(0, "flip", 7)) for _ in range(2)]
        >>> bool(draws[0] == draws[1])
        True
    """
    for key in keys:
        check_kind(key, (int, str), "keys", "ints and strings")
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
