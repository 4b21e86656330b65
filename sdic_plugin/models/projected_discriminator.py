"""Discriminator on frozen features of natural pictures (Projected GAN, Sauer et al., 2021).

EfficientNet-Lite's four feature maps are mixed by 1x1 convolutions that stay as random as they were drawn, over
channels and, from the deepest map up, over scales; so no head can look at the features alone that are easiest to tell
apart. Only the four small heads learn. The features themselves are an input here: the network that computes them is
nobody's to save, see `load_efficientnet_lite`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.models.decorators import register_to_config
from sdic_plugin.models.efficientnet_lite import STRIDES
from sdic_plugin.models.layers import LayerList, full_precision

LITE0_FEATURES = (24, 40, 112, 320)
"""Channels of EfficientNet-Lite0's feature maps, at the strides 4, 8, 16 and 32."""
SIDES = (64, 128, 256)
"""Of the pictures that the features are computed of, in pixels."""
LAST_SIDE = 8
"""Side of the map that a head's last convolution judges."""
FIRST_ITERATIONS = 15


class SpectralConv2d(nn.Conv2d):
    """A convolution without bias whose weight, as a matrix, is divided by its largest singular value.

    The value is followed by one power iteration each time that the layer runs in training with gradients: reports,
    which run without, leave it alone, so that they can be as frequent as one likes.
    """

    direction: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.register_buffer("direction", F.normalize(torch.randn(out_channels), dim=0))
        with torch.no_grad():
            for _ in range(FIRST_ITERATIONS):
                self.direction.copy_(self._iterate(self.weight.flatten(1))[0])

    def _iterate(self, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One power iteration: both singular vectors, [out] and [in · kernel²]."""
        right = F.normalize(self.direction @ matrix, dim=0)
        return F.normalize(matrix @ right, dim=0), right

    def normalized_weight(self) -> torch.Tensor:
        """Weight of largest singular value 1, as far as it is known; float32."""
        learns = self.training and torch.is_grad_enabled()
        with full_precision(self.weight):
            matrix = self.weight.float().flatten(1)
            with torch.no_grad():
                left, right = self._iterate(matrix.detach())
                if learns:
                    self.direction.copy_(left)
            return self.weight.float() / (left @ (matrix @ right))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, in, H, W] to [B, out, h, w]."""
        return F.conv2d(x, self.normalized_weight().to(x.dtype), None, self.stride, self.padding)


class HeadBlock(nn.Module):
    """Convolution, norm and leaky ReLU.

    The norm takes the statistics of the images it is given, always: so it tells how much they differ among each other,
    and there is no memory that would mix real with generated ones.
    """

    def __init__(self, in_channels: int, out_channels: int, halves: bool) -> None:
        super().__init__()
        kernel, stride = (4, 2) if halves else (3, 1)
        self.conv = SpectralConv2d(in_channels, out_channels, kernel, stride, padding=1)
        self.norm = nn.BatchNorm2d(out_channels, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, in, H, W] to [B, out, H/2, W/2], or to [B, out, H, W] where it does not halve."""
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


class ProjectedHead(nn.Module):
    """Scores one map: blocks that halve it to 8 x 8 (at least one block, so that no score is linear), 4 x 4 windows.

    Args:
        side: The map's.
        in_channels: The map's.
        largest: Most channels; each halving doubles them.
    """

    def __init__(self, side: int, in_channels: int, largest: int) -> None:
        super().__init__()
        blocks: list[HeadBlock] = []
        width = in_channels
        while side > LAST_SIDE:
            wider = min(2 * width, largest)
            blocks.append(HeadBlock(width, wider, halves=True))
            side, width = side // 2, wider
        if not blocks:
            blocks.append(HeadBlock(width, width, halves=False))
        self.blocks = LayerList(blocks)
        self.score = SpectralConv2d(width, 1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, in_channels, side, side] to logits [B, 25]; smaller maps are enlarged to 8 x 8."""
        if x.shape[-1] < LAST_SIDE:
            x = F.interpolate(x, (LAST_SIDE, LAST_SIDE), mode="bilinear", align_corners=False)
        for block in self.blocks:
            x = block(x)
        return self.score(x).flatten(1)


class ProjectedDiscriminatorConfig(FrozenDict):
    """What type checkers know of `ProjectedDiscriminator.config`, which has the arguments of its constructor."""

    side: int
    channels: int
    feature_channels: Sequence[int]


class ProjectedDiscriminator(ModelMixin, ConfigMixin):
    """Judges how real an image looks by its features.

    Args:
        side: Of the pictures that the features are computed of, in pixels: 64, 128 or 256.
        channels: Of the finest mixed map; the deeper ones have 2, 4 and 8 times as many. 64 is as published, and half
            of that costs a quarter.
        feature_channels: Of the four feature maps; the default is EfficientNet-Lite0.

    Raises:
        SDICError: If the side is none of these.
    """

    config_name = "config.json"  # type: ignore[assignment]  # ConfigMixin declares None
    config: ProjectedDiscriminatorConfig

    features_mark: torch.Tensor

    @register_to_config
    def __init__(self, side: int = 256, channels: int = 64, feature_channels: Sequence[int] = LITE0_FEATURES) -> None:
        super().__init__()
        if side not in SIDES:
            raise SDICError(f"The side of a projected discriminator is {side}, but must be 64, 128 or 256 pixels.")
        widths = [channels * 2**i for i in range(len(feature_channels))]
        finer = [channels, *widths[:-1]]
        self.mix_channels = LayerList([_frozen(a, b) for a, b in zip(feature_channels, widths, strict=True)])
        self.mix_scales = LayerList([_frozen(a, b) for a, b in zip(widths, finer, strict=True)])
        # Mixed over scales, a map of stride 4 stands at twice its size.
        sides = [side // 2 // 2**i for i in range(len(widths))]
        self.heads = LayerList([ProjectedHead(a, b, widths[-1]) for a, b in zip(sides, finer, strict=True)])
        self.register_buffer("features_mark", torch.zeros(1))

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """Bring images [B, 3, R, R] to the side that the features are computed of."""
        side = self.config.side
        if image.shape[-1] == side:
            return image
        if image.shape[-1] < side:
            image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
        else:
            image = F.interpolate(image, (side, side), mode="area")
        return image.contiguous(memory_format=torch.channels_last)

    def mixed(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Mix feature maps [B, C, h, w], fine to coarse, over channels and scales.

        Returns:
            What the heads judge, fine to coarse: each of twice the feature map's side.
        """
        maps: list[torch.Tensor] = []
        for i in reversed(range(len(self.mix_channels))):
            x = self.mix_channels[i](features[i])
            if maps:
                x = x + maps[-1]
            # A 1x1 convolution and an enlargement give the same in either order, and this one costs a quarter.
            x = self.mix_scales[i](x)
            maps.append(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        return maps[::-1]

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Score images by their features: logits [B, 100], high for real, 25 places in each of four maps.

        Args:
            features: Four maps [B, C, h, w] at the strides 4, 8, 16 and 32 of images that `resize` gave.

        Raises:
            ImageError: If the maps are not those of such images.
        """
        sides = [self.config.side // stride for stride in STRIDES]
        expected = list(zip(self.config.feature_channels, sides, strict=True))
        if [(x.shape[1], x.shape[-1]) for x in features] != expected:
            raise ImageError(
                f"A projected discriminator was given features of shapes {[list(x.shape) for x in features]}, but "
                f"needs (channels, side) {expected}: give those of images of {self.config.side} pixels."
            )
        return torch.cat([head(x) for head, x in zip(self.heads, self.mixed(features), strict=True)], dim=1)


def _frozen(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A random 1x1 convolution that keeps the values' scale, and never learns."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False).requires_grad_(False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    return conv
