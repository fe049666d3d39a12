"""The Gaussian laboratory, against known values, Monte Carlo and dense algebra; residuals measured and put back."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import lineardiffusion as ld
from lineardiffusion.lab import frames

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


def processes() -> dict[str, ld.LinearDiffusion]:
    torch.manual_seed(0)
    blur = ld.Convolution(torch.tensor([0.2, 0.5, 0.3]), (1, 8), padding="reflect")
    return {
        "DDPM": ld.DDPM((1, 8), num_steps=20, schedule="cosine"),
        "blurring": ld.BlurringDiffusion((1, 8), num_steps=20, blur_sigma_max=3.0),
        "scale space": ld.ScaleSpaceDiffusion((1, 8), 3, num_steps=20, schedule="cosine"),
        "two axes": ld.ScaleSpaceDiffusion((2, 4, 6), 2, num_steps=10, schedule="cosine"),
        "dense": ld.LinearDiffusion([blur] * 5, sigmas=torch.linspace(0, 1, 6)),
    }


PROCESSES = processes()


def dense_covariance(n: int, seed: int = 0) -> torch.Tensor:
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / n


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("eta", [None, 0.0, 0.6])
def test_the_recursion_is_that_of_the_sampler(name, eta):
    """A sampler with the optimal denoiser is affine in x_T and its noise: its map, found by applying it to a basis,
    gives the covariance to rounding. Dense data covariance and a mean."""
    process = PROCESSES[name]
    n = math.prod(process.shape(0))
    covariance, mean = dense_covariance(n), torch.linspace(-1, 1, n, dtype=torch.float64).reshape(process.shape(0))
    options = {"sampler": "ancestral"} if eta is None else {"sampler": "ddim", "eta": eta}
    report = ld.lab.evaluate(process, covariance, mean, steps=5, **options)

    denoiser = ld.lab.OptimalDenoiser(process, covariance, mean)
    make = ld.AncestralSampler if eta is None else ld.DDIMSampler
    sampler = make(denoiser, steps=5, clip=None, **({} if eta is None else {"eta": eta}))
    last = process.shape(process.num_steps)
    own_mean = torch.zeros(1, *last, dtype=torch.float64)
    own = process.sigma(process.num_steps) ** 2 * torch.eye(math.prod(last), dtype=torch.float64)
    for t, s in zip(sampler.times, sampler.times[1:], strict=False):
        zero = torch.zeros(1, *process.shape(s), dtype=torch.float64)

        def step(x, noise=None, t=t, s=s, zero=zero):
            return sampler.step(x, t, s, noise=zero.expand(len(x), *zero.shape[1:]) if noise is None else noise)

        columns = torch.eye(own_mean.numel(), dtype=torch.float64).reshape(-1, *process.shape(t))
        offset = step(torch.zeros_like(own_mean))
        affine = (step(columns) - offset).flatten(1).T
        units = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *process.shape(s))
        spread = (step(torch.zeros(len(units), *process.shape(t), dtype=torch.float64), units) - offset).flatten(1).T
        own_mean = step(own_mean)
        own = affine @ own @ affine.T + spread @ spread.T
    torch.testing.assert_close(report.mean, own_mean[0], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(report.covariance, own, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("eta", [1.0, 0.0])
def test_the_exact_correction_leaves_no_error(name, eta):
    """With E in every step but the last, each marginal is the true one; without, the error of a step is that of E."""
    process = PROCESSES[name]
    covariance = dense_covariance(math.prod(process.shape(0)))
    matched = ld.lab.evaluate(process, covariance, sampler="ddim", eta=eta, correction="exact", steps=5)
    scale = covariance.trace().sqrt()
    mean_square = [step.w2**2 for step in matched.per_step[:-1]]
    # The first state lacks the signal: what is left of that is all there is.
    assert max(step.error for step in matched.per_step[:-1]) < 1e-6 * scale
    assert mean_square[-1] <= mean_square[0] + 1e-9
    plain = ld.lab.evaluate(process, covariance, sampler="ddim", eta=eta, steps=5)
    assert all((step.error > 1e-7) == (step.residual > 1e-9) for step in plain.per_step)


def test_structured_and_dense_covariances_agree():
    for name, shape in (("DDPM", (1, 8)), ("scale space", (1, 8)), ("blurring", (1, 8)), ("two axes", (2, 4, 6))):
        spectrum = ld.lab.power_law(shape)
        structured = ld.lab.evaluate(PROCESSES[name], spectrum, steps=7)
        for other in (
            spectrum.to_dense(),
            2.0 * (0.5 * spectrum),
            ld.GramCovariance(ld.SpectralFilter(shape, spectrum.gain.sqrt())),
        ):
            report = ld.lab.evaluate(PROCESSES[name], other, steps=7)
            torch.testing.assert_close(report.covariance, structured.covariance, rtol=1e-9, atol=1e-12)
            assert report.w2 == pytest.approx(structured.w2, rel=1e-6)
            assert report.kl == pytest.approx(structured.kl, rel=1e-6)


def test_distances_against_their_formulas():
    a, b = dense_covariance(5, 1), dense_covariance(5, 2)
    root = frames.eigenframe(a)[0].vectors * frames.eigenframe(a)[1].sqrt() @ frames.eigenframe(a)[0].vectors.T
    values = torch.linalg.eigvalsh(root @ b @ root)
    expected = a.trace() + b.trace() - 2 * values.sqrt().sum()
    assert frames.bures(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frames.bures(a, a) == pytest.approx(0, abs=1e-9)
    c, d = torch.rand(5).double(), torch.rand(5).double()
    assert frames.bures(c, d) == pytest.approx(frames.bures(torch.diag(c), torch.diag(d)), rel=1e-9)
    assert frames.bures(c, b) == pytest.approx(frames.bures(torch.diag(c), b), rel=1e-9)
    report = ld.lab.evaluate(PROCESSES["scale space"], dense_covariance(8), 0.3, steps=6)
    own = torch.distributions.MultivariateNormal(report.mean.flatten(), report.covariance)
    data = torch.distributions.MultivariateNormal(torch.full((8,), 0.3).double(), dense_covariance(8))
    assert report.kl == pytest.approx(float(torch.distributions.kl_divergence(own, data)), rel=1e-7)


def test_degenerate_data():
    """A constant pixel, as in digits: W2 is finite, KL is not."""
    covariance = dense_covariance(8)
    covariance[0] = covariance[:, 0] = 0
    report = ld.lab.evaluate(PROCESSES["DDPM"], covariance)
    assert math.isfinite(report.w2)
    assert report.kl == math.inf


# ---------------------------------------------------------------------- denoiser, costs, estimates


def test_the_optimal_denoiser_is_the_conditional_mean():
    process, covariance = PROCESSES["scale space"], dense_covariance(8)
    mean = torch.linspace(0, 1, 8, dtype=torch.float64).reshape(1, 8)
    denoiser = ld.lab.OptimalDenoiser(process, covariance, mean)
    for t, s in ((5, 2), (process.shape_changes()[0], process.shape_changes()[0] - 1), (20, 19)):
        m_t, m_s = (process.chain.cumulative(u).to_dense().double() for u in (t, s))
        x = torch.randn(3, *process.shape(t), dtype=torch.float64)
        joint = m_t @ covariance @ m_t.T + process.sigma(t) ** 2 * torch.eye(len(m_t), dtype=torch.float64)
        centred = x.flatten(1).T - m_t @ mean.reshape(-1, 1)
        expected = m_s @ mean.reshape(-1, 1) + m_s @ covariance @ m_t.T @ torch.linalg.solve(joint, centred)
        torch.testing.assert_close(
            denoiser(x, t, s).flatten(1).T, expected / process.signal_scale(s), rtol=1e-9, atol=1e-9
        )
    times = torch.tensor([4, 5])
    x = torch.randn(2, 1, 8)
    torch.testing.assert_close(denoiser(x, times), torch.stack([denoiser(x[:1], 4)[0], denoiser(x[1:], 5)[0]]))


def test_costs_and_frontier():
    process = ld.ScaleSpaceDiffusion(LINE, 2)
    points = ld.lab.frontier(process, SPECTRUM, [10, 100], lambda here, there: float(there[-1]))
    assert points[0]["relative_w2"] > points[1]["relative_w2"]
    sizes = [
        process.shape(t - 1)[-1] for t in ld.AncestralSampler(ld.lab.OptimalDenoiser(process, SPECTRUM), 10).times[:-1]
    ]
    assert points[0]["cost"] == sum(sizes)
    assert points[0]["steps"] == len(sizes)


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
    passed_on = plain._kernel(x[:8], unit, t, s).mean.flatten(1).T
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
    residual = ld.calibrate(denoiser, torch.rand(8, 1, 8), rank=2)
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
    save_file(every.state_dict(), tmp_path / "residual.safetensors")
    again = ld.Residual.from_state_dict(load_file(tmp_path / "residual.safetensors"))
    assert again.spectra.keys() == every.spectra.keys()
    assert all(torch.equal(again.spectra[pair], spectrum) for pair, spectrum in every.spectra.items())
    assert all(torch.equal(again.components[pair], rows) for pair, rows in every.components.items())
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
    alpha_bar = ld.linear_schedule(1000)
    levels = ld.snr_matched(SPECTRUM.gain, 0.1)(4, alpha_bar)
    for level in (1, 2, 3):
        first = int((levels >= level).nonzero()[0]) + 1
        highest = SPECTRUM.gain.flatten()[64 >> level :].max()
        snr = alpha_bar / (1 - alpha_bar) * highest
        assert snr[first] < 0.1 <= snr[first - 1]
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
    for t in (30, 20, 10, 1):
        operator = process.chain.cumulative(t).to_dense().double()
        n = len(operator)
        alpha_bar = 1 - process.sigma(t) ** 2
        torch.testing.assert_close(operator @ operator.T, alpha_bar * torch.eye(n, dtype=torch.float64))
        side = 8 // process.shape(t)[1]
        torch.testing.assert_close(process.clean(x0, t), torch.nn.functional.avg_pool2d(x0, side))
    with pytest.raises(ValueError, match="mode: expected even sizes for 'haar'"):
        ld.ScaleSpaceDiffusion((1, 6, 4), 3, mode="haar")
    assert ld.ScaleSpaceDiffusion((1, 8), 2, mode="haar").signal_scale(1000) == pytest.approx(
        2**0.5 * ld.ScaleSpaceDiffusion((1, 8), 2).signal_scale(1000)
    )


def test_the_best_schedule_is_the_best_of_the_grid():
    covariance = ld.lab.power_law((1, 16))

    def process_of(schedule):
        return ld.ScaleSpaceDiffusion((1, 16), 3, num_steps=40, schedule="cosine", resolution_schedule=schedule)

    def cost(here, there):
        return float(there[-1])

    options = {"grid": 5, "sampler": "ddim"}
    times, report = ld.lab.optimise_schedule(process_of, 3, 40, covariance, cost, 480, **options)
    assert report.cost(cost, process_of(ld.changes_at(times))) <= 480
    rivals = {}
    for first, second in itertools.combinations((2, 12, 21, 30, 40), 2):
        process = process_of([(t >= first) + (t >= second) for t in range(1, 41)])
        rival = ld.lab.evaluate(process, covariance, sampler="ddim")
        if rival.cost(cost, process) <= 480:
            rivals[first, second] = rival.w2
    assert len(rivals) < 10
    assert tuple(times) == min(rivals, key=rivals.__getitem__)
    assert report.w2 == pytest.approx(rivals[tuple(times)], rel=1e-9)
    with pytest.raises(ValueError, match="budget: expected at least"):
        ld.lab.optimise_schedule(process_of, 3, 40, covariance, cost, 1.0, **options)


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
        ({"eta": 2.0}, r"eta: expected a number in \[0, 1\], got 2.0"),
        ({"steps": 0}, "steps: expected"),
    ],
)
def test_bad_input(wrong, message):
    options = {"process": PROCESSES["DDPM"], "covariance": ld.lab.power_law((1, 8)), **wrong}
    with pytest.raises(ValueError, match=message):
        ld.lab.evaluate(**options)


def test_large_events_keep_the_last_state_alone():
    process = ld.ScaleSpaceDiffusion((1, 2048), 2, num_steps=4, schedule="cosine")
    report = ld.lab.evaluate(process, ld.lab.power_law((1, 2048)))
    assert math.isfinite(report.relative_w2)
    changed = next(step for step in report.per_step if step.shape == (1, 2048) and step.s)
    with pytest.raises(ValueError, match="covariance: kept for every step up to 1024"):
        _ = changed.covariance
