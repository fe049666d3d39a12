"""Images by their numbers: image i is a function of the model, the settings and i."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import lineardiffusion as ld
from lineardiffusion.samplers import Sampler
from lineardiffusion.training import keyed_generator

GridName = Literal["uniform", "trailing", "leading", "karras", "log_snr"]


def lay_out(process: ld.LinearDiffusion, steps: int | None, grid: GridName) -> list[float]:
    """The times of a number of steps on a grid, or all T of them, without the final 0.

    Raises:
        ValueError: a number or a grid that does not fit the process.
    """
    if steps is None:
        if grid != "uniform":
            raise ValueError(f"grid: expected uniform for all steps, got {grid}; --steps says how many there are")
        if process.num_steps is None:
            raise ValueError("steps: expected a number of steps, since the time of this model is continuous; got none")
        steps = process.num_steps
    try:
        return getattr(ld.grids, grid)(steps).times(process)
    except ValueError as error:
        told = str(error)
        raise ValueError(f"steps: {told[3:]}" if told.startswith("n: ") else f"grid: {told}") from error


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

    def states(self, index: int) -> list[tuple[float, Tensor, Tensor]]:
        """How an image came about, as `Sampler.trajectory` yields it."""
        return list(self.sampler.trajectory(1, progress=False, **self._known([index])))

    def _known(self, indices: list[int]) -> dict[str, Any]:
        seeds = [keyed_generator(self.seed, "sample", index).initial_seed() for index in indices]
        if self.classes is None:
            return {"seeds": seeds}
        device = next(self.sampler.denoiser.parameters()).device
        labels = [self.classes[index % len(self.classes)] for index in indices]
        return {"seeds": seeds, "y": torch.tensor(labels, device=device)}
