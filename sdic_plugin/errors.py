"""Errors a user can meet: each message says what was given, what is needed, and what to do."""

from __future__ import annotations

import lzma
import re
import reprlib
import tarfile
import zipfile
import zlib
from collections.abc import Collection

LONGEST_MESSAGE = 600
"""Characters of a whole message: our own words take half of it at most, what files and users say the rest."""


class SDICError(ValueError):
    """Base class of every error this package raises for wrong input.

    Messages are fit for a terminal whatever they quote: on one line, without control characters, at most
    `LONGEST_MESSAGE` characters. What is quoted should be shortened where it is quoted (`shorten`, `listed`); this is
    the net below.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(cut_middle(printable(str(message)), LONGEST_MESSAGE))


class CheckpointError(SDICError):
    """A file or folder of weights that cannot be read, or does not fit."""


class ImageError(SDICError):
    """A picture that cannot be read, or has the wrong shape, range or size."""


class EditError(SDICError):
    """An edit that does not exist, or does not fit the generator."""


class FusedWeightsError(SDICError, AttributeError):
    """Something that fused convolutions refuse; an AttributeError too, so that `hasattr` says no."""


READ_ERRORS = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # encrypted zip members; its subclass NotImplementedError: unknown compression
)
"""What reading files and archives raises when they are damaged."""


def short_reason(error: BaseException) -> str:
    """What an error of another library says, fit for a sentence of ours: its first line or sentence, shortened."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else ""
    return printable(re.split(r"\.\s", text)[0].rstrip(".: "))[:150] or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Why the system refused something, without the path that `OSError` repeats; else as `short_reason`."""
    return error.strerror if isinstance(error, OSError) and error.strerror else short_reason(error)


def sentence_of(error: Exception) -> str:
    """What a user is told of an error: ours speak for themselves, the system's become a sentence with their path."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    where = "" if error.filename is None else f" {shorten(str(error.filename))}"
    return f"the system refused to read or write{where}: {error.strerror}."


def printable(text: str, keep: str = "") -> str:
    r"""Escape what must not reach a terminal: control characters, escape sequences, line breaks, half surrogates.

    Args:
        text: Of any origin.
        keep: Characters that are left as they are, such as "\n".
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii") for char in text
    )


def cut_middle(text: str, limit: int) -> str:
    """Cut text to `limit` characters at its middle, where ` … ` then stands."""
    if len(text) <= limit:
        return text
    tail = (limit - 3) * 2 // 5
    return f"{text[: limit - 3 - tail]} … {text[-tail:]}"


def shorten(value: object, limit: int = 100) -> str:
    """Quote a value of foreign origin in a message: as `repr` does, printable, at most `limit` characters.

    Takes any object and never raises, however large, deep or broken it is; long text loses its middle.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        text = short.repr(value[:limit] if isinstance(value, bytes | bytearray) else value)
    except Exception:  # of the value's own __repr__, or an integer of more digits than Python writes
        text = f"<{type(value).__name__}>"
    return cut_middle(printable(" ".join(text.split())), limit)


def listed(values: Collection[object], count: int = 3, limit: int = 60) -> str:
    """Quote some values in a message: "'a', 'b', 'c' and 214 more", each by `shorten`; "none" if there are none."""
    first = ", ".join(shorten(value, limit) for value, _ in zip(values, range(count), strict=False))
    rest = len(values) - count
    return f"{first} and {rest} more" if rest > 0 else first or "none"
