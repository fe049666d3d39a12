"""SPEED, against the numbers of its own code (float32: 1e-6) and Gaussian data."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

import lineardiffusion as ld
from lineardiffusion.families import SPEED
from lineardiffusion.families.jumps import JumpSampler
from lineardiffusion.families.multiresolution import Restarted, jump_kernel
from lineardiffusion.families.speed import activation_log_snr
from lineardiffusion.samplers import Draws
from vectors import load, relative_error


@pytest.fixture(scope="module")
def reference(shared):
    return load(shared / "vectors" / "families" / "speed.safetensors")[1]


def noise_of(case, noise):
    """Their draws, coefficients of what is new, as white noise on pixels."""
    if case != 3:
        return ld.bases.Cosine(tuple(noise.shape)).synthesise(noise)[None]
    z = noise.new_zeros(2, 16, 16)
    rows, columns, both = noise.unflatten(0, (2, 3)).unbind(1)
    z[:, 8:, :8], z[:, :8, 8:], z[:, 8:, 8:] = rows, columns, both
    return ld.bases.Haar((2, 16, 16)).synthesise(z)[None]


@pytest.mark.parametrize("case", [0, 1, 2, 3])
def test_jumps(reference, case):
    """State, κ and t̃ after each jump. Cases 4 and 5 are those of the "fft" option, which is not offered."""
    tensors = {name.split(".")[1]: value for name, value in reference.items() if name.startswith(f"case{case}.")}
    t, r = float(tensors["t"]), float(tensors["r"])
    x, shape = tensors["x"], tuple(tensors["out"].shape[1:])
    noise = noise_of(case, tensors["noise"])
    schedule = ld.schedules.flow()
    aligned = schedule.time(schedule.log_snr(t) - 2 * math.log(r))
    assert aligned == pytest.approx(float(tensors["aligned_t"]), rel=1e-12)
    assert aligned / t == pytest.approx(float(tensors["kappa"]), rel=1e-12)
    if case == 1:  # sizes of another ratio than r
        embedding = ld.Truncation(ld.bases.Cosine(shape), x.shape[1:]).T
        operator, covariance = jump_kernel(r * embedding, schedule(t), schedule(aligned))
        result = covariance.sample(operator(x), noise)
    else:
        p = SPEED(shape, transitions=[t], basis="haar" if case == 3 else "cosine")
        ((before, after),) = p.schedule.jumps
        assert (before, after) == (t, pytest.approx(aligned, rel=1e-12))
        result = p.jump(x, p.shape_changes()[0], noise)
    assert relative_error(result, tensors["out"]) <= 1e-6


def test_transitions(reference):
    """Activation times, in float64 (1e-12), and those at which stages end."""
    A, beta = reference["spectrum.A"], reference["spectrum.beta"]
    flow, base = ld.schedules.flow(), ld.FlowMatching((1, 64, 96))
    for i, delta in enumerate((0.01, 0.1)):
        for j, power in enumerate(reference["activation.P"].tolist()):
            t = flow.time(activation_log_snr(power, delta))
            assert t == pytest.approx(float(reference["activation.t"][i, j]), rel=1e-12)
        for k in range(3):  # of FLUX.1, PixelGen, Wan 2.1
            p = SPEED((1, 64, 96), base, (1 / 4, 1 / 2), delta=delta, spectrum=(float(A[k]), float(beta[k])))
            # Ours in the order of a sampler, as theirs.
            times = torch.tensor([before for before, _ in p.schedule.jumps], dtype=torch.float64)
            torch.testing.assert_close(times, reference["transitions"][k, i], rtol=1e-12, atol=0)
    flux = SPEED((1, 64, 96), base, spectrum=(float(A[0]), float(beta[0])))
    assert SPEED((1, 64, 96), base).schedule.jumps == flux.schedule.jumps


BASES = {
    "flow": lambda shape: ld.FlowMatching(shape, shift=2.0),
    "ddpm": lambda shape: ld.DDPM(shape),
    "edm": lambda shape: ld.EDM(shape),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("basis", ["cosine", "haar"])
def test_jump_is_the_posterior_without_detail(name, basis, generator):
    """For (a_t, σ_t) of any base: mean and dense covariance, 1e-10."""
    base = BASES[name]((2, 8, 4))
    p = SPEED(base.shape(0), base=base, transitions=[base.schedule.time(-1.0)], basis=basis)
    (t,) = p.shape_changes()
    s = p.before(t)
    assert p.schedule.log_snr(s) == pytest.approx(-1.0 - 2 * math.log(2), abs=1e-9)
    x = torch.randn(3, 2, 4, 2, dtype=torch.float64, generator=generator)
    coarse = torch.randn(3, 2, 4, 2, dtype=torch.float64, generator=generator)
    mean_s = p.signal_scale(s) * p.lift(t)(coarse)
    # M = E^T/κ
    kappa = p.sigma(s) / p.sigma(t)
    torch.testing.assert_close(kappa * p.operator(s, t)(mean_s), p.lift(t).T(mean_s) / 2, rtol=1e-10, atol=1e-12)
    q = p.posterior(x, mean_s, t, s)
    zeros = torch.zeros(3, 2, 8, 4, dtype=torch.float64)
    torch.testing.assert_close(p.jump(x, t, zeros), q.mean, rtol=1e-10, atol=1e-10)
    units = torch.eye(64, dtype=torch.float64).reshape(64, 2, 8, 4)
    root = p.jump(torch.zeros(64, 2, 4, 2, dtype=torch.float64), t, units).reshape(64, 64)
    expected = q.covariance(units).reshape(64, 64)
    torch.testing.assert_close(root @ root.T, expected, rtol=1e-10, atol=1e-10 * p.sigma(s) ** 2)


def test_process_fits_together():
    ld.testing.check_process(SPEED((1, 8, 4), scales=(0.25, 0.5)), samples=200)


class Gaussian(torch.nn.Module):
    """The flow of data with independent cosine coordinates, at every size."""

    def __init__(self, spectrum):
        super().__init__()
        self.spectrum = spectrum
        self.calls: list[tuple[int, float]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        n, full, sigma = x.shape[-1], self.spectrum.shape[-1], float(t[0])
        self.calls.append((n, sigma))
        v = self.spectrum[:n, :n] * (n / full) ** 2
        basis = ld.bases.Cosine((1, n, n))
        gain = (sigma - (1 - sigma) * v) / ((1 - sigma) ** 2 * v + sigma**2)
        return basis.synthesise(gain * basis.analyse(x))


def variances(sampler, n):
    """Of the cosine coordinates of samples: a step is linear in each source of noise (one for each row), coordinate by
    coordinate."""
    rows = torch.eye(3, dtype=torch.float64)[..., None, None, None]
    ones = {m: ld.bases.Cosine((1, m, m)).synthesise(torch.ones(1, m, m).double()) for m in (n // 2, n)}
    x, history = rows[0] * ones[n // 2], sampler.history()
    for t, s in zip(sampler.times[:-1], sampler.times[1:], strict=True):
        draws = Draws(lambda like: rows[1] * ones[n], lambda like: rows[2] * ones[n])
        x, _ = sampler.advance(x, t, s, draws, history, {})
    return ld.bases.Cosine((1, n, n)).analyse(x).square().sum((0, 1))


def power_law(n):
    """The default spectrum; that of the mean is taken at half a cycle."""
    k = torch.arange(n, dtype=torch.float64)
    return 203.615097 * (0.5 * (k[:, None] ** 2 + k**2).sqrt().clamp(min=1.0)) ** -1.915461


def without_detail(spectrum, t):
    """v/(1 + v a²/σ²) at t̃ for the coordinates that half the size has not."""
    half, after = len(spectrum) // 2, 2 * t / (1 + t)
    result = spectrum / (1 + spectrum * ((1 - after) / after) ** 2)
    result[:half, :half] = spectrum[:half, :half]
    return result


def test_gaussian_data():
    """Without detail variances end as the docstring says, with it as those of the data: within the 4 % that 400 steps
    of Euler's method leave. Detail would have lost a quarter at the least."""
    n, t = 8, 0.5
    spectrum = power_law(n)
    p = SPEED((1, n, n), transitions=[t])
    d = p.denoiser(Gaussian(spectrum))
    lacking = without_detail(spectrum, t)
    assert float((lacking / spectrum)[n // 2 :].max()) < 0.75
    torch.testing.assert_close(variances(p.sampler(d, 400), n), lacking, rtol=0.04, atol=0)
    # Images with one coordinate each have these variances together.
    images = ld.bases.Cosine((1, n, n)).synthesise((64 * spectrum).sqrt().flatten().diag().reshape(64, 1, n, n))
    residual = p.detail(images)
    step = p.shape_changes()[0], p.before(p.shape_changes()[0])
    torch.testing.assert_close(residual.spectra[step][0], spectrum)
    torch.testing.assert_close(variances(p.sampler(d, 400, detail=residual), n), spectrum, rtol=0.04, atol=0)


@pytest.mark.parametrize(("t", "distance"), [(0.9, 0.001), (0.7, 0.016), (0.5, 0.068)])
def test_error_in_the_docstring(t, distance):
    spectrum = power_law(32)
    error = (without_detail(spectrum, t).sqrt() - spectrum.sqrt()).norm() / spectrum.sum().sqrt()
    assert float(error) == pytest.approx(distance, abs=5e-4)


def test_calls_and_times():
    """As many calls as steps, at times of the base; the first call at full size is at t̃."""
    p = SPEED((1, 8, 8), transitions=[0.7])
    net = Gaussian(torch.ones(8, 8).double())
    sampler = p.sampler(p.denoiser(net), 10)
    assert sampler(2, seeds=[0, 1], progress=False).shape == (2, 1, 8, 8)
    assert len(net.calls) == 10
    small, large = ([sigma for n, sigma in net.calls if n == size] for size in (4, 8))
    assert small[0] == pytest.approx(1)
    assert all(sigma > 0.7 for sigma in small)
    assert large[0] == pytest.approx(1.4 / 1.7)
    told = []

    def network(x, index):
        told.append((x.shape[-1], float(index[0])))
        return torch.zeros_like(x)

    q = SPEED((3, 32, 32), base=ld.DDPM((3, 32, 32)), transitions=[800])
    q.sampler(q.denoiser(network), 6)(1, progress=False)
    assert told[0] == (16, pytest.approx(999))
    first = next(index for size, index in told if size == 32)
    assert q.base.schedule.log_snr(first + 1) == pytest.approx(q.base.schedule.log_snr(800) - 2 * math.log(2))


def test_copies_and_configurations():
    p = SPEED((1, 8, 8), transitions=[0.7])
    p.jump(torch.zeros(1, 1, 4, 4), p.shape_changes()[0], torch.zeros(1, 1, 8, 8))
    for copied in (copy.deepcopy(p), pickle.loads(pickle.dumps(p)), ld.from_config(p.to_config())):
        assert copied == p
    assert p != SPEED((1, 8, 8), transitions=[0.6])
    schedule = Restarted(ld.schedules.flow(), [(0.5, 0.75)])
    assert ld.from_config(schedule.to_config()) == schedule
    assert schedule.time_of(1, 0.6) == pytest.approx(0.85)
    with pytest.raises(ValueError, match="falls strictly"):
        schedule.time(0.0)
    assert schedule.sigma(torch.tensor([0.0, 0.25, 0.75, 1.25])).tolist() == [0.0, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("kind", [SPEED, ld.families.RegionAdaptive, ld.families.BottleneckSampling])
def test_loss_and_configuration_of_samplers(kind):
    """The base's loss at every size, and its weighting: here ‖F − (ε − c_t)‖² and the noise's."""
    for base in (ld.FlowMatching((1, 8, 8)), ld.DDPM((1, 8, 8))):
        p = kind((1, 8, 8), base, **({"transitions": [0.5 * base.end]} if kind is SPEED else {}))
        d = p.denoiser(lambda x, t: 0.5 * x)
        x0 = torch.rand(3, 1, 8, 8, dtype=torch.float64)
        for seed in range(4):
            result = p.loss(d, x0, torch.Generator().manual_seed(seed))
            again = torch.Generator().manual_seed(seed)
            t = p.drawn_times.sample(p, 3, again)
            clean = p.clean(x0, t)
            noise = torch.randn(clean.shape, generator=again).double()
            output = 0.5 * p.diffuse(x0, t, noise)
            target = noise - clean if base.prediction == "flow" else noise
            torch.testing.assert_close(result, (output - target).square().flatten(1).mean(1), rtol=1e-6, atol=1e-9)
        sampler = JumpSampler(d, 7, eta=0.5)
        assert ld.from_config(sampler.to_config(), network=d.network) == sampler


def test_errors():
    shape = (1, 8, 8)
    for arguments, message in (
        ({"scales": ()}, "scales"),
        ({"scales": (0.5, 0.25)}, "scales"),
        ({"basis": "fft"}, "basis"),
        ({"delta": 1.0}, "delta"),
        ({"spectrum": (0.0, 1.0)}, "spectrum"),
        ({"transitions": [0.5, 0.4]}, "transitions"),
        ({"base": ld.DDPM(shape), "transitions": [999]}, "the last such time"),
        ({"base": ld.FlowMatching((1, 4, 4))}, "base"),
    ):
        with pytest.raises(ValueError, match=message):
            SPEED(shape, **arguments)
    with pytest.raises(TypeError, match="base"):
        SPEED(shape, base=ld.BlurringDiffusion(shape))
    p = SPEED(shape)
    with pytest.raises(ValueError, match="where the shape changes"):
        p.jump(torch.zeros(1, 1, 4, 4), 0.5, torch.zeros(1, 1, 8, 8))
    with pytest.raises(TypeError, match="process with jumps"):
        JumpSampler(ld.Denoiser(lambda x, t: x, ld.FlowMatching(shape), "flow"), 3)
