"""Edits in StyleSpace, the modulation outputs of a generator (Wu et al., 2021): s + strength · offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from sdic_plugin.edits.base import STYLE_SPACE, Edit, check_acts
from sdic_plugin.errors import EditError, shorten
from sdic_plugin.models import StyleGAN2Generator

LAYER_KEY = "layer_"


@dataclass
class StyleSpaceEdit(Edit):
    """Adds strength · offset to the modulation outputs of some layers.

    Tensors: `layer_<i>` [C_i] for each modulated layer i that changes, counted as `StyleGAN2Generator.styles` lists
    them: for each resolution its styled convolutions, then its ToRGB.
    """

    family: str = "stylespace"
    space: str = STYLE_SPACE

    SPACES: ClassVar[tuple[str, ...]] = (STYLE_SPACE,)

    def __post_init__(self) -> None:
        """Check the offsets.

        Raises:
            EditError: If there is none, or keys, shapes or values make no sense.
        """
        super().__post_init__()
        kept = {}
        for key in self.tensors:
            offset = self.kept_tensor(key)
            if not key.removeprefix(LAYER_KEY).isdecimal() or not key.startswith(LAYER_KEY):
                raise EditError(
                    f"The edit {self.name!r} has a tensor {shorten(key)}, but edits in StyleSpace hold `layer_<i>`, "
                    "i a modulated layer."
                )
            if offset.ndim == 2 and offset.shape[0] == 1:
                offset = offset[0]
            if offset.ndim != 1 or not len(offset):
                raise EditError(
                    f"The offset {key!r} of the edit {self.name!r} has shape {list(offset.shape)}, but must be [C]."
                )
            kept[f"{LAYER_KEY}{int(key.removeprefix(LAYER_KEY))}"] = offset
        if not kept:
            raise EditError(f"The edit {self.name!r} changes no layer: give an offset `layer_<i>` [C] for some.")
        check_acts(self.name, torch.cat(list(kept.values())))
        self.tensors = kept

    @property
    def offsets(self) -> dict[int, torch.Tensor]:
        """Offset [C_i] by modulated layer."""
        return {int(key.removeprefix(LAYER_KEY)): value for key, value in self.tensors.items()}

    @classmethod
    def from_offsets(cls, name: str, offsets: Mapping[int, torch.Tensor], **values: Any) -> StyleSpaceEdit:
        """Make an edit of offsets [C_i] by modulated layer; `values` are further attributes."""
        return cls(name, tensors={f"{LAYER_KEY}{layer}": offset for layer, offset in offsets.items()}, **values)

    def check_fits(self, generator: StyleGAN2Generator) -> None:
        """Raise EditError unless each offset has the channels of its layer."""
        channels = generator.style_channels
        for layer, offset in self.offsets.items():
            if layer >= len(channels) or len(offset) != channels[layer]:
                needed = channels[layer] if layer < len(channels) else "none"
                raise EditError(
                    f"The edit {self.name!r} changes {len(offset)} channels of the modulated layer {layer}, but this "
                    f"generator has {needed} there ({len(channels)} layers): it was made for another generator."
                )
        super().check_fits(generator)

    def _resized_tensors(self, resolution: int, generator: StyleGAN2Generator) -> dict[str, torch.Tensor]:
        channels, count = generator.style_channels, self._layers_at(resolution)
        offsets = {layer: offset for layer, offset in self.offsets.items() if layer < len(channels)}
        if max(self.offsets) >= count:
            raise EditError(
                f"The edit {self.name!r} changes the modulated layer {max(self.offsets)}, but a generator of "
                f"{resolution} pixels has {count}: give the resolution that it was made for."
            )
        if not offsets:
            raise EditError(
                f"The edit {self.name!r} changes the modulated layers {shorten(sorted(self.offsets))}, but this "
                f"generator has {len(channels)}, so that nothing of it is left."
            )
        return {
            f"{LAYER_KEY}{layer}": F.pad(offset, (0, max(channels[layer] - len(offset), 0)))
            for layer, offset in offsets.items()
        }

    def apply_styles(self, styles: Sequence[torch.Tensor], strength: torch.Tensor) -> list[torch.Tensor]:
        """Add the offsets to StyleSpace, one tensor [B, C_i] per layer; strength [B]."""
        edited = list(styles)
        chosen = range(len(edited))[self.layer_range(len(edited))]
        for layer, offset in self.offsets.items():
            if layer in chosen:
                edited[layer] = edited[layer] + strength.to(edited[layer])[:, None] * offset.to(edited[layer])
        return edited


def channel_edit(name: str, layer: int, channel: int, channels: int, amount: float = 1.0, **values: Any) -> Edit:
    """Make an edit of a single channel, as StyleSpace's authors do.

    Args:
        name: Name of the edit.
        layer: Index of the modulated layer, in the order of `generator.styles`.
        channel: Index of the channel in that layer.
        channels: Number of channels of that layer (`generator.style_channels[layer]`).
        amount: What strength 1 adds, such as the channel's standard deviation.
        values: Further attributes of the edit.

    Raises:
        EditError: If there is no such channel.
    """
    if not 0 <= channel < channels:
        raise EditError(f"The edit {name!r} changes the channel {channel}, but there are {channels}, counted from 0.")
    offset = torch.zeros(channels)
    offset[channel] = amount
    return StyleSpaceEdit.from_offsets(name, {layer: offset}, **values)
