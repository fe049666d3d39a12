"""Images in an array of bytes, perhaps with labels: .npy and .npz files, and scikit-learn's digits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from examples.experiment.sources import Classes, Collection, missing_labels


@dataclass
class ArraySource:
    """Images (N, H, W) or (N, H, W, C) of bytes."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        image = self.images[index]
        return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2:] == (1,) else image))

    def digest(self, index: int) -> bytes:
        image = self.images[index]
        return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()

    def name(self, index: int) -> str:
        return f"image {index}"


def from_digits() -> Collection:
    """The 1797 handwritten digits of scikit-learn, 8 × 8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return from_array(np.rint(data.images * (255 / 16)).astype(np.uint8), data.target, "digits")


def from_file(path: Path) -> Collection:
    """A .npy file of images, which stays on the disk; or a .npz file of one array, or of `images` and `labels`.

    Raises:
        ValueError: a file that is damaged, larger than the memory, or has other arrays.
    """
    images: Any
    labels: Any = None
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)  # .npz files ignore the mode
        if isinstance(content, np.lib.npyio.NpzFile):
            with content as arrays:
                names = arrays.files
                name = names[0] if len(names) == 1 else "images"
                if name not in names:
                    raise ValueError(f"expected an array named images, got {names}")
                _check_memory(sum(entry.file_size for entry in arrays.zip.infolist()))
                images, labels = arrays[name], arrays["labels"] if "labels" in names else None
        else:
            images = content
    except Exception as error:  # numpy and zipfile raise errors of many classes where a file is damaged
        raise ValueError(f"data.source: {path} cannot be read ({type(error).__name__}: {error})") from error
    return from_array(images, labels, str(path))


def from_array(images: Any, labels: Any, where: str) -> Collection:
    """Images of shape (N, H, W) or (N, H, W, C), uint8, and labels (N,), any integers, whose values in ascending order
    are the names of the classes.

    Raises:
        ValueError: arrays that are not that.
    """
    if not (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.ndim in (3, 4)
        and images.shape[3:] in ((), (1,), (3,), (4,))
        and (len(images) == 0 or images.size > 0)
    ):
        raise ValueError(
            f"data.source: {where}: expected uint8 images of shape (N, H, W) or (N, H, W, 1, 3 or 4), got "
            f"{_describe(images)}; numbers from 0 to 1, for example, become (images * 255).round().astype('uint8')"
        )
    source, native = ArraySource(images), (images.shape[1], images.shape[2])
    if labels is None:
        return Collection(source, native)
    if not isinstance(labels, np.ndarray) or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"data.source: {where}: expected {len(images)} integer labels, got {_describe(labels)}")
    missing = missing_labels(labels.tolist(), "the array labels")
    if missing:
        return Collection(source, native, unlabelled=missing)
    values, numbers = np.unique(labels, return_inverse=True)
    return Collection(source, native, Classes(numbers, [str(value) for value in values]))


def _check_memory(needed: int) -> None:
    """That so many bytes fit into the memory: a small compressed file may hold more than any machine has."""
    available = psutil.virtual_memory().available
    if needed > available:
        raise MemoryError(
            f"its arrays take {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} are free; a .npy file is "
            f"read from the disk as needed"
        )


def _describe(array: Any) -> str:
    return f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
