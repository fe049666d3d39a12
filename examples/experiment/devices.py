"""The processes and devices of a run, as accelerate sets them up; what they must agree on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import (
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
    str_to_bool,
)

from examples.experiment.config import Config
from lineardiffusion.training import CheckpointError

T = TypeVar("T")

_OTHER_ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")


def make_accelerator(config: Config) -> Accelerator:
    """accelerate, as the configuration says. `accelerate launch` sets environment variables for what `accelerate
    config` was told: those about devices and processes hold, those about learning do not, with a warning.

    Raises:
        ValueError: an environment that asks for an engine with rules of its own, or a tracker that is not there.
    """
    _refuse_other_engines()
    if _is_set("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION") != "2":
        raise ValueError(
            "FSDP_VERSION: expected 2 with ACCELERATE_USE_FSDP; set fsdp_version: 2 in accelerate's config"
        )
    options, run = config.optimization, config.run
    _overruled("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1", f"run.accumulate = {run.accumulate}")
    _overruled("ACCELERATE_MIXED_PRECISION", options.precision, f"optimization.precision = {options.precision}")
    _overruled("ACCELERATE_DYNAMO_BACKEND", "no", f"run.compile = {run.compile}")
    accelerator = Accelerator(
        mixed_precision=options.precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        log_with=run.tracker,
        project_dir=run.folder,
        kwargs_handlers=[
            # A resolution uses a part of Flexi-UNet; which one, all processes agree on in each step.
            DistributedDataParallelKwargs(find_unused_parameters=config.network.kind != "full"),
            # Later than `Watch`, which can say more.
            InitProcessGroupKwargs(timeout=timedelta(minutes=1 + 2 * run.timeout_minutes)),
        ],
    )
    if run.tracker and not accelerator.log_with:
        raise ValueError(f"run.tracker: {run.tracker} needs a package that is not installed")
    return accelerator


def make_processes() -> PartialState:
    """The processes and their devices, for a program that does not learn: what accelerate is told about learning is no
    matter to it.

    Raises:
        ValueError: an environment that asks for an engine with rules of its own.
    """
    _refuse_other_engines()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def _refuse_other_engines() -> None:
    for name in _OTHER_ENGINES:
        if _is_set(name):
            raise ValueError(f"{name}: expected plain processes or FSDP 2, got {os.environ[name]}; unset it")


def _is_set(name: str) -> bool:
    return bool(str_to_bool(os.environ.get(name) or "false"))


def _overruled(name: str, plain: str, by: str) -> None:
    """Warn where a variable asks for something that is the configuration's to say."""
    value = os.environ.get(name, "").lower()
    if value not in ("", "no", plain):
        warnings.warn(f"{name}={value} is not followed: {by} is what counts", stacklevel=3)


def agreed(accelerator: Accelerator, stop: bool) -> bool:
    """Whether any process wants to stop, so that all do so after the same step."""
    if accelerator.num_processes == 1:
        return stop
    return bool(accelerator.reduce(torch.tensor(float(stop), device=accelerator.device), "sum") > 0)


def from_main(processes: PartialState, value: T) -> T:
    """What the main process gives, on all of them."""
    values = [value]
    if processes.num_processes > 1:
        broadcast_object_list(values)
    return values[0]


def by_main(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Do something in the main process while the others wait; what goes wrong is raised in all of them."""
    problem: list[Exception | None] = [None]
    if accelerator.is_main_process:
        try:
            action()
        except (OSError, ValueError, CheckpointError) as error:
            problem = [error]
    broadcast_object_list(problem)
    if problem[0] is not None:
        raise problem[0]


def check_alike(accelerator: Accelerator, **values: object) -> None:
    """That all processes have the same values.

    Raises:
        ValueError: in all of them, naming a process and what it has otherwise.
    """
    everywhere = gather_object([values])
    for process, there in enumerate(everywhere):
        for name, value in there.items():
            if value != everywhere[0][name]:
                raise ValueError(
                    f"processes 0 and {process} have not the same {name.replace('_', ' ')}: {everywhere[0][name]} and "
                    f"{value}; each of them needs to see the same files and to be given the same settings"
                )
