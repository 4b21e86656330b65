"""DIPN, the discrepancy information prediction network (SDIC, section 3.2): what did the initial inversion lose?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from torch import nn

from sdic_plugin.errors import SDICError
from sdic_plugin.models.basic_conv import BasicConv
from sdic_plugin.models.cpu.inference import fast_layout, upsample_volume
from sdic_plugin.models.cpu.packing import FusableMixin
from sdic_plugin.models.decorators import register_to_config
from sdic_plugin.models.irse import IRSEUnit
from sdic_plugin.models.layers import LayerList, conv3x3


class ImageBranch(nn.Module):
    """Downward path of one image: five BasicConvs, read at full, half, quarter and eighth size."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        strides = [1, 2, 1, 2, 2]
        widths = [3, *channels]
        self.convs = LayerList([BasicConv(widths[i], widths[i + 1], stride=strides[i]) for i in range(5)])

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Map [B, 3, H, W] to the skips at H, H/2, H/4 and H/8."""
        full = self.convs[0](image)
        half = self.convs[2](self.convs[1](full))
        quarter = self.convs[3](half)
        return [full, half, quarter, self.convs[4](quarter)]


class UpwardStage(nn.Module):
    """Doubles the coarse level and merges the skip of that size."""

    def __init__(self, in_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.upsample = BasicConv(in_channels, skip_channels, transposed=True)
        self.merge = BasicConv(2 * skip_channels, 2 * skip_channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Map [B, in, h, w] and [B, skip, 2h, 2w] to [B, 2·skip, 2h, 2w]."""
        return self.merge(torch.cat([self.upsample(x), skip], dim=1))


class UpwardPath(nn.Module):
    """Upward path, shared by both branches: turns the skips into a pyramid with context."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        full, _, half, quarter, eighth = channels
        self.to_quarter = UpwardStage(eighth, quarter)
        self.to_half = UpwardStage(2 * quarter, half)
        self.to_full = UpwardStage(2 * half, full)
        self.smooth = BasicConv(2 * full, 2 * full)

    def forward(self, skips: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map the four skips to the pyramid at H, H/2, H/4 and H/8."""
        full, half, quarter, eighth = skips
        quarter = self.to_quarter(eighth, quarter)
        half = self.to_half(quarter, half)
        full = self.smooth(self.to_full(half, full))
        return [full, half, quarter, eighth]


class ContextFusion(nn.Module):
    """Gates the context of the original image into the volume (SDIC's context-guided fusion)."""

    def __init__(self, channels: int, context_channels: int) -> None:
        super().__init__()
        self.semantic = nn.Sequential(
            BasicConv(context_channels, context_channels // 2, kernel_size=1),
            nn.Conv2d(context_channels // 2, channels, 1),
        )
        self.attention = nn.Sequential(
            BasicConv(channels, channels, kernel_size=(1, 5, 5), dimensions=3),
            nn.Conv3d(channels, channels, 1, bias=False),
        )
        self.aggregate = BasicConv(channels, channels, kernel_size=(1, 5, 5), dimensions=3)

    def forward(self, volume: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Fuse the context [B, c, h, w] into the volume [B, C, D, h, w]."""
        semantic = self.semantic(context)[:, :, None]
        gate = torch.sigmoid(self.attention(semantic + volume))
        return self.aggregate(torch.addcmul(volume, gate, semantic))


class HourglassFusion(nn.Module):
    """3-D hourglass over the matching volume, guided by the original image's pyramid before every upward step."""

    def __init__(self, channels: list[int], context_channels: list[int]) -> None:
        super().__init__()
        base, half, quarter, eighth = channels
        half_context, quarter_context, eighth_context = context_channels
        self.down_half = self._down(base, half)
        self.down_quarter = self._down(half, quarter)
        self.down_eighth = self._down(quarter, eighth)
        self.up_quarter = BasicConv(eighth, quarter, dimensions=3, transposed=True)
        self.up_half = BasicConv(quarter, half, dimensions=3, transposed=True)
        # The last step is bare: no norm and no activation act on the full-size volume.
        self.up_full = nn.ConvTranspose3d(half, 1, 4, 2, 1, bias=False)
        self.merge_quarter = self._merge(quarter)
        self.merge_half = self._merge(half)
        self.fuse_eighth = ContextFusion(eighth, eighth_context)
        self.fuse_quarter = ContextFusion(quarter, quarter_context)
        self.fuse_half = ContextFusion(half, half_context)

    @staticmethod
    def _down(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            BasicConv(in_channels, out_channels, stride=2, dimensions=3),
            BasicConv(out_channels, out_channels, dimensions=3),
        )

    @staticmethod
    def _merge(channels: int) -> nn.Sequential:
        return nn.Sequential(
            BasicConv(2 * channels, channels, kernel_size=1, dimensions=3),
            BasicConv(channels, channels, dimensions=3),
            BasicConv(channels, channels, dimensions=3),
        )

    def forward(self, volume: torch.Tensor, pyramid: list[torch.Tensor]) -> torch.Tensor:
        """Map the volume [B, C, D, H, W] and the original's pyramid to a volume [B, 1, D, H, W]."""
        _, half_context, quarter_context, eighth_context = pyramid
        half = self.down_half(volume)
        quarter = self.down_quarter(half)
        x = self.fuse_eighth(self.down_eighth(quarter), eighth_context)
        x = self.merge_quarter(torch.cat([self.up_quarter(x), quarter], dim=1))
        x = self.fuse_quarter(x, quarter_context)
        x = self.merge_half(torch.cat([self.up_half(x), half], dim=1))
        return upsample_volume(self.up_full, self.fuse_half(x, half_context))


class DIPNConfig(FrozenDict):
    """What type checkers know of `DIPN.config`, which has the arguments of its constructor."""

    branch_channels: Sequence[int]
    matching_channels: int
    volume_channels: Sequence[int]
    head_channels: int


class DIPN(FusableMixin, ConfigMixin):
    """Predicts the discrepancy map between an image and its initial reconstruction (method: SDIC, 3.3).

    Fully convolutional: any size divisible by 8.

    Args:
        branch_channels: Channels of the five convolutions of each image branch.
        matching_channels: Channels each image gives to the matching volume; the volume's depth is twice that, a
            multiple of 8.
        volume_channels: Channels of the volume at full, half, quarter and eighth size.
        head_channels: Channels of the head before the three last bottlenecks.
    """

    config_name = "config.json"  # type: ignore[assignment]  # ConfigMixin declares None
    config: DIPNConfig

    @register_to_config
    def __init__(
        self,
        branch_channels: Sequence[int] = (16, 24, 32, 96, 160),
        matching_channels: int = 24,
        volume_channels: Sequence[int] = (8, 16, 32, 48),
        head_channels: int = 16,
    ) -> None:
        super().__init__()
        depth = 2 * matching_channels
        if depth % 8:
            raise SDICError(f"DIPN's matching_channels is {matching_channels}, but must be a multiple of 4.")
        full, _, half, quarter, eighth = branch_channels
        self.original_branch = ImageBranch(list(branch_channels))
        self.initial_branch = ImageBranch(list(branch_channels))
        self.upward_path = UpwardPath(list(branch_channels))
        self.matching = nn.Sequential(BasicConv(2 * full, depth), nn.Conv2d(depth, matching_channels, 1))
        self.volume_stem = BasicConv(1, volume_channels[0], dimensions=3)
        self.hourglass = HourglassFusion(list(volume_channels), [2 * half, 2 * quarter, eighth])
        self.head = nn.Sequential(
            BasicConv(depth, head_channels),
            conv3x3(head_channels, head_channels),
            nn.BatchNorm2d(head_channels),
            nn.ReLU(),
        )
        self.to_rgb = nn.Sequential(
            IRSEUnit(head_channels, 3, 1, squeeze_excitation=False),
            IRSEUnit(3, 3, 1, squeeze_excitation=False),
            IRSEUnit(3, 3, 1, squeeze_excitation=False),
        )

    def forward(
        self, image: torch.Tensor, initial: torch.Tensor, return_dict: bool = True
    ) -> torch.Tensor | tuple[torch.Tensor]:
        """Predict what the initial inversion lost.

        Args:
            image: Original, [B, 3, H, W] in [-1, 1]; H and W divisible by 8.
            initial: Initial reconstruction at the same size and range.
            return_dict: False wraps the one result in a tuple, as every model of diffusers does.

        Returns:
            Discrepancy map, [B, 3, H, W], unbounded, trained towards `image - initial`.

        Raises:
            SDICError: If the sizes differ or are not divisible by 8.
        """
        self._check_sizes(image, initial)
        # Input.
        dtype = self.dtype  # which diffusers looks for in every layer
        image, initial = fast_layout(image.to(dtype)), fast_layout(initial.to(dtype))
        original_pyramid = self.upward_path(self.original_branch(image))
        initial_pyramid = self.upward_path(self.initial_branch(initial))

        # Main layers: the channels of both images are the depth axis of one volume.
        volume = torch.cat([self.matching(original_pyramid[0]), self.matching(initial_pyramid[0])], dim=1)
        volume = self.hourglass(self.volume_stem(volume[:, None]), original_pyramid)

        # To RGB.
        discrepancy = self.to_rgb(self.head(fast_layout(volume[:, 0]))).contiguous()
        return discrepancy if return_dict else (discrepancy,)

    @staticmethod
    def _check_sizes(image: torch.Tensor, initial: torch.Tensor) -> None:
        if image.shape != initial.shape or image.shape[2] % 8 or image.shape[3] % 8:
            raise SDICError(
                f"DIPN was given an image of shape {list(image.shape)} and an initial reconstruction of shape "
                f"{list(initial.shape)}: they must be equal, with height and width divisible by 8."
            )
