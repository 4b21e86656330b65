"""StyleGAN2 generator (Karras et al., 2020, config F, skip-RGB) with one readable, replaceable feature map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from torch import nn

from sdic_plugin.errors import SDICError
from sdic_plugin.models.cpu.fast_path import fast_path_applies
from sdic_plugin.models.cpu.inference import SMALLEST_MAP, fast_layout, fast_styled_conv, fast_to_rgb
from sdic_plugin.models.cpu.packing import FusableConv, FusableMixin
from sdic_plugin.models.decorators import apply_forward_hook, register_to_config
from sdic_plugin.models.layers import (
    EqualizedLinear,
    FIRFilter,
    LayerList,
    ModulatedConv2d,
    pixel_norm,
    scaled_leaky_relu,
)
from sdic_plugin.models.network_output import FROM_MAPPING, NetworkOutput
from sdic_plugin.utils.seeds import seeded_rng

FeatureHook = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]
"""What may stand in for the hook's features: a tensor, or a function of what the pass just computed."""


@dataclass
class SynthesisOutput(NetworkOutput):
    """What one pass of the generator gives.

    Attributes:
        image: [B, 3, R, R], float32, about [-1, 1], unclamped; None if the pass stopped at the features.
        features: [B, C, r, r] at `feature_resolution`, as computed, before any replacement; without gradients on the
            CPU channels last in memory (`.contiguous()` before safetensors' `save_file`).
        skip_image: [B, 3, r/2, r/2], float32, what the ToRGB layers before the hook gave, which those after it add to.
    """

    image: torch.Tensor | None
    features: torch.Tensor = FROM_MAPPING
    skip_image: torch.Tensor = FROM_MAPPING


class MappingNetwork(nn.Module):
    """Maps z to w: pixel norm, then equalised linear layers at a learning-rate multiplier of 0.01."""

    def __init__(self, style_width: int, depth: int) -> None:
        super().__init__()
        layers = [EqualizedLinear(style_width, style_width, learning_rate_multiplier=0.01) for _ in range(depth)]
        self.layers = LayerList(layers)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map z [B, Z] to w [B, D], both float32."""
        x = pixel_norm(z.float())
        for layer in self.layers:
            x = scaled_leaky_relu(layer(x))
        return x


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, then noise, bias and activation."""

    noise: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int, style_width: int, resolution: int, upsample: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_width, upsample=upsample)
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def fusable_convs(self) -> list[FusableConv]:
        """The convolution, unless every pass folds the style into its weights."""
        return [FusableConv(self.conv)] if self.noise.shape[3] < SMALLEST_MAP else []

    def forward(self, x: torch.Tensor, style: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """Map [B, in, H, W] to [B, out, R, R]; `noise` [1 or B, 1, R, R], or None for none."""
        if fast_path_applies(x, "styles"):
            return fast_styled_conv(self.conv, self.bias, self.noise_strength, x, style, noise)
        x = self.conv(x, style)
        if noise is not None:
            x = x + (self.noise_strength * noise).to(x.dtype)
        return scaled_leaky_relu(x + self.bias[:, None, None].to(x.dtype))


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to RGB, without demodulation; adds to the upsampled image of the block before."""

    def __init__(self, in_channels: int, style_width: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_width, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))
        self.upsample = FIRFilter(gain=4.0)

    def forward(self, x: torch.Tensor, style: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
        """Map [B, in, R, R] to float32 [B, 3, R, R], on top of `image` [B, 3, R/2, R/2] if there is one."""
        if fast_path_applies(x, "styles"):
            return fast_to_rgb(self.conv, self.bias, self.upsample, x, style, image)
        rgb = self.conv(x, style).float() + self.bias[:, None, None].float()
        return rgb if image is None else rgb + self.upsample.upsample(image)


class SynthesisBlock(nn.Module):
    """One resolution: an upsampling styled convolution (not in the 4x4 block), a styled convolution, ToRGB."""

    def __init__(self, in_channels: int | None, out_channels: int, style_width: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.up_conv: StyledConv | None = None
        if in_channels is None:
            self.constant = nn.Parameter(torch.randn(1, out_channels, 4, 4))
        else:
            self.up_conv = StyledConv(in_channels, out_channels, style_width, resolution, upsample=True)
        self.conv = StyledConv(out_channels, out_channels, style_width, resolution, upsample=False)
        self.to_rgb = ToRGB(out_channels, style_width)

    def styled_convs(self) -> list[StyledConv]:
        """The block's styled convolutions, in order."""
        return [self.conv] if self.up_conv is None else [self.up_conv, self.conv]

    def modulated_convs(self) -> list[ModulatedConv2d]:
        """The convolutions of the styled convolutions and of ToRGB, in the order of StyleSpace."""
        return [*(layer.conv for layer in self.styled_convs()), self.to_rgb.conv]


class StyleGAN2GeneratorConfig(FrozenDict):
    """What type checkers know of `StyleGAN2Generator.config`, which has the arguments of its constructor."""

    resolution: int
    style_width: int
    mapping_layers: int
    channels: dict[str, int] | None
    channel_multiplier: int
    feature_resolution: int
    content_rows: Sequence[int] | None
    generator_id: str | None
    source: str | None
    license: str | None


class StyleGAN2Generator(FusableMixin, ConfigMixin):
    """StyleGAN2 generator of any resolution, style width, mapping depth and channel table (method: SDIC, 3.1).

    Latents live in three spaces: z [B, D] (normal), w [B, D] (after `mapping`), and W+ `latents` [B, num_styles, D],
    one w per styled layer. The feature map at the *hook*, the output of the `feature_resolution` block's first
    (upsampling) styled convolution after noise, bias and activation, can be read, replaced, or replaced by a function
    of itself, all within one pass.

    Args:
        resolution: Side of the image in pixels, a power of two from 8 to 1024.
        style_width: Width of z, w and every style.
        mapping_layers: Number of layers of the mapping network.
        channels: Channels per resolution, such as {"4": 512, …}; None for the published table at
            `channel_multiplier`.
        channel_multiplier: Factor of the published table from 64 px on (2 in all published weights).
        feature_resolution: Resolution of the hook.
        content_rows: First and one-past-last image row that hold the picture where photos are wider than tall (cars:
            [64, 448] of 512); None where the picture fills the square.
        generator_id: Identifies the latent space that edits belong to; equal across dtypes. None if unknown.
        source: Where the weights come from, for cards.
        license: The licence of the weights, for cards.
    """

    config_name = "config.json"  # type: ignore[assignment]  # ConfigMixin declares None
    config: StyleGAN2GeneratorConfig
    w_avg: torch.Tensor
    _supports_gradient_checkpointing = False
    # Layers are called from here, not by their blocks, and their noise maps are read here: hooks of blocks never fire.
    _supports_group_offloading = False

    @register_to_config
    def __init__(
        self,
        resolution: int = 1024,
        style_width: int = 512,
        mapping_layers: int = 8,
        channels: dict[str, int] | None = None,
        channel_multiplier: int = 2,
        feature_resolution: int = 64,
        content_rows: Sequence[int] | None = None,
        generator_id: str | None = None,
        source: str | None = None,
        license: str | None = None,
    ) -> None:
        super().__init__()
        table = channel_table(resolution, channels, channel_multiplier)
        check_geometry(resolution, feature_resolution, content_rows)
        self.mapping_network = MappingNetwork(style_width, mapping_layers)
        self.register_buffer("w_avg", torch.zeros(style_width))
        blocks: list[SynthesisBlock] = []
        in_channels = None
        for block_resolution, out_channels in table.items():
            blocks.append(SynthesisBlock(in_channels, out_channels, style_width, block_resolution))
            in_channels = out_channels
        self.blocks = LayerList(blocks)

    @property
    def num_styles(self) -> int:
        """Number of rows of W+: 2·log2(resolution) − 2."""
        return num_styles_of(self.config.resolution)

    @property
    def hook_block(self) -> int:
        """Index of the block whose first styled convolution gives the hook's features; at least 1."""
        return [block.resolution for block in self.blocks].index(self.config.feature_resolution)

    @property
    def rows_before_hook(self) -> int:
        """Number of rows of W+ that the hook's features depend on, and none after them."""
        return 2 * self.hook_block

    @property
    def styles_before_hook(self) -> int:
        """Number of styles of StyleSpace that the hook's features depend on, and none after them."""
        return 3 * self.hook_block

    @property
    def feature_channels(self) -> int:
        """Number of channels at the hook."""
        return self.blocks[self.hook_block].conv.bias.shape[0]

    @property
    def style_channels(self) -> list[int]:
        """Channels of each modulated layer, C_i of StyleSpace, in the order of `styles`."""
        return [conv.modulation.bias.shape[0] for block in self.blocks for conv in block.modulated_convs()]

    @apply_forward_hook
    def mapping(self, z: torch.Tensor, truncation: float = 1.0) -> torch.Tensor:
        """Map z to w, pulled towards the mean w.

        Args:
            z: Normal samples, [B, style_width].
            truncation: 1 leaves w as it is, 0 gives `w_avg`.

        Returns:
            w, [B, style_width], float32.
        """
        w = self.mapping_network(z)
        return w if truncation == 1 else torch.lerp(self.w_avg.float(), w, truncation)

    @apply_forward_hook
    @torch.no_grad()
    def estimate_w_avg(self, samples: int = 10_000, seed: int = 0) -> torch.Tensor:
        """Set and return `w_avg` [style_width]: the mean of `samples` mapped z drawn with `seed`."""
        rng = seeded_rng(seed)
        z = torch.randn(samples, self.config.style_width, generator=rng)
        self.w_avg.copy_(self.mapping_network(z.to(self.w_avg.device)).mean(dim=0))
        return self.w_avg

    def broadcast(self, w: torch.Tensor) -> torch.Tensor:
        """Repeat w [B, D] for every style: W+ [B, num_styles, D]."""
        return w[:, None].expand(-1, self.num_styles, -1)

    @apply_forward_hook
    def styles(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """Compute StyleSpace, the modulation outputs (StyleSpace, Wu et al., 2021).

        Args:
            latents: W+, [B, num_styles, D].

        Returns:
            One float32 tensor [B, in_channels] per modulated layer, in the order of the layers: for each block its
            styled convolutions, then its ToRGB.
        """
        styles, row = [], 0
        for block in self.blocks:
            for layer in block.styled_convs():
                styles.append(layer.conv.modulation(latents[:, row]))
                row += 1
            # ToRGB shares its row with the next block's first convolution.
            styles.append(block.to_rgb.conv.modulation(latents[:, row]))
        return styles

    def forward(
        self,
        latents: torch.Tensor | None = None,
        *,
        styles: Sequence[torch.Tensor] | None = None,
        features: FeatureHook | None = None,
        noise: str | Sequence[torch.Tensor] = "fixed",
        rng: torch.Generator | None = None,
        start_at_features: tuple[torch.Tensor, torch.Tensor] | None = None,
        stop_at_features: bool = False,
        return_dict: bool = True,
    ) -> SynthesisOutput | tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Render an image from W+ latents (or from StyleSpace), in one pass.

        Args:
            latents: W+, [B, num_styles, D].
            styles: StyleSpace as given by `styles` (one [B, C_i] per modulated layer), instead of latents.
            features: Stands in for the hook's features [B, C, r, r]: a tensor, or a function that gets the features
                just computed and returns what the pass goes on with.
            noise: "fixed" (the stored maps), "random", "none", or one map [1 or B, 1, r, r] per styled convolution.
            rng: Random generator for "random" noise.
            start_at_features: `features` and `skip_image` of an earlier pass for the same `rows_before_hook`: compute
                nothing before the hook again. (A plain tuple, which accelerate's hooks can move to a device.)
            stop_at_features: Compute nothing after the hook; `image` is then None.
            return_dict: Return a `SynthesisOutput` rather than the tuple (image, features, skip_image).

        Raises:
            SDICError: For latents of another shape, too few or too many styles, or unknown noise.
        """
        # Input.
        if styles is None:
            styles = self.styles(self._checked_latents(latents))
        self._check_styles(styles)
        noise_maps = list(self._noise_maps(noise, styles[0].shape[0], rng))

        # Up to the hook.
        if start_at_features is None:
            begun = self._begin(styles, noise_maps)
        else:
            begun = SynthesisOutput(None, *start_at_features)
        if stop_at_features:
            return begun if return_dict else (None, begun.features, begun.skip_image)

        # From the hook on.
        x = fast_layout(self._replace_features(begun.features, features))
        image = self._finish(x, begun.skip_image, styles, noise_maps)
        output = (image, begun.features, begun.skip_image)
        return SynthesisOutput(*output) if return_dict else output

    def _begin(self, styles: Sequence[torch.Tensor], noise_maps: Sequence[torch.Tensor | None]) -> SynthesisOutput:
        x = fast_layout(self.blocks[0].constant.expand(styles[0].shape[0], -1, -1, -1))
        image: torch.Tensor | None = None
        left, noise_left = iter(styles), iter(noise_maps)
        for block in self.blocks[: self.hook_block]:
            for layer in block.styled_convs():
                x = layer(x, next(left), next(noise_left))
            image = block.to_rgb(x, next(left), image)
        assert image is not None  # the hook is never in the first block
        features = self.blocks[self.hook_block].styled_convs()[0](x, next(left), next(noise_left))
        return SynthesisOutput(None, features, image.contiguous())

    def _finish(
        self,
        x: torch.Tensor,
        image: torch.Tensor,
        styles: Sequence[torch.Tensor],
        noise_maps: Sequence[torch.Tensor | None],
    ) -> torch.Tensor:
        left, noise_left = iter(styles[self.styles_before_hook :]), iter(noise_maps[self.rows_before_hook :])
        for block in self.blocks[self.hook_block :]:
            layers = block.styled_convs()
            for layer in layers[1:] if block is self.blocks[self.hook_block] else layers:
                x = layer(x, next(left), next(noise_left))
            image = block.to_rgb(x, next(left), image)
        return image.contiguous()

    @staticmethod
    def _replace_features(computed: torch.Tensor, features: FeatureHook | None) -> torch.Tensor:
        if features is None:
            return computed
        replaced = features(computed) if callable(features) else features
        return replaced.to(computed.dtype).expand_as(computed)

    def _noise_maps(
        self, noise: str | Sequence[torch.Tensor], batch: int, rng: torch.Generator | None
    ) -> Iterator[torch.Tensor | None]:
        """Yield one noise map, or None, per styled convolution."""
        layers = [layer for block in self.blocks for layer in block.styled_convs()]
        if isinstance(noise, str):
            if noise not in ("fixed", "random", "none"):
                raise SDICError(f'noise={noise!r} is unknown: give "fixed", "random", "none" or one map per layer.')
        elif len(noise) != len(layers):
            raise SDICError(
                f"{len(noise)} noise maps were given, but this generator has {len(layers)}: give one each."
            )
        for i, layer in enumerate(layers):
            if not isinstance(noise, str):
                yield noise[i].to(layer.noise.device)
            elif noise == "random":
                shape = (batch, *layer.noise.shape[1:])
                device = layer.noise.device if rng is None else rng.device
                yield torch.randn(shape, generator=rng, device=device).to(layer.noise.device)
            else:
                yield layer.noise if noise == "fixed" else None

    def _checked_latents(self, latents: torch.Tensor | None) -> torch.Tensor:
        needed = (self.num_styles, self.config.style_width)
        if latents is None or latents.ndim != 3 or tuple(latents.shape[1:]) != needed:
            given = "nothing" if latents is None else list(latents.shape)
            raise SDICError(
                f"The generator was given latents of shape {given}, but needs [batch, {needed[0]}, {needed[1]}]: "
                "one row per style (repeat a single w with `generator.broadcast`)."
            )
        return latents

    def _check_styles(self, styles: Sequence[torch.Tensor]) -> None:
        needed = self.style_channels
        if len(styles) != len(needed):
            raise SDICError(
                f"The generator was given StyleSpace of {len(styles)} styles, but has {len(needed)} modulated layers: "
                "give one style for each, in the order of `generator.styles`."
            )
        batch = styles[0].shape[0]  # len() would fix the batch size of an exported graph
        for i, (style, channels) in enumerate(zip(styles, needed, strict=True)):
            if list(style.shape) != [batch, channels]:
                raise SDICError(
                    f"The generator was given StyleSpace whose layer {i} has shape {list(style.shape)}, but needs "
                    f"[{batch}, {channels}]."
                )


def num_styles_of(resolution: int) -> int:
    """Number of styles of a generator: 2·log2(resolution) − 2 (1024 → 18, 512 → 16, 256 → 14, 64 → 10)."""
    return 2 * int(math.log2(resolution)) - 2


def channel_table(resolution: int, channels: dict[str, int] | None = None, multiplier: int = 2) -> dict[int, int]:
    """Channels per resolution from 4 to `resolution`: the given table, else the published one.

    Raises:
        SDICError: If the resolution is no power of two, or the table lacks a resolution.
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise SDICError(f"The resolution is {resolution}, but must be a power of two from 8 on.")
    resolutions = [2**i for i in range(2, int(math.log2(resolution)) + 1)]
    if channels is None:
        return {r: 512 if r <= 32 else 16384 * multiplier // r for r in resolutions}
    missing = [r for r in resolutions if str(r) not in channels]
    if missing:
        raise SDICError(f"The channel table {channels} lacks the resolutions {missing}: give one entry for each.")
    return {r: int(channels[str(r)]) for r in resolutions}


def check_geometry(resolution: int, feature_resolution: int, content_rows: Sequence[float] | None) -> None:
    """Raise SDICError unless the hook lies in the generator and the content rows fall on whole feature rows."""
    powers = [2**i for i in range(3, int(math.log2(resolution)) + 1)]
    if feature_resolution not in powers:
        raise SDICError(f"feature_resolution is {feature_resolution}, but must be one of {powers}.")
    if content_rows is None:
        return
    first, last = content_rows
    step = resolution // feature_resolution
    if not 0 <= first < last <= resolution or first % step or last % step:
        raise SDICError(
            f"content_rows is {list(content_rows)}, but must be [first, one past last] within {resolution} rows, "
            f"both multiples of {step}."
        )
    if (last - first) // step % 2:
        raise SDICError(
            f"content_rows is {list(content_rows)}, which is {(last - first) // step} rows of the feature map, but "
            "their number must be even, so that photos have a height divisible by 8."
        )
