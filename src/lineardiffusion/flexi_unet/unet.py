"""ADM's U-Net (Dhariwal & Nichol, 2021, https://arxiv.org/abs/2105.05233), as parts that a network walks through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lineardiffusion._checks import as_index, as_shape
from lineardiffusion.flexi_unet.blocks import AttentionBlock, Downsample, ResBlock, Size, Stage, Upsample
from lineardiffusion.flexi_unet.checks import check_labels, check_settings
from lineardiffusion.flexi_unet.layers import Conv2d, Dropout, GroupNorm, timestep_embedding, zeroed


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
        num_head_channels, use_new_attention_order: as `AttentionBlock`.
        num_heads_upsample: attention heads of the decoder; −1 for num_heads.
        resblock_updown: residual blocks change the resolution, instead of `Downsample` and `Upsample`.
        conv_resample: `Downsample` and `Upsample` convolve.
        use_checkpoint: compute the activations of a stage again in the backward pass instead of keeping them.

    Attributes:
        settings: all arguments, of what JSON knows, from which an equal network is made.

    Raises:
        ValueError: no levels, or fewer than one block or channel in one of them.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int = 3,
        out_channels: int = 3,
        model_channels: int = 128,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (4, 8),
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        num_heads: int = 4,
        num_classes: int | None = None,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        resblock_updown: bool = False,
        conv_resample: bool = True,
        use_new_attention_order: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        check_settings(settings)
        super().__init__()
        self.settings: dict[str, Any] = settings
        widths = [int(mult * model_channels) for mult in channel_mult]
        if not widths or min(widths) < 1:
            raise ValueError(
                f"channel_mult, model_channels: expected at least one level, with at least one channel, got {widths}"
            )
        if num_res_blocks < 1:
            raise ValueError(f"num_res_blocks: expected at least 1, got {num_res_blocks}")
        self.sizes = level_sizes(image_size, len(channel_mult))
        self.model_channels, self.num_res_blocks, self.num_classes = model_channels, num_res_blocks, num_classes
        self.in_channels, self.dropout, self.use_checkpoint = in_channels, dropout, use_checkpoint

        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)

        residual = partial(
            ResBlock, emb_channels=emb_channels, dropout=dropout, use_scale_shift_norm=use_scale_shift_norm
        )
        attention = partial(
            AttentionBlock, num_head_channels=num_head_channels, use_new_attention_order=use_new_attention_order
        )

        def blocks(channels: int, out: int, level: int, heads: int) -> list[nn.Module]:
            attends = 2**level in attention_resolutions
            return [residual(channels, out), *([attention(out, heads)] if attends else [])]

        stem = widths[0]
        self.input_blocks = nn.ModuleList([Stage([Conv2d(in_channels, stem, 3, padding=1)])])
        skips, channels = [stem], stem
        for level, width_here in enumerate(widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Stage(blocks(channels, width_here, level, num_heads)))
                channels = width_here
                skips.append(channels)
            if level + 1 < len(widths):
                down = (
                    residual(channels, channels, down=True) if resblock_updown else Downsample(channels, conv_resample)
                )
                self.input_blocks.append(Stage([down]))
                skips.append(channels)
        self.skip_channels = list(skips)

        self.middle_block = Stage(
            [residual(channels, channels), attention(channels, num_heads), residual(channels, channels)]
        )

        self.output_blocks = nn.ModuleList()
        heads = num_heads if num_heads_upsample == -1 else num_heads_upsample
        for level, width_here in reversed(list(enumerate(widths))):
            for index in range(num_res_blocks + 1):
                stage = blocks(channels + skips.pop(), width_here, level, heads)
                channels = width_here
                if level and index == num_res_blocks:
                    up = residual(channels, channels, up=True) if resblock_updown else Upsample(channels, conv_resample)
                    stage.append(up)
                self.output_blocks.append(Stage(stage))
        self.widths, self.stem = widths, stem
        self.out = nn.Sequential(GroupNorm(channels), nn.SiLU(), zeroed(Conv2d(channels, out_channels, 3, padding=1)))
        for layer, module in enumerate(module for module in self.modules() if isinstance(module, Dropout)):
            module.layer = layer

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
        if y is not None and self.num_classes is not None:
            check_labels(y, self.num_classes, len(t_index))
        features = timestep_embedding(t_index, self.model_channels).to(next(self.time_embed.parameters()).dtype)
        emb: Tensor = self.time_embed(features)
        return emb if y is None else emb + self.label_emb(y)

    def encode(self, h: Tensor, emb: Tensor, level: int, seeds: Tensor | None = None) -> list[Tensor]:
        """All skip tensors from the entry `h` of a level on, which is the first of them."""
        skips = [h]
        for stage in self.input_blocks[self.entry(level) + 1 :]:
            skips.append(self._run(stage, skips[-1], emb, (0, 0), seeds))
        return skips

    def decode(
        self,
        h: Tensor,
        skips: list[Tensor],
        emb: Tensor,
        stages: int,
        sizes: Sequence[Size],
        seeds: Tensor | None = None,
    ) -> Tensor:
        """The middle and the first `stages` stages of the decoder, upsampling to `sizes`; once the skip tensors are
        used up, zeros take their place."""
        h = self._run(self.middle_block, h, emb, (0, 0), seeds)
        deepest = len(self.widths) - 1
        for count, stage in enumerate(self.output_blocks[:stages]):
            level = deepest - count // (self.num_res_blocks + 1)
            zeros = h.new_zeros(h.shape[0], self.skip_channels[-1 - count], *h.shape[-2:])
            joined = torch.cat([h, skips.pop() if skips else zeros], dim=1)
            h = self._run(stage, joined, emb, sizes[level - 1], seeds)
        return h

    def path(self, size: Size, level: int) -> list[Size]:
        """The sizes at all levels of an image that enters at one of them: halves below it, twice the size above."""
        sizes = level_sizes(size, len(self.widths) - level)
        for height, width in reversed(self.sizes[:level]):
            sizes.insert(0, (min(2 * sizes[0][0], height), min(2 * sizes[0][1], width)))
        return sizes

    def entry(self, level: int) -> int:
        """The input block whose output is the first skip of a level: the stem or a downsampling."""
        return level * (self.num_res_blocks + 1)

    def _run(self, stage: nn.Module, *arguments: Any) -> Tensor:
        h: Tensor = checkpoint(stage, *arguments, use_reentrant=False) if self.use_checkpoint else stage(*arguments)
        return h


def level_sizes(image_size: int | Sequence[int], levels: int) -> list[Size]:
    """The sizes of a network's levels, each half of the one before, rounded up."""
    given = (image_size, image_size) if isinstance(image_size, int) else image_size
    sides = as_shape(given, "image_size")
    if len(sides) != 2:
        raise ValueError(f"image_size: expected one side, or (H, W), got {sides}")
    height, width = sides
    levels = as_index(levels, 1, 64, "depth")
    sizes = [(height, width)]
    for _ in range(levels - 1):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes
