"""Layers of the U-Net that differ from torch's: what they compute is the same, but not on every machine and size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Module = TypeVar("Module", bound=nn.Module)

# Of splitmix64 (Steele, Lea & Flood, 2014, https://doi.org/10.1145/2660193.2660195), in the signed integers of torch.
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


class Conv1d(nn.Conv1d):
    """nn.Conv1d, right for narrow inputs too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if _trusted(x) else _in_float32(self, F.conv1d, x)


class Conv2d(nn.Conv2d):
    """nn.Conv2d, right for narrow inputs too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if _trusted(x) else _in_float32(self, F.conv2d, x)


def _working_dtype(x: Tensor) -> torch.dtype:
    """That in which a convolution of x would work."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _trusted(x: Tensor) -> bool:
    """Not bfloat16 on CPUs with inputs less than three pixels wide or of less than nine in all
    (docs/known_problems.md). There is little to compute then."""
    narrow = x.shape[-1] < 3 or x.shape[2:].numel() < 9
    return not (narrow and x.device.type == "cpu" and _working_dtype(x) == torch.bfloat16)


def _in_float32(layer: nn.Conv1d | nn.Conv2d, convolve: Callable[..., Tensor], x: Tensor) -> Tensor:
    """The layer's convolution, computed in float32 and rounded once."""
    bias = None if layer.bias is None else layer.bias.float()
    with torch.autocast("cpu", enabled=False):
        y = convolve(x.float(), layer.weight.float(), bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return y.to(_working_dtype(x))


class GroupNorm(nn.GroupNorm):
    """Group normalisation in float32, with 32 groups or as many as divide the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        # Not F.group_norm, which refuses a single pixel of a single image where a group is one channel.
        return torch.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)


class Dropout(nn.Module):
    """nn.Dropout with masks that are functions of (seed of the sample, layer, place), so that a sample's does not
    depend on the others of its batch, the process, the device, or how often it is computed.

    Arguments:
        probability: of dropping a value, in [0, 1).

    Raises:
        ValueError: a probability out of range.
    """

    layer = 0  # Which of a network's dropouts this is; the network numbers them.

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {probability}")
        self.probability = probability

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Arguments:
        x: values, with shape (B, …).
        seeds: a LongTensor (B,); without it the masks are drawn by torch's own generator.
        """
        if not self.training or self.probability == 0:
            return x
        if seeds is None:
            return F.dropout(x, self.probability)
        starts = _scrambled(_scrambled(seeds) + self.layer)
        places = torch.arange(x.shape[1:].numel(), device=x.device)
        # Not places times a large number: compiled for CPUs, that overflows in a loop's counter, which C++ leaves open.
        bits = _scrambled(starts[:, None] + places) & 0xFFFFFFFF
        kept = (bits >= round(self.probability * 2**32)).reshape(x.shape)
        return x * kept.to(x.dtype) / (1 - self.probability)


def _scrambled(values: Tensor) -> Tensor:
    """The output function of splitmix64, a bijection of 64-bit integers; products wrap, and shifts fill with zeros."""
    values = (values ^ (values >> 30 & (1 << 34) - 1)) * _FIRST
    values = (values ^ (values >> 27 & (1 << 37) - 1)) * _SECOND
    return values ^ (values >> 31 & (1 << 33) - 1)


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """cos and sin of the timesteps (B,) at width/2 frequencies from 1 to 1/max_period, with shape (B, width)."""
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponent)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


def zeroed(module: Module) -> Module:
    """The module with all parameters zero: the last layer of a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
