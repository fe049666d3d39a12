"""How uncertain Fréchet distances are: what benchmarks of samples share."""

from __future__ import annotations

import torch
from examples.experiment.features import Moments, moments
from torch import Tensor

REPLICATES = 200


def replicates(features: Tensor, reference: Moments) -> Tensor:
    """Fréchet distances (REPLICATES,) of samples drawn from the features (N, D) with replacement; the same rows for all
    sets of features, since the same seed is the same noise."""
    generator = torch.Generator().manual_seed(0)
    values, vectors = torch.linalg.eigh(reference[1])
    root = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    distances = []
    for _ in range(REPLICATES):
        rows = features[torch.randint(len(features), (len(features),), generator=generator)]
        mean, covariance = moments(rows)
        overlap = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
        distances.append((mean - reference[0]).square().sum() + covariance.trace() + values.sum() - 2 * overlap)
    return torch.stack(distances)


def spread(values: Tensor, centre: float) -> list[float]:
    """The interval of 95 % around what was measured; resampling raises all distances, which is taken off."""
    ends = torch.quantile(values - values.mean(), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return [round(centre + float(end), 3) for end in ends]
