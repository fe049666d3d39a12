"""States of a sampler that are jointly Gaussian, each a linear function of those before it and of noise."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce

from torch import Tensor

from lineardiffusion.lab.matrices import act, inverse, plus, sandwich, times, transposed

Name = tuple[str, float]  # of a kind of states, and the time
Terms = dict[Name, Tensor]  # k ↦ A_k, of Σ_k A_k x_k


class Joint:
    """Means and covariances of states by name, each in a frame of its own.

    Arguments:
        name, mean, covariance: the first state.
    """

    def __init__(self, name: Name, mean: Tensor, covariance: Tensor) -> None:
        self.means = {name: mean}
        self._covariances = {(name, name): covariance}

    def covariance(self, a: Name, b: Name) -> Tensor:
        """Cov(x_a, x_b)"""
        return self._covariances[a, b] if (a, b) in self._covariances else transposed(self._covariances[b, a])

    def image(self, terms: Terms, noise: Tensor | None = None) -> Tensor:
        """Covariance of Σ_k A_k x_k and of noise beside it."""
        parts = [] if noise is None else [noise]
        pairs = list(terms.items())
        for i, (j, a) in enumerate(pairs):
            parts.append(sandwich(a, self.covariance(j, j)))
            for k, b in pairs[i + 1 :]:
                cross = times(times(a, self.covariance(j, k)), transposed(b))
                parts.append(plus(cross, transposed(cross)))
        return reduce(plus, parts)

    def add(self, name: Name, terms: Terms, noise: Tensor | None = None) -> None:
        """The new state Σ_k A_k x_k + noise, of the covariance that noise has."""
        own = self.image(terms, noise)
        for other in self.means:
            cross = [times(a, self.covariance(k, other)) for k, a in terms.items()]
            self._covariances[name, other] = reduce(plus, cross)
        self._covariances[name, name] = own
        self.means[name] = reduce(Tensor.add, [act(a, self.means[k]) for k, a in terms.items()])

    def keep(self, names: Collection[Name]) -> None:
        """Forget the other states."""
        self.means = {name: mean for name, mean in self.means.items() if name in names}
        self._covariances = {(a, b): c for (a, b), c in self._covariances.items() if a in names and b in names}

    def had(self, name: Name, covariance: Tensor, names: Collection[Name]) -> Joint:
        """Some of these states if one of them had another covariance, and others followed it as they do (by
        regression)."""
        result = Joint(name, self.means[name], covariance)
        others = [other for other in names if other != name]
        if others:
            own = self.covariance(name, name)
            precision, change = inverse(own), plus(covariance, -own)
            slopes = {other: times(self.covariance(other, name), precision) for other in others}
        for i, a in enumerate(others):
            result.means[a] = self.means[a]
            result._covariances[a, name] = times(slopes[a], covariance)
            for b in others[i:]:
                moved = times(times(slopes[a], change), transposed(slopes[b]))
                result._covariances[a, b] = plus(self.covariance(a, b), moved)
        return result
