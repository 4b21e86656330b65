"""Fusing the convolutions of a whole pipeline, for bfloat16 on the CPU (layers: `sdic_plugin.models.cpu.packing`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdic_plugin.errors import FusedWeightsError, SDICError
from sdic_plugin.models.cpu.packing import packing_supported

if TYPE_CHECKING:
    from sdic_plugin.pipeline.sdic import SDICPipeline


def pipeline_networks(pipe: SDICPipeline) -> list:
    """The networks of a pipeline, and the generator that it inverts with where that is another one."""
    networks = [pipe.encoder, pipe.dipn, pipe.dicn, pipe.generator]
    return networks if pipe.inverting_generator is pipe.generator else [*networks, pipe.inverting_generator]


def fuse(pipe: SDICPipeline) -> None:
    """Fuse every network that is in bfloat16 on the CPU; see `SDICPipeline.fuse_convolutions`."""
    if getattr(pipe, "hf_device_map", None) is not None:
        raise SDICError(
            "The convolutions of a pipeline with a device map cannot be fused: call reset_device_map() first."
        )
    networks = [network for network in pipeline_networks(pipe) if network.dtype == torch.bfloat16]
    for network in networks or [pipe.encoder]:
        network.check_fusable()
    image, latents, features = _one_photo(pipe)
    inputs = {pipe.encoder: (image,), pipe.dipn: (image, image), pipe.dicn: (image, features, latents)}
    for network in networks:
        network.fuse_convolutions(*inputs.get(network, (latents,)))


def _one_photo(pipe: SDICPipeline) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, latents and features in the shapes of one photo, without values."""
    config = pipe.generator.config
    features = (pipe.generator.feature_channels, config.feature_resolution, config.feature_resolution)
    shapes = ((3, *pipe.image_size), (pipe.generator.num_styles, config.style_width), features)
    return tuple(torch.empty(1, *shape, device="meta") for shape in shapes)


def fuse_where_it_pays(pipe: SDICPipeline) -> bool:
    """Fuse a pipeline that a command loaded for itself, if it is in bfloat16 on a CPU that can; returns whether."""
    pays = pipe.dtype == torch.bfloat16 and pipe.device.type == "cpu" and packing_supported()
    if pays:
        pipe.fuse_convolutions()
    return pays


def refuse_if_fused(pipe: SDICPipeline, what: str) -> None:
    """Raise FusedWeightsError if a network of the pipeline is fused."""
    if any(network.is_fused for network in pipeline_networks(pipe)):
        raise FusedWeightsError(
            f"The pipeline cannot be {what} while its convolutions are fused: call unfuse_convolutions() first."
        )


def check_move(pipe: SDICPipeline, *arguments: object, **options: object) -> None:
    """Raise FusedWeightsError if `to` with these arguments would change a fused network, before it changes any."""
    options = {name: value for name, value in options.items() if name in ("device", "dtype") and value is not None}
    given = [value for value in arguments if value is not None]
    for network in pipeline_networks(pipe):
        if network.is_fused and (given or options):
            probe = torch.empty(0, dtype=network.dtype, device=network.device)
            if probe.to(*given, **options) is not probe:
                refuse_if_fused(pipe, "moved or cast")
