r"""Samplers: from x_T ~ N(0, σ_T² I) to x_0, state by state and resolution by resolution.

A step from t to s estimates c_s, takes μ_s = a_s c_s as if it were known, and draws x_s from a kernel that carries the
marginal of t to that of s: the posterior (ancestral sampling) or a DDIM kernel. The last step ends at s = 0, where
σ_0 = 0 and x_0 is the estimate c_0 itself.

States are in float32 or better whatever the network computes in: a thousand roundings to half precision would cost 10 %
of the variance.

References:
    | Scale Space Diffusion (Mukhopadhyay et al., 2026), Algorithm 5, https://arxiv.org/abs/2603.08709
    | Denoising Diffusion Implicit Models (Song et al., 2021), https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, as_range, compute_dtype, draw_noise, full_precision
from lineardiffusion.denoiser import Denoiser, first_weight
from lineardiffusion.gaussian import Gaussian
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.residual import Noise, Residual


class Sampler(ABC):
    """What all samplers share: the kept times, the noise, and the loop over them. A subclass gives the kernel.

    Arguments:
        denoiser: estimates c_s from x_t.
        steps: how many steps to take, from times spread uniformly from T to 1 (both included) and on to 0, or the times
            to keep; None keeps all. T, and for every change of shape both of its times, are always among them.
        clip: range to which the estimates ĉ_s are clamped, such as (−1, 1) for images; None leaves them alone, as data
            without bounds (latents, standardised values) need it.
        residual: covariances R of c_s − ĉ_s, as `ld.calibrate` measures them for these steps: where there is one, c_s
            is drawn from N(ĉ_s, R) and not taken for known (covariance-corrected sampling).

    Raises:
        ValueError: steps out of range, an empty clip range, or a residual of other steps.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: int | Sequence[int] | None = None,
        clip: tuple[float, float] | None = None,
        residual: Residual | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.clip = as_range(clip)
        self.times = kept_times(denoiser.process, steps)
        self.residual = Residual({}) if residual is None else residual
        others = self.residual.spectra.keys() - set(itertools.pairwise(self.times))
        if others:
            raise ValueError(f"residual: expected spectra of steps of this sampler, got some of {sorted(others)[:3]}")

    @abstractmethod
    def _kernel(self, x_t: Tensor, mean_s: Tensor, t: int, s: int) -> Gaussian:
        """The distribution of x_s given x_t and μ_s."""

    def step(
        self,
        x_t: Tensor,
        t: int,
        s: int,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        **conditioning: Any,
    ) -> Tensor:
        """One step from x_t to x_s, s < t; differentiable.

        Arguments:
            x_t: states, with shape (B, *shape(t)).
            t, s: the two times; from t to s the shape may change only as it does from t to t − 1.
            noise: standard normal noise of the shape of x_s; drawn from `generator` where it is not given.
            conditioning: passed on to the network.

        Returns:
            x_s, with shape (B, *shape(s)), in the dtype of x_t or, where that is narrower, in float32.
        """
        draw, spread = (
            (lambda like: draw_noise(like, noise, generator)),
            (lambda like: draw_noise(like, None, generator)),
        )
        return self._step(x_t, int(t), int(s), draw, spread, conditioning)[0]

    def _step(
        self, x_t: Tensor, t: int, s: int, draw: Noise, spread: Noise, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """x_s and ĉ_s, with the noise of the kernel from `draw` and that of the residual from `spread`."""
        x_t = x_t.to(compute_dtype(x_t.dtype))
        clean = self.denoiser(x_t, t, s, **conditioning)
        if self.clip is not None:
            clean = clean.clamp(*self.clip)
        if s == 0:
            return clean, clean
        with full_precision(x_t):
            c_s = clean + self.residual.sample(t, s, clean, spread) if (t, s) in self.residual else clean
            kernel = self._kernel(x_t, self.denoiser.process.signal_scale(s) * c_s, t, s)
            return kernel.sample(draw(kernel.mean)), clean

    def __call__(
        self,
        num_samples: int,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = True,
        **conditioning: Any,
    ) -> Tensor:
        """Draw samples.

        Arguments:
            num_samples: how many.
            seeds: one for each sample; sample i then depends on seeds[i] alone, whatever the others are, and is the
                same image in every dtype, up to rounding.
            generator: the source of all noise, where no seeds are given; the global one by default.
            progress: show a bar over the steps (needs tqdm).
            conditioning: passed on to the network.

        Returns:
            x_0, with shape (num_samples, *shape(0)), on the device of the network's parameters and in their dtype, or
            in float32 where that is narrower.

        Raises:
            ValueError: a number of seeds other than `num_samples`, or both seeds and a generator.
        """
        states = self.trajectory(num_samples, seeds, generator, progress, **conditioning)
        ((_, x_0, _),) = deque(states, maxlen=1)
        return x_0

    def trajectory(
        self,
        num_samples: int,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = True,
        **conditioning: Any,
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Draw samples and look at every state on the way. Arguments as for drawing samples.

        Yields:
            (t, x_t, c): for each kept time, from T down, the state and the clean image estimated from it, which has the
            shape of the next state; and at the end (0, x_0, x_0).
        """
        draw = _noise_source(as_index(num_samples, 1, 2**31, "num_samples"), seeds, generator)
        return self._walk(num_samples, draw, progress, conditioning)

    def _walk(
        self, num_samples: int, draw: Noise, progress: bool, conditioning: dict[str, Any]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        process = self.denoiser.process
        weight = first_weight(self.denoiser)
        weight = torch.empty(0) if weight is None else weight
        pairs = list(zip(self.times, self.times[1:], strict=False))
        with torch.no_grad():
            shape, dtype = (num_samples, *process.shape(process.num_steps)), compute_dtype(weight.dtype)
            noise = draw(weight.new_empty(shape, dtype=dtype))
            x = process.prior(num_samples, noise=noise, dtype=dtype, device=noise.device)
        for t, s in _bar(pairs, progress):
            with torch.no_grad():  # not around the yield, which would leave the caller's code without gradients
                x_s, clean = self._step(x, t, s, draw, draw, conditioning)
            yield t, x, clean
            x = x_s
        yield 0, x, x


class AncestralSampler(Sampler):
    r"""x_s ~ q(x_s | x_t, x_0 = x̂_0), the posterior of Eq. 6: DDPM's sampler for any linear degradation.

    Arguments and errors: as `Sampler`.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 8, 8), levels=2, num_steps=100)
        >>> d = ld.Denoiser(lambda x, t_index, size: x.new_zeros(len(x), 1, *size), p)
        >>> ld.AncestralSampler(d, steps=10)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    def _kernel(self, x_t: Tensor, mean_s: Tensor, t: int, s: int) -> Gaussian:
        return self.denoiser.process.posterior(x_t, mean_s, t, s)


class DDIMSampler(Sampler):
    r"""x_s from the generalised DDIM kernel (see `ddim_kernel`): at η = 0 nothing is drawn but x_T and, where the
    resolution grows, the noise of the new directions; η = 1 is ancestral sampling.

    Where estimates are clipped, the noise in x_t is derived again from the clipped one, as everywhere with these
    kernels: `use_clipped_model_output=True` in diffusers, whose default keeps the noise of the unclipped estimate.

    Arguments:
        denoiser, steps, clip, residual: as `Sampler`.
        eta: η in [0, 1], a factor of the standard deviation of the noise, as in the paper and in diffusers; azula's is
            one of the variance, so that this η is the root of its.

    Raises:
        ValueError: as `Sampler`, or η outside [0, 1].
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: int | Sequence[int] | None = None,
        eta: float = 0.0,
        clip: tuple[float, float] | None = None,
        residual: Residual | None = None,
    ) -> None:
        super().__init__(denoiser, steps, clip, residual)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {eta}")
        self.eta = eta

    def _kernel(self, x_t: Tensor, mean_s: Tensor, t: int, s: int) -> Gaussian:
        return self.denoiser.process.kernel(x_t, mean_s, t, s, self.eta)


def kept_times(process: LinearDiffusion, steps: int | Sequence[int] | None) -> list[int]:
    """The times a sampler visits, from T down to 0.

    Arguments:
        process: whose T and changes of shape are kept in any case.
        steps: the times to keep, None for all, or a number of times spread uniformly from T to 1; from each of them a
            step leads to the next, from the last to 0.

    Raises:
        ValueError: a number or a time outside 1…T.
    """
    last = process.num_steps
    if steps is None:
        kept = set(range(last + 1))
    elif isinstance(steps, Sequence):
        kept = {as_index(t, 1, last, "steps") for t in steps}
    else:
        count = as_index(steps, 1, last, "steps")
        kept = {1 + (2 * k * (last - 1) + count - 1) // (2 * count - 2) for k in range(count)} if count > 1 else {last}
    changes = process.shape_changes()
    return sorted(kept | {0, last} | set(changes) | {t - 1 for t in changes}, reverse=True)


def _noise_source(num_samples: int, seeds: Sequence[int] | None, generator: torch.Generator | None) -> Noise:
    if seeds is None:
        return lambda like: draw_noise(like, None, generator)
    if generator is not None:
        raise ValueError("seeds, generator: expected at most one of them, got both")
    if len(seeds) != num_samples:
        raise ValueError(f"seeds: expected one for each of {num_samples} samples, got {len(seeds)}")
    # On the CPU whatever the device, so that a seed means the same sample everywhere.
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def draw(like: Tensor) -> Tensor:
        rows = [torch.randn(like.shape[1:], generator=g, dtype=torch.float32) for g in generators]
        return torch.stack(rows).to(like)

    return draw


def _bar(pairs: Sequence[tuple[int, int]], progress: bool) -> Iterable[tuple[int, int]]:
    if not progress:
        return pairs
    try:
        from tqdm.auto import tqdm
    except ImportError:
        warnings.warn("progress=True shows a bar where tqdm is installed; it is not", stacklevel=4)
        return pairs
    return tqdm(pairs, desc="sampling", unit="step")  # type: ignore[no-any-return]
