"""An image at several resolutions as one vector: what cascades and Matryoshka diffusion diffuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_index, check_event, compute_dtype, draw_noise
from lineardiffusion.config import Configured, configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Family, check_loss
from lineardiffusion.operators.bases import Standard
from lineardiffusion.operators.orthogonal import AveragePool
from lineardiffusion.paths.base import as_event
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.ddim import DDIMSampler
from lineardiffusion.schedules import Schedule
from lineardiffusion.schedules.grids import Steps


class Stacked(Family):
    r"""x_t = (x_t^0, x_t^1, …), x_t^l = a_t^l D_l x_0 + σ_t^l ε^l with D_l the means of blocks of 2^l pixels a side:
    one vector, linear in the image, each part of which has a schedule of its own. Noise of all parts is independent.

    Arguments:
        shape: event shape of the images, channels first.
        per_level: the schedule of each resolution, the finest first; all with the same steps.

    Attributes:
        shapes: event shape of each resolution.

    Raises:
        ValueError: sizes that cannot be halved as often as there are levels below the first.
    """

    prediction = "noise"

    def __init__(self, shape: Sequence[int], per_level: Sequence[Schedule]) -> None:
        event, count = as_event(shape), len(per_level)
        as_index(count, 1, 64, "levels")
        self._pools = [AveragePool(event, 2**level) for level in range(count)]
        self.shapes = [pool.out_shape for pool in self._pools]
        self._numbers = [math.prod(part) for part in self.shapes]
        basis = Standard((sum(self._numbers),))
        gains, deviations = (ByLevel(per_level, self._numbers, of) for of in ("signal", "sigma"))
        super().__init__(paths.spectral(basis, gains), schedules.coloured(per_level[-1], basis, deviations))

    def data(self, images: Tensor) -> Tensor:
        """All resolutions as one vector, (*batch, N)."""
        check_event(images, self.shapes[0], "images")
        batch = images.shape[: images.ndim - len(self.shapes[0])]
        return torch.cat([pool(images).reshape(*batch, -1) for pool in self._pools], -1)

    def images(self, x_0: Tensor) -> Tensor:
        """The finest resolution."""
        return self.split(x_0)[0]

    def split(self, x: Tensor) -> list[Tensor]:
        """The image of each resolution, the finest first, of vectors (*batch, N)."""
        check_event(x, (sum(self._numbers),), "x")
        parts = torch.split(x, self._numbers, -1)
        return [part.reshape(*x.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> Sampler:
        return DDIMSampler(
            denoiser, min(250, self.num_steps or 250) if steps is None else steps, **{"eta": 1.0, **settings}
        )

    def loss(
        self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None, **conditioning: Any
    ) -> Tensor:
        """Σ_l mean (ε̂^l − ε^l)²: each resolution counts the same. Arguments as `Family.loss`."""
        check_loss(self, denoiser, x0, self.prediction)
        t, x0 = self.drawn_times.sample(self, len(x0), generator), x0.to(compute_dtype(x0.dtype))
        noise = draw_noise(x0, None, generator)
        error = denoiser.output(self.diffuse(x0, t, noise), t, **conditioning) - noise
        return torch.stack([part.square().flatten(1).mean(1) for part in self.split(error)]).sum(0)


@configured("families.ByLevel")
class ByLevel(Configured):
    """t ↦ a or σ of each coordinate of a stack, relative to that of the last level.

    Arguments:
        schedules: of each level.
        numbers: how many coordinates each level has.
        of: "signal" or "sigma".
    """

    def __init__(self, schedules: Sequence[Schedule], numbers: Sequence[int], of: str) -> None:
        self.schedules, self.numbers, self.of = list(schedules), list(numbers), of

    def __call__(self, t: float) -> Tensor:
        if t == 0:
            return torch.ones(sum(self.numbers), dtype=torch.float64)
        values = [getattr(schedule, self.of)(t) for schedule in self.schedules]
        relative = torch.tensor(values, dtype=torch.float64) / values[-1]
        return torch.repeat_interleave(relative, torch.tensor(self.numbers))
