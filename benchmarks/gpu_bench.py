"""What the sections of gpu.py share: the device, how much they measure, and the time that is left."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from benchmarks.timing import Key, median_interval, turns

from lineardiffusion.flexi_unet import SETTINGS

Row = dict[str, Any]

REHEARSAL: dict[str, Any] = {
    "model_channels": 8, "num_res_blocks": 1, "channel_mult": (1, 1), "attention_resolutions": (), "num_heads": 1
}  # fmt: skip
NETWORKS = {**SETTINGS, "rehearsal": REHEARSAL}
Result = TypeVar("Result")


class Cell(NamedTuple):
    """A measurement by itself: what is measured, and the function that does it, whose rows are kept when it is done."""

    case: Row
    measure: Callable[[], Iterable[Row]]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        networks: of each image size, by name in NETWORKS.
        batches: of a training step at each size.
        levels: of Scale Space Diffusion at each size, in training steps.
        precisions: of training steps.
        drawn: batches in which samplers draw with a network.
        rounds: in which rivals take turns; nine leave the largest and the least out of an interval.
        chunk: seconds of a turn, at least.
        calls: of the network for a sample.
        learning: seconds of training; with a network of so many channels, so many images a batch, and samples.
        backend: of torch.compile.
        first_compilation: seconds, to begin with.
        families: how many of the families are looked at for waits; None for all.
    """

    networks: dict[int, str]
    batches: dict[int, int]
    levels: dict[int, tuple[int, ...]]
    precisions: tuple[str, ...]
    drawn: tuple[int, ...]
    rounds: int
    chunk: float
    calls: int
    learning: float
    channels: int
    images: int
    samples: int
    backend: str
    first_compilation: float
    families: int | None


FULL = Scale(
    networks={64: "paper-64", 256: "paper-256"},
    batches={64: 128, 256: 16},
    levels={64: (2, 3, 4), 256: (2, 3, 4, 5, 6)},
    precisions=("float32", "bfloat16"),
    drawn=(1, 16),
    rounds=9,
    chunk=0.02,
    calls=20,
    learning=60.0,
    channels=64,
    images=512,
    samples=64,
    backend="inductor",
    first_compilation=60.0,
    families=None,
)
TINY = Scale(
    networks={16: "rehearsal"},
    batches={16: 2},
    levels={16: (2,)},
    precisions=("bfloat16",),
    drawn=(1,),
    rounds=2,
    chunk=0.0,
    calls=4,
    learning=1.0,
    channels=8,
    images=8,
    samples=4,
    backend="eager",  # a compiler of C++ would take longer than all the rest
    first_compilation=3.0,
    families=2,
)


@dataclass
class Bench:
    """Where and how much is measured, and until when.

    Attributes:
        folder: where pictures go.
        data: a .npz file of digits, or None.
        deadline: of the section at hand, in the time of `time.monotonic`.
    """

    device: torch.device
    scale: Scale
    folder: Path
    data: Path | None = None
    deadline: float = field(default=float("inf"))

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds until the section should end."""
        return self.deadline - time.monotonic()

    def finish(self) -> None:
        """Wait for all that was left to the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def turns(self, functions: Mapping[Key, Callable[[], Any]]) -> dict[Key, list[float]]:
        """Seconds of a call of each function in every round, the device's work included."""
        return turns(functions, self.scale.rounds, self.scale.chunk, self.finish)

    def seconds(self, function: Callable[[], Any]) -> float:
        """Of one call."""
        self.finish()
        start = time.perf_counter()
        function()
        self.finish()
        return time.perf_counter() - start

    def peak(self, function: Callable[[], Any]) -> float | None:
        """GiB that a call takes at most beyond what was held before; None where that is not known."""
        self.finish()
        if not self.on_gpu:
            function()
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        function()
        self.finish()
        return round((torch.cuda.max_memory_allocated(self.device) - before) / 2**30, 3)

    def free(self) -> None:
        """Give back the memory of what is not needed any more."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def fitting(self, batch: int, measure: Callable[[int], Result]) -> Result:
        """What is measured with a batch, halved until the memory is enough."""
        while True:
            try:
                return measure(batch)
            except torch.cuda.OutOfMemoryError:
                if batch == 1:
                    raise
            self.free()
            batch //= 2

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """ "bfloat16" under autocast; "float32" as PyTorch has it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def network(self, kind: type[torch.nn.Module], size: int) -> torch.nn.Module:
        """A network of the paper for images of a size, with random weights."""
        with self.device:
            network = kind(size, **NETWORKS[self.scale.networks[size]])
        return network.to(memory_format=torch.channels_last)


def ratio_of(ours: Iterable[float], theirs: Iterable[float]) -> Row:
    """The median over the rounds of the ratio of two times, and its interval."""
    ratio, low, high = median_interval([a / b for a, b in zip(ours, theirs, strict=True)])
    return {"ratio": round(ratio, 4), "interval": [round(low, 4), round(high, 4)]}


def weighted(
    times: Mapping[Key, list[float]], shares: Mapping[Hashable, float], key: Callable[[Any], Key]
) -> list[float]:
    """Σ share · time in every round."""
    rounds = zip(*(times[key(name)] for name in shares), strict=True)
    return [sum(share * value for share, value in zip(shares.values(), values, strict=True)) for values in rounds]


def milliseconds(values: Iterable[float]) -> float:
    """The median of times in seconds."""
    return round(1e3 * median_interval(list(values))[0], 4)
