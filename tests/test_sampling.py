"""Samplers: steps and trajectories, where they start, their randomness, and their distribution on Gaussian data.

The solvers of other libraries are in test_solvers, orders in test_orders.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lineardiffusion as ld
from test_operators import draw

STEPS, SHAPE = 60, (2, 8, 6)
SCHEDULE = ld.schedules.linear(STEPS, 1e-3, 0.3)
FAMILIES = {
    "DDPM": ld.DDPM(SHAPE, STEPS, SCHEDULE),
    "blurring": ld.BlurringDiffusion(SHAPE, STEPS, blur_sigma_max=3.0),
    "scale space": ld.ScaleSpaceDiffusion(SHAPE, 3, STEPS, SCHEDULE, resolution_schedule=ld.equal_levels()),
    "chain": ld.LinearDiffusion(
        [SCHEDULE.signal(t) / SCHEDULE.signal(t - 1) * ld.Identity(SHAPE) for t in range(1, STEPS + 1)],
        [SCHEDULE.sigma(t) for t in range(STEPS + 1)],
        [SCHEDULE.signal(t) for t in range(STEPS + 1)],
    ),
}
SPECIAL_CASES = {
    "DDPM": ld.DDPM((3, 8, 8)),
    "scale space with one level": ld.ScaleSpaceDiffusion((3, 8, 8), levels=1),
    "blurring without blur": ld.BlurringDiffusion((3, 8, 8), blur_sigma_max=0.0, schedule="linear"),
    "scalars": ld.LinearDiffusion(ld.paths.identity((3, 8, 8)), ld.schedules.linear(1000)),
}
KINDS = {
    "ancestral": ld.AncestralSampler,
    "DDIM": ld.DDIMSampler,
    "DDIM η = 0.5": partial(ld.DDIMSampler, eta=0.5),
    "2M": partial(ld.DDIMSampler, order=2),
    "SDE 3, corrected": partial(ld.AncestralSampler, order=3, corrector=True),
    "shared noise": partial(ld.SharedNoiseSampler, eta=0.5, order=2),
    "Heun": ld.HeunSampler,
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def make(request):
    return request.param


class GaussianNetwork:
    """The optimal denoiser of N(mean, covariance) data, E[c_{t−1} | x_t]: affine in x_t."""

    def __init__(self, process, mean, covariance):
        self.process, self.mean, self.covariance = process, mean, covariance

    def affine(self, t):
        """E[x_0 | x_t] = G (x_t − M m) + m, as (G, M)."""
        m = self.process.operator(0, t).to_dense()
        total = m @ self.covariance @ m.T + self.process.sigma(t) ** 2 * torch.eye(len(m), dtype=torch.float64)
        return self.covariance @ m.T @ torch.linalg.inv(total), m

    def __call__(self, x_t, t_index, size=None):
        t = int(t_index[0]) + 1
        gain, m = self.affine(t)
        x0 = self.mean + (x_t.flatten(1).double() - m @ self.mean) @ gain.T
        return self.process.clean(x0.reshape(-1, *self.process.shape(0)), t - 1).to(x_t)


def gaussian_data(n, seed=0):
    mean = 0.3 * draw((n,), seed=seed)
    factor = torch.eye(n, dtype=torch.float64) + 0.4 * draw((n, n), seed=seed + 1)
    return mean, 0.1 * factor @ factor.T


def sampled_distribution(network, sampler):
    """Exact mean and covariance of what a sampler of first order returns, by dense algebra."""
    p = network.process
    n = math.prod(p.shape(p.end))
    mean = torch.zeros(n, dtype=torch.float64)
    covariance = p.sigma(p.end) ** 2 * torch.eye(n, dtype=torch.float64)
    for t, s in itertools.pairwise(sampler.times):
        gain, m_t = network.affine(t)
        # x_s = μ_s + K (x_t − M μ_s) with μ_s = a_s c_s, and c_s carried from
        # c_{t−1} = M_{1:t−1} (m + G (x_t − M_{1:t} m)) / a_{t−1}
        units = torch.eye(math.prod(p.shape(s)), dtype=torch.float64).reshape(-1, *p.shape(s))
        carried = p.signal_scale(s) / p.signal_scale(t - 1) * sampler.denoiser.carry(units, t - 1, s).flatten(1).T
        to_mean = carried @ p.operator(0, t - 1).to_dense()
        slope, offset = to_mean @ gain, to_mean @ (network.mean - gain @ m_t @ network.mean)
        if s == 0:
            step, shift, noise = slope, offset, 0
        else:
            between = p.operator(s, t).to_dense()
            units = torch.eye(len(m_t), dtype=torch.float64).reshape(-1, *p.shape(t))
            kernel = p.kernel(units, units.new_zeros(len(units), *p.shape(s)), t, s, sampler.eta)
            k = kernel.mean.flatten(1).T
            step, shift = slope + k - k @ between @ slope, offset - k @ between @ offset
            noise = kernel.covariance.to_dense()
        mean, covariance = step @ mean + shift, step @ covariance @ step.T + noise
    return mean, covariance


def distribution_of_steps(sampler):
    """The same for any sampler of an affine network, by its own steps: a row for each number that is drawn, which is 1
    there where all others are 0."""
    p = sampler.denoiser.process
    shapes = [p.shape(t) for t in sampler.times[:-1]]
    count = 1 + sum(map(math.prod, shapes))
    used, history, x = 1, sampler.history(), None
    for t, s in itertools.pairwise(sampler.times):
        if x is None:
            x = torch.zeros(count, *p.shape(t), dtype=torch.float64)
            x[1 : 1 + x[0].numel()] = p.sigma(t) * torch.eye(x[0].numel()).double().reshape(-1, *p.shape(t))
            used += x[0].numel()
        noise = torch.zeros(count, *p.shape(s), dtype=torch.float64)
        if s > 0:
            size = noise[0].numel()
            noise[used : used + size] = torch.eye(size, dtype=torch.float64).reshape(-1, *p.shape(s))
            used += size
        x = sampler.step(x, t, s, noise=noise, history=history)
    rows = x.flatten(1)
    roots = rows[1:] - rows[0]
    return rows[0], roots.T @ roots


def small_process(name):
    shape, schedule = (1, 8), ld.schedules.linear(40, 1e-3, 0.35)
    return {
        "DDPM": lambda: ld.DDPM(shape, 40, schedule),
        "blurring": lambda: ld.BlurringDiffusion(shape, 40, blur_sigma_max=2.0, min_scale=0.05),
        "scale space": lambda: ld.ScaleSpaceDiffusion(shape, 3, 40, schedule, ld.equal_levels()),
    }[name]()


@pytest.mark.parametrize("name", ["DDPM", "blurring", "scale space"])
def test_samples_have_the_exact_distribution(name, make):
    p = small_process(name)
    network = GaussianNetwork(p, *gaussian_data(8))
    sampler = make(ld.Denoiser(network, p), 12)
    count = 10_000
    generator = torch.Generator().manual_seed(1)
    samples = sampler(count, generator=generator, progress=False).double().flatten(1)
    mean, covariance = distribution_of_steps(sampler)
    # Standard errors of a mean and of a covariance of Gaussian samples; five of them, over 44 numbers, are exceeded by
    # a right sampler once in 40 000 seeds.
    variance = covariance.diagonal()
    assert ((samples.mean(0) - mean).abs() <= 5 * (variance / count).sqrt()).all()
    error = ((variance[:, None] * variance + covariance.square()) / count).sqrt()
    assert ((samples.T.cov() - covariance).abs() <= 5 * error).all()
    if getattr(sampler, "order", None) == 1 and hasattr(sampler, "residual"):
        for own, expected in zip((mean, covariance), sampled_distribution(network, sampler), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["DDPM", "scale space"])
@pytest.mark.parametrize("sampler", [ld.AncestralSampler, ld.DDIMSampler])
def test_many_steps_converge_to_the_data(name, sampler):
    """What separates the sampler from the data is the discretisation: it shrinks with the number of steps."""
    shape, distances = (1, 8), []
    mean, covariance = gaussian_data(8)
    for steps in (50, 400):
        schedule = ld.schedules.linear(steps, 0.1 / steps, 20 / steps)  # β·T fixed: the same process, finer
        levels = 2 if name == "scale space" else 1
        p = ld.ScaleSpaceDiffusion(shape, levels, steps, schedule)
        network = GaussianNetwork(p, mean, covariance)
        m, c = sampled_distribution(network, sampler(ld.Denoiser(network, p)))
        distances.append(float((c - covariance).norm() / covariance.norm() + (m - mean).norm() / mean.norm()))
    assert distances[1] < 0.5 * distances[0]
    assert distances[1] < 0.05


# ------------------------------------------------------------------------------------------------- against diffusers


@pytest.mark.parametrize("case", SPECIAL_CASES.values(), ids=SPECIAL_CASES)
@pytest.mark.parametrize("prediction", ["clean", "noise", "velocity"])
def test_ancestral_steps_of_every_special_case_equal_those_of_diffusers(case, prediction):
    diffusers = pytest.importorskip("diffusers")
    kind = {"clean": "sample", "noise": "epsilon", "velocity": "v_prediction"}[prediction]
    reference = diffusers.DDPMScheduler(
        1000, beta_schedule="linear", clip_sample=True, prediction_type=kind, variance_type="fixed_small"
    )
    p, x_t = case, draw((3, 8, 8), 2).float()
    output = 0.7 * draw((3, 8, 8), 2, seed=1).float()
    sampler = ld.AncestralSampler(ld.Denoiser(lambda x, t_index: output, p, prediction), clip=(-1, 1))
    for t in (1000, 700, 2, 1):
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t))
        expected = reference.step(output, t - 1, x_t, generator=torch.Generator().manual_seed(t)).prev_sample
        # diffusers computes 1 − ᾱ in float32: an error of 6e-8/(1 − ᾱ_t), 1e-3 at t = 1, of which σ and x̂_0 feel half.
        torch.testing.assert_close(sampler.step(x_t, t, t - 1, noise=noise), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", SPECIAL_CASES.values(), ids=SPECIAL_CASES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_steps_of_every_special_case_equal_those_of_diffusers(case, eta):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDIMScheduler(
        1000, beta_schedule="linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    reference.set_timesteps(50)
    p, x_t = case, draw((3, 8, 8), 2).float()
    output = draw((3, 8, 8), 2, seed=1).float()
    sampler = ld.DDIMSampler(ld.Denoiser(lambda x, t_index: output, p, "noise"), ld.grids.trailing(50), eta=eta)
    assert [t - 1 for t in sampler.times[:-1]] == reference.timesteps.tolist()
    for t, s in ((1000, 980), (500, 480), (40, 20)):
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t))
        expected = reference.step(output, t - 1, x_t, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(sampler.step(x_t, t, s, noise=noise), expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_clipping_derives_the_noise_again(eta):
    """As diffusers do with use_clipped_model_output=True, and not as they do without."""
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDIMScheduler(1000, beta_schedule="linear", clip_sample=True, timestep_spacing="trailing")
    reference.set_timesteps(50)
    p = ld.DDPM((3, 8, 8))
    x_t, output = draw((3, 8, 8), 2).float(), 0.3 * draw((3, 8, 8), 2, seed=1).float()
    sampler = ld.DDIMSampler(ld.Denoiser(lambda x, t_index: output, p, "noise"), eta=eta, clip=(-1, 1))
    for t, s in ((1000, 980), (500, 480), (40, 20)):
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t))
        options = {"eta": eta, "variance_noise": noise}
        again, kept = (
            reference.step(output, t - 1, x_t, use_clipped_model_output=clipped, **options).prev_sample
            for clipped in (True, False)
        )
        own = sampler.step(x_t, t, s, noise=noise)
        torch.testing.assert_close(own, again, rtol=1e-3, atol=2e-4)
        assert (own - kept).abs().max() > 0.02


# -------------------------------------------------------------------------------------------- steps and trajectories


def shrinking(process):
    def network(x, t_index, size=None):
        size = x.shape[2:] if size is None else size
        return 0.5 * torch.nn.functional.interpolate(x, tuple(size))

    return ld.Denoiser(network, process)


@pytest.mark.parametrize("name", FAMILIES)
def test_calls_are_those_that_are_made(name):
    """By every sampler, and by Heun's method where it takes a step twice."""
    d, made = shrinking(FAMILIES[name]), []
    estimate = d.estimate
    d.estimate = lambda x, t, **conditioning: (made.append(t), estimate(x, t, **conditioning))[1]
    for make in (ld.AncestralSampler, ld.HeunSampler):
        made.clear()
        sampler = make(d, 8)
        sampler(1, seeds=[0], progress=False)
        assert made == [u for t, s in itertools.pairwise(sampler.times) for u in sampler.calls(t, s)]


def test_ddim_with_eta_one_is_ancestral():
    d = shrinking(FAMILIES["scale space"])
    for options in ({}, {"order": 2, "corrector": True}):
        ancestral = ld.AncestralSampler(d, 20, **options)(3, seeds=[1, 2, 3], progress=False)
        assert torch.equal(ld.DDIMSampler(d, 20, eta=1.0, **options)(3, seeds=[1, 2, 3], progress=False), ancestral)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_shared_noise_is_ddim_where_that_draws_nothing(eta):
    """At η = 0 the two kernels are one wherever the shape stays; at others they differ."""
    d = ld.Denoiser(lambda x, t_index: 0.5 * x, FAMILIES["blurring"], "data")
    shared, markov = (make(d, 15, eta=eta, order=2) for make in (ld.SharedNoiseSampler, ld.DDIMSampler))
    own, other = (sampler(2, seeds=[0, 1], progress=False) for sampler in (shared, markov))
    assert torch.allclose(own, other, rtol=1e-4, atol=1e-5) == (eta == 0)


def test_shared_noise_needs_no_transition():
    """Noise that falls slower than the image gets sharp: no Gaussian leads from x_s to x_t."""
    schedule = ld.schedules.table([1.0] * 6, [0.0, 0.3, 0.28, 0.26, 0.24, 0.22])
    path = ld.paths.heat((1, 8), blur_sigma=2.0, floor=0.0)
    p = ld.LinearDiffusion(path, schedule, coupling="shared")
    x0, eta = draw((1, 8), 2), 0.6
    sampler = ld.SharedNoiseSampler(ld.Denoiser(lambda x, t_index: x0.to(x), p, "data"), eta=eta)
    x_t, noise = draw((1, 8), 2, seed=1), draw((1, 8), 2, seed=2)
    own = sampler.step(x_t, 4, 2, noise=noise)
    sigma_t, sigma_s = p.sigma(4), p.sigma(2)
    gamma = math.sqrt(1 - eta**2) * sigma_s / sigma_t
    expected = p.clean(x0, 2) + gamma * (x_t - p.clean(x0, 4)) + math.sqrt(sigma_s**2 - gamma**2 * sigma_t**2) * noise
    torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="σ_t² ≥ σ_s²"):
        ld.DDIMSampler(sampler.denoiser).step(x_t, 4, 2)
    # Without any noise: algorithms 2 and 1 of Cold Diffusion, whose last steps are as the others.
    cold = ld.LinearDiffusion(path, ld.schedules.table([1.0] * 6, [0.0] * 6), coupling="shared")
    d = ld.Denoiser(sampler.denoiser.network, cold, "data")
    for t, s in ((4, 2), (1, 0)):
        own = ld.SharedNoiseSampler(d, order=2).step(x_t, t, s)
        torch.testing.assert_close(own, x_t - cold.clean(x0, t) + cold.clean(x0, s), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ld.SharedNoiseSampler(d, eta=1.0).step(x_t, t, s), cold.clean(x0, s))


def test_directions_without_signal_keep_their_noise(make):
    """One that no state shows, and all of them where a flow starts: x_s has the noise of x_t, unless that is drawn."""
    basis = ld.bases.Cosine((1, 4))
    path = ld.paths.spectral(basis, lambda t: torch.tensor([1.0, math.exp(-t), math.exp(-t), float(t == 0)]))
    p = ld.LinearDiffusion(path, ld.schedules.flow())
    sampler = make(ld.Denoiser(lambda x, t: 0.5 * x, p, "data"), [1.0, 0.8, 0.6, 0.4, 0.2])
    states = list(sampler.trajectory(2, seeds=[0, 1], progress=False))
    for (t, x_t, clean), (s, x_s, _) in itertools.pairwise(states):
        assert x_s.isfinite().all()
        if getattr(sampler, "eta", 0.0) == 0 and s > 0:
            kept = basis.analyse(x_t)[..., 3:], t / s * basis.analyse(x_s)[..., 3:]
            if t == 1 and make is not ld.HeunSampler:  # whose x* is another
                kept = x_t, t / s * (x_s - p.signal_scale(s) * clean)
            torch.testing.assert_close(*kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_sample_depends_on_its_own_seed_alone(name, make):
    sampler = make(shrinking(FAMILIES[name]), 15)
    together = sampler(4, seeds=[5, 6, 7, 8], progress=False)
    assert torch.equal(sampler(4, seeds=[5, 6, 7, 8], progress=False), together)
    reordered = sampler(3, seeds=torch.tensor([8, 5, 11]), progress=False)
    torch.testing.assert_close(reordered[:2], together[[3, 0]])
    torch.testing.assert_close(sampler(1, seeds=[7], progress=False)[0], together[2])
    assert not torch.allclose(together[0], together[1])


def test_randomness_comes_from_the_generator_alone(make):
    sampler = make(shrinking(FAMILIES["scale space"]), 5)
    images = draw((2, 8, 6), 3).float()
    state = torch.random.get_rng_state()
    for prior in (None, images):
        draws = [sampler(2, generator=torch.Generator().manual_seed(3), prior=prior, progress=False) for _ in range(2)]
        assert torch.equal(*draws)
        sampler(2, seeds=[1, 2], prior=prior, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_trajectory(name, make):
    p = FAMILIES[name]
    sampler = make(shrinking(p), 7, clip=(-1, 1))
    states = list(sampler.trajectory(2, seeds=[0, 1], progress=False))
    assert [t for t, _, _ in states] == sampler.times
    for (t, x_t, clean), (s, _, _) in itertools.pairwise(states):
        assert x_t.shape == (2, *p.shape(t))
        assert clean.shape == (2, *p.shape(s))
        assert float(clean.abs().max()) <= 1
    t, x_0, clean = states[-1]
    assert t == 0
    assert torch.equal(x_0, clean)
    assert torch.equal(x_0, sampler(2, seeds=[0, 1], progress=False))


def test_steps_with_a_history_are_the_trajectory(make):
    sampler = make(shrinking(FAMILIES["scale space"]), 9)
    states = list(sampler.trajectory(2, generator=torch.Generator().manual_seed(0), progress=False))
    generator = torch.Generator().manual_seed(0)
    history, (_, x, _) = sampler.history(), states[0]
    torch.randn(x.shape, generator=generator)  # that of x_T
    for (t, _, _), (s, expected, _) in itertools.pairwise(states):
        x = sampler.step(x, t, s, generator=generator, history=history)
        assert torch.equal(x, expected)
    first = sampler.step(states[2][1], states[2][0], states[3][0], noise=torch.zeros_like(states[3][1]))
    plain = make.func if isinstance(make, partial) else make
    options = {k: v for k, v in getattr(make, "keywords", {}).items() if k == "eta"}
    alone = plain(sampler.denoiser, 9, **options)
    expected = alone.step(states[2][1], states[2][0], states[3][0], noise=torch.zeros_like(states[3][1]))
    assert torch.equal(first, expected)  # without one they are of first order
    with pytest.raises(ValueError, match="history: expected one of steps that lead to t = 20, got one to 0"):
        sampler.step(torch.zeros(2, *FAMILIES["scale space"].shape(20)), 20, 19, history=history)


def test_one_call_of_the_network_is_one_step(make):
    p, calls = FAMILIES["blurring"], []
    denoiser = ld.Denoiser(lambda x, t_index: calls.append(int(t_index[0]) + 1) or 0.5 * x, p)
    sampler = make(denoiser, ld.grids.trailing(6))
    sampler(1, seeds=[0], progress=False)
    assert sampler.times == [60, 50, 40, 30, 20, 10, 0]
    expected = sampler.times[:-1]
    if make is ld.HeunSampler:
        expected = [t for pair in itertools.pairwise(sampler.times) for t in pair if t]
    assert calls == expected


def test_times_between_steps_and_integers_in_every_guise():
    p, told = FAMILIES["DDPM"], []
    sampler = ld.DDIMSampler(ld.Denoiser(lambda x, t_index: told.append(t_index[0]) or 0.5 * x, p), 4)
    x = torch.zeros(1, *p.shape(0))
    for t, s in ((5, 3), (5.0, 3.0), (torch.tensor(5), 3), (5.5, 3)):
        sampler.step(x, t, s)
    assert [t.item() for t in told] == [4, 4, 4, 4.5]
    assert [t.dtype for t in told] == [torch.long] * 3 + [torch.float32]


def test_the_last_step_returns_the_estimate_itself(make):
    p = FAMILIES["DDPM"]
    x = 0.1 * draw(p.shape(1), 2)
    torch.testing.assert_close(make(shrinking(p), STEPS).step(x, 1, 0), 0.5 * x)


def test_steps_are_differentiable_and_trajectories_keep_no_graph(make):
    p = FAMILIES["scale space"]
    sampler = make(shrinking(p), 15)
    before, t, s = sampler.times[0], p.shape_changes()[-1], p.shape_changes()[-1] - 2
    x = draw(p.shape(before), 1).requires_grad_()
    noises = [draw(p.shape(u), 1, seed=u) for u in (t, s, s - 3)]

    def steps(v):
        history = sampler.history()
        for (u, w), noise in zip(((before, t), (t, s), (s, s - 3)), noises, strict=True):
            v = sampler.step(v, u, w, noise=noise, history=history)
        return v

    assert torch.autograd.gradcheck(steps, x)
    for _, state, _ in sampler.trajectory(1, seeds=[0], progress=False):
        assert not state.requires_grad
        assert torch.is_grad_enabled()


# ------------------------------------------------------------------------------------------------- where they start


def test_start_from_a_state(make):
    p = FAMILIES["scale space"]
    sampler = make(shrinking(p), 12)
    t = sampler.times[4]
    x_t = draw(p.shape(t), 2)
    states = list(sampler.trajectory(2, seeds=[0, 1], start=(t, x_t), progress=False))
    assert [u for u, _, _ in states] == sampler.times[4:]
    assert states[0][1] is x_t
    assert states[-1][1].dtype == torch.float64
    between = (sampler.times[4] + sampler.times[5]) / 2
    x = draw(p.shape(between), 2)
    times = [u for u, _, _ in sampler.trajectory(2, seeds=[0, 1], start=(between, x), progress=False)]
    assert times == [between, *sampler.times[5:]]
    assert torch.equal(sampler(2, seeds=[0, 1], start=(t, x_t), progress=False), states[-1][1])


def test_start_from_images(make):
    p = FAMILIES["scale space"]
    images = draw(p.shape(0), 3).float()
    sampler = make(shrinking(p), 12)

    def starts(n, prior, **options):
        return next(iter(sampler.trajectory(n, prior=prior, progress=False, **options)))[1]

    own = starts(3, images, seeds=[0, 1, 2])
    noise = torch.stack([torch.randn(own.shape[1:], generator=torch.Generator().manual_seed(i)) for i in range(3)])
    torch.testing.assert_close(own, p.diffuse(images, STEPS, noise=noise))
    some = starts(20, images, seeds=range(20))
    signal = some - starts(20, 0 * images, seeds=range(20))
    clean = p.diffuse(images, STEPS, noise=torch.zeros_like(own))
    chosen = [int((clean - row).flatten(1).norm(dim=1).argmin()) for row in signal]
    torch.testing.assert_close(signal, clean[chosen], rtol=1e-4, atol=1e-6)
    assert set(chosen) == {0, 1, 2}
    assert torch.equal(starts(1, images, seeds=[7])[0], some[7])  # by its own seed
    assert starts(5, images, generator=torch.Generator().manual_seed(0)).shape == (5, *p.shape(STEPS))


def test_a_grid_that_starts_below_the_end_starts_from_its_noise():
    p = ld.EDM((1, 4))
    t = p.schedule.time(-2 * math.log(40.0))  # σ = 40
    sampler = ld.DDIMSampler(ld.Denoiser(lambda x, t_index: x, p), [t, 0.1])
    (_, x, _) = next(iter(sampler.trajectory(1, seeds=[3], progress=False)))
    torch.testing.assert_close(x[0], 40 * torch.randn(1, 4, generator=torch.Generator().manual_seed(3)))
    late = ld.DDIMSampler(ld.Denoiser(lambda x, t_index: x, FAMILIES["DDPM"]), [20, 1])
    with pytest.warns(
        UserWarning, match=r"x_t at t = 20 is not noise: .* grid that starts later, or .*diffuse\(images, 20\)"
    ):
        late(1, seeds=[0], progress=False)


# ---------------------------------------------------------------------------------------------------------- inversion


@pytest.mark.parametrize(
    ("process", "steps"),
    [
        (ld.DDPM((1, 8)), ld.grids.uniform(40)),
        (ld.BlurringDiffusion((1, 8), blur_sigma_max=1.0, min_scale=0.1), ld.grids.uniform(40)),
        (ld.FlowMatching((1, 8)), ld.grids.uniform(20)),  # from a_T = 0
        (ld.EDM((1, 8)), ld.grids.karras(20)),
    ],
    ids=["DDPM", "blurring", "flow", "EDM"],
)
def test_inversion(process, steps):
    """The trajectory from the noise that was found leads back, with the optimal denoiser."""
    covariance = ld.lab.power_law((1, 8))
    sampler = ld.DDIMSampler(ld.lab.OptimalDenoiser(process, covariance, 0.2), steps)
    x_0 = 0.2 + 0.5 * draw((1, 8), 3)
    errors = []
    for iterations in (1, 6, 30):
        x_T = sampler.invert(x_0, iterations=iterations, progress=False)
        assert x_T.shape == (3, 1, 8)
        back = sampler(3, start=(sampler.times[0], x_T), progress=False)
        errors.append(float((back - x_0).norm() / x_0.norm()))
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 1e-6


def test_inversion_of_a_chain_and_what_cannot_be_inverted():
    blur = ld.Convolution(torch.tensor([0.0, 0.8, 0.2], dtype=torch.float64), (1, 8))  # turns phases too
    p = ld.LinearDiffusion([blur] * 8, [0.02 * 1.6**t if t else 0.0 for t in range(9)])
    sampler = ld.DDIMSampler(ld.lab.OptimalDenoiser(p, ld.lab.power_law((1, 8))))
    x_0 = 0.5 * draw((1, 8), 2)
    x_T = sampler.invert(x_0, iterations=60, progress=False)
    torch.testing.assert_close(sampler(2, start=(8, x_T), progress=False), x_0, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="invert: expected a process of one shape"):
        ld.DDIMSampler(shrinking(FAMILIES["scale space"])).invert(draw((2, 8, 6), 1))


# ------------------------------------------------------------------------------------------------ in the hands of users


def test_configurations(make):
    network = torch.nn.Identity()
    sampler = make(ld.Denoiser(network, ld.DDPM((1, 4))), ld.grids.trailing(5), clip=(-1, 1))
    again = ld.from_config(json.loads(json.dumps(sampler.to_config())), network=network)
    assert again == sampler
    assert pickle.loads(pickle.dumps(sampler)) == copy.deepcopy(sampler) == sampler
    assert again.times == sampler.times
    assert again != make(sampler.denoiser, 5)
    assert repr(sampler).startswith(f"{type(sampler).__name__}(")
    assert "steps=trailing(5)" in repr(sampler)


class Places(TorchDispatchMode):
    """Notes the devices of all results."""

    def __init__(self):
        super().__init__()
        self.devices = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.devices |= {x.device.type for x in tree_leaves(result) if isinstance(x, torch.Tensor)}
        return result


@pytest.mark.parametrize("name", ["DDPM", "blurring", "scale space"])
def test_steps_stay_on_the_device_and_wait_for_nothing(name, make):
    """Tensors without data cannot be waited for. From the second trajectory on nothing is made on the CPU."""
    p = FAMILIES[name]
    sampler = make(shrinking(p), 7)

    def run():
        history = sampler.history()
        x = torch.zeros(2, *p.shape(STEPS), device="meta")
        for t, s in itertools.pairwise(sampler.times):
            x = sampler.step(x, t, s, noise=torch.zeros(2, *p.shape(s), device="meta"), history=history)

    with torch.no_grad():
        run()
        with Places() as places:
            run()
    assert places.devices == {"meta"}


@pytest.mark.parametrize("name", ["blurring", "scale space"])
def test_a_step_that_was_taken_once_compiles(name):
    """Of second order, and over a change of shape where there is one."""
    p = FAMILIES[name]
    sampler = ld.DDIMSampler(shrinking(p), 7, eta=0.5, order=2)
    second = sampler.times.index(p.shape_changes()[-1]) if p.shape_changes() else 2
    t, s, u = sampler.times[second - 1 : second + 2]
    x, noise, history = draw(p.shape(t), 2).float(), draw(p.shape(u), 2, seed=1).float(), sampler.history()
    with torch.no_grad():
        x = sampler.step(x, t, s, history=history)
        estimates = history.estimates

        def step(x):
            return sampler.step(x, s, u, noise=noise, history=ld.samplers.History(list(estimates), s))

        expected = step(x)
        torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="eager")(x), expected)


def test_class_conditional_sampling_on_another_dtype():
    p = ld.DDPM((1, 4), STEPS)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(3, 4).double()

        def forward(self, x, t_index, y):
            return 0 * x + self.embedding(y)[:, None]

    network = Network()
    y = torch.tensor([0, 2])
    x = ld.DDIMSampler(ld.Denoiser(network, p), steps=4)(2, y=y, progress=False)
    assert x.dtype == torch.float64
    torch.testing.assert_close(x[:, 0], network.embedding(y).detach())


def test_progress_bar_and_its_absence(capsys, monkeypatch, recwarn):
    sampler = ld.AncestralSampler(shrinking(FAMILIES["DDPM"]), steps=3)
    sampler(1)
    assert "sampling: 100%" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    recwarn.clear()
    sampler(1)
    assert not recwarn
    assert not capsys.readouterr().err


@pytest.mark.parametrize("steps", [torch.tensor([40, 20, 3]), torch.tensor([40.0, 20, 3]).numpy(), (40, 20, 3, 0)])
def test_times_in_tensors_and_arrays(steps):
    assert ld.DDIMSampler(shrinking(FAMILIES["DDPM"]), steps).times == [40, 20, 3, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda d: ld.DDIMSampler(d.network),
            "denoiser: expected an ld.Denoiser, got function: make one .*ld.Denoiser",
        ),
        (lambda d: ld.AncestralSampler(d)(3, seeds=[1, 2]), "seeds: expected one for each of 3 samples, got 2"),
        (lambda d: ld.AncestralSampler(d).trajectory(3, seeds=[1, 2]), "seeds: expected one for each of 3"),
        (lambda d: ld.AncestralSampler(d)(3, seeds=0), r"seeds: expected a sequence, .* such as range\(3\), got 0"),
        (lambda d: ld.AncestralSampler(d)(1, seeds=[1.5]), "seeds: expected an int, got 1.5"),
        (lambda d: ld.AncestralSampler(d)(1, seeds=[1], generator=torch.Generator()), "at most one of them"),
        (lambda d: ld.AncestralSampler(d)(0), "n: expected"),
        (lambda d: ld.AncestralSampler(d, steps=0), "steps: expected"),
        (lambda d: ld.AncestralSampler(d, steps=STEPS + 1), "steps: expected"),
        (lambda d: ld.AncestralSampler(d, steps=[0, 5]), "steps: expected"),
        (lambda d: ld.AncestralSampler(d, steps=[5, 7]), "steps: expected strictly descending"),
        (lambda d: ld.AncestralSampler(d, clip=(1.0, -1.0)), r"clip: expected \(low, high\)"),
        (lambda d: ld.AncestralSampler(d, clip=1.0), r"clip: expected \(low, high\) .* got 1.0"),
        (lambda d: ld.DDIMSampler(d, clip=(-1.0, math.nan)), r"clip: expected \(low, high\)"),
        (lambda d: ld.DDIMSampler(d, clip=(-1.0, 0.0, 1.0)), r"clip: expected \(low, high\)"),
        (lambda d: ld.DDIMSampler(d, clip=True), r"clip: expected \(low, high\)"),
        (lambda d: ld.DDIMSampler(d, eta=-0.1), "eta: expected"),
        (lambda d: ld.SharedNoiseSampler(d, eta=1.1), "eta: expected"),
        (lambda d: ld.DDIMSampler(d, order=4), "order: expected 1 ≤ order ≤ 3, got 4"),
        (lambda d: ld.DDIMSampler(d, rule="heun"), "rule: expected one of 'moment', 'midpoint', got 'heun'"),
        (lambda d: ld.DDIMSampler(d)(1, start=torch.zeros(1)), r"start: expected \(t, x_t\), got a tensor"),
        (
            lambda d: ld.DDIMSampler(d)(2, start=(5, torch.zeros(1, 2, 8, 6))),
            r"start: expected states of shape \(2, 2,",
        ),
        (lambda d: ld.DDIMSampler(d)(1, start=(0, torch.zeros(1, 2, 8, 6))), "start: expected 0 < start"),
        (lambda d: ld.DDIMSampler(d)(1, prior=torch.zeros(2, 8, 6)), "prior: expected a batch of shape"),
        (
            lambda d: ld.DDIMSampler(d)(1, prior=torch.zeros(1, 2, 8, 6), start=(5, torch.zeros(1, 2, 8, 6))),
            "start, prior: expected at most one",
        ),
        (lambda d: ld.DDIMSampler(d).invert(torch.zeros(1, 8, 6)), "x_0: expected shape"),
        (lambda d: ld.DDIMSampler(d).invert(torch.zeros(1, 2, 8, 6), iterations=0), "iterations: expected"),
        (lambda d: ld.DDIMSampler(d).step(torch.zeros(2, 2, 8, 6), 3, 5), "s: expected s < t = 3"),
        (lambda d: ld.DDIMSampler(d).step(torch.zeros(2, 2, 8, 5), 5, 3), "x_t: expected shape"),
        (lambda d: ld.DDIMSampler(d).step(torch.zeros(2, 2, 8, 6), 5, 3, noise=torch.zeros(1), eta=0), "eta"),
        (lambda d: ld.AncestralSampler(d).step(torch.zeros(2, 2, 8, 6), 5, 3, noise=torch.zeros(1)), "noise: expected"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(shrinking(FAMILIES["DDPM"]))


def test_steps_over_a_change_of_shape_start_there():
    p = FAMILIES["scale space"]
    x = torch.zeros(1, *p.shape(STEPS))
    first, last = p.shape_changes()[0], p.shape_changes()[-1]
    with pytest.raises(ValueError, match=rf"s: expected a time of shape .* must start at one of \[.*{last}\]"):
        ld.DDIMSampler(shrinking(p)).step(x, STEPS, first)
    with pytest.raises(ValueError, match=f"steps: .*which jumps over {first}, {last}"):
        ld.DDIMSampler(shrinking(p), [STEPS, 1])
