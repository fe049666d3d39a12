"""Decompositions of the factors of resizings, by halves and by the smaller Gram matrix, against LAPACK's."""

from __future__ import annotations

import itertools

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.operators.factorisation import largest_singular_value, norm_bound, truncated_svd
from test_operators import DEVIATION, POLAR, dense_step, draw

MODES = ["bilinear", "bicubic", "area", "nearest", "nearest-exact"]


def alike_at_both_ends(m: int, n: int) -> torch.Tensor:
    matrix = draw((m, n))
    return matrix + matrix.flip(0, 1)


def resampling(n: int, m: int, mode: str) -> torch.Tensor:
    return ld.Resize((1, n), m, mode).factors[0]


@pytest.mark.parametrize(
    "matrix",
    [
        *(alike_at_both_ends(m, n) for m, n in itertools.product((1, 4, 5), (1, 6, 7))),
        *(resampling(n, m, mode) for mode in MODES for n, m in ((8, 4), (9, 6), (10, 7), (6, 9), (7, 7), (5, 1))),
        draw((5, 7)),
        draw((6, 2)) @ draw((2, 4)),
        (alike_at_both_ends(6, 8).T @ torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 1.0], dtype=torch.float64))).T,
        torch.diag(torch.tensor([1.0, 1e-9, 1.0], dtype=torch.float64)),  # whose Gram matrix has lost the small one
        torch.zeros(3, 5, dtype=torch.float64),
    ],
    ids=lambda matrix: "x".join(map(str, matrix.shape)),
)
def test_singular_values_and_vectors(matrix):
    u, s, vt = truncated_svd(matrix)
    one = torch.eye(min(matrix.shape), dtype=torch.float64)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(u @ torch.diag(s) @ vt, matrix, **close)
    torch.testing.assert_close(u.T @ u, one, **close)
    torch.testing.assert_close(vt @ vt.T, one, **close)
    expected = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(s.sort(descending=True).values, expected, **close)
    assert int((s > 0).sum()) == int((expected > 1e-10 * expected.max()).sum() if expected.max() > 0 else 0)
    assert largest_singular_value(matrix) == pytest.approx(float(expected.max()), rel=1e-13)
    assert norm_bound(matrix) >= (1 - 1e-12) * float(expected.max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [[(9, 14), (6, 10)], [(9, 14), (7, 11), (5, 8), (2, 3)], [(12, 10), (5, 10)]])
def test_pyramids_of_any_ratio(mode, sizes):
    """Levels of 3/2, 5/4 and so on, and a change of one axis alone: the product of all, and each of their steps."""
    shapes = [(2, *size) for size in sizes]
    levels = [ld.Resize(fine, coarse[1:], mode) for fine, coarse in itertools.pairwise(shapes)]
    product = ld.OperatorChain(levels).cumulative(len(levels))
    assert isinstance(product, ld.Separable)
    for op in (*levels, product):
        x, y, noise = draw(op.in_shape, 2), draw(op.out_shape, 2, seed=1), draw(op.in_shape, 2, seed=2)
        expected = dense_step(0.8 * op.to_dense(), POLAR, DEVIATION, x, y, noise)
        result = (0.8 * op).step_map(POLAR, DEVIATION)(x, y, noise)
        torch.testing.assert_close(result.flatten(1), expected, rtol=1e-10, atol=1e-10)
        assert op.norm() == pytest.approx(float(torch.linalg.matrix_norm(op.to_dense(), 2)), rel=1e-12)


def test_long_axes_are_factorised_no_sooner_than_needed(monkeypatch):
    """Not to know that a norm is below a bound; and then by halves, without LAPACK's decomposition."""
    decomposed = []

    def watched(name):
        original = getattr(torch.linalg, name)
        return lambda matrix, *rest, **options: (
            decomposed.append((name, len(matrix))) or original(matrix, *rest, **options)
        )

    for name in ("svd", "eigh", "eigvalsh"):
        monkeypatch.setattr(torch.linalg, name, watched(name))
    for mode in MODES:
        op = ld.Resize((1, 201), 101, mode)
        assert op.norm_at_most(1.25)
        assert not decomposed
        op.norm()
        assert {name for name, _ in decomposed} <= {"eigvalsh"}
        decomposed.clear()
        op.step_map(POLAR, DEVIATION)
        if mode.startswith("nearest"):
            assert not decomposed
        else:
            assert decomposed == [("eigh", 51), ("eigh", 50)]
        decomposed.clear()
