"""What a long training needs beside its loop: averaged weights, checkpoints that survive, and randomness that is a
function of its keys.

- `ExponentialMovingAverage` of a model's parameters.
- `Checkpoints`: a folder of safetensors files. Each is written whole or not at all, carries a SHA-256 of all that it
  holds, and is refused when it was changed; then the one before it is used.
- `whole_file(path)`: a file that is there whole or not at all, for all that is written beside them;
  `remove_partials(folder)` clears away what processes that were killed have left, and `locked_folder(folder)` keeps a
  second program out of a folder.
- `keyed_generator(seed, "noise", step, …)`: the same keys give the same random numbers in any process, in any order. A
  run whose randomness is keyed has no random state that could be lost.

All of it takes models on one device, under DistributedDataParallel (pass the module inside) and sharded by FSDP 2,
where `state_tensors` and `optimizer_tensors` gather and must be called by every process.

Needs safetensors, with which files are read.
"""

from lineardiffusion.training.average import ExponentialMovingAverage
from lineardiffusion.training.checkpoints import (
    Checkpoint,
    CheckpointError,
    Checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from lineardiffusion.training.files import locked_folder, remove_partials, whole_file
from lineardiffusion.training.randomness import keyed_generator
from lineardiffusion.training.state import optimizer_tensors, restore_optimizer, restore_tensors, state_tensors

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "ExponentialMovingAverage",
    "keyed_generator",
    "locked_folder",
    "optimizer_tensors",
    "read_checkpoint",
    "remove_partials",
    "restore_optimizer",
    "restore_tensors",
    "state_tensors",
    "whole_file",
    "write_checkpoint",
]
