"""Options that are written in a form of their own, read without importing what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sdic_plugin.errors import EditError, SDICError, listed, shorten
from sdic_plugin.utils.ranges import check_seeds

Value = TypeVar("Value")


def parse_seeds(text: str) -> list[int]:
    """Read "1,2,5" or "0-15" (both ends included), or a mixture.

    Raises:
        SDICError: If the text is something else.
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, separator, last = part.partition("-")
            seeds += check_seeds(range(int(first), int(last if separator else first) + 1))
    except SDICError:
        raise
    except ValueError as error:
        raise SDICError(
            f"The seeds {shorten(text)} cannot be read: write numbers such as 1,2,5 or a range such as 0-15."
        ) from error
    return seeds


def parse_layers(text: str) -> tuple[int, int]:
    """Read "A:B".

    Raises:
        SDICError: If the text is something else, or leaves no layer.
    """
    first, separator, last = text.partition(":")
    if not separator or not (first.strip().isdecimal() and last.strip().isdecimal()) or len(text) > 100:
        raise SDICError(f"The layers {shorten(text)} cannot be read: write FIRST:LAST, such as 4:10.")
    if int(first) >= int(last):
        raise SDICError(
            f"The layers {shorten(text)} are none: write FIRST:LAST, LAST one past the last, such as 4:10."
        )
    return int(first), int(last)


def parse_component(text: str) -> tuple[str, int]:
    """Read "smile=12".

    Raises:
        EditError: If the text is something else.
    """
    name, _, index = text.partition("=")
    if not name.strip() or not index.strip().isdecimal() or len(index) > 100:
        raise EditError(f"The component {shorten(text)} cannot be read: write NAME=INDEX, such as smile=12.")
    return name.strip(), int(index)


def by_name(pairs: Sequence[tuple[str, Value]], option: str) -> dict[str, Value]:
    """Return what was given by name; EditError if a name was given twice."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise EditError(f"{option} was given twice for one name, of [{listed(named)}]: give each name once.")
    return named


def check_face(choice: str, also: Sequence[str] = ()) -> None:
    """Raise SDICError unless a face is "largest", a number from 0 on, or one of some other words."""
    if choice != "largest" and choice not in also and not (choice.isdecimal() and len(choice) < 10):
        words = " or ".join(f'"{word}"' for word in ("largest", *also))
        raise SDICError(
            f"Face {shorten(choice)} was asked for: give {words}, or a number from 0 on, counted from the left."
        )


def check_eyes_or_face(eyes: str | None, face: str | None) -> None:
    """Raise SDICError if a face is to be found whose eyes are given."""
    if eyes is not None and face not in (None, "none"):
        raise SDICError(f"--face {face} does nothing with --eyes, which say where the face is: give one of them.")


def check_from(name: str, value: float | None, least: int, largest: int | None = None) -> None:
    """Raise SDICError unless the value of an option, given by its name, is None or lies in a range."""
    if value is None or (least <= value and (largest is None or value <= largest)):
        return
    range_ = f"be {least} or more" if largest is None else f"lie between {least} and {largest}"
    raise SDICError(f"{name} is {value}, but must {range_}.")


def check_assignments(texts: Sequence[str]) -> None:
    """Raise SDICError unless all texts are of the form `key=value`."""
    for text in texts:
        if "=" not in text:
            raise SDICError(f"The setting {shorten(text)} has no value: write key=value.")
