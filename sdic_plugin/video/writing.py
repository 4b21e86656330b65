"""Writing a video with PyAV: pieces that a stopped run keeps, and the whole of them with the sound of the original.

A piece holds its frames in their order, the first whole in itself, each one packet. So pieces can be joined without
coding anything again, and every frame is given the time it had in the original.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdic_plugin.errors import SDICError, listed, shorten
from sdic_plugin.utils.files import replacing_file
from sdic_plugin.video.inputs import Format
from sdic_plugin.video.reading import VideoInfo, VideoReader, import_av, sound_tracks

PIECE_CONTAINER = "nut"
"""FFmpeg's own kind of file, which takes any codec."""

THREADS = 1
"""Of an encoder: with several, what x264 writes is not always the same, and a run that goes on must give one file."""

ENCODER_OPTIONS = {
    "libx264": {"preset": "superfast", "bf": "0", "sc_threshold": "0"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "5", "b": "0", "lag-in-frames": "0", "row-mt": "1"},
}
"""How encoders are set up beside the quality: no frame waits for a later one."""

UP_TO_AVX2 = "asm=SSE2Fast,SSSE3,SSE4.2,AVX,AVX2,FMA3,BMI2,LZCNT"
"""What x264 is let use of a processor with AVX-512. With that itself, now and then (one piece in 50) it wrote other
bytes for the same frames while networks computed in another thread, and a run that goes on must give one file."""


def check_sound(info: VideoInfo, kind: Format, output: Path) -> None:
    """Raise SDICError unless a kind of file can hold the sound of a video as it is, and its encoder is there."""
    av = import_av()
    if kind.codec not in av.codecs_available:
        raise SDICError(
            f"This PyAV has no encoder {kind.codec}, which {output.suffix} files are written with: install PyAV from "
            "PyPI (pip install av)."
        )
    with av.open(os.devnull, "w", format=kind.container) as container:
        possible = container.supported_codecs
    unfit = [name for name in info.audio if name not in possible]
    if unfit:
        raise SDICError(
            f"The sound is {listed(unfit)}, which {shorten(output.name)} cannot hold as it is: end the name in .mkv, "
            "which holds any sound."
        )


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        kind: Of the file.
        quality: From 0, nothing is lost, to 51; 18 is hard to tell from the original.
        info: Of the original: frame size, rate, colours.
    """

    kind: Format
    quality: int
    info: VideoInfo

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of what is written: even, as the codecs need it; the last column or row is repeated."""
        return self.info.width + self.info.width % 2, self.info.height + self.info.height % 2

    def add_stream(self, container: Any) -> Any:
        """Add a stream to a container that frames of the original's time base go to."""
        rate = self.info.rate.limit_denominator(1 << 16)
        stream = container.add_stream(self.kind.codec, rate=rate)
        context = stream.codec_context
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv420p"
        context.time_base = self.info.time_base
        context.thread_count = THREADS
        context.gop_size = 1 << 20  # whole frames only where a piece begins
        context.sample_aspect_ratio = self.info.pixel_aspect
        colours = self.info.colours
        context.color_range, context.colorspace = colours.range, colours.space
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        options = {**ENCODER_OPTIONS[self.kind.codec], "crf": str(self.quality)}
        if self.kind.codec == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
            options["x264-params"] = UP_TO_AVX2
        context.options = options
        return stream


class PieceWriter:
    """Encodes some frames in a row to one file, which appears whole or not at all.

    Args:
        path: The file.
        encoding: How.
    """

    def __init__(self, path: Path, encoding: Encoding) -> None:
        self._av, self._path, self._encoding = import_av(), path, encoding
        self._unfinished = path.with_name(f"{path.name}.unfinished")
        self._container = self._av.open(str(self._unfinished), "w", format=PIECE_CONTAINER)
        self._stream = encoding.add_stream(self._container)
        self._count = 0

    def write(self, planes: Sequence[np.ndarray], time: int) -> None:
        """Encode the next frame.

        Args:
            planes: As `even_planes` gives them.
            time: In ticks of the original's time base.
        """
        height, width = planes[0].shape
        together = np.concatenate([plane.reshape(-1) for plane in planes]).reshape(height * 3 // 2, width)
        frame = self._av.VideoFrame.from_ndarray(together, format="yuv420p")
        frame.pts, frame.time_base = time, self._encoding.info.time_base
        frame.color_range, frame.colorspace = self._encoding.info.colours.range, self._encoding.info.colours.space
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def finish(self) -> None:
        """Write what is left, and put the file in its place."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        _check_whole(self._unfinished, self._count)
        os.replace(self._unfinished, self._path)

    def abandon(self) -> None:
        """Leave nothing of it."""
        try:
            self._container.close()
        except (self._av.FFmpegError, OSError):  # a full disk
            pass
        self._unfinished.unlink(missing_ok=True)


def _check_whole(path: Path, count: int) -> None:
    """Raise OSError unless a file that was closed holds so many frames: what a full disk cuts off last is not told."""
    with import_av().open(str(path)) as container:
        found = sum(1 for packet in container.demux(video=0) if packet.size)
    if found != count:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def even_planes(planes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Copy a frame's planes, the last column and row repeated where width and height are odd."""
    height, width = planes[0].shape
    luma = np.pad(planes[0], ((0, height % 2), (0, width % 2)), mode="edge")
    return [luma, *(np.array(plane) for plane in planes[1:])]


def join_pieces(
    pieces: Sequence[Path], times: np.ndarray, durations: np.ndarray, reader: VideoReader, kind: Format, output: Path
) -> None:
    """Put pieces together, with the original's sound and its times; the file appears whole or not at all.

    Args:
        pieces: In their order.
        times: Of all their frames, in ticks of the original's time base, [N].
        durations: Of the frames, in ticks; 0 where the next frame's time says it.
        reader: Of the original.
        kind: Of the file.
        output: The file.

    Raises:
        SDICError: If the pieces do not hold as many frames.
    """
    av = import_av()
    with replacing_file(output) as temporary, reader.opened() as original, av.open(str(pieces[0])) as first:
        options = {"movie_timescale": "90000", "movflags": "faststart"} if kind.container in ("mp4", "mov") else {}
        with av.open(str(temporary), "w", format=kind.container, options=options) as container:
            container.metadata.update(original.metadata)
            video = container.add_stream_from_template(first.streams.video[0])
            video.time_base = reader.info.time_base
            sounds = sound_tracks(original)
            copies = {each.index: container.add_stream_from_template(each) for each in sounds}
            for each in sounds:
                copies[each.index].metadata.update(each.metadata)
            moving = _video_packets(pieces, times, durations, reader.info.time_base, video)
            sounding = _sound_packets(original, sounds, copies) if sounds else iter(())
            for packet in heapq.merge(moving, sounding, key=_second):
                container.mux(packet)
        _check_whole(temporary, len(times))


def _video_packets(
    pieces: Sequence[Path], times: np.ndarray, durations: np.ndarray, time_base: Fraction, stream: Any
) -> Iterator[Any]:
    av, count = import_av(), itertools.count()
    for piece in pieces:
        with av.open(str(piece)) as container:
            for packet in container.demux(video=0):
                if not packet.size:
                    continue  # the end
                index = next(count)
                if index >= len(times):
                    raise SDICError("The pieces hold more frames than the video: delete their folder and start again.")
                time = int(times[index])
                follows = int(times[index + 1]) - time if index + 1 < len(times) else 0
                packet.stream, packet.time_base = stream, time_base
                packet.pts = packet.dts = time
                packet.duration = follows or int(durations[index])
                yield packet
    if next(count) != len(times):
        raise SDICError("The pieces hold fewer frames than the video: delete their folder and start again.")


def _sound_packets(original: Any, sounds: Sequence[Any], copies: dict[int, Any]) -> Iterator[Any]:
    av, packets = import_av(), original.demux(*sounds)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):  # a damaged end, as the pictures have
            return
        if packet is None:
            return
        if packet.dts is None:
            continue  # the end of one track
        packet.stream = copies[packet.stream_index]
        yield packet


def _second(packet: Any) -> Fraction:
    return packet.dts * packet.time_base
