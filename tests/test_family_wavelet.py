"""WaveDiff and WSGM: no numbers of their code are at hand; both are DDPM in orthonormal coordinates, as is tested."""

from __future__ import annotations

import math

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import WSGM, BandNetwork, WaveletDiffusion
from lineardiffusion.families.wavelet import bands, image_of
from test_operators import draw


def test_bands_are_sums_and_differences():
    x = draw((2, 4, 6), 3)
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    expected = torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2
    torch.testing.assert_close(bands(x), expected)
    torch.testing.assert_close(image_of(bands(x)), x)
    torch.testing.assert_close(bands(x[0]), expected[0])


def test_schedule_is_the_published_one():
    """Of 1 − β_t = ᾱ(u_t)/ᾱ(u_{t−1}) with ln ᾱ(u) = −½ u² (20 − 0.1) − 0.1 u, as their code has it."""
    process = WaveletDiffusion((1, 4, 4))
    u = torch.arange(5).double() / 4 * (1 - 1e-3) + 1e-3
    alpha_bar = torch.exp(-0.5 * u**2 * 19.9 - 0.1 * u)
    cumulative = (alpha_bar[1:] / alpha_bar[:-1]).cumprod(0)
    for t in range(1, 5):
        assert process.signal_scale(t) == pytest.approx(math.sqrt(cumulative[t - 1]), rel=1e-10)
        assert process.sigma(t) == pytest.approx(2 * math.sqrt(1 - cumulative[t - 1]), rel=1e-10)


def test_it_is_ddpm_of_halved_bands():
    """Diffusion and each step, with the noise of the coordinates."""
    process = WaveletDiffusion((3, 8, 8))
    z0, noise = bands(draw((3, 8, 8), 2)) / 2, draw((12, 4, 4), 2, seed=1)
    output = draw((12, 4, 4), 2, seed=2)
    given = []
    denoiser = process.denoiser(lambda z, index: given.append((z, index)) or output)
    sampler = process.sampler(denoiser)
    assert sampler.times == [4, 3, 2, 1, 0]
    for t in (4, 3, 2, 1):
        a, sigma = process.signal_scale(t), process.sigma(t) / 2
        z_t = a * z0 + sigma * noise
        x_t = process.diffuse(image_of(2 * z0), t, noise=image_of(noise))
        torch.testing.assert_close(bands(x_t) / 2, z_t)
        fresh = draw((12, 4, 4), 2, seed=3)
        x_s = sampler.step(x_t, t, t - 1, noise=image_of(fresh))
        torch.testing.assert_close(given[-1][0], z_t)
        assert given[-1][1].tolist() == [t - 1] * 2
        a_s, sigma_s = process.signal_scale(t - 1), process.sigma(t - 1) / 2
        ratio = a / a_s
        mean = a_s * output + ratio * sigma_s**2 / sigma**2 * (z_t - a * output)
        deviation = sigma_s * math.sqrt(1 - (ratio * sigma_s / sigma) ** 2)
        torch.testing.assert_close(bands(x_s) / 2, mean + deviation * fresh)
    ld.testing.check_process(process, samples=200)


def test_loss_state_dict_and_samples(generator):
    process = WaveletDiffusion((3, 32, 32))
    network = torch.nn.Conv2d(12, 12, 1)
    denoiser = process.denoiser(ByImages(network))
    assert isinstance(denoiser.network, BandNetwork)
    assert "network.network.network.weight" in denoiser.state_dict()
    assert process.sampler(denoiser)(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
    x0 = torch.rand(4, 3, 32, 32)
    silent = process.denoiser(lambda z, index: torch.zeros_like(z))
    torch.testing.assert_close(process.loss(silent, x0, generator), x0.square().flatten(1).mean(1))


class ByImages(torch.nn.Module):
    """A network that takes no notice of time."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z, time):
        return self.network(z)


def test_scales_of_a_cascade(generator):
    """Images come back from what they are split into; of a known law p(low) p(detail | low) is what is sampled."""
    deviations = [0.5 + 0.25 * i for i in range(6)]
    process = WSGM((2, 8, 6), 20, deviations=deviations)
    assert process.shape(20) == (6, 4, 3)
    x = draw((2, 8, 6), 5)
    low, detail = process.split(x)
    torch.testing.assert_close(low, 2 * ld.AveragePool((2, 8, 6), 2)(x))
    scale = torch.tensor(deviations).double()[:, None, None]
    torch.testing.assert_close(torch.cat([low, detail * scale], 1), bands(x))
    torch.testing.assert_close(process.join(low, detail), x)
    told = []
    denoiser = process.denoiser(lambda x, index, low: told.append(low) or torch.zeros_like(x))
    low, detail = process.split(x.float())
    loss = process.loss(denoiser, detail, generator, low=low)
    torch.testing.assert_close(told[0], low.float())
    state = torch.Generator().manual_seed(0)
    process.drawn_times.sample(process, 5, state)
    noise = torch.randn(5, 6, 4, 3, generator=state)
    torch.testing.assert_close(loss, noise.square().flatten(1).mean(1))
    # Details that are half of one band's sums, and nothing else: the optimal network of N(low/2, 0) knows them.
    known = WSGM((1, 4, 4), 10)
    optimal = known.denoiser(lambda x, index, low: (x - a(known, index) * target(low)) / s(known, index))
    drawn = known.sampler(optimal)(3, seeds=[0, 1, 2], progress=False, low=(given := draw((1, 2, 2), 3).float()))
    torch.testing.assert_close(drawn, target(given), rtol=1e-4, atol=1e-4)


def target(low):
    return torch.cat([low / 2, 0 * low, 0 * low], 1)


def a(process, index):
    return process.signal_scale(int(index[0]) + 1)


def s(process, index):
    return process.sigma(int(index[0]) + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WaveletDiffusion((3, 7, 8)), "levels: expected sizes that can be halved"),
        (lambda: WaveletDiffusion((3, 8)), r"shape: expected \(C, H, W\)"),
        (lambda: WaveletDiffusion((3, 8, 8), beta_min=30.0), "beta_min: expected at most"),
        (lambda: WSGM((1, 8, 8), deviations=[1.0, 2.0]), "deviations: expected 3 positive numbers"),
        (lambda: WSGM((1, 8, 8)).split(torch.zeros(1, 8, 6)), "x: expected shape"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
