"""The moment rule: against quadrature, against the defining equations, and against the formulas of other solvers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lineardiffusion.samplers.multistep import markov_decay, moments, weights

NODES = np.polynomial.legendre.leggauss(80)
DECAYS = [1e-12, 1e-6, 0.03, 0.999, 1.0, 1.001, 3.0, 40.0, 1e3, 1e8, -1e-9, -0.5, -3.0, -30.0]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def average(decay, function):
    """∫ function dν by Gauss and Legendre's rule: over the few decay lengths that matter, at one end or the other."""
    x, w = NODES
    length = min(1.0, 60.0 / abs(decay))
    v = length * (x + 1) / 2  # from the end where the weight is largest
    u = 1 - v if decay > 0 else v
    density = np.exp(-abs(decay) * v) * w
    return float((density * function(u)).sum() / density.sum())


@pytest.mark.parametrize("decay", DECAYS)
def test_moments_equal_quadrature(decay):
    for k, moment in enumerate(moments(f64(decay), 4)):
        # Roundings are multiplied by at most k!/H^k at H = 1.
        assert float(moment) == pytest.approx(average(decay, lambda u, k=k: u**k), rel=2e-14, abs=1e-300)


def test_moments_at_the_ends():
    at_zero, at_infinity = torch.stack(moments(f64(0.0, math.inf), 4)).T
    torch.testing.assert_close(at_zero, f64(1, 1 / 2, 1 / 3, 1 / 4), rtol=1e-15, atol=0)
    torch.testing.assert_close(at_infinity, torch.ones(4, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("nodes", [[], [-1.0], [1.0], [-0.4, -3.0], [1.0, -2.0], [-1.1, -2.0, -2.9], [1.0, -1.0, -5.0]])
def test_weights_average_polynomials_exactly(nodes):
    """Over as many nodes as there are coefficients; every H and every node an element of one call."""
    decay = f64(*DECAYS)[:, None]
    spread = [u * f64(1.0, 0.3, 2.0) if u != 1 else f64(u) for u in nodes]  # the steps before, longer and shorter
    found = torch.broadcast_tensors(*weights(decay, spread))
    for i, h in enumerate(DECAYS):
        for j in range(3 if nodes else 1):
            points = [0.0, *(float(u[min(j, len(u) - 1)]) for u in spread)]
            row = [float(w[i, min(j, w.shape[1] - 1)]) for w in found]
            size = sum(map(abs, row)) * max(map(abs, points)) ** len(nodes)
            for k in range(len(points)):
                total = sum(w * u**k for w, u in zip(row, points, strict=True))
                assert total == pytest.approx(average(h, lambda u, k=k: u**k), rel=0, abs=1e-13 * max(1, size))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_weights_of_the_solvers_in_use(eta):
    h, ratio, older = 0.7, 1.3, 2.2  # F = h_i/h_{i−1}, and the same of the step before
    decay = markov_decay(f64(h), eta)
    c = 1 / (1 - math.exp(-float(decay))) - 1 / float(decay)
    for rule, second in (("midpoint", 0.5), ("moment", c)):  # DPM-Solver++(2M), solver types "midpoint" and "heun"
        now, past = weights(decay, [f64(-1 / ratio)], rule)
        assert (float(now), float(past)) == pytest.approx((1 + second * ratio, -second * ratio), rel=1e-14)
        now, following = weights(decay, [f64(1.0)], rule)  # UniC-1
        assert (float(now), float(following)) == pytest.approx((1 - second, second), rel=1e-14)
    # xEAB3 and UniP-3: m + M_1 D1 + M_2 D2, whatever the name of the rule
    m = [0.3, -1.2, 0.8]
    a, b = (m[0] - m[1]) * ratio, (m[1] - m[2]) * older
    curvature = (a - b) / (1 / ratio + 1 / older)
    m_2 = 1 / (1 - math.exp(-float(decay))) - 2 * c / float(decay)
    expected = m[0] + c * (a + curvature / ratio) + m_2 * curvature
    for rule in ("midpoint", "moment"):
        found = weights(decay, [f64(-1 / ratio), f64(-1 / ratio - 1 / older)], rule)
        assert sum(float(w) * x for w, x in zip(found, m, strict=True)) == pytest.approx(expected, rel=1e-13)


def test_directions_whose_way_is_not_known_are_of_lower_order():
    infinite, missing = math.inf, math.nan
    cases = [  # H, u_1, u_2 and the order that is left
        (0.7, -1.0, -2.0, 3),
        (0.7, -1.0, -infinite, 2),  # before it there was no such direction
        (0.7, -infinite, -infinite, 1),
        (infinite, -0.0, -0.0, 1),  # this step brings it
        (0.0, -infinite, -infinite, 1),  # this step does not move it
        (missing, missing, missing, 1),  # never there
        (0.7, 0.0, -1.0, 1),  # the step before did not move it
        (0.7, -1.0, -1.0, 2),
    ]
    decay, first, second, order = f64(*sum(cases, ())).reshape(-1, 4).T
    found = torch.stack(weights(decay, [first, second]))
    for i, n in enumerate(order.int().tolist()):
        known = weights(decay[i].nan_to_num(1.0), [u[i] for u in (first, second)][: n - 1])
        expected = torch.stack([*known, *[torch.zeros(())] * (3 - n)]).double()
        torch.testing.assert_close(found[:, i], expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.999, 1.0])
def test_decay_of_a_kernel(eta):
    """e^{−H} = k √λ of `ddim_kernel`: the share of x_t that its mean keeps."""
    h = f64(0.0, 1e-9, 0.2, 3.0, 30.0, math.inf)
    kept = (-h).exp() * (1 - eta**2 + eta**2 * (-2 * h).exp()).sqrt()
    torch.testing.assert_close((-markov_decay(h, eta)).exp(), kept, rtol=1e-13, atol=0)
    assert float(markov_decay(f64(1e-9), eta)) == pytest.approx((1 + eta**2) * 1e-9, rel=1e-8)
