"""What every edit has in common, whatever its family."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch

from sdic_plugin.errors import EditError, shorten
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.stylegan2 import num_styles_of
from sdic_plugin.utils.ranges import FARTHEST

Code = torch.Tensor | list[torch.Tensor]
"""What a generator renders: W+ latents [B, num_styles, D], or StyleSpace, one tensor [B, C_i] per modulated layer."""

STYLE_SPACE = "S"
FORBIDDEN_IN_NAMES = frozenset("=,")
"""What a name may look like: names stand in `name=strength,…` on the command line."""
LONGEST_NAME = 200

LONGEST_END = 40
"""Characters in the name of an edit's end, which stands beside a slider."""

logger = logging.getLogger(__name__)


@dataclass
class Edit:
    """A named change of the latents, or of StyleSpace.

    Attributes:
        name: What users write in `edits={name: strength}`.
        family: How it was made, and acts (a key of `sdic_plugin.edits.files.FAMILIES`).
        space: Latent space it acts in: "W" (all styles alike), "W+" (a row per style) or "S" (StyleSpace, the
            modulation outputs).
        layers: First and one-past-last layer it changes; None for all. Layers are styles, rows of W+; in StyleSpace
            they are the modulated layers, in the order of `StyleGAN2Generator.styles`.
        default_strength: A strength that shows the edit clearly.
        strength_range: Smallest and largest sensible strength.
        description: One sentence for people.
        source: Where the edit comes from; None if unknown.
        license: Its licence; None if unknown.
        tensors: What the family needs.
        ends: What the smallest and the largest strength lead to, in a word or two each, such as ("grey", "ginger");
            None if nobody said.
    """

    name: str
    family: str = ""
    space: str = "W+"
    layers: tuple[int, int] | None = None
    default_strength: float = 1.0
    strength_range: tuple[float, float] = (-3.0, 3.0)
    description: str = ""
    source: str | None = None
    license: str | None = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    ends: tuple[str, str] | None = None

    SPACES: ClassVar[tuple[str, ...]] = ("W", "W+")
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Further attributes of a family, kept in files."""

    def __post_init__(self) -> None:
        """Raise EditError unless name, space, layers, strengths and ends make sense."""
        if not is_name(self.name):
            raise EditError(
                f"An edit is named {shorten(self.name)}: give a name without = , and line breaks or other control "
                f"characters, of at most {LONGEST_NAME} characters."
            )
        if self.space not in self.SPACES:
            raise EditError(
                f"The edit {shorten(self.name)} acts in the space {shorten(self.space)}, but those of the family "
                f"{self.family!r} act in {' or '.join(map(repr, self.SPACES))}: name one of these."
            )
        low, high = self.strength_range
        if not all(map(math.isfinite, (self.default_strength, low, high))) or low >= high:
            raise EditError(
                f"The edit {self.name!r} has the default strength {self.default_strength} and the range "
                f"{self.strength_range}: give finite numbers, the smaller end of the range first."
            )
        if self.ends is not None:
            self.ends = checked_ends(self.name, self.ends)

    @property
    def is_offset(self) -> bool:
        """Whether strengths add up: 0 does nothing, and −s undoes s. Such edits may be given in any order."""
        return True

    @property
    def adds_to_latents(self) -> bool:
        """Whether it adds something to the latents, W or W+: what a strength adds is then known for all latents."""
        return self.is_offset and self.space != STYLE_SPACE

    def apply(self, latents: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        """Change latents; for edits in W and W+.

        Args:
            latents: W+, [B, num_styles, D].
            strength: One strength per image, [B].

        Returns:
            Edited W+, [B, num_styles, D].
        """
        raise NotImplementedError(f"The family {self.family!r} does not say how it acts on latents.")

    def apply_styles(self, styles: Sequence[torch.Tensor], strength: torch.Tensor) -> list[torch.Tensor]:
        """Change StyleSpace; for edits in S.

        Args:
            styles: One tensor [B, C_i] per modulated layer, as `StyleGAN2Generator.styles` gives them.
            strength: One strength per image, [B].

        Returns:
            Edited StyleSpace, in the same order.
        """
        raise NotImplementedError(f"The family {self.family!r} does not say how it acts on StyleSpace.")

    def strengths(self, strength: float | Sequence[float] | torch.Tensor, batch: int | None = None) -> torch.Tensor:
        """Turn a strength, or one per image, into a float32 tensor [B].

        Strengths outside `strength_range` are taken, with a warning in the log, once per edit: the range is where the
        edit looks natural. Those `FARTHEST` times as far are refused, as they are mistakes and render noise.

        Args:
            strength: As a caller gave it.
            batch: Number of images; None if it is not known yet.

        Raises:
            EditError: If the number of strengths does not fit, or one is no finite number or too far out.
        """
        values = strengths_per_image(self.name, strength, batch)
        low, high = self.strength_range
        limit = FARTHEST * max(map(abs, (*self.strength_range, self.default_strength)))
        if len(values) and values.abs().max() > limit:
            raise EditError(
                f"The edit {shorten(self.name)} was given the strength {shorten(strength)}, which is beyond "
                f"±{limit:g}: its range is {low:g} to {high:g}, so give one in or near that."
            )
        # Rounded as float32 rounds the ends of the range.
        if len(values) and not (low - 1e-6 * limit <= values.min() and values.max() <= high + 1e-6 * limit):
            _warn_of_range(self.name, low, high)
        return values

    def check_fits(self, generator: StyleGAN2Generator) -> None:
        """Raise EditError unless the edit fits the latents of a generator, whatever its weights."""
        count, what = generator.num_styles, "styles"
        if self.space == STYLE_SPACE:
            count, what = len(generator.style_channels), "modulated layers"
        if self.layers is not None and not 0 <= self.layers[0] < self.layers[1] <= count:
            raise EditError(
                f"The edit {self.name!r} acts on layers {shorten(self.layers)}, but there are {count} {what}: it was "
                "made for another generator."
            )

    def resized(self, resolution: int, generator: StyleGAN2Generator) -> Self:
        """Make the edit fit a generator that was grown, shrunk or widened from the one it was made for.

        A grown generator has more rows of W+ than the one before. Those that both have keep their meaning, so that the
        edit does to its picture what it did; with the new ones it goes on as it ended: a direction's last row is
        repeated, and layers that went to the end go to the new end. (So an edit of all rows stays one, and one that
        leaves fine styles alone still does.) In StyleSpace, new layers and new channels of widened ones are other
        channels than those that the edit knows: it leaves them alone. For a shrunk generator, rows and layers that it
        has no more are left out.

        Args:
            resolution: Of the generator that the edit was made for, in pixels.
            generator: The one that it is to fit.

        Returns:
            A new edit.

        Raises:
            EditError: If the edit does not fit a generator of that resolution, or nothing of it is left.
        """
        if resolution < 8 or resolution & (resolution - 1):
            raise EditError(
                f"The edit {self.name!r} was made at the resolution {shorten(resolution)}, so it is said, but that is "
                "a power of two from 8 on: give the resolution of its generator."
            )
        resized = dataclasses.replace(
            self,
            layers=None if self.layers is None else self._resized_layers(self.layers, resolution, generator),
            tensors=self._resized_tensors(resolution, generator),
        )
        resized.check_fits(generator)
        return resized

    def _resized_layers(
        self, layers: tuple[int, int], resolution: int, generator: StyleGAN2Generator
    ) -> tuple[int, int]:
        (first, last), before, count = (
            layers,
            self._layers_at(resolution),
            self._layers_at(generator.config.resolution),
        )
        if last > before:
            raise EditError(
                f"The edit {self.name!r} acts on layers {shorten(layers)}, but a generator of {resolution} pixels has "
                f"{before}: give the resolution that it was made for."
            )
        if first >= count:
            raise EditError(
                f"The edit {self.name!r} acts on layers {shorten(layers)}, but this generator has {count}, so that "
                "nothing of it is left."
            )
        to_the_end = last == before and self.space != STYLE_SPACE
        return first, count if to_the_end else min(last, count)

    def _layers_at(self, resolution: int) -> int:
        """How many layers a generator of a resolution has in the edit's space."""
        styles = num_styles_of(resolution)
        return 3 * styles // 2 - 1 if self.space == STYLE_SPACE else styles

    def _resized_tensors(self, resolution: int, generator: StyleGAN2Generator) -> dict[str, torch.Tensor]:
        """Return what the family's tensors become in `resized`; they stay, unless a family says otherwise."""
        return self.tensors

    def layer_range(self, count: int) -> slice:
        """The layers this edit changes, of `count`."""
        return slice(0, count) if self.layers is None else slice(*self.layers)

    def kept_tensor(self, key: str) -> torch.Tensor:
        """Return a tensor as edits keep them: float32, on the CPU, finite.

        Raises:
            EditError: If there is none of that name, or its values make no sense.
        """
        tensor = self.tensors.get(key)
        if tensor is None:
            raise EditError(f"The edit {self.name!r} has no tensor {key!r}, which {self.family!r} needs.")
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise EditError(f"The tensor {key!r} of the edit {self.name!r} is {tensor.dtype}: give real numbers.")
        kept = tensor.detach().cpu().float().contiguous()
        if not torch.isfinite(kept).all():
            raise EditError(f"The {key} of the edit {self.name!r} holds values that are not finite: compute it again.")
        return kept


def checked_ends(name: str, ends: Sequence[str]) -> tuple[str, str]:
    """Return the names of an edit's two ends.

    Raises:
        EditError: If they are not two short pieces of text.
    """
    words = ends if isinstance(ends, list | tuple) else ()
    if len(words) != 2 or not all(isinstance(word, str) and 0 < len(word.strip()) <= LONGEST_END for word in words):
        raise EditError(
            f"The ends of the edit {name!r} are not two words: say what its smallest and its largest strength lead "
            f'to, in at most {LONGEST_END} characters each, such as "grey" and "ginger".'
        )
    return words[0].strip(), words[1].strip()


def code_rows(code: Code, rows: slice) -> Code:
    """Take some of the images of W+ latents or StyleSpace."""
    return code[rows] if isinstance(code, torch.Tensor) else [style[rows] for style in code]


def strengths_per_image(
    name: str, strength: float | Sequence[float] | torch.Tensor, batch: int | None = None
) -> torch.Tensor:
    """Turn a strength, or one per image, into a float32 tensor [B]; as many as were given if B is not known yet.

    Raises:
        EditError: If the number of strengths does not fit, or one is no finite number.
    """
    try:
        values = torch.as_tensor(strength, dtype=torch.float32).flatten()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise EditError(
            f"The edit {shorten(name)} was given the strength {shorten(strength)}: give a number."
        ) from error
    if batch is not None and len(values) not in (1, batch):
        raise EditError(
            f"The edit {shorten(name)} was given {len(values)} strengths for {batch} images: give one, or one each."
        )
    if not torch.isfinite(values).all():
        raise EditError(f"The edit {shorten(name)} was given the strength {shorten(strength)}: give a finite number.")
    return values if batch is None else values.expand(batch)


def is_name(name: object) -> bool:
    """Whether something is a valid name for an edit."""
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        return False
    return not any(char in FORBIDDEN_IN_NAMES or unicodedata.category(char) in ("Cc", "Cs") for char in name)


def check_acts(name: str, tensor: torch.Tensor) -> None:
    """Raise EditError if what an edit adds is zero everywhere."""
    if not tensor.any():
        raise EditError(
            f"The edit {shorten(name)} is zero everywhere it acts, so it would change nothing: give another direction."
        )


@functools.lru_cache(maxsize=1024)
def _warn_of_range(name: str, low: float, high: float) -> None:
    """Log one warning per edit."""
    logger.warning(
        "The edit %s was given a strength outside its range of %g to %g, where pictures stop looking natural.",
        shorten(name), low, high,
    )  # fmt: skip
