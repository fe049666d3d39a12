"""The covariance of what a denoiser cannot know, which samplers draw in the place of taking the estimate for known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from lineardiffusion._checks import as_number, check_constant, check_kind, check_real, check_tensor, got
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
        _check_steps(spectra, "spectra")
        if components is not None:
            _check_steps(components, "components")
        for (t, s), spectrum in spectra.items():
            if spectrum.ndim == 0:
                raise ValueError(f"spectra: expected an event of variances for the step {t} → {s}, got one number")
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
        self._check_pair(t, s)
        residual: Tensor = self._roots[t, s](draw(like))
        if (t, s) in self.components:
            rows = self.components[t, s].to(like)
            weights = draw(like.new_empty(len(like), len(rows)))
            residual = residual + (weights @ rows.flatten(1)).reshape(like.shape)
        return residual

    def covariance(self, t: float, s: float) -> LinearOperator:
        """Σ_i w_i w_iᵀ + V diag(d) Vᵀ"""
        self._check_pair(t, s)
        spectrum = self.spectra[t, s]
        event = tuple(spectrum.shape)
        rest = SpectralFilter(event, spectrum)
        if (t, s) not in self.components:
            return rest
        rows = self.components[t, s].flatten(1)
        return rest + Matrix(rows.T @ rows, event, event)

    def _check_pair(self, t: float, s: float) -> None:
        if (t, s) not in self.spectra:
            raise ValueError(f"t, s: expected one of the steps {list(self.spectra)[:5]} …, got {(t, s)}")

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
        check_kind(tensors, Mapping, "tensors", "what state_dict returns, tensors by name")
        spectra: dict[Pair, Tensor] = {}
        components: dict[Pair, Tensor] = {}
        for name, tensor in tensors.items():
            match = _NAME.fullmatch(str(name))
            if match is None:
                raise ValueError(f"tensors: expected names such as '76-75' and '0.5-0.48-components', got {name!r}")
            t, s = (int(time) if time.isdigit() else float(time) for time in (match[1], match[2]))
            (components if match[3] else spectra)[t, s] = tensor
        return cls(spectra, components)


def _check_steps(tensors: Mapping[Pair, Tensor], name: str) -> None:
    """Raise unless this is real, constant tensors by step."""
    check_kind(tensors, Mapping, name, "a mapping from steps (t, s) to tensors, such as ld.calibrate measures")
    for pair, tensor in tensors.items():
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(f"{name}: expected steps (t, s) as keys, got {got(pair)}")
        times = [as_number(time, name) for time in pair]
        if not times[0] > times[1] >= 0:
            raise ValueError(f"{name}: expected steps (t, s) with t > s ≥ 0 as keys, got {pair}")
        check_tensor(tensor, name)
        check_real(tensor, name)
        check_constant(tensor, name)
        if tensor.is_meta:
            raise ValueError(f"{name}: expected tensors with values, got one on the device meta")
