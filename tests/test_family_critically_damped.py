"""Critically-damped Langevin diffusion: its own numbers, in float64, and dense algebra."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import CriticallyDamped, ReverseLangevinSampler, SplittingSampler
from lineardiffusion.families.critically_damped import VelocityNoise
from lineardiffusion.samplers.draws import Draws
from vectors import load, relative_error

EXACT = 1e-10
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def numbers(shared):
    return load(shared / "vectors" / "families" / "critically_damped_langevin.safetensors")[1]


def processes() -> dict[str, CriticallyDamped]:
    return {"hsm": CriticallyDamped(SHAPE), "ramp": CriticallyDamped(SHAPE, 2.25, 0.1, 0.5, 7.0)}


@pytest.mark.parametrize("name", ["hsm", "ramp"])
def test_marginals(numbers, name):
    """Variances, multipliers, means and states. Their Σ_xx at small t, and with it their ℓ_t, are differences of nearly
    equal numbers: 1e-8 up to t = 1e-3."""
    p, x0 = processes()[name], numbers["x0"]
    for i, t in enumerate(numbers["t"].tolist()):
        moments = p.dynamics.moments(torch.tensor(t, dtype=torch.float64))
        assert relative_error(torch.stack(moments[2:]), numbers[f"{name}.{i}.variances"]) <= EXACT
        tolerance = 1e-8 if t <= 1e-3 else EXACT
        assert relative_error(-moments.multiplier, numbers[f"{name}.{i}.noise_multiplier"]) <= tolerance
        if f"{name}.{i}.mean" in numbers:
            assert relative_error(p.operator(0, t)(x0), numbers[f"{name}.{i}.mean"]) <= EXACT
        if f"{name}.{i}.u_t" in numbers:
            u_t = p.diffuse(x0, t, noise=numbers[f"{name}.{i}.white"])
            assert relative_error(u_t, numbers[f"{name}.{i}.u_t"]) <= tolerance


def test_velocities_that_are_known(numbers):
    """Denoising score matching: x_0 and v_0 given, a covariance without that of v_0."""
    p = processes()["hsm"]
    u_0 = torch.cat([numbers["x0"], numbers["v0"]], 1)
    for i in (2, 3, 4):
        elapsed = p.dynamics.elapsed(numbers["t"][i])
        xx, xv, vv = p.dynamics.noise(elapsed, 0.0)
        xx, vv = xx + 1e-9, vv + 1e-9
        assert relative_error(torch.stack([xx, xv, vv]), numbers[f"dsm.{i}.variances"]) <= EXACT
        multiplier = (xx / (xx * vv - xv**2)).sqrt()
        assert relative_error(-multiplier, numbers[f"dsm.{i}.noise_multiplier"]) <= EXACT
        mean = torch.einsum("ij,bjhw->bihw", p.dynamics.flow(elapsed), u_0)
        assert relative_error(mean, numbers[f"dsm.{i}.mean"]) <= EXACT
        root = torch.linalg.cholesky(torch.stack([torch.stack([xx, xv]), torch.stack([xv, vv])]))
        u_t = mean + torch.einsum("ij,bjhw->bihw", root, numbers[f"dsm.{i}.white"])
        assert relative_error(u_t, numbers[f"dsm.{i}.u_t"]) <= EXACT


def with_scores(p: CriticallyDamped, t: list[float], scores: list[torch.Tensor]) -> ld.Denoiser:
    """A denoiser whose network has these scores, in turn."""
    answers = iter(zip(t, scores, strict=True))

    def network(u: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        at, score = next(answers)
        assert time.tolist() == pytest.approx([at] * len(u))
        moments = p.dynamics.moments(time.double())[0:5]
        xx, xv, vv = (value[0] for value in moments[2:])
        multiplier = (xx / (xx * vv - xv**2)).sqrt()
        return -score / multiplier - u.chunk(2, 1)[1] / (multiplier * vv)

    return p.denoiser(network)


@pytest.mark.parametrize("flow", [False, True], ids=["em", "ode"])
def test_reverse_steps(numbers, flow):
    """Euler–Maruyama and Euler's method for the probability flow; without noise the mean of the former."""
    p, u, white = processes()["hsm"], numbers["em.u"], numbers["em.white"]
    for noise, name in (
        (white, "ode.next" if flow else "em.next"),
        (0 * white, "ode.next" if flow else "em.next_mean"),
    ):
        d = with_scores(p, [0.5], [numbers["em.score"]])
        u_s = ReverseLangevinSampler(d, 10, flow).step(u, 0.5, 0.48, noise=noise)
        assert relative_error(u_s, numbers[name]) <= EXACT


def test_splitting_sampler(numbers):
    """Two steps from t = 1 to 1e-3, with what the score is given on the way."""
    p = processes()["hsm"]
    times = torch.linspace(1, 1e-3, 3, dtype=torch.float64).tolist()
    given: list[torch.Tensor] = []
    d = with_scores(p, times[:2], [numbers["sscs.0.score"], numbers["sscs.1.score"]])
    forward = d.network
    d.network = lambda u, time: (given.append(u), forward(u, time))[1]
    sampler, u = SplittingSampler(d, 10), numbers["sscs.start"]
    for i in range(2):
        noises = [numbers[f"sscs.{i}.white_{when}"] for when in ("before", "after")]
        draws = Draws(lambda like, noise=noises[0]: noise, lambda like, noise=noises[1]: noise)
        u, _ = sampler.advance(u, times[i], times[i + 1], draws, sampler.history(), {})
        assert relative_error(given[-1], numbers[f"sscs.{i}.middle"]) <= EXACT
    assert relative_error(u, numbers["sscs.end"]) <= EXACT


def dense(p: CriticallyDamped, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Φ and Σ of one pixel by a matrix exponential."""
    m, gamma = p.dynamics.inverse_mass, p.dynamics.gamma
    elapsed = float(p.dynamics.elapsed(torch.tensor(t, dtype=torch.float64)))
    flow = torch.linalg.matrix_exp(elapsed * torch.tensor([[0, m], [-1, -2 * m**0.5]], dtype=torch.float64))
    limit, start = torch.diag(torch.tensor([1, 1 / m]).double()), torch.diag(torch.tensor([0, gamma / m]).double())
    return flow, limit + flow @ (start - limit) @ flow.T + 1e-9 * torch.eye(2)


def test_posterior_against_dense_algebra():
    p, (s, t) = CriticallyDamped((2, 3), 2.25, 0.1, 0.5, 7.0), (0.3, 0.5)
    (flow_s, sigma_s), (flow_t, sigma_t) = dense(p, s), dense(p, t)

    def every_pixel(matrix: torch.Tensor) -> torch.Tensor:
        return torch.kron(matrix, torch.eye(6, dtype=torch.float64))

    torch.testing.assert_close(p.operator(0, t).to_dense(), every_pixel(flow_t[:, :1]))
    torch.testing.assert_close(p.noise_covariance(t).to_dense(), every_pixel(sigma_t))
    step = flow_t @ torch.linalg.inv(flow_s)
    gain = sigma_s @ step.T @ torch.linalg.inv(sigma_t)
    u_t, mean = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    q = p.posterior(u_t, mean, t, s)
    expected = mean.flatten(1) + (u_t.flatten(1) - mean.flatten(1) @ every_pixel(step).T) @ every_pixel(gain).T
    torch.testing.assert_close(q.mean.flatten(1), expected)
    torch.testing.assert_close(q.covariance.to_dense(), every_pixel(sigma_s - gain @ step @ sigma_s))


def test_true_noise_is_the_data():
    """A network that knows ε in u = Φ x_0 + L ε has the score of x_0 known, from which x_0 follows."""
    p = CriticallyDamped(SHAPE)
    x0, noise = torch.randn(3, *SHAPE, dtype=torch.float64), torch.randn(3, 2, 8, 8, dtype=torch.float64)
    for t in (1e-4, 0.1, 0.9):
        u = p.diffuse(x0, t, noise=noise)
        moments = p.dynamics.moments(torch.tensor(t, dtype=torch.float64))
        scale = 1 / (moments.multiplier * moments.vv)
        d = p.denoiser(lambda u, time, scale=scale: noise[:, 1:] - scale * u[:, 1:])
        torch.testing.assert_close(d(u, t, 0), x0, rtol=1e-7, atol=1e-7)
        score = SplittingSampler(d, 10).score(u, t, x0)
        torch.testing.assert_close(score, -moments.multiplier * noise[:, 1:], rtol=1e-6, atol=1e-6)


def test_process_loss_and_sampling():
    ld.testing.check_process(CriticallyDamped((1, 2, 2)), samples=300)
    p = CriticallyDamped((3, 32, 32))
    d = p.denoiser(lambda u, t: 0 * u.chunk(2, 1)[1])
    x0 = torch.randn(2, 3, 32, 32)
    loss = p.loss(d, x0, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    t = 1e-5 + (1 - 1e-5) * torch.rand(2, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 6, 32, 32, generator=generator)
    for i in range(2):
        moments = p.dynamics.moments(t[i])
        velocity = p.diffuse(x0[i], float(t[i]), noise=noise[i])[3:]
        error = velocity / float(moments.multiplier * moments.vv) - noise[i, 3:]
        torch.testing.assert_close(loss[i], error.square().mean())
    samples = []
    for sampler in (p.sampler(d, 5), ReverseLangevinSampler(d, 5, flow=True), ReverseLangevinSampler(d, 5)):
        assert sampler(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
    p = CriticallyDamped(SHAPE)
    d = p.denoiser(lambda u, t: 0 * u.chunk(2, 1)[1])
    for sampler in (p.sampler(d, 40), SplittingSampler(d, 40)):
        samples.append(sampler(16, generator=torch.Generator().manual_seed(0), progress=False).std())
    # F = 0 is the score of N(0, Σ_vv) alone: at the end x is about as wide as at the start, by either sampler.
    assert abs(samples[0] - samples[1]) < 0.2
    assert ld.from_config(p.to_config()) == p


def test_bad_arguments():
    with pytest.raises(ValueError, match="inverse_mass: expected a positive number"):
        CriticallyDamped(SHAPE, 0.0)
    with pytest.raises(ValueError, match="slope: expected a number above −beta = -4"):
        CriticallyDamped(SHAPE, slope=-4.0)
    p = CriticallyDamped(SHAPE)
    d = ld.Denoiser(lambda u, t: u[:, :1], p, "data")
    with pytest.raises(TypeError, match=r"denoiser: expected one of CriticallyDamped\.denoiser"):
        p.loss(d.network, torch.zeros(2, *SHAPE))
    with pytest.raises(ValueError, match="process: expected a CriticallyDamped"):
        ld.Denoiser(d.network, ld.DDPM(SHAPE), VelocityNoise())
    with pytest.raises(TypeError, match=r"denoiser: expected one of a families\.CriticallyDamped"):
        SplittingSampler(ld.Denoiser(lambda x, t: x, ld.DDPM(SHAPE)), 5)
