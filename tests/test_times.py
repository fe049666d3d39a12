"""How times are drawn for training: how often each comes, and which come together."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import lineardiffusion as ld
from lineardiffusion.times import ByShape, LogitNormal, LogNormalSigma, Mixed, Uniform, draw_alike, group_by_shape

SSD = ld.ScaleSpaceDiffusion((1, 8), 3, num_steps=20)
PYRAMID = ld.LinearDiffusion(ld.paths.pyramid((1, 8), 3, ld.changes_at([0.5, 0.9])), ld.schedules.flow())
DRAWS = [ByShape(), ByShape(0.3), Mixed(4), Mixed(2, [0.2, 0.5, 0.3]), Uniform(), LogitNormal(), LogNormalSigma()]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shapes(process, t):
    """What has to be alike of the times of one part of a batch."""
    return {(process.shape(u), process.shape(process.before(u))) for u in t.tolist()}


def assert_frequencies(counts, expected, correlated=1):
    """Within five standard errors, of counts in batches of `correlated` equal times at worst."""
    total = counts.sum()
    bound = 5 * (expected * (1 - expected) * correlated / total).sqrt() + 1e-12
    assert bool(((counts / total - expected).abs() <= bound).all())


@pytest.mark.parametrize("draw", DRAWS, ids=repr)
@pytest.mark.parametrize("process", [SSD, PYRAMID], ids=["steps", "continuous"])
def test_all_draws(draw, process):
    """Their dtype and range, that a generator decides them, and that the parts of a batch can be stacked."""
    t = draw.sample(process, 64, seeded())
    assert t.shape == (64,)
    assert t.device.type == "cpu"
    assert t.dtype == (torch.int64 if process.num_steps else torch.float64)
    assert 0 < t.min() <= t.max() <= process.end
    assert torch.equal(t, draw.sample(process, 64, seeded()))
    assert not torch.equal(t, draw.sample(process, 64, seeded(1)))
    torch.manual_seed(0)
    assert draw.sample(process, 8).shape == (8,)
    parts = process.group_by_shape(t)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(64))
    pairs = [shapes(process, t[part]) for part in parts]
    assert all(len(pair) == 1 for pair in pairs)
    assert len(set.union(*pairs)) == len(parts)
    assert not isinstance(draw, ByShape) or len(parts) == 1
    for part in parts:
        assert process.diffuse(torch.zeros(len(part), 1, 8), t[part]).shape[1:] == process.shape(t[part][0])
    for bad, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="batch_size: expected"):
            draw.sample(process, bad)


# -------------------------------------------------------------------------------------------------------- by shape


def test_by_shape_is_the_rule_of_the_paper():
    """One t from all, then those of its shape that keep it: every t has the same probability."""
    generator, changes = seeded(), SSD.shape_changes()
    draws = torch.stack([ByShape().sample(SSD, 4, generator) for _ in range(2000)])
    assert_frequencies(torch.bincount(draws.flatten(), minlength=21)[1:], torch.full((20,), 1 / 20), correlated=4)
    assert all(len(shapes(SSD, t)) == 1 for t in draws[:300])
    assert all((t == t[0]).all() for t in draws if int(t[0]) in changes)
    kept = torch.stack([t for t in draws if t[0] < changes[0]])  # of full size; the four are independent
    assert_frequencies(torch.bincount(kept[:, 1], minlength=changes[0])[1:], torch.full((changes[0] - 1,), 1.0)
                       / (changes[0] - 1))  # fmt: skip
    assert torch.equal(SSD.sample_timesteps(8, seeded()), ByShape().sample(SSD, 8, seeded()))


def test_by_shape_draws_what_it_always_has():
    """The numbers of a generator, since runs that are resumed go on with them."""
    process = ld.ScaleSpaceDiffusion((1, 32, 32), 3)
    generator = seeded()
    first = ByShape().sample(process, 4, generator).tolist()
    assert (first, ByShape().sample(process, 4, generator).tolist()) == ([370, 279, 151, 404], [248, 509, 458, 439])
    assert ByShape(0.5).sample(process, 4, seeded(1)).tolist() == [325, 459, 89, 44]


def test_a_fraction_of_shape_changes_and_its_weights():
    """How often each time comes, and that weighted losses keep their expectation: both within five standard errors."""
    changes, fraction, generator = SSD.shape_changes(), 0.3, seeded()
    draw = ByShape(fraction)
    draws = torch.stack([draw.sample(SSD, 4, generator) for _ in range(1500)])
    share = sum(int(t[0]) in changes for t in draws) / len(draws)
    assert abs(share - fraction) < 5 * (fraction * (1 - fraction) / len(draws)) ** 0.5
    loss = torch.linspace(1, 3, 21, dtype=torch.float64).square()  # any function of t
    weighted = torch.stack([(draw.weights(SSD, t) * loss[t]).mean() for t in draws])
    assert abs(weighted.mean() - loss[1:].mean()) < 5 * weighted.std() / len(draws) ** 0.5
    every = torch.arange(1, 21)
    probability = 1 / (20 * draw.weights(SSD, every))
    assert float(probability.sum()) == pytest.approx(1)
    assert float(probability[[t - 1 for t in changes]].sum()) == pytest.approx(fraction)
    assert ByShape().weights(SSD, every).tolist() == [1] * 20


def test_by_shape_in_continuous_time():
    """Uniform over all times; the changes themselves only with a fraction."""
    generator = seeded()
    draws = torch.stack([ByShape().sample(PYRAMID, 2, generator) for _ in range(1000)])
    assert all(len(shapes(PYRAMID, t)) == 1 for t in draws[:300])
    for column in draws.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3
    fine = draws[draws[:, 0] < 0.5]
    assert abs(torch.corrcoef(fine.T)[0, 1]) < 5 / len(fine) ** 0.5
    draws = torch.stack([ByShape(0.3).sample(PYRAMID, 2, generator) for _ in range(1000)])
    at_change = torch.isin(draws, torch.tensor([0.5, 0.9], dtype=torch.float64))
    assert torch.equal(at_change[:, 0], at_change[:, 1])
    assert_frequencies(torch.bincount(at_change[:, 0].long()), torch.tensor([0.7, 0.3]))


# ----------------------------------------------------------------------------------------------------------- mixed


@pytest.mark.parametrize(("levels", "groups"), [(3, 5), (3, 6), (4, 12), (1, 4)])
def test_times_in_groups_are_uniform_and_spread_evenly(levels, groups):
    """How often each time comes, and that a batch has of each resolution its share."""
    process, generator = ld.ScaleSpaceDiffusion((1, 8), levels, num_steps=20), seeded()
    pairs = [(process.shape(t), process.shape(t - 1)) for t in range(1, 21)]
    counts = torch.zeros(21)
    for _ in range(300):
        t = Mixed(groups).sample(process, 2 * groups, generator)
        counts += torch.bincount(t, minlength=21)
        assert all(len({pairs[u - 1] for u in t[k::groups].tolist()}) == 1 for k in range(groups))
        for pair in set(pairs):
            share, found = pairs.count(pair) / 20, sum(pairs[u - 1] == pair for u in t[:groups].tolist()) / groups
            assert abs(found - share) < 2 / groups  # evenly spaced times in an interval, or in two: the circle's seam
    assert_frequencies(counts[1:], torch.full((20,), 1 / 20), correlated=2 * groups)


@pytest.mark.parametrize("process", [SSD, PYRAMID], ids=["steps", "continuous"])
@pytest.mark.parametrize(("groups", "shares"), [(1, [1.0, 2.0, 5.0]), (4, [1, 0, 1]), (3, [0, 0, 2])])
def test_each_resolution_has_its_share(process, groups, shares):
    generator, order = seeded(), [(1, 8), (1, 4), (1, 2)]
    draws = torch.cat([Mixed(groups, shares).sample(process, groups, generator) for _ in range(1200 // groups)])
    level = torch.tensor([order.index(process.shape(t)) for t in draws.tolist()])
    expected = torch.tensor(shares, dtype=torch.float64) / sum(shares)
    assert_frequencies(torch.bincount(level, minlength=3), expected)
    last = draws[level == 2]  # and within a resolution every time the same probability
    if process.num_steps:
        first = process.shape_changes()[-1]
        counts = torch.bincount(last, minlength=21)[first:]
        assert_frequencies(counts, torch.full((21 - first,), 1 / (21 - first)))
    else:
        assert stats.kstest(last.numpy(), "uniform", (0.9, 0.1)).pvalue > 1e-3


def test_resolutions_that_come_back():
    """Shapes that recur in a chain are one resolution."""
    chain = [ld.Resize((1, 4), 2), ld.Identity((1, 2)), ld.Resize((1, 2), 4), ld.Identity((1, 4)), ld.Identity((1, 4))]
    process = ld.LinearDiffusion(chain, [0.0, 1.0, 2.0, 6.0, 7.0, 8.0])
    assert process.shape_changes() == [1, 3]
    assert sorted({*draw_alike(process, 4, 50, seeded()).tolist()}) == [4, 5]
    longer = ld.LinearDiffusion([ld.Identity((1, 4)), *chain], [0.0, 0.5, 1.0, 2.0, 6.0, 7.0, 8.0])
    assert sorted({*draw_alike(longer, 1, 50, seeded()).tolist()}) == [1, 5, 6]
    assert draw_alike(longer, 2, 3, seeded()).tolist() == [2, 2, 2]
    t = Mixed(1, [1.0, 0.0]).sample(longer, 1, seeded())
    draws = torch.cat([Mixed(1, [1.0, 0.0]).sample(longer, 1, seeded(k)) for k in range(300)])
    assert t in (1, 4, 5, 6)
    expected = torch.tensor([0.25, 0, 0, 0.25, 0.25, 0.25])
    assert_frequencies(torch.bincount(draws, minlength=7)[1:], expected)


# ------------------------------------------------------------------------------------------- each image on its own


def test_uniform():
    assert_frequencies(
        torch.bincount(Uniform().sample(SSD, 20_000, seeded()), minlength=21)[1:], torch.full((20,), 1 / 20)
    )
    assert stats.kstest(Uniform().sample(ld.EDM((1,)), 4000, seeded()).numpy(), "uniform").pvalue > 1e-3


def test_logit_normal():
    t = LogitNormal(mean=0.5, std=0.7).sample(ld.FlowMatching((1,)), 4000, seeded())
    assert stats.kstest(torch.logit(t).numpy(), "norm", (0.5, 0.7)).pvalue > 1e-3
    steps = LogitNormal().sample(SSD, 20_000, seeded())
    edges = torch.linspace(0, 1, 21, dtype=torch.float64)
    expected = torch.special.ndtr(torch.logit(edges)).diff()
    assert_frequencies(torch.bincount(steps, minlength=21)[1:], expected)


def test_log_normal_sigma():
    process = ld.EDM((1,))
    t = LogNormalSigma().sample(process, 4000, seeded())
    assert stats.kstest(process.sigma(t).log().numpy(), "norm", (-1.2, 1.2)).pvalue > 1e-3
    flow = ld.FlowMatching((1,), shift=2.0)  # σ/a is what is drawn
    t = LogNormalSigma(0.3, 0.5).sample(flow, 4000, seeded())
    assert stats.kstest(-0.5 * flow.snr(t).log().numpy(), "norm", (0.3, 0.5)).pvalue > 1e-3
    ends = LogNormalSigma(0.0, 100.0).sample(SSD, 100, seeded())
    assert set(ends.tolist()) <= {1, 20, *range(2, 20)}
    assert {1, 20} <= set(ends.tolist())
    ve = ld.LinearDiffusion(ld.paths.identity((1,)), ld.schedules.ve())
    low = LogNormalSigma(-50.0, 1.0).sample(ve, 3, seeded())  # levels that it has not
    assert low.tolist() == [ve.schedule.first] * 3


# -------------------------------------------------------------------------------------------------- parts of a batch


def test_parts_of_a_batch():
    first, second = SSD.shape_changes()
    t = torch.tensor([1, second, first - 1, first, second, second + 1, 20])
    assert [part.tolist() for part in group_by_shape(SSD, t)] == [[0, 2], [1, 4], [3], [5, 6]]
    t = torch.tensor([0.5, 0.1, 0.95, 0.5, 0.4999, 0.9])
    assert [part.tolist() for part in group_by_shape(PYRAMID, t.double())] == [[0, 3], [1, 4], [2], [5]]
    assert [part.tolist() for part in group_by_shape(ld.DDPM((1,), 9), torch.tensor([3, 9]))] == [[0, 1]]
    for process in (SSD, ld.DDPM((1, 8), 20)):
        for bad in (torch.tensor([3, 0]), torch.tensor([21]), torch.tensor([[3]]), torch.tensor([-0.5])):
            with pytest.raises(ValueError, match="t: expected"):
                group_by_shape(process, bad)


def test_alike_in_continuous_time():
    t = draw_alike(PYRAMID, 0.6, 4000, seeded())
    assert 0.5 < t.min() < 0.5005
    assert 0.8995 < t.max() < 0.9
    assert stats.kstest(t.numpy(), "uniform", (0.5, 0.4)).pvalue > 1e-3
    assert draw_alike(PYRAMID, 0.9, 2, seeded()).tolist() == [0.9, 0.9]
    assert draw_alike(PYRAMID, 1.0, 100, seeded()).max() <= 1
    for bad in (0, 1.5):
        with pytest.raises(ValueError, match=r"t: expected 0 < t ≤ 1.0"):
            draw_alike(PYRAMID, bad, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ByShape(0.0), ValueError, r"shape_change_fraction: expected a number in \(0, 1\), got 0.0"),
        (lambda: ByShape(1.0), ValueError, r"shape_change_fraction: expected a number in \(0, 1\), got 1.0"),
        (lambda: ByShape(math.nan), ValueError, "shape_change_fraction: expected"),
        (lambda: ByShape("0.1"), TypeError, "shape_change_fraction: expected a number"),
        (lambda: ByShape(0.1).sample(ld.DDPM((1, 8)), 4), ValueError, "a process some of whose steps change the shape"),
        (lambda: ByShape(0.1).weights(ld.DDPM((1, 8)), torch.ones(2)), ValueError, "some of whose steps change"),
        (lambda: ByShape(0.1).weights(PYRAMID, torch.ones(2)), ValueError, "process: expected one with steps"),
        (lambda: Mixed(0), ValueError, "groups: expected"),
        (lambda: Mixed(2.5), TypeError, "groups: expected an int"),
        (lambda: Mixed(3).sample(SSD, 8), ValueError, "groups: expected a divisor of batch_size = 8, got 3"),
        (lambda: Mixed(16).sample(SSD, 8), ValueError, "groups: expected a divisor of batch_size = 8, got 16"),
        (lambda: Mixed(2, [0.0, 0.0]), ValueError, r"not all of them 0, got \[0.0, 0.0\]"),
        (lambda: Mixed(2, [1.0, -1.0]), ValueError, "shares: expected finite numbers ≥ 0"),
        (lambda: Mixed(2, [1.0, math.inf]), ValueError, "shares: expected finite numbers ≥ 0"),
        (lambda: Mixed(2, ["1"]), TypeError, "shares: expected a number"),
        (lambda: Mixed(2, [1, 1]).sample(SSD, 8), ValueError, r"each of the resolutions \[\(1, 8\), \(1, 4\)"),
        (lambda: LogitNormal(std=0.0), ValueError, "std: expected a positive number, got 0.0"),
        (lambda: LogNormalSigma(mean=math.nan), ValueError, "mean: expected a finite number, got nan"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
