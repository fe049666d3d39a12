"""Helios: its constants, from the formulas of its public scheduler, and its sampler; there are no vectors of it."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld


def test_levels_and_timesteps():
    """The table 1 − linspace(1, 1/1000, 1001), cut at thirds, and each stage's share of it."""
    stages, process = ld.families.Helios((1, 8, 8)).stages, ld.families.Helios((1, 8, 8))
    table = (1 - torch.linspace(1, 1e-3, 1001, dtype=torch.float64)).flip(0)
    ends = [0.0, float(table[666]), float(table[333])]
    assert stages.ends == pytest.approx(ends, abs=1e-12)
    signal = [1 - end for end in ends[1:]]
    assert stages.starts == pytest.approx([1 - c / (2 * (1 - c) + c) for c in signal] + [1.0], abs=1e-12)
    lengths = [0.999 - ends[2], stages.starts[1] - ends[1], stages.starts[0]]  # theirs ends the first at 0.999
    told = [float(table[0]), *(float(table[int(1000 * sum(lengths[:i]) / sum(lengths))]) for i in (1, 2)), 0.999e-3]
    t = torch.tensor([1.0, 2 / 3, 1 / 3], dtype=torch.float64)
    expected = 1000 * torch.tensor([told[0], told[1], told[2]], dtype=torch.float64)
    torch.testing.assert_close(process.timestep(t), expected, rtol=1e-12, atol=0)
    assert float(process.timestep(torch.zeros(1, dtype=torch.float64))) == pytest.approx(1000 * told[3])


def test_process():
    ld.testing.check_process(ld.families.Helios((1, 4, 4)), samples=200)


def test_sampler_is_exact_for_a_velocity_that_knows_the_image():
    """A predictor and corrector of estimates that agree is the straight line, and jumps keep the noise level."""
    process = ld.families.Helios((3, 32, 32))
    x0 = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    def network(x, timestep):
        """v of the line through x that belongs to x_0."""
        k = {32: 0, 16: 1, 8: 2}[x.shape[-1]]
        last = process.before((k + 1) / 3) if k < 2 else 1.0
        low, high = process.timestep(torch.tensor([k / 3, last], dtype=torch.float64)).tolist()
        t = min((k + (float(timestep[0]) - low) / (high - low)) / 3, last)
        noise = (x - process.operator(0, t)(x0)) / process.sigma(t)
        return process.prediction.answer(process, t, x0, noise)

    sampler = process.sampler(process.denoiser(network))
    assert len(sampler.times) == 31
    start = (1.0, torch.randn(1, 3, 8, 8, dtype=torch.float64))
    torch.testing.assert_close(sampler(1, seeds=[0], start=start, progress=False), x0, rtol=1e-8, atol=1e-8)
