"""Settings that are wrong by themselves, or that do not fit each other."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from examples.experiment.config import Config

_AT_LEAST = {
    "data.max_corrupt": 0, "process.levels": 1, "process.num_steps": 1, "optimization.batch_size": 1,
    "optimization.warmup": 0, "optimization.groups": 1, "run.steps": 0, "run.save_every": 1, "run.keep": 1,
    "run.log_every": 1, "run.sample_every": 0, "run.accumulate": 1, "run.workers": 0,
}  # fmt: skip
_POSITIVE = (
    "optimization.learning_rate", "optimization.clip_norm", "process.decay", "process.blur_sigma_max",
    "run.timeout_minutes",
)  # fmt: skip


def check_settings(config: Config) -> None:
    """What can be known before the images are opened.

    Raises:
        ValueError: with the names of all the settings that have to do with it.
    """
    for name, least in _AT_LEAST.items():
        if config[name] < least:
            raise ValueError(f"{name}: expected at least {least}, got {config[name]}")
    for name in _POSITIVE:
        if not 0 < config[name] < math.inf:
            raise ValueError(f"{name}: expected a positive number, got {config[name]}")
    for name in ("optimization.weight_decay", "run.max_hours"):
        if config[name] is not None and not 0 <= config[name] < math.inf:
            raise ValueError(f"{name}: expected a number from 0 on, got {config[name]}")
    if config.run.timeout_minutes > 1e6:
        raise ValueError(f"run.timeout_minutes: expected at most 1e6, two years, got {config.run.timeout_minutes}")
    if not -(2**63) <= config.optimization.seed < 2**64:
        raise ValueError(f"optimization.seed: expected a number of 64 bits, got {config.optimization.seed}")
    if not 0 <= config.optimization.label_dropout <= 1:
        raise ValueError(f"optimization.label_dropout: expected 0…1, got {config.optimization.label_dropout}")
    if not 0 <= config.optimization.ema_decay < 1:
        raise ValueError(f"optimization.ema_decay: expected [0, 1), got {config.optimization.ema_decay}")
    _check_process(config)
    _check_times(config)
    _check_resume_with(config)


def _check_process(config: Config) -> None:
    process, steps = config.process, config.sample_steps
    if process.family == "ssd" and process.levels > 1 and process.prediction not in ("clean", "data"):
        raise ValueError(
            f"process.prediction: expected clean or data with process.family = ssd and process.levels = "
            f"{process.levels}, got {process.prediction}, which says nothing of the detail that a finer level adds"
        )
    if process.changes is not None:
        changes = process.changes
        if process.family != "ssd":
            raise ValueError(f"process.changes: expected none with process.family = {process.family}, got {changes}")
        if len(changes) != process.levels - 1:
            raise ValueError(
                f"process.changes: expected {process.levels - 1} times for process.levels = {process.levels}, got "
                f"{changes}"
            )
        if changes != sorted(changes) or not all(1 <= t <= process.num_steps for t in changes):
            raise ValueError(
                f"process.changes: expected ascending times from 1 to process.num_steps = {process.num_steps}, got "
                f"{changes}"
            )
    if steps < 1:
        raise ValueError(f"run.sample_steps: expected at least 1, got {steps}")


def _check_times(config: Config) -> None:
    """How times are drawn."""
    process, options = config.process, config.optimization
    resolutions = process.levels if process.family == "ssd" else 1
    changing = f"process.family = {process.family} and process.levels = {process.levels}"
    fraction, shares, starts = options.shape_change_fraction, options.shares, options.coarse_from
    if options.times != "uniform":
        if resolutions > 1:
            raise ValueError(f"optimization.times: expected uniform with {changing}, got {options.times}")
        _check_without(config, "times", ("groups", 1), ("shares", None))
    if fraction is not None:
        if not 0 < fraction < 1:
            raise ValueError(f"optimization.shape_change_fraction: expected a number in (0, 1), got {fraction}")
        if resolutions == 1:
            raise ValueError(
                f"optimization.shape_change_fraction: expected none with {changing}, where the resolution never "
                f"changes, got {fraction}"
            )
        _check_without(config, "shape_change_fraction", ("groups", 1), ("shares", None))
    if shares is not None and not (all(0 <= share < math.inf for share in shares) and sum(shares) > 0):
        raise ValueError(f"optimization.shares: expected numbers from 0 on, not all of them 0, got {shares}")
    if starts is not None and resolutions == 1:
        raise ValueError(f"optimization.coarse_from: expected none with {changing}, got {starts}")


def _check_without(config: Config, name: str, *others: tuple[str, object]) -> None:
    """That, beside one setting of the optimization, others are as they are where they do nothing."""
    for other, without in others:
        if (value := config[f"optimization.{other}"]) != without:
            raise ValueError(
                f"optimization.{other}: expected {without} with optimization.{name} = "
                f"{config[f'optimization.{name}']}, got {value}"
            )


def _check_resume_with(config: Config) -> None:
    known = [f"optimization.{field.name}" for field in dataclasses.fields(config.optimization)]
    for name in config.run.resume_with:
        if name not in known:
            raise ValueError(f"run.resume_with: expected some of {', '.join(known)}; got {name}")
