"""Schedules of coloured noise, and the covariances they are made of, against dense algebra."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.covariance import Multiple, RootCovariance
from lineardiffusion.predictions import ColouredNoise
from test_operators import draw

SHAPE = (2, 4, 6)
DEVIATIONS = torch.linspace(0.4, 1.7, 24, dtype=torch.float64).reshape(4, 6)
BASES = {
    "standard": ld.bases.Standard(SHAPE),
    "cosine": ld.bases.Cosine(SHAPE),
    "fourier": ld.bases.Fourier(SHAPE),
    "haar": ld.bases.Haar(SHAPE),
    "block cosine": ld.bases.BlockCosine(SHAPE, 2),
}


def deviations(basis: ld.bases.Basis) -> torch.Tensor:
    if isinstance(basis, ld.bases.Fourier):  # gain[−k] = gain[k]
        return 0.5 * (DEVIATIONS + DEVIATIONS.flip(0, 1).roll((1, 1), (0, 1)))
    return DEVIATIONS.flatten()[: basis.coordinates[-1]] if basis.coordinates[-2:] != (4, 6) else DEVIATIONS


def dense(basis: ld.bases.Basis, spectrum: torch.Tensor) -> torch.Tensor:
    """V diag(n²) Vᴴ from the columns of V."""
    v = basis.analyse(torch.eye(48, dtype=torch.float64).reshape(-1, *SHAPE)).reshape(48, -1)
    n = spectrum.broadcast_to(basis.coordinates).flatten()
    return ((v * n**2) @ v.conj().T).real


@pytest.mark.parametrize("base", [ld.schedules.flow(), ld.schedules.linear(20)], ids=["flow", "linear"])
@pytest.mark.parametrize("name", BASES)
def test_process(name, base):
    """Marginals, transitions and posteriors."""
    basis, n = BASES[name], deviations(BASES[name])
    p = ld.LinearDiffusion(ld.paths.identity(SHAPE), ld.schedules.coloured(base, basis, n))
    colour, (s, t) = dense(basis, n), ((0.3, 0.6) if base.num_steps is None else (5, 11))
    assert (p.end, p.num_steps, p.is_isotropic) == (base.end, base.num_steps, False)
    torch.testing.assert_close(p.noise_covariance(t).to_dense(), base.sigma(t) ** 2 * colour)
    assert p.signal_scale(t) == base.signal(t)
    assert p.sigma(t) == pytest.approx(float((base.sigma(t) ** 2 * colour).trace() / 48) ** 0.5)
    assert p.schedule.time(p.schedule.log_snr(t)) == pytest.approx(t)
    a = p.signal_ratio(s, t)
    expected = (base.sigma(t) ** 2 - a**2 * base.sigma(s) ** 2) * colour
    torch.testing.assert_close(p.transition(t, s).to_dense(), expected)
    x_t, mean_s = draw(SHAPE, 3), draw(SHAPE, 3, seed=1)
    q = p.posterior(x_t, mean_s, t, s)
    rho = base.sigma(s) ** 2 / base.sigma(t) ** 2
    torch.testing.assert_close(q.mean, mean_s + a * rho * (x_t - a * mean_s))
    torch.testing.assert_close(q.covariance.to_dense(), base.sigma(s) ** 2 * (1 - a**2 * rho) * colour)
    times = torch.tensor([s, t, t])
    torch.testing.assert_close(p.sigma(times), torch.tensor([p.sigma(u) for u in times.tolist()]).double())
    rows = torch.stack([p.diffuse(x_t[i : i + 1], float(u), noise=mean_s[i : i + 1])[0] for i, u in enumerate(times)])
    torch.testing.assert_close(p.diffuse(x_t, times, noise=mean_s), rows)


def test_deviations_of_each_time():
    basis = BASES["cosine"]
    schedule = ld.schedules.coloured(ld.schedules.vp(), basis, lambda t: DEVIATIONS ** (1 - t))
    for t in (0.2, 1.0):
        expected = ld.schedules.vp().sigma(t) ** 2 * dense(basis, DEVIATIONS ** (1 - t))
        torch.testing.assert_close(schedule.noise(t, SHAPE).to_dense(), expected)
    assert schedule.time(schedule.log_snr(0.4)) == pytest.approx(0.4)
    torch.testing.assert_close(
        schedule.sigma(torch.tensor([0.0, 0.2])), torch.tensor([0.0, schedule.sigma(0.2)]).double()
    )
    assert schedule.noise(0, SHAPE) == 0


def test_check_process_and_configuration():
    schedule = ld.schedules.coloured(
        ld.schedules.flow(), ld.bases.Cosine((1, 6)), torch.linspace(0.5, 1.5, 6).double() / 3
    )
    p = ld.LinearDiffusion(ld.paths.identity((1, 6)), schedule)
    ld.testing.check_process(p, samples=500)
    assert ld.from_config(p.to_config()) == p


@pytest.mark.parametrize("make", [
    lambda root: Multiple(ld.GramCovariance(root), 0.3),
    lambda root: RootCovariance(root, lambda: ld.Matrix(torch.linalg.inv(root.weight), (6,), (6,))),
], ids=["multiple", "root"])  # fmt: skip
def test_covariances(make):
    root = torch.eye(6, dtype=torch.float64) + 0.2 * draw((6, 6))
    sigma = make(ld.Matrix(root, (6,), (6,)))
    expected = sigma.to_dense()
    units = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(expected, 0.09 * root.T @ root if isinstance(sigma, Multiple) else root @ root.T)
    torch.testing.assert_close(sigma.sqrt(units).T @ sigma.sqrt(units), expected)
    torch.testing.assert_close(sigma.root().to_dense() @ sigma.root().T.to_dense(), expected)
    torch.testing.assert_close(sigma.inverse_root().to_dense() @ sigma.root().to_dense(), units)
    torch.testing.assert_close(sigma.solve(units), torch.linalg.inv(expected))
    assert sigma.logdet() == pytest.approx(float(torch.logdet(expected)))
    assert sigma.mean_variance() == pytest.approx(float(expected.trace()) / 6)
    torch.testing.assert_close(sigma.singular_values().sort().values, torch.linalg.eigvalsh(expected))


@pytest.mark.parametrize("t", [7, torch.tensor([3, 7])], ids=["one time", "times"])
def test_prediction_of_the_noise_as_it_is(t):
    p = ld.LinearDiffusion(
        ld.paths.identity(SHAPE), ld.schedules.coloured(ld.schedules.cosine(10), BASES["haar"], DEVIATIONS)
    )
    x0, white = draw(SHAPE, 2), draw(SHAPE, 2, seed=1)
    x_t = p.diffuse(x0, t, noise=white)
    a, sigma = (level.reshape(-1, 1, 1, 1) for level in p.schedule(torch.as_tensor(t)))
    noise = 1.3 * (x_t - a * x0) / sigma
    d = ld.Denoiser(lambda x, index: noise, p, ColouredNoise(1.3))
    torch.testing.assert_close(d(x_t, t), x0)
    loss = ld.denoising_loss(d, x0, t, white, ld.SNR())
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    d = ld.Denoiser(lambda x, index: noise + 0.26, p, ColouredNoise(1.3))
    expected = torch.full((2,), 0.2**2, dtype=torch.float64)  # SNR: of noise with a root mean square of one
    torch.testing.assert_close(ld.denoising_loss(d, x0, t, white, ld.SNR()), expected)


def test_bad_arguments():
    flow, cosine = ld.schedules.flow(), BASES["cosine"]
    with pytest.raises(TypeError, match="schedule: expected a schedule"):
        ld.schedules.coloured(cosine, flow, DEVIATIONS)
    with pytest.raises(ValueError, match="basis: expected one of all events"):
        ld.schedules.coloured(flow, ld.bases.Principal(draw((4,), 6), rank=2), torch.ones(2))
    with pytest.raises(ValueError, match="deviations: expected positive numbers, got a least one of 0"):
        ld.schedules.coloured(flow, cosine, torch.zeros(6))
    with pytest.raises(ValueError, match=r"deviations: expected a shape that broadcasts .* got \(5,\)"):
        ld.schedules.coloured(flow, cosine, torch.ones(5))
    with pytest.raises(ValueError, match=r"deviations: expected positive numbers at t = 0.5"):
        ld.schedules.coloured(flow, cosine, lambda t: -torch.ones(6)).noise(0.5, SHAPE)
    with pytest.raises(ValueError, match="sigma: expected a positive number"):
        Multiple(ld.GramCovariance(ld.Identity((2,))), 0.0)
    with pytest.raises(ValueError, match="rms: expected a positive number"):
        ColouredNoise(0.0)
