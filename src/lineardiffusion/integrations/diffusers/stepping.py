"""A sampler's step, taken with answers of a network that somebody else has called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lineardiffusion._checks import check_event, compute_dtype, in_dtype
from lineardiffusion.carrying import Lift
from lineardiffusion.denoiser import Denoiser
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
