"""The building blocks of ADM's U-Net (Dhariwal & Nichol, 2021, https://arxiv.org/abs/2105.05233).

Submodules are named as in the original implementation, so that its state dicts load unchanged.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lineardiffusion.flexi_unet.layers import Conv1d, Conv2d, Dropout, GroupNorm, zeroed

Size = tuple[int, int]


class ResBlock(nn.Module):
    """GroupNorm–SiLU–Conv twice around the time embedding, plus a (1×1-convolved) shortcut.

    Arguments:
        channels: channels of the input.
        out_channels: channels of the output.
        emb_channels: width of the time embedding.
        dropout: probability of dropping a value before the last convolution.
        use_scale_shift_norm: the embedding scales and shifts the second norm's output; otherwise it is added before.
        up, down: double or halve the resolution, before the first convolution and in the shortcut.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_channels: int,
        dropout: float,
        use_scale_shift_norm: bool,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.use_scale_shift_norm, self.up, self.down = use_scale_shift_norm, up, down
        self.in_layers = nn.Sequential(GroupNorm(channels), nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, (2 if use_scale_shift_norm else 1) * out_channels)
        )
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels),
            nn.SiLU(),
            Dropout(dropout),
            zeroed(Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor, size: Size, seeds: Tensor | None) -> Tensor:
        """From x and the embedding; `size` is that to upsample to, `seeds` are those of `Dropout`."""
        norm, activation, conv = self.in_layers
        h = activation(norm(x))
        if self.up:
            h, x = doubled(h, size), doubled(x, size)
        elif self.down:
            h, x = halved(h), halved(x)
        h = conv(h)
        shift = self.emb_layers(emb).to(h.dtype)[..., None, None]
        norm, activation, dropout, conv = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = shift.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + shift)
        out: Tensor = self.skip_connection(x) + conv(dropout(activation(h), seeds))
        return out


class AttentionBlock(nn.Module):
    """Self-attention over all positions, with a residual connection.

    Arguments:
        channels: of input and output.
        num_heads: heads.
        num_head_channels: channels of each head, which then gives the number of heads; −1 for num_heads of them.
        use_new_attention_order: q, k and v are split before heads; otherwise heads before q, k and v.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    def __init__(self, channels: int, num_heads: int, num_head_channels: int, use_new_attention_order: bool) -> None:
        super().__init__()
        by_width = num_head_channels != -1
        divisor = num_head_channels if by_width else num_heads
        if divisor < 1 or channels % divisor:
            name = "num_head_channels" if by_width else "num_heads"
            raise ValueError(f"{name}: expected a divisor of {channels} channels, got {divisor}")
        self.num_heads = channels // num_head_channels if by_width else num_heads
        self.order = "(three h c)" if use_new_attention_order else "(h three c)"
        self.norm = GroupNorm(channels)
        self.qkv = Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        # Channels last, for which PyTorch has its fused kernels; a copy also where n = 1, whose strides are then those
        # that they expect.
        qkv = self.qkv(self.norm(flat)).mT.clone(memory_format=torch.contiguous_format)
        q, k, v = rearrange(qkv, f"b n {self.order} -> three b h n c", h=self.num_heads, three=3)
        h = rearrange(F.scaled_dot_product_attention(q, k, v), "b h n c -> b (h c) n")
        out: Tensor = flat + self.proj_out(h)
        return out.reshape(x.shape)


class Downsample(nn.Module):
    """n pixels become ⌈n/2⌉, by a convolution of stride 2 or by averages of 2 × 2."""

    def __init__(self, channels: int, use_conv: bool = True) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else None

    def forward(self, x: Tensor) -> Tensor:
        smaller: Tensor = halved(x) if self.op is None else self.op(x)
        return smaller


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to a size (twice the input's, or one less where that is odd), and a convolution or
    none."""

    def __init__(self, channels: int, use_conv: bool = True) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1) if use_conv else nn.Identity()

    def forward(self, x: Tensor, size: Size) -> Tensor:
        larger: Tensor = self.conv(doubled(x, size))
        return larger


class Stage(nn.ModuleList):
    """Blocks in a row, each called with what it takes: the embedding, the size to upsample to, seeds for dropout."""

    def forward(self, x: Tensor, emb: Tensor, size: Size = (0, 0), seeds: Tensor | None = None) -> Tensor:
        for block in self:
            if isinstance(block, ResBlock):
                x = block(x, emb, size, seeds)
            elif isinstance(block, Upsample):
                x = block(x, size)
            else:
                x = block(x)
        return x


def doubled(x: Tensor, size: Size) -> Tensor:
    """Every pixel four times, cut to a size."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : size[0], : size[1]]


def halved(x: Tensor) -> Tensor:
    """Averages of 2 × 2 pixels, of fewer at the end of an odd side."""
    return F.avg_pool2d(x, 2, ceil_mode=True)
