"""Masks that were drawn on photos: each is cut as its photo's crop is."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.alignment import Alignment, cut_crop
from sdic_plugin.images.reading import load_image
from sdic_plugin.photos.fingerprints import digest, mask_digest

AUTOMATIC_MASK = "auto"


def read_mask(mask: object) -> Image.Image | None:
    """Read a mask that is a picture; None for what the pipeline takes as it is: none, "auto", and arrays.

    Raises:
        ImageError: If it is a file that cannot be read as a picture.
    """
    if isinstance(mask, Image.Image) or (isinstance(mask, str | os.PathLike) and mask != AUTOMATIC_MASK):
        return load_image(mask)
    return None


def crop_mask(mask: Image.Image, alignment: Alignment) -> Image.Image:
    """Return what a mask says of a photo's crop.

    Args:
        mask: Of the photo's size, then it is cut as the crop is; or of the crop's aspect, then it is the crop's.
        alignment: Where the crop lies in the photo.

    Raises:
        SDICError: If it is neither.
    """
    if mask.size == alignment.photo_size:
        return cut_crop(mask, alignment)
    width, height = alignment.crop_size
    # Up to half a pixel of rounding, as for crops that are pasted back.
    if abs(mask.width * height - mask.height * width) <= max(mask.width, mask.height, width, height) / 2:
        return mask
    photo = "{} x {}".format(*alignment.photo_size)
    raise SDICError(
        f"The mask is {mask.width} x {mask.height} pixels, but the photo is {photo} and its crop {width} x {height}: "
        "give a mask of the photo's size, or of the crop's aspect."
    )


def cut_mask_digest(mask: object) -> str | None:
    """Digest of a mask that photos are edited with, for their results."""
    known = mask_digest(mask)
    # Else results of masks that were not cut with their photos would count as done.
    return known if not isinstance(mask, str | os.PathLike) or not Path(mask).is_file() else digest("cut", known)
