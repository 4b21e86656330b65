"""Linear directions: w + strength · direction, wherever they come from.

InterFaceGAN (Shen et al., 2020) fits them to labels; SeFa and plain W+ offsets have the same form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sdic_plugin.edits.base import Edit, check_acts
from sdic_plugin.errors import EditError
from sdic_plugin.models import StyleGAN2Generator


@dataclass
class DirectionEdit(Edit):
    """Adds strength · direction; `tensors["direction"]` is [1, D] (every style alike) or [num_styles, D].

    Files may hold it as [D], [1, D], [num_styles, D] or [1, num_styles, D].
    """

    family: str = "interfacegan"

    def __post_init__(self) -> None:
        """Bring the direction into shape [rows, D].

        Raises:
            EditError: If there is none, or its shape or values make no sense.
        """
        super().__post_init__()
        if "direction" not in self.tensors:
            raise EditError(f"The edit {self.name!r} has no tensor 'direction': give [D], [1, D] or [num_styles, D].")
        direction = self.kept_tensor("direction")
        given = list(direction.shape)
        if direction.ndim == 1:
            direction = direction[None]
        if direction.ndim == 3 and direction.shape[0] == 1:
            direction = direction[0]
        if direction.ndim != 2 or 0 in direction.shape:
            raise EditError(
                f"The direction of the edit {self.name!r} has shape {given}, but must be [D], [1, D], [num_styles, D] "
                "or [1, num_styles, D]."
            )
        if self.space == "W" and len(direction) > 1:
            raise EditError(
                f"The edit {self.name!r} acts in the space 'W', but its direction has {len(direction)} rows: a row "
                "per style is 'W+'."
            )
        acting = direction if self.layers is None or len(direction) == 1 else direction[slice(*self.layers)]
        check_acts(self.name, acting if len(acting) else direction)
        self.tensors = {"direction": direction}

    @property
    def direction(self) -> torch.Tensor:
        """The direction, float32 [1 or num_styles, D]."""
        return self.tensors["direction"]

    def check_fits(self, generator: StyleGAN2Generator) -> None:
        """Raise EditError unless the direction fits the generator's latents [B, num_styles, D]."""
        num_styles, style_width = generator.num_styles, generator.config.style_width
        rows, width = self.direction.shape
        if width != style_width or rows not in (1, num_styles):
            raise EditError(
                f"The edit {self.name!r} has a direction of shape [{rows}, {width}], but this generator has "
                f"{num_styles} styles of width {style_width}: it was made for another generator."
            )
        super().check_fits(generator)

    def _resized_tensors(self, resolution: int, generator: StyleGAN2Generator) -> dict[str, torch.Tensor]:
        rows, needed, count = len(self.direction), self._layers_at(resolution), generator.num_styles
        if rows not in (1, needed):
            raise EditError(
                f"The direction of the edit {self.name!r} has {rows} rows, but a generator of {resolution} pixels has "
                f"{needed} styles: give the resolution that it was made for."
            )
        if rows == 1:
            return self.tensors
        last = self.direction[-1:].expand(max(count - rows, 0), -1)
        return {"direction": torch.cat([self.direction[:count], last])}

    def apply(self, latents: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        """Add the direction to latents [B, num_styles, D], strength [B]."""
        layers = self.layer_range(latents.shape[1])
        direction = self.direction.to(latents)
        if direction.shape[0] > 1:
            direction = direction[layers]
        edited = latents.clone()
        edited[:, layers] += strength.to(latents)[:, None, None] * direction
        return edited
