"""Processes: the families by their own formulas, what all of them promise, and what they refuse."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lineardiffusion as ld
from lineardiffusion import paths, schedules
from test_operators import draw
from test_paths import check_pair

STEPS = 60
SCHEDULE = schedules.linear(STEPS, 1e-3, 0.3)


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
    alpha_bar = SCHEDULE.signal(torch.arange(STEPS + 1)).square()
    return {
        "DDPM": ld.DDPM(shape, STEPS, SCHEDULE),
        "blurring": ld.BlurringDiffusion(shape, STEPS, blur_sigma_max=3.0),
        "scale space": ld.ScaleSpaceDiffusion(shape, 3, STEPS, SCHEDULE, resolution_schedule=ld.equal_levels()),
        "scalars": scalars(shape, alpha_bar),
    }


FAMILIES = families()
CONTINUOUS = {"flow": ld.FlowMatching((2, 8, 6), shift=3.0), "EDM": ld.EDM((2, 8, 6))}


@pytest.fixture(params=list(FAMILIES | CONTINUOUS))
def process(request):
    return (FAMILIES | CONTINUOUS)[request.param]


# ---------------------------------------------------------------------------------------------- every family


def test_conventions(process):
    end = process.end
    assert (process.num_steps, end) == ((STEPS, STEPS) if process.num_steps else (None, 1.0))
    assert process.sigma(0) == 0
    assert process.signal_scale(0) == 1
    assert process.snr(0) == math.inf
    t = end * torch.tensor([1, 30, STEPS], dtype=torch.float64) / STEPS
    for function in (process.sigma, process.signal_scale, process.snr):
        assert function(t).tolist() == pytest.approx([function(float(u)) for u in t], rel=1e-14)
        for number in (float(t[1]), np.float64(t[1]), t[1]):
            assert type(function(number)) is float
            assert function(number) == function(float(t[1]))
    x0 = draw(process.shape(0), 2)
    assert torch.equal(process.clean(x0, 0), x0)
    assert torch.equal(process.diffuse(x0, 0), x0)
    if process.num_steps:
        assert torch.equal(process.diffuse(x0, 7, noise=x0), process.diffuse(x0, 7.0, noise=x0))
        x_t, mean = draw(process.shape(9), 2), draw(process.shape(8), 2)
        assert torch.equal(process.posterior(x_t, mean, 9).mean, process.posterior(x_t, mean, 9, 8).mean)
        assert torch.equal(process.transition(9)(x_t), process.transition(9, 8)(x_t))


def test_randomness_comes_from_the_generator_alone(process):
    x0 = draw(process.shape(0), 2)
    calls = (
        lambda g: process.diffuse(x0, process.end / 4, generator=g),
        lambda g: process.prior(3, g),
        lambda g: process.sample_timesteps(8, g),
    )
    if process.path.integral:
        calls = calls[1:]
    for call in calls:
        state = torch.random.get_rng_state()
        assert torch.equal(call(torch.Generator().manual_seed(5)), call(torch.Generator().manual_seed(5)))
        assert torch.equal(torch.random.get_rng_state(), state)


def test_prior(process, generator):
    x = process.prior(2000, generator, dtype=torch.float64)
    assert x.shape == (2000, *process.shape(process.end))
    # Standard deviation of a sample variance: σ² √(2/n); five of them.
    assert float(x.var()) == pytest.approx(process.sigma(process.end) ** 2, rel=5 * math.sqrt(2 / x.numel()))
    assert process.prior(0).shape == (0, *process.shape(process.end))


def test_float32_in_float32_out(process):
    x0, half = draw(process.shape(0), 2).float(), process.end / 2
    assert process.diffuse(x0, half).dtype == torch.float32
    assert process.diffuse(x0, torch.tensor([half / 10, half / 15])).dtype == torch.float32


def test_copies_pickles_and_configurations(process):
    x0, noise = draw(process.shape(0), 1), draw(process.shape(process.end), 1)
    expected = process.diffuse(x0, process.end, noise=noise)
    twins = [copy.deepcopy(process), pickle.loads(pickle.dumps(process))]
    if not process.path.integral:  # operators are equal to themselves alone, and have no configuration
        twins.append(ld.from_config(json.loads(json.dumps(process.to_config()))))
        for twin in twins:
            assert twin == process
            assert hash(twin) == hash(process)
    for twin in twins:
        assert torch.equal(twin.diffuse(x0, process.end, noise=noise), expected)
        x_t, mean = draw(process.shape(process.end), 2), draw(process.shape(process.end), 2, seed=1)
        first = process.before(process.end)
        assert torch.equal(*(p.kernel(x_t, mean, p.end, first, 0.5).mean for p in (twin, process)))


def test_processes_are_equal_by_path_schedule_and_coupling():
    shape = (1, 8)
    steps = [ld.Identity(shape), 0.5 * ld.Identity(shape)]
    assert ld.DDPM(shape, 10) == ld.LinearDiffusion(paths.identity(shape), schedules.linear(10))
    assert hash(ld.DDPM(shape, 10)) == hash(ld.LinearDiffusion(paths.identity(shape), schedules.linear(10)))
    assert ld.FlowMatching(shape, 2.0) == ld.LinearDiffusion(paths.identity(shape), schedules.flow(2.0))
    assert ld.BlurringDiffusion(shape, 10) == ld.LinearDiffusion(paths.heat(shape), schedules.cosine_log_snr(10))
    assert ld.ScaleSpaceDiffusion(shape, 2, 10) == ld.LinearDiffusion(paths.pyramid(shape, 2), schedules.linear(10))
    assert ld.LinearDiffusion(steps, [0, 0.5, 0.6]) == ld.LinearDiffusion(
        steps, torch.tensor([0, 0.5, 0.6], dtype=torch.float64)
    )
    different = [
        ld.DDPM(shape, 10), ld.DDPM(shape, 11), ld.DDPM((1, 9), 10), ld.DDPM(shape, 10, "cosine"), ld.EDM(shape),
        ld.BlurringDiffusion(shape, 10), ld.BlurringDiffusion(shape, 10, 3.0), ld.ScaleSpaceDiffusion(shape, 2, 10),
        ld.LinearDiffusion(paths.identity(shape), schedules.linear(10), coupling="shared"),
        ld.LinearDiffusion(steps, [0, 0.5, 0.6]), ld.LinearDiffusion(steps, [0, 0.5, 0.7]),
    ]  # fmt: skip
    assert all(a != b for a, b in itertools.combinations(different, 2))
    assert len(set(different)) == len(different)
    assert repr(ld.DDPM(shape, 10)) == "DDPM: identity((1, 8)) × linear(10)"


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


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_scale_space_within_a_level_is_ddpm(eta):
    """At the same noise, whole times and broken ones, steps and leaps."""
    p, ddpm = FAMILIES["scale space"], ld.DDPM((2, 4, 3), STEPS, SCHEDULE)
    assert p.shape(21) == p.shape(40) == (2, 4, 3)
    x_t, mean = draw((2, 4, 3), 2), draw((2, 4, 3), 2, seed=1)
    for s, t in ((21, 22), (21, 40), (30.25, 31)):
        ours, theirs = (q.kernel(x_t, mean, t, s, eta) for q in (p, ddpm))
        torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(ours.sample(x_t), theirs.sample(x_t), rtol=1e-14, atol=1e-14)


def test_long_transitions_of_ddpm():
    p = ld.DDPM((1, 4), STEPS, SCHEDULE)
    late, early = p.signal_scale(50) ** 2, p.signal_scale(10) ** 2
    expected = 1 - late - late / early * (1 - early)
    assert float(p.transition(50, 10)(torch.ones(1, 4))[0, 0]) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------- particular families


def test_flow_matching_goes_along_straight_lines():
    p = ld.FlowMatching((3, 5), shift=3.0)
    x0, noise = draw((3, 5), 4), draw((3, 5), 4, seed=1)
    for t in (0.2, 0.9, 1.0):
        sigma = 3 * t / (1 + 2 * t)
        x_t = p.diffuse(x0, t, noise=noise)
        torch.testing.assert_close(x_t, (1 - sigma) * x0 + sigma * noise, rtol=1e-14, atol=1e-14)
        s = 0.15
        step = p.sigma(s) - sigma
        kernel = p.kernel(x_t, p.signal_scale(s) * x0, t, s, 0.0)
        torch.testing.assert_close(kernel.mean, x_t + step * (noise - x0), rtol=1e-13, atol=1e-13)
        assert kernel.covariance(x0).abs().max() == 0


def test_edm_follows_the_ode_of_its_paper():
    p = ld.EDM((3, 5))
    x0, noise = draw((3, 5), 4), draw((3, 5), 4, seed=1)
    x_t = p.diffuse(x0, 0.5, noise=noise)
    torch.testing.assert_close(x_t, x0 + 80 * 0.5**7 * noise, rtol=1e-14, atol=1e-14)
    # Euler's step of Eq. 3 for σ(t) = t: x + (σ_s − σ_t) (x − D)/σ_t.
    expected = x_t + (80 * 0.3**7 - 80 * 0.5**7) * (x_t - x0) / (80 * 0.5**7)
    torch.testing.assert_close(p.kernel(x_t, x0, 0.5, 0.3, 0.0).mean, expected, rtol=1e-13, atol=1e-13)


def test_blurring_is_the_schedule_of_the_paper_and_keeps_the_range():
    p = ld.BlurringDiffusion((1, 16, 16), 100)
    a, b = math.atan(math.exp(-5)), math.atan(math.exp(5))
    log_snr = -2 * math.log(math.tan(0.25 * b + 0.75 * a))
    assert p.signal_scale(25) ** 2 == pytest.approx(1 / (1 + math.exp(-log_snr)))
    assert p.sigma(25) ** 2 == pytest.approx(1 / (1 + math.exp(log_snr)))
    x0 = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    for t in (1, 50, 100):
        c = p.clean(x0, t)
        assert float(c.mean()) == pytest.approx(float(x0.mean()))
        assert float(c.abs().max()) <= 1 + 1e-9


def test_scale_space_on_events_of_any_kind():
    p = ld.ScaleSpaceDiffusion((3, 16, 12), 3, STEPS, SCHEDULE, ld.equal_levels(), mode="area")
    assert [p.shape(t) for t in (0, 20, 21, 40, 41, 60)] == [(3, 16, 12)] * 2 + [(3, 8, 6)] * 2 + [(3, 4, 3)] * 2
    assert ld.ScaleSpaceDiffusion((1, 7, 10), 3, STEPS, SCHEDULE).shape(STEPS) == (1, 2, 3)
    assert ld.ScaleSpaceDiffusion((2, 64), 4, STEPS, SCHEDULE).shape(STEPS) == (2, 8)
    assert ld.ScaleSpaceDiffusion((1, 8, 8, 4), 2, STEPS, SCHEDULE).shape(STEPS) == (1, 4, 4, 2)


# ---------------------------------------------------------------------------------------------- chains of operators


def masks(seed=0):
    """Pixels fade, and some are lost."""
    steps = [draw((2, 3), seed=k).abs().clamp(0.1, 1.0) for k in range(4)]
    steps[1][0, 1] = steps[2][1] = 0
    return ld.LinearDiffusion(paths.chain([ld.Diagonal(step) for step in steps]), schedules.linear(4, 0.1, 0.5))


def unrelated():
    """Matrices of several shapes, the whole M_t of a process with scales."""
    shapes = [(2, 3), (2, 3), (4,), (2, 2), (5,)]
    steps = []
    for seed, (fine, coarse) in enumerate(itertools.pairwise(shapes)):
        weight = draw((math.prod(coarse), math.prod(fine)), seed=seed)
        steps.append(ld.Matrix(0.9 * weight / torch.linalg.matrix_norm(weight, 2), fine, coarse))
    return ld.LinearDiffusion(steps, [0, 0.5, 0.6, 0.7, 0.9], [1, 0.8, 0.7, 0.5, 0.2])


@pytest.mark.parametrize(("make", "framed"), [(masks, True), (unrelated, False)])
def test_chains(make, framed):
    p = make()
    for s, t in itertools.combinations(range(5), 2):
        check_pair(p, s, t, framed)
    assert p.shape_changes() == [t for t in range(1, 5) if p.shape(t) != p.shape(t - 1)]


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
    times = torch.tensor([3, 1, 3])
    rows = [p.diffuse(x0[i], int(t), noise=noise[i]) for i, t in enumerate(times)]
    torch.testing.assert_close(p.diffuse(x0, times, noise=noise), torch.stack(rows))
    q = p.posterior(x0, noise, 3)
    variance = 0.16 - 0.16**2 / 0.36 * mask**2
    torch.testing.assert_close(q.sample(noise=noise) - q.mean, variance.sqrt() * noise, rtol=1e-5, atol=1e-6)


def test_operators_may_be_degradations_or_whole():
    """R with a schedule is M = (a_t/a_{t−1}) R without one."""
    schedule, steps = (
        schedules.linear(3, 0.1, 0.5),
        [ld.Diagonal(draw((4,), seed=k).abs().clamp(max=1)) for k in range(3)],
    )
    whole = [schedule.signal(t) / schedule.signal(t - 1) * step for t, step in enumerate(steps, start=1)]
    t = torch.arange(4)
    processes = [
        ld.LinearDiffusion(paths.chain(steps), schedule),
        ld.LinearDiffusion(whole, schedule),
        ld.LinearDiffusion(whole, schedule.sigma(t), schedule.signal(t)),
    ]
    x0 = draw((4,), 4)
    for p in processes:
        torch.testing.assert_close(p.diffuse(x0, t, noise=x0), processes[0].diffuse(x0, t, noise=x0))
        torch.testing.assert_close(p.clean(x0, t), processes[0].clean(x0, t))
        torch.testing.assert_close(p.degradation(1, 3)(x0), steps[2](steps[1](x0)))


@pytest.mark.parametrize("alpha_bar", [[1.0, 0.6, 0.2], np.array([1.0, 0.6, 0.2]), torch.tensor([1.0, 0.6, 0.2])])
def test_alpha_bar_in_any_container(alpha_bar):
    assert ld.DDPM((1, 4), 2, alpha_bar).signal_scale(1) == pytest.approx(0.6**0.5, rel=1e-7)
