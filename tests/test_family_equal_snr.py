"""EqualSNR against dense algebra; there are no numbers of its code."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import DDPM, EqualSNR
from test_operators import draw

SHAPE = (2, 4, 6)


def dense_spectrum(c: torch.Tensor) -> torch.Tensor:
    """V diag(C) Vᴴ from the matrix of the transform."""
    units = torch.eye(48, dtype=torch.float64).reshape(-1, *SHAPE)
    v = torch.fft.fftn(units, dim=(-2, -1), norm="ortho").flatten(1)
    return (v * c.expand(SHAPE).flatten() @ v.conj().T).real


def test_all_frequencies_have_one_ratio():
    c = EqualSNR.power_law(SHAPE) * 3
    p, ddpm = EqualSNR(SHAPE, c), DDPM(SHAPE, schedule="cosine")
    for t in (1, 300, 1000):
        noise = p.noise_covariance(t).to_dense()
        torch.testing.assert_close(noise, ddpm.sigma(t) ** 2 * dense_spectrum(c) / c.mean())
        ratios = torch.linalg.eigvals(torch.linalg.solve(noise, dense_spectrum(c))).real * p.signal_scale(t) ** 2
        torch.testing.assert_close(ratios, torch.full_like(ratios, float(c.mean()) * ddpm.snr(t)), rtol=1e-6, atol=0)
        assert p.sigma(t) == pytest.approx(ddpm.sigma(t))


def test_posterior_against_dense_algebra():
    p, (s, t) = EqualSNR(SHAPE, num_steps=20), (6, 9)
    cov_s, cov_t = p.noise_covariance(s).to_dense(), p.noise_covariance(t).to_dense()
    a = p.signal_ratio(s, t)
    gain = a * cov_s @ torch.linalg.inv(cov_t)
    x_t, mean = draw(SHAPE, 3), draw(SHAPE, 3, seed=1)
    q = p.posterior(x_t, mean, t, s)
    torch.testing.assert_close(q.mean.flatten(1), mean.flatten(1) + (x_t - a * mean).flatten(1) @ gain.T)
    torch.testing.assert_close(q.covariance.to_dense(), cov_s - a * gain @ cov_s)


def test_process_loss_and_sampling():
    ld.testing.check_process(EqualSNR((1, 4, 4), num_steps=20), samples=300)
    p = EqualSNR((3, 32, 32))
    x0, noise = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    d = p.denoiser(lambda x, t: 0 * x)
    torch.testing.assert_close(ld.denoising_loss(d, x0, 500, noise, p.weighting), noise.square().flatten(1).mean(1))
    d = p.denoiser(lambda x, t: noise)
    torch.testing.assert_close(d(p.diffuse(x0, 500, noise=noise), 500), x0, rtol=1e-4, atol=1e-4)
    assert p.sampler(p.denoiser(lambda x, t: 0 * x), 5)(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
    assert p.loss(d, x0).shape == (2,)
    assert p == ld.from_config(p.to_config())


def test_bad_arguments():
    with pytest.raises(ValueError, match="spectrum: expected positive variances"):
        EqualSNR((1, 4), torch.zeros(4))
    with pytest.raises(ValueError, match="deviations: expected a shape that broadcasts"):
        EqualSNR((1, 4), torch.ones(5))
    with pytest.raises(ValueError, match=r"gain: expected gain\[−k\] = conj\(gain\[k\]\)"):
        EqualSNR((1, 4), torch.arange(1.0, 5.0))


def test_event_of_one_axis():
    assert ld.families.EqualSNR((8,)).diffuse(torch.zeros(2, 8), 500).shape == (2, 8)
