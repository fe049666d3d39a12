"""A scheduler of diffusers for any process and solver of this library."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lineardiffusion import paths
from lineardiffusion._checks import Shape
from lineardiffusion.carrying import Lift
from lineardiffusion.config import Configured, from_config
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.integrations.diffusers.models import PREDICTIONS, event_shape, schedule_of
from lineardiffusion.integrations.diffusers.stepping import Answered, Calls, advance
from lineardiffusion.integrations.diffusers.times import at_levels, understood
from lineardiffusion.predictions import Prediction, as_prediction, combine, levels
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers import Draws, Sampler
from lineardiffusion.schedules import grids
from lineardiffusion.schedules.grids import Grid, Steps
from lineardiffusion.time_inputs import TimeInput, as_time_input

_SPACINGS: dict[str, type[Grid]] = {
    "linspace": grids.uniform,
    "leading": grids.leading,
    "trailing": grids.trailing,
    "karras": grids.karras,
    "log_snr": grids.log_snr,
}


@dataclass
class LinearDiffusionSchedulerOutput(BaseOutput):  # type: ignore[misc]
    """What a step returns.

    Attributes:
        prev_sample: the state that the network is called with next, or the result.
        pred_original_sample: the estimate of the clean image, at the shape of the next state; None on the way of a step
            that calls the network again.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class LinearDiffusionScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    r"""Any process and solver of this library as a scheduler of diffusers, for its pipelines and training scripts.

    A step is the solver's own, with what the network returned in the place of its call: the states are those of
    `scheduler.sampler(network)` with the same noise, in the dtype of the sample.

    Without a `process` it is that of the β, x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε at any shape, so that the scheduler of a
    pipeline is exchanged as usual: `LinearDiffusionScheduler.from_config(pipeline.scheduler.config, solver=…)`.

    Arguments:
        process: a process, or its configuration.
        prediction_type: "epsilon", "sample", "v_prediction", "flow_prediction", "clean", or an object such as
            `ld.EDMPrediction()`, or its configuration.
        time_input, lift: as for `ld.Denoiser`; `timesteps` are what the network is told.
        solver: the public name of a sampler: "AncestralSampler", "DDIMSampler", "SharedNoiseSampler", "HeunSampler".
        solver_options: its arguments beside denoiser and steps, such as {"order": 2, "eta": 0.5}.
        num_train_timesteps: the steps of the process, where it has any.
        beta_start, beta_end, beta_schedule, rescale_betas_zero_snr: as for diffusers' `DDPMScheduler`.
        trained_betas: β_1, …, β_T, in the place of the schedule of these or of the process.
        clip_sample, clip_sample_range: whether estimates are clamped, and to ± what.
        timestep_spacing: "linspace", "leading", "trailing", "karras" or "log_snr", the grids of `ld.grids`.
        steps_offset: added to the indices of "leading".

    Raises:
        TypeError, ValueError: arguments that do not fit each other, as the classes that they are made into.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> from lineardiffusion.integrations.diffusers import LinearDiffusionScheduler
        >>> blurring = ld.BlurringDiffusion((3, 8, 8))
        >>> scheduler = LinearDiffusionScheduler(blurring, "epsilon", solver_options={"order": 2})
        >>> scheduler.set_timesteps(5)
        >>> x = scheduler.init_noise_sigma * torch.randn(1, 3, 8, 8)
        >>> for t in scheduler.timesteps:
        ...     x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    """

    _compatibles = [  # noqa: RUF012, as diffusers has it
        "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    ]  # fmt: skip

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        process: LinearDiffusion | Mapping[str, Any] | None = None,
        prediction_type: str | Prediction | Mapping[str, Any] = "epsilon",
        time_input: TimeInput | Mapping[str, Any] | None = None,
        lift: Lift | None = None,
        solver: str = "DDIMSampler",
        solver_options: Mapping[str, Any] | None = None,
        num_train_timesteps: int | None = None,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray[Any, Any] | Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
    ) -> None:
        if timestep_spacing not in _SPACINGS:
            raise ValueError(f"timestep_spacing: expected one of {list(_SPACINGS)}, got {timestep_spacing!r}")
        for name, value in (("process", process), ("prediction_type", prediction_type), ("time_input", time_input)):
            if isinstance(value, Configured):
                self.register_to_config(**{name: value.to_config()})  # which JSON knows
        self._has_any_shape = process is None
        self._process: LinearDiffusion = self._made_of_betas() if process is None else _made(process)
        if process is not None and trained_betas is not None:
            schedule = self._made_of_betas().schedule
            self._process = LinearDiffusion(self._process.path, schedule, coupling=self._process.coupling)
        steps = self._process.num_steps
        if trained_betas is None and steps is not None and num_train_timesteps not in (None, steps):
            raise ValueError(
                f"num_train_timesteps: expected {steps}, as many as the process has, got {num_train_timesteps}"
            )
        self.register_to_config(num_train_timesteps=steps or num_train_timesteps or 1000)
        if isinstance(prediction_type, str):
            prediction_type = PREDICTIONS.get(prediction_type, prediction_type)
        self.prediction = as_prediction(_made(prediction_type))
        self.time_input = as_time_input(_made(time_input) or self.prediction.time_input)
        self.num_inference_steps: int | None = None
        self._use(None if self._process.num_steps else grids.uniform(50), None)
        if "_use_default_values" in self.config:
            # Diffusers take what is given by position for left out, and would not pass it on.
            parameters = inspect.signature(type(self).__init__).parameters
            left = [name for name in list(parameters)[1:] if self.config[name] is parameters[name].default]
            self.register_to_config(_use_default_values=left)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler of a config, also of one of diffusers' own schedulers of β.

        Raises:
            ValueError: a config of a scheduler of another kind, such as of a flow.
        """
        if config and "beta_start" not in config and {**config, **kwargs}.get("process") is None:
            raise ValueError(
                "config: expected one with beta_start, or process=… beside it, as from_diffusers makes it, got one "
                f"with {', '.join(name for name in config if not name.startswith('_'))}"
            )
        return super().from_config(config, return_unused_kwargs, **kwargs)

    # ------------------------------------------------------------------ times

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Choose the times of the next trajectory, by one of three.

        Arguments:
            num_inference_steps: the number of steps on the grid of `timestep_spacing`.
            device: of `timesteps`.
            timesteps: what the network is to be told, descending.
            sigmas: noise levels σ/a, or σ for flows, as diffusers have them; a final 0 may be left out.

        Raises:
            ValueError: none of these or several; times that the process does not have, as `ld` samplers say it.
        """
        given = [value for value in (num_inference_steps, timesteps, sigmas) if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"num_inference_steps, timesteps, sigmas: expected one of them, got {len(given) or 'none'}"
            )
        steps: Steps
        if num_inference_steps is not None:
            steps = _SPACINGS[self.config.timestep_spacing](num_inference_steps)
            if self.config.timestep_spacing == "leading" and self.config.steps_offset:
                steps = [t + self.config.steps_offset for t in steps.times(self._process)]
        elif timesteps is not None:
            steps = understood(self.time_input, self._process, torch.as_tensor(timesteps, device="cpu")).tolist()
        else:
            given_levels = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
            noisy = given_levels[:-1] if given_levels[-1] == 0 else given_levels
            steps = at_levels(self._process.schedule, noisy).tolist()
        self._use(steps, device)
        self.num_inference_steps = len(self._times) - 1

    def _use(self, steps: Steps, device: str | torch.device | None) -> None:
        self._steps, self._device = steps, device
        self._samplers: dict[tuple[Shape, float | None], Sampler] = {}
        self._found: Calls | None = None
        sampler = self._sampler(self._process.shape(self._process.end), None)
        self._times, self._history = sampler.times, sampler.history()
        self._following: int | None = 0  # the call that continues the history
        self._begun: tuple[Tensor, float, float] | None = None
        self._answers: list[Tensor] = []

    @property
    def _calls(self) -> Calls:
        if self._found is None:  # a thousand steps of a blur are not looked at before they are needed
            self._found = Calls(self._sampler(self._process.shape(self._process.end), None), self._device)
        return self._found

    @property
    def timesteps(self) -> Tensor:
        """What the network is told in each call, in their order; before `set_timesteps` for all steps there are."""
        return self._calls.timesteps

    @property
    def order(self) -> int:
        """How often a step calls the network."""
        return self._calls.per_step

    @property
    def init_noise_sigma(self) -> float:
        """σ at the first time."""
        return self._process.sigma(self._times[0])

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    # ------------------------------------------------------------------ sampling

    def denoiser(self, network: Callable[..., Any], shape: Sequence[int] | None = None) -> Denoiser:
        """The denoiser of a network; its event shape is needed where neither a process nor its config has one."""
        process = self._at(event_shape(network, shape) if self._has_any_shape else ())
        return Denoiser(network, process, self.prediction, self.time_input, self.config.lift)

    def sampler(self, network: Callable[..., Any], shape: Sequence[int] | None = None) -> Sampler:
        """The sampler that the steps are those of, at the times of `set_timesteps`; arguments as for `denoiser`."""
        return self._solver(self.denoiser(network, shape), None)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """x_t as the network is given it: scaled by EDM's preconditioning, else as it is."""
        if not self.prediction.scales_input or timestep is None:
            return sample
        call, _ = self._calls.find(timestep, self._following)
        scale = self.prediction.input_scale(*levels(self._process, call.time, sample.device))
        return combine(scale, sample, 0.0, sample)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float | None = None,
        use_clipped_model_output: bool | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> LinearDiffusionSchedulerOutput | tuple[Tensor, Tensor | None]:
        """From one state to the next, which may be of another shape. Steps that follow each other continue one
        trajectory; any other begins anew.

        Arguments:
            model_output: what the network returned for `sample` at `timestep`.
            timestep: one of `timesteps`.
            sample: states, with shape (B, *shape(t)).
            eta: η in the place of the solver's. Solvers without one are left alone by 0, the default of pipelines.
            use_clipped_model_output: whether noise is derived again from a clipped estimate, as it always is.
            generator: the source of noise, or one for each sample.
            return_dict: an object, or a tuple of the same.

        Raises:
            ValueError: a time that is none of them, shapes that do not fit, an η for a solver that has none.
        """
        if use_clipped_model_output is False and self.config.clip_sample:
            raise ValueError("use_clipped_model_output: expected True or None with clip_sample, got False")
        call, follows = self._calls.find(timestep, self._following)
        sampler = self._sampler(tuple(sample.shape[1:]), eta)
        if call.is_first:
            self._begun, self._answers = (sample, call.t, call.s), []
            if not follows:
                self._history = sampler.history()
        assert self._begun is not None  # no other call than a first one is found unless it follows
        self._answers.append(model_output)

        def noise(like: Tensor) -> Tensor:
            drawn = randn_tensor(like.shape, generator=generator, device=like.device, dtype=torch.float32)
            return drawn.to(like.dtype)  # type: ignore[no-any-return]

        draws = Draws(noise, noise)
        x_s, clean, self._history = advance(sampler, *self._begun, self._answers, draws, self._history)
        self._following = self._calls.after(call, is_over=clean is not None)
        result = LinearDiffusionSchedulerOutput(x_s.to(sample.dtype), None if clean is None else clean.to(sample.dtype))
        return result if return_dict else (result.prev_sample, result.pred_original_sample)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of images: `process.diffuse`.

        Arguments:
            original_samples: x_0, with shape (B, *shape(0)).
            noise: standard normal, with shape (B, *shape(t)).
            timesteps: what the network is told, one for all or (B,), which share a shape.
        """
        process = self._at(tuple(original_samples.shape[1:]))
        t = understood(self.time_input, process, timesteps.reshape(-1)).expand(len(original_samples))
        return process.diffuse(original_samples, t, noise)

    # ------------------------------------------------------------------ tables

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_1, …, ᾱ_T as SNR/(1 + SNR), which training scripts weigh losses by."""
        process = self._process
        if process.num_steps is None:
            raise AttributeError("alphas_cumprod: a process of continuous time has no table")
        return process.schedule.log_snr(torch.arange(1, process.num_steps + 1)).sigmoid()

    @property
    def betas(self) -> Tensor:
        """β_t = 1 − ᾱ_t/ᾱ_{t−1}."""
        alpha_bar = torch.cat([torch.ones(1).double(), self.alphas_cumprod])
        return 1 - alpha_bar[1:] / alpha_bar[:-1]

    # ------------------------------------------------------------------ parts

    def _made_of_betas(self) -> LinearDiffusion:
        names = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
        options = {name: self.config[name] for name in names}
        scheduler = DDPMScheduler(self.config.num_train_timesteps or 1000, **options)
        return LinearDiffusion(paths.identity((1,)), schedule_of(scheduler))

    def _at(self, shape: Shape) -> LinearDiffusion:
        """The process; at a shape, where it has any."""
        if not self._has_any_shape or shape in ((), self._process.shape(0)):
            return self._process
        return LinearDiffusion(paths.identity(shape), self._process.schedule)

    def _sampler(self, shape: Shape, eta: float | None) -> Sampler:
        key = (shape if self._has_any_shape else (), eta)
        if key not in self._samplers:
            answered = Answered(self._at(key[0]), self.prediction, self.time_input, self.config.lift)
            self._samplers[key] = self._solver(answered, eta)
        return self._samplers[key]

    def _solver(self, denoiser: Denoiser, eta: float | None) -> Sampler:
        config = {"type": self.config.solver, **(self.config.solver_options or {})}
        if self.config.clip_sample:
            config["clip"] = (-self.config.clip_sample_range, self.config.clip_sample_range)
        if eta is not None and "eta" in self._sampler(self._process.shape(0), None).arguments():
            config["eta"] = eta
        elif eta:
            raise ValueError(f"eta: expected None or 0 for {self.config.solver}, which has no η, got {eta}")
        try:
            sampler = from_config(config, denoiser=denoiser, steps=self._steps)
            if not isinstance(sampler, Sampler):
                raise ValueError(f"got {type(sampler).__name__}")
        except ValueError as error:
            raise ValueError(
                f"solver, solver_options: expected the name and the options of a sampler, such as 'DDIMSampler' and "
                f"{{'order': 2}}: {error}"
            ) from error
        return sampler


def _made(value: Any) -> Any:
    """The object of a configuration, or itself."""
    return from_config(value) if isinstance(value, Mapping) else value
