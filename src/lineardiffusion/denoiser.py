r"""Denoisers: a network turned into an estimate of the clean image at the next state.

The posterior of a step t → s needs μ_s = M_{1:s} x_0 only, so that is what a denoiser estimates, in data range:
c_s = M_{1:s} x_0 / a_s. Where the resolution grows from t to s, c_s is larger than x_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lineardiffusion._checks import as_index, check_event, check_real, column, compute_dtype, full_precision
from lineardiffusion.processes.base import LinearDiffusion

Prediction = Literal["clean", "noise", "velocity"]

# τ: singular values below it count as removed. Large enough that a network's errors do not swamp the estimate, small
# enough that a single step of any usual degradation is inverted to single precision.
_DAMPING = 0.05


class Denoiser(nn.Module):
    r"""An estimate of c_s from x_t, for the process and the kind of prediction its network is trained for.

    With c_t = M_{1:t} x_0 / a_t and x_t = a_t c_t + σ_t ε, the network returns

        "clean"     c_{t−1}, at the shape of x_{t−1};
        "noise"     ε, hence c_t = (x_t − σ_t ε) / a_t;
        "velocity"  v = a_t ε − σ_t c_t, hence c_t = (a_t x_t − σ_t v) / (a_t² + σ_t²).

    An estimate of c_r becomes one of c_s, s < r, by undoing the degradation A between them, c_r = A c_s. For DDPM, and
    within a resolution of Scale Space Diffusion, A = I. In general

        ĉ_s = c_r + Aᵀ h(AAᵀ) (c_r − A c_r),   h(λ) = λ / (λ² + τ⁴),   τ = 0.05,

    which is the inverse of A up to (τ²/λ)² where A lets a component through, and leaves alone what A has removed:
    errors of the network are amplified at most about ten times.

    Noise and velocity tell nothing of the detail that a change of shape adds, so with processes that change shape only
    "clean" is defined.

    Arguments:
        network: called as network(x_t, t_index, **conditioning) with t_index = t − 1 as a LongTensor (B,), the 0-based
            index of DDPM, ADM and diffusers; processes that change shape add size=(H, W), that of x_{t−1}. It is given
            x_t in the dtype of its (first floating-point) parameters; all other arithmetic is in float32 or better.
        process: the diffusion process.
        prediction: "clean", "noise" or "velocity".

    Raises:
        ValueError: an unknown prediction, or one that the process does not define.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 8, 8), levels=2, num_steps=10)
        >>> d = ld.Denoiser(lambda x, t_index, size: x.new_zeros(len(x), 1, *size), p)
        >>> d(torch.zeros(4, *p.shape(8)), t=8).shape  # from 4 × 4 to 8 × 8
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self, network: Callable[..., Tensor], process: LinearDiffusion, prediction: Prediction = "clean"
    ) -> None:
        super().__init__()
        if prediction not in ("clean", "noise", "velocity"):
            raise ValueError(f"prediction: expected 'clean', 'noise' or 'velocity', got {prediction!r}")
        self._grows = bool(process.shape_changes())
        if prediction != "clean" and self._grows:
            raise ValueError(
                f"prediction: expected 'clean' for a process that changes shape, got {prediction!r}: "
                f"it does not determine the detail that a larger x_(t−1) adds"
            )
        if prediction == "velocity" and not process.is_isotropic:
            raise ValueError("prediction: expected 'clean' or 'noise' for noise that is not isotropic, got 'velocity'")
        self.network = network
        self.process = process
        self.prediction = prediction

    def forward(self, x_t: Tensor, t: int | Tensor, s: int | None = None, **conditioning: Any) -> Tensor:
        r"""Estimate of c_s.

        Arguments:
            x_t: states, with shape (B, *shape(t)).
            t: one time for all, or a LongTensor (B,) of times that share shape(t) and shape(t − 1).
            s: the earlier time; t − 1 by default, and always for a tensor of times. From t to s the shape may differ
                only as it does from t to t − 1.
            conditioning: passed on to the network.

        Returns:
            c_s, with shape (B, *shape(s)) and the dtype of x_t, whatever that of the network.

        Raises:
            ValueError: times out of range or of different shapes, x_t of a wrong shape, or a network that returns one.
        """
        process = self.process
        if isinstance(t, Tensor) and t.ndim:
            if s is not None:
                raise ValueError("s: expected None where t is a tensor of times")
            return self._estimate_each(x_t, t, conditioning)
        t = as_index(t, 1, process.num_steps, "t")
        s = t - 1 if s is None else as_index(s, 0, process.num_steps, "s")
        if s >= t:
            raise ValueError(f"s: expected s < t = {t}, got {s}")
        if process.shape(s) != process.shape(t - 1):
            raise ValueError(
                f"s: expected the shape of t − 1, {process.shape(t - 1)}, got s = {s} of shape {process.shape(s)}; "
                f"steps over a change of shape must start at one of {process.shape_changes()}"
            )
        check_event(x_t, process.shape(t), "x_t")
        work = x_t.to(compute_dtype(x_t.dtype))
        index = torch.full((x_t.shape[0],), t - 1, dtype=torch.long, device=x_t.device)
        output = self._run(work, index, process.shape(t - 1), conditioning)
        if self.prediction == "clean":
            return self._carry(output, t - 1, s).to(x_t.dtype)
        return self._carry(self._clean_at_t(output, work, t), t, s).to(x_t.dtype)

    def _estimate_each(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Any]) -> Tensor:
        """c_{t−1} for a time of its own for each sample."""
        process, times = self.process, self.process.check_times(t)
        if min(times) < 1:
            raise ValueError(f"t: expected 1 ≤ t ≤ {process.num_steps}, got {min(times)}")
        pairs = sorted({(process.shape(u), process.shape(u - 1)) for u in times})
        if len(pairs) > 1:
            raise ValueError(f"t: expected times that share shape(t) and shape(t − 1), got {pairs}")
        check_event(x_t, pairs[0][0], "x_t")
        work = x_t.to(compute_dtype(x_t.dtype))
        output = self._run(work, t.long().to(x_t.device) - 1, pairs[0][1], conditioning)
        if self.prediction == "clean":
            return output.to(x_t.dtype)
        clean_t = self._clean_at_t(output, work, t)
        carried = torch.stack([self._carry(c, u, u - 1) for c, u in zip(clean_t, times, strict=True)])
        return carried.to(x_t.dtype)

    def _run(self, x_t: Tensor, index: Tensor, shape: tuple[int, ...], conditioning: dict[str, Any]) -> Tensor:
        size = {"size": shape[1:]} if self._grows else {}
        weight = first_weight(self)
        given = x_t if weight is None else x_t.to(weight.dtype)
        output: Tensor = self.network(given, index, **size, **conditioning)
        expected = (x_t.shape[0], *shape)
        if not isinstance(output, Tensor) or tuple(output.shape) != expected:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"network: expected an output of shape {expected}, got {got}")
        check_real(output, "network")
        return output.to(x_t.dtype)

    def _clean_at_t(self, output: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        a = column(self.process.signal_scale(t), x_t)
        if self.prediction == "noise":
            return self.process.add_noise(x_t, t, -output) / a
        sigma = column(self.process.sigma(t), x_t)
        return (a * x_t - sigma * output) / (a**2 + sigma**2)

    def _carry(self, clean: Tensor, r: int, s: int) -> Tensor:
        """c_s from c_r, s ≤ r."""
        if r == s:
            return clean
        ratio = self.process.signal_scale(s) / self.process.signal_scale(r)
        degradation = ratio * self.process.chain.between(s, r)
        with full_precision(clean):
            return degradation.correct(_damped_inverse, clean, clean)


def first_weight(module: nn.Module) -> Tensor | None:
    """The first parameter that a network may compute in (not one of integers or of 8 bits): it says in which dtype, and
    on which device, the network wants its input."""
    return next((p for p in module.parameters() if p.is_floating_point() and p.itemsize > 1), None)


def _damped_inverse(values: Tensor) -> Tensor:
    """1/λ for λ well above τ², falling to 0 below: √λ times it is at most 0.57/τ."""
    return values / (values.square() + _DAMPING**4)
