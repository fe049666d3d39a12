"""f-DM for linear transformations, of which there is no public code: compared with its definition, in dense algebra."""

from __future__ import annotations

import json
import math

import pytest
import scipy.fft
import torch
from torch.nn import functional as F

import lineardiffusion as ld
from lineardiffusion.families import FDM, BlurStages
from test_operators import draw


def test_stages_pass_into_smaller_images():
    """c_t of each stage by pooling and repeating, the rescaled signal-to-noise ratio, and nothing lost at a change."""
    process = FDM((2, 8, 8), 3, 30)
    assert process.shape_changes() == [10, 20]
    image = draw((2, 8, 8), 3)
    x0 = image
    for k in range(3):
        for t in (10 * k, 10 * k + 3, 10 * k + 9):
            w = (t - 10 * k) / 10 if k < 2 else 0.0
            repeated = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2)
            torch.testing.assert_close(process.clean(x0, t), (1 - w) * image + w * repeated)
            if t:
                assert process.snr(t) == pytest.approx(
                    4**k * (process.schedule.signal(t) / process.schedule.sigma(t)) ** 2
                )
                assert process.sigma(t) == process.schedule.sigma(t)
        image = F.avg_pool2d(image, 2)


def test_the_posterior_over_a_change_of_size():
    """Bayes' rule for x_t = M x_s + n, M = (a_t/a_s) 2 D diag(1, detail gone)."""
    process = FDM((1, 4, 4), 2, 10)
    s, t = 4, 5
    signal = [process.schedule.signal(u) for u in (s, t)]
    pool = ld.AveragePool((1, 4, 4), 2).to_dense()
    matrix = 2 * signal[1] / signal[0] * pool  # of the detail, a fifth of which is left at s, M sees nothing
    torch.testing.assert_close(process.operator(s, t).to_dense(), matrix)
    sigma_s, sigma_t = process.sigma(s), process.sigma(t)
    added = sigma_t**2 * torch.eye(4).double() - sigma_s**2 * matrix @ matrix.T
    covariance = torch.linalg.inv(torch.eye(16).double() / sigma_s**2 + matrix.T @ torch.linalg.solve(added, matrix))
    x_t, mean_s = draw((1, 2, 2), 2), draw((1, 4, 4), 2)
    told = x_t.flatten(1) @ torch.linalg.solve(added, matrix) + mean_s.flatten(1) / sigma_s**2
    posterior = process.posterior(x_t, mean_s, t)
    torch.testing.assert_close(posterior.mean.flatten(1), told @ covariance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.covariance.to_dense(), covariance, rtol=1e-9, atol=1e-9)


def test_stages_pass_into_blurred_images():
    process = FDM((2, 6, 8), 3, 30, blur_sigmas=[0.5, 2.0])
    x0 = draw((2, 6, 8), 2)
    frequencies = [math.pi * torch.arange(n).double() / n for n in (6, 8)]
    squared = frequencies[0][:, None] ** 2 + frequencies[1] ** 2

    def blurred(sigma):
        z = torch.from_numpy(scipy.fft.dctn(x0.numpy(), axes=(-2, -1), norm="ortho")) * torch.exp(
            -squared * sigma**2 / 2
        )
        return torch.from_numpy(scipy.fft.idctn(z.numpy(), axes=(-2, -1), norm="ortho"))

    for t, before, after, w in (
        (3, 0, 0.5, 0.3),
        (10, 0.5, 2.0, 0.0),
        (17, 0.5, 2.0, 0.7),
        (20, 2, 2, 0),
        (30, 2, 2, 0),
    ):
        torch.testing.assert_close(process.clean(x0, t), (1 - w) * blurred(before) + w * blurred(after))


@pytest.mark.parametrize("blur_sigmas", [None, [0.5, 1.0]])
def test_process(blur_sigmas):
    process = FDM((1, 8, 8), 3, 60, blur_sigmas=blur_sigmas)
    ld.testing.check_process(process, samples=200)
    assert process == FDM((1, 8, 8), 3, 60, blur_sigmas=blur_sigmas) != FDM((1, 8, 8), 2, 60)
    assert ld.from_config(json.loads(json.dumps(process.to_config()))) == process


def test_sampling_and_loss(generator):
    for process in (FDM((3, 32, 32), num_steps=30), FDM((3, 32, 32), num_steps=30, blur_sigmas=[1, 2])):
        denoiser = process.denoiser(lambda x, index, size=(32, 32): x.new_zeros(len(x), 3, *size))
        assert process.sampler(denoiser, steps=6)(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
        x0 = torch.rand(4, 3, 32, 32)
        loss = process.loss(denoiser, x0, generator.manual_seed(0))
        t = process.drawn_times.sample(process, 4, torch.Generator().manual_seed(0))
        weights = process.snr(t).clamp(max=5)
        torch.testing.assert_close(loss, weights.float() * process.clean(x0, t - 1).square().flatten(1).mean(1))
    assert process.sampler(denoiser).times == list(range(30, -1, -1))
    ddpm, x0 = FDM((1, 8), 1, 10), draw((1, 8), 2)
    torch.testing.assert_close(ddpm.clean(x0, 10), x0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FDM((1, 8, 8), 0), "stages: expected 1 ≤ stages"),
        (lambda: FDM((1, 6, 6), 3), "levels: expected sizes that can be halved 2 times"),
        (lambda: FDM((1, 8, 8), 3, blur_sigmas=[1.0]), "blur_sigmas: expected one fewer than 3 stages"),
        (lambda: FDM((1, 8, 8), 3, blur_sigmas=[2.0, 1.0]), "sigmas, changes: expected ascending"),
        (lambda: BlurStages((1, 8), [1.0], [0.0]), "sigmas, changes: expected ascending"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
