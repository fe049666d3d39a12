"""Images by their numbers: image i is a function of the model, the settings and i."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lineardiffusion as ld
from lineardiffusion.training import keyed_generator

Sampler = ld.AncestralSampler | ld.DDIMSampler


@dataclass
class Drawing:
    """What image i comes from, whatever else is drawn with it.

    Arguments:
        sampler: of the model.
        classes: the numbers of the classes that the images have by turns; None for a model without classes.
        seed: of all images.
        block: images at a time.
    """

    sampler: Sampler
    classes: list[int] | None
    seed: int
    block: int

    def images(self, indices: list[int]) -> Tensor:
        """The images (N, C, H, W) of up to a block of indices, computed as a whole block: the last one is repeated to
        fill it.

        Raises:
            FloatingPointError: an image that is not finite.
        """
        filled = indices + [indices[-1]] * (self.block - len(indices))
        images = self.sampler(len(filled), progress=False, **self._known(filled))[: len(indices)]
        finite = images.isfinite().flatten(1).all(1).tolist()
        if not all(finite):
            first = indices[finite.index(False)]
            raise FloatingPointError(f"image {first} is not finite: the model has diverged or the precision is too low")
        return images

    def states(self, index: int) -> list[tuple[int, Tensor, Tensor]]:
        """How an image came about, as `Sampler.trajectory` yields it."""
        return list(self.sampler.trajectory(1, progress=False, **self._known([index])))

    def _known(self, indices: list[int]) -> dict[str, Any]:
        seeds = [keyed_generator(self.seed, "sample", index).initial_seed() for index in indices]
        if self.classes is None:
            return {"seeds": seeds}
        device = next(self.sampler.denoiser.parameters()).device
        labels = [self.classes[index % len(self.classes)] for index in indices]
        return {"seeds": seeds, "y": torch.tensor(labels, device=device)}
