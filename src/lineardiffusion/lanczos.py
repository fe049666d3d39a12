r"""Functions of a symmetric matrix that is known only through its products with vectors, by Lanczos' method:

    f(A) v ≈ ‖v‖ Q_k f(T_k) e_1

with the Krylov basis Q_k and the tridiagonal T_k of krylov.py.

References:
    | Saad, Analysis of some Krylov subspace approximations to the matrix exponential operator, 1992
    | Chow & Saad, Preconditioned Krylov subspace methods for sampling multivariate Gaussian distributions, 2014
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, overload

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, compute_dtype
from lineardiffusion.krylov import KrylovSpace, converge, krylov_spaces
from lineardiffusion.krylov import LanczosInfo as LanczosInfo
from lineardiffusion.krylov import Matvec as Matvec
from lineardiffusion.krylov import SpectralFunction as SpectralFunction

# Of the functions of MᵀM that an operator of unknown structure computes.
_TOLERANCE, _MAX_ITERATIONS = 1e-6, 100


@overload
def lanczos_function(
    matvec: Matvec,
    v: Tensor,
    f: SpectralFunction,
    *,
    event_ndim: int,
    tol: float = 1e-6,
    max_iterations: int = 100,
    return_info: Literal[False] = False,
) -> Tensor: ...


@overload
def lanczos_function(
    matvec: Matvec,
    v: Tensor,
    f: SpectralFunction,
    *,
    event_ndim: int,
    tol: float = 1e-6,
    max_iterations: int = 100,
    return_info: Literal[True],
) -> tuple[Tensor, LanczosInfo]: ...


def lanczos_function(
    matvec: Matvec,
    v: Tensor,
    f: SpectralFunction,
    *,
    event_ndim: int,
    tol: float = 1e-6,
    max_iterations: int = 100,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, LanczosInfo]:
    r"""f(A) v for a symmetric A given by its products.

    The iteration stops when the estimated relative error of every sample is within `tol`. With d_k the change of the
    result in step k, the error of a sequence that converges at the rate r = d_k / d_{k−1} is d_k r / (1 − r): this is
    the estimate. In single precision it cannot fall far below 1e-7, and neither can the error.

    Arguments:
        matvec: x ↦ A x for x of the shape of v; A symmetric, and one A per sample of the batch at most.
        v: vectors, with shape (*batch, *event). Half precisions are computed in float32.
        f: maps a float64 tensor of eigenvalues to their images, element by element.
        event_ndim: number of trailing dimensions of v that form one vector.
        tol: relative error at which to stop.
        max_iterations: products with A at most; a RuntimeWarning says when they do not suffice.
        return_info: also return a LanczosInfo.

    Returns:
        f(A) v with the shape, dtype and device of v, and with `return_info` the LanczosInfo.

    Raises:
        ValueError: `event_ndim` or `max_iterations` out of range, or `matvec` changes the shape.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> weights = torch.tensor([1.0, 4.0, 9.0])
        >>> ld.lanczos_function(lambda x: weights * x, torch.ones(3), torch.sqrt, event_ndim=1)
        tensor([1.0000, 2.0000, 3.0000])
    """
    norms, spaces = krylov_spaces(matvec, v, event_ndim)
    space, coefficients, info = converge(spaces, f, tol, max_iterations)
    result = (norms[:, None] * space.combine(coefficients)).reshape(v.shape).to(v.dtype)
    if return_info:
        return result, replace(info, error=info.error.reshape(v.shape[: v.ndim - event_ndim]))
    return result


@overload
def lanczos_sqrt(
    matvec: Matvec,
    v: Tensor,
    *,
    event_ndim: int,
    tol: float = 1e-6,
    max_iterations: int = 100,
    return_info: Literal[False] = False,
) -> Tensor: ...


@overload
def lanczos_sqrt(
    matvec: Matvec,
    v: Tensor,
    *,
    event_ndim: int,
    tol: float = 1e-6,
    max_iterations: int = 100,
    return_info: Literal[True],
) -> tuple[Tensor, LanczosInfo]: ...


def lanczos_sqrt(
    matvec: Matvec,
    v: Tensor,
    *,
    event_ndim: int,
    tol: float = 1e-6,
    max_iterations: int = 100,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, LanczosInfo]:
    r"""A^{1/2} v for a symmetric positive semi-definite A: turns white noise v into noise of covariance A.

    Eigenvalues that rounding made negative count as zero; one that is negative beyond rounding is an error.

    Arguments and returns: as in `lanczos_function`.

    Raises:
        ValueError: A has a negative eigenvalue, or an argument is out of range.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> half = ld.lanczos_sqrt(lambda x: x @ covariance, torch.eye(2), event_ndim=1)
        >>> torch.allclose(half @ half, covariance, atol=1e-6)
        True
    """
    rounding = 100 * torch.finfo(compute_dtype(v.dtype)).eps if v.is_floating_point() else 0.0

    def sqrt(values: Tensor) -> Tensor:
        lowest, largest = float(values.detach().min()), float(values.detach().abs().max())
        if lowest < -rounding * largest:
            raise ValueError(
                f"matvec: expected a positive semi-definite matrix, got an eigenvalue ≤ {lowest:.6g} "
                f"beside a largest magnitude of {largest:.6g}"
            )
        return values.clamp(min=0).sqrt()

    if return_info:
        return lanczos_function(
            matvec, v, sqrt, event_ndim=event_ndim, tol=tol, max_iterations=max_iterations, return_info=True
        )
    return lanczos_function(matvec, v, sqrt, event_ndim=event_ndim, tol=tol, max_iterations=max_iterations)


def largest_eigenvalue(
    matvec: Matvec, v: Tensor, *, event_ndim: int, tol: float = 1e-6, max_iterations: int = 200
) -> float:
    """Largest eigenvalue of a symmetric A, from below, by the largest Ritz value of the Krylov space of one vector v.

    The iteration ends when the value grows by less than `tol`, relatively, in two steps in a row.
    """
    _, spaces = krylov_spaces(matvec, v, event_ndim)
    value, still = -math.inf, 0
    for iteration, space in enumerate(spaces, start=1):
        last, value = value, float(torch.linalg.eigvalsh(space.tridiagonal.detach()).max())
        still = still + 1 if value - last <= tol * abs(value) else 0
        if still == 2 or bool(space.exhausted.all()) or iteration == max_iterations:
            break
    return value


def gram_lanczos(
    forward: Matvec, adjoint: Matvec, f: SpectralFunction, x: Tensor, in_shape: Shape, out_shape: Shape
) -> Tensor:
    r"""f(MᵀM) x from the products y = M x (events of `out_shape`) and x = Mᵀ y (of `in_shape`).

    Where f is finite at zero, only the part of x that M sees is left to the iteration,

        f(MᵀM) x = f(0) x + Mᵀ h(MMᵀ) M x,   h(λ) = (f(λ) − f(0)) / λ ,

    with the Krylov space among the rows or the columns of M, whichever are fewer. The rest is exact, also where f jumps
    at zero, which no polynomial does.
    """
    work = x.to(compute_dtype(x.dtype))
    at_zero = _at_zero(f)
    if at_zero is None:
        rounded = _rounded(f, work.dtype)
        return lanczos_function(lambda u: adjoint(forward(u)), work, rounded, event_ndim=len(in_shape)).to(x.dtype)

    def slope(values: Tensor) -> Tensor:
        return torch.where(values > 0, (f(values) - at_zero) / torch.where(values > 0, values, 1), 0)

    y, rounded = forward(work), _rounded(slope, work.dtype)
    if math.prod(out_shape) <= math.prod(in_shape):
        seen = _through_rows(forward, adjoint, rounded, y, len(out_shape), beside=(at_zero, work))
    else:
        seen = lanczos_function(lambda u: adjoint(forward(u)), adjoint(y), rounded, event_ndim=len(in_shape))
    return (at_zero * work + seen).to(x.dtype)


def adjoint_lanczos(
    forward: Matvec, adjoint: Matvec, g: SpectralFunction, y: Tensor, in_shape: Shape, out_shape: Shape
) -> Tensor:
    r"""Mᵀ g(MMᵀ) y = g(MᵀM) Mᵀ y, with the Krylov space among the rows or the columns of M, whichever are fewer."""
    work = y.to(compute_dtype(y.dtype))
    rounded = _rounded(g, work.dtype)
    if math.prod(out_shape) < math.prod(in_shape):
        return _through_rows(forward, adjoint, rounded, work, len(out_shape)).to(y.dtype)
    x = adjoint(work)
    return lanczos_function(lambda u: adjoint(forward(u)), x, rounded, event_ndim=len(in_shape)).to(y.dtype)


def _through_rows(
    forward: Matvec,
    adjoint: Matvec,
    g: SpectralFunction,
    y: Tensor,
    event_ndim: int,
    beside: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mᵀ g(MMᵀ) y by Krylov spaces of MMᵀ; with beside = (o, x) and y = M x, to a tolerance relative to o x + this."""
    norms, spaces = krylov_spaces(lambda u: forward(adjoint(u)), y, event_ndim)
    scale, o = torch.zeros(()), torch.zeros(())
    if beside is not None:
        o, x = beside
        lengths = torch.linalg.vector_norm(x.reshape(len(norms), -1), dim=-1)
        scale = (lengths / norms.clamp(min=torch.finfo(norms.dtype).tiny)).double().cpu()

    # In units of ‖y‖: |Mᵀ Q c|² = cᵀ T c, and ⟨x, Mᵀ Q c⟩ = ⟨M x, Q c⟩ = c_1.
    def part(space: KrylovSpace, c: Tensor) -> Tensor:
        return (c * torch.bmm(space.tridiagonal, c[..., None])[..., 0]).sum(-1).clamp(min=0).sqrt()

    def whole(space: KrylovSpace, c: Tensor) -> Tensor:
        return ((o * scale).square() + 2 * o * c[:, 0] + part(space, c).square()).clamp(min=0).sqrt()

    space, coefficients, _ = converge(spaces, g, _TOLERANCE, _MAX_ITERATIONS, part, whole)
    return adjoint((norms[:, None] * space.combine(coefficients)).reshape(y.shape))


def _at_zero(f: SpectralFunction) -> Tensor | None:
    """f(0), or None where f has no finite value there or refuses, as the inverse of a covariance does."""
    try:
        value = f(torch.zeros((), dtype=torch.float64))
    except ValueError:
        return None
    return value if bool(value.isfinite()) else None


def _rounded(f: SpectralFunction, dtype: torch.dtype) -> SpectralFunction:
    """f, with eigenvalues of a Gram matrix that are zero (or negative) within the rounding of `dtype` taken as zero."""
    cutoff = 10 * torch.finfo(dtype).eps

    def function(values: Tensor) -> Tensor:
        return f(torch.where(values > cutoff * values.amax(-1, keepdim=True), values, 0))

    return function
