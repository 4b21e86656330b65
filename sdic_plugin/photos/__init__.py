"""Folders of photos through the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_plugin.utils.lazy import import_at_first_use

if TYPE_CHECKING:  # what `_NAMES_BY_MODULE` lists, for type checkers and editors
    from sdic_plugin.photos.find import find_photos
    from sdic_plugin.photos.photo import Photo, PhotoSummary, crop_photo, load_example
    from sdic_plugin.photos.process import PhotoOptions, process_photos
    from sdic_plugin.photos.sweep import sweep_photos

__all__ = [
    "Photo",
    "PhotoOptions",
    "PhotoSummary",
    "crop_photo",
    "find_photos",
    "load_example",
    "process_photos",
    "sweep_photos",
]

_NAMES_BY_MODULE = {
    "sdic_plugin.photos.find": ("find_photos",),
    "sdic_plugin.photos.photo": ("Photo", "PhotoSummary", "crop_photo", "load_example"),
    "sdic_plugin.photos.process": ("PhotoOptions", "process_photos"),
    "sdic_plugin.photos.sweep": ("sweep_photos",),
}

if not TYPE_CHECKING:  # finding photos for the command line needs no PyTorch
    __getattr__, __dir__ = import_at_first_use(__name__, _NAMES_BY_MODULE)
