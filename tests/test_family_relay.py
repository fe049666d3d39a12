"""Relay Diffusion, against the numbers of its own code (all in float64)."""

from __future__ import annotations

import math

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.losses import EDM
from lineardiffusion.samplers import Draws
from vectors import load, relative_error

TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def reference(shared):
    return load(shared / "vectors" / "families" / "relay_diffusion.safetensors")[1]


@pytest.fixture(scope="module")
def process():
    return ld.families.RelayDiffusion((1, 12, 12))


def whitened(process, t, noise):
    """The white noise that becomes this noise of unit σ."""
    sigma = process.sigma(t)
    return process.noise_covariance(t).inverse_root()(sigma * noise)


def total(tensors, white, block):
    """Their two draws, ε + s B ε', the second by circular shifts."""
    shifted = sum(tensors[block].roll((i, j), (-2, -1)) for i in range(4) for j in range(4))
    return tensors[white] + 0.15 * shifted / 4


def test_forward(reference, process):
    """Coefficients, blurs, block noise, training times, states and losses; all tensors but those of the sampler."""
    x0 = reference["x0"]
    coefficients = process.path.basis.analyse(x0).permute(0, 1, 2, 4, 3, 5).reshape(x0.shape)  # they keep them in place
    assert relative_error(coefficients, reference["dct"]) <= TOLERANCE
    for width in (0, 0.3, 1.5, 3):
        u = 2 / math.pi * math.asin(math.sqrt(width / 3))
        assert relative_error(process.clean(x0, u), reference[f"blur{width}"]) <= TOLERANCE
    block = total({"white": torch.zeros_like(x0), "block": reference["block.white"]}, "white", "block") / 0.15
    assert relative_error(block, reference["block.noise"]) <= TOLERANCE
    denoiser = ld.Denoiser(lambda x, u: 0.9 * x, process, "data", "time")
    for j in range(5):
        u = max(float(reference[f"u{j}.u"]), process.drawn_times.least)  # the first, 0, is below the least
        assert process.sigma(u) == pytest.approx(float(reference[f"u{j}.sigma"]), rel=TOLERANCE)
        noise = whitened(process, u, total(reference, f"u{j}.white", f"u{j}.block_white"))
        assert relative_error(process.diffuse(x0, u, noise), reference[f"u{j}.x_t"]) <= TOLERANCE
        loss = ld.denoising_loss(denoiser, x0, u, noise, EDM(0.5)).mean()
        assert float(loss) == pytest.approx(float(reference[f"u{j}.loss_mean"]), rel=TOLERANCE)


def test_sampler(reference, process):
    """Times, gains, start, and each stored step with its predictor; the toy network's outputs are looked up."""
    times = process.karras_times(12)
    sigmas = process.schedule.sigma(torch.tensor(times, dtype=torch.float64))
    assert relative_error(sigmas, reference["sampler.sigmas"]) <= TOLERANCE
    for k in (0, 2, 3):
        assert relative_error(process.path.gains(times[k]), reference[f"sampler.alpha{k}"]) <= TOLERANCE
    start = whitened(process, times[0], total(reference, "sampler.start_white", "sampler.start_block_white"))
    x = process.add_noise(reference["sampler.low_resolution"], times[0], start)
    assert relative_error(x, reference["sampler.0.x"]) <= TOLERANCE
    assert reference["sampler.steps_kept"].tolist() == [0, 1, 2]
    for k in range(3):
        called = []

        def network(x, time, k=k, called=called):
            called.append(x)
            return reference[f"sampler.{k}.{('net', 'predictor_net')[len(called) - 1]}"]

        sampler = process.sampler(ld.Denoiser(network, process, "data", "time"), times)
        t, s = times[k], times[k + 1]
        first = whitened(process, s, total(reference, f"sampler.{k}.white", f"sampler.{k}.block_white"))
        second = whitened(process, s, total(reference, f"sampler.{k}.white2", f"sampler.{k}.block_white2"))
        draws = Draws(kernel=lambda like, z=second: z, other=lambda like, z=first: z)
        result, _ = sampler.advance(reference[f"sampler.{k}.x"], t, s, draws, sampler.history(), {})
        assert relative_error(called[1], reference[f"sampler.{k}.predictor"]) <= TOLERANCE
        assert relative_error(result, reference[f"sampler.{k}.next"]) <= TOLERANCE


@pytest.mark.filterwarnings("ignore:x_T is not noise")  # the paper starts from an image
def test_process_fits_together():
    ld.testing.check_process(ld.families.RelayDiffusion((1, 8, 4), blur_sigma=1.0), samples=200)


def test_covariance_is_dense():
    """Σ = σ² (I + s² BBᵀ), B by circular shifts."""
    process = ld.families.RelayDiffusion((2, 8, 4))
    units = torch.eye(64, dtype=torch.float64).reshape(64, 2, 8, 4)
    box = sum(units.roll((i, j), (-2, -1)) for i in range(4) for j in range(4)).reshape(64, 64) / 4
    expected = process.sigma(0.7) ** 2 * (torch.eye(64, dtype=torch.float64) + 0.15**2 * box.T @ box)
    torch.testing.assert_close(process.noise_covariance(0.7).to_dense().double(), expected, rtol=1e-10, atol=1e-12)


def test_loss_times_and_network(generator):
    """F preconditioned with σ, ¼ ln σ told, weight (σ² + σ_d²)/(σσ_d)²; u uniform but for the least."""
    process = ld.families.RelayDiffusion((1, 8, 8))
    told = []

    def network(x, c_noise):
        told.append(c_noise)
        return 0.3 * x

    denoiser = process.denoiser(network)
    x0 = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=generator)
    result = process.loss(denoiser, x0, torch.Generator().manual_seed(5))
    again = torch.Generator().manual_seed(5)
    u = process.drawn_times.sample(process, 6, again)
    x = process.diffuse(x0, u, generator=again)
    sigma = process.schedule.sigma(u)[:, None, None, None]
    v = (sigma**2 + 0.25).sqrt()
    estimate = 0.25 / v**2 * x + sigma * 0.5 / v * 0.3 * x / v
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(result, (weight * (estimate - x0) ** 2).flatten(1).mean(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(told[0], sigma.flatten().log() / 4)
    many = process.drawn_times.sample(process, 20000, generator)
    least = 0.93 * 0.5 * math.erfc(-(math.log(7.5e-3) + 1.2) / 1.2 / math.sqrt(2))
    assert float(many.min()) == pytest.approx(least)
    assert float(many.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(EDM(0.5)(process.snr(torch.tensor([least])))) < 1e5
    with pytest.raises(ValueError, match="loss of RelayDiffusion"):
        ld.denoising_loss(denoiser, x0, 0.5)


def test_samples_and_errors():
    process = ld.families.RelayDiffusion((3, 32, 32))
    sampler = process.sampler(process.denoiser(lambda x, c_noise: torch.zeros_like(x)), process.karras_times(18))
    start = process.start(torch.rand(2, 3, 8, 8), sampler.times[0], torch.Generator().manual_seed(0))
    assert sampler(2, seeds=[0, 1], start=start, progress=False).isfinite().all()
    assert len(process.sampler(sampler.denoiser).times) - 1 == sum(
        1 for k in range(200) if (80 ** (1 / 7) + k / 199 * (0.008 ** (1 / 7) - 80 ** (1 / 7))) ** 7 < 0.9
    )
    assert ld.from_config(process.to_config()) == process
    again = ld.from_config(sampler.to_config(), network=lambda x, c_noise: torch.zeros_like(x))
    assert again == sampler
    assert process != ld.families.RelayDiffusion((3, 32, 32), blur_sigma=2.0)
    with pytest.raises(ValueError, match="low_resolution"):
        process.start(torch.rand(2, 3, 9, 8), 0.5)
    for arguments, message in (
        ({"factor": 5}, "block"),
        ({"prob_length": 1.0}, "prob_length"),
        ({"blur_sigma": -1.0}, "blur_sigma"),
        ({"block_scale": -0.1}, "block_scale"),
    ):
        with pytest.raises(ValueError, match=message):
            ld.families.RelayDiffusion((3, 32, 32), **arguments)
