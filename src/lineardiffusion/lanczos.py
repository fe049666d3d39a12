r"""Functions of a symmetric matrix that is known only through its products with vectors, by Lanczos' method:

    f(A) v ≈ ‖v‖ Q_k f(T_k) e_1

with the Krylov basis Q_k and the tridiagonal T_k of krylov.py. convergence.py says when the iteration ends and what its
error is, matrix_function.py what its gradients are.

References:
    | Saad, Analysis of some Krylov subspace approximations to the matrix exponential operator, 1992
    | Chow & Saad, Preconditioned Krylov subspace methods for sampling multivariate Gaussian distributions, 2014
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from lineardiffusion._checks import (
    Shape,
    as_flag,
    check_function,
    check_real,
    check_tensor,
    compute_dtype,
    images_under,
)
from lineardiffusion.convergence import LanczosInfo, Measure, resolve_options
from lineardiffusion.krylov import Matvec, SpectralFunction, krylov_spaces
from lineardiffusion.matrix_function import apply_function


@overload
def lanczos_function(
    matvec: Matvec,
    v: Tensor,
    f: SpectralFunction,
    *,
    event_ndim: int,
    tol: float | None = None,
    max_iterations: int | None = None,
    return_info: Literal[False] = False,
) -> Tensor: ...


@overload
def lanczos_function(
    matvec: Matvec,
    v: Tensor,
    f: SpectralFunction,
    *,
    event_ndim: int,
    tol: float | None = None,
    max_iterations: int | None = None,
    return_info: Literal[True],
) -> tuple[Tensor, LanczosInfo]: ...


def lanczos_function(
    matvec: Matvec,
    v: Tensor,
    f: SpectralFunction,
    *,
    event_ndim: int,
    tol: float | None = None,
    max_iterations: int | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, LanczosInfo]:
    r"""f(A) v for a symmetric A given by its products.

    The iteration stops when the error of every sample, relative to max(‖y‖, 1e-3 ‖v‖ max|f|) with y = f(A) v, is
    stated to be within `tol`, or to be that of rounding. The statement was found to hold, to a factor of three, in all
    but 0.1 % of 5000 problems of many kinds (benchmarks/lanczos.py).

    Differentiable in v, and in the parameters of `matvec` and f: exactly so as to the formulas, and as precisely as the
    result itself.

    Arguments:
        matvec: x ↦ A x for x of the shape of v; A symmetric, and one A per sample of the batch at most.
        v: vectors, with shape (*batch, *event), not empty. Half precisions are computed in float32.
        f: maps a float64 tensor of eigenvalues to their images, element by element.
        event_ndim: number of trailing dimensions of v that form one vector.
        tol: error at which to stop; None for that of `lanczos_options`, by default 1e-6.
        max_iterations: products with A at most; None for those of `lanczos_options`, by default 100. A RuntimeWarning
            says where they do not suffice, or where rounding does not allow for `tol`.
        return_info: also return a LanczosInfo.

    Returns:
        f(A) v with the shape, dtype and device of v, and with `return_info` the LanczosInfo.

    Raises:
        ValueError: `event_ndim`, `tol` or `max_iterations` out of range, v is empty or not finite, `matvec` changes the
            shape or is not finite, or f is not finite at an eigenvalue (the inverse of a singular matrix).

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> weights = torch.tensor([1.0, 4.0, 9.0])
        >>> ld.lanczos_function(lambda x: weights * x, torch.ones(3), torch.sqrt, event_ndim=1)
        tensor([1.0000, 2.0000, 3.0000])
    """
    options = resolve_options(tol, max_iterations)
    check_function(matvec, "matvec", "a function x ↦ A x")
    check_function(f, "f", "a function of eigenvalues")
    check_tensor(v, "v")
    check_real(v, "v")
    return_info = as_flag(return_info, "return_info")
    work = v.to(compute_dtype(v.dtype))
    result, info = apply_function(matvec, work, f, event_ndim, options)
    return (result.to(v.dtype), info) if return_info else result.to(v.dtype)


@overload
def lanczos_sqrt(
    matvec: Matvec,
    v: Tensor,
    *,
    event_ndim: int,
    tol: float | None = None,
    max_iterations: int | None = None,
    return_info: Literal[False] = False,
) -> Tensor: ...


@overload
def lanczos_sqrt(
    matvec: Matvec,
    v: Tensor,
    *,
    event_ndim: int,
    tol: float | None = None,
    max_iterations: int | None = None,
    return_info: Literal[True],
) -> tuple[Tensor, LanczosInfo]: ...


def lanczos_sqrt(
    matvec: Matvec,
    v: Tensor,
    *,
    event_ndim: int,
    tol: float | None = None,
    max_iterations: int | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, LanczosInfo]:
    r"""A^{1/2} v for a symmetric positive semi-definite A: turns white noise v into noise of covariance A.

    Eigenvalues that rounding made negative count as zero; one that is negative beyond rounding is an error.

    Arguments and returns: as in `lanczos_function`.

    Raises:
        ValueError: A has a negative eigenvalue, or an argument is out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> half = ld.lanczos_sqrt(lambda x: x @ covariance, torch.eye(2), event_ndim=1)
        >>> torch.allclose(half @ half, covariance, atol=1e-6)
        True
    """
    check_tensor(v, "v")
    check_function(matvec, "matvec", "a function x ↦ A x")
    rounding = 100 * torch.finfo(compute_dtype(v.dtype)).eps if v.is_floating_point() else 0.0

    def sqrt(values: Tensor) -> Tensor:
        lowest, largest = float(values.detach().min()), float(values.detach().abs().max())
        if lowest < -rounding * largest and lowest < -rounding * _size(matvec, v, event_ndim):
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


def _size(matvec: Matvec, v: Tensor, event_ndim: int) -> float:
    """The Frobenius norm of A, roughly, by one product with a random vector: what rounding is relative to where v lies
    in the null space of A, so that the eigenvalues at hand are nothing but rounding."""
    noise = torch.randn(v.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        image = matvec(noise.to(v.device, compute_dtype(v.dtype)))
    return float(torch.linalg.vector_norm(image.flatten(-event_ndim), dim=-1).max())


def gram_lanczos(
    forward: Matvec, adjoint: Matvec, f: SpectralFunction, x: Tensor, in_shape: Shape, out_shape: Shape
) -> tuple[Tensor, LanczosInfo]:
    r"""f(MᵀM) x from the products y = M x (events of `out_shape`) and x = Mᵀ y (of `in_shape`), and how it came about.

    Where f is finite at zero, and M has fewer rows than columns or the result is noise, only the part of x that M sees
    is left to iterate for,

        f(MᵀM) x = f(0) x + Mᵀ h(MMᵀ) M x,   h(λ) = (f(λ) − f(0)) / λ ,

    with the Krylov space among the rows. The rest is exact, also where f jumps at zero, which no polynomial does.
    """
    work, options = x.to(compute_dtype(x.dtype)), resolve_options(None, None)
    at_zero = _at_zero(f)
    if at_zero is None or (math.prod(in_shape) <= math.prod(out_shape) and not options.noise):
        gram = lambda u: adjoint(forward(u))  # noqa: E731
        measure = Measure(at_zero=None if at_zero is None else at_zero.detach(), noise=options.noise)
        result, info = apply_function(gram, work, _of_gram(f), len(in_shape), options, measure)
        return result.to(x.dtype), info

    def slope(values: Tensor) -> Tensor:
        return torch.where(values > 0, (f(values) - at_zero) / torch.where(values > 0, values, 1), 0)

    y = forward(work)
    measure = Measure(
        rows=True, beside=at_zero.detach(), ratio=_ratio(work, in_shape, y, out_shape), noise=options.noise
    )
    seen, info = _through_rows(forward, adjoint, slope, y, len(out_shape), measure)
    return (at_zero * work + seen).to(x.dtype), info


def adjoint_lanczos(
    forward: Matvec, adjoint: Matvec, g: SpectralFunction, y: Tensor, in_shape: Shape, out_shape: Shape
) -> tuple[Tensor, LanczosInfo]:
    r"""Mᵀ g(MMᵀ) y = g(MᵀM) Mᵀ y, with the Krylov space among the rows or the columns of M, whichever are fewer; and
    how it came about."""
    work = y.to(compute_dtype(y.dtype))
    if math.prod(out_shape) < math.prod(in_shape):
        result, info = _through_rows(forward, adjoint, g, work, len(out_shape), Measure(rows=True))
    else:
        x, options = adjoint(work), resolve_options(None, None)
        gram = lambda u: adjoint(forward(u))  # noqa: E731
        measure = Measure(ratio=_ratio(work, out_shape, x, in_shape))
        result, info = apply_function(gram, x, _of_gram(g), len(in_shape), options, measure)
    return result.to(y.dtype), info


def _through_rows(
    forward: Matvec, adjoint: Matvec, g: SpectralFunction, y: Tensor, event_ndim: int, measure: Measure
) -> tuple[Tensor, LanczosInfo]:
    """Mᵀ g(MMᵀ) y by Krylov spaces of MMᵀ."""
    product = lambda u: forward(adjoint(u))  # noqa: E731
    inner, info = apply_function(product, y, _of_gram(g), event_ndim, resolve_options(None, None), measure)
    return adjoint(inner), info


def _ratio(x: Tensor, in_shape: Shape, y: Tensor, out_shape: Shape) -> Tensor:
    """‖x‖/‖y‖ of every sample, (B,); 0 where y = 0."""
    length_x, length_y = (
        torch.linalg.vector_norm(vectors.detach().reshape(-1, math.prod(shape)), dim=-1).double().cpu()
        for vectors, shape in ((x, in_shape), (y, out_shape))
    )
    return torch.where(length_y > 0, length_x / torch.where(length_y > 0, length_y, 1), 0)


def _at_zero(f: SpectralFunction) -> Tensor | None:
    """f(0), or None where f has no finite value there or refuses, as the inverse of a covariance does."""
    try:
        value = images_under(f, torch.zeros((), dtype=torch.float64))
    except ValueError:
        return None
    return value if bool(value.isfinite()) else None


def _of_gram(f: SpectralFunction) -> SpectralFunction:
    """f, for eigenvalues of a Gram matrix, which are negative by rounding alone."""
    return lambda values: f(values.clamp(min=0))


# The probability that `largest_at_most` says yes of a matrix of which it does not hold.
_MISSED = 1e-4


def largest_at_most(matvec: Matvec, v: Tensor, bound: float, max_iterations: int = 200) -> bool | None:
    r"""Whether no eigenvalue of a positive semi-definite A is above `bound`, in as few products as that takes; None
    where it is too close to tell.

    Arguments:
        matvec: x ↦ A x for x of the shape of v.
        v: one vector of independent normal numbers. The Lanczos vectors p_k(A) v/‖v‖ are of length one, so that
            |p_k(λ) ⟨u, v⟩| ≤ ‖v‖ for an eigenvector u; and ⟨u, v⟩ is normal. As p_k rises beyond its zeros, λ ≤ bound
            but with probability 1e-4 once p_k(bound) ≥ √(2/π) ‖v‖ / 1e-4. A zero beyond the bound proves the opposite.
        bound: of eigenvalues.
        max_iterations: products with A at most.

    References:
        | van Dorsselaer, Hochstenbach & van der Vorst, Computing probabilistic bounds for extreme eigenvalues of
        | symmetric matrices with the Lanczos method, 2000
    """
    length, eps = float(torch.linalg.vector_norm(v)), torch.finfo(v.dtype).eps
    enough, growth = math.log(math.sqrt(2 / math.pi) * length / _MISSED), 0.0
    previous, q, beta, pivot, size = torch.zeros_like(v), v / length, 0.0, 1.0, 0.0
    for _ in range(max_iterations):
        w = matvec(q).to(v.dtype)
        alpha = float(torch.sum(w * q))
        pivot = bound - alpha - beta**2 / pivot  # of the tridiagonal matrix of bound − A
        if not abs(pivot) > 100 * eps * bound:
            return None
        if pivot < 0:
            return False
        w = w.sub(q, alpha=alpha).sub(previous, alpha=beta)
        beta = float(torch.linalg.vector_norm(w))
        size = max(size, alpha + beta)
        growth += math.log(pivot / max(beta, 1e-300))
        if growth >= enough or beta <= 10 * eps * size:  # the space is invariant, and all that there is was seen
            return True
        previous, q = q, w / beta
    return None


class SpectrumBounds(NamedTuple):
    """Bounds of the eigenvalues of a positive semi-definite matrix.

    Attributes:
        least: of the positive ones, from below.
        largest: from above.
        singular: whether zero is one of them.
    """

    least: float
    largest: float
    singular: bool


def spectrum_bounds(
    matvec: Matvec, v: Tensor, *, event_ndim: int, accuracy: float, least: bool = False, max_iterations: int = 200
) -> SpectrumBounds:
    """Bounds of the spectrum of a symmetric positive semi-definite A, from the Krylov space of one vector v.

    The largest Ritz value θ of a random v is an estimate from below. Within the norm of its residual, |β_k u_k|, there
    is an eigenvalue; the bound is θ plus that, once it is within the accuracy, relatively. With `least`, the iteration
    also goes on until the residual of the least is below half of it.
    """
    _, spaces = krylov_spaces(matvec, v, event_ndim)
    due = 1
    for iteration, space in enumerate(spaces, start=1):
        last_chance = iteration == max_iterations or bool(space.exhausted.all())
        if iteration < due and not last_chance:
            continue
        due = iteration + max(1, iteration // 8)
        values, vectors = space.eigen[0][0], space.eigen[1][0]
        residuals = float(space.next_off_diagonal) * vectors[-1].abs()
        high, at_high = float(values[-1]), float(residuals[-1])
        positive = int((values <= 100 * torch.finfo(v.dtype).eps * high).sum())  # of the first that is not zero
        first = min(positive, len(values) - 1)
        low, at_low = float(values[first]), float(residuals[first])
        if last_chance or (at_high <= accuracy * high and (not least or at_low <= 0.5 * low)):
            break
    return SpectrumBounds(max(0.0, low - at_low), max(0.0, high + at_high), positive > 0)
