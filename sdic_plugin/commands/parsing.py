"""Options that are written in a form of their own."""

from __future__ import annotations

from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.models.sampling import check_seeds


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
