"""Noise schedules against their formulas and the numbers of others: a_t, σ_t, the log-SNR and its inverse."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lineardiffusion as ld
from lineardiffusion.schedules import (
    CovarianceTable,
    Schedule,
    as_schedule,
    cosine,
    cosine_log_snr,
    edm,
    flow,
    from_alpha_bar,
    linear,
    piecewise,
    sub_vp,
    table,
    ve,
    vp,
    zero_terminal_snr,
)
from lineardiffusion.testing import strategies
from vectors import load

STAGES = ([0.0, 0.25, 0.25, 1.5], [1.0, 0.75, 0.5, 0.0], [0.0, 0.25, 0.5, 1.0])
EVERY = {
    "linear": linear(1000),
    "cosine": cosine(40),
    "cosine_log_snr": cosine_log_snr(100),
    "cosine_log_snr continuous": cosine_log_snr(None),
    "zero snr": zero_terminal_snr(linear(100)),
    "from_alpha_bar": from_alpha_bar([1.0, 0.9, 0.5, 0.01]),
    "from_alpha_bar, straight": from_alpha_bar([1.0, 0.9, 0.5, 0.01], between="ratio"),
    "one step": from_alpha_bar([1.0, 0.3]),
    "one step to noise": from_alpha_bar([1.0, 0.0]),
    "table": table([1.0, 0.9, 0.9, 0.0], [0.0, 0.1, 0.8, 2.0]),
    "covariances": CovarianceTable([0.0, 0.5, ld.GramCovariance(ld.Diagonal(torch.tensor([1.0, 2.0])))]),
    "flow": flow(),
    "flow shifted": flow(shift=3.0),
    "edm": edm(),
    "vp": vp(),
    "sub-VP": sub_vp(),
    "ve": ve(),
    "piecewise": piecewise(*STAGES),
}
every = pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)


def grid(schedule, count=4001):
    return torch.linspace(0, schedule.end, count, dtype=torch.float64)


# --------------------------------------------------------------------------------------------- what all have in common


@every
def test_begins_with_clean_data_and_loses_signal_all_along(schedule):
    assert schedule(0) == (1.0, 0.0)
    assert schedule.log_snr(0) == math.inf
    log_snr = schedule.log_snr(grid(schedule))
    assert (log_snr.diff() < 0).all()
    assert 0 < schedule.first <= schedule.end
    assert (schedule.first == 1) == (schedule.num_steps is not None)
    assert schedule.num_steps in (None, schedule.end)


@every
def test_time_is_the_inverse_of_log_snr(schedule):
    t = grid(schedule)
    error = (schedule.time(schedule.log_snr(t)) - t).abs().max()
    assert error <= 1e-9 * schedule.end
    for number in t[1::500].tolist():
        assert schedule.time(schedule.log_snr(number)) == pytest.approx(number, abs=1e-9 * schedule.end)
    assert schedule.time(math.inf) == 0
    assert schedule.time(-math.inf) == schedule.end
    assert schedule.time(1e4) <= 1e-3 * schedule.end  # no schedule has a level of e^−5000 later
    assert schedule.time(torch.tensor([math.inf, -math.inf])).tolist() == [0, schedule.end]


@every
def test_numbers_and_tensors_agree(schedule):
    times = [0, schedule.end, schedule.first, 0.37 * schedule.end, 0.5 * schedule.end]
    tensor = torch.tensor(times, dtype=torch.float64)
    for method in (schedule.signal, schedule.sigma, schedule.log_snr):
        result = method(tensor)
        assert result.dtype == torch.float64
        assert result.tolist() == [method(t) for t in times]
        assert all(type(method(t)) is float for t in times)
        assert torch.equal(method(tensor.reshape(5, 1)), result.reshape(5, 1))
        assert torch.equal(method(tensor.float()), method(tensor.float().double()))
        assert method(tensor[3]) == result[3]
        assert method(np.float64(times[3])) == method(times[3])
        whole = torch.tensor([0, 1])
        for kind in (torch.int64, torch.int32, torch.uint8):
            assert torch.equal(method(whole.to(kind)), method(whole.double()))
    assert torch.equal(torch.stack(schedule(tensor)), torch.stack([schedule.signal(tensor), schedule.sigma(tensor)]))
    assert schedule.noise(1, (2,)) == schedule.sigma(1)


@every
def test_no_value_of_a_tensor_is_waited_for(schedule):
    """A tensor on the meta device has none."""
    for t in (torch.empty(3, 2, device="meta"), torch.empty(4, dtype=torch.long, device="meta")):
        for method in (schedule.signal, schedule.sigma, schedule.log_snr, schedule.time):
            result = method(t)
            assert (result.device.type, result.dtype, result.shape) == ("meta", torch.float64, t.shape)


@every
def test_copies_are_equal_and_leave_caches_behind(schedule):
    schedule.signal(torch.tensor(0.5))
    t = grid(schedule, 50)
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert torch.equal(torch.stack(other(t)), torch.stack(schedule(t)))
    assert len(pickle.dumps(schedule)) <= 200 * (schedule.end + 30)


@every
def test_times_outside_are_refused(schedule):
    for bad in (-0.1, schedule.end * 1.01, math.nan):
        with pytest.raises(ValueError, match=f"t: expected 0 ≤ t ≤ {schedule.end}, got"):
            schedule.signal(bad)
        with pytest.raises(ValueError, match=f"t: expected 0 ≤ t ≤ {schedule.end}, got values in"):
            schedule.sigma(torch.tensor([0.0, bad]))
    with pytest.raises(ValueError, match="got values in -1"):
        schedule.sigma(torch.tensor([-1, 1]))
    for bad in ("0.5", None, [0.5], np.array([0.5])):
        with pytest.raises(TypeError, match="t: expected a number"):
            schedule.log_snr(bad)
    for bad in (torch.tensor([True]), torch.tensor([1j])):
        with pytest.raises(ValueError, match="t: expected real numbers"):
            schedule.signal(bad)
    with pytest.raises(ValueError, match="log_snr: expected a number, got NaN"):
        schedule.time(math.nan)
    with pytest.raises(TypeError, match="log_snr: expected a number"):
        schedule.time("0")


@given(st.data())
def test_random_schedules_have_inverses(data):
    positive = st.floats(0.05, 50)
    kind = data.draw(st.sampled_from(["flow", "edm", "vp", "ve", "cosine_log_snr", "table", "zero", "piecewise"]))
    if kind == "flow":
        schedule = flow(data.draw(positive))
    elif kind == "edm":
        schedule = edm(data.draw(positive), data.draw(st.floats(1, 10)))
    elif kind == "vp":
        schedule = vp(*sorted([data.draw(positive), data.draw(positive)]))
    elif kind == "ve":
        low = data.draw(positive)
        schedule = ve(low, low * data.draw(st.floats(1.1, 1e4)))
    elif kind == "cosine_log_snr":
        schedule = cosine_log_snr(None, data.draw(st.floats(-15, -1)), data.draw(st.floats(1, 15)))
    elif kind == "piecewise":
        noise = sorted({0.0, 1.0, *data.draw(st.lists(st.floats(0.01, 0.99).map(lambda s: round(s, 3)), max_size=4))})
        schedule = piecewise([float(k) for k in range(len(noise))], [1 - s for s in noise], noise)
    else:
        schedule = from_alpha_bar(data.draw(strategies.alpha_bars(data.draw(st.integers(2, 6)))))
        schedule = zero_terminal_snr(schedule) if kind == "zero" else schedule
    t = torch.linspace(0, schedule.end, 101, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert (log_snr.diff() < 0).all()
    assert (schedule.time(log_snr) - t).abs().max() <= 1e-9 * schedule.end


# ------------------------------------------------------------------------------------------------------------ formulas


def test_linear():
    expected = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    torch.testing.assert_close(linear(1000).signal(torch.arange(1, 1001)).square(), expected)
    torch.testing.assert_close(linear(1000).sigma(torch.arange(1, 1001)).square(), 1 - expected)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 20, 21, 100, 250, 4000])
def test_linear_ends_in_noise_for_every_number_of_steps(num_steps):
    alpha_bar = linear(num_steps).signal(torch.arange(num_steps + 1)).square()
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    ends = [min(end * 1000 / num_steps, 0.999) for end in ((1e-4, 0.02) if num_steps > 1 else (0.02,))]
    expected = torch.from_numpy(np.linspace(*ends, num_steps)) if num_steps > 1 else torch.tensor(ends).double()
    torch.testing.assert_close(betas, expected)
    assert linear(num_steps).log_snr(num_steps) < math.log(2e-3)


def test_explicit_betas_are_kept():
    def alpha_bar(schedule):
        return schedule.signal(torch.arange(1, schedule.end + 1)).square()

    torch.testing.assert_close(alpha_bar(linear(3, 0.1, 0.3)), torch.tensor([0.9, 0.72, 0.504]).double())
    torch.testing.assert_close(alpha_bar(linear(2, beta_end=0.5)), torch.tensor([0.95, 0.475]).double())
    torch.testing.assert_close(alpha_bar(linear(1, 0.1, 0.5)), torch.tensor([0.5]).double())
    expected = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100, dtype=torch.float64), 0)
    torch.testing.assert_close(alpha_bar(linear(100, 1e-4, 0.02)), expected)


def test_cosine_equals_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    alpha_bar = cosine(1000).signal(torch.arange(1, 1001)).square()
    torch.testing.assert_close(alpha_bar, reference.double(), rtol=2e-4, atol=1e-7)  # theirs: float32


def test_cosine_log_snr():
    a, b = math.atan(math.exp(-5)), math.atan(math.exp(5))
    continuous, stepped = cosine_log_snr(None), cosine_log_snr(100)
    for t in (1, 30, 99, 100):
        expected = -2 * math.log(math.tan(t / 100 * b + (1 - t / 100) * a))
        assert stepped.log_snr(t) == pytest.approx(expected, abs=1e-9)
        assert continuous.log_snr(t / 100) == pytest.approx(expected, abs=1e-9)
        assert sum(level**2 for level in continuous(t / 100)) == pytest.approx(1)
    assert cosine_log_snr(10, -3.0, 4.0).log_snr(10) == pytest.approx(-3)
    assert cosine_log_snr(None, -3.0, 4.0).log_snr(1e-9) == pytest.approx(4)


@given(st.floats(0.1, 20), st.floats(0, 1))
def test_flow(shift, t):
    signal, sigma = flow(shift)(t)
    assert signal + sigma == pytest.approx(1, abs=1e-15)
    assert sigma == pytest.approx(shift * t / (1 + (shift - 1) * t), abs=1e-15)
    assert flow()(t) == (1 - t, t) if t else (1, 0)


def test_edm():
    for t in (0.1, 0.5, 1.0):
        assert edm()(t) == (1, pytest.approx(80 * t**7))
        assert edm(10.0, rho=3.0)(t) == (1, pytest.approx(10 * t**3))
    assert edm().sigma(edm().first) == pytest.approx(0.002)


def test_vp_is_that_of_its_rates():
    """ln a = −½ ∫ β, β = β_min + t (β_max − β_min), by quadrature."""
    for low, high in ((0.1, 20.0), (2.0, 2.0)):
        u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
        for t in (0.2, 1.0):
            integral = float((low + u * t * (high - low)).mean()) * t
            signal, sigma = vp(low, high)(t)
            assert signal == pytest.approx(math.exp(-0.5 * integral))
            assert signal**2 + sigma**2 == pytest.approx(1)
            assert sub_vp(low, high)(t) == (signal, pytest.approx(sigma**2))
    tiny = vp().sigma(1e-12)  # σ² = β_min t, not the 0 that 1 − a² has come to
    assert tiny**2 == pytest.approx(0.1 * 1e-12)


def test_ve():
    assert ve()(0.5) == (1, pytest.approx(0.01 * 5000**0.5))
    assert ve().sigma(1e-300) == pytest.approx(0.01)
    assert ve().sigma(ve().first) == pytest.approx(0.01, rel=1e-4)
    assert ve().time(-2 * math.log(0.009)) == 0  # a level that there is not


def test_piecewise_jumps():
    schedule = piecewise(*STAGES)
    assert schedule(0.125) == (0.875, 0.125)
    assert schedule(0.25) == (0.5, 0.5)
    below = math.nextafter(0.25, 0)
    assert schedule(below) == (pytest.approx(0.75), pytest.approx(0.25))
    assert schedule(0.875) == (pytest.approx(0.25), pytest.approx(0.75))
    assert schedule(1.5) == (0, 1)
    for ratio in (1, 0.9, 1.5, 2.9):  # jumped over: a/σ is 3 below, 1 at and after the jump
        assert schedule.time(2 * math.log(ratio)) == pytest.approx(0.25 if ratio >= 1 else 0.25 + 1.25 / 19, abs=1e-12)
    line = piecewise([0, 1], [1, 0], [0, 1])
    torch.testing.assert_close(torch.stack(line(grid(line))), torch.stack(flow()(grid(line))))
    rising = piecewise([0, 1, 1, 2], [1, 0.5, 0.75, 0], [0, 0.5, 0.25, 1])
    assert rising(1) == (0.75, 0.25)
    with pytest.raises(ValueError, match=r"log_snr: expected .* falls strictly with t, got piecewise"):
        rising.time(0.0)


def test_user_schedule_by_its_formula_alone():
    class Sine(Schedule):
        end = 2.0

        def levels(self, t):
            return (math.pi / 4 * t).cos(), (math.pi / 4 * t).sin()

    schedule = Sine()
    assert schedule(0) == (1, 0)
    assert schedule.sigma(2) == 1
    t = torch.linspace(0, 1.99, 200, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=0, atol=1e-9)
    assert schedule.time(math.inf) == 0
    assert schedule == Sine() != flow()


# -------------------------------------------------------------------------------------------------------------- tables


@every
def test_tables_are_exact_at_integers(schedule):
    if schedule.num_steps is None:
        return
    t = torch.arange(schedule.num_steps + 1)
    between = schedule(t.double())
    assert torch.equal(torch.stack(schedule(t)), torch.stack(between))
    nearly = torch.stack(schedule(t[1:].double() - 1e-9))  # the continuation leads to them
    torch.testing.assert_close(nearly, torch.stack(between)[:, 1:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "schedule", [linear(50), table([1.0, 0.9, 0.5, 0.1], [0.0, 0.1, 3.0, 4.0])], ids=["VP", "neither VP nor VE"]
)
def test_between_integers_the_log_ratio_is_linear(schedule):
    for low, w in itertools.product(range(1, schedule.end), (0.25, 0.7)):
        (a, s), (b, r), (signal, sigma) = schedule(low), schedule(low + 1), schedule(low + w)
        expected = (1 - w) * math.log(a / s) + w * math.log(b / r)
        assert math.log(signal / sigma) == pytest.approx(expected, abs=1e-12)
        if schedule == linear(50):
            assert signal**2 + sigma**2 == pytest.approx(1, abs=1e-12)
        else:
            assert signal == pytest.approx(a ** (1 - w) * b**w, rel=1e-12)
    for w in (1e-6, 0.3):  # next to clean data the ratio σ/a is
        signal, sigma = schedule(w)
        assert sigma / signal == pytest.approx(w * schedule.sigma(1) / schedule.signal(1), rel=1e-12)
        expected = (1 + (sigma / signal) ** 2) ** -0.5 if schedule == linear(50) else schedule.signal(1) ** w
        assert signal == pytest.approx(expected, rel=1e-12)


def test_ratios_between_integers_are_those_of_numpy():
    alpha_bar = torch.cat([torch.ones(1), torch.linspace(0.99, 0.02, 30).cumprod(0)]).double()
    t, ratio = torch.linspace(0, 30, 301).double(), ((1 - alpha_bar) / alpha_bar).sqrt()
    schedule = from_alpha_bar(alpha_bar, between="ratio")
    signal, sigma = schedule(t)
    expected = torch.from_numpy(np.interp(t.numpy(), np.arange(31), ratio.numpy()))
    torch.testing.assert_close(sigma, expected * signal, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(signal.square() + sigma.square(), torch.ones(301).double(), rtol=1e-12, atol=0)


def test_next_to_pure_noise_the_ratio_is_linear():
    schedule = zero_terminal_snr(linear(50))
    assert schedule(50) == (0, 1)
    for w in (0.25, 0.999):
        signal, sigma = schedule(49 + w)
        assert signal / sigma == pytest.approx((1 - w) * schedule.signal(49) / schedule.sigma(49), rel=1e-9)
        assert signal**2 + sigma**2 == pytest.approx(1)
    signal, sigma = from_alpha_bar([1.0, 0.0])(0.25)  # from clean data to noise in one step: a straight line
    assert signal / sigma == pytest.approx(3)


def test_noise_may_stay_or_vanish_but_then_there_is_no_inverse():
    schedule = table([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.25])
    assert schedule.sigma(0.5) == 0
    assert schedule.sigma(1.5) == pytest.approx(0.25, rel=0.05)
    assert schedule.log_snr(1) == math.inf
    for number in (0.0, torch.zeros(2)):
        with pytest.raises(ValueError, match="falls strictly"):
            schedule.time(number)


def test_zero_terminal_snr_equals_that_of_diffusers():
    module = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    for schedule in (linear(1000), linear(100, 0.01, 0.2), cosine(50)):
        t = torch.arange(schedule.end + 1)
        alpha_bar = schedule.signal(t).square()
        betas = module.rescale_zero_terminal_snr(1 - alpha_bar[1:] / alpha_bar[:-1])
        rescaled = zero_terminal_snr(schedule)
        expected = (1 - betas).cumprod(0)
        torch.testing.assert_close(rescaled.signal(t[1:]).square(), expected, rtol=1e-9, atol=1e-15)
        assert rescaled.signal(schedule.end) == 0
    again = zero_terminal_snr(zero_terminal_snr(linear(100)))
    torch.testing.assert_close(
        torch.stack(again(grid(again))), torch.stack(zero_terminal_snr(linear(100))(grid(again)))
    )


def test_covariances():
    blue = ld.GramCovariance(ld.Diagonal(torch.tensor([1.0, 7.0])))
    schedule = CovarianceTable([0.0, 2.0, blue], signal=[1.0, 0.9, 0.5])
    assert not schedule.is_isotropic
    assert schedule(2) == (0.5, 5.0)  # √((1 + 49)/2)
    assert schedule.noise(1, (2,)) == 2
    assert schedule.noise(2, (2,)) is blue
    assert CovarianceTable([0.0, 0.1]).is_isotropic
    with pytest.raises(ValueError, match=r"t: expected an integer, .* t = 0 … 2 alone, got 1.5"):
        schedule.noise(1.5, (2,))
    with pytest.raises(ValueError, match=r"levels: expected a covariance of events \(3,\) at t = 2, got one of \(2,\)"):
        schedule.noise(2, (3,))
    with pytest.raises(TypeError, match="CovarianceTable: levels: expected numbers"):
        schedule.to_config()


# ------------------------------------------------------------------------------------------------- the numbers of peers


def test_levels_of_diffusers(shared):
    """Of the states that its samplers visit, at its 0-based times; float64."""
    schedule, seen = linear(1000, 1e-4, 0.02), 0
    for name in ("vp_dpmpp_grid", "vp_ddim_ddpm", "vp_dpmpp_ode"):
        _, tensors = load(shared / "vectors" / "solvers" / f"{name}.safetensors")
        for key in [key.removesuffix(".t") for key in tensors if key.endswith(".t") and "karras" not in key]:
            t = tensors[f"{key}.t"].long() + 1
            torch.testing.assert_close(schedule.signal(t), tensors[f"{key}.alpha"][: len(t)], rtol=1e-12, atol=0)
            torch.testing.assert_close(schedule.sigma(t), tensors[f"{key}.sigma"][: len(t)], rtol=1e-12, atol=0)
            seen += len(t)
    assert seen > 300


@pytest.mark.parametrize("n", [5, 10, 20])
def test_shifted_levels_of_diffusers(shared, n):
    """FlowMatchEulerDiscreteScheduler: linear from 1 to the shifted 0.001, and shifted."""
    _, tensors = load(shared / "vectors" / "solvers" / "flow.safetensors")
    for shift in (1.0, 3.0):
        schedule = flow(shift)
        t = torch.linspace(1, schedule.sigma(1e-3), n, dtype=torch.float64)
        levels = tensors[f"euler.shift{shift:.0f}.n{n}.level"]
        torch.testing.assert_close(schedule.sigma(t), levels[:-1], rtol=1e-12, atol=0)
        torch.testing.assert_close(schedule.signal(t), 1 - levels[:-1], rtol=0, atol=1e-15)


# --------------------------------------------------------------------------------------------------- what is accepted


def test_as_schedule():
    alpha_bar = [1.0, 0.5, 0.25]
    expected = from_alpha_bar(alpha_bar)
    for given_values in (alpha_bar, tuple(alpha_bar), np.array(alpha_bar), torch.tensor(alpha_bar)):
        assert as_schedule(given_values, 2) == expected
        assert as_schedule(lambda steps, values=given_values: values, 2) == expected
    assert as_schedule(expected, 2) is expected
    assert as_schedule(linear, 7) == as_schedule("linear", 7) == linear(7)
    assert as_schedule("cosine", 7) == cosine(7)
    assert as_schedule("cosine_log_snr", 7) == cosine_log_snr(7)
    assert as_schedule(lambda steps: linear(steps, 0.1, 0.2), 7) == linear(7, 0.1, 0.2)
    assert as_schedule(vp(), None) == vp()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: linear(0), ValueError, "num_steps: expected"),
        (lambda: linear(2.5), TypeError, "num_steps: expected an int"),
        (lambda: linear(10, 0.5, 0.1), ValueError, "beta_start"),
        (lambda: linear(10, 0.0), ValueError, "beta_start"),
        (lambda: linear(10, "0.1"), TypeError, "beta_start: expected a number, got '0.1'"),
        (lambda: linear(1000, beta_start=0.1), ValueError, "beta_start, beta_end: expected .* got 0.1, 0.02"),
        (lambda: linear(10, beta_end=1.0), ValueError, "beta_end"),
        (lambda: linear(10, beta_end=math.nan), ValueError, "beta_end"),
        (lambda: cosine(10, offset=-1.0), ValueError, "offset: expected a number ≥ 0, got -1.0"),
        (lambda: cosine(10, max_beta=1.0), ValueError, r"max_beta: expected a number in \(0, 1\), got 1.0"),
        (lambda: cosine_log_snr(10, 3.0, 3.0), ValueError, "log_snr_min: expected less than log_snr_max = 3.0"),
        (lambda: cosine_log_snr(None, -math.inf), ValueError, "log_snr_min"),
        (lambda: flow(0.0), ValueError, "shift: expected a positive number, got 0.0"),
        (lambda: flow(math.inf), ValueError, "shift: expected a positive number, got inf"),
        (lambda: edm(0.001), ValueError, "sigma_max: expected a level above the least of a grid, 0.002, got 0.001"),
        (lambda: edm(rho=-1), ValueError, "rho: expected a positive number, got -1"),
        (lambda: vp(3.0, 2.0), ValueError, "beta_min: expected at most beta_max = 2.0, got 3.0"),
        (lambda: vp(0.0), ValueError, "beta_min: expected a positive number"),
        (lambda: ve(1.0, 1.0), ValueError, "sigma_min: expected less than sigma_max = 1.0, got 1.0"),
        (lambda: from_alpha_bar([1.0, 0.5, 0.5]), ValueError, "decrease strictly .* got 1.0 … 0.5"),
        (lambda: from_alpha_bar([1.0, 0.5], "sigma"), ValueError, "between: expected one of .* got 'sigma'"),
        (lambda: from_alpha_bar([0.9, 0.5]), ValueError, "start at ᾱ_0 = 1 .* got 0.9 … 0.5"),
        (lambda: from_alpha_bar([1.0, -0.1]), ValueError, "towards ᾱ_T ≥ 0, got 1.0 … -0.1"),
        (lambda: from_alpha_bar([]), ValueError, "alpha_bar: expected .* got none"),
        (lambda: from_alpha_bar([1.0]), ValueError, "alpha_bar: expected"),
        (lambda: from_alpha_bar([1.0, math.nan]), ValueError, "alpha_bar: expected finite values"),
        (lambda: from_alpha_bar(torch.eye(2)), ValueError, r"alpha_bar: expected numbers in a row, got shape \(2, 2\)"),
        (lambda: from_alpha_bar(torch.ones(3, requires_grad=True)), ValueError, "alpha_bar: expected a constant"),
        (lambda: from_alpha_bar(torch.ones(3) * 1j), ValueError, "alpha_bar: expected real numbers"),
        (lambda: table([1.0, 0.5], [0.0]), ValueError, "signal, sigma: expected .* got 2 and 1 numbers"),
        (lambda: table([1.0], [0.0]), ValueError, "with T ≥ 1, got 1 and 1"),
        (lambda: table([0.9, 0.5], [0.0, 1.0]), ValueError, "a_0 = 1 and σ_0 = 0 .* got 0.9 and 0.0"),
        (lambda: table([1.0, 0.5], [0.1, 1.0]), ValueError, "a_0 = 1 and σ_0 = 0 .* got 1.0 and 0.1"),
        (lambda: table([1.0, 0.0, 0.5], [0.0, 1.0, 1.0]), ValueError, "signal: expected a_t > 0 .* got a least .* 0.0"),
        (lambda: table([1.0, 0.5], [0.0, -1.0]), ValueError, "sigma: expected σ_t ≥ 0, .* got a least one of -1.0"),
        (lambda: table([1.0, 0.0], [0.0, 0.0]), ValueError, "σ_T > 0 where a_T = 0"),
        (lambda: CovarianceTable([0.0, "a"]), TypeError, "levels: expected a number or a Covariance at t = 1, got 'a'"),
        (lambda: CovarianceTable([0.0, -1.0]), ValueError, "levels: expected a finite number ≥ 0 at t = 1, got -1.0"),
        (lambda: zero_terminal_snr(linear(1)), ValueError, r"at least two steps, .* got linear\(1\)"),
        (lambda: zero_terminal_snr(vp()), ValueError, r"at least two steps, .* got vp\(\)"),
        (lambda: zero_terminal_snr(EVERY["table"]), ValueError, r"schedule: expected a² \+ σ² = 1"),
        (lambda: zero_terminal_snr("linear"), TypeError, "schedule: expected a schedule, such as"),
        (lambda: piecewise([0, 1], [1, 0], [0, 1, 2]), ValueError, r"times, signal, sigma: .* as many .* \[2, 2, 3\]"),
        (lambda: piecewise([0], [1], [0]), ValueError, "at least 2"),
        (lambda: piecewise([0.1, 1], [1, 0], [0, 1]), ValueError, "times: expected 0 ≤ … < end"),
        (lambda: piecewise([0, 2, 1], [1, 0.5, 0], [0, 1, 1]), ValueError, "times: expected .* ascending"),
        (lambda: piecewise([0, 1, 1], [1, 0.5, 0], [0, 1, 1]), ValueError, "the last once"),
        (lambda: piecewise([0, 1, 1, 1, 2], [1] * 5, [0, 1, 2, 3, 4]), ValueError, "none more than twice"),
        (lambda: piecewise([0, 1], [0.5, 0], [0, 1]), ValueError, "a_0 = 1 and σ_0 = 0"),
        (lambda: piecewise([0, 1], [1, 0], [0, 0]), ValueError, "levels ≥ 0 that are not both 0"),
        (lambda: as_schedule("quadratic", 10), ValueError, "schedule: expected one of 'linear', .* 'quadratic'"),
        (lambda: as_schedule(torch.ones(11), 10), ValueError, "decrease strictly"),
        (lambda: as_schedule([1.0, 0.5], 2), ValueError, "ᾱ_0 … ᾱ_T, 3 numbers for T = 2, got 2"),
        (lambda: as_schedule(linear(9), 10), ValueError, r"num_steps = 10, got linear\(9\), of num_steps = 9"),
        (lambda: as_schedule(vp(), 10), ValueError, r"num_steps = 10, got vp\(\), of num_steps = None"),
        (lambda: as_schedule([1.0, 0.5], None), ValueError, "expected one of num_steps = None"),
        (lambda: as_schedule("linear", None), ValueError, "num_steps: expected .* for .* 'linear', got None"),
        (lambda: as_schedule(3, 10), TypeError, "schedule: expected one of 'linear', .* or ᾱ_0 … ᾱ_T, got 3"),
        (lambda: as_schedule(lambda steps: "linear", 10), TypeError, "schedule: expected one of 'linear'"),
        (lambda: as_schedule("linear", 0), ValueError, "num_steps: expected"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
