r"""How much information a diffusion state and an image of a given resolution hold (Sec. 3 of Scale Space Diffusion)."""

from __future__ import annotations

import torch
from torch import Tensor

from lineardiffusion._checks import check_real, check_tensor


def diffusion_information(alpha_bar: Tensor) -> Tensor:
    r"""Expected share of pixels in which the signal exceeds the noise, P(|σ_t ε| ≤ a_t |x_0|) for x_0 ~ U(−1, 1).

    With s = a_t/σ_t and Φ, φ the standard normal distribution and density,

        Info(t) = 1 − 2 ∫_0^1 Φ(−s x) dx = 1 − 2 [ Φ(−s) + (φ(0) − φ(s)) / s ] .

    Arguments:
        alpha_bar: ᾱ_t in [0, 1].

    Raises:
        TypeError, ValueError: no tensor of real numbers.

    Returns:
        Info(t) in [0, 1], of the shape of `alpha_bar`.

    Examples:
        >>> import torch
        >>> diffusion_information(torch.tensor([1.0, 0.5]))
        tensor([1.0000, 0.3687])
    """
    check_tensor(alpha_bar, "alpha_bar")
    check_real(alpha_bar, "alpha_bar")
    s = (alpha_bar / (1 - alpha_bar)).sqrt()
    density = (2 * torch.pi) ** -0.5 * -torch.expm1(-0.5 * s.square())  # φ(0) − φ(s)
    noise_dominated: Tensor = 2 * (torch.special.ndtr(-s) + torch.where(s > 0, density / s, 0.0))
    return 1 - noise_dominated
