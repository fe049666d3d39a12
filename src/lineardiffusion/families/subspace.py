"""Subspace Diffusion: where there is much noise, an image is diffused in a subspace alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_index, as_numbers_in_a_row, as_positive, check_kind
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.families.jumps import check_change
from lineardiffusion.losses import SNR
from lineardiffusion.operators import bases
from lineardiffusion.operators.orthogonal import Truncation
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.samplers.markov import MarkovSampler
from lineardiffusion.schedules.grids import Steps, uniform


class SubspaceDiffusion(Family):
    r"""x_t = a_t P_k x_0 + σ_t ε from t_k on, with orthonormal rows P_k, a subspace: white noise stays white.

    Where a subspace ends, the state is made larger without a network: what is new has its variance in the data, s_k²
    for each coordinate, and its noise, which is exact for data whose detail is that Gaussian and independent,

        x = P_kᵀ x_t + (σ_t² + a_t² s_k²)^{1/2} (I − P_kᵀ P_k) z .

    Approximates what a subspace leaves out by a Gaussian, in jumps and in `SubspaceSampler.score`; all else is exact.

    References:
        | Subspace Diffusion Generative Models (Jing et al., 2022), Eq. 9 and 11, https://arxiv.org/abs/2205.01490
        | s_k: https://github.com/bjing2016/subspace-diffusion, `upsampling.py`

    Arguments:
        shape: event shape, channels first.
        changes: the t_k, ascending, in [0, 1].
        detail: s_k, root mean square of all coordinates that subspace k leaves out; by default that of CIFAR-10 at half
            the size, for images in [0, 1]. `DETAIL` has the paper's others; images in [−1, 1] have twice as much.
        schedule: one of continuous time: `ld.schedules.ve()`, the paper's other is `ld.schedules.sub_vp()`.
        basis: Haar's for subspaces of half the size and half of that …, as the paper's; or another with smaller ones.
        subspaces: event shapes of the subspaces of another basis; (k,) with `ld.bases.Principal`.

    Raises:
        ValueError: numbers of changes, subspaces and details that differ, or a schedule with steps.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.SubspaceDiffusion((1, 8, 8))
        >>> p.shape(0.4), p.shape(0.5), p.operator(0, 0.5).norm()
        ((1, 8, 8), (1, 4, 4), 1.0)
        >>> p.sampler(p.denoiser(lambda x, t: x / 50), steps=4)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="Jing et al., 2022",
        url="https://arxiv.org/abs/2205.01490",
        degradation="projection to an orthonormal subspace: Haar means, or principal components",
        noise="white",
        schedule=r"$a_t = 1$, $\sigma_t = 0.01 \cdot 5000^t$; or sub-VP",
        prediction=r"noise, $-\sigma_t$ times the score",
        sampler="ancestral, 1000 steps; jump without network, 2 Langevin steps in the new directions",
        exact="the jump is for Gaussian detail; else exact",
    )
    prediction = "noise"
    weighting = SNR()
    DETAIL: ClassVar[dict[str, dict[int, float]]] = {
        "cifar10": {16: 0.07505646805106986, 8: 0.11017048700915723},
        "celeba_hq_256": {
            128: 0.034147739617184675, 64: 0.05084107453389564, 32: 0.07347487958749131, 16: 0.1030002890867888,
            8: 0.14072510083194403,
        },
        "lsun_church_256": {
            128: 0.06969019929745306, 64: 0.0883778833712964, 32: 0.10887079373374633, 16: 0.13137195950968375,
            8: 0.15799366823221628,
        },
    }  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int],
        changes: Sequence[float] = (0.5,),
        detail: Sequence[float] = (0.07505646805106986,),
        schedule: schedules.Schedule | None = None,
        basis: bases.Basis | None = None,
        subspaces: Sequence[Sequence[int]] | None = None,
    ) -> None:
        schedule = schedules.ve() if schedule is None else schedule
        check_kind(schedule, schedules.Schedule, "schedule", "a schedule such as schedules.ve()")
        changes = as_numbers_in_a_row(changes, "changes", "(0.5,)")
        self.detail = as_numbers_in_a_row(detail, "detail", "(0.075,), one for each change")
        if schedule.num_steps is not None:
            raise ValueError(f"schedule: expected one of continuous time, as jumps take none, got {schedule}")
        if (basis is None) != (subspaces is None):
            raise ValueError("basis, subspaces: expected both, or none for Haar's")
        if basis is None:
            basis = bases.Haar(shape, len(changes))
            subspaces = basis.halvings
        assert subspaces is not None
        if not len(changes) == len(self.detail) == len(subspaces):
            raise ValueError(f"detail: expected one for each of {len(subspaces)} subspaces, got {self.detail}")
        if any(t > schedule.end for t in changes):
            raise ValueError(f"changes: expected times up to T = {schedule.end}, got {list(changes)}")
        if not all(0 <= s < math.inf for s in self.detail):
            raise ValueError(f"detail: expected numbers ≥ 0, got {self.detail}")
        super().__init__(paths.truncated(basis, subspaces, changes), schedule)

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        """A network for all subspaces, which tells them apart by their shape."""
        return Denoiser(network, self, self.prediction, lift="pseudoinverse")

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> SubspaceSampler:
        return SubspaceSampler(denoiser, uniform(1000) if steps is None else steps, **settings)


@configured("families.SubspaceSampler")
class SubspaceSampler(MarkovSampler):
    r"""Ancestral sampling in each subspace, and between them `jump` and Langevin steps in the new directions alone:
    x + δ g + (2δ)^{1/2} z, with g and z the projections of score and noise, δ = 2 (snr ‖z‖/‖g‖)², of each sample by
    itself. The paper's predictor is a step of the reverse SDE, with a Langevin step before each where σ explodes; the
    posterior takes its place.

    Arguments:
        denoiser: from `SubspaceDiffusion.denoiser`.
        steps: as for `ld.DDIMSampler`.
        detail: as for `SubspaceDiffusion`; that of the process by default.
        langevin_steps: after each jump; each calls the network.
        snr: of a Langevin step; the paper's 0.22 is that of CIFAR-10 (0.01 with sub-VP, 0.5 for its larger images).
        clip: range of the estimates, such as (−1, 1) for images.

    Raises:
        ValueError: a process without subspaces, or another number of details.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: Steps = None,
        detail: Sequence[float] | None = None,
        langevin_steps: int = 2,
        snr: float = 0.22,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, steps, 1.0, 1, "moment", False, clip, None)
        self.process, path = denoiser.process, denoiser.process.path
        if not isinstance(path, paths.truncated) or not path.orthonormal or self.process.num_steps is not None:
            raise ValueError(f"denoiser: expected one of a SubspaceDiffusion, got one of {self.process}")
        if detail is None:
            detail = self.process.detail if isinstance(self.process, SubspaceDiffusion) else ()
        self.detail = as_numbers_in_a_row(detail, "detail", "(0.075,), one for each subspace")
        if len(self.detail) != len(path.shapes) or not all(0 <= s < math.inf for s in self.detail):
            raise ValueError(f"detail: expected a number ≥ 0 for each of {len(path.shapes)} subspaces, got {detail}")
        self.langevin_steps, self.snr = as_index(langevin_steps, 0, 10**6, "langevin_steps"), as_positive(snr, "snr")
        self._path = path
        self._deviations: dict[float, float] = {}  # of the few jumps

    def arguments(self) -> dict[str, object]:
        names = ("denoiser", "steps", "detail", "langevin_steps", "snr", "clip")
        return {name: getattr(self, name) for name in names}

    def jump(self, x_t: Tensor, t: float, noise: Tensor) -> Tensor:
        """The state at the same noise level in the next larger space, from one of the times at which a space ends.

        Arguments:
            x_t: states at one of `process.shape_changes()`, with shape (*batch, *shape(t)).
            t: the time.
            noise: white, with shape (*batch, *shape just below t).
        """
        check_change(self.process, t)
        if t not in self._deviations:
            self._deviations[t] = self._deviation(t)
        operator, new = self.process.operator(self.process.before(t), t), self._deviations[t] * noise
        return operator.transpose(x_t - operator(new)) + new

    def _deviation(self, t: float) -> float:
        """Of the coordinates that lie between two spaces, which the smaller one leaves out and the larger one has."""
        process, below = self.process, self.process.before(t)
        n, fine, coarse = (math.prod(process.shape(u)) for u in (0, below, t))
        left_out = (n - coarse) * self._detail_of(t) ** 2 - (n - fine) * self._detail_of(below) ** 2
        return math.sqrt(process.sigma(t) ** 2 + process.schedule.signal(t) ** 2 * max(left_out, 0.0) / (fine - coarse))

    def score(self, x: Tensor, t: float, **conditioning: Any) -> Tensor:
        """The score of states of full size at a time of a subspace, P_kᵀ s(P_k x) − (I − P_kᵀP_k) x/(σ_t² + a_t² s_k²)
        (Eq. 11).

        Arguments:
            x: with shape (B, *shape(0)).
            t: the time.
            conditioning: passed on to the network.
        """
        process, operator = self.process, Truncation(self._path.basis, self.process.shape(t))
        y = operator(x)
        rest = process.sigma(t) ** 2 + (process.schedule.signal(t) * self._detail_of(t)) ** 2
        return operator.transpose(self._own_score(y, t, conditioning) + y / rest) - x / rest

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        below = self.process.before(t)
        if self.process.shape(below) != self.process.shape(t):
            like = x_t.new_empty(x_t.shape[0], *self.process.shape(below))
            x_t = self.jump(x_t, t, draws.other(like))
            for _ in range(self.langevin_steps):
                x_t = self._langevin(x_t, below, t, draws.other(like), conditioning)
            t = below
        return super().advance(x_t, t, s, draws, history, conditioning)

    def _langevin(self, x: Tensor, t: float, coarse: float, noise: Tensor, conditioning: dict[str, Any]) -> Tensor:
        """A Langevin step in the directions that x_t has beyond a subspace."""
        operator, score = self.process.operator(t, coarse), self._own_score(x, t, conditioning)
        score, noise = score - operator.gram(score), noise - operator.gram(noise)
        column = (slice(None),) + (None,) * (x.ndim - 1)
        sizes = [values.flatten(1).norm(dim=1)[column] for values in (score, noise)]
        delta = torch.where(sizes[0] > 0, 2 * (self.snr * sizes[1] / sizes[0]).square(), 0)
        return x + delta * score + (2 * delta).sqrt() * noise

    def _own_score(self, x: Tensor, t: float, conditioning: dict[str, Any]) -> Tensor:
        """Of states of the shape at t: (a_t ĉ_t − x)/σ_t²."""
        clean = self.denoiser.carry(*self.denoiser.estimate(x, t, **conditioning), t)
        return (self.process.signal_scale(t) * clean - x) / self.process.sigma(t) ** 2

    def _detail_of(self, t: float) -> float:
        """s_k, 0 of the whole space."""
        return [0.0, *self.detail][self._path.level(t)]
