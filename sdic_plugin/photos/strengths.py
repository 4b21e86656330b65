"""Strengths of edits as they are written on the command line; importing this costs nothing.

`warmth=1.5,turn=-2` is one picture with two edits, `turn=-3:3:7` a sweep of seven pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdic_plugin.errors import EditError, listed, shorten

MAX_PICTURES = 1024


@dataclass(frozen=True)
class Sweep:
    """One edit at several strengths.

    Attributes:
        name: Of the edit.
        strengths: In the order shown.
    """

    name: str
    strengths: tuple[float, ...]


def parse_sweep(text: str) -> Sweep:
    """Read "name=FIRST:LAST:COUNT", such as "turn=-3:3:7".

    Raises:
        EditError: If the text is something else.
    """
    name, _, values = text.partition("=")
    try:
        first, last, count = values.split(":")
        low, high, number = float(first), float(last), int(count)
    except ValueError:
        name = ""
    if not name.strip() or number < 2 or not math.isfinite(low) or not math.isfinite(high) or low == high:
        raise EditError(f"The sweep {shorten(text)} is not of the form name=FIRST:LAST:COUNT, such as turn=-3:3:7.")
    if number > MAX_PICTURES:
        raise EditError(f"The sweep {shorten(text)} makes too many pictures: take at most {MAX_PICTURES}.")
    steps = [low + (high - low) * i / (number - 1) for i in range(number)]
    return Sweep(name.strip(), tuple(round(step, 6) + 0.0 for step in steps))


def check_sweeps(sweeps: Sequence[Sweep], edits: Mapping[str, float] | None = None) -> None:
    """Raise EditError if there is no sweep or more than two, they share an edit, or would make too many pictures."""
    names = [sweep.name for sweep in sweeps] + list(edits or {})
    if not 1 <= len(sweeps) <= 2 or len(set(names)) != len(names):
        raise EditError(f"A grid takes one or two sweeps of different edits, but [{listed(names)}] were given.")
    count = math.prod(len(sweep.strengths) for sweep in sweeps)
    if count > MAX_PICTURES:
        raise EditError(f"These sweeps make {count} pictures, but at most {MAX_PICTURES} go into a grid: take fewer.")


def parse_edits(texts: Sequence[str]) -> list[dict[str, float]]:
    """Parse command-line edits: each text is one picture, "name=strength", several joined by commas.

    Raises:
        EditError: If a text is not of that form, or names an edit twice.
    """
    pictures = []
    for text in texts:
        strengths: dict[str, float] = {}
        for part in text.split(","):
            name, separator, value = part.partition("=")
            name = name.strip()
            try:
                strength = float(value)
            except ValueError:
                separator = ""
            if not separator or not name:
                raise EditError(f"The edit {shorten(text)} is not of the form name=strength, such as warmth=1.5.")
            if name in strengths:
                raise EditError(f"The edit {shorten(text)} names {shorten(name)} twice: give one strength for it.")
            strengths[name] = strength
        pictures.append(strengths)
    return pictures
