"""Reading a picture from anything that may hold one: upright, RGB, within limits of size."""

from __future__ import annotations

import io
import os
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from sdic_plugin.errors import ImageError

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded, width x height."""


COLOURS_ARE_RGB = ("RGB", "RGBA", "RGBX", "P", "PA")
"""Modes whose colour profiles, if they have one, are for RGB."""

ImageSource = str | os.PathLike[str] | bytes | Image.Image


def load_image(source: ImageSource, keep_alpha: bool = False) -> Image.Image:
    """Read a picture as 8-bit RGB, upright and opaque.

    EXIF rotation is applied, transparency is composited on white, 16-bit grey is scaled (not clipped) to 8 bits, and
    of an animation file the first frame is taken.

    Args:
        source: A path, the bytes of a picture file, or a PIL picture (of an animated one, its current frame).
        keep_alpha: Return a picture that may be transparent as RGBA, and the colours under it as they are.

    Returns:
        A new picture in mode "RGB", or "RGBA" where alpha is kept; `source` is left as it is.

    Raises:
        ImageError: If there is no such file, it is no picture, it is damaged, or it has more than `MAX_PIXELS` pixels.
    """
    if isinstance(source, Image.Image):
        filename = getattr(source, "filename", "")
        return _to_upright_rgb(source, repr(filename) if filename else "The given PIL picture", keep_alpha)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), source[:512], "The given file content", keep_alpha)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"A {type(source).__name__} was given and a picture is needed; "
            "pass a path, the bytes of a picture file or a PIL picture."
        )
    path = os.fspath(source)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            file.seek(0)
            return _decode(file, head, repr(path), keep_alpha)
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"{path!r} cannot be read as a picture: {_path_problem(str(path), error)}.") from error


def _path_problem(path: str, error: Exception) -> str:
    if path.startswith(("http://", "https://")):
        return "it is a web address; download it and pass the file"
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the path"
    if isinstance(error, IsADirectoryError):
        return "it is a folder; pass the files in it"
    return f"{error}; check the path and its permissions"


def _decode(file: IO[bytes], head: bytes, name: str, keep_alpha: bool) -> Image.Image:
    if not head:
        raise ImageError(f"{name} cannot be read as a picture: it is empty (0 bytes); get the file again.")
    Image.init()
    # EPS is left out: Pillow would hand the file to Ghostscript, which runs the program inside it.
    formats = [identifier for identifier in Image.ID if identifier != "EPS"]
    try:
        image = Image.open(file, formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, larger limit
        raise ImageError(_too_large(name, "far too many")) from error
    except Exception as error:  # broken headers raise errors of many kinds
        raise ImageError(f"{name} cannot be read as a picture: {_header_problem(head)}.") from error
    return _to_upright_rgb(image, name, keep_alpha, ours=True)


def _header_problem(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is a web page (HTML), not a picture file; download the picture itself"
    if text.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; fetch the real file with `git lfs pull`"
    return "it is in no picture format that can be read here, or it is damaged; use a JPEG, PNG, WebP or TIFF file"


def _too_large(name: str, amount: str) -> str:
    return f"{name} has {amount} pixels and at most {MAX_PIXELS:,} are decoded; make it smaller first."


def _to_upright_rgb(image: Image.Image, name: str, keep_alpha: bool, ours: bool = False) -> Image.Image:
    """Return a new picture; of one of `ours`, just opened, the pixels need not be copied for that."""
    width, height = image.size
    if width * height > MAX_PIXELS:  # known from the header: nothing is decoded yet
        raise ImageError(_too_large(name, f"{width} x {height}"))
    if width * height == 0:
        raise ImageError(f"{name} is {width} x {height} pixels large; pass a picture with at least one pixel.")
    try:
        image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error and others
        reason = str(error).strip(".") or type(error).__name__
        raise ImageError(
            f"{name} is damaged or truncated and cannot be decoded ({reason}); get the file again."
        ) from error
    upright = _upright(image, in_place=ours)
    if upright.mode == "RGB" and not upright.has_transparency_data:
        if upright is not image:
            return upright  # a copy already
        if ours:
            return image._new(image.im)  # a plain picture of the same pixels
    return _to_rgb(upright, name, keep_alpha)


def _upright(image: Image.Image, in_place: bool) -> Image.Image:
    try:
        if not in_place:
            return ImageOps.exif_transpose(image)
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged EXIF data raise errors of many kinds, and the pixels are fine without them
        pass
    return image


def _to_rgb(image: Image.Image, name: str, keep_alpha: bool) -> Image.Image:
    if image.mode.startswith("I"):
        image = _from_16_bit(image, name)
    if image.mode == "F":
        raise ImageError(
            f"{name} has float pixels (mode F), whose range is not defined; pass a numpy array in [0, 1] instead."
        )
    try:
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            if keep_alpha:
                return rgba
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
        rgb = image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"{name} has mode {image.mode}, which cannot become RGB; convert it to RGB first.") from error
    if image.mode not in COLOURS_ARE_RGB:
        rgb.info.pop("icc_profile", None)  # of the grey or CMYK that it was
    return rgb


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    """Scale grey pixels from [0, 65535] to [0, 255]; Pillow reads some 16-bit files in the 32-bit mode "I"."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name} has integer pixels in [{values.min()}, {values.max()}] and 16-bit ones (0 to 65535) are needed; "
            "rescale them first."
        )
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
