"""Checks of a pipeline's components: right class, all weights there, sizes that fit each other."""

from __future__ import annotations

from torch import nn

from sdic_plugin.errors import CheckpointError
from sdic_plugin.models import DICN, DIPN, E4EEncoder, StyleGAN2Generator

COMPONENT_CLASSES: dict[str, type[nn.Module]] = {
    "encoder": E4EEncoder,
    "dipn": DIPN,
    "dicn": DICN,
    "generator": StyleGAN2Generator,
}


def check_components(**components: nn.Module) -> None:
    """Raise CheckpointError if a component is of the wrong class, or some of its weights were never loaded.

    diffusers only warns about a wrong class, and weights that a checkpoint lacks stay on the meta device, where
    convolutions return garbage without an error.
    """
    for name, component in components.items():
        needed = COMPONENT_CLASSES[name]
        # torch.compile wraps a module; what it wraps is what counts.
        actual = getattr(component, "_orig_mod", component)
        if not isinstance(actual, needed):
            raise CheckpointError(
                f"The component {name!r} is of the class {type(actual).__name__}, but {needed.__name__} is needed."
            )
        if hasattr(actual, "_hf_hook"):
            continue  # accelerate keeps offloaded weights on meta, and brings them in when they are used
        tensors = {**dict(actual.named_parameters()), **dict(actual.named_buffers())}
        missing = [key for key, tensor in tensors.items() if tensor.is_meta]
        if missing:
            raise CheckpointError(
                f"The checkpoint of the component {name!r} lacks {len(missing)} weights, such as {missing[:3]}: save or "
                "download it again."
            )


def check_fit(encoder: E4EEncoder, dicn: DICN, generator: StyleGAN2Generator) -> None:
    """Raise CheckpointError, naming both sides, unless the components' sizes fit each other."""
    pairs = [
        ("encoder", "num_styles", encoder.config.num_styles, "generator", "num_styles", generator.num_styles),
        ("dicn", "num_styles", dicn.config.num_styles, "generator", "num_styles", generator.num_styles),
        ("encoder", "style_width", encoder.config.style_width, "generator", "style_width", generator.config.style_width),
        ("dicn", "style_width", dicn.config.style_width, "generator", "style_width", generator.config.style_width),
        (
            "dicn",
            "feature_channels",
            dicn.config.feature_channels,
            "generator",
            f"channels at feature_resolution {generator.config.feature_resolution}",
            generator.feature_channels,
        ),
        (
            "encoder",
            "image_size / 4",
            encoder.config.image_size / 4,
            "generator",
            "feature_resolution",
            generator.config.feature_resolution,
        ),
    ]
    for left, left_name, left_value, right, right_name, right_value in pairs:
        if left_value != right_value:
            raise CheckpointError(
                f"The components do not fit: the {left} has {left_name} {left_value:g}, but the {right} has {right_name} "
                f"{right_value:g}; use components that were made for each other."
            )
