"""Offset and pyramid noise against dense algebra, and the noise as programs draw it; there are no numbers of theirs."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import lineardiffusion as ld
from lineardiffusion.families import DDPM, OffsetNoise, PyramidNoise
from test_operators import draw

SHAPE = (2, 4, 8)


def each_channel(covariance: torch.Tensor) -> torch.Tensor:
    return torch.kron(torch.eye(2, dtype=torch.float64), covariance)


def offset(strength: float = 0.3) -> torch.Tensor:
    return each_channel(torch.eye(32, dtype=torch.float64) + strength**2)


def pyramid(discount: float = 0.9, levels: int = 2) -> torch.Tensor:
    """From what draws it: white noise, and that of each size, repeated."""
    total = torch.eye(32, dtype=torch.float64)
    for level in range(levels + 1):
        sizes = (4 >> level, 8 >> level)
        units = torch.eye(math.prod(sizes), dtype=torch.float64).reshape(-1, 1, *sizes)
        columns = F.interpolate(units, (4, 8), mode="nearest").reshape(-1, 32)
        total = total + discount ** (2 * level) * columns.T @ columns
    return each_channel(total * 32 / total.trace())


CASES = {
    "offset": (OffsetNoise(SHAPE, 0.3, num_steps=20), offset(), math.sqrt(1.09)),
    "pyramid": (PyramidNoise(SHAPE, num_steps=20), pyramid(), 1.0),
    "one level": (PyramidNoise(SHAPE, 0.5, 1, num_steps=20), pyramid(0.5, 1), 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_covariance_and_posterior(name):
    p, noise, rms = CASES[name]
    ddpm, (s, t) = DDPM(SHAPE, num_steps=20), (6, 9)
    cov_s, cov_t = ddpm.sigma(s) ** 2 * noise, ddpm.sigma(t) ** 2 * noise
    torch.testing.assert_close(p.noise_covariance(t).to_dense(), cov_t)
    assert p.sigma(t) == pytest.approx(rms * ddpm.sigma(t))
    a = p.signal_ratio(s, t)
    gain = a * cov_s @ torch.linalg.inv(cov_t)
    x_t, mean = draw(SHAPE, 3), draw(SHAPE, 3, seed=1)
    q = p.posterior(x_t, mean, t, s)
    torch.testing.assert_close(q.mean.flatten(1), mean.flatten(1) + (x_t - a * mean).flatten(1) @ gain.T)
    torch.testing.assert_close(q.covariance.to_dense(), cov_s - a * gain @ cov_s)
    torch.testing.assert_close(p.transition(t, s).to_dense(), cov_t - a**2 * cov_s)


@pytest.mark.parametrize("name", CASES)
def test_networks_predict_the_noise_as_it_is(name):
    """What DDPM's programs compute, with n in the place of ε."""
    p, noise, rms = CASES[name]
    n = (draw(SHAPE, 2).flatten(1) @ torch.linalg.cholesky(noise).T).reshape(2, *SHAPE)
    x0, ddpm = draw(SHAPE, 2, seed=1), DDPM(SHAPE, num_steps=20)
    x_t = ddpm.diffuse(x0, 9, noise=n)
    torch.testing.assert_close(p.denoiser(lambda x, t: n)(x_t, 9), x0)
    white = draw(SHAPE, 2, seed=2)
    n = p.add_noise(torch.zeros_like(white), 9, white) / ddpm.sigma(9)
    loss = ld.denoising_loss(p.denoiser(lambda x, t: 0 * x), x0, 9, white, p.weighting)
    torch.testing.assert_close(loss, n.square().flatten(1).mean(1) / rms**2)


@pytest.mark.parametrize("make", [OffsetNoise, PyramidNoise])
def test_process_and_sampling(make):
    ld.testing.check_process(make((1, 4, 4), num_steps=30, schedule="cosine"), samples=300)
    p = make((3, 32, 32))
    d = p.denoiser(lambda x, t: 0 * x)
    assert p.sampler(d, 5)(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
    assert p.loss(d, torch.randn(2, 3, 32, 32)).shape == (2,)
    assert p == ld.from_config(p.to_config())


def test_no_offset_is_ddpm():
    p, ddpm = OffsetNoise(SHAPE, 0.0, num_steps=20), DDPM(SHAPE, num_steps=20)
    x0, noise = draw(SHAPE, 2), draw(SHAPE, 2, seed=1)
    torch.testing.assert_close(p.diffuse(x0, 9, noise=noise), ddpm.diffuse(x0, 9, noise=noise))


def test_bad_arguments():
    with pytest.raises(ValueError, match="strength: expected a number ≥ 0"):
        OffsetNoise(SHAPE, -0.1)
    with pytest.raises(ValueError, match=r"discount: expected a number in \[0, 1\]"):
        PyramidNoise(SHAPE, 1.5)
    with pytest.raises(ValueError, match="levels: expected sizes that can be halved 3 times"):
        PyramidNoise(SHAPE, levels=3)
