"""What is decided of a bundled model's edit before its direction is found: name, words, and how strong it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch

from sdic_plugin.edits import DirectionEdit
from sdic_plugin.edits.steering import Warp

Cause = TypeVar("Cause", str, Warp)


@dataclass(frozen=True)
class EditPlan(Generic[Cause]):
    """An edit that is to be found.

    Attributes:
        name: Name of the edit.
        cause: What finds it: the name of a score that rises (a unit is one standard deviation of the samples, or less
            where other scores are held), or a warp (a unit is the warp given).
        default_strength: A strength that shows the edit clearly.
        description: One sentence for people.
        ends: What both ends lead to.
        layers: First and one-past-last style that change; None for all, None as second for all from the first on.
        moves_along: Scores that belong to what the edit is, and are not held.
        reach: Smallest and largest sensible strength, in multiples of the default.
        units: How many units strength 1 is.
    """

    name: str
    cause: Cause
    default_strength: float
    description: str
    ends: tuple[str, str]
    layers: tuple[int, int | None] | None = None
    moves_along: tuple[str, ...] = ()
    reach: tuple[float, float] = (-2.0, 2.0)
    units: float = 1.0

    def with_default_one(self) -> EditPlan[Cause]:
        """The same, but strength 1, which people try first, is what was the default."""
        return replace(self, units=self.units * self.default_strength, default_strength=1.0)

    def edit(self, direction: torch.Tensor, num_styles: int) -> DirectionEdit:
        """Make the edit of its direction of one unit, [1 or num_styles, D], for a generator of so many styles."""
        lowest, highest = self.reach
        first, last = self.layers or (0, None)
        return DirectionEdit(
            name=self.name,
            layers=None if self.layers is None else (first, num_styles if last is None else last),
            default_strength=self.default_strength,
            strength_range=(round(lowest * self.default_strength, 6), round(highest * self.default_strength, 6)),
            description=self.description,
            tensors={"direction": self.units * direction},
            ends=self.ends,
        )
