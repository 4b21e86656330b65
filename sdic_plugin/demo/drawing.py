"""Pictures for the screen: the crop drawn on the photo, the discrepancy with its scale, pictures enlarged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from sdic_plugin.images.alignment import Alignment, Point

PREVIEW_SIDES = (800, 1280)
"""Shortest and longest longer side of the photo on the screen."""

SHOWN_SIDE = 512
"""Pictures smaller than this are enlarged for the screen."""

SHADE = 0.45
"""Brightness of the photo outside the crop."""

LARGEST_DIFFERENCE = 0.5
"""Difference shown brightest, of pictures in [0, 1]."""

HEAT = np.array([(13, 8, 35), (84, 15, 109), (187, 55, 84), (249, 142, 9), (252, 255, 200)], dtype=np.float64)
"""Colours from no difference to the largest; ever brighter, so that they read without colour too."""

BAR_HEIGHT = 46


def make_preview(photo: Image.Image) -> Image.Image:
    """Bring a photo to a size for the screen."""
    smallest, largest = PREVIEW_SIDES
    longer = max(photo.size)
    scale = min(max(longer, smallest), largest) / longer
    if scale == 1:
        return photo
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return photo.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)


def enlarge(picture: Image.Image) -> Image.Image:
    """Enlarge a small picture by a whole factor for the screen; others stay as they are."""
    factor = SHOWN_SIDE // max(picture.size)
    if factor < 2:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def draw_crop(
    preview: Image.Image, photo_size: tuple[int, int], alignment: Alignment | None, eyes: Sequence[Point]
) -> Image.Image:
    """Darken the photo outside the crop, and mark crop and eyes by lines that show on light and dark.

    Args:
        preview: The photo for the screen.
        photo_size: (width, height) of the photo itself.
        alignment: Of the crop, if there is one yet.
        eyes: Eye centres in pixels of the photo.
    """
    stretch = np.array(preview.size) / photo_size
    shown = preview
    if alignment is not None:
        quad = [tuple(point) for point in alignment.quad * stretch]
        inside = Image.new("L", preview.size, round(255 * SHADE))
        ImageDraw.Draw(inside).polygon(quad, fill=255)
        shown = Image.composite(preview, Image.new("RGB", preview.size), inside)
        pen = ImageDraw.Draw(shown)
        for width, ink in ((7, "black"), (3, "white")):
            pen.line([*quad, quad[0], quad[1]], fill=ink, width=width, joint="curve")
    shown = shown.copy()
    pen, radius = ImageDraw.Draw(shown), max(preview.size) / 70
    for x, y in np.array(eyes).reshape(-1, 2) * stretch:
        for width, ink in ((7, "black"), (3, "white")):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=width)
        for width, ink in ((5, "black"), (2, "white")):
            pen.line((x - 2 * radius, y, x + 2 * radius, y), fill=ink, width=width)
            pen.line((x, y - 2 * radius, x, y + 2 * radius), fill=ink, width=width)
    return shown


def draw_discrepancy(discrepancy: torch.Tensor) -> Image.Image:
    """Show where, and how strongly, the initial reconstruction differs from the photo, above a scale.

    Args:
        discrepancy: [3, H, W], a difference of pictures in [-1, 1], unbounded.
    """
    amount = discrepancy.abs().mean(dim=0).div(2).clamp(0, LARGEST_DIFFERENCE).div(LARGEST_DIFFERENCE)
    picture = enlarge(_heat(amount.numpy()))
    sheet = Image.new("RGB", (picture.width, picture.height + BAR_HEIGHT), "white")
    sheet.paste(picture)
    font = ImageFont.load_default(size=22)  # of 512 pixels: readable on a phone, too
    pen = ImageDraw.Draw(sheet)
    low, high = "same as the photo", "very different"
    left = 8 + pen.textlength(low, font=font) + 8
    right = sheet.width - 8 - pen.textlength(high, font=font) - 8
    middle = picture.height + BAR_HEIGHT // 2
    pen.text((8, middle), low, fill="black", font=font, anchor="lm")
    pen.text((sheet.width - 8, middle), high, fill="black", font=font, anchor="rm")
    if right - left > 20:
        bar = _heat(np.linspace(0, 1, int(right - left))[None].repeat(14, axis=0))
        sheet.paste(bar, (int(left), middle - 7))
        pen.rectangle((left - 1, middle - 8, left + bar.width, middle + 7), outline="black")
    return sheet


def _heat(amount: np.ndarray) -> Image.Image:
    """[h, w] in [0, 1] -> RGB picture."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(amount, stops, HEAT[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))
