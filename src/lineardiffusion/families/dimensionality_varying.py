"""Dimensionality-Varying Diffusion: components of an image fade, and are left out once next to nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths
from lineardiffusion._checks import as_list, as_number, as_numbers_in_a_row, check_kind
from lineardiffusion.config import Configured, configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import SNR
from lineardiffusion.operators.bases import Basis, Haar, first
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.schedules import NoiseSchedule, as_schedule
from lineardiffusion.schedules.grids import Steps


@configured("families.Fade")
class Fade(Configured):
    """Gains of coordinates that are left out, each level at a time t_k: 1 up to a time s_k, from there linear to `left`
    at t_k. Those that are never left out have 1.

    Arguments:
        basis: of the coordinates.
        shapes: event shapes of the smaller events.
        changes: the t_k > 0, ascending.
        left: the gain at t_k, in [0, 1].
        starts: the s_k, 0 ≤ s_k < t_k; by default 0.

    Raises:
        ValueError: an argument out of range, or as many times as there are not shapes.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.families.Fade(ld.bases.Haar((1, 4), 2), [(1, 2), (1, 1)], [1.0, 2.0])(0.5)
        tensor([[1.0000, 0.7500, 0.5000, 0.5000]], dtype=torch.float64)
    """

    def __init__(
        self,
        basis: Basis,
        shapes: Sequence[Sequence[int]],
        changes: Sequence[float],
        left: float = 0.0,
        starts: Sequence[float] | None = None,
    ) -> None:
        if not 0 <= as_number(left, "left") <= 1:
            raise ValueError(f"left: expected a number in [0, 1], got {left}")
        check_kind(basis, Basis, "basis", "one of ld.bases, such as bases.Haar(shape)")
        self.basis, self.left = basis, left
        self.shapes = as_list(shapes, "shapes", "event shapes, such as [(3, 32, 32)]")
        self.changes = as_numbers_in_a_row(changes, "changes", "[300, 600]")
        self.starts = [0.0] * len(self.changes)
        if starts is not None:
            self.starts = as_numbers_in_a_row(starts, "starts", "[0, 300]")
        spans = list(zip(self.starts, self.changes, strict=False))
        if (
            not len(self.shapes) == len(self.changes) == len(self.starts)
            or self.changes != sorted(self.changes)
            or not all(0 <= start < end for start, end in spans)
        ):
            raise ValueError(
                f"changes: expected {len(self.shapes)} ascending times above 0, and starts before them, got "
                f"{self.changes} and {self.starts}"
            )
        self._start, self._end = torch.zeros(2, *basis.coordinates, dtype=torch.float64).unbind()
        spans.append((0.0, torch.inf))  # of what is never left out
        for k, (start, end) in enumerate(spans):
            first(self._start, basis.coordinates).fill_(start)
            first(self._end, basis.coordinates).fill_(end)
            basis = basis.smaller(self.shapes[k]) if k < len(self.shapes) else basis

    def __call__(self, t: float) -> Tensor:
        return 1 - (1 - self.left) * ((t - self._start) / (self._end - self._start)).clamp(0, 1)


class DimensionalityVarying(Family):
    r"""x_t = a_t V_l diag(r_t) P_l Vᵀ x_0 + σ_t ε: orthogonal components of the image fade, r_t, and are left
    out once they have, l = l(t) (see `ld.paths.truncated`), so that hardly anything of the image is lost with them.
    The orthonormal P_l keeps white noise white.

    The way back over a change of size is the exact posterior: what is new is noise, around the detail that is left,
    r_{t−1} of it, which a network that predicts the noise takes for nothing. Approximates that alone; else exact. The
    gains, the times of the changes and Haar's basis are our choice.

    References:
        | Dimensionality-Varying Diffusion Process (Zhang et al., 2023), https://arxiv.org/abs/2211.16032

    Arguments:
        shape: event shape, channels first.
        num_steps: T; None with a schedule of continuous time.
        changes: when the size is halved, integers where there are steps; by default at 0.3 T and 0.6 T.
        left: the gain of a component where it is left out; see `Fade`.
        schedule: as for `DDPM`.

    Raises:
        ValueError: an argument out of range, or sizes that cannot be halved so often.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.families.DimensionalityVarying((3, 32, 32))
        >>> p.shape_changes(), p.shape(300), p.shape(1000)
        ([300, 600], (3, 16, 16), (3, 8, 8))
    """

    card = Card(
        paper="Zhang et al., 2023",
        url="https://arxiv.org/abs/2211.16032",
        degradation=r"Haar bands fade, $1 - t/t_k$, and are left out at $t_k$",
        noise="white",
        schedule=r"$a_t^2 = \bar\alpha_t$, $\sigma_t^2 = 1 - \bar\alpha_t$, as DDPM",
        prediction="noise",
        sampler="ancestral, 1000 steps",
        exact=r"the detail left at a change of size is taken for 0; else exact",
    )
    prediction = "noise"
    weighting = SNR()

    def __init__(
        self,
        shape: Sequence[int],
        num_steps: int | None = 1000,
        changes: Sequence[float] | None = None,
        left: float = 0.0,
        schedule: NoiseSchedule = "linear",
    ) -> None:
        noise = as_schedule(schedule, num_steps)
        if changes is None:
            changes = [share * noise.end if num_steps is None else round(share * noise.end) for share in (0.3, 0.6)]
        changes = as_numbers_in_a_row(changes, "changes", "[300, 600]")
        if any(t > noise.end for t in changes):
            raise ValueError(f"changes: expected times up to T = {noise.end}, got {list(changes)}")
        basis = Haar(shape, len(changes))
        path = paths.truncated(basis, basis.halvings, changes, Fade(basis, basis.halvings, changes, left))
        super().__init__(path, noise)

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        """A network that predicts the noise; where the size grows, the image has no detail yet."""
        return Denoiser(network, self, self.prediction, lift="pseudoinverse")

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, steps, **settings)
