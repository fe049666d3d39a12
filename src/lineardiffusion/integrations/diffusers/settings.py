"""The settings of diffusers' schedulers: which are understood, and how the others are refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

# Those which say what a network was trained for, or which times a sampler visits: the scheduler's own tables have them.
_READ = {
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type", "timestep_spacing", "steps_offset", "sigma_min", "sigma_max", "sigma_data", "sigma_schedule",
    "rho", "shift", "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
    "use_lu_lambdas", "lambda_min_clipped", "timestep_type", "interpolation_type",
}  # fmt: skip
# Those of solvers, which `samplers` reads.
_OF_SOLVERS = {
    "clip_sample", "clip_sample_range", "set_alpha_to_one", "skip_prk_steps", "final_sigmas_type", "solver_order",
    "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "predict_x0", "disable_corrector",
    "solver_p", "stochastic_sampling",
}  # fmt: skip
# Those without a meaning unless another of these is set, which is refused.
_IDLE = {
    "dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type", "base_shift", "max_shift",
    "base_image_seq_len", "max_image_seq_len",
}  # fmt: skip
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "thresholding": (False,),
    "use_dynamic_shifting": (False,),
    "use_flow_sigmas": (False,),
    "invert_sigmas": (False,),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}


def settings_of(scheduler: Any) -> dict[str, Any]:
    """The settings of a scheduler's class; its `config` may hold those of classes that it was made from, too."""
    return {name: scheduler.config.get(name, default) for name, default in _defaults(scheduler).items()}


def check_model(scheduler: Any) -> None:
    """Refuse what changes the meaning of a network's answer and is not understood.

    Raises:
        ValueError: such a setting, by its name.
    """
    check_settings(scheduler, _SUPPORTED)
    settings, known = settings_of(scheduler), _READ | _OF_SOLVERS | _IDLE | _SUPPORTED.keys()
    for name, default in _defaults(scheduler).items():
        if name not in known and settings[name] != default:
            raise ValueError(
                f"{name}: expected {default!r}, the default of {type(scheduler).__name__}, since nothing is known of "
                f"this setting here, got {settings[name]!r}"
            )


def check_settings(scheduler: Any, supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse values of settings other than the ones that are supported.

    Raises:
        ValueError: such a value, by the name of the setting.
    """
    for name, value in settings_of(scheduler).items():
        if name in supported and value not in supported[name]:
            one = supported[name][0] if len(supported[name]) == 1 else f"one of {supported[name]}"
            raise ValueError(
                f"{name}: expected {one}, got {value!r}, which has no counterpart here; to do without it, give "
                f"{type(scheduler).__name__}.from_config(scheduler.config, {name}={supported[name][0]!r})"
            )


def _defaults(scheduler: Any) -> dict[str, Any]:
    parameters = inspect.signature(type(scheduler).__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}
