"""Fusing the convolutions of a whole pipeline, for bfloat16 on the CPU (layers: `sdic_plugin.models.cpu.packing`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from sdic_plugin.errors import FusedWeightsError, SDICError
from sdic_plugin.models import DICN, DIPN, E4EEncoder, FeatureTransport, StyleGAN2Generator

if TYPE_CHECKING:
    Network = E4EEncoder | DIPN | DICN | StyleGAN2Generator | FeatureTransport
    Networks = Mapping[str, Sequence[Network]]


def fuse(networks: Networks, generator: StyleGAN2Generator, image_size: tuple[int, int]) -> None:
    """Fuse every network that is in bfloat16 on the CPU; see `SDICPipeline.fuse_convolutions`.

    Args:
        networks: By component name; of generators the one that renders, and the one that photos are inverted with.
        generator: The one that renders.
        image_size: Height and width of the images that the encoder sees.

    Raises:
        SDICError: If no network can be fused.
    """
    everything = [network for several in networks.values() for network in several]
    chosen = [network for network in everything if network.dtype == torch.bfloat16]
    for network in chosen or everything[:1]:
        network.check_fusable()
    image, latents, features = _one_photo(generator, image_size)
    inputs = {
        "encoder": (image,),
        "dipn": (image, image),
        "dicn": (image, features, latents),
        "generator": (latents,),
        "transport": (features, features, features),
    }
    for name, several in networks.items():
        for network in several:
            if network in chosen:
                network.fuse_convolutions(*inputs[name])


def _one_photo(
    generator: StyleGAN2Generator, image_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, latents and features in the shapes of one photo, without values."""
    config = generator.config
    side = config.feature_resolution
    image = torch.empty(1, 3, *image_size, device="meta")
    latents = torch.empty(1, generator.num_styles, config.style_width, device="meta")
    return image, latents, torch.empty(1, generator.feature_channels, side, side, device="meta")


def refuse_if_fused(networks: Sequence[Network], what: str) -> None:
    """Raise FusedWeightsError if a network of a pipeline is fused."""
    if any(network.is_fused for network in networks):
        raise FusedWeightsError(
            f"The pipeline cannot be {what} while its convolutions are fused: call unfuse_convolutions() first."
        )


def check_move(networks: Sequence[Network], *arguments: object, **options: object) -> None:
    """Raise FusedWeightsError if `to` with these arguments would change a fused network, before it changes any."""
    options = {name: value for name, value in options.items() if name in ("device", "dtype") and value is not None}
    given = [value for value in arguments if value is not None]
    for network in networks:
        if network.is_fused and (given or options):
            probe = torch.empty(0, dtype=network.dtype, device=network.device)
            if probe.to(*given, **options) is not probe:  # type: ignore[call-overload]  # arguments of any overload
                refuse_if_fused(networks, "moved or cast")


def refuse_device_map(device_map: object) -> None:
    """Raise SDICError for a pipeline with a device map."""
    if device_map is not None:
        raise SDICError(
            "The convolutions of a pipeline with a device map cannot be fused: call reset_device_map() first."
        )
