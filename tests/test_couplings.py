"""What couples two states: Markov kernels, also where no signal is left, and noise that is shared."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion import bases, paths, schedules
from lineardiffusion.testing import Opaque
from test_covariance import Cholesky
from test_operators import draw
from test_paths import fading

# ---------------------------------------------------------------------------------------------- no signal at the end


def ends_in(signal):
    """x_1 = a_1 R_1 x_0 + ε for a small a_1."""
    return schedules.piecewise([0, 1], [1, signal], [0, 1])


def masks(schedule):
    steps = [draw((2, 3), seed=k).abs().clamp(0.1, 1.0) for k in range(3)]
    steps[1][0] = 0
    last = schedule.signal(1.0)
    return paths.chain([ld.Diagonal(step) for step in steps]), schedules.table([1, 0.7, 0.5, last], [0, 0.5, 0.8, 1])


ENDING = {  # for a schedule, the path, and what becomes of the schedule with it
    "identity": lambda s: (paths.identity((2, 3)), s),
    "heat": lambda s: (paths.heat((1, 6), 2.0, 0.0), s),
    "gains that are 0": lambda s: (paths.spectral(bases.Fourier((2, 6)), fading((6,))(1.0)), s),
    "masks": masks,
    "last level": lambda s: (paths.pyramid((1, 8), 3, ld.changes_at([0.5, 0.8])), s),
    "haar": lambda s: (paths.pyramid((1, 4, 4), 2, ld.changes_at([0.8]), "haar"), s),
}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", list(ENDING))
def test_where_no_signal_is_left_kernels_are_limits(name, eta):
    """Of those with a_T → 0: with a_T = 1e-12 they differ by about as much."""
    silent, faint = (ld.LinearDiffusion(*ENDING[name](ends_in(signal))) for signal in (0.0, 1e-12))
    assert silent.signal_scale(silent.end) == 0
    assert silent.operator(0, silent.end)(draw(silent.shape(0))).abs().max() == 0
    for s in (2, 1) if silent.num_steps else (0.9, 0.6, 0.3):
        x_t, mean_s = draw(silent.shape(silent.end), 3), draw(silent.shape(s), 3, seed=1)
        ours, limit = (p.kernel(x_t, mean_s, p.end, s, eta) for p in (silent, faint))
        torch.testing.assert_close(ours.mean, limit.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.covariance.to_dense(), limit.covariance.to_dense(), rtol=1e-9, atol=1e-9)
        single = silent.kernel(x_t.float(), mean_s.float(), silent.end, s, eta).mean
        torch.testing.assert_close(single.double(), ours.mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["identity", "heat", "gains that are 0", "masks"])
def test_where_the_shape_stays_noise_is_carried_on(name):
    """At η = 0 nothing is drawn and K = σ_s/σ_t, to the last digit where there is no basis to go through."""
    p = ld.LinearDiffusion(*ENDING[name](ends_in(0.0)))
    for s in (2, 1) if p.num_steps else (0.9, 0.3):
        x_t, mean_s = draw(p.shape(p.end), 3), draw(p.shape(s), 3, seed=1)
        kernel = p.kernel(x_t, mean_s, p.end, s, 0.0)
        expected = torch.add(mean_s, x_t, alpha=p.sigma(s) / p.sigma(p.end))
        assert (kernel.mean - expected).abs().max() <= (0 if name in ("identity", "masks") else 1e-14)
        assert kernel.covariance(x_t).abs().max() == 0
        assert p.step_kernel(p.end, s, 0.0).is_deterministic
        assert torch.equal(p.step_kernel(p.end, s, 0.0).sample(x_t, mean_s, 1e6 * mean_s), kernel.mean)


@pytest.mark.parametrize("opaque", [False, True])
def test_new_directions_of_a_larger_shape_are_drawn(opaque):
    """From pure noise to the next finer shape: that of the coarse directions is carried on, the rest is new."""
    step = ld.AveragePool((1, 8), 2)
    path = paths.chain([Opaque(step) if opaque else step])
    p = ld.LinearDiffusion(paths.chain([ld.Identity((1, 8)), path.operators.step(1)]),
                           schedules.table([1, 0.6, 0], [0, 0.8, 1]))  # fmt: skip
    x_t, zeros, noise = draw((1, 4), 3), torch.zeros(3, 1, 8, dtype=torch.float64), draw((1, 8), 3, seed=1)
    sample = p.kernel(x_t, zeros, 2, 1, 0.0).sample(noise)
    polar = math.sqrt(2) * step.to_dense()  # with orthonormal rows
    coarse = sample[:, 0] @ polar.T
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if opaque else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(coarse, 0.8 * x_t[:, 0], **tolerance)
    new = noise[:, 0] - noise[:, 0] @ polar.T @ polar
    torch.testing.assert_close(sample[:, 0] - coarse @ polar, 0.8 * new, **tolerance)


# ---------------------------------------------------------------------------------------------- markov


@pytest.mark.parametrize("operator", [2.0 * ld.Identity((1, 4)), ld.Matrix(2 * torch.eye(4), (1, 4), (1, 4))])
def test_infeasible_noise_levels_are_refused_when_the_process_is_built(operator):
    message = r"at t = 2, .* λmax = 4, ratio .* = 2\.77778; the smallest feasible σ_t is 1$"
    with pytest.raises(ValueError, match=message):
        ld.LinearDiffusion([operator] * 2, [0, 0.5, 0.6])


@pytest.mark.parametrize(
    ("path", "schedule", "time"),
    [
        (paths.identity((1, 8)), schedules.piecewise([0, 0.5, 1], [1, 0.5, 0.5], [0, 1, 0.5]), r"0\.505"),
        (paths.identity((1, 8)), schedules.piecewise([0, 0.5, 0.5, 1], [1, 0.5, 0.5, 0], [0, 1, 0.4, 1]), r"0\.5"),
        (paths.heat((1, 8), lambda t: 2 * (1 - (1 - 2 * t) ** 2), 0.1), schedules.ve(0.5, 0.6), r"0\.\d+"),
        (
            paths.pyramid((1, 8), 2, ld.changes_at([0.61803]), "haar"),
            schedules.piecewise([0, 0.61803, 0.61803, 1], [1, 0.7, 0.7, 0], [0, 0.5, 0.2, 1]),
            r"0\.61803",
        ),
    ],
    ids=["rising", "jumping", "unblurring", "at a change of shape"],
)
def test_continuous_processes_are_refused_too(path, schedule, time):
    message = rf"σ_t² ≥ σ_s² λmax\(MMᵀ\) at t = {time}, got .*; the smallest feasible σ_t is [\d.]+$"
    with pytest.raises(ValueError, match=message):
        ld.LinearDiffusion(path, schedule)
    p = ld.LinearDiffusion(path, schedule, coupling="shared")
    t = float(re.search(r"at t = ([\d.]+),", str(refused(path, schedule)))[1])
    s = max(t - 0.005, 0.0) if t != 0.61803 else math.nextafter(t, 0)
    with pytest.raises(ValueError, match=rf"from t = {t} to s = .*smallest feasible"):
        p.step_kernel(t, s, 1.0)


def refused(path, schedule):
    with pytest.raises(ValueError, match="sigma") as error:
        ld.LinearDiffusion(path, schedule)
    return error.value


def test_a_signal_that_comes_back_is_refused():
    schedule = schedules.piecewise([0, 0.4, 0.6, 1], [1, 0, 0, 0.5], [0, 1, 1, 1])
    with pytest.raises(
        ValueError, match=r"s: expected a signal that never comes back, got a_s = 0 at s = 0\.6 and a_t"
    ):
        ld.LinearDiffusion(paths.identity((3,)), schedule)
    p = ld.LinearDiffusion(paths.identity((3,)), schedule, coupling="shared")
    with pytest.raises(ValueError, match="never comes back"):
        p.operator(0.5, 0.9)
    assert p.operator(0.1, 0.5)(torch.ones(3)).tolist() == [0, 0, 0]
    assert p.operator(0.45, 0.5)(torch.ones(3)).tolist() == [0, 0, 0]


def test_the_advised_noise_levels_are_accepted_as_printed():
    steps = [Opaque(ld.Resize((1, 12), 12)), 1.3 * ld.Identity((1, 12)), 0.9 * ld.Resize((1, 12), 7, "bicubic"),
             ld.Matrix(draw((5, 7)), (1, 7), (5,))]  # fmt: skip
    targets = [0.0, 0.3, 0.31, 0.2, 0.4]
    with pytest.raises(ValueError, match="smallest feasible"):
        ld.LinearDiffusion(steps, targets)
    sigmas = ld.feasible_sigmas(steps, targets)
    assert all(sigma >= target for sigma, target in zip(sigmas, targets, strict=True))
    p = ld.LinearDiffusion(steps, [float(f"{sigma:.9g}") for sigma in sigmas])
    for t in range(2, 5):
        dense = p.operator(t - 1, t).to_dense()
        least = max(targets[t], p.sigma(t - 1) * float(torch.linalg.matrix_norm(dense, 2)))
        assert p.sigma(t) == pytest.approx(least, rel=1e-6)  # raised no more than has to be
    levels = list(targets)
    for _ in range(len(steps)):  # or one by one, as errors say
        try:
            ld.LinearDiffusion(steps, levels)
        except ValueError as error:
            t, sigma = re.search(r"at t = (\d), .*smallest feasible σ_t is ([\d.]+)$", str(error)).groups()
            levels[int(t)] = float(sigma)
    ld.LinearDiffusion(steps, levels)


# ---------------------------------------------------------------------------------------------- shared


SHAPE = (2, 3)


def coloured(seed):
    root = torch.eye(6, dtype=torch.float64) + 0.2 * draw((6, 6), seed=seed)
    return Cholesky(root @ root.T, SHAPE)


LEVELS = {
    "numbers": (0.5, 0.8),
    "growing towards the data": (0.9, 0.3),
    "one covariance": (0.6, ld.GramCovariance(ld.Diagonal(draw(SHAPE).abs().clamp(0.5, 1.0)))),
    "the other": (coloured(2), 0.7),
    "covariances": (coloured(1), coloured(2)),
}


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", list(LEVELS))
def test_shared_noise_keeps_the_marginal(name, share):
    """x_s = μ_s + γ (x_t − μ_t) + D z with γ² Σ_t + D Dᵀ = Σ_s, whatever the operators are."""
    sigma_s, sigma_t = LEVELS[name]
    p = ld.LinearDiffusion([3.0 * ld.Identity(SHAPE)] * 2, [0.0, sigma_s, sigma_t], coupling="shared")
    cov_s, cov_t = (p.noise_covariance(t).to_dense() for t in (1, 2))
    ratio = torch.linalg.eigvals(torch.linalg.solve(cov_s, cov_t)).real.max()
    most = 1 / math.sqrt(float(ratio))  # Σ_t ⪯ ratio · Σ_s
    gamma = share * most
    x_t, mean_t, mean_s = (draw(SHAPE, 4, seed=seed) for seed in range(3))
    kernel = p.shared_noise_kernel(x_t, mean_t, mean_s, 2, 1, gamma)
    torch.testing.assert_close(kernel.mean, mean_s + gamma * (x_t - mean_t), rtol=1e-13, atol=1e-13)
    total = gamma**2 * cov_t + kernel.covariance.to_dense()
    torch.testing.assert_close(total, cov_s, rtol=1e-9, atol=1e-9)
    noise = torch.eye(6, dtype=torch.float64).reshape(6, *SHAPE)
    zeros = torch.zeros_like(noise)
    root = p.shared_step_kernel(2, 1, gamma).sample(zeros, zeros, zeros, noise).flatten(1)
    torch.testing.assert_close(gamma**2 * cov_t + root.T @ root, cov_s, rtol=1e-6, atol=1e-6)  # Lanczos
    with pytest.raises(ValueError, match="so that γ² Σ_t ⪯ Σ_s, got γ = ") as refusal:
        p.shared_noise_kernel(x_t, mean_t, mean_s, 2, 1, most * (1 + 1e-5))
    advised = float(re.search(r"gamma: expected γ ≤ ([\d.]+),", str(refusal.value))[1])
    assert advised == pytest.approx(most, rel=1e-6)
    p.shared_noise_kernel(x_t, mean_t, mean_s, 2, 1, advised)
    # To clean data no noise can be kept.
    assert torch.equal(p.shared_noise_kernel(x_t, mean_t, mean_s, 2, 0, 0.0).sample(noise[:4]), mean_s)
    with pytest.raises(ValueError, match="gamma: expected γ ≤ 0"):
        p.shared_noise_kernel(x_t, mean_t, mean_s, 2, 0, 0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shared_noise_in_half_precision_is_rounded_once(dtype):
    kernel = ld.FlowMatching(SHAPE).shared_step_kernel(0.8, 0.5, 0.4)
    values = [draw(SHAPE, 50, seed=seed).to(dtype) for seed in range(4)]
    result, exact = kernel.sample(*values), kernel.sample(*(value.double() for value in values))
    assert result.dtype == dtype
    assert bool(((result.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-6).all())


def test_infeasible_processes_with_shared_noise():
    p = ld.LinearDiffusion([2.0 * ld.Identity((1, 4))] * 2, [0, 0.5, 0.6], coupling="shared")
    x = draw((1, 4), 2)
    assert p.coupling == "shared"
    for call in (lambda: p.transition(2, 1), lambda: p.posterior(x, x, 2), lambda: p.kernel(x, x, 2, 1, 0.0),
                 lambda: p.step_kernel(2, 1, 0.5)):  # fmt: skip
        with pytest.raises(ValueError, match=r"the smallest feasible σ_t is 1$"):
            call()
    p.posterior(x, x, 1)
    p.posterior(x, x, 2, 0)
    assert ld.from_config(
        ld.LinearDiffusion(paths.identity((1, 4)), schedules.flow(), coupling="shared").to_config()
    ) == (ld.LinearDiffusion(paths.identity((1, 4)), schedules.flow(), coupling="shared"))


def test_cold_diffusion_has_no_noise_at_all():
    p = ld.LinearDiffusion(paths.heat((1, 6, 6), 2.0), schedules.table([1.0] * 4, [0.0] * 4), coupling="shared")
    x0, noise = draw((1, 6, 6), 2), draw((1, 6, 6), 2, seed=1)
    for t in (1, 2.5, torch.tensor([1, 3])):
        torch.testing.assert_close(p.diffuse(x0, t, noise=noise), p.clean(x0, t))
    mean_t, mean_s = p.clean(x0, 3), p.clean(x0, 1)
    for gamma in (0.0, 1.0):  # algorithms 1 and 2 of the paper
        kernel = p.shared_noise_kernel(mean_t + 0.1, mean_t, mean_s, 3, 1, gamma)
        torch.testing.assert_close(kernel.sample(noise), mean_s + gamma * 0.1)
        assert p.shared_step_kernel(3, 1, gamma).is_deterministic
    with pytest.raises(ValueError, match=r"expected finite σ_s ≥ 0 and σ_t > 0 from t = 3 to s = 1"):
        p.posterior(mean_t, mean_s, 3, 1)
    with pytest.raises(ValueError, match="expected finite σ_s ≥ 0 and σ_t > 0 at t = 1"):
        ld.LinearDiffusion(paths.heat((1, 6, 6), 2.0), schedules.table([1.0] * 4, [0.0] * 4))


def test_shared_noise_needs_one_shape_and_a_number():
    p = ld.ScaleSpaceDiffusion((1, 8), 2, 20)
    change = p.shape_changes()[0]
    fine, coarse = draw((1, 8), 2), draw((1, 4), 2)
    with pytest.raises(
        ValueError, match=r"s: expected a time of the shape of t = \d+, \(1, 4\), got s = \d+ of \(1, 8\)"
    ):
        p.shared_noise_kernel(coarse, coarse, fine, change, change - 1, 0.1)
    for gamma, error in ((-0.1, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("0", TypeError)):
        with pytest.raises(error, match="gamma: expected a number"):
            p.shared_noise_kernel(fine, fine, fine, 5, 3, gamma)
    good = {"x_t": fine, "mean_t": fine, "mean_s": fine}
    for name in good:
        with pytest.raises(ValueError, match=f"{name}: expected shape"):
            p.shared_noise_kernel(**good | {name: coarse}, t=5, s=3, gamma=0.1)
    with pytest.raises(ValueError, match="noise: expected shape"):
        p.shared_step_kernel(5, 3, 0.1).sample(fine, fine, fine, coarse)


def test_times_of_steps_may_be_whole_or_broken():
    """Kernels are composed: from t to s and on to r by way of s, as at once where nothing is drawn."""
    for p in (ld.DDPM((2, 3), 10), ld.FlowMatching((2, 3)), ld.BlurringDiffusion((2, 3), 10, 2.0)):
        x, x0 = draw((2, 3), 2), draw((2, 3), 2, seed=1)
        clean = {t: p.signal_scale(t * p.end) * p.clean(x0, t * p.end) for t in (0.15, 0.5, 0.93)}
        at_once = p.kernel(x, clean[0.15], 0.93 * p.end, 0.15 * p.end, 0.0).mean
        for t, s in itertools.pairwise((0.93, 0.5, 0.15)):
            x = p.kernel(x, clean[s], t * p.end, s * p.end, 0.0).mean
        torch.testing.assert_close(x, at_once, rtol=1e-12, atol=1e-12)
