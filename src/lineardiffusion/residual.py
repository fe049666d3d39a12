"""The covariance of what a denoiser cannot know, which samplers draw in the place of taking the estimate for known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from lineardiffusion._checks import check_constant, check_real
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.dense import Matrix
from lineardiffusion.operators.spectral import SpectralFilter

Pair = tuple[float, float]
Noise = Callable[[Tensor], Tensor]  # standard normal noise of the shape, dtype and device of a tensor

_TIME = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_NAME = re.compile(rf"({_TIME})-({_TIME})(-components)?")


class Residual:
    r"""Covariances of c_s − ĉ_s for some steps t → s,

        Σ_i w_i w_iᵀ + V diag(d) Vᵀ,

    a few principal components and, for the rest, a spectrum in the cosine basis V: from `ld.calibrate`.

    Arguments:
        spectra: (t, s) ↦ variances d ≥ 0 in the cosine basis, with the event shape of x_s; times are ints or floats.
        components: (t, s) ↦ the w_i, with shape (k, *shape of x_s); none for a step that is not named.

    Raises:
        ValueError: a negative or non-finite variance, or components of another shape or of a step without a spectrum.
    """

    def __init__(self, spectra: Mapping[Pair, Tensor], components: Mapping[Pair, Tensor] | None = None) -> None:
        for tensor in (*spectra.values(), *(components or {}).values()):
            check_real(tensor, "spectra, components")
            check_constant(tensor, "spectra, components")
        for (t, s), spectrum in spectra.items():
            if not bool((spectrum >= 0).all() and spectrum.isfinite().all()):
                raise ValueError(f"spectra: expected finite variances ≥ 0 for the step {t} → {s}")
        for pair, rows in (components or {}).items():
            expected = tuple(spectra[pair].shape) if pair in spectra else None
            if tuple(rows.shape[1:]) != expected or not bool(rows.isfinite().all()):
                raise ValueError(
                    f"components: expected finite numbers of shape (k, *{expected}) for the step {pair[0]} → "
                    f"{pair[1]}, got {tuple(rows.shape)}"
                )
        # Contiguous, as safetensors wants what it writes.
        self.spectra = {pair: spectrum.detach().cpu().double().contiguous() for pair, spectrum in spectra.items()}
        self.components = {pair: w.detach().cpu().double().contiguous() for pair, w in (components or {}).items()}
        self._roots = {
            pair: SpectralFilter(tuple(spectrum.shape), spectrum.sqrt()) for pair, spectrum in self.spectra.items()
        }

    def __contains__(self, pair: Pair) -> bool:
        return pair in self.spectra

    def sample(self, t: float, s: float, like: Tensor, draw: Noise) -> Tensor:
        """c_s − ĉ_s of the step t → s.

        Arguments:
            t, s: the step.
            like: a batch (B, *shape of x_s), for shape, dtype and device.
            draw: makes standard normal noise like a tensor.
        """
        residual: Tensor = self._roots[t, s](draw(like))
        if (t, s) in self.components:
            rows = self.components[t, s].to(like)
            weights = draw(like.new_empty(len(like), len(rows)))
            residual = residual + (weights @ rows.flatten(1)).reshape(like.shape)
        return residual

    def covariance(self, t: float, s: float) -> LinearOperator:
        """Σ_i w_i w_iᵀ + V diag(d) Vᵀ"""
        spectrum = self.spectra[t, s]
        event = tuple(spectrum.shape)
        rest = SpectralFilter(event, spectrum)
        if (t, s) not in self.components:
            return rest
        rows = self.components[t, s].flatten(1)
        return rest + Matrix(rows.T @ rows, event, event)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name, such as "76-75" or "0.5-0.48", to be saved with a checkpoint."""
        tensors = {f"{t}-{s}": spectrum for (t, s), spectrum in self.spectra.items()}
        return tensors | {f"{t}-{s}-components": rows for (t, s), rows in self.components.items()}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> Residual:
        """What `state_dict` returned.

        Raises:
            ValueError: a name that it does not give.
        """
        spectra: dict[Pair, Tensor] = {}
        components: dict[Pair, Tensor] = {}
        for name, tensor in tensors.items():
            match = _NAME.fullmatch(name)
            if match is None:
                raise ValueError(f"tensors: expected names such as '76-75' and '0.5-0.48-components', got {name!r}")
            t, s = (int(time) if time.isdigit() else float(time) for time in (match[1], match[2]))
            (components if match[3] else spectra)[t, s] = tensor
        return cls(spectra, components)
