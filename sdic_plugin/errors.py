"""Errors a user can meet: each message says what was given, what is needed, and what to do."""

from __future__ import annotations


class SDICError(ValueError):
    """Base class of every error this package raises for wrong input."""


class CheckpointError(SDICError):
    """A file or folder of weights that cannot be read, or does not fit."""


class ImageError(SDICError):
    """A picture that cannot be read, or has the wrong shape, range or size."""


class EditError(SDICError):
    """An edit that does not exist, or does not fit the generator."""
