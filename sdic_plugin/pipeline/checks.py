"""Checks of a pipeline's components: right class, all weights there, sizes that fit each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdic_plugin.errors import CheckpointError, SDICError, listed, shorten
from sdic_plugin.models import ALL_COMPONENTS, StyleGAN2Generator

if TYPE_CHECKING:
    from sdic_plugin.pipeline.output import SDICInversion


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise SDICError, naming the choices, unless a value is one of them."""
    if value not in choices:
        raise SDICError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, choices))}.")


def check_components(**components: nn.Module) -> None:
    """Raise CheckpointError if a component is of the wrong class, or some of its weights were never loaded.

    diffusers only warns about a wrong class, and weights that a checkpoint lacks stay on the meta device, where
    convolutions return garbage without an error.
    """
    for name, component in components.items():
        needed = ALL_COMPONENTS[name]
        # torch.compile wraps a module; what it wraps is what counts.
        actual = getattr(component, "_orig_mod", component)
        # By name, for in a repository of remote code every component has a module of its own.
        if needed.__name__ not in (base.__name__ for base in type(actual).__mro__):
            raise CheckpointError(
                f"The component {name!r} is of the class {type(actual).__name__}, but {needed.__name__} is needed."
            )
        if hasattr(actual, "_hf_hook"):
            continue  # accelerate keeps offloaded weights on meta, and brings them in when they are used
        tensors = {**dict(actual.named_parameters()), **dict(actual.named_buffers())}
        missing = [key for key, tensor in tensors.items() if tensor.is_meta]
        if missing:
            raise CheckpointError(
                f"The checkpoint of the component {name!r} lacks {len(missing)} weights, such as {listed(missing)}: "
                "save or download it again."
            )


def check_finite_weights(**components: nn.Module) -> None:
    """Raise CheckpointError, naming the tensor, if a weight is NaN or infinite; offloaded ones are passed over."""
    for name, component in components.items():
        for key, tensor in component.state_dict().items():
            if not tensor.is_meta and tensor.is_floating_point() and not tensor.isfinite().all():
                raise CheckpointError(
                    f"The weights of the component {name!r} hold NaN or infinite values in {key!r}, as after a "
                    "training that diverged or a damaged download: give a sound model."
                )


def check_full_precision(**components: nn.Module) -> None:
    """Raise SDICError, naming the components, if some are in half precision or less.

    Published weights are float32, from which a float16 variant is made; there is no way back.
    """
    rounded = {
        name: parameter.dtype
        for name, component in components.items()
        for parameter in component.parameters()
        if parameter.is_floating_point() and parameter.dtype.itemsize < torch.float32.itemsize
    }
    if rounded:
        dtypes = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in rounded.values()}))
        raise SDICError(
            f"The pipeline's {listed(rounded)} hold {dtypes} weights, but models are published in float32, with a "
            "float16 variant: load the model with dtype=torch.float32 and push that, or, if it has no other weights, "
            "call pipe.to(torch.float32) before."
        )


# Networks are told by their names here, and not by their classes: in a repository of remote code every component has a
# module, and so classes, of its own.
SHARED_VALUES: dict[str, Callable[[Any], dict[str, int]]] = {
    "encoder": lambda network: {
        "number of styles": network.config.num_styles,
        "style width": network.config.style_width,
    },
    "generator": lambda network: {
        "number of styles": network.num_styles,
        "style width": network.config.style_width,
        "number of feature channels": network.feature_channels,
    },
    "dicn": lambda network: {
        "number of styles": network.config.num_styles,
        "style width": network.config.style_width,
        "number of feature channels": network.config.feature_channels,
    },
    "transport": lambda network: {"number of feature channels": network.config.feature_channels},
}
"""The values in which networks of one pipeline must agree, per component."""


def check_fit(networks: Mapping[str, nn.Module]) -> None:
    """Raise CheckpointError, naming both sides, if two networks do not fit each other.

    Args:
        networks: Networks by component name; what is missing is not compared.
    """
    known = {name: values(networks[name]) for name, values in SHARED_VALUES.items() if name in networks}
    for (first, mine), (second, theirs) in itertools.combinations(known.items(), 2):
        for value in mine.keys() & theirs.keys():
            if mine[value] != theirs[value]:
                raise CheckpointError(
                    f"The {first} and the {second} do not fit each other: the {value} is {mine[value]} in the "
                    f"{first}, but {theirs[value]} in the {second}, so give files that belong together."
                )
    if {"encoder", "generator", "dicn"} <= networks.keys():
        _check_feature_resolution(networks["encoder"], networks["generator"], networks["dicn"])


def check_exchange(known: StyleGAN2Generator, other: StyleGAN2Generator) -> None:
    """Raise CheckpointError unless one generator can render what was inverted with another."""
    values: dict[str, Callable[[StyleGAN2Generator], object]] = {
        "number of styles": lambda network: network.num_styles,
        "style width": lambda network: network.config.style_width,
        "resolution": lambda network: network.config.resolution,
        "feature_resolution": lambda network: network.config.feature_resolution,
        "number of feature channels": lambda network: network.feature_channels,
        "content_rows": lambda network: network.config.content_rows and list(network.config.content_rows),
    }
    for name, value in values.items():
        if value(known) != value(other):
            raise CheckpointError(
                f"The generators do not fit each other: the {name} is {value(known)} in this pipeline's, but "
                f"{value(other)} in the other: give one that was fine-tuned from this one, converted alike."
            )


def check_inversion(inversion: SDICInversion, generator: StyleGAN2Generator, image_size: tuple[int, int]) -> None:
    """Raise CheckpointError unless an inversion was made with a generator, as far as its id and its shapes tell.

    Args:
        inversion: Anything a caller gave as one.
        generator: The one that the pipeline inverts with.
        image_size: Height and width of the images that the encoder sees.
    """
    config = generator.config
    side, hook, channels = config.resolution, config.feature_resolution, generator.feature_channels
    latents, features = [generator.num_styles, config.style_width], [channels, hook, hook]
    needed = {
        "image": [3, *image_size],
        "latents": latents,
        "initial": [3, side, side],
        "features": features,
        "discrepancy": [3, *image_size],
        "compensated_latents": latents,
        "compensated_features": features,
        "reference_features": features,
        "reference_skip_image": [3, hook // 2, hook // 2],
        "transport_at_rest": features,
    }
    # By what it has, for in a repository of remote code the class is another.
    if not all(hasattr(inversion, name) for name in (*needed, "generator_id")):
        raise CheckpointError(
            f"An inversion is edited, but a {type(inversion).__name__} was given: `invert` the photo first, or call "
            "the pipeline itself with it."
        )
    if None not in (inversion.generator_id, config.generator_id) and inversion.generator_id != config.generator_id:
        raise CheckpointError(
            f"The inversion was made with the generator {shorten(inversion.generator_id)}, but this pipeline's is "
            f"{shorten(config.generator_id)}: invert the photo with this pipeline."
        )
    count = len(inversion.image)
    for name, shape in needed.items():
        tensor = getattr(inversion, name)
        if tensor is not None and (list(tensor.shape) != [count, *shape] or not count):
            raise CheckpointError(
                f"The inversion's {name} has the shape {list(tensor.shape)}, but {[max(count, 1), *shape]} is needed "
                "by this pipeline: invert the photo with it."
            )


def _check_feature_resolution(encoder: Any, generator: Any, dicn: Any) -> None:
    """Raise CheckpointError unless DICN brings pictures of the encoder's size to the size of the generator's hook."""
    image_size, feature_resolution = encoder.config.image_size, generator.config.feature_resolution
    if image_size != feature_resolution * dicn.reduction:
        raise CheckpointError(
            f"The networks do not fit each other: the encoder's image_size is {image_size} and the generator's "
            f"feature_resolution {feature_resolution}, but the dicn reduces sizes by {dicn.reduction}, so give files "
            "that belong together, or the generator's feature_resolution that they were trained with."
        )
