"""The sampler whose steps are those of a scheduler of diffusers."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from lineardiffusion.denoiser import Denoiser
from lineardiffusion.integrations.diffusers.settings import check_model, check_settings, settings_of
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers import AncestralSampler, DDIMSampler, HeunSampler, Sampler
from lineardiffusion.samplers.multistep import Rule

Settings = dict[str, tuple[Any, ...]]
Clip = tuple[float, float] | None

# Of a level σ/a and of the time that a scheduler gives for it; its numbers are float32.
_CLOSE = 1e-5
_TO_CLEAN: Settings = {"final_sigmas_type": ("zero",)}


def sampler_from_diffusers(scheduler: Any, denoiser: Denoiser, num_inference_steps: int) -> Sampler:
    r"""The sampler that takes the steps of a scheduler: at its times, of its order, with its η and its clipping.

    | diffusers | here |
    | --- | --- |
    | `DDPMScheduler` | `AncestralSampler` |
    | `DDIMScheduler` | `DDIMSampler`; its `clip_sample` is that of `use_clipped_model_output=True` |
    | `EulerDiscreteScheduler`, `EDMEulerScheduler`, `FlowMatchEulerDiscreteScheduler` | `DDIMSampler` |
    | `EulerAncestralDiscreteScheduler` | `AncestralSampler` |
    | `HeunDiscreteScheduler`, `FlowMatchHeunDiscreteScheduler` | `HeunSampler` |
    | `DPMSolverMultistepScheduler` of order 1 and 2 | `DDIMSampler`, with η = 1 for sde-dpmsolver++ |
    | `UniPCMultistepScheduler` (bh2) | `DDIMSampler(…, rule="midpoint", corrector=True)` |

    States are those of the process: Euler's and Heun's of diffusers are x_t/a_t. Where only the times are wanted, they
    are `sampler.times`.

    Arguments:
        scheduler: one of these; it stays as it is.
        denoiser: from `from_diffusers`, or any other of the same process.
        num_inference_steps: the number of steps.

    Raises:
        TypeError: another kind of scheduler, or no denoiser.
        ValueError: a setting without a counterpart, by its name; levels that the process does not have.

    Examples:
        >>> import diffusers, torch
        >>> from lineardiffusion.integrations.diffusers import from_diffusers, sampler_from_diffusers
        >>> unet = diffusers.UNet2DModel(8, 1, 1, block_out_channels=(32,), down_block_types=("DownBlock2D",),
        ...                              up_block_types=("UpBlock2D",), layers_per_block=1)
        >>> scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing")
        >>> process, prediction, denoiser = from_diffusers(scheduler, unet)
        >>> sampler = sampler_from_diffusers(scheduler, denoiser, 4)
        >>> sampler.times, sampler.order, sampler.rule
        ([1000, 750, 500, 250, 0], 2, 'midpoint')
    """
    name = type(scheduler).__name__
    if name not in _SAMPLERS:
        raise TypeError(f"scheduler: expected one of {', '.join(_SAMPLERS)}, got {name}")
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"denoiser: expected that of from_diffusers, got {type(denoiser).__name__}")
    make, settings = _SAMPLERS[name]
    check_model(scheduler)
    check_settings(scheduler, settings)
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps)
    times = _indices(scheduler) if name in _BY_INDEX else _times(scheduler, denoiser.process)
    values = settings_of(scheduler)
    clip = (-values["clip_sample_range"], values["clip_sample_range"]) if values.get("clip_sample") else None
    return make(denoiser, times, clip, values)


def _ancestral(denoiser: Denoiser, times: list[float], clip: Clip, settings: Mapping[str, Any]) -> Sampler:
    return AncestralSampler(denoiser, times, clip=clip)


def _ddim(denoiser: Denoiser, times: list[float], clip: Clip, settings: Mapping[str, Any]) -> Sampler:
    return DDIMSampler(denoiser, times, clip=clip)


def _heun(denoiser: Denoiser, times: list[float], clip: Clip, settings: Mapping[str, Any]) -> Sampler:
    return HeunSampler(denoiser, times, clip=clip)


def _dpm_solver(denoiser: Denoiser, times: list[float], clip: Clip, settings: Mapping[str, Any]) -> Sampler:
    eta = 1.0 if settings["algorithm_type"] == "sde-dpmsolver++" else 0.0
    rule: Rule = "midpoint" if settings["solver_type"] == "midpoint" else "moment"
    return DDIMSampler(denoiser, times, eta, settings["solver_order"], rule, clip=clip)


def _unipc(denoiser: Denoiser, times: list[float], clip: Clip, settings: Mapping[str, Any]) -> Sampler:
    return DDIMSampler(denoiser, times, 0.0, settings["solver_order"], "midpoint", corrector=True, clip=clip)


# For each class: what it is here, and the values of its settings for which that is so.
_SAMPLERS: dict[str, tuple[Callable[..., Sampler], Settings]] = {
    "DDPMScheduler": (_ancestral, {"variance_type": ("fixed_small", "fixed_small_log")}),
    "DDIMScheduler": (_ddim, {"set_alpha_to_one": (True,)}),
    "EulerDiscreteScheduler": (_ddim, {**_TO_CLEAN, "interpolation_type": ("linear",)}),
    "EulerAncestralDiscreteScheduler": (_ancestral, {}),
    "HeunDiscreteScheduler": (_heun, {}),
    "EDMEulerScheduler": (_ddim, _TO_CLEAN),
    "FlowMatchEulerDiscreteScheduler": (_ddim, {"stochastic_sampling": (False,)}),
    "FlowMatchHeunDiscreteScheduler": (_heun, {}),
    "DPMSolverMultistepScheduler": (
        _dpm_solver,
        {
            **_TO_CLEAN,
            "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
            "solver_order": (1, 2),  # its third order is none: the weight of the curvature is half of what it should be
            "solver_type": ("midpoint", "heun"),
        },
    ),
    "UniPCMultistepScheduler": (
        _unipc,
        {
            **_TO_CLEAN,
            "solver_type": ("bh2",),
            "solver_order": (1, 2, 3),
            "predict_x0": (True,),
            "lower_order_final": (True,),
            "disable_corrector": ([],),
            "solver_p": (None,),
        },
    ),
}
_BY_INDEX = {"DDPMScheduler", "DDIMScheduler"}


def _indices(scheduler: Any) -> list[float]:
    """The times of schedulers that step by a fixed number of indices, wherever the next one is."""
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    indices: list[int] = scheduler.timesteps.tolist()
    if any(i - j != stride for i, j in itertools.pairwise(indices)) or indices[-1] >= stride:
        raise ValueError(
            f"timestep_spacing: expected one whose indices are {stride} apart, as far as a {type(scheduler).__name__} "
            f"steps whatever the next index is, got {scheduler.config.timestep_spacing!r} with the indices "
            f"{indices[:3]} … {indices[-1]}; try 'trailing' or 'leading', and a number of steps that divides "
            f"{scheduler.config.num_train_timesteps}"
        )
    return [index + 1 for index in indices]


def _times(scheduler: Any, process: LinearDiffusion) -> list[float]:
    """The times of schedulers that are given by levels."""
    pairs = zip(scheduler.timesteps.tolist(), scheduler.sigmas.tolist(), strict=False)
    is_flow = type(scheduler).__name__.startswith("FlowMatch")
    times: list[float] = []
    for (told, sigma), _ in itertools.groupby(pairs, key=lambda pair: pair):  # Heun's method comes to each twice
        level = sigma if not is_flow else sigma / (1 - sigma) if sigma < 1 else math.inf
        candidates = (told + 1, process.schedule.time(-2 * math.log(level)))
        times.append(next((t for t in candidates if _has_level(process, t, level)), math.nan))
        if math.isnan(times[-1]):
            raise ValueError(f"denoiser: expected one whose process has the level σ/a = {level:.6g} of the scheduler")
    return times


def _has_level(process: LinearDiffusion, t: float, level: float) -> bool:
    if not 0 < t <= process.end:
        return False
    signal, sigma = process.schedule(t)
    # Where there is no signal some schedulers have a level that is not quite infinite.
    return signal == 0 or math.isclose(sigma, level * signal, rel_tol=_CLOSE)
