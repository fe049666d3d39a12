r"""Classifier-free guidance: a network's answer, moved away from its answer to no condition.

References:
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022), https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lineardiffusion._checks import as_number, as_numbers, check_kind, compute_dtype, got
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.networks import as_tensor


@configured("guided")
class GuidedDenoiser(Denoiser):
    """`guided`"""

    def __init__(self, denoiser: Denoiser, scale: float, null: Mapping[str, Any]) -> None:
        check_kind(denoiser, Denoiser, "denoiser", "an ld.Denoiser")
        if not math.isfinite(as_number(scale, "scale")):
            raise ValueError(f"scale: expected a finite number, got {scale!r}")
        if not isinstance(null, Mapping) or not null:
            raise TypeError(f"null: expected the conditioning that means none, such as {{'y': 1000}}, got {null!r}")
        network = _Guided(denoiser, float(scale), null)
        super().__init__(network, denoiser.process, denoiser.prediction, denoiser.time_input, denoiser.lift)
        self.takes_size = denoiser.takes_size
        self._arguments = {"denoiser": denoiser, "scale": float(scale), "null": dict(null)}

    def arguments(self) -> dict[str, object]:
        return self._arguments


class _Guided(nn.Module):
    """One call of the denoiser's network on both batches, with conditioning and without."""

    def __init__(self, denoiser: Denoiser, scale: float, null: Mapping[str, Any]) -> None:
        super().__init__()
        self.denoiser, self.scale, self.null = denoiser, scale, dict(null)
        self._rows = {
            name: value if isinstance(value, Tensor) else as_numbers(value, f"null[{name!r}]")
            for name, value in null.items()
        }

    def forward(self, x: Tensor, time: Tensor, **conditioning: Any) -> Tensor:
        missing = self.null.keys() - conditioning.keys()
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))}: expected conditioning to guide to, got none")
        both = {name: self._both(name, value, len(x)) for name, value in conditioning.items()}
        output = as_tensor(self.denoiser.network(torch.cat([x, x]), torch.cat([time, time]), **both))
        given, none = output.to(compute_dtype(output.dtype)).chunk(2)
        return torch.add(none, given - none, alpha=self.scale)

    def _both(self, name: str, value: Any, count: int) -> Any:
        rows = isinstance(value, Tensor) and value.shape[:1] == (count,)
        if name not in self.null:
            return torch.cat([value, value]) if rows else value
        if not rows:
            raise ValueError(f"{name}: expected a tensor with a row for each of {count} samples, got {got(value)}")
        none = self._rows[name] = self._rows[name].to(value)  # kept where it is needed
        try:
            nones = none.expand_as(value)
        except RuntimeError:
            raise ValueError(
                f"null: expected a number or a tensor that broadcasts to the shape of {name}, {tuple(value.shape)}, "
                f"got {got(none)}"
            ) from None
        return torch.cat([value, nones])


def guided(denoiser: Denoiser, scale: float, null: Mapping[str, Any]) -> GuidedDenoiser:
    r"""A denoiser whose network returns F(x_t, ∅) + scale · (F(x_t, c) − F(x_t, ∅)), from one call for both.

    A scale of 1 is no guidance, 0 none of the condition, and above 1 the samples are drawn to what fits it best.

    Arguments:
        denoiser: of a network that was also trained without conditions.
        scale: the factor; w + 1 for the w of the paper.
        null: for each name of conditioning that is dropped, what stands for none: a number, or a tensor that broadcasts
            to the rows of what is given, such as {"y": 1000}. All other conditioning is the same for both calls.

    Raises:
        TypeError: another kind of denoiser, or no null conditioning.
        ValueError: a scale that is not finite; when it is called, conditioning that lacks a name or rows.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.DDPM((1, 8), num_steps=10)
        >>> d = ld.guided(ld.Denoiser(lambda x, index, y: x + y[:, None, None], p), 2.0, null={"y": 0.0})
        >>> d(torch.zeros(1, 1, 8), 5, y=torch.tensor([1.5]))[0, 0, :2]
        tensor([3., 3.])
    """
    return GuidedDenoiser(denoiser, scale, null)
