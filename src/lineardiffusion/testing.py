"""A check for people who write operators, `ld.testing.check_operator(MyOperator(...))`: is it linear, is its transpose
its transpose, and is it pure?"""

from __future__ import annotations

import torch
from torch import Tensor

from lineardiffusion.operators.base import LinearOperator

# Errors are measured against the sizes of what is compared; float32 weights inside an operator cost 1e-6 or so, a wrong
# formula costs of the order of one.
_TOLERANCE = 1e-4


def check_operator(operator: LinearOperator, seed: int = 0) -> None:
    r"""Raise unless `operator` behaves as a linear operator, on random float64 vectors.

    Checked are the shapes of `apply` and `transpose`; linearity, M(αx + z) = αMx + Mz; that samples of a batch do not
    influence each other; that the same input gives the same output and is left unchanged; the adjoint identity
    ⟨Mx, y⟩ = ⟨x, Mᵀy⟩; and that `norm` bounds ‖Mx‖/‖x‖.

    Arguments:
        operator: the operator.
        seed: of the random vectors.

    Raises:
        ValueError: with the property that fails, and by how much.

    Example:
        >>> import lineardiffusion as ld
        >>> ld.testing.check_operator(ld.Resize((1, 8), 4))
        >>> class Shift(ld.LinearOperator):
        ...     def apply(self, x):
        ...         return x + 1
        >>> ld.testing.check_operator(Shift((3,), (3,)))
        Traceback (most recent call last):
        ValueError: Shift is not linear: M 0 has the norm 1.73, expected 0
    """
    name = type(operator).__name__
    generator = torch.Generator().manual_seed(seed)

    def vectors(event: tuple[int, ...]) -> Tensor:
        return torch.randn(3, *event, generator=generator, dtype=torch.float64)

    zero = operator(torch.zeros(1, *operator.in_shape, dtype=torch.float64)).norm()
    if zero > 0:
        raise ValueError(f"{name} is not linear: M 0 has the norm {float(zero):.3g}, expected 0")

    x, z, y = vectors(operator.in_shape), vectors(operator.in_shape), vectors(operator.out_shape)
    before = x.clone()
    image = operator(x)
    if not torch.equal(x, before):
        raise ValueError(f"{name}.apply changes its argument in place")
    _compare(f"{name} is not pure: two calls with the same x", operator(x), image)
    _compare(f"{name} is not linear: M (2.5 x + z)", operator(2.5 * x + z), 2.5 * image + operator(z))
    _compare(f"{name} mixes the samples of a batch: M x[0]", operator(x[:1]), image[:1])
    _compare(f"{name} does not take several batch dimensions: M x", operator(x[None])[0], image)

    back = operator.transpose(y)
    if back.shape != x.shape:
        raise ValueError(f"{name}.transpose: expected shape {tuple(x.shape)}, got {tuple(back.shape)}")
    left, right = float((image * y).sum()), float((x * back).sum())
    size = float(image.norm() * y.norm()) + 1e-300
    if abs(left - right) > _TOLERANCE * size:
        raise ValueError(f"{name}.transpose is not the adjoint: ⟨M x, y⟩ = {left:.6g}, but ⟨x, Mᵀ y⟩ = {right:.6g}")

    gain = float((image.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).max())
    if gain > operator.norm() * (1 + _TOLERANCE):
        raise ValueError(f"{name}.norm: expected at least ‖M x‖/‖x‖ = {gain:.6g}, got {operator.norm():.6g}")


def _compare(what: str, result: Tensor, expected: Tensor) -> None:
    error = float((result - expected).norm() / (expected.norm() + 1e-300))
    if not error <= _TOLERANCE:
        raise ValueError(f"{what} has a relative difference of {error:.3g}, expected at most {_TOLERANCE}")
