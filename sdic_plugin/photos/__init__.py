"""Folders of photos through the pipeline."""

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
