"""A sampler's steps, taken with answers of a network that somebody else has called."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import check_event, compute_dtype, in_dtype
from lineardiffusion.carrying import Lift
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.integrations.diffusers.times import told, understood
from lineardiffusion.networks import as_tensor, of_shape
from lineardiffusion.predictions import Prediction
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers import Draws, History, Sampler
from lineardiffusion.time_inputs import TimeInput


class Unanswered(Exception):
    """The state that a step calls the network with, where there is no answer."""

    def __init__(self, x_t: Tensor) -> None:
        super().__init__("the network has to be called")
        self.x_t = x_t


class Answered(Denoiser):
    """A denoiser whose network was called already: `answers` are what it returned, to be used one after the other."""

    def __init__(
        self, process: LinearDiffusion, prediction: Prediction, time_input: TimeInput, lift: Lift | None
    ) -> None:
        super().__init__(_nobody, process, prediction, time_input, lift)
        self.answers: list[Tensor] = []

    def output(self, x_t: Tensor, t: float | Tensor, **conditioning: Any) -> Tensor:
        if not self.answers:
            raise Unanswered(x_t)
        assert not isinstance(t, Tensor)  # samplers take numbers
        check_event(x_t, self.process.shape(t), "sample")
        shape = self.process.shape(self.prediction.time(self.process, t))
        answer = of_shape(as_tensor(self.answers.pop(0)), (len(x_t), *shape))
        return in_dtype(answer, compute_dtype(x_t.dtype))


def _nobody(x: Tensor, time: Tensor, size: Sequence[int] | None = None) -> Tensor:
    raise Unanswered(x)


def advance(
    sampler: Sampler, x_t: Tensor, t: float, s: float, answers: Sequence[Tensor], draws: Draws, history: History
) -> tuple[Tensor, Tensor | None, History]:
    """A step as far as the answers go: x_s, ĉ_s and the history with this step; or, where the sampler calls the network
    again on the way, the state it does so with, None and the history as it was."""
    assert isinstance(sampler.denoiser, Answered)
    sampler.denoiser.answers = list(answers)
    continued = replace(history, estimates=list(history.estimates))
    try:
        x_s, clean = sampler.advance(in_dtype(x_t, compute_dtype(x_t.dtype)), t, s, draws, continued, {})
    except Unanswered as unanswered:
        return unanswered.x_t, None, history
    return x_s, clean, continued


class Call(NamedTuple):
    """A call of the network.

    Attributes:
        t, s: the step that it belongs to.
        is_first: whether it is the first one of that.
        time: of the state it is made with.
    """

    t: float
    s: float
    is_first: bool
    time: float


class Calls:
    """The calls of the network along a trajectory.

    Arguments:
        sampler: whose trajectory it is.
        device: of `timesteps`, what the network is told in each.
    """

    def __init__(self, sampler: Sampler, device: str | torch.device | None) -> None:
        self.times, self.denoiser = sampler.times, sampler.denoiser
        self._calls = [
            Call(t, s, k == 0, time)
            for t, s in itertools.pairwise(self.times)
            for k, time in enumerate(sampler.calls(t, s))
        ]
        times = [call.time for call in self._calls]
        self.timesteps = told(self.denoiser.time_input, self.denoiser.process, times).to(device)
        self._told: list[float] = self.timesteps.tolist()
        self._place = {(call.time, call.is_first): n for n, call in enumerate(self._calls)}
        self.per_step = max(Counter(call.t for call in self._calls).values())

    def find(self, timestep: float | Tensor, following: int | None) -> tuple[Call, bool]:
        """The call that a timestep stands for, and whether it is the one that follows: that if it may be, else the
        first of a step, also of one from between the times to the next of them.

        Raises:
            ValueError: there is no such step.
        """
        number = float(timestep)
        if following is not None and self._told[following] == number:
            return self._calls[following], True
        for call, other in zip(self._calls, self._told, strict=True):
            if call.is_first and other == number:
                return call, False
        process = self.denoiser.process
        t = float(understood(self.denoiser.time_input, process, torch.tensor([number], dtype=torch.float64)))
        if not 0 < t <= process.end:
            raise ValueError(f"timestep: expected one of scheduler.timesteps, or one between, got {number:g}")
        t = process.time(t)
        return Call(t, next(u for u in self.times if u < t), True, t), False

    def after(self, call: Call, is_over: bool) -> int | None:
        """The place of the call after another, which ended a step or not; None after the last."""
        return self._place.get((call.s, is_over))
