"""f-DM: in stages, an image passes into one that is half the size, or blurred."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths
from lineardiffusion._checks import as_index, as_numbers_in_a_row
from lineardiffusion.config import Configured, configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.families.dimensionality_varying import Fade
from lineardiffusion.operators.bases import Cosine, Haar
from lineardiffusion.operators.separable import outer
from lineardiffusion.operators.spectral import dct_frequencies
from lineardiffusion.paths.base import as_event
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.schedules import NoiseSchedule, as_schedule
from lineardiffusion.schedules.grids import Steps


@configured("families.BlurStages")
class BlurStages(Configured):
    """Gains in the cosine basis of images that are blurred in stages, linear in t between Gaussian blurs.

    Arguments:
        shape: event shape, channels first.
        sigmas: 0 < σ_1 ≤ … ≤ σ_K of the blurs, in pixels.
        changes: 0 < τ_1 < … < τ_K, when each is reached, from none at 0.

    Raises:
        ValueError: levels or times that are not so, or as many of one as there are not of the other.
    """

    def __init__(self, shape: Sequence[int], sigmas: Sequence[float], changes: Sequence[float]) -> None:
        self.shape = as_event(shape)
        self.sigmas = as_numbers_in_a_row(sigmas, "sigmas", "[1.0, 4.0]")
        self.changes = as_numbers_in_a_row(changes, "changes", "[333, 667]")
        levels, times = [0.0, *self.sigmas], [0.0, *self.changes]
        strict = all(before < after for before, after in itertools.pairwise(times))
        if len(levels) != len(times) or not strict or levels != sorted(levels) or not all(v > 0 for v in levels[1:]):
            raise ValueError(f"sigmas, changes: expected ascending blurs and times above 0, got {sigmas} and {changes}")
        squared = [axis.square() for axis in dct_frequencies(self.shape)]
        self._gains = torch.stack([outer([torch.exp(-(sigma**2) / 2 * axis) for axis in squared]) for sigma in levels])
        self._times = times

    def __call__(self, t: float) -> Tensor:
        stage = sum(time <= t for time in self._times) - 1
        if stage == len(self._times) - 1:
            return self._gains[stage]
        start, end = self._times[stage : stage + 2]
        return torch.lerp(self._gains[stage], self._gains[stage + 1], (t - start) / (end - start))


class FDM(Family):
    r"""In stage k, from τ_k to τ_{k+1}, the image x^k passes into what is left of it after a transformation f,

        c_t = (1 − w) x^k + w x̂^k,   w = (t − τ_k)/(τ_{k+1} − τ_k),   x̂^k = g(f(x^k)),   x^{k+1} = f(x^k),

    with x_t = a_t c_t + σ_t ε. f is the mean of 2 × 2 pixels and g its repetition, so that at τ_{k+1} nothing is lost
    with the size; or f is a blur and g = 1. Means have a quarter of the variance of their noise: in the smaller image
    the ratio of signal to noise is rescaled by 4 (2^d in d dimensions), so that it goes on as it was. Here that is done
    by the signal, 2^{k} a_t, and σ_t stays; over (4^k a_t² + σ_t²)^{1/2} the state has variance 1 again.

    Exact: all of that is linear, and the sampler draws from the posterior, over a change of size too. The stages are
    of equal length; that, the schedule, the blurs, the loss and what the network predicts, the clean image c_{t−1} that
    a step needs, are our choice. Transformations that are learned are not linear, and not here.

    References:
        | f-DM: A Multi-stage Diffusion Model via Progressive Signal Transformation (Gu et al., 2023),
        | https://arxiv.org/abs/2210.04955

    Arguments:
        shape: event shape, channels first.
        stages: how many, of which the last is one without a transformation.
        num_steps, schedule: as for `DDPM`.
        blur_sigmas: σ of the blurred images x^1, x^2, …, in pixels and all of them blurs of the data, one fewer than
            stages; by default the size is halved.

    Raises:
        ValueError: sizes that cannot be halved so often, stages without steps, or blurs that do not ascend.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.families.FDM((3, 32, 32))
        >>> p.shape_changes(), [p.signal_scale(t) / p.schedule.signal(t) for t in (300, 500, 900)]
        ([333, 667], [1.0, 2.0, 4.0])
        >>> ld.families.FDM((1, 8, 8), blur_sigmas=[1.0, 4.0]).shape_changes()
        []
    """

    card = Card(
        paper="Gu et al., 2023",
        url="https://arxiv.org/abs/2210.04955",
        degradation="in stages, linear between an image and itself at half the size, or blurred",
        noise="white; its ratio to the signal rescaled with the size",
        schedule=r"cosine",
        prediction="$c_{t-1}$, the clean image just below $t$",
        sampler="ancestral, 1000 steps",
        exact="exact",
    )
    prediction = "clean"

    def __init__(
        self,
        shape: Sequence[int],
        stages: int = 3,
        num_steps: int = 1000,
        schedule: NoiseSchedule = "cosine",
        blur_sigmas: Sequence[float] | None = None,
    ) -> None:
        num_steps = as_index(num_steps, 1, 2**31, "num_steps")
        count = as_index(stages, 1, num_steps, "stages") - 1
        changes = [round(num_steps * k / (count + 1)) for k in range(1, count + 1)]
        path: paths.Path
        if blur_sigmas is not None:
            blur_sigmas = as_numbers_in_a_row(blur_sigmas, "blur_sigmas", "[1.0, 4.0]")
            if len(blur_sigmas) != count:
                raise ValueError(f"blur_sigmas: expected one fewer than {stages} stages, got {list(blur_sigmas)}")
            path = paths.spectral(Cosine(shape), BlurStages(shape, blur_sigmas, changes))
        else:
            basis = Haar(shape, count)
            shapes = basis.halvings
            path = paths.truncated(basis, shapes, changes, Fade(basis, shapes, changes, starts=[0, *changes][:count]))
        super().__init__(path, as_schedule(schedule, num_steps))

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, steps, **settings)
