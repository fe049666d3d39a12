"""Run by two processes: sample.py while one of them comes late to everything, and the run has a newer checkpoint by
then."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from torch import distributed

# So that it finds the examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples import sample

from lineardiffusion.training import Checkpoints, read_checkpoint

MAIN = os.environ.get("RANK") == "0"


def after(function, work):
    """The function, with some work after each call."""

    def wrapped(*arguments, **keywords):
        result = function(*arguments, **keywords)
        work()
        return result

    return wrapped


def late() -> None:
    if not MAIN:
        time.sleep(0.5)


def main(model: Path, folder: Path, count: int) -> None:
    def train_on() -> None:
        newest = Checkpoints(model / "checkpoints").latest()
        tensors = {name: 2 * tensor for name, tensor in newest.tensors.items()}
        Checkpoints(model / "checkpoints").save(6, tensors, {**newest.metadata, "step": 6})

    if MAIN:
        sample.find_checkpoint = after(sample.find_checkpoint, train_on)
    sample.make_processes = after(sample.make_processes, late)
    for name in ("broadcast", "broadcast_object_list", "barrier"):
        setattr(distributed, name, after(getattr(distributed, name), late))
    sample.sample(sample.SampleConfig(model, count, folder, steps=2, block=4, strips=0, progress=False))
    assert read_checkpoint(Checkpoints(model / "checkpoints").paths()[-1]).metadata["step"] == 6


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
