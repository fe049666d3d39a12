"""What is legal but likely wrong warns once, with the remedy: a start that is not noise, and images of 0…255."""

from __future__ import annotations

import warnings

import pytest
import torch

import lineardiffusion as ld
from test_operators import draw
from test_processes import families
from test_sampling import shrinking


def chain_of(operator, last, steps=10):
    return ld.LinearDiffusion([operator] * steps, torch.linspace(0, last, steps + 1))


NOISE_AT_THE_END = {
    "DDPM": lambda: ld.DDPM((3, 4, 4)),
    "linear, 100 steps": lambda: ld.DDPM((3, 4, 4), 100),
    "linear, 5 steps": lambda: ld.DDPM((3, 4, 4), 5),
    "cosine": lambda: ld.DDPM((3, 4, 4), 50, "cosine"),
    "one step": lambda: ld.DDPM((3, 4, 4), 1, "cosine"),
    "blurring": lambda: ld.BlurringDiffusion((3, 4, 4), 50),
    "scale space": lambda: ld.ScaleSpaceDiffusion((3, 16, 16), num_steps=50),
    "orthonormal levels": lambda: ld.ScaleSpaceDiffusion((3, 64, 64), 6, 50, mode="haar"),
    "scales in the chain alone": lambda: chain_of(0.3 * ld.Identity((4,)), 1.0),
    "exploding variance": lambda: chain_of(ld.Identity((4,)), 80.0),
    "nothing is left": lambda: chain_of(ld.Diagonal(torch.zeros(4)), 1.0),
}
SIGNAL_AT_THE_END = {  # and how much of it
    "β for 1000 steps": (lambda: ld.DDPM((3, 4, 4), 100, ld.schedules.linear(100, 1e-4, 0.02)), 0.571),
    "levels": (lambda: ld.ScaleSpaceDiffusion((1, 16), 3, 100, ld.schedules.linear(100, 1e-4, 0.02)), 0.1445),
    "blurring": (lambda: ld.BlurringDiffusion((1, 8), 100, schedule=ld.schedules.linear(100, 1e-4, 0.02)), 0.571),
    "Stable Diffusion": (
        lambda: ld.DDPM(
            (1,),
            schedule=torch.cat([torch.ones(1), 1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2]).cumprod(0),
        ),
        0.00468,
    ),
    "a mask": (lambda: chain_of(ld.Diagonal(torch.linspace(0.9, 1.0, 4)), 1.0), 1.0),
    "opaque": (lambda: chain_of(ld.testing.Opaque(ld.Diagonal(torch.linspace(0.9, 1.0, 4))), 0.5, 3), 4.0),
    "no constant is left": (lambda: chain_of(ld.SpectralFilter((4,), torch.tensor([0.0, 0.0, 0.5, 1.0])), 1.0), 1.0),
    "coloured noise": (
        lambda: ld.LinearDiffusion(
            [0.5 * ld.Identity((2,))], [0.0, ld.GramCovariance(ld.Diagonal(torch.tensor([1.0, 2.0])))]
        ),
        0.25,
    ),
}


@pytest.mark.parametrize("make", NOISE_AT_THE_END.values(), ids=NOISE_AT_THE_END)
def test_a_start_that_is_noise_does_not_warn(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process = make()
        process.prior(1)
        process.check_prior()
    assert process.terminal_snr() <= 2e-3


@pytest.mark.parametrize(("make", "snr"), SIGNAL_AT_THE_END.values(), ids=SIGNAL_AT_THE_END)
def test_a_start_that_is_not_noise_warns_with_the_figure(make, snr):
    process = make()
    assert process.terminal_snr() == pytest.approx(snr, rel=2e-3)
    figure = f"= {process.terminal_snr():.3g} is left"
    with pytest.warns(UserWarning, match=rf"x_T is not noise: .*{figure}.*process.diffuse\(images, ") as caught:
        process.prior(1)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process.prior(1)
        process.check_prior()


def test_a_start_that_is_not_noise_warns_once():
    p = ld.DDPM((1, 4, 4), 100, ld.schedules.linear(100, 1e-4, 0.02))  # ᾱ_T = 0.36
    sampler = ld.DDIMSampler(shrinking(p), steps=3)
    with pytest.warns(UserWarning, match=r"x_T is not noise: a signal-to-noise ratio of .* = 0.571 .*process.diffuse"):
        sampler(1, seeds=[0], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler(1, seeds=[0], progress=False)
        ld.AncestralSampler(shrinking(p), steps=3)(1, progress=False)
        p.prior(2)


def test_steps_from_data_in_the_place_of_noise_do_not_warn():
    p = ld.DDPM((1, 4, 4), 10, ld.schedules.linear(10, 1e-4, 0.02))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x_T = p.diffuse(draw(p.shape(0), 2), 10)
        ld.AncestralSampler(shrinking(p)).step(x_T, 10, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("times", [3, torch.tensor([1, 9, 20, 60])], ids=["one time", "times"])
def test_images_of_0_to_255_warn_once(times, dtype):
    process = families()["DDPM"]
    images = (127.5 * (1 + draw(process.shape(0), 4)).clamp(0, 2)).to(dtype)
    denoiser = ld.Denoiser(lambda x, t_index: x, process)
    with pytest.warns(UserWarning, match=r"x0: expected values of about ±1, got 0….* x / 127.5 - 1"):
        ld.denoising_loss(denoiser, images, times)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process.diffuse(images, times)


@pytest.mark.parametrize(
    "data",
    [
        torch.zeros(4, 2, 8, 6),
        torch.rand(4, 2, 8, 6, generator=torch.Generator().manual_seed(0)),
        10 * draw((2, 8, 6), 4),
        100 * draw((2, 8, 6), 4),
        torch.ones(4, 2, 8, 6, device="meta"),
        torch.ones(0, 2, 8, 6),
    ],
    ids=["zeros", "[0, 1]", "latents", "large latents", "meta", "empty"],
)
def test_other_data_do_not_warn(data):
    process = families()["DDPM"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process.diffuse(data, 3)


def test_images_of_0_to_255_after_others_warn_too():
    process = families()["DDPM"]
    process.diffuse(torch.zeros(1, *process.shape(0)), 3)
    with pytest.warns(UserWarning, match="0…255"):
        process.diffuse(torch.full((1, *process.shape(0)), 255.0), 3)
