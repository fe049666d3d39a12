"""Noise levels at the edge of what is feasible: accepted by the norm, by the check and by the sampler alike.

Where σ_t² = σ_s² λmax the covariance of the posterior vanishes in some direction. A structured operator then draws
nothing there. With an operator of unknown structure, known to n eps, it is so within the rounding of what its products
say: a variance below 10 eps σ_s² counts as none, a standard deviation of 1.1e-3 σ_s in float32 that could not be told
from rounding.
"""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import lineardiffusion as ld
from conftest import ZOO
from lineardiffusion.testing import Opaque
from test_operators import draw


class Neighbours(ld.LinearOperator):
    """x + its right neighbour: the largest eigenvalues lie close together."""

    def apply(self, x):
        return x + F.pad(x, (0, 1))[..., 1:]


def rotation(n: int) -> ld.Matrix:
    q, _ = torch.linalg.qr(draw((n, n)))
    return ld.Matrix(q, (n,), (n,))


def heat(shape: tuple[int, ...], sigma: float = 1.5) -> ld.SpectralFilter:
    frequencies = [math.pi * torch.arange(n, dtype=torch.float64) / n for n in shape[1:]]
    squared = sum(f.square().reshape(-1, *[1] * (len(frequencies) - 1 - i)) for i, f in enumerate(frequencies))
    return ld.SpectralFilter(shape, torch.exp(-squared * sigma**2 / 2))


# Operators, and the share of the directions at t that the posterior leaves nothing to draw in.
EQUAL = {
    "scalar": 0.7**0.5 * ld.Identity((2, 3)),
    "rotation": rotation(5),
    "heat": heat((1, 8, 6)),
    "average pool": 2.0 * ld.AveragePool((1, 4, 4), 2),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("opaque", [False, True], ids=["structured", "opaque"])
@pytest.mark.parametrize("name", list(EQUAL))
def test_equality_is_feasible_and_sampled_exactly(name, opaque, dtype, eta):
    structured = EQUAL[name]
    sigma_s = 0.3
    sigma_t = sigma_s * float(structured.singular_values().max())
    op = Opaque(structured) if opaque else structured
    x_t, mean_s, noise = (
        draw(shape, 3, seed=seed).to(dtype) for seed, shape in enumerate((op.out_shape, op.in_shape, op.in_shape))
    )
    with warnings.catch_warnings():
        if name == "heat" and opaque:
            warnings.simplefilter("ignore", RuntimeWarning)  # a square root at its end, in float32
        sample = ld.ddim_kernel(x_t, mean_s, op, sigma_s, sigma_t, eta).sample(noise).double()
    # In directions of the largest singular value, x_s = μ_s + M⁺ (x_t − M μ_s): nothing is drawn at any η.
    dense = structured.to_dense()
    left, singular, right = torch.linalg.svd(dense, full_matrices=False)
    top = singular > singular.max() * (1 - 1e-9)
    residual = x_t.double().flatten(1) - mean_s.double().flatten(1) @ dense.T
    expected = mean_s.double().flatten(1) @ right[top].T + residual @ left[:, top] / singular[top]
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5
    if opaque and dtype == torch.float32 and name == "heat":
        tolerance = 2e-3 * sigma_s  # as said above
    torch.testing.assert_close(sample.flatten(1) @ right[top].T, expected, rtol=tolerance, atol=tolerance)


@given(st.floats(0.05, 3), st.floats(0.01, 10))
def test_scalars_that_are_feasible_with_equality(scale, sigma):
    """c σ_s need not be representable: the product rounds up or down."""
    op = scale * ld.Identity((2,))
    for opaque in (False, True):
        sample = ld.posterior(
            torch.ones(2), torch.zeros(2), Opaque(op) if opaque else op, sigma, scale * sigma
        ).sample()
        torch.testing.assert_close(sample, torch.full((2,), 1 / scale), rtol=1e-5, atol=2e-3 * sigma)
    assert ld.transition(op, sigma, scale * sigma).sqrt(torch.ones(2)).abs().max() <= 1e-6 * scale * sigma


def test_a_process_at_constant_noise_is_heat_with_equality():
    """DC is never drawn again: whatever happens to the rest, the mean of every state is that of x_T."""
    steps = [heat((1, 6, 6), 0.5)] * 5
    process = ld.LinearDiffusion(steps, [0.0, *[0.4] * 5])
    x_t, mean_s = draw((1, 6, 6), 2), draw((1, 6, 6), 2, seed=1)
    for t, s in ((5, 4), (5, 1), (3, 2)):
        sample = process.posterior(x_t, mean_s, t, s).sample()
        torch.testing.assert_close(sample.mean((1, 2, 3)), x_t.mean((1, 2, 3)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [2, 7, 40, 200, 1000])
def test_the_norm_of_an_opaque_operator_is_feasible(n):
    op = Neighbours((n,), (n,))
    exact = 2 * math.cos(math.pi / (2 * n + 1))
    # Two hundred products do not resolve a thousand eigenvalues that lie within 1e-6 of one another at the top.
    assert exact * (1 - 1e-13) <= op.norm() <= exact * (1 + (1e-6 if n <= 200 else 1e-3))
    process = ld.LinearDiffusion([0.1 * op, op], [0.0, 1.0, op.norm()])
    sample = process.posterior(draw((n,), 2), draw((n,), 2, seed=1), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert torch.isfinite(sample.sample()).all()


def test_opaque_norms_are_bounds_from_above():
    """Over random matrices with spectra of all kinds; too low would let an infeasible process pass."""
    worst_below, worst_above = 0.0, 0.0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        m, n = (int(torch.randint(2, 60, (), generator=generator)) for _ in range(2))
        weight = torch.randn(m, n, generator=generator, dtype=torch.float64)
        if seed % 3 == 0:  # a cluster at the top
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            weight = u @ torch.diag(1 + 1e-4 * s / s.max()) @ v
        op = ld.Matrix(weight, (n,), (m,))
        ratio = Opaque(op).norm() / op.norm()
        worst_below, worst_above = min(worst_below, ratio - 1), max(worst_above, ratio - 1)
    assert worst_below >= -1e-13
    assert worst_above <= 1e-6


@pytest.mark.parametrize("name", ["scaled resize", "dct", "opaque", "composed", "matrix wide", "channel mix"])
def test_the_advised_noise_level_is_accepted_as_printed(name):
    op = ZOO[name]
    with pytest.raises(ValueError, match="smallest feasible σ_t is") as refusal:
        ld.transition(op, 0.37, 0.37 * op.norm() * 0.99)
    advised = float(re.search(r"smallest feasible σ_t is ([\d.e+-]+)", str(refusal.value))[1])
    ld.transition(op, 0.37, advised)
    ld.posterior(draw(op.out_shape, 2), draw(op.in_shape, 2), op, 0.37, advised).sample()
    assert advised <= 0.37 * float(torch.linalg.svdvals(op.to_dense()).max()) * (1 + 1e-5)


def test_the_advised_multiple_of_a_covariance_is_accepted_as_printed():
    op = ld.Resize((1, 6, 6), 3)
    sigma_s, sigma_t = (
        ld.GramCovariance(ld.Diagonal(draw(shape).abs() + 0.5)) for shape in (op.in_shape, op.out_shape)
    )
    with pytest.raises(ValueError, match="smallest feasible multiple") as refusal:
        ld.transition(9.0 * op, sigma_s, sigma_t)
    multiple = float(re.search(r"multiple of Σ_t is ([\d.e+-]+) Σ_t", str(refusal.value))[1])
    ld.transition(9.0 * op, sigma_s, ld.GramCovariance(math.sqrt(multiple) * sigma_t.operator))


def test_infeasible_noise_is_still_refused():
    for op in (0.5 * ld.Identity((3,)), Opaque(0.5 * ld.Identity((3,)))):
        with pytest.raises(ValueError, match="smallest feasible"):
            ld.posterior(torch.zeros(3), torch.zeros(3), op, 1.0, 0.5 * (1 - 1e-5))
        ld.posterior(torch.zeros(3), torch.zeros(3), op, 1.0, 0.5 * (1 - 1e-7)).sample()


# ---------------------------------------------------------------------------------------------- gains that vanish


def gaussian_blur(shape: tuple[int, ...], width: float = 7.0) -> ld.SpectralFilter:
    return heat(shape, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_kernels_of_a_strong_blur_are_bounded(eta, dtype):
    """Gains down to 1e-210, whose squares are zero: σ_t² KKᵀ + C = σ_s² I all the same, and K is no more than
    σ_s/σ_t."""
    blur = gaussian_blur((1, 32, 32))
    mix = ld.ChannelMix(torch.tensor([[0.8, 0.2], [0.1, 0.7]]), ld.SpectralFilter((32, 32), blur.gain))
    for op in (blur, mix, ld.BlockDiagonal([ld.SpectralFilter((32, 32), blur.gain)]), 0.3 * blur):
        zeros, x_t = torch.zeros(op.in_shape, dtype=dtype), draw(op.out_shape).to(dtype)
        kernel = ld.ddim_kernel(x_t, zeros, op, 0.5, 0.6, eta)
        assert torch.isfinite(kernel.mean).all()
        assert kernel.mean.norm() <= 0.5 / 0.6 * x_t.norm() * (1 + 1e-5)
    kernel = ld.ddim_kernel(
        torch.ones(1, 32, 32, dtype=dtype), torch.zeros(1, 32, 32, dtype=dtype), blur, 0.5, 0.6, 0.0
    )
    torch.testing.assert_close(kernel.mean, torch.full((1, 32, 32), 0.5 / 0.6, dtype=dtype))  # DC is let through


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.9])
def test_the_marginal_is_kept_where_gains_span_all_magnitudes(eta):
    gains = torch.tensor([1.0, 1e-3, 1e-8, 1e-80, 1e-155, 1e-170, 0.0], dtype=torch.float64)
    op = ld.Diagonal(gains)
    kernel = ld.ddim_kernel(
        torch.eye(7, dtype=torch.float64), torch.zeros(7, 7, dtype=torch.float64), op, 0.5, 0.6, eta
    )
    gain = kernel.mean.diagonal()
    torch.testing.assert_close(
        0.36 * gain.square() + kernel.covariance.to_dense().diagonal(), torch.full((7,), 0.25).double()
    )
