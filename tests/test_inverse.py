"""Inverse problems: against dense algebra, the exact posterior of Gaussian data, and what each method promises."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch

import lineardiffusion as ld
from conftest import ZOO
from lineardiffusion.inverse import DDNM, DDRM, DPS, MMPS, DiffPIR, Inpaint, PiGDM
from lineardiffusion.testing import Opaque
from test_solvers import relative_error

METHODS = [DDRM, DDNM, DPS, PiGDM, MMPS, DiffPIR, Inpaint]
BY_DIRECTIONS = [DDRM, DDNM, Inpaint]
SHAPE = (2, 4, 6)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coloured():
    """A process with noise of some covariance, of three steps."""
    noise = ld.GramCovariance(ld.Matrix(covariance_of(48, 5), SHAPE, SHAPE))
    return ld.LinearDiffusion(ld.paths.identity(SHAPE), [0.0, 0.1, 0.3, noise], [1.0, 0.9, 0.6, 0.1], coupling="shared")


class Optimal(torch.nn.Module):
    """E[x_0 | x_t] of x_0 ~ N(m, C) for x_t = M x_0 + Σ_t^{1/2} ε, by dense algebra."""

    def __init__(self, process, covariance, mean):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)
        self.process, self.covariance, self.mean, self._known = process, covariance, mean, {}

    def forward(self, x, t, size=None):
        t = float(t[0])
        if t not in self._known:
            M, noise = self.process.operator(0, t).to_dense(), self.process.noise_covariance(t).to_dense()
            gain = self.covariance @ M.T @ torch.linalg.inv(M @ self.covariance @ M.T + noise)
            self._known[t] = M, gain
        M, gain = self._known[t]
        result = self.mean + (x.flatten(1) - self.mean @ M.T) @ gain.T
        return result.reshape(len(x), *self.process.shape(0)).to(x)


def optimal(process, covariance=None, mean=None):
    n = math.prod(process.shape(0))
    covariance = torch.eye(n, dtype=torch.float64) if covariance is None else covariance
    mean = torch.zeros(n, dtype=torch.float64) if mean is None else mean
    return ld.Denoiser(Optimal(process, covariance, mean), process, "data", time_input="time")


def covariance_of(n, seed=0):
    root = randn(n, n, seed=seed) / n**0.5
    return root @ root.T + 0.05 * torch.eye(n, dtype=torch.float64)


def posterior(covariance, mean, A, y, sigma_y):
    """Mean and covariance of x_0 given y."""
    marginal = A @ covariance @ A.T + sigma_y**2 * torch.eye(len(A), dtype=torch.float64)
    gain = covariance @ A.T @ torch.linalg.inv(marginal)
    return mean + gain @ (y - A @ mean), covariance - gain @ A @ covariance


def edm(shape, levels=(0.05, 0.3, 2.0)):
    """Few steps of x = x_0 + σ ε."""
    return ld.LinearDiffusion(ld.paths.identity(shape), ld.schedules.table([1.0] * (len(levels) + 1), [0.0, *levels]))


# ---------------------------------------------------------------------- functions of AᵀA


def dense_ddrm_step(A, m, eps, y, zeta, level, sigma_y, eta, eta_b):
    """x̃′ with the singular value decomposition of a matrix, rows as samples."""
    U, s, Vt = torch.linalg.svd(A, full_matrices=True)
    seen = s > 1e-9 * s[0]
    full = torch.zeros(Vt.shape[0], dtype=torch.float64)
    full[: len(s)][seen] = s[seen]
    told = full > 0
    safe = torch.where(told, full, 1)
    y_bar = torch.zeros_like(m)
    y_bar[:, : len(s)] = y @ U[:, : len(s)]
    y_bar, r = y_bar / safe, sigma_y / safe
    m, eps, zeta = m @ Vt.T, eps @ Vt.T, zeta @ Vt.T
    kept = math.sqrt(1 - eta**2)
    noisier = m + kept * level * (y_bar - m) / r.clamp(min=1e-300) + eta * level * zeta
    below = eta_b * y_bar + (1 - eta_b) * m + (level**2 - eta_b**2 * r**2).clamp(min=0).sqrt() * zeta
    unseen = m + kept * level * eps + eta * level * zeta
    return torch.where(told, torch.where(r > level, noisier, below), unseen) @ Vt


@pytest.mark.parametrize("sigma_y", [0.0, 0.4])
def test_ddrm_is_dense_algebra(op, sigma_y):
    p = edm(op.in_shape)
    d = optimal(p, covariance_of(math.prod(op.in_shape)))
    x, y, zeta = (randn(2, *shape, seed=i) for i, shape in enumerate([op.in_shape, op.out_shape, op.in_shape]))
    if sigma_y == 0:
        y = op(randn(2, *op.in_shape, seed=5))
    sampler = DDRM(d, op, y, sigma_y, eta=0.7, eta_b=0.9)
    own = sampler.step(2 * x, 3, 2, noise=zeta)
    m = d(2 * x, 3, 0)
    flat = [part.flatten(1) for part in (m, (2 * x - m) / 2.0, y, zeta)]
    expected = dense_ddrm_step(op.to_dense(), *flat, 0.3, sigma_y, 0.7, 0.9)
    assert relative_error(own.flatten(1), expected) <= 1e-8


def fits(op, method):
    y = op(randn(2, *op.in_shape, seed=3))
    x = method(optimal(edm(op.in_shape)), op, y, 0.0)(2, seeds=[0, 1], progress=False)
    assert relative_error(op(x), y) <= 1e-9


def test_without_noise_the_result_fits_y(op):
    fits(op, DDNM)


@pytest.mark.parametrize("name", ["mask", "convolution circular", "channel mix", "transposed"])
@pytest.mark.parametrize("method", [DDRM, Inpaint, DiffPIR])
def test_without_noise_all_of_these_fit_y(name, method):
    fits(ZOO[name], method)


@pytest.mark.parametrize("method", METHODS)
def test_structure_changes_nothing(method):
    """A pool known by `apply` alone."""
    A, p = ld.AveragePool(SHAPE, (2, 3)), edm(SHAPE)
    y = A(randn(*SHAPE, seed=3))
    results = [
        method(optimal(p, covariance_of(48)), op, y, 0.1)(3, seeds=range(3), progress=False) for op in (A, Opaque(A))
    ]
    assert relative_error(*results) <= 1e-5


def test_pixels_of_repaint():
    mask = (randn(*SHAPE) > 0).double()
    y, p = mask * randn(*SHAPE, seed=1), edm(SHAPE)
    d, x_t, noise = optimal(p, covariance_of(48)), randn(2, *SHAPE, seed=2), randn(2, *SHAPE, seed=3)
    other = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(7))
    sampler = Inpaint(d, ld.Diagonal(mask), y, 0.1)
    own = sampler.step(x_t, 3, 2, noise=noise, generator=torch.Generator().manual_seed(7))
    plain = ld.AncestralSampler(d).step(x_t, 3, 2, noise=noise)
    known = y + math.sqrt(0.3**2 - 0.1**2) * other.double()
    assert relative_error(own, mask * known + (1 - mask) * plain) <= 1e-12
    # Noisier than the state: what is known tells nothing more.
    own = sampler.step(x_t, 2, 1, noise=noise, generator=torch.Generator().manual_seed(7))
    assert relative_error(own, ld.AncestralSampler(d).step(x_t, 2, 1, noise=noise)) <= 1e-12


@pytest.mark.parametrize("method", [DDNM, Inpaint])
def test_repeats_are_steps_with_noise_between(method):
    A, p = ld.AveragePool(SHAPE, (2, 3)), edm(SHAPE)
    d, y = optimal(p), A(randn(*SHAPE, seed=3))
    generator, copy = (torch.Generator().manual_seed(5) for _ in range(2))
    x_t, noise = randn(2, *SHAPE, seed=2), randn(2, *SHAPE, seed=4)
    own = method(d, A, y, 0.0, repeats=2).step(x_t, 3, 2, noise=noise, generator=generator)
    single = method(d, A, y, 0.0)
    x_s = single.step(x_t, 3, 2, noise=noise, generator=copy)
    back = torch.randn(2, *SHAPE, generator=copy).double()
    again = single.step(x_s + math.sqrt(2.0**2 - 0.3**2) * back, 3, 2, noise=noise, generator=copy)
    assert relative_error(own, again) <= 1e-12


# ---------------------------------------------------------------------- Gaussian data


def problem(sigma_y=0.2, shape=(1, 3, 4), seed=0):
    n = math.prod(shape)
    covariance, mean = covariance_of(n, seed), 0.3 * randn(n, seed=1)
    A = ld.Resize(shape, (2, 2))
    y = A(randn(*shape, seed=2)) + sigma_y * randn(*A.out_shape, seed=3)
    return A, y, covariance, mean, posterior(covariance, mean, A.to_dense(), y.flatten(), sigma_y)


def affine_map(sampler):
    """b and G of x_0 = b + G x_T for a sampler that draws nothing after x_T."""
    p = sampler.denoiser.process
    n = math.prod(p.shape(0))
    states = torch.cat([torch.zeros(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)])
    ends = sampler(n + 1, start=(p.end, states.reshape(-1, *p.shape(0))), progress=False).flatten(1)
    return ends[0], (ends[1:] - ends[0]).T * p.sigma(p.end)


def errors_of(sampler, exact):
    """Of the samples' mean and covariance, relative."""
    mean, root = affine_map(sampler)
    return relative_error(mean, exact[0]), relative_error(root @ root.T, exact[1])


def vp():
    return ld.LinearDiffusion(ld.paths.identity((1, 3, 4)), ld.schedules.vp())


@pytest.mark.long
def test_mmps_is_exact_for_gaussian_data():
    """The samples tend to p(x_0 | y) with the length of steps, to first order as DDIM's do to p(x_0): their covariance,
    and but for the signal of 0.7 % that is left in x_T their mean."""
    A, y, covariance, mean, exact = problem()
    d = optimal(vp(), covariance, mean)
    found = [errors_of(MMPS(d, A, y, 0.2, ld.grids.log_snr(steps), eta=0.0, iterations=4), exact) for steps in (10, 20)]
    assert max(mean for mean, _ in found) <= 0.01
    assert found[1][1] <= 0.23
    assert found[1][1] <= 0.55 * found[0][1]


@pytest.mark.parametrize("solver", ["cg", "gmres"])
def test_the_estimate_of_mmps_is_the_conditional_mean(solver):
    """E[x_0 | x_t, y], with noise of any covariance: a Gaussian of both measurements."""
    A, y, covariance, mean, _ = problem()
    n = len(mean)
    coloured = ld.GramCovariance(ld.Matrix(covariance_of(n, 5), (1, 3, 4), (1, 3, 4)))
    for level in (0.7, coloured):
        p = ld.LinearDiffusion(ld.paths.identity((1, 3, 4)), [0.0, level], [1.0, 0.6])
        x_t = randn(2, 1, 3, 4, seed=6)
        own = MMPS(optimal(p, covariance, mean), A, y, 0.2, solver=solver, iterations=8).step(x_t, 1, 0)
        noise = p.noise_covariance(1).to_dense()
        both = torch.cat([0.6 * torch.eye(n, dtype=torch.float64), A.to_dense()])
        marginal = both @ covariance @ both.T + torch.block_diag(noise, 0.04 * torch.eye(4, dtype=torch.float64))
        given = torch.cat([x_t.flatten(1), y.flatten().expand(2, -1)], 1)
        expected = mean + (given - mean @ both.T) @ torch.linalg.inv(marginal) @ both @ covariance
        assert relative_error(own.flatten(1), expected) <= 1e-8


def test_pigdm_is_exact_for_unit_covariance_alone():
    A, y, covariance, mean, _ = problem()
    errors = {}
    for name, data in {"unit": torch.eye(12, dtype=torch.float64), "other": covariance}.items():
        exact = posterior(data, mean, A.to_dense(), y.flatten(), 0.2)
        options = {"steps": ld.grids.log_snr(50), "eta": 0.0}
        errors[name] = errors_of(PiGDM(optimal(vp(), data, mean), A, y, 0.2, **options), exact)
    assert errors["unit"][0] <= 0.01
    assert errors["unit"][1] <= 0.1
    assert errors["other"][0] >= 0.2


def test_bias_of_each_method():
    """How far the mean of samples is from E[x_0 | y], in units of the posterior's standard deviation: MMPS has no bias
    beyond that of few steps, and all know something of y."""
    A, y, covariance, mean, exact = problem()
    d, grid, spread = optimal(vp(), covariance, mean), ld.grids.log_snr(20), float(exact[1].trace()) ** 0.5

    def bias(sampler):
        samples = sampler(400, generator=torch.Generator().manual_seed(0), progress=False).flatten(1)
        return float((samples.mean(0) - exact[0]).norm()) / spread

    found = {method.__name__: round(bias(method(d, A, y, 0.2, grid)), 3) for method in METHODS}
    nothing = bias(ld.AncestralSampler(d, grid))
    print(found, round(nothing, 3))
    assert found["MMPS"] <= 0.15  # of which 1/√400 = 0.05 is chance
    assert min(found, key=found.get) == "MMPS"
    assert max(found.values()) < nothing


# ---------------------------------------------------------------------- gradients


def ddpm():
    return ld.DDPM(SHAPE, num_steps=20)


def tanh_denoiser(process, seed=0):
    n = process.shape(0)[-1]
    weight = randn(n, n, seed=seed) / n**0.5
    return ld.Denoiser(lambda x, index: torch.tanh(x @ weight.to(x)), process, "data")


def test_the_gradient_of_dps_is_that_of_each_norm():
    p, A = ddpm(), ld.Resize(SHAPE, (2, 3), "bicubic")
    d, x_t, y = tanh_denoiser(p), randn(3, *SHAPE, seed=1).requires_grad_(), randn(3, *A.out_shape, seed=2)
    y[1] = A(d(x_t, 12, 0))[1].detach()  # there the norm has no gradient
    misfit = (y - A(d(x_t, 12, 0))).flatten(1)
    (expected,) = torch.autograd.grad(misfit[[0, 2]].norm(dim=1).sum(), x_t)
    noise = randn(3, *SHAPE, seed=3)
    plain = ld.AncestralSampler(d).step(x_t.detach(), 12, 10, noise=noise)
    own = plain - DPS(d, A, y, 0.0, scale=1.0).step(x_t.detach(), 12, 10, noise=noise)
    assert relative_error(own[[0, 2]], expected[[0, 2]]) <= 1e-12
    assert not own[1].any()


def test_dps_of_blurred_and_coloured_states():
    A = ld.AveragePool(SHAPE, (2, 3))
    y, noise, x_t = A(randn(*SHAPE, seed=3)), randn(2, *SHAPE), randn(2, *SHAPE, seed=2)
    for p in (ld.BlurringDiffusion(SHAPE, num_steps=10), coloured()):
        d, t, s = tanh_denoiser(p), p.end, p.end - 1
        at = x_t.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((y - A(d(at, t, 0))).flatten(1).norm(dim=1).sum(), at)
        plain = p.posterior(x_t, p.operator(0, s)(d(x_t, t, 0)), t, s)
        own = DPS(d, A, y, 0.0, scale=2.0).step(x_t, t, s, noise=noise)
        assert relative_error(own, plain.mean + plain.covariance.sqrt(noise) - 2 * gradient) <= 1e-9


def test_a_network_without_gradients_is_told_of():
    p, A = ddpm(), ld.AveragePool(SHAPE, (2, 3))
    d = ld.Denoiser(torch.no_grad()(lambda x, index: 0.5 * x), p, "data")
    with pytest.warns(RuntimeWarning, match="no_grad"):
        DPS(d, A, torch.zeros(A.out_shape)).step(torch.randn(1, *SHAPE), 12, 10)


@pytest.mark.parametrize("method", [DPS, PiGDM, MMPS])
def test_gradients_in_inference_mode_and_of_parameters_that_learn(method):
    p, A = ddpm(), ld.AveragePool(SHAPE, (2, 3))
    layer = torch.nn.Linear(6, 6)
    sampler = method(ld.Denoiser(_Layer(layer), p, "data"), A, torch.zeros(A.out_shape), 0.1, steps=5)
    with torch.inference_mode():
        x = sampler(2, seeds=[0, 1], progress=False)
    again = sampler(2, seeds=[0, 1], progress=False)
    assert torch.equal(x, again)
    assert layer.weight.grad is None
    assert not again.requires_grad


class _Layer(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, index):
        return torch.tanh(self.layer(x))


# ---------------------------------------------------------------------- samplers like others


@pytest.mark.parametrize("method", METHODS)
def test_seeds_measurements_and_batches(method):
    p, A = ddpm(), ld.AveragePool(SHAPE, (2, 3))
    d, y = tanh_denoiser(p), randn(3, *A.out_shape, seed=1)
    together = method(d, A, y, 0.1, steps=8)(3, seeds=[3, 4, 5], progress=False)
    assert together.shape == (3, *SHAPE)
    alone = method(d, A, y[1], 0.1, steps=8)(2, seeds=[9, 4], progress=False)
    assert relative_error(alone[1], together[1]) <= 1e-5
    other = method(d, A, y[2], 0.1, steps=8)(1, seeds=[4], progress=False)
    assert method is DPS or relative_error(other[0], together[1]) > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("process", ["VP", "VE", "flow", "EDM"])
def test_processes_grids_and_starts(method, process):
    shape = (2, 3, 4, 6)  # a video, not square
    p = {
        "VP": lambda: ld.LinearDiffusion(ld.paths.identity(shape), ld.schedules.vp()),
        "VE": lambda: ld.LinearDiffusion(ld.paths.identity(shape), ld.schedules.ve(0.01, 50.0)),
        "flow": lambda: ld.FlowMatching(shape),
        "EDM": lambda: ld.EDM(shape),
    }[process]()
    A = ld.AveragePool(shape, (3, 2, 3))
    d, y = optimal(p), A(randn(*shape, seed=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "x_T is not noise")
        sampler = method(d, A, y, 0.05, ld.grids.uniform(6) if process == "flow" else ld.grids.log_snr(6))
        states = list(sampler.trajectory(2, seeds=[0, 1], progress=False))
        assert len(states) == 7
        assert all(bool(x.isfinite().all()) for _, x, _ in states)
        middle = states[3]
        again = sampler(2, seeds=[5, 6], start=(middle[0], middle[1]), progress=False)
        assert bool(again.isfinite().all())
        from_images = sampler(2, seeds=[5, 6], prior=randn(4, *shape), progress=False)
        assert bool(from_images.isfinite().all())
    assert method is DPS or relative_error(A(states[-1][1]), y.expand(2, *y.shape)) < 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_dtypes(method, dtype):
    p, A = ddpm(), ld.AveragePool(SHAPE, (2, 3))
    d = ld.Denoiser(_Layer(torch.nn.Linear(6, 6).to(dtype)), p, "data")
    x = method(d, A, torch.zeros(A.out_shape, dtype=torch.float64), 0.1, steps=4)(1, seeds=[0], progress=False)
    assert x.dtype == (dtype if dtype.itemsize > 2 else torch.float32)


@pytest.mark.parametrize("method", METHODS)
def test_configurations(method):
    p, A, y = ld.DDPM(SHAPE), ld.AveragePool(SHAPE, (2, 3)), torch.zeros(2, 2, 2)
    network = torch.nn.Identity()
    sampler = method(ld.Denoiser(network, p, "data"), A, y, 0.1, ld.grids.log_snr(6), clip=(-1, 1))
    config = json.loads(json.dumps(sampler.to_config()))
    assert config["type"] == f"inverse.{method.__name__}"
    again = ld.from_config(config, network=network, A=A, y=y)
    assert again == sampler
    assert again != method(ld.Denoiser(network, p, "data"), A, y + 1, 0.1, ld.grids.log_snr(6), clip=(-1, 1))
    assert repr(sampler).startswith(f"{method.__name__}(Denoiser(")
    with pytest.raises(ValueError, match=r"'A'.*A=…"):
        ld.from_config(config, network=network, y=y)


def test_names_of_the_contract():
    assert ld.inverse.RePaint is ld.inverse.Inpaint
    assert all(issubclass(method, ld.inverse.InverseSampler) for method in METHODS)


# ---------------------------------------------------------------------- shapes that grow


def test_diffpir_where_the_shape_grows():
    """x* is an image of full size at every size of x_t: with σ_y = 0 it fits y, and so does the result; with noise the
    samples are nearer to the posterior's mean than samples that know nothing of y."""
    shape, n = (1, 8, 8), 64
    p = ld.ScaleSpaceDiffusion(shape, levels=3, mode="haar", num_steps=200)
    A = ld.AveragePool(shape, (4, 4))
    covariance = covariance_of(n)
    d, y = optimal(p, covariance), A(randn(*shape, seed=3))
    steps = sorted({*range(200, 0, -10), *p.shape_changes(), 1}, reverse=True)
    x = DiffPIR(d, A, y, 0.0, steps)(4, seeds=range(4), progress=False)
    assert relative_error(A(x), y.expand(4, 1, 2, 2)) <= 1e-9
    mean, _ = posterior(covariance, torch.zeros(n, dtype=torch.float64), A.to_dense(), y.flatten(), 0.05)
    told = DiffPIR(d, A, y, 0.05, steps)(200, seeds=range(200), progress=False).flatten(1).mean(0)
    untold = ld.AncestralSampler(d, steps)(200, seeds=range(200), progress=False).flatten(1).mean(0)
    assert float((told - mean).norm()) < 0.6 * float((untold - mean).norm())


def test_what_grows_is_refused_by_all_others():
    p, A = ld.ScaleSpaceDiffusion((1, 8, 8), levels=2), ld.AveragePool((1, 8, 8), (2, 2))
    d = ld.Denoiser(lambda x, index, size: x.new_zeros(len(x), 1, *size), p, "data")
    for method in METHODS:
        if method is not DiffPIR:
            with pytest.raises(ValueError, match=r"one shape.*DiffPIR"):
                method(d, A, torch.zeros(1, 4, 4))
    clean = ld.Denoiser(lambda x, index, size: x.new_zeros(len(x), 1, *size), p)
    with pytest.raises(ValueError, match="prediction 'data'"):
        DiffPIR(clean, A, torch.zeros(1, 4, 4))
    lifted = ld.Denoiser(lambda x, index: torch.zeros_like(x), p, "noise", lift="pseudoinverse")
    x = DiffPIR(lifted, A, torch.ones(1, 4, 4), steps=ld.grids.uniform(5))(1, progress=False)
    assert relative_error(A(x), torch.ones(1, 1, 4, 4)) <= 1e-5


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"A": lambda x: x}, TypeError, "A: expected an ld.LinearOperator"),
        ({"A": ld.AveragePool((1, 4, 4), (2, 2))}, ValueError, "A: expected an operator on images"),
        ({"y": torch.zeros(3, 3)}, ValueError, "y: expected shape"),
        ({"y": torch.zeros(1, 3, 2, 2, 2)}, ValueError, "y: expected shape"),
        ({"y": [0.0]}, TypeError, "y: expected a torch.Tensor"),
        ({"y": torch.full((2, 2, 2), math.nan)}, ValueError, "y: expected finite"),
        ({"sigma_y": -0.1}, ValueError, "sigma_y: expected a number ≥ 0"),
        ({"sigma_y": math.inf}, ValueError, "sigma_y: expected a number ≥ 0"),
        ({"sigma_y": "0.1"}, TypeError, "sigma_y"),
        ({"denoiser": lambda x: x}, TypeError, "denoiser: expected an ld.Denoiser"),
        ({"steps": 0}, ValueError, "expected 1 ≤ steps"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_refusals(method, change, error, message):
    p, A = ddpm(), ld.AveragePool(SHAPE, (2, 3))
    arguments = {"denoiser": tanh_denoiser(p), "A": A, "y": torch.zeros(2, 2, 2), "sigma_y": 0.1, "steps": 4, **change}
    with pytest.raises(error, match=message):
        method(*arguments.values())


class Offset(ld.LinearOperator):
    def apply(self, x):
        return x + 1


class Absolute(ld.LinearOperator):
    def apply(self, x):
        return x.abs()


@pytest.mark.parametrize("kind", [Offset, Absolute])
def test_what_is_not_linear_is_refused(kind):
    with pytest.raises(ValueError, match="A: expected a linear operator"):
        DPS(tanh_denoiser(ddpm()), kind(SHAPE, SHAPE), torch.zeros(SHAPE))


def test_another_number_of_measurements():
    p, A = ddpm(), ld.AveragePool(SHAPE, (2, 3))
    with pytest.raises(ValueError, match="one measurement for each of 2 samples"):
        DDRM(tanh_denoiser(p), A, torch.zeros(3, 2, 2, 2), steps=2)(2, progress=False)


@pytest.mark.parametrize("method", [DDRM, DDNM, PiGDM, MMPS, Inpaint])
def test_a_process_that_degrades_is_refused(method):
    with pytest.raises(ValueError, match="does nothing to the image"):
        method(
            tanh_denoiser(ld.BlurringDiffusion(SHAPE, num_steps=10)),
            ld.AveragePool(SHAPE, (2, 3)),
            torch.zeros(2, 2, 2),
        )


@pytest.mark.parametrize("method", [DDRM, DDNM, PiGDM, DiffPIR, Inpaint])
def test_coloured_noise_is_refused(method):
    with pytest.raises(ValueError, match="isotropic"):
        method(tanh_denoiser(coloured()), ld.AveragePool(SHAPE, (2, 3)), torch.zeros(2, 2, 2))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (DPS, {"scale": -1.0}, "scale"),
        (DPS, {"eta": 2.0}, "eta"),
        (PiGDM, {"weight": "none"}, "weight"),
        (MMPS, {"solver": "lu"}, "solver"),
        (MMPS, {"iterations": 0}, "iterations"),
        (DiffPIR, {"lambda_": 0.0}, "lambda_"),
        (DiffPIR, {"zeta": 1.5}, "zeta"),
        (DDRM, {"eta_b": 1.5}, "eta_b"),
        (DDNM, {"repeats": 0}, "repeats"),
    ],
)
def test_options_out_of_range(method, options, message):
    p, A = ddpm(), ld.AveragePool(SHAPE, (2, 3))
    with pytest.raises(ValueError, match=message):
        method(tanh_denoiser(p), A, torch.zeros(2, 2, 2), 0.1, **options)


# ---------------------------------------------------------------------- solvers


@pytest.mark.parametrize("name", ["cg", "gmres"])
def test_solvers_for_each_sample(name):
    from lineardiffusion.inverse import mmps

    matrices = torch.stack([covariance_of(6, 1), torch.eye(6, dtype=torch.float64), covariance_of(6, 2)])
    b = randn(3, 6, seed=4)
    b[2] = 0
    x = mmps.SOLVERS[name](lambda v: torch.einsum("bij,bj->bi", matrices, v), b, 8)
    assert relative_error(x[:2], torch.linalg.solve(matrices, b)[:2]) <= 1e-9
    assert not x[2].any()


def test_gmres_is_the_least_residual():
    matrix, b = randn(2, 7, 7, seed=3), randn(2, 7, seed=4)
    from lineardiffusion.inverse.solve import minimal_residual

    x = minimal_residual(lambda v: torch.einsum("bij,bj->bi", matrix, v), b, 3)
    krylov = torch.stack([b, *(torch.einsum("bij,bj->bi", m, b) for m in (matrix, matrix @ matrix))], -1)
    images = matrix @ krylov
    best = torch.linalg.lstsq(images, b[..., None]).solution
    assert relative_error(x, (krylov @ best)[..., 0]) <= 1e-8
