"""RALU: a pretrained model whose early steps see a small image, and whose edges become large first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import (
    Shape,
    as_index,
    as_list,
    as_numbers,
    as_numbers_in_a_row,
    as_positive,
    as_shape,
    got,
)
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.families.flow import FlowMatching
from lineardiffusion.families.jumps import JumpSampler
from lineardiffusion.families.multiresolution import (
    Multiresolution,
    Restarted,
    after_upsampling,
    as_base,
    shifted,
    through_stages,
)
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.factored import FactoredOperator
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.paths.base import Path
from lineardiffusion.schedules import flow
from lineardiffusion.schedules.grids import Steps


class Rescheduling(NamedTuple):
    """The times of RALU, those of a flow: 1 is noise.

    Attributes:
        steps: calls of the network in each stage.
        ends: when each stage but the last ends, descending.
        shifts: h_k of the times in each stage, from u uniform to h u/(1 + (h − 1) u).
        ratio: Z = 1/√c ≥ 2: how many times as strong the noise is relative to the signal after a jump.
    """

    steps: tuple[int, ...]
    ends: tuple[float, ...]
    shifts: tuple[float, ...]
    ratio: float


FOUR_TIMES = Rescheduling((5, 6, 7), (0.7, 0.55), (5.019, 2.589, 2.226), 6.317)
SEVEN_TIMES = Rescheduling((2, 3, 5), (0.8, 0.7), (8.141, 2.856, 2.193), 6.261)
# Ours, for two stages: the first and the last of the three, with the other calls in the last.
TWO_STAGES = Rescheduling((5, 13), (0.7,), (5.019, 2.226), 6.317)


class RegionAdaptive(Multiresolution):
    r"""A network of a full-band process is called with small images first, R of means over blocks of 2 × 2. At the jump
    from t to s pixels are repeated, U, and correlated noise makes all noise white,

        x_s = (a_s/a_t) U x_t + σ_s (I − c U Uᵀ)^{1/2} z,   σ_s/a_s = Z σ_t/a_t,   Z = 1/√c ≥ 2 ;

    for a flow whose data are at e = 1 − t, as in the paper, 1 − s = e/(Z (1 − e) + e) and a_s/a_t = 1/(Z (1 − e) + e).
    At Z = 2 that is the posterior given that the image has no detail (as of `SPEED` with "haar"); the paper's larger Z
    adds more noise, and keeps less of it: there is then no Markov chain. c and the times of each stage are those whose
    density is nearest to the model's own (`matched_times`).

    With a mask of the small image's pixels there are three stages: in the second one only these are large. Its states
    are rows of tokens, (C, K): the small pixels that are left, row by row, then the 2 × 2 pixels of each of the others.
    Networks have to know where these lie, as transformers with positions can.

    Approximates: the detail of x_s has no signal. Missing is what is not linear: the paper's mask, the 30 % of an
    image's pixels with most edges (Canny's) in the decoded estimate at the first jump, is to be given, one for all
    images of a process. The paper's code adds white noise to the pixels that stay small, √(1 + 1/Z²) times too much;
    here it is that of Eq. 5 for these too.

    References:
        | Upsample What Matters: Region-Adaptive Latent Sampling (Jeong et al., 2025), Eq. 4–10,
        | https://arxiv.org/abs/2507.08422; constants of https://github.com/ignoww/RALU

    Arguments:
        shape: event shape of even sizes, channels first.
        base: the family that the network was trained for; by default `FlowMatching(shape)`.
        mask: True where pixels of the small image, (H/2, W/2), become large at the first jump; None for all of them.
        times: `FOUR_TIMES` by default with a mask, the paper's setting for FLUX.1 at a fourth of its cost (or
            `SEVEN_TIMES`), else `TWO_STAGES`, which is ours.

    Raises:
        ValueError: odd sizes, a mask of another shape or without both kinds of pixels, or times that do not fit.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> mask = torch.tensor([[True, False], [False, False]])
        >>> p = ld.families.RegionAdaptive((3, 4, 4), mask=mask)
        >>> [p.shape(t) for t in (0, *p.shape_changes())]
        [(3, 4, 4), (3, 7), (3, 2, 2)]
        >>> d = p.denoiser(lambda x, t: torch.zeros_like(x))
        >>> p.sampler(d)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 3, 4, 4])
    """

    card = Card(
        paper="Jeong et al., 2025",
        url="https://arxiv.org/abs/2507.08422",
        degradation=r"means over $2 \times 2$, for early steps; later in regions without edges",
        noise="white",
        schedule="that of the pretrained model, by default a flow, which goes back at each change of size",
        prediction="the pretrained model's",
        sampler="Euler's method, 5 + 6 + 7 steps at matched times; jumps with correlated noise",
        exact="approximates: detail begins without a signal; the mask is to be given",
    )

    def __init__(
        self,
        shape: Sequence[int],
        base: Family | None = None,
        mask: Tensor | None = None,
        times: Rescheduling | None = None,
    ) -> None:
        base, event = as_base(FlowMatching(shape) if base is None else base, shape)
        self.times_of_stages = (FOUR_TIMES if mask is not None else TWO_STAGES) if times is None else times
        try:
            self.times_of_stages = Rescheduling(*self.times_of_stages)  # of a configuration it is a list
            steps, ends, shifts, ratio = self.times_of_stages
            as_numbers_in_a_row([ratio, *ends, *shifts, *steps], "times", "families.FOUR_TIMES")
        except TypeError:
            given = got(self.times_of_stages)
            raise TypeError(f"times: expected a Rescheduling, as of families.matched_times, got {given}") from None
        stages = 2 if mask is None else 3
        if not len(steps) == len(shifts) == len(ends) + 1 == stages:
            raise ValueError(f"times: expected those of {stages} stages, got {self.times_of_stages}")
        if not all(as_index(n, 1, 2**31, "times") for n in steps) or not all(0 < h < math.inf for h in shifts):
            raise ValueError(f"times: expected positive shifts, got {list(shifts)}")
        least = 2 ** ((len(event) - 1) / 2)  # ‖U‖
        if not least <= ratio < math.inf:
            raise ValueError(f"times: expected a ratio of at least {least:g}, so that c U Uᵀ ⪯ I, got {ratio}")
        before = [base.schedule.time(flow().log_snr(end)) for end in ends]
        jumps = [(t, after_upsampling(base.schedule, t, ratio)) for t in before]
        schedule = Restarted(base.schedule, jumps)
        path = RegionPath(event, mask, schedule.changes)
        super().__init__(base, path, schedule, coupling="shared")
        self._lifts = dict(zip(schedule.changes, path.lifts, strict=True))

    def lift(self, t: float) -> LinearOperator:
        return self._lifts[t]

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> JumpSampler:
        return JumpSampler(denoiser, self._stage_times() if steps is None else steps, **settings)

    def _stage_times(self) -> list[float]:
        """In each stage uniform before they are shifted, from its first time to its end."""
        steps, ends, shifts, _ = self.times_of_stages
        starts = [1.0, *(flow().time(self.base.schedule.log_snr(after)) for _, after in self.schedule.jumps)]
        pieces = []
        for n, h, start, end in zip(steps, shifts, starts, [*ends, 0.0], strict=True):
            uniform = torch.linspace(shifted(start, 1 / h), shifted(end, 1 / h), n + 1, dtype=torch.float64)
            pieces.append([shifted(u, h) for u in uniform.tolist()[:-1]])
        return through_stages(self, pieces)


@configured("families.RegionPath")
class RegionPath(Path):
    """Means over blocks of 2 × 2 pixels: at the last of the changes all, before it those outside of a mask.

    Arguments:
        shape: event shape of even sizes, channels first.
        mask: see `RegionAdaptive`; None for a single change.
        changes: times, ascending.
    """

    def __init__(self, shape: Sequence[int], mask: Tensor | None, changes: Sequence[float]) -> None:
        self.event, self._changes = as_shape(shape), list(changes)
        channels, *sizes = self.event
        if any(n % 2 for n in sizes):
            raise ValueError(f"shape: expected even sizes, got {self.event}")
        small = [n // 2 for n in sizes]
        cells, parts, d = math.prod(small), 2 ** len(sizes), len(sizes)
        pixels = torch.stack(torch.meshgrid([torch.arange(n) for n in sizes], indexing="ij")).flatten(1)
        cell, part = torch.zeros_like(pixels[0]), torch.zeros_like(pixels[0])
        for axis in range(d):
            cell, part = cell * small[axis] + pixels[axis] // 2, part * 2 + pixels[axis] % 2
        coarse = (channels, *small)
        self.mask = None if mask is None else as_numbers(mask, "mask").bool()
        if self.mask is None:
            self._groups = [(self.event, coarse, cell)]
        else:
            large = self.mask.flatten()
            if list(self.mask.shape) != small or bool(large.all()) or not bool(large.any()):
                raise ValueError(
                    f"mask: expected some but not all of {tuple(small)} pixels, got {int(large.sum())} of "
                    f"{tuple(self.mask.shape)}"
                )
            rest = int((~large).sum())
            first = torch.where(large, rest + parts * (large.cumsum(0) - 1), (~large).cumsum(0) - 1)
            token = first[cell] + torch.where(large[cell], part, 0)
            count = rest + parts * (cells - rest)
            owner = torch.zeros(count, dtype=torch.long).scatter(0, token, cell)
            tokens = (channels, count)
            self._groups = [(self.event, tokens, token), (tokens, coarse, owner)]
        self.lifts = [GroupFilter(*group, power=0.5).T for group in self._groups]

    def arguments(self) -> dict[str, object]:
        return {"shape": self.event, "mask": self.mask, "changes": self._changes}

    def level(self, t: float) -> int:
        return sum(change <= t for change in self._changes)

    def shape(self, t: float) -> Shape:
        level = self.level(t)
        return self._groups[level - 1][1] if level else self.event

    def changes(self) -> list[float]:
        return self._changes

    def between(self, s: float, t: float) -> LinearOperator:
        low, high = self.level(s), self.level(t)
        if high - low == 2:
            (fine, _, token), (_, coarse, owner) = self._groups
            return GroupFilter(fine, coarse, owner[token], power=-0.5)
        return GroupFilter(*self._groups[low], power=-0.5) if high > low else Identity(self.shape(s))


class GroupFilter(FactoredOperator):
    r"""M = diag(n_k^p) Qᵀ, Qᵀ x = (sum over group k)/√n_k with n_k the size of a group: means for p = −½, sums for ½.

    Arguments:
        shape, small: event shapes (C, …) of x and of the groups.
        index: the group of each number of a channel.
        power: p.
    """

    def __init__(self, shape: Sequence[int], small: Sequence[int], index: Tensor, power: float) -> None:
        super().__init__(in_shape=shape, out_shape=small)
        self.index, self.power = index, power
        self._sizes = torch.bincount(index, minlength=math.prod(self.out_shape[1:])).double()
        self._spectrum = self._sizes.pow(power).reshape(self.out_shape[1:])

    def spectrum(self) -> Tensor:
        return self._spectrum

    @property
    def coordinates(self) -> Shape:
        return self.out_shape

    def _to_right(self, x: Tensor) -> Tensor:
        index, weights = self._on(x)
        flat = x.reshape(*x.shape[: x.ndim - len(self.in_shape) + 1], -1)
        sums = flat.new_zeros(*flat.shape[:-1], len(weights)).index_add(-1, index, flat)
        return (sums * weights).reshape(*flat.shape[:-1], *self.out_shape[1:])

    def _from_right(self, z: Tensor) -> Tensor:
        index, weights = self._on(z)
        flat = z.reshape(*z.shape[: z.ndim - len(self.out_shape) + 1], -1) * weights
        return flat[..., index].reshape(*flat.shape[:-1], *self.in_shape[1:])

    def _on(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The groups, and 1/√n_k, where x is."""
        key = f"groups on {x.device} in {x.dtype}"
        return self._cached(key, lambda: (self.index.to(x.device), self._sizes.rsqrt().to(x)))


def matched_times(steps: Sequence[int], ends: Sequence[float], shift: float = 3.0) -> Rescheduling:
    r"""The Z and h_k of the least Jensen–Shannon divergence, on 1000 points as in the paper's code, between the density
    of the times of all stages,

        Σ_k N_k f_{h_k} on [s_k, e_k] / Σ_k N_k,   f_h(e) = h/(1 + (h − 1) e)², normalised on the interval,

    and that of the model's own times, with weight for those that are passed twice, f_h + Σ_k (e_k − s_{k+1}) f_h on
    [s_{k+1}, e_k], h = `shift`. Here e = 1 − t. The paper's code stops its search a little before the minimum.

    Arguments:
        steps, ends: see `Rescheduling`.
        shift: of the times that the model samples at, 3 for FLUX.1 and Stable Diffusion 3.

    Examples:
        >>> import lineardiffusion as ld
        >>> from lineardiffusion.families.region_adaptive import matched_times
        >>> times = matched_times((5, 6, 7), (0.7, 0.55))
        >>> [round(h, 1) for h in times.shifts], round(times.ratio, 1)
        ([5.0, 2.6, 2.2], 6.6)
    """
    counts = [as_index(n, 1, 2**31, "steps") for n in as_list(steps, "steps", "numbers of steps, such as (5, 4, 9)")]
    ends, shift = as_numbers_in_a_row(ends, "ends", "(0.6, 0.3)"), as_positive(shift, "shift")
    if len(ends) != len(counts) - 1 or not all(1 > a > b > 0 for a, b in itertools.pairwise([0.999999, *ends])):
        raise ValueError(f"ends: expected {len(counts) - 1} descending times in (0, 1), got {list(ends)}")
    logs = torch.zeros(len(counts) + 1, dtype=torch.float64)
    logs[:-1] = math.log(shift)
    with torch.enable_grad():
        logs.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [logs], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            divergence = times_divergence(counts, ends, logs[:-1].exp(), 2 + logs[-1].exp(), shift)
            divergence.backward()  # type: ignore[no-untyped-call]
            return divergence

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    shifts, ratio = logs.detach()[:-1].exp(), 2 + float(logs.detach()[-1].exp())
    return Rescheduling(tuple(counts), tuple(ends), tuple(shifts.tolist()), ratio)


def times_divergence(
    steps: Sequence[int], ends: Sequence[float], shifts: Tensor, ratio: Tensor, shift: float
) -> Tensor:
    """The divergence of `matched_times`."""
    e = torch.linspace(0, 1, 1000, dtype=torch.float64)
    starts = [torch.zeros_like(ratio), *((1 - t) / (ratio * t + 1 - t) for t in ends)]
    own = torch.tensor(shift, dtype=torch.float64)

    def density(h: Tensor, low: Tensor, high: float) -> Tensor:
        total = h * high / (1 + (h - 1) * high) - h * low / (1 + (h - 1) * low)
        return torch.where((e >= low) & (e <= high), h / (1 + (h - 1) * e).square() / total, 0.0)

    stages = [1 - t for t in (*ends, 0.0)]
    target = density(own, starts[0], 1.0)
    for low, high in zip(starts[1:], stages, strict=False):
        target = target + (high - low) * density(own, low, high)
    actual = torch.stack(
        [n * density(h, low, high) for n, h, low, high in zip(steps, shifts, starts, stages, strict=True)]
    ).sum(0)
    p, q = (values.clamp(min=1e-10) / values.clamp(min=1e-10).sum() for values in (target, actual))
    middle = (p + q) / 2
    return ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2
