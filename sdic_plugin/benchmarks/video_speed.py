"""How close editing a video comes to the rate of the networks alone, and what memory it takes.

Run: python -m sdic_plugin.benchmarks.video_speed [--model cats64] [--resolution 128] [--size 1280x720] [--face]

The clip is scikit-image's photograph of an astronaut, which sways, with sound. Her crop stays where her eyes are in
the first frame, or with `--face` her face is followed. Rates are frames per second: of the networks (inversion and
both renderings of batches that are ready), and of `edit_video`, from opening the clip to the finished file. Both are
run in turn, `--repeats` times; the median pair is printed. As `sdic edit` does, this keeps freed memory
(`sdic_plugin.utils.memory`).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.edits.interfacegan import DirectionEdit
from sdic_plugin.evaluation.speed import load_or_random
from sdic_plugin.images.face_alignment import FFHQTemplate
from sdic_plugin.photos.photo import load_example
from sdic_plugin.photos.strengths import parse_edits
from sdic_plugin.pipeline.loading import load_pipeline
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.memory import keep_freed_memory
from sdic_plugin.utils.seeds import seeded_rng
from sdic_plugin.video.effects import render_change
from sdic_plugin.video.options import VideoOptions
from sdic_plugin.video.process import edit_video, frames_in_flight
from sdic_plugin.video.reading import import_av

RATE = 25


def write_clip(path: Path, photo: Image.Image, size: tuple[int, int], frames: int) -> float:
    """Write a clip of a photo that sways; returns how many times the photo is enlarged."""
    av = import_av()
    width, height = size
    scale = max(width / photo.width, height / photo.height)
    large = photo.resize((math.ceil(photo.width * scale), math.ceil(photo.height * scale)), Image.Resampling.BICUBIC)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "crf": "20"}
        sound: Any = container.add_stream("aac", rate=48000)
        sound.layout = "mono"
        for i in range(frames):
            x, y = 8 * math.sin(i / 12), 5 * math.cos(i / 9)
            moved = large.transform(size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BILINEAR)
            container.mux(stream.encode(av.VideoFrame.from_image(moved)))
        container.mux(stream.encode(None))
        silence = np.zeros((1, 1024), np.float32)
        for i in range(int(frames / RATE * 48000 / 1024)):
            part = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            part.sample_rate, part.pts = 48000, i * 1024
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return scale


def rate_of_networks(pipe: SDICPipeline, options: VideoOptions, count: int) -> float:
    """Frames per second through inversion and both renderings, in batches that are ready."""
    crops = torch.rand(options.batch_size, 3, *pipe.image_size, generator=seeded_rng(0))
    started, done = time.perf_counter(), 0
    while done < count:
        inversion = pipe.invert(crops, batch_size=options.batch_size, check_subject=False)
        render_change(pipe, inversion, options.effects)
        done += options.batch_size
    return done / (time.perf_counter() - started)


def first_edits(pipe: SDICPipeline, count: int) -> list[str]:
    """Write the first of a model's own edits, each at its default strength, as `parse_edits` reads them."""
    return [f"{edit.name}={edit.default_strength:g}" for edit in list(pipe.get_list_edits().values())[:count]]


def load(model: str, resolution: int | None, edit: str | None) -> tuple[SDICPipeline, Mapping[str, float]]:
    """Load a model, or make random networks of faces with an edit, and say what to edit; None for its first edit."""
    if resolution is None:
        pipe = load_pipeline(model)
        return pipe, parse_edits([edit] if edit else first_edits(pipe, 1))[0]
    pipe = load_or_random(None, resolution, torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(alignment=FFHQTemplate().to_dict())
    pipe.add_edit(DirectionEdit("made", tensors={"direction": torch.ones(pipe.generator.config.style_width)}))
    return pipe, {"made": 0.5}


def main() -> None:
    """Parse the command line and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="bundled name, folder or Hub id")
    parser.add_argument("--resolution", type=int, help="random networks of the published sizes instead of a model")
    parser.add_argument("--edit", help="NAME=STRENGTH[,…]; default: the model's first edit")
    parser.add_argument("--frames", type=int, default=150, help="of the clip")
    parser.add_argument("--size", default="1280x720", help="of its frames")
    parser.add_argument("--face", action="store_true", help="follow a face")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    pipe, edit = load(options.model, options.resolution, options.edit)
    width, height = map(int, options.size.split("x"))
    photo = load_example("astronaut")
    with tempfile.TemporaryDirectory() as name:
        clip = Path(name) / "clip.mp4"
        scale = write_clip(clip, photo.source, (width, height), options.frames)
        x1, y1, x2, y2 = (value * scale for value in photo.eyes)
        place: dict[str, Any] = {"face": "largest"} if options.face else {"eyes": (x1, y1, x2, y2)}
        chosen = VideoOptions(edits=edit, overwrite=True, **place)
        rate_of_networks(pipe, chosen, 8)
        before, pairs, parts = psutil.Process().memory_info().rss, [], []
        for _ in range(options.repeats):
            networks = rate_of_networks(pipe, chosen, options.frames)
            ends = {"finding": 0.0}
            started = time.perf_counter()
            edit_video(
                pipe, clip, Path(name) / "out.mp4", chosen,
                lambda part, *_, ends=ends: ends.__setitem__(part, time.perf_counter()),
            )  # fmt: skip
            taken = time.perf_counter() - started
            pairs.append((networks, options.frames / taken))
            parts.append((ends["finding"] - started) / taken)
        networks, whole = sorted(pairs, key=lambda pair: pair[1] / pair[0])[len(pairs) // 2]
        what = (
            f"`{options.model}`" if options.resolution is None else f"random networks of {options.resolution} pixels"
        )
        print(f"{what}, {options.frames} frames of {options.size}, {options.threads} threads:")
        print(f"networks {networks:.1f}, video {whole:.1f} frames/s: {whole / networks:.0%}")
        print(f"of the time, finding the subject took {np.median(parts):.0%}")
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        flight = frames_in_flight(chosen, RATE)
        bound = flight * width * height * 1.5 / 2**20
        print(f"memory grew by {grown:.0f} MiB; {flight} frames in flight are {bound:.0f} MiB at most")


if __name__ == "__main__":
    main()
