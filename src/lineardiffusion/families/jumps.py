"""Jumps between resolutions that call no network: what stages of growing size have between them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import check_kind, full_precision
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Family
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.residual import Residual
from lineardiffusion.samplers.ddim import DDIMSampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.samplers.multistep import Rule
from lineardiffusion.schedules.grids import Steps


def check_change(process: LinearDiffusion, t: float) -> None:
    """Raise ValueError unless the shape changes at t."""
    if t not in process.shape_changes():
        raise ValueError(f"t: expected one of {process.shape_changes()}, where the shape changes, got {t}")


class Jumping(Family):
    """A family in which the state just below a change of shape needs no estimate of the image."""

    @abstractmethod
    def jump(self, x_t: Tensor, t: float, noise: Tensor) -> Tensor:
        """The state just below a change of shape.

        Arguments:
            x_t: states, with shape (B, *shape(t)).
            t: one of `shape_changes()`.
            noise: standard normal, with the shape of the result.
        """

    def new_detail(self, clean: Tensor, t: float) -> Tensor:
        """Of clean images just below t what jumps leave out; here nothing."""
        return torch.zeros_like(clean)


@configured("families.JumpSampler")
class JumpSampler(DDIMSampler):
    r"""`ld.DDIMSampler` within stages of one resolution, and between them the jump of the process, without a call of
    the network: a step from a change of shape t_j jumps to just below it, and goes on from there. Every stage begins a
    history of estimates of its own, and no step is extrapolated by more than the one before, however its times were
    made: stages end in short steps of t that are long ones of log-SNR.

    Arguments:
        denoiser: of a process with jumps.
        steps, eta, order, rule, corrector, clip: as for `ld.DDIMSampler`.
        detail: at a jump from t to s = `process.before(t)`, the covariance of the image's detail, (t, s) in it, of
            which what the jump leaves out is drawn; zero without.

    Raises:
        TypeError, ValueError: as there, or a process without jumps.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: Steps = None,
        eta: float = 0.0,
        order: int = 1,
        rule: Rule = "moment",
        corrector: bool = False,
        clip: tuple[float, float] | None = None,
        detail: Residual | None = None,
    ) -> None:
        super().__init__(denoiser, steps, eta, order, rule, corrector, clip)
        if not isinstance(denoiser.process, Jumping):
            raise TypeError(
                f"denoiser: expected that of a process with jumps, such as ld.families.PyramidFlow or SPEED, got one "
                f"of {denoiser.process!r}"
            )
        self.process: Jumping = denoiser.process
        if detail is not None:
            check_kind(detail, Residual, "detail", "what `process.detail(images)` returns, or None")
        self.detail = detail

    @property
    def on_grid(self) -> bool:
        return True

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        if t in self.process.shape_changes():
            history.estimates, history.taken = [], None
            x_t, t = self._jumped(x_t, t, draws), self.process.before(t)
        return super().advance(x_t, t, s, draws, history, conditioning)

    def _jumped(self, x_t: Tensor, t: float, draws: Draws) -> Tensor:
        process, start = self.process, self.process.before(t)
        like = x_t.new_empty(len(x_t), *process.shape(start))
        # Noise that a user gives is that of the jump, unless the step after it has noise of its own.
        noise = draws.kernel(like) if self.eta == 0 else draws.other(like)
        with full_precision(x_t):
            x = process.jump(x_t, t, noise)
            if self.detail is None or (t, start) not in self.detail:
                return x
            detail = process.new_detail(self.detail.sample(t, start, like, draws.other), t)
            return x + process.signal_scale(start) * detail
