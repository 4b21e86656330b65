"""Folders of pictures, with other files among them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(index: int, width: int = 24, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(index: int) -> bytes:
    buffer = io.BytesIO()
    picture(index).save(buffer, "png")
    return buffer.getvalue()


def write_pictures(path: Path) -> Path:
    """Write nine pictures into a folder and a folder in it, a text file, and two damaged pictures."""
    (path / "more").mkdir(parents=True)
    for index in range(9):
        (path / ("more" if index % 2 else ".") / f"{index}.png").write_bytes(png(index))
    (path / "notes.txt").write_text("not a picture")
    (path / "5_page.png").write_bytes(b"<html>")
    (path / "6_cut.png").write_bytes(png(6)[:200])
    return path
