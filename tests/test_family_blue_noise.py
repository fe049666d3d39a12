"""Blue noise for diffusion models: its own numbers, whose code is in float32, and dense algebra."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import BlueNoise, TwoPartSampler
from vectors import load, relative_error

SINGLE = 1e-6
SHAPE = (3, 2, 64)


@pytest.fixture(scope="module")
def numbers(shared):
    return load(shared / "vectors" / "families" / "blue_noise.safetensors")[1]


def test_schedule(numbers):
    """α, and γ for three τ: that of 1000 is a difference of nearly equal numbers in their float32, good to 1e-4."""
    t = numbers["t"].double() / 1000
    assert relative_error(t.float(), numbers["alpha"]) <= SINGLE
    for tau, name, tolerance in ((0.2, "sigmoid02", SINGLE), (1000.0, "sigmoid1000", 1e-4), (1e5, "linear", 1e-5)):
        gamma = BlueNoise((1, 2), tau).mixing.gamma(t)
        assert relative_error(gamma, numbers[f"gamma_{name}"].double()) <= tolerance


def test_states(numbers):
    """Noise and states; blue noise is that at γ = 0."""
    p = BlueNoise(SHAPE, root=numbers["L"])
    x0, white = numbers["x0"], numbers["white"]
    assert relative_error(p.mixing.mixed(1.0, 0.0)(white), numbers["blue"]) <= SINGLE
    for step in numbers["t"].tolist():
        t = step / 1000
        noise = p.add_noise(torch.zeros_like(x0), t, white) / t
        assert relative_error(noise, numbers[f"{step}.noise"]) <= SINGLE
        assert relative_error(p.diffuse(x0, t, noise=white), numbers[f"{step}.x_t"]) <= SINGLE


def test_sampler(numbers):
    """Four steps with a toy network, state by state, from the first to the result."""
    p = BlueNoise(SHAPE, root=numbers["L"])
    outputs = [numbers[f"sampler.{k}.net"] for k in (4, 3, 2, 1)]
    expected = [numbers[f"sampler.{k}.x"] for k in (4, 3, 2, 1)] + [numbers["sampler.result"]]
    gammas = p.mixing.gamma(torch.linspace(0, 1, 5, dtype=torch.float64))
    assert relative_error(gammas, numbers["sampler.gammas"].double()) <= SINGLE
    answers = iter(outputs)
    sampler = p.sampler(p.denoiser(lambda x, time: next(answers)), 4)
    for (_, x, _), theirs in zip(
        sampler.trajectory(2, start=(1.0, expected[0]), progress=False), expected, strict=True
    ):
        assert relative_error(x, theirs) <= SINGLE


def test_their_step_is_the_move_between_marginals():
    """With the truth in both parts, in steps of 1/T, and with the kernel of η = 0, whose roots these are."""
    p = BlueNoise((2, 4, 6))
    x0, z = torch.randn(2, 3, 2, 4, 6, dtype=torch.float64)
    t, s = 0.4, 0.399
    noise = (p.diffuse(x0, t, noise=z) - (1 - t) * x0) / t
    parts = torch.cat([x0 - noise, s * p.mixing.mixed(1.0, -1.0)(z)], 1)
    x_s = TwoPartSampler(p.denoiser(lambda x, time: parts), [t, s]).step(p.diffuse(x0, t, noise=z), t, s)
    torch.testing.assert_close(x_s, p.diffuse(x0, s, noise=z))
    ddim = p.kernel(p.diffuse(x0, t, noise=z), (1 - s) * x0, t, s, 0.0).mean
    torch.testing.assert_close(ddim, p.diffuse(x0, s, noise=z))


@pytest.mark.parametrize("of", ["default", "matrix"])
def test_marginal_and_posterior_against_dense_algebra(of):
    root = None
    if of == "matrix":
        root = torch.linalg.cholesky(torch.eye(8) - 0.1 + 0.05 * torch.diag(torch.ones(8)))
    p, (s, t) = BlueNoise((2, 8), root=root), (0.4, 0.6)
    blue = p.mixing.mixed(1.0, 0.0).to_dense()
    gamma = {u: float(p.mixing.gamma(torch.tensor(u).double())) for u in (s, t)}
    roots = {u: u * ((1 - gamma[u]) * blue + gamma[u] * torch.eye(16)) for u in (s, t)}
    sigma = {u: r @ r.T for u, r in roots.items()}
    torch.testing.assert_close(p.noise_covariance(t).to_dense(), sigma[t])
    assert p.sigma(t) == pytest.approx(float(sigma[t].trace() / 16) ** 0.5)
    a = (1 - t) / (1 - s)
    gain = a * sigma[s] @ torch.linalg.inv(sigma[t])
    x_t, mean = torch.randn(2, 3, 2, 8, dtype=torch.float64)
    q = p.posterior(x_t, mean, t, s)
    torch.testing.assert_close(q.mean.flatten(1), mean.flatten(1) + (x_t - a * mean).flatten(1) @ gain.T)
    torch.testing.assert_close(q.covariance.to_dense(), sigma[s] - a * gain @ sigma[s])


def test_process_loss_and_sampling():
    ld.testing.check_process(BlueNoise((1, 4, 4)), samples=300)
    p = BlueNoise((3, 32, 32))
    x0 = torch.randn(4, 3, 32, 32)
    d = p.denoiser(lambda x, t: torch.cat([0 * x, 0 * x], 1))
    loss = p.loss(d, x0, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    k, noise = torch.randint(1, 1001, (4,), generator=generator), torch.randn(4, 3, 32, 32, generator=generator)
    for i, step in enumerate(k.tolist()):
        t, before = step / 1000, (step - 1) / 1000
        gamma, gamma_before = (float(p.mixing.gamma(torch.tensor(u).double())) for u in (t, before))
        blue = p.mixing.mixed(1.0, 0.0)(noise[i])
        first = x0[i] - (1 - gamma) * blue - gamma * noise[i]
        second = before * (blue - noise[i])
        expected = first.square().mean() + (gamma - gamma_before) * 1000 * second.square().mean()
        torch.testing.assert_close(loss[i], expected, rtol=1e-4, atol=0)
    assert p.sampler(d, 5)(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
    assert ld.DDIMSampler(d, 5)(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
    assert ld.from_config(p.to_config()) == p
    p = BlueNoise((1, 3), root=torch.eye(3, dtype=torch.float64) / 3)
    assert ld.from_config(p.to_config()) == p


def test_bad_arguments():
    with pytest.raises(ValueError, match="tau: expected a positive number"):
        BlueNoise((1, 4), tau=0.0)
    with pytest.raises(ValueError, match=r"root: expected a matrix \(4, 4\) of pixels, got \(3, 3\)"):
        BlueNoise((1, 4), root=torch.eye(3))
    with pytest.raises(ValueError, match="shape: expected channels of more than one pixel"):
        BlueNoise((3, 1))
    p = BlueNoise((1, 4))
    with pytest.raises(ValueError, match="network: expected two parts as 2 channels"):
        p.sampler(p.denoiser(lambda x, t: x), 2)(1, progress=False)
    with pytest.raises(TypeError, match=r"denoiser: expected one of BlueNoise\.denoiser"):
        TwoPartSampler(ld.Denoiser(lambda x, t: x, p, "data"), 2)(1, progress=False)
    with pytest.raises(TypeError, match=r"denoiser: expected one of a families\.BlueNoise"):
        TwoPartSampler(ld.Denoiser(lambda x, t: x, ld.DDPM((1, 4)), "data"), 2)


def test_guided():
    """Both parts are guided, in the paper's sampler too."""
    p = BlueNoise((1, 8, 8))
    d = p.denoiser(lambda x, t, y: torch.cat([y[:, None, None, None] - x, y[:, None, None, None] * x], 1))
    guided = ld.guided(d, 2.0, null={"y": 0.0})
    samples = p.sampler(guided, 5)(2, seeds=[0, 1], progress=False, y=torch.full((2,), 0.1))
    torch.testing.assert_close(samples, p.sampler(d, 5)(2, seeds=[0, 1], progress=False, y=torch.full((2,), 0.2)))
    with pytest.raises(TypeError, match=r"denoiser: expected one of BlueNoise\.denoiser"):
        p.sampler(ld.Denoiser(lambda x, t: x, p, "data"))
