r"""Singular value decompositions M = U diag(s) Vᵀ as operators, by structure: nothing is factorised for the purpose."""

from __future__ import annotations

import torch
from torch import Tensor

from lineardiffusion._checks import check_event, compute_dtype
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Fourier
from lineardiffusion.operators.blocks import BlockDiagonal, ChannelMix
from lineardiffusion.operators.composed import Transposed
from lineardiffusion.operators.convolution import Convolution
from lineardiffusion.operators.dense import Matrix
from lineardiffusion.operators.factored import FactoredOperator, direction
from lineardiffusion.operators.multipliers import Multiplier
from lineardiffusion.operators.orthogonal import OrthogonalRows
from lineardiffusion.operators.rules import rule
from lineardiffusion.operators.scalar import Identity, Scaled
from lineardiffusion.operators.spectral import SpectralFilter

Decomposition = tuple[LinearOperator, Tensor, LinearOperator]


class _RightCoordinates(OrthogonalRows):
    """Vᵀ of M = U S Vᵀ."""

    def __init__(self, operator: FactoredOperator) -> None:
        super().__init__(operator.in_shape, operator.coordinates, squared_norm=1.0)
        self.operator = operator

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        return self.operator._to_right(x.to(compute_dtype(x.dtype))).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        return self.operator._from_right(y.to(compute_dtype(y.dtype))).to(y.dtype)


class _LeftCoordinates(OrthogonalRows):
    """(U diag(S/|S|))ᵀ of M = U S Vᵀ: singular values have no signs."""

    def __init__(self, operator: FactoredOperator) -> None:
        super().__init__(operator.out_shape, operator.coordinates, squared_norm=1.0)
        self.operator, self._signs = operator, Multiplier(direction(operator.spectrum()))

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        return self._signs(self.operator._to_left(x.to(compute_dtype(x.dtype)))).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        return self.operator._from_left(self._signs(y.to(compute_dtype(y.dtype)))).to(y.dtype)


class _Hartley(OrthogonalRows):
    """The real transform Re F − Im F, orthonormal and its own inverse. It diagonalises every circular MᵀM, which is the
    same number, |gain[k]|² = |gain[−k]|², on the plane that the vectors of k and −k span in both bases."""

    def __init__(self, basis: Fourier) -> None:
        super().__init__(basis.shape, basis.shape, squared_norm=1.0)
        self.basis = basis

    def apply(self, x: Tensor) -> Tensor:
        z = self.basis.analyse(x)
        return (z.real - z.imag).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        return self.apply(y)


@rule("svd", LinearOperator)
def _dense(operator: LinearOperator) -> Decomposition:
    operator._check_small("svd")
    return Matrix(operator.to_dense().detach(), operator.in_shape, operator.out_shape).svd()


@rule("svd", FactoredOperator)
def _factored(operator: FactoredOperator) -> Decomposition:
    s = operator.spectrum().abs().broadcast_to(operator.coordinates)
    return _LeftCoordinates(operator).T, s, _RightCoordinates(operator)


@rule("svd", Identity)
def _identity(operator: Identity) -> Decomposition:
    return operator, torch.ones(operator.in_shape, dtype=torch.float64), operator


@rule("svd", SpectralFilter)
def _filter(operator: SpectralFilter) -> Decomposition | None:
    if not isinstance(operator.transform, Fourier):
        return None
    hartley = _Hartley(operator.transform)
    s = operator.gain.abs().broadcast_to(operator.in_shape)
    return operator.with_gain(direction(operator.gain)) @ hartley, s, hartley


@rule("svd", Convolution)
def _convolution(operator: Convolution) -> Decomposition:
    return operator.structure.svd()


@rule("svd", OrthogonalRows)
def _orthogonal_rows(operator: OrthogonalRows) -> Decomposition:
    s = torch.full(operator.out_shape, operator.norm(), dtype=torch.float64)
    return Identity(operator.out_shape), s, (1 / operator.norm()) * operator


@rule("svd", Scaled)
def _scaled(operator: Scaled) -> Decomposition:
    u, s, vt = operator.operator.svd()
    return (u if operator.scale >= 0 else -u), abs(operator.scale) * s, vt


@rule("svd", Transposed)
def _transposed(operator: Transposed) -> Decomposition:
    u, s, vt = operator.operator.svd()
    return vt.T, s, u.T


@rule("svd", BlockDiagonal)
def _blocks(operator: BlockDiagonal) -> Decomposition:
    parts = [block.svd() for block in operator.blocks]
    shapes = {tuple(s.shape) for _, s, _ in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"svd: expected blocks whose coordinates have one shape, got {sorted(shapes)}; decompose each of "
            f"operator.blocks"
        )
    u, s, vt = zip(*parts, strict=True)
    return BlockDiagonal(u), torch.stack(s), BlockDiagonal(vt)


@rule("svd", ChannelMix)
def _channel_mix(operator: ChannelMix) -> Decomposition:
    u, s, vt = operator.operator.svd()
    left, singular, right = torch.linalg.svd(operator.weight, full_matrices=False)
    both = singular.reshape(-1, *[1] * s.ndim) * s
    return ChannelMix(left, u), both, ChannelMix(right, vt)
