"""An evaluation on disk: figures as JSON, a Markdown page and plots, with what was evaluated in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.markdown import full_page
from sdic_plugin.evaluation.plots import write_plots
from sdic_plugin.evaluation.reports import EvaluationReport
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import replacing_file
from sdic_plugin.version import __version__

JSON_NAME, PAGE_NAME = "evaluation.json", "evaluation.md"
COMPONENTS = ("encoder", "dipn", "dicn", "generator", "transport", "discriminator", "edits", "losses")


@dataclass
class WrittenEvaluation:
    """What was written.

    Attributes:
        paths: The report as JSON, the page of tables, plots, and the sheets that were there.
        notes: What could not be drawn, and why.
    """

    paths: list[Path]
    notes: list[str] = field(default_factory=list)


def write_evaluation(report: EvaluationReport, folder: str | Path, sheets: Sequence[str] = ()) -> WrittenEvaluation:
    """Write `evaluation.json`, `evaluation.md` and plots into a folder, each file whole or not at all.

    Without matplotlib there are no plots, and a note that says so.

    Args:
        report: What was measured.
        folder: Made if needed.
        sheets: Names of pictures in the folder that the page shows, too.
    """
    folder = Path(folder)
    written = WrittenEvaluation([folder / JSON_NAME])
    report.save(folder / JSON_NAME)
    plots: list[str] = []
    try:
        plots = write_plots(report, folder)
    except SDICError as error:
        written.notes.append(str(error))
    with replacing_file(folder / PAGE_NAME) as temporary:
        temporary.write_text(full_page(report, [*plots, *sheets]), encoding="utf-8")
    written.paths += [folder / PAGE_NAME, *[folder / name for name in (*plots, *sheets)]]
    return written


def describe_revision(
    pipe: SDICPipeline, folder: str | Path | None, data: str | Path, images: torch.Tensor
) -> dict[str, object]:
    """Say what is evaluated, so that the figures can be had again.

    Args:
        pipe: What is evaluated; its generator's id is noted.
        folder: Where its files lie; None leaves the hashes of its weights out.
        data: Folder or zip of the photos; only its name is kept.
        images: The photos, uint8 [N, 3, H, W].

    Returns:
        Versions, the generator's id, SHA-256 of each weights file by its path in the folder, and name, number and
        SHA-256 (of the decoded pixels) of the photos.
    """
    return {
        "sdic_plugin": __version__,
        "torch": torch.__version__,
        "generator_id": pipe.generator.config.generator_id,
        "weights_sha256": {} if folder is None else weights_hashes(Path(folder)),
        "data": {"name": Path(data).name, "count": len(images), "sha256": pixels_hash(images)},
    }


def weights_hashes(folder: Path, components: Sequence[str] = COMPONENTS) -> dict[str, str]:
    """SHA-256 of every safetensors file of a model's components, by its path in the folder."""
    files = sorted(path for name in components for path in (folder / name).glob("*.safetensors"))
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pixels_hash(images: torch.Tensor) -> str:
    """SHA-256 of photos, uint8 [N, 3, H, W], over their shape and pixels."""
    digest = hashlib.sha256(str(list(images.shape)).encode())
    for image in images:
        digest.update(image.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
