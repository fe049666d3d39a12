"""Matryoshka and cascades: all resolutions of an image as one vector."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import lineardiffusion as ld

SHAPE = (2, 8, 4)
PROCESSES = {
    "Matryoshka": lambda: ld.families.Matryoshka(SHAPE, 3, num_steps=20),
    "cascade": lambda: ld.families.CascadedDiffusion(SHAPE, 3, num_steps=20, augmentation=4),
}


@pytest.fixture(params=list(PROCESSES))
def process(request):
    return PROCESSES[request.param]()


def expected(name, level, t):
    """ᾱ of a level, as the papers have it."""
    if name == "Matryoshka":
        snr = ld.schedules.linear(20).log_snr(t)
        return torch.sigmoid(torch.tensor(snr, dtype=torch.float64) - torch.tensor(2.0 ** (2 - level)).log())
    u = min(max(t - 20 * level, 4 if level else 0), 20)
    return torch.tensor(ld.schedules.cosine(20).signal(u) ** 2, dtype=torch.float64)


@pytest.mark.parametrize("name", PROCESSES)
def test_levels(name):
    """Every resolution is diffused by the schedule of its own: x_t^l = √ᾱ D_l x_0 + √(1 − ᾱ) ε^l."""
    process = PROCESSES[name]()
    images = torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0 = process.data(images)
    noise = torch.randn_like(x0)
    for t in range(1, process.num_steps + 1, 3):
        parts = process.split(process.diffuse(x0, t, noise))
        for level, (part, own) in enumerate(zip(parts, process.split(noise), strict=True)):
            alpha_bar = expected(name, level, t)
            small = F.avg_pool2d(images, 2**level)
            torch.testing.assert_close(part, alpha_bar.sqrt() * small + (1 - alpha_bar).sqrt() * own)


def test_process(process):
    """The kernels carry marginals to marginals."""
    ld.testing.check_process(process, samples=200)
    assert process == type(process)(SHAPE, 3, 20, **({} if process.num_steps == 20 else {"augmentation": 4}))
    assert ld.from_config(process.to_config()) == process


def test_what_waits_stays():
    """While a resolution waits, a step without new noise leaves it as it is, whatever the estimate."""
    process = PROCESSES["cascade"]()
    x, mean = (torch.randn(1, *process.shape(0), dtype=torch.float64) for _ in range(2))
    step = process.step_kernel(9, 5, 0.0)
    for level, (before, after) in enumerate(zip(process.split(x), process.split(step.mean(x, mean)), strict=True)):
        assert (float((before - after).abs().max()) < 1e-9) == (level > 0)


def test_loss():
    """Every resolution counts the same."""
    process = PROCESSES["Matryoshka"]()
    denoiser = process.denoiser(lambda x, index: torch.zeros_like(x))
    x0 = process.data(torch.zeros(500, *SHAPE))
    loss = process.loss(denoiser, x0, torch.Generator().manual_seed(0))
    assert loss.shape == (500,)
    assert float(loss.mean()) == pytest.approx(3, abs=0.1)


def test_errors():
    with pytest.raises(ValueError, match="factor: expected divisors"):
        ld.families.Matryoshka((1, 6, 6), levels=3)
    with pytest.raises(ValueError, match="augmentation: expected"):
        ld.families.CascadedDiffusion((1, 8, 8), augmentation=0)
    with pytest.raises(ValueError, match="levels: expected"):
        ld.families.Matryoshka((1, 8, 8), levels=0)


@pytest.mark.parametrize("name", ["Matryoshka", "CascadedDiffusion"])
@pytest.mark.parametrize("argument", ["levels", "num_steps"])
def test_no_integers_are_refused(name, argument):
    with pytest.raises(TypeError, match=f"{argument}: expected an int"):
        getattr(ld.families, name)((1, 8, 8), **{argument: 1.5})
