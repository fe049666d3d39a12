"""Where the noise of samples comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, as_list, device_of, draw_noise
from lineardiffusion.residual import Noise


class Draws(NamedTuple):
    """The noise of a step: each makes standard normal noise like a tensor.

    Attributes:
        kernel: the noise of x_s.
        other: what else is drawn.
    """

    kernel: Noise
    other: Noise


class Source(Protocol):
    """Noise, and choices, for all samples."""

    def __call__(self, like: Tensor, /) -> Tensor: ...

    def choose(self, count: int) -> Tensor:
        """One of 0, …, count − 1 for each sample."""
        ...


class _Seeded:
    """A generator for each sample, on the CPU whatever the device, so that a seed means the same sample everywhere."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [
            torch.Generator().manual_seed(as_index(seed, -(2**63), 2**64 - 1, "seeds")) for seed in seeds
        ]

    def __call__(self, like: Tensor) -> Tensor:
        rows = [torch.randn(like.shape[1:], generator=g, dtype=torch.float32) for g in self.generators]
        return torch.stack(rows).to(like)

    def choose(self, count: int) -> Tensor:
        return torch.cat([torch.randint(count, (1,), generator=g) for g in self.generators])


class _Generated:
    """One generator for all samples."""

    def __init__(self, n: int, generator: torch.Generator | None) -> None:
        self.n, self.generator = n, generator

    def __call__(self, like: Tensor) -> Tensor:
        return draw_noise(like, None, self.generator)

    def choose(self, count: int) -> Tensor:
        device = device_of(self.generator)
        return torch.randint(count, (self.n,), generator=self.generator, device=device)


def noise_source(n: int, seeds: Sequence[int] | None, generator: torch.Generator | None) -> Source:
    """The noise of n samples: a generator for each seed, or one for all, by default the global one.

    Raises:
        TypeError: seeds that are no sequence of integers.
        ValueError: another number of seeds, or a generator beside them.
    """
    device_of(generator)
    if seeds is None:
        return _Generated(n, generator)
    if generator is not None:
        raise ValueError("seeds, generator: expected at most one of them, got both")
    given = as_list(seeds, "seeds", f"a sequence, one for each sample, such as range({n})")
    if len(given) != n:
        raise ValueError(f"seeds: expected one for each of {n} samples, got {len(given)}")
    return _Seeded(given)
