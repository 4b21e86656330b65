"""Photos as a command is given them; importing this costs nothing, so that mistakes are told at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_plugin.errors import SDICError, shorten

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif"}

UNREAD_SUFFIXES = {".heic", ".heif"}
"""Of photos that Pillow cannot read."""

Eyes = tuple[float, float, float, float]

AUTOMATIC = "auto"
"""The face of a photo that is taken where nothing is said, see `sdic_plugin.photos.photo.find_crop`."""

EXAMPLES: dict[str, Eyes] = {
    "chelsea": (172.0, 113.0, 316.0, 134.0),
    "astronaut": (204.0, 102.0, 247.0, 104.0),
}
"""Photographs that come with scikit-image, and the eye centres in them: x1, y1, x2, y2 in pixels."""


@dataclass(frozen=True)
class Photo:
    """One photo to work on.

    Attributes:
        name: What the outputs start with: `stem`, and a number where that would be another photo's.
        source: Path, or the picture itself.
        eyes: The two eye centres x1, y1, x2, y2 in pixels, or None if the photo shows the subject as it should be.
        stem: Relative name without suffix; by default the name.
    """

    name: str
    source: Path | Image.Image
    eyes: Eyes | None = None
    stem: str = ""

    def __post_init__(self) -> None:
        """Fill in the stem."""
        object.__setattr__(self, "stem", self.stem or self.name)

    @property
    def label(self) -> str:
        """What messages call it: its path, else its name."""
        return str(self.source) if isinstance(self.source, Path) else self.name


def check_example(name: str) -> None:
    """Raise SDICError unless there is an example of this name."""
    if name not in EXAMPLES:
        raise SDICError(f"The example {shorten(name)} is unknown; there is {', '.join(sorted(EXAMPLES))}.")


def parse_eyes(text: str) -> Eyes:
    """Read two eye centres "x1,y1,x2,y2", in pixels of the photo.

    Raises:
        SDICError: If there are not four finite numbers.
    """
    try:
        x1, y1, x2, y2 = map(float, text.split(","))
    except ValueError:
        x1 = y1 = x2 = y2 = math.nan
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise SDICError(
            f"The eyes {shorten(text)} are not four numbers; write the two eye centres in pixels of the photo as "
            "x1,y1,x2,y2."
        )
    return x1, y1, x2, y2
