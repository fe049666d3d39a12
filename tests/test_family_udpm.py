"""UDPM, against its authors' numbers, all of them float64 to rounding."""

from __future__ import annotations

import json

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import UDPM, UDPMSampler
from test_operators import draw
from vectors import load, relative_error

# What a published step makes of mean and variance beside what they should be, least and largest, as in its docstring.
ERRORS = {("norm", 2): (-0.0099, 0), ("norm", 3): (-4.5e-7, 0), ("sum", 2): (-0.0099, -0.0074),
          ("sum", 3): (-4.5e-7, -3.4e-7)}  # fmt: skip


@pytest.fixture(scope="module")
def vectors(shared):
    return load(shared / "vectors" / "families" / "udpm.safetensors")[1]


def silent(x, index, size):
    return x.new_zeros(len(x), x.shape[1], *size)


def theirs(process):
    return UDPMSampler(process.denoiser(silent))


@pytest.mark.parametrize("kernel", ["norm", "sum"])
def test_states_and_posteriors(vectors, kernel):
    """H_x0, noise, x_t, predicted, Ht_x_t, posterior_mean, posterior_variance, alphas, sigmas, times."""
    process = UDPM((3, 32, 32), vectors["alphas"].tolist(), vectors["sigmas"].tolist(), kernel)
    assert process == UDPM((3, 32, 32), kernel=kernel)  # the defaults
    torch.testing.assert_close((torch.arange(3).double() + 0.5) / 3, vectors["times"])
    prefix = "" if kernel == "norm" else "sum."
    for t in (1, 2, 3):
        scale = {"norm": 2.0, "sum": 1.0}[kernel]  # theirs has H^t x_0 in the place of means
        expected = {name: vectors[f"{prefix}{t}.{name}"] for name in ("H_x0", "x_t")}
        assert relative_error(scale**t * process.clean(vectors["x0"], t), expected["H_x0"]) <= 1e-10
        assert relative_error(process.diffuse(vectors["x0"], t, vectors[f"{t}.noise"]), expected["x_t"]) <= 1e-10
        if t == 1:
            continue
        clean = vectors[f"{t}.predicted"] if kernel == "norm" else vectors[f"sum.{t - 1}.H_x0"]
        mean, variance = theirs(process).kernel(expected["x_t"], clean / scale ** (t - 1), t, t - 1)
        assert relative_error(mean, vectors[f"{prefix}{t}.posterior_mean"]) <= 1e-10
        assert variance == pytest.approx(float(vectors[f"{prefix}{t}.posterior_variance"]), rel=1e-10)
        if kernel == "norm":
            back = process.operator(t - 1, t).transpose(vectors[f"{t}.x_t"]) / vectors["alphas"][t - 1]
            assert relative_error(back, vectors[f"{t}.Ht_x_t"]) <= 1e-10


def test_kernels(vectors):
    """`kernel` and `sum.kernel`: means of 2 × 2 pixels, times 2."""
    for name, kernel, weight in (("kernel", "norm", 0.5), ("sum.kernel", "sum", 0.25)):
        values = set(vectors[name].unique().tolist())
        assert values == {0.0, weight}
        row = UDPM((1, 4, 4), [1.0], [0.1], kernel).operator(0, 1).to_dense()[0]
        assert row.unique().tolist() == pytest.approx(sorted(values))


def test_trajectory(vectors):
    """sampler.*: the start, and each step with the stored outputs of the network and noise; the last is the output."""
    process = UDPM((3, 32, 32))
    start = process.diffuse(vectors["sampler.draw"].double(), 3, vectors["sampler.start_noise"])
    assert relative_error(start, vectors["sampler.3.x"]) <= 1e-10
    outputs = {t - 1: vectors[f"sampler.{t}.net"] / 2 ** (t - 1) for t in (2, 3)}
    sampler = UDPMSampler(process.denoiser(lambda x, index, size: outputs[int(index[0])]))
    for t in (3, 2):
        x = sampler.step(vectors[f"sampler.{t}.x"], t, t - 1, noise=vectors[f"sampler.{t}.noise"])
        assert relative_error(x, vectors[f"sampler.{t - 1}.x"]) <= 1e-10
    last = draw((3, 32, 32), 1)
    assert torch.equal(UDPMSampler(process.denoiser(lambda x, index, size: last)).step(x, 1, 0), last)


@pytest.mark.parametrize(("kernel", "t"), list(ERRORS))
def test_exact_posterior_and_the_error_of_the_published_one(kernel, t):
    """Ours is Bayes' rule in dense algebra; of theirs, mean and covariance of x_s given x_0."""
    process, s = UDPM((1, 8, 8), kernel=kernel), t - 1
    matrix, sigma_s, sigma_t = process.operator(s, t).to_dense(), process.sigma(s), process.sigma(t)
    n, one = matrix.shape[1], torch.eye(matrix.shape[1]).double()
    x_t, mean_s = draw(process.shape(t), 2), draw(process.shape(s), 2)
    added = sigma_t**2 * torch.eye(len(matrix)).double() - sigma_s**2 * matrix @ matrix.T
    covariance = torch.linalg.inv(one / sigma_s**2 + matrix.T @ torch.linalg.solve(added, matrix))
    told = x_t.flatten(1) @ torch.linalg.solve(added, matrix) + mean_s.flatten(1) / sigma_s**2
    posterior = process.posterior(x_t, mean_s, t)
    torch.testing.assert_close(posterior.mean.flatten(1), told @ covariance, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(posterior.covariance.to_dense(), covariance, rtol=1e-10, atol=1e-10)

    kernel_of, state, clean = theirs(process).kernel, process.shape(t), process.shape(s)
    gain, variance = kernel_of(torch.eye(len(matrix)).double().reshape(-1, *state), torch.zeros(1, *clean), t, s)
    own, _ = kernel_of(torch.zeros(n, *state), one.reshape(n, *clean) / process.signal_scale(s), t, s)
    gain, own = gain.flatten(1).T, own.flatten(1).T
    means = torch.linalg.eigvalsh(gain @ matrix + own - one)
    variances = torch.linalg.eigvalsh(sigma_t**2 * gain @ gain.T + (variance - sigma_s**2) * one) / sigma_s**2
    for errors in (means, variances):
        assert (float(errors[0]), float(errors[-1])) == pytest.approx(ERRORS[kernel, t], rel=0.01, abs=1e-12)


def test_process():
    for kernel in ("norm", "sum"):
        ld.testing.check_process(UDPM((1, 8, 8), kernel=kernel), samples=200)
    assert UDPM((2, 8), [0.5, 0.1], [0.1, 0.2]).operator(0, 2).norm() == pytest.approx(0.05)  # in one dimension √2 D


def test_sampling_loss_and_configuration(generator):
    process = UDPM((3, 32, 32))
    denoiser = process.denoiser(silent)
    for sampler in (process.sampler(denoiser), UDPMSampler(denoiser), UDPMSampler(denoiser, clip=(-1.0, 1.0))):
        assert sampler(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
        again = ld.from_config(json.loads(json.dumps(sampler.to_config())), network=silent)
        assert again == sampler
    x0 = torch.rand(4, 3, 32, 32)
    loss = process.loss(denoiser, x0, generator)
    t = process.drawn_times.sample(process, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, process.clean(x0, t - 1).square().flatten(1).mean(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UDPM((3, 12, 12)), "levels: expected sizes that can be halved 3 times"),
        (lambda: UDPM((3, 8, 8), [0.5], [0.1, 0.2]), "alphas, sigmas: expected as many positive numbers"),
        (lambda: UDPM((3, 8, 8), [0.5], [0.0]), "alphas, sigmas: expected as many positive numbers"),
        (lambda: UDPM((3, 8, 8), kernel="mean"), "kernel: expected one of"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
