"""Evaluating a pipeline on photos: how faithful its inversions are, and whether edits survive the compensation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

import torch

from sdic_plugin.errors import SDICError, listed, shorten
from sdic_plugin.evaluation.editing import (
    EditKey,
    EditTally,
    edited_method,
    measure_edits,
    optimized_transfer,
    strengths_of,
    transfer_plan,
    transfer_values,
)
from sdic_plugin.evaluation.frechet import frechet_distance
from sdic_plugin.evaluation.kernel import unpaired_distance
from sdic_plugin.evaluation.networks import EvaluationNetworks
from sdic_plugin.evaluation.reports import (
    BaselineReport,
    EditReport,
    EvaluationReport,
    GroupReport,
    RowReport,
    Statistic,
    TransferReport,
)
from sdic_plugin.evaluation.rows import (
    METHODS,
    MeasuredBatch,
    Optimization,
    invert_and_render,
    measure,
    optimize_photos,
    render_method,
)
from sdic_plugin.images.labels import positions
from sdic_plugin.images.metrics import round_to_uint8
from sdic_plugin.images.processor import ImageInput
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.ranges import FARTHEST

ALWAYS = ("initial", "full")


@dataclass
class EvaluationPlan:
    """What is measured beyond the initial reconstruction, the inversion and each edit at its default strength.

    Attributes:
        methods: More rows, keys of `METHODS`.
        multiples: Multiples of the edits' default strengths at which their transfer is measured, by both feature
            rules; with none, `transfer` stays empty.
        optimizations: Baselines.
        optimization_images: Number of photos, from the first, for those.
    """

    methods: tuple[str, ...] = ()
    multiples: tuple[float, ...] = ()
    optimizations: tuple[Optimization, ...] = ()
    optimization_images: int = 64

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise SDICError(f"The row {shorten(unknown[0])} is unknown: give some of {', '.join(METHODS)}.")
        if not all(abs(multiple) <= FARTHEST for multiple in self.multiples):
            raise SDICError(
                f"Multiples of {shorten(self.multiples)} were given: give finite numbers of at most {FARTHEST}."
            )
        if len(set(self.optimizations)) < len(self.optimizations):
            given = listed([f"{each.space}:{each.steps}" for each in self.optimizations])
            raise SDICError(f"Of the optimisations [{given}] one was asked for twice: give each once.")
        if self.optimizations and self.optimization_images < 1:
            raise SDICError(f"Optimisations on {self.optimization_images} photos were asked for: give 1 or more.")

    @classmethod
    def thorough(cls, optimizations: Sequence[Optimization] = (), optimization_images: int = 64) -> EvaluationPlan:
        """Every method, and edits up to three times their default strengths, both ways."""
        return cls(tuple(METHODS), (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0), tuple(optimizations), optimization_images)

    @property
    def rows(self) -> tuple[str, ...]:
        """Keys of all rows, in the order of `METHODS`."""
        return tuple(name for name in METHODS if name in (*ALWAYS, *self.methods))


@dataclass
class _Tally:
    """What was measured so far; lists grow by one tensor per batch."""

    rows: dict[str, dict[str, list[torch.Tensor]]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    features: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    quick: EditTally = field(default_factory=EditTally)
    edits: EditTally = field(default_factory=EditTally)
    photos_identity: list[torch.Tensor] = field(default_factory=list)

    def row(self, name: str) -> dict[str, torch.Tensor]:
        return {metric: torch.cat(parts) for metric, parts in self.rows[name].items()}


def evaluate(
    pipe: SDICPipeline,
    images: torch.Tensor | Sequence[ImageInput],
    batch_size: int = 8,
    w_optimization_images: int = 0,
    w_optimization_steps: int = 100,
    model: str | None = None,
    progress: Callable[[int], object] | None = None,
    plan: EvaluationPlan | None = None,
    networks: EvaluationNetworks | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> EvaluationReport:
    """Invert photos, and apply every loaded edit at its default strength; more with a plan.

    Args:
        pipe: Its edits are measured in the state they are loaded in.
        images: uint8 [N, 3, H, W], or a list of whatever `SDICPipeline.invert` takes.
        batch_size: Photos at a time.
        w_optimization_images: Number of photos, from the first, on which the encoder is compared with `optimize_w`.
        w_optimization_steps: Steps of that optimisation.
        model: Name for the report; None for the pipeline's own.
        progress: Called with the number of photos done after every batch (the optimisations not included).
        plan: What to measure beyond that, such as `EvaluationPlan.thorough()`.
        networks: For LPIPS, ID and the Fréchet distance, see `find_networks`; on the pipeline's device.
        labels: By what they say, a label for each photo (see `read_labels`): figures are also grouped by them.

    Raises:
        SDICError: If there are no images, or one cannot be used.
    """
    if not len(images) or batch_size < 1:
        raise SDICError(f"{len(images)} images in batches of {batch_size} were given: at least 1 of each is needed.")
    plan, networks, tally = plan or EvaluationPlan(), networks or EvaluationNetworks(), _Tally()
    methods = {name: METHODS[name] for name in plan.rows}
    edits = transfer_plan(pipe, plan.multiples, plan.rows) if plan.multiples else []
    for start in range(0, len(images), batch_size):
        batch = invert_and_render(pipe, pipe.prepare_image(images[start : start + batch_size]), methods)
        _tally_batch(pipe, batch, networks, tally)
        measure_edits(pipe, batch, edits, networks, tally.edits)
        if progress is not None:
            progress(min(start + batch_size, len(images)))
    rows = [_row_report(name, METHODS[name].label, len(images), tally) for name in plan.rows]
    for optimization in plan.optimizations:
        prepared = pipe.prepare_image(images[: plan.optimization_images])
        rows.append(_optimization_report(pipe, prepared, optimization, batch_size, networks, tally))
    photos = images[:w_optimization_images]
    return EvaluationReport(
        model=model or _model_name(pipe),
        dtype=str(pipe.generator.dtype).removeprefix("torch."),
        count=len(images),
        image_size=pipe.image_size,
        edits=_edit_reports(pipe, tally),
        baseline=_baseline(pipe, photos, tally, w_optimization_steps, batch_size) if len(photos) else None,
        rows=rows,
        transfer=[_transfer_report(key, tally) for key in edits],
        networks=networks.names(),
        photos_kernel=_kernel(tally.features.get("photos"), tally),
        photos_identity=Statistic.of(torch.cat(tally.photos_identity)) if tally.photos_identity else None,
        settings=_settings(pipe, plan, batch_size),
        groups=_group_reports(labels or {}, tally),
        **_first_figures(tally),
    )


@torch.no_grad()
def _tally_batch(pipe: SDICPipeline, batch: MeasuredBatch, networks: EvaluationNetworks, tally: _Tally) -> None:
    """Measure a batch's rows, and its edits at their default strength."""
    for name, images in batch.images.items():
        for metric, values in measure(images, batch.photos, networks).items():
            tally.rows.setdefault(name, {}).setdefault(metric, []).append(values.float().cpu())
        tally.seconds.setdefault(name, []).append(batch.seconds[name] / len(images))
        _tally_features(name, images, networks, tally)
    _tally_features("photos", batch.photos, networks, tally)
    if networks.identity is not None and len(batch.photos) > 1:
        photos = batch.photos * 2 - 1
        tally.photos_identity.append(networks.identity.similarity(photos[1:], photos[:-1]).float().cpu())
    initial, inverted, method = batch.images["initial"], batch.images["full"], edited_method(pipe)
    for name, edit in pipe.get_list_edits().items():
        change = {name: edit.default_strength}
        initial_edited = render_method(pipe, batch.inversion, METHODS["initial"], change)
        edited = render_method(pipe, batch.inversion, method, change)
        transfer = transfer_values(initial, initial_edited, inverted, edited)
        if networks.identity is not None:
            transfer["identity"] = networks.identity.similarity(edited * 2 - 1, batch.photos * 2 - 1)
        tally.quick.add_values((name, edit.default_strength, ""), transfer)
    pipe.maybe_free_model_hooks()


def _tally_features(name: str, images: torch.Tensor, networks: EvaluationNetworks, tally: _Tally) -> None:
    if networks.features is not None:
        tally.features.setdefault(name, []).append(networks.features(images * 2 - 1).float().cpu())


class _FirstFigures(TypedDict):
    initial_psnr: Statistic
    inversion_psnr: Statistic
    psnr_gain: Statistic
    initial_ssim: Statistic
    inversion_ssim: Statistic
    ssim_gain: Statistic


def _first_figures(tally: _Tally) -> _FirstFigures:
    """The figures that every report starts with."""
    initial, inversion = tally.row("initial"), tally.row("full")
    return {
        "initial_psnr": Statistic.of(initial["psnr"]),
        "inversion_psnr": Statistic.of(inversion["psnr"]),
        "psnr_gain": Statistic.of(inversion["psnr"] - initial["psnr"]),
        "initial_ssim": Statistic.of(initial["ssim"]),
        "inversion_ssim": Statistic.of(inversion["ssim"]),
        "ssim_gain": Statistic.of(inversion["ssim"] - initial["ssim"]),
    }


def _row_report(name: str, label: str, count: int, tally: _Tally) -> RowReport:
    values = tally.row(name)
    values["psnr_gain"] = values["psnr"] - tally.row("initial")["psnr"][:count]
    figures = {metric: Statistic.of(found) for metric, found in values.items()}
    return RowReport(
        name=name,
        label=label,
        count=count,
        seconds_per_image=_median(tally.seconds[name]),
        frechet=_frechet(tally.features.get(name), tally),
        kernel=_kernel(tally.features.get(name), tally),
        **figures,
        **_mean_transfer(name, tally),
    )


def _median(seconds: list[float]) -> float:
    """Median over the batches; the first of several is a warm-up."""
    return statistics.median(seconds[1:] or seconds)


def _mean_transfer(method: str, tally: _Tally) -> dict[str, Statistic]:
    """Cosine and norm ratio of a method, per photo the mean over the edits at their default strength."""
    keys = [(name, round(strength, 6), method) for name, strength, _ in tally.quick.values]
    measured = [tally.edits.values[key] for key in keys if key in tally.edits.values]
    if not measured:
        return {}
    return {
        name: Statistic.of(torch.stack([torch.cat(values[name]) for values in measured]).mean(dim=0))
        for name in ("cosine", "norm_ratio")
    }


def _frechet(features: list[torch.Tensor] | None, tally: _Tally) -> float | None:
    """Fréchet distance to the photos; None without features, or with fewer of them than photos or than two."""
    if not features:
        return None
    found, photos = torch.cat(features), torch.cat(tally.features["photos"])
    return frechet_distance(found, photos) if 2 <= len(found) == len(photos) else None


def _kernel(features: list[torch.Tensor] | None, tally: _Tally) -> float | None:
    """Kernel distance to other photos; None without features, or with fewer of them than photos or than four."""
    if not features:
        return None
    found, photos = torch.cat(features), torch.cat(tally.features["photos"])
    return unpaired_distance(found, photos) if 4 <= len(found) == len(photos) else None


def _optimization_report(
    pipe: SDICPipeline,
    prepared: torch.Tensor,
    optimization: Optimization,
    batch_size: int,
    networks: EvaluationNetworks,
    tally: _Tally,
) -> RowReport:
    prepared = prepared.to(pipe._execution_device)
    found = optimize_photos(pipe, prepared, optimization, batch_size)
    photos, name = round_to_uint8(prepared.float() / 2 + 0.5), optimization.name
    for rows in torch.arange(len(photos)).split(batch_size):
        for metric, values in measure(found.images[rows], photos[rows], networks).items():
            tally.rows.setdefault(name, {}).setdefault(metric, []).append(values.float().cpu())
        with torch.no_grad():
            _tally_features(name, found.images[rows], networks, tally)
    tally.seconds[name] = found.seconds
    report = _row_report(name, optimization.label, len(photos), tally)
    for key, values in optimized_transfer(pipe, prepared, found, batch_size).items():
        setattr(report, key, Statistic.of(values.mean(dim=0)))
    return report


def _baseline(
    pipe: SDICPipeline, photos: torch.Tensor | Sequence[ImageInput], tally: _Tally, steps: int, batch_size: int
) -> BaselineReport:
    prepared = pipe.prepare_image(photos)
    name = Optimization("w", steps).name
    if name in tally.rows and len(tally.row(name)["psnr"]) == len(prepared):
        reached = tally.row(name)["psnr"]
    else:
        found = optimize_photos(pipe, prepared, Optimization("w", steps), batch_size)
        targets = round_to_uint8(prepared.float() / 2 + 0.5).to(found.images)
        reached = measure(found.images, targets, EvaluationNetworks())["psnr"].cpu()
    encoder = tally.row("initial")["psnr"][: len(prepared)]
    return BaselineReport(len(prepared), steps, Statistic.of(encoder), Statistic.of(reached))


def _edit_reports(pipe: SDICPipeline, tally: _Tally) -> dict[str, EditReport]:
    return {
        name: EditReport(strength, **_summaries(values)) for (name, strength, _), values in tally.quick.values.items()
    }


def _summaries(values: Mapping[str, list[torch.Tensor]]) -> dict[str, Statistic]:
    return {name: Statistic.of(torch.cat(parts)) for name, parts in values.items()}


def _group_reports(labels: Mapping[str, Sequence[str]], tally: _Tally) -> list[GroupReport]:
    inversion, initial = tally.row("full"), tally.row("initial")
    values = {"psnr_gain": inversion["psnr"] - initial["psnr"]}
    values |= {name: inversion[name] for name in ("psnr", "ssim", "identity") if name in inversion}
    for name, key in (("cosine", "cosine"), ("edited_identity", "identity")):
        edits = [torch.cat(parts[key]) for parts in tally.quick.values.values() if key in parts]
        if edits:
            values[name] = torch.stack(edits).mean(dim=0)
    reports = []
    for column, each in labels.items():
        for label, chosen in positions(each).items():
            figures = {name: Statistic.of(value[chosen]) for name, value in values.items()}
            reports.append(GroupReport(column, label, len(chosen), figures))
    return reports


def _transfer_report(key: EditKey, tally: _Tally) -> TransferReport:
    edit, strength, method = key
    return TransferReport(
        strength=strength,
        edit=edit,
        method=method,
        initial_frechet=_frechet(tally.edits.features.get((edit, strength, "initial")), tally),
        frechet=_frechet(tally.edits.features.get(key), tally),
        initial_kernel=_kernel(tally.edits.features.get((edit, strength, "initial")), tally),
        kernel=_kernel(tally.edits.features.get(key), tally),
        **_summaries(tally.edits.values[key]),
    )


def _settings(pipe: SDICPipeline, plan: EvaluationPlan, batch_size: int) -> dict[str, object]:
    defaults = {name: edit.default_strength for name, edit in pipe.get_list_edits().items()}
    strengths = {name: strengths_of(default, plan.multiples) for name, default in defaults.items()}
    return {
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "device": str(pipe._execution_device),
        "feature_edit": pipe.config.feature_edit,
        "strengths": strengths,
        **asdict(plan),
    }


def _model_name(pipe: SDICPipeline) -> str:
    """The folder or Hub name it was loaded from, without the folder's place."""
    return Path(str(pipe.config.get("_name_or_path") or "unnamed")).name
