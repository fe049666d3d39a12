"""Generation with unified diffusion: its own numbers, in float64, and dense algebra."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import GUD, ReverseSDESampler, SoftConditioning
from vectors import load, relative_error

H, W = 4, 6
SHAPE = (2, H, W)  # theirs: (batch, pixel, channel)
EXACT = 1e-10


@pytest.fixture(scope="module")
def numbers(shared):
    return load(shared / "vectors" / "families" / "unified_diffusion.safetensors")[1]


def event(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(-1, -2).unflatten(-1, (H, W))


def just_above_zero(t: float) -> float:
    """Their state at t = 0 has noise; here that is the one just above."""
    return t or 1e-13


class Rows(ld.bases.Basis):
    """Their principal components: an orthonormal matrix for the pixels of each channel, one component a row."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.shape, self.coordinates = rows, SHAPE, (2, H * W)

    def _analyse(self, x):
        return x.flatten(-2) @ self.rows.T

    def _synthesise(self, z):
        return (z @ self.rows).unflatten(-1, (H, W))


def columns() -> SoftConditioning:
    """Column after column: offsets of up to 1/2, each with the slope of what is left of the time."""
    offsets = 0.5 * torch.linspace(0, 1, W, dtype=torch.float64)
    return SoftConditioning(-offsets, softness=0.5 / 18, gamma_min=-13.0, gamma_max=5.0, clip=True)


def gammas(numbers) -> dict[str, object]:
    variances = numbers["pca.scale"] ** 2
    labels = torch.linspace(0, 3, 24, dtype=torch.float64)
    return {
        "linear": SoftConditioning(gamma_min=-13.3, gamma_max=5.0),
        "vp": lambda t: torch.logit(-torch.expm1(-(0.1 * t + 9.95 * t**2))),
        "cosine": lambda t: -2 * torch.log(1 / torch.tan((t + 0.008) / 1.008 * math.pi / 2)),
        "variance": SoftConditioning(-variances.log() / 0.5 + variances.log()),
        "soft": SoftConditioning(labels, 0.7),
        "soft_clipped": SoftConditioning(labels, 0.7, clip=True),
        "columns": columns(),
        "fourier": SoftConditioning(numbers["fourier.labels"], 1.5),
    }


@pytest.mark.parametrize("name", ["linear", "vp", "cosine", "variance", "soft", "soft_clipped", "columns", "fourier"])
def test_schedules(numbers, name):
    """α, σ and β of all components. Their columns are labelled in float32: 1e-6. Where γ is at the bound that clips it,
    the derivative is a convention: β is not compared there."""
    gamma = gammas(numbers)[name]
    p = GUD((1, 24), lambda t: gamma(t).expand(H, W).flatten() if name == "columns" else gamma(t))
    tolerance = 1e-6 if name == "columns" else EXACT
    for i, t in enumerate(t for t in numbers["t"].tolist() if t or name != "vp"):
        value = p.gamma(torch.tensor(t, dtype=torch.float64))
        for part, expected in (("alpha", torch.sigmoid(-value).sqrt()), ("sigma", torch.sigmoid(value).sqrt())):
            theirs = numbers[f"{name}.{part}"][i]
            assert relative_error(expected.expand_as(theirs), theirs) <= tolerance
        if name == "fourier":  # its β is not stored
            continue
        theirs = numbers[f"{name}.beta"][i]
        bounds = torch.tensor([gamma.gamma_min, gamma.gamma_max] if getattr(gamma, "clip", False) else [])
        compared = ((value[..., None] - bounds).abs() > 1e-9).all(-1)
        assert (p.rates(t) - theirs)[compared].norm() <= 10 * tolerance * theirs[compared].norm()


def system(numbers, space: str) -> tuple[GUD, torch.Tensor]:
    """A process of theirs, and scales that broadcast to their (pixel, channel) components."""
    if space == "pca":
        p = GUD(SHAPE, gammas(numbers)["variance"], Rows(numbers["pca.basis"]), numbers["pca.scale"])
        return p, numbers["pca.scale"][:, None]
    if space == "fourier":
        labels, scale = (numbers[f"fourier.{name}"].reshape(H, W) for name in ("labels", "scale"))
        p = GUD(SHAPE, SoftConditioning(labels, 1.5), ld.bases.Fourier(SHAPE), scale)
        return p, numbers["fourier.scale"][:, None]
    return GUD(SHAPE, columns()), torch.ones(24, 1, dtype=torch.float64)


def components(numbers, name: str) -> torch.Tensor:
    return numbers[name] if name in numbers else torch.complex(numbers[f"{name}.re"], numbers[f"{name}.im"])


def whitened(p: GUD, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Theirs from an event."""
    return p.basis.analyse(x).reshape(*x.shape[:-2], H * W).transpose(-1, -2) / scale


def from_whitened(p: GUD, scale: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return p.basis.synthesise((z * scale).transpose(-1, -2).reshape(-1, *p.basis.coordinates))


@pytest.mark.parametrize("space", ["pca", "fourier", "columns"])
def test_states(numbers, space):
    """White components, noise, and states in them and in pixels."""
    p, scale = system(numbers, space)
    tolerance = 1e-6 if space == "columns" else EXACT
    x0 = event(numbers["x0"])
    assert relative_error(whitened(p, scale, x0), components(numbers, f"{space}.white")) <= EXACT
    for i, t in enumerate(numbers["t"].tolist()):
        if f"{space}.{i}.pixels" not in numbers:
            continue
        noise = from_whitened(p, torch.ones_like(scale), components(numbers, f"{space}.{i}.noise"))
        x_t = p.diffuse(x0, just_above_zero(t), noise=noise)
        assert relative_error(x_t, event(numbers[f"{space}.{i}.pixels"])) <= tolerance
        assert relative_error(whitened(p, scale, x_t), components(numbers, f"{space}.{i}.noisy")) <= tolerance


@pytest.mark.parametrize("space", ["pca", "fourier", "columns"])
def test_reverse_sde(numbers, space):
    """Score, velocity, drift and diffusion of a toy estimate of the noise, at t = 0.4, by steps of their sampler."""
    p, scale = system(numbers, space)
    tolerance = 1e-6 if space == "columns" else EXACT
    t, s = 0.4, 0.3
    eps = from_whitened(p, torch.ones_like(scale), components(numbers, f"{space}.2.eps"))
    x_t = event(numbers[f"{space}.2.pixels"])
    sampler = ReverseSDESampler(p.denoiser(lambda x, time: eps), [t, s])
    mean = sampler.step(x_t, t, s, noise=torch.zeros_like(x_t))
    drift = whitened(p, scale, (mean - x_t) / (s - t))
    assert relative_error(drift, components(numbers, f"{space}.2.drift")) <= 10 * tolerance
    noise = torch.ones_like(x_t)
    drawn = whitened(p, scale, sampler.step(x_t, t, s, noise=noise) - mean)
    expected = math.sqrt(t - s) * numbers[f"{space}.2.diffusion"] * whitened(p, torch.ones_like(scale), noise)
    assert relative_error(drawn, expected) <= 10 * tolerance
    rates = p.rates(t).expand(H, W).reshape(H * W, 1) if space != "pca" else p.rates(t)[:, None]
    score = -components(numbers, f"{space}.2.drift") / rates - whitened(p, scale, x_t) / 2
    moving = (rates > 0).squeeze(-1)
    assert relative_error(score[:, moving], components(numbers, f"{space}.2.score")[:, moving]) <= 10 * tolerance
    velocity = rates / 2 * (whitened(p, scale, x_t) + components(numbers, f"{space}.2.score"))
    assert relative_error(velocity, components(numbers, f"{space}.2.velocity")) <= 10 * tolerance


def test_principal_components(numbers):
    """Their covariance, its directions and their scales."""
    rows, scale = numbers["pca.basis"], numbers["pca.scale"]
    assert relative_error(rows.T @ torch.diag(scale**2) @ rows, numbers["covariance"]) <= EXACT


def test_posterior_against_dense_algebra():
    labels = torch.linspace(0, 2, 8, dtype=torch.float64).reshape(2, 4)
    basis = ld.bases.Cosine((1, 2, 4))
    p = GUD((1, 2, 4), SoftConditioning(labels, 0.5, clip=True), basis, 0.5 + labels)
    v = basis.synthesise(torch.eye(8, dtype=torch.float64).reshape(-1, 1, 2, 4)).flatten(1).T
    s, t = 0.3, 0.5

    def gains_and_noise(t):
        gamma = p.gamma(torch.tensor(t, dtype=torch.float64)).flatten()
        return torch.sigmoid(-gamma).sqrt(), (0.5 + labels.flatten()) ** 2 * torch.sigmoid(gamma)

    (a_s, n_s), (a_t, n_t) = gains_and_noise(s), gains_and_noise(t)
    torch.testing.assert_close(p.operator(0, t).to_dense(), v @ torch.diag(a_t) @ v.T)
    torch.testing.assert_close(p.noise_covariance(t).to_dense(), v @ torch.diag(n_t) @ v.T)
    gain = n_s * a_t / a_s / n_t
    x_t, mean = torch.randn(2, 1, 2, 4, dtype=torch.float64), torch.randn(2, 1, 2, 4, dtype=torch.float64)
    q = p.posterior(x_t, mean, t, s)
    expected = (
        mean.flatten(1)
        + (x_t.flatten(1) - mean.flatten(1) @ v @ torch.diag(a_t / a_s) @ v.T) @ v @ torch.diag(gain) @ v.T
    )
    torch.testing.assert_close(q.mean.flatten(1), expected)
    torch.testing.assert_close(q.covariance.to_dense(), v @ torch.diag(n_s - gain * a_t / a_s * n_s) @ v.T)


def test_process_loss_sampling_and_configuration():
    gamma = SoftConditioning(torch.linspace(0, 3, 6).double() / 3, 0.2, gamma_max=8.0)
    p = GUD((1, 6), gamma, ld.bases.Cosine((1, 6)))
    ld.testing.check_process(p, samples=500)
    assert ld.from_config(p.to_config()) == p
    p = GUD((3, 32, 32))
    x0 = torch.randn(2, 3, 32, 32)
    d = p.denoiser(lambda x, t: torch.zeros_like(x))
    loss = p.loss(d, x0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, torch.ones(2), rtol=0, atol=0.1)  # of the noise itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sampler in (p.sampler(d, 5), ReverseSDESampler(d, 5)):
            assert sampler(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
        first, second = (ReverseSDESampler(d, n)(2, seeds=[0, 1], progress=False).std() for n in (50, 100))
    assert abs(first - second) < 0.2


def test_bad_arguments():
    with pytest.raises(TypeError, match="gamma: expected a function of t"):
        GUD((1, 4), 3.0)
    with pytest.raises(ValueError, match=r"basis: expected one of events \(1, 4\)"):
        GUD((1, 4), basis=ld.bases.Standard((1, 5)))
    with pytest.raises(ValueError, match="sigma: expected"):
        GUD((1, 4), lambda t: 3 - t * torch.arange(1.0, 5.0))
    with pytest.raises(ValueError, match="softness: expected a positive number"):
        SoftConditioning(softness=0.0)
    with pytest.raises(ValueError, match="gamma_min: expected less than gamma_max"):
        SoftConditioning(gamma_min=3.0)
    with pytest.raises(ValueError, match="gains: expected a shape that broadcasts"):
        GUD((1, 4), lambda t: t * torch.ones(5))
    d = ld.Denoiser(lambda x, t: x, ld.DDPM((1, 4)), "noise")
    with pytest.raises(TypeError, match=r"denoiser: expected one of a families\.GUD"):
        ReverseSDESampler(d, 5)


def test_no_basis_is_refused():
    with pytest.raises(TypeError, match=r"basis: expected one of ld\.bases"):
        ld.families.GUD((1, 8, 8), basis="dct")
