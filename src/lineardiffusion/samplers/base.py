r"""What samplers share: their times, where they start, the noise, and the loop from x_T to x_0.

A step from t to s estimates c_s, takes μ_s = a_s c_s as if it were known, and draws x_s from a kernel that carries the
marginal of t to that of s. The last step ends at s = 0, where σ_0 = 0 and x_0 is the estimate ĉ_0 itself.

States are in float32 or better whatever the network computes in: a thousand roundings to half precision would cost 10 %
of the variance.
"""

from __future__ import annotations

import inspect
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from lineardiffusion._checks import (
    as_flag,
    as_index,
    as_range,
    check_batch,
    check_event,
    check_kind,
    check_tensor,
    compute_dtype,
    device_of,
    draw_noise,
    got,
    in_dtype,
)
from lineardiffusion.config import Configured
from lineardiffusion.denoiser import Denoiser, first_weight
from lineardiffusion.networks import keywords, unknown_names
from lineardiffusion.progress import bar_kind
from lineardiffusion.samplers.draws import Draws, Source, noise_source
from lineardiffusion.samplers.history import History
from lineardiffusion.samplers.inversion import invert
from lineardiffusion.schedules.grids import Grid, Steps, as_times

# Pairs of times that are known to be steps.
_KEPT_PAIRS = 4096


class Sampler(Configured, ABC):
    """A denoiser and a grid of times. A subclass gives `advance`, one step.

    Arguments:
        denoiser: estimates c_s from x_t.
        steps: how many steps to take on a uniform grid, a grid (`ld.grids`), or the times themselves, descending; None
            for all integer times T, …, 1. Each is a call of the network, and the last leads to 0. Where the shape
            changes a time must be. On grids, a step more than twice as long in log-SNR as the one before, such as the
            last to t = 1 of a uniform grid, is extrapolated by as much as that one alone; times of your own are taken
            at their word.
        clip: range to which the estimates ĉ_s are clamped, such as (−1, 1) for images; None leaves them alone, as data
            without bounds (latents, standardised values) need it.

    Raises:
        TypeError: no Denoiser.
        ValueError: steps out of range or over a change of shape, an empty clip range.
    """

    def __init__(self, denoiser: Denoiser, steps: Steps = None, clip: tuple[float, float] | None = None) -> None:
        if not isinstance(denoiser, Denoiser):
            raise TypeError(
                f"denoiser: expected an ld.Denoiser, got {type(denoiser).__name__}: make one of a network by "
                f"ld.Denoiser(network, process, prediction)"
            )
        self.denoiser, self.clip = denoiser, as_range(clip)
        self.steps: Steps = list(steps) if isinstance(steps, range) else steps
        self.times = as_times(denoiser.process, steps)
        self._pairs: dict[tuple[float, float], tuple[float, float]] = {}  # those that were checked
        self._steps_left = {s: left for left, s in enumerate(reversed(self.times[1:]), start=1)}

    @property
    def on_grid(self) -> bool:
        """Whether the times are no user's, so that how far they are apart says nothing of how estimates change."""
        # All times of a process are its own, whoever names their number.
        steps, known = self.steps, self.denoiser.process.num_steps
        return isinstance(steps, (Grid, SupportsIndex)) and len(self.times) - 1 != known

    @abstractmethod
    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """x_s and ĉ_s.

        Arguments:
            x_t: states, with shape (B, *shape(t)), in float32 or better.
            t, s: checked times.
            draws: sources of noise.
            history: of the trajectory, to be read and continued.
            conditioning: passed on to the network.
        """

    def calls(self, t: float, s: float) -> list[float]:
        """The times of the states that a step from t to s calls the network with, in their order."""
        return [t]

    def history(self) -> History:
        """An empty history, for the steps of one trajectory."""
        return History()

    def step(
        self,
        x_t: Tensor,
        t: float,
        s: float,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        history: History | None = None,
        **conditioning: Any,
    ) -> Tensor:
        """One step from x_t to x_s, s < t; differentiable. Once it has been taken, for these times, it compiles
        (`torch.compile`) without a break.

        Arguments:
            x_t: states, with shape (B, *shape(t)).
            t, s: the two times; from t to s the shape may change only as it does just below t.
            noise: standard normal noise of the shape of x_s; drawn from `generator` where it is not given.
            history: of the steps before, from `history()`, which this step continues; without one the step is of first
                order.
            conditioning: passed on to the network.

        Returns:
            x_s, with shape (B, *shape(s)), in the dtype of x_t or, where that is narrower, in float32.

        Raises:
            ValueError: times that do not fit, or a history that does not lead to t.
        """
        t, s = self._checked(t, s)
        check_tensor(x_t, "x_t")
        if noise is not None:
            check_tensor(noise, "noise")
        device_of(generator)
        if history is None:
            history = self.history()
        else:
            check_kind(history, History, "history", "what sampler.history() returns, or None")
        if history.time not in (None, t):
            raise ValueError(f"history: expected one of steps that lead to t = {t}, got one to {history.time}")
        draws = Draws(lambda like: draw_noise(like, noise, generator), lambda like: draw_noise(like, None, generator))
        x_s, _ = self.advance(in_dtype(x_t, compute_dtype(x_t.dtype)), t, s, draws, history, conditioning)
        history.time = s
        return x_s

    def _checked(self, t: float, s: float) -> tuple[float, float]:
        """Two times between which there may be a step, integers where they are."""
        try:
            if (t, s) in self._pairs:
                return self._pairs[t, s]
        except TypeError:  # a list, which is no number and refused below
            pass
        process = self.denoiser.process
        t, s = process.time(t), process.time(s, "s")
        if s >= t:
            raise ValueError(f"s: expected s < t = {t}, got {s}")
        if process.shape(s) != process.shape(process.before(t)):
            raise ValueError(
                f"s: expected a time of shape {process.shape(process.before(t))}, that of just below t, got s = {s} of "
                f"shape {process.shape(s)}; steps over a change of shape must start at one of {process.shape_changes()}"
            )
        if len(self._pairs) >= _KEPT_PAIRS:
            self._pairs.clear()
        self._pairs[t, s] = t, s
        return t, s

    def __call__(
        self,
        n: int,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = True,
        start: tuple[float, Tensor] | None = None,
        prior: Tensor | None = None,
        **conditioning: Any,
    ) -> Tensor:
        """Draw samples.

        Arguments:
            n: how many.
            seeds: one for each sample; sample i then depends on seeds[i] alone, whatever the others are, and is the
                same image in every dtype, up to rounding.
            generator: the source of all noise, where no seeds are given; the global one by default.
            progress: show a bar over the steps, where tqdm is installed.
            start: (t, x_t), states to start from, with shape (n, *shape(t)); the times of the grid below t follow.
            prior: images whose x_T samples start from, for processes that end before all is noise: row i for sample i
                where there are n of them, else one drawn for each sample.
            conditioning: passed on to the network.

        Returns:
            x_0, with shape (n, *shape(0)), on the device of the network's parameters and in their dtype (or those of
            the states to start from), or in float32 where that is narrower.

        Raises:
            TypeError, ValueError: a number of seeds other than n, or ones that are no integers; seeds and a generator,
                or start and prior; states or images that do not fit.
        """
        ((_, x_0, _),) = deque(self.trajectory(n, seeds, generator, progress, start, prior, **conditioning), maxlen=1)
        return x_0

    def trajectory(
        self,
        n: int,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = True,
        start: tuple[float, Tensor] | None = None,
        prior: Tensor | None = None,
        **conditioning: Any,
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Draw samples and look at every state on the way. Arguments as for drawing samples.

        Yields:
            (t, x_t, ĉ): for each time, from the first one down, the state and the clean image estimated from it, which
            has the shape of the next state; and at the end (0, x_0, x_0).
        """
        n = as_index(n, 1, 2**31, "n")
        source, progress = noise_source(n, seeds, generator), as_flag(progress, "progress")
        self._check_conditioning(conditioning)
        if start is not None and prior is not None:
            raise ValueError("start, prior: expected at most one of them, got both")
        times, x = self.times, None
        if start is not None:
            times, x = self._times_from(start, n)
        elif prior is not None:
            check_batch(prior, self.denoiser.process.shape(0), "prior")
            if len(prior) == 0:
                raise ValueError(f"prior: expected at least one image, got shape {tuple(prior.shape)}")
            self.denoiser.process.check_data(prior, "prior")
        return self._walk(n, times, x, prior, source, progress, conditioning)

    def invert(self, x_0: Tensor, iterations: int = 10, progress: bool = True, **conditioning: Any) -> Tensor:
        """x_T of the first-order trajectory with η = 0 that ends in x_0: `ld.DDIMSampler` leads back from it.

        Arguments:
            x_0: images, with shape (B, *shape(0)).
            iterations: calls of the network for each step (see `lineardiffusion.samplers.inversion`).
            progress, conditioning: as for drawing samples.

        Returns:
            The state at the first time of the grid, with shape (B, *shape(0)).

        Raises:
            ValueError: a process that changes shape, whose steps draw what is new.
        """
        pairs = list(itertools.pairwise(self.times))[::-1]
        check_batch(x_0, self.denoiser.process.shape(0), "x_0")
        self.denoiser.process.check_data(x_0, "x_0")
        self._check_conditioning(conditioning)
        progress = as_flag(progress, "progress")
        iterations = as_index(iterations, 1, 2**31, "iterations")
        return invert(self.denoiser, _bar(pairs, progress), x_0, iterations, self.clip, conditioning)

    def clipped(self, clean: Tensor) -> Tensor:
        """An estimate, clamped to the range of the sampler."""
        return clean if self.clip is None else clean.clamp(*self.clip)

    def lowered(self, order: int, s: float) -> int:
        """The order, or how many steps of the grid are left with the one to s, where those are fewer."""
        return min(order, self._steps_left.get(s, order))

    def _times_from(self, start: tuple[float, Tensor], n: int) -> tuple[list[float], Tensor]:
        process = self.denoiser.process
        try:
            t, x_t = start
        except (TypeError, ValueError):
            raise TypeError(f"start: expected (t, x_t), got {got(start)}") from None
        t = process.time(t, "start", low="above")
        check_event(x_t, process.shape(t), "start")
        if tuple(x_t.shape) != (n, *process.shape(t)):
            raise ValueError(f"start: expected states of shape {(n, *process.shape(t))}, got {tuple(x_t.shape)}")
        process.check_data(x_t, "start", t)
        return as_times(process, [t, *(u for u in self.times if 0 < u < t)]), x_t.to(compute_dtype(x_t.dtype))

    def _check_conditioning(self, conditioning: dict[str, Any]) -> None:
        """What is no argument of the call goes to the network: raise where that does not take it."""
        unknown = unknown_names(self.denoiser.network, conditioning)
        if unknown:
            own = [
                name for name in inspect.signature(Sampler.__call__).parameters if name not in ("self", "conditioning")
            ]
            raise TypeError(
                f"{unknown[0]}: expected an argument of the sampler ({', '.join(own)}) or one that the network takes "
                f"({', '.join(keywords(self.denoiser.network)) or 'none'}), got another"
            )

    def _walk(
        self,
        n: int,
        times: list[float],
        x: Tensor | None,
        prior: Tensor | None,
        source: Source,
        progress: bool,
        conditioning: dict[str, Any],
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        with torch.no_grad():
            x = self.first_state(n, prior, source) if x is None else x
        history, draws = self.history(), Draws(source, source)
        for t, s in _bar(list(itertools.pairwise(times)), progress):
            with torch.no_grad():  # not around the yield, which would leave the caller's code without gradients
                x_s, clean = self.advance(x, t, s, draws, history, conditioning)
            yield t, x, clean
            x = x_s
        yield 0, x, x

    def first_state(self, n: int, prior: Tensor | None, source: Source) -> Tensor:
        """Where n trajectories start, at the first time of the grid: noise, or images of the prior with noise."""
        process, t = self.denoiser.process, self.times[0]
        weight = first_weight(self.denoiser)
        weight = torch.empty(0) if weight is None else weight
        like = weight.new_empty((n, *process.shape(t)), dtype=compute_dtype(weight.dtype))
        if prior is None:
            return process.prior(n, t=t, noise=source(like), dtype=like.dtype, device=like.device)
        if len(prior) != n:
            prior = prior[source.choose(len(prior)).to(prior.device)]
        return process.diffuse(prior.to(like), t, noise=source(like))


def _bar(pairs: Sequence[tuple[float, float]], progress: bool) -> Iterable[tuple[float, float]]:
    bar = bar_kind(progress)
    return pairs if bar is None else bar(pairs, desc="sampling", unit="step")
