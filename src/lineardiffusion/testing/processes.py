"""Do the distributions of a process fit together?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, as_number, check_kind
from lineardiffusion.gaussian import Gaussian
from lineardiffusion.kernels import check_feasible
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.testing.operators import TOLERANCE, relative_difference

_DIRECTIONS = 8


def check_process(process: LinearDiffusion, samples: int = 1000, seed: int = 0, false_alarm_rate: float = 1e-6) -> None:
    r"""Raise unless the distributions of `process` fit together.

    Checked are, for pairs s < t among which are all changes of shape and, unless the path knows integers alone, times
    between integers,

    - products: M_{s→t} M_{1:s} = M_{1:t} = a_t R_t, and that each x of a batch of times is diffused as it is alone;
    - for a "markov" coupling feasibility, Σ_t ⪰ M Σ_s Mᵀ (with steps at each of them), and marginals:
      M Σ_s Mᵀ + Cov(x_t | x_s) = Σ_t;
    - by Monte Carlo, that kernels carry the marginal of t to that of s: for a "markov" coupling those with η = 1 (the
      posterior), ½ and 0 (DDIM), and where the shape stays those of shared noise with γ = 0, half and all of what is
      allowed, σ_s/σ_t. For x_t drawn from the marginal and x_s from the kernel, the whitened residual z of x_s is
      white. Its mean, its mean square, and its mean square in random directions and in those that M_{s→t} sees, follow
      χ² laws; they are compared with their quantiles (Wilson and Hilferty's approximation).

    Warns where x_T is not noise (`LinearDiffusion.check_prior`).

    Arguments:
        process: the process.
        samples: draws for each pair.
        seed: of all that is random.
        false_alarm_rate: probability that a correct process is refused, over all of the comparisons together.

    Raises:
        ValueError: with the property that fails, the times, and by how much.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.testing.check_process(ld.ScaleSpaceDiffusion((1, 8, 8), levels=2, num_steps=50))
        >>> ld.testing.check_process(ld.LinearDiffusion(ld.paths.identity((3, 4)), ld.schedules.flow()))
    """
    as_index(samples, 100, 2**31, "samples")
    check_kind(process, LinearDiffusion, "process", "a LinearDiffusion, such as ld.DDPM(shape)")
    seed = as_index(seed, -(2**63), 2**64 - 1, "seed")
    if not 0 < as_number(false_alarm_rate, "false_alarm_rate") < 1:
        raise ValueError(f"false_alarm_rate: expected a number in (0, 1), got {false_alarm_rate}")
    generator = torch.Generator().manual_seed(seed)
    pairs = _pairs(process)
    if process.coupling == "markov":
        steps = ((t - 1, t) for t in range(1, (process.num_steps or 0) + 1))
        for s, t in itertools.chain(steps, pairs):
            _check_feasible(process, s, t)
    process.check_prior()
    with torch.no_grad():
        for s, t in pairs:
            _check_products(process, s, t, generator)
        kernels = {(s, t): list(_kernels(process, s, t)) for s, t in pairs if process.sigma(s) > 0}
        comparisons = sum(map(len, kernels.values())) * (2 + 2 * _DIRECTIONS)
        limit = float(torch.special.ndtri(torch.tensor(1 - false_alarm_rate / (2 * comparisons), dtype=torch.float64)))
        for (s, t), of_pair in kernels.items():
            _check_kernels(process, s, t, of_pair, samples, limit, generator)


def _pairs(process: LinearDiffusion) -> list[tuple[float, float]]:
    """Neighbours at the ends, in the middle and at changes of shape, and times that lie further apart."""
    last, changes = process.end, process.shape_changes()
    if process.num_steps:
        times = {1, 2, (last + 1) // 2, last, *changes}
        pairs = {(t - 1, t) for t in times if 1 <= t <= last} | {(0, last), (last // 3, last), (last // 4, last // 2)}
        if not process.path.integral and process.is_isotropic:
            pairs |= {(t - 0.5, t) for t in changes} | {(0.25, 0.75), (last / 3 + 0.1, last / 2 + 0.2)}
    else:
        first = process.schedule.first
        pairs = {(0, first), (first, last / 8), (last / 3, last / 2), (0.9 * last, last), (first, last)}
        pairs |= {(process.before(t), t) for t in changes} | {(t / 2, t) for t in changes}
    return sorted((s, t) for s, t in pairs if s < t)


def _check_feasible(process: LinearDiffusion, s: float, t: float) -> None:
    at = f" from t = {t} to s = {s}"
    if process.is_isotropic:
        check_feasible(process.operator(s, t), process.sigma(s), process.sigma(t), at=at)
    else:
        check_feasible(
            process.operator(s, t), process.noise_covariance(s) if s else 0.0, process.noise_covariance(t), at=at
        )


def _check_products(process: LinearDiffusion, s: float, t: float, generator: torch.Generator) -> None:
    x = _normal(generator, 2, *process.shape(0))
    at = f"at s = {s}, t = {t}"
    step, direct = process.operator(s, t), process.operator(0, t)(x)
    _compare(f"M_(s→t) M_(1:s) x differs from M_(1:t) x {at}", step(process.operator(0, s)(x)), direct)
    _compare(f"a_t R_t x differs from M_(1:t) x {at}", process.signal_scale(t) * process.clean(x, t), direct)
    if process.shape(s) == process.shape(t):
        noise = _normal(generator, 2, *process.shape(t))
        together = process.diffuse(x, torch.tensor([s, t], dtype=torch.float64), noise)
        alone = [process.diffuse(x[i], time, noise[i]) for i, time in enumerate((s, t))]
        _compare(f"x_s and x_t of one batch of times differ from those of one time {at}", together, torch.stack(alone))
    if process.coupling == "markov":
        v = _normal(generator, 2, *process.shape(t))
        total = process.noise_covariance(t)(v)
        carried = step(process.noise_covariance(s)(step.transpose(v))) + process.transition(t, s)(v)
        _compare(f"M Σ_s Mᵀ + Cov(x_t | x_s) differs from Σ_t {at}", carried, total)


Kernel = Callable[[Tensor, Tensor, Tensor], Gaussian]  # x_t, μ_t, μ_s ↦ the distribution of x_s


def _kernels(process: LinearDiffusion, s: float, t: float) -> Iterator[tuple[str, Kernel]]:
    def markov(x_t: Tensor, mean_t: Tensor, mean_s: Tensor, eta: float) -> Gaussian:
        return process.kernel(x_t, mean_s, t, s, eta)

    def shared(x_t: Tensor, mean_t: Tensor, mean_s: Tensor, gamma: float) -> Gaussian:
        return process.shared_noise_kernel(x_t, mean_t, mean_s, t, s, gamma)

    if process.coupling == "markov":
        yield "posterior", partial(markov, eta=1.0)
        for eta in (0.5, 0.0):
            yield f"DDIM kernel (η = {eta:g})", partial(markov, eta=eta)
    if process.shape(s) == process.shape(t):
        for share in (0.0, 0.5, 1.0):
            gamma = share * _most_shared(process, s, t)
            yield f"kernel of shared noise (γ = {gamma:.4g})", partial(shared, gamma=gamma)


def _most_shared(process: LinearDiffusion, s: float, t: float) -> float:
    """The largest γ with γ² Σ_t ⪯ Σ_s."""
    if process.is_isotropic:
        return process.sigma(s) / process.sigma(t)
    return 1 / (process.noise_covariance(s).inverse_root() @ process.noise_covariance(t).root()).norm()


def _check_kernels(
    process: LinearDiffusion,
    s: float,
    t: float,
    kernels: list[tuple[str, Kernel]],
    samples: int,
    limit: float,
    generator: torch.Generator,
) -> None:
    """By the same draws: the bound on false alarms is that of a union, which holds whatever depends on what."""
    x0 = _normal(generator, *process.shape(0))
    mean_s, mean_t = process.operator(0, s)(x0), process.operator(0, t)(x0)
    noise_s, noise_t = _normal(generator, samples, *process.shape(s)), _normal(generator, samples, *process.shape(t))
    mean_s, mean_t = mean_s.expand_as(noise_s), mean_t.expand_as(noise_t)
    x_t = process.add_noise(mean_t, t, noise_t)

    whiten, colour = process.noise_covariance(s).inverse_root(), process.noise_covariance(s).root()
    any_direction = _normal(generator, _DIRECTIONS, *process.shape(s))
    seen = process.degradation(s, t).transpose(_normal(generator, _DIRECTIONS, *process.shape(t)))
    directions = torch.cat([any_direction, colour.transpose(seen)]).flatten(1)
    lengths = directions.norm(dim=1)
    directions = (directions / lengths.clamp(min=1e-300)[:, None])[lengths > 0]

    for name, kernel in kernels:
        z = whiten(kernel(x_t, mean_t, mean_s).sample(noise_s) - mean_s).flatten(1)
        along, dimension = z @ directions.T, z.shape[1]
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
                    f"the {name} from t = {t} to s = {s} does not keep the marginal: the {what} is "
                    f"{float(ratios[worst]):.4g} times what it should be, {float(scores[worst]):.1f} standard "
                    f"deviations off (allowed: {limit:.1f})"
                )


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _compare(what: str, result: Tensor, expected: Tensor) -> None:
    error = relative_difference(result, expected)
    if not error <= TOLERANCE:
        raise ValueError(f"{what} by {error:.3g} of its size, expected at most {TOLERANCE}")
