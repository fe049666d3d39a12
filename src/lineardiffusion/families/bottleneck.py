"""Bottleneck Sampling: a pretrained model whose middle steps see a small image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from lineardiffusion._checks import Shape, as_choice, as_index, as_list, as_number, as_numbers_in_a_row, as_shape
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.families.flow import FlowMatching
from lineardiffusion.families.jumps import JumpSampler
from lineardiffusion.families.multiresolution import (
    Multiresolution,
    Restarted,
    as_base,
    shifted,
    through_stages,
)
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.operators.separable import Mode, Resize
from lineardiffusion.paths.base import Path
from lineardiffusion.schedules import flow
from lineardiffusion.schedules.grids import Steps


class BottleneckSampling(Multiresolution):
    r"""A network of a full-band process is called with large images, with small ones, and with large ones again; in
    every stage sampling goes on to an image without noise, which is resized and noised anew at the start of the next:

        x_s = a_s U x̂_0 + σ_s z,   z white,

    the kernel of shared noise with γ = 0, across a change of size. No Markov chain has these states,
    x_t = a_t R_t x_0 + σ_t ε with R = I, then a small image, then I. In stage k the times, those of a flow, are u from
    `strengths[k]` to 0, uniform, shifted to h_k u/(1 + (h_k − 1) u).

    Approximates: what resizing loses is made up by the last stage alone. The authors' code was not at hand: that each
    stage ends without noise, and the steps, strengths and shifts, are as a public port of it reports them (RALU's paper
    gives it 4 + 12 + 5 steps); how images are resized is ours, antialiased bicubic where that port has Lanczos.

    References:
        | Training-free Diffusion Acceleration with Bottleneck Sampling (Tian et al., 2025), Sec. 3,
        | https://arxiv.org/abs/2503.18940

    Arguments:
        shape: event shape, channels first.
        base: the family that the network was trained for; by default `FlowMatching(shape)`.
        scale: size of the small image relative to the large one, in (0, 1).
        steps, strengths, shifts: see above, three of each; the first strength is 1.
        mode: as for `ld.Resize`.

    Raises:
        ValueError: numbers that are not so.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.BottleneckSampling((3, 8, 8), steps=(1, 2, 1))
        >>> sampler = p.sampler(p.denoiser(lambda x, t: torch.zeros_like(x)))
        >>> [x.shape[-1] for _, x, _ in sampler.trajectory(1, seeds=[0], progress=False)]
        [8, 8, 4, 4, 8]
    """

    card = Card(
        paper="Tian et al., 2025",
        url="https://arxiv.org/abs/2503.18940",
        degradation="$I$, then a smaller image, then $I$",
        noise="white",
        schedule="that of the pretrained model, by default a flow, started anew in each of three stages",
        prediction="the pretrained model's",
        sampler="Euler's method, 4 + 13 + 8 steps, each stage to $\\hat x_0$, which is resized and noised anew",
        exact="approximates: images are resized and noised anew",
    )

    def __init__(
        self,
        shape: Sequence[int],
        base: Family | None = None,
        scale: float = 0.5,
        steps: Sequence[int] = (4, 13, 8),
        strengths: Sequence[float] = (1.0, 0.8, 0.6),
        shifts: Sequence[float] = (9.0, 6.0, 9.0),
        mode: Mode = "bicubic",
    ) -> None:
        as_choice(mode, get_args(Mode), "mode")
        base, event = as_base(FlowMatching(shape) if base is None else base, shape)
        if not 0 < as_number(scale, "scale") < 1:
            raise ValueError(f"scale: expected a number in (0, 1), got {scale}")
        self.steps = [as_index(n, 1, 2**31, "steps") for n in as_list(steps, "steps", "three numbers of steps")]
        self.strengths = as_numbers_in_a_row(strengths, "strengths", "(1.0, 0.8, 0.6)")
        self.shifts = as_numbers_in_a_row(shifts, "shifts", "(9.0, 6.0, 9.0)")
        if not len(self.steps) == len(self.strengths) == len(self.shifts) == 3:
            raise ValueError(
                f"steps, strengths, shifts: expected three of each, got {self.steps}, {self.strengths}, {self.shifts}"
            )
        if self.strengths[0] != 1 or not all(0 < strength <= 1 for strength in self.strengths):
            raise ValueError(f"strengths: expected 1 and two numbers in (0, 1], got {self.strengths}")
        if not all(shift > 0 for shift in self.shifts):
            raise ValueError(f"shifts: expected positive numbers, got {self.shifts}")
        starts = [shifted(u, h) for u, h in zip(self.strengths[1:], self.shifts[1:], strict=True)]
        schedule = Restarted(base.schedule, [(0.0, base.schedule.time(flow().log_snr(u))) for u in starts])
        small = (event[0], *(max(1, round(scale * n)) for n in event[1:]))
        if small == event:
            raise ValueError(f"scale: expected one at which {event} becomes smaller, got {scale}")
        path = BottleneckPath(event, small, schedule.changes, mode)
        super().__init__(base, path, schedule, coupling="shared")
        up, down = Resize(small, event[1:], mode), path.down
        self._lifts: dict[float, LinearOperator] = dict(zip(schedule.changes, (up, down), strict=True))

    def lift(self, t: float) -> LinearOperator:
        return self._lifts[t]

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> JumpSampler:
        """As `Family.sampler`; by default the times of the stages."""
        if steps is None:
            stages = zip(self.steps, self.strengths, self.shifts, strict=True)
            steps = through_stages(self, [[shifted(u * (1 - k / n), h) for k in range(n)] for n, u, h in stages])
        return JumpSampler(denoiser, steps, **settings)


@configured("families.BottleneckPath")
class BottleneckPath(Path):
    """A large image, a small one from the first change on, and a large one again from the second. There is no operator
    from small to large.

    Arguments:
        shape, small: event shapes.
        changes: two times, ascending.
        mode: as for `ld.Resize`.
    """

    def __init__(self, shape: Sequence[int], small: Sequence[int], changes: Sequence[float], mode: Mode) -> None:
        self.event, self.small, self.mode = as_shape(shape), as_shape(small, "small"), mode
        self._changes = list(changes)
        self.down = Resize(self.event, self.small[1:], mode)

    def arguments(self) -> dict[str, object]:
        return {"shape": self.event, "small": self.small, "changes": self._changes, "mode": self.mode}

    def level(self, t: float) -> int:
        return sum(change <= t for change in self._changes)

    def shape(self, t: float) -> Shape:
        return self.small if self.level(t) == 1 else self.event

    def changes(self) -> list[float]:
        return self._changes

    def between(self, s: float, t: float) -> LinearOperator:
        before, after = self.level(s), self.level(t)
        if (before, after) == (1, 2):
            raise ValueError(f"s: expected a time below {self._changes[0]:g}, as there is no way from small to large")
        return self.down if (before, after) == (0, 1) else Identity(self.shape(t))
