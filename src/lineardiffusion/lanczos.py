r"""Functions of a symmetric matrix that is known only through its products with vectors.

Lanczos' method builds an orthonormal basis Q_k of the Krylov space span{v, Av, …, A^{k−1}v} in which A is the
tridiagonal T_k = Q_kᵀ A Q_k, and returns

    f(A) v ≈ ‖v‖ Q_k f(T_k) e_1 .

All samples of a batch advance together, each with its own tridiagonal. The basis is reorthogonalised twice in every
step: without it rounding breaks the orthogonality as soon as an eigenvalue of A has converged, which is precisely when
the result is nearly right.

References:
    | Saad, Analysis of some Krylov subspace approximations to the matrix exponential operator, 1992
    | Chow & Saad, Preconditioned Krylov subspace methods for sampling multivariate Gaussian distributions, 2014
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from lineardiffusion._checks import compute_dtype

Matvec = Callable[[Tensor], Tensor]
SpectralFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LanczosInfo:
    """How a Lanczos iteration ended.

    Attributes:
        iterations: products with A that were computed.
        error: estimated relative error of each sample, ‖y − f(A)v‖ / ‖y‖, with shape (*batch).
        converged: whether every sample's estimate is within the tolerance.
    """

    iterations: int
    error: Tensor
    converged: bool


@dataclass(frozen=True)
class _Krylov:
    """The tridiagonal form after k steps: per sample, float64 on the CPU, and the basis where v lives."""

    diagonal: Tensor  # (B, k)
    off_diagonal: Tensor  # (B, k − 1)
    exhausted: Tensor  # (B,) the Krylov space is invariant: nothing is left to add
    basis: list[Tensor]  # k tensors of shape (B, n)

    def tridiagonal(self) -> Tensor:
        """T_k as dense matrices, (B, k, k)."""
        result = torch.diag_embed(self.diagonal)
        if self.off_diagonal.shape[-1]:
            result = result + torch.diag_embed(self.off_diagonal, 1) + torch.diag_embed(self.off_diagonal, -1)
        return result


def _tridiagonalise(matvec: Matvec, start: Tensor, batch: torch.Size, event: torch.Size) -> Iterator[_Krylov]:
    """Grow the Krylov space of the unit (or zero) vectors `start`, (B, n), by one product at a time."""
    eps = torch.finfo(start.dtype).eps
    n = start.shape[-1]
    basis, q = [start], start
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    scale = torch.zeros(start.shape[0], dtype=torch.float64)
    exhausted = (start == 0).all(-1).cpu()
    while True:
        w = matvec(q.reshape(batch + event)).reshape(-1, n)
        alpha = (w * q).sum(-1)
        stacked = torch.stack(basis, 1)
        for _ in range(2):
            w = w - torch.einsum("bk,bkn->bn", torch.einsum("bkn,bn->bk", stacked, w), stacked)
        beta = torch.linalg.vector_norm(w, dim=-1)
        # Where a sample's space is exhausted q = 0, so alpha = 0; its first diagonal entry fills the decoupled rest of
        # the tridiagonal instead, which keeps f on values it is defined at (f may be singular at 0).
        entry = alpha.double().cpu()
        diagonal.append(torch.where(exhausted, diagonal[0], entry) if diagonal else entry)
        scale = torch.maximum(scale, entry.abs() + beta.double().cpu())
        # What remains of w after reorthogonalisation is rounding of size eps·√n·‖A‖ or new information.
        exhausted = exhausted | (beta.double().cpu() <= 10 * eps * math.sqrt(n) * scale)
        yield _Krylov(torch.stack(diagonal, -1), _columns(off_diagonal, entry), exhausted, basis)
        alive = ~exhausted.to(beta.device)
        q = torch.where(alive[:, None], w / torch.where(alive, beta, 1)[:, None], 0)
        off_diagonal.append(torch.where(alive, beta, 0).double().cpu())
        basis = [*basis, q]


def _columns(entries: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(entries, -1) if entries else like.new_zeros(like.shape[0], 0)


def _prepare(matvec: Matvec, v: Tensor, event_ndim: int) -> tuple[Tensor, Tensor, Iterator[_Krylov]]:
    """Norms (B,), and the Krylov iteration, of the vectors v in arithmetic of at least single precision."""
    if not isinstance(v, Tensor) or not v.is_floating_point():
        raise ValueError(f"v: expected a real floating-point tensor, got {getattr(v, 'dtype', type(v).__name__)}")
    if not 1 <= event_ndim <= v.ndim:
        raise ValueError(f"event_ndim: expected 1 ≤ event_ndim ≤ v.ndim = {v.ndim}, got {event_ndim}")
    batch, event = v.shape[: v.ndim - event_ndim], v.shape[v.ndim - event_ndim :]
    dtype = compute_dtype(v.dtype)
    flat = v.to(dtype).reshape(-1, event.numel())
    norms = torch.linalg.vector_norm(flat, dim=-1)
    unit = flat / torch.where(norms > 0, norms, 1)[:, None]

    def product(q: Tensor) -> Tensor:
        result = matvec(q)
        if result.shape != q.shape:
            raise ValueError(f"matvec: expected a result of shape {tuple(q.shape)}, got {tuple(result.shape)}")
        return result.to(dtype)

    return flat, norms, _tridiagonalise(product, unit, batch, event)


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
    if max_iterations < 1:
        raise ValueError(f"max_iterations: expected at least 1, got {max_iterations}")
    flat, norms, krylov = _prepare(matvec, v, event_ndim)
    previous = torch.zeros(flat.shape[0], 0, dtype=torch.float64)
    last = change = torch.full((flat.shape[0],), math.inf, dtype=torch.float64)
    iterations = 0
    for state in krylov:
        iterations += 1
        # The small eigenproblems cost k³: every step while they are tiny, then at every tenth of the work done.
        due = iterations <= 12 or iterations % (iterations // 10 + 1) == 0 or iterations >= max_iterations
        if not due and not bool(state.exhausted.all()):
            continue
        values, vectors = torch.linalg.eigh(state.tridiagonal())
        coefficients = torch.einsum("bjk,bk->bj", vectors, f(values) * vectors[:, 0, :])
        length = torch.linalg.vector_norm(coefficients, dim=-1).clamp(min=torch.finfo(torch.float64).tiny)
        if iterations > 1:
            padded = torch.nn.functional.pad(previous, (0, coefficients.shape[-1] - previous.shape[-1]))
            last, change = change, torch.linalg.vector_norm(coefficients - padded, dim=-1) / length
        rate = torch.where(last.isfinite(), change / last.clamp(min=1e-300), 0.5).clamp(max=0.95)
        error = torch.where(state.exhausted, 0.0, change * rate / (1 - rate))
        previous = coefficients
        if bool((error <= tol).all()) or iterations >= max_iterations:
            break
    converged = bool((error <= tol).all())
    if not converged:
        warnings.warn(
            f"Lanczos stopped after {iterations} iterations at an estimated relative error of "
            f"{float(error.max()):.1e}; tol = {tol:.1e} was not reached. Raise max_iterations or tol.",
            RuntimeWarning,
            stacklevel=2,
        )
    weights = torch.where(norms[:, None] > 0, coefficients.to(flat), 0) * norms[:, None]
    result = torch.einsum("bk,bkn->bn", weights, torch.stack(state.basis, 1)).reshape(v.shape).to(v.dtype)
    if return_info:
        return result, LanczosInfo(iterations, error.reshape(v.shape[: v.ndim - event_ndim]), converged)
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
    _, _, krylov = _prepare(matvec, v, event_ndim)
    value, still = -math.inf, 0
    for iteration, state in enumerate(krylov, start=1):
        last, value = value, float(torch.linalg.eigvalsh(state.tridiagonal().detach()).max())
        still = still + 1 if value - last <= tol * abs(value) else 0
        if still == 2 or bool(state.exhausted.all()) or iteration == max_iterations:
            break
    return value
