"""What every edit has in common, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sdic_plugin.errors import EditError


@dataclass
class Edit:
    """A named change of the latents.

    Attributes:
        name: What users write in `edits={name: strength}`.
        family: How it acts, such as "interfacegan" (see `sdic_plugin.edits`).
        space: Latent space it acts in: "W+".
        layers: First and one-past-last style it changes; None for all.
        default_strength: A strength that shows the edit clearly.
        strength_range: Smallest and largest sensible strength.
        description: One sentence for people.
    """

    name: str
    family: str = ""
    space: str = "W+"
    layers: tuple[int, int] | None = None
    default_strength: float = 1.0
    strength_range: tuple[float, float] = (-3.0, 3.0)
    description: str = ""
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def apply(self, latents: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        """Change latents.

        Args:
            latents: W+, [B, num_styles, D].
            strength: One strength per image, [B].

        Returns:
            Edited W+, [B, num_styles, D].
        """
        raise NotImplementedError(f"The family {self.family!r} does not say how it acts.")

    def check_fits(self, num_styles: int, style_width: int) -> None:
        """Raise EditError unless the edit fits latents [B, num_styles, style_width]."""

    def layer_range(self, num_styles: int) -> slice:
        """The styles this edit changes."""
        return slice(0, num_styles) if self.layers is None else slice(*self.layers)


def strengths_per_image(name: str, strength: float | Sequence[float] | torch.Tensor, batch: int) -> torch.Tensor:
    """Turn a strength, or one per image, into a float32 tensor [B].

    Raises:
        EditError: If the number of strengths does not fit, or one is no finite number.
    """
    try:
        values = torch.as_tensor(strength, dtype=torch.float32).flatten()
    except (TypeError, ValueError) as error:
        raise EditError(f"The edit {name!r} was given the strength {strength!r}: give a number.") from error
    if len(values) not in (1, batch):
        raise EditError(
            f"The edit {name!r} was given {len(values)} strengths for {batch} images: give one, or one each."
        )
    if not torch.isfinite(values).all():
        raise EditError(f"The edit {name!r} was given the strength {strength}: give a finite number.")
    return values.expand(batch)
