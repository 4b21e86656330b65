"""What an edit renders, and what the generator does at the hook meanwhile (method, section 4, steps 5 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.edits.base import Code
from sdic_plugin.errors import EditError, SDICError
from sdic_plugin.images.processor import ImageInput, SDICImageProcessor
from sdic_plugin.models import FeatureTransport, StyleGAN2Generator
from sdic_plugin.models.dicn import feature_rows
from sdic_plugin.pipeline.auto_mask import AutoMask
from sdic_plugin.pipeline.options import LatentsInput
from sdic_plugin.pipeline.output import SDICInversion


def latents_tensor(name: str, values: LatentsInput) -> torch.Tensor:
    """Turn latents, or a layer of StyleSpace, into a tensor; a tensor stays as it is, anything else becomes float32.

    Args:
        name: What the values are, for the message.
        values: As users give them.

    Raises:
        SDICError: If they are no numbers, or do not make an array.
    """
    if isinstance(values, torch.Tensor):
        return values
    try:
        return torch.from_numpy(np.array(values, dtype=np.float32))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SDICError(
            f"The {name} are of the type {type(values).__name__}, of which no array of numbers can be made: give a "
            "tensor, an array, or lists of equal lengths."
        ) from error


def styles_tensors(styles: Sequence[LatentsInput]) -> list[torch.Tensor]:
    """Turn StyleSpace into a tensor for each modulated layer, as `latents_tensor` does."""
    if not isinstance(styles, Iterable):
        raise SDICError(
            f"The styles are of the type {type(styles).__name__}: give a list with one [batch, channels] per "
            "modulated layer, as `generator.styles` does."
        )
    return [latents_tensor("styles of a layer", style) for style in styles]


def latents_to_render(
    inversion: SDICInversion, latents: torch.Tensor | None = None, latents_from: str = "compensated"
) -> torch.Tensor:
    """W+ [B, num_styles, D] that named edits are applied to: the inversion's own, or those of another tool.

    Args:
        inversion: The photos' inversion.
        latents: Edited W+, one for all photos or one each; None for the inversion's compensated ones.
        latents_from: What `latents` are an edit of; "initial" adds their difference to the compensated ones.

    Raises:
        SDICError: If there are not as many latents as photos, or they hold NaN or infinite values.
    """
    own = inversion.compensated_latents
    if latents is None:
        return own
    if len(latents) not in (1, len(inversion)):
        raise SDICError(f"{len(latents)} latents were given for {len(inversion)} images: give one each.")
    check_finite("latents", [latents])
    latents = latents.to(own).expand_as(own)
    return latents if latents_from == "compensated" else own + (latents - inversion.latents)


def styles_to_render(inversion: SDICInversion, styles: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """StyleSpace, one [B, C_i] per modulated layer, that named edits are applied to.

    Args:
        inversion: The photos' inversion.
        styles: Edited StyleSpace, of each layer one row for all photos or one each.

    Raises:
        SDICError: If there are not as many styles as photos, or they hold NaN or infinite values.
    """
    count = len(inversion)
    for layer, style in enumerate(styles):
        if style.ndim != 2 or len(style) not in (1, count):
            raise SDICError(
                f"The styles of layer {layer} have shape {list(style.shape)}, but [{count}, channels] is needed for "
                f"{count} images: give one row each, or one for all."
            )
    check_finite("styles", styles)
    return [style.to(inversion.latents.device).expand(count, -1) for style in styles]


def check_finite(name: str, tensors: Iterable[torch.Tensor]) -> None:
    """Raise SDICError if what a caller gave to be rendered holds values that are no finite numbers."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise SDICError(f"The {name} hold NaN or infinite values: give finite ones.")


def check_is_latents(code: Code) -> torch.Tensor:
    """Return W+ latents; EditError if they are StyleSpace, which W+ cannot hold."""
    if not isinstance(code, torch.Tensor):
        raise EditError(
            'output_type is "latent", but an edit acts in StyleSpace, which W+ latents cannot hold: ask for '
            "images, or take `edited_code`."
        )
    return code


_keys: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def module_key(module: nn.Module) -> str:
    """What tells a network, while it lives, from all others, its copies and those of other processes among them."""
    return _keys.setdefault(module, uuid4().hex)


def feature_hook(
    inversion: SDICInversion,
    rule: str,
    weight: float | torch.Tensor,
    transport: FeatureTransport | None = None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what the generator does at the hook (method, section 4, step 6).

    Args:
        inversion: The photo's inversion.
        rule: "continuous" or "official".
        weight: Compensation times mask, a number or [B or 1, 1, r, r].
        transport: Lets detail follow an edit by the continuous rule; None for the plain rule.
    """
    reference = inversion.reference_features if rule == "continuous" else inversion.features
    compensated, at_rest = inversion.compensated_features, inversion.transport_at_rest
    if transport is not None and inversion.transport_key != module_key(transport):
        at_rest = None  # another transport's

    def follow_edit(features: torch.Tensor) -> torch.Tensor:
        change = features - reference
        full = compensated + change
        if transport is not None and rule == "continuous":
            full = full + transport.correct(compensated, reference, change, at_rest)
        return torch.lerp(features, full.to(features.dtype), weight)

    return follow_edit


def begun_pass(
    generator: StyleGAN2Generator, inversion: SDICInversion, code: Code
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What an inversion knows of the pass that renders a code: all up to the hook, if the edit begins after it.

    Args:
        generator: The one that the photos were inverted with.
        inversion: The photos' inversion.
        code: W+ latents or StyleSpace.

    Returns:
        `start_at_features` of `StyleGAN2Generator`; None where the edit changes layers before the hook.
    """
    own, features = inversion.compensated_latents, inversion.reference_features
    skip_image = inversion.reference_skip_image
    if skip_image is None or features.dtype != generator.dtype:
        return None
    if isinstance(code, torch.Tensor):
        rows = generator.rows_before_hook
        same = torch.equal(code[:, :rows], own[:, :rows])
    else:
        pairs = zip(code[: generator.styles_before_hook], generator.styles(own), strict=False)
        same = all(torch.equal(style, before) for style, before in pairs)
    return (features, skip_image) if same else None


def find_mask(generator: StyleGAN2Generator, inversion: SDICInversion, code: Code, settings: AutoMask) -> torch.Tensor:
    """Find where an edit leaves the picture alone: one pass, which edits the initial reconstruction.

    Args:
        generator: The one that renders the edit.
        inversion: The photos' inversion.
        code: What the edit renders: W+ latents or StyleSpace.
        settings: How the mask follows the change.

    Returns:
        [B, 1, r, r] in [0, 1]: 1 where all compensation stays, 0 where none does.
    """
    if isinstance(code, torch.Tensor):
        edited = generator(inversion.latents + (code - inversion.compensated_latents))
    else:
        pairs = zip(*map(generator.styles, (inversion.latents, inversion.compensated_latents)), strict=True)
        edited = generator(styles=[initial + (style - own) for style, (initial, own) in zip(code, pairs, strict=True)])
    return settings.keep(edited.image, inversion.initial, generator.config.feature_resolution).to(generator.dtype)


def compensation_weight(
    generator: StyleGAN2Generator,
    processor: SDICImageProcessor,
    compensation: float,
    mask: ImageInput | Sequence[ImageInput] | None,
    batch: int,
) -> float | torch.Tensor:
    """Combine compensation and mask to a number, or to a map [B or 1, 1, r, r] at the hook, on the CPU."""
    if mask is None:
        return float(compensation)
    config = generator.config
    size = config.feature_resolution
    first, last = feature_rows(config.content_rows, config.resolution, size)
    weight = processor.preprocess_mask(mask, last - first, size, batch)
    # Beyond the picture's rows it goes on as at the edge, so that a mask of zeros is no compensation at all.
    return compensation * F.pad(weight, (0, 0, first, size - last), mode="replicate")
