r"""Flexi-UNet (Scale Space Diffusion, Sec. 4.3): one U-Net whose encoder is entered and whose decoder is left at the
level of the resolution at hand, so that small states use the deep part of the network only.

Level l of a network built for `image_size` works on sides of image_size / 2^l. An input of level i passes the first
convolution, a 1×1 adapter to the width that level expects, the encoder from level i down, the middle, and the decoder
up to the level o of the output, which an adapter brings to the width of the last convolution:

    o = i       a symmetric U-Net of fewer levels;
    o = i − 1   one more level of the decoder, without skip connections: from the block that upsamples out of level i
                on they are zeros, since no encoder block has run there;
    o = 0 < i   the input is resized to the full size and passes the whole network.

The decoder is left before the last block of level o, the one that would upsample. Both the last case and this are what
the original implementation does and what its weights are trained for; the very last block of the decoder is never used.

The Full UNet is the ablation: every input passes all levels, and an input is resized before it where o < i.
ResizedFlexiUNet resizes such inputs too, and has the levels of Flexi-UNet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.flexi_unet.blocks import (
    AttentionBlock,
    Downsample,
    GroupNorm,
    ResBlock,
    Stage,
    Upsample,
    timestep_embedding,
    zeroed,
)

Size = tuple[int, int]


class UNet(nn.Module):
    """ADM's U-Net, kept as lists of stages that a subclass walks through.

    Arguments:
        image_size: the full size, an int for square images or (H, W).
        in_channels, out_channels: channels of x_t and of the prediction.
        model_channels: base width; level l has channel_mult[l] times as many.
        num_res_blocks: residual blocks for each level of the encoder; the decoder has one more.
        attention_resolutions: downsampling factors (1, 2, 4, …) at which attention follows each residual block.
        channel_mult: width of each level.
        num_heads: attention heads.
        num_classes: number of class labels; None for an unconditional network.
        dropout, use_scale_shift_norm: as `ResBlock`.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int = 3,
        out_channels: int = 3,
        model_channels: int = 128,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (4, 8),
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        num_heads: int = 4,
        num_classes: int | None = None,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.sizes: list[Size] = [(height, width)]
        for _ in channel_mult[1:]:
            self.sizes.append((-(-self.sizes[-1][0] // 2), -(-self.sizes[-1][1] // 2)))
        self.model_channels, self.num_res_blocks, self.num_classes = model_channels, num_res_blocks, num_classes

        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)

        widths = [mult * model_channels for mult in channel_mult]

        def residual(channels: int, out: int, level: int) -> list[nn.Module]:
            blocks: list[nn.Module] = [ResBlock(channels, out, emb_channels, dropout, use_scale_shift_norm)]
            if 2**level in attention_resolutions:
                blocks.append(AttentionBlock(out, num_heads))
            return blocks

        stem = widths[0]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, stem, 3, padding=1))])
        skips, channels = [stem], stem
        for level, width_here in enumerate(widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Stage(*residual(channels, width_here, level)))
                channels = width_here
                skips.append(channels)
            if level + 1 < len(widths):
                self.input_blocks.append(Stage(Downsample(channels)))
                skips.append(channels)
        self.skip_channels = list(skips)

        self.middle_block = Stage(
            ResBlock(channels, channels, emb_channels, dropout, use_scale_shift_norm),
            AttentionBlock(channels, num_heads),
            ResBlock(channels, channels, emb_channels, dropout, use_scale_shift_norm),
        )

        self.output_blocks = nn.ModuleList()
        for level, width_here in reversed(list(enumerate(widths))):
            for index in range(num_res_blocks + 1):
                blocks = residual(channels + skips.pop(), width_here, level)
                channels = width_here
                if level and index == num_res_blocks:
                    blocks.append(Upsample(channels))
                self.output_blocks.append(Stage(*blocks))
        self.widths, self.stem = widths, stem
        self.out = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), zeroed(nn.Conv2d(channels, out_channels, 3, padding=1))
        )

    @classmethod
    def from_reference(cls, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> UNet:
        """The network of the original implementation, from its configuration and its weights.

        Raises:
            TypeError: an unknown key in `config`.
            RuntimeError: weights that do not fit the configuration.
        """
        network = cls(**config)
        network.load_state_dict(dict(state_dict))
        return network.eval()

    def embed(self, t_index: Tensor, y: Tensor | None) -> Tensor:
        """The embedding (B, 4 · model_channels) of 0-based timesteps and class labels.

        Raises:
            ValueError: labels given to an unconditional network, or missing for a conditional one.
        """
        if (y is None) != (self.num_classes is None):
            needs = "no labels" if self.num_classes is None else f"labels in 0…{self.num_classes - 1}"
            raise ValueError(f"y: expected {needs}, got {'none' if y is None else 'labels'}")
        features = timestep_embedding(t_index, self.model_channels).to(self.time_embed[0].weight.dtype)
        emb = self.time_embed(features)
        return emb if y is None else emb + self.label_emb(y)

    def level(self, size: Size, name: str) -> int:
        """The level that works on images of the given size.

        Raises:
            ValueError: no level does.
        """
        if size not in self.sizes:
            raise ValueError(f"{name}: expected one of the sizes {self.sizes}, got {size}")
        return self.sizes.index(size)

    def encode(self, h: Tensor, emb: Tensor, level: int) -> list[Tensor]:
        """All skip tensors from the entry `h` of a level on, which is the first of them."""
        skips = [h]
        for stage in self.input_blocks[self._entry(level) + 1 :]:
            skips.append(stage(skips[-1], emb))
        return skips

    def decode(self, h: Tensor, skips: list[Tensor], emb: Tensor, stages: int, sizes: Sequence[Size]) -> Tensor:
        """The middle and the first `stages` stages of the decoder, upsampling to `sizes`; once the skip tensors are
        used up, zeros take their place."""
        h = self.middle_block(h, emb)
        deepest = len(self.widths) - 1
        for count, stage in enumerate(self.output_blocks[:stages]):
            level = deepest - count // (self.num_res_blocks + 1)
            zeros = h.new_zeros(h.shape[0], self.skip_channels[-1 - count], *h.shape[-2:])
            h = stage(torch.cat([h, skips.pop() if skips else zeros], dim=1), emb, sizes[level - 1])
        return h

    def _entry(self, level: int) -> int:
        """The input block whose output is the first skip of a level: the stem or a downsampling."""
        return level * (self.num_res_blocks + 1)


class FlexiUNet(UNet):
    """The U-Net entered and left at any level through 1×1 adapters; arguments as `UNet`.

    Example:
        >>> import torch
        >>> net = FlexiUNet(32, model_channels=32, num_res_blocks=1, channel_mult=(1, 2, 2))
        >>> net(torch.zeros(2, 3, 8, 8), torch.tensor([999, 500]), size=(16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, image_size: int | Sequence[int], *args: Any, **kwargs: Any) -> None:
        super().__init__(image_size, *args, **kwargs)
        entries = [self.skip_channels[self._entry(level)] for level in range(len(self.widths))]
        self.adapters_in = nn.ModuleDict(
            {
                self._key(level): nn.Conv2d(self.stem, width, 1)
                for level, width in enumerate(entries)
                if width != self.stem
            }
        )
        self.adapters_out = nn.ModuleDict(
            {
                self._key(level): nn.Conv2d(width, self.stem, 1)
                for level, width in enumerate(self.widths)
                if width != self.stem
            }
        )

    def forward(self, x: Tensor, t_index: Tensor, size: Sequence[int] | None = None, y: Tensor | None = None) -> Tensor:
        """Predict the clean image of size `size` from x.

        Arguments:
            x: states, with shape (B, in_channels, H, W), (H, W) the size of one of the network's levels.
            t_index: 0-based timesteps, with shape (B,).
            size: size of the output: that of x (the default) or of the level above.
            y: class labels, with shape (B,), for a network with num_classes.

        Raises:
            ValueError: sizes of no level, an output more than one level above the input or below it, or labels that do
                not fit the network.
        """
        level = self.level((x.shape[-2], x.shape[-1]), "x")
        last = level if size is None else self.level((size[0], size[1]), "size")
        if not level - 1 <= last <= level:
            raise ValueError(
                f"size: expected {self.sizes[level]} or the next larger of {self.sizes}, got {self.sizes[last]}"
            )
        if last == 0 < level:
            x, level = resize(x, self.sizes[0]), 0
        emb = self.embed(t_index, y)
        h = self.input_blocks[0](x, emb)
        if self._key(level) in self.adapters_in:
            h = self.adapters_in[self._key(level)](h)
        skips = self.encode(h, emb, level)
        stages = (len(self.widths) - last) * (self.num_res_blocks + 1) - 1
        available = skips if last == level else skips[1:]
        h = self.decode(skips[-1], available, emb, stages, self.sizes)
        if self._key(last) in self.adapters_out:
            h = self.adapters_out[self._key(last)](h)
        return self.out(h)

    def _key(self, level: int) -> str:
        """Adapters are named by the side of their level, as in the original implementation."""
        height, width = self.sizes[level]
        return str(height) if height == width else f"{height}x{width}"


class ResizedFlexiUNet(FlexiUNet):
    """An ablation: Flexi-UNet entered at the level of its output, to which x is first resized (bilinearly) where it is
    smaller, so that no skip connections are zeros; arguments as `UNet`.

    Example:
        >>> import torch
        >>> net = ResizedFlexiUNet(32, model_channels=32, num_res_blocks=1, channel_mult=(1, 2, 2))
        >>> net(torch.zeros(2, 3, 8, 8), torch.tensor([999, 500]), size=(16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def forward(self, x: Tensor, t_index: Tensor, size: Sequence[int] | None = None, y: Tensor | None = None) -> Tensor:
        """Predict the clean image of size `size` from x, as `FlexiUNet.forward`, with any size of x."""
        return super().forward(resize(x, size), t_index, size, y)


class FullUNet(UNet):
    """The ablation: all levels for every resolution; arguments as `UNet`.

    Example:
        >>> import torch
        >>> net = FullUNet(32, model_channels=32, num_res_blocks=1, channel_mult=(1, 2, 2))
        >>> net(torch.zeros(2, 3, 8, 8), torch.tensor([999, 500]), size=(16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def forward(self, x: Tensor, t_index: Tensor, size: Sequence[int] | None = None, y: Tensor | None = None) -> Tensor:
        """Predict the clean image of size `size`, to which x is first resized (bilinearly) where the two differ.

        Arguments: as `FlexiUNet.forward`, with any size of x.
        """
        x = resize(x, size)
        sizes = [(x.shape[-2], x.shape[-1])]
        for _ in self.widths[1:]:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        emb = self.embed(t_index, y)
        h = self.input_blocks[0](x, emb)
        skips = self.encode(h, emb, 0)
        return self.out(self.decode(skips[-1], skips, emb, len(self.output_blocks), sizes))


def resize(x: Tensor, size: Sequence[int] | None) -> Tensor:
    """The input of a network with outputs of a size, by default its own, to which it is resized (bilinearly)."""
    if size is None or tuple(size) == tuple(x.shape[-2:]):
        return x
    return F.interpolate(x, (size[0], size[1]), mode="bilinear", align_corners=False)
