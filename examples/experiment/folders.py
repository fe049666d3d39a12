"""Images in a folder and those below it: what counts as an image there, and what as a class."""

from __future__ import annotations

import mimetypes
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from examples.experiment.config import DataConfig
from examples.experiment.pixels import EXTENSIONS, read_image
from examples.experiment.sources import Classes, Collection, check_regular, digest_of_file

# Folders that systems and programs put beside one's own, as they do those whose name starts with a dot.
_SYSTEM = {"__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"}

Parts = tuple[str, ...]


@dataclass
class FolderSource:
    """Files in the order of their paths, compared folder by folder."""

    root: Path
    files: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Image.Image:
        path = self.root / self.files[index]
        check_regular(path)
        return read_image(path)

    def digest(self, index: int) -> bytes:
        return digest_of_file(self.root / self.files[index])

    def name(self, index: int) -> str:
        return str(self.root / self.files[index])


def from_folder(root: Path, config: DataConfig) -> Collection:
    """The files whose name ends as one of EXTENSIONS, and as classes the folders in the root that have any. There are
    no classes where images lie beside these folders.

    Raises:
        ValueError: no images, or a folder that cannot be listed.
    """
    try:
        found = sorted(_walk(root))
    except OSError as error:
        raise ValueError(
            f"data.source: {error.filename} cannot be listed ({error.strerror}): allow it, or move it away"
        ) from error
    files = [parts for parts in found if _extension(parts) in EXTENSIONS]
    if not files:
        raise ValueError(
            f"data.source: {root} has no image files, nor do the folders in it; their names would end in "
            f"{' '.join(sorted(EXTENSIONS))}"
        )
    _tell_of_others(found)
    source = FolderSource(root, ["/".join(parts) for parts in files])
    beside = [parts[0] for parts in files if len(parts) == 1]
    if len(beside) == len(files):
        return Collection(source)
    if beside:
        return Collection(
            source,
            unlabelled=f"{len(beside)} images, such as {beside[0]}, lie beside the folders of the {len(files)}; move "
            f"them into the folder of their class, or away",
        )
    names = sorted({parts[0] for parts in files})
    if config.labels:
        empty = sorted({name for name in os.listdir(root) if (root / name).is_dir() and not _hidden(name)} - set(names))
        if empty:
            warnings.warn(f"data.source: folders without images are no classes: {', '.join(empty)}", stacklevel=2)
    numbers = {name: number for number, name in enumerate(names)}
    return Collection(source, classes=Classes(np.array([numbers[parts[0]] for parts in files]), names))


def _walk(root: Path) -> Iterator[Parts]:
    """The paths of all files below a folder but for hidden ones and pipes. Links are followed, though not to a folder
    that they are in. A link to nothing counts: it is a file that cannot be read.

    Raises:
        OSError: a folder that cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise error

    # By path: its parts below the root, and the real paths of it and of the folders on the way.
    known: dict[str, tuple[Parts, Parts]] = {str(root): ((), (os.path.realpath(root),))}
    for folder, folders, files in os.walk(root, onerror=stop, followlinks=True):
        parts, real = known.pop(folder)
        entered = []
        for name in folders:
            path = os.path.join(folder, name)
            target = os.path.realpath(path) if os.path.islink(path) else os.path.join(real[-1], name)
            if not _hidden(name) and target not in real:
                known[path] = ((*parts, name), (*real, target))
                entered.append(name)
        folders[:] = entered
        for name in files:
            path = os.path.join(folder, name)
            if not _hidden(name) and (os.path.isfile(path) or not os.path.exists(path)):
                yield (*parts, name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _extension(parts: Parts) -> str:
    return os.path.splitext(parts[-1])[1].lower()


def _tell_of_others(found: list[Parts]) -> None:
    """Warn of pictures that are not read: a folder of which half are .heic is not what it seems."""
    others = Counter(extension for extension in map(_extension, found) if extension not in EXTENSIONS)
    pictures = [
        f"{count} {extension}"
        for extension, count in others.items()
        if (mimetypes.guess_type(f"a{extension}")[0] or "").startswith("image/")
    ]
    if pictures:
        warnings.warn(f"data.source: pictures in formats that are not read: {', '.join(pictures)}", stacklevel=3)
