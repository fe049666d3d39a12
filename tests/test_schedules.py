"""Noise and resolution schedules against their formulas, and the original implementation's numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import lineardiffusion as ld

RESOLUTION_SCHEDULES = {
    "equal": ld.equal_levels(),
    "ConvexDecay_0.5": ld.convex_decay(0.5),
    "ConvexDecay_1.0": ld.convex_decay(1.0),
    "ConvexDecay_2.0": ld.convex_decay(2.0),
    "SigmoidLikeDecay_2.0": ld.sigmoid_like(2.0),
    "TanhLikeDecay_2.0": ld.tanh_like(2.0),
}


def test_resolutions_equal_the_original_ones_at_every_t(shared):
    reference = json.loads((shared / "vectors" / "resolution_schedules.json").read_text())
    assert reference
    for key, changes in reference.items():
        size, levels, name = key.split("-", 2)
        pixels = int(size.removesuffix("px"))
        p = ld.ScaleSpaceDiffusion(
            (3, pixels, pixels), levels=int(levels[:-1]), resolution_schedule=RESOLUTION_SCHEDULES[name]
        )
        expected = [next(side for start, side in reversed(changes) if start <= index) for index in range(1000)]
        assert [p.shape(t) for t in range(1, 1001)] == [(3, side, side) for side in expected], key


@pytest.mark.parametrize("schedule", RESOLUTION_SCHEDULES.values(), ids=RESOLUTION_SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_resolution_schedules_use_every_level_in_order(schedule, num_steps):
    levels = schedule(3, ld.linear_schedule(num_steps)).tolist()
    assert len(levels) == num_steps
    assert levels == sorted(levels)
    assert levels[0] == 0
    assert set(levels) <= {0, 1, 2}
    assert num_steps < 7 or set(levels) == {0, 1, 2}


def test_sigmoid_like_is_the_inverse_of_tanh_like():
    """Where tanh_like drops to level k of n at time τ, sigmoid_like at time k/n is near level nτ."""
    steps = 10_001
    alpha_bar = ld.cosine_schedule(steps)
    tanh, sigmoid = ld.tanh_like(3.0)(1000, alpha_bar), ld.sigmoid_like(3.0)(1000, alpha_bar)
    for time in (0.1, 0.3, 0.5, 0.8):
        level = float(tanh[round(time * (steps - 1))]) / 1000
        assert float(sigmoid[round(level * (steps - 1))]) / 1000 == pytest.approx(time, abs=0.02)


def test_linear_schedule():
    expected = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    assert ld.linear_schedule(1000)[0] == 1
    torch.testing.assert_close(ld.linear_schedule(1000)[1:], expected)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 20, 21, 100, 250, 4000])
def test_linear_schedule_ends_in_noise_for_every_number_of_steps(num_steps):
    alpha_bar = ld.linear_schedule(num_steps)
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    ends = [min(end * 1000 / num_steps, 0.999) for end in ((1e-4, 0.02) if num_steps > 1 else (0.02,))]
    expected = torch.from_numpy(np.linspace(*ends, num_steps)) if num_steps > 1 else torch.tensor(ends).double()
    torch.testing.assert_close(betas, expected)
    assert alpha_bar[-1] < 1.1e-3
    assert ld.DDPM((1,), num_steps).snr(num_steps) < 2e-3


def test_explicit_betas_are_kept():
    torch.testing.assert_close(ld.linear_schedule(3, 0.1, 0.3)[1:], torch.tensor([0.9, 0.72, 0.504]).double())
    torch.testing.assert_close(ld.linear_schedule(2, beta_end=0.5)[1:], torch.tensor([0.95, 0.475]).double())
    assert ld.linear_schedule(1, 0.1, 0.5)[-1] == 0.5
    torch.testing.assert_close(
        ld.linear_schedule(100, 1e-4, 0.02)[1:],
        torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100, dtype=torch.float64), 0),
    )


def test_cosine_schedule_equals_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(
        ld.cosine_schedule(1000)[1:], reference.double(), rtol=2e-4, atol=1e-7
    )  # theirs: float32


def test_cosine_log_snr_schedule():
    alpha_bar = ld.cosine_log_snr_schedule(100)
    log_snr = (alpha_bar / (1 - alpha_bar)).log()
    assert float(log_snr[-1]) == pytest.approx(-10)
    a, b = math.atan(math.exp(-5)), math.atan(math.exp(5))
    assert float(log_snr[30]) == pytest.approx(-2 * math.log(math.tan(0.3 * b + 0.7 * a)))


def test_information_by_quadrature():
    s = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    x = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    expected = 1 - 2 * torch.special.ndtr(-s[:, None] * x).mean(1)
    torch.testing.assert_close(ld.diffusion_information(s**2 / (1 + s**2)), expected, rtol=1e-7, atol=1e-9)


def test_information_matched_resolutions_hold_the_information():
    alpha_bar = ld.linear_schedule(1000)
    levels = ld.information_matched()(4, alpha_bar)
    information = ld.diffusion_information(alpha_bar[1:])
    area = 0.25 ** levels.double()
    assert (area >= information).all()
    assert ((levels == 3) | (area / 4 < information)).all()


def test_changes_at_their_times():
    alpha_bar = ld.linear_schedule(20)
    for times in ([1, 20], [5, 5], [7, 30], []):
        levels = ld.changes_at(times)(len(times) + 1, alpha_bar)
        assert levels.tolist() == [sum(t >= change for change in times) for t in range(1, 21)]
    with pytest.raises(ValueError, match=r"times: expected 2 for 3 levels, got \[5\]"):
        ld.ScaleSpaceDiffusion((1, 8), 3, resolution_schedule=ld.changes_at([5]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ld.changes_at([3, 2]), r"times: expected ascending times, got \[3, 2\]"),
        (lambda: ld.changes_at([0, 2]), "times: expected"),
        (lambda: ld.linear_schedule(0), "num_steps: expected"),
        (lambda: ld.linear_schedule(10, 0.5, 0.1), "beta_start"),
        (lambda: ld.linear_schedule(10, 0.0), "beta_start"),
        (lambda: ld.linear_schedule(1000, beta_start=0.1), "beta_start, beta_end: expected .* got 0.1, 0.02"),
        (lambda: ld.linear_schedule(10, beta_end=1.0), "beta_end"),
        (lambda: ld.linear_schedule(10, beta_end=math.nan), "beta_end"),
        (lambda: ld.cosine_log_snr_schedule(10, 3.0, 3.0), "log_snr_min"),
        (lambda: ld.convex_decay(0.0), "power: expected"),
        (lambda: ld.tanh_like(-1.0), "power: expected"),
        (lambda: ld.sigmoid_like(math.nan), "power: expected"),
        (lambda: ld.DDPM((1,), 10, schedule="quadratic"), "schedule: expected one of"),
        (lambda: ld.DDPM((1,), 10, schedule=torch.ones(11)), "decrease strictly"),
        (lambda: ld.DDPM((1,), 10, schedule=ld.linear_schedule(9)), "schedule: expected ᾱ_0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
