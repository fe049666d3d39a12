"""Do the distributions of a process fit together?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lineardiffusion._checks import as_index
from lineardiffusion.posterior import check_feasible
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.testing.operators import TOLERANCE, relative_difference

_DIRECTIONS = 8


def check_process(process: LinearDiffusion, samples: int = 1000, seed: int = 0, false_alarm_rate: float = 1e-6) -> None:
    r"""Raise unless the distributions of `process` fit together.

    Checked are, for every t, feasibility: Σ_t ⪰ M_t Σ_{t−1} M_tᵀ; and for pairs s < t among which are all changes of
    shape,

    - products: M_{s→t} M_{1:s} = M_{1:t};
    - marginals: M_{s→t} Σ_s M_{s→t}ᵀ + Cov(x_t | x_s) = Σ_t;
    - by Monte Carlo, that posterior and DDIM kernel (η = 0) carry the marginal of t to that of s: for x_t drawn from
      the one and x_s from the kernel, the whitened residual z of x_s is white. Its mean, its mean square, and its
      mean square in random directions and in those that M_{s→t} sees, follow χ² laws; they are compared with their
      quantiles (Wilson and Hilferty's approximation).

    Warns where x_T is not noise (`LinearDiffusion.check_prior`).

    Arguments:
        process: the process.
        samples: draws for each pair.
        seed: of all that is random.
        false_alarm_rate: probability that a correct process is refused, over all of the comparisons together.

    Raises:
        ValueError: with the property that fails, the times, and by how much.

    Example:
        >>> import lineardiffusion as ld
        >>> ld.testing.check_process(ld.ScaleSpaceDiffusion((1, 8, 8), levels=2, num_steps=50))
    """
    as_index(samples, 100, 2**31, "samples")
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate: expected a number in (0, 1), got {false_alarm_rate}")
    generator = torch.Generator().manual_seed(seed)
    for t in range(1, process.num_steps + 1):
        check_feasible(process.chain.step(t), process._noise[t - 1], process._noise[t], at=f" at t = {t}")
    process.check_prior()
    pairs = _pairs(process)
    comparisons = len(pairs) * 2 * (2 + 2 * _DIRECTIONS)
    limit = float(torch.special.ndtri(torch.tensor(1 - false_alarm_rate / (2 * comparisons), dtype=torch.float64)))
    with torch.no_grad():
        for s, t in pairs:
            _check_products(process, s, t, generator)
            if s > 0:
                for eta in (1.0, 0.0):
                    _check_kernel(process, s, t, eta, samples, limit, generator)


def _pairs(process: LinearDiffusion) -> list[tuple[int, int]]:
    """Consecutive states at the ends, in the middle and at changes of shape, and two that lie further apart."""
    last = process.num_steps
    times = {1, 2, (last + 1) // 2, last, *process.shape_changes()}
    pairs = {(t - 1, t) for t in times if 1 <= t <= last} | {(0, last), (last // 3, last), (last // 4, last // 2)}
    return sorted((s, t) for s, t in pairs if s < t)


def _check_products(process: LinearDiffusion, s: int, t: int, generator: torch.Generator) -> None:
    x = _normal(generator, 2, *process.shape(0))
    step = process.chain.between(s, t)
    through, direct = step(process.chain.cumulative(s)(x)), process.chain.cumulative(t)(x)
    _compare(f"M_(s→t) M_(1:s) x differs from M_(1:t) x at s = {s}, t = {t}", through, direct)
    v = _normal(generator, 2, *process.shape(t))
    total = process.noise_covariance(t)(v)
    carried = step(process.noise_covariance(s)(step.transpose(v))) + process.transition(t, s)(v)
    _compare(f"M Σ_s Mᵀ + Cov(x_t | x_s) differs from Σ_t at s = {s}, t = {t}", carried, total)


def _check_kernel(
    process: LinearDiffusion, s: int, t: int, eta: float, samples: int, limit: float, generator: torch.Generator
) -> None:
    x0 = _normal(generator, *process.shape(0))
    mean_s, mean_t = process.chain.cumulative(s)(x0), process.chain.cumulative(t)(x0)
    noise_t = _normal(generator, samples, *process.shape(t))
    x_t = process.add_noise(mean_t.expand_as(noise_t), t, noise_t)
    noise_s = _normal(generator, samples, *process.shape(s))
    x_s = process.kernel(x_t, mean_s.expand_as(noise_s), t, s, eta).sample(noise_s)

    whiten, colour = process.noise_covariance(s).inverse_root(), process.noise_covariance(s).root()
    z = whiten(x_s - mean_s).flatten(1)
    any_direction = _normal(generator, _DIRECTIONS, *process.shape(s))
    seen = process.chain.between(s, t).transpose(_normal(generator, _DIRECTIONS, *process.shape(t)))
    directions = torch.cat([any_direction, colour.transpose(seen)]).flatten(1)
    lengths = directions.norm(dim=1)
    along = z @ (directions / lengths.clamp(min=1e-300)[:, None])[lengths > 0].T

    kernel = "posterior" if eta == 1 else "DDIM kernel (η = 0)"
    dimension = z.shape[1]
    for what, statistic, freedom in (
        ("squared mean of the whitened residual", samples * z.mean(0).square().sum()[None], dimension),
        ("mean square of the whitened residual", z.square().sum()[None], samples * dimension),
        ("mean square of the whitened residual in a direction", along.square().sum(0), samples),
    ):
        ratios = statistic / freedom  # with mean 1
        spread = 2 / (9 * freedom)
        scores = (ratios.pow(1 / 3) - (1 - spread)) / math.sqrt(spread)
        worst = int(scores.abs().argmax())
        if not float(scores[worst].abs()) <= limit:
            raise ValueError(
                f"the {kernel} from t = {t} to s = {s} does not keep the marginal: the {what} is "
                f"{float(ratios[worst]):.4g} times what it should be, {float(scores[worst]):.1f} standard deviations "
                f"off (allowed: {limit:.1f})"
            )


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _compare(what: str, result: Tensor, expected: Tensor) -> None:
    error = relative_difference(result, expected)
    if not error <= TOLERANCE:
        raise ValueError(f"{what} by {error:.3g} of its size, expected at most {TOLERANCE}")
