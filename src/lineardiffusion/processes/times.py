"""The times t = 0, …, T of a diffusion process: what is known of each state, and how times are drawn for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_constant, as_index, check_constant

Time = int | Tensor


class Times:
    """Shape, noise level σ_t and signal scale a_t of every state.

    Arguments:
        shapes: event shapes of x_0, …, x_T.
        sigmas: σ_0, …, σ_T.
        signal_scales: a_0 = 1, a_1, …, a_T; all 1 by default.

    Raises:
        ValueError: scales that do not fit.
    """

    def __init__(
        self, shapes: Sequence[Shape], sigmas: Sequence[float], signal_scales: Sequence[float] | Tensor | None
    ) -> None:
        self._shapes, self._sigmas, count = list(shapes), list(sigmas), len(shapes)
        self._scales = [1.0] * count if signal_scales is None else _levels(signal_scales, count, "signal_scales")
        if self._scales[0] != 1 or min(self._scales) <= 0:
            raise ValueError("signal_scales: expected a_0 = 1 and all of them > 0")
        # For each shape the t at which x_t and x_{t−1} both have it: every training batch asks for them, many times.
        self._keeping: dict[Shape, list[int]] = {}
        for t in range(1, count):
            if shapes[t] == shapes[t - 1]:
                self._keeping.setdefault(shapes[t], []).append(t)

    @property
    def num_steps(self) -> int:
        """T"""
        return len(self._shapes) - 1

    def shape(self, t: int) -> Shape:
        """Event shape of x_t."""
        return self._shapes[as_index(t, 0, self.num_steps, "t")]

    def shape_changes(self) -> list[int]:
        """The t for which x_t and x_{t−1} differ in shape, ascending."""
        return [t for t in range(1, self.num_steps + 1) if self._shapes[t] != self._shapes[t - 1]]

    @overload
    def sigma(self, t: int) -> float: ...
    @overload
    def sigma(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Time) -> float | Tensor:
        """Noise level σ_t (root mean square over an event): a float for an int t, a float64 tensor for a LongTensor."""
        return self._at(self._sigmas, self._times(t))

    @overload
    def signal_scale(self, t: int) -> float: ...
    @overload
    def signal_scale(self, t: Tensor) -> Tensor: ...
    def signal_scale(self, t: Time) -> float | Tensor:
        """Signal scale a_t: a float for an int t, a float64 tensor for a LongTensor."""
        return self._at(self._scales, self._times(t))

    @overload
    def snr(self, t: int) -> float: ...
    @overload
    def snr(self, t: Tensor) -> Tensor: ...
    def snr(self, t: Time) -> float | Tensor:
        """Signal-to-noise ratio a_t² / σ_t², infinite at t = 0."""
        if isinstance(t, Tensor) and t.ndim:
            return (self.signal_scale(t) / self.sigma(t)).square()
        sigma = self.sigma(t)
        return (self.signal_scale(t) / sigma) ** 2 if sigma else math.inf

    # ------------------------------------------------------------------ draws for training

    def sample_timesteps(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        shape_change_fraction: float | None = None,
        groups: int = 1,
        probabilities: Tensor | None = None,
    ) -> Tensor:
        r"""Times of a training batch, each t with probability 1/T in expectation, or with its own.

        The rule of Scale Space Diffusion (Sec. 4.2): draw one t uniformly from 1…T. If x_t and x_{t−1} have the same
        shape, fill the batch uniformly with the t_i of that shape that keep it; otherwise repeat t.

        That trains each step that changes the shape with one batch in T. A `shape_change_fraction` draws one of them
        with this probability instead, and the others with what is left; `timestep_weights` are then the weights that
        keep the objective as it was.

        With one t for the shape of a whole batch, each gradient is that of one resolution. With `groups` > 1 the batch
        consists of as many groups, image i in group i mod `groups`, and the rule is applied to each group: the t that
        it starts with are (t_0 + k T/groups) mod T, t_0 uniform, so that they spread evenly over 1…T. Such a batch has
        several shapes, and is passed on in the parts that `group_by_shape` finds.

        Arguments:
            batch_size: how many.
            generator: the source of randomness; the global one by default.
            shape_change_fraction: in (0, 1), for processes that change shape.
            groups: a divisor of `batch_size`.
            probabilities: of t = 1, …, T, in the place of 1/T, with shape (T,); scaled to a sum of 1.

        Returns:
            LongTensor (batch_size,) on the CPU.

        Raises:
            ValueError: a fraction out of range, for a process that does not change shape, with several groups or with
                probabilities; groups that do not divide the batch; probabilities that are none.

        Examples:
            >>> import torch, lineardiffusion as ld
            >>> p = ld.ScaleSpaceDiffusion((1, 32, 32), levels=3)
            >>> t = p.sample_timesteps(64, torch.Generator().manual_seed(0), groups=16)
            >>> [(len(part), p.shape(int(t[part[0]]))) for part in p.group_by_shape(t)]
            [(36, (1, 32, 32)), (20, (1, 16, 16)), (8, (1, 8, 8))]
        """
        batch_size = as_index(batch_size, 1, 2**31, "batch_size")
        groups = as_index(groups, 1, batch_size, "groups")
        if batch_size % groups:
            raise ValueError(f"groups: expected a divisor of batch_size = {batch_size}, got {groups}")
        if groups > 1 and shape_change_fraction is not None:
            raise ValueError(f"groups: expected 1 with a shape_change_fraction, got {groups}")
        if probabilities is not None and shape_change_fraction is not None:
            raise ValueError("probabilities: expected none with a shape_change_fraction")
        weights = None if probabilities is None else self._check_probabilities(probabilities)
        device = None if generator is None else generator.device
        times = torch.empty(batch_size // groups, groups, dtype=torch.long)
        for k, start in enumerate(self._starts(groups, generator, shape_change_fraction, weights)):
            alike = self.alike(start)
            if weights is None:
                picks = torch.randint(len(alike), (len(times),), generator=generator, device=device)
            else:
                share = weights[alike - 1].to(device)
                picks = torch.multinomial(share, len(times), replacement=True, generator=generator)
            times[:, k] = alike[picks.cpu()]
        return times.flatten()

    def group_by_shape(self, t: Tensor) -> list[Tensor]:
        """The parts of a batch that can be stacked: indices of the times with the same shapes of x_t and x_{t−1}.

        Arguments:
            t: LongTensor (B,).

        Returns:
            LongTensors that together hold 0…B − 1 once each.

        Raises:
            ValueError: times outside 1…T.
        """
        times, parts = self.check_times(t), dict[tuple[Shape, Shape], list[int]]()
        if 0 in times:
            raise ValueError(f"t: expected 1 ≤ t ≤ {self.num_steps}, got 0")
        for index, time in enumerate(times):
            parts.setdefault((self.shape(time), self.shape(time - 1)), []).append(index)
        return [torch.tensor(part) for part in parts.values()]

    def alike(self, t: int) -> Tensor:
        """The times that can be stacked with t: those whose x_t and x_{t−1} have the same shapes as at t, or t alone
        where these two differ.

        Returns:
            LongTensor on the CPU, ascending.

        Raises:
            ValueError: t outside 1…T.
        """
        t, shapes = as_index(t, 1, self.num_steps, "t"), self._shapes
        return torch.tensor(self._keeping[shapes[t]] if shapes[t] == shapes[t - 1] else [t])

    def timestep_weights(self, t: Tensor, shape_change_fraction: float) -> Tensor:
        r"""(1/T) / q(t), q(t) the probability of t under `sample_timesteps` with a `shape_change_fraction`: losses
        times these weights have the expectation they have with the paper's rule.

        Arguments:
            t: LongTensor (B,).
            shape_change_fraction: as in `sample_timesteps`.

        Returns:
            Weights (B,) in float64.

        Raises:
            ValueError: as `sample_timesteps`, or times outside 1…T.
        """
        self._check_fraction(shape_change_fraction)
        times, changes, last = self.check_times(t), set(self.shape_changes()), self.num_steps
        at_change = len(changes) / (last * shape_change_fraction)
        elsewhere = (last - len(changes)) / (last * (1 - shape_change_fraction))
        return torch.tensor([at_change if u in changes else elsewhere for u in times], dtype=torch.float64)

    # ------------------------------------------------------------------ helpers

    def _starts(
        self, groups: int, generator: torch.Generator | None, fraction: float | None, weights: Tensor | None
    ) -> list[int]:
        """The t of each group: one that is drawn, and the others at equal distances in probability."""
        device = None if generator is None else generator.device
        if weights is not None:
            first = torch.rand((), generator=generator, device=device, dtype=torch.float64).cpu()
            spread = (first + torch.arange(groups) / groups) % 1
            below = torch.searchsorted(weights.cumsum(0), spread * weights.sum(), right=True)
            return [min(t + 1, self.num_steps) for t in below.tolist()]
        candidates: Sequence[int] = range(1, self.num_steps + 1)
        if fraction is not None:
            self._check_fraction(fraction)
            changes = self.shape_changes()
            coin = float(torch.rand((), generator=generator, device=device))
            candidates = changes if coin < fraction else [t for t in candidates if t not in changes]
        offset = int(torch.randint(len(candidates), (), generator=generator, device=device))
        return [candidates[(offset + k * len(candidates) // groups) % len(candidates)] for k in range(groups)]

    def _check_probabilities(self, probabilities: Tensor) -> Tensor:
        weights = probabilities.detach().double().cpu()
        if weights.shape != (self.num_steps,):
            raise ValueError(f"probabilities: expected shape ({self.num_steps},), got {tuple(weights.shape)}")
        if not bool(weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError("probabilities: expected finite numbers ≥ 0, not all of them 0")
        return weights

    def _check_fraction(self, fraction: float) -> None:
        if not 0 < fraction < 1:
            raise ValueError(f"shape_change_fraction: expected a number in (0, 1), got {fraction}")
        if not 0 < len(self.shape_changes()) < self.num_steps:
            raise ValueError("shape_change_fraction: expected a process some of whose steps change the shape")

    def _at(self, levels: list[float], times: int | list[int]) -> float | Tensor:
        if isinstance(times, int):
            return levels[times]
        return torch.tensor([levels[u] for u in times], dtype=torch.float64)

    def _times(self, t: Time) -> int | list[int]:
        """One time for all, or one for each sample, checked."""
        if isinstance(t, Tensor) and t.ndim:
            return self.check_times(t)
        return as_index(t, 0, self.num_steps, "t")

    def check_times(self, t: Tensor) -> list[int]:
        """Times (B,) as integers.

        Raises:
            ValueError: not integers, not one-dimensional, or outside 0…T.
        """
        if t.ndim != 1 or t.is_floating_point() or t.is_complex() or t.numel() == 0:
            raise ValueError(f"t: expected a LongTensor of shape (B,), got {t.dtype} of shape {tuple(t.shape)}")
        times: list[int] = t.tolist()
        if min(times) < 0 or max(times) > self.num_steps:
            raise ValueError(f"t: expected 0 ≤ t ≤ {self.num_steps}, got values in {min(times)}…{max(times)}")
        return times


def _levels(values: Sequence[float] | Tensor, length: int, name: str) -> list[float]:
    for value in [values] if isinstance(values, Tensor) else values:
        check_constant(value, name)
    levels = as_constant(torch.as_tensor(values, dtype=None if isinstance(values, Tensor) else torch.float64), name)
    if levels.shape != (length,):
        raise ValueError(f"{name}: expected {length} values, for t = 0 … {length - 1}, got shape {tuple(levels.shape)}")
    return list(levels.tolist())
