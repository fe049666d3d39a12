"""Samplers: against diffusers step by step, and in distribution against exact affine algebra for Gaussian data.

For data N(m, C) the optimal denoiser is affine, so every step of a sampler is x_s = A x_t + b + noise of covariance Q
and the distribution it ends in is known exactly. Samples are compared with that, not with the data: the difference
between the two is the discretisation error, which is tested by itself.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from safetensors.torch import load_file

import lineardiffusion as ld
from lineardiffusion.sampling import kept_times
from test_operators import draw
from test_processes import SCHEDULE, SPECIAL_CASES, STEPS, families

FAMILIES = families()


class GaussianNetwork:
    """The optimal denoiser of N(mean, covariance) data: E[c_{t−1} | x_t], exactly affine in x_t."""

    def __init__(self, process, mean, covariance):
        self.process, self.mean, self.covariance = process, mean, covariance

    def affine(self, t):
        """E[x_0 | x_t] = G (x_t − M m) + m, as (G, M)."""
        m = self.process.chain.cumulative(t).to_dense()
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
    """Exact mean and covariance of what the sampler returns."""
    p = network.process
    n = math.prod(p.shape(p.num_steps))
    mean = torch.zeros(n, dtype=torch.float64)
    covariance = p.sigma(p.num_steps) ** 2 * torch.eye(n, dtype=torch.float64)
    for t, s in zip(sampler.times, sampler.times[1:], strict=False):
        gain, m_t = network.affine(t)
        # x_s = μ_s + K (x_t − M μ_s) with μ_s = a_s c_s, and c_s carried from
        # c_{t−1} = M_{1:t−1} (m + G (x_t − M_{1:t} m)) / a_{t−1}
        units = torch.eye(math.prod(p.shape(s)), dtype=torch.float64).reshape(-1, *p.shape(s))
        carried = p.signal_scale(s) / p.signal_scale(t - 1) * sampler.denoiser._carry(units, t - 1, s).flatten(1).T
        to_mean = carried @ p.chain.cumulative(t - 1).to_dense()
        slope, offset = to_mean @ gain, to_mean @ (network.mean - gain @ m_t @ network.mean)
        if s == 0:
            step, shift, noise = slope, offset, 0
        else:
            between = p.chain.between(s, t).to_dense()
            units = torch.eye(len(m_t), dtype=torch.float64).reshape(-1, *p.shape(t))
            kernel = sampler._kernel(units, units.new_zeros(len(units), *p.shape(s)), t, s)
            k = kernel.mean.flatten(1).T
            step, shift = slope + k - k @ between @ slope, offset - k @ between @ offset
            noise = kernel.covariance.to_dense()
        mean, covariance = step @ mean + shift, step @ covariance @ step.T + noise
    return mean, covariance


def small_process(name):
    shape, steps = (1, 8), 40
    alpha_bar = ld.linear_schedule(steps, 1e-3, 0.35)
    return {
        "DDPM": lambda: ld.DDPM(shape, steps, alpha_bar),
        "blurring": lambda: ld.BlurringDiffusion(shape, steps, blur_sigma_max=2.0, min_scale=0.05),
        "scale space": lambda: ld.ScaleSpaceDiffusion(shape, 3, steps, alpha_bar, ld.equal_levels()),
    }[name]()


@pytest.mark.parametrize(
    "make",
    [ld.AncestralSampler, ld.DDIMSampler, lambda d, **options: ld.DDIMSampler(d, eta=0.5, **options)],
    ids=["ancestral", "DDIM", "DDIM η = 0.5"],
)
@pytest.mark.parametrize("name", ["DDPM", "blurring", "scale space"])
@pytest.mark.parametrize("steps", [None, 12])
def test_samples_have_the_exact_distribution(name, make, steps):
    p = small_process(name)
    network = GaussianNetwork(p, *gaussian_data(8))
    sampler = make(ld.Denoiser(network, p), steps=steps, clip=None)
    count = 20_000
    generator = torch.Generator().manual_seed(1)
    samples = sampler(count, generator=generator, progress=False).double().flatten(1)
    mean, covariance = sampled_distribution(network, sampler)
    # Standard errors of a mean and of a covariance of Gaussian samples; five of them, over 44 numbers, are exceeded by
    # a right sampler once in 40 000 seeds.
    variance = covariance.diagonal()
    assert ((samples.mean(0) - mean).abs() <= 5 * (variance / count).sqrt()).all()
    error = ((variance[:, None] * variance + covariance.square()) / count).sqrt()
    assert ((samples.T.cov() - covariance).abs() <= 5 * error).all()


@pytest.mark.parametrize("name", ["DDPM", "scale space"])
@pytest.mark.parametrize("sampler", [ld.AncestralSampler, ld.DDIMSampler])
def test_many_steps_converge_to_the_data(name, sampler):
    """What separates the sampler from the data is the discretisation: it shrinks with the number of steps."""
    shape, distances = (1, 8), []
    mean, covariance = gaussian_data(8)
    for steps in (50, 400):
        alpha_bar = ld.linear_schedule(steps, 0.1 / steps, 20 / steps)  # β·T fixed: the same process, finer
        levels = 2 if name == "scale space" else 1
        p = ld.ScaleSpaceDiffusion(shape, levels, steps, alpha_bar)
        network = GaussianNetwork(p, mean, covariance)
        m, c = sampled_distribution(network, sampler(ld.Denoiser(network, p), clip=None))
        distances.append(float((c - covariance).norm() / covariance.norm() + (m - mean).norm() / mean.norm()))
    assert distances[1] < 0.5 * distances[0]
    assert distances[1] < 0.05


@pytest.mark.parametrize("make", SPECIAL_CASES.values(), ids=SPECIAL_CASES)
@pytest.mark.parametrize("prediction", ["clean", "noise", "velocity"])
def test_ancestral_steps_of_every_special_case_equal_those_of_diffusers(make, prediction):
    diffusers = pytest.importorskip("diffusers")
    kind = {"clean": "sample", "noise": "epsilon", "velocity": "v_prediction"}[prediction]
    reference = diffusers.DDPMScheduler(
        1000, beta_schedule="linear", clip_sample=True, prediction_type=kind, variance_type="fixed_small"
    )
    p = make((3, 8, 8), ld.linear_schedule(1000))
    x_t = draw((3, 8, 8), 2).float()
    output = 0.7 * draw((3, 8, 8), 2, seed=1).float()
    sampler = ld.AncestralSampler(ld.Denoiser(lambda x, t_index: output, p, prediction), clip=(-1, 1))
    for t in (1000, 700, 2, 1):
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t))
        expected = reference.step(output, t - 1, x_t, generator=torch.Generator().manual_seed(t)).prev_sample
        # diffusers computes 1 − ᾱ in float32: an error of 6e-8/(1 − ᾱ_t), 1e-3 at t = 1, of which σ and x̂_0 feel half.
        torch.testing.assert_close(sampler.step(x_t, t, t - 1, noise=noise), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", SPECIAL_CASES.values(), ids=SPECIAL_CASES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_steps_of_every_special_case_equal_those_of_diffusers(make, eta):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDIMScheduler(
        1000, beta_schedule="linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    reference.set_timesteps(50)
    p = make((3, 8, 8), ld.linear_schedule(1000))
    x_t = draw((3, 8, 8), 2).float()
    output = draw((3, 8, 8), 2, seed=1).float()
    denoiser = ld.Denoiser(lambda x, t_index: output, p, "noise")
    sampler = ld.DDIMSampler(denoiser, steps=range(20, 1001, 20), eta=eta, clip=None)
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


@pytest.mark.parametrize(("name", "eta"), [("ddim0", 0.0), ("ddim05", 0.5**0.5), ("ddpm", 1.0)])
def test_ddim_equals_azula_whose_eta_is_the_square_of_ours(shared, name, eta):
    """A flow, α = 1 − t and σ = t, in ten steps; state 1 is its end, where σ = 0.001."""
    path = shared / "vectors" / "solvers" / "azula_samplers.safetensors"
    if not path.exists():
        pytest.skip(f"no vectors of azula: {path}")
    theirs = load_file(path)
    alpha, sigma = (theirs[f"rectified.{which}"].flip(0) for which in ("alpha", "sigma"))
    scales = torch.cat([torch.ones(1, dtype=torch.float64), alpha])
    steps = [float(b / a) * ld.Identity((1, 8, 8)) for a, b in itertools.pairwise(scales)]
    p = ld.LinearDiffusion(steps, torch.cat([torch.zeros(1, dtype=torch.float64), sigma]), scales)
    data = ld.SpectralFilter((1, 8, 8), theirs["toy.spectrum"])
    sampler = ld.DDIMSampler(ld.lab.OptimalDenoiser(p, data, theirs["toy.mean"]), eta=eta)
    states = theirs[f"rectified.{name}.x"]
    for i, t in enumerate(range(11, 1, -1)):
        own = sampler.step(states[i], t, t - 1, noise=theirs["noise"][i].double())
        torch.testing.assert_close(own, states[i + 1], rtol=1e-9, atol=1e-11)


def test_ddim_with_eta_one_is_ancestral(generator):
    p = FAMILIES["scale space"]
    d = ld.Denoiser(lambda x, t_index, size: x.new_ones(len(x), 2, *size), p)
    ancestral = ld.AncestralSampler(d)(3, seeds=[1, 2, 3], progress=False)
    assert torch.equal(ld.DDIMSampler(d, eta=1.0)(3, seeds=[1, 2, 3], progress=False), ancestral)


def shrinking(process):
    def network(x, t_index, size=None):
        size = x.shape[2:] if size is None else size
        return 0.5 * torch.nn.functional.interpolate(x, tuple(size))

    return ld.Denoiser(network, process)


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("make", [ld.AncestralSampler, ld.DDIMSampler])
def test_a_sample_depends_on_its_own_seed_alone(name, make):
    sampler = make(shrinking(FAMILIES[name]), steps=15)
    together = sampler(4, seeds=[5, 6, 7, 8], progress=False)
    assert torch.equal(sampler(4, seeds=[5, 6, 7, 8], progress=False), together)
    reordered = sampler(3, seeds=[8, 5, 11], progress=False)
    torch.testing.assert_close(reordered[:2], together[[3, 0]])
    torch.testing.assert_close(sampler(1, seeds=[7], progress=False)[0], together[2])
    assert not torch.allclose(together[0], together[1])


def test_randomness_comes_from_the_generator_alone():
    sampler = ld.AncestralSampler(shrinking(FAMILIES["scale space"]), steps=5)
    state = torch.random.get_rng_state()
    draws = [sampler(2, generator=torch.Generator().manual_seed(3), progress=False) for _ in range(2)]
    sampler(2, seeds=[1, 2], progress=False)
    assert torch.equal(*draws)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_trajectory(name):
    p = FAMILIES[name]
    sampler = ld.AncestralSampler(shrinking(p), steps=7, clip=(-1, 1))
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


def test_the_last_step_returns_the_estimate_itself():
    p = FAMILIES["DDPM"]
    sampler = ld.AncestralSampler(shrinking(p))
    x = 0.1 * draw(p.shape(1), 2)
    torch.testing.assert_close(sampler.step(x, 1, 0), 0.5 * x)


def test_steps_are_differentiable_and_trajectories_keep_no_graph():
    p = FAMILIES["scale space"]
    sampler = ld.DDIMSampler(shrinking(p), eta=0.5, clip=None)
    t = p.shape_changes()[0]
    x = draw(p.shape(t), 1).requires_grad_()
    noise = draw(p.shape(t - 1), 1)
    assert torch.autograd.gradcheck(lambda v: sampler.step(v, t, t - 1, noise=noise), x)
    for _, state, _ in sampler.trajectory(1, seeds=[0], progress=False):
        assert not state.requires_grad
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("steps", [None, 1, 5, STEPS, [7, 30], list(range(1, STEPS + 1))])
def test_kept_times(steps):
    p = FAMILIES["scale space"]
    times = kept_times(p, steps)
    assert times == sorted(set(times), reverse=True)
    assert times[0] == STEPS
    assert times[-1] == 0
    for t in p.shape_changes():
        assert {t, t - 1} <= set(times)
    if steps is None:
        assert len(times) == STEPS + 1
    elif steps == 1:
        assert times[0] == STEPS
    elif isinstance(steps, int):
        assert len(times) <= steps + 1 + 2 * len(p.shape_changes())
        uniform = kept_times(FAMILIES["DDPM"], steps)
        assert len(uniform) == steps + 1
        assert uniform[-2:] == [1, 0]
        assert max(a - b for a, b in itertools.pairwise(uniform[:-1])) <= (STEPS - 1) / (steps - 1) + 1
    else:
        assert set(steps) <= set(times)


def test_class_conditional_sampling_on_another_dtype():
    p = ld.DDPM((1, 4), STEPS, SCHEDULE)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(3, 4).double()

        def forward(self, x, t_index, y):
            return 0 * x + self.embedding(y)[:, None]

    network = Network()
    y = torch.tensor([0, 2])
    x = ld.DDIMSampler(ld.Denoiser(network, p), steps=4, clip=None)(2, y=y, progress=False)
    assert x.dtype == torch.float64
    torch.testing.assert_close(x[:, 0], network.embedding(y).detach())


def test_progress_bar_and_its_absence(capsys, monkeypatch):
    sampler = ld.AncestralSampler(shrinking(FAMILIES["DDPM"]), steps=3)
    sampler(1)
    assert "sampling: 100%" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.warns(UserWarning, match="where tqdm is installed"):
        sampler(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: ld.AncestralSampler(d)(3, seeds=[1, 2]), "seeds: expected one for each of 3 samples, got 2"),
        (lambda d: ld.AncestralSampler(d).trajectory(3, seeds=[1, 2]), "seeds: expected one for each of 3"),
        (lambda d: ld.AncestralSampler(d)(1, seeds=[1], generator=torch.Generator()), "at most one of them"),
        (lambda d: ld.AncestralSampler(d)(0), "num_samples: expected"),
        (lambda d: ld.AncestralSampler(d, steps=0), "steps: expected"),
        (lambda d: ld.AncestralSampler(d, steps=STEPS + 1), "steps: expected"),
        (lambda d: ld.AncestralSampler(d, steps=[0, 5]), "steps: expected"),
        (lambda d: ld.AncestralSampler(d, clip=(1.0, -1.0)), r"clip: expected \(low, high\)"),
        (lambda d: ld.AncestralSampler(d, clip=1.0), r"clip: expected \(low, high\) .* got 1.0"),
        (lambda d: ld.DDIMSampler(d, clip=(-1.0, math.nan)), r"clip: expected \(low, high\)"),
        (lambda d: ld.DDIMSampler(d, clip=(-1.0, 0.0, 1.0)), r"clip: expected \(low, high\)"),
        (lambda d: ld.DDIMSampler(d, clip=True), r"clip: expected \(low, high\)"),
        (lambda d: ld.calibrate(d, torch.zeros(2, 2, 8, 6), clip=1.0), r"clip: expected \(low, high\)"),
        (lambda d: ld.DDIMSampler(d, eta=-0.1), "eta: expected"),
        (lambda d: ld.DDIMSampler(d).step(torch.zeros(2, 2, 8, 6), 3, 5), "s: expected s < t = 3"),
        (lambda d: ld.DDIMSampler(d).step(torch.zeros(2, 2, 8, 5), 5, 3), "x_t: expected shape"),
        (lambda d: ld.DDIMSampler(d).step(torch.zeros(2, 2, 8, 6), 5, 3, noise=torch.zeros(1)), "noise: expected"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(shrinking(FAMILIES["DDPM"]))
