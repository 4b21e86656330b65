"""Videos through the pipeline (extra `[video]`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_plugin.utils.lazy import import_at_first_use

if TYPE_CHECKING:  # what `_NAMES_BY_MODULE` lists, for type checkers and editors
    from sdic_plugin.video.options import VideoOptions
    from sdic_plugin.video.preview import preview_video
    from sdic_plugin.video.process import VideoSummary, edit_video

__all__ = ["VideoOptions", "VideoSummary", "edit_video", "preview_video"]

_NAMES_BY_MODULE = {
    "sdic_plugin.video.options": ("VideoOptions",),
    "sdic_plugin.video.preview": ("preview_video",),
    "sdic_plugin.video.process": ("VideoSummary", "edit_video"),
}

if not TYPE_CHECKING:  # checking the names of files for the command line needs no PyTorch
    __getattr__, __dir__ = import_at_first_use(__name__, _NAMES_BY_MODULE)
