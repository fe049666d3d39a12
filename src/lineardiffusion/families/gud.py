"""Generation with unified diffusion: each component of a basis fades and fills with noise at a time of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_flag, as_number, as_numbers, as_positive, as_shape, full_precision
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import Configured, configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import SNR
from lineardiffusion.operators.base import operator_bytes
from lineardiffusion.operators.bases import Basis, Standard
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.schedules.noise import Schedule
from lineardiffusion.times import Uniform

Gamma = Callable[[Tensor], Tensor]  # t, a tensor () in float64, ↦ γ(t)
_FILTER_BYTES = 2**28


@configured("families.SoftConditioning")
class SoftConditioning(Configured):
    r"""γ_i(t) = γ_min + (l_i − l_max)/s + t Δ,   Δ = γ_max − γ_min + (l_max − l_min)/s: lines of one slope, such that
    γ is γ_min at t = 0 for the greatest label and γ_max at t = 1 for the least. The components of low labels are
    generated first; s → ∞ is one schedule for all, s → 0 one component after the other.

    Arguments:
        labels: l_i, a tensor that broadcasts to the components; −ln of the variances for the order of scales.
        softness: s > 0, 1/a of the paper.
        gamma_min, gamma_max: γ_min < γ_max.
        clip: whether γ_i is kept within these.

    Raises:
        ValueError: a softness that is not positive, or bounds in the other order.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> gamma = ld.families.SoftConditioning(torch.tensor([0.0, 2.0]), softness=0.5)
        >>> gamma(torch.tensor(0.0)), gamma(torch.tensor(1.0))
        (tensor([-11.,  -7.], dtype=torch.float64), tensor([3., 7.], dtype=torch.float64))
    """

    def __init__(
        self,
        labels: Tensor | float = 0.0,
        softness: float = 1.0,
        gamma_min: float = -7.0,
        gamma_max: float = 3.0,
        clip: bool = False,
    ) -> None:
        softness, clip = as_positive(softness, "softness"), as_flag(clip, "clip")
        gamma_min, gamma_max = as_number(gamma_min, "gamma_min"), as_number(gamma_max, "gamma_max")
        if not -math.inf < gamma_min < gamma_max < math.inf:
            raise ValueError(f"gamma_min: expected less than gamma_max = {gamma_max}, got {gamma_min}")
        self.labels, self.softness, self.clip = as_numbers(labels, "labels"), softness, clip
        if not self.labels.numel():
            raise ValueError("labels: expected at least one number, got none")
        self.gamma_min, self.gamma_max = gamma_min, gamma_max
        self._start = gamma_min + (self.labels - self.labels.max()) / softness
        self._slope = gamma_max - gamma_min + float(self.labels.max() - self.labels.min()) / softness

    def __call__(self, t: Tensor) -> Tensor:
        gamma = self._start + t * self._slope
        return gamma.clamp(self.gamma_min, self.gamma_max) if self.clip else gamma


@configured("families.gud.Cleanest")
class Cleanest(Schedule):
    """a_t and σ_t of the component of the least γ, to which the others are relative."""

    by_value = True

    def __init__(self, gamma: Gamma) -> None:
        self.gamma = gamma

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        least = [float(_at(self.gamma, u).min()) for u in t.flatten().tolist()]
        gamma = torch.tensor(least, dtype=t.dtype, device=t.device).reshape(t.shape)
        return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()


@configured("families.gud.Gains")
class Gains(Configured):
    """α_i of γ_i, relative to the greatest."""

    def __init__(self, gamma: Gamma) -> None:
        self.gamma = gamma

    def __call__(self, t: float) -> Tensor:
        alpha = torch.sigmoid(-_at(self.gamma, t)).sqrt()
        return alpha / alpha.max() if t else torch.ones_like(alpha)


@configured("families.gud.Deviations")
class Deviations(Configured):
    """scale_i σ_i of γ_i, relative to the least σ."""

    def __init__(self, gamma: Gamma, scales: Tensor | float) -> None:
        self.gamma, self.scales = gamma, as_numbers(scales, "scales")

    def __call__(self, t: float) -> Tensor:
        sigma = torch.sigmoid(_at(self.gamma, t)).sqrt()
        return self.scales * sigma / sigma.min()


def _at(gamma: Gamma, t: float) -> Tensor:
    return gamma(torch.tensor(t, dtype=torch.float64))


class GUD(Family):
    r"""x_t = V diag(α_i) Vᵀ x_0 + V diag(c_i σ_i) Vᵀ ε for t in (0, 1], with V a basis, c_i the scales of its
    components (their standard deviations in the data: the paper whitens with them) and for each component

        α_i² = sigmoid(−γ_i(t)),     σ_i² = sigmoid(γ_i(t)).

    How γ_i differ says in which order components are generated, and how softly one follows the other. Exact for t > 0.
    In the paper x_0 has a little noise, σ_i² = sigmoid(γ_i(0)); here t = 0 is the data, and the paper's x_0 is the
    state just above 0. The paper's network predicts the white noise ε. With the default, γ from −7 to 3 in all pixels,
    some signal is left at t = 1, as there.

    References:
        | GUD: Generation with Unified Diffusion (Gerdes et al., 2024), Sec. 3, https://arxiv.org/abs/2410.02667

    Arguments:
        shape: event shape.
        gamma: t ↦ γ, from a tensor () in float64 to a tensor that broadcasts to the coordinates of the basis, in
            torch's functions, so that it has a derivative; `SoftConditioning()` by default.
        basis: V, one of `ld.bases`; the pixels by default.
        scales: c_i > 0, a tensor that broadcasts to the coordinates, or a number.

    Raises:
        TypeError: a γ that is no function, or a basis that is none.
        ValueError: a basis of other events, or γ or scales that do not fit it; γ that falls with t.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> columns = ld.families.SoftConditioning(-torch.linspace(0, 1, 4), softness=0.05, clip=True)
        >>> p = ld.families.GUD((1, 4, 4), columns)
        >>> p.diffuse(torch.ones(1, 4, 4), 0.5, noise=torch.zeros(1, 4, 4))[0, 0].round(decimals=2)
        tensor([0.2200, 0.4600, 1.0000, 1.0000])
    """

    card = Card(
        paper="Gerdes et al., 2024",
        url="https://arxiv.org/abs/2410.02667",
        degradation=r"$V \operatorname{diag}(\alpha_i) V^\top$, any orthonormal basis",
        noise=r"$V \operatorname{diag}(c_i^2\sigma_i^2) V^\top$",
        schedule=r"$\alpha_i^2 = \operatorname{sigmoid}(-\gamma_i)$, $\sigma_i^2 = \operatorname{sigmoid}(\gamma_i)$, "
        r"$\gamma_i$ linear from $-7$ to 3, shifted by labels over a softness",
        prediction="white noise",
        sampler="ancestral, 100 steps (there: Euler's method for the reverse SDE, `ReverseSDESampler`)",
        exact=r"exact for $t > 0$; at 0 the data in the place of data with noise of $\gamma_i(0)$",
    )
    prediction = "noise"
    weighting = SNR()
    drawn_times = Uniform()

    def __init__(
        self,
        shape: Sequence[int],
        gamma: Gamma | None = None,
        basis: Basis | None = None,
        scales: Tensor | float = 1.0,
    ) -> None:
        gamma = SoftConditioning() if gamma is None else gamma
        if not callable(gamma):
            raise TypeError(f"gamma: expected a function of t, such as families.SoftConditioning(), got {gamma!r}")
        event = as_shape(shape)
        basis = Standard(event) if basis is None else basis
        if not isinstance(basis, Basis):
            raise TypeError(f"basis: expected one of ld.bases, such as ld.bases.Cosine(shape), got {basis!r}")
        if basis.shape != event:
            raise ValueError(f"basis: expected one of events {event}, got {basis}")
        self.gamma, self.scales = gamma, as_numbers(scales, "scales")
        noise = schedules.coloured(Cleanest(gamma), basis, Deviations(gamma, self.scales))
        super().__init__(paths.spectral(basis, Gains(gamma)), noise)

    @property
    def basis(self) -> Basis:
        assert isinstance(self.path, paths.spectral)
        return self.path.basis

    def rates(self, t: float) -> Tensor:
        """β_i = σ_i² dγ_i/dt of dz = −β/2 z dt + √β dW, the SDE of whitened components, float64."""
        time = torch.tensor(t, dtype=torch.float64)
        gamma, slope = torch.func.jvp(self.gamma, (time,), (torch.ones_like(time),))[:2]
        rates: Tensor = torch.sigmoid(gamma) * slope
        return rates

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, 100 if steps is None else steps, **settings)


@configured("families.ReverseSDESampler")
class ReverseSDESampler(Sampler):
    r"""Euler's method for the reverse SDE of the components, as the paper samples,

        z_s = z_t + (t − s) β_t (z_t/2 + ∇ log p_t(z_t)) + √((t − s) β_t) w,     z = Vᵀ x / c,

    of first order in t − s, so that it approximates the kernels of `AncestralSampler`. The step to t = 0 draws nothing.

    Arguments:
        denoiser: of a GUD.
        steps: as `Sampler`; the paper's code takes 100.

    Raises:
        TypeError: a denoiser of another process.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.GUD((1, 4, 4), ld.families.SoftConditioning(gamma_max=7.0))
        >>> d = p.denoiser(lambda x, t: x)
        >>> ld.families.ReverseSDESampler(d, 10)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(self, denoiser: Denoiser, steps: Steps = 100) -> None:
        super().__init__(denoiser, steps)
        if not isinstance(denoiser.process, GUD):
            raise TypeError(f"denoiser: expected one of a families.GUD, got one of {denoiser.process!r}")
        self.process: GUD = denoiser.process
        self._filters: BoundedCache[SpectralFilter] = BoundedCache(_FILTER_BYTES, operator_bytes)

    def arguments(self) -> dict[str, object]:
        return {"denoiser": self.denoiser, "steps": self.steps}

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        clean, r = self.denoiser.estimate(x_t, t, **conditioning)
        with full_precision(x_t):
            noise = x_t - self.process.signal_scale(t) * self.denoiser.carry(clean, r, t)  # c σ ε: ∇ = −noise/(c σ²)
            x_s = self._filter("state", t, s)(x_t) - self._filter("noise", t, s)(noise)
            if s > 0:
                x_s = x_s + self._filter("drawn", t, s)(draws.kernel(x_s))
            return x_s, self.denoiser.carry(clean, r, s)

    def _filter(self, part: str, t: float, s: float) -> SpectralFilter:
        return self._filters.get((part, t, s), lambda: self._make_filter(part, t, s))

    def _make_filter(self, part: str, t: float, s: float) -> SpectralFilter:
        rates = (t - s) * self.process.rates(t)
        if part == "drawn":
            gain = self.process.scales * rates.sqrt()
        elif part == "noise":
            gain = rates / torch.sigmoid(_at(self.process.gamma, t))
        else:
            gain = 1 + rates / 2
        return SpectralFilter(self.process.basis.shape, gain, self.process.basis)
