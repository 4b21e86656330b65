"""Reading a video with PyAV (extra `[video]`), one upright frame at a time, within limits of size.

Frames keep the colours that the file holds (8 bits, one sample of colour for 2 x 2 of brightness), and the time that
it gives them, to the tick. What is damaged is left out, as players do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sdic_plugin.errors import SDICError, short_reason, shorten
from sdic_plugin.images.alignment import Box
from sdic_plugin.video.colours import Colours

if TYPE_CHECKING:
    import av

MAX_FRAME_PIXELS = 8192 * 4320
"""Largest frame that is decoded, width x height: 8K of cinemas."""

MAX_FRAMES = 1_000_000
"""Longest video: nine hours at 30 frames a second."""

DEMUXERS = "mov,matroska,avi,mpeg,mpegts,asf"
"""Kinds of files that are opened, by FFmpeg's names: none of them names other files or addresses to fetch."""

PLAIN_FORMATS = ("yuv420p", "yuvj420p")
"""Layouts of pixels that are kept as they are; others become the first."""


def import_av() -> Any:
    """Return PyAV.

    Raises:
        SDICError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise SDICError(
            'Videos are read and written by PyAV, which is not installed: pip install "sdic-plugin[video]".'
        ) from error
    return av


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before all of it is read.

    Attributes:
        width: Of upright frames, in pixels.
        height: Of upright frames, in pixels.
        turns: Quarter turns, counter-clockwise, that bring a stored frame upright.
        time_base: Seconds per tick of the frames' times.
        rate: Frames per second, on average; 25 where it is not said.
        duration: Seconds that the file says it lasts; None if it does not.
        pixel_aspect: Width of a pixel over its height.
        colours: How brightness and colour are coded.
        audio: FFmpeg's names of the codecs of its sound tracks.
        unknown_sounds: Sound tracks of kinds that FFmpeg does not know, which are left out.
    """

    width: int
    height: int
    turns: int
    time_base: Fraction
    rate: Fraction
    duration: float | None
    pixel_aspect: Fraction
    colours: Colours
    audio: tuple[str, ...]
    unknown_sounds: int = 0


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: Its number, from 0.
        time: When it is shown, in ticks of the time base; strictly larger than that of the frame before.
        duration: How long, in ticks; 0 if unknown.
        stored: As PyAV decoded it, in one of `PLAIN_FORMATS`; turned as the file holds it.
        turns: See `VideoInfo`.
    """

    index: int
    time: int
    duration: int
    stored: av.VideoFrame
    turns: int

    def rgb(self, box: Box | None = None) -> Image.Image:
        """Upright picture, or its part inside a box (left, top, right, bottom), of which left and top are even."""
        # FFmpeg converts odd heights in another way, so that a part would differ from the whole.
        if box is not None and not (self.turns or self.stored.height % 2 or (box[3] - box[1]) % 2):
            return Image.fromarray(self._part(box).to_ndarray(format="rgb24"))
        whole = Image.fromarray(np.ascontiguousarray(np.rot90(self.stored.to_ndarray(format="rgb24"), self.turns)))
        return whole if box is None else whole.crop(box)

    def _part(self, box: Box) -> av.VideoFrame:
        """A frame of what is inside a box: its conversion takes no longer than the box is large."""
        left, top, right, bottom = box
        part = import_av().VideoFrame(right - left, bottom - top, self.stored.format.name)
        part.colorspace, part.color_range = self.stored.colorspace, self.stored.color_range
        for plane, pixels, scale in zip(part.planes, self.planes(), (1, 2, 2), strict=True):
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            start_x, start_y = left // scale, top // scale
            rows[: plane.height, : plane.width] = pixels[
                start_y : start_y + plane.height, start_x : start_x + plane.width
            ]
        return part

    def planes(self) -> list[np.ndarray]:
        """Views of upright brightness [h, w] and the two of colour [(h + 1) // 2, (w + 1) // 2], uint8."""
        found = []
        for plane in self.stored.planes[:3]:
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            found.append(np.rot90(rows[: plane.height, : plane.width], self.turns))
        return found


def sound_tracks(container: Any) -> list[Any]:
    """The sound tracks of a file that FFmpeg knows; of others, PyAV has no codec, and they cannot be copied."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


class VideoReader:
    """Reads one video, as often as it is asked to.

    Attributes:
        info: What is known of it.
        damaged: Packets that could not be decoded, and 1 for an end that could not be read, of the last time through.
    """

    def __init__(self, path: Path) -> None:
        """Open a video and decode its first frame.

        Raises:
            SDICError: If PyAV is not installed, there is no such file, it is no video, damaged beyond use, or too
                large.
        """
        self.path, self.damaged = path, 0
        self.name = shorten(str(path))
        self._av = import_av()
        with self.opened() as container:
            stream = self._stream(container)
            known = sound_tracks(container)
            audio = tuple(each.codec_context.name for each in known)
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            duration = None if container.duration is None else container.duration / self._av.time_base
            first = next(self._decode(container, stream), None)
            if first is None:
                raise SDICError(f"{self.name} holds no frame that can be decoded: it is damaged; get the file again.")
            turns = self._turns(first)
            width, height = (first.height, first.width) if turns % 2 else (first.width, first.height)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            self._stored_size, self._time_base = (first.width, first.height), Fraction(stream.time_base)
            self.info = VideoInfo(
                width=width,
                height=height,
                turns=turns,
                time_base=self._time_base,
                rate=Fraction(rate),
                duration=duration,
                pixel_aspect=1 / Fraction(aspect) if turns % 2 else Fraction(aspect),
                colours=Colours.of(self._plain(first)),
                audio=audio,
                unknown_sounds=len(container.streams.audio) - len(known),
            )

    def frames(self) -> Iterator[Frame]:
        """Decode the video from its beginning.

        Raises:
            SDICError: If frames change their size, or are too many.
        """
        self.damaged, last, step = 0, None, max(1, round(1 / self.info.rate / self._time_base))
        with self.opened() as container:
            for index, stored in enumerate(self._decode(container, self._stream(container))):
                if index >= MAX_FRAMES:
                    raise SDICError(f"{self.name} has more than {MAX_FRAMES:,} frames: cut it into several videos.")
                if (stored.width, stored.height) != self._stored_size:
                    raise SDICError(
                        f"{self.name} changes its size at frame {index}, from {self._stored_size[0]} x "
                        f"{self._stored_size[1]} to {stored.width} x {stored.height}: cut it there into two videos."
                    )
                time = stored.pts
                if time is None or (last is not None and time <= last):  # of damaged and of very old files
                    time = 0 if last is None else last + step
                last = time
                yield Frame(index, time, int(stored.duration or 0), self._plain(stored), self.info.turns)

    def opened(self) -> Any:
        """Open the file anew; returns PyAV's container, to be closed."""
        try:
            # As a file whatever its name looks like, and nothing but such a file.
            options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
            return self._av.open(f"file:{self.path}", options=options)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            if not self.path.is_file():
                raise SDICError(f"There is no video {self.name}: check the path.") from error
            if self.path.stat().st_size == 0:
                raise SDICError(f"{self.name} is empty (0 bytes): get the file again.") from error
            raise SDICError(
                f"{self.name} cannot be read as a video: it is none, or it is damaged or truncated; give an MP4, MOV, "
                "MKV, WebM or AVI file."
            ) from error

    def _stream(self, container: Any) -> Any:
        """The track of moving pictures; cover pictures are none."""
        cover = self._av.stream.Disposition.attached_pic
        streams = [each for each in container.streams.video if not each.disposition & cover]
        if not streams:
            raise SDICError(f"{self.name} has no pictures, only sound: give a video.")
        context = streams[0].codec_context
        if context is None:
            raise SDICError(f"{self.name} is coded in a way that PyAV does not know: convert it to MP4 first.")
        self._check_size(context.width, context.height)
        return streams[0]

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_FRAME_PIXELS:
            raise SDICError(
                f"{self.name} has frames of {width} x {height} and at most {MAX_FRAME_PIXELS:,} pixels are decoded; "
                "make it smaller first."
            )

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
            except (self._av.FFmpegError, OSError):
                self.damaged += 1
                return
            try:
                decoded = packet.decode()
            except self._av.FFmpegError:
                self.damaged += 1
                continue
            for frame in decoded:
                self._check_size(frame.width, frame.height)
                yield frame

    def _turns(self, frame: Any) -> int:
        """Quarter turns that a frame's display matrix asks for; other angles are left alone, as most players do."""
        angle = frame.rotation
        return round(angle / 90) % 4 if abs(angle - 90 * round(angle / 90)) <= 1 else 0

    def _plain(self, frame: Any) -> Any:
        if frame.format.name in PLAIN_FORMATS:
            return frame
        try:
            colours = {"dst_colorspace": "itu709"} if frame.format.is_rgb else {}
            plain = frame.reformat(format=PLAIN_FORMATS[0], **colours)
        except (self._av.FFmpegError, ValueError) as error:
            raise SDICError(
                f"{self.name} has pixels of the kind {frame.format.name}, which cannot be converted "
                f"({short_reason(error)}): convert it to MP4 first."
            ) from error
        plain.pts, plain.time_base, plain.duration = frame.pts, frame.time_base, frame.duration
        return plain
