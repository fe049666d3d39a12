"""Pictures of images in [−1, 1], as PNG files, with nothing but numpy: to look at samples wherever the library runs."""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion.training import whole_file

Pixels = npt.NDArray[np.uint8]
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels: grey, grey and alpha, RGB, RGB and alpha


def save_images(images: Tensor, path: str | os.PathLike[str], columns: int | None = None) -> None:
    """Write images side by side to one PNG file, small ones enlarged.

    Arguments:
        images: with shape (N, C, H, W), C = 1 (grey) or 3 (RGB), from −1 (black) to 1; values beyond are clipped.
        path: the file, written whole or not at all.
        columns: how many images are in a row; by default about as many as there are rows.

    Raises:
        ValueError: another shape, no images, or no columns.

    Example:
        >>> import tempfile, lineardiffusion as ld
        >>> samples = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(-1, 3, 8, 8)
        >>> ld.save_images(samples, tempfile.mkdtemp() + "/samples.png", columns=3)
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        expected = "(N, 1, H, W) or (N, 3, H, W)"
        raise ValueError(f"images: expected shape {expected}, got {tuple(images.shape)}; decode latents first")
    if columns is not None and columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}")
    write_png(grid(images, columns), Path(path))


def to_bytes(images: Tensor) -> Pixels:
    """Images (N, C, H, W) in [−1, 1] as uint8 (N, H, W, C), rounded."""
    rounded = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: Pixels = rounded.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def grid(images: Tensor, columns: int | None = None) -> Pixels:
    """Images (N, C, H, W) in [−1, 1] side by side, small ones enlarged; (H', W', C) uint8."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    blank = (-len(images)) % columns
    padded = F.pad(images.detach().float(), (1, 1, 1, 1), value=-1)
    padded = F.pad(padded, (0, 0, 0, 0, 0, 0, 0, blank), value=-1)
    tiled = rearrange(padded, "(r c) k h w -> 1 k (r h) (c w)", c=columns)
    factor = max(1, round(64 / images.shape[-1]))
    pixels: Pixels = to_bytes(F.interpolate(tiled, scale_factor=factor, mode="nearest"))[0]
    return pixels


def write_png(pixels: npt.NDArray[Any], path: Path) -> None:
    """Write an image (H, W, C) uint8 of 1 to 4 channels, whole or not at all."""
    height, width, channels = pixels.shape
    header = struct.pack(">2I5B", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    # Each row as its difference from the row above (filter 2), which is what makes smooth pictures small.
    rows = np.diff(pixels.reshape(height, -1), axis=0, prepend=np.zeros((1, width * channels), np.uint8))
    data = zlib.compress(np.insert(rows, 0, 2, axis=1).tobytes())
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    with whole_file(path) as partial:
        partial.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
