"""e4e encoder (Tov et al., 2021): a feature pyramid on an IR-SE trunk that gives one style per generator layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from torch import nn

from sdic_plugin.errors import SDICError
from sdic_plugin.models.cpu.packing import FusableConv, FusableMixin, conv_block, packing_applies
from sdic_plugin.models.decorators import register_to_config
from sdic_plugin.models.irse import irse_stage
from sdic_plugin.models.layers import EqualizedLinear, LayerList, conv3x3

COARSE_STYLES, MIDDLE_STYLES = 3, 4
"""Heads 0–2 read the coarsest level, heads 3–6 the middle one, all others the finest."""


class StyleHead(nn.Module):
    """Maps one pyramid level to one style: stride-2 convolutions down to 1x1, then an equalised linear layer."""

    def __init__(self, in_channels: int, channels: int, style_width: int, size: int) -> None:
        super().__init__()
        steps = math.ceil(math.log2(size))
        widths = [in_channels] + [channels] * steps
        self.convs = LayerList([nn.Conv2d(widths[i], channels, 3, 2, 1) for i in range(steps)])
        self.linear = EqualizedLinear(channels, style_width)

    def fusable_convs(self) -> list[FusableConv]:
        """Every convolution of the head."""
        return [FusableConv(conv) for conv in self.convs]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a level [B, in_channels, h, w] to a style [B, style_width], float32."""
        for conv in self.convs:
            x = conv_block(conv, x, slope=0.01)
        return self.linear(x.flatten(1))


class E4EEncoderConfig(FrozenDict):
    """What type checkers know of `E4EEncoder.config`, which has the arguments of its constructor."""

    image_size: int
    num_styles: int
    style_width: int
    stage_channels: Sequence[int]
    stage_units: Sequence[int]
    head_channels: int
    progressive: bool


class E4EEncoder(FusableMixin, ConfigMixin):
    """Finds the W+ latents of an image (method: SDIC, 3.2).

    Args:
        image_size: Side of the square the input is made for (256 published); wide pictures have fewer rows.
        num_styles: Number of styles of the generator.
        style_width: Width of each style.
        stage_channels: Channels of the trunk's four stages; the first is the stem's as well.
        stage_units: Bottlenecks in each stage.
        head_channels: Channels inside the heads.
        progressive: True for e4e, where every style is the first one plus an offset; False for pSp.
    """

    config_name = "config.json"  # type: ignore[assignment]  # ConfigMixin declares None
    config: E4EEncoderConfig
    latent_avg: torch.Tensor

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        num_styles: int = 18,
        style_width: int = 512,
        stage_channels: Sequence[int] = (64, 128, 256, 512),
        stage_units: Sequence[int] = (3, 4, 14, 3),
        head_channels: int = 512,
        progressive: bool = True,
    ) -> None:
        super().__init__()
        if image_size < 32 or image_size % 16:
            raise SDICError(f"The encoder's image_size is {image_size}, but must be a multiple of 16, at least 32.")
        stem, _, fine, coarse = stage_channels[0], *stage_channels[1:]
        self.stem = nn.Sequential(conv3x3(3, stem), nn.BatchNorm2d(stem), nn.PReLU(stem))
        widths = [stem, *stage_channels]
        self.stages = nn.ModuleList(
            [nn.Sequential(*irse_stage(widths[i], widths[i + 1], stage_units[i])) for i in range(4)]
        )
        self.lateral_middle = nn.Conv2d(fine, coarse, 1)
        self.lateral_fine = nn.Conv2d(stage_channels[1], coarse, 1)
        sizes = [self._level_size(i, image_size) for i in range(num_styles)]
        self.heads = LayerList([StyleHead(coarse, head_channels, style_width, size) for size in sizes])
        self.register_buffer("latent_avg", torch.zeros(num_styles, style_width))

    @staticmethod
    def _level_size(style: int, image_size: int) -> int:
        if style < COARSE_STYLES:
            return image_size // 16
        return image_size // 8 if style < COARSE_STYLES + MIDDLE_STYLES else image_size // 4

    def pyramid(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the three levels, coarse to fine, [B, C, H/16, W/16], [B, C, H/8, W/8] and [B, C, H/4, W/4]."""
        x = self.stages[0](self.stem(image))
        fine = self.stages[1](x)
        middle = self.stages[2](fine)
        coarse = self.stages[3](middle)
        middle = self._upsample_add(coarse, self.lateral_middle(middle))
        return coarse, middle, self._upsample_add(middle, self.lateral_fine(fine))

    @staticmethod
    def _upsample_add(x: torch.Tensor, lateral: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=lateral.shape[2:], mode="bilinear", align_corners=True) + lateral

    def forward(
        self, image: torch.Tensor, active_offsets: int | None = None, return_dict: bool = True
    ) -> torch.Tensor | tuple[torch.Tensor]:
        """Find the latents of an image.

        Args:
            image: [B, 3, H, W] in [-1, 1], W = `image_size` (H less where the generator has `content_rows`).
            active_offsets: Use only this many of the offsets to the first style (e4e's progressive training).
            return_dict: False wraps the one result in a tuple, as every model of diffusers does.

        Returns:
            W+ latents, [B, num_styles, style_width], float32, the mean latent included.
        """
        image = image.to(self.dtype)
        if packing_applies(image) and self.is_fused:  # packed convolutions want and give channels last
            image = image.contiguous(memory_format=torch.channels_last)
        coarse, middle, fine = self.pyramid(image)
        levels = [coarse] * COARSE_STYLES + [middle] * MIDDLE_STYLES
        levels += [fine] * (self.config.num_styles - len(levels))
        if active_offsets is None or not self.config.progressive:
            active_offsets = self.config.num_styles - 1
        active = list(zip(self.heads, levels, strict=False))[: active_offsets + 1]
        styles = [head(level) for head, level in active]
        if self.config.progressive:
            styles = [styles[0]] + [styles[0] + offset for offset in styles[1:]]
            styles += [styles[0]] * (self.config.num_styles - len(styles))
        latents = torch.stack(styles, dim=1) + self.latent_avg.float()
        return latents if return_dict else (latents,)
