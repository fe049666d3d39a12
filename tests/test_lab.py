"""The Gaussian laboratory, against known values, Monte Carlo and dense algebra; residuals measured and put back."""

from __future__ import annotations

import importlib
import itertools
import math
import pickle

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

import lineardiffusion as ld
from lineardiffusion.lab import matrices
from lineardiffusion.lab.evaluate import outcome
from lineardiffusion.lab.frames import in_frame, part_of
from lineardiffusion.lab.joint import Joint
from lineardiffusion.lab.marginals import Marginals

LINE = (1, 64)
SPECTRUM = ld.lab.power_law(LINE)


def relative_w2(process: ld.LinearDiffusion, **options: object) -> float:
    return ld.lab.evaluate(process, SPECTRUM, prior="standard", **options).relative_w2


def gaussian(covariance: ld.LinearOperator, count: int, seed: int) -> torch.Tensor:
    """Draws of N(0, C) for a filter C."""
    root = ld.SpectralFilter(covariance.in_shape, covariance.gain.sqrt())
    generator = torch.Generator().manual_seed(seed)
    return root(torch.randn(count, *covariance.in_shape, generator=generator, dtype=torch.float64))


# ---------------------------------------------------------------------- known values


@pytest.mark.parametrize(
    ("levels", "ancestral", "ddim"),
    [(1, 0.0078, 0.0037), (2, 0.0078, 0.0042), (3, 0.0126, 0.0108), (4, 0.0251, 0.0149)],
)
def test_the_cost_of_levels(levels, ancestral, ddim):
    """Spectrum ∝ (1 + k)⁻² of mean 0.25, all 1000 steps: to the digits that are known."""
    process = ld.ScaleSpaceDiffusion(LINE, levels)
    assert relative_w2(process) == pytest.approx(ancestral, abs=5e-5)
    assert relative_w2(process, sampler="ddim") == pytest.approx(ddim, abs=5e-5)


@pytest.mark.parametrize(("steps", "known"), [(100, 0.0511), (50, 0.0876), (20, 0.1749)])
def test_the_cost_of_few_steps(steps, known):
    assert relative_w2(ld.DDPM(LINE), steps=steps) == pytest.approx(known, abs=5e-5)


@pytest.mark.parametrize(("order", "known"), [(1, 0.149), (2, 0.0454), (3, 0.0101)])
def test_what_higher_orders_buy(order, known):
    """16 calls, uniform in log-SNR, against the flow of each frequency, its estimates interpolated by Lagrange's
    polynomials and integrated by a quadrature of 40 nodes."""
    process, grid = ld.DDPM(LINE), ld.grids.log_snr(16)
    spectrum, times = SPECTRUM.gain.flatten(), ld.grids.as_times(process, grid)
    nodes, quadrature = (torch.from_numpy(values) for values in numpy.polynomial.legendre.leggauss(40))
    x, past = torch.full((64,), process.sigma(1000), dtype=torch.float64), []
    for left, (t, s) in zip(range(16, 0, -1), itertools.pairwise(times), strict=True):
        a, sigma, here = process.signal_scale(t), process.sigma(t), 0.5 * process.schedule.log_snr(t)
        estimate = a * spectrum / (a**2 * spectrum + sigma**2) * x
        past = [(here, estimate), *past][: min(order, left)]
        if s == 0:
            x = estimate
            break
        h = 0.5 * process.schedule.log_snr(s) - here
        at = here + (1 + nodes) / 2 * h
        density = quadrature * (at - here).exp()  # x_s = (σ_s/σ_t) x_t + σ_s ∫ e^λ m dλ
        mean = torch.zeros_like(x)
        for i, (node, m) in enumerate(past):
            others = [other for j, (other, _) in enumerate(past) if j != i]
            basis = math.prod(((at - other) / (node - other) for other in others), start=torch.ones_like(at))
            mean += (density * basis).sum() / density.sum() * m
        x = process.signal_scale(s) * mean + process.sigma(s) / sigma * (x - a * mean)
    expected = math.sqrt(float((x.abs() - spectrum.sqrt()).square().sum() / spectrum.sum()))
    assert expected == pytest.approx(known, abs=5e-5 if order > 1 else 5e-4)
    found = ld.lab.evaluate(process, SPECTRUM, sampler="ddim", steps=grid, order=order).relative_w2
    assert found == pytest.approx(expected, rel=1e-9)


def test_what_the_exact_correction_buys():
    """Added at the changes of shape alone it removes the cost of levels; at every step, that of few steps."""
    late, early = (
        ld.ScaleSpaceDiffusion(LINE, 4),
        ld.ScaleSpaceDiffusion(LINE, 4, resolution_schedule=ld.snr_matched(SPECTRUM.gain)),
    )
    assert relative_w2(late, correction="exact-shape-changes") == pytest.approx(0.0077, abs=5e-5)
    assert relative_w2(early, correction="exact-shape-changes") == pytest.approx(0.0075, abs=5e-5)
    assert relative_w2(ld.DDPM(LINE), correction="exact", steps=20) == pytest.approx(0.0012, abs=5e-5)


def test_orthonormal_levels_hardly_cost():
    """A resize with antialiasing shrinks what it keeps, beside noise of the same size; a Haar level does not."""
    ddpm, early = relative_w2(ld.DDPM(LINE)), ld.snr_matched(SPECTRUM.gain)
    assert relative_w2(ld.ScaleSpaceDiffusion(LINE, 4, mode="haar")) < 1.01 * ddpm
    assert relative_w2(ld.ScaleSpaceDiffusion(LINE, 4, resolution_schedule=early, mode="haar")) < 1.1 * ddpm
    assert relative_w2(ld.ScaleSpaceDiffusion(LINE, 4)) > 3 * ddpm


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("schedule", [None, ld.snr_matched(SPECTRUM.gain)], ids=["late", "early"])
def test_a_measured_residual_reaches_the_exact_figures(sampler, schedule):
    """From 2000 draws; within 10 % of the exact correction."""
    process = ld.ScaleSpaceDiffusion(LINE, 4, resolution_schedule=schedule)
    denoiser = ld.lab.OptimalDenoiser(process, SPECTRUM)
    generator = torch.Generator().manual_seed(1)
    residual = ld.calibrate(denoiser, gaussian(SPECTRUM, 2000, 0), clip=None, generator=generator)
    exact = relative_w2(process, sampler=sampler, correction="exact-shape-changes")
    assert relative_w2(process, sampler=sampler, correction=residual) == pytest.approx(exact, rel=0.1)
    assert relative_w2(process, sampler=sampler) > 1.3 * exact


# ---------------------------------------------------------------------- exactness


def processes() -> dict[str, tuple[ld.LinearDiffusion, object]]:
    """Processes and the steps of a sampler."""
    torch.manual_seed(0)
    blur = ld.Convolution(torch.tensor([0.2, 0.5, 0.3]), (1, 8), padding="reflect")
    stages = ld.paths.pyramid((1, 8), 2, ld.changes_at([0.45]), "area")
    haar = {"mode": "haar", "resolution_schedule": ld.changes_at([8, 14])}
    cut = ld.paths.truncated(ld.bases.Cosine((1, 8)), [(1, 4), (1, 2)], [0.45, 0.8])
    rates = torch.linspace(0, 4, 8, dtype=torch.float64)
    fading = ld.paths.spectral(ld.bases.Haar((1, 8)), lambda t: torch.exp(-t * rates).where(t * rates < 2, 0.0))
    return {
        "DDPM": (ld.DDPM((1, 8), num_steps=20, schedule="cosine"), 6),
        "flow": (ld.FlowMatching((1, 8)), 6),
        "EDM": (ld.EDM((1, 8)), ld.grids.karras(6)),
        "blurring": (ld.BlurringDiffusion((1, 8), 20, blur_sigma_max=3.0), [20, 13.5, 9, 5.25, 2, 0.5]),
        "fading": (ld.LinearDiffusion(fading, ld.schedules.flow()), 6),  # directions that are gone, and a_1 = 0
        "Haar": (ld.ScaleSpaceDiffusion((1, 8), 3, num_steps=20, schedule="cosine", **haar), 8),
        "two axes": (ld.ScaleSpaceDiffusion((2, 4, 6), 2, num_steps=10, schedule="cosine"), 6),
        "cut": (ld.LinearDiffusion(cut, ld.schedules.flow()), [1, 0.8, 0.6, 0.45, 0.3, 0.15]),
        "pyramidal flow": (ld.LinearDiffusion(stages, ld.schedules.flow()), [1, 0.8, 0.6, 0.45, 0.3, 0.15]),
        "dense": (ld.LinearDiffusion([blur] * 5, torch.linspace(0, 1, 6)), None),
    }


PROCESSES = processes()
SAMPLERS = {
    "ancestral": ld.AncestralSampler,
    "ddim": ld.DDIMSampler,
    "shared_noise": ld.SharedNoiseSampler,
    "heun": ld.HeunSampler,
}


def dense_covariance(n: int, seed: int = 0) -> torch.Tensor:
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / n


def states_of(sampler: ld.Sampler) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and covariance of every state that a sampler leads to, by one run.

    With the optimal denoiser its states are affine in x_T and in the noise of all steps: the first row of a batch has
    none, each of the others is a unit vector of one of them.
    """
    process, times = sampler.denoiser.process, sampler.times
    sizes = [math.prod(process.shape(t)) for t in times[:-1]]

    def units(k: int) -> torch.Tensor:
        rows = torch.zeros(1 + sum(sizes), sizes[k], dtype=torch.float64)
        rows[1 + sum(sizes[:k]) :][: sizes[k]] = torch.eye(sizes[k], dtype=torch.float64)
        return rows.reshape(len(rows), *process.shape(times[k]))

    x, history, states = process.sigma(times[0]) * units(0), sampler.history(), []
    for k, (t, s) in enumerate(itertools.pairwise(times), start=1):
        x = sampler.step(x, t, s, noise=units(k) if s else None, history=history)
        linear = (x[1:] - x[0]).flatten(1)
        states.append((x[0], linear.T @ linear))
    return states


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ancestral", {}),
        ("ancestral", {"order": 2, "rule": "midpoint", "corrector": True}),
        ("ancestral", {"order": 3}),
        ("ddim", {"eta": 0.6}),
        ("ddim", {"order": 2}),
        ("ddim", {"order": 3, "corrector": True}),
        ("ddim", {"eta": 0.6, "order": 2, "corrector": True}),
        ("shared_noise", {"order": 3}),
        ("shared_noise", {"eta": 0.6, "order": 2}),
        ("shared_noise", {"eta": 1.0, "order": 3}),
        ("heun", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_the_recursion_is_that_of_the_sampler(name, sampler, options):
    """Every state; for data whose covariance is not diagonal in the frame of the path, and for data whose is."""
    process, steps = PROCESSES[name]
    n = math.prod(process.shape(0))
    mean = torch.linspace(-1, 1, n, dtype=torch.float64).reshape(process.shape(0))
    spectrum = ld.lab.power_law(process.shape(0))
    basis = ld.bases.Haar((1, 8)) if name == "fading" else "dct"
    for covariance in (dense_covariance(n), ld.SpectralFilter(process.shape(0), spectrum.gain, basis)):
        report = ld.lab.evaluate(process, covariance, mean, sampler, steps=steps, **options)
        denoiser = ld.lab.OptimalDenoiser(process, covariance, mean)
        states = states_of(SAMPLERS[sampler](denoiser, steps, **options))
        for step, (own_mean, own) in zip(report.per_step, states, strict=True):
            torch.testing.assert_close(step.mean, own_mean, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(step.covariance, own, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("eta", [1.0, 0.0])
def test_the_exact_correction_leaves_no_error(name, eta):
    """With E in every step but the last, each marginal is the true one; without, the error of a step is that of E."""
    process, steps = PROCESSES[name]
    covariance = dense_covariance(math.prod(process.shape(0)))
    matched = ld.lab.evaluate(process, covariance, sampler="ddim", eta=eta, correction="exact", steps=steps)
    scale = covariance.trace().sqrt()
    mean_square = [step.w2**2 for step in matched.per_step[:-1]]
    # The first state lacks the signal: what is left of that is all there is.
    assert max(step.error for step in matched.per_step[:-1]) < 1e-6 * scale
    assert mean_square[-1] <= mean_square[0] + 1e-9
    plain = ld.lab.evaluate(process, covariance, sampler="ddim", eta=eta, steps=steps)
    assert all((step.error > 1e-7) == (step.residual > 1e-9) for step in plain.per_step)


def test_structured_and_dense_covariances_agree():
    for process, steps in (PROCESSES[name] for name in ("DDPM", "pyramidal flow", "blurring", "two axes")):
        shape = process.shape(0)
        spectrum = ld.lab.power_law(shape)
        structured = ld.lab.evaluate(process, spectrum, steps=steps)
        for other in (
            spectrum.to_dense(),
            2.0 * (0.5 * spectrum),
            ld.GramCovariance(ld.SpectralFilter(shape, spectrum.gain.sqrt())),
        ):
            report = ld.lab.evaluate(process, other, steps=steps)
            torch.testing.assert_close(report.covariance, structured.covariance, rtol=1e-9, atol=1e-12)
            assert report.w2 == pytest.approx(structured.w2, rel=1e-6)
            assert report.kl == pytest.approx(structured.kl, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "levels", "mode", "groups"),
    [
        ((2, 8, 4), 2, "haar", 16),
        ((1, 8, 16), 3, "haar", 8),
        ((1, 8, 16), 3, "area", 8),
        ((2, 8, 12), 2, "bilinear", 8),
        ((1, 16), 3, "bicubic", 2),
        ((1, 12), 2, "nearest", 1),
        ((1, 18), 2, "bilinear", 1),  # nine pixels are no pairs
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "ancestral"},
        {"sampler": "ddim", "order": 3, "eta": 0.3, "correction": "exact-shape-changes"},
        {"sampler": "ddim", "order": 2, "corrector": True, "correction": "exact"},
        {"sampler": "shared_noise", "order": 2},
        {"sampler": "heun"},
    ],
    ids=["ancestral", "third order", "corrector", "shared noise", "heun"],
)
def test_independent_groups_are_all_there_is(shape, levels, mode, groups, options):
    """What coordinates that the levels do not mix come to, each group by itself, against all of them together."""
    covariance, steps = ld.lab.power_law(shape), ld.grids.log_snr(9)
    process = ld.ScaleSpaceDiffusion(shape, levels, mode=mode, schedule="cosine")
    mean = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_apart(process, covariance, mean, groups, steps, options)


@pytest.mark.parametrize("order", [1, 2])
def test_a_cut_of_cosines_leaves_groups_apart(order):
    covariance, path = (
        ld.lab.power_law((2, 8, 16)),
        ld.paths.truncated(ld.bases.Cosine((2, 8, 16)), [(2, 4, 8), (2, 2, 4)], [0.4, 0.7]),
    )
    process, options = ld.LinearDiffusion(path, ld.schedules.flow()), {"sampler": "ddim", "order": order, "eta": 0.2}
    assert_apart(process, covariance, 0.3, 16, ld.grids.uniform(8), options)


def assert_apart(process, covariance, mean, groups, steps, options):
    assert Marginals(process, covariance).frame(0).groups == groups or groups == 1
    apart = ld.lab.evaluate(process, covariance, mean, steps=steps, **options)
    together = ld.lab.evaluate(process, covariance.to_dense(), mean, steps=steps, **options)
    torch.testing.assert_close(apart.covariance, together.covariance, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(apart.mean, together.mean, rtol=1e-9, atol=1e-10)
    for one, other in zip(apart.per_step, together.per_step, strict=True):
        assert one.error == pytest.approx(other.error, rel=1e-5, abs=1e-6)
        assert one.w2 == pytest.approx(other.w2, rel=1e-5, abs=1e-6)
        assert one.residual == pytest.approx(other.residual, rel=1e-8, abs=1e-10)
        assert one.kl == pytest.approx(other.kl, rel=1e-6, abs=1e-8)


def test_a_part_of_the_groups_stands_for_all():
    """Each is in the middle of those that it stands for, all of them among the lowest frequencies and channels."""
    part = part_of((20, 7, 400))
    channels, rows, columns = torch.unravel_index(part.groups, (20, 7, 400))
    assert (len(channels.unique()), len(rows.unique())) == (20, 7)
    assert part.weights.sum() == 20 * 7 * 400
    assert part.weights[columns < 16].eq(1).all()
    widths = part.weights[(channels == 0) & (rows == 0)].long()
    ends, nodes = widths.cumsum(0), columns[: len(widths)]
    assert torch.equal(nodes, ends - widths + (widths - 1) // 2)
    assert (widths[:-1] <= 3 * (1 + nodes[:-1] / 16)).all()
    assert len(widths) < 50


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_distance_of_a_part_of_the_groups(exponent, levels):
    """Of power laws to 0.2 per cent, whatever the grid, order and changes; of 1200 such plans for 256 × 256 pixels the
    worst was off by 0.14."""
    shape, generator = (1, 1024), torch.Generator().manual_seed(levels)
    data = in_frame(ld.lab.power_law(shape, exponent), shape)
    for i in range(20):
        times = torch.rand(2 + i % 5, generator=generator, dtype=torch.float64).sort(descending=True)[0].tolist()
        path = ld.paths.identity(shape)
        if levels > 1:
            path = ld.paths.pyramid(shape, levels, mode="haar").changing(ld.changes_at([times[1], times[0]]))
        process, errors = ld.LinearDiffusion(path, ld.schedules.vp()), []
        for covariance in (data.in_groups(path), data.in_groups(path, thinned=True)):
            denoiser = ld.lab.OptimalDenoiser(process, covariance)
            sampler = ld.DDIMSampler(denoiser, [1.0, *times], order=1 + i % 3)
            errors.append(outcome(denoiser.marginals, sampler, None)[0])
        assert len(covariance.values) < 500
        assert errors[1] == pytest.approx(errors[0], rel=2e-3)


def test_distances_against_their_formulas():
    a, b = dense_covariance(5, 1), dense_covariance(5, 2)
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root)
    expected = a.trace() + b.trace() - 2 * cross.sqrt().sum()
    assert matrices.bures(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert matrices.bures(a, a) == pytest.approx(0, abs=1e-9)
    c, d = torch.rand(5).double(), torch.rand(5).double()
    assert matrices.bures(c, d) == pytest.approx(matrices.bures(torch.diag(c), torch.diag(d)), rel=1e-9)
    assert matrices.bures(c, b) == pytest.approx(matrices.bures(torch.diag(c), b), rel=1e-9)
    report = ld.lab.evaluate(PROCESSES["Haar"][0], dense_covariance(8), 0.3, steps=6)
    own = torch.distributions.MultivariateNormal(report.mean.flatten(), report.covariance)
    data = torch.distributions.MultivariateNormal(torch.full((8,), 0.3).double(), dense_covariance(8))
    assert report.kl == pytest.approx(float(torch.distributions.kl_divergence(own, data)), rel=1e-7)


def test_joint_states_against_dense_algebra():
    """Two states of which the first is then given another covariance, and a third made of both and of noise."""
    whole, changed, noise = dense_covariance(6), dense_covariance(3, 1), torch.rand(3, dtype=torch.float64)
    first, second = slice(0, 3), slice(3, 6)
    slope = whole[second, first] @ torch.linalg.inv(whole[first, first])
    a, b = ("x", 2), ("x", 1)
    joint = Joint(a, torch.zeros(3, dtype=torch.float64), whole[first, first])
    joint.add(b, {a: slope}, whole[second, second] - slope @ whole[first, second])
    torch.testing.assert_close(joint.covariance(b, b), whole[second, second])
    torch.testing.assert_close(joint.covariance(a, b), whole[first, second])
    terms = {a: torch.rand(3, dtype=torch.float64), b: dense_covariance(3, 2)}
    for states, start in ((joint, whole[first, first]), (joint.had(a, changed, terms), changed)):
        # b is a function of a and of noise of its own
        through = torch.diag(terms[a]) + terms[b] @ slope
        own = terms[b] @ (whole[second, second] - slope @ whole[first, second]) @ terms[b].T
        torch.testing.assert_close(
            states.image(terms, noise), through @ start @ through.T + own + torch.diag(noise), rtol=1e-10, atol=1e-12
        )


def test_degenerate_data():
    """A constant pixel, as in digits: W2 is finite, KL is not."""
    covariance = dense_covariance(8)
    covariance[0] = covariance[:, 0] = 0
    for options in ({}, {"sampler": "ddim", "order": 3}):
        report = ld.lab.evaluate(PROCESSES["DDPM"][0], covariance, **options)
        assert math.isfinite(report.w2)
        assert report.kl == math.inf


# ---------------------------------------------------------------------- denoiser, costs, estimates


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("two axes", [(10, 9), (6, 3), (4.5, 0)]),
        ("blurring", [(20, 19), (7.25, 0.5), (3, 0)]),
        ("pyramidal flow", [(1, 0.7), (0.7, 0.45), (0.45, 0.2), (0.2, 0)]),  # a_1 = 0: all that is known is the mean
    ],
)
def test_the_optimal_denoiser_is_the_conditional_mean(name, pairs):
    process = PROCESSES[name][0]
    n = math.prod(process.shape(0))
    covariance, mean = dense_covariance(n), torch.linspace(0, 1, n, dtype=torch.float64)
    denoiser = ld.lab.OptimalDenoiser(process, covariance, mean.reshape(process.shape(0)))
    for t, s in pairs:
        m_t, r_s = process.operator(0, t).to_dense().double(), process.degradation(0, s).to_dense().double()
        x = torch.randn(3, *process.shape(t), dtype=torch.float64)
        joint = m_t @ covariance @ m_t.T + process.sigma(t) ** 2 * torch.eye(len(m_t), dtype=torch.float64)
        centred = x.flatten(1).T - (m_t @ mean)[:, None]
        expected = r_s @ (mean[:, None] + covariance @ m_t.T @ torch.linalg.solve(joint, centred))
        torch.testing.assert_close(denoiser(x, t, s).flatten(1).T, expected, rtol=1e-9, atol=1e-9)
        single = denoiser(x.float(), t, s)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.flatten(1).T.double(), expected, rtol=1e-5, atol=1e-5)
    times = torch.tensor([process.end, 0.99 * process.end], dtype=torch.float64)
    x = torch.randn(2, *process.shape(process.end), dtype=torch.float64)
    alone = [denoiser(x[i : i + 1], t)[0] for i, t in enumerate(times.tolist())]
    torch.testing.assert_close(denoiser(x, times), torch.stack(alone))


def test_costs_and_frontier():
    process = ld.ScaleSpaceDiffusion(LINE, 2)
    points = ld.lab.frontier(process, SPECTRUM, [10, ld.grids.trailing(100)], lambda here, there: float(there[-1]))
    assert points[0]["relative_w2"] > points[1]["relative_w2"]
    times = ld.grids.uniform(10).times(process)
    assert points[0]["cost"] == sum(process.shape(t - 1)[-1] for t in times)
    assert points[0]["steps"] == 10
    (change,) = process.shape_changes()
    # Heun's method asks twice but over the change of shape and in the last step.
    twice = [s for t, s in itertools.pairwise(times) if t != change]
    heun = ld.lab.evaluate(process, SPECTRUM, sampler="heun", steps=10)
    cost = heun.cost(lambda here, there: float(there[-1]), process)
    assert cost == points[0]["cost"] + sum(process.shape(t - 1)[-1] for t in twice)


def test_estimates_from_images():
    covariance, mean = ld.lab.estimate(gaussian(ld.lab.power_law((2, 6, 4)), 4000, 0) + 0.5)
    expected = ld.lab.power_law((2, 6, 4)).gain.expand(2, 6, 4)
    assert (covariance.gain / expected - 1).abs().max() < 5.5 * (2 / 4000) ** 0.5  # 48 variances
    assert (mean - 0.5).abs().max() < 5.5 * float(expected.mean() / 4000) ** 0.5 * 2
    with pytest.raises(ValueError, match="images: expected shape"):
        ld.lab.estimate(torch.zeros(1, 1, 8))


# ---------------------------------------------------------------------- residuals in samplers


@pytest.mark.parametrize("make", [ld.AncestralSampler, ld.DDIMSampler], ids=["ancestral", "ddim"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_corrected_step_has_the_covariance_q_plus_e(make, rank):
    """By the linear map of both noises, found on a basis, against dense algebra."""
    process = ld.ScaleSpaceDiffusion((1, 8), 2, num_steps=20, schedule="cosine")
    (t,) = process.shape_changes()
    s = t - 1
    spectrum, components = torch.rand(1, 8, dtype=torch.float64), torch.randn(rank, 1, 8, dtype=torch.float64)
    denoiser = ld.lab.OptimalDenoiser(process, ld.lab.power_law((1, 8)))
    plain = make(denoiser, clip=None)
    sampler = make(denoiser, clip=None, residual=ld.Residual({(t, s): spectrum}, {(t, s): components}))
    x = torch.zeros(40_000, *process.shape(t), dtype=torch.float64)
    noise = torch.zeros(len(x), *process.shape(s), dtype=torch.float64)
    drawn = sampler.step(x, t, s, noise=noise, generator=torch.Generator().manual_seed(0)).flatten(1)
    # what the kernel passes on of a change of c_s: the derivative of its mean
    unit = process.signal_scale(s) * torch.eye(8, dtype=torch.float64).reshape(8, 1, 8)
    passed_on = process.step_kernel(t, s, sampler.eta).mean(x[:8], unit).flatten(1).T
    covariance = ld.SpectralFilter((1, 8), spectrum).to_dense() + components.flatten(1).T @ components.flatten(1)
    torch.testing.assert_close(sampler.residual.covariance(t, s).to_dense(), covariance)
    expected = passed_on @ covariance @ passed_on.T
    error = (torch.cov(drawn.T) - expected).abs()
    spread = (expected.diagonal()[:, None] * expected.diagonal() + expected.square()).sqrt() / len(x) ** 0.5
    assert (error < 5.5 * spread + 1e-12).all()
    torch.testing.assert_close(drawn.mean(0), plain.step(x[:1], t, s, noise=noise[:1])[0, 0], rtol=0, atol=0.03)


def test_corrected_samples_depend_on_their_own_seed():
    process = ld.ScaleSpaceDiffusion((1, 8), 2, num_steps=20)
    denoiser = ld.lab.OptimalDenoiser(process, ld.lab.power_law((1, 8)))
    residual = ld.calibrate(denoiser, torch.rand(8, 1, 8), steps=5, rank=2)
    sampler = ld.DDIMSampler(denoiser, steps=5, residual=residual)
    both = sampler(2, seeds=[3, 4], progress=False)
    torch.testing.assert_close(both[1:], sampler(1, seeds=[4], progress=False))
    assert not torch.equal(both, ld.DDIMSampler(denoiser, steps=5)(2, seeds=[3, 4], progress=False))


@pytest.mark.parametrize("shape", [(3, 8), (2, 4, 6)])
def test_spectra_are_those_of_the_basis_they_are_drawn_in(shape):
    """Also for the channels of a line: an identity denoiser's residual of known covariance comes back as it was."""
    spectrum = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = gaussian(ld.SpectralFilter(shape, spectrum), 4000, 1)
    assert (ld.lab.estimate(data)[0].gain / spectrum - 1).abs().max() < 5.5 * (2 / 4000) ** 0.5
    process = ld.ScaleSpaceDiffusion(shape, 2, num_steps=20)
    blind = ld.Denoiser(lambda x, t_index, size: x.new_zeros(len(x), shape[0], *size), process)
    (measured,) = ld.calibrate(blind, data, clip=None).spectra.values()
    assert (measured / spectrum - 1).abs().max() < 5.5 * (2 / 4000) ** 0.5


def test_components_and_the_spectrum_of_the_rest_are_the_whole_second_moment():
    """With all components, exactly; with some, in the trace, and along each of them."""
    shape = (2, 4, 6)
    process = ld.ScaleSpaceDiffusion(shape, 2, num_steps=20)
    pair = (process.shape_changes()[0], process.shape_changes()[0] - 1)
    blind = ld.Denoiser(lambda x, t_index, size: x.new_zeros(len(x), shape[0], *size), process)
    data = torch.randn(100, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = data * torch.linspace(0.1, 2, 6, dtype=torch.float64)
    moment = data.flatten(1).T @ data.flatten(1) / len(data)
    whole = ld.calibrate(blind, data, clip=None, rank=48).covariance(*pair).to_dense()
    torch.testing.assert_close(whole, moment, rtol=0, atol=1e-12)
    some = ld.calibrate(blind, data, clip=None, rank=3)
    assert some.covariance(*pair).to_dense().trace().item() == pytest.approx(moment.trace().item(), rel=1e-12)
    rows = some.components[pair].flatten(1)
    values = rows.square().sum(1)
    torch.testing.assert_close(rows @ moment @ rows.T, torch.diag(values**2), rtol=0, atol=1e-10)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(moment).flip(0)[:3])


def test_components_reach_the_exact_figures_where_the_data_are_not_stationary():
    """A line whose variance lives in its middle: the spectrum alone leaves most of the error, components do not."""
    window = 2 * torch.exp(-((torch.arange(32, dtype=torch.float64) - 15.5) / 5).square())
    covariance = window[:, None] * ld.lab.power_law((1, 32)).to_dense() * window
    process = ld.ScaleSpaceDiffusion((1, 32), 4)
    values, vectors = torch.linalg.eigh(covariance)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(2000, 1, 32, generator=generator, dtype=torch.float64) @ (vectors * values.clamp(min=0).sqrt()).T
    denoiser = ld.lab.OptimalDenoiser(process, covariance)
    errors = {}
    for rank in (0, 8):
        residual = ld.calibrate(denoiser, data, clip=None, rank=rank, generator=generator)
        errors[rank] = ld.lab.evaluate(process, covariance, correction=residual).relative_w2
    exact = ld.lab.evaluate(process, covariance, correction="exact-shape-changes").relative_w2
    assert errors[8] == pytest.approx(exact, rel=0.1)
    assert errors[0] > 1.5 * exact


def test_residuals_are_kept_and_refused(tmp_path):
    process = ld.ScaleSpaceDiffusion((1, 8), 2, num_steps=20)
    denoiser = ld.lab.OptimalDenoiser(process, ld.lab.power_law((1, 8)))
    every = ld.calibrate(denoiser, torch.rand(8, 1, 8), steps=5, shape_changes_only=False, rank=2)
    times = ld.grids.uniform(5).times(process)
    assert set(every.spectra) == set(itertools.pairwise(times))
    assert set(every.state_dict()) == {f"{t}-{s}{part}" for t, s in every.spectra for part in ("", "-components")}
    flow = ld.LinearDiffusion(ld.paths.pyramid((1, 8), 2, ld.changes_at([0.45])), ld.schedules.flow())
    exact = ld.lab.OptimalDenoiser(flow, ld.lab.power_law((1, 8)))
    floats = ld.calibrate(exact, torch.rand(8, 1, 8), steps=[1, 0.45, 1e-5], shape_changes_only=False, rank=2)
    assert set(floats.state_dict()) == {
        "1.0-0.45", "0.45-1e-05", "1.0-0.45-components", "0.45-1e-05-components"
    }  # fmt: skip
    for residual in (every, floats):
        save_file(residual.state_dict(), tmp_path / "residual.safetensors")
        again = ld.Residual.from_state_dict(load_file(tmp_path / "residual.safetensors"))
        assert again.spectra.keys() == residual.spectra.keys()
        assert all(torch.equal(again.spectra[pair], spectrum) for pair, spectrum in residual.spectra.items())
        assert all(torch.equal(again.components[pair], rows) for pair, rows in residual.components.items())
    ld.DDIMSampler(exact, [1, 0.45, 1e-5], residual=floats)(2, seeds=[0, 1], progress=False)
    ld.AncestralSampler(denoiser, steps=5, residual=every)
    with pytest.raises(ValueError, match="residual: expected spectra of steps of this sampler"):
        ld.AncestralSampler(denoiser, steps=7, residual=every)
    with pytest.raises(ValueError, match=r"spectra: expected finite variances ≥ 0 for the step 3 → 2"):
        ld.Residual({(3, 2): torch.tensor([[-1.0]])})
    with pytest.raises(ValueError, match=r"components: expected finite numbers of shape \(k, \*\(1, 8\)\)"):
        ld.Residual({(3, 2): torch.ones(1, 8)}, {(3, 2): torch.ones(2, 1, 4)})
    with pytest.raises(ValueError, match="tensors: expected names such as"):
        ld.Residual.from_state_dict({"3": torch.ones(1, 8)})
    with pytest.raises(ValueError, match="rank: expected 0 ≤ rank"):
        ld.calibrate(denoiser, torch.rand(8, 1, 8), rank=-1)
    with pytest.raises(ValueError, match="images: expected shape"):
        ld.calibrate(denoiser, torch.rand(0, 1, 8))
    flat = ld.DDPM((1, 8), num_steps=20)
    with pytest.raises(ValueError, match="steps: expected at least one step to measure"):
        ld.calibrate(ld.lab.OptimalDenoiser(flat, ld.lab.power_law((1, 8))), torch.rand(4, 1, 8))


# ---------------------------------------------------------------------- schedules, errors


def test_snr_matched_drops_what_cannot_be_seen():
    schedule = ld.schedules.linear(1000)
    changes = ld.snr_matched(SPECTRUM.gain, 0.1)(4, schedule)
    for level, first in enumerate(changes, start=1):
        highest = float(SPECTRUM.gain.flatten()[64 >> level :].max())
        assert math.exp(schedule.log_snr(first)) * highest < 0.1 <= math.exp(schedule.log_snr(first - 1)) * highest
    image = ld.lab.power_law((3, 16, 24)).gain
    process = ld.ScaleSpaceDiffusion((3, 16, 24), 3, resolution_schedule=ld.snr_matched(image.expand(3, 16, 24)))
    assert process.shape(1000) == (3, 4, 6)
    for wrong, message in (({"threshold": 0.0}, "threshold"), ({"spectrum": -image}, "spectrum")):
        with pytest.raises(ValueError, match=message):
            ld.snr_matched(**{"spectrum": image, **wrong})


def test_haar_levels_are_orthonormal_projections():
    """M_{1:t} M_{1:t}ᵀ = ᾱ_t I at every level; c_t is the block mean; the posterior sees all of x_t."""
    process = ld.ScaleSpaceDiffusion((2, 8, 4), 3, num_steps=30, mode="haar")
    x0 = torch.randn(1, 2, 8, 4, dtype=torch.float64)
    for t in (30, 20.5, 10, 1):
        operator = process.operator(0, t).to_dense().double()
        n = len(operator)
        alpha_bar = 1 - process.sigma(t) ** 2
        torch.testing.assert_close(operator @ operator.T, alpha_bar * torch.eye(n, dtype=torch.float64))
        side = 8 // process.shape(t)[1]
        torch.testing.assert_close(process.clean(x0, t), torch.nn.functional.avg_pool2d(x0, side))
    with pytest.raises(ValueError, match="mode: expected even sizes"):
        ld.ScaleSpaceDiffusion((1, 6, 4), 3, mode="haar")
    assert ld.ScaleSpaceDiffusion((1, 8), 2, mode="haar").signal_scale(1000) == pytest.approx(
        2**0.5 * ld.ScaleSpaceDiffusion((1, 8), 2).signal_scale(1000)
    )


def test_no_grid_that_is_drawn_is_better_than_the_optimum():
    data, schedule = ld.lab.power_law((1, 8)), ld.schedules.vp()
    process = ld.LinearDiffusion(ld.paths.identity((1, 8)), schedule)
    best = ld.lab.optimise(process.path, schedule, data, 4, 2)
    assert best.cost == len(best.times) == 4
    draws = torch.rand(150, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).sort(descending=True)[0]
    low, high = schedule.log_snr(1.0), schedule.log_snr(schedule.first)
    rivals = [[1.0, *schedule.time(high + (low - high) * row).tolist()] for row in draws]
    errors = [ld.lab.evaluate(process, data, sampler="ddim", steps=times, order=2).w2 for times in rivals]
    assert best.report.w2 <= min(errors)


@pytest.fixture(scope="module")
def with_levels():
    """The best of first order for three calls' worth."""
    path, schedule = ld.paths.pyramid((1, 8), 2, mode="haar"), ld.schedules.vp()
    return ld.lab.optimise(path, schedule, ld.lab.power_law((1, 8)), 3, 1)


def test_levels_are_used_where_they_help(with_levels):
    """As they may go unused, the optimum with them is no worse than the one without, and the report is of what it is
    made of."""
    data, schedule, best = ld.lab.power_law((1, 8)), ld.schedules.vp(), with_levels
    without = ld.lab.optimise(ld.paths.identity((1, 8)), schedule, data, 3, 1)
    assert best.cost <= 3 + 1e-9
    assert best.report.w2 <= 1.001 * without.report.w2
    again = ld.lab.evaluate(best.process, data, sampler="ddim", eta=best.eta, steps=best.times, order=best.order)
    assert again.w2 == pytest.approx(best.report.w2, rel=1e-9)
    cost = again.cost(lambda here, there: (here[-1] + there[-1]) / 16, best.process)
    assert cost == pytest.approx(best.cost)
    sampler = best.sampler(ld.lab.OptimalDenoiser(best.process, data))
    assert sampler.times == [*best.times, 0]
    assert sampler(2, seeds=[0, 1], progress=False).shape == (2, 1, 8)


def test_calls_move_between_any_two_levels():
    """What a level gives up goes to whichever other gains most: two calls' worth without the middle level, which moves
    to and from full size alone do not come to."""
    data, schedule = ld.lab.power_law((1, 16), 1.0), ld.schedules.vp()
    best = ld.lab.optimise(ld.paths.pyramid((1, 16), 3, mode="haar"), schedule, data, 2, 1)
    without = ld.lab.optimise(ld.paths.identity((1, 16)), schedule, data, 2, 1)
    assert [best.process.shape(t)[-1] for t in best.times] == [4, 4, 16]
    assert best.report.w2 < 0.8 * without.report.w2


def test_large_events_are_searched_with_a_part_of_the_frequencies(monkeypatch):
    """What is found is as good as what a search with all of them finds, and the report is of all."""
    data, schedule, path = ld.lab.power_law((1, 256)), ld.schedules.vp(), ld.paths.identity((1, 256))
    whole = ld.lab.optimise(path, schedule, data, 3, 1)
    monkeypatch.setattr(importlib.import_module("lineardiffusion.lab.optimise"), "_MANY", 256)
    part = ld.lab.optimise(path, schedule, data, 3, 1)
    assert part.times != whole.times
    assert part.report.w2 == pytest.approx(whole.report.w2, rel=3e-3)
    again = ld.lab.evaluate(part.process, data, sampler="ddim", steps=part.times, eta=part.eta)
    assert again.w2 == pytest.approx(part.report.w2, rel=1e-9)


def test_schedules_of_any_end_have_the_same_optimum():
    """White schedules differ by the noise that they end with, from log-SNR −8 to −∞, and by the scale of x_t, which
    first steps and the variance that is left out of x_T show a little of."""
    path, data = ld.paths.identity((1, 8)), ld.lab.power_law((1, 8))
    kinds = [ld.schedules.vp(), ld.schedules.flow(), ld.schedules.cosine(1000), ld.schedules.ve()]
    errors = [ld.lab.optimise(path, kind, data, 3, 1).report.w2 for kind in kinds]
    assert max(errors) < 1.06 * min(errors)


def test_the_optimum_of_a_process_with_steps():
    """Times of change are whole numbers there; a cost of one's own counts; what was found for one budget leads to that
    of another; and dense covariances are covariances."""
    data, schedule, path = ld.lab.power_law((1, 4)), ld.schedules.cosine(20), ld.paths.pyramid((1, 4), 2)
    few = ld.lab.optimise(path, schedule, data, 6, 1, of_call=lambda here, there: float(here[-1]))
    more = ld.lab.optimise(path, schedule, data.to_dense(), 10, 1, of_call=lambda here, there: here[-1], start=few)
    for found, budget in ((few, 6), (more, 10)):
        assert all(isinstance(t, int) for t in found.process.shape_changes())
        assert found.cost == sum(found.process.shape(t)[-1] for t in found.times) <= budget
    assert more.report.w2 < 0.8 * few.report.w2


def test_plans_share_what_their_levels_make_of_a_covariance():
    """Wherever levels change: each process finds the frames and matrices of those before it, and they are right."""
    path, data = ld.paths.pyramid((1, 8, 8), 3, mode="haar"), ld.lab.power_law((1, 8, 8))
    shared, frames = in_frame(data, (1, 8, 8)).in_groups(path), set()
    for changes in ([0.3, 0.6], [0.2, 0.9], [0.5, 0.5]):
        process = ld.LinearDiffusion(path.changing(ld.changes_at(changes)), ld.schedules.flow())
        known, alone = (ld.lab.evaluate(process, c, steps=6, sampler="ddim", order=2) for c in (shared, data))
        torch.testing.assert_close(known.covariance, alone.covariance, rtol=1e-12, atol=1e-13)
        frames.add(Marginals(process, shared).frame(1))
    assert len(frames) == 1
    denoiser, x = ld.lab.OptimalDenoiser(process, shared), torch.ones(1, *process.shape(1))
    assert torch.equal(pickle.loads(pickle.dumps(denoiser))(x, 1), denoiser(x, 1))


def test_a_correction_draws_no_more_than_the_noise(with_levels):
    """A draw of the residual of Gaussian data is exact however long the step, so that a leap from noise to data would
    be best: what the correction may add is limited."""
    data, path, schedule = ld.lab.power_law((1, 8)), ld.paths.pyramid((1, 8), 2, mode="haar"), ld.schedules.vp()
    best = ld.lab.optimise(path, schedule, data, 3, 1, correction="exact-shape-changes")
    assert len(best.process.shape_changes()) == 1
    assert best.report.w2 < 0.8 * with_levels.report.w2
    denoiser = ld.lab.OptimalDenoiser(best.process, data)
    w2, drawn = outcome(denoiser.marginals, best.sampler(denoiser), best.correction)
    assert w2 == pytest.approx(best.report.w2, rel=1e-9)
    (step,) = [each for each in best.report.per_step if each.shape != best.process.shape(each.t)]
    unknown = denoiser.marginals.unknown(step.t, step.s)
    variance = best.process.signal_scale(step.s) ** 2 * torch.linalg.eigvalsh(unknown).max()
    assert 0.9 < drawn < 1.05
    assert drawn <= variance / best.process.sigma(step.s) ** 2 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"covariance": torch.eye(7)}, r"covariance: expected shape \(8, 8\), got \(7, 7\)"),
        ({"covariance": torch.diag(torch.tensor([-1.0] + [1.0] * 7))}, "covariance: expected eigenvalues ≥ 0, got -1"),
        ({"covariance": torch.ones(8, 8).triu()}, "covariance: expected a symmetric matrix"),
        ({"covariance": ld.lab.power_law((1, 9))}, "covariance: expected an operator on events"),
        ({"sampler": "euler"}, "sampler: expected one of"),
        ({"correction": "some"}, "correction: expected one of"),
        ({"prior": "flat"}, "prior: expected one of"),
        ({"sampler": "ddim", "eta": 2.0}, r"eta: expected a number in \[0, 1\], got 2.0"),
        ({"steps": 0}, "steps: expected 1 ≤ steps"),
        ({"process": ld.EDM((1, 8))}, "steps: expected a number or a grid"),
        ({"eta": 0.5}, "eta: expected 0.0, as AncestralSampler has no other, got 0.5"),
        ({"sampler": "heun", "order": 2}, "order: expected 1, as HeunSampler has no other, got 2"),
        ({"order": 4}, "order: expected"),
        ({"sampler": "heun", "correction": ld.Residual({})}, "correction: expected None, as HeunSampler has no other"),
    ],
)
def test_bad_input(wrong, message):
    options = {"process": PROCESSES["DDPM"][0], "covariance": ld.lab.power_law((1, 8)), **wrong}
    with pytest.raises(ValueError, match=message):
        ld.lab.evaluate(**options)


def test_large_events_keep_the_last_state_alone():
    process = ld.ScaleSpaceDiffusion((1, 1088), 2, num_steps=4, schedule="cosine", mode="nearest")
    report = ld.lab.evaluate(process, ld.lab.power_law((1, 1088)))
    assert math.isfinite(report.relative_w2)
    changed = next(step for step in report.per_step if step.shape == (1, 1088) and step.s)
    with pytest.raises(ValueError, match="covariance: kept for every step up to 1024"):
        _ = changed.covariance
