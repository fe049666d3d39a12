"""The solvers of other libraries, state by state: trajectories that their own code made of a known denoiser.

diffusers, azula, k-diffusion and NVlabs' EDM, in float64, and the float32 results of unmodified diffusers. What is left
out is not a kernel around an x* of the moment rule, or no part of it:

    third order of DPMSolverMultistep and 3m_sde   their weight of the curvature is M_2/2, which is of second order; the
                                                   three nodes of the moment rule are tested as xEAB3 and UniPC
    DDPM with variance "fixed_large"               does not keep the marginal of x_s
    churn                                          a step towards noise between those of a sampler
    UniPC's bh1                                    another number in the place of ½ = M_1
    2m_sde with a fractional η                     k-diffusion's η is an exponent: another η in each step
    zEAB2                                          extrapolates the noise, not the image
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch

import lineardiffusion as ld
from vectors import load

SHAPE = (1, 8, 8)
UNIPC = {"rule": "midpoint", "corrector": True}


@dataclass
class Case:
    """A trajectory: states at levels (a, σ) from noise down, the last of which may be (1, 0)."""

    states: torch.Tensor
    signal: torch.Tensor
    sigma: torch.Tensor
    sampler: Callable[..., Any]
    noise: torch.Tensor | None = None
    corrected: torch.Tensor | None = None  # the states that UniPC goes on from
    predicted: torch.Tensor | None = None  # those at which Heun's second estimate is made
    final: torch.Tensor | None = None  # the result in float32
    lower_order_final: bool = False  # the step to a last level that is not 0 is of first order
    on_flow: bool = False


class Toy:
    """The optimal denoiser of N(m, C), C diagonal in the cosine basis, for x = a x_0 + s ε."""

    def __init__(self, tensors):
        n = tensors["toy.spectrum"].shape[-1]
        k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
        self.basis = math.sqrt(2 / n) * torch.cos(math.pi * (i + 0.5) * k / n)
        self.basis[0] /= math.sqrt(2)
        self.mean, self.spectrum = tensors["toy.mean"], tensors["toy.spectrum"]

    def __call__(self, x, a, s):
        basis, mean = self.basis.to(x), self.mean.to(x)
        gain = (a * self.spectrum / (a**2 * self.spectrum + s**2)).to(x)
        return mean + basis.T @ (gain * (basis @ (x - a * mean) @ basis.T)) @ basis


@cache
def tensors_of(path):
    metadata, tensors = load(path)
    return json.loads(metadata.get("cases", "{}")), tensors


def ddim(**options):
    return partial(ld.DDIMSampler, **options)


def vp(name, tensors, sampler, **more):
    more = {"noise": tensors.get("noise"), "final": tensors[f"{name}.final_stock32"], **more}
    return Case(tensors[f"{name}.x"], tensors[f"{name}.alpha"], tensors[f"{name}.sigma"], sampler, **more)


def ve(states, level, sampler, **more):
    return Case(states, torch.ones_like(level), level, sampler, **more)


def azula(_, tensors):
    samplers = {
        "ddim0": ddim(),
        "ddim05": ddim(eta=0.5**0.5),  # their η is one of the variance
        "ddpm": ld.AncestralSampler,
        "euler": ddim(),
        "heun": ld.HeunSampler,
        **{f"xEAB{order}": ddim(order=order) for order in (1, 2, 3)},
    }
    for schedule in ("rectified", "vp"):
        signal, sigma = tensors[f"{schedule}.alpha"], tensors[f"{schedule}.sigma"]
        for name, sampler in samplers.items():
            if (key := f"{schedule}.{name}.x") in tensors:
                yield key, Case(tensors[key], signal, sigma, sampler, tensors["noise"])


def solver(order, solver_type, sde):
    rule = {"midpoint": "midpoint", "heun": "moment", "-": "moment"}[solver_type]
    return ddim(eta=float(sde), order=order, rule=rule)


def edm(cases, tensors):
    for name, case in cases.items():
        if case["solver_order"] < 3 and not case["s_churn"]:
            sampler = solver(case["solver_order"], case["solver_type"], case["kind"] == "sde-dpmsolver++")
            more = {"noise": tensors["noise"], "final": tensors[f"{name}.final_stock32"]}
            yield name, ve(tensors[f"{name}.x"], tensors[f"{name}.level"], sampler, **more)


def nvlabs(_, tensors):
    states = torch.cat([tensors["n18.churn0.x_hat"], tensors["n18.churn0.out"][None]])
    predicted = tensors["n18.churn0.predictor"]
    yield "n18", ve(states, tensors["n18.churn0.level"], ld.HeunSampler, predicted=predicted)


def k_diffusion(_, tensors):
    samplers = {
        "euler": ddim(),
        "heun": ld.HeunSampler,
        "euler_ancestral": ld.AncestralSampler,
        "euler_ancestral_eta05": ddim(eta=0.5),
        "dpmpp_2m": ddim(order=2, rule="midpoint"),
        "dpmpp_2m_exponential": ddim(order=2, rule="midpoint"),
        "dpmpp_2m_sde_eta0": ddim(order=2, rule="midpoint"),
        "dpmpp_2m_sde": partial(ld.AncestralSampler, order=2, rule="midpoint"),
        "dpmpp_2m_sde_heun": partial(ld.AncestralSampler, order=2),
    }
    for name, sampler in samplers.items():
        level = tensors["level_exponential" if "exponential" in name else "level"]
        yield name, ve(tensors[f"{name}.x"], level, sampler, noise=tensors["noise"])


def vp_ddim(cases, tensors):
    for name, case in cases.items():
        if case["kind"] == "ddim":
            yield name, vp(name, tensors, ddim(eta=case["eta_or_variance"]))
        elif case["eta_or_variance"] == "fixed_small":
            own = vp(name, tensors, ld.AncestralSampler)
            if "trailing" in name:  # a variance of at least 1e-20, in the step to x_0 too
                own.states = own.states.clone()
                own.states[-1] -= 1e-10 * tensors["noise"][len(own.states) - 2]
            yield name, own


def vp_dpmpp(sde):
    def cases_of(cases, tensors):
        for name, case in cases.items():
            if case["solver_order"] < 3:
                sampler = solver(case["solver_order"], case["solver_type"], sde)
                yield name, vp(name, tensors, sampler, lower_order_final=case["lower_order_final"])

    return cases_of


def vp_euler_heun(cases, tensors):
    for name, case in cases.items():
        heun = case["kind"] == "heun"
        more = {"predicted": tensors[f"{name}.predictor"]} if heun else {}
        sampler = ld.HeunSampler if heun else ddim()
        final = tensors[f"{name}.final_stock32"]
        yield name, ve(tensors[f"{name}.x"], tensors[f"{name}.level"], sampler, final=final, **more)


def unipc(cases, tensors):
    for name, case in cases.items():
        if case["solver_type"] == "bh2":
            yield name, vp(name, tensors, ddim(order=case["solver_order"], **UNIPC), corrected=tensors[f"{name}.y"])


def flow(cases, tensors):
    for name, case in cases.items():
        level, kind = tensors[f"{name}.level"], case["kind"]
        sampler = {
            "euler": ddim(),
            "heun": ld.HeunSampler,
            "2m": ddim(order=2, rule="midpoint"),
            "sde2m": partial(ld.AncestralSampler, order=2, rule="midpoint"),
            "unipc": ddim(order=2, **UNIPC),
        }[kind]
        more = {"final": tensors[f"{name}.final_stock32"]}
        more |= {"noise": tensors["noise"]} if kind == "sde2m" else {}
        more |= {"predicted": tensors[f"{name}.predictor"]} if kind == "heun" else {}
        more |= {"corrected": tensors[f"{name}.y"]} if kind == "unipc" else {}
        yield name, Case(tensors[f"{name}.x"], 1 - level, level, sampler, on_flow=True, **more)


FILES = {
    "azula_samplers": azula,
    "edm_diffusers": edm,
    "edm_nvlabs_heun": nvlabs,
    "flow": flow,
    "k_diffusion": k_diffusion,
    "vp_ddim_ddpm": vp_ddim,
    "vp_dpmpp_ode": vp_dpmpp(sde=False),
    "vp_dpmpp_sde": vp_dpmpp(sde=True),
    "vp_euler_heun": vp_euler_heun,
    "vp_unipc": unipc,
    "vp_unipc_20": unipc,
}


def process_of(case):
    """A process that has the states of a case, and their times."""
    if case.on_flow:
        return ld.FlowMatching(SHAPE), case.sigma.tolist()
    process = process_of_levels(tuple(case.states.shape[2:]), tuple(case.signal.tolist()), tuple(case.sigma.tolist()))
    return process, list(range(process.end, process.end - len(case.states), -1))


@cache
def process_of_levels(shape, signal, sigma):
    """Levels as a table of integer times: clean data first and, where the states end in noise, one level more, so that
    the last of them is not taken for the end of a trajectory."""
    signal, sigma = signal[::-1], sigma[::-1]
    if sigma[0] > 0:
        signal, sigma = (1.0, 1.0, *signal), (0.0, sigma[0] / 10, *sigma)
    return ld.LinearDiffusion(ld.paths.identity(shape), ld.schedules.table(signal, sigma))


def follow(case, network, dtype=torch.float64):
    """The states of our sampler from the same start and with the same noise, those it corrects, and those at which the
    network was called."""
    process, times = process_of(case)
    called = []

    def recording(x, index):
        called.append(x)
        t = int(index[0]) + 1 if process.num_steps else float(index[0])
        return network(x, process.signal_scale(t), process.sigma(t))

    sampler = case.sampler(ld.Denoiser(recording, process, "data"), times if case.on_flow else None)
    history, x = sampler.history(), case.states[0].to(dtype)
    states, corrected = [x], []
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        if case.lower_order_final and i == len(times) - 2:
            history = sampler.history()
        noise = None if case.noise is None else case.noise[i]
        x = sampler.step(x, t, s, noise=noise, history=history)
        states.append(x)
        corrected.append(history.taken.x_t if history.taken else x)
    return states, corrected, called


def relative_error(result, expected):
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", list(FILES))
def test_trajectories_of_other_libraries(shared, name):
    path = shared / "vectors" / "solvers" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no trajectories: {path}")
    cases, tensors = tensors_of(path)
    network, count, worst, worst32 = Toy(tensors), 0, 0.0, 0.0
    for _, case in FILES[name](cases, tensors):
        states, corrected, called = follow(case, network)
        pairs = list(zip(states, case.states, strict=True))
        if case.corrected is not None:
            pairs += zip(corrected, case.corrected, strict=True)
        if case.predicted is not None:
            pairs += zip(called[1::2], case.predicted, strict=True)
        worst = max(worst, *(relative_error(own, expected) for own, expected in pairs))
        count += len(pairs)
        if case.final is not None:
            worst32 = max(worst32, relative_error(follow(case, network, torch.float32)[0][-1], case.final))
    print(f"{name}: {count} states, largest relative error {worst:.1e}; float32 results {worst32:.1e}")
    # Roundings of both, multiplied by a few steps at σ/a = 1e3; the trajectories differ by 1e-3 between solvers.
    assert worst <= 1e-10
    assert worst32 <= 1e-4
    assert count > 19


def test_results_of_dpm_solvers_on_every_grid(shared):
    """The network is tanh(W x), no optimal denoiser of anything."""
    path = shared / "vectors" / "solvers" / "vp_dpmpp_grid.safetensors"
    if not path.exists():
        pytest.skip(f"no results: {path}")
    cases, tensors = tensors_of(path)
    covered, worst = 0, 0.0
    for name, expected in zip(cases, tensors["final"], strict=True):
        kind, order, solver_type, lower, spacing, levels, n, final = name.split()
        if order == "3":
            continue
        grid = f"sched.{spacing}.{levels}.n{n}" + (".smin" if final == "sigma_min" else "")
        signal, sigma = tensors[f"{grid}.alpha"], tensors[f"{grid}.sigma"]
        case = Case(
            tensors["x_T"][:, None].expand(-1, len(signal), -1).transpose(0, 1),
            signal,
            sigma,
            solver(int(order), solver_type, kind == "sde"),
            noise=tensors["noise"],
            lower_order_final=lower == "lof" and final == "sigma_min",
        )
        states, _, _ = follow(case, lambda x, a, s: torch.tanh(x @ tensors["toy.W"].to(x).T))
        worst = max(worst, relative_error(states[-1], expected))
        covered += 1
    print(f"vp_dpmpp_grid: {covered} results, largest relative error {worst:.1e}")
    assert covered == 360
    assert worst <= 1e-10
