"""What a visitor may send and how much the page keeps: every bound in one place."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.image_processor import load_image

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of a page.

    Attributes:
        upload_bytes: Largest file a visitor may send.
        photo_pixels: Largest photo, width x height.
        sessions: Visitors whose photos are kept at a time; the longest idle one goes first.
        session_bytes: Memory of all of them together.
        idle_seconds: After this time a visitor's photo is forgotten.
        queue_size: Requests that may wait; more are turned away with a message.
        parallel_runs: Requests that use the model at the same time.
        edit_file_bytes: Largest set of edits, from a file or the Hub.
        loaded_edits: Edits one visitor may add.
        cache_seconds: Age at which files sent to browsers are deleted.
    """

    upload_bytes: int = 20 * MEGABYTE
    photo_pixels: int = 40_000_000
    sessions: int = 64
    session_bytes: int = 1024 * MEGABYTE
    idle_seconds: float = 30 * 60
    queue_size: int = 32
    parallel_runs: int = 1
    edit_file_bytes: int = 32 * MEGABYTE
    loaded_edits: int = 12
    cache_seconds: int = 60 * 60


def read_upload(path: str | os.PathLike, limits: Limits) -> tuple[bytes, Image.Image]:
    """Read a photo that a visitor sent; its size is checked before a pixel is decoded.

    Args:
        path: The file, as the server received it.
        limits: The page's bounds.

    Returns:
        The file's bytes, and the photo (RGB, upright; of an animation the first frame).

    Raises:
        ImageError: If the file is no picture, damaged, or too large; the message names no path of this machine.
    """
    if os.path.getsize(path) > limits.upload_bytes:
        raise ImageError(f"The file is larger than {limits.upload_bytes // MEGABYTE} MB; send a smaller one.")
    content = Path(path).read_bytes()
    return content, decode_upload(content, limits)


def decode_upload(content: bytes, limits: Limits) -> Image.Image:
    """Decode the bytes of a photo; errors as for `read_upload`."""
    width, height = _declared_size(content)
    if width * height > limits.photo_pixels:
        raise ImageError(
            f"The photo has {width} x {height} pixels, and this page takes up to {limits.photo_pixels // 10**6} "
            "megapixels; send a smaller copy."
        )
    try:
        return load_image(content)
    except ImageError as error:  # "given file content" is what a program gave
        raise ImageError(str(error).replace("The given file content", "The file")) from error


def _declared_size(content: bytes) -> tuple[int, int]:
    """Width and height by the header; (0, 0) where `load_image` is to say what is wrong."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("The photo has far too many pixels; send a smaller copy.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, MemoryError, SDICError):
        return (0, 0)
    except Exception:  # broken headers raise errors of many kinds
        return (0, 0)
