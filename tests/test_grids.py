"""Grids: exactly n times, changes of shape included, and the spacings of others."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

import lineardiffusion as ld
from lineardiffusion.schedules import grids
from lineardiffusion.schedules.grids import as_times, through


def process_of(schedule, changes=()):
    """One that changes shape at some times."""
    path = ld.paths.pyramid((1, 64), len(changes) + 1, ld.changes_at(changes))
    return ld.LinearDiffusion(path, schedule)


def chain_of(num_steps, sigmas=None):
    """A chain of operators, which knows integers alone."""
    sigmas = [0.0, *(0.1 * 1.1**k for k in range(num_steps))] if sigmas is None else sigmas
    return ld.LinearDiffusion([ld.Identity((4,))] * num_steps, sigmas)


PROCESSES = {
    "steps": process_of(ld.schedules.linear(1000)),
    "changes": process_of(ld.schedules.linear(1000), [556, 890]),
    "early changes": process_of(ld.schedules.cosine(100), [2, 3, 5]),
    "flow": process_of(ld.schedules.flow(), [0.5, 0.95]),
    "vp": process_of(ld.schedules.vp()),
    "edm": process_of(ld.schedules.edm(), [0.4]),
    "ve": process_of(ld.schedules.ve()),
    "zero SNR": process_of(ld.schedules.zero_terminal_snr(ld.schedules.linear(100)), [50]),
    "chain": chain_of(40),
}
RISING = ld.LinearDiffusion([ld.Identity((4,))] * 2, [0.0, 0.2, 0.1], coupling="shared")
GRIDS = [grids.uniform, grids.trailing, grids.leading, grids.karras, grids.log_snr]
stepped = [grids.uniform, grids.trailing, grids.leading]


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("kind", GRIDS)
def test_exactly_n_descending_times_with_the_changes_of_shape(kind, process):
    if kind is grids.leading and process.num_steps is None:
        with pytest.raises(ValueError, match="leading: expected a process with steps"):
            kind(5).times(process)
        return
    for n in (5, 6, 12):
        times = kind(n).times(process)
        assert len(times) == n
        assert all(t > s for t, s in itertools.pairwise([*times, 0]))
        assert kind is grids.leading or times[0] == process.end
        assert {t for t in process.shape_changes() if t <= times[0]} <= set(times)
        if process.num_steps and (kind in stepped or process.path.integral):
            assert all(type(t) is int for t in times)
        assert as_times(process, times) == [*times, 0] == as_times(process, kind(n))
        if kind in (grids.karras, grids.log_snr) and not process.shape_changes():
            assert times[-1] == process.schedule.first
        assert [type(t) for t in times].count(float) + [type(t) for t in times].count(int) == n


def test_too_few_times_for_the_changes():
    process = PROCESSES["changes"]
    assert grids.uniform(3).times(process) == [1000, 890, 556]
    for kind in (grids.uniform, grids.karras):
        with pytest.raises(ValueError, match=r"n: expected at least 3, for the first time .* got 2"):
            kind(2).times(process)
    at_the_end = process_of(ld.schedules.linear(10), [10])
    assert grids.uniform(1).times(at_the_end) == [10]


@given(st.data())
def test_moves_to_the_changes_are_the_smallest(data):
    times = sorted(data.draw(st.sets(st.integers(1, 40), min_size=1, max_size=7)), reverse=True)
    changes = sorted(t for t in data.draw(st.sets(st.integers(1, 40), max_size=4)) if t < times[0])
    if len(changes) >= len(times):
        with pytest.raises(ValueError, match=f"n: expected at least {len(changes) + 1}"):
            through(times, changes)
        return
    moved = through(times, changes)
    assert moved[0] == times[0]
    assert set(changes) <= set(moved)
    assert all(t > s for t, s in itertools.pairwise(moved))
    least = min(
        sum(abs(t - change) for t, change in zip(chosen, sorted(changes, reverse=True), strict=True))
        for chosen in itertools.combinations(times[1:], len(changes))
    )
    assert sum(abs(t - s) for t, s in zip(times, moved, strict=True)) == least


@given(st.integers(1, 60), st.integers(1, 60))
def test_uniform_is_the_nearest_integers(num_steps, n):
    process = ld.DDPM((1,), num_steps)
    if n > num_steps:
        with pytest.raises(ValueError, match=f"n: expected at most {num_steps}, the steps of the process, got {n}"):
            grids.uniform(n).times(process)
        return
    times = grids.uniform(n).times(process)
    exact = np.linspace(num_steps, 1, n)
    assert max(abs(np.array(times) - exact)) <= 0.5
    assert times[0] == num_steps
    assert n == 1 or times[-1] == 1
    assert n < num_steps or times == list(range(num_steps, 0, -1))


def test_uniform_in_continuous_time():
    assert grids.uniform(4).times(PROCESSES["vp"]) == grids.trailing(4).times(PROCESSES["vp"]) == [1, 0.75, 0.5, 0.25]
    stages = process_of(ld.schedules.piecewise([0, 2], [1, 0], [0, 1]))
    assert grids.uniform(4).times(stages) == [2, 1.5, 1, 0.5]


def test_leading_and_trailing_equal_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for num_steps in (1000, 250):
        process = ld.DDPM((1,), num_steps)
        for spacing, kind in (("leading", grids.leading), ("trailing", grids.trailing)):
            scheduler = diffusers.DDIMScheduler(num_steps, timestep_spacing=spacing)
            for n in (1, 2, 3, 7, 16, 48, 50, 80, 176, 250):
                scheduler.set_timesteps(n)
                assert kind(n).times(process) == (scheduler.timesteps + 1).tolist()


def load(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def levels(process, grid):
    t = torch.tensor(grid.times(process), dtype=torch.float64)
    return process.sigma(t) / process.signal_scale(t)


@pytest.mark.parametrize("n", [5, 10, 20])
def test_times_and_karras_levels_of_diffusers(shared, n):
    tensors = load(shared / "vectors" / "solvers" / "vp_dpmpp_grid.safetensors")
    process = ld.DDPM((1,), 1000, ld.schedules.linear(1000, 1e-4, 0.02))
    assert grids.trailing(n).times(process) == (tensors[f"sched.trailing.plain.n{n}.t"].long() + 1).tolist()
    ratio = tensors[f"sched.linspace.karras.n{n}.sigma"] / tensors[f"sched.linspace.karras.n{n}.alpha"]
    torch.testing.assert_close(levels(process, grids.karras(n)), ratio[:-1], rtol=1e-10, atol=0)
    given_ends = grids.karras(n, sigma_max=float(ratio[0]), sigma_min=float(ratio[-2]))
    torch.testing.assert_close(levels(process, given_ends), ratio[:-1], rtol=1e-10, atol=0)


def test_karras_levels_of_edm(shared):
    folder = shared / "vectors" / "solvers"
    nvlabs = load(folder / "edm_nvlabs_heun.safetensors")["n18.churn0.level"]
    diffusers = load(folder / "edm_diffusers.safetensors")["euler.o1.n10.level"]
    crowson = load(folder / "k_diffusion.safetensors")["level"]
    edm = ld.EDM((1,))
    for result, expected in (
        (levels(edm, grids.karras(18)), nvlabs),
        (levels(edm, grids.karras(10)), diffusers),
        (levels(edm, grids.karras(10, sigma_min=0.01, sigma_max=20.0)), crowson),
    ):
        torch.testing.assert_close(result, expected[:-1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["steps", "vp", "edm", "ve"])
def test_levels_are_equally_spaced(name):
    process = PROCESSES[name] if not PROCESSES[name].shape_changes() else ld.EDM((1,))
    for rho in (1.0, 3.0, 7.0):
        roots = levels(process, grids.karras(9, rho)) ** (1 / rho)
        torch.testing.assert_close(roots.diff(), ((roots[-1] - roots[0]) / 8).expand(8), rtol=1e-6, atol=0)
    log_snr = -2 * levels(process, grids.log_snr(9)).log()
    torch.testing.assert_close(log_snr.diff(), ((log_snr[-1] - log_snr[0]) / 8).expand(8), rtol=1e-6, atol=0)
    assert grids.karras(1).times(process) == grids.log_snr(1).times(process) == [process.end]


@pytest.mark.parametrize("kind", [grids.karras, grids.log_snr])
def test_from_pure_noise_the_others_are_at_finite_levels(kind):
    """As if T had the level of the first time before it."""
    for process in (ld.FlowMatching((1,)), ld.DDPM((1,), 50, ld.schedules.zero_terminal_snr(ld.schedules.linear(50)))):
        schedule, times = process.schedule, kind(9).times(process)
        assert schedule.signal(times[0]) == 0
        if kind is grids.karras:
            place = [math.exp(-0.5 * schedule.log_snr(t)) ** (1 / 7) for t in times[1:]]
            start = math.exp(-0.5 * schedule.log_snr(process.end - schedule.first)) ** (1 / 7)
        else:
            place, start = [schedule.log_snr(t) for t in times[1:]], schedule.log_snr(process.end - schedule.first)
        assert place == pytest.approx(np.linspace(start, place[-1], 9)[1:], rel=1e-6)
    assert grids.karras(3, sigma_max=10.0).times(ld.FlowMatching((1,)))[0] == pytest.approx(10 / 11)


def test_a_chain_has_integers_alone():
    process = chain_of(30)
    times = grids.log_snr(8).times(process)
    exact = grids.log_snr(8).times(ld.LinearDiffusion(ld.paths.identity((4,)), process.schedule))
    assert times == [round(t) for t in exact]
    process = chain_of(30, [float(t) for t in range(31)])
    with pytest.raises(ValueError, match=r"those of karras\(25\), rounded to the integers .*, are not all different"):
        grids.karras(25).times(process)
    assert as_times(process, [30.0, torch.tensor(4), np.int64(2)]) == [30, 4, 2, 0]
    with pytest.raises(ValueError, match=r"steps: expected integers, since a chain .* got 2.5"):
        as_times(process, [30, 2.5])


def test_as_times():
    ddpm, flow = ld.DDPM((1,), 100), ld.FlowMatching((1,))
    assert as_times(ddpm, None) == list(range(100, -1, -1))
    for number in (3, np.int64(3), torch.tensor(3)):
        assert as_times(ddpm, number) == as_times(ddpm, grids.uniform(3)) == [100, 51, 1, 0]
    for given_times in ([90, 5.5], (90, 5.5, 0), np.array([90, 5.5]), torch.tensor([90, 5.5, 0.0])):
        assert as_times(ddpm, given_times) == [90, 5.5, 0]
        assert [type(t) for t in as_times(ddpm, given_times)] == [int, float, int]
    assert as_times(ddpm, range(100, 0, -25)) == [100, 75, 50, 25, 0]
    assert as_times(ddpm, torch.tensor([7])) == [7, 0]
    assert as_times(flow, [1, 0.5]) == [1, 0.5, 0]
    assert as_times(PROCESSES["changes"], [700, 556, 555]) == [700, 556, 555, 0]
    assert as_times(PROCESSES["changes"], [300, 2]) == [300, 2, 0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: grids.uniform(0), ValueError, "n: expected 1 ≤ n"),
        (lambda p: grids.uniform(2.5), TypeError, "n: expected an int"),
        (lambda p: grids.karras(5, rho=0.0), ValueError, "rho: expected a positive number, got 0.0"),
        (lambda p: grids.karras(5, sigma_min=-1.0), ValueError, "sigma_min: expected a positive number, got -1.0"),
        (lambda p: grids.karras(5, sigma_min=2.0, sigma_max=1.0), ValueError, "less than sigma_max = 1.0, got 2.0"),
        (lambda p: grids.karras(5, sigma_max="9"), TypeError, "sigma_max: expected a number"),
        (lambda p: grids.karras(5, sigma_max=1e3).times(p), ValueError, "sigma_max: expected at most 157.407"),
        (lambda p: grids.karras(5, sigma_min=1e3).times(p), ValueError, "expected ascending levels, got 1000"),
        (lambda p: grids.karras(5, sigma_min=1e-3).times(PROCESSES["ve"]), ValueError, "sigma_min: expected a level"),
        (lambda p: grids.trailing(1001).times(p), ValueError, "n: expected at most 1000, the steps of the process"),
        (lambda p: grids.log_snr(2).times(ld.DDPM((1,), 1)), ValueError, r"of log_snr\(2\) are not all different"),
        (lambda p: grids.log_snr(2).times(RISING), ValueError, "falls strictly"),
        (lambda p: as_times(ld.EDM((1,)), None), ValueError, "steps: expected a number or a grid .* got None"),
        (lambda p: as_times(p, [5, 7]), ValueError, r"got 7 after 5; sorted\(set\(steps\), rev"),
        (lambda p: as_times(p, [5, 5]), ValueError, "steps: expected strictly descending times, got 5 after 5"),
        (lambda p: as_times(p, [7, 0, 5]), ValueError, r"steps: expected times in \(0, 1000\], got 0"),
        (lambda p: as_times(p, [1001, 5]), ValueError, r"steps: expected times in \(0, 1000\], got 1001"),
        (lambda p: as_times(p, [math.nan]), ValueError, r"steps: expected times in \(0, 1000\], got nan"),
        (lambda p: as_times(p, [-1]), ValueError, r"steps: expected times in \(0, 1000\], got -1"),
        (lambda p: as_times(p, []), ValueError, "steps: expected at least one time above 0, got none"),
        (lambda p: as_times(p, [0]), ValueError, "steps: expected at least one time above 0"),
        (lambda p: as_times(p, 0), ValueError, "steps: expected 1 ≤ steps ≤ 1000, got 0"),
        (lambda p: as_times(p, 2000), ValueError, "steps: expected 1 ≤ steps ≤ 1000, got 2000"),
        (lambda p: as_times(p, ["5"]), TypeError, "steps: expected a number, got '5'"),
        (lambda p: as_times(p, "uniform"), TypeError, "steps: expected a number, a grid such as .* got 'uniform'"),
        (lambda p: as_times(p, 2.5), TypeError, "steps: expected a number, a grid such as .* got 2.5"),
        (lambda p: as_times(PROCESSES["changes"], [1000, 500]), ValueError, "1000 → 500, which jumps over 556, 890: "),
        (lambda p: as_times(PROCESSES["changes"], [700]), ValueError, "got 700 → 0, which jumps over 556"),
        (lambda p: as_times(PROCESSES["flow"], [1, 0.9, 0.5]), ValueError, "got 1.0 → 0.9, which jumps over 0.95"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make(PROCESSES["steps"])


def test_uniform_begins_at_the_end():
    """Exactly, also where T is no whole number: times of one's own may not lie beyond it."""
    schedule = ld.schedules.flow()
    schedule.end = 1301.6428675365942
    process = ld.LinearDiffusion(ld.paths.identity((1,)), schedule, coupling="shared")
    for n in range(1, 60):
        assert grids.uniform(n).times(process)[0] == schedule.end
