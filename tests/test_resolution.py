"""Resolution schedules: the times of the changes against their formulas and the original implementation's numbers."""

from __future__ import annotations

import bisect
import json
import math

import numpy as np
import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.schedules import as_changes, cosine, edm, flow, linear, vp, zero_terminal_snr

SPECTRUM = ld.lab.power_law((1, 64)).gain
RULES = {
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
        times = RULES[name](int(levels[:-1]), linear(1000))
        expected = [next(side for start, side in reversed(changes) if start <= index) for index in range(1000)]
        assert [pixels >> bisect.bisect_right(times, t) for t in range(1, 1001)] == expected, key
        p = ld.ScaleSpaceDiffusion((3, pixels, pixels), levels=int(levels[:-1]), resolution_schedule=RULES[name])
        assert p.shape_changes() == times


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_every_level_comes_in_order(rule, num_steps):
    times = rule(3, linear(num_steps))
    assert times == sorted(times)
    assert all(type(t) is int and 1 < t <= num_steps + 1 for t in times)
    assert num_steps < 7 or len({*times, num_steps + 1}) == 3
    assert rule(1, linear(num_steps)) == []


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("schedule", [flow(), edm(), vp()], ids=repr)
def test_continuous_times_are_the_limit_of_many_steps(rule, schedule):
    times, stepped = rule(4, schedule), rule(4, linear(100_000))
    assert times == pytest.approx([t / 100_000 for t in stepped], abs=2e-5)
    assert all(0 < t <= 1 for t in times)


@pytest.mark.parametrize("rule", [ld.information_matched(), ld.snr_matched(SPECTRUM)], ids=repr)
def test_what_depends_on_the_noise_depends_on_it_alone(rule):
    """The same log-SNR whatever the schedule, and between the same steps of a table as of its continuation."""
    expected = [flow().log_snr(t) for t in rule(4, flow())]
    for schedule in (edm(), vp(), cosine(100_000)):
        assert [schedule.log_snr(t) for t in rule(4, schedule)] == pytest.approx(expected, abs=1e-3)
    steps = rule(4, linear(1000))
    assert [linear(1000).time(log_snr) for log_snr in expected] == pytest.approx([t - 0.5 for t in steps], abs=0.5)


def test_sigmoid_like_is_the_inverse_of_tanh_like():
    """Where tanh_like drops to level k of n at time τ, sigmoid_like drops to level nτ at time k/n."""
    tanh, sigmoid = ld.tanh_like(3.0)(1000, flow()), ld.sigmoid_like(3.0)(1000, flow())
    for level in (100, 300, 500, 800):
        assert sigmoid[round(1000 * tanh[level - 1]) - 1] == pytest.approx(level / 1000, abs=0.02)


def test_information_by_quadrature():
    s = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    x = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    expected = 1 - 2 * torch.special.ndtr(-s[:, None] * x).mean(1)
    torch.testing.assert_close(ld.diffusion_information(s**2 / (1 + s**2)), expected, rtol=1e-7, atol=1e-9)
    assert ld.diffusion_information(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def test_information_matched_resolutions_hold_the_information():
    for schedule in (linear(1000), zero_terminal_snr(cosine(200))):
        times = ld.information_matched()(4, schedule)
        t = torch.arange(1, schedule.end + 1)
        levels = torch.bucketize(t, torch.tensor(times), right=True)
        information = ld.diffusion_information(schedule.signal(t).square())
        area = 0.25 ** levels.double()
        assert (area >= information).all()
        assert ((levels == 3) | (area / 4 < information)).all()


def test_snr_matched_drops_what_is_below_the_threshold():
    spectrum = torch.tensor([[9.0, 2.0, 1.0, 0.5], [3.0, 0.25, 0.1, 0.0]])  # level 1 keeps 1 × 2, level 2 keeps 1 × 1
    dropped = [3.0, 3.0]
    for schedule in (linear(1000), flow()):
        times = ld.snr_matched(spectrum, threshold=0.2)(3, schedule)
        assert times[0] == times[1]
        for t, variance in zip(times, dropped, strict=True):
            assert math.exp(schedule.log_snr(t)) * variance < 0.2 * (1 + 1e-9)
            before = t - 1 if schedule.num_steps else t - 1e-6
            assert math.exp(schedule.log_snr(before)) * variance >= 0.2
    channels = torch.stack([spectrum, 4 * spectrum])  # the loudest channel counts
    assert ld.snr_matched(channels, 0.8)(3, flow()) == ld.snr_matched(spectrum, 0.2)(3, flow())
    silent = ld.snr_matched(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert silent(2, linear(10)) == [1]
    assert 0 < silent(2, flow())[0] < 1e-9
    loud = ld.snr_matched(torch.tensor([1.0, 1e9]))
    assert loud(2, linear(10)) == [11]
    assert loud(2, vp()) == [math.inf]


def test_changes_at_their_times():
    for times in ([1, 20], [5, 5], [7, 30], []):
        assert ld.changes_at(times)(len(times) + 1, linear(20)) == times
    assert ld.changes_at(torch.tensor([5, 7])) == ld.changes_at([5.0, 7.0]) == ld.changes_at((5, 7))
    assert ld.changes_at([0.25, 0.5])(3, flow()) == [0.25, 0.5]
    p = ld.ScaleSpaceDiffusion((1, 8), 3, 20, resolution_schedule=ld.changes_at([7, 30]))
    assert p.shape_changes() == [7]


def test_levels_of_each_step_are_accepted():
    for levels in ([0, 0, 1, 1, 3], torch.tensor([0, 0, 1, 1, 3])):
        assert as_changes(levels, 4, linear(5)) == [3, 5, 5]
    assert as_changes([1, 1, 1], 3, linear(3)) == [1, 4]
    beyond = as_changes(lambda levels, noise: np.array([2.0, math.inf]), 3, linear(5))
    assert beyond == [2, math.inf]
    assert type(beyond[0]) is int
    assert as_changes(lambda levels, noise: [noise.end / 2] * (levels - 1), 3, flow()) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ld.changes_at([3, 2]), ValueError, r"times: expected ascending times above 0, got \[3, 2\]"),
        (lambda: ld.changes_at([0, 2]), ValueError, "times: expected ascending times above 0"),
        (lambda: ld.changes_at([math.nan]), ValueError, "times: expected"),
        (lambda: ld.changes_at(["3"]), TypeError, "times: expected a number, got '3'"),
        (lambda: ld.changes_at([5])(3, linear(9)), ValueError, r"times: expected 2 for 3 levels, got \[5\]"),
        (lambda: as_changes(ld.changes_at([0.5]), 2, linear(9)), ValueError, r"expected integer times, .* \[0.5\]"),
        (lambda: ld.convex_decay(0.0), ValueError, "power: expected a positive number, got 0.0"),
        (lambda: ld.tanh_like(-1.0), ValueError, "power: expected"),
        (lambda: ld.sigmoid_like(math.nan), ValueError, "power: expected"),
        (lambda: ld.convex_decay("2"), TypeError, "power: expected a number"),
        (lambda: ld.snr_matched(torch.ones(2), 0.0), ValueError, "threshold: expected a positive number, got 0.0"),
        (lambda: ld.snr_matched(-torch.ones(2)), ValueError, r"spectrum: expected variances ≥ 0 .* shape \(2,\)"),
        (lambda: ld.snr_matched(torch.tensor(1.0)), ValueError, "of at least one axis"),
        (lambda: ld.snr_matched(torch.tensor([math.inf])), ValueError, "spectrum: expected finite values"),
        (lambda: as_changes([0, 1, 0], 2, linear(3)), ValueError, "never grow .* level 1 at t = 2 and 0 at t = 3"),
        (lambda: as_changes([0, 1], 2, linear(3)), ValueError, "resolution_schedule: expected 3 levels, got 2"),
        (lambda: as_changes([0, 1, 2], 2, linear(3)), ValueError, "resolution_schedule: expected 0 ≤"),
        (lambda: as_changes([0, 0.5, 1], 2, linear(3)), TypeError, "resolution_schedule: expected an int"),
        (lambda: as_changes([0, 1], 2, flow()), ValueError, "process of continuous time, got levels for each step"),
        (lambda: as_changes(lambda n, noise: [2, 1], 3, flow()), ValueError, r"2 ascending times .* got \[2.0, 1.0\]"),
        (lambda: as_changes(lambda n, noise: [1], 3, flow()), ValueError, r"2 ascending times .* got \[1.0\]"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
