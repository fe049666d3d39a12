"""The families: their definitions, DDPM as the special case of each, and what they refuse."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections import Counter

import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

import lineardiffusion as ld
from test_operators import draw

STEPS = 60
SCHEDULE = ld.linear_schedule(STEPS, 1e-3, 0.3)


def scalars(shape, alpha_bar):
    """DDPM spelled out as a LinearDiffusion."""
    steps = [math.sqrt(b / a) * ld.Identity(shape) for a, b in itertools.pairwise(alpha_bar)]
    return ld.LinearDiffusion(steps, (1 - alpha_bar).sqrt(), alpha_bar.sqrt())


SPECIAL_CASES = {
    "DDPM": lambda shape, alpha_bar: ld.DDPM(shape, len(alpha_bar) - 1, alpha_bar),
    "scale space with one level": lambda shape, alpha_bar: ld.ScaleSpaceDiffusion(
        shape, levels=1, num_steps=len(alpha_bar) - 1, schedule=alpha_bar
    ),
    "blurring without blur": lambda shape, alpha_bar: ld.BlurringDiffusion(
        shape, len(alpha_bar) - 1, blur_sigma_max=0.0, schedule=alpha_bar
    ),
    "scalars": scalars,
}


def families(shape=(2, 8, 6)):
    return {
        "DDPM": ld.DDPM(shape, STEPS, SCHEDULE),
        "blurring": ld.BlurringDiffusion(shape, STEPS, blur_sigma_max=3.0),
        "scale space": ld.ScaleSpaceDiffusion(shape, 3, STEPS, SCHEDULE, resolution_schedule=ld.equal_levels()),
        "scalars": scalars(shape, SCHEDULE),
    }


FAMILIES = families()


@pytest.fixture(params=list(FAMILIES))
def process(request):
    return FAMILIES[request.param]


# ---------------------------------------------------------------------------------------------- every family


def test_conventions(process):
    assert process.num_steps == STEPS
    assert process.sigma(0) == 0
    assert process.signal_scale(0) == 1
    assert process.snr(0) == math.inf
    t = torch.tensor([1, 30, STEPS])
    for function in (process.sigma, process.signal_scale, process.snr):
        assert function(t).tolist() == [function(int(u)) for u in t]
    x0 = draw(process.shape(0), 2)
    assert torch.equal(process.clean(x0, 0), x0)
    assert torch.equal(process.diffuse(x0, 0), x0)


@pytest.mark.parametrize(("s", "t"), [(0, 1), (7, 8), (19, 20), (20, 21), (3, 55), (0, STEPS)])
def test_marginal_transition_and_posterior_agree_with_dense_algebra(process, s, t):
    to_s, to_t = (process.chain.cumulative(u).to_dense() for u in (s, t))
    between = process.chain.between(s, t).to_dense()
    torch.testing.assert_close(between @ to_s, to_t, rtol=1e-10, atol=1e-10)
    # Marginal of s, then transition: the marginal of t.
    identity = torch.eye(len(to_t), dtype=torch.float64)
    total = process.sigma(s) ** 2 * between @ between.T + process.transition(t, s).to_dense()
    torch.testing.assert_close(total, process.sigma(t) ** 2 * identity, rtol=1e-10, atol=1e-10)
    # Posterior, averaged over the marginal of t: the marginal of s.
    x0 = draw(process.shape(0), 1)
    mean_s = process.signal_scale(s) * process.clean(x0, s)
    torch.testing.assert_close(mean_s.flatten(1), x0.flatten(1) @ to_s.T, rtol=1e-10, atol=1e-10)
    units = identity.reshape(-1, *process.shape(t))
    gain = process.posterior(units, 0 * mean_s.expand(len(units), *mean_s.shape[1:]), t, s).mean.flatten(1).T
    covariance = process.posterior(units[:1], mean_s, t, s).covariance.to_dense()
    total = process.sigma(t) ** 2 * gain @ gain.T + covariance
    torch.testing.assert_close(total, process.sigma(s) ** 2 * torch.eye(len(to_s)).double(), rtol=1e-10, atol=1e-10)
    unbiased = process.posterior(process.marginal(t).mean(x0), mean_s, t, s).mean
    torch.testing.assert_close(unbiased, mean_s, rtol=1e-10, atol=1e-10)


def test_diffuse_for_a_batch_of_times_is_diffuse_for_each(process, generator):
    times = [t for t in range(STEPS + 1) if process.shape(t) == process.shape(0)]
    t = torch.tensor(times)[torch.randint(len(times), (16,), generator=generator)]
    t[0] = 0
    x0, noise = draw(process.shape(0), 16), draw(process.shape(0), 16, seed=1)
    together = process.diffuse(x0, t, noise=noise)
    for i, u in enumerate(t.tolist()):
        torch.testing.assert_close(together[i], process.diffuse(x0[i], u, noise=noise[i]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(process.clean(x0, t)[i], process.clean(x0[i], u), rtol=1e-12, atol=1e-12)


def test_randomness_comes_from_the_generator_alone(process):
    x0 = draw(process.shape(0), 2)
    calls = (
        lambda g: process.diffuse(x0, 3, generator=g),
        lambda g: process.prior(3, g),
        lambda g: process.sample_timesteps(8, g),
    )
    for call in calls:
        state = torch.random.get_rng_state()
        assert torch.equal(call(torch.Generator().manual_seed(5)), call(torch.Generator().manual_seed(5)))
        assert torch.equal(torch.random.get_rng_state(), state)


def test_prior(process, generator):
    x = process.prior(2000, generator, dtype=torch.float64)
    assert x.shape == (2000, *process.shape(STEPS))
    # Standard deviation of a sample variance: σ² √(2/n); five of them.
    assert float(x.var()) == pytest.approx(process.sigma(STEPS) ** 2, rel=5 * math.sqrt(2 / x.numel()))


def test_float32_in_float32_out(process):
    x0 = draw(process.shape(0), 2).float()
    assert process.diffuse(x0, 30).dtype == torch.float32
    assert process.diffuse(x0, torch.tensor([3, 4])).dtype == torch.float32


def test_copies_and_pickles(process):
    for twin in (copy.deepcopy(process), pickle.loads(pickle.dumps(process))):
        x0, noise = draw(process.shape(0), 1), draw(process.shape(STEPS), 1)
        assert torch.equal(twin.diffuse(x0, STEPS, noise=noise), process.diffuse(x0, STEPS, noise=noise))


def test_sampled_times_share_shapes_and_are_uniform(process, generator):
    counts: Counter[int] = Counter()
    batches, size = 4000, 4
    for _ in range(batches):
        t = process.sample_timesteps(size, generator)
        assert t.dtype == torch.long
        assert t.shape == (size,)
        assert len({(process.shape(u), process.shape(u - 1)) for u in t.tolist()}) == 1
        counts.update(t.tolist())
    assert set(counts) == set(range(1, STEPS + 1))
    for t in range(1, STEPS + 1):
        # Repeated times count `size` at once: the standard deviation of a frequency is at most √(p/batches).
        assert abs(counts[t] / (batches * size) - 1 / STEPS) <= 5 * math.sqrt(1 / STEPS / batches)


@pytest.mark.parametrize("t", [-1, STEPS + 1, torch.tensor([1, STEPS + 1])])
def test_times_out_of_range(process, t):
    with pytest.raises(ValueError, match=r"t: expected 0 ≤ t ≤ 60"):
        process.diffuse(draw(process.shape(0), 2), t)


def test_bad_input(process):
    x0 = draw(process.shape(0), 2)
    x_t = draw(process.shape(9), 2)
    with pytest.raises(ValueError, match="x0: expected shape"):
        process.diffuse(x0[..., 1:], 3)
    with pytest.raises(ValueError, match="x0: expected shape"):
        process.diffuse(x0, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="t: expected a LongTensor"):
        process.diffuse(x0, torch.tensor([0.5, 1.0]))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"x0: expected finite values, got 1 NaN or infinite"):
            process.diffuse(x0.clone().index_put_((torch.tensor(0),) * x0.ndim, torch.tensor(bad).double()), 3)
    with pytest.raises(ValueError, match="noise: expected shape"):
        process.diffuse(x0, 3, noise=x0[:1])
    for t, s in ((5, 5), (5, 6)):
        with pytest.raises(ValueError, match=r"s: expected s < t = 5"):
            process.posterior(x_t, x_t, t, s)
        with pytest.raises(ValueError, match=r"s: expected s < t = 5"):
            process.transition(t, s)
    with pytest.raises(ValueError, match="batch_size: expected"):
        process.sample_timesteps(0)


# ---------------------------------------------------------------------------------------------- DDPM is a special case


@pytest.mark.parametrize("make", SPECIAL_CASES.values(), ids=SPECIAL_CASES)
@given(data=st.data())
def test_every_family_has_ddpm_as_its_special_case(make, data):
    """Against the closed forms of Ho et al. (2020), Eq. 4, 6 and 7, for random schedules, shapes and times."""
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=3)))
    betas = torch.tensor(data.draw(st.lists(st.floats(1e-4, 0.5), min_size=2, max_size=12)), dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1).double(), (1 - betas).cumprod(0)])
    p = make(shape, alpha_bar)
    t = data.draw(st.integers(2, len(betas)))
    x0, noise, x_t = (draw(shape, 2, seed=seed) for seed in range(3))
    close = {"rtol": 1e-9, "atol": 1e-9}

    torch.testing.assert_close(
        p.diffuse(x0, t, noise=noise), alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * noise, **close
    )
    q = p.posterior(x_t, p.signal_scale(t - 1) * p.clean(x0, t - 1), t)
    beta, before, now = betas[t - 1], alpha_bar[t - 1], alpha_bar[t]
    mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - now)
    torch.testing.assert_close(q.mean, mean, **close)
    deviation = ((1 - before) / (1 - now) * beta).sqrt()
    torch.testing.assert_close(q.sample(noise=noise), mean + deviation * noise, **close)


def test_long_transitions_of_ddpm():
    p = ld.DDPM((1, 4), STEPS, SCHEDULE)
    ratio = float(SCHEDULE[50] / SCHEDULE[10])
    expected = 1 - float(SCHEDULE[50]) - ratio * (1 - float(SCHEDULE[10]))
    assert float(p.transition(50, 10)(torch.ones(1, 4))[0, 0]) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------- particular families


def test_blurring_is_the_formula_of_the_paper_in_the_cosine_basis():
    p = ld.BlurringDiffusion((2, 8, 6), STEPS, blur_sigma_max=3.0, min_scale=0.01)
    x0 = draw((2, 8, 6), 1)
    t = 25
    frequency = [math.pi * torch.arange(n, dtype=torch.float64) / n for n in (8, 6)]
    dissipation = (3.0 * math.sin(math.pi * t / STEPS / 2) ** 2) ** 2 / 2
    decay = torch.exp(-(frequency[0][:, None] ** 2 + frequency[1] ** 2) * dissipation) * 0.99 + 0.01
    spectrum = torch.from_numpy(scipy.fft.dctn(x0.numpy(), axes=(-2, -1), norm="ortho")) * decay
    expected = torch.from_numpy(scipy.fft.idctn(spectrum.numpy(), axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(p.clean(x0, t), expected, rtol=1e-10, atol=1e-10)
    a, b = math.atan(math.exp(-5)), math.atan(math.exp(5))
    log_snr = -2 * math.log(math.tan(t / STEPS * b + (1 - t / STEPS) * a))
    assert p.signal_scale(t) ** 2 == pytest.approx(1 / (1 + math.exp(-log_snr)))
    assert p.sigma(t) ** 2 == pytest.approx(1 / (1 + math.exp(log_snr)))


def test_blurring_keeps_the_mean_and_the_range():
    p = ld.BlurringDiffusion((1, 16, 16), 100)
    x0 = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    for t in (1, 50, 100):
        c = p.clean(x0, t)
        assert float(c.mean()) == pytest.approx(float(x0.mean()))
        assert float(c.abs().max()) <= 1 + 1e-9


def test_scale_space_resizes_level_by_level():
    p = ld.ScaleSpaceDiffusion((3, 16, 12), 3, STEPS, SCHEDULE, ld.equal_levels(), mode="area")
    x0 = draw((3, 16, 12), 2)
    expected = torch.nn.functional.avg_pool2d(x0, 4)
    torch.testing.assert_close(p.clean(x0, STEPS), expected)
    assert [p.shape(t) for t in (0, 20, 21, 40, 41, 60)] == [(3, 16, 12)] * 2 + [(3, 8, 6)] * 2 + [(3, 4, 3)] * 2


def test_scale_space_on_odd_and_one_dimensional_events():
    assert ld.ScaleSpaceDiffusion((1, 7, 10), 3, STEPS, SCHEDULE).shape(STEPS) == (1, 2, 3)
    assert ld.ScaleSpaceDiffusion((2, 64), 4, STEPS, SCHEDULE).shape(STEPS) == (2, 8)
    assert ld.ScaleSpaceDiffusion((1, 8, 8, 4), 2, STEPS, SCHEDULE).shape(STEPS) == (1, 4, 4, 2)


def test_scale_space_may_skip_a_level():
    p = ld.ScaleSpaceDiffusion((1, 8, 8), 3, 4, ld.linear_schedule(4, 0.1, 0.5), resolution_schedule=[0, 0, 2, 2])
    x0 = draw((1, 8, 8), 1)
    halved = ld.Resize((1, 4, 4), 2)(ld.Resize((1, 8, 8), 4)(x0))
    torch.testing.assert_close(p.clean(x0, 3), halved)


def test_each_level_is_factorised_once():
    p = ld.ScaleSpaceDiffusion((3, 32, 32), 3)
    resizes = {id(p.chain.cumulative(t).operator) for t in range(1, 1001)}
    assert len(resizes) == 3
    assert p.chain.between(500, 600).operator is p.chain.between(400, 800).operator


def test_a_subclass_of_linear_operator_is_a_process():
    class Vignette(ld.LinearOperator):
        def __init__(self, mask):
            super().__init__(in_shape=mask.shape, out_shape=mask.shape)
            self.mask = mask

        def apply(self, x):
            return self.mask * x

    mask = torch.linspace(0.8, 1, 6, dtype=torch.float64).reshape(1, 6)
    p = ld.LinearDiffusion([Vignette(mask)] * 4, [0, 0.2, 0.4, 0.6, 0.8])
    x0, noise = draw((1, 6), 3), draw((1, 6), 3, seed=1)
    torch.testing.assert_close(p.diffuse(x0, 3, noise=noise), mask**3 * x0 + 0.6 * noise)
    q = p.posterior(x0, noise, 3)
    variance = 0.16 - 0.16**2 / 0.36 * mask**2
    torch.testing.assert_close(q.sample(noise=noise) - q.mean, variance.sqrt() * noise, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", [2.0 * ld.Identity((1, 4)), ld.Matrix(2 * torch.eye(4), (1, 4), (1, 4))])
def test_infeasible_noise_levels_are_refused_when_the_process_is_built(operator):
    message = r"at t = 2, .* λmax = 4, ratio .* = 2\.77778; the smallest feasible σ_t is 1$"
    with pytest.raises(ValueError, match=message):
        ld.LinearDiffusion([operator] * 2, [0, 0.5, 0.6])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i: ld.LinearDiffusion([i] * 2, [0, 0.5]), "sigmas: expected 3 values"),
        (lambda i: ld.LinearDiffusion([i] * 2, [0.1, 0.5, 0.6]), "sigmas: expected σ_0 = 0"),
        (
            lambda i: ld.LinearDiffusion([i] * 2, [0, 0.5, math.nan]),
            "sigmas: expected a finite number .* at t = 2, got nan",
        ),
        (lambda i: ld.LinearDiffusion([i] * 2, [0, 0.0, 0.6]), "σ_t > 0 at t = 1"),
        (lambda i: ld.LinearDiffusion([i] * 2, [0, 0.5, 0.6], [1, 0, 1]), "signal_scales: expected"),
        (lambda i: ld.BlurringDiffusion((1, 4), 10, blur_sigma_max=-1), "blur_sigma_max: expected"),
        (lambda i: ld.BlurringDiffusion((1, 4), 10, min_scale=0), "min_scale: expected"),
        (lambda i: ld.ScaleSpaceDiffusion((1, 4), 4), "levels: expected at most 3"),
        (lambda i: ld.ScaleSpaceDiffusion((1, 8, 8), 0), "levels: expected"),
        (lambda i: ld.ScaleSpaceDiffusion((1, 8, 8), 2, 3, resolution_schedule=[0, 1, 0]), "never grow with t"),
        (lambda i: ld.ScaleSpaceDiffusion((1, 8, 8), 2, 3, resolution_schedule=[0, 1]), "expected 3 levels"),
        (lambda i: ld.ScaleSpaceDiffusion((1, 8, 8), 2, 3, resolution_schedule=[0, 1, 2]), "resolution_schedule: exp"),
    ],
)
def test_bad_processes(make, message):
    with pytest.raises(ValueError, match=message):
        make(ld.Identity((1, 4)))


def test_times_of_different_shapes():
    p = FAMILIES["scale space"]
    with pytest.raises(ValueError, match=r"t: expected times of one shape, got .*\(2, 2, 2\), \(2, 8, 6\)"):
        p.diffuse(draw(p.shape(0), 2), torch.tensor([1, STEPS]))


@pytest.mark.parametrize("shape", [(8,), (2, 7), (3, 6, 4), (1, 4, 3, 5)])
def test_blurring_a_batch_of_times_equals_blurring_each(shape):
    process = ld.BlurringDiffusion(shape, num_steps=50, blur_sigma_max=4.0)
    x0 = draw(shape, 4)
    times = [1, 50, 17, 30]
    rows = torch.stack([process.chain.cumulative(t)(row) for t, row in zip(times, x0, strict=True)])
    torch.testing.assert_close(process.chain.apply_cumulative(times, x0), rows, rtol=1e-12, atol=1e-12)


def test_a_fraction_of_shape_changes_and_its_weights():
    """How often each time comes, and that weighted losses keep their expectation: both within five standard errors."""
    process = ld.ScaleSpaceDiffusion((1, 8), 3, num_steps=20)
    changes, fraction, generator = process.shape_changes(), 0.3, torch.Generator().manual_seed(0)
    draws = [process.sample_timesteps(4, generator, fraction) for _ in range(4000)]
    share = sum(int(t[0]) in changes for t in draws) / len(draws)
    assert abs(share - fraction) < 5 * (fraction * (1 - fraction) / len(draws)) ** 0.5
    for t in draws[:200]:
        assert len({(process.shape(int(u)), process.shape(int(u) - 1)) for u in t}) == 1
    loss = torch.linspace(1, 3, 21, dtype=torch.float64).square()  # any function of t
    weighted = torch.stack([(process.timestep_weights(t, fraction) * loss[t]).mean() for t in draws])
    assert abs(weighted.mean() - loss[1:].mean()) < 5 * weighted.std() / len(draws) ** 0.5
    every = torch.arange(1, 21)
    probability = 1 / (20 * process.timestep_weights(every, fraction))
    assert float(probability.sum()) == pytest.approx(1)
    assert float(probability[[t - 1 for t in changes]].sum()) == pytest.approx(fraction)


@pytest.mark.parametrize(("levels", "groups"), [(3, 5), (3, 6), (4, 12), (1, 4)])
def test_times_in_groups_are_uniform_and_spread_evenly(levels, groups):
    """How often each time comes, within five standard errors, and that a batch has of each resolution its share."""
    process, generator = ld.ScaleSpaceDiffusion((1, 8), levels, num_steps=20), torch.Generator().manual_seed(0)
    batches, size = 4000, 2 * groups
    shapes = [(process.shape(t), process.shape(t - 1)) for t in range(1, 21)]
    counts = torch.zeros(21)
    for _ in range(batches):
        t = process.sample_timesteps(size, generator, groups=groups)
        counts += torch.bincount(t, minlength=21)
        assert all(len({shapes[u - 1] for u in t[k::groups].tolist()}) == 1 for k in range(groups))
        for pair in set(shapes):
            share, found = shapes.count(pair) / 20, sum(shapes[u - 1] == pair for u in t[:groups].tolist()) / groups
            assert abs(found - share) < 2 / groups  # evenly spaced times in an interval, or in two: the circle's seam
    frequencies = counts[1:] / (batches * size)
    assert bool(((frequencies - 1 / 20).abs() <= 5 * math.sqrt(1 / 20 / batches)).all())


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_times_with_probabilities_of_their_own(groups):
    """How often each time comes, within five standard errors of batches whose groups are alike at worst."""
    process, generator = ld.ScaleSpaceDiffusion((1, 8), 3, num_steps=20), torch.Generator().manual_seed(0)
    probabilities = torch.rand(20, generator=torch.Generator().manual_seed(1)).square()
    probabilities[[4, 19]] = 0
    batches = 4000
    draws = [process.sample_timesteps(6, generator, groups=groups, probabilities=probabilities) for _ in range(batches)]
    for t in draws[:200]:
        for k in range(groups):
            assert len({(process.shape(u), process.shape(u - 1)) for u in t[k::groups].tolist()}) == 1
    frequencies = torch.bincount(torch.cat(draws), minlength=21)[1:] / (6 * batches)
    expected = probabilities / probabilities.sum()
    assert bool(((frequencies - expected).abs() <= 5 * (expected / batches).sqrt()).all())
    assert frequencies[4] == frequencies[19] == 0


def test_parts_of_a_batch_with_one_shape():
    process = ld.ScaleSpaceDiffusion((1, 8), 3, num_steps=20)
    t = process.sample_timesteps(24, torch.Generator().manual_seed(0), groups=12)
    parts = process.group_by_shape(t)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(24))
    shapes = [{(process.shape(u), process.shape(u - 1)) for u in t[part].tolist()} for part in parts]
    assert all(len(pairs) == 1 for pairs in shapes)
    assert len(set.union(*shapes)) == len(parts)
    for part in parts:
        assert process.diffuse(draw((1, 8), len(part)), t[part]).shape[1:] == process.shape(int(t[part][0]))
    with pytest.raises(ValueError, match=r"t: expected 1 ≤ t ≤ 20, got 0"):
        process.group_by_shape(torch.tensor([3, 0]))


def test_bad_groups():
    process = ld.ScaleSpaceDiffusion((1, 8), 3, num_steps=20)
    with pytest.raises(ValueError, match=r"groups: expected a divisor of batch_size = 8, got 3"):
        process.sample_timesteps(8, groups=3)
    with pytest.raises(ValueError, match=r"groups: expected 1 with a shape_change_fraction, got 4"):
        process.sample_timesteps(8, shape_change_fraction=0.1, groups=4)
    with pytest.raises(ValueError, match=r"groups: expected"):
        process.sample_timesteps(8, groups=16)
    for probabilities, message in (
        (torch.ones(19), r"probabilities: expected shape \(20,\), got \(19,\)"),
        (torch.zeros(20), "probabilities: expected finite numbers ≥ 0, not all of them 0"),
        (-torch.ones(20), "probabilities: expected finite numbers ≥ 0"),
    ):
        with pytest.raises(ValueError, match=message):
            process.sample_timesteps(8, probabilities=probabilities)
    with pytest.raises(ValueError, match="probabilities: expected none with a shape_change_fraction"):
        process.sample_timesteps(8, shape_change_fraction=0.1, probabilities=torch.ones(20))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_bad_fractions_of_shape_changes(fraction):
    process = ld.ScaleSpaceDiffusion((1, 8), 3, num_steps=20)
    with pytest.raises(ValueError, match=r"shape_change_fraction: expected a number in \(0, 1\)"):
        process.sample_timesteps(4, shape_change_fraction=fraction)
    with pytest.raises(ValueError, match="expected a process some of whose steps change the shape"):
        ld.DDPM((1, 8)).timestep_weights(torch.tensor([1]), 0.2)
