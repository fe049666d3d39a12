"""Noise that is not isotropic: marginal, transition, posterior and DDIM kernels against dense Gaussian algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import lineardiffusion as ld
from conftest import ZOO
from test_operators import LANCZOS, draw

SHAPE = (2, 6, 4)


class Cholesky(ld.Covariance):
    """A covariance as a user would bring it: a dense matrix, a triangular root that is not symmetric, a solve."""

    def __init__(self, matrix: torch.Tensor, shape: tuple[int, ...]) -> None:
        super().__init__(shape, shape)
        self.factor = torch.linalg.cholesky(matrix)

    def apply(self, x):
        return (x.flatten(-len(self.in_shape)) @ self.factor @ self.factor.T).reshape(x.shape)

    def sqrt(self, v):
        return (v.flatten(-len(self.in_shape)) @ self.factor.T).reshape(v.shape)

    def solve(self, v):
        columns = v.flatten(-len(self.in_shape))[..., None]
        return torch.cholesky_solve(columns, self.factor)[..., 0].reshape(v.shape)


def covariance(kind: str, shape: tuple[int, ...], seed: int = 0) -> ld.Covariance | float:
    """A covariance with variances of the order of one, between 0.5 and 2 or so."""
    if kind == "isotropic":
        return 0.8 + 0.1 * seed
    if kind == "diagonal":
        return ld.GramCovariance(ld.Diagonal(draw(shape, seed=seed).abs().clamp(0.7, 1.4)))
    if kind == "spectral":
        return ld.GramCovariance(ld.SpectralFilter(shape, draw(shape[1:] or shape, seed=seed).abs().clamp(0.7, 1.4)))
    n = math.prod(shape)
    root = torch.eye(n, dtype=torch.float64) + 0.3 / math.sqrt(n) * draw((n, n), seed=seed)
    if kind == "function":
        return ld.GramCovariance(ld.Matrix(root, shape, shape), lambda values: 0.5 + 1 / (1 + values))
    return Cholesky(root @ root.T, shape)


KINDS = ("isotropic", "diagonal", "spectral", "function", "user")
PAIRS = [(a, a) for a in KINDS[1:]] + [("isotropic", a) for a in KINDS[1:]] + [(a, "isotropic") for a in KINDS[1:]]
PAIRS += [("spectral", "user"), ("user", "diagonal")]
OPERATORS = ("scaled resize", "dct", "matrix wide", "mask", "channel mix", "opaque")


def system(kind_s: str, kind_t: str, name: str):
    """An operator, feasible noise levels, and all three as matrices."""
    op = ZOO[name]
    sigma_s, sigma_t = covariance(kind_s, op.in_shape), covariance(kind_t, op.out_shape, seed=1)
    dense = op.to_dense()
    cov_s, cov_t = matrix(sigma_s, op.in_shape), matrix(sigma_t, op.out_shape)
    # A multiple of M for which Σ_t − M Σ_s Mᵀ is positive definite: λmax(Σ_t⁻¹ M Σ_s Mᵀ) = 0.8.
    ratio = float(torch.linalg.eigvals(torch.linalg.solve(cov_t, dense @ cov_s @ dense.T)).real.max())
    scale = math.sqrt(0.8 / ratio)
    return scale * op, sigma_s, sigma_t, scale * dense, cov_s, cov_t


def matrix(level: ld.Covariance | float, shape: tuple[int, ...]) -> torch.Tensor:
    if isinstance(level, ld.Covariance):
        return level.to_dense()
    return level**2 * torch.eye(math.prod(shape), dtype=torch.float64)


def units(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("kind_s", "kind_t"), PAIRS)
def test_transition(kind_s, kind_t, name):
    op, sigma_s, sigma_t, dense, cov_s, cov_t = system(kind_s, kind_t, name)
    expected = cov_t - dense @ cov_s @ dense.T
    result = ld.transition(op, sigma_s, sigma_t)
    torch.testing.assert_close(result.to_dense(), expected, **LANCZOS)
    root = result.sqrt(units(op.out_shape)).flatten(1)
    torch.testing.assert_close(root.T @ root, expected, **LANCZOS)
    torch.testing.assert_close(result.solve(result(units(op.out_shape))), units(op.out_shape), rtol=1e-4, atol=1e-4)
    assert result.logdet() == pytest.approx(float(torch.logdet(expected)), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("kind_s", "kind_t"), PAIRS)
def test_posterior(kind_s, kind_t, name):
    op, sigma_s, sigma_t, dense, cov_s, cov_t = system(kind_s, kind_t, name)
    x_t, mean_s = draw(op.out_shape, 3), draw(op.in_shape, 3, seed=1)
    gain = cov_s @ dense.T @ torch.linalg.inv(cov_t)
    mean = mean_s.flatten(1) + (x_t.flatten(1) - mean_s.flatten(1) @ dense.T) @ gain.T
    expected = cov_s - gain @ dense @ cov_s
    q = ld.posterior(x_t, mean_s, op, sigma_s, sigma_t)
    torch.testing.assert_close(q.mean.flatten(1), mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.covariance.to_dense(), expected, **LANCZOS)
    root = q.covariance.sqrt(units(op.in_shape)).flatten(1)
    torch.testing.assert_close(root.T @ root, expected, **LANCZOS)
    x = draw(op.in_shape, 3, seed=5)
    log_prob = MultivariateNormal(mean, expected).log_prob(x.flatten(1))
    torch.testing.assert_close(q.log_prob(x), log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("name", ["scaled resize", "dct", "matrix wide", "opaque"])
@pytest.mark.parametrize(("kind_s", "kind_t"), PAIRS)
def test_ddim_kernels_keep_the_marginal(kind_s, kind_t, name, eta):
    """K Σ_t Kᵀ + C = Σ_s for every η."""
    op, sigma_s, sigma_t, _, cov_s, cov_t = system(kind_s, kind_t, name)
    zeros = torch.zeros(math.prod(op.out_shape), *op.in_shape, dtype=torch.float64)
    kernel = ld.ddim_kernel(units(op.out_shape), zeros, op, sigma_s, sigma_t, eta)
    gain = kernel.mean.flatten(1).T
    torch.testing.assert_close(gain @ cov_t @ gain.T + kernel.covariance.to_dense(), cov_s, rtol=1e-4, atol=1e-4)


def test_isotropic_covariances_are_isotropic_noise_levels():
    op = 0.7 * ld.Resize(SHAPE, (3, 2))
    x_t, mean_s, noise = draw(op.out_shape, 2), draw(op.in_shape, 2, seed=1), draw(op.in_shape, 2, seed=2)
    as_covariance = [
        ld.GramCovariance(sigma * ld.Identity(shape)) for sigma, shape in ((0.5, SHAPE), (0.6, op.out_shape))
    ]
    for eta in (0.0, 0.5, 1.0):
        expected = ld.ddim_kernel(x_t, mean_s, op, 0.5, 0.6, eta).sample(noise)
        torch.testing.assert_close(ld.ddim_kernel(x_t, mean_s, op, *as_covariance, eta).sample(noise), expected)


def test_whitening_by_filters_keeps_the_structure():
    shape = (3, 8, 8)
    blur, coloured = ld.SpectralFilter(shape, draw((8, 8)).abs()), covariance("spectral", shape)
    q = ld.posterior(draw(shape), draw(shape), 0.1 * blur, coloured, coloured)
    assert isinstance(q.covariance.inner.operator, ld.SpectralFilter)


def coloured_process(num_steps: int = 6, shape: tuple[int, ...] = (1, 8, 8)) -> ld.LinearDiffusion:
    """Pink noise under a change of resolution: Σ_t falls off with the frequency, up to σ_T² = 1."""
    alpha_bar = torch.linspace(1, 0.05, num_steps + 1, dtype=torch.float64)
    half = (*shape[:-2], shape[-2] // 2, shape[-1] // 2)
    shapes = [shape] * (num_steps // 2 + 1) + [half] * (num_steps - num_steps // 2)
    steps, sigmas = [], [0.0]
    for t in range(1, num_steps + 1):
        scale = float(alpha_bar[t] / alpha_bar[t - 1]) ** 0.5
        steps.append(scale * (ld.Resize(shape, 4) if shapes[t] != shapes[t - 1] else ld.Identity(shapes[t])))
        fall = 1 / (1 + 0.1 * torch.arange(shapes[t][-1], dtype=torch.float64))
        spectrum = torch.sqrt(fall[:, None] * fall)
        sigmas.append(ld.GramCovariance(float(1 - alpha_bar[t]) ** 0.5 * ld.SpectralFilter(shapes[t], spectrum)))
    return ld.LinearDiffusion(steps, sigmas, alpha_bar.sqrt())


@pytest.mark.filterwarnings("ignore:x_T is not noise")
def test_a_process_with_coloured_noise():
    p = coloured_process()
    assert not p.is_isotropic
    assert ld.DDPM((1, 8)).is_isotropic
    x0, noise = draw((1, 8, 8), 3), draw((1, 8, 8), 3, seed=1)
    cov = p.noise_covariance(2).to_dense()
    assert p.sigma(2) == pytest.approx(math.sqrt(float(cov.diagonal().mean())), rel=0.05)
    expected = p.operator(0, 2)(x0) + p.noise_covariance(2).sqrt(noise)
    torch.testing.assert_close(p.diffuse(x0, 2, noise=noise), expected)
    torch.testing.assert_close(p.marginal(2).sample(x0, noise=noise), expected)
    times = torch.tensor([1, 3, 2])
    rows = torch.stack([p.diffuse(x0[i : i + 1], int(t), noise=noise[i : i + 1])[0] for i, t in enumerate(times)])
    torch.testing.assert_close(p.diffuse(x0, times, noise=noise), rows)
    prior = p.prior(20000, torch.Generator().manual_seed(0), dtype=torch.float64).flatten(1)
    # A sample covariance of n vectors errs by σ²√(2/n) at most for each entry: five of these.
    bound = 5 * float(p.noise_covariance(6).to_dense().max()) * math.sqrt(2 / 20000)
    assert (prior.T @ prior / 20000 - p.noise_covariance(6).to_dense()).abs().max() <= bound


def test_noise_prediction_with_coloured_noise_is_the_whitened_residual():
    shape = (1, 8, 8)
    sigma = covariance("spectral", shape)
    p = ld.LinearDiffusion([0.5 * ld.Identity(shape)], [0.0, sigma], [1.0, 0.5])
    x0, noise = draw(shape, 2), draw(shape, 2, seed=1)
    x_1 = p.diffuse(x0, 1, noise=noise)
    for t in (1, torch.tensor([1, 1])):
        torch.testing.assert_close(ld.Denoiser(lambda x, t_index: noise, p, "noise")(x_1, t), x0)
    with pytest.raises(ValueError, match="noise that is not isotropic"):
        ld.Denoiser(lambda x, t_index: noise, p, "velocity")


@pytest.mark.parametrize("make", [coloured_process, None], ids=["chain", "path"])
def test_covariances_are_known_at_whole_times(make):
    levels = [0.0, covariance("diagonal", (1, 8)), covariance("spectral", (1, 8), 1)]
    path = ld.paths.heat((1, 8), 1.0)
    p = make() if make else ld.LinearDiffusion(path, ld.schedules.CovarianceTable(levels), coupling="shared")
    x0 = draw(p.shape(0), 2)
    batch = torch.tensor([1.0, 1.5])
    for call in (lambda: p.diffuse(x0, 1.5), lambda: p.diffuse(x0, batch), lambda: p.posterior(x0, x0, 2, 1.5)):
        with pytest.raises(ValueError, match=r"[ts]: expected an integer, (since covariances are known|as a chain)"):
            call()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_coloured_noise_with_the_truth_known_keeps_every_marginal(eta):
    """With c_s known exactly, x_s ~ N(μ_s, Σ_s) at every step: here over 5000 samples of one image."""
    p = coloured_process()
    x0 = draw((1, 8, 8), 1)
    denoiser = ld.Denoiser(lambda x, i, size: p.clean(x0, int(i[0])).expand(len(x), -1, -1, -1), p)
    n = 5000
    sampler = ld.DDIMSampler(denoiser, eta=eta, clip=None)
    mean_T = p.operator(0, 6)(x0)
    x = p.add_noise(mean_T.expand(n, -1, -1, -1), 6, draw(p.shape(6), n, seed=3))
    for t in range(6, 1, -1):
        x = sampler.step(x, t, t - 1, generator=torch.Generator().manual_seed(t))
        centred = (x - p.operator(0, t - 1)(x0)).flatten(1)
        cov = p.noise_covariance(t - 1).to_dense()
        bound = 5.5 * float(cov.max()) * math.sqrt(2 / n)
        assert (centred.T @ centred / n - cov).abs().max() <= bound


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, op: ld.transition(op, covariance("diagonal", (2, 3, 4)), s), r"sigma_s: expected a covariance"),
        (lambda s, op: ld.transition(op, s, "one"), "sigma_t: expected a number or a Covariance"),
        (lambda s, op: ld.transition(3.0 * op, s, s), "λmax.* the smallest feasible multiple"),
        (lambda s, op: ld.LinearDiffusion([op, op], [0.0, s, 2.0, 3.0]), "schedule: expected one of 2 steps"),
        (lambda s, op: ld.LinearDiffusion([op, 2.0 * op], [0.0, s, s]), "at t = 2, got λmax"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(covariance("diagonal", SHAPE), ld.Identity(SHAPE))
