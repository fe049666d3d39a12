r"""Weights of coordinates, and the sums of what they multiply: x ↦ Σ_i b_i ∘ x_i + V Σ_i w_i ∘ A_i x_i.

They are made in float64 on the CPU, once, and kept in the precision and on the device of what they multiply: after the
first vector nothing is cast, moved or waited for. A single weight is a Python number, which no device has to fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]

# Precisions and devices in which a tensor is kept.
_KEPT = 4


class Casts:
    """A constant tensor wherever it is needed: cast once for each precision and device, for the last few of them."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._kept: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, like: Tensor) -> Tensor:
        key = like.dtype, like.device
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            with torch.inference_mode(False):  # what is kept may be needed for gradients later
                self._kept[key] = cast(self._values, like)
        return self._kept[key]

    def __getstate__(self) -> dict[str, object]:
        return {"_values": self._values, "_kept": {}}


class Multiplier:
    """z ↦ w ∘ z for constant weights w."""

    def __init__(self, weights: Tensor) -> None:
        # A graph that is being compiled cannot hold a number made from a tensor.
        single = weights.ndim == 0 and not torch.compiler.is_compiling()
        self.number = float(weights.real) if single else None
        self._casts = Casts(weights)

    def on(self, like: Tensor) -> Tensor:
        """w where a tensor is and in its precision; a single weight is on the CPU."""
        return self._casts(like)

    def __call__(self, z: Tensor) -> Tensor:
        if self.number is not None:
            return z if self.number == 1 else self.number * z
        return self._casts(z) * z

    def into(self, z: Tensor) -> Tensor:
        """w ∘ z, in the place of z."""
        return z.mul_(self._casts(z) if self.number is None else self.number)

    def onto_(self, total: Tensor, z: Tensor) -> Tensor:
        """total + w ∘ z, in the place of total."""
        if self.number is not None:
            return total.add_(z, alpha=self.number)
        return total.addcmul_(self._casts(z), z)

    def onto(self, total: Tensor, z: Tensor) -> Tensor:
        """total + w ∘ z, in one pass."""
        if self.number is not None:
            return torch.add(total, z, alpha=self.number)
        weights = self._casts(z)
        return total + weights * z if weights.ndim == 0 else torch.addcmul(total, weights, z)


class Term(NamedTuple):
    """b ∘ x + V (w ∘ A x) for one of the vectors of a combination; None for 0."""

    beside: Multiplier | None
    inside: Multiplier | None
    analyse: Change


def combination(terms: Sequence[Term], synthesise: Change) -> Callable[[Sequence[Tensor], Tensor | None], Tensor]:
    """(x_1, x_2, …), onto ↦ onto + Σ_i b_i ∘ x_i + V Σ_i w_i ∘ A_i x_i: one synthesis V for all of them."""

    def function(vectors: Sequence[Tensor], onto: Tensor | None = None) -> Tensor:
        total, coordinates = onto, None
        # In place where memory is new, and no graph needs what was there.
        total_is_new, coordinates_are_new, in_place = False, False, not torch.is_grad_enabled()
        for (beside, inside, analyse), x in zip(terms, vectors, strict=True):
            if beside is not None:
                if total is None:
                    total = beside(x)
                    total_is_new = total is not x
                else:
                    total = beside.onto_(total, x) if in_place and total_is_new else beside.onto(total, x)
                    total_is_new = True
            if inside is not None:
                z = analyse(x)
                if coordinates is None:
                    coordinates = inside.into(z) if in_place and z is not x else inside(z)
                    coordinates_are_new = coordinates is not x
                elif in_place and coordinates_are_new:
                    coordinates = inside.onto_(coordinates, z)
                else:
                    coordinates, coordinates_are_new = inside.onto(coordinates, z), True
        if coordinates is None:
            return torch.zeros_like(vectors[0]) if total is None else total
        result = synthesise(coordinates)
        return result if total is None else total + result

    return function


def unless_zero(weights: Tensor) -> Multiplier | None:
    """A multiplier, or None where it is known that all it gives is zero."""
    return Multiplier(weights) if torch.compiler.is_compiling() or bool(weights.any()) else None


def cast(values: Tensor, like: Tensor) -> Tensor:
    """Values where `like` is and in its precision; real and complex values stay so, and 0-dim ones stay on the CPU."""
    real = like.real.dtype if like.is_complex() else like.dtype
    dtype = real.to_complex() if values.is_complex() else real
    # First the precision: there are devices without float64.
    return values.to(dtype) if values.ndim == 0 else values.to(dtype).to(like.device)
