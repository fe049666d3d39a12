r"""Few iterations towards B⁻¹b from zero, for each sample on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]


def conjugate_gradients(matvec: Matvec, b: Tensor, iterations: int) -> Tensor:
    """Of a symmetric positive definite B, the best in the Krylov space in its norm. A sample ends where its residual is
    zero, or where B is not positive along its direction.

    Arguments:
        matvec: x ↦ B x for x with shape (B, *event).
        b: with shape (B, *event).
        iterations: products with B at most.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    squared = _dot(residual, residual)
    for _ in range(iterations):
        product = matvec(direction)
        curvature = _dot(direction, product)
        length = torch.where(curvature > 0, squared / torch.where(curvature > 0, curvature, 1), 0)
        x, residual = x + length * direction, residual - length * product
        before, squared = squared, _dot(residual, residual)
        again = torch.where(length > 0, squared / torch.where(before > 0, before, 1), 0)
        direction = torch.where(length > 0, residual + again * direction, 0)
    return x


def minimal_residual(matvec: Matvec, b: Tensor, iterations: int) -> Tensor:
    """Of any B, the least ‖b − B x‖ in the Krylov space (GMRES); arguments as `conjugate_gradients`."""
    norm = _dot(b, b).sqrt()
    basis = [b / torch.where(norm > 0, norm, 1)]
    hessenberg = b.new_zeros(len(b), iterations + 1, iterations)
    for j in range(iterations):
        w = matvec(basis[j])
        for _ in range(2):  # "twice is enough"
            for i, q in enumerate(basis):
                along = _dot(q, w)
                hessenberg[:, i, j] += along.flatten()
                w = w - along * q
        rest = _dot(w, w).sqrt()
        # What is left of an invariant space is rounding: no new direction.
        size = torch.linalg.vector_norm(hessenberg[:, :, j], dim=1).reshape(rest.shape)
        new = rest > 100 * torch.finfo(b.dtype).eps * size
        hessenberg[:, j + 1, j] = torch.where(new, rest, 0).flatten()
        basis.append(torch.where(new, w / torch.where(new, rest, 1), 0))
    coordinates = torch.linalg.pinv(hessenberg)[:, :, 0] * norm.reshape(-1, 1)
    return sum((c.reshape(norm.shape) * q for c, q in zip(coordinates.T, basis, strict=False)), torch.zeros_like(b))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """For each sample, with shape (B, 1, …)."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
