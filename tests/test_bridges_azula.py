"""azula's samplers on our denoisers and ours on azula's, schedules and covariances, against azula's own numbers."""

from __future__ import annotations

import itertools
import pickle
from functools import partial

import pytest
import torch

import lineardiffusion as ld
from vectors import load, relative_error

pytest.importorskip("azula")
import azula.denoise
import azula.guidance
import azula.linalg.covariance as theirs
import azula.noise
import azula.sample

from lineardiffusion.integrations.azula import from_azula, to_azula

SHAPE = (1, 8, 8)
SCHEDULES = {
    "VE": azula.noise.VESchedule(1e-2, 50.0),
    "VP": azula.noise.VPSchedule(),
    "cosine": azula.noise.CosineSchedule(),
    "rectified": azula.noise.RectifiedSchedule(),
    "decay": azula.noise.DecaySchedule(),
}
OURS = {
    "linear": ld.schedules.linear(1000),
    "cosine": ld.schedules.cosine(250),
    "flow": ld.schedules.flow(3.0),
    "edm": ld.schedules.edm(),
    "vp": ld.schedules.vp(),
}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("name", SCHEDULES)
def test_their_schedules_keep_their_times(name):
    schedule, t = from_azula(SCHEDULES[name]), torch.linspace(0.01, 1, 30, dtype=torch.float64)
    signal, sigma = SCHEDULES[name](t)
    assert torch.equal(schedule.signal(t), signal)
    assert torch.equal(schedule.sigma(t), sigma)
    assert schedule(0.0) == (1.0, 0.0)
    least = SCHEDULES[name](torch.zeros((), dtype=torch.float64))
    assert schedule(schedule.first) == pytest.approx(tuple(map(float, least)), rel=1e-8)
    assert torch.allclose(schedule.time(schedule.log_snr(t)), t, rtol=0, atol=1e-9)
    assert to_azula(schedule) is SCHEDULES[name]
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert all((from_azula(other) == schedule) == (other is SCHEDULES[name]) for other in SCHEDULES.values())


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_our_schedules_on_their_clock(name, dtype):
    ours, schedule = OURS[name], to_azula(OURS[name])
    t = torch.linspace(0.1, 1, 10, dtype=dtype).reshape(5, 2)
    signal, sigma = schedule(t)
    own = ours((ours.end * torch.linspace(0.1, 1, 10, dtype=torch.float64).reshape(5, 2)).clamp(min=ours.first))
    assert signal.dtype == sigma.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(signal.double(), own[0], rtol=tolerance, atol=tolerance)
    assert torch.allclose(sigma.double(), own[1], rtol=tolerance, atol=tolerance)
    assert torch.equal(schedule.alpha(t), signal)
    assert torch.equal(schedule.sigma(t), sigma)
    least = ours(ours.first)
    assert least[1] > 0
    assert tuple(map(float, schedule(torch.zeros((), dtype=torch.float64)))) == pytest.approx(least)
    assert from_azula(schedule) is ours


# --------------------------------------------------------------------------------------------------------- denoisers


class Toy:
    """N(m, C) of the stored trajectories, as a denoiser of azula and as one of ours."""

    def __init__(self, shared):
        path = shared / "vectors" / "solvers" / "azula_samplers.safetensors"
        if not path.exists():
            pytest.skip(f"no trajectories: {path}")
        self.tensors = load(path)[1]
        self.mean, spectrum = self.tensors["toy.mean"], self.tensors["toy.spectrum"]
        self.covariance = ld.GramCovariance(ld.SpectralFilter(SHAPE, spectrum.sqrt(), "dct"))

    def theirs(self, schedule):
        return azula.denoise.GaussianDenoiser(self.mean, to_azula(self.covariance), schedule)

    def ours(self, schedule):
        process = ld.LinearDiffusion(ld.paths.identity(SHAPE), schedule)

        def network(x, levels):
            return self(x, *levels[0])

        return ld.Denoiser(network, process, "data", lambda p, t: torch.stack([p.signal_scale(t), p.sigma(t)], -1))

    def __call__(self, x, a, s):
        gain = self.covariance.operator.gram_function(lambda c: a * c / (a**2 * c + s**2), x - a * self.mean)
        return self.mean + gain


THEIR_SCHEDULES = {"rectified": azula.noise.RectifiedSchedule(), "vp": azula.noise.VPSchedule()}
# Theirs, ours; azula's η is one of the variance.
SAMPLERS = {
    "ddim0": (azula.sample.DDIMSampler, ld.DDIMSampler),
    "ddim05": (partial(azula.sample.DDIMSampler, eta=0.5), partial(ld.DDIMSampler, eta=0.5**0.5)),
    "ddpm": (azula.sample.DDPMSampler, ld.AncestralSampler),
    "euler": (azula.sample.EulerSampler, ld.DDIMSampler),
    "heun": (azula.sample.HeunSampler, ld.HeunSampler),
    "xEAB1": (partial(azula.sample.xEABSampler, order=1), ld.DDIMSampler),
    "xEAB2": (partial(azula.sample.xEABSampler, order=2), partial(ld.DDIMSampler, order=2)),
    "xEAB3": (partial(azula.sample.xEABSampler, order=3), partial(ld.DDIMSampler, order=3)),
    "zEAB2": (partial(azula.sample.zEABSampler, order=2), None),
}
CASES = [("rectified", name) for name in SAMPLERS] + [("vp", name) for name in ("heun", "xEAB2", "xEAB3")]


@pytest.mark.parametrize(("schedule", "name"), CASES)
def test_their_samplers_on_our_denoiser(shared, monkeypatch, schedule, name):
    toy = Toy(shared)
    expected = toy.tensors[f"{schedule}.{name}.x"]
    noise = iter(toy.tensors["noise"].double())
    denoiser = to_azula(toy.ours(from_azula(THEIR_SCHEDULES[schedule])))
    sampler = SAMPLERS[name][0](denoiser, steps=10, silent=True, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(noise))
    assert relative_error(sampler(toy.tensors["x_1"]), expected[-1]) < 1e-10  # theirs are known to 6e-13


@pytest.mark.parametrize(("schedule", "name"), [case for case in CASES if SAMPLERS[case[1]][1]])
def test_our_samplers_on_their_denoiser(shared, schedule, name):
    toy = Toy(shared)
    expected = toy.tensors[f"{schedule}.{name}.x"]
    denoiser = from_azula(toy.theirs(THEIR_SCHEDULES[schedule]), SHAPE)
    first = denoiser.process.schedule.first
    times = [*toy.tensors[f"{schedule}.t"].tolist()[:-1], first]
    # Two times more, since the last steps of a sampler are of lower order.
    sampler, x = SAMPLERS[name][1](denoiser, [*times, first / 2, first / 4]), toy.tensors["x_1"]
    history = sampler.history()
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        x = sampler.step(x, t, s, noise=toy.tensors["noise"][i], history=history)
        assert relative_error(x, expected[i + 1]) < 1e-10


@pytest.mark.parametrize("name", OURS)
def test_both_ways_and_each_alone_agree(shared, name):
    """One denoiser, run by both libraries in float32 on our schedules, whose integers are their fractions."""
    toy, told = Toy(shared), []
    denoiser, schedule = toy.ours(OURS[name]), OURS[name]
    by_level, x = denoiser.time_input, toy.tensors["x_1"]

    def recording(process, t):
        told.append(t)
        return by_level(process, t)

    denoiser.time_input = recording
    stop = 0.0 if schedule.num_steps else schedule.first / schedule.end  # none of the steps in vain
    theirs_run = azula.sample.DDIMSampler(to_azula(denoiser), stop=stop, steps=10, silent=True)
    result = theirs_run(x.float())
    if schedule.num_steps:  # float32 fractions of T are the integers that they stand for
        assert [int(t[0]) for t in told] == list(range(schedule.end, 0, -schedule.end // 10))
        assert all(t.dtype == torch.long for t in told)
    times = [max(schedule.end * t, schedule.first) for t in torch.linspace(1, stop, 11, dtype=torch.float64).tolist()]
    sampler = ld.DDIMSampler(denoiser, times)
    for t, s in itertools.pairwise(times):
        x = sampler.step(x, t, s)
    assert relative_error(result.double(), x) < 1e-4
    back = from_azula(to_azula(denoiser), SHAPE)
    assert back.process == denoiser.process
    t = schedule.end / 2
    assert torch.allclose(back(x, t), denoiser(x, t), rtol=0, atol=1e-12)


def test_times_for_each_sample_and_conditioning():
    class Backbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, x, t, shift=0.0):
            assert t.ndim < 2
            return self.weight * x + t.reshape(-1, 1, 1, 1) + shift

    karras = azula.denoise.KarrasDenoiser(Backbone(), azula.noise.VPSchedule())
    ours, x = from_azula(karras, SHAPE), random(3, *SHAPE)
    for t in (0.3, torch.tensor([0.2, 0.2, 0.2]), torch.tensor([0.2, 0.5, 0.9])):
        # The time is told in the precision of the weights.
        expected = karras(x, torch.as_tensor(t, dtype=torch.float64), shift=2.0).mean
        assert torch.allclose(ours(x, t, shift=2.0), expected, rtol=0, atol=1e-12)
        again = to_azula(ours)(x, torch.as_tensor(t, dtype=torch.float64), shift=2.0)
        assert torch.allclose(again.mean, expected, rtol=0, atol=1e-12)
    loss = ld.denoising_loss(ours, x, torch.tensor([0.2, 0.5, 0.9])).mean()
    loss.backward()
    assert float(karras.backbone.weight.grad) != 0


def test_their_guidance_on_our_denoiser(shared):
    """MMPS differentiates the denoiser; for Gaussian data it is the mean given x_t and y."""
    toy, pool = Toy(shared), ld.AveragePool(SHAPE, 2)
    schedule, y = azula.noise.VPSchedule(), random(1, 16)
    t, x = torch.tensor(0.6, dtype=torch.float64), random(1, *SHAPE, seed=1)
    noise = theirs.IsotropicCovariance(0.01)
    denoiser = to_azula(toy.ours(from_azula(schedule)))
    guided = azula.guidance.MMPSDenoiser(denoiser, y, lambda x: pool(x).flatten(1), noise, solver="cg", iterations=32)
    a, s = map(float, schedule(t))
    rows = torch.cat([a * torch.eye(64, dtype=torch.float64), pool.to_dense()])
    precision = torch.tensor([s**-2] * 64 + [100.0] * 16, dtype=torch.float64)
    inverse = torch.linalg.inv(toy.covariance.to_dense()) + rows.T @ (precision[:, None] * rows)
    given = torch.cat([x.flatten(), y.flatten()]) - rows @ toy.mean.flatten()
    expected = toy.mean.flatten() + torch.linalg.solve(inverse, rows.T @ (precision * given))
    assert relative_error(guided(x, t).mean.flatten(), expected) < 1e-8  # their solver leaves 2e-9


# ------------------------------------------------------------------------------------------------------- covariances


def their_covariances():
    x = random(400, 2, 3) @ random(3, 3, seed=1)
    dplr = theirs.DPLRCovariance.from_data(x, rank=2)
    return {
        "isotropic": theirs.IsotropicCovariance.from_data(x),
        "isotropic number": theirs.IsotropicCovariance(0.5),
        "diagonal": theirs.DiagonalCovariance.from_data(x),
        "full": theirs.FullCovariance.from_data(x),
        "low rank": dplr,
        "minus low rank": dplr.inv,
        "Kronecker": theirs.KroneckerCovariance.from_data(x),
        "Kronecker of low rank": theirs.KroneckerCovariance.from_data(x, rank=1),
    }


def dense_of(product):
    return product(torch.eye(6, dtype=torch.float64).reshape(6, 2, 3)).reshape(6, 6).T


@pytest.mark.parametrize("name", their_covariances())
def test_their_covariances(name):
    covariance = their_covariances()[name]
    ours, dense = from_azula(covariance, (2, 3)), dense_of(lambda x: covariance @ x)
    x, mean = random(5, 2, 3, seed=2), random(2, 3, seed=3)
    root = dense_of(ours.sqrt)
    assert torch.allclose(ours.to_dense(), dense, rtol=0, atol=1e-12)
    assert torch.allclose(root @ root.T, dense, rtol=0, atol=1e-12)
    assert torch.allclose(dense_of(ours.solve), torch.linalg.inv(dense), rtol=0, atol=1e-10)
    assert ours.logdet() == pytest.approx(float(torch.logdet(dense)), abs=1e-10)
    expected = torch.distributions.MultivariateNormal(mean.flatten(), dense).log_prob(x.flatten(1))
    assert torch.allclose(ld.Gaussian(mean, ours).log_prob(x), expected, rtol=0, atol=1e-9)
    assert ours.sqrt(x.float()).dtype == torch.float32
    assert ours(x.bfloat16()).dtype == torch.bfloat16
    if name not in ("isotropic", "isotropic number", "diagonal"):
        assert to_azula(ours) is covariance
    marginal = ld.GaussianMarginal(ld.Identity((2, 3)), ours)
    assert marginal.sample(x, x).shape == x.shape


OUR_COVARIANCES = {
    "isotropic": ld.GramCovariance(0.5 * ld.Identity((2, 3))),
    "diagonal": ld.GramCovariance(ld.Diagonal(1 + torch.rand(2, 3, generator=torch.Generator().manual_seed(0)))),
    "spectral": ld.GramCovariance(ld.SpectralFilter((2, 3), torch.tensor([1.0, 0.7, 0.4]), "dct")),
    "function": ld.GramCovariance(ld.Resize((2, 3), (2,)), lambda values: 2.0 - values),
    "multiple": ld.covariance.Multiple(ld.GramCovariance(ld.Diagonal(torch.tensor([1.0, 2.0, 3.0]).expand(2, 3))), 0.7),
    "unknown": ld.GramCovariance(ld.testing.Opaque(ld.Matrix(random(6, 6) / 3, (2, 3), (2, 3))), lambda v: v + 0.3),
}


@pytest.mark.parametrize("name", OUR_COVARIANCES)
def test_our_covariances(name):
    ours = OUR_COVARIANCES[name]
    covariance, dense, unit = to_azula(ours), ours.to_dense(), torch.eye(6, dtype=torch.float64)
    variance = theirs.IsotropicCovariance(torch.tensor(0.6, dtype=torch.float64))
    atol = 1e-12 if ours.has_exact_functions else 1e-5
    assert tuple(covariance.shape) == (2, 3)
    root = dense_of(covariance.color)
    for result, expected in (
        (dense_of(lambda x: covariance @ x), dense),
        (root @ root.T, dense),
        (dense_of(lambda x: covariance.inv @ x), torch.linalg.inv(dense)),
        (dense_of(lambda x: (covariance + variance) @ x), dense + 0.6 * unit),
        (dense_of(lambda x: (variance * covariance + variance).inv(x)), torch.linalg.inv(0.6 * dense + 0.6 * unit)),
        (covariance.logdet(), torch.logdet(dense)),
        ((covariance * theirs.IsotropicCovariance(2.0)).logdet(), torch.logdet(2 * dense)),
    ):
        assert torch.allclose(result, expected, rtol=0, atol=atol)
    assert from_azula(covariance) is ours
    with pytest.raises(TypeError):
        covariance + theirs.DiagonalCovariance(torch.ones(2, 3))


# ------------------------------------------------------------------------------------------------------------ errors


def test_what_does_not_map_is_refused():
    blurred = ld.Denoiser(lambda x, time: x, ld.BlurringDiffusion(SHAPE))
    with pytest.raises(ValueError, match="ours: expected a process x_t = a_t x_0 \\+ σ_t ε"):
        to_azula(blurred)
    coloured = ld.schedules.CovarianceTable([0.0, ld.GramCovariance(ld.Diagonal(torch.tensor([1.0, 2.0])))])
    with pytest.raises(ValueError, match="schedule of isotropic noise"):
        to_azula(coloured)
    for convert in (to_azula, from_azula):
        with pytest.raises(TypeError, match="expected a schedule, a"):
            convert(3)
    with pytest.raises(TypeError, match="shape: expected an event shape, which a IsotropicCovariance does not know"):
        from_azula(theirs.IsotropicCovariance(1.0))
    with pytest.raises(TypeError, match="shape: expected an event shape"):
        from_azula(azula.denoise.KarrasDenoiser(torch.nn.Identity(), azula.noise.VPSchedule()))
