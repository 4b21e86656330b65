"""DICN, the discrepancy information compensation network (SDIC, section 3.3): puts the lost information back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from sdic_plugin.errors import SDICError
from sdic_plugin.models.basic_conv import BasicConv
from sdic_plugin.models.cpu.inference import fast_layout
from sdic_plugin.models.cpu.packing import FusableMixin
from sdic_plugin.models.decorators import register_to_config
from sdic_plugin.models.layers import EqualizedConv2d, ScaledLeakyReLU, conv3x3
from sdic_plugin.models.network_output import FROM_MAPPING, NetworkOutput
from sdic_plugin.models.residual import ResidualNetwork, at_size_of


@dataclass
class DICNOutput(NetworkOutput):
    """Compensated features and latents.

    Attributes:
        compensated_features: F⁺, [B, C, r, r], in the dtype of the features.
        compensated_latents: w⁺, [B, num_styles, D], float32.
    """

    compensated_features: torch.Tensor
    compensated_latents: torch.Tensor = FROM_MAPPING


class FeatureCompensation(nn.Module):
    """F⁺ = F + σ(A(f(D) + F)) ⊙ f(D): a gated addition to the generator's feature map.

    Beyond the paper, residual blocks on [f, F] may add to f before it is gated.
    """

    def __init__(
        self,
        feature_channels: int,
        stem_channels: list[int],
        strides: list[int],
        residual_blocks: int,
        residual_channels: int,
    ) -> None:
        super().__init__()
        first, second = stem_channels
        self.stem = nn.Sequential(conv3x3(3, first), nn.BatchNorm2d(first), nn.PReLU(first))
        self.semantic = nn.Sequential(
            BasicConv(first, second, stride=strides[0]),
            conv3x3(second, second),
            BasicConv(second, feature_channels, stride=strides[1]),
            conv3x3(feature_channels, feature_channels),
        )
        self.attention = nn.Sequential(
            BasicConv(feature_channels, feature_channels), conv3x3(feature_channels, feature_channels)
        )
        if residual_blocks:
            self.residual = ResidualNetwork(2 * feature_channels, feature_channels, residual_blocks, residual_channels)

    def forward(self, discrepancy: torch.Tensor, features: torch.Tensor, first_row: int) -> torch.Tensor:
        """Compensate the features [B, C, r, r]; rows before `first_row` and below the map hold no picture."""
        addition = self.semantic(self.stem(discrepancy))
        if hasattr(self, "residual"):
            picture = features[:, :, first_row : first_row + addition.shape[2]]
            addition = addition + self.residual(torch.cat([addition, picture], dim=1))
        return gated_addition(self.attention, pad_rows(addition, features, first_row), features)


def gated_addition(attention: nn.Module, addition: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """F⁺ = F + σ(A(f + F)) ⊙ f for f and F, both [B, C, r, r]."""
    return torch.sigmoid(attention(addition + features)) * addition + features


def pad_rows(picture: torch.Tensor, features: torch.Tensor, first_row: int) -> torch.Tensor:
    """Put a map [B, C, h, r] of the picture among rows of zeros: onto features [B, C, r, r], from `first_row` on."""
    return F.pad(picture, (0, 0, first_row, features.shape[2] - picture.shape[2] - first_row))


class SecondLook(nn.Module):
    """F⁺⁺ = F⁺ + h(F⁺, photo, D, photo − rendering of F⁺): what the first look missed (beyond the paper)."""

    def __init__(self, feature_channels: int, reduction: int, blocks: int, channels: int) -> None:
        super().__init__()
        seen = 3 * 3 * reduction**2
        self.network = ResidualNetwork(feature_channels + seen, feature_channels, blocks, channels)

    def forward(
        self,
        photo: torch.Tensor,
        discrepancy: torch.Tensor,
        rendering: torch.Tensor,
        features: torch.Tensor,
        first_row: int,
    ) -> torch.Tensor:
        """Add to features [B, C, r, r]; the others are images [B, 3, h, w] of the same size."""
        images = at_size_of(features, torch.cat([photo, discrepancy, photo - rendering], dim=1))
        picture = features[:, :, first_row : first_row + images.shape[2]]
        return features + pad_rows(self.network(torch.cat([picture, images], dim=1)), features, first_row)


class LatentCompensation(nn.Module):
    """w⁺ = (1 + γ(D)) ⊙ w + θ(D): an affine change of the latents."""

    def __init__(self, num_styles: int, style_width: int, condition_channels: int, condition_size: int) -> None:
        super().__init__()
        self.condition_size, self.style_width = condition_size, style_width
        rows = condition_rows(condition_channels, condition_size, style_width)
        self.condition = nn.Sequential(
            EqualizedConv2d(3, condition_channels, 3, padding=1),
            ScaledLeakyReLU(),
            EqualizedConv2d(condition_channels, condition_channels, 3, padding=1),
        )
        self.semantic = nn.Sequential(
            nn.Conv1d(rows, rows // 2, 1),
            nn.BatchNorm1d(rows // 2),
            nn.LeakyReLU(0.01),
            nn.Conv1d(rows // 2, num_styles, 1),
        )
        self.scale = self._branch(num_styles)
        self.shift = self._branch(num_styles)

    @staticmethod
    def _branch(num_styles: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv1d(num_styles, num_styles, 3, padding=1),
            nn.BatchNorm1d(num_styles),
            nn.LeakyReLU(0.01),
            nn.Conv1d(num_styles, num_styles, 1, bias=False),
        )

    def forward(self, discrepancy: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Compensate the latents [B, num_styles, D], float32."""
        size = (self.condition_size, self.condition_size)
        condition = F.interpolate(self.condition(discrepancy), size=size, mode="bilinear", align_corners=False)
        semantic = self.semantic(condition.reshape(condition.shape[0], -1, self.style_width))
        return self.scale(semantic).float() * latents + latents + self.shift(semantic).float()


class DICNConfig(FrozenDict):
    """What type checkers know of `DICN.config`, which has the arguments of its constructor."""

    feature_channels: int
    num_styles: int
    style_width: int
    condition_channels: int
    condition_size: int
    stem_channels: Sequence[int]
    strides: Sequence[int]
    residual_blocks: int
    residual_channels: int | None
    second_look_blocks: int
    second_look_channels: int | None
    second_looks: int


class DICN(FusableMixin, ConfigMixin):
    """Compensates the generator's features and latents with the discrepancy map (method: SDIC, 3.4).

    Args:
        feature_channels: Channels of the generator's feature map at the hook.
        num_styles: Number of styles of the generator.
        style_width: Width of each style.
        condition_channels: Channels of the latent path's condition (18 in published weights, whatever the styles).
        condition_size: Side of the condition map; channels · size² must be a multiple of 2 · style_width.
        stem_channels: Channels of the feature path before and after its first step down.
        strides: Strides of the feature path's two steps; their product is the image's size over the features'
            (4 in published weights; 2 brings a small generator's hook closer to its picture).
        residual_blocks: Residual blocks on what is added to the features, 0 as published.
        residual_channels: Their width; None for that of the features.
        second_look_blocks: Residual blocks of a second look at the photo, see `look_again`; 0 for none, as published.
        second_look_channels: Their width; None for that of the features.
        second_looks: Number of second looks, each with blocks of its own, each at what the one before left.

    Raises:
        SDICError: If the strides are none of these, there are no second looks, or the condition does not divide, see
            `condition_rows`.
    """

    config_name = "config.json"  # type: ignore[assignment]  # ConfigMixin declares None
    config: DICNConfig

    @register_to_config
    def __init__(
        self,
        feature_channels: int = 512,
        num_styles: int = 18,
        style_width: int = 512,
        condition_channels: int = 18,
        condition_size: int = 64,
        stem_channels: Sequence[int] = (32, 64),
        strides: Sequence[int] = (2, 2),
        residual_blocks: int = 0,
        residual_channels: int | None = None,
        second_look_blocks: int = 0,
        second_look_channels: int | None = None,
        second_looks: int = 1,
    ) -> None:
        super().__init__()
        if len(strides) != 2 or not set(strides) <= {1, 2}:
            raise SDICError(f"DICN's strides are {list(strides)}, but must be two of 1 or 2.")
        self.features = FeatureCompensation(
            feature_channels,
            list(stem_channels),
            list(strides),
            residual_blocks,
            residual_channels or feature_channels,
        )
        if second_looks < 1:
            raise SDICError(f"DICN's second_looks is {second_looks}, but must be a whole number from 1 on.")
        if second_look_blocks:
            width = second_look_channels or feature_channels
            looks = [
                SecondLook(feature_channels, self.reduction, second_look_blocks, width) for _ in range(second_looks)
            ]
            self.second_look, self.later_looks = looks[0], nn.ModuleList(looks[1:])
        self.latents = LatentCompensation(num_styles, style_width, condition_channels, condition_size)

    @property
    def reduction(self) -> int:
        """The image's size over the feature map's: the product of the strides."""
        return self.config.strides[0] * self.config.strides[1]

    @property
    def looks(self) -> list[nn.Module]:
        """The second looks, for each of which `look_again` is to be called; none as published."""
        return [self.second_look, *self.later_looks] if self.config.second_look_blocks > 0 else []

    @torch.no_grad()
    def reset_to_identity(self) -> None:
        """Zero the last convolutions, so that training starts from no compensation at all (new ones of others are)."""
        for last in (self.features.semantic[-1], self.latents.scale[-1], self.latents.shift[-1]):
            last.get_parameter("weight").zero_()

    def forward(
        self,
        discrepancy: torch.Tensor,
        features: torch.Tensor,
        latents: torch.Tensor,
        first_row: int = 0,
        return_dict: bool = True,
    ) -> DICNOutput | tuple[torch.Tensor, torch.Tensor]:
        """Compensate features and latents.

        Args:
            discrepancy: [B, 3, H, W]; W / `reduction` must be the features' width.
            features: The generator's features at the hook, [B, C, r, r].
            latents: W+, [B, num_styles, D].
            first_row: Feature row on which the discrepancy's first row lies (`content_rows` of wide pictures).
            return_dict: Return a `DICNOutput` rather than the tuple (compensated_features, compensated_latents).

        Raises:
            SDICError: If the discrepancy does not fit the features.
        """
        rows, columns = (side * self.reduction for side in features.shape[2:])
        if discrepancy.shape[3] != columns or discrepancy.shape[2] + self.reduction * first_row > rows:
            raise SDICError(
                f"DICN was given a discrepancy of shape {list(discrepancy.shape)} for features of shape "
                f"{list(features.shape)}: the discrepancy must be {self.reduction} times as wide, and fit from row "
                f"{first_row} on."
            )
        dtype = self.dtype  # which diffusers looks for in every layer
        discrepancy = fast_layout(discrepancy.to(dtype))
        compensated_features = self.features(discrepancy, features.to(dtype), first_row).to(features.dtype)
        compensated_latents = self.latents(discrepancy, latents.float())
        if not return_dict:
            return compensated_features, compensated_latents
        return DICNOutput(compensated_features, compensated_latents)

    @apply_forward_hook
    def look_again(
        self,
        photo: torch.Tensor,
        discrepancy: torch.Tensor,
        rendering: torch.Tensor,
        features: torch.Tensor,
        first_row: int = 0,
        look: int = 0,
    ) -> torch.Tensor:
        """Compensate features once more, by what the rendering of compensated features still lacks.

        Args:
            photo: [B, 3, H, W] in [-1, 1].
            discrepancy: As `forward` gets it, of the photo's size.
            rendering: What the generator makes of the compensated features and latents, clamped, of the photo's size.
            features: F⁺ as `forward`, or the look before, gave them, [B, C, r, r].
            first_row: As for `forward`.
            look: Which of the `looks` it is, from 0 on.

        Returns:
            Features to go on with, [B, C, r, r], in their dtype.
        """
        dtype = self.dtype
        seen = [fast_layout(image.to(dtype)) for image in (photo, discrepancy, rendering)]
        return self.looks[look](*seen, features.to(dtype), first_row).to(features.dtype)


def condition_rows(condition_channels: int, condition_size: int, style_width: int) -> int:
    """Number of rows [rows, style_width] that the condition map is read as (18·64²/512 = 144 published).

    Raises:
        SDICError: If the map does not divide into an even number of rows.
    """
    if style_width < 1:
        raise SDICError(f"DICN's style_width is {style_width!r}, but must be a whole number from 1 on.")
    rows, rest = divmod(condition_channels * condition_size**2, style_width)
    if rest or rows < 2 or rows % 2:
        raise SDICError(
            f"DICN's condition of {condition_channels} channels at {condition_size}x{condition_size} does not divide "
            f"into an even number of rows of the style width {style_width}: change condition_channels or "
            "condition_size."
        )
    return rows


def feature_rows(content_rows: Sequence[int] | None, resolution: int, feature_resolution: int) -> tuple[int, int]:
    """Rows of the feature map that hold the picture: `content_rows` of the image, scaled to the hook."""
    first, last = content_rows or (0, resolution)
    return first * feature_resolution // resolution, last * feature_resolution // resolution
