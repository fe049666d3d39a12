"""Blurring Diffusion, against the numbers of a reimplementation of its paper's pseudo-code, all of them in float64."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from vectors import load, relative_error

EXACT = 1e-10
FLOOR = 1e-8  # of variances in their steps


@pytest.fixture(scope="module")
def file(shared):
    return load(shared / "vectors" / "families" / "blurring_diffusion.safetensors")[1]


@pytest.fixture(scope="module")
def process():
    return ld.BlurringDiffusion((1, 12, 12), num_steps=100)


def part(file, name):
    """The tensors of a time or a step."""
    return {key.removeprefix(f"{name}."): value for key, value in file.items() if key.startswith(f"{name}.")}


def test_every_tensor_is_compared(file):
    kinds = {"x0", "t", "alpha", "sigma", "blurred", "white", "x_t", "s", "eps", "frequency_white", "x_s"}
    assert {name.split(".")[-1] for name in file} == kinds


def test_process(file, process):
    """Data are clean at t = 0 here, where theirs have the noise of log-SNR 10."""
    times = file["t"].tolist()
    assert times[0] == 0
    assert float(part(file, "0")["sigma"]) == pytest.approx((1 + torch.e**10) ** -0.5)
    assert process.sigma(0) == 0
    for index, t in enumerate(times):
        theirs = part(file, f"{index}")
        assert relative_error(process.path.gains(t) * theirs["alpha"][0, 0], theirs["alpha"]) <= EXACT
        blurred = process.degradation(0, t)(file["x0"]) * theirs["alpha"][0, 0]
        assert relative_error(blurred, theirs["blurred"]) <= EXACT
        assert relative_error(blurred + theirs["sigma"] * theirs["white"], theirs["x_t"]) <= EXACT
        if t == 0:
            continue
        assert relative_error(torch.tensor(process.sigma(t), dtype=torch.float64), theirs["sigma"]) <= EXACT
        assert relative_error(process.operator(0, t).gain, theirs["alpha"]) <= EXACT
        assert relative_error(process.diffuse(file["x0"], t, theirs["white"]), theirs["x_t"]) <= EXACT


def levels(process, file, t):
    """α of each frequency and σ; at t = 0 theirs."""
    if t == 0:
        return file["0.alpha"], file["0.sigma"]
    return process.operator(0, t).gain, torch.tensor(process.sigma(t), dtype=torch.float64)


@pytest.mark.parametrize("step", range(5))
def test_posterior(file, process, step):
    """With their floors to all digits, and without them, as here, to 4e-6. A step to t = 0 leads to noise in theirs."""
    theirs, basis = part(file, f"step{step}"), ld.bases.Cosine((1, 12, 12))
    t, s = float(theirs["t"]), float(theirs["s"])
    x_t = part(file, f"{file['t'].tolist().index(t)}")["x_t"]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(process, file, t), levels(process, file, s)
    # μ_s by the inverse of the blur itself, as in theirs; a denoiser undoes it with damping.
    mean_s = basis.synthesise(alpha_s / alpha_t * basis.analyse(x_t - sigma_t * theirs["eps"]))

    step_gain = alpha_t / alpha_s
    rest = sigma_t**2 - step_gain**2 * sigma_s**2
    variance = 1 / (1 / (sigma_s**2).clamp(min=FLOOR) + 1 / (rest / step_gain**2).clamp(min=FLOOR)).clamp(min=FLOOR)
    from_t = step_gain * variance / (rest + FLOOR) * basis.analyse(x_t)
    from_s = variance / (sigma_s**2).clamp(min=FLOOR) * basis.analyse(mean_s)
    floored = basis.synthesise(from_t + from_s + variance.sqrt() * theirs["frequency_white"])
    assert relative_error(floored, theirs["x_s"]) <= EXACT
    if s > 0:
        noise = basis.synthesise(theirs["frequency_white"])
        ours = process.posterior(x_t, mean_s, t, s).sample(noise)
        assert relative_error(ours, theirs["x_s"]) <= 4e-6


def test_small_process_fits_together():
    ld.testing.check_process(ld.BlurringDiffusion((2, 3, 4), num_steps=20))


def test_loss_is_of_the_noise():
    p = ld.BlurringDiffusion((1, 6, 6), num_steps=50)
    d = p.denoiser(lambda x, index: torch.zeros_like(x))
    losses = p.loss(d, torch.rand(4, 1, 6, 6, dtype=torch.float64), torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    p.drawn_times.sample(p, 4, generator)
    noise = torch.randn(4, 1, 6, 6, generator=generator).double()
    torch.testing.assert_close(losses, noise.square().mean((1, 2, 3)))


def test_sample_of_images():
    p = ld.BlurringDiffusion((3, 32, 32), num_steps=20)
    d = p.denoiser(lambda x, index: torch.zeros_like(x))
    assert p.sampler(d)(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
