"""The statistics of benchmarks/levels_report.py, on features of known distributions."""

from __future__ import annotations

import torch
from benchmarks.levels_report import distance, linear_errors


def test_the_excess_of_few_draws_is_taken_off():
    """40 sets of 200 draws of a unit Gaussian in 8 dimensions, 0.5 away from the real ones: the distance is 0.25."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(20_000, 8, generator=generator, dtype=torch.float64)
    real[:, 0] += 0.5
    rows = [distance([torch.randn(200, 8, generator=generator, dtype=torch.float64)], real) for _ in range(40)]
    plain = torch.tensor([row["plain"][0] for row in rows])
    corrected = torch.tensor([row["frechet"] for row in rows])
    error = float(corrected.std()) / 40**0.5
    assert plain.mean() - 0.25 > 5 * error
    assert abs(corrected.mean() - 0.25) < 4 * error
    covered = sum(row["interval"][0] <= 0.25 <= row["interval"][1] for row in rows)
    assert covered >= 30  # of 40 at 95 %, if the interval is a little narrow


def test_over_seeds_distances_are_averaged():
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(300, 4, generator=generator, dtype=torch.float64) + shift for shift in (0.0, 1.0)]
    real = torch.randn(20_000, 4, generator=generator, dtype=torch.float64)
    both = distance(sets, real)
    alone = [distance([features], real)["frechet"] for features in sets]
    assert len(both["plain"]) == 2
    assert abs(both["frechet"] - sum(alone) / 2) < 0.05


def test_averages_tell_less_than_the_whole_state_and_no_more_than_the_prior():
    images = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    errors = linear_errors(images, [1, 500, 1000])
    prior = torch.nn.functional.avg_pool2d(images - images.mean(0), 2).square().mean() * 500 / 499
    assert all(0 < row["error"] <= row["blind"] for row in errors.values())
    assert errors["1"]["error"] < 1e-3 * prior
    assert abs(errors["1000"]["blind"] / prior - 1) < 0.01
