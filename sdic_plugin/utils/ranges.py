"""Ranges of numbers that users give; importing this costs nothing, so that mistakes are told at once."""

from __future__ import annotations

from collections.abc import Sequence

from sdic_plugin.errors import SDICError, shorten

LARGEST_SEED = 2**63 - 1
LARGEST_TRUNCATION = 100
FARTHEST = 100
"""Strengths beyond this many times the larger end of an edit's range, or its default, are refused."""
MOST_SAMPLES = 100_000
"""Samples drawn at a time; they are all in memory at once."""

OPTIMIZATION_SPACES = ("w", "w+")
"""In which latents of a photo are optimised."""


def check_truncation(truncation: float) -> None:
    """Raise SDICError unless a truncation is a number with which there is something to see."""
    if not abs(truncation) <= LARGEST_TRUNCATION:
        raise SDICError(
            f"truncation is {truncation}, but must be a finite number of at most {LARGEST_TRUNCATION}, such as 0.7."
        )


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds, each once, in their order.

    Raises:
        SDICError: If there is none, one is out of range, or they are more than `MOST_SAMPLES`.
    """
    if not seeds:
        raise SDICError("No picture was asked for: give a count of at least 1, or at least one seed.")
    # A range may be longer than `len` can say.
    if seeds[0] + MOST_SAMPLES <= seeds[-1] if isinstance(seeds, range) else len(seeds) > MOST_SAMPLES:
        raise SDICError(f"More than {MOST_SAMPLES} pictures were asked for: draw them in several folders.")
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise SDICError(f"The seed {shorten(seed)} is out of range: give a whole number from 0 to 2^63 - 1.")
    return list(dict.fromkeys(seeds))


def parse_optimization(text: str) -> tuple[str, int]:
    """Read "w:100" or "w+:1000": space and steps; SDICError for anything else."""
    space, _, steps = text.partition(":")
    if space not in OPTIMIZATION_SPACES or not steps.isdecimal() or len(steps) > 6 or int(steps) < 1:
        raise SDICError(
            f"The optimisation {shorten(text)} is unknown: give SPACE:STEPS of at most 999999 steps, such as w:100 or "
            "w+:1000."
        )
    return space, int(steps)


def parse_part(text: str) -> tuple[int, int]:
    """Read "1/2", the first half: photos 1, 3, 5 …; SDICError for anything else."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and len(parts) <= 4 and 1 <= int(part) <= int(parts)):
        raise SDICError(
            f"The part {shorten(text)} is unknown: give K/N for every N-th image from the K-th on, such as 1/2."
        )
    return int(part), int(parts)


def check_compensation(compensation: float) -> None:
    """Raise SDICError unless a compensation is a number in [0, 1]."""
    try:
        fits = 0 <= compensation <= 1
    except TypeError:  # something else than a number
        fits = False
    if not fits:
        raise SDICError(
            f"compensation is {compensation!r}, but must lie in [0, 1], as a number (1 restores all detail)."
        )
