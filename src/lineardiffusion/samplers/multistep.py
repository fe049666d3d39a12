r"""The moment rule: one formula for the weights of every multistep solver.

In every direction a kernel takes a state from where it is to where the estimate x* of the clean image says: with
x̃ = x/(signal scale) the mean is x̃_s = e^{−H} x̃_t + (1 − e^{−H}) x*. So does the exact flow, with x* the mean of the
estimates m(u) along the step, u from 0 (its start) to 1 (its end) in units of log-SNR:

    x* = ∫ m(u) dν(u),   dν = H e^{−H(1−u)} / (1 − e^{−H}) du,
    M_k = ∫ u^k dν = 1/(1 − e^{−H}) − k M_{k−1}/H,   M_0 = 1.

A polynomial through estimates m_j at nodes u_j gives x* = Σ_j w_j m_j with Σ_j w_j u_j^k = M_k, exact where m is one of
lower degree than there are nodes. Past nodes, u < 0, make a multistep predictor, u = 1 a corrector. With the limit ½ of
small H in the place of M_1 two nodes are the midpoint rule of DPM-Solver++(2M) and of UniPC.

Everything here is in float64 and element by element: a direction, an eigenvalue, is an element.

References:
    | DPM-Solver++ (Lu et al., 2022), https://arxiv.org/abs/2211.01095
    | UniPC (Zhao et al., 2023), https://arxiv.org/abs/2302.04867
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["moment", "midpoint"]

# Below |H| = 1 the recursion would lose k! H^{−k} roundings; the series has converged after eighteen terms there.
_SERIES_BELOW = 1.0
_TERMS = 18


def markov_decay(h: Tensor, eta: float) -> Tensor:
    r"""H of the Markov kernel with parameter η: e^{−H} = e^{−h} √(1 − η² + η² e^{−2h}), the eigenvalue of K M. It is h
    at η = 0 and 2h at η = 1.

    Arguments:
        h: growth of ln(signal/noise) in the step; may be infinite.
        eta: η in [0, 1].
    """
    return 2 * h if eta == 1 else h - 0.5 * torch.log1p(eta**2 * torch.expm1(-2 * h))


def shared_noise_decay(h: Tensor, eta: float) -> Tensor:
    r"""H of the kernel of shared noise with γ = √(1 − η²) σ_s/σ_t: e^{−H} = γ (a_t r_t)/(a_s r_s) = √(1 − η²) e^{−h}.

    Arguments:
        h, eta: as in `markov_decay`.
    """
    return h - 0.5 * math.log1p(-(eta**2)) if eta < 1 else torch.full_like(h, math.inf)


def moments(decay: Tensor, count: int) -> list[Tensor]:
    r"""M_0, …, M_{count−1} for each H, of any size and sign: M_k = 1/(k + 1) at H = 0 and 1 at H = ∞.

    Arguments:
        decay: H.
        count: how many.
    """
    near = decay.abs() < _SERIES_BELOW
    small, large = torch.where(near, decay, 0.0), torch.where(near, 1.0, decay)
    # ∫ u^k e^{Hu} du = Σ_j H^j / (j! (k + 1 + j))
    j = torch.arange(_TERMS, dtype=torch.float64)
    powers = small ** j.reshape(-1, *[1] * small.ndim)
    factors = 1 / (torch.arange(1, count + 1)[:, None] + j) * torch.exp(-torch.lgamma(j + 1))
    integrals = torch.tensordot(factors, powers, 1)
    at_end = -1 / torch.expm1(-large)  # 1/(1 − e^{−H})
    recursion = [torch.ones_like(large)]
    for k in range(1, count):
        recursion.append(at_end - k * recursion[-1] / large)
    return [torch.where(near, total / integrals[0], value) for total, value in zip(integrals, recursion, strict=True)]


def weights(decay: Tensor, nodes: Sequence[Tensor], rule: Rule = "moment") -> list[Tensor]:
    r"""w_0, w_1, … of the estimates at the nodes 0, u_1, u_2, …; they sum to 1.

    A direction does without a node that cannot be used, one infinitely far away or where there is another already, and
    without those after it. Where H is not a number, in a direction without any signal, w_0 = 1.

    Arguments:
        decay: H.
        nodes: u_1, u_2, … (at most three), which broadcast with H.
        rule: "midpoint" puts ½ in the place of M_1 where there are two nodes; more are always the moment rule.
    """
    decay, *nodes = torch.broadcast_tensors(decay, *nodes)  # type: ignore[no-untyped-call]
    usable = ~decay.isnan()
    decay = torch.where(usable, decay, 0.0)
    powers = moments(decay, len(nodes) + 1)
    if rule == "midpoint" and len(nodes) == 1:
        powers[1] = torch.full_like(decay, 0.5)
    # Newton's form, x* = Σ_k N_k [m_0, …, m_k] with N_k = ∫ Π_{i<k} (u − u_i) dν and divided differences [·]: leaving
    # out the last nodes is leaving out the last terms.
    points, polynomial = [torch.zeros_like(decay)], [torch.ones_like(decay)]
    result = [torch.ones_like(decay)]
    for node in nodes:
        usable = usable & node.isfinite() & torch.stack([node != point for point in points]).all(0)
        polynomial = _times_linear(polynomial, points[-1])
        moment = torch.stack([c * m for c, m in zip(polynomial, powers, strict=False)]).sum(0)
        # What is left out counts for nothing; any node keeps it finite.
        points.append(torch.where(usable, node, -1.0 - len(points)))
        result.append(torch.zeros_like(decay))
        for j, point in enumerate(points):
            others = [point - other for i, other in enumerate(points) if i != j]
            result[j] = result[j] + torch.where(usable, moment / math.prod(others, start=torch.ones(())), 0.0)
    return result


def _times_linear(polynomial: list[Tensor], root: Tensor) -> list[Tensor]:
    """Coefficients of (u − root) p(u) from those of p, lowest power first."""
    zero = torch.zeros_like(polynomial[0])
    return [a - root * b for a, b in zip([zero, *polynomial], [*polynomial, zero], strict=True)]
