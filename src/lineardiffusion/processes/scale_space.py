"""Scale Space Diffusion: every M_t scales the signal, and a few of them also halve the resolution."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_index, as_shape
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.chain import OperatorChain
from lineardiffusion.operators.orthogonal import AveragePool
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.operators.separable import Mode, Resize, spatial_axes
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import (
    NoiseSchedule,
    ResolutionSchedule,
    as_alpha_bar,
    as_changes,
    convex_decay,
    from_alpha_bar,
)


class ScaleSpaceDiffusion(LinearDiffusion):
    r"""x_t = √ᾱ_t R_t x_0 + √(1 − ᾱ_t) ε with R_t x_0 the image at the resolution r(t), resized level by level:

        M_t = √α_t I                      where r(t) = r(t − 1),
        M_t = √α_t Resize(r(t − 1) → r(t))   otherwise.

    Level l of an axis of n pixels has ⌈n / 2^l⌉. With mode "haar" the levels are orthonormal: R_t sums 2^d neighbours
    and divides by 2^{d/2}, which keeps white noise white, so that the coarse state is a projection of the fine one and
    loses nothing of what it shows; a_t then carries the factor 2^{d/2} of each level.

    References:
        | Scale Space Diffusion (Mukhopadhyay et al., 2026), Sec. 4.1, https://arxiv.org/abs/2603.08709

    Arguments:
        shape: event shape of the data, channels first.
        levels: number of resolutions; 1 is DDPM.
        num_steps: T.
        schedule: "linear", "cosine", a function of T, or ᾱ_0, …, ᾱ_T themselves.
        resolution_schedule: such as `convex_decay(0.5)`, or the level of each of x_1, …, x_T.
        mode: how `Resize` resamples, with antialiasing where the mode has it; or "haar", for even sizes.

    Raises:
        ValueError: levels beyond what the shape holds, odd sizes for "haar", or a resolution schedule that is not
            monotone.

    Example:
        >>> import lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((3, 48, 64), levels=2)
        >>> p.shape(0), p.shape(1000), p.shape_changes()
        ((3, 48, 64), (3, 24, 32), [751])
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 4,
        num_steps: int = 1000,
        schedule: str | NoiseSchedule | Tensor = "linear",
        resolution_schedule: ResolutionSchedule | Sequence[int] | None = None,
        mode: Mode | Literal["haar"] = "bilinear",
    ) -> None:
        event = as_shape(shape)
        alpha_bar = as_alpha_bar(schedule, num_steps)
        sizes = _pyramid(event, as_index(levels, 1, 64, "levels"))
        rule = convex_decay(0.5) if resolution_schedule is None else resolution_schedule
        changes = as_changes(rule, len(sizes), from_alpha_bar(alpha_bar))
        level_of = [bisect.bisect_right(changes, t) for t in range(1, len(alpha_bar))]

        identities = [Identity(size) for size in sizes]
        halvings = [_halving(fine, coarse, mode) for fine, coarse in itertools.pairwise(sizes)]
        gain = 2 ** (spatial_axes(event) / 2) if mode == "haar" else 1.0  # of a constant image, for each level
        steps: list[LinearOperator] = []
        previous = 0
        for level, alpha in zip(level_of, (alpha_bar[1:] / alpha_bar[:-1]).tolist(), strict=True):
            resize: LinearOperator = identities[level]
            for halving in reversed(halvings[previous:level]):
                resize = resize @ halving
            steps.append(alpha**0.5 * resize)
            previous = level
        gains = gain ** torch.tensor([0, *level_of], dtype=torch.float64)
        super().__init__(OperatorChain(steps), sigmas=(1 - alpha_bar).sqrt(), signal_scales=gains * alpha_bar.sqrt())


def _halving(fine: Shape, coarse: Shape, mode: Mode | Literal["haar"]) -> LinearOperator:
    """From one level to the next."""
    axes = spatial_axes(fine)
    if mode != "haar":
        return Resize(fine, coarse[-axes:], mode)
    if any(n % 2 for n in fine[-axes:]):
        raise ValueError(f"mode: expected even sizes for 'haar', got {fine}")
    return 2 ** (axes / 2) * AveragePool(fine, [2] * axes)


def _pyramid(shape: Shape, levels: int) -> list[Shape]:
    """Event shapes of all levels, each half of the one before."""
    axes = spatial_axes(shape)
    sizes = [shape]
    for level in range(1, levels):
        halved = tuple(-(-n // 2) for n in sizes[-1][-axes:])
        if halved == sizes[-1][-axes:]:
            raise ValueError(f"levels: expected at most {level} for shape {shape}, got {levels}")
        sizes.append(shape[: len(shape) - axes] + halved)
    return sizes
