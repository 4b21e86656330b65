"""The page, served for real on a free port, and the files that people (and attackers) send to it."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
from PIL import Image

from sdic_plugin import SDICPipeline
from sdic_plugin.demo import Limits, build_demo, serve
from sdic_plugin.demo.page import Page
from sdic_plugin.demo.sessions import SessionStore


@dataclass
class Server:
    url: str
    pipe: SDICPipeline
    sessions: SessionStore
    page: Page


@contextlib.contextmanager
def serving(
    pipe: SDICPipeline,
    name: str = "cats64",
    limits: Limits | None = None,
    detector: str | None = None,
    mcp: bool = False,
) -> Iterator[Server]:
    limits = limits or Limits()
    pipe.set_progress_bar_config(disable=True)
    pillows_limit = Image.MAX_IMAGE_PIXELS
    page = build_demo(pipe, name, limits, detector, mcp)
    # What becomes of freed memory is about the whole process, in which other tests run as well.
    with mock.patch("sdic_plugin.demo.return_freed_memory"):
        _, url, _ = serve(page, prevent_thread_lock=True, quiet=True)
    try:
        yield Server(url, pipe, page.sdic_sessions, page)
    finally:
        page.close()
        Image.MAX_IMAGE_PIXELS = pillows_limit


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def odd_photos(photo: Image.Image) -> dict[str, bytes]:
    """Files that must work."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    frames = [photo.resize((90, 60)), Image.new("RGB", (90, 60))]
    return {
        "exif.jpg": encoded(photo.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95),
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "deep.png": encoded(Image.fromarray(grey), "PNG"),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "clear.png": encoded(photo.convert("RGBA"), "PNG"),
        "tiny.png": encoded(photo.resize((3, 2)), "PNG"),
    }


def bad_photos(photo: Image.Image) -> dict[str, tuple[bytes, str]]:
    """Files that must be refused, with words of the sentence."""
    return {
        "empty.png": (b"", "empty"),
        "page.png": (b"<!DOCTYPE html><html></html>", "web page"),
        "junk.jpg": (bytes(range(256)) * 20, "no picture format"),
        "cut.png": (encoded(photo, "PNG")[:9000], "damaged or truncated"),
        "large.png": (declared_png(8000, 8000), "8000 x 8000 pixels"),
        "bomb.png": (declared_png(60000, 60000), "too many pixels"),
        "text.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture format"),
    }
