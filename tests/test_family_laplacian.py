"""Laplacian Diffusion: bands that fade with the noise, by dense algebra."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import lineardiffusion as ld

SHAPE = (2, 8, 4)


def up(x):
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_bands():
    """c_t is the sum of the bands x^(l) = D_l x − up(D_{l+1} x), each with its gain, at the size that is left."""
    process = ld.families.LaplacianDiffusion(SHAPE, gone=(0.5, 2.0))
    x = torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half, quarter = F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)
    fine, middle = x - up(half), half - up(quarter)
    for sigma in (0.2, 0.4, 0.7, 1.9, 3.0, 80.0):
        t = process.schedule.time(-2 * torch.tensor(sigma, dtype=torch.float64).log()).item()
        expected = quarter if sigma >= 2 else up(quarter) + (1 - sigma / 2) * middle
        if sigma < 0.5:
            expected = up(expected) + (1 - sigma / 0.5) * fine
        torch.testing.assert_close(process.clean(x, t), expected)


def test_jumps_and_kernels():
    """Nothing is left of a band where it is left out, and kernels carry marginals to marginals."""
    process = ld.families.LaplacianDiffusion(SHAPE, gone=(0.5, 2.0))
    for t in process.shape_changes():
        detail = process.degradation(0, process.before(t)).to_dense()
        coarse = process.degradation(0, t)
        # The fine image just before is the coarse one with pixels repeated.
        repeated = torch.stack([up(row).flatten() for row in coarse.to_dense().T.reshape(-1, *coarse.out_shape)], 1)
        assert float((detail - repeated).abs().max()) < 1e-9
    ld.testing.check_process(process, samples=200)


def test_loss_of_all_sizes():
    """Times of several sizes in one batch: each image has the loss of its own."""
    process = ld.families.LaplacianDiffusion(SHAPE)
    denoiser = process.denoiser(lambda x, c_noise: torch.zeros_like(x))
    loss = process.loss(denoiser, torch.zeros(64, *SHAPE), torch.Generator().manual_seed(0))
    assert loss.shape == (64,)
    assert float(loss.min()) > 0


def test_errors():
    with pytest.raises(ValueError, match="gone: expected finite noise levels"):
        ld.families.LaplacianDiffusion(SHAPE, gone=(2.0, 0.5))
    with pytest.raises(ValueError, match="levels: expected sizes that can be halved"):
        ld.families.LaplacianDiffusion((1, 6, 6), gone=(0.5, 2.0))


def test_levels_beyond_the_schedule_are_refused():
    with pytest.raises(ValueError, match="gone: expected noise levels up to 80"):
        ld.families.LaplacianDiffusion((1, 8, 8), gone=(0.5, 100.0))
