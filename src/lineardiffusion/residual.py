"""The spectrum of what a denoiser cannot know, which samplers draw in the place of taking the estimate for known."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lineardiffusion.operators.spectral import SpectralFilter


class Residual:
    """Spectra of c_s − ĉ_s for some steps t → s, V the cosine basis: from `ld.calibrate`.

    Arguments:
        spectra: (t, s) ↦ variances d ≥ 0 in the cosine basis, with the event shape of x_s.

    Raises:
        ValueError: a negative or non-finite variance.
    """

    def __init__(self, spectra: Mapping[tuple[int, int], Tensor]) -> None:
        for (t, s), spectrum in spectra.items():
            if not bool((spectrum >= 0).all() and spectrum.isfinite().all()):
                raise ValueError(f"spectra: expected finite variances ≥ 0 for the step {t} → {s}")
        self.spectra = {pair: spectrum.detach().cpu().double() for pair, spectrum in spectra.items()}
        self._roots = {
            pair: SpectralFilter(tuple(spectrum.shape), spectrum.sqrt()) for pair, spectrum in self.spectra.items()
        }

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair in self.spectra

    def sample(self, t: int, s: int, noise: Tensor) -> Tensor:
        """c_s − ĉ_s of the step t → s from white noise of its shape."""
        residual: Tensor = self._roots[t, s](noise)
        return residual

    def covariance(self, t: int, s: int) -> SpectralFilter:
        """V diag(d) Vᵀ"""
        spectrum = self.spectra[t, s]
        return SpectralFilter(tuple(spectrum.shape), spectrum)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name, to be saved with a checkpoint."""
        return {f"{t}-{s}": spectrum for (t, s), spectrum in self.spectra.items()}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> Residual:
        """What `state_dict` returned."""
        return cls({(int(t), int(s)): tensor for name, tensor in tensors.items() for t, s in [name.split("-")]})
