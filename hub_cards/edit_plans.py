"""What is decided of a bundled model's edit before its direction is found: name, words, and how strong it is."""

from __future__ import annotations

from dataclasses import dataclass
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
        cause: What finds it: the name of a score that rises (strength 1 is one standard deviation of the samples), or
            a warp (strength 1 stands for the warp given).
        default_strength: A strength that shows the edit clearly.
        description: One sentence for people.
        ends: What both ends lead to.
        layers: First and one-past-last style that change; None for all, None as second for all from the first on.
        moves_along: Scores that belong to what the edit is, and are not held.
        reach: Smallest and largest sensible strength, in multiples of the default.
    """

    name: str
    cause: Cause
    default_strength: float
    description: str
    ends: tuple[str, str]
    layers: tuple[int, int | None] | None = None
    moves_along: tuple[str, ...] = ()
    reach: tuple[float, float] = (-2.0, 2.0)

    def edit(self, direction: torch.Tensor, num_styles: int) -> DirectionEdit:
        """Make the edit of its direction, [1 or num_styles, D], for a generator of so many styles."""
        lowest, highest = self.reach
        first, last = self.layers or (0, None)
        return DirectionEdit(
            name=self.name,
            layers=None if self.layers is None else (first, num_styles if last is None else last),
            default_strength=self.default_strength,
            strength_range=(round(lowest * self.default_strength, 6), round(highest * self.default_strength, 6)),
            description=self.description,
            tensors={"direction": direction},
            ends=self.ends,
        )
