r"""Singular value decompositions of constant matrices, in float64, at the cost that their structure allows.

A resampling treats both ends of an axis alike: its matrix stays the same when rows and columns are reversed, and falls
into one of half the size for signals that are even about the middle and one for those that are odd. Where singular
values are of one order, the eigenvectors of the smaller of AAᵀ and AᵀA are as good as a decomposition of A, which takes
several times as long.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The least λ of AAᵀ, relative to the largest, for which the other singular vectors may be had by a division: by so much
# it magnifies rounding.
_WELL_CONDITIONED = 1e-3


def truncated_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin U, s, Vᵀ in which singular values that are zero within rounding are exactly zero; s is not in order."""
    if _is_symmetric(matrix):
        m, n = matrix.shape
        (u, s, vt), (v, r, wt) = (_svd(_fold(_fold(matrix, sign).T, sign).T) for sign in (1, -1))
        left = torch.cat([_unfold(u, m, 1), _unfold(v, m, -1)], 1)
        right = torch.cat([_unfold(vt.T, n, 1), _unfold(wt.T, n, -1)], 1).T
        s = torch.cat([s, r])
    else:
        left, s, right = _svd(matrix)
    cutoff = max(matrix.shape) * torch.finfo(matrix.dtype).eps * s.max()
    return left, torch.where(s > cutoff, s, 0), right


def largest_singular_value(matrix: Tensor) -> float:
    """‖A‖ by the eigenvalues of the smaller of AAᵀ and AᵀA, of which the largest has all its digits."""
    parts = [_fold(_fold(matrix, sign).T, sign) for sign in (1, -1)] if _is_symmetric(matrix) else [matrix]
    return math.sqrt(max(float(torch.linalg.eigvalsh(_small_gram(part))[-1]) for part in parts))


def norm_bound(matrix: Tensor) -> float:
    """√(‖A‖₁ ‖A‖_∞) ≥ ‖A‖, by the sums of magnitudes in columns and rows."""
    sizes = matrix.abs()
    return math.sqrt(float(sizes.sum(0).max() * sizes.sum(1).max()))


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if matrix.shape[0] > matrix.shape[1]:
        v, s, ut = _svd(matrix.T)
        return ut.T, s, v.T
    values, u = torch.linalg.eigh(_small_gram(matrix))
    if not float(values[0]) > _WELL_CONDITIONED * float(values[-1]):
        left, s, right = torch.linalg.svd(matrix, full_matrices=False)
        return left, s, right
    s = values.sqrt()
    return u, s, (u.T @ matrix) / s[:, None]


def _small_gram(matrix: Tensor) -> Tensor:
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def _is_symmetric(matrix: Tensor) -> bool:
    """Whether nothing changes when the order of rows and that of columns are reversed; matrices of one row or column
    have nothing to gain."""
    return min(matrix.shape) > 1 and torch.equal(matrix, matrix.flip(0, 1))


def _fold(rows: Tensor, sign: int) -> Tensor:
    """The coordinates of columns in the orthonormal basis of those that are even (1) or odd (−1)."""
    half = len(rows) // 2
    pairs = (rows[:half] + sign * rows[len(rows) - half :].flip(0)) * math.sqrt(0.5)
    return torch.cat([pairs, rows[half : len(rows) - half]]) if sign > 0 else pairs


def _unfold(coordinates: Tensor, n: int, sign: int) -> Tensor:
    """The columns of n rows that have these coordinates."""
    half = n // 2
    pairs = coordinates[:half] * math.sqrt(0.5)
    middle = coordinates[half:] if sign > 0 else coordinates.new_zeros(n - 2 * half, coordinates.shape[1])
    return torch.cat([pairs, middle, sign * pairs.flip(0)])
