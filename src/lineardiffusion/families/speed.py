"""SPEED: a pretrained model whose early steps see the low frequencies alone, as a small image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from lineardiffusion import paths
from lineardiffusion._checks import as_choice, as_number, as_numbers_in_a_row, check_event
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.families.flow import FlowMatching
from lineardiffusion.families.jumps import JumpSampler
from lineardiffusion.families.multiresolution import (
    Multiresolution,
    Restarted,
    after_upsampling,
    as_base,
)
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Cosine, Haar
from lineardiffusion.operators.orthogonal import Truncation
from lineardiffusion.residual import Residual
from lineardiffusion.schedules.grids import Steps


class SPEED(Multiresolution):
    r"""A network of a full-band process is called with small images first: E the orthonormal embedding of the small
    image's coordinates, r = √(pixels / pixels of the small image), and at the jump from t to t̃

        x̃ = κ (E x + σ_t (I − EEᵀ) z),   κ = σ_t̃/σ_t,   σ_t̃/a_t̃ = r σ_t/a_t ;

    for a flow, x_t = (1 − t) x_0 + t ε, κ = r/(1 + (r − 1) t) and t̃ = κ t. It is the posterior for M = Eᵀ/κ, given that
    the image has no detail. A frequency ω of power P = A ω^{−β} is activated at

        σ_t/a_t = √(P (1 + P − δ)/δ),   for a flow   t = 1/(1 + √(δ/(P (1 + P − δ)))),

    and the jump comes when those beyond the small image's are.

    Approximates: x̃ counts as x_t̃ although its detail has no signal. A coordinate of Gaussian data of variance v ends
    with v/(1 + v a²/σ²), a and σ those of t̃: with the spectrum below, 16² → 32² pixels and no other error, that is a
    distance W2 of 0.1 % of √(tr C) from a jump at t = 0.9, 1.6 % at 0.7 and 6.8 % at 0.5. Detail of the data's variance
    (`detail`, `sampler(…, detail=…)`) is exact, in the cosine basis, for Gaussian data of independent coordinates.

    The paper's code jumps at the first time of its grid below the activation time, and has a "fft" option that is not
    orthonormal for even sizes; here a time of the grid is moved to the jump, and there is no such option. Where sizes
    are rounded, r is that of the sizes.

    References:
        | Spectral Progressive Diffusion (Xiao et al., 2026), Eq. 5, 6, 9, 10, https://arxiv.org/abs/2605.18736
        | spectra of https://github.com/howardhx/speed

    Arguments:
        shape: event shape, channels first.
        base: the family that the network was trained for; by default `FlowMatching(shape)`.
        scales: sizes of the early stages relative to the last, ascending and below 1.
        transitions: times of the base at which each of them ends, descending; by default the activation times.
        delta: δ in (0, 1).
        spectrum: (A, β), of power in a cosine coordinate for frequencies in cycles per image; by default those that the
            paper's code has for FLUX.1's latents.
        basis: "cosine", or "haar" for scales that halve.

    Raises:
        ValueError: scales, times or a spectrum that are not so, or whose jump needs more noise than the base has.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.SPEED((3, 32, 32), base=ld.DDPM((3, 32, 32)), transitions=[800])
        >>> sampler = p.sampler(p.denoiser(lambda x, index: torch.zeros_like(x)), steps=10)
        >>> [(tuple(x.shape[1:]), round(t, 1)) for t, x, _ in sampler.trajectory(1, progress=False)][:3]
        [((3, 16, 16), 1081.6), ((3, 16, 16), 973.4), ((3, 16, 16), 881.6)]
    """

    card = Card(
        paper="Xiao et al., 2026",
        url="https://arxiv.org/abs/2605.18736",
        degradation="low frequencies of the cosine basis, as a smaller image, for early steps",
        noise="white",
        schedule="that of the pretrained model, by default a flow, which goes back a little at each change of size",
        prediction="the pretrained model's",
        sampler="the pretrained model's, 50 steps; a jump without a call of the network",
        exact="approximates: detail begins without a signal",
    )

    def __init__(
        self,
        shape: Sequence[int],
        base: Family | None = None,
        scales: Sequence[float] = (0.5,),
        transitions: Sequence[float] | None = None,
        delta: float = 0.01,
        spectrum: tuple[float, float] = (203.615097, 1.915461),
        basis: Literal["cosine", "haar"] = "cosine",
    ) -> None:
        base, event = as_base(FlowMatching(shape) if base is None else base, shape)
        as_choice(basis, ("cosine", "haar"), "basis")
        scales = as_numbers_in_a_row(scales, "scales", "(0.5,)")
        ascending = [*scales, 1.0]
        if len(ascending) < 2 or not all(0 < a < b for a, b in itertools.pairwise(ascending)):
            raise ValueError(f"scales: expected ascending numbers in (0, 1), got {list(scales)}")
        shapes = [(event[0], *(max(1, round(scale * n)) for n in event[1:])) for scale in ascending]
        if transitions is None:
            nyquist, law = min(event[1:]) / 2, as_numbers_in_a_row(spectrum, "spectrum", "(203.6, 1.915)")
            if len(law) != 2:
                raise ValueError(f"spectrum: expected two numbers, a variance and an exponent, got {law}")
            powers = [law[0] * (scale * nyquist) ** -law[1] for scale in ascending[:-1]]
            transitions = [base.schedule.time(activation_log_snr(power, delta)) for power in powers]
        transitions = as_numbers_in_a_row(transitions, "transitions", "(0.5,), one for each scale")
        if len(transitions) != len(scales):
            raise ValueError(f"transitions: expected a time for each of {len(scales)} scales, got {list(transitions)}")
        ratios = [math.sqrt(math.prod(fine) / math.prod(coarse)) for coarse, fine in itertools.pairwise(shapes)]
        jumps = [(t, after_upsampling(base.schedule, t, r)) for t, r in zip(transitions, ratios, strict=True)]
        schedule = Restarted(base.schedule, jumps)
        kind = Cosine(event) if basis == "cosine" else Haar(event, round(math.log2(1 / ascending[0])))
        path = paths.truncated(kind, shapes[-2::-1], schedule.changes, orthonormal=False)
        super().__init__(base, path, schedule)
        self._ratios = dict(zip(schedule.changes, reversed(ratios), strict=True))
        self._bases = dict(zip(schedule.changes, [kind.smaller(fine) for fine in shapes[:0:-1]], strict=True))

    def lift(self, t: float) -> LinearOperator:
        return self._ratios[t] * Truncation(self._bases[t], self.shape(t)).T

    def detail(self, images: Tensor) -> Residual:
        """The variance of the images' cosine coordinates, for `sampler(…, detail=…)`.

        Arguments:
            images: data, with shape (N, *shape(0)).
        """
        check_event(images, self.shape(0), "images")
        spectra = {}
        for t in self.shape_changes():
            s = self.before(t)
            clean = self.clean(images, s)
            spectra[t, s] = Cosine(self.shape(s)).analyse(clean).square().mean(0)
        return Residual(spectra)

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> JumpSampler:
        """As `Family.sampler`; `detail`: from the method of that name."""
        return JumpSampler(denoiser, 50 if steps is None else steps, **settings)


def activation_log_snr(power: float, delta: float) -> float:
    """The log-SNR at which a frequency of this power is activated, −ln(P (1 + P − δ)/δ).

    Raises:
        ValueError: a power or a δ out of range.
    """
    if not 0 < as_number(delta, "delta") < 1:
        raise ValueError(f"delta: expected a number in (0, 1), got {delta}")
    if not 0 < power < math.inf:
        raise ValueError(f"spectrum: expected positive power, got {power}")
    return -math.log(power * (1 + power - delta) / delta)
