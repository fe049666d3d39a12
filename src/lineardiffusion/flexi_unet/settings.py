"""Networks by name: the paper's settings for 64, 128 and 256 pixels, and small ones for CPUs."""

from __future__ import annotations

from typing import Any

_PAPER: dict[str, Any] = {"model_channels": 128, "num_res_blocks": 2, "num_heads": 4, "use_scale_shift_norm": True}

# Attention works on sides of 16 and 8, given as the downsampling factors at which these are reached.
SETTINGS: dict[str, dict[str, Any]] = {
    "paper-64": {**_PAPER, "channel_mult": (1, 2, 3, 4), "attention_resolutions": (4, 8)},
    "paper-128": {**_PAPER, "channel_mult": (1, 1, 2, 3, 4), "attention_resolutions": (8, 16)},
    "paper-256": {**_PAPER, "channel_mult": (1, 1, 2, 2, 4, 4), "attention_resolutions": (16, 32)},
    "small": {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2, 2), "attention_resolutions": (4,)},
    "tiny": {"model_channels": 16, "num_res_blocks": 1, "channel_mult": (1, 2, 2), "attention_resolutions": ()},
}
"""Keyword arguments of `FlexiUNet` and `FullUNet` beside the image size, the channels and the classes."""
