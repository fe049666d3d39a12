"""What a network refuses: settings of a wrong kind, images and labels that do not fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import (
    as_flag,
    as_index,
    as_list,
    as_number,
    as_numbers_in_a_row,
    as_shape,
    check_real,
    check_tensor,
)

# The least of each; −1 stands for a default.
_LEAST = {
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 0,
    "num_res_blocks": 0,
    "num_heads": 0,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
}
_FLAGS = ("use_scale_shift_norm", "resblock_updown", "conv_resample", "use_new_attention_order", "use_checkpoint")


def check_settings(given: Mapping[str, Any]) -> None:
    """Raise unless the arguments of a network are of the kinds that it is made of."""
    for name, least in _LEAST.items():
        as_index(given[name], least, 2**31, name)
    for name in _FLAGS:
        as_flag(given[name], name)
    for factor in as_list(given["attention_resolutions"], "attention_resolutions", "factors such as (4, 8)"):
        as_index(factor, 1, 2**31, "attention_resolutions")
    as_numbers_in_a_row(given["channel_mult"], "channel_mult", "(1, 2, 3, 4)")
    if given["num_classes"] is not None:
        as_index(given["num_classes"], 1, 2**31, "num_classes")
    as_number(given["dropout"], "dropout")


def check_images(x: Tensor, t_index: Tensor, channels: int) -> None:
    """Raise unless these are images (B, channels, H, W) and one time for each."""
    check_tensor(x, "x")
    check_tensor(t_index, "t_index")
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected images of shape (B, {channels}, H, W), got {tuple(x.shape)}")
    check_real(x, "x")
    if t_index.shape != x.shape[:1] or t_index.is_complex():
        raise ValueError(f"t_index: expected a number for each of {len(x)} images, got shape {tuple(t_index.shape)}")


def as_size(size: Sequence[int]) -> tuple[int, int]:
    """(H, W)"""
    if isinstance(size, torch.Size) and len(size) == 2:
        return size[0], size[1]
    sides = as_shape(size, "size")
    if len(sides) != 2:
        raise ValueError(f"size: expected (H, W), got {sides}")
    return sides[0], sides[1]


def check_labels(y: Tensor, classes: int, count: int) -> None:
    """Raise unless these are labels (B,) below the number of classes; where that needs no waiting their values too."""
    check_tensor(y, "y")
    if y.shape != (count,) or y.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"y: expected {count} integers, one for each image, got {y.dtype} of shape {tuple(y.shape)}")
    if y.device.type == "cpu" and count and not torch.compiler.is_compiling():
        low, high = y.aminmax()
        if not bool((low >= 0) & (high < classes)):
            raise ValueError(f"y: expected labels in 0…{classes - 1}, got {int(low)}…{int(high)}")
