r"""Flexi-UNet (Scale Space Diffusion, Sec. 4.3): one U-Net whose encoder is entered and whose decoder is left at the
level of the resolution at hand, so that small states use the deep part of the network only.

Level l of a network built for `image_size` works on sides of image_size / 2^l; several resolutions may share one. An
input of level i passes the first convolution, a 1×1 adapter to the width that level expects, the encoder from level i
down, the middle, and the decoder up to the level o of the output, which an adapter brings to the width of the last
convolution:

    o = i        a symmetric U-Net of fewer levels;
    o < i        more levels of the decoder, without skip connections: from the block that upsamples out of level i on
                 they are zeros, since no encoder block has run there;
    full size    the input is resized to it and passes the whole network.

The decoder is left before the last block of level o, the one that would upsample. Both the last case and this are what
the original implementation does and what its weights are trained for; the very last block of the decoder is never used.
Where the output has not the size asked for, since that is not twice, four times, … the input's, it is resized. From one
resolution to another of the same level it is the input that is resized; the original implementation stops there.

The Full UNet is the ablation: every input passes all levels, and an input is resized before it where o < i.
ResizedFlexiUNet resizes such inputs too, and has the levels of Flexi-UNet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lineardiffusion._checks import as_index, as_number, check_kind
from lineardiffusion.flexi_unet.blocks import Size
from lineardiffusion.flexi_unet.checks import as_size, check_images
from lineardiffusion.flexi_unet.layers import Conv2d
from lineardiffusion.flexi_unet.unet import UNet, level_sizes


class FlexiUNet(UNet):
    """The U-Net entered and left at any level through 1×1 adapters.

    Where levels have equal widths, the original implementation has one adapter for them, under several names; here each
    has its own.

    Arguments:
        image_size, …: as `UNet`.
        unet_res_layer_map: the sizes of inputs and outputs, and for each that of the level which works on it, such as
            {64: 64, 48: 64, 32: 32} or what `shared_levels` returns; a size is n, (H, W), "n" or "HxW". By default they
            are those of the levels.

    Raises:
        ValueError: a map to sizes that no level has, of a size larger than that of its level, or of a smaller size to a
            larger level.

    Examples:
        >>> import torch
        >>> net = FlexiUNet(32, model_channels=32, num_res_blocks=1, channel_mult=(1, 2, 2))
        >>> net(torch.zeros(2, 3, 8, 8), torch.tensor([999, 500]), size=(16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        *args: Any,
        unet_res_layer_map: Mapping[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size, *args, **kwargs)
        self.levels = self._levels(unet_res_layer_map or {size: size for size in self.sizes})
        if unet_res_layer_map:
            named = {_name(size): self.sizes[level] for size, level in self.levels.items()}
            self.settings["unet_res_layer_map"] = named
        # The first of the levels of a size is the one that is entered and left: from one pixel on, more have its size.
        own = [level for level, sides in enumerate(self.sizes) if self.sizes.index(sides) == level]
        entries = {self._key(level): self.skip_channels[self.entry(level)] for level in own}
        exits = {self._key(level): self.widths[level] for level in own}
        self.adapters_in = nn.ModuleDict(
            {key: Conv2d(self.stem, width, 1) for key, width in entries.items() if width != self.stem}
        )
        self.adapters_out = nn.ModuleDict(
            {key: Conv2d(width, self.stem, 1) for key, width in exits.items() if width != self.stem}
        )

    def forward(
        self,
        x: Tensor,
        t_index: Tensor,
        size: Sequence[int] | None = None,
        y: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean image of size `size` from x.

        Arguments:
            x: states, with shape (B, in_channels, H, W), (H, W) one of the network's sizes.
            t_index: 0-based timesteps, with shape (B,).
            size: size of the output: that of x (the default) or the next larger one.
            y: class labels, with shape (B,), for a network with num_classes.
            dropout_seeds: a LongTensor (B,) that determines what is dropped of each sample; torch's generator does
                without it.

        Raises:
            ValueError: other sizes, or labels that do not fit the network.
        """
        check_images(x, t_index, self.in_channels)
        level = self.level((x.shape[-2], x.shape[-1]), "x")
        target = (x.shape[-2], x.shape[-1]) if size is None else as_size(size)
        last, known = self.level(target, "size"), list(self.levels)
        place = known.index((x.shape[-2], x.shape[-1]))
        if not place - 1 <= known.index(target) <= place:
            raise ValueError(f"size: expected {known[place]} or the next larger of {known}, got {target}")
        if last == level or target == self.sizes[0]:
            x, level = resize(x, target), last
        emb = self.embed(t_index, y)
        h = self.input_blocks[0](x, emb)
        if self._key(level) in self.adapters_in:
            h = self.adapters_in[self._key(level)](h)
        skips = self.encode(h, emb, level, dropout_seeds)
        stages = (len(self.widths) - last) * (self.num_res_blocks + 1) - 1
        available = skips if last == level else skips[1:]
        sizes = self.path((x.shape[-2], x.shape[-1]), level)
        h = self.decode(skips[-1], available, emb, stages, sizes, dropout_seeds)
        if self._key(last) in self.adapters_out:
            h = self.adapters_out[self._key(last)](h)
        return resize(self.out(h), target)

    def level(self, size: Size, name: str) -> int:
        """The level that works on images of the given size.

        Raises:
            ValueError: no level does.
        """
        if size not in self.levels:
            raise ValueError(f"{name}: expected one of the sizes {list(self.levels)}, got {size}")
        return self.levels[size]

    def _levels(self, sizes: Mapping[Any, Any]) -> dict[Size, int]:
        """The level of each size, finest first."""
        check_kind(sizes, Mapping, "unet_res_layer_map", "a mapping from sizes to sizes of levels, such as {64: 64}")
        levels = {}
        for size, of in sorted(
            ((_size(a), _size(b)) for a, b in sizes.items()), key=lambda pair: pair[0], reverse=True
        ):
            if of not in self.sizes or size[0] > of[0] or size[1] > of[1]:
                expected = f"for each size one of {self.sizes} that is not smaller"
                raise ValueError(f"unet_res_layer_map: expected {expected}, got {of} for {size}")
            levels[size] = self.sizes.index(of)
        if list(levels.values()) != sorted(levels.values()):
            raise ValueError(f"unet_res_layer_map: expected deeper levels for smaller sizes, got {levels}")
        return levels

    def _key(self, level: int) -> str:
        """Adapters are named by the side of their level, as in the original implementation."""
        return _name(self.sizes[level])


class ResizedFlexiUNet(FlexiUNet):
    """An ablation: Flexi-UNet entered at the level of its output, to which x is first resized (bilinearly) where it is
    smaller, so that no skip connections are zeros; arguments as `UNet`.

    Examples:
        >>> import torch
        >>> net = ResizedFlexiUNet(32, model_channels=32, num_res_blocks=1, channel_mult=(1, 2, 2))
        >>> net(torch.zeros(2, 3, 8, 8), torch.tensor([999, 500]), size=(16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def forward(
        self,
        x: Tensor,
        t_index: Tensor,
        size: Sequence[int] | None = None,
        y: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean image of size `size` from x, as `FlexiUNet.forward`, with any size of x."""
        return super().forward(resize(x, size), t_index, size, y, dropout_seeds)


class FullUNet(UNet):
    """The ablation: all levels for every resolution; arguments as `UNet`.

    Examples:
        >>> import torch
        >>> net = FullUNet(32, model_channels=32, num_res_blocks=1, channel_mult=(1, 2, 2))
        >>> net(torch.zeros(2, 3, 8, 8), torch.tensor([999, 500]), size=(16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def forward(
        self,
        x: Tensor,
        t_index: Tensor,
        size: Sequence[int] | None = None,
        y: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean image of size `size`, to which x is first resized (bilinearly) where the two differ.

        Arguments: as `FlexiUNet.forward`, with any size of x.
        """
        check_images(x, t_index, self.in_channels)
        x = resize(x, None if size is None else as_size(size))
        emb = self.embed(t_index, y)
        h = self.input_blocks[0](x, emb)
        skips = self.encode(h, emb, 0, dropout_seeds)
        sizes = self.path((x.shape[-2], x.shape[-1]), 0)
        h = self.decode(skips[-1], skips, emb, len(self.output_blocks), sizes, dropout_seeds)
        out: Tensor = self.out(h)
        return out


def resize(x: Tensor, size: Sequence[int] | None) -> Tensor:
    """Images at a size, by default their own, to which they are resized (bilinearly, with antialiasing)."""
    if size is None or tuple(size) == tuple(x.shape[-2:]):
        return x
    smaller = size[0] < x.shape[-2] or size[1] < x.shape[-1]  # larger images need no antialiasing, which costs time
    return F.interpolate(x, (size[0], size[1]), mode="bilinear", align_corners=False, antialias=smaller)


def shared_levels(image_size: int | Sequence[int], depth: int, num_levels: int, ds_factor: float) -> dict[Size, Size]:
    """Resolutions whose sides are a factor apart, as the original implementation chooses them, and the size of the
    level of a network that works on each: `unet_res_layer_map` of `FlexiUNet`, finest first.

    A size works at the deepest level that is not smaller. There it is rounded to multiples of 2^(depth − 1 − level),
    which the levels below halve without a remainder.

    Arguments:
        image_size: the full size, an int for square images or (H, W).
        depth: levels of the network.
        num_levels: resolutions.
        ds_factor: ratio of the sides of neighbouring resolutions, larger than 1.

    Raises:
        ValueError: more resolutions than there are different ones, or a factor that is not larger than 1.

    Examples:
        >>> shared_levels(64, depth=4, num_levels=4, ds_factor=1.5)
        {(64, 64): (64, 64), (40, 40): (64, 64), (28, 28): (32, 32), (20, 20): (32, 32)}
    """
    num_levels = as_index(num_levels, 1, 64, "num_levels")
    if not 1 < as_number(ds_factor, "ds_factor") < math.inf:
        raise ValueError(f"ds_factor: expected a number larger than 1, got {ds_factor}")
    levels = level_sizes(image_size, depth)
    size, found = levels[0], {}
    for count in range(num_levels):
        level = max(index for index, sides in enumerate(levels) if size[0] <= sides[0] and size[1] <= sides[1])
        multiple = 2 ** (depth - 1 - level)
        rounded = [
            min(limit, max(multiple, side // multiple * multiple + multiple * (2 * (side % multiple) > multiple)))
            for side, limit in zip(size, levels[level], strict=True)
        ]
        key = (rounded[0], rounded[1])
        if min(size) < 1 or key in found:
            raise ValueError(
                f"num_levels: expected at most {count} for {image_size} and a factor {ds_factor}, got {num_levels}"
            )
        found[key] = levels[level]
        size = (round(size[0] / ds_factor), round(size[1] / ds_factor))
    return found


def _name(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _size(value: Any) -> Size:
    """(H, W) of n, (H, W), or their names, the keys of JSON."""
    if isinstance(value, str) and "x" in value:
        value = value.split("x")
    return (int(value), int(value)) if isinstance(value, int | float | str) else (int(value[0]), int(value[1]))
