"""SeFa (Shen and Zhou, 2021): directions from a generator's weights alone, in closed form."""

from __future__ import annotations

import torch

from sdic_plugin.edits.discovery import sample_latents
from sdic_plugin.edits.interfacegan import DirectionEdit
from sdic_plugin.errors import EditError
from sdic_plugin.models import StyleGAN2Generator


@torch.no_grad()
def find_sefa(
    generator: StyleGAN2Generator, count: int = 20, layers: tuple[int, int] | None = None
) -> list[DirectionEdit]:
    """Find the directions that change the modulation most: the eigenvectors of AᵀA, largest eigenvalue first.

    A stacks the modulation weights [C_i, D] of the styled convolutions whose style lies in `layers`, as they are;
    ToRGB is left out. (The authors' own code scales each row of A to unit length first, rosinality's does not.)

    Args:
        generator: The generator; needs no data and renders nothing.
        count: Number of candidates, named `sefa0`, `sefa1` …, or with their layers.
        layers: First and one-past-last style, which are also those the edits act on; None for all.

    Returns:
        Directions of unit length in w, [1, D].

    Raises:
        EditError: If the layers do not fit the generator, or more directions are wanted than there are.
    """
    width, num_styles = generator.config.style_width, generator.num_styles
    first, last = layers or (0, num_styles)
    if not 0 <= first < last <= num_styles:
        raise EditError(f"SeFa was given the layers {layers}, but this generator has {num_styles} styles.")
    if not 1 <= count <= width:
        raise EditError(f"SeFa was asked for {count} directions: ask for 1 to {width}, the styles' width.")
    modulations = [layer.conv.modulation for block in generator.blocks for layer in block.styled_convs()]
    chosen = [(each.weight.float().cpu() * each.weight_gain) for each in modulations[first:last]]
    if not chosen:
        raise EditError(f"SeFa was given the layers {layers}, which hold no styled convolution: begin earlier.")
    _, vectors = torch.linalg.eigh(sum(weight.T @ weight for weight in chosen))
    directions = vectors.flip(1).T
    # The sign of an eigenvector is arbitrary; a rule makes it the same everywhere.
    signs = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    spread = _typical_step(generator)
    suffix = "" if layers is None else f"_{first}_{last}"
    return [
        DirectionEdit(
            f"sefa{index}{suffix}",
            family="sefa",
            space="W",
            layers=layers,
            default_strength=2 * spread,
            strength_range=(-5 * spread, 5 * spread),
            description=f"Closed-form factor {index} of the weights (SeFa)",
            tensors={"direction": direction},
        )
        for index, direction in enumerate((directions * signs)[:count])
    ]


def _typical_step(generator: StyleGAN2Generator, samples: int = 512) -> float:
    """Standard deviation of w along a direction, on average: SeFa's unit vectors have no scale of their own."""
    w = sample_latents(generator, {}, samples, batch_size=samples).w
    return max(float(f"{w.std(dim=0).square().mean().sqrt().item():.2g}"), 1e-3)
