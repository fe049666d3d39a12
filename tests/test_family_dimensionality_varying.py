"""Dimensionality-Varying Diffusion: no numbers of its code are at hand, so all is compared with dense algebra."""

from __future__ import annotations

import json
import math

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import DimensionalityVarying, Fade
from test_operators import draw


def dense(process, t, left):
    """a_t V_l diag(r_t) P_l Vᵀ of one level, by its definition."""
    basis, n = process.path.basis, math.prod(process.shape(0))
    rows = basis.analyse(torch.eye(n).double().reshape(n, *basis.shape)).reshape(n, n).T
    change = process.shape_changes()[0]
    inside = torch.zeros(basis.shape).double()
    inside[..., : basis.shape[-2] // 2, : basis.shape[-1] // 2] = 1
    gain = inside + (1 - inside) * (1 - (1 - left) * min(t / change, 1))
    if t < change:
        return process.schedule.signal(t) * rows.T @ torch.diag(gain.flatten()) @ rows
    return process.schedule.signal(t) * rows[inside.flatten() > 0]


@pytest.mark.parametrize("left", [0.0, 0.2])
@pytest.mark.parametrize("schedule", ["linear", ld.schedules.flow()])
def test_operators_and_the_posterior_at_the_change(left, schedule):
    continuous = schedule != "linear"
    change = 0.4 if continuous else 4
    process = DimensionalityVarying((1, 4, 4), None if continuous else 10, [change], left, schedule)
    for t in (0.1, 0.3, change, 0.8) if continuous else (1, 3, change, 8):
        torch.testing.assert_close(process.operator(0, t).to_dense(), dense(process, t, left), rtol=1e-10, atol=1e-10)
    s, t = (0.3, change) if continuous else (3, change)
    if left or not continuous:  # M = M_t M_s⁻¹, which is no more where all has faded
        matrix = dense(process, t, left) @ torch.linalg.inv(dense(process, s, left))
    else:
        matrix = process.operator(s, t).to_dense()
    x_t, mean_s = draw(process.shape(t), 2), draw(process.shape(s), 2)
    rho = (process.sigma(s) / process.sigma(t)) ** 2
    posterior = process.posterior(x_t, mean_s, t, s)
    mean = mean_s.flatten(1) + rho * (x_t.flatten(1) - mean_s.flatten(1) @ matrix.T) @ matrix
    torch.testing.assert_close(posterior.mean.flatten(1), mean, rtol=1e-10, atol=1e-10)
    covariance = process.sigma(s) ** 2 * (torch.eye(16).double() - rho * matrix.T @ matrix)
    torch.testing.assert_close(posterior.covariance.to_dense(), covariance, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("left", [0.0, 0.1])
def test_process(left):
    ld.testing.check_process(DimensionalityVarying((1, 8, 8), 60, left=left), samples=200)


def test_a_step_over_a_change_is_that_of_an_image_without_detail():
    """What is taken for nothing is 1/t_k of the band."""
    process = DimensionalityVarying((1, 8, 8), 100, [40])
    denoiser = process.denoiser(lambda x, index: 0.5 * x)
    x_t, noise = draw((1, 4, 4), 2), draw((1, 8, 8), 2)
    x_s = process.sampler(denoiser).step(x_t, 40, 39, noise=noise)
    clean = process.degradation(39, 40).transpose(x_t * (1 - 0.5 * process.sigma(40)) / process.signal_scale(40))
    clean = clean / process.degradation(39, 40).norm() ** 2
    expected = process.posterior(x_t, process.signal_scale(39) * clean, 40, 39).sample(noise)
    torch.testing.assert_close(x_s, expected)
    x0 = draw((1, 8, 8), 2)
    lost = process.clean(x0, 39) - ld.SpectralFilter(
        (1, 8, 8), (process.path.gains(39) == 1).double(), process.path.basis
    )(x0)
    band = x0 - ld.AveragePool((1, 8, 8), 2).gram(x0) * 4
    torch.testing.assert_close(lost, band / 40)


def test_sampling_loss_and_equality(generator):
    process = DimensionalityVarying((3, 32, 32), 50)
    sampler = process.sampler(process.denoiser(lambda x, index: torch.zeros_like(x)), steps=6)
    assert sampler(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
    assert process == DimensionalityVarying((3, 32, 32), 50) != DimensionalityVarying((3, 32, 32), 50, left=0.1)
    assert ld.from_config(json.loads(json.dumps(process.to_config()))) == process
    assert process.sampler(process.denoiser(lambda x, index: x)).times[:2] == [50, 49]
    loss = process.loss(process.denoiser(lambda x, index: torch.zeros_like(x)), torch.rand(4, 3, 32, 32), generator)
    state = torch.Generator().manual_seed(0)
    t = process.drawn_times.sample(process, 4, state)
    noise = torch.randn(4, *process.shape(int(t[0])), generator=state)
    torch.testing.assert_close(loss, noise.square().flatten(1).mean(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DimensionalityVarying((1, 8, 8), 10, [3, 2]), "changes: expected 2 ascending times above 0"),
        (lambda: DimensionalityVarying((1, 8, 8), 10, [3], left=1.5), r"left: expected a number in \[0, 1\]"),
        (lambda: DimensionalityVarying((1, 6, 6)), "levels: expected sizes that can be halved 2 times"),
        (lambda: Fade(ld.bases.Haar((1, 8)), [(1, 4)], []), "changes: expected 1 ascending"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_changes_beyond_the_end_are_refused():
    with pytest.raises(ValueError, match="changes: expected times up to T = 1000"):
        ld.families.DimensionalityVarying((1, 8, 8), changes=[300, 2000])
