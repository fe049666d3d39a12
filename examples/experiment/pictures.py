"""Pictures of samples: single files, grids, and strips that show how one came about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion.training import whole_file


def to_bytes(images: Tensor) -> np.ndarray:
    """Images (N, C, H, W) in [−1, 1] as uint8 (N, H, W, C), rounded."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Write an image (H, W, C), whole or not at all."""
    with whole_file(path) as partial:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(partial, format="png")


def from_bytes(pixels: np.ndarray) -> Tensor:
    """The inverse of `to_bytes`."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_png(path: Path) -> np.ndarray:
    """An image (H, W, C)."""
    with Image.open(path) as image:
        pixels = np.array(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def grid(images: Tensor, columns: int | None = None) -> np.ndarray:
    """Images (N, C, H, W) in [−1, 1] side by side, small ones enlarged; (H', W', C) uint8."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    blank = (-len(images)) % columns
    padded = F.pad(images.float(), (1, 1, 1, 1), value=-1)
    padded = F.pad(padded, (0, 0, 0, 0, 0, 0, 0, blank), value=-1)
    tiled = rearrange(padded, "(r c) k h w -> 1 k (r h) (c w)", c=columns)
    factor = max(1, round(64 / images.shape[-1]))
    return to_bytes(F.interpolate(tiled, scale_factor=factor, mode="nearest"))[0]


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
