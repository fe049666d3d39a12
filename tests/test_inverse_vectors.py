"""Inverse problems as others solve them, state by state: trajectories that the original codes, deepinv, azula and
InverseBench made of known denoisers, in float64. Each file is a test. What is compared, and what is not theirs or ours:

    DDRM        original and InverseBench to 1e-8. The repository divides its start by L instead of multiplying by a (a
                factor, which is undone here), and at the end with σ_y = 0 its strict inequalities keep the network's
                estimate where the paper's r ≤ L′ has ȳ. deepinv adds 1e-6 to singular values, takes those up to σ_y for
                unseen, and divides real noise by √2: it is ours with such an operator and noise, but for the 1e-6 that
                it adds to r as well.
    DDNM        original to 1e-8, with V^T on ε as the paper has it; the official result for super-resolution, which
                lacks it, is another one. "simplified" has ᾱ where the paper has √ᾱ: its constants around our
                correction. InverseBench has one λ for all directions, and ε of the corrected estimate: those of its
                steps with λ = 1 are ours as DiffPIR's, up to the noise's factor.
    DPS         original and azula to 1e-8; deepinv with a scale of its own in each step. InverseBench's Euler–Maruyama
                step is no kernel; its gradient is ours.
    ΠGDM        InverseBench and azula (σ_y = 0 there) with weight "adaptive", deepinv with "score".
    MMPS        azula; deepinv with its solver, which adds 1e-8 to what it divides by, and within 3e-4 with ours.
    DiffPIR     all, where the proximal point is solved for; λ in the units of each. Of azula's four iterations for the
                blur that is not so.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.inverse import mmps
from test_solvers import Toy, process_of_levels, relative_error
from vectors import load

SHAPE = (1, 16, 16)
EXACT = 1e-8
FLOAT32 = float(torch.tensor(0.05, dtype=torch.float32))  # how deepinv keeps σ_y


@cache
def file_of(folder, name):
    path = folder / "vectors" / "inverse" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no trajectories: {path}")
    return load(path)


def operator(name, tensors):
    if name == "sr4":
        return ld.AveragePool(SHAPE, (4, 4))
    if name == "inpaint":
        return ld.Diagonal(tensors["inpaint.mask"].double().expand(SHAPE))
    return ld.Convolution(tensors["blur.taps"][:, None] * tensors["blur.taps"], SHAPE)


def linear_levels(t):
    """a and σ at 0-based indices of DDPM's table, and at the end of it."""
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t]
    return torch.cat([bars.sqrt(), torch.ones(1)]), torch.cat([(1 - bars).sqrt(), torch.zeros(1)])


class Case:
    """A peer's states and levels, in the units of our process x = a x_0 + σ ε."""

    def __init__(self, tensors, a, sigma, toy=None):
        self.process = process_of_levels(SHAPE, tuple(a.tolist()), tuple(sigma.tolist()))
        self.a, self.sigma, end = a, sigma, self.process.num_steps
        self.times = [end - i for i in range(len(a))]
        toy = toy or Toy(tensors)

        def network(x, index):
            t = int(index[0]) + 1
            return toy(x, self.process.signal_scale(t), self.process.sigma(t))

        self.denoiser = ld.Denoiser(network, self.process, "data")
        self.noise = tensors["noise"].double()

    def follow(self, x, make, count, noise=None):
        """States of make(i), a sampler for step i, from x on."""
        noise = self.noise if noise is None else noise
        states = [x]
        for i in range(count):
            states.append(make(i).step(states[-1], self.times[i], self.times[i + 1], noise=noise[i].clone()))
        return torch.stack(states)


def compare(own, expected, tolerance=EXACT):
    errors = [relative_error(a, b) for a, b in zip(own, expected, strict=True)]
    print(f"{len(errors)} states, largest relative error {max(errors):.1e}")
    assert max(errors) <= tolerance


class Tanh:
    def __init__(self, tensors):
        self.left, self.right = tensors["tanh.W1"], tensors["tanh.W2"]

    def __call__(self, x, a, s):
        return 0.9 * torch.tanh(self.left @ x @ self.right.T)


class TanhOfScaled(Tanh):
    """Of those that give the network x/a."""

    def __call__(self, x, a, s):
        return super().__call__(x / a, a, s)


def toy_of(name, tensors, scaled=False):
    if name == "tanh":
        return (TanhOfScaled if scaled else Tanh)(tensors)
    return Toy({"toy.mean": tensors["gauss.mean"], "toy.spectrum": tensors["gauss.spectrum"]})


def problems(tensors):
    """(toy, operator, key) of the files with two toys."""
    keys = sorted(key.removesuffix(".x") for key in tensors if key.endswith(".x"))
    return [(*key.split(".")[:2], key) for key in keys]


def sigma_of(key):
    return {"s05": 0.05, "s01": 0.01, "s0": 0.0}[key.split(".")[-1]]


# ---------------------------------------------------------------------- DDRM


@pytest.mark.parametrize("name", ["sr4", "inpaint", "blur"])
@pytest.mark.parametrize("noise", ["s05", "s0"])
def test_ddrm_original(shared, name, noise):
    tensors = file_of(shared, f"ddrm_original_{noise}")[1]
    case, A, y = Case(tensors, *linear_levels(tensors["t"])), operator(name, tensors), tensors[f"{name}.y"]
    sampler = ld.inverse.DDRM(case.denoiser, A, y, sigma_of(noise))
    start = sampler.first_state(2, None, lambda like: tensors["noise_T"].to(like))
    compare([start.double()], [tensors[f"{name}.x"][0] * case.sigma[0]], 1e-6)  # drawn in float32
    own = case.follow(tensors[f"{name}.x"][0], lambda i: sampler, len(case.a) - 1)
    expected = tensors[f"{name}.x"].clone()
    if noise == "s0":
        expected[-1] = A.correct(lambda values: torch.where(values > 1e-20, 1 / values, 0), expected[-1], y)
    compare(own, expected)


@pytest.mark.parametrize("name", ["sr4", "inpaint", "blur"])
@pytest.mark.parametrize("noise", ["s05", "s0"])
def test_ddrm_inversebench(shared, name, noise):
    """Its last step is from a level to the same one."""
    tensors = file_of(shared, f"ddrm_inversebench_{noise}")[1]
    levels = tensors["level"][:-1]
    case, y = Case(tensors, torch.ones_like(levels), levels), tensors[f"{name}.y"]
    sampler = ld.inverse.DDRM(case.denoiser, operator(name, tensors), y, sigma_of(noise))
    start = sampler.first_state(2, None, lambda like: tensors["noise_T"].to(like))
    compare([start.double()], [tensors[f"{name}.x"][0]], 1e-6)
    compare(case.follow(tensors[f"{name}.x"][0], lambda i: sampler, len(levels) - 1), tensors[f"{name}.x"][:-1])


@pytest.mark.parametrize("key", ["inpaint.s05", "inpaint.s0", "blur.s05", "blur.s0"])
def test_ddrm_deepinv(shared, key):
    tensors = file_of(shared, "ddrm_deepinv")[1]
    level, name = tensors["level"], key.split(".")[0]
    case, sigma_y = Case(tensors, torch.ones_like(level), level), FLOAT32 if key.endswith("s05") else 0.0
    A = operator(name, tensors)
    if name == "inpaint":
        A = (1 + 1e-6) * A
    else:
        gain = A.structure.gain.real
        seen = gain.abs() > sigma_y
        A = A.structure.with_gain(torch.where(seen, gain.sign() * (gain.abs() + 1e-6), 0).to(A.structure.gain.dtype))
    noise = case.noise[1:] / (2**0.5 if name == "inpaint" else 1)
    sampler = ld.inverse.DDRM(case.denoiser, A, tensors[f"{key}.y"], sigma_y)
    own = case.follow(tensors[f"{key}.x"][0], lambda i: sampler, len(level) - 2, noise)
    compare(own, tensors[f"{key}.x"][: len(level) - 1], 2e-6 if key == "blur.s05" else EXACT)


# ---------------------------------------------------------------------- DDNM


@pytest.mark.parametrize("name", ["sr4", "inpaint", "blur"])
@pytest.mark.parametrize("noise", ["s05", "s0"])
def test_ddnm_original(shared, name, noise):
    tensors = file_of(shared, f"ddnm_svd_{noise}")[1]
    case, y = Case(tensors, *linear_levels(tensors["t"])), tensors[f"{name}.y"]
    expected = tensors[f"{name}.x" if noise == "s0" else f"{name}.intended.x"]
    sampler = ld.inverse.DDNM(case.denoiser, operator(name, tensors), y, sigma_of(noise))
    own = case.follow(expected[0], lambda i: sampler, len(case.a) - 1)
    compare(own, expected)
    if (name, noise) == ("sr4", "s05"):
        assert relative_error(own[-1], tensors["sr4.official_result"]) > 0.05


@pytest.mark.parametrize("key", ["sr4.s05", "sr4.s0", "inpaint.s05", "inpaint.s0"])
def test_ddnm_simplified(shared, key):
    """Its constants: g = ᾱ_s in the place of √ᾱ_s, and a noise level multiplied twice. What y corrects is ours."""
    tensors, sigma_y = file_of(shared, "ddnm_simplified")[1], sigma_of(key)
    states, y = tensors[f"{key}.x"], tensors[f"{key}.y"]
    a, sigma = linear_levels(torch.arange(len(states) - 2, -1, -1) * (1000 // (len(states) - 1)))
    case, A = Case(tensors, a, sigma), operator(key.split(".")[0], tensors)
    own = []
    for i in range(len(states) - 1):
        clean = case.denoiser(states[i], case.times[i])
        g = a[i + 1] ** 2
        eps, rest = (states[i] - a[i] * clean) / sigma[i], (1 - g**2).clamp(min=0).sqrt()
        share = 1.0 if rest >= g * sigma_y else rest / (g * sigma_y)
        norm = A.norm() ** 2
        corrected = A.correct(lambda values, k=share, norm=norm: torch.where(values > 0, k / norm, 0), clean, y)
        level = (rest**2 - (g * sigma_y) ** 2).clamp(min=0).sqrt()
        noise = (1 - g).clamp(min=0).sqrt() * (0.85 * case.noise[i] + math.sqrt(1 - 0.85**2) * eps)
        own.append(g.sqrt() * corrected + level * noise)
    compare(own, states[1:])


@pytest.mark.parametrize("key", ["sr4.s0.L0", "sr4.s05.L0", "blur.s05.L0", "sr4.s05.L1"])
def test_ddnm_inversebench(shared, key):
    """Steps with λ = 1: around the corrected estimate as DiffPIR's with τ = 0, with a noise of η (s² − S²)^{1/2}."""
    tensors = file_of(shared, "ddnm_inversebench")[1]
    levels, states, travels = tensors["level"][:-1], tensors[f"{key}.x"], key.endswith("L1")
    case, least = Case(tensors, torch.ones_like(levels), levels), max(sigma_of(key[:-3]), 1e-4)
    A, y = operator(key.split(".")[0], tensors), tensors[key[:-3] + ".y"]
    sampler = ld.inverse.DiffPIR(case.denoiser, A, y, 0.0, zeta=0.85**2)
    moves = [(0, 0)]  # of each move the index of its start, and of its draw
    for i in range(1, len(levels) - 1):
        moves += [(i - 1, None), (i, None)] if travels else [(i, None)]
    draw, compared = 0, 0
    for j, (i, _) in enumerate(moves):
        first = not travels or j == 0 or j % 2
        x = states[j]
        if first:
            draw += 1  # of the travel
        s = levels[i + 1]
        if s > least:
            noise = case.noise[draw] * (1 - (least / s) ** 2).sqrt()
            own = sampler.step(x, case.times[i], case.times[i + 1], noise=noise)
            if travels and j % 2 == 0 and j + 1 < len(moves):  # back from i + 1 to i
                own = own + (levels[i] ** 2 - levels[i + 1] ** 2).sqrt() * case.noise[draw + 1]
            compare([own], [states[j + 1]])
            compared += 1
        draw += 1
    assert compared >= 3


# ---------------------------------------------------------------------- DPS


@pytest.mark.parametrize("file", ["dps_original", "dps_azula", "dps_deepinv"])
def test_dps(shared, file):
    tensors = file_of(shared, file)[1]
    if file == "dps_original":
        a, sigma = linear_levels(tensors["t"])
    elif file == "dps_azula":
        a, sigma = tensors["alpha"], tensors["sigma"]
    else:
        a, sigma = tensors["scale"], tensors["scale"] * tensors["level"]
    for toy, name, key in problems(tensors):
        case = Case(tensors, a, sigma, toy_of(toy, tensors, file == "dps_deepinv"))

        def make(i, case=case, name=name, key=key):
            scale = {"dps_original": 0.5, "dps_azula": 1.0}.get(file)
            if scale is None:  # the gradient is a part of the score
                scale = a[i] * a[i + 1] * ((sigma[i] / a[i]) ** 2 - (sigma[i + 1] / a[i + 1]) ** 2)
            A, y = operator(name, tensors), tensors[f"{key}.y"]
            clip = (-1, 1) if file == "dps_deepinv" else None
            return ld.inverse.DPS(case.denoiser, A, y, sigma_of(key), scale=scale, clip=clip)

        expected = tensors[f"{key}.x"]
        own = case.follow(expected[0], make, len(expected) - 1)
        compare(own, expected)


def test_dps_inversebench(shared):
    tensors = file_of(shared, "dps_inversebench")[1]
    scale, level, factor = tensors["scale"], tensors["level"], tensors["factor"]
    for toy, name, key in problems(tensors):
        case = Case(tensors, scale, scale * level, toy_of(toy, tensors, scaled=True))
        options = {"A": operator(name, tensors), "y": tensors[f"{key}.y"], "sigma_y": sigma_of(key), "scale": 10.0}
        sampler, states = ld.inverse.DPS(case.denoiser, **options), tensors[f"{key}.x"]
        own = []
        for i in range(len(states) - 1):
            x, at = states[i], (case.times[i], case.times[i + 1])
            plain = ld.AncestralSampler(case.denoiser).step(x, *at, noise=case.noise[i])
            gradient = sampler.step(x, *at, noise=case.noise[i]) - plain
            towards = (case.denoiser(x, at[0]) - x / scale[i]) / level[i] ** 2 / scale[i]
            moved = tensors["scaling_factor"][i] * x + factor[i] * towards + factor[i].sqrt() * case.noise[i]
            own.append(moved + gradient)
        compare(own, states[1:])


# ---------------------------------------------------------------------- ΠGDM and MMPS


def test_pigdm_azula(shared):
    """Without noise whatever σ_y; their η is one of the variance."""
    tensors = file_of(shared, "pigdm_azula")[1]
    for toy, name, key in problems(tensors):
        case = Case(tensors, tensors["alpha"], tensors["sigma"], toy_of(toy, tensors))
        eta, expected = float(tensors[f"{key}.eta"]) ** 0.5, tensors[f"{key}.x"]
        sampler = ld.inverse.PiGDM(
            case.denoiser, operator(name, tensors), tensors[f"{key}.y"], 0.0, eta=eta, weight="adaptive"
        )
        compare(case.follow(expected[0], lambda i, s=sampler: s, len(expected) - 1), expected)


def test_pigdm_inversebench(shared):
    """η s is the level of their new noise; the last step is from a level to the same one."""
    tensors = file_of(shared, "pigdm_inversebench")[1]
    level = tensors["level"][:-1]
    for toy, name, key in problems(tensors):
        case = Case(tensors, torch.ones_like(level), level, toy_of(toy, tensors))
        sigma_y = sigma_of(key) if key.endswith("s05") else 0.0

        def make(i, case=case, name=name, key=key, sigma_y=sigma_y):
            eta = 0.2 / (1 - (level[i + 1] / level[i]) ** 2).sqrt()
            problem = (case.denoiser, operator(name, tensors), tensors[f"{key}.y"], sigma_y)
            return ld.inverse.PiGDM(*problem, eta=eta, weight="adaptive")

        expected = tensors[f"{key}.x"][:-1]
        compare(case.follow(expected[0], make, len(expected) - 1), expected)


def cg_of_deepinv(matvec, b, iterations):
    """Conjugate gradients that add 1e-8 to what they divide by, and stop where the residual is 1e-4 of b."""

    def dot(u, v):
        return (u * v).flatten(1).sum(1).reshape(-1, 1, 1, 1)

    x, residual, direction, squared = torch.zeros_like(b), b, b, dot(b, b)
    target = 1e-8 * squared
    for _ in range(iterations):
        product = matvec(direction)
        length = squared / (dot(direction, product) + 1e-8)
        x, residual = x + length * direction, residual - length * product
        before, squared = squared, dot(residual, residual)
        if bool((squared < target).all()):
            break
        direction = residual + squared / (before + 1e-8) * direction
    return x


@pytest.mark.parametrize("file", ["pigdm_deepinv", "mmps_deepinv"])
def test_score_guidance_of_deepinv(shared, file, monkeypatch):
    """MMPS with their solver to 1e-8, and with ours nearly. ΠGDM has that solver too for super-resolution."""
    tensors = file_of(shared, file)[1]
    for toy, name, key in problems(tensors):
        a = tensors["scale"]
        case = Case(tensors, a, a * tensors["level"], toy_of(toy, tensors, scaled=True))
        sigma_y = FLOAT32 if key.endswith("s05") else 0.0
        problem = (case.denoiser, operator(name, tensors), tensors[f"{key}.y"], sigma_y)
        eta, expected = float(tensors[f"{key}.eta"]), tensors[f"{key}.x"]
        count, nearly = len(expected) - 1, 1e-5
        if file == "pigdm_deepinv":
            sampler = ld.inverse.PiGDM(*problem, eta=eta)
            tolerance = nearly if name == "sr4" else EXACT
            compare(case.follow(expected[0], lambda i, s=sampler: s, count), expected, tolerance)
        else:
            sampler = ld.inverse.MMPS(*problem, eta=eta, solver="cg", iterations=3)
            compare(case.follow(expected[0], lambda i, s=sampler: s, count), expected, 3e-4)
            with monkeypatch.context() as patch:
                patch.setitem(mmps.SOLVERS, "cg", cg_of_deepinv)
                compare(case.follow(expected[0], lambda i, s=sampler: s, count), expected)


def test_mmps_azula(shared):
    metadata, tensors = file_of(shared, "mmps_azula")
    for key, options in json.loads(metadata["cases"]).items():
        toy, name, _ = key.split(".")
        case = Case(tensors, tensors["alpha"], tensors["sigma"], toy_of(toy, tensors))
        eta = options.pop("eta") ** 0.5
        A, y, expected = operator(name, tensors), tensors[f"{key}.y"], tensors[f"{key}.x"]
        sampler = ld.inverse.MMPS(case.denoiser, A, y, sigma_of(key), eta=eta, **options)
        compare(case.follow(expected[0], lambda i, s=sampler: s, len(expected) - 1), expected)


# ---------------------------------------------------------------------- DiffPIR


@pytest.mark.parametrize("noise", ["s05", "s0"])
def test_diffpir_original(shared, noise):
    """σ_y of images in [0, 1], at least 0.001; a quarter of their λ is ours."""
    metadata, tensors = file_of(shared, f"diffpir_original_{noise}")
    a, sigma = linear_levels(tensors["t"])
    for name, constants in json.loads(metadata["constants"]).items():
        case, expected = Case(tensors, a, sigma), tensors[f"{name}.x"]
        problem = (case.denoiser, operator(name, tensors), tensors[f"{name}.y"], 2 * constants["sigma"])
        options = {"lambda_": constants["lambda_"] / 4, "zeta": constants["zeta"]}
        sampler = ld.inverse.DiffPIR(*problem, **options)
        # Their own formula, written a second time, differs by 3e-8 from their code: τ/s⁴ is a division by 1e-9 there.
        tolerance = 1e-7 if noise == "s0" else EXACT
        compare(case.follow(expected[0], lambda i, s=sampler: s, len(expected) - 1), expected, tolerance)


def test_diffpir_deepinv(shared):
    """Twice the weight of the original, in the same units."""
    tensors = file_of(shared, "diffpir_deepinv")[1]
    a, sigma = linear_levels(tensors["t"])
    for key in sorted(key.removesuffix(".y") for key in tensors if key.endswith(".y")):
        case, expected = Case(tensors, a, sigma), tensors[f"{key}.x_over_alpha"]
        half = float(torch.tensor(sigma_of(key) / 2, dtype=torch.float32))
        problem = (case.denoiser, operator(key.split(".")[0], tensors), tensors[f"{key}.y"], 2 * half)
        sampler = ld.inverse.DiffPIR(*problem, lambda_=2 * 7.0 / 4, zeta=0.1)
        own = case.follow(a[0] * expected[0], lambda i, s=sampler: s, len(expected) - 1)
        compare(own / a[: len(own)].reshape(-1, 1, 1, 1, 1), expected, 1e-7)  # λσ² in float32


def test_diffpir_azula(shared):
    metadata, tensors = file_of(shared, "diffpir_azula")
    a, sigma = tensors["alpha"], tensors["sigma"]
    for key, options in json.loads(metadata["cases"]).items():
        case, expected, name = Case(tensors, a, sigma), tensors[f"{key}.x"], key.split(".")[0]

        def make(i, case=case, name=name, options=options):
            zeta = options["eta"] * (1 - (a[i] * sigma[i + 1] / (a[i + 1] * sigma[i])) ** 2)
            y = tensors[f"{name}.y"]
            return ld.inverse.DiffPIR(
                case.denoiser, operator(name, tensors), y, 0.05, lambda_=options["lmbda"], zeta=zeta
            )

        own = case.follow(expected[0], make, len(expected) - 1)
        if key == "blur.gmres4":
            assert 1e-4 < relative_error(own[-1], expected[-1]) < 0.1
        else:
            compare(own, expected)


def test_diffpir_inversebench(shared):
    """Twice λ, over σ² and not (σ/a)²."""
    tensors = file_of(shared, "diffpir_inversebench")[1]
    a, level = tensors["scale"], tensors["level"]
    for key in sorted(key.removesuffix(".x") for key in tensors if key.endswith(".x")):
        name, xi = key.split(".", 1)
        case, expected = Case(tensors, a, a * level), tensors[f"{key}.x"]

        def make(i, case=case, name=name, xi=xi):
            y, zeta = tensors[f"{name}.y"], float(xi[2:])
            problem = (case.denoiser, operator(name, tensors), y, 0.05)
            return ld.inverse.DiffPIR(*problem, lambda_=2 * 8.0 / a[i] ** 2, zeta=zeta)

        own = case.follow(a[0] * expected[0], make, len(expected) - 1)
        compare(own / a.reshape(-1, 1, 1, 1, 1), expected)


def test_every_file_is_compared(shared):
    stems = {path.stem.removesuffix("_s0").removesuffix("_s05") for path in (shared / "vectors" / "inverse").iterdir()}
    text = Path(__file__).read_text(encoding="utf-8")
    assert {stem for stem in stems if f'"{stem}' not in text} == set()
