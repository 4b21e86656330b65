"""How the generator of `faces128` became better: the judge's distance of its samples over the images it had seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file

from hub_cards.faces128.job import Job
from sdic_plugin.checkpoints.components import has_component, load_component
from sdic_plugin.checkpoints.key_map import load_exactly
from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.comparison import SAMPLES_JSON
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.utils.files import replacing_file

SAMPLES = 5000

AVERAGE, PREFIX = "generator_average.safetensors", "generator."
"""In a checkpoint of the generator's training: what a model would be made of, and how its keys begin."""


@dataclass(frozen=True)
class CurvePart:
    """The distances of generators of one resolution.

    Attributes:
        resolution: In pixels; the photos are of the same size.
        points: Thousands of images seen, and kernel distance.
        floor: Kernel distance of half of the training faces.
    """

    resolution: int
    points: Sequence[tuple[float, float]]
    floor: float


def read_points(words: Sequence[str]) -> dict[int, Path]:
    """Read IMAGES=FOLDER, several times: how many images were seen until a model, or a checkpoint, was kept.

    Raises:
        SDICError: If a word is something else.
    """
    found = {}
    for word in words:
        images, _, folder = word.partition("=")
        if not (images.isdecimal() and folder and Path(folder).is_dir()):
            raise SDICError(f"{word!r} is no point of the curve: give IMAGES=FOLDER, a number and a folder.")
        found[int(images)] = Path(folder).absolute()
    return dict(sorted(found.items()))


def curve(job: Job) -> None:
    """The judge's kernel distance of samples to held-out faces, over the images seen, and the floor."""
    if not job.points:
        raise SDICError("The curve is drawn through models that were kept on the way: name them with --points.")
    by_size: dict[int, dict[int, Path]] = {}
    for images, folder in job.points.items():
        generator = _load(folder, job)
        path = job.place.folder / "points" / f"{images}"
        generator.save_pretrained(path / "generator")
        by_size.setdefault(generator.config.resolution, {})[images] = path
    parts = [_judge(job, size, models) for size, models in by_size.items()]
    with replacing_file(job.assets / "faces128_curve.json") as temporary:
        temporary.write_text(json.dumps([asdict(part) for part in parts], indent=2) + "\n", encoding="utf-8")
    draw_curve(parts, job.assets / "faces128_curve.png")


def _load(folder: Path, job: Job) -> StyleGAN2Generator:
    if has_component(folder, "generator"):
        return load_component(StyleGAN2Generator, folder, "generator")
    generator = job.generator()  # the checkpoint is of the same sizes
    state = {key.removeprefix(PREFIX): value for key, value in load_file(folder / AVERAGE).items()}
    load_exactly(generator, state, "generator")
    return generator


def _judge(job: Job, resolution: int, models: Mapping[int, Path]) -> CurvePart:
    out = f"curve_{resolution}"
    job.place.run(
        "evaluate", "--generators", *map(str, models.values()), "--data", str(job.place.photos),
        "--reference", str(job.training), "--samples", str(SAMPLES), "--out", out,
    )  # fmt: skip
    report = json.loads((job.place.folder / out / SAMPLES_JSON).read_text(encoding="utf-8"))
    points = [(int(row["name"]) / 1000, row["kernel"]["mean"]) for row in report["rows"]]
    return CurvePart(resolution, points, report["floor"]["kernel"]["mean"])


def draw_curve(parts: Sequence[CurvePart], path: Path) -> None:
    """Draw kernel distances over images seen, a line for each resolution, with its floor, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for part in parts:
        x, y = zip(*part.points, strict=True)
        (line,) = axes.plot(x, y, marker="o", markersize=3, linewidth=1.4, label=f"{part.resolution} pixels")
        axes.hlines(
            max(part.floor, 1e-4), min(x), max(x), color=line.get_color(), linewidth=0.8, linestyle=":",
            label=f"half of the training faces, {part.resolution} pixels",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("thousands of images seen")
    axes.set_ylabel("kernel distance")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
