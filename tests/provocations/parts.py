"""Operators, bases, distributions, schedules, paths, grids and times."""

from __future__ import annotations

import math

import numpy as np
import torch

import lineardiffusion as ld
from lineardiffusion import bases, grids, paths, schedules, times
from provocations import Provocation as P

V, T = ValueError, TypeError
X, EYE = torch.zeros(2, 1, 8), torch.eye(8)
BLUR = ld.Convolution(torch.tensor([0.25, 0.5, 0.25]), (1, 8))
HALF = ld.Resize((1, 8), 4)
COSINE, HAAR = bases.Cosine((1, 8)), bases.Haar((1, 8, 8))
DDPM = ld.DDPM((1, 8), 10)
COVARIANCE = ld.GramCovariance(BLUR)
META = torch.ones(8, device="meta")


class Bare(ld.LinearOperator):
    """An operator without the shapes that its base class asks for."""

    def __init__(self):
        pass

    def apply(self, x):
        return x


class Wrong(ld.LinearOperator):
    """An operator that returns what it is given."""

    def __init__(self, value):
        super().__init__((8,), (8,))
        self.value = value

    def apply(self, x):
        return self.value


OPERATORS = [
    P(lambda: ld.Identity("8"), T, "in_shape", "a sequence of ints, such as (3, 64, 64)", "'8'"),
    P(lambda: ld.Identity((1, 0)), V, "in_shape", "all of them ≥ 1", "(1, 0)"),
    P(lambda: ld.Identity(()), V, "in_shape", "at least one size", "()"),
    P(lambda: ld.Identity((1, 8.0)), T, "in_shape", "a sequence of ints", "(1, 8.0)"),
    P(lambda: ld.Identity((True, 8)), T, "in_shape", "a sequence of ints", "(True, 8)"),
    P(lambda: ld.Diagonal([1.0]), T, "weight", "a torch.Tensor", "list", "torch.as_tensor makes one"),
    P(lambda: ld.Diagonal(torch.tensor([1.0, math.nan])), V, "weight", "finite values", "1 NaN or infinite of 2"),
    P(lambda: ld.Diagonal(META), V, "weight", "a tensor with values", "one on the device meta"),
    P(
        lambda: ld.Diagonal(torch.ones(2, requires_grad=True)),
        V,
        "weight",
        "a constant",
        "requires grad",
        "weight.detach()",
    ),
    P(lambda: ld.Matrix(3, (8,), (8,)), T, "weight", "a torch.Tensor", "int"),
    P(lambda: ld.Matrix(EYE, (8,), (4,)), V, "weight", "(prod out, prod in) = (4, 8)", "(8, 8)"),
    P(lambda: ld.Convolution(EYE[0], (1, 8)), V, "kernel", "odd sizes", "(8,)"),
    P(lambda: ld.Convolution(None, (1, 8)), T, "kernel", "a torch.Tensor", "NoneType"),
    P(lambda: ld.Convolution(torch.ones(3), (1, 8), "same"), V, "padding", "'circular', 'reflect', 'zeros'", "'same'"),
    P(lambda: ld.Resize((1, 8), "4"), T, "size", "a sequence of ints", "'4'"),
    P(lambda: ld.Resize((1, 8), True), T, "size", "a sequence of ints", "True"),
    P(lambda: ld.Resize((1, 8), 4, "cubic"), V, "mode", "'bilinear', 'bicubic'", "'cubic'"),
    P(lambda: ld.Resize((1, 8), 4, None), T, "mode", "'bilinear', 'bicubic'", "None"),
    P(lambda: ld.Resize((1, 8), 4, antialias=[]), T, "antialias", "True or False", "[]"),
    P(lambda: ld.AveragePool((1, 8), 3), V, "factor", "divisors of the last sizes of (1, 8)", "(3,)"),
    P(lambda: ld.Separable(EYE, (1, 8)), T, "factors", "a sequence of matrices", "a tensor of shape (8, 8)"),
    P(lambda: ld.Separable(8, (1, 8)), T, "factors", "a sequence of matrices", "8"),
    P(lambda: ld.Separable([8], (1, 8)), T, "factors", "a torch.Tensor", "int"),
    P(lambda: ld.Separable([EYE[:, :4]], (1, 8)), V, "factors", "matrices with (8,) columns", "shapes [(8, 4)]"),
    P(lambda: ld.SpectralFilter((1, 8), 0.5), T, "gain", "a torch.Tensor", "float"),
    P(lambda: ld.SpectralFilter((1, 8), torch.ones(3)), V, "gain", "broadcasts to (1, 8)", "(3,)"),
    P(lambda: ld.SpectralFilter((1, 8), EYE[0], "wavelet"), V, "basis", "'dct'", "'wavelet'"),
    P(lambda: ld.BlockDiagonal(BLUR), T, "blocks", "operators, such as [ld.Resize(shape, size)]", "Convolution("),
    P(lambda: ld.BlockDiagonal([3]), T, "blocks", "LinearOperators", "3"),
    P(lambda: ld.BlockDiagonal([BLUR, HALF]), V, "blocks", "operators of one shape", "Convolution"),
    P(lambda: ld.ChannelMix(EYE, 3), T, "operator", "a LinearOperator for each channel", "3"),
    P(lambda: ld.ChannelMix(EYE[0], BLUR), V, "weight", "a matrix (channels out, channels in)", "(8,)"),
    P(lambda: ld.Composed(BLUR, 3), T, "factors", "LinearOperators", "3"),
    P(lambda: ld.Composed(HALF, HALF), V, "factors", "shapes that chain", "Resize"),
    P(lambda: ld.Sum(BLUR, "x"), T, "terms", "LinearOperators", "'x'"),
    P(lambda: ld.Sum(BLUR, HALF), V, "terms", "operators of the same shapes", "Convolution"),
    P(lambda: ld.Scaled("2", BLUR), T, "scale", "a number", "'2'"),
    P(lambda: ld.Scaled(math.nan, BLUR), V, "scale", "a finite number", "nan"),
    P(lambda: ld.Scaled(2.0, 3), T, "operator", "a LinearOperator A", "3"),
    P(lambda: ld.Truncation("haar", (1, 4)), T, "basis", "bases.Haar(shape)", "'haar'"),
    P(lambda: ld.TruncatedFilter(3, (1, 4), EYE[0]), T, "basis", "one of ld.bases", "3"),
    P(lambda: ld.TruncatedFilter(COSINE, (1, 4), EYE[0]), V, "gain", "broadcasts to (1, 4)", "(8,)"),
    P(lambda: ld.OperatorChain(BLUR), T, "steps", "a sequence of operators", "one operator: ["),
    P(lambda: ld.OperatorChain([]), V, "steps", "at least one operator", "none"),
    P(lambda: ld.OperatorChain([HALF, BLUR]), V, "steps", "in_shape (1, 4) at t = 2", "(1, 8)"),
    P(lambda: ld.OperatorChain([BLUR]).between(0, 2), V, "t", "0 ≤ t ≤ 1", "2"),
    P(lambda: Bare().in_shape, AttributeError, "Bare", "super().__init__(in_shape, out_shape)", "none"),
    P(lambda: Wrong(EYE[0].numpy())(EYE[0]), T, "Wrong.apply", "a torch.Tensor", "ndarray"),
    P(lambda: Wrong(EYE[0, 1:])(EYE[0]), V, "Wrong.apply", "a result of shape (8,)", "(7,)"),
    P(lambda: BLUR(X[..., 1:]), V, "x", "(*batch, 1, 8)", "(2, 1, 7)"),
    P(lambda: BLUR(X.long()), V, "x", "a real floating-point tensor", "torch.int64", "x.float() is one"),
    P(lambda: BLUR.transpose(3), T, "y", "a torch.Tensor", "int"),
    P(lambda: HALF @ HALF, V, "a @ b", "b.out_shape = a.in_shape = (1, 8)", "(1, 4)"),
    P(lambda: BLUR + HALF, V, "a + b", "operators of the same shapes", "Convolution"),
    P(lambda: BLUR.gram_function(3, X), T, "f", "a function of eigenvalues λ", "3"),
    P(lambda: BLUR.gram_function(lambda values: 3, X), T, "f", "a function that returns a tensor", "3"),
    P(lambda: ld.testing.Opaque(BLUR).cogram_function("x", X), T, "f", "a function of eigenvalues λ", "'x'"),
    P(lambda: BLUR.function(None), T, "f", "a function of eigenvalues λ", "None"),
    P(lambda: BLUR.correct("1", X, X), T, "gain", "a number", "'1'"),
    P(
        lambda: BLUR.correct(0.5, X, X.expand(3, 2, 1, 8)[:, :1].expand(3, 3, 1, 8)),
        V,
        "y",
        "a batch of (2,)",
        "(3, 3)",
    ),
    P(lambda: BLUR.step_map(0.5, 3), T, "deviation", "a function of eigenvalues λ, or None", "3"),
    P(lambda: BLUR.step_map(0.5, torch.sqrt)(X, X, None), T, "noise", "a tensor, since there is a deviation", "None"),
    P(lambda: BLUR.step_map(0.5, None, complete=1), T, "complete", "True or False", "1"),
    P(lambda: BLUR.norm_at_most("1"), T, "bound", "a number", "'1'"),
    P(lambda: BLUR.to_dense(torch.int64), T, "dtype", "torch.float64", "torch.int64"),
    P(lambda: ld.lanczos_function(3, X, torch.sqrt, event_ndim=2), T, "matvec", "a function x ↦ A x", "3"),
    P(lambda: ld.lanczos_function(BLUR, X, 3, event_ndim=2), T, "f", "a function of eigenvalues", "3"),
    P(lambda: ld.lanczos_function(BLUR, 3, torch.sqrt, event_ndim=2), T, "v", "a torch.Tensor", "int"),
    P(lambda: ld.lanczos_function(BLUR, X, torch.sqrt, event_ndim=4), V, "event_ndim", "≤ 3", "4"),
    P(lambda: ld.lanczos_function(BLUR, X, torch.sqrt, event_ndim=2, tol="a"), T, "tol", "a number", "'a'"),
    P(lambda: ld.lanczos_function(lambda x: 3, X + 1, torch.sqrt, event_ndim=2), T, "matvec", "a torch.Tensor", "int"),
    P(lambda: ld.lanczos_sqrt(BLUR, None, event_ndim=2), T, "v", "a torch.Tensor", "NoneType"),
    P(lambda: ld.lanczos_options(tol=0).__enter__(), V, "tol", "a positive number", "0.0"),
    P(lambda: ld.lanczos_options(max_iterations=0).__enter__(), V, "max_iterations", "1 ≤ max_iterations", "0"),
]

BASES = [
    P(lambda: bases.Cosine("x"), T, "shape", "a sequence of ints", "'x'"),
    P(lambda: bases.Cosine((1, 8), axes=3), V, "axes", "1 ≤ axes ≤ 2", "3"),
    P(lambda: bases.Haar((1, 6), 2), V, "levels", "multiples of 4", "(1, 6)"),
    P(lambda: bases.Haar((1, 8), "1"), T, "levels", "an int", "'1'"),
    P(lambda: bases.BlockCosine((1, 8), 3), V, "block", "divisors", "(3,)"),
    P(lambda: bases.Principal("x", 1), T, "images", "a tensor of numbers", "'x'"),
    P(lambda: bases.Principal(X, 9), V, "rank", "1 ≤ rank ≤ 2", "9"),
    P(lambda: bases.Principal(torch.full((2, 8), math.nan), 1), V, "images", "finite values", "16 NaN"),
    P(lambda: COSINE.analyse([0.0]), T, "x", "a torch.Tensor", "list"),
    P(lambda: COSINE.synthesise(3), T, "z", "a torch.Tensor", "int"),
    P(lambda: COSINE.synthesise(X[..., 1:]), V, "z", "coordinates of shape (*batch, 1, 8)", "(2, 1, 7)"),
    P(lambda: bases.Fourier((1, 8)).smaller((1, 4)), V, "basis", "whose coordinates can be cut", "Fourier"),
]

DISTRIBUTIONS = [
    P(lambda: ld.Gaussian(3, COVARIANCE), T, "mean", "a torch.Tensor", "int"),
    P(lambda: ld.Gaussian(X, 0.5), T, "covariance", "ld.GramCovariance(operator)", "0.5"),
    P(lambda: ld.Gaussian(X[..., 1:], COVARIANCE), V, "mean", "(*batch, 1, 8)", "(2, 1, 7)"),
    P(lambda: ld.Gaussian(X, COVARIANCE).sample(noise=X[:1]), V, "noise", "(2, 1, 8)", "(1, 1, 8)"),
    P(lambda: ld.Gaussian(X, COVARIANCE).sample(generator=3), T, "generator", "a torch.Generator", "3"),
    P(lambda: ld.Gaussian(X, COVARIANCE).log_prob(3), T, "x", "a torch.Tensor", "int"),
    P(lambda: ld.GaussianMarginal(3, 0.5), T, "operator", "a LinearOperator M_{1:t}", "3"),
    P(lambda: ld.GaussianMarginal(BLUR, -1), V, "sigma", "a finite number ≥ 0", "-1.0"),
    P(lambda: ld.GaussianMarginal(BLUR, "a"), T, "sigma", "a number or a Covariance", "'a'"),
    P(lambda: ld.GaussianMarginal(BLUR, 0.5).mean(X[..., 1:]), V, "x", "(*batch, 1, 8)", "(2, 1, 7)"),
    P(lambda: ld.GaussianMarginal(BLUR, 0.5).log_prob(X, 3), T, "x0", "a torch.Tensor", "int"),
    P(lambda: ld.GramCovariance("x"), T, "operator", "a LinearOperator M", "'x'"),
    P(lambda: ld.GramCovariance(BLUR, 0.5), T, "variance", "a function of eigenvalues λ", "0.5"),
    P(lambda: ld.transition(3, 0.1, 0.2), T, "operator", "a LinearOperator M_{s→t}", "3"),
    P(lambda: ld.transition(BLUR, 0.5, 0.1), V, "sigma", "σ_t² ≥ σ_s² λmax(MMᵀ)", "σ_s = 0.5", "smallest feasible σ_t"),
    P(lambda: ld.posterior(X, X, HALF, 0.1, 0.2), V, "x_t", "(*batch, 1, 4)", "(2, 1, 8)"),
    P(lambda: ld.posterior(X, X, BLUR, "0", 0.2), T, "sigma_s", "a number or a Covariance", "'0'"),
    P(lambda: ld.ddim_kernel(X, X, BLUR, 0.1, 0.2, 1.5), V, "eta", "a number in [0, 1]", "1.5"),
    P(lambda: ld.diffusion_information(0.5), T, "alpha_bar", "a torch.Tensor", "float"),
]

SCHEDULES = [
    P(lambda: schedules.linear(1000.0), T, "num_steps", "an int", "1000.0"),
    P(lambda: schedules.linear(0), V, "num_steps", "1 ≤ num_steps", "0"),
    P(lambda: schedules.linear(10, "a"), T, "beta_start", "a number", "'a'"),
    P(lambda: schedules.linear(10, 0.2, 0.1), V, "beta_start, beta_end", "beta_start ≤ beta_end", "0.2, 0.1"),
    P(lambda: schedules.cosine(10, offset=-1), V, "offset", "a number ≥ 0", "-1"),
    P(lambda: schedules.cosine(10, max_beta=1), V, "max_beta", "a number in (0, 1)", "1"),
    P(lambda: schedules.cosine_log_snr(10, 5, -5), V, "log_snr_min", "less than log_snr_max = -5", "5"),
    P(lambda: schedules.flow("3"), T, "shift", "a number", "'3'"),
    P(lambda: schedules.flow(0), V, "shift", "a positive number", "0.0"),
    P(lambda: schedules.edm(sigma_max=0.001), V, "sigma_max", "above the least of a grid", "0.001"),
    P(lambda: schedules.vp(2, 1), V, "beta_min", "at most beta_max = 1", "2"),
    P(lambda: schedules.ve(2, 1), V, "sigma_min", "less than sigma_max = 1", "2"),
    P(lambda: schedules.table(1.0, [0, 1]), T, "signal", "numbers in a row", "1.0"),
    P(lambda: schedules.table("ab", [0, 1]), T, "signal", "numbers in a row", "'ab'"),
    P(lambda: schedules.table([1, 1], [0, "a"]), T, "sigma", "a number", "'a'"),
    P(lambda: schedules.table([1, 1], [0, 1, 2]), V, "signal, sigma", "for t = 0 … T", "2 and 3 numbers"),
    P(lambda: schedules.table(np.array(["1"]), [0, 1]), T, "signal", "numbers in a row", "an array of shape (1,)"),
    P(lambda: schedules.from_alpha_bar(None), T, "alpha_bar", "numbers in a row", "None"),
    P(lambda: schedules.from_alpha_bar(torch.ones(2, 2)), V, "alpha_bar", "numbers in a row", "(2, 2)"),
    P(lambda: schedules.from_alpha_bar([0.9, 0.5]), V, "alpha_bar", "to start at ᾱ_0 = 1", "0.9 … 0.5"),
    P(lambda: schedules.piecewise(0, [1], [0]), T, "times", "numbers in a row", "0"),
    P(lambda: schedules.piecewise([0, 1], [1, 0], [0]), V, "times, signal, sigma", "as many of each", "[2, 2, 1]"),
    P(lambda: schedules.zero_terminal_snr("linear"), T, "schedule", "schedules.linear(1000)", "'linear'"),
    P(lambda: schedules.zero_terminal_snr(schedules.edm()), V, "schedule", "at least two steps", "edm()"),
    P(lambda: schedules.coloured("flow", COSINE, EYE[0] + 1), T, "schedule", "schedules.flow()", "'flow'"),
    P(lambda: schedules.coloured(schedules.flow(), "dct", EYE[0] + 1), T, "basis", "bases.Cosine(shape)", "'dct'"),
    P(lambda: schedules.coloured(schedules.flow(), COSINE, EYE[0]), V, "deviations", "positive numbers", "0.0"),
    P(lambda: schedules.coloured(schedules.flow(), COSINE, "a"), T, "deviations", "a tensor of numbers", "'a'"),
    P(lambda: schedules.CovarianceTable(3), T, "levels", "Σ_0, …, Σ_T", "3"),
    P(lambda: schedules.CovarianceTable([0, "a"]), T, "levels", "a number or a Covariance at t = 1", "'a'"),
    P(lambda: schedules.as_schedule("linaer", 10), V, "schedule", "'linear', 'cosine', 'cosine_log_snr'", "'linaer'"),
    P(lambda: schedules.as_schedule(3, 10), T, "schedule", "'linear', 'cosine'", "3"),
    P(lambda: schedules.as_schedule([1, 0.5], 2), V, "schedule", "3 numbers for T = 2", "2", "ᾱ_0 = 1 comes before"),
    P(lambda: schedules.as_schedule(schedules.linear(5), 10), V, "schedule", "num_steps = 10", "linear(5)"),
    P(lambda: schedules.flow().sigma("1"), T, "t", "a number", "'1'"),
    P(lambda: schedules.flow().sigma(2), V, "t", "0 ≤ t ≤ 1.0", "2"),
    P(lambda: schedules.flow().signal(torch.tensor(True)), V, "t", "real numbers", "torch.bool"),
    P(lambda: schedules.flow().time(math.nan), V, "log_snr", "a number", "NaN"),
    P(lambda: schedules.flow().time(None), T, "log_snr", "a number", "None"),
    P(lambda: ld.changes_at(5), T, "times", "numbers in a row, such as [360, 570]", "5"),
    P(lambda: ld.changes_at([5, 3]), V, "times", "ascending times above 0", "[5, 3]"),
    P(lambda: ld.changes_at(["a"]), T, "times", "a number", "'a'"),
    P(lambda: ld.convex_decay("a"), T, "power", "a number", "'a'"),
    P(lambda: ld.tanh_like(0), V, "power", "a positive number", "0.0"),
    P(lambda: ld.sigmoid_like(math.inf), V, "power", "a positive number", "inf"),
    P(lambda: ld.snr_matched("a"), T, "spectrum", "a tensor of numbers", "'a'"),
    P(lambda: ld.snr_matched([]), V, "spectrum", "variances ≥ 0 of at least one axis", "(0,)"),
    P(lambda: ld.snr_matched(EYE, 0), V, "threshold", "a positive number", "0.0"),
]

PATHS = [
    P(lambda: paths.identity(64), T, "shape", "such as (3, 64, 64), or (64,)", "64"),
    P(lambda: paths.identity((3, "64")), T, "shape", "a sequence of ints", "(3, '64')"),
    P(lambda: paths.heat((1, 8), -1), V, "blur_sigma", "a number ≥ 0, in pixels, or a function of time", "-1"),
    P(lambda: paths.heat((1, 8), "20"), T, "blur_sigma", "a number", "'20'"),
    P(lambda: paths.heat((1, 8), floor=2), V, "floor", "a number in [0, 1]", "2"),
    P(lambda: paths.pyramid((1, 8, 8), 9), V, "levels", "each level smaller", "(1, 1)", "at most 4"),
    P(lambda: paths.pyramid((1, 8, 8), "2"), T, "levels", "an int", "'2'"),
    P(lambda: paths.pyramid((1, 8, 8), 2, 5), T, "resolution_schedule", "ld.convex_decay(0.5)", "5"),
    P(lambda: paths.pyramid((1, 8, 8), 2, mode="lanczos"), V, "mode", "'bilinear', 'bicubic'", "'lanczos'"),
    P(lambda: paths.pyramid((1, 8, 8), 2, factor=1), V, "factor", "a ratio > 1 between levels", "1"),
    P(lambda: paths.pyramid((1, 8, 8), 2, factor="2"), T, "factor", "a list of sizes such as [32, 16]", "'2'"),
    P(lambda: paths.chain(3), T, "steps", "LinearOperators", "3"),
    P(lambda: paths.chain([BLUR], 1.0), T, "signal_scales", "numbers in a row", "1.0"),
    P(lambda: paths.chain([BLUR], [1.0, 0.0]), V, "signal_scales", "a_t > 0", "0.0", "ld.paths.chain([…])"),
    P(lambda: ld.LinearDiffusion(paths.chain([BLUR], [1.0]), [0, 1]), V, "signal_scales", "2 numbers for 1 op", "1"),
    P(lambda: paths.spectral("dct", torch.exp), T, "basis", "bases.Cosine(shape)", "'dct'"),
    P(lambda: paths.spectral(COSINE, EYE[0]), T, "gains", "a function of t", "a tensor of shape (8,)"),
    P(lambda: paths.spectral(COSINE, lambda t: "a"), V, "gains", "finite real numbers at t = 0", "'a'"),
    P(lambda: paths.spectral(COSINE, lambda t: torch.ones(3)), V, "gains", "broadcasts to the coordinates", "(3,)"),
    P(lambda: paths.truncated("haar", [(1, 4, 4)], [0.5]), T, "basis", "bases.Haar(shape)", "'haar'"),
    P(lambda: paths.truncated(HAAR, 4, [0.5]), T, "shapes", "event shapes, such as [(3, 32, 32)]", "4"),
    P(lambda: paths.truncated(HAAR, [(1, 4, 4)], 0.5), T, "times", "numbers in a row", "0.5"),
    P(lambda: paths.truncated(HAAR, [(1, 4, 4)], [0.5], gains=3), T, "gains", "a function of t", "3"),
    P(lambda: paths.truncated(HAAR, [(1, 4, 4)], [0.5], orthonormal="no"), T, "orthonormal", "True or False", "'no'"),
]

GRIDS_AND_TIMES = [
    P(lambda: grids.uniform(0), V, "n", "1 ≤ n", "0"),
    P(lambda: grids.uniform(2.5), T, "n", "an int", "2.5"),
    P(lambda: grids.uniform(11).times(DDPM), V, "n", "at most 10, the steps of the process", "11"),
    P(lambda: grids.uniform(3).times(3), T, "process", "a LinearDiffusion, such as ld.DDPM(shape)", "3"),
    P(lambda: grids.trailing(3).times(None), T, "process", "a LinearDiffusion", "None"),
    P(lambda: grids.karras(3, rho="7"), T, "rho", "a number", "'7'"),
    P(lambda: grids.karras(3, rho=None), T, "rho", "a number", "None"),
    P(lambda: grids.karras(3, sigma_min=2, sigma_max=1), V, "sigma_min", "less than sigma_max = 1", "2"),
    P(lambda: grids.karras(3, sigma_max=-1), V, "sigma_max", "a positive number", "-1.0"),
    P(lambda: grids.as_times("ddpm", 3), T, "process", "a LinearDiffusion", "'ddpm'"),
    P(lambda: grids.as_times(DDPM, {}), T, "steps", "a number, a grid", "{}"),
    P(lambda: times.ByShape("a"), T, "shape_change_fraction", "a number", "'a'"),
    P(lambda: times.ByShape(2), V, "shape_change_fraction", "a number in (0, 1)", "2"),
    P(lambda: times.ByShape().sample("x", 2), T, "process", "a LinearDiffusion", "'x'"),
    P(lambda: times.ByShape().sample(DDPM, 0), V, "batch_size", "1 ≤ batch_size", "0"),
    P(lambda: times.ByShape().sample(DDPM, 2, 7), T, "generator", "a torch.Generator", "7"),
    P(lambda: times.Mixed(0), V, "groups", "1 ≤ groups", "0"),
    P(lambda: times.Mixed(2, 0.5), T, "shares", "numbers in a row", "0.5"),
    P(lambda: times.Mixed(3).sample(DDPM, 4), V, "groups", "a divisor of batch_size = 4", "3"),
    P(lambda: times.Uniform().sample(DDPM, "4"), T, "batch_size", "an int", "'4'"),
    P(lambda: times.Uniform().sample(DDPM, 4, "cpu"), T, "generator", "a torch.Generator", "'cpu'"),
    P(lambda: times.LogitNormal("a"), T, "mean", "a number", "'a'"),
    P(lambda: times.LogitNormal(0, -1), V, "std", "a positive number", "-1.0"),
    P(lambda: times.LogNormalSigma().sample(3, 2), T, "process", "a LinearDiffusion", "3"),
    P(lambda: times.group_by_shape(3, torch.ones(2)), T, "process", "a LinearDiffusion", "3"),
]
