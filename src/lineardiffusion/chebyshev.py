r"""Functions of MᵀM by Chebyshev polynomials, where the largest eigenvalue is known and the function is smooth:

    f(A) v ≈ Σ_k c_k T_k(2A/λmax − I) v

The error is known before the first product, ‖v‖ Σ_{k ≥ m} |c_k| for m terms; the result is linear in v, needs nothing
to be waited for, and no basis to keep and to orthogonalise. Lanczos' method needs fewer products, about two thirds, but
takes longer wherever a product costs less than its own work. √(1 − ρλ) takes 7, 15, 41 and 113 terms to 1e-6 at
ρλmax = 0.5, 0.9, 0.99 and 0.999.

References:
    | Trefethen, Approximation Theory and Approximation Practice, 2013
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, compute_dtype
from lineardiffusion.krylov import Matvec, SpectralFunction

_NODES = 512
_MAX_TERMS = 128


def gram_chebyshev(
    forward: Matvec,
    pullback: Callable[[], Matvec],
    f: SpectralFunction,
    x: Tensor,
    in_shape: Shape,
    out_shape: Shape,
    largest: float,
    tol: float,
) -> Tensor | None:
    r"""f(MᵀM) x to an error of tol ‖x‖ max|f|, from the products y = M x (events of `out_shape`) and x = Mᵀ y (of
    `in_shape`; by the function that `pullback` makes, where it is needed) and a bound `largest` of the eigenvalues;
    None where that takes more than 128 terms.

    Where M has fewer rows than columns, f(MᵀM) x = f(0) x + Mᵀ h(MMᵀ) M x with h(λ) = (f(λ) − f(0))/λ.
    """
    work = x.to(compute_dtype(x.dtype))
    if math.prod(out_shape) >= math.prod(in_shape):
        coefficients = chebyshev_coefficients(f, largest, tol)
        if coefficients is None:
            return None
        adjoint = pullback()
        return _polynomial(lambda u: adjoint(forward(u)), work, coefficients, largest).to(x.dtype)
    at_zero = f(torch.zeros((), dtype=torch.float64))

    def seen(values: Tensor) -> Tensor:  # λmax h, as large as f
        return largest * (f(values) - at_zero) / values

    coefficients = chebyshev_coefficients(seen, largest, tol)
    if coefficients is None:
        return None
    adjoint = pullback()
    inner = _polynomial(lambda u: forward(adjoint(u)), forward(work), coefficients, largest)
    return (float(at_zero) * work + adjoint(inner / largest)).to(x.dtype)


def chebyshev_coefficients(f: SpectralFunction, largest: float, tol: float) -> list[float] | None:
    """c_0, c_1, … of f on [0, largest], as few as leave an error of at most tol max|f|; None where more than 128 do."""
    nodes, transform = _transform()
    images = f(largest * (1 + nodes) / 2)
    if not bool(images.isfinite().all()):
        return None
    coefficients = transform @ images
    left = coefficients.abs().flip(0).cumsum(0).flip(0)  # by all from one on
    terms = int((left > tol * images.abs().max()).sum())
    return None if terms > _MAX_TERMS else [float(c) for c in coefficients[: max(1, terms)]]


@lru_cache(maxsize=1)
def _transform() -> tuple[Tensor, Tensor]:
    """The Chebyshev nodes in (−1, 1), and the matrix from values there to coefficients, (k, node)."""
    angles = math.pi * (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES
    matrix = 2 / _NODES * torch.cos(torch.arange(_NODES, dtype=torch.float64)[:, None] * angles)
    matrix[0] /= 2
    return angles.cos(), matrix


def _polynomial(matvec: Matvec, v: Tensor, coefficients: list[float], largest: float) -> Tensor:
    """Σ_k c_k T_k(2A/largest − I) v by the recurrence T_{k+1}(x) = 2x T_k(x) − T_{k−1}(x)."""
    before, now = v, v
    result = coefficients[0] * v
    for k, coefficient in enumerate(coefficients[1:], start=1):
        shifted = torch.add(-now, matvec(now), alpha=2 / largest)
        before, now = now, shifted if k == 1 else torch.add(-before, shifted, alpha=2)
        result = torch.add(result, now, alpha=coefficient)
    return result
