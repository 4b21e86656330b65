"""Networks that metrics need: LPIPS, identity, and the features of the Fréchet distance."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.checkpoints.components import load_network
from sdic_plugin.checkpoints.imagenet_weights import has_imagenet_weights
from sdic_plugin.errors import CheckpointError
from sdic_plugin.evaluation.face_descriptor import FaceDescriptor
from sdic_plugin.evaluation.identity import IdentityNetwork, load_identity
from sdic_plugin.evaluation.inception import load_inception
from sdic_plugin.evaluation.lpips import LPIPS, load_lpips
from sdic_plugin.models import StyleGAN2Discriminator
from sdic_plugin.models.efficientnet_lite import EfficientNetLite, load_efficientnet_lite

FID, FRECHET_DISCRIMINATOR, FRECHET_EFFICIENTNET = "fid", "frechet_discriminator", "frechet_efficientnet"
FRECHET_LABELS = {
    FID: "FID",
    FRECHET_DISCRIMINATOR: "Fréchet distance (discriminator features, not FID)",
    FRECHET_EFFICIENTNET: "Fréchet distance (EfficientNet-Lite features, not FID)",
}
FEATURE_NAMES = {
    FID: "FID's Inception-v3",
    FRECHET_DISCRIMINATOR: "a model's own discriminator, whose distances compare with no others",
    FRECHET_EFFICIENTNET: "EfficientNet-Lite with ImageNet's weights",
}
"""What features are of, for people."""
FEATURE_BLOCKS = (-2, -1)
"""The discriminator's two coarsest blocks: they judge the whole image."""
JUDGE_SIDE = 224
"""Side in pixels at which EfficientNet-Lite was trained, and judges."""

Network = TypeVar("Network", bound=nn.Module)


class DiscriminatorFeatures(nn.Module):
    """Global averages of a discriminator's blocks: features for a Fréchet distance that needs no download.

    They know what this generator gets wrong, and nothing else: distances compare only within one discriminator, and
    none of them is an FID.

    Args:
        discriminator: Its weights stay as they are.
        blocks: Which of its blocks' outputs, fine to coarse.
    """

    def __init__(self, discriminator: StyleGAN2Discriminator, blocks: Sequence[int] = FEATURE_BLOCKS) -> None:
        super().__init__()
        self.discriminator = discriminator.requires_grad_(False).eval()
        self.blocks = tuple(blocks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the features [B, D] of images [B, 3, H, W] in [-1, 1], resized to the discriminator's square."""
        side = self.discriminator.config.resolution
        if tuple(image.shape[2:]) != (side, side):
            smaller = min(image.shape[2:]) < side
            options = {"mode": "bilinear", "align_corners": False} if smaller else {"mode": "area"}
            image = F.interpolate(image, (side, side), **options)
        outputs = self.discriminator.features(image)
        return torch.cat([outputs[block].float().mean(dim=(2, 3)) for block in self.blocks], dim=1)


class EfficientNetFeatures(nn.Module):
    """Pooled features of EfficientNet-Lite: the judge of generators that was trained against none of them.

    Distances compare between models, as FID and KID do, but are neither: they compare only with figures of the same
    network.

    Args:
        network: With ImageNet's weights.
    """

    def __init__(self, network: EfficientNetLite) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the features [B, D] of images [B, 3, H, W] in [-1, 1], resized to `JUDGE_SIDE` (bilinear)."""
        size = (JUDGE_SIDE, JUDGE_SIDE)
        if tuple(image.shape[2:]) != size:
            image = F.interpolate(image.float(), size, mode="bilinear", align_corners=False, antialias=True)
        return self.network.pooled(image.contiguous(memory_format=torch.channels_last))


def load_judge(place: str | Path | None = None) -> EfficientNetFeatures:
    """Load the judge.

    Args:
        place: See `load_efficientnet_lite`; None for the installed package's weights.

    Raises:
        CheckpointError: If there are none, or they do not fit.
    """
    return EfficientNetFeatures(load_efficientnet_lite(place))


def has_judge(place: str | Path | None = None) -> bool:
    """Whether there are weights for `load_judge`: named ones, or those of the installed package."""
    return place is not None or has_imagenet_weights()


@dataclass
class EvaluationNetworks:
    """What there is; a metric without its network is left out.

    Attributes:
        lpips: Perceptual distance.
        identity: Of faces.
        features: Images [B, 3, H, W] in [-1, 1] to features [B, D], for the Fréchet and the kernel distance.
        frechet_name: "fid" if `features` is FID's Inception-v3, "frechet_efficientnet" if it is the judge,
            "frechet_discriminator" if it is a discriminator.
    """

    lpips: LPIPS | None = None
    identity: IdentityNetwork | FaceDescriptor | None = None
    features: nn.Module | None = None
    frechet_name: str = FRECHET_DISCRIMINATOR

    def to(self, device: str | torch.device) -> EvaluationNetworks:
        """Move the networks to a device, in place."""
        for network in (self.lpips, self.identity, self.features):
            if network is not None:
                network.to(device)
        return self

    def names(self) -> dict[str, str]:
        """Which networks there are, and what their figures are called."""
        found = {}
        if self.lpips is not None:
            found["lpips"] = "LPIPS v0.1, AlexNet"
        if self.identity is not None:
            found["identity"] = self.identity.label
        if self.features is not None:
            found["frechet"] = FRECHET_LABELS[self.frechet_name]
        return found


def find_networks(
    folder: str | Path | None = None,
    lpips: str | Path | None = None,
    identity: str | Path | None = None,
    inception: str | Path | None = None,
    efficientnet: str | Path | None = None,
    judge: bool = False,
) -> EvaluationNetworks:
    """Load the networks that were named, and those that lie beside the model.

    Args:
        folder: Of the model: `losses/lpips.safetensors`, `losses/identity.safetensors` and `discriminator/` in it are
            used for what is not named; a loss network of an unknown kind there is left out with a warning.
        lpips: File or folder, see `load_lpips`.
        identity: File or folder, see `load_identity`.
        inception: File, see `load_inception`; takes the place of the judge and of the discriminator.
        efficientnet: File, folder or Hub repository, see `load_efficientnet_lite`: the judge takes the place of the
            discriminator.
        judge: Whether the judge is wanted also where `efficientnet` is None; then the installed package's weights are
            used, if there are any.

    Raises:
        CheckpointError: If a named file cannot be used, or the discriminator's weights do not fit.
    """
    folder = None if folder is None else Path(folder)
    networks = EvaluationNetworks(
        lpips=_named_or_beside(lpips, folder, "lpips", load_lpips),
        identity=_named_or_beside(identity, folder, "identity", load_identity),
    )
    if inception is not None:
        networks.features, networks.frechet_name = load_inception(inception), FID
    elif efficientnet is not None or (judge and has_imagenet_weights()):
        networks.features, networks.frechet_name = load_judge(efficientnet), FRECHET_EFFICIENTNET
    elif folder is not None and (folder / "discriminator" / "config.json").is_file():
        networks.features = DiscriminatorFeatures(load_network(StyleGAN2Discriminator, folder / "discriminator"))
    return networks


def _named_or_beside(
    named: str | Path | None, folder: Path | None, name: str, load: Callable[[str | Path], Network]
) -> Network | None:
    if named is not None:
        return load(named)
    path = None if folder is None else folder / "losses" / f"{name}.safetensors"
    if path is None or not path.is_file():
        return None
    try:
        return load(path)
    except CheckpointError as error:
        warnings.warn(f"{path.name} beside the model is not used: {error}", stacklevel=3)
        return None
