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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, check_finite, check_real, check_tensor, compute_dtype

Matvec = Callable[[Tensor], Tensor]
SpectralFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KrylovSpace:
    """The Krylov spaces after k steps: tridiagonals in float64 on the CPU, and the basis where v lives."""

    diagonal: Tensor  # (B, k)
    off_diagonal: Tensor  # (B, k − 1)
    next_off_diagonal: Tensor  # (B,) the length β_k of what A q_k has outside of the space
    defect: Tensor  # (B,) what the recurrence left along the basis at most, |Q_jᵀ w_j|: the rounding of products, seen
    exhausted: Tensor  # (B,) the Krylov space is invariant within rounding: nothing is left to add
    basis: Tensor  # (B, k, n)
    products: list[Tensor]  # A q_1, …, A q_k, each (*batch, *event), where gradients of what A depends on are followed

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Ritz values (B, k), ascending, and the eigenvectors of T_k in columns, (B, k, k)."""
        tridiagonal = torch.diag_embed(self.diagonal)
        if self.off_diagonal.shape[-1]:
            tridiagonal = tridiagonal + torch.diag_embed(self.off_diagonal, 1) + torch.diag_embed(self.off_diagonal, -1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        return values, vectors

    def coefficients(self, images: Tensor) -> Tensor:
        """f(T_k) e_1 in the basis, (B, k), from the images (B, k) of the Ritz values under f."""
        _, vectors = self.eigen
        return torch.bmm(vectors, (images * vectors[:, 0, :])[..., None])[..., 0]

    def combine(self, coefficients: Tensor) -> Tensor:
        """Q_k c, (B, n), for one vector of coefficients (B, k)."""
        return torch.bmm(coefficients.to(self.basis)[:, None], self.basis)[:, 0]


class _Basis:
    """A growing orthonormal basis, (B, k, n), in one buffer that doubles."""

    def __init__(self, like: Tensor) -> None:
        self._buffer = like.new_empty(like.shape[0], 8, like.shape[1])
        self._count = 0

    def append(self, q: Tensor) -> Tensor:
        """All vectors, with q the last of them."""
        if self._count == self._buffer.shape[1]:
            self._buffer = torch.cat([self._buffer, torch.empty_like(self._buffer)], 1)
        self._buffer[:, self._count] = q
        self._count += 1
        return self._buffer[:, : self._count]


def tridiagonalise(matvec: Matvec, start: Tensor, batch: torch.Size, event: torch.Size) -> Iterator[KrylovSpace]:
    """Grow the Krylov space of the unit (or zero) vectors `start`, (B, n), by one product at a time.

    Raises:
        ValueError: a product that is not finite.
    """
    eps = torch.finfo(start.dtype).eps
    n = start.shape[-1]
    basis, q, previous = _Basis(start), start, torch.zeros_like(start)
    beta = defect = start.new_zeros(start.shape[0])
    products: list[Tensor] = []
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    scale = torch.zeros(start.shape[0], dtype=torch.float64)
    exhausted = (torch.linalg.vector_norm(start, dim=-1) == 0).cpu()
    while True:
        vectors = basis.append(q)
        product = matvec(q.reshape(batch + event))
        if product.requires_grad:
            products.append(product)
        w = product.detach().reshape(-1, n)
        alpha = torch.linalg.vecdot(w, q)
        w = torch.addcmul(w, alpha[:, None], q, value=-1)
        w = torch.addcmul(w, beta[:, None], previous, value=-1)
        # The recurrence is exact; what rounding left along the basis goes in one more pass, or in two where little but
        # rounding is left ("twice is enough", Giraud et al., 2005).
        length = torch.linalg.vector_norm(w, dim=-1)
        for sweep in range(2):
            # As rows times matrices, for which the batched product has a fast kernel.
            row = w[:, None]
            along = torch.bmm(row, vectors.mT)
            if sweep == 0:
                defect = torch.maximum(defect, torch.linalg.vector_norm(along[:, 0], dim=-1))
            w = torch.baddbmm(row, along, vectors, alpha=-1)[:, 0]
            beta = torch.linalg.vector_norm(w, dim=-1)
            if bool((beta > 0.5 * length).all()):
                break
        # Where a sample's space is exhausted q = 0, so alpha = 0; its first diagonal entry fills the decoupled rest of
        # the tridiagonal instead, which keeps f on values it is defined at (f may be singular at 0).
        entry, tail = alpha.double().cpu(), beta.double().cpu()
        if not bool(torch.isfinite(entry + tail).all()):
            raise ValueError("matvec: expected finite products, got NaN or infinity for a vector of length one")
        diagonal.append(torch.where(exhausted, diagonal[0], entry) if diagonal else entry)
        scale = torch.maximum(scale, entry.abs() + tail)
        # What remains of w after reorthogonalisation is rounding of size eps·√n·‖A‖ or new information.
        exhausted = exhausted | (tail <= 10 * eps * math.sqrt(n) * scale)
        columns = torch.stack(off_diagonal, -1) if off_diagonal else entry.new_zeros(len(entry), 0)
        yield KrylovSpace(torch.stack(diagonal, -1), columns, tail, defect.double().cpu(), exhausted, vectors, products)
        alive = ~exhausted.to(beta.device)
        previous, q = q, w * torch.where(alive, 1 / torch.where(alive, beta, 1), 0)[:, None]
        beta = torch.where(alive, beta, 0)
        off_diagonal.append(beta.double().cpu())


def krylov_spaces(matvec: Matvec, v: Tensor, event_ndim: int) -> tuple[Tensor, Iterator[KrylovSpace]]:
    """Norms (B,) and growing Krylov spaces of the vectors v, in arithmetic of at least single precision. Gradients with
    respect to v are not followed; the products carry those of what A depends on, where gradients are enabled.

    Raises:
        ValueError: v has no samples, or is not finite; `event_ndim` out of range;
            or `matvec` changes the shape.
    """
    event_ndim = as_index(event_ndim, 1, v.ndim, "event_ndim")
    if v.numel() == 0:
        raise ValueError(f"v: expected at least one vector, got an empty batch of shape {tuple(v.shape)}")
    check_finite(v, "v")
    batch, event = v.shape[: v.ndim - event_ndim], v.shape[v.ndim - event_ndim :]
    dtype = compute_dtype(v.dtype)
    flat = v.detach().to(dtype).reshape(-1, event.numel())
    # Lengths by way of the largest entry: squares of very large or small entries would leave the range.
    largest = flat.abs().amax(-1)
    scaled = flat / torch.where(largest > 0, largest, 1)[:, None]
    lengths = torch.linalg.vector_norm(scaled, dim=-1)
    unit = scaled / torch.where(lengths > 0, lengths, 1)[:, None]

    def product(q: Tensor) -> Tensor:
        result = matvec(q)
        check_tensor(result, "matvec")
        if result.shape != q.shape:
            raise ValueError(f"matvec: expected a result of shape {tuple(q.shape)}, got {tuple(result.shape)}")
        check_real(result, "matvec")
        return result.to(dtype)

    return largest * lengths, tridiagonalise(product, unit, batch, event)
