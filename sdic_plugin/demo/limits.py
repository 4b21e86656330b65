"""What a visitor may send and how much the page keeps: every bound in one place."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sdic_plugin.errors import ImageError
from sdic_plugin.images.reading import load_image

MEGABYTE = 1 << 20

LAYER_PIXELS = 4_000_000
"""Largest painted layer, width x height; the page's own editor makes a quarter of a million."""


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
        photo_formats: Kinds of picture files, by Pillow's names.
        sessions_per_address: Of the sessions, for one address.
        waiting_per_address: Of the requests that may wait, for one address.
        connections_per_address: Requests of one address that are being answered at a time, the lasting connections of
            open pages included.
        files_bytes: On disk, for each visitor: what was sent, and what was made from it.
        upload_rate: Bytes that one address may send: at once, and per second after that.
        tool_bytes: Largest request to a tool, the photo in it included; see `sdic_plugin.demo.tools`.
        page_rate: Times that one address may load the page or its description: at once, and per second after that.
        proxies: Servers in front of this one that add to X-Forwarded-For where they were called from; one in a Space.
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
    photo_formats: tuple[str, ...] = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    sessions_per_address: int = 32
    waiting_per_address: int = 8
    connections_per_address: int = 64
    files_bytes: int = 128 * MEGABYTE
    upload_rate: tuple[float, float] = (100 * MEGABYTE, 2 * MEGABYTE)
    tool_bytes: int = 4 * MEGABYTE
    page_rate: tuple[float, float] = (60, 1)
    proxies: int = field(default_factory=lambda: int("SPACE_ID" in os.environ))


def read_upload(path: str | os.PathLike[str], limits: Limits) -> tuple[bytes, Image.Image]:
    """Read a photo that a visitor sent; its size is checked before a pixel is decoded.

    Args:
        path: The file, as the server received it.
        limits: The page's bounds.

    Returns:
        The file's bytes, and the photo (RGB, upright; of an animation the first frame).

    Raises:
        ImageError: If the file is no picture, damaged, or too large; the message names no path of this machine.
    """
    try:
        size = os.path.getsize(path)
        content = b"" if size > limits.upload_bytes else Path(path).read_bytes()
    except OSError as error:  # newer uploads took its place
        raise ImageError("The file is no longer here: send it again.") from error
    if size > limits.upload_bytes:
        raise ImageError(f"The file is larger than {limits.upload_bytes // MEGABYTE} MB; send a smaller one.")
    return content, decode_upload(content, limits)


def decode_upload(content: bytes, limits: Limits, keep_alpha: bool = False) -> Image.Image:
    """Decode the bytes of a photo, RGB, or RGBA where it may be transparent; errors as for `read_upload`."""
    _check_header(content, limits.photo_pixels, limits.photo_formats)
    try:
        return load_image(content, keep_alpha)
    except ImageError as error:  # "given file content" is what a program gave
        raise ImageError(str(error).replace("The given file content", "The file")) from error


def decode_layer(content: bytes) -> Image.Image:
    """Decode a painted layer (RGBA), after a look at its size.

    Raises:
        ImageError: If it is no picture, damaged, or larger than any editor's.
    """
    _check_header(content, LAYER_PIXELS, ("PNG", "WEBP"))
    try:
        with Image.open(io.BytesIO(content)) as layer:
            return layer.convert("RGBA")
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise ImageError("The painted mask is damaged: paint it again.") from error


def _check_header(content: bytes, pixels: int, formats: tuple[str, ...]) -> None:
    """Refuse by the header alone; what is wrong with a file that has none, `load_image` says better."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            (width, height), kind = image.size, image.format
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("The photo has far too many pixels; send a smaller copy.") from error
    except Exception:  # broken headers raise errors of many kinds
        return
    if kind not in formats:
        raise ImageError(f"The file is a picture of the kind {kind}; send a JPEG, PNG or WebP file.")
    if width * height > pixels:
        raise ImageError(
            f"The photo has {width} x {height} pixels, and this page takes up to {pixels // 10**6} megapixels; send a "
            "smaller copy."
        )
