"""Models, solvers and pipelines of diffusers are those of this library: step by step on one network."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.vectors import relative_error

import lineardiffusion as ld
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet
from lineardiffusion.time_inputs import NearestIndex, NoiseLevel

diffusers = pytest.importorskip("diffusers")

from lineardiffusion.integrations.diffusers import (  # noqa: E402
    LinearDiffusionPipeline,
    LinearDiffusionScheduler,
    from_diffusers,
    sampler_from_diffusers,
)

SHAPE = (1, 8, 8)
OF_RATIOS = (
    diffusers.EulerDiscreteScheduler,
    diffusers.EulerAncestralDiscreteScheduler,
    diffusers.HeunDiscreteScheduler,
)
# numpy's word to what diffusers do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


def tiny_unet(seed=0, channels=1, dtype=torch.float32, **options):
    torch.manual_seed(seed)
    options = {"layers_per_block": 1, "block_out_channels": (32,), **options}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return diffusers.UNet2DModel(8, channels, channels, **blocks, **options).to(dtype).eval()


@pytest.fixture(scope="module")
def unet():
    return tiny_unet(dtype=torch.float64)


def made(kind, settings):
    """A scheduler, where this version of diffusers has it and its settings."""
    known = inspect.signature(getattr(diffusers, kind).__init__).parameters
    if settings.keys() - known.keys():
        pytest.skip(f"{kind} of diffusers {diffusers.__version__} has no {', '.join(settings.keys() - known.keys())}")
    return getattr(diffusers, kind)(**settings)


def start(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def same_draws(monkeypatch, scheduler):
    """Noise in float32, as here, whatever the dtype of the network."""

    def randn_tensor(shape, generator=None, device=None, dtype=None, layout=None):
        return torch.randn(tuple(shape), generator=generator).to(dtype)

    module = sys.modules[type(scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", randn_tensor)


def in_float64(scheduler):
    """A scheduler's tables of float32 as float64, before their roots are taken."""
    for name in ("alphas_cumprod", "final_alpha_cumprod", "one"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


def scales_of(scheduler, process, times):
    """a_t of the states of a scheduler, which has x_t/a_t where it gives the network x_t: Euler's and Heun's."""
    if not isinstance(scheduler, OF_RATIOS):
        return [1.0] * len(times)
    # Their 2⁻²⁴ in the place of ᾱ_T = 0.
    return [process.signal_scale(t) or 2**-12 / math.sqrt(1 - 2**-24) for t in times]


@torch.no_grad()
def states_of(scheduler, unet, x, scales, **options):
    """The states after each step, as x_t, of diffusers' own loop."""
    generator, states, sample = torch.Generator().manual_seed(1), [], x / scales[0]
    takes = inspect.signature(scheduler.step).parameters
    options = {**options, "generator": generator} if "generator" in takes else options
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        sample = scheduler.step(unet(given.double(), t).sample, t, sample, **options).prev_sample
        states.append(sample.double())
    if len(states) == 2 * (len(scales) - 1) - 1:  # Heun's method, but for its last step, is of two
        states = [*states[1::2], states[-1]]
    return [a * state for a, state in zip(scales[1:], states, strict=True)]


LINEAR = {"beta_schedule": "linear"}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
BETAS = {"trained_betas": torch.linspace(0.01, 0.5, 16).tolist(), "num_train_timesteps": 16}
VELOCITY, DATA = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
TRAILING, LEADING, LINSPACE = ({"timestep_spacing": name} for name in ("trailing", "leading", "linspace"))
KARRAS = {"use_karras_sigmas": True}
FREE = {"clip_sample": False}

# (class, settings, steps)
CASES = {
    "ddpm": ("DDPMScheduler", {**LINEAR, **TRAILING}, 5),
    "ddpm scaled data": ("DDPMScheduler", {**SCALED, **LEADING, **DATA, "clip_sample_range": 0.7}, 5),
    "ddpm betas": ("DDPMScheduler", {**BETAS, **FREE}, 16),
    "ddim cosine velocity": ("DDIMScheduler", {**COSINE, **LEADING, **VELOCITY, **FREE, "steps_offset": 1}, 5),
    "ddim zero snr": ("DDIMScheduler", {**LINEAR, **TRAILING, **ZERO_SNR, **FREE}, 5),
    "ddim betas": ("DDIMScheduler", {**BETAS, **TRAILING, **FREE}, 8),
    "ddim": ("DDIMScheduler", {**SCALED, **LEADING, **FREE}, 8),
    "dpm": ("DPMSolverMultistepScheduler", {**LINEAR}, 6),
    "dpm heun": ("DPMSolverMultistepScheduler", {**SCALED, **TRAILING, "solver_type": "heun"}, 6),
    "dpm first order": ("DPMSolverMultistepScheduler", {**COSINE, **VELOCITY, "solver_order": 1}, 6),
    "dpm sde": ("DPMSolverMultistepScheduler", {**LINEAR, "algorithm_type": "sde-dpmsolver++"}, 6),
    "dpm sde heun": (
        "DPMSolverMultistepScheduler",
        {**LINEAR, **LEADING, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        6,
    ),
    "dpm karras": ("DPMSolverMultistepScheduler", {**SCALED, **KARRAS}, 6),
    "dpm lambdas": ("DPMSolverMultistepScheduler", {**LINEAR, "use_lu_lambdas": True}, 6),
    "dpm zero snr": ("DPMSolverMultistepScheduler", {**LINEAR, **TRAILING, **ZERO_SNR}, 6),
    "unipc": ("UniPCMultistepScheduler", {**LINEAR}, 6),
    "unipc third order": ("UniPCMultistepScheduler", {**SCALED, **TRAILING, "solver_order": 3}, 7),
    "unipc karras": ("UniPCMultistepScheduler", {**LINEAR, **KARRAS, **VELOCITY}, 6),
    "euler": ("EulerDiscreteScheduler", {**SCALED, **LINSPACE}, 7),
    "euler trailing zero snr": ("EulerDiscreteScheduler", {**LINEAR, **TRAILING, **ZERO_SNR}, 6),
    "euler leading": ("EulerDiscreteScheduler", {**SCALED, **LEADING, "steps_offset": 1}, 6),
    "euler karras": ("EulerDiscreteScheduler", {**SCALED, **KARRAS}, 6),
    "euler exponential": ("EulerDiscreteScheduler", {**LINEAR, "use_exponential_sigmas": True}, 6),
    "euler continuous": ("EulerDiscreteScheduler", {**LINEAR, **VELOCITY, **KARRAS, "timestep_type": "continuous"}, 6),
    "ancestral": ("EulerAncestralDiscreteScheduler", {**SCALED, **LINSPACE}, 6),
    "heun": ("HeunDiscreteScheduler", {**LINEAR, **LINSPACE}, 5),
    "heun karras": ("HeunDiscreteScheduler", {**SCALED, **KARRAS, **VELOCITY, "clip_sample": True}, 5),
    "edm": ("EDMEulerScheduler", {}, 6),
    "edm levels": (
        "EDMEulerScheduler",
        {"sigma_min": 0.01, "sigma_max": 20.0, "sigma_data": 1.0, "sigma_schedule": "exponential"},
        6,
    ),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}, 6),
    "flow shifted": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 6),
    "flow terminal": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "shift_terminal": 0.1}, 6),
    "flow heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, 5),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_diffusers(name, unet, monkeypatch):
    kind, settings, n = CASES[name]
    scheduler = in_float64(made(kind, settings))
    same_draws(monkeypatch, scheduler)
    process, _, denoiser = from_diffusers(scheduler, unet)
    sampler = sampler_from_diffusers(scheduler, denoiser, n)
    scheduler.set_timesteps(n)
    x = start(2, *SHAPE) * process.sigma(sampler.times[0])
    options = {"use_clipped_model_output": True} if kind == "DDIMScheduler" else {}
    expected = states_of(scheduler, unet, x, scales_of(scheduler, process, sampler.times), **options)
    generator = torch.Generator().manual_seed(1)
    found = [state for _, state, _ in sampler.trajectory(2, None, generator, False, (sampler.times[0], x))][1:]
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    assert max(errors) < tolerance(kind, settings)


def tolerance(kind, settings):
    """DDPM's and DDIM's arithmetic is here in float64, but for the noise of 1e-10 that DDPM's last step has. The levels
    of the others are rounded to float32, 6e-8, and their steps add few of these. Where ᾱ_T = 0 they have 2⁻²⁴, whose
    root is what they leave of x_0 in x_T."""
    if kind in ("DDPMScheduler", "DDIMScheduler"):
        return 1e-9 if kind == "DDPMScheduler" else 1e-13
    return 2 * 2**-12 if "rescale_betas_zero_snr" in settings else 1e-6


def test_eta_is_that_of_ddim(unet, monkeypatch):
    scheduler = in_float64(diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))
    same_draws(monkeypatch, scheduler)
    _, _, denoiser = from_diffusers(scheduler, unet)
    sampler = ld.DDIMSampler(denoiser, sampler_from_diffusers(scheduler, denoiser, 5).times, eta=0.6)
    scheduler.set_timesteps(5)
    expected = states_of(scheduler, unet, start(2, *SHAPE), [1.0] * 6, eta=0.6)[-1]
    x = sampler(2, generator=torch.Generator().manual_seed(1), start=(1000, start(2, *SHAPE)), progress=False)
    assert relative_error(x, expected) < 1e-13


# ---------------------------------------------------------------------------------------------------------- the models


def test_a_process_is_that_of_the_table():
    """Whatever the class, with the index t − 1; to the rounding of a product of a thousand numbers of float32."""
    process, prediction, denoiser = from_diffusers(diffusers.PNDMScheduler(), shape=(3, 8, 8))
    assert denoiser is None
    assert prediction == ld.Denoiser(lambda x, t: x, process, "noise").prediction
    assert process == from_diffusers(diffusers.DDIMScheduler(), shape=(3, 8, 8)).process
    t = torch.arange(1, 1001)
    for scheduler, own in (
        (diffusers.DDPMScheduler(), ld.schedules.linear(1000, 1e-4, 0.02)),
        (diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"), ld.schedules.cosine(1000)),
        (
            diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
            ld.schedules.zero_terminal_snr(ld.schedules.linear(1000, 1e-4, 0.02)),
        ),
    ):
        found = from_diffusers(scheduler, shape=(1,)).process.schedule
        torch.testing.assert_close(found.signal(t), own.signal(t), rtol=1e-4, atol=1e-7)
        assert found.log_snr(1000) == own.log_snr(1000) or abs(found.log_snr(1000) - own.log_snr(1000)) < 1e-3


def test_pipelines_and_networks_of_other_signatures(unet):
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False))
    process, _, denoiser = from_diffusers(pipeline)
    assert (process.shape(0), denoiser.network) == (SHAPE, unet)
    assert from_diffusers(pipeline, shape=(1, 16, 8)).process.shape(0) == (1, 16, 8)

    class Transformer(torch.nn.Module):
        def forward(self, hidden_states, encoder_hidden_states=None, timestep=None):
            return hidden_states * timestep[:, None] + encoder_hidden_states

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    process, prediction, denoiser = from_diffusers(scheduler, Transformer(), shape=(4,))
    assert process == ld.FlowMatching((4,), shift=3.0)
    assert prediction == ld.Denoiser(Transformer(), process, "flow").prediction
    x = torch.ones(2, 4)
    assert torch.equal(denoiser.output(x, 0.5, encoder_hidden_states=x), torch.full((2, 4), 751.0))


def test_indices_between_are_rounded_where_diffusers_rounds():
    indices = []

    def network(x, index):
        indices.append(index)
        return x

    scheduler = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    _, _, denoiser = from_diffusers(scheduler, network, shape=(1,))
    sampler_from_diffusers(scheduler, denoiser, 5)(2, seeds=[0, 1], progress=False)
    scheduler.set_timesteps(5)
    assert [index.tolist() for index in indices] == [[t, t] for t in scheduler.timesteps.tolist()]
    assert ld.from_config(denoiser.to_config(), network=network) == denoiser


REFUSED = {
    "thresholding": ("DDIMScheduler", {"thresholding": True}),
    "use_dynamic_shifting": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
    "invert_sigmas": ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    "use_flow_sigmas": ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    "variance_type": ("DDPMScheduler", {"variance_type": "learned_range"}),
    "prediction_type": ("EDMEulerScheduler", {"prediction_type": "v_prediction"}),
    "prediction": ("DDIMScheduler", {"rescale_betas_zero_snr": True}),
    "scheduler": ("LCMScheduler", {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_of_a_model_is_named(name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        from_diffusers(made(*REFUSED[name]), shape=SHAPE)


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("variance_type", ("DDPMScheduler", {"variance_type": "fixed_large"})),
        ("set_alpha_to_one", ("DDIMScheduler", {"set_alpha_to_one": False})),
        ("timestep_spacing", ("DDIMScheduler", {"timestep_spacing": "linspace"})),
        ("solver_order", ("DPMSolverMultistepScheduler", {"solver_order": 3})),
        ("final_sigmas_type", ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"})),
        ("solver_type", ("UniPCMultistepScheduler", {"solver_type": "bh1"})),
        ("lower_order_final", ("UniPCMultistepScheduler", {"lower_order_final": False})),
        ("stochastic_sampling", ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True})),
        ("interpolation_type", ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"})),
        ("denoiser", ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "sigma_max": 700.0})),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_is_not_understood_of_a_solver_is_named(name, scheduler, unet):
    scheduler = made(*scheduler)
    denoiser = from_diffusers(scheduler, unet).denoiser
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        sampler_from_diffusers(scheduler, denoiser, 7)


def test_new_settings_are_refused_unless_they_are_left_alone():
    class Newer(diffusers.DDIMScheduler):
        @diffusers.configuration_utils.register_to_config
        def __init__(self, num_train_timesteps=1000, prediction_type="epsilon", twist=0.0):
            super().__init__(num_train_timesteps, prediction_type=prediction_type)

    Newer.__name__ = "DDIMScheduler"
    assert from_diffusers(Newer(), shape=SHAPE).process.num_steps == 1000
    with pytest.raises(ValueError, match=r"^twist: expected 0\.0"):
        from_diffusers(Newer(twist=0.5), shape=SHAPE)


def test_settings_of_other_classes_in_a_config_are_none_of_this_one():
    """diffusers keep what a scheduler was made from."""
    karras = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True, rescale_betas_zero_snr=True, solver_order=3)
    pndm = diffusers.PNDMScheduler.from_config(karras.config)
    assert from_diffusers(pndm, shape=(1,)).process == from_diffusers(diffusers.PNDMScheduler(), shape=(1,)).process
    clipped = diffusers.DDIMScheduler(clip_sample=True)
    solver = diffusers.UniPCMultistepScheduler.from_config(clipped.config)
    sampler = sampler_from_diffusers(solver, from_diffusers(solver, lambda x, t: x, shape=(1,)).denoiser, 5)
    assert (solver.config.clip_sample, sampler.clip) == (True, None)


def test_other_arguments_are_named(unet):
    with pytest.raises(TypeError, match="source: expected a scheduler or a pipeline"):
        from_diffusers(unet)
    with pytest.raises(ValueError, match="shape: expected"):
        from_diffusers(diffusers.DDPMScheduler(), lambda x, t: x)
    with pytest.raises(TypeError, match=r"scheduler: expected one of DDPMScheduler.*got PNDMScheduler"):
        sampler_from_diffusers(diffusers.PNDMScheduler(), from_diffusers(diffusers.DDPMScheduler(), unet).denoiser, 5)
    with pytest.raises(TypeError, match="denoiser: expected"):
        sampler_from_diffusers(diffusers.DDPMScheduler(), unet, 5)


# -------------------------------------------------------------------------------------------------------- the scheduler

GROWING = ld.ScaleSpaceDiffusion((1, 8, 8), levels=2, num_steps=100)
HEAT = ld.BlurringDiffusion((1, 8, 8))


class Network(torch.nn.Module):
    """Of any size, and not linear in x or t."""

    def forward(self, x, time, size=None):
        size = x.shape[2:] if size is None else tuple(size)
        value = torch.tanh(x + 0.1 * torch.sin(time.to(x.dtype)).reshape(-1, 1, 1, 1))
        return torch.nn.functional.interpolate(value, size)


# (process, prediction, solver, its options)
SOLVERS = {
    "ddpm": (ld.DDPM((1, 8, 8)), "epsilon", "AncestralSampler", {}),
    "ddim clipped": (ld.DDPM((1, 8, 8)), "v_prediction", "DDIMSampler", {"eta": 0.5, "clip": (-1, 1)}),
    "third order": (ld.DDPM((1, 8, 8)), "sample", "DDIMSampler", {"order": 3}),
    "corrected": (HEAT, "noise", "DDIMSampler", {"order": 2, "rule": "midpoint", "corrector": True}),
    "heat": (HEAT, "epsilon", "AncestralSampler", {"order": 2}),
    "heun": (ld.FlowMatching((1, 8, 8), shift=3.0), "flow_prediction", "HeunSampler", {}),
    "edm": (ld.EDM((1, 8, 8)), ld.EDMPrediction(), "HeunSampler", {"clip": (-1, 1)}),
    "edm second order": (ld.EDM((1, 8, 8)), ld.EDMPrediction(), "DDIMSampler", {"order": 2}),
    "shared": (HEAT, "sample", "SharedNoiseSampler", {"eta": 0.3, "order": 2}),
    "growing": (GROWING, "clean", "AncestralSampler", {}),
    "growing third order": (GROWING, "clean", "DDIMSampler", {"order": 3, "corrector": True}),
    "growing heun": (GROWING, "clean", "HeunSampler", {}),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("spacing", ["linspace", "karras"])
def test_a_step_is_the_solver_s_own(name, spacing):
    process, prediction, solver, options = SOLVERS[name]
    scheduler = LinearDiffusionScheduler(
        process, prediction, solver=solver, solver_options=options, timestep_spacing=spacing
    )
    scheduler.set_timesteps(6)
    network = Network()
    sampler = scheduler.sampler(network)
    assert sampler.times == ld.grids.as_times(process, {"linspace": 6, "karras": ld.grids.karras(6)}[spacing])
    assert isinstance(sampler, getattr(ld, solver))
    x_t = torch.randn(2, *process.shape(process.end), generator=torch.Generator().manual_seed(0))
    x = scheduler.init_noise_sigma * x_t
    expected = [
        state
        for _, state, _ in sampler.trajectory(
            2, generator=torch.Generator().manual_seed(1), start=(process.end, x), progress=False
        )
    ]
    generator, found, sizes, calls = torch.Generator().manual_seed(1), [], [], 0
    for timestep in scheduler.timesteps:
        t = min(sampler.times[:-1], key=lambda t: abs(t - 1 - timestep.item()))
        size = {"size": process.shape(process.before(t))[1:]} if process.shape_changes() else {}
        answer = network(scheduler.scale_model_input(x, timestep), timestep.expand(2), **size)
        result = scheduler.step(answer, timestep, x, generator=generator)
        x, calls = result.prev_sample, calls + 1
        if result.pred_original_sample is not None:
            found.append(x)
            sizes.append(result.pred_original_sample.shape)
    for own, other in zip(found, expected[1:], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6)
    assert sizes == [state.shape for state in found]
    assert calls == sum(len(sampler.calls(t, s)) for t, s in itertools.pairwise(sampler.times))
    assert (scheduler.order, scheduler.num_inference_steps) == (1 + (solver == "HeunSampler"), 6)


@pytest.mark.parametrize("process", [ld.DDPM((1, 8, 8)), HEAT, ld.FlowMatching((1, 8, 8)), None])
def test_pipelines_of_diffusers_run_unchanged(process, unet):
    """DDPMPipeline begins with white noise, which is x_T of these processes."""
    kind = "flow_prediction" if process is not None and process.num_steps is None else "epsilon"
    scheduler = LinearDiffusionScheduler(process, kind, solver="DDIMSampler", solver_options={"eta": 1.0})
    for pipeline_class, options, eta in (
        (diffusers.DDPMPipeline, {}, 1.0),
        (diffusers.DDIMPipeline, {"eta": 0.5}, 0.5),
    ):
        pipeline = pipeline_class(tiny_unet(), diffusers.DDIMScheduler())
        pipeline.scheduler = scheduler  # DDIMPipeline makes a DDIMScheduler of the one it is made with
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        images = pipeline(2, generator, num_inference_steps=6, output_type="np", **options).images
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(2, *SHAPE, generator=generator)
        denoiser = scheduler.denoiser(pipeline.unet)
        sampler = ld.DDIMSampler(denoiser, 6, eta=eta)
        own = sampler(2, generator=generator, start=(sampler.times[0], x), progress=False)
        expected = (own / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        torch.testing.assert_close(torch.from_numpy(images), expected, rtol=1e-5, atol=1e-5)


def test_the_scheduler_of_a_pipeline_is_exchanged():
    """As among diffusers' own, with what the model was trained for."""
    own = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=True, clip_sample_range=2.0,
        timestep_spacing="leading", steps_offset=1, rescale_betas_zero_snr=True,
    )  # fmt: skip
    pipeline = diffusers.DDIMPipeline(tiny_unet(), own)
    pipeline.scheduler = LinearDiffusionScheduler.from_config(own.config)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 5, "output_type": "np", "use_clipped_model_output": True}
    images = pipeline(2, torch.Generator().manual_seed(0), **options).images
    assert pipeline.scheduler.timesteps.tolist() == [801, 601, 401, 201, 1]
    assert pipeline.scheduler.sampler(pipeline.unet).clip == (-2.0, 2.0)
    assert pipeline.scheduler.sampler(pipeline.unet).denoiser == from_diffusers(own, pipeline.unet).denoiser
    pipeline.scheduler = own
    expected = pipeline(2, torch.Generator().manual_seed(0), **options).images
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"config: expected one with beta_start, or process=.* got one with num_train"):
        LinearDiffusionScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler().config)
    back = diffusers.EulerDiscreteScheduler.from_config(LinearDiffusionScheduler.from_config(own.config).config)
    assert (back.config.beta_schedule, back.config.prediction_type) == ("scaled_linear", "v_prediction")


@pytest.mark.parametrize("name", SOLVERS)
def test_configs_are_json_and_make_the_same(name, tmp_path):
    process, prediction, solver, options = SOLVERS[name]
    network = Network()
    time_input = NearestIndex() if process.num_steps else None
    scheduler = LinearDiffusionScheduler(process, prediction, time_input, solver=solver, solver_options=options)
    scheduler.save_pretrained(tmp_path)
    json.loads((tmp_path / "scheduler_config.json").read_text())
    for other in (
        LinearDiffusionScheduler.from_pretrained(tmp_path),
        LinearDiffusionScheduler.from_config(scheduler.config),
    ):
        other.set_timesteps(4)
        scheduler.set_timesteps(4)
        assert other.denoiser(network) == scheduler.denoiser(network)
        assert other.sampler(network) == scheduler.sampler(network)
        assert torch.equal(other.timesteps, scheduler.timesteps)
        assert len(other) == (process.num_steps or 1000)


def test_times_are_given_by_number_timesteps_or_levels():
    scheduler = LinearDiffusionScheduler()
    scheduler.set_timesteps(timesteps=[900, 500.5, 0])
    assert scheduler.timesteps.tolist() == [900, 500.5, 0]
    schedule = ld.schedules.linear(1000, 1e-4, 0.02)
    ratio = schedule.sigma(501) / schedule.signal(501)
    for sigmas in ([ratio], [ratio, 0.0], torch.tensor([ratio, 0.0])):
        scheduler.set_timesteps(sigmas=sigmas)
        assert abs(scheduler.timesteps.item() - 500) < 1e-3
    flow = LinearDiffusionScheduler(
        ld.FlowMatching(SHAPE, shift=3.0), "flow_prediction", NoiseLevel(1000), solver="HeunSampler"
    )
    flow.set_timesteps(sigmas=[1.0, 0.75, 0.5])
    assert flow.timesteps.tolist() == [1000.0, 750.0, 750.0, 500.0, 500.0]
    flow.set_timesteps(timesteps=[1000, 600.0])
    torch.testing.assert_close(flow.timesteps, torch.tensor([1000.0, 600.0, 600.0]))
    edm = LinearDiffusionScheduler(ld.EDM(SHAPE), ld.EDMPrediction(), timestep_spacing="karras")
    edm.set_timesteps(10)
    peer = diffusers.EDMEulerScheduler()
    peer.set_timesteps(10)
    torch.testing.assert_close(edm.timesteps, peer.timesteps)
    assert edm.init_noise_sigma == 80
    edm.set_timesteps(timesteps=peer.timesteps)
    torch.testing.assert_close(edm.timesteps, peer.timesteps)
    log_snr = LinearDiffusionScheduler(ld.FlowMatching(SHAPE), "flow_prediction", "log_snr")
    log_snr.set_timesteps(timesteps=[-2.0, 3.0])
    torch.testing.assert_close(log_snr.timesteps, torch.tensor([-2.0, 3.0]))
    for wrong in ({}, {"num_inference_steps": 5, "sigmas": [1.0]}):
        with pytest.raises(ValueError, match="num_inference_steps, timesteps, sigmas: expected one of them"):
            scheduler.set_timesteps(**wrong)
    with pytest.raises(ValueError, match="timesteps: expected None for a network that is told"):
        LinearDiffusionScheduler(ld.EDM(SHAPE), "sample", lambda process, t: t).set_timesteps(timesteps=[1.0])


def test_noise_is_added_as_by_diffusers():
    x_0, noise, t = start(3, *SHAPE), start(3, *SHAPE, seed=2), torch.tensor([0, 500, 999])
    peer = in_float64(diffusers.DDPMScheduler())
    scheduler = LinearDiffusionScheduler()
    torch.testing.assert_close(scheduler.add_noise(x_0, noise, t), peer.add_noise(x_0, noise, t), rtol=0, atol=1e-12)
    assert scheduler.add_noise(x_0.half(), noise.half(), t[:1]).dtype == torch.float16
    torch.testing.assert_close(scheduler.alphas_cumprod, peer.alphas_cumprod, rtol=1e-12, atol=0)
    torch.testing.assert_close(scheduler.betas, peer.betas.double(), rtol=0, atol=3e-7)  # 1 − ᾱ_t/ᾱ_{t−1} of float32
    growing = LinearDiffusionScheduler(GROWING, "clean")
    added = growing.add_noise(x_0, torch.zeros(3, 1, 4, 4).double(), torch.tensor([99]))
    torch.testing.assert_close(added, GROWING.diffuse(x_0, 100, torch.zeros(3, 1, 4, 4).double()))
    with pytest.raises(AttributeError):
        LinearDiffusionScheduler(ld.EDM(SHAPE), "sample").alphas_cumprod  # noqa: B018


def test_steps_that_follow_no_other_begin_anew():
    scheduler = LinearDiffusionScheduler(solver_options={"order": 2})
    scheduler.set_timesteps(5)
    x, answers = start(2, *SHAPE), [start(2, *SHAPE, seed=k) for k in range(5)]
    first, second, third, *_ = scheduler.timesteps
    begun = scheduler.step(answers[0], first, x).prev_sample
    continued = scheduler.step(answers[1], second, begun).prev_sample
    again = scheduler.step(answers[1], second, begun).prev_sample  # after itself, without a history
    assert not torch.equal(continued, again)
    sampler = ld.DDIMSampler(ld.Denoiser(lambda x, t: answers[1], scheduler.denoiser(len, SHAPE).process, "noise"), 5)
    torch.testing.assert_close(again, sampler.step(begun, *sampler.times[1:3]))
    # From between, to the next of the times, and from there on.
    between = scheduler.step(answers[1], 600, begun).prev_sample
    torch.testing.assert_close(between, sampler.step(begun, 601, sampler.times[2]))
    after = scheduler.step(answers[2], third, between).prev_sample
    assert not torch.equal(after, LinearDiffusionScheduler().step(answers[2], third, between).prev_sample)
    with pytest.raises(ValueError, match=r"timestep: expected one of scheduler\.timesteps, or one between, got 1000"):
        scheduler.step(answers[0], 1000, x)


def test_options_of_a_step():
    scheduler = LinearDiffusionScheduler(clip_sample=True)
    scheduler.set_timesteps(5)
    x, answer, t = start(2, *SHAPE).float(), start(2, *SHAPE, seed=1).float(), scheduler.timesteps[1]
    drawn = scheduler.step(answer, t, x, eta=1.0, generator=torch.manual_seed(0)).prev_sample
    ancestral = LinearDiffusionScheduler(solver="AncestralSampler", clip_sample=True)
    ancestral.set_timesteps(5)
    expected = ancestral.step(answer, t, x, generator=torch.manual_seed(0)).prev_sample
    assert torch.equal(drawn, expected)
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    both = ancestral.step(answer, t, x, generator=generators, return_dict=False)[0]
    one = ancestral.step(answer[1:], t, x[1:], generator=torch.Generator().manual_seed(1)).prev_sample
    torch.testing.assert_close(both[1:], one)
    assert scheduler.step(answer.half(), t, x.half()).prev_sample.dtype == torch.float16
    learned = torch.cat([answer, answer], 1)  # of twice the channels, the mean's half
    assert torch.equal(scheduler.step(learned, t, x).prev_sample, scheduler.step(answer, t, x).prev_sample)
    x.requires_grad_()
    scheduler.step(answer, t, x).prev_sample.sum().backward()
    assert x.grad is not None
    assert torch.equal(ancestral.step(answer, t, x, eta=0.0, generator=torch.manual_seed(0)).prev_sample, expected)
    with pytest.raises(ValueError, match=r"eta: expected None or 0 for AncestralSampler, which has no η, got 0\.5"):
        ancestral.step(answer, t, x, eta=0.5)
    with pytest.raises(ValueError, match="use_clipped_model_output: expected True or None"):
        scheduler.step(answer, t, x, use_clipped_model_output=False)
    with pytest.raises(ValueError, match="network: expected an output of shape"):
        scheduler.step(answer[..., :4], t, x)
    with pytest.raises(ValueError, match="sample: expected shape"):
        LinearDiffusionScheduler(HEAT).step(answer, 5, x[..., :4])


def test_arguments_that_do_not_fit_are_named():
    for name, options in {
        "timestep_spacing": {"timestep_spacing": "karass"},
        "num_train_timesteps": {"process": HEAT, "num_train_timesteps": 500},
        "solver": {"solver": "EDMPrediction"},
        "prediction": {"prediction_type": "noize"},
        "solver, solver_options": {"solver": "Euler"},
    }.items():
        with pytest.raises((ValueError, TypeError), match=f"^{name}"):
            LinearDiffusionScheduler(**options)


# --------------------------------------------------------------------------------------------------------- the pipeline


def growing_pipeline():
    torch.manual_seed(0)
    network = FlexiUNet(16, 1, 1, **SETTINGS["tiny"])
    torch.nn.init.normal_(network.out[-1].weight, std=0.1)
    process = ld.ScaleSpaceDiffusion((1, 16, 16), levels=3)
    scheduler = LinearDiffusionScheduler(process, "clean", solver="AncestralSampler", solver_options={"order": 2})
    pipeline = LinearDiffusionPipeline(network.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_pipeline_is_a_sampler(capfd):
    pipeline = growing_pipeline()
    process = pipeline.scheduler.denoiser(pipeline.network).process
    sampler = ld.AncestralSampler(ld.Denoiser(pipeline.network, process, "clean"), 7, order=2)
    seeds = [4, 5]
    expected = (sampler(2, seeds=seeds, progress=False) / 2 + 0.5).clamp(0, 1)
    images = pipeline(2, seeds=seeds, num_inference_steps=7, output_type="pt").images
    assert torch.equal(images, expected)
    array = pipeline(2, seeds=seeds, num_inference_steps=7, output_type="np").images
    assert torch.equal(torch.from_numpy(array), expected.permute(0, 2, 3, 1))
    (pictures,) = pipeline(2, seeds=seeds, num_inference_steps=7, return_dict=False)
    assert (len(pictures), pictures[0].size, pictures[0].mode) == (2, (16, 16), "L")
    own = sampler(2, generator=torch.Generator().manual_seed(0), progress=False)
    drawn = pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=7, output_type="pt").images
    assert torch.equal(drawn, (own / 2 + 0.5).clamp(0, 1))
    assert "7/7" not in capfd.readouterr().err
    pipeline.set_progress_bar_config(disable=False)
    pipeline(1, seeds=[0], num_inference_steps=7)
    assert "7/7" in capfd.readouterr().err
    with pytest.raises(ValueError, match="output_type: expected"):
        pipeline(output_type="jpg")


def test_a_pipeline_goes_to_devices_and_dtypes():
    pipeline = growing_pipeline()
    assert (pipeline.device.type, pipeline.dtype) == ("cpu", torch.float32)
    pipeline.to("meta")
    assert pipeline.device.type == next(pipeline.network.parameters()).device.type == "meta"
    pipeline = LinearDiffusionPipeline(tiny_unet(), LinearDiffusionScheduler())
    assert isinstance(pipeline.unet, diffusers.UNet2DModel)
    pipeline.set_progress_bar_config(disable=True)
    options = {"batch_size": 3, "seeds": [0, 1, 2], "num_inference_steps": 3, "output_type": "np"}
    full = pipeline(**options).images
    pipeline.to(torch.bfloat16)
    half = pipeline(**options).images
    assert (half.shape, half.dtype) == ((3, 8, 8, 1), np.float32)
    assert np.sqrt(((half - full) ** 2).mean()) < 0.02  # eight bits in a network


def test_a_pipeline_comes_back_from_a_folder(tmp_path):
    pipeline = growing_pipeline()
    pipeline.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "scheduler"}
    other = LinearDiffusionPipeline.from_pretrained(tmp_path)
    assert dict(other.scheduler.config) == {
        k: v for k, v in pipeline.scheduler.config.items() if k != "_use_default_values"
    }
    options = {"seeds": [1], "num_inference_steps": 5, "output_type": "pt"}
    other.set_progress_bar_config(disable=True)
    assert torch.equal(other(**options).images, pipeline(**options).images)


# ------------------------------------------------------------------------------------------------ diffusers' own checks


def common_tests():
    """The class of diffusers' own tests of schedulers, from the folder `tests` of its sources, and why it is not, where
    it is not here."""
    folder = os.environ.get("LINEARDIFFUSION_DIFFUSERS_TESTS")
    if not folder:
        return object, "LINEARDIFFUSION_DIFFUSERS_TESTS names no folder: set it to `tests` of diffusers' sources"
    spec = importlib.util.spec_from_file_location(
        "diffusers_tests", Path(folder) / "__init__.py", submodule_search_locations=[folder]
    )
    sys.modules["diffusers_tests"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return importlib.import_module("diffusers_tests.schedulers.test_schedulers").SchedulerCommonTest, None


COMMON = common_tests()  # no name of its own, by which it would be collected


@pytest.mark.skipif(COMMON[1] is not None, reason=COMMON[1] or "")
class TestCommon(COMMON[0]):
    """Every scheduler of diffusers passes these; the configs are all that is ours."""

    scheduler_classes = (LinearDiffusionScheduler,)
    forward_default_kwargs = (("num_inference_steps", 20),)

    def get_scheduler_config(self, **options):
        return {"num_train_timesteps": 1000, **options}

    def test_every_time_and_setting(self):
        for t in (0, 1, 49, 500, 999):
            self.check_over_forward(time_step=t)
        for options in (
            {"num_train_timesteps": 100},
            {"timestep_spacing": "trailing"},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
            {"beta_schedule": "squaredcos_cap_v2", "clip_sample": True},
            {"solver": "AncestralSampler", "solver_options": {"order": 2}},
        ):
            self.check_over_configs(**options)


class TestCommonOfAProcess(TestCommon):
    def get_scheduler_config(self, **options):
        process = ld.BlurringDiffusion((3, 8, 8))
        return {"process": process, "solver_options": {"order": 2, "eta": 0.5}, **options}

    def test_every_time_and_setting(self):
        self.check_over_forward(time_step=500)


class TestCommonOfAFlow(TestCommon):
    def get_scheduler_config(self, **options):
        process = ld.FlowMatching((3, 8, 8), shift=3.0).to_config()
        return {"process": process, "prediction_type": "flow_prediction", "solver": "HeunSampler", **options}

    def test_every_time_and_setting(self):
        self.check_over_forward(time_step=0.5)
