"""Filters whose result is a smaller image: what is left of an image that has lost, or is to lose, its detail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_constant, check_kind
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Basis, first, padded
from lineardiffusion.operators.factored import FactoredOperator
from lineardiffusion.operators.orthogonal import Truncation
from lineardiffusion.operators.rules import rule
from lineardiffusion.operators.spectral import SpectralFilter


class TruncatedFilter(FactoredOperator):
    r"""M = V_small diag(gain) P Vᵀ: `ld.Truncation` with a gain for each coordinate that is kept.

    Arguments:
        basis: V, one of `ld.bases` that has smaller ones.
        shape: event shape of the smaller image.
        gain: real constant multipliers, broadcastable to the coordinates of the smaller image.

    Raises:
        ValueError: a basis that has no such smaller one, or a gain that does not fit, is not finite or is being
            learned.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> half = ld.TruncatedFilter(ld.bases.Haar((1, 4)), (1, 2), torch.tensor([0.5, 1.0]))
        >>> half(torch.tensor([[1.0, 1.0, 2.0, 2.0]])).round(decimals=4)
        tensor([[0.7071, 2.8284]])
    """

    def __init__(self, basis: Basis, shape: Sequence[int], gain: Tensor) -> None:
        check_kind(basis, Basis, "basis", "one of ld.bases, such as bases.Haar(shape)")
        self.basis, self.small = basis, basis.smaller(shape)
        super().__init__(basis.shape, self.small.shape)
        self.gain = as_constant(gain, "gain")
        try:
            self.gain.broadcast_to(self.small.coordinates)
        except RuntimeError:
            raise ValueError(
                f"gain: expected a shape that broadcasts to {self.small.coordinates}, got {tuple(gain.shape)}"
            ) from None

    def spectrum(self) -> Tensor:
        return self.gain

    @property
    def coordinates(self) -> Shape:
        return self.small.coordinates

    def bases(self) -> tuple[Basis, Basis]:
        return self.small, self.basis

    def _to_right(self, x: Tensor) -> Tensor:
        return first(self.basis.analyse(x), self.small.coordinates)

    def _from_right(self, z: Tensor) -> Tensor:
        return self.basis.synthesise(padded(z, self.basis.coordinates))

    def _to_left(self, y: Tensor) -> Tensor:
        return self.small.analyse(y)

    def _from_left(self, z: Tensor) -> Tensor:
        return self.small.synthesise(z)


@rule("scale", TruncatedFilter)
def _scale(operator: TruncatedFilter, scale: float) -> LinearOperator | None:
    # A multiple of 0 keeps its signs as Scaled.
    return TruncatedFilter(operator.basis, operator.out_shape, scale * operator.gain) if scale else None


class _Parts(NamedTuple):
    """Of V_small diag(gain) P Vᵀ."""

    basis: Basis
    small: Basis
    gain: Tensor


def _parts(operator: LinearOperator) -> _Parts:
    if isinstance(operator, SpectralFilter):
        return _Parts(operator.transform, operator.transform, operator.gain)
    assert isinstance(operator, (Truncation, TruncatedFilter))
    gain = operator.gain if isinstance(operator, TruncatedFilter) else torch.ones((), dtype=torch.float64)
    return _Parts(operator.basis, operator.small, gain)


@rule("product", SpectralFilter, Truncation)
@rule("product", Truncation, SpectralFilter)
@rule("product", SpectralFilter, TruncatedFilter)
@rule("product", TruncatedFilter, SpectralFilter)
@rule("product", Truncation, TruncatedFilter)
@rule("product", TruncatedFilter, Truncation)
@rule("product", TruncatedFilter, TruncatedFilter)
def _product(left: LinearOperator, right: LinearOperator) -> LinearOperator | None:
    after, before = _parts(left), _parts(right)
    if after.basis != before.small:
        return None
    kept = first(before.gain.broadcast_to(before.small.coordinates), after.small.coordinates)
    return TruncatedFilter(before.basis, left.out_shape, after.gain * kept)
