"""What order promises: polynomials are integrated exactly, and errors fall as they should on Gaussian data.

In the frame of a path everything is a number for each direction k: x_k = α_k x_0,k + σ ε with α_k = a_t r_k(t). A Haar
pyramid has a frame too: its coarse directions go on in the finer shape, the detail is what is new.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.samplers.multistep import markov_decay
from test_multistep import NODES

N, CHANGE = 8, 0.5
SCHEDULE = ld.schedules.vp()
U, W = ((torch.from_numpy(NODES[0])[:, None] + 1) / 2, torch.from_numpy(NODES[1])[:, None])  # quadrature on [0, 1]


def f64(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Frame:
    """A process of events (1, 8), the orthonormal basis of its directions, in columns, and their gains r_k(t). Where
    the shape is smaller the first half of the directions is left."""

    def __init__(self, path, basis, gains=lambda t: torch.ones(N, dtype=torch.float64)):
        self.process = ld.LinearDiffusion(path, SCHEDULE)
        self.basis, self.gains = basis, gains

    def directions(self, t):
        return self.process.shape(t)[-1]

    def alpha(self, t):
        return SCHEDULE.signal(t) * self.gains(t)[: self.directions(t)]

    def log_ratio(self, t):
        return (SCHEDULE.signal(t) * self.gains(t) / SCHEDULE.sigma(t)).log()

    def coordinates(self, x):
        """x_k of states, of either shape."""
        if x.shape[-1] == N:
            return x @ self.basis
        return x.repeat_interleave(2, -1) / math.sqrt(2) @ self.basis[:, : N // 2]

    def event(self, z):
        x = z @ self.basis[:, : z.shape[-1]].T
        return x if z.shape[-1] == N else x.unflatten(-1, (-1, 2)).sum(-1) / math.sqrt(2)


def cosines(n):
    k, i = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)[:, None]
    return (2 / n) ** 0.5 * torch.cos(math.pi / n * k * (i + 0.5)) / (1.0 + (k == 0).double()).sqrt()


def scalar():
    return Frame(ld.paths.identity((1, N)), cosines(N))


def heat():
    path = ld.paths.heat((1, N), blur_sigma=1.0, floor=0.05)
    return Frame(path, cosines(N), path.on(SCHEDULE).gains)


def haar():
    path = ld.paths.pyramid((1, N), 2, ld.changes_at([CHANGE]), mode="haar")
    up = torch.eye(N // 2, dtype=torch.float64).repeat_interleave(2, 0) / math.sqrt(2)
    detail = up * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(N // 2)[:, None]
    return Frame(path, torch.cat([up @ cosines(N // 2), detail], 1))


@pytest.mark.parametrize("make", [scalar, heat, haar])
@pytest.mark.parametrize("t", [0.3, 0.7])
def test_frames_of_these_tests(make, t):
    frame, x = make(), f64(3, 1, N, seed=0)
    mean = frame.process.operator(0, t)(x)
    z = frame.alpha(t) * (x @ frame.basis)[..., : frame.directions(t)]
    torch.testing.assert_close(frame.coordinates(mean), z, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(frame.event(z), mean, rtol=1e-12, atol=1e-12)


TIMES = [0.7, 0.63, 0.58, 0.53, CHANGE, 0.45, 0.38, 0.31, 0.2]


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("make", "order"), [(scalar, 1), (scalar, 3), (heat, 2), (heat, 3), (haar, 3)])
@pytest.mark.parametrize("kind", ["predictor", "corrector", "shared"])
def test_polynomial_estimates_are_integrated_exactly(make, order, kind, eta):
    """Of estimates that are polynomials in the log-SNR of each direction, whatever the state: a predictor of order p
    integrates degree p − 1, its corrector degree p; into a new shape a sampler of order 3 goes to second order."""
    frame, degree = make(), order if kind == "corrector" else order - 1
    degree = 1 if make is haar else degree
    if kind == "shared" and eta == 1:
        return  # nothing of x_t is kept: x* is the estimate at s itself
    coefficients = f64(degree + 1, N, seed=1)
    if make is haar:
        coefficients[1:, N // 2 :] = 0  # nothing foretells the detail

    def estimate(log_ratio):
        return sum(c * log_ratio**p for p, c in enumerate(coefficients))

    def network(x, t, size=None):
        return (estimate(frame.log_ratio(float(t[0]))) @ frame.basis.T).expand(len(x), 1, N)

    def exact(x, t, s):
        """The mean of x_s with the exact average of estimates along the step."""
        z, before, h = frame.coordinates(x), frame.log_ratio(t), frame.log_ratio(s) - frame.log_ratio(t)
        if kind == "shared" and frame.directions(t) == frame.directions(s):
            decay = h - 0.5 * math.log(1 - eta**2)
        else:
            decay = markov_decay(h, eta)
        density = torch.exp(-decay * (1 - U)) * W
        along = (density * estimate(before + h * U)).sum(0) / density.sum(0)
        kept = (-decay).exp()
        kept[frame.directions(t) :] = 0  # drawn anew, here with noise 0, around the estimate as it is
        z = torch.cat([z / frame.alpha(t), torch.zeros(*z.shape[:-1], N - z.shape[-1])], -1)
        x_s = (1 - kept) * along + kept * z
        return frame.event(frame.alpha(s) * x_s[..., : frame.directions(s)])

    make_sampler = ld.SharedNoiseSampler if kind == "shared" else partial(ld.DDIMSampler, corrector=kind == "corrector")
    sampler = make_sampler(ld.Denoiser(network, frame.process, "data"), 4, eta=eta, order=order)
    history, x, checked = sampler.history(), f64(2, *frame.process.shape(0.7), seed=2), 0
    for i, (t, s) in enumerate(itertools.pairwise(TIMES)):
        taken = history.taken
        x_s = sampler.step(x, t, s, noise=torch.zeros(2, *frame.process.shape(s)), history=history)
        if kind == "corrector":
            # The estimate made at a change of shape is of other directions than those after it.
            if taken and history.taken and taken.order > degree - 1 and (make is not haar or taken.t not in TIMES[4:6]):
                torch.testing.assert_close(history.taken.x_t, exact(taken.x_t, taken.t, t), rtol=1e-11, atol=1e-11)
                checked += 1
        elif i >= order - 1:
            torch.testing.assert_close(x_s, exact(x, t, s), rtol=1e-11, atol=1e-11)
            checked += 1
        x = x_s
    assert checked >= 3


def test_steps_much_longer_than_the_one_before():
    """Eight and twelve uniform steps of DDPM, which end with one that is 4.7 and 3.8 times as long: of midpoint weights
    F/2 no more than 1 is kept on grids, and all where the times are given."""
    p, data = ld.DDPM((1, 64)), ld.lab.power_law((1, 64))

    def distance(steps, order, rule="moment"):
        return ld.lab.evaluate(p, data, sampler="ddim", steps=steps, order=order, rule=rule).relative_w2

    for n, first, second in ((8, 0.254, 0.124), (12, 0.180, 0.087)):
        assert distance(n, 1) == pytest.approx(first, abs=5e-4)
        assert distance(n, 2, "midpoint") == pytest.approx(second, abs=5e-4)
        assert distance(n, 2) < 0.6 * first
        assert distance(n, 3) < 0.65 * first
        assert distance(ld.grids.uniform(n).times(p), 2) > 1.5 * first
        assert distance(ld.grids.log_snr(n), 2) == distance(ld.grids.log_snr(n).times(p), 2)


def optimal(frame, mean, variance):
    """E[x_0 | x_t], direction by direction."""

    def network(x, t, size=None):
        t = float(t[0])
        z, n = frame.coordinates(x), frame.directions(t)
        alpha, sigma = frame.alpha(t), SCHEDULE.sigma(t)
        gain = alpha * variance[:n] / (alpha**2 * variance[:n] + sigma**2)
        known = torch.zeros(*z.shape[:-1], N, dtype=torch.float64)
        known[..., :n] = mean[:n] + gain * (z - alpha * mean[:n])
        return known @ frame.basis.T

    return network


@pytest.mark.parametrize(
    ("make", "order", "corrector"),
    [
        *itertools.product((scalar, heat, haar), (1, 2, 3), (False,)),
        *itertools.product((scalar, heat, haar), (2,), (True,)),
    ],
)
def test_measured_orders(make, order, corrector):
    """Halving the steps, uniform in log-SNR between two fixed times, divides the error by 2^p. The flow of Gaussian
    data keeps each direction's distance from its mean in standard deviations; what the finer shape adds is noise."""
    frame = make()
    mean, variance = f64(N, seed=3), 0.2 + f64(N, seed=4) ** 2
    if make is haar:
        mean[N // 2 :], variance[N // 2 :] = 0, 0
    denoiser = ld.Denoiser(optimal(frame, mean, variance), frame.process, "data")
    sampler = ld.DDIMSampler(denoiser, 4, order=order, corrector=corrector)
    z = f64(1, 1, N, seed=5)

    def flow(t):
        n, alpha = frame.directions(t), frame.alpha(t)
        deviation = (alpha**2 * variance[:n] + SCHEDULE.sigma(t) ** 2).sqrt()
        return frame.event(alpha * mean[:n] + deviation * z[..., :n])

    def error(n):
        high, middle, low = SCHEDULE.log_snr(0.7), SCHEDULE.log_snr(CHANGE), SCHEDULE.log_snr(0.25)
        first = torch.linspace(high, middle, n // 2 + 1, dtype=torch.float64)
        times = SCHEDULE.time(torch.cat([first, torch.linspace(middle, low, n // 2 + 1).double()[1:]])).tolist()
        times[n // 2] = CHANGE
        history = sampler.history()
        for i, (t, s) in enumerate(itertools.pairwise(times)):
            if i < order:  # the first estimates are made of the flow itself
                x, history.taken = flow(t), None
            noise = frame.event(z)  # that of the flow
            x = sampler.step(x, t, s, noise=noise[..., : frame.directions(s)], history=history)
        return float((x - flow(times[-1])).norm())

    errors = [error(n) for n in ((32, 64) if order < 3 else (56, 112))]
    measured = math.log2(errors[0] / errors[1])
    print(f"{make.__name__}, order {order}, corrector {corrector}: {errors[1]:.1e}, {measured:.3f}")
    # The corrector takes no step into a new shape again, which is of first order then.
    gained = corrector and make is not haar
    assert abs(measured - order - gained) <= 0.1
