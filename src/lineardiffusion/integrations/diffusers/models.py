"""Models that others trained with diffusers, as a process, a prediction and a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lineardiffusion import paths, schedules
from lineardiffusion._checks import Shape, as_shape
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.integrations.diffusers.settings import check_model, settings_of
from lineardiffusion.networks import keywords
from lineardiffusion.predictions import EDMPrediction, Prediction, as_prediction
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import Schedule
from lineardiffusion.schedules.tables import Between
from lineardiffusion.time_inputs import NearestIndex, NoiseLevel, TimeInput

PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity", "flow_prediction": "flow"}

_BETAS = {
    "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "LMSDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler", "UniPCMultistepScheduler",
}  # fmt: skip
_FLOWS = {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}
_EDM = {"EDMEulerScheduler"}
# Those whose networks are told fractions of an index, between which σ/a is linear, and those that round.
_FRACTIONAL = {
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"
}  # fmt: skip
_OTHER_LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


class Pretrained(NamedTuple):
    """What `from_diffusers` returns.

    Attributes:
        process: the diffusion that the network was trained for.
        prediction: what it returns.
        denoiser: made of both and the network; None where there is none.
    """

    process: LinearDiffusion
    prediction: Prediction
    denoiser: Denoiser | None


def from_diffusers(
    source: Any, network: Callable[..., Any] | None = None, *, shape: Sequence[int] | None = None
) -> Pretrained:
    r"""Process, prediction and denoiser of a model that was trained with diffusers.

    Which model it is, its scheduler says:

        DDPM, DDIM, PNDM, DPM-Solver, UniPC, DEIS, Euler, Heun, LMS    x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε
        flow matching                                                  x_t = (1 − σ) x_0 + σ ε, with its shift
        EDM                                                            x_t = x_0 + σ ε, with its sigma_data

    ᾱ are the scheduler's own `alphas_cumprod`, of which ᾱ_1 has the index 0. How a scheduler samples is another
    question, which `sampler_from_diffusers` answers.

    The denoiser passes conditioning on to the network: `denoiser(x_t, t, encoder_hidden_states=…)`.

    Arguments:
        source: a scheduler, or a pipeline with one and a `unet` or a `transformer`.
        network: the network, beside a scheduler: any module, called as network(x, timestep, **conditioning).
        shape: the event shape, e.g. (3, 32, 32), where the network's config does not have it as `in_channels` and
            `sample_size`.

    Raises:
        TypeError: a source that is neither.
        ValueError: a scheduler or a setting without a counterpart, by its name (thresholding, dynamic shifting, learned
            variances, …); a shape that is not known.

    Examples:
        >>> import diffusers, torch
        >>> from lineardiffusion.integrations.diffusers import from_diffusers
        >>> scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
        >>> process, prediction, _ = from_diffusers(scheduler, shape=(3, 32, 32))
        >>> process.num_steps, process.signal_scale(1000), type(prediction).__name__
        (1000, 0.0, 'Velocity')
    """
    scheduler = getattr(source, "scheduler", source)
    if not hasattr(scheduler, "set_timesteps") or not hasattr(scheduler, "config"):
        raise TypeError(f"source: expected a scheduler or a pipeline of diffusers, got {type(source).__name__}")
    if network is None:
        network = getattr(source, "unet", None) or getattr(source, "transformer", None)
    check_model(scheduler)
    schedule, prediction, time_input = _trained_for(scheduler)
    process = LinearDiffusion(paths.identity(event_shape(network, shape)), schedule)
    prediction.check(process)
    denoiser = None if network is None else Denoiser(_called(network), process, prediction, time_input)
    return Pretrained(process, prediction, denoiser)


def schedule_of(scheduler: Any) -> Schedule:
    """The schedule of a scheduler's ᾱ, in float64."""
    settings, is_fractional = settings_of(scheduler), type(scheduler).__name__ in _FRACTIONAL
    alpha_bar = torch.cat([torch.ones(1).double(), scheduler.alphas_cumprod.double()])
    if settings.get("rescale_betas_zero_snr"):
        alpha_bar[-1] = 0  # for which some have 2⁻²⁴, more than ᾱ_{T−1}, so that they need not divide by 0
    between: Between = "ratio" if is_fractional and not _has_other_levels(settings) else "log_snr"
    return schedules.from_alpha_bar(alpha_bar, between)


def _trained_for(scheduler: Any) -> tuple[Schedule, Prediction, TimeInput]:
    name, settings = type(scheduler).__name__, settings_of(scheduler)
    kind = settings.get("prediction_type")
    if name in _EDM:
        if kind != "epsilon":
            raise ValueError(f"prediction_type: expected 'epsilon', got {kind!r}, which is −F of EDM")
        return schedules.edm(settings["sigma_max"], settings["rho"]), EDMPrediction(settings["sigma_data"]), "edm"
    if name in _FLOWS:
        told = NoiseLevel(settings["num_train_timesteps"])
        return schedules.flow(settings["shift"]), as_prediction("flow"), told
    if name not in _BETAS:
        raise ValueError(f"scheduler: expected one of {', '.join(sorted(_BETAS | _FLOWS | _EDM))}, got {name}")
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction_type: expected one of {list(PREDICTIONS)}, got {kind!r}")
    time_input: TimeInput = "index"
    if settings.get("timestep_type") == "continuous" and kind == "v_prediction":
        time_input = "edm"
    elif name not in _FRACTIONAL and _has_other_levels(settings):
        time_input = NearestIndex()
    return schedule_of(scheduler), as_prediction(PREDICTIONS[kind]), time_input


def _has_other_levels(settings: Mapping[str, Any]) -> bool:
    """Whether levels are chosen first and indices belong to them, by λ linear in between."""
    return any(settings.get(name) for name in _OTHER_LEVELS)


def event_shape(network: Any, shape: Sequence[int] | None) -> Shape:
    """The event shape that a network is for: the one given, or that in its config, as diffusers' models have it.

    Raises:
        ValueError: it is not known.
    """
    if shape is not None:
        return as_shape(shape)
    config = getattr(network, "config", None) or {}
    channels, size = config.get("in_channels"), config.get("sample_size")
    if channels is None or size is None or config.get("out_channels") not in (None, channels):
        raise ValueError(
            "shape: expected an event shape such as shape=(3, 32, 32), since no network with in_channels (as many as "
            "out_channels) and sample_size in its config is given, got None"
        )
    return as_shape((channels, size, size) if isinstance(size, int) else (channels, *size))


def _called(network: Callable[..., Any]) -> Callable[..., Any]:
    """The network, if its second argument is the time, or as one of which it is."""
    return TimeByName(network) if "timestep" in keywords(network) else network


class TimeByName(nn.Module):
    """A network that takes its time as `timestep=`, as diffusers' transformers do.

    Arguments:
        network: called as network(x, timestep=time, **conditioning).
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, **conditioning: Any) -> Any:
        return self.network(x, timestep=time, **conditioning)
