r"""Multistep samplers with the Markov kernels: what ancestral sampling and DDIM share.

A step uses x* (see `lineardiffusion.samplers.multistep`) in the place of the network's estimate. The corrector of UniPC
takes the step before again, from the same state and with the same noise, now that there is an estimate at its end: the
predictor goes on from there, without a call of the network more.

References:
    | Scale Space Diffusion (Mukhopadhyay et al., 2026), Algorithm 5, https://arxiv.org/abs/2603.08709
    | Denoising Diffusion Implicit Models (Song et al., 2021), https://arxiv.org/abs/2010.02502
    | DPM-Solver++ (Lu et al., 2022), https://arxiv.org/abs/2211.01095
    | UniPC (Zhao et al., 2023), https://arxiv.org/abs/2302.04867
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

from torch import Tensor

from lineardiffusion._checks import as_choice, as_flag, as_index, check_kind, full_precision
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.kernels import as_eta
from lineardiffusion.residual import Residual
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.extrapolation import Extrapolation
from lineardiffusion.samplers.history import Estimate, History, Taken
from lineardiffusion.samplers.multistep import Rule, markov_decay
from lineardiffusion.schedules.grids import Steps


class MarkovSampler(Sampler):
    r"""x_s from the Markov kernel of η (`ld.ddim_kernel`) around x*.

    Arguments:
        denoiser, steps, clip: as `Sampler`.
        eta: η in [0, 1].
        order: 1, 2 or 3: how many estimates x* is made of. No step has a higher order than there are steps left with it
            (the last, to s = 0, is of first order) or estimates at hand; into a new shape it is one less.
        rule: "moment", exact for estimates that are polynomials in log-SNR; or "midpoint", the second order of
            DPM-Solver++(2M) and UniPC (bh2), whose third order is the moment rule.
        corrector: take each step again once there is an estimate at its end, but for those over a change of shape.
        residual: covariances R of c_s − ĉ_s, as `ld.calibrate` measures them for these steps: where there is one, c_s
            is drawn from N(ĉ_s, R) and not taken for known (covariance-corrected sampling).

    Raises:
        ValueError: an argument out of range, or a residual of other steps.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: Steps,
        eta: float,
        order: int,
        rule: Rule,
        corrector: bool,
        clip: tuple[float, float] | None,
        residual: Residual | None,
    ) -> None:
        super().__init__(denoiser, steps, clip)
        self.eta, self.order = as_eta(eta), as_index(order, 1, 3, "order")
        self.rule, self.corrector = as_choice(rule, get_args(Rule), "rule"), as_flag(corrector, "corrector")
        if residual is not None:
            check_kind(residual, Residual, "residual", "what ld.calibrate returns, or None")
        self.residual = residual
        self._spread = Residual({}) if residual is None else residual
        others = self._spread.spectra.keys() - set(itertools.pairwise(self.times))
        if others:
            raise ValueError(f"residual: expected spectra of steps of this sampler, got some of {sorted(others)[:3]}")
        decay = partial(markov_decay, eta=self.eta)
        self._extrapolation = Extrapolation(denoiser, decay, rule, self.clip, limited=self.on_grid)

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        estimate = Estimate(*self.denoiser.estimate(x_t, t, **conditioning), t)
        history.estimates = [estimate, *history.estimates][: self.order + self.corrector]
        with full_precision(x_t):
            if history.taken is not None:
                x_t = self._corrected(history.taken, history.estimates)
            own = self._extrapolation.carried(estimate, s)
            used = [estimate] if self.order == 1 else history.estimates[: self._order(history.estimates, s)]
            clean = own if len(used) == 1 else self._extrapolation(used, s)
            again = self._kernel(x_t, t, s, own, draws)
            keep = self.corrector and self.denoiser.process.shape(s) == self.denoiser.process.shape(t)
            history.taken = Taken(x_t, t, len(used), again) if keep else None
            return again(clean), own

    def _kernel(self, x_t: Tensor, t: float, s: float, own: Tensor, draws: Draws) -> Callable[[Tensor], Tensor]:
        """x_s as a function of the estimate of c_s, the noise being drawn."""
        if s == 0:
            return lambda clean: clean
        kernel = self.denoiser.process.step_kernel(t, s, self.eta, of="clean")
        spread = self._spread.sample(t, s, own, draws.other) if (t, s) in self._spread else None
        noise = None if kernel.is_deterministic else draws.kernel(own)

        def x_s(clean: Tensor) -> Tensor:
            clean = clean if spread is None else clean + spread
            return kernel.mean(x_t, clean) if noise is None else kernel.sample(x_t, clean, noise)

        return x_s

    def _order(self, estimates: list[Estimate], s: float) -> int:
        """How many of the estimates the step from the first one to s uses."""
        return self._extrapolation.reach(estimates, s, self.lowered(self.order, s))

    def _corrected(self, taken: Taken, estimates: list[Estimate]) -> Tensor:
        """The end of the last step, now that there is an estimate of it."""
        now, before, *older = estimates
        # A corrector of order p ≥ 2 is made of p + 1 estimates, none of them of another shape.
        shape = self.denoiser.process.shape
        older = [estimate for estimate in older if shape(estimate.t) == shape(taken.t)]
        return taken.again(self._extrapolation([before, now, *older[: taken.order - 1]], now.t))
