"""What processes refuse: arguments that do not fit, times that do not exist, and what to do instead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import lineardiffusion as ld
from lineardiffusion import schedules
from test_operators import draw
from test_processes import CONTINUOUS, FAMILIES, STEPS


@pytest.fixture(params=list(FAMILIES | CONTINUOUS))
def process(request):
    return (FAMILIES | CONTINUOUS)[request.param]


I4 = ld.Identity((1, 4))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ld.LinearDiffusion(I4, [0, 0.5]), TypeError, r"path: expected .*, got one operator: \["),
        (lambda: ld.LinearDiffusion([I4] * 2, [0, 0.5]), ValueError, "schedule: expected one of 2 steps"),
        (lambda: ld.LinearDiffusion([I4] * 2, [0.1, 0.5, 0.6]), ValueError, r"expected a_0 = 1 and σ_0 = 0"),
        (lambda: ld.LinearDiffusion([I4] * 2, [0, 0.5, math.nan]), ValueError, "a finite number .* at t = 2, got nan"),
        (lambda: ld.LinearDiffusion([I4] * 2, [0, 0.0, 0.6]), ValueError, "σ_t > 0 at t = 1"),
        (lambda: ld.LinearDiffusion([I4], ["0", "1"]), TypeError, "sigmas: expected a number or a Covariance at t = 0"),
        (lambda: ld.LinearDiffusion([I4] * 2, [0, 0.5, 0.6], [1, 0, 1]), ValueError, "signal: expected a_t > 0"),
        (lambda: ld.LinearDiffusion([I4], [0, 1], [1, 0]), ValueError, "signal_scales: expected a_t > 0 .*paths.chain"),
        (lambda: ld.LinearDiffusion([I4], "linear"), TypeError, r"schedule: expected one such as .*, got 'linear'"),
        (lambda: ld.LinearDiffusion([I4], schedules.linear), TypeError, "schedule: expected one such as"),
        (lambda: ld.LinearDiffusion([I4], schedules.linear(1), [1, 1]), ValueError, "signal_scales: expected None"),
        (lambda: ld.LinearDiffusion([I4], [0, 1], coupling="both"), ValueError, "coupling: expected one of"),
        (lambda: ld.BlurringDiffusion((1, 4), 10, blur_sigma_max=-1), ValueError, "blur_sigma_max: expected"),
        (lambda: ld.BlurringDiffusion((1, 4), 10, min_scale=0), ValueError, "min_scale: expected"),
        (lambda: ld.DDPM((1, 4), 10, "linaer"), ValueError, "schedule: expected one of 'linear'"),
        (lambda: ld.ScaleSpaceDiffusion((1, 4), 4), ValueError, "levels: expected .*: at most 3"),
        (lambda: ld.ScaleSpaceDiffusion((1, 8, 8), 2, 3, resolution_schedule=[0, 1, 0]), ValueError, "never grow"),
        (lambda: ld.ScaleSpaceDiffusion((1, 8, 8), 2, 3, resolution_schedule=[0, 1]), ValueError, "expected 3 levels"),
        (lambda: ld.ScaleSpaceDiffusion((1, 8, 8), 2, 3, resolution_schedule=[0, 1, 2]), ValueError, "resolution_sch"),
    ],
)
def test_bad_processes(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("t", [-1, math.nan, math.inf, 61, [1, 61], [1.0, math.nan], [-0.1, 3.0]], ids=str)
def test_times_out_of_range(process, t):
    t = torch.tensor(t) if isinstance(t, list) else t
    with pytest.raises(ValueError, match=rf"t: expected 0 ≤ t ≤ {process.end}, got"):
        process.diffuse(draw(process.shape(0), 2), t)


@pytest.mark.parametrize("t", ["5", 1j, None, [3], torch.tensor(1j), np.array([1, 2])], ids=str)
def test_times_that_are_no_numbers(process, t):
    x0 = draw(process.shape(0), 2)
    for call in (process.shape, process.sigma, process.signal_scale, lambda t: process.diffuse(x0, t),
                 lambda t: process.operator(0, t)):  # fmt: skip
        with pytest.raises(TypeError, match="t: expected a number, got"):
            call(t)


@pytest.mark.parametrize("t", [[1, 2, 3], [5], [[1, 2]], [], [True, False], [1j, 2j]], ids=str)
def test_batches_of_times_that_do_not_fit(process, t):
    with pytest.raises(
        ValueError, match=r"t: expected (one time, or one for each of 2 events|a tensor of shape \(B,\))"
    ):
        process.diffuse(draw(process.shape(0), 2), torch.tensor(t))


def test_broken_times_of_a_chain():
    p, x0 = FAMILIES["scalars"], draw((2, 8, 6), 3)
    for t in (1.5, torch.tensor([1, 2.5, 2.0])):
        with pytest.raises(ValueError, match="t: expected an integer, as a chain of operators has no states between"):
            p.diffuse(x0, t)
    with pytest.raises(ValueError, match="s: expected an integer"):
        p.posterior(x0, x0, 3, 1.5)
    assert torch.equal(
        p.diffuse(x0, torch.tensor([1.0, 2.0, 2.0]), noise=x0), p.diffuse(x0, torch.tensor([1, 2, 2]), x0)
    )


def test_times_of_different_shapes():
    p = FAMILIES["scale space"]
    message = r"t: expected times of one shape, got .*\(2, 2, 2\), \(2, 8, 6\).*ByShape.*group_by_shape"
    for call in (p.diffuse, p.clean):
        with pytest.raises(ValueError, match=message):
            call(draw(p.shape(0), 2), torch.tensor([1, STEPS]))


def test_bad_input(process):
    x0, t = draw(process.shape(0), 2), process.end / 4
    t = int(t) if process.num_steps else t
    x_t = draw(process.shape(t), 2)
    with pytest.raises(ValueError, match="x0: expected shape"):
        process.diffuse(x0[..., 1:], t)
    with pytest.raises(ValueError, match=r"x0: expected shape \(2, 2, 8, 6\) for as many times, got \(2, 8, 6\)"):
        process.diffuse(x0[0], torch.tensor([t, t]))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"x0: expected finite values, got 1 NaN or infinite"):
            process.diffuse(x0.clone().index_put_((torch.tensor(0),) * x0.ndim, torch.tensor(bad).double()), t)
    for call in (lambda noise: process.diffuse(x0, t, noise=noise), lambda noise: process.add_noise(x_t, t, noise)):
        with pytest.raises(ValueError, match="noise: expected shape"):
            call(x0[:1])
    for s in (t, 2 * t):
        with pytest.raises(ValueError, match=rf"s: expected s < t = {t}"):
            process.posterior(x_t, x_t, t, s)
        with pytest.raises(ValueError, match=rf"s: expected s < t = {t}"):
            process.transition(t, s)
    with pytest.raises(ValueError, match=rf"s: expected 0 ≤ s ≤ {process.end}, got -1"):
        process.posterior(x_t, x_t, t, -1)
    with pytest.raises(ValueError, match=rf"t: expected 0 < t ≤ {process.end}, got 0"):
        process.posterior(x_t, x_t, 0)
    with pytest.raises(ValueError, match=rf"s: expected s ≤ t = {t}, got {2 * t}"):
        process.degradation(2 * t, t)
    if not process.num_steps:
        with pytest.raises(ValueError, match="s: expected a time, as this process has no steps"):
            process.transition(t)
    for eta, error in (
        (-0.1, ValueError),
        (1.1, ValueError),
        (math.nan, ValueError),
        ("0", TypeError),
    ):
        with pytest.raises(error, match="eta: expected a number"):
            process.kernel(x_t, x_t, t, 0, eta)
    with pytest.raises(ValueError, match="of: expected one of 'mean', 'clean', got 'x'"):
        process.step_kernel(t, 0, 0.5, of="x")
    with pytest.raises(ValueError, match="x_t: expected shape"):
        process.posterior(x_t[..., 1:], x_t, t, 0)
    with pytest.raises(ValueError, match="mean_s: expected shape"):
        process.posterior(x_t, x_t[..., 1:], t, t / 3 if not process.path.integral else 3)
    with pytest.raises(ValueError, match="batch_size: expected"):
        process.sample_timesteps(0)
    for n, error in ((-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="n: expected"):
            process.prior(n)
