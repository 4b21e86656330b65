"""Small videos for tests, written with PyAV: moving squares, or a photo that moves, with or without sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason="needs PyAV")

TICKS = Fraction(1, 12800)
"""Time base of what is written here, where the container keeps it."""

SIZE = (96, 64)


def squares(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Frames [h, w, 3] of a textured ground, on which a bright square goes to the right."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    ground = np.stack([90 + 40 * np.sin(x / 7), 100 + 30 * np.cos(y / 5), 110 + 30 * np.sin((x + y) / 9)], axis=-1)
    frames = []
    for i in range(count):
        frame = ground.copy()
        frame[height // 4 : height // 2, 5 + i : 5 + i + width // 6] = (220, 200, 60)
        frames.append(frame.astype(np.uint8))
    return frames


def moved_photo(photo: Image.Image, shifts: Iterable[tuple[float, float]], noise: float = 2.0) -> list[np.ndarray]:
    """Frames of a photo that is shifted by (x, y) pixels in each, with a camera's noise."""
    rng, frames = np.random.default_rng(0), []
    for x, y in shifts:
        picture = photo.transform(photo.size, Image.Transform.AFFINE, (1, 0, -x, 0, 1, -y), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture, np.float32) + rng.normal(0, noise, (photo.height, photo.width, 1))
        frames.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return frames


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    turn: int = 0,
    sound: str | None = None,
    time_base: Fraction = TICKS,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames [h, w, 3], at some times in ticks (25 a second by default), with a tone of a codec as sound."""
    step = int(1 / time_base / 25)
    times = [i * step for i in range(len(frames))] if times is None else times
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = time_base
        stream.codec_context.options = {"crf": "10"} if options is None else options
        if turn:
            stream.set_display_rotation(turn)
        audio: Any = None
        if sound is not None:
            audio = container.add_stream(sound, rate=48000)
            audio.layout = "mono"
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)
            picture.pts, picture.time_base = time, time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if audio is not None:
            _write_tone(container, audio, float((times[-1] + step) * time_base))
    return path


def _write_tone(container: Any, stream: Any, seconds: float) -> None:
    wave = 0.2 * np.sin(2 * np.pi * 440 * np.arange(int(48000 * seconds)) / 48000)
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=48000)
    tone = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
    tone.sample_rate, tone.pts = 48000, 0
    fifo = av.AudioFifo()
    for part in resampler.resample(tone):
        fifo.write(part)
    size = stream.codec_context.frame_size or 960
    while (part := fifo.read(size, partial=True)) is not None:
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def times_of(path: Path) -> list[Fraction]:
    """When a video's frames are shown, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * Fraction(frame.time_base) for frame in container.decode(video=0)]


def frames_of(path: Path) -> list[np.ndarray]:
    """The frames as stored, [h, w, 3]."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def sound_of(path: Path) -> list[tuple[Fraction, bytes]]:
    """The coded packets of a video's sound, with their times."""
    with av.open(str(path)) as container:
        return [(p.pts * Fraction(p.time_base), bytes(p)) for p in container.demux(audio=0) if p.size]
