"""What every source of images gives: images by index, and the class of each."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


class Source(Protocol):
    """Images by index."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """The image; raises an Exception of any class for one that cannot be read."""

    def digest(self, index: int) -> bytes:
        """SHA-256 of what is stored of the image; raises OSError where that cannot be read."""

    def name(self, index: int) -> str:
        """What it is called in messages."""


class Classes(NamedTuple):
    """The class of each image, as an index (N,) of the names."""

    numbers: np.ndarray
    names: list[str]


class Collection(NamedTuple):
    """Images, their height and width if all have the same, and their classes, or why there are none."""

    source: Source
    native: tuple[int, int] | None = None
    classes: Classes | None = None
    unlabelled: str = ""


def missing_labels(labels: Sequence[int | None], where: str, num_classes: float = math.inf) -> str:
    """In words, for how many images there is no class: the label is None, negative, as where it is withheld, or not
    below the number of classes. Nothing where all have one."""
    missing = [row for row, label in enumerate(labels) if label is None or not 0 <= label < num_classes]
    if not missing:
        return ""
    row = missing[0]
    return f"{where} has no class for {len(missing)} of {len(labels)} images, the first of them {row} ({labels[row]})"


def check_regular(path: Path) -> None:
    """That opening a path does not wait for ever, as it would for a pipe.

    Raises:
        OSError: it is no regular file, nor a link to one.
    """
    if not os.path.isfile(path):
        raise OSError("is not a file, or a link to none" if os.path.lexists(path) else "is not there")


def digest_of_file(path: Path) -> bytes:
    """SHA-256 of the contents of a file; raises OSError."""
    check_regular(path)
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            sha.update(block)
    return sha.digest()
