"""How well the check of a photo's subject distinguishes a model's own kind of picture from others.

Run: python -m sdic_plugin.benchmarks.subject_check --model cats64 --data cats64_val.zip --others faces128_val.zip

Every other photo of `--data`, aligned pictures that the model's networks have not seen, is what the reference and all
thresholds are taken from, at 1 % of false alarms. The rest are judged: as they are, placed wrongly, and made worse; so
are other subjects. The table compares measures that an inversion has at hand: the share of each class that would be
warned of, and the area under the ROC curve against the judged photos.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.metrics import psnr, ssim
from sdic_plugin.models.sampling import sample
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.pipeline.subject_check import FALSE_ALARMS, SubjectReference, agreement, structure, structure_distance
from sdic_plugin.utils.files import replacing_file
from sdic_plugin.utils.seeds import seeded_rng

PICTURES = ("coffee", "rocket", "camera", "gravel", "brick", "logo", "text", "page", "moon", "grass", "retina",
            "coins", "immunohistochemistry", "hubble_deep_field", "horse", "clock", "cell")  # fmt: skip
"""Pictures that come with scikit-image, of no animal's or person's face."""
CROPS = 8
"""Random crops of each."""
SYNTHETIC = 100


@dataclasses.dataclass
class Seen:
    """What an inversion has computed of pictures before it compensates.

    Attributes:
        image: [N, 3, H, W] in [-1, 1].
        initial: Initial reconstruction at the same size and range.
        latents: W+ of the encoder, [N, num_styles, D].
        discrepancy: [N, 3, H, W].
    """

    image: torch.Tensor
    initial: torch.Tensor
    latents: torch.Tensor
    discrepancy: torch.Tensor

    def __getitem__(self, rows: slice) -> Seen:
        """Take some of the pictures."""
        return Seen(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


@dataclasses.dataclass
class ClassResult:
    """One class of pictures under one measure.

    Attributes:
        name: Of the class.
        count: Of its pictures.
        warned: Share that would be warned of.
        area: Under the ROC curve against the judged photos as they are; 0.5 is chance.
    """

    name: str
    count: int
    warned: float
    area: float


@torch.no_grad()
def look(pipe: SDICPipeline, images: torch.Tensor) -> Seen:
    """Encode and render pictures [N, 3, H, W] in [-1, 1]."""
    parts = []
    for image in images.split(8):
        latents = pipe.encode(image)
        initial = pipe.shrink_initial(pipe.generator(latents).image)
        parts.append((image, initial, latents, pipe.dipn(image, initial)))
    return Seen(*(torch.cat(part).float() for part in zip(*parts, strict=True)))


# Pictures.


def misplaced(images: torch.Tensor, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """The same photos [N, 3, H, W] in [-1, 1], placed otherwise than the model expects; edges are mirrored."""
    count = len(images)

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    def sides(low: float, high: float) -> torch.Tensor:
        return between(low, high) * (torch.randint(0, 2, (count,), generator=rng) * 2 - 1)

    def shifted(low: float, high: float) -> torch.Tensor:
        angle, length = between(0, 2 * math.pi), between(low, high)
        return moved(images, shift=torch.stack([length * angle.cos(), length * angle.sin()], dim=1))

    half = F.interpolate(images, scale_factor=0.5, mode="area")
    pad = [images.shape[3] // 4] * 2 + [images.shape[2] // 4] * 2
    plain = torch.rand(count, 3, 1, 1, generator=rng) * 2 - 1
    framed = F.pad(half - plain, pad) + plain
    return {
        "shifted 20-35 %": shifted(0.2, 0.35),
        "rotated 30-180°": moved(images, degrees=sides(30, 180)),
        "enlarged 1.6-3 times": moved(images, scale=between(1.6, 3)),
        "half as large, mirrored around": F.pad(half, pad, mode="reflect"),
        "half as large, on a plain ground": framed,
        "shifted 5-10 %": shifted(0.05, 0.1),
        "rotated 10-15°": moved(images, degrees=sides(10, 15)),
    }


def moved(
    images: torch.Tensor,
    degrees: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rotate, enlarge and shift pictures [N, 3, H, W], each by its own amount.

    Args:
        images: In [-1, 1], as are the results; what comes in from outside is reflected.
        degrees: Turn, [N]; None for none.
        scale: Enlargement, [N]; None for 1.
        shift: [N, 2], as shares of width and height.
    """
    count = len(images)
    angle = torch.zeros(count) if degrees is None else degrees * math.pi / 180
    scale = torch.ones(count) if scale is None else scale
    shift = torch.zeros(count, 2) if shift is None else shift * 2
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = [torch.stack([cos, -sin, shift[:, 0]], dim=1), torch.stack([sin, cos, shift[:, 1]], dim=1)]
    places = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, places, mode="bicubic", padding_mode="reflection", align_corners=False)
    return moved.clamp(-1, 1)


def degraded(images: torch.Tensor, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """The same photos, well placed but worse, which should not be warned of."""
    small = F.interpolate(images, scale_factor=3 / 8, mode="area")
    return {
        "grey": images.mean(dim=1, keepdim=True).expand_as(images),
        "dark": (images + 1) * 0.4 - 1,
        "blurred": F.interpolate(small, size=images.shape[2:], mode="bicubic").clamp(-1, 1),
        "noisy": (images + 0.1 * torch.randn(images.shape, generator=rng)).clamp(-1, 1),
    }


def synthetic(size: tuple[int, int], rng: torch.Generator) -> dict[str, torch.Tensor]:
    """Noise, ramps of colour and flat colour."""
    shape = (SYNTHETIC, 3, *size)
    coarse = torch.randn(SYNTHETIC, 3, 8, 8, generator=rng)
    angle = 2 * math.pi * torch.rand(SYNTHETIC, 1, 1, 1, generator=rng)
    down, across = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    first, second = torch.rand(2, SYNTHETIC, 3, 1, 1, generator=rng) * 2 - 1
    ramp = (angle.cos() * (across - 0.5) + angle.sin() * (down - 0.5)) / math.sqrt(2) + 0.5
    return {
        "noise": torch.rand(shape, generator=rng) * 2 - 1,
        "smooth noise": F.interpolate(coarse, size=size, mode="bicubic").clamp(-1, 1),
        "ramps of colour": first + (second - first) * ramp,
        "flat colour": first.expand(shape).clone(),
    }


def scikit_pictures(pipe: SDICPipeline, rng: np.random.Generator) -> torch.Tensor:
    """Random crops of scikit-image's pictures, prepared for the encoder."""
    from skimage import data

    crops = []
    for name in PICTURES:
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        for _ in range(CROPS):
            side = int(rng.uniform(0.25, 1) * min(picture.size))
            x, y = (int(rng.integers(0, length - side + 1)) for length in picture.size)
            crops.append(pipe.prepare_image(picture.crop((x, y, x + side, y + side))))
    return torch.cat(crops)


# Measures: one number a picture, the greater the less like the model's own kind.


def measures(own: Seen, reference: SubjectReference) -> dict[str, Callable[[Seen], torch.Tensor]]:
    """What is compared, by name.

    Args:
        own: Pictures of the model's own kind that the measures may know.
        reference: Of the same.
    """
    mean, deviation = own.latents.mean(dim=0), own.latents.std(dim=0) + 1e-6
    kind = (reference.mean, reference.components, reference.variances, reference.rest)
    return {
        "PSNR of the initial reconstruction": lambda seen: -psnr(seen.initial, seen.image, data_range=2.0),
        "PSNR at 16 x 16": lambda seen: -psnr(_small(seen.initial), _small(seen.image), data_range=2.0),
        "SSIM of the initial reconstruction": lambda seen: -ssim(seen.initial, seen.image, data_range=2.0),
        "size of the discrepancy": lambda seen: seen.discrepancy.square().flatten(1).mean(dim=1),
        "latents, distance from their mean": lambda seen: ((seen.latents - mean) / deviation).square().mean((1, 2)),
        "latents, variance over styles": lambda seen: seen.latents.var(dim=1).mean(dim=1),
        "agreement": lambda seen: -agreement(seen.image, seen.initial),
        "structure": lambda seen: structure_distance(structure(seen.image).double(), *kind).float(),
        "agreement and structure": lambda seen: reference.scores(seen.image, seen.initial),
    }


def _small(images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(images, size=(16, 16), mode="area")


def area_under_curve(own: torch.Tensor, others: torch.Tensor) -> float:
    """Chance that one of `others` [M] has a greater value than one of `own` [N]; equal ones count half."""
    difference = others[:, None] - own[None]
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()


def compare(
    pipe: SDICPipeline,
    photos: torch.Tensor,
    others: dict[str, torch.Tensor],
    each: int = 500,
    report: Callable[[str], object] = print,
) -> dict[str, list[ClassResult]]:
    """Measure every class.

    Args:
        pipe: Inverts all pictures.
        photos: Aligned pictures of the model's own kind, [N, 3, H, W] in [-1, 1]; every other one teaches what that
            kind is like, the others are judged.
        others: More classes of pictures at the same size.
        each: Number of pictures of every class but the photos as they are.
        report: Called with the name of each class when it has been looked at.

    Returns:
        By measure, the judged photos as they are first.
    """
    rng = seeded_rng(0)
    own, judged = look(pipe, photos[::2]), photos[1::2]
    reference = SubjectReference.measure(own.image, own.initial)
    changed = judged[:each]
    classes = {**misplaced(changed, rng), **others, **synthetic(pipe.image_size, rng), **degraded(changed, rng)}
    classes = {"as they are": judged} | {name: images[:each] for name, images in classes.items()}
    # A model's own pictures in place of photos: what a converted model has without any.
    drawn = pipe.shrink_initial(sample(pipe.generator, len(own.image), seed=1000, truncation=1.0).images)
    made = look(pipe, drawn)
    found = measures(own, reference)
    thresholds = {name: measure(own).double().quantile(1 - FALSE_ALARMS) for name, measure in found.items()}
    thresholds["agreement and structure"] = torch.tensor(reference.threshold)
    sampled = SubjectReference.measure(made.image, made.initial)
    found["the same, known from the generator's samples"] = lambda seen: sampled.scores(seen.image, seen.initial)
    thresholds["the same, known from the generator's samples"] = torch.tensor(sampled.threshold)
    scores: dict[str, dict[str, torch.Tensor]] = {name: {} for name in found}
    for label, images in classes.items():
        seen = look(pipe, images)
        for name, measure in found.items():
            scores[name][label] = measure(seen)
        report(label)
    return {
        name: [
            ClassResult(
                label,
                len(values),
                (values > thresholds[name]).double().mean().item(),
                area_under_curve(by_class["as they are"], values),
            )
            for label, values in by_class.items()
        ]
        for name, by_class in scores.items()
    }


def to_markdown(results: dict[str, list[ClassResult]]) -> str:
    """Return the table: a row per class, a column per measure, "warned of (area under the curve)"."""
    heads = ["pictures", "number", *results]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in zip(*results.values(), strict=True):
        cells = [f"{100 * each.warned:.1f} % ({each.area:.2f})" for each in row]
        lines.append(f"| {' | '.join([row[0].name, str(row[0].count), *cells])} |")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def cost(pipe: SDICPipeline, repeats: int = 20) -> float:
    """Share of an inversion's processor time that the check takes, medians of single photos."""
    images = torch.rand(1, 3, *pipe.image_size)

    def median(call: Callable[[], object]) -> float:
        seconds = []
        for _ in range(repeats):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
        return sorted(seconds)[repeats // 2]

    inversion = pipe.invert(images, check_subject=False)
    whole = median(lambda: pipe.invert(images, check_subject=False))
    return median(lambda: pipe.find_unlike(inversion)) / whole


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder, bundled name or Hub id")
    parser.add_argument("--data", required=True, help="folder or zip of aligned photos the model has not seen")
    parser.add_argument("--others", nargs="*", default=[], help="folders or zips of other subjects")
    parser.add_argument("--limit", type=int, default=500, help="photos of --data")
    parser.add_argument("--each", type=int, default=500, help="pictures of every other class")
    parser.add_argument("--no-pictures", action="store_true", help="leave scikit-image's pictures out")
    parser.add_argument("--out", type=Path, help="folder for subject_check.json and .md")
    options = parser.parse_args(arguments)
    pipe = SDICPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)

    def load(source: str, limit: int) -> torch.Tensor:
        return pipe.prepare_image(load_images(source, pipe.encoder.config.image_size, limit=limit))

    others = {Path(source).stem: load(source, options.each) for source in options.others}
    if not options.no_pictures:
        others["scikit-image's pictures, random crops"] = scikit_pictures(pipe, np.random.default_rng(0))
    photos = load(options.data, options.limit)
    results = compare(pipe, photos, others, options.each, lambda name: print(f"done: {name}", flush=True))
    table = to_markdown(results)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        content = {name: [dataclasses.asdict(each) for each in rows] for name, rows in results.items()}
        for suffix, text in ((".md", table), (".json", json.dumps(content))):
            with replacing_file(options.out / f"subject_check{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8")
    print(f"\n{table}")
    if pipe.config.get("subject") is not None:
        print(f"The check takes {100 * cost(pipe):.1f} % of an inversion's time.")


if __name__ == "__main__":
    main()
