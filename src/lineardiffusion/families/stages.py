r"""Flows in stages of growing resolution: what Pyramidal Flow Matching, PixelFlow and Helios share.

With D_k the mean of 2^k × 2^k pixels and P that of 2 × 2 pixels, put back in their place, stage k is a straight line of
a ratio r from 0 to 1,

    x = [(1 − r)(1 − e_k) I + r (1 − s_k) P] D_k x_0 + σ ε,   σ = (1 − r) e_k + r s_k :

a flow, a_t = 1 − σ_t, in which the detail (I − P) D_k x_0 fades beside. Of n stages it is the time from k/n to
(k + 1)/n. From one to the next noise falls from s_{k−1} to e_k, in d axes

    1 − s_{k−1} = α (1 − e_k),   s_{k−1} = α 2^{d/2} e_k,   hence α = 1/(1 − e_k + 2^{d/2} e_k),

the levels between which the transition is feasible with equality. The posterior of the fine state is then the same for
every estimate: α times the coarse state, pixels repeated, and new noise of level s_{k−1} in the detail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import (
    as_flag,
    as_index,
    as_list,
    as_numbers_in_a_row,
    as_shape,
    column,
    full_precision,
    is_batch,
    to_device,
)
from lineardiffusion.config import Configured, configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.jumps import Jumping, check_change
from lineardiffusion.losses import Uniform
from lineardiffusion.operators.bases import Haar, first
from lineardiffusion.operators.separable import spatial_axes
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.predictions import ProcessPrediction, Time
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules.noise import Constants


@configured("families.Stages")
class Stages(Configured):
    """The noise levels and sizes of stages; as a function of t, the gains of their path.

    Arguments:
        shape: event shape of the data, channels first.
        ends: e_0 = 0 < e_1 < … < 1, the noise at the clean ends, finest stage first.

    Attributes:
        starts: s_0, s_1, …, 1, the noise at the noisy ends.
        knots: 0, 1/n, …, 1, the times between stages.
        shapes: event shapes.

    Raises:
        ValueError: levels that are not so, or sizes that cannot be halved as often.
    """

    def __init__(self, shape: Sequence[int], ends: Sequence[float]) -> None:
        self.shape, self.ends = as_shape(shape), as_numbers_in_a_row(ends, "ends", "(0.0, 0.334, 0.667)")
        if not self.ends or self.ends[0] != 0 or any(b <= a for a, b in itertools.pairwise([*self.ends, 1.0])):
            raise ValueError(f"ends: expected 0 = e_0 < e_1 < … < 1, the finest stage first, got {self.ends}")
        self.axes, self.count = spatial_axes(self.shape), len(self.ends)
        self.basis = Haar(self.shape, self.count - 1)
        self.starts = [1 - (1 - end) / (1 - end + 2 ** (self.axes / 2) * end) for end in self.ends[1:]] + [1.0]
        self.knots = [k / self.count for k in range(self.count + 1)]
        self.shapes = [(*self.shape[: -self.axes], *self._sizes(k)) for k in range(self.count)]

    def arguments(self) -> dict[str, object]:
        return {"shape": self.shape, "ends": self.ends}

    def _sizes(self, k: int) -> list[int]:
        return [n >> k for n in self.shape[-self.axes :]]

    def stage(self, t: float) -> int:
        """k; a time between stages is one of the coarser stage, where x_t has its shape."""
        return sum(knot <= t for knot in self.knots[1:-1])

    def end_of(self, t: float) -> float:
        """The time of the clean end of the stage."""
        return self.knots[self.stage(t)]

    def ratio(self, t: float, k: int) -> float:
        """r in stage k."""
        return (t - self.knots[k]) / (self.knots[k + 1] - self.knots[k])

    def with_detail(self, k: int, value: float) -> Tensor:
        """Gains of 1, but for the detail of stage k."""
        gains = torch.ones(self._sizes(0), dtype=torch.float64)
        if k + 1 < self.count:  # in the coarsest stage all is coarse
            first(gains, self._sizes(k)).fill_(value)
            first(gains, self._sizes(k + 1)).fill_(1)
        return gains

    def __call__(self, t: float) -> Tensor:
        k = self.stage(t)
        r = self.ratio(t, k)
        detail, coarse = (1 - r) * (1 - self.ends[k]), r * (1 - self.starts[k])
        return self.with_detail(k, detail / (detail + coarse) if detail else 0.0)

    def bounds(self, noisiest: float = 1.0) -> list[int]:
        """Where stages begin, coarsest first, in 1000 timesteps that they share by their lengths s − e; and 999.

        Arguments:
            noisiest: s of the coarsest stage, as a table of levels has it.
        """
        starts = [*self.starts[:-1], noisiest]
        lengths = [start - end for start, end in zip(starts, self.ends, strict=True)][::-1]
        totals = list(itertools.accumulate(lengths))
        return [0, *(int(1000 * total / totals[-1]) for total in totals[:-1]), 999]


@configured("families.StageVelocity")
class StageVelocity(ProcessPrediction):
    r"""The velocity v = dx/dr = x_{r=1} − x_{r=0} of a stage, the same all along it.

    It tells of the image: where the line has no noise left, it is at

        x − σ v/(s_k − e_k) = [P + s_k (1 − e_k)/(s_k − e_k) (I − P)] D_k x_0 ,

    and D_k x_0 is the image at the clean end of the stage. There is no singular point, as s_k > e_k.

    Arguments:
        toward_data: whether networks predict −v.
    """

    def __init__(self, toward_data: bool = False) -> None:
        self.toward_data = as_flag(toward_data, "toward_data")

    def time(self, process: LinearDiffusion, t: Time) -> Time:
        if not is_batch(t):
            return cast(Time, _flow(process).stages.end_of(cast(float, t)))
        ends = [_flow(process).stages.end_of(u) for u in t.tolist()]
        return cast(Time, torch.tensor(ends, dtype=torch.float64))

    def image(self, process: LinearDiffusion, t: float | Tensor, x_t: Tensor, output: Tensor) -> Tensor:
        flow = _flow(process)
        k = flow.stages.stage(float(t[0]) if is_batch(t) else t)
        length = flow.sigma(t) / (flow.stages.starts[k] - flow.stages.ends[k])
        step = column(to_device(length, output.device) if isinstance(length, Tensor) else length, output)
        with full_precision(output):
            return flow.ends[k](x_t + step * output if self.toward_data else x_t - step * output)

    def answer(self, process: LinearDiffusion, t: float | Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        flow = _flow(process)
        k = flow.stages.stage(float(t[0]) if is_batch(t) else t)
        low, high = flow.stages.knots[k], flow.stages.knots[k + 1]
        start = flow.diffuse(x0, high if high == flow.end else flow.before(high), noise)
        end = flow.diffuse(x0, low, noise)
        return end - start if self.toward_data else start - end

    def check(self, process: LinearDiffusion) -> None:
        _flow(process)


@configured("families.StageTimestep")
class StageTimestep(Configured):
    """What the network of a flow in stages is told of the time: see `StagedFlow`."""

    def __call__(self, process: LinearDiffusion, t: Tensor) -> Tensor:
        return _flow(process).timestep(t)


class StagedFlow(Jumping):
    """A flow in stages. A subclass has the paper's constants and its card.

    Arguments:
        shape: event shape, channels first, each size a multiple of 2^{n−1}. The frames of a video, which keep their
            number, count as channels.
        ends: as for `Stages`.
        timesteps: of these stages: for each, finest first, what the network is told at r = 0 and at r = 1.

    Attributes:
        ends: for each stage the filter from where its line has no noise left to its clean end.
    """

    prediction = StageVelocity()
    weighting = Uniform()

    def __init__(
        self,
        shape: Sequence[int],
        ends: Sequence[float],
        timesteps: Callable[[Stages], Sequence[tuple[float, float]]],
    ) -> None:
        self.stages = stages = Stages(shape, ends)
        path = paths.truncated(stages.basis, stages.shapes[1:], stages.knots[1:-1], stages, orthonormal=False)
        # A time between stages comes twice, first as the noisy end of the finer one.
        times = [knot for pair in itertools.pairwise(stages.knots) for knot in pair]
        sigmas = [sigma for pair in zip(stages.ends, stages.starts, strict=True) for sigma in pair]
        super().__init__(path, schedules.piecewise(times, [1 - sigma for sigma in sigmas], sigmas))
        self.ends = [self._end(k) for k in range(stages.count)]
        self._told = Constants(torch.tensor(timesteps(stages), dtype=torch.float64).T)

    def _end(self, k: int) -> SpectralFilter:
        shape, start, end = self.stages.shapes[k], self.stages.starts[k], self.stages.ends[k]
        gains = self.stages.with_detail(k, (start - end) / (start * (1 - end)))
        basis = Haar(shape, min(1, self.stages.count - 1 - k))
        return SpectralFilter(shape, first(gains, shape[-self.stages.axes :]), basis)

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told, for times (B,)."""
        low, high = self._told.on(t.device)
        k = torch.zeros_like(t, dtype=torch.long)
        for knot in self.stages.knots[1:-1]:
            k += t >= knot
        return torch.lerp(low[k], high[k], (t * self.stages.count - k).to(low.dtype))

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        return Denoiser(network, self, self.prediction, StageTimestep(), "pseudoinverse")

    def jump(self, x_t: Tensor, t: float, noise: Tensor) -> Tensor:
        check_change(self, t)
        kernel = self.step_kernel(t, self.before(t), 1.0)
        with full_precision(x_t):
            return kernel.sample(x_t, torch.zeros_like(noise), noise)  # the mean that is given is of no consequence

    def stage_times(self, steps: Sequence[int]) -> list[float]:
        """As many times of each stage, coarsest first: r from 1 to 0.001, from where a step leads to 0. So do the
        papers' codes; the call at 0.001 tells little, and where calls are few those times are better left out.

        Raises:
            ValueError: as many numbers as there are not stages, or one below 1.
        """
        steps = as_list(steps, "steps", f"a number for each of {self.stages.count} stages")
        if len(steps) != self.stages.count:
            raise ValueError(f"steps: expected a number for each of {self.stages.count} stages, got {steps}")
        times: list[float] = []
        for k, given in zip(reversed(range(self.stages.count)), steps, strict=True):
            count = as_index(given, 1, 2**31, "steps")
            low, high = self.stages.knots[k], self.stages.knots[k + 1]
            ratios = torch.linspace(1, 1e-3, count, dtype=torch.float64).tolist()
            times += [high, *(low + r * (high - low) for r in ratios[1:])]
        return times


def _flow(process: LinearDiffusion) -> StagedFlow:
    if not isinstance(process, StagedFlow):
        raise ValueError(f"process: expected a flow in stages, such as ld.families.PyramidFlow, got {process}")
    return process
