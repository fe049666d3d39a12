"""The training loss: the formulas of the papers, its weightings, and what it is a weighting of."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest
import torch
from examples.experiment.config import WEIGHTINGS, OptimizationConfig

import lineardiffusion as ld
from test_denoiser import FINE, KEEPING, PROCESSES, PYRAMID, draw

HALF = 0.3


def network(x, time, size=None):
    return HALF * x.new_ones(len(x), x.shape[1], *(x.shape[2:] if size is None else size))


def mean(error):
    return error.square().flatten(1).mean(1)


# ------------------------------------------------------------------------------------------- the losses of the papers


@pytest.mark.parametrize("each", [False, True])
def test_the_simple_loss_of_ddpm(each):
    """‖ε − ε_θ(√ᾱ x_0 + √(1 − ᾱ) ε, t)‖², Eq. 14 of Ho et al. (2020)."""
    p = PROCESSES["ddpm"]
    d = ld.Denoiser(lambda x, time: HALF * x, p, "noise")
    x0, noise = draw(KEEPING), draw(KEEPING, seed=1)
    times = [2, 30, 59] if each else [30] * 3
    x_t = torch.stack([p.signal_scale(t) * x + p.sigma(t) * e for t, x, e in zip(times, x0, noise, strict=True)])
    loss = ld.denoising_loss(d, x0, torch.tensor(times) if each else 30, noise, ld.SNR())
    torch.testing.assert_close(loss, mean(noise - HALF * x_t), rtol=1e-12, atol=0)


def test_the_velocity_loss():
    """‖v − v_θ‖², v = α ε − σ x (Salimans & Ho, 2022, App. D)."""
    for p, times in ((PROCESSES["ddpm"], [1, 30, 60]), (PROCESSES["zero snr"], [1, 30, 60])):
        x0, noise = draw(KEEPING), draw(KEEPING, seed=1)
        d = ld.Denoiser(lambda x, time: HALF * x, p, "velocity")
        for i, t in enumerate(times):
            a, sigma, rows = p.signal_scale(t), p.sigma(t), slice(i, i + 1)
            v, x_t = a * noise - sigma * x0, a * x0 + sigma * noise
            loss = ld.denoising_loss(d, x0, torch.tensor(times), noise, ld.Velocity())
            torch.testing.assert_close(loss[rows], mean(v - HALF * x_t)[rows], rtol=1e-12, atol=0)
            loss = ld.denoising_loss(d, x0, t, noise, ld.Velocity())
            torch.testing.assert_close(loss, mean(v - HALF * x_t), rtol=1e-12, atol=0)


def test_the_flow_matching_loss():
    """‖(x_1 − x_0) − v_θ((1 − t) x_0 + t x_1, t)‖² of data x_0 and noise x_1, at t = 1 too."""
    p = ld.LinearDiffusion(ld.paths.identity(KEEPING), ld.schedules.flow())
    x0, noise, t = draw(KEEPING), draw(KEEPING, seed=1), torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
    d = ld.Denoiser(lambda x, time: time[:, None, None] * x, p, "flow")
    w = t[:, None, None]
    expected = mean(noise - x0 - w * ((1 - w) * x0 + w * noise))
    double = Weighted(lambda x, time: w * x)
    d = ld.Denoiser(double, p, "flow")
    torch.testing.assert_close(ld.denoising_loss(d, x0, t, noise, ld.Flow()), expected, rtol=1e-12, atol=0)


class Weighted(torch.nn.Module):
    """A network with weights in float64, so that it is given float64."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, time):
        return self.weight * self.function(x, time)


def test_the_loss_of_edm():
    """λ(σ) ‖D(x + σ n) − x‖², D and λ of Table 1 of Karras et al. (2022)."""
    p, data = PROCESSES["edm"], 0.7
    x0, noise, t = draw(KEEPING), draw(KEEPING, seed=1), torch.tensor([0.4, 0.6, 0.9], dtype=torch.float64)
    net = Weighted(lambda x, time: (x + time[:, None, None]).sin())
    sigma = p.sigma(t)[:, None, None]
    skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2).sqrt()
    c_in, c_noise = 1 / (sigma**2 + data**2).sqrt(), sigma.flatten().log() / 4
    noisy = x0 + sigma * noise
    denoised = skip * noisy + out * net(c_in * noisy, c_noise)
    expected = ((sigma**2 + data**2) / (sigma * data) ** 2).flatten() * mean(denoised - x0)
    d = ld.Denoiser(net, p, ld.EDMPrediction(data))
    torch.testing.assert_close(ld.denoising_loss(d, x0, t, noise, ld.losses.EDM(data)), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(d.estimate(noisy, t)[0], denoised, rtol=1e-12, atol=1e-12)


# -------------------------------------------------------------------------------------- weightings of the clean image


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (ld.MinSNR(5.0), lambda snr: min(snr, 5.0)),
        (ld.MinSNR(0.5), lambda snr: min(snr, 0.5)),
        (ld.SNR(), lambda snr: snr),
        (ld.MaxSNR(5.0), lambda snr: max(snr, 5.0)),
        (ld.MaxSNR(0.5), lambda snr: max(snr, 0.5)),
        (ld.TruncatedSNR(), lambda snr: max(snr, 1.0)),
        (ld.InverseSNR(), lambda snr: 1 / snr),
        (ld.Uniform(), lambda snr: 1.0),
        (ld.Velocity(), lambda snr: 1 + snr),
        (ld.Flow(), lambda snr: (1 + math.sqrt(snr)) ** 2),
        (ld.losses.EDM(0.7), lambda snr: snr + 1 / 0.49),
        (None, lambda snr: min(snr, 5.0)),
    ],
)
def test_weightings_are_of_the_error_of_the_clean_image(weighting, expected):
    x0 = draw(FINE, 4)
    d = ld.Denoiser(network, PYRAMID)
    times = torch.tensor([1, 5, 9, 20])
    weights = torch.tensor([expected(PYRAMID.snr(t)) for t in times.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ld.denoising_loss(d, x0, times, weighting=weighting), weights * mean(HALF - x0))
    for t in (1, 15.5, 40):
        error = mean(HALF - PYRAMID.clean(x0, PYRAMID.before(t)))
        loss = ld.denoising_loss(d, x0, t, weighting=weighting)
        torch.testing.assert_close(loss, expected(PYRAMID.snr(t)) * error)


@pytest.mark.parametrize("name", ["ddpm", "flow", "edm", "heat"])
@pytest.mark.parametrize("prediction", ["clean", "data", "noise", "velocity", "flow", ld.EDMPrediction(0.7)], ids=str)
def test_every_loss_is_the_weighted_error_of_what_is_estimated(name, prediction):
    """w(SNR) ‖ĉ_r − c_r‖², of the ĉ_r that the denoiser returns."""
    p = PROCESSES[name]
    if prediction == "noise" and name == "flow":
        return
    d = ld.Denoiser(lambda x, time: HALF * x, p, prediction)
    x0, noise = draw(KEEPING), draw(KEEPING, seed=1)
    for t in (1, 30, 60) if p.num_steps else (0.1, 0.5, 1.0):
        clean, r = d.estimate(p.diffuse(x0, t, noise), t)
        expected = min(p.snr(t), 5.0) * mean(clean - p.clean(x0, r))
        torch.testing.assert_close(ld.denoising_loss(d, x0, t, noise), expected, rtol=1e-8, atol=1e-20)


def test_noise_that_is_not_isotropic_is_predicted_white():
    sigma = ld.GramCovariance(ld.SpectralFilter(KEEPING, torch.linspace(0.7, 1.4, 8)))
    p = ld.LinearDiffusion([0.5 * ld.Identity(KEEPING)], [0.0, sigma], [1.0, 0.5])
    x0, noise = draw(KEEPING), draw(KEEPING, seed=1)
    for t in (1, torch.tensor([1, 1, 1])):
        x_t = 0.5 * x0 + sigma.sqrt(noise)
        d = ld.Denoiser(lambda x, time: noise, p, "noise")
        torch.testing.assert_close(d(x_t, t), x0)
        assert ld.denoising_loss(d, x0, t, noise).max() <= 1e-25
        loss = ld.denoising_loss(ld.Denoiser(lambda x, time: HALF * x, p, "noise"), x0, t, noise, ld.SNR())
        torch.testing.assert_close(loss, mean(HALF * x_t - noise))


def test_programs_know_the_weightings_of_the_clean_image():
    assert set(get_args(get_type_hints(OptimizationConfig)["weighting"])) == set(WEIGHTINGS)
    assert {type(weighting) for weighting in WEIGHTINGS.values()} >= {
        ld.MinSNR, ld.MaxSNR, ld.SNR, ld.InverseSNR, ld.TruncatedSNR, ld.Uniform
    }  # fmt: skip


def test_weights_where_no_signal_is_left():
    snr = torch.tensor([0.0, 0.5, math.inf], dtype=torch.float64)
    assert ld.InverseSNR()(snr).tolist() == [1.0, 2.0, 0.0]
    assert ld.MaxSNR(2.0)(snr).tolist() == [2.0, 2.0, math.inf]


# ------------------------------------------------------------------------------------------------- use, and misuse


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_images_are_computed_in_float32(dtype):
    p = PROCESSES["ddpm"]
    conv = torch.nn.Conv1d(1, 1, 1, bias=False)
    x0, noise = draw(KEEPING, 4).to(dtype), draw(KEEPING, 4, seed=1).float()
    for t in (1, torch.tensor([1, 9, 20, 60])):
        expected = ld.denoising_loss(ld.Denoiser(lambda x, time: conv(x), p), x0.float(), t, noise)
        assert torch.equal(ld.denoising_loss(ld.Denoiser(lambda x, time: conv(x), p), x0, t, noise), expected)


def test_noise_is_drawn_where_it_is_not_given():
    p, x0 = PROCESSES["ddpm"], draw(KEEPING)
    d = ld.Denoiser(lambda x, time: HALF * x, p, "noise")
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(3, *KEEPING, generator=torch.Generator().manual_seed(3)).double()
    assert torch.equal(ld.denoising_loss(d, x0, 7, generator=generator), ld.denoising_loss(d, x0, 7, noise))


def test_gradients_reach_the_network():
    conv = torch.nn.Conv1d(1, 1, 1).double()
    d = ld.Denoiser(lambda x, time: conv(x), PROCESSES["ddpm"], "velocity")
    ld.denoising_loss(d, draw(KEEPING), torch.tensor([1, 30, 60])).sum().backward()
    assert conv.weight.grad.abs().sum() > 0


def test_bad_input():
    d = ld.Denoiser(network, PYRAMID)
    x0 = draw(FINE, 2)
    for weighting in ("snr", 5.0, ld.SNR):
        with pytest.raises(TypeError, match=r"weighting: expected a function of the SNR, such as ld.MinSNR\(5.0\)"):
            ld.denoising_loss(d, x0, 3, weighting=weighting)
    with pytest.raises(ValueError, match="x0: expected finite"):
        ld.denoising_loss(d, x0 * math.nan, 3)
    with pytest.raises(ValueError, match="x0: expected shape"):
        ld.denoising_loss(d, x0[:, :, :4], 3)
    with pytest.raises(ValueError, match=r"noise: expected shape \(2, 2, 4, 3\), got \(2, 2, 8, 6\)"):
        ld.denoising_loss(d, x0, 40, x0)
    with pytest.raises(ValueError, match="t: expected"):
        ld.denoising_loss(d, x0, 0)
    for weighting in (ld.MinSNR, ld.MaxSNR):
        for gamma in (0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match="gamma: expected a positive number"):
                weighting(gamma)
    with pytest.raises(ValueError, match="sigma_data: expected a positive number"):
        ld.losses.EDM(0.0)
