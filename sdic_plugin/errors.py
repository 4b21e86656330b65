"""Errors a user can meet: each message says what was given, what is needed, and what to do."""

from __future__ import annotations

import lzma
import re
import tarfile
import zipfile
import zlib


class SDICError(ValueError):
    """Base class of every error this package raises for wrong input."""


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
    return re.split(r"\.\s", text)[0].rstrip(".: ")[:150] or type(error).__name__
