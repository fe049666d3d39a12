"""Pictures of samples, beside those of the package: what is read again, and strips that show how one came about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion.pictures import grid


def from_bytes(pixels: np.ndarray) -> Tensor:
    """The inverse of `lineardiffusion.pictures.to_bytes`."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_png(path: Path) -> np.ndarray:
    """An image (H, W, C)."""
    with Image.open(path) as image:
        pixels = np.array(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def strip(states: Sequence[tuple[float, Tensor, Tensor]], columns: int = 12) -> np.ndarray:
    """States x_t (above, scaled to their range) and estimates (below) of one sample, from noise to image, at the size
    of the image; every resolution is among them. As `Sampler.trajectory` yields them; (H', W', C) uint8."""
    size = states[-1][1].shape[-2:]
    changes = {i for i in range(1, len(states)) if states[i][1].shape != states[i - 1][1].shape}
    uniform = {round(i * (len(states) - 1) / (columns - 1)) for i in range(columns)}
    shown = [states[i] for i in sorted(uniform | changes)]
    above = [x_t / x_t.abs().max().clamp(min=1) for _, x_t, _ in shown]
    below = [clean for _, _, clean in shown]
    enlarged = [F.interpolate(image[:1].float(), size, mode="nearest") for image in (*above, *below)]
    return grid(torch.cat(enlarged), columns=len(shown))
