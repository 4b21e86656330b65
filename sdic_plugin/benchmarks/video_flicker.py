"""How steady an edit is in a video, and how far its border is to be seen, on clips whose motion is known.

Run: python -m sdic_plugin.benchmarks.video_flicker [--model cats64] [--photo chelsea] [--edits warmth=1.5 turn=2]

A photograph that comes with scikit-image, by default the one that suits the model, is panned, zoomed, tilted,
brightened, or all of these at once, with a camera's noise. The subject is found in each frame: `astronaut` by the face
detector, `chelsea` by its eyes, which a random error of `--error` pixels moves as a detector's would. What the edit
changes is then brought back to the first frame's place by the known motion, where it should stay the same from frame
to frame.

- flicker: mean absolute change of (output - input) from one frame to the next there, in grey levels, and as a share
  of the mean absolute (output - input);
- jitter: root mean square distance of the crop's centre from where it belongs, in pixels of the photograph, its mean
  left out;
- lag: in a clip in which the subject blinks, how far the change that is shown is from that of the frame itself,
  during the blink, as a share of the mean absolute change.

The seam is the steepest mean gradient of (output - input) across the crop's border zone, in grey levels per pixel.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdic_plugin.benchmarks.video_speed import first_edits
from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.images.alignment import FEATHER, Alignment, cut_crop
from sdic_plugin.images.face_alignment import FFHQTemplate, align_eyes, ffhq_crop
from sdic_plugin.images.resampling import Matrix, apply_affine, compose, resample
from sdic_plugin.photos.inputs import EXAMPLES
from sdic_plugin.photos.photo import ExamplePhoto, load_example, model_template, suitable_example
from sdic_plugin.photos.strengths import parse_edits
from sdic_plugin.pipeline.loading import load_pipeline
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.video.effects import Crops, changes
from sdic_plugin.video.finding import Seen, follow_face
from sdic_plugin.video.options import EffectOptions
from sdic_plugin.video.pasting import fade, place
from sdic_plugin.video.track import Place, Track, to_place
from sdic_plugin.video.tracking import FaceTracker

RATE = 25
BATCH = 8
NOISE = 2.0
"""Deviation of the camera's noise, in grey levels."""
BLINK = range(10, 14)
"""Frames in which the eyes are closed, of a clip that is still otherwise."""
MOTIONS = ("pan", "zoom", "tilt", "brightness", "all")


@dataclass(frozen=True)
class Method:
    """A way to steady an edit: deviations of three smoothings over time, in seconds."""

    name: str
    crop: float = 0.0
    latents: float = 0.0
    change: float = 0.0

    def effects(self, edit: Mapping[str, float]) -> EffectOptions:
        """What is rendered."""
        return EffectOptions(edit, latent_smoothing=self.latents, change_smoothing=self.change)


METHODS = (
    Method("frame by frame"),
    Method("crop 0.1 s", crop=0.1),
    Method("crop 0.2 s", crop=0.2),
    Method("crop 0.1 s, latents 0.08 s", crop=0.1, latents=0.08),
    Method("crop 0.1 s, change 0.05 s", crop=0.1, change=0.05),
    Method("crop 0.1 s, change 0.08 s", crop=0.1, change=0.08),
    Method("crop 0.1 s, latents and change 0.08 s", crop=0.1, latents=0.08, change=0.08),
)


@dataclass(frozen=True)
class Clip:
    """A clip whose motion is known.

    Attributes:
        frames: RGB.
        motions: Photo coordinates to frame coordinates, per frame.
    """

    frames: list[Image.Image]
    motions: list[Matrix]


def make_clip(photo: ExamplePhoto, motion: str, count: int, seed: int = 0) -> Clip:
    """Move a photo, by at most a tenth of its size, 10 % and 7 degrees, and brighten it by a fifth."""
    rng, (width, height) = np.random.default_rng(seed), photo.source.size
    eyes = [complex(*photo.eyes[:2]), complex(*photo.eyes[2:])]
    middle, apart = sum(eyes) / 2, abs(eyes[1] - eyes[0])
    frames, motions = [], []
    for i in range(count):
        wave = math.sin(2 * math.pi * i / RATE / 2)  # a period of two seconds
        turn, shift, light = 1 + 0j, 0j, 1.0
        if motion in ("pan", "all"):
            shift = complex(0.1 * width * wave, 0.03 * height * math.sin(2 * math.pi * i / RATE))
        if motion in ("zoom", "all"):
            turn *= 1 + 0.1 * wave
        if motion in ("tilt", "all"):
            turn *= complex(math.cos(0.12 * wave), math.sin(0.12 * wave))
        if motion in ("brightness", "all"):
            light = 1 - 0.2 * (1 + wave) / 2
        moved = middle - turn * middle + shift
        matrix = ((turn.real, -turn.imag, moved.real), (turn.imag, turn.real, moved.imag))
        source = _blinking(photo.source, eyes, apart) if motion == "blink" and i in BLINK else photo.source
        pixels = resample(source, _inverse(matrix), width, height) * light
        pixels += rng.normal(0, NOISE, (height, width, 1))
        frames.append(Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)))
        motions.append(matrix)
    return Clip(frames, motions)


def _inverse(matrix: Matrix) -> Matrix:
    square = np.linalg.inv(np.vstack([np.asarray(matrix), (0, 0, 1)]))
    return tuple(tuple(float(value) for value in row) for row in square[:2])  # type: ignore[return-value]


def _blinking(photo: Image.Image, eyes: Sequence[complex], apart: float) -> Image.Image:
    """Cover the eyes softly with what is above them."""
    pixels = np.asarray(photo, dtype=np.float32)
    above = np.roll(pixels, round(0.35 * apart), axis=0)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    for eye in eyes:
        cover = np.exp(-((((x - eye.real) ** 2 + (1.3 * (y - eye.imag)) ** 2) / (0.2 * apart) ** 2) ** 2))[..., None]
        pixels = pixels + cover * (above - pixels)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def find_crops(pipe: SDICPipeline, clip: Clip, photo: ExamplePhoto, error: float) -> Track:
    """Find the subject in each frame: a face by the detector, others by their eyes, not quite where they are."""
    height, width = pipe.image_size
    template, rng, count = model_template(pipe), np.random.default_rng(1), len(clip.frames)
    places: list[Place] = []
    if photo.name == "astronaut":
        frames = (Seen(time, 1, False, frame.copy) for time, frame in enumerate(clip.frames))
        for _, found in follow_face(frames, FaceTracker(template, (width, height))):
            places += found
        if np.isnan(places).any():
            raise SystemExit("The face was not found in a frame.")
    else:
        for frame, motion in zip(clip.frames, clip.motions, strict=True):
            eyes = apply_affine(motion, np.reshape(photo.eyes, (2, 2))) + rng.normal(0, error, (2, 2))
            places.append(to_place(align_eyes(frame, eyes.ravel().tolist(), template, width, height)[1]))
    none = np.zeros(count, bool)
    return Track(np.arange(count), np.ones(count), none, np.array(places), (width, height), clip.frames[0].size)


def edit_clip(pipe: SDICPipeline, clip: Clip, track: Track, options: EffectOptions) -> list[np.ndarray]:
    """Changes [h, w, 3] of all crops."""
    ffhq = isinstance(model_template(pipe), FFHQTemplate)

    def batches() -> Iterator[Crops]:
        for start in range(0, len(track), BATCH):
            indices = range(start, min(start + BATCH, len(track)))
            crops = [(ffhq_crop if ffhq else cut_crop)(clip.frames[i], track.alignment(i)) for i in indices]
            yield Crops(np.array(indices) / RATE, crops)

    return [change for several, _ in changes(pipe, batches(), options) for change in several]


def placed(change: np.ndarray, alignment: Alignment, size: tuple[int, int], feather: float = FEATHER) -> np.ndarray:
    """What is added to a frame, [h, w, 3]."""
    faded, whole = fade(change, alignment, feather), (0, 0, *size)
    return np.stack([place(faded[..., channel], alignment, whole) for channel in range(3)], axis=-1)


def flicker(
    clip: Clip, track: Track, found: Sequence[np.ndarray], area: tuple[int, int, int, int]
) -> tuple[float, float]:
    """Mean absolute change from frame to frame, and mean absolute difference, where the photo has the subject."""
    left, top, right, bottom = area
    steps, sizes, last = [], [], None
    for i, (change, motion) in enumerate(zip(found, clip.motions, strict=True)):
        frame = placed(change, track.alignment(i), clip.frames[i].size)
        back = resample(frame, compose(motion, ((1, 0, left), (0, 1, top))), right - left, bottom - top)
        sizes.append(np.abs(back).mean())
        if last is not None:
            steps.append(np.abs(back - last).mean())
        last = back
    return float(np.mean(steps)), float(np.mean(sizes))


def measure(
    pipe: SDICPipeline,
    clip: Clip,
    found: Track,
    method: Method,
    edits: Sequence[Mapping[str, float]],
    area: tuple[int, int, int, int],
) -> np.ndarray:
    """Flicker, mean absolute difference, and jitter of a method, means over edits."""
    track = found.steadied(Fraction(1, RATE), 0.5, method.crop)
    figures = [flicker(clip, track, edit_clip(pipe, clip, track, method.effects(edit)), area) for edit in edits]
    return np.array([*np.mean(figures, axis=0), jitter(clip, track)])


def invert_once(pipe: SDICPipeline) -> None:
    """Let a pipeline keep inversions of the same crops: methods and edits have many of them in common."""
    invert = pipe.invert
    kept: dict[int, SDICInversion] = {}

    def kept_or_new(image: Sequence[Image.Image], **options: Any) -> SDICInversion:
        key = hash(b"".join(each.tobytes() for each in image))
        if key not in kept:
            if len(kept) > 64:
                kept.clear()
            kept[key] = invert(image, **options)
        return kept[key]

    vars(pipe)["invert"] = kept_or_new


def jitter(clip: Clip, track: Track) -> float:
    """Root mean square distance of the crops' centres from their mean, in the photo, where they should not move."""
    centres = np.array([
        apply_affine(_inverse(motion), track.places[i, :2]) for i, motion in enumerate(clip.motions)
    ])  # fmt: skip
    return float(np.sqrt(((centres - centres.mean(axis=0)) ** 2).sum(axis=1).mean()))


def seam(change: np.ndarray, alignment: Alignment, size: tuple[int, int], feather: float) -> float:
    """Steepest mean gradient across the border zone, in grey levels per pixel of the frame."""
    grey = placed(change, alignment, size, feather).mean(axis=2)
    width, height = alignment.crop_size
    step = width / math.dist(*alignment.quad[:2])  # a pixel of the frame, in the crop
    along = np.linspace(0.1, 0.9, 200)
    steepest = 0.0
    for inset in np.arange(-2 * step, 0.15 * width, step / 2):
        ends = []
        for depth in (inset - step / 2, inset + step / 2):
            sides = [(along * width, 0 * along + depth), (along * width, height - depth + 0 * along),
                     (0 * along + depth, along * height), (width - depth + 0 * along, along * height)]  # fmt: skip
            points = alignment.crop_to_photo(np.concatenate([np.stack(side, axis=1) for side in sides]))
            ends.append(_sampled(grey, points))
        steepest = max(steepest, float(np.abs(ends[1] - ends[0]).mean()))
    return steepest


def _sampled(grey: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear values at points, [N]."""
    x, y = (points - 0.5).T
    x, y = x.clip(0, grey.shape[1] - 1.001), y.clip(0, grey.shape[0] - 1.001)
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    u, v = x - i, y - j
    upper, lower = (grey[row, i] * (1 - u) + grey[row, i + 1] * u for row in (j, j + 1))
    return upper * (1 - v) + lower * v


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="bundled name, folder or Hub id")
    parser.add_argument("--photo", choices=tuple(EXAMPLES), help="default: the one that suits the model")
    parser.add_argument("--edits", nargs="+", help="NAME=STRENGTH[,…]; one row each; default: the model's first two")
    parser.add_argument("--frames", type=int, default=50, help="of each clip, at 25 a second")
    parser.add_argument("--error", type=float, default=1.0, help="of the eyes, in pixels")
    parser.add_argument("--motions", nargs="+", default=list(MOTIONS), choices=MOTIONS)
    options = parser.parse_args()
    pipe = load_pipeline(options.model)
    photo = load_example(options.photo or suitable_example(pipe))
    given = options.edits or first_edits(pipe, 2)
    edits = parse_edits(given)
    template, (height, width) = model_template(pipe), pipe.image_size
    quad = align_eyes(photo.source, photo.eyes, template, width, height)[1].quad
    low, high = quad.min(axis=0), quad.max(axis=0)
    area = tuple(np.concatenate([low.clip(0), np.minimum(high, photo.source.size)]).round().astype(int).tolist())
    what = ", ".join(given)
    print(f"`{options.model}`, {photo.name}, {options.frames} frames a clip, means over {what}:\n")
    invert_once(pipe)
    rows: dict[Method, list[np.ndarray]] = {method: [] for method in METHODS}
    for motion in options.motions:
        clip = make_clip(photo, motion, options.frames)
        found = find_crops(pipe, clip, photo, options.error)
        for method in METHODS:
            rows[method].append(measure(pipe, clip, found, method, edits, area))
    still = make_clip(photo, "blink", 24)
    first = find_crops(pipe, still, photo, 0.0).places[:1]
    size = still.frames[0].size
    still_track = Track(
        np.arange(24),
        np.ones(24),
        np.zeros(24, bool),
        np.repeat(first, 24, axis=0),
        (width, height),
        still.frames[0].size,
    )
    own = [edit_clip(pipe, still, still_track, EffectOptions(edit)) for edit in edits]
    print("| method | " + " | ".join(options.motions) + " | mean | jitter (px) | lag |")
    print("| --- |" + " --- |" * (len(options.motions) + 3))
    for method, figures in rows.items():
        lags = []
        for edit, changes_of_frames in zip(edits, own, strict=True):
            shown = edit_clip(pipe, still, still_track, method.effects(edit))
            size = np.mean([np.abs(change).mean() for change in changes_of_frames])
            lags.append(np.mean([np.abs(shown[k] - changes_of_frames[k]).mean() for k in BLINK]) / size)
        cells = [f"{step:.2f} ({step / size:.1%})" for step, size, _ in [*figures, np.mean(figures, axis=0)]]
        print(f"| {method.name} | {' | '.join(cells)} | {np.mean(figures, axis=0)[2]:.2f} | {np.mean(lags):.1%} |")
    print("\n| border | seam (grey levels per pixel) |\n| --- | --- |")
    for name, feather in (("hard", 0.0), ("soft over 4 % of the crop", 0.04), ("soft over 8 %, as it is", FEATHER)):
        steep = [seam(each[0], still_track.alignment(0), photo.source.size, feather) for each in own]
        print(f"| {name} | {np.mean(steep):.2f} |")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
