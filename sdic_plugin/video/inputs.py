"""Videos as a command is given them; importing this costs nothing, so that mistakes are told at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.utils.files import check_output_file

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".3gp", ".mpg", ".mpeg", ".ts", ".mts", ".wmv"}
"""By which files are told from photos."""


@dataclass(frozen=True)
class Format:
    """How a kind of video file is written.

    Attributes:
        container: FFmpeg's name of it.
        codec: FFmpeg's name of the encoder. No frame waits for a later one in it, so that pieces can be joined.
    """

    container: str
    codec: str = "libx264"


FORMATS = {
    ".mp4": Format("mp4"),
    ".m4v": Format("mp4"),
    ".mov": Format("mov"),
    ".mkv": Format("matroska"),
    ".webm": Format("webm", "libvpx-vp9"),
}
"""What is written, by the end of the file's name."""


def find_video(paths: Sequence[str | os.PathLike[str]]) -> Path | None:
    """Return the video among what a command was given; None if all are photos.

    Raises:
        SDICError: If there are several, or a video along with photos.
    """
    videos = [Path(path) for path in paths if Path(path).suffix.lower() in VIDEO_SUFFIXES and not Path(path).is_dir()]
    if videos and len(paths) > 1:
        raise SDICError(
            f"{len(paths)} files or folders were given, and {shorten(str(videos[0]))} is a video: give one video at a "
            "time, without photos."
        )
    return videos[0] if videos else None


def output_format(path: Path) -> Format:
    """Return how a video of this name is written.

    Raises:
        SDICError: If its end says nothing that can be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise SDICError(
            f"The video would be written to {shorten(str(path))}, whose end names no format that can be written: end "
            f"it in one of {', '.join(FORMATS)}."
        )
    return FORMATS[path.suffix.lower()]


def check_video_files(source: Path, output: Path, overwrite: bool = False) -> None:
    """Raise SDICError unless there is such a video, and another file can be written, which is not there yet.

    Args:
        source: The video to read.
        output: The video to write.
        overwrite: Allow the latter to be there.
    """
    if not source.is_file():
        raise SDICError(f"There is no video {shorten(str(source))}: check the path.")
    output_format(output)
    check_output_file(output)
    if output.exists() and output.samefile(source):
        raise SDICError(f"The result would replace the video {shorten(str(source))} itself: name another file.")
    if output.exists() and not overwrite:
        raise SDICError(f"There is a file {shorten(str(output))} already: name another one, or give --overwrite.")


def preview_path(output: Path) -> Path:
    """Where a preview of a video goes: beside it."""
    return output.with_name(f"{output.stem}_preview.png")
