"""Lanczos' method against dense matrix functions.

The stopping rule asks for an estimated relative error of `tol`; errors are allowed 10 tol for what an estimate is. In
float32 the products themselves have an error of about n·eps·‖A‖ (n = 40: 5e-6), which a square root passes on.
"""

from __future__ import annotations

import warnings

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.lanczos import spectrum_bounds


def symmetric(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A dense symmetric matrix with the given eigenvalues."""
    n = len(values)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return q @ torch.diag(values) @ q.T


def dense_sqrt(a: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(a)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.double() - expected).norm(dim=-1).div(expected.norm(dim=-1)).max())


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-10])
def test_square_root_to_the_tolerance(tol):
    a = symmetric(torch.linspace(0.1, 3, 40, dtype=torch.float64))
    v = noise(5, 40)
    result, info = ld.lanczos_sqrt(lambda x: x @ a, v, event_ndim=1, tol=tol, return_info=True)
    assert relative_error(result, v @ dense_sqrt(a)) <= 10 * tol
    assert info.converged
    assert info.error.shape == (5,)
    assert info.iterations <= 40


def test_looser_tolerances_take_fewer_products():
    a = symmetric(torch.linspace(0.1, 3, 40, dtype=torch.float64))
    counts = [
        ld.lanczos_sqrt(lambda x: x @ a, noise(40), event_ndim=1, tol=tol, return_info=True)[1].iterations
        for tol in (1e-2, 1e-6, 1e-12)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_each_sample_has_its_own_tridiagonal():
    matrices = torch.stack([symmetric(torch.linspace(0.5, top, 12, dtype=torch.float64)) for top in (1.0, 9.0)])
    v = noise(2, 12)
    result = ld.lanczos_sqrt(lambda x: torch.einsum("bij,bj->bi", matrices, x), v, event_ndim=1, tol=1e-10)
    for a, vector, root in zip(matrices, v, result, strict=True):
        assert relative_error(root[None], (vector @ dense_sqrt(a))[None]) <= 1e-9


def test_events_and_batches_of_any_number_of_dimensions():
    a = symmetric(torch.linspace(0.5, 2, 24, dtype=torch.float64))
    v = noise(2, 3, 4, 6)
    result = ld.lanczos_sqrt(lambda x: (x.flatten(-2) @ a).reshape(x.shape), v, event_ndim=2, tol=1e-10)
    assert relative_error(result.flatten(-2), v.flatten(-2) @ dense_sqrt(a)) <= 1e-9


def test_breakdown_of_repeated_eigenvalues_is_the_exact_answer():
    a = symmetric(torch.tensor([1.0] * 20 + [4.0] * 20, dtype=torch.float64))
    v = noise(3, 40)
    result, info = ld.lanczos_sqrt(lambda x: x @ a, v, event_ndim=1, return_info=True)
    assert info.iterations <= 3
    assert relative_error(result, v @ dense_sqrt(a)) <= 1e-12


def test_samples_that_break_down_at_different_times():
    a = torch.diag(torch.linspace(1, 2, 16, dtype=torch.float64))
    v = noise(3, 16)
    v[0] = 0  # nothing to do
    v[1, 1:] = 0  # an eigenvector
    result = ld.lanczos_sqrt(lambda x: x @ a, v, event_ndim=1, tol=1e-12)
    torch.testing.assert_close(result, v @ a.sqrt(), rtol=1e-10, atol=1e-10)


def test_zero_vector_and_zero_matrix():
    assert not ld.lanczos_sqrt(lambda x: 2 * x, torch.zeros(2, 5), event_ndim=1).any()
    assert not ld.lanczos_sqrt(lambda x: 0 * x, torch.ones(2, 5), event_ndim=1).any()


def test_a_function_that_is_singular_at_zero():
    a = symmetric(torch.tensor([2.0, 2.0, 2.0, 5.0], dtype=torch.float64))
    v = noise(2, 4)
    result = ld.lanczos_function(lambda x: x @ a, v, lambda values: 1 / values, event_ndim=1)
    torch.testing.assert_close(result, torch.linalg.solve(a, v.T).T)


@pytest.mark.parametrize("smallest", [0.0, 1e-4, 1e-8])
def test_near_singular(smallest):
    values = torch.cat([torch.tensor([smallest]), torch.linspace(0.1, 1, 39)]).double()
    a = symmetric(values)
    v = noise(4, 40)
    result = ld.lanczos_sqrt(lambda x: x @ a, v, event_ndim=1, tol=1e-7)
    assert relative_error(result, v @ dense_sqrt(a)) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(dtype):
    a = symmetric(torch.linspace(1e-3, 1, 40, dtype=torch.float64))
    v = noise(4, 40, dtype=dtype)
    result = ld.lanczos_sqrt(lambda x: x @ a.float(), v, event_ndim=1, tol=1e-6)
    assert result.dtype == dtype
    # √λ amplifies an absolute error δ of A by 1/(2√λmin): 5e-6 / 0.06 ≈ 1e-4 in the smallest component at worst.
    assert relative_error(result, v.double() @ dense_sqrt(a)) <= 1e-4 + torch.finfo(dtype).eps


def test_eigenvalues_negative_by_rounding_count_as_zero_and_others_are_an_error():
    rounding = symmetric(torch.tensor([-1e-16, 0.5, 1.0], dtype=torch.float64))
    v = noise(2, 3)
    assert torch.isfinite(ld.lanczos_sqrt(lambda x: x @ rounding, v, event_ndim=1)).all()
    indefinite = symmetric(torch.tensor([-0.1, 0.5, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="positive semi-definite"):
        ld.lanczos_sqrt(lambda x: x @ indefinite, v, event_ndim=1)


def test_too_few_iterations_warn_and_report_an_honest_error():
    a = symmetric(torch.logspace(-6, 0, 40, dtype=torch.float64))
    v = noise(3, 40)
    with pytest.warns(RuntimeWarning, match="Lanczos stopped after 8 iterations"):
        result, info = ld.lanczos_sqrt(lambda x: x @ a, v, event_ndim=1, max_iterations=8, return_info=True)
    expected = v @ dense_sqrt(a)
    error = (result - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert not info.converged
    assert (error <= 10 * info.error).all()


def test_no_warning_where_it_converges():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ld.lanczos_sqrt(lambda x: 2 * x, noise(3, 8), event_ndim=1)


def test_gradients_flow():
    a = symmetric(torch.linspace(0.5, 2, 6, dtype=torch.float64))
    v = noise(2, 6).requires_grad_()
    ld.lanczos_sqrt(lambda x: x @ a, v, event_ndim=1).sum().backward()
    assert torch.isfinite(v.grad).all()


@pytest.mark.parametrize("lowest", [0.0, 1.0])
def test_bounds_of_a_spectrum(lowest):
    a = symmetric(torch.linspace(lowest, 7, 60, dtype=torch.float64))
    bounds = spectrum_bounds(lambda x: x @ a, noise(60), event_ndim=1, accuracy=2e-7, least=True)
    assert 7 <= bounds.largest * (1 + 1e-14) <= 7 * (1 + 1e-6)
    least = lowest or 7 / 59  # the least that is positive
    assert 0.4 * least <= bounds.least <= least * (1 + 1e-12)
    assert bounds.singular == (lowest == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_ndim": 0}, "event_ndim: expected"),
        ({"event_ndim": 3}, "event_ndim: expected"),
        ({"event_ndim": 1, "max_iterations": 0}, "max_iterations: expected"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ld.lanczos_sqrt(lambda x: x, torch.ones(2, 3), **arguments)


def test_a_product_that_changes_the_shape():
    with pytest.raises(ValueError, match="matvec: expected a result of shape"):
        ld.lanczos_sqrt(lambda x: x[:, :2], torch.ones(2, 3), event_ndim=1)


def test_a_sample_does_not_depend_on_the_others_of_its_batch():
    """Not even within the tolerance: it stops when it has converged, whatever the others need."""
    a = symmetric(torch.linspace(1e-3, 3, 60, dtype=torch.float64))
    easy, hard = noise(1, 60), noise(1, 60)
    _, vectors = torch.linalg.eigh(a)
    easy = (easy @ vectors[:, 40:]) @ vectors[:, 40:].T  # only eigenvalues far from zero
    together, info = ld.lanczos_sqrt(lambda x: x @ a, torch.cat([easy, hard]), event_ndim=1, return_info=True)
    alone = [ld.lanczos_sqrt(lambda x: x @ a, v, event_ndim=1, return_info=True) for v in (easy, hard)]
    assert alone[0][1].iterations < alone[1][1].iterations == info.iterations
    for row, (single, _) in zip(together, alone, strict=True):
        torch.testing.assert_close(row, single[0], rtol=1e-13, atol=1e-13)
