"""StyleGAN2 discriminator (residual): the adversary in training, and a perceptual network that needs no download."""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from sdic_plugin.models.decorators import register_to_config
from sdic_plugin.models.layers import (
    EqualizedConv2d,
    EqualizedLinear,
    FIRFilter,
    LayerList,
    full_precision,
    scaled_leaky_relu,
)
from sdic_plugin.models.stylegan2 import channel_table


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = EqualizedConv2d(in_channels, in_channels, 3, padding=1)
        self.conv2 = EqualizedConv2d(in_channels, out_channels, 3, stride=2)
        self.skip = EqualizedConv2d(in_channels, out_channels, 1, bias=False)
        self.blur = FIRFilter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, in, H, W] to [B, out, H/2, W/2]."""
        # Of the filtered map, the published strided 1x1 convolution reads every other row and column.
        skip = self.skip(self.blur.downsample(x))
        x = scaled_leaky_relu(self.conv1(x))
        x = scaled_leaky_relu(self.conv2(self.blur(x, padding=2)))
        return (x + skip) / math.sqrt(2)


class StyleGAN2DiscriminatorConfig(FrozenDict):
    """What type checkers know of `StyleGAN2Discriminator.config`, which has the arguments of its constructor."""

    resolution: int
    channels: dict[str, int] | None
    channel_multiplier: int


class StyleGAN2Discriminator(ModelMixin, ConfigMixin):
    """Judges how real an image looks; its block outputs also serve as perceptual features.

    Args:
        resolution: Side of the image in pixels.
        channels: Channels per resolution, such as {"4": 512, …}; None for the published table.
        channel_multiplier: Factor of the published table from 64 px on.
    """

    config_name = "config.json"  # type: ignore[assignment]  # ConfigMixin declares None
    config: StyleGAN2DiscriminatorConfig

    @register_to_config
    def __init__(
        self, resolution: int = 1024, channels: dict[str, int] | None = None, channel_multiplier: int = 2
    ) -> None:
        super().__init__()
        table = channel_table(resolution, channels, channel_multiplier)
        widths = list(table.values())[::-1]
        self.from_rgb = EqualizedConv2d(3, widths[0], 1)
        self.blocks = LayerList([DiscriminatorBlock(widths[i], widths[i + 1]) for i in range(len(widths) - 1)])
        self.final_conv = EqualizedConv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.final_linear = EqualizedLinear(widths[-1] * 16, widths[-1])
        self.score = EqualizedLinear(widths[-1], 1)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Compute the output of every block, fine to coarse, for an image [B, 3, R, R] in [-1, 1]."""
        x = scaled_leaky_relu(self._from_pixels(image.to(self.dtype)))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def _from_pixels(self, image: torch.Tensor) -> torch.Tensor:
        device = image.device.type
        if device != "cpu" or not torch.is_autocast_enabled(device):
            return self.from_rgb(image)
        # In bfloat16 R1's second derivative of this layer ends the process on CPUs with AMX, by a division by zero in
        # oneDNN, where a batch has 2^19 pixels: 32 images of 128 px, 128 of 64 px (torch 2.13.0).
        with full_precision(image):
            return self.from_rgb(image.float()).to(torch.get_autocast_dtype(device))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Score images [B, 3, R, R] in [-1, 1]: logits [B, 1], high for real."""
        x = self.features(image)[-1]
        x = torch.cat([x, minibatch_deviation(x)], dim=1)
        x = scaled_leaky_relu(self.final_conv(x))
        return self.score(scaled_leaky_relu(self.final_linear(x.flatten(1))))


def minibatch_deviation(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """Mean standard deviation over groups of the batch, as one more channel [B, 1, H, W]."""
    batch, channels, height, width = x.shape
    group = min(group, batch) if batch % min(group, batch) == 0 else batch
    y = x.float().reshape(group, -1, channels, height, width)
    deviation = torch.sqrt(y.var(dim=0, unbiased=False) + 1e-8).mean(dim=(1, 2, 3), keepdim=True)
    return deviation.repeat(group, 1, height, width).to(x.dtype)
