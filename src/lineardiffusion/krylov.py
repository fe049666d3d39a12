r"""Krylov spaces of a symmetric matrix A that is known only through its products with vectors.

An orthonormal basis Q_k of span{v, Av, …, A^{k−1}v} in which A is the tridiagonal T_k = Q_kᵀ A Q_k. All samples of a
batch advance together, each with its own tridiagonal. The basis is kept orthogonal: without that, rounding spoils it as
soon as an eigenvalue of A has converged, which is precisely when the result is nearly right.

References:
    | Saad, Analysis of some Krylov subspace approximations to the matrix exponential operator, 1992
    | Giraud, Langou & Rozložník, The loss of orthogonality in the Gram–Schmidt orthogonalization process, 2005
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

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
class KrylovSpace:
    """The Krylov spaces after k steps: tridiagonals in float64 on the CPU, and the basis where v lives."""

    diagonal: Tensor  # (B, k)
    off_diagonal: Tensor  # (B, k − 1)
    exhausted: Tensor  # (B,) the Krylov space is invariant: nothing is left to add
    basis: Tensor  # (B, k, n)

    @cached_property
    def tridiagonal(self) -> Tensor:
        """T_k as dense matrices, (B, k, k)."""
        result = torch.diag_embed(self.diagonal)
        if self.off_diagonal.shape[-1]:
            result = result + torch.diag_embed(self.off_diagonal, 1) + torch.diag_embed(self.off_diagonal, -1)
        return result

    def function(self, f: SpectralFunction) -> Tensor:
        """f(T_k) e_1, (B, k)."""
        values, vectors = torch.linalg.eigh(self.tridiagonal)
        return torch.bmm(vectors, (f(values) * vectors[:, 0, :])[..., None])[..., 0]

    def combine(self, coefficients: Tensor) -> Tensor:
        """Q_k c, (B, n)."""
        return torch.bmm(coefficients.to(self.basis)[:, None], self.basis)[:, 0]


class _Basis:
    """A growing orthonormal basis, (B, k, n): one buffer that doubles, or stacked vectors where gradients need them."""

    def __init__(self) -> None:
        self._vectors: list[Tensor] = []
        self._buffer: Tensor | None = None

    def append(self, q: Tensor) -> None:
        k = len(self._vectors)
        self._vectors.append(q)
        if torch.is_grad_enabled() and q.requires_grad:
            self._buffer = None
            return
        if self._buffer is None or k == self._buffer.shape[1]:
            buffer = q.new_empty(q.shape[0], max(8, 2 * k), q.shape[1])
            for j, vector in enumerate(self._vectors):
                buffer[:, j] = vector
            self._buffer = buffer
        self._buffer[:, k] = q

    def vectors(self) -> Tensor:
        return torch.stack(self._vectors, 1) if self._buffer is None else self._buffer[:, : len(self._vectors)]


def tridiagonalise(matvec: Matvec, start: Tensor, batch: torch.Size, event: torch.Size) -> Iterator[KrylovSpace]:
    """Grow the Krylov space of the unit (or zero) vectors `start`, (B, n), by one product at a time."""
    eps = torch.finfo(start.dtype).eps
    n = start.shape[-1]
    basis, q, previous = _Basis(), start, torch.zeros_like(start)
    beta = start.new_zeros(start.shape[0])
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    scale = torch.zeros(start.shape[0], dtype=torch.float64)
    exhausted = (torch.linalg.vector_norm(start, dim=-1) == 0).cpu()
    while True:
        basis.append(q)
        w = matvec(q.reshape(batch + event)).reshape(-1, n)
        alpha = torch.linalg.vecdot(w, q)
        w = torch.addcmul(w, alpha[:, None], q, value=-1)
        w = torch.addcmul(w, beta[:, None], previous, value=-1)
        # The recurrence is exact; what rounding left along the basis goes in one more pass, or in two where little but
        # rounding is left ("twice is enough", Giraud et al., 2005).
        vectors = basis.vectors()
        length = torch.linalg.vector_norm(w, dim=-1)
        for _ in range(2):
            # As rows times matrices, for which the batched product has a fast kernel.
            row = w[:, None]
            w = torch.baddbmm(row, torch.bmm(row, vectors.mT), vectors, alpha=-1)[:, 0]
            beta = torch.linalg.vector_norm(w, dim=-1)
            if bool((beta > 0.5 * length).all()):
                break
        # Where a sample's space is exhausted q = 0, so alpha = 0; its first diagonal entry fills the decoupled rest of
        # the tridiagonal instead, which keeps f on values it is defined at (f may be singular at 0).
        entry = alpha.double().cpu()
        diagonal.append(torch.where(exhausted, diagonal[0], entry) if diagonal else entry)
        scale = torch.maximum(scale, entry.abs() + beta.double().cpu())
        # What remains of w after reorthogonalisation is rounding of size eps·√n·‖A‖ or new information.
        exhausted = exhausted | (beta.double().cpu() <= 10 * eps * math.sqrt(n) * scale)
        yield KrylovSpace(torch.stack(diagonal, -1), _columns(off_diagonal, entry), exhausted, vectors)
        alive = ~exhausted.to(beta.device)
        previous, q = q, w * torch.where(alive, 1 / torch.where(alive, beta, 1), 0)[:, None]
        beta = torch.where(alive, beta, 0)
        off_diagonal.append(beta.double().cpu())


def _columns(entries: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(entries, -1) if entries else like.new_zeros(like.shape[0], 0)


def krylov_spaces(matvec: Matvec, v: Tensor, event_ndim: int) -> tuple[Tensor, Iterator[KrylovSpace]]:
    """Norms (B,) and growing Krylov spaces of the vectors v, in arithmetic of at least single precision."""
    if not isinstance(v, Tensor) or not v.is_floating_point():
        raise ValueError(f"v: expected a real floating-point tensor, got {getattr(v, 'dtype', type(v).__name__)}")
    if not 1 <= event_ndim <= v.ndim:
        raise ValueError(f"event_ndim: expected 1 ≤ event_ndim ≤ v.ndim = {v.ndim}, got {event_ndim}")
    batch, event = v.shape[: v.ndim - event_ndim], v.shape[v.ndim - event_ndim :]
    dtype = compute_dtype(v.dtype)
    flat = v.to(dtype).reshape(-1, event.numel())
    norms = torch.linalg.vector_norm(flat, dim=-1)
    unit = flat * (1 / torch.where(norms > 0, norms, 1))[:, None]

    def product(q: Tensor) -> Tensor:
        result = matvec(q)
        if result.shape != q.shape:
            raise ValueError(f"matvec: expected a result of shape {tuple(q.shape)}, got {tuple(result.shape)}")
        return result.to(dtype)

    return norms, tridiagonalise(product, unit, batch, event)


# (space, coefficients) ↦ the length, (B,), of the part of the result that has these coefficients, or of all of it.
Length = Callable[[KrylovSpace, Tensor], Tensor]


def euclidean(space: KrylovSpace, coefficients: Tensor) -> Tensor:
    """‖Q_k c‖, where the result is made of the basis itself."""
    length: Tensor = torch.linalg.vector_norm(coefficients, dim=-1)
    return length


def converge(
    spaces: Iterator[KrylovSpace],
    f: SpectralFunction,
    tol: float,
    max_iterations: int,
    part: Length = euclidean,
    whole: Length = euclidean,
) -> tuple[KrylovSpace, Tensor, LanczosInfo]:
    """Grow the space until the estimated error of f(T_k) e_1 is within `tol` of the whole result.

    With d_j the last change of the result and r = d_j / d_{j−1}, the error of a sequence that converges at the rate r
    is d_j r / (1 − r). In single precision it cannot fall far below 1e-7, whatever the estimate says.
    """
    if not tol > 0:
        raise ValueError(f"tol: expected a positive number, got {tol}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations: expected at least 1, got {max_iterations}")
    latest = torch.zeros(0, 0, dtype=torch.float64)
    change = torch.tensor(math.inf, dtype=torch.float64)
    due = 1
    for iterations, space in enumerate(spaces, start=1):
        last_chance = iterations == max_iterations or bool(space.exhausted.all())
        if iterations < due and not last_chance:
            continue
        # Each step at first, later after every eighth of the work done: eigendecompositions cost as much as products.
        due = iterations + max(1, iterations // 8)
        previous, latest = latest, space.function(f)
        if iterations == 1:
            coefficients, error = latest, torch.where(space.exhausted, 0.0, math.inf)
        else:
            difference = latest - _widened(previous, latest)
            length = whole(space, latest).clamp(min=torch.finfo(torch.float64).tiny)
            last, change = change, part(space, difference) / length
            rate = torch.where(last.isfinite(), change / last.clamp(min=1e-300), 0.5).clamp(max=0.95)
            estimate = torch.where(space.exhausted, 0.0, change * rate / (1 - rate))
            # A sample that has converged stays as it is, so that it does not depend on how long the others take.
            done = error <= tol
            coefficients = torch.where(done[:, None], _widened(coefficients, latest), latest)
            error = torch.where(done, error, estimate)
        if last_chance or bool((error <= tol).all()):
            break
    info = LanczosInfo(iterations, error.detach(), converged=bool((error <= tol).all()))
    if not info.converged:
        warnings.warn(
            f"Lanczos stopped after {iterations} iterations at an estimated relative error of "
            f"{float(info.error.max()):.1e}; tol = {tol:.1e} was not reached. Raise max_iterations or tol.",
            RuntimeWarning,
            stacklevel=3,
        )
    return space, coefficients, info


def _widened(coefficients: Tensor, like: Tensor) -> Tensor:
    """Coefficients in a smaller space, (B, j), as coefficients in a larger one, (B, k)."""
    return F.pad(coefficients, (0, like.shape[-1] - coefficients.shape[-1]))
