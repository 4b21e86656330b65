"""StyleCLIP's global directions (Patashnik et al., 2021): a text becomes an offset in StyleSpace.

For a text direction t (the difference of the unit embeddings of a target and of a neutral text, normalised), the
relevance of channel c is the product of t with row c of the relevance matrix; channels below a threshold are dropped,
the rest is scaled to a largest relevance of 1 and multiplied by each channel's standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sdic_plugin.edits.array_files import Arrays, read_arrays
from sdic_plugin.edits.stylespace import StyleSpaceEdit
from sdic_plugin.errors import EditError
from sdic_plugin.models import StyleGAN2Generator

CLIP_MODEL = "openai/clip-vit-base-patch32"
TEMPLATES = (
    "a photo of a {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a close-up photo of a {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a blurry photo of a {}.",
    "a cropped photo of a {}.",
    "a low resolution photo of a {}.",
    "a high resolution photo of a {}.",
)
"""Sentences a text is put into; their embeddings are averaged."""


def find_styleclip(
    generator: StyleGAN2Generator,
    name: str,
    direction: torch.Tensor,
    relevance: torch.Tensor,
    stds: Sequence[torch.Tensor],
    threshold: float = 0.15,
    **values: Any,
) -> StyleSpaceEdit:
    """Turn a text direction into an edit.

    Args:
        generator: The generator that the files were made for.
        name: Name of the edit.
        direction: Text direction, [E], of any length but 0.
        relevance: Relevance matrix (`fs3.npy`), [sum of C_i over the modulated layers but ToRGB, E].
        stds: Standard deviation of each channel by modulated layer, ToRGB included, each [C_i] (the second list of
            `S_mean_std`).
        threshold: Relevance below which a channel stays as it is (StyleCLIP's β).
        values: Further attributes of the edit.

    Raises:
        EditError: If shapes do not fit each other or the generator, or the threshold leaves no channel.
    """
    channels = generator.style_channels
    convolutions = [i for i, is_rgb in enumerate(_is_to_rgb(generator)) if not is_rgb]
    needed = sum(channels[i] for i in convolutions)
    if relevance.ndim != 2 or len(relevance) != needed or direction.numel() != relevance.shape[1]:
        raise EditError(
            f"The relevance matrix has shape {list(relevance.shape)} and the text direction {direction.numel()} "
            f"numbers, but this generator needs [{needed}, E] and [E]: give the files made for this generator and "
            "this CLIP."
        )
    if [std.numel() for std in stds] != channels:
        raise EditError(
            f"The standard deviations have {[std.numel() for std in stds]} channels, but this generator's modulated "
            f"layers have {channels}: give the file made for this generator."
        )
    if not math.isfinite(threshold):
        raise EditError(f"The threshold is {threshold}, but must be a finite number, such as 0.15.")
    direction = direction.flatten().float()
    relevant = relevance.float() @ (direction / direction.norm().clamp_min(1e-12))
    kept = torch.where(relevant.abs() < threshold, 0.0, relevant)
    if not kept.any():
        raise EditError(
            f"No channel is as relevant for {name!r} as the threshold {threshold:g} (the most relevant has "
            f"{relevant.abs().max():.3g}): lower the threshold."
        )
    parts = (kept / kept.abs().max()).split([channels[i] for i in convolutions])
    offsets = {i: part * stds[i].flatten().float() for i, part in zip(convolutions, parts, strict=True) if part.any()}
    values = {"family": "styleclip", "default_strength": 3.0, "strength_range": (-8.0, 8.0), **values}
    return StyleSpaceEdit.from_offsets(name, offsets, **values)


def _is_to_rgb(generator: StyleGAN2Generator) -> list[bool]:
    """Which modulated layers are ToRGB, in the order of `generator.styles`."""
    return [last for block in generator.blocks for last in [False] * len(block.styled_convs()) + [True]]


def read_styleclip_files(relevance: str | Path, stds: str | Path) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Read a relevance matrix (`fs3.npy`) and standard deviations (`S_mean_std`, a pickle of two lists of arrays).

    Returns:
        The matrix [sum of C_i but ToRGB's, E], and the standard deviations by modulated layer, each [C_i].

    Raises:
        EditError: If the files hold something else.
    """
    matrix, content = read_arrays(relevance), read_arrays(stds)
    if not isinstance(matrix, torch.Tensor):
        raise EditError(f"{Path(relevance).name} holds several arrays, but a relevance matrix is one.")
    return matrix, _stds_of(content, Path(stds).name)


def _stds_of(content: Arrays, name: str) -> list[torch.Tensor]:
    if isinstance(content, list) and len(content) == 2 and all(isinstance(part, list) for part in content):
        content = content[1]  # means, then standard deviations
    tensors = [part for part in content if isinstance(part, torch.Tensor)] if isinstance(content, list) else []
    if tensors and len(tensors) == len(content):
        return tensors
    raise EditError(f"{name} holds no list of arrays, one per layer, or two such lists: give StyleCLIP's S_mean_std.")


@torch.no_grad()
def embed_texts(
    model: Any, tokenizer: Any, texts: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> torch.Tensor:
    """Embed texts with CLIP: the unit mean of the unit embeddings of each text in all templates.

    Args:
        model: A `transformers.CLIPTextModelWithProjection`.
        tokenizer: The model's tokenizer.
        texts: What is put into the templates, such as "a smiling face".
        templates: Sentences with a `{}`.

    Returns:
        [len(texts), E].
    """
    found = []
    for text in texts:
        tokens = tokenizer(
            [template.format(text) for template in templates], padding=True, truncation=True, return_tensors="pt"
        )
        embeddings = model(**tokens.to(model.device)).text_embeds.float()
        mean = torch.nn.functional.normalize(embeddings, dim=1).mean(dim=0)
        found.append(torch.nn.functional.normalize(mean, dim=0).cpu())
    return torch.stack(found)


def text_direction(model: Any, tokenizer: Any, target: str, neutral: str) -> torch.Tensor:
    """Return the unit direction [E] from a neutral text ("a face") to a target ("a smiling face").

    Raises:
        EditError: If CLIP cannot tell the two texts apart.
    """
    wanted, before = embed_texts(model, tokenizer, [target, neutral])
    direction = wanted - before
    if direction.norm() < 1e-6:
        raise EditError(f"CLIP cannot tell {target!r} from {neutral!r}: give texts that differ.")
    return direction / direction.norm()


def load_clip(model: str = CLIP_MODEL) -> tuple[Any, Any]:
    """Load CLIP's text encoder and its tokenizer from a folder or the Hub; safetensors only.

    Raises:
        EditError: If transformers is not installed, or the model is not found.
    """
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection
    except ImportError as error:
        raise EditError('Texts need transformers, which is not installed: pip install "sdic-plugin[clip]".') from error
    try:
        encoder = CLIPTextModelWithProjection.from_pretrained(model, use_safetensors=True)
        return encoder.eval(), AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EditError(f"The CLIP model {model!r} cannot be loaded ({reason}): give a folder or a Hub id.") from error
