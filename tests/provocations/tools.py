"""Families, configurations, the laboratory, tests for users, training and the U-Nets."""

from __future__ import annotations

import math
from pathlib import Path

import torch

import lineardiffusion as ld
from lineardiffusion import families, flexi_unet, lab, testing, training
from provocations import Provocation as P

V, T = ValueError, TypeError
SHAPE = (1, 8, 8)
X = torch.zeros(2, *SHAPE)
DDPM = ld.DDPM(SHAPE, 10)
BLURRING = ld.BlurringDiffusion(SHAPE, 10)


def network(x, time, size=None):
    return x if size is None else x.new_zeros(len(x), x.shape[1], *size)


D = DDPM.denoiser(network)
PYRAMIDAL = families.PyramidFlow((1, 32, 32))
HAAR = ld.bases.Haar(SHAPE)
LINE = lab.power_law((1, 8))
SHORT = ld.DDPM((1, 8), 10)
STILL, FLOW = ld.paths.identity((1, 8)), ld.schedules.flow()
HALVED = ld.paths.pyramid((1, 8), 2, mode="haar")
LINEAR = torch.nn.Linear(2, 2)
ADAM = torch.optim.Adam(LINEAR.parameters())
AVERAGE = training.ExponentialMovingAverage(LINEAR)
SMALL = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_resolutions": ()}
UNET = flexi_unet.FlexiUNet(8, 1, 1, **SMALL)
LABELLED = flexi_unet.FullUNet(8, 1, 1, num_classes=3, **SMALL)
INDEX = torch.tensor([1, 1])


def unet(**wrong):
    return lambda: flexi_unet.FullUNet(**{"image_size": 8, **SMALL, **wrong})


FAMILIES = [
    P(lambda: ld.DDPM(64), T, "shape", "channels first, such as (3, 64, 64), or (64,)", "64"),
    P(lambda: ld.DDPM("64"), T, "shape", "a sequence of ints", "'64'"),
    P(lambda: ld.DDPM(SHAPE, 0), V, "num_steps", "1 ≤ num_steps", "0"),
    P(lambda: ld.DDPM(SHAPE, 10, "linaer"), V, "schedule", "'linear', 'cosine'", "'linaer'"),
    P(lambda: ld.DDPM(SHAPE, steps=10), T, "DDPM", "shape, num_steps, schedule", "an unexpected keyword"),
    P(lambda: ld.BlurringDiffusion(SHAPE, 10, "20"), T, "blur_sigma_max", "a number", "'20'"),
    P(lambda: ld.FlowMatching(SHAPE, -1), V, "shift", "a positive number", "-1.0"),
    P(lambda: ld.ScaleSpaceDiffusion(SHAPE, 9), V, "levels", "each level smaller", "(1, 1)"),
    P(
        lambda: ld.ScaleSpaceDiffusion(SHAPE, 2, 4, resolution_schedule=[0, 1]),
        V,
        "resolution_schedule",
        "4 levels",
        "2",
    ),
    P(lambda: families.GUD(8), T, "shape", "or (8,) for 8 numbers in a row", "8"),
    P(lambda: families.OffsetNoise(8), T, "shape", "or (8,) for 8 numbers in a row", "8"),
    P(lambda: families.BlueNoise(SHAPE, tau=0), V, "tau", "a positive number", "0.0"),
    P(lambda: families.BlueNoise(SHAPE, root="x"), T, "root", "a tensor of numbers", "'x'"),
    P(lambda: families.BottleneckSampling(SHAPE, steps=3), T, "steps", "three numbers of steps", "3"),
    P(lambda: families.BottleneckSampling(SHAPE, shifts="abc"), T, "shifts", "numbers in a row", "'abc'"),
    P(lambda: families.BottleneckSampling(SHAPE, mode="x"), V, "mode", "'bilinear', 'bicubic'", "'x'"),
    P(lambda: families.GaussianBlur(3.0), T, "widths", "numbers in a row", "3.0"),
    P(lambda: families.GaussianBlur((1.0,), "3"), T, "size", "an int", "'3'"),
    P(lambda: families.GaussianBlur((1.0,), padding="same"), V, "padding", "'circular', 'reflect', 'zeros'", "'same'"),
    P(lambda: families.GaussianMask(()), V, "widths", "at least one number > 0", "[]"),
    P(lambda: families.LowResolution(2, "x"), V, "mode", "'bilinear', 'bicubic'", "'x'"),
    P(lambda: families.DimensionalityVarying(SHAPE, changes=5), T, "changes", "numbers in a row", "5"),
    P(lambda: families.Fade("haar", [(1, 4, 4)], [5]), T, "basis", "bases.Haar(shape)", "'haar'"),
    P(lambda: families.Fade(HAAR, 4, [5]), T, "shapes", "event shapes", "4"),
    P(lambda: families.FDM(SHAPE, blur_sigmas=1.0), T, "blur_sigmas", "numbers in a row", "1.0"),
    P(lambda: families.BlurStages(SHAPE, [1.0], 5), T, "changes", "numbers in a row", "5"),
    P(lambda: families.SoftConditioning([]), V, "labels", "at least one number", "none"),
    P(lambda: families.SoftConditioning(gamma_min="a"), T, "gamma_min", "a number", "'a'"),
    P(lambda: families.SoftConditioning(clip="yes"), T, "clip", "True or False", "'yes'"),
    P(lambda: families.GUD(SHAPE, gamma=3), T, "gamma", "families.SoftConditioning()", "3"),
    P(lambda: families.Helios(SHAPE, 0.5), T, "ends", "numbers in a row", "0.5"),
    P(lambda: families.PixelFlow(SHAPE, (0.5, 0.2)), V, "ends", "0 = e_0 < e_1 < … < 1", "[0.5, 0.2]"),
    P(lambda: PYRAMIDAL.stage_times(3), T, "steps", "for each of 3 stages", "3"),
    P(
        lambda: families.JumpSampler(PYRAMIDAL.denoiser(network), 9, detail=3),
        T,
        "detail",
        "what `process.detail(images)` returns, or None",
        "3",
    ),
    P(lambda: families.LaplacianDiffusion(SHAPE, 0.5), T, "gone", "numbers in a row", "0.5"),
    P(lambda: families.RegionAdaptive(SHAPE, mask="x"), T, "mask", "a tensor of numbers", "'x'"),
    P(lambda: families.RegionAdaptive(SHAPE, times=3), T, "times", "a Rescheduling", "3"),
    P(lambda: families.matched_times(3, (0.5,)), T, "steps", "numbers of steps", "3"),
    P(lambda: families.matched_times((3, 3), 0.5), T, "ends", "numbers in a row", "0.5"),
    P(lambda: families.SPEED(SHAPE, scales=0.5), T, "scales", "numbers in a row", "0.5"),
    P(lambda: families.SPEED(SHAPE, transitions=0.5), T, "transitions", "one for each scale", "0.5"),
    P(lambda: families.SPEED(SHAPE, delta="a"), T, "delta", "a number", "'a'"),
    P(lambda: families.SPEED(SHAPE, spectrum=3.0), T, "spectrum", "numbers in a row", "3.0"),
    P(lambda: families.SPEED(SHAPE, basis="dct"), V, "basis", "'cosine', 'haar'", "'dct'"),
    P(lambda: families.SubspaceDiffusion(SHAPE, changes=0.5), T, "changes", "numbers in a row", "0.5"),
    P(lambda: families.SubspaceDiffusion(SHAPE, schedule="ve"), T, "schedule", "schedules.ve()", "'ve'"),
    P(lambda: families.UDPM(SHAPE, alphas=0.5), T, "alphas", "numbers in a row", "0.5"),
    P(lambda: families.UDPM(SHAPE, kernel="x"), V, "kernel", "'norm'", "'x'"),
    P(lambda: families.WSGM(SHAPE, 10, deviations="x"), T, "deviations", "a tensor of numbers", "'x'"),
    P(lambda: families.BandNetwork(3), T, "network", "another function of (bands, time)", "3"),
    P(lambda: DDPM.denoiser(3), T, "network", "another function of (x, time)", "3"),
    P(lambda: DDPM.sampler(network), T, "denoiser", "one of DDPM.denoiser(network)", "function"),
    P(lambda: BLURRING.sampler(D), V, "denoiser", "one of this process, BlurringDiffusion", "one of DDPM"),
    P(lambda: DDPM.loss(network, X), T, "denoiser", "one of DDPM.denoiser(network)", "function"),
    P(lambda: BLURRING.loss(D, X), V, "denoiser", "one of this process, BlurringDiffusion", "one of DDPM"),
    P(lambda: DDPM.loss(D, 3), T, "x0", "a torch.Tensor", "int"),
    P(lambda: DDPM.loss(D, X[0]), V, "x0", "a batch of shape (B, 1, 8, 8)", "(1, 8, 8)", "x0[None]"),
    P(lambda: DDPM.loss(D, X[:0]), V, "batch_size", "1 ≤ batch_size", "0"),
    P(lambda: DDPM.data("x"), T, "images", "a torch.Tensor", "str"),
    P(lambda: DDPM.images(X[..., 1:]), V, "x_0", "(*batch, 1, 8, 8)", "(2, 1, 8, 7)"),
]

CONFIGURATIONS = [
    P(lambda: ld.from_config([1]), T, "config", "a mapping, as to_config returns", "list"),
    P(lambda: ld.from_config({"shape": [1]}), V, "type", "families.DDPM", "None"),
    P(lambda: ld.from_config({"type": "ddpm"}), V, "type", "families.DDPM", "'ddpm'", "did you mean 'families.DDPM'?"),
    P(lambda: ld.from_config({"type": "EDMPrediction", "x": 1}), V, "EDMPrediction", "sigma_data", "'x'"),
    P(lambda: ld.from_config({"type": "families.DDPM", "shape": "x"}), T, "shape", "a sequence of ints", "'x'"),
    P(lambda: ld.from_config({"type": "DDIMSampler", "denoiser": 3}), T, "denoiser", "an ld.Denoiser", "int"),
]

LABORATORY = [
    P(lambda: lab.power_law(8), T, "shape", "or (8,) for 8 numbers in a row", "8"),
    P(lambda: lab.power_law((1, 8), "2"), T, "exponent", "a number", "'2'"),
    P(lambda: lab.power_law((1, 8), variance=0), V, "variance", "a positive number", "0.0"),
    P(lambda: lab.estimate(3), T, "images", "a torch.Tensor", "int"),
    P(lambda: lab.estimate(X[:1]), V, "images", "(N, C, …) with N ≥ 2", "(1, 1, 8, 8)"),
    P(lambda: lab.estimate(X * math.nan), V, "images", "finite values", "128 NaN"),
    P(lambda: lab.OptimalDenoiser(3, LINE), T, "process", "a LinearDiffusion", "3"),
    P(lambda: lab.OptimalDenoiser(SHORT, "x"), T, "covariance", "ld.lab.power_law(shape)", "'x'"),
    P(lambda: lab.OptimalDenoiser(SHORT, torch.eye(3)), V, "covariance", "(8, 8)", "(3, 3)"),
    P(lambda: lab.OptimalDenoiser(SHORT, LINE, "x"), T, "mean", "a tensor of numbers", "'x'"),
    P(lambda: lab.OptimalDenoiser(SHORT, LINE, torch.ones(3)), V, "mean", "broadcasts to (1, 8)", "(3,)"),
    P(lambda: lab.evaluate(SHORT, LINE, sampler="euler"), V, "sampler", "'ancestral', 'ddim'", "'euler'"),
    P(lambda: lab.evaluate(SHORT, LINE, correction=3), V, "correction", "'exact'", "3"),
    P(lambda: lab.evaluate(SHORT, LINE, prior=[]), V, "prior", "'matched', 'standard'", "[]"),
    P(lambda: lab.frontier(SHORT, LINE, 3, lambda a, b: 1.0), T, "steps", "such as [10, 20, 50]", "3"),
    P(lambda: lab.frontier(SHORT, LINE, [2], 1.0), T, "of_call", "a function of the shapes", "1.0"),
    P(lambda: lab.frontier(SHORT, LINE, [2], lambda a, b: "x"), T, "of_call", "a number", "'x'"),
    P(lambda: lab.optimise(3, FLOW, LINE, 4), T, "path", "a path, such as", "3"),
    P(lambda: lab.optimise(STILL, 3, LINE, 4), T, "schedule", "a schedule such as", "3"),
    P(lambda: lab.optimise(STILL, FLOW, torch.eye(3), 4), V, "covariance", "shape (8, 8)", "(3, 3)"),
    P(lambda: lab.optimise(STILL, FLOW, LINE, "4"), T, "budget", "a number", "'4'"),
    P(lambda: lab.optimise(STILL, FLOW, LINE, 0.5), V, "budget", "at least 1, the cost of one call", "0.5"),
    P(lambda: lab.optimise(STILL, FLOW, LINE, 4, 5), V, "order", "1 ≤ order ≤ 3", "5"),
    P(lambda: lab.optimise(STILL, FLOW, LINE, 4, correction="all"), V, "correction", "exact-shape-changes", "'all'"),
    P(lambda: lab.optimise(STILL, FLOW, LINE, 4, of_call=1.0), T, "of_call", "a function of the shapes", "1.0"),
    P(lambda: lab.optimise(STILL, FLOW, LINE, 4, start=[3]), T, "start", "what optimise returned", "[3]"),
    P(
        lambda: lab.optimise(STILL, FLOW, LINE, 2, 1, start=lab.optimise(HALVED, FLOW, LINE, 1, 1)),
        V,
        "start",
        "as many resolutions as this one",
        "2 resolutions and 1",
    ),
    P(lambda: lab.optimise(STILL, FLOW, LINE, 4, progress="no"), T, "progress", "True or False", "'no'"),
    P(lambda: testing.Opaque(3), T, "operator", "a LinearOperator", "3"),
    P(lambda: testing.check_operator("x"), T, "operator", "a LinearOperator", "'x'"),
    P(lambda: testing.check_operator(LINE, seed="x"), T, "seed", "an int", "'x'"),
    P(lambda: testing.check_process(3), T, "process", "a LinearDiffusion", "3"),
    P(lambda: testing.check_process(SHORT, samples=10), V, "samples", "100 ≤ samples", "10"),
    P(lambda: testing.check_process(SHORT, false_alarm_rate="x"), T, "false_alarm_rate", "a number", "'x'"),
]

TRAINING = [
    P(lambda: training.ExponentialMovingAverage(3), T, "model", "a torch.nn.Module", "3"),
    P(lambda: training.ExponentialMovingAverage(LINEAR, "0.9"), T, "decay", "a number", "'0.9'"),
    P(lambda: training.ExponentialMovingAverage(LINEAR, 1.0), V, "decay", "a number in [0, 1)", "1.0"),
    P(lambda: AVERAGE.update(None), T, "model", "a torch.nn.Module", "None"),
    P(lambda: AVERAGE.update(torch.nn.Sequential(LINEAR)), V, "model", "the model that is averaged", "differs in"),
    P(lambda: training.Checkpoints(None), T, "folder", "the path of a folder", "None"),
    P(lambda: training.Checkpoints("x", keep=0), V, "keep", "1 ≤ keep", "0"),
    P(lambda: training.read_checkpoint("x"), T, "path", "a pathlib.Path", "'x'"),
    P(lambda: training.write_checkpoint("x", {}, {}), T, "path", "a pathlib.Path", "'x'"),
    P(lambda: training.write_checkpoint(Path("x"), 3, {}), T, "tensors", "from names to tensors", "3"),
    P(lambda: training.write_checkpoint(Path("x"), {"a": 3}, {}), T, "tensors['a']", "a torch.Tensor", "int"),
    P(lambda: training.write_checkpoint(Path("x"), {}, {"a": X}), T, "metadata", "what JSON can hold", "{'a'"),
    P(lambda: training.keyed_generator(1.5), T, "keys", "ints and strings", "1.5"),
    P(lambda: training.state_tensors([X]), T, "tensors", "from names to tensors", "[tensor"),
    P(
        lambda: training.restore_tensors({}, {"a": X}, "weights"),
        V,
        "weights",
        "the names of the model",
        "missing ['a']",
    ),
    P(
        lambda: training.restore_tensors({"a": X[0]}, {"a": X}, "weights"),
        V,
        "weights",
        "(2, 1, 8, 8) for a",
        "(1, 8, 8)",
    ),
    P(lambda: training.optimizer_tensors(3, LINEAR), T, "optimizer", "a torch.optim.Optimizer", "3"),
    P(lambda: training.optimizer_tensors(ADAM, 3), T, "model", "a torch.nn.Module", "3"),
    P(lambda: training.restore_optimizer({"x/y": X}, ADAM, LINEAR), V, "tensors", "parameters of the model", "'x'"),
]

UNETS = [
    P(unet(image_size="8"), T, "image_size", "a sequence of ints", "'8'"),
    P(unet(image_size=(8, 8, 8)), V, "image_size", "one side, or (H, W)", "(8, 8, 8)"),
    P(unet(image_size=0), V, "image_size", "all of them ≥ 1", "(0, 0)"),
    P(unet(in_channels="3"), T, "in_channels", "an int", "'3'"),
    P(unet(out_channels=-1), V, "out_channels", "1 ≤ out_channels", "-1"),
    P(unet(model_channels=32.0), T, "model_channels", "an int", "32.0"),
    P(unet(num_res_blocks=None), T, "num_res_blocks", "an int", "None"),
    P(unet(attention_resolutions=4), T, "attention_resolutions", "factors such as (4, 8)", "4"),
    P(unet(channel_mult=2), T, "channel_mult", "numbers in a row, such as (1, 2, 3, 4)", "2"),
    P(unet(channel_mult=()), V, "channel_mult, model_channels", "at least one level", "[]"),
    P(unet(num_classes=0), V, "num_classes", "1 ≤ num_classes", "0"),
    P(unet(dropout="0.1"), T, "dropout", "a number", "'0.1'"),
    P(unet(use_checkpoint="yes"), T, "use_checkpoint", "True or False", "'yes'"),
    P(lambda: flexi_unet.FlexiUNet(8, 1, 1, unet_res_layer_map=3, **SMALL), T, "unet_res_layer_map", "a mapping", "3"),
    P(lambda: flexi_unet.shared_levels(64, 4, 4, "2"), T, "ds_factor", "a number", "'2'"),
    P(lambda: flexi_unet.shared_levels(64, 4, 4, 1), V, "ds_factor", "larger than 1", "1"),
    P(lambda: UNET("x", INDEX), T, "x", "a torch.Tensor", "str"),
    P(lambda: UNET(X[0], INDEX), V, "x", "images of shape (B, 1, H, W)", "(1, 8, 8)"),
    P(lambda: UNET(X.expand(-1, 3, -1, -1), INDEX), V, "x", "images of shape (B, 1, H, W)", "(2, 3, 8, 8)"),
    P(lambda: UNET(X[..., 1:], INDEX), V, "x", "one of the sizes [(8, 8), (4, 4)]", "(8, 7)"),
    P(lambda: UNET(X, 5), T, "t_index", "a torch.Tensor", "int"),
    P(lambda: UNET(X, INDEX[:1]), V, "t_index", "a number for each of 2 images", "(1,)"),
    P(lambda: UNET(X, INDEX, size=8.0), T, "size", "a sequence of ints", "8.0"),
    P(lambda: UNET(X, INDEX, y=INDEX), V, "y", "no labels", "labels"),
    P(lambda: LABELLED(X, INDEX), V, "y", "labels in 0…2", "none"),
    P(lambda: LABELLED(X, INDEX, y=3), T, "y", "a torch.Tensor", "int"),
    P(lambda: LABELLED(X, INDEX, y=INDEX[:1]), V, "y", "2 integers, one for each image", "(1,)"),
    P(lambda: LABELLED(X, INDEX, y=torch.tensor([0, 7])), V, "y", "labels in 0…2", "0…7"),
]
