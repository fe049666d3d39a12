"""Decomposable Flow Matching: the formulas of the paper; there are no vectors of it."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from vectors import relative_error

PROCESS = ld.families.DecomposableFlow((1, 8, 8), levels=3, threshold=0.2)
BANDS = PROCESS.schedule.bands


def test_each_band_begins_where_the_one_before_is_at_the_threshold():
    noise = BANDS.noise(torch.tensor([1.0, 2 / 3, 1 / 3, 1 / 6, 0.0], dtype=torch.float64))
    expected = [[1, 1, 1], [0.2, 1, 1], [0.1, 0.2, 1], [0.05, 0.1, 0.5], [0, 0, 0]]
    torch.testing.assert_close(noise, torch.tensor(expected, dtype=torch.float64))
    assert BANDS.labels.flatten().bincount().tolist() == [4, 12, 48]


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8, 1.0])
def test_every_band_is_a_flow(t):
    x0, eps = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64)
    x_t = PROCESS.diffuse(x0, t, eps)
    z, z0, z1 = (BANDS.basis.analyse(x) for x in (x_t, x0, eps))
    noise = BANDS.noise(torch.tensor(t, dtype=torch.float64))[BANDS.labels]
    assert relative_error(z, (1 - noise) * z0 + noise * z1) <= 1e-12
    # the velocity, and Euler's step
    d = PROCESS.denoiser(lambda x, times: eps - x0)
    clean, r = d.estimate(x_t, t)
    assert r == 0
    assert relative_error(clean, x0) <= 1e-12
    s = 0.6 * t
    step = BANDS.basis.synthesise((BANDS.noise(torch.tensor(s, dtype=torch.float64))[BANDS.labels] - noise) * (z1 - z0))
    assert relative_error(PROCESS.sampler(d, 5).step(x_t, t, s), x_t + step) <= 1e-10


def test_distributions_fit_together():
    ld.testing.check_process(PROCESS, samples=300)


def test_loss_and_what_the_network_is_told(generator):
    x0, seen = torch.randn(3, 1, 8, 8, generator=generator), []

    def network(x, times):
        seen.append(times)
        return torch.zeros_like(x)

    loss = PROCESS.loss(PROCESS.denoiser(network), x0, torch.Generator().manual_seed(1))
    again = torch.Generator().manual_seed(1)
    t = PROCESS.drawn_times.sample(PROCESS, 3, again)
    velocity = torch.randn(3, 1, 8, 8, generator=again) - x0
    torch.testing.assert_close(loss, velocity.square().flatten(1).mean(1))
    torch.testing.assert_close(seen[0], (1 - BANDS.noise(t)).float())


def test_samples_configuration_and_bad_arguments():
    p = ld.families.DecomposableFlow((3, 32, 32))
    d = p.denoiser(lambda x, times: 0.1 * x)
    assert p.sampler(d)(1, seeds=[0], progress=False).shape == (1, 3, 32, 32)
    assert ld.DDIMSampler(d, 8, order=2)(1, seeds=[0], progress=False).isfinite().all()
    assert ld.from_config(d.to_config(), network=d.network) == d
    with pytest.raises(ValueError, match="threshold: expected a noise level"):
        ld.families.DecomposableFlow((3, 32, 32), threshold=1.0)
    with pytest.raises(ValueError, match="levels: expected"):
        ld.families.DecomposableFlow((3, 30, 32), levels=3)
