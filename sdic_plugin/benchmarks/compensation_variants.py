"""What each addition to the compensation's loss, or to DICN, is worth: equal short runs, one table.

Run: python -m sdic_plugin.benchmarks.compensation_variants --from MODEL --data D --validation V --out DIR

Every run goes on from the same model (or from scratch, with --set from_scratch=true) with the same settings, seed and
steps but for the one it is named after; "before" is that model. Inversion is measured on held-out photos, edits by how
well the model's own survive at their default strength and at three times that. The last run repeats the base with
another seed: differences of that size are noise.

How far the networks can go, with `--variants` of DICN's depth, is told by runs without a weight on edits, over
parameters and (`--steps`) over steps; `--optimized 50 300` adds what features and latents reach that are optimised for
each photo:

    … --variants base "1 × 2 blocks, 48 wide" "4 × 2 blocks, 48 wide" … --set train_dipn=false
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from sdic_plugin.checkpoints.components import find_model
from sdic_plugin.evaluation import EvaluationPlan, evaluate
from sdic_plugin.evaluation.editing import strengths_of
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.metrics import psnr, ssim
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.training.compensation import CompensationTrainingConfig, train_compensation
from sdic_plugin.training.config import load_config
from sdic_plugin.utils.files import replacing_file

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "published weights": {"perceptual_weight": 0.8, "change_weight": 0.5, "ssim_weight": 0.0},
    "D not supervised": {"discrepancy_weight": 0.0},
    "D supervised tenfold": {"discrepancy_weight": 1.0},
    "edit transfer": {"edit_transfer_weight": 0.04},
    "synthetic edits": {"synthetic_edit_weight": 0.04},
    "cycle": {"cycle_weight": 0.5},
    "misalignment": {"misalignment": 0.03},
    "adversarial": {"adversarial_weight": 0.002},
    "base, another seed": {"seed": 1},
}
"""Settings that differ from the base, by the name of the run."""


def _second_looks(looks: int, blocks: int, channels: int) -> dict[str, Any]:
    return {"second_look_blocks": blocks, "second_look_channels": channels, "second_looks": looks}


DEPTHS: dict[str, dict[str, Any]] = {
    "2 residual blocks": {"residual_blocks": 2},
    "4 residual blocks": {"residual_blocks": 4},
    "8 residual blocks": {"residual_blocks": 8},
    **{
        f"{looks} × {blocks} blocks, {channels} wide": _second_looks(looks, blocks, channels)
        for looks, blocks, channels in (
            *((1, blocks, channels) for blocks, channels in ((2, 48), (4, 64), (4, 96), (4, 128))),
            *((2, 4, 64), (2, 2, 48), (4, 2, 48), (8, 2, 48), (4, 2, 24), (4, 2, 96)),
        )
    },
    "4 residual blocks, 4 × 2 blocks, 48 wide": {"residual_blocks": 4, **_second_looks(4, 2, 48)},
}
"""Depths of DICN, by the name of the run: residual blocks, or second looks × the blocks of each."""

OPTIMIZED = 64
"""Photos whose features are optimised."""

STRENGTHS = (1.0, 3.0)
"""Multiples of the edits' default strengths at which they are measured."""


@dataclass
class VariantResult:
    """One run; means over the held-out photos, and over the edits.

    Attributes:
        name: Of the run.
        minutes: Wall-clock time of the training, or of the optimisation.
        parameters: Of DICN.
        psnr: Of the inversion, in dB.
        ssim: Of the inversion.
        cosine: Of the edits' change in the inversion and in the initial rendering, by multiple of the strength.
        norm_ratio: Of the sizes of these changes.
    """

    name: str
    minutes: float
    parameters: int
    psnr: float
    ssim: float
    cosine: dict[str, float]
    norm_ratio: dict[str, float]


def measure(pipe: SDICPipeline, validation: torch.Tensor, name: str, minutes: float) -> VariantResult:
    """Measure a trained pipeline on photos, uint8 [N, 3, S, S]."""
    pipe.set_progress_bar_config(disable=True)
    report = evaluate(pipe, validation, plan=EvaluationPlan(multiples=STRENGTHS))
    parameters = sum(parameter.numel() for parameter in pipe.dicn.parameters())
    result = VariantResult(name, minutes, parameters, report.inversion_psnr.mean, report.inversion_ssim.mean, {}, {})
    defaults = {edit: entry.default_strength for edit, entry in pipe.get_list_edits().items()}
    for multiple in STRENGTHS:
        wanted = {(edit, *strengths_of(default, [multiple])) for edit, default in defaults.items()}
        found = [each for each in report.transfer if each.method == "full" and (each.edit, each.strength) in wanted]
        if found:
            result.cosine[f"{multiple:g}"] = statistics.mean(each.cosine.mean for each in found)
            result.norm_ratio[f"{multiple:g}"] = statistics.mean(each.norm_ratio.mean for each in found)
    return result


def measure_optimized(pipe: SDICPipeline, validation: torch.Tensor, steps: int) -> VariantResult:
    """Measure inversions of photos, uint8 [N, 3, S, S], whose features and latents are optimised for each."""
    pipe.set_progress_bar_config(disable=True)
    started = time.perf_counter()
    inversion = pipe.invert(validation, refine_steps=steps, check_subject=False)
    minutes = (time.perf_counter() - started) / 60
    images, photos = pipe.edit(inversion, edits={}, output_type="pt").images, validation / 255
    if images.shape != photos.shape:
        images = F.interpolate(images, photos.shape[2:], mode="area")
    figures = psnr(images, photos).mean().item(), ssim(images, photos).mean().item()
    return VariantResult(f"optimised for {steps} steps", minutes, 0, *figures, {}, {})


def to_markdown(results: Sequence[VariantResult]) -> str:
    """Return the table."""
    multiples = [f"{multiple:g}" for multiple in STRENGTHS]
    heads = ["run", "minutes", "parameters of DICN", "PSNR (dB)", "SSIM"]
    heads += [f"{what}, {multiple}× strength" for multiple in multiples for what in ("cosine", "norm ratio")]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for result in results:
        cells = [result.name, f"{result.minutes:.1f}", f"{result.parameters / 1e6:.2f} M"]
        cells += [f"{result.psnr:.2f}", f"{result.ssim:.3f}"]
        for multiple in multiples:
            cells += [f"{values.get(multiple, float('nan')):.3f}" for values in (result.cosine, result.norm_ratio)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def run_variants(base: CompensationTrainingConfig, names: Sequence[str], output: Path) -> list[VariantResult]:
    """Train and measure the named variants one after the other; finished ones are not repeated."""
    output.mkdir(parents=True, exist_ok=True)
    results = []
    if not base.from_scratch:
        pipe = SDICPipeline.from_pretrained(find_model(base.model))
        results.append(measure(pipe, _photos(base, pipe), "before", 0.0))
    for name in names:
        folder = output / name.replace(" ", "_").replace(",", "")
        known = folder / "result.json"
        if not known.is_file():
            config = dataclasses.replace(base, output=str(folder), **{**VARIANTS, **DEPTHS}[name])
            started = time.perf_counter()
            model = train_compensation(config)
            minutes = (time.perf_counter() - started) / 60
            pipe = SDICPipeline.from_pretrained(model)
            result = measure(pipe, _photos(config, pipe), name, minutes)
            with replacing_file(known) as temporary:
                temporary.write_text(json.dumps(dataclasses.asdict(result)))
        results.append(VariantResult(**json.loads(known.read_text())))
        (output / "variants.md").write_text(to_markdown(results))
    return results


def _photos(config: CompensationTrainingConfig, pipe: SDICPipeline) -> torch.Tensor:
    assert config.validation is not None  # the command line demands it
    return load_images(config.validation, pipe.image_size[1], limit=config.validation_images)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="model", required=True, help="pipeline with edits: folder, name or Hub id")
    parser.add_argument("--data", required=True, help="training images")
    parser.add_argument("--validation", required=True, help="held-out images")
    parser.add_argument("--out", required=True, type=Path, help="folder for the runs and the table")
    parser.add_argument("--config", default="cats64_compensation", help="recipe or TOML file of the base")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=[*VARIANTS, *DEPTHS])
    parser.add_argument("--optimized", nargs="+", type=int, default=[], metavar="STEPS", help="on the first 64 photos")
    options = parser.parse_args()
    assignments = [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in {
            "model": options.model,
            "data": options.data,
            "validation": options.validation,
            "output": str(options.out / "base"),
            "steps": options.steps,
            "batch_size": options.batch_size,
            "sample_every": options.steps,
            "checkpoint_every": options.steps,
        }.items()
    ]
    base = load_config(CompensationTrainingConfig, options.config, assignments + options.set)
    results = run_variants(base, options.variants, options.out)
    pipe = SDICPipeline.from_pretrained(find_model(base.model))
    photos = _photos(base, pipe)[:OPTIMIZED]
    results += [measure_optimized(pipe, photos, steps) for steps in options.optimized]
    table = to_markdown(results)
    (options.out / "variants.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
