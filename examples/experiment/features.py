"""Distances between sets of images without any download: in the features of a small classifier trained on the labelled
data at hand."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from lineardiffusion.lab.matrices import bures
from lineardiffusion.training import (
    CheckpointError,
    keyed_generator,
    read_checkpoint,
    restore_tensors,
    state_tensors,
    write_checkpoint,
)

EPOCHS, BATCH_SIZE, LEARNING_RATE, HELD_OUT = 6, 128, 2e-3, 0.1


class Pixels(Protocol):
    """Images (N, C, H, W) in [−1, 1] by their indices: a tensor, or what reads them as they are asked for."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor: ...


class Classifier(nn.Module):
    """Three convolutions and 64 features, for images of any size from 8 × 8 on.

    Arguments:
        channels: of the images.
        num_classes: to tell apart.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner, outer in ((channels, 24), (24, 48), (48, 64)):
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.GroupNorm(8, outer), nn.ReLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU())
        self.head = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@dataclass
class Judge:
    """A trained classifier, its accuracy on held-out images, and which of the images these were.

    Arguments:
        classifier: in evaluation mode.
        accuracy: in 0…1.
        held_out: indices of the images it did not see.
    """

    classifier: Classifier
    accuracy: float
    held_out: Tensor

    @torch.no_grad()
    def features(self, images: Pixels, indices: Tensor | None = None) -> Tensor:
        """Features (N, 64), in float64, of images, or of those of some indices."""
        return torch.cat([self.classifier.features(part) for part in _parts(images, indices)]).double()

    def learnt(self, images: Pixels) -> Tensor:
        """Features of those of the images that it was trained on: what others are compared with."""
        seen = torch.ones(len(images), dtype=torch.bool)
        seen[self.held_out] = False
        return self.features(images, seen.nonzero()[:, 0])

    @torch.no_grad()
    def probabilities(self, images: Pixels, indices: Tensor | None = None) -> Tensor:
        """Class probabilities (N, C) of images, or of those of some indices."""
        return torch.cat([self.classifier(part).softmax(1) for part in _parts(images, indices)])


def train_judge(images: Pixels, labels: Tensor, num_classes: int, cache: Path, seed: int = 0) -> Judge:
    """A classifier of these images; a second call finds it in the folder `cache`. Where nothing can be kept there, a
    warning says so.

    Arguments:
        images: (N, C, H, W) in [−1, 1], at least 8 × 8; no more than a batch of them is asked for at once.
        labels: (N,) in 0 … num_classes − 1.
        cache: a folder; the file's name says on which data, and how, it was trained.
        seed: of the split, the weights and the order.

    Raises:
        ValueError: images that are too small or too few, or fewer than two classes.
    """
    if min(images.shape[-2:]) < 8 or len(images) < 20:
        raise ValueError(f"images: expected at least 20 of at least 8 × 8 pixels, got {tuple(images.shape)}")
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2 to tell apart, got {num_classes}")
    order = torch.randperm(len(images), generator=keyed_generator(seed, "split"))
    held_out, learnt = order.tensor_split([max(1, int(HELD_OUT * len(images)))])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(images.shape[1], num_classes)
    path = cache / f"classifier-{_fingerprint(images, labels, seed)}.safetensors"
    if not _restore(classifier, path):
        _fit(classifier, images, labels, learnt, seed)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, state_tensors(classifier.state_dict()), {"seed": seed})
        except (OSError, CheckpointError) as error:
            warnings.warn(f"cache: the classifier is not kept for the next time ({error})", stacklevel=2)
    judge = Judge(classifier.eval(), 0.0, held_out)
    judge.accuracy = float((judge.probabilities(images, held_out).argmax(1) == labels[held_out]).double().mean())
    return judge


Moments = tuple[Tensor, Tensor]


def moments(features: Tensor) -> Moments:
    """Mean (D,) and covariance (D, D) of features (N, D), in float64."""
    features = features.double()
    return features.mean(0), torch.atleast_2d(torch.cov(features.T))


def frechet_of_moments(a: Moments, b: Moments) -> float:
    r"""‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2}), the squared Wasserstein-2 distance of the
    Gaussians of these means and covariances (Heusel et al., 2017)."""
    return float((a[0] - b[0]).square().sum()) + bures(a[1], b[1])


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """`frechet_of_moments` of two sets of features (N, D).

    Raises:
        ValueError: fewer than two features, or different widths.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features: expected (N, D) and (M, D) with N, M ≥ 2, got {tuple(a.shape)}, {tuple(b.shape)}")
    return frechet_of_moments(moments(a), moments(b))


def _restore(classifier: Classifier, path: Path) -> bool:
    """Whether the weights were there, whole."""
    if not os.path.isfile(path):
        return False
    try:
        restore_tensors(read_checkpoint(path).tensors, classifier.state_dict(), str(path))
    except (CheckpointError, ValueError):  # damaged, or of something else: to be written anew
        return False
    return True


def _fit(classifier: Classifier, images: Pixels, labels: Tensor, learnt: Tensor, seed: int) -> None:
    steps = EPOCHS * -(-len(learnt) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for places in tqdm(_batches(len(learnt), seed), desc="classifier", total=steps, unit="step"):
        indices = learnt[places]
        loss = F.cross_entropy(classifier(images[indices]), labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _batches(count: int, seed: int) -> Iterator[Tensor]:
    for epoch in range(EPOCHS):
        yield from torch.randperm(count, generator=keyed_generator(seed, "classifier", epoch)).split(BATCH_SIZE)


def _parts(images: Pixels, indices: Tensor | None = None) -> Iterator[Tensor]:
    indices = torch.arange(len(images)) if indices is None else indices
    return (images[part] for part in indices.split(256))


def _fingerprint(images: Pixels, labels: Tensor, seed: int) -> str:
    sha = hashlib.sha256(repr((tuple(images.shape), EPOCHS, BATCH_SIZE, LEARNING_RATE, HELD_OUT, seed, 1)).encode())
    for part in _parts(images):
        sha.update(part.contiguous().numpy().data)
    sha.update(labels.contiguous().numpy().data)
    return sha.hexdigest()[:16]
