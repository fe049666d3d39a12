"""Marginal, transition, posterior and DDIM kernels against dense Gaussian algebra in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

import lineardiffusion as ld
from conftest import ZOO
from lineardiffusion.testing import Opaque
from lineardiffusion.testing.strategies import operators
from test_operators import EXACT, LANCZOS, draw, tolerance

SIGMA_S = 0.6


def feasible_sigma_t(op: ld.LinearOperator, slack: float = 1.3) -> float:
    """A σ_t for which the pair is feasible: `slack` times the smallest one, for σ_s = SIGMA_S."""
    return slack * SIGMA_S * max(op.norm(), 0.1)


def dense_posterior(x_t, mean_s, dense, sigma_s, sigma_t):
    """By conditioning the joint Gaussian of (x_s, x_t), without any simplification for isotropic marginals."""
    prior = sigma_s**2 * torch.eye(dense.shape[1], dtype=torch.float64)
    noise = sigma_t**2 * torch.eye(dense.shape[0], dtype=torch.float64) - dense @ prior @ dense.T
    gain = prior @ dense.T @ torch.linalg.inv(dense @ prior @ dense.T + noise)
    return mean_s + (x_t - mean_s @ dense.T) @ gain.T, prior - gain @ dense @ prior


def test_marginal(op, generator):
    x0 = draw(op.in_shape, 3)
    marginal = ld.GaussianMarginal(op, 0.4)
    torch.testing.assert_close(marginal.mean(x0), op(x0))
    epsilon = draw(op.out_shape, 3, seed=2)
    x = marginal.sample(x0, noise=epsilon)
    torch.testing.assert_close(x, op(x0) + 0.4 * epsilon)
    scale = 0.4 * torch.eye(math.prod(op.out_shape), dtype=torch.float64)
    expected = MultivariateNormal(op(x0).flatten(1), scale_tril=scale).log_prob(x.flatten(1))
    torch.testing.assert_close(marginal.log_prob(x, x0), expected)
    again = [marginal.sample(x0, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*again)


def test_transition_covariance(op):
    sigma_t = feasible_sigma_t(op)
    dense = op.to_dense()
    expected = sigma_t**2 * torch.eye(dense.shape[0], dtype=torch.float64) - SIGMA_S**2 * dense @ dense.T
    covariance = ld.transition(op, SIGMA_S, sigma_t)
    # Errors of a covariance are relative to its size: those of a root R, ε ‖R‖, are 2 ε ‖R‖² in R².
    close = tolerance(op) | {"atol": tolerance(op)["atol"] * max(1.0, sigma_t**2)}
    torch.testing.assert_close(covariance.to_dense(), expected, **close)
    root = covariance.sqrt(torch.eye(dense.shape[0], dtype=torch.float64).reshape(-1, *op.out_shape)).flatten(1)
    torch.testing.assert_close(root @ root, expected, **close)
    x = draw(op.out_shape, 2)
    torch.testing.assert_close(covariance.solve(covariance(x)), x, rtol=1e-4, atol=1e-4)
    assert covariance.logdet() == pytest.approx(float(torch.logdet(expected)), rel=1e-6)


def test_posterior(op):
    sigma_t = feasible_sigma_t(op)
    x_t, mean_s = draw(op.out_shape, 3), draw(op.in_shape, 3, seed=1)
    q = ld.posterior(x_t, mean_s, op, SIGMA_S, sigma_t)
    mean, covariance = dense_posterior(x_t.flatten(1), mean_s.flatten(1), op.to_dense(), SIGMA_S, sigma_t)
    torch.testing.assert_close(q.mean.flatten(1), mean, rtol=1e-10, atol=1e-10)
    close = tolerance(op)
    torch.testing.assert_close(q.covariance.to_dense(), covariance, **close)
    identity = torch.eye(covariance.shape[0], dtype=torch.float64).reshape(-1, *op.in_shape)
    root = q.covariance.sqrt(identity).flatten(1)
    torch.testing.assert_close(root @ root, covariance, **close)
    x = draw(op.in_shape, 3, seed=5)
    expected = MultivariateNormal(mean, covariance).log_prob(x.flatten(1))
    torch.testing.assert_close(q.log_prob(x), expected, rtol=1e-4, atol=1e-4)


def test_posterior_sample_is_the_mean_plus_the_square_root_times_noise():
    op = ld.Resize((1, 8), 4)
    q = ld.posterior(draw((1, 4), 2), draw((1, 8), 2), op, 0.5, 0.6)
    epsilon = draw((1, 8), 2, seed=9)
    torch.testing.assert_close(q.sample(noise=epsilon), q.mean + q.covariance.sqrt(epsilon))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["scalar", "diagonal", "mask", "matrix wide", "matrix tall", "matrix singular", "dct",
                                  "resize bilinear", "resize bicubic", "resize area", "resize nearest", "scaled resize",
                                  "resize up", "convolution circular", "average pool", "sum of filters",
                                  "block diagonal", "channel mix", "channel mix to grey", "opaque", "composed",
                                  "sum", "transposed", "orthogonal rows transposed"])  # fmt: skip
def test_ddim_kernels_keep_the_marginal(name, eta):
    """σ_t² K Kᵀ + C = σ_s² I for every η: the condition on which everything rests."""
    op = ZOO[name]
    sigma_t = feasible_sigma_t(op)
    n, m = math.prod(op.in_shape), math.prod(op.out_shape)
    units = torch.eye(m, dtype=torch.float64).reshape(m, *op.out_shape)
    kernel = ld.ddim_kernel(units, torch.zeros(m, *op.in_shape, dtype=torch.float64), op, SIGMA_S, sigma_t, eta)
    gain = kernel.mean.reshape(m, n).T
    total = sigma_t**2 * gain @ gain.T + kernel.covariance.to_dense()
    close = {"rtol": 1e-9, "atol": 1e-9} if tolerance(op) == EXACT else LANCZOS
    torch.testing.assert_close(total, SIGMA_S**2 * torch.eye(n, dtype=torch.float64), **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["mask", "matrix singular", "singular blur"])
def test_ddim_kernels_of_singular_operators_of_unknown_structure(name, dtype):
    """What M removes needs fresh noise, all of it: C jumps at λ = 0, which no polynomial follows."""
    blur = ld.Convolution(torch.full((1, 3), 1 / 3), (1, 6, 8), padding="zeros")  # along 8 pixels it is singular
    op = blur if name == "singular blur" else ZOO[name]
    assert int((op.singular_values() < 1e-12).sum()) > 0
    sigma_t = feasible_sigma_t(op)
    x_t, mean_s, noise = (
        draw(shape, 2, seed=i).to(dtype) for i, shape in enumerate((op.out_shape, op.in_shape, op.in_shape))
    )
    exact = ld.ddim_kernel(x_t.double(), mean_s.double(), op, SIGMA_S, sigma_t, 0.0).sample(noise.double())
    lanczos = ld.ddim_kernel(x_t, mean_s, Opaque(op), SIGMA_S, sigma_t, 0.0).sample(noise)
    # The tolerance of Lanczos, 1e-6, or the rounding of float32 amplified by 1/√λ of the smallest λ > 0.
    assert (lanczos.double() - exact).norm() <= (1e-5 if dtype == torch.float64 else 1e-4) * exact.norm()


def test_ddim_without_noise_is_the_polar_factor_and_the_unseen_directions():
    op = ld.Resize((1, 12), 6)
    dense = op.to_dense()
    u, _, vt = torch.linalg.svd(dense, full_matrices=False)
    kernel = ld.ddim_kernel(
        torch.eye(6, dtype=torch.float64)[:, None], torch.zeros(6, 1, 12).double(), op, 0.5, 0.9, 0.0
    )
    torch.testing.assert_close(kernel.mean[:, 0].T, 0.5 / 0.9 * vt.T @ u.T, rtol=1e-10, atol=1e-10)
    unseen = 0.25 * (torch.eye(12, dtype=torch.float64) - vt.T @ vt)
    torch.testing.assert_close(kernel.covariance.to_dense(), unseen, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rho_lambda", [0.5, 0.9, 0.9999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_structured_noise_stays_exact_where_the_covariance_becomes_singular(rho_lambda, dtype):
    op = ld.Resize((3, 16, 16), 8)
    sigma_t = 1.0
    sigma_s = math.sqrt(rho_lambda) * sigma_t / op.norm()
    epsilon = draw((3, 16, 16), 4).to(dtype)
    q = ld.posterior(torch.zeros(4, 3, 8, 8, dtype=dtype), torch.zeros(4, 3, 16, 16, dtype=dtype), op, sigma_s, sigma_t)
    dense = op.to_dense()
    covariance = sigma_s**2 * (torch.eye(768, dtype=torch.float64) - sigma_s**2 / sigma_t**2 * dense.T @ dense)
    values, vectors = torch.linalg.eigh(covariance)
    expected = epsilon.double().flatten(1) @ vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    error = (q.covariance.sqrt(epsilon).double().flatten(1) - expected).norm() / expected.norm()
    # Four products of 16 terms: 64 eps, and √ of the dense reference's own rounding.
    assert error <= (64 * torch.finfo(torch.float32).eps if dtype == torch.float32 else 1e-8)


def test_opaque_operators_agree_with_their_structured_twins():
    op = ld.Resize((3, 16, 16), 8)
    x_t, mean_s = draw((3, 8, 8), 2), draw((3, 16, 16), 2)
    epsilon = draw((3, 16, 16), 2, seed=4)
    exact = ld.posterior(x_t, mean_s, op, 0.7, 0.9).sample(noise=epsilon)
    lanczos = ld.posterior(x_t, mean_s, Opaque(op), 0.7, 0.9).sample(noise=epsilon)
    assert (exact - lanczos).norm() / exact.norm() <= 1e-5


@given(operators(), st.floats(0.05, 2), st.floats(1.01, 3), st.integers(0, 999))
def test_transition_after_marginal_is_marginal(op, sigma_s, slack, seed):
    """M Σ_s Mᵀ + Cov η = Σ_t; and averaged over x_t, the posterior has the moments of the marginal of s."""
    sigma_t = slack * sigma_s * max(op.norm(), 0.1)
    dense = op.to_dense()
    total = sigma_s**2 * dense @ dense.T + ld.transition(op, sigma_s, sigma_t).to_dense()
    scale = sigma_t**2
    torch.testing.assert_close(total, scale * torch.eye(len(dense), dtype=torch.float64), rtol=1e-5, atol=1e-5 * scale)
    mean_s = draw(op.in_shape, seed=seed)
    torch.testing.assert_close(ld.posterior(op(mean_s), mean_s, op, sigma_s, sigma_t).mean, mean_s)
    units = torch.eye(len(dense), dtype=torch.float64).reshape(-1, *op.out_shape)
    q = ld.posterior(units, units.new_zeros(len(units), *op.in_shape), op, sigma_s, sigma_t)
    gain = q.mean.flatten(1).T
    total = sigma_t**2 * gain @ gain.T + q.covariance.to_dense()
    expected = sigma_s**2 * torch.eye(dense.shape[1], dtype=torch.float64)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5 * sigma_s**2)


def test_infeasible_noise_levels_name_the_smallest_feasible():
    op = 2.0 * ld.Identity((1, 4))
    x = torch.zeros(1, 4)
    for call in (lambda: ld.transition(op, 0.5, 0.9), lambda: ld.posterior(x, x, op, 0.5, 0.9)):
        with pytest.raises(ValueError, match=r"λmax = 4, ratio .* = 1\.23457; the smallest feasible σ_t is 1$"):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, op: ld.posterior(x[:, :3], x, op, 0.5, 1.0), "x_t: expected shape"),
        (lambda x, op: ld.posterior(x, x[:, :3], op, 0.5, 1.0), "mean_s: expected shape"),
        (lambda x, op: ld.posterior(x, x, op, 0.5, 0.0), "sigma: expected finite"),
        (lambda x, op: ld.posterior(x, x, op, -0.5, 1.0), "sigma_s: expected a finite"),
        (lambda x, op: ld.ddim_kernel(x, x, op, 0.5, 1.0, 1.5), "eta: expected"),
        (lambda x, op: ld.GaussianMarginal(op, -1.0), "sigma: expected"),
        (lambda x, op: ld.GaussianMarginal(op, 0.0).log_prob(x, x), "sigma > 0"),
        (lambda x, op: ld.GaussianMarginal(op, 1.0).sample(x, noise=x[:1]), "noise: expected shape"),
        (lambda x, op: ld.posterior(x, x, op, 0.0, 1.0).log_prob(x), "positive definite"),
        (lambda x, op: ld.GramCovariance(op, lambda values: values - 2).sqrt(x), "eigenvalues ≥ 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 4), ld.Identity((4,)))


def test_at_sigma_zero_the_posterior_is_a_point():
    x, mean = torch.ones(2, 4), torch.zeros(2, 4)
    assert torch.equal(ld.posterior(x, mean, 0.5 * ld.Identity((4,)), 0.0, 1.0).sample(), mean)


def test_log_densities_of_large_events_have_all_their_digits():
    """Half a million numbers in float32: the sum is of float64."""
    shape = (2, 512, 512)
    x0, x = draw(shape).float(), draw(shape, seed=1).float()
    marginal = ld.GaussianMarginal(0.7 * ld.Identity(shape), 0.3)
    exact = MultivariateNormalDiagonal(0.7 * x0.double(), 0.3).log_prob(x.double())
    result = marginal.log_prob(x, x0)
    assert result.dtype == torch.float64
    # The mean is rounded to float32: 2 (x − μ)/σ² · 2⁻²⁴ |μ| for each number, of random sign.
    assert abs(float(result - exact)) <= 1e-3 < 2**-24 * abs(float(exact))
    kernel = ld.posterior(x, x0, 0.7 * ld.Identity(shape), 0.3, 0.4)
    exact = MultivariateNormalDiagonal(kernel.mean.double(), 0.3 * (1 - 0.49 * 0.09 / 0.16) ** 0.5).log_prob(
        x0.double()
    )
    assert abs(float(kernel.log_prob(x0) - exact)) <= 1e-6 * 2**-4 * abs(float(exact))


class MultivariateNormalDiagonal:
    """N(mean, σ² I) in float64."""

    def __init__(self, mean: torch.Tensor, sigma: float) -> None:
        self.mean, self.sigma = mean, sigma

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        n = x.numel()
        squares = ((x - self.mean) / self.sigma).square().sum()
        return -0.5 * squares - n * math.log(self.sigma * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("seed", range(5))
def test_mean_variances_are_exact(seed):
    """Of dense, spectral, functional and sandwiched covariances, and of a user's own."""
    n = 30
    root = draw((n, n), seed=seed)
    dense = ld.GramCovariance(ld.Matrix(root, (n,), (n,)))
    user = UserCovariance(root.T @ root)
    spectral = ld.GramCovariance(ld.SpectralFilter((2, n), draw((n,), seed=seed)), lambda values: 0.3 + values.sqrt())
    opaque = ld.GramCovariance(Opaque(ld.Resize((1, n), 11)), lambda values: 2 - values)
    for covariance in (dense, user, spectral, opaque):
        expected = float(covariance.to_dense().diagonal().mean())
        assert covariance.mean_variance() == pytest.approx(expected, rel=1e-10 if covariance is not opaque else 1e-6)
    coloured = ld.LinearDiffusion([0.5 * ld.Identity((n,))], [0.0, dense])
    assert coloured.sigma(1) == pytest.approx(float(root.square().sum() / n) ** 0.5, rel=1e-10)


class UserCovariance(ld.Covariance):
    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__((len(matrix),), (len(matrix),))
        self.matrix = matrix

    def apply(self, x):
        return x @ self.matrix.to(x)

    def sqrt(self, v):
        return v @ torch.linalg.cholesky(self.matrix).to(v).T

    def solve(self, v):
        return torch.linalg.solve(self.matrix.to(v), v.T).T
