"""Processes, denoisers, losses and samplers."""

from __future__ import annotations

import math

import numpy as np
import torch

import lineardiffusion as ld
from provocations import Provocation as P

X = torch.zeros(2, 1, 8, 8)
DDPM = ld.DDPM((1, 8, 8), 10)
FLOW = ld.FlowMatching((1, 8, 8))
SSD = ld.ScaleSpaceDiffusion((1, 8, 8), 2, 10)
BLUR = ld.Convolution(torch.tensor([0.25, 0.5, 0.25]), (1, 8))
CHAIN = ld.LinearDiffusion([BLUR] * 2, [0.0, 0.5, 0.9])


def network(x, time, y=None):
    return x


def resizing(x, time, size):
    return x.new_zeros(len(x), 1, *size)


class Elsewhere(torch.nn.Module):
    """A network whose weights are on another device than the data."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8, device="meta")

    def forward(self, x, time):
        return self.layer(x)


D = ld.Denoiser(network, DDPM, "noise")
COARSE = ld.Denoiser(resizing, SSD)
LABELLED = ld.Denoiser(lambda x, time, y: x + y[:, None, None, None], DDPM, "noise")
GUIDED = ld.guided(LABELLED, 2.0, {"y": 0.0})
SAMPLER = ld.DDIMSampler(D, 3)
NAN, META = X * math.nan, X.to("meta")
V, T = ValueError, TypeError


def returning(value, time_input=None):
    """A call of a network that returns this."""
    return lambda: ld.Denoiser(lambda x, time: value, DDPM, time_input=time_input)(X, 5)


def sample(**options):
    return lambda: SAMPLER(**{"n": 2, "progress": False, **options})


PROCESSES = [
    P(lambda: ld.LinearDiffusion(BLUR, [0, 0.5]), T, "path", "a path or a sequence of operators", "one operator: ["),
    P(lambda: ld.LinearDiffusion(3, [0, 0.5]), T, "path", "such as ld.paths.identity(shape)", "3"),
    P(lambda: ld.LinearDiffusion("heat", ld.schedules.flow()), T, "path", "such as ld.paths.identity", "'heat'"),
    P(lambda: ld.LinearDiffusion([BLUR, 3], [0, 0.5, 0.6]), T, "steps", "LinearOperators", "int at t = 2"),
    P(lambda: ld.LinearDiffusion([BLUR], "linear"), T, "schedule", "ld.schedules.linear(1000)", "'linear'"),
    P(lambda: ld.LinearDiffusion([BLUR], ld.schedules.linear), T, "schedule", "such as ld.sch", "the class linear"),
    P(lambda: ld.LinearDiffusion([BLUR], 0.5), T, "schedule", "σ_0, …, σ_T", "0.5"),
    P(lambda: ld.LinearDiffusion([BLUR], [0, "a"]), T, "sigmas", "a number or a Covariance at t = 1", "'a'"),
    P(lambda: ld.LinearDiffusion([BLUR], [0, -1.0]), V, "sigmas", "a finite number ≥ 0 at t = 1", "-1.0"),
    P(lambda: ld.LinearDiffusion([BLUR], [0, 0.5, 0.6]), V, "schedule", "one of 1 steps", "table"),
    P(lambda: ld.LinearDiffusion([BLUR], [0, 0.5], 1.0), T, "signal", "numbers in a row", "1.0"),
    P(lambda: ld.LinearDiffusion([BLUR], [0, 0.5], coupling="both"), V, "coupling", "'markov', 'shared'", "'both'"),
    P(lambda: ld.LinearDiffusion([BLUR], [0, 0.5], coupling=None), T, "coupling", "'markov', 'shared'", "None"),
    P(lambda: ld.LinearDiffusion([BLUR] * 2, [0, 0.9, 0.5]), V, "sigma", "at t = 2", "0.9", "smallest feasible σ_t"),
    P(lambda: ld.feasible_sigmas([BLUR], 0.5), T, "targets", "σ_0, …, σ_T", "0.5"),
    P(lambda: ld.feasible_sigmas(BLUR, [0, 0.5]), T, "steps", "a sequence of operators", "one operator: ["),
    P(lambda: ld.feasible_sigmas([BLUR], [0, 0.5, 0.6]), V, "targets", "2 numbers", "3"),
    P(lambda: DDPM.shape("5"), T, "t", "a number", "'5'"),
    P(lambda: DDPM.shape(True), T, "t", "a number", "True"),
    P(lambda: DDPM.sigma(11), V, "t", "0 ≤ t ≤ 10", "11"),
    P(lambda: DDPM.sigma(math.nan), V, "t", "0 ≤ t ≤ 10", "nan"),
    P(lambda: DDPM.snr(torch.tensor([1, 11])), V, "t", "0 ≤ t ≤ 10", "values in 1.0…11.0"),
    P(lambda: FLOW.signal_scale(1.5), V, "t", "0 ≤ t ≤ 1.0", "1.5"),
    P(lambda: CHAIN.shape(1.5), V, "t", "an integer, as a chain of operators has no states between", "1.5"),
    P(lambda: DDPM.noise_level([1]), T, "t", "a number", "[1]"),
    P(lambda: DDPM.operator(5, 3), V, "s", "s ≤ t = 3", "5"),
    P(lambda: DDPM.signal_ratio("0", 5), T, "s", "a number", "'0'"),
    P(lambda: DDPM.transition(3, 3), V, "s", "s < t = 3", "3"),
    P(lambda: DDPM.posterior(X, X[..., 1:], 5), V, "mean_s", "(*batch, 1, 8, 8)", "(2, 1, 8, 7)"),
    P(lambda: DDPM.posterior(X, X[:1].expand(3, -1, -1, -1), 5), V, "mean_s", "a batch of (2,), as x_t", "(3,)"),
    P(lambda: DDPM.posterior(X, META, 5), V, "mean_s", "a tensor on cpu, as x_t", "one on meta"),
    P(lambda: DDPM.posterior(X.numpy(), X, 5), T, "x_t", "a torch.Tensor", "ndarray", "torch.as_tensor makes one"),
    P(lambda: DDPM.kernel(X, X, 5, 4, eta=2), V, "eta", "a number in [0, 1]", "2"),
    P(lambda: DDPM.kernel(X, X, 5, 4, eta=[0]), T, "eta", "a number", "[0]"),
    P(lambda: DDPM.step_kernel([5], 4, 0.5), T, "t", "a number", "[5]"),
    P(lambda: DDPM.step_kernel(5, 4, 0.5, of="x"), V, "of", "one of 'mean', 'clean'", "'x'"),
    P(lambda: DDPM.step_kernel(5, 4, 0.5, of=["x"]), T, "of", "one of 'mean', 'clean'", "['x']"),
    P(lambda: DDPM.prior(2, generator=0, noise=torch.zeros(2, 1, 8, 8)), T, "generator", "a torch.Generator", "0"),
    P(lambda: DDPM.shared_noise_kernel(X, X, X[:1], 5, 4, "1"), T, "gamma", "a number", "'1'"),
    P(lambda: DDPM.shared_noise_kernel(X, X, X, 5, 4, 9.0), V, "gamma", "γ ≤", "γ = 9"),
    P(lambda: DDPM.shared_noise_kernel(X, META, X, 5, 4, 0.1), V, "mean_t", "a tensor on cpu, as x_t", "one on meta"),
    P(lambda: SSD.shared_step_kernel(10, 3, 0.1), V, "s", "a time of the shape of t = 10, (1, 4, 4)", "s = 3"),
    P(lambda: DDPM.diffuse(X[..., 1:], 5), V, "x0", "(*batch, 1, 8, 8)", "(2, 1, 8, 7)"),
    P(lambda: DDPM.diffuse(X.mT.reshape(2, 8, 8, 1), 5), V, "x0", "(*batch, 1, 8, 8)", "(2, 8, 8, 1)"),
    P(lambda: DDPM.diffuse(X.numpy(), 5), T, "x0", "a torch.Tensor", "ndarray", "torch.as_tensor makes one"),
    P(lambda: DDPM.diffuse(X.byte(), 5), V, "x0", "a real floating-point tensor", "torch.uint8", "x0 / 127.5 - 1"),
    P(lambda: DDPM.diffuse(X.long(), 5), V, "x0", "a real floating-point tensor", "torch.int64", "x0.float() is one"),
    P(lambda: DDPM.diffuse(X * 1j, 5), V, "x0", "a real floating-point tensor", "torch.complex64", "view_as_real"),
    P(lambda: DDPM.diffuse(NAN, 5), V, "x0", "finite values", "128 NaN or infinite of 128"),
    P(lambda: DDPM.diffuse(None, 5), T, "x0", "a torch.Tensor", "NoneType"),
    P(lambda: DDPM.diffuse(X, None), T, "t", "a number", "None"),
    P(lambda: DDPM.diffuse(X, [5, 5]), T, "t", "a number", "[5, 5]"),
    P(lambda: DDPM.diffuse(X, torch.tensor([5])), V, "t", "one time, or one for each of 2 events", "1"),
    P(lambda: DDPM.diffuse(X[0], torch.tensor([5])), V, "x0", "(1, 1, 8, 8) for as many times", "(1, 8, 8)"),
    P(lambda: DDPM.diffuse(X, 5, noise=3), T, "noise", "a torch.Tensor", "int"),
    P(lambda: DDPM.diffuse(X, 5, noise=X[:1]), V, "noise", "(2, 1, 8, 8)", "(1, 1, 8, 8)"),
    P(lambda: DDPM.diffuse(X, 5, generator=0), T, "generator", "torch.Generator().manual_seed(0)", "0"),
    P(
        lambda: SSD.diffuse(X, torch.tensor([1, 10])),
        V,
        "t",
        "times of one shape",
        "(1, 4, 4), (1, 8, 8)",
        "sample_times",
    ),
    P(lambda: DDPM.add_noise([0.0], 5, X), T, "mean", "a torch.Tensor", "list", "torch.as_tensor makes one"),
    P(lambda: DDPM.check_data(X[0, 0], "images"), V, "images", "(*batch, 1, 8, 8)", "(8, 8)"),
    P(lambda: DDPM.prior("2"), T, "n", "an int", "'2'"),
    P(lambda: DDPM.prior(True), T, "n", "an int", "True"),
    P(lambda: DDPM.prior(2, dtype=torch.int64), T, "dtype", "torch.float32", "torch.int64"),
    P(lambda: DDPM.prior(2, dtype="float32"), T, "dtype", "torch.float32", "'float32'"),
    P(lambda: DDPM.sample_timesteps(0), V, "batch_size", "1 ≤ batch_size", "0"),
    P(lambda: DDPM.sample_timesteps(2, generator=7), T, "generator", "a torch.Generator", "7"),
    P(lambda: SSD.group_by_shape([1, 9]), T, "t", "a torch.Tensor", "list", "torch.as_tensor makes one"),
    P(lambda: DDPM.times(5), T, "t", "a torch.Tensor", "int"),
]

DENOISERS = [
    P(lambda: ld.Denoiser(3, DDPM), T, "network", "a module or another function of (x, time)", "3"),
    P(lambda: ld.Denoiser(torch.nn.Conv2d, DDPM), T, "network", "a module or another function", "the class Conv2d"),
    P(lambda: ld.Denoiser(lambda x: x, DDPM)(X, 5), T, "network", "a function of (x, time)", "one of (x)"),
    P(lambda: ld.Denoiser(torch.nn.Identity(), DDPM)(X, 5), T, "network", "a function of (x, time)", "one of (input)"),
    P(lambda: ld.Denoiser(DDPM, network), T, "network, process", "ld.Denoiser(network, process)", "the other order"),
    P(lambda: ld.Denoiser(network, ld.DDPM), T, "process", "such as ld.DDPM(shape)", "the class DDPM"),
    P(lambda: ld.Denoiser(network, "ddpm"), T, "process", "a LinearDiffusion", "'ddpm'"),
    P(lambda: ld.Denoiser(network, DDPM, "epsilon"), V, "prediction", "'noise'", "'epsilon'", "did you mean 'noise'?"),
    P(lambda: ld.Denoiser(network, DDPM, "mean"), V, "prediction", "'clean'", "'mean'"),
    P(lambda: ld.Denoiser(network, DDPM, 3), T, "prediction", "such as ld.EDMPrediction(sigma_data=0.5)", "3"),
    P(lambda: ld.Denoiser(network, DDPM, time_input="sigma"), V, "time_input", "'log_snr', 'edm', or a fun", "'sigma'"),
    P(lambda: ld.Denoiser(network, DDPM, time_input=3), T, "time_input", "'index', 'time'", "3"),
    P(lambda: ld.Denoiser(network, DDPM, lift="nearest"), V, "lift", "'pseudoinverse' or None", "'nearest'"),
    P(lambda: ld.Denoiser(network, FLOW, "noise"), V, "prediction", "'velocity', 'flow', 'data' or 'clean'", "'noise'"),
    P(lambda: ld.Denoiser(resizing, SSD, "noise"), V, "prediction", "'clean' or 'data'", "'noise'", "lift='pseudo"),
    P(lambda: ld.EDMPrediction("a"), T, "sigma_data", "a number", "'a'"),
    P(lambda: ld.EDMPrediction(0), V, "sigma_data", "a positive number", "0.0"),
    P(lambda: D(X[0], 5), V, "x_t", "a batch of shape (B, 1, 8, 8)", "(1, 8, 8)", "x_t[None] is a batch of one"),
    P(lambda: D(X[None], 5), V, "x_t", "a batch of shape (B, 1, 8, 8)", "(1, 2, 1, 8, 8)"),
    P(lambda: D(X.expand(-1, 3, -1, -1), 5), V, "x_t", "(*batch, 1, 8, 8)", "(2, 3, 8, 8)"),
    P(lambda: D(X.tolist(), 5), T, "x_t", "a torch.Tensor", "list", "torch.as_tensor makes one"),
    P(lambda: D(3, torch.tensor([5, 5])), T, "x_t", "a torch.Tensor", "int"),
    P(lambda: D(X, 0), V, "t", "0 < t ≤ 10", "0"),
    P(lambda: D(X, "5"), T, "t", "a number", "'5'"),
    P(lambda: D(X, torch.ones(2, 1)), V, "t", "a tensor of shape (B,)", "torch.float32 of shape (2, 1)"),
    P(lambda: D(X, torch.tensor([5] * 4)), V, "t", "one time, or one for each of 2 events", "4"),
    P(lambda: D(X, torch.tensor([5, 0])), V, "t", "0 < t ≤ 10", "0"),
    P(lambda: D(X, 5, 5), V, "s", "s < t = 5", "5"),
    P(lambda: COARSE(torch.zeros(2, 1, 4, 4), 10, 2), V, "s", "the shape just below t, (1, 4, 4)", "s = 2 of shape"),
    P(lambda: D.carry(3, 5, 4), T, "clean", "a torch.Tensor", "int"),
    P(lambda: D.carry(X, "5", 4), T, "r", "a number", "'5'"),
    P(returning(3), V, "network", "a tensor, or an object with one as .sample", "int"),
    P(returning(None), V, "network", "a tensor, or an object", "NoneType"),
    P(returning((X,)), V, "network", "a tensor, or an object", "tuple", "unless return_dict=False"),
    P(returning(X[..., 1:]), V, "network", "an output of shape (2, 1, 8, 8)", "(2, 1, 8, 7)"),
    P(returning(X.long()), V, "network", "a real floating-point tensor", "torch.int64"),
    P(returning(X, lambda process, t: 3), V, "time_input", "a function that returns a tensor (2, …)", "3"),
    P(
        lambda: ld.Denoiser(Elsewhere(), DDPM)(X, 5),
        V,
        "x_t",
        "a tensor on meta, where the network is",
        "on cpu",
        ".to(",
    ),
    P(lambda: LABELLED(X, 5), T, "y", "among the conditioning, as the network needs it; pass y=…", "none"),
    P(lambda: LABELLED(X, 5, label=X), T, "label", "one that the network takes (y)", "label="),
    P(lambda: LABELLED(X, 5, y=torch.ones(3)), V, "y", "one for each of 2 samples", "3"),
    P(lambda: D.set_extra_state(3), T, "state", "a torch.Tensor", "int"),
    P(lambda: D.set_extra_state(torch.ones(3)), V, "state", "the description of a denoiser", "a tensor of shape (3,)"),
    P(lambda: ld.guided(network, 2.0, {"y": 0}), T, "denoiser", "an ld.Denoiser", "network"),
    P(lambda: ld.guided(D, "2", {"y": 0}), T, "scale", "a number", "'2'"),
    P(lambda: ld.guided(D, math.inf, {"y": 0}), V, "scale", "a finite number", "inf"),
    P(lambda: ld.guided(D, 2.0, None), T, "null", "such as {'y': 1000}", "None"),
    P(lambda: ld.guided(D, 2.0, {"y": "none"}), T, "null['y']", "a tensor of numbers", "'none'"),
    P(lambda: GUIDED(X, 5), V, "y", "conditioning to guide to", "none"),
    P(lambda: GUIDED(X, 5, y=3), V, "y", "a tensor with a row for each of 2 samples", "3"),
    P(
        lambda: ld.guided(LABELLED, 2.0, {"y": torch.zeros(3)})(X, 5, y=torch.ones(2)),
        V,
        "null",
        "to the shape of y",
        "shape (3,)",
    ),
]

LOSSES = [
    P(lambda: ld.denoising_loss(network, X, 5), T, "denoiser", "ld.Denoiser(network, process, prediction)", "network"),
    P(lambda: ld.denoising_loss(D, X[0], 5), V, "x0", "a batch of shape (B, 1, 8, 8)", "(1, 8, 8)", "x0[None]"),
    P(lambda: ld.denoising_loss(D, X.byte(), 5), V, "x0", "a real floating-point tensor", "torch.uint8", "/ 127.5 - 1"),
    P(lambda: ld.denoising_loss(D, NAN, 5), V, "x0", "finite values", "128 NaN or infinite of 128"),
    P(lambda: ld.denoising_loss(D, X, 11), V, "t", "0 ≤ t ≤ 10", "11"),
    P(lambda: ld.denoising_loss(D, X, "5"), T, "t", "a number", "'5'"),
    P(lambda: ld.denoising_loss(D, X, 5, noise="x"), T, "noise", "a torch.Tensor", "str"),
    P(lambda: ld.denoising_loss(D, X, 5, weighting="snr"), T, "weighting", "such as ld.MinSNR(5.0)", "'snr'"),
    P(lambda: ld.denoising_loss(D, X, 5, weighting=ld.MinSNR), T, "weighting", "ld.MinSNR(5.0)", "the class MinSNR"),
    P(lambda: ld.denoising_loss(D, X, 5, weighting=lambda snr: 3), T, "weighting", "a tensor of the shape", "3"),
    P(lambda: ld.denoising_loss(D, X, 5, generator=0), T, "generator", "a torch.Generator", "0"),
    P(
        lambda: ld.denoising_loss(COARSE, X, torch.tensor([1, 10])),
        V,
        "t",
        "times of one shape",
        "(1, 4, 4)",
        "ByShape",
    ),
    P(lambda: ld.denoising_loss(LABELLED, X, 5), T, "y", "among the conditioning", "none"),
    P(lambda: ld.MinSNR("5"), T, "gamma", "a number", "'5'"),
    P(lambda: ld.MaxSNR(-1), V, "gamma", "a positive number", "-1.0"),
    P(lambda: ld.losses.EDM(math.nan), V, "sigma_data", "a positive number", "nan"),
]

SAMPLERS = [
    P(lambda: ld.DDIMSampler(network), T, "denoiser", "an ld.Denoiser", "function", "ld.Denoiser(network, process"),
    P(lambda: ld.AncestralSampler(DDPM), T, "denoiser", "an ld.Denoiser", "DDPM", "make one of a network by"),
    P(lambda: ld.HeunSampler(None), T, "denoiser", "an ld.Denoiser", "NoneType"),
    P(lambda: ld.DDIMSampler(D, 11), V, "steps", "1 ≤ steps ≤ 10", "11"),
    P(lambda: ld.DDIMSampler(D, 0), V, "steps", "1 ≤ steps ≤ 10", "0"),
    P(lambda: ld.DDIMSampler(D, 2.5), T, "steps", "a grid such as grids.uniform(50), or descending times", "2.5"),
    P(lambda: ld.DDIMSampler(D, "uniform"), T, "steps", "a grid such as grids.uniform(50)", "'uniform'"),
    P(lambda: ld.DDIMSampler(D, True), T, "steps", "a number, a grid", "True"),
    P(lambda: ld.DDIMSampler(D, torch.ones(2, 2)), T, "steps", "a number, a grid", "a tensor of shape (2, 2)"),
    P(lambda: ld.DDIMSampler(D, [1, 5]), V, "steps", "strictly descending times", "5 after 1", "sorted(set(steps)"),
    P(lambda: ld.DDIMSampler(D, [12, 5]), V, "steps", "times in (0, 10]", "12"),
    P(lambda: ld.DDIMSampler(D, ["a"]), T, "steps", "a number", "'a'"),
    P(lambda: ld.DDIMSampler(COARSE, [10, 2]), V, "steps", "the shape changes among them", "10 → 2", "add it, or use"),
    P(lambda: ld.DDIMSampler(ld.Denoiser(network, FLOW)), V, "steps", "for a process of continuous time", "None"),
    P(lambda: ld.DDIMSampler(D, 3, eta="1"), T, "eta", "a number", "'1'"),
    P(lambda: ld.DDIMSampler(D, 3, eta=-0.5), V, "eta", "a number in [0, 1]", "-0.5"),
    P(lambda: ld.DDIMSampler(D, 3, order=4), V, "order", "1 ≤ order ≤ 3", "4"),
    P(lambda: ld.DDIMSampler(D, 3, order=2.0), T, "order", "an int", "2.0"),
    P(lambda: ld.DDIMSampler(D, 3, rule="trapezoid"), V, "rule", "'moment', 'midpoint'", "'trapezoid'"),
    P(lambda: ld.DDIMSampler(D, 3, corrector="unic"), T, "corrector", "True or False", "'unic'"),
    P(lambda: ld.DDIMSampler(D, 3, clip=1.0), V, "clip", "(low, high) with low < high, such as (-1, 1)", "1.0"),
    P(lambda: ld.DDIMSampler(D, 3, clip=(1, -1)), V, "clip", "(low, high) with low < high", "(1, -1)"),
    P(lambda: ld.DDIMSampler(D, 3, clip=("a", "b")), V, "clip", "(low, high)", "('a', 'b')"),
    P(lambda: ld.AncestralSampler(D, 3, residual=3), T, "residual", "what ld.calibrate returns, or None", "3"),
    P(lambda: ld.SharedNoiseSampler(D, 3, order=None), T, "order", "an int", "None"),
    P(sample(n=0), V, "n", "1 ≤ n", "0"),
    P(sample(n=2.0), T, "n", "an int", "2.0"),
    P(sample(n=(2, 1, 8, 8)), T, "n", "an int", "(2, 1, 8, 8)"),
    P(sample(seeds=0), T, "seeds", "one for each sample, such as range(2)", "0"),
    P(sample(seeds="ab"), T, "seeds", "one for each sample, such as range(2)", "'ab'"),
    P(sample(seeds=[1, 2, 3]), V, "seeds", "one for each of 2 samples", "3"),
    P(sample(seeds=[0, 1.5]), T, "seeds", "an int", "1.5"),
    P(sample(seeds=[0, 1], generator=torch.Generator()), V, "seeds, generator", "at most one of them", "both"),
    P(sample(generator="cuda"), T, "generator", "a torch.Generator", "'cuda'"),
    P(sample(progress="no"), T, "progress", "True or False", "'no'"),
    P(sample(seed=3), T, "seed", "(n, seeds, generator, progress, start, prior)", "another"),
    P(sample(start=3), T, "start", "(t, x_t)", "3"),
    P(sample(start=(11, X)), V, "start", "0 < start ≤ 10", "11"),
    P(sample(start=(5, X[:1])), V, "start", "(2, 1, 8, 8)", "(1, 1, 8, 8)"),
    P(sample(start=(5, NAN)), V, "start", "finite values", "128 NaN"),
    P(sample(start=(5, X), prior=X), V, "start, prior", "at most one of them", "both"),
    P(sample(prior=X[0]), V, "prior", "a batch of shape (B, 1, 8, 8)", "(1, 8, 8)", "prior[None]"),
    P(sample(prior=X[:0]), V, "prior", "at least one image", "(0, 1, 8, 8)"),
    P(sample(prior=NAN), V, "prior", "finite values", "128 NaN"),
    P(sample(prior=np.zeros((2, 1, 8, 8))), T, "prior", "a torch.Tensor", "ndarray", "torch.as_tensor makes one"),
    P(lambda: ld.DDIMSampler(LABELLED, 3)(2, progress=False), T, "y", "among the conditioning", "none"),
    P(lambda: SAMPLER.trajectory(None), T, "n", "an int", "None"),
    P(lambda: SAMPLER.step(3, 5, 4), T, "x_t", "a torch.Tensor", "int"),
    P(lambda: SAMPLER.step(X[0], 5, 4), V, "x_t", "a batch of shape (B, 1, 8, 8)", "(1, 8, 8)"),
    P(lambda: SAMPLER.step(X, 5, 6), V, "s", "s < t = 5", "6"),
    P(lambda: SAMPLER.step(X, [5], 4), T, "t", "a number", "[5]"),
    P(lambda: SAMPLER.step(X, 5, 4, noise=3), T, "noise", "a torch.Tensor", "int"),
    P(lambda: SAMPLER.step(X, 5, 4, generator=3), T, "generator", "a torch.Generator", "3"),
    P(lambda: SAMPLER.step(X, 5, 4, history=[]), T, "history", "what sampler.history() returns", "[]"),
    P(lambda: SAMPLER.invert(X[0]), V, "x_0", "a batch of shape (B, 1, 8, 8)", "(1, 8, 8)"),
    P(lambda: SAMPLER.invert(NAN), V, "x_0", "finite values", "128 NaN"),
    P(lambda: SAMPLER.invert(X, iterations=0), V, "iterations", "1 ≤ iterations", "0"),
    P(lambda: SAMPLER.invert(X, progress=None), T, "progress", "True or False", "None"),
    P(lambda: ld.calibrate(network, X), T, "denoiser", "an ld.Denoiser", "network"),
    P(lambda: ld.calibrate(D, X[0], 3), V, "images", "a batch of shape (B, 1, 8, 8)", "(1, 8, 8)"),
    P(lambda: ld.calibrate(D, X, 3), V, "steps", "at least one step to measure", "none"),
    P(lambda: ld.calibrate(D, X, 3, rank=-1), V, "rank", "0 ≤ rank", "-1"),
    P(lambda: ld.calibrate(D, X, 3, batch_size=0), V, "batch_size", "1 ≤ batch_size", "0"),
    P(lambda: ld.calibrate(D, X, 3, shape_changes_only=0), T, "shape_changes_only", "True or False", "0"),
    P(lambda: ld.Residual(3), T, "spectra", "a mapping from steps (t, s) to tensors", "3"),
    P(lambda: ld.Residual({5: X[0]}), T, "spectra", "steps (t, s) as keys", "5"),
    P(lambda: ld.Residual({(4, 5): X[0]}), V, "spectra", "steps (t, s) with t > s ≥ 0", "(4, 5)"),
    P(lambda: ld.Residual({(5, 4): [1.0]}), T, "spectra", "a torch.Tensor", "list"),
    P(lambda: ld.Residual({}).covariance(5, 4), V, "t, s", "one of the steps", "(5, 4)"),
    P(lambda: ld.Residual.from_state_dict([]), T, "tensors", "what state_dict returns", "[]"),
    P(lambda: ld.Residual.from_state_dict({"a": X}), V, "tensors", "names such as '76-75'", "'a'"),
]
