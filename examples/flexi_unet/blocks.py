"""The building blocks of ADM's U-Net (Dhariwal & Nichol, 2021, https://arxiv.org/abs/2105.05233).

Submodules are named as in the original implementation, so that its state dicts load unchanged.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class GroupNorm(nn.GroupNorm):
    """Group normalisation in float32, with 32 groups or as many as divide the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        # Not F.group_norm, which refuses a single pixel of a single image where a group is one channel.
        return torch.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)


class ResBlock(nn.Module):
    """GroupNorm–SiLU–Conv twice around the time embedding, plus a (1×1-convolved) shortcut.

    Arguments:
        channels: channels of the input.
        out_channels: channels of the output.
        emb_channels: width of the time embedding.
        dropout: probability of dropping a value before the last convolution.
        use_scale_shift_norm: the embedding scales and shifts the second norm's output; otherwise it is added before.
    """

    def __init__(
        self, channels: int, out_channels: int, emb_channels: int, dropout: float, use_scale_shift_norm: bool
    ) -> None:
        super().__init__()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.in_layers = nn.Sequential(GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, (2 if use_scale_shift_norm else 1) * out_channels)
        )
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x)
        shift = self.emb_layers(emb).to(h.dtype)[..., None, None]
        if self.use_scale_shift_norm:
            scale, shift = shift.chunk(2, dim=1)
            norm, *rest = self.out_layers
            h = norm(h) * (1 + scale) + shift
            for layer in rest:
                h = layer(h)
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions, with a residual connection; heads are split before q, k and v."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {channels} channels, got {num_heads}")
        self.num_heads = num_heads
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        q, k, v = rearrange(self.qkv(self.norm(flat)), "b (h three c) n -> three b h n c", h=self.num_heads, three=3)
        h = rearrange(F.scaled_dot_product_attention(q, k, v), "b h n c -> b (h c) n")
        return (flat + self.proj_out(h)).reshape(x.shape)


class Downsample(nn.Module):
    """A convolution of stride 2: n pixels become ⌈n/2⌉."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to a size (twice the input's, or one less where that is odd) and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        doubled = x.repeat_interleave(2, -2).repeat_interleave(2, -1)
        return self.conv(doubled[..., : size[0], : size[1]])


class Stage(nn.Sequential):
    """Blocks in a row, each called with what it takes: the embedding, or the size to upsample to."""

    def forward(self, x: Tensor, emb: Tensor, size: tuple[int, int] = (0, 0)) -> Tensor:
        for block in self:
            if isinstance(block, ResBlock):
                x = block(x, emb)
            elif isinstance(block, Upsample):
                x = block(x, size)
            else:
                x = block(x)
        return x


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """cos and sin of the timesteps (B,) at width/2 frequencies from 1 to 1/max_period, with shape (B, width)."""
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponent)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


def zeroed(module: nn.Module) -> nn.Module:
    """The module with all parameters zero: the last layer of a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
