"""Noise levels for which there is a Gaussian transition between any two times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lineardiffusion._checks import as_list
from lineardiffusion.covariance import Covariance, as_noise_level
from lineardiffusion.kernels import check_feasible
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.chain import OperatorChain

if TYPE_CHECKING:
    from lineardiffusion.processes.base import LinearDiffusion

# Pairs of neighbouring times at which a continuous process is looked at.
_LOOKED_AT = 200


def times_to_check(process: LinearDiffusion) -> list[float]:
    """All steps; of a process of continuous time some, and those where its shape changes and just before."""
    if process.num_steps:
        return list(range(process.num_steps + 1))
    changes = process.path.changes()
    times = [process.end * (k / _LOOKED_AT) for k in range(_LOOKED_AT + 1)]  # no more than the end itself
    return sorted({*times, *changes, *(math.nextafter(t, 0) for t in changes)})


def check_every_step(process: LinearDiffusion, times: Sequence[float]) -> None:
    """Raise unless there is a Gaussian transition between neighbouring times.

    Raises:
        ValueError: with the time, and the smallest σ_t for which there is one.
    """
    for s, t in itertools.pairwise(times):
        sigma_s, sigma_t, at = process.noise_level(s), process.noise_level(t), f" at t = {t}"
        if isinstance(sigma_s, Covariance) or isinstance(sigma_t, Covariance) or sigma_t == 0:
            check_feasible(process.operator(s, t), sigma_s, sigma_t, at=at)
            continue
        before, after = process.signal_scale(s), process.signal_scale(t)
        if after == 0:
            continue
        process.signal_ratio(s, t)
        if sigma_s == 0:
            continue
        # ‖R‖ may at most be
        bound = sigma_t / sigma_s * before / after
        if not process.path.norm_at_most(s, t, bound):
            check_feasible(process.operator(s, t), sigma_s, sigma_t, at=at)


def feasible_sigmas(chain: OperatorChain | Sequence[LinearOperator], targets: Sequence[float] | Tensor) -> list[float]:
    r"""Noise levels σ_0, …, σ_T that a chain allows: σ_t = max(target_t, σ_{t−1} ‖M_t‖).

    Arguments:
        chain: M_1, …, M_T.
        targets: the levels that are wanted, for t = 0, …, T; the first is 0.

    Returns:
        The targets, raised just enough for every step to have a Gaussian transition.

    Raises:
        ValueError: targets that do not fit.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.feasible_sigmas([2.0 * ld.Identity((4,))] * 3, [0.0, 0.5, 0.6, 3.0])
        [0.0, 0.5, 1.0, 3.0]
    """
    chain = chain if isinstance(chain, OperatorChain) else OperatorChain(chain)
    given = as_list(targets, "targets", "noise levels σ_0, …, σ_T")
    levels = [as_noise_level(level, (1,), "targets", at=f" at t = {t}") for t, level in enumerate(given)]
    if len(levels) != len(chain) + 1 or levels[0] != 0 or any(isinstance(level, Covariance) for level in levels):
        raise ValueError(f"targets: expected {len(chain) + 1} numbers, the first of them 0, got {len(levels)}")
    sigmas = [0.0]
    for t in range(1, len(chain) + 1):
        least = sigmas[-1] * chain.step(t).norm() if sigmas[-1] else 0.0
        sigmas.append(max(float(levels[t]), least))  # type: ignore[arg-type]
    return sigmas
