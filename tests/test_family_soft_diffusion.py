"""Soft Diffusion, against dense algebra in float64: its authors published no code, and there are no numbers of it."""

from __future__ import annotations

import math

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import MomentumSampler, SoftDiffusion
from lineardiffusion.families.ihdm import Difference

SHAPE = (1, 4, 5)


@pytest.fixture
def process():
    return SoftDiffusion(SHAPE, num_steps=16, blur_sigma_max=3.0, blur_sigma_min=0.3, sigma_max=0.5, sigma_min=0.2)


def draw(seed, n=2):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blur(sigma):
    """exp(σ²/2 Δ) with the Laplacian of the cosine basis, as a matrix."""
    factors = []
    for n in SHAPE[1:]:
        k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
        basis = torch.cos(math.pi * k * (i + 0.5) / n)
        basis = basis / basis.norm(dim=1, keepdim=True)
        factors.append(basis.T @ torch.diag(torch.exp(-((math.pi * k[:, 0] / n) ** 2) * sigma**2 / 2)) @ basis)
    return torch.kron(*factors)


def dense(operator):
    return operator.to_dense(torch.float64)


def test_process(process):
    """C_t, σ_t, and that there is a transition between any two times."""
    for t in (1, 2, 9, 16):
        sigma = 0.3 * 10 ** ((t - 1) / 15)
        torch.testing.assert_close(dense(process.operator(0, t)), blur(sigma), rtol=1e-10, atol=1e-12)
    expected = [0.0, *(0.2 * 2.5 ** (k / 3) for k in range(4)), *[0.5] * 12]
    torch.testing.assert_close([process.sigma(t) for t in range(17)], expected)
    with pytest.warns(UserWarning, match="prior"):
        ld.testing.check_process(process)


def test_published_levels():
    p = SoftDiffusion((3, 32, 32))
    assert p.end == 1000
    torch.testing.assert_close([p.sigma(t) for t in (1, 250, 251, 1000)], [0.01, 0.1, 0.1, 0.1])
    assert p.prediction == Difference("data")


@pytest.mark.parametrize(("t", "s"), [(4, 3), (3, 1), (12, 11), (9, 2)])
def test_momentum_sampler(process, t, s):
    """The paper's three parts: deblurring, denoising by its score, and noise."""
    x_t, noise, missing = draw(0), draw(1), draw(2)
    d = process.denoiser(lambda x, index: missing)
    blur_t, blur_s = dense(process.operator(0, t)), dense(process.operator(0, s))
    sigma_t, sigma_s = process.sigma(t), process.sigma(s)
    restored = (x_t + missing).flatten(1)
    score = (restored @ blur_t.T - x_t.flatten(1)) / sigma_t**2
    mean = x_t.flatten(1) + restored @ (blur_s - blur_t).T + (sigma_t**2 - sigma_s**2) * score
    theirs = mean + math.sqrt(sigma_t**2 - sigma_s**2) * noise.flatten(1)
    ours = mean + math.sqrt(sigma_s**2 - sigma_s**4 / sigma_t**2) * noise.flatten(1)
    for euler, expected in ((False, ours), (True, theirs)):
        x_s = MomentumSampler(d, euler=euler).step(x_t, t, s, noise=noise)
        torch.testing.assert_close(x_s.flatten(1), expected, rtol=1e-10, atol=1e-12)


def test_momentum_sampler_keeps_marginals(process):
    """With x_0 known: Σ_s from Σ_t, and not quite with the paper's noise."""
    for t, s in ((4, 3), (3, 1)):
        ratio = (process.sigma(s) / process.sigma(t)) ** 2
        kernel = process.shared_step_kernel(t, s, ratio)
        total = ratio**2 * dense(process.noise_covariance(t)) + dense(kernel.covariance)
        torch.testing.assert_close(total, dense(process.noise_covariance(s)))
        theirs = ratio**2 * process.sigma(t) ** 2 + process.sigma(t) ** 2 - process.sigma(s) ** 2
        assert theirs == pytest.approx(process.sigma(s) ** 2 * (1 + (1 - ratio) ** 2 / ratio))


@pytest.mark.parametrize(("t", "s"), [(4, 3), (3, 1), (12, 11), (9, 2)])
def test_posterior(process, t, s):
    """In closed form and, where the transition is not singular, by Bayes' rule."""
    step, eye = dense(process.operator(s, t)), torch.eye(20, dtype=torch.float64)
    variance_t, variance_s = process.sigma(t) ** 2, process.sigma(s) ** 2
    x_t, mean_s = draw(3, 1).flatten(), draw(4, 1).flatten()
    posterior = process.posterior(x_t.reshape(SHAPE), mean_s.reshape(SHAPE), t, s)
    mean = mean_s + variance_s / variance_t * step.T @ (x_t - step @ mean_s)
    covariance = variance_s * eye - variance_s**2 / variance_t * step.T @ step
    torch.testing.assert_close(posterior.mean.flatten(), mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dense(posterior.covariance), covariance, rtol=1e-10, atol=1e-12)
    if variance_s < variance_t:
        information = torch.linalg.inv(variance_t * eye - variance_s * step @ step.T)
        torch.testing.assert_close(covariance, torch.linalg.inv(eye / variance_s + step.T @ information @ step))


def test_momentum_is_the_posterior_where_nothing_is_blurred():
    p = ld.LinearDiffusion(ld.paths.identity(SHAPE), ld.schedules.table([1.0] * 4, [0.0, 0.2, 0.3, 0.5]))
    d = ld.Denoiser(lambda x, index: 0.5 * x, p, "data")
    x_t, noise = draw(0), draw(1)
    expected = ld.AncestralSampler(d).step(x_t, 3, 1, noise=noise)
    torch.testing.assert_close(MomentumSampler(d).step(x_t, 3, 1, noise=noise), expected)


def test_loss(process):
    """‖C_t (h − x_0)‖²/σ_t², and that of the score of which it is another form."""
    x0, missing = draw(0), draw(1)
    d = process.denoiser(lambda x, index: missing)
    losses = process.loss(d, x0, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    t = process.drawn_times.sample(process, 2, generator)
    noise = torch.randn(2, *SHAPE, generator=generator).double()
    for i, time in enumerate(t.tolist()):
        blur_t, sigma = dense(process.operator(0, time)), process.sigma(time)
        x_t = blur_t @ x0[i].flatten() + sigma * noise[i].flatten()
        restored = x_t + missing[i].flatten()
        soft = (blur_t @ (restored - x0[i].flatten()) / sigma).square().mean()
        score = (blur_t @ restored - x_t) / sigma**2
        target = -noise[i].flatten() / sigma
        torch.testing.assert_close(losses[i], soft)
        torch.testing.assert_close(losses[i], sigma**2 * (score - target).square().mean())


def test_loss_has_gradients(process):
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    d = process.denoiser(lambda x, index: network(x))
    process.loss(d, draw(0).float(), torch.Generator().manual_seed(5)).mean().backward()
    assert network.weight.grad.isfinite().all()


def test_configuration(process):
    assert ld.from_config(process.to_config()) == process
    sampler = MomentumSampler(process.denoiser(torch.nn.Identity()), 5, euler=True)
    assert ld.from_config(sampler.to_config(), network=sampler.denoiser.network) == sampler


def test_sample_of_images():
    p = SoftDiffusion((3, 32, 32))
    d = p.denoiser(lambda x, index: torch.zeros_like(x))
    images = torch.rand(4, 3, 32, 32)
    for sampler in (p.sampler(d, 25), MomentumSampler(d, 25, euler=True, clip=(0, 1)), ld.AncestralSampler(d, 25)):
        sample = sampler(2, seeds=[0, 1], prior=images, progress=False)
        assert sample.shape == (2, 3, 32, 32)
        assert sample.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 3}, "num_steps"),
        ({"sigma_min": 0.2}, "sigma_min, sigma_max: expected 0 < least ≤ greatest"),
        ({"blur_sigma_max": 0.01}, "blur_sigma_min, blur_sigma_max"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftDiffusion((1, 8, 8), **arguments)


def test_noise_has_to_be_isotropic():
    p = ld.families.ProgressiveDeblurring(SHAPE, num_steps=4)
    with pytest.raises(ValueError, match="isotropic"):
        MomentumSampler(p.denoiser(torch.nn.Identity()))
