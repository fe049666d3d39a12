"""Filters whose result is a smaller image: what is left of an image that has lost, or is to lose, its detail."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from lineardiffusion._checks import Shape, as_constant
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Basis, first
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
        self.basis, self.small = basis, basis.smaller(shape)
        super().__init__(basis.shape, self.small.shape)
        self.gain = as_constant(gain, "gain")
        try:
            self.gain.broadcast_to(self.small.coordinates)
        except RuntimeError:
            raise ValueError(
                f"gain: expected a shape that broadcasts to {self.small.coordinates}, got {tuple(gain.shape)}"
            ) from None
        missing = [n - m for n, m in zip(basis.coordinates, self.small.coordinates, strict=True)]
        self._margins = [margin for n in reversed(missing) for margin in (0, n)]

    def with_gain(self, gain: Tensor) -> TruncatedFilter:
        """One of the same basis with another gain, float64 and known to be sound."""
        result = copy.copy(self)
        result.gain = gain
        return result

    def spectrum(self) -> Tensor:
        return self.gain

    @property
    def coordinates(self) -> Shape:
        return self.small.coordinates

    def _to_right(self, x: Tensor) -> Tensor:
        return first(self.basis.analyse(x), self.small.coordinates)

    def _from_right(self, z: Tensor) -> Tensor:
        return self.basis.synthesise(F.pad(z, self._margins))

    def _to_left(self, y: Tensor) -> Tensor:
        return self.small.analyse(y)

    def _from_left(self, z: Tensor) -> Tensor:
        return self.small.synthesise(z)


@rule("scale", TruncatedFilter)
def _scale(operator: TruncatedFilter, scale: float) -> LinearOperator | None:
    return operator.with_gain(scale * operator.gain) if scale else None  # a multiple of 0 keeps its signs as Scaled


@rule("product", SpectralFilter, TruncatedFilter)
def _filtered(left: SpectralFilter, right: TruncatedFilter) -> LinearOperator | None:
    return right.with_gain(left.gain * right.gain) if left.transform == right.small else None


@rule("product", SpectralFilter, Truncation)
def _filtered_truncation(left: SpectralFilter, right: Truncation) -> LinearOperator | None:
    same = left.transform == right.small and not left.gain.is_complex()
    return TruncatedFilter(right.basis, right.out_shape, left.gain) if same else None


@rule("product", TruncatedFilter, TruncatedFilter)
def _product(left: TruncatedFilter, right: TruncatedFilter) -> LinearOperator | None:
    if left.basis != right.small:
        return None
    kept = first(right.gain.broadcast_to(right.coordinates), left.coordinates)
    return TruncatedFilter(right.basis, left.out_shape, left.gain * kept)


@rule("product", TruncatedFilter, SpectralFilter)
def _of_filtered(left: TruncatedFilter, right: SpectralFilter) -> LinearOperator | None:
    if left.basis != right.transform:
        return None
    kept = first(right.gain.broadcast_to(right.coordinates), left.coordinates)
    return left.with_gain(left.gain * kept)
