"""What `mask="auto"` does to strong edits: figures on photos, and a sheet.

Run: python -m sdic_plugin.benchmarks.auto_mask --model cats64 --data cats64_val.zip --limit 100 --out DIR

For every edit at a multiple of its default strength, plain compensation and the automatic mask are compared by

- edit transfer: the change of the picture between strength 0 and the edit, both under the same compensation (and
  mask), against the same change of the initial rendering; cosine and ratio of sizes, 1 and 1 being perfect;
- acted on: PSNR against the edited initial rendering, where the edit changes that by more than `ACTED`: how far the
  edit gets its way;
- cosine to the inversion: the same transfer, but from the fully compensated inversion, so that detail which yielded
  counts as change;
- untouched pixels: PSNR against the photo, where the edit changes the initial rendering by less than `UNTOUCHED`;
- untouched regions: the same where the mean over `SURROUNDINGS` pixels squared is below it. (In the midst of a region
  where an edit acts, some pixels stay as they are by chance, between those that grow lighter and darker.)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.edits.base import Code
from sdic_plugin.evaluation import edit_transfer
from sdic_plugin.evaluation.w_optimization import match_size
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.sheets import SheetCell, SheetRow, comparison_sheet, save_picture
from sdic_plugin.models.stylegan2 import FeatureHook
from sdic_plugin.photos.photo import crop_photo, load_example, suitable_example
from sdic_plugin.pipeline.auto_mask import AutoMask
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import replacing_file

UNTOUCHED, ACTED = 0.03, 0.1
"""Mean absolute changes of the initial rendering, in [0, 1]."""
SURROUNDINGS = 5
"""Side of the window around each pixel that tells a region from a pixel, in pixels of the photo."""


@dataclasses.dataclass
class MaskResult:
    """One edit; means over the photos, regions taken over all of them.

    Attributes:
        name: Of the edit.
        strength: At which it was measured.
        cosine: By method, "plain" and "auto".
        norm_ratio: By method.
        cosine_to_inversion: By method, as `cosine`, but against the fully compensated inversion: detail that yielded
            counts as change here.
        acted: PSNR in dB against the edited initial rendering where the edit acts, by method.
        untouched: PSNR in dB against the photo at pixels where it does not, by method, and of the "inversion".
        untouched_regions: The same in regions where it does not.
        untouched_share: Of the pixels.
        untouched_regions_share: Of the pixels.
        acted_share: Of the pixels.
        kept: Mean of the automatic mask.
    """

    name: str
    strength: float
    cosine: dict[str, float]
    norm_ratio: dict[str, float]
    cosine_to_inversion: dict[str, float]
    acted: dict[str, float]
    untouched: dict[str, float]
    untouched_regions: dict[str, float]
    untouched_share: float
    untouched_regions_share: float
    acted_share: float
    kept: float


@torch.no_grad()
def measure_edit(
    pipe: SDICPipeline, inversion: SDICInversion, name: str, strength: float, settings: AutoMask
) -> MaskResult:
    """Measure one edit on inverted photos."""
    photos = inversion.image / 2 + 0.5

    def picture(code: Code, hook: FeatureHook | None = None) -> torch.Tensor:
        return match_size((pipe.synthesize(code, hook).float() / 2 + 0.5).clamp(0, 1), pipe.image_size)

    code = pipe.edited_code(inversion, {name: strength})
    initial, initial_edited = (
        picture(inversion.latents),
        picture(pipe.apply_edits(inversion.latents, {name: strength})),
    )
    kept = pipe.find_mask(inversion, code, settings)
    change = (initial_edited - initial).abs().mean(dim=1)
    untouched, regions, acted = change < UNTOUCHED, around(change) < UNTOUCHED, change > ACTED
    shares = [part.float().mean().item() for part in (untouched, regions, acted, kept)]
    result = MaskResult(name, strength, {}, {}, {}, {}, {}, {}, *shares)
    inverted = picture(inversion.compensated_latents, pipe.feature_hook(inversion, "continuous", 1.0))
    for method, weight in (("plain", 1.0), ("auto", kept)):
        hook = pipe.feature_hook(inversion, "continuous", weight)
        before, after = picture(inversion.compensated_latents, hook), picture(code, hook)
        transfer = edit_transfer(initial, initial_edited, before, after)
        strict = edit_transfer(initial, initial_edited, inverted, after)
        result.cosine_to_inversion[method] = strict.cosine.mean().item()
        result.cosine[method] = transfer.cosine.mean().item()
        result.norm_ratio[method] = transfer.norm_ratio.mean().item()
        result.acted[method] = region_psnr(after, initial_edited, acted)
        result.untouched[method] = region_psnr(after, photos, untouched)
        result.untouched_regions[method] = region_psnr(after, photos, regions)
    result.untouched["inversion"] = region_psnr(inverted, photos, untouched)
    result.untouched_regions["inversion"] = region_psnr(inverted, photos, regions)
    return result


def around(change: torch.Tensor) -> torch.Tensor:
    """Mean change around each pixel, [B, H, W]."""
    padded = F.pad(change[:, None], (SURROUNDINGS // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, SURROUNDINGS, stride=1)[:, 0]


def region_psnr(images: torch.Tensor, targets: torch.Tensor, region: torch.Tensor) -> float:
    """PSNR in dB of images [B, 3, H, W] in [0, 1] over the pixels of a region [B, H, W]; NaN if it is empty."""
    errors = (images - targets).square().mean(dim=1)[region]
    return -10 * math.log10(errors.mean().item()) if len(errors) else math.nan


def to_markdown(results: Sequence[MaskResult]) -> str:
    """Return the table, with the means in its last row."""
    heads = ["edit", "strength", "transfer: cosine", "norm ratio", "acted on (dB)", "untouched pixels (dB)"]
    heads += ["untouched regions (dB)", "cosine to the inversion"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    rows = [(result.name, f"{result.strength:g}", result) for result in results]
    for name, strength, result in [*rows, ("mean", "", mean_of(results))]:
        columns = [
            (result.cosine, ".3f"), (result.norm_ratio, ".2f"), (result.acted, ".1f"), (result.untouched, ".1f"),
            (result.untouched_regions, ".1f"), (result.cosine_to_inversion, ".3f"),
        ]  # fmt: skip
        pairs = [f"{values['plain']:{form}} → {values['auto']:{form}}" for values, form in columns]
        lines.append(f"| {' | '.join([name, strength, *pairs])} |")
    return "\n".join(lines) + "\n"


def mean_of(results: Sequence[MaskResult]) -> MaskResult:
    """Mean over the edits."""

    def mean(values: Sequence[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    parts: dict[str, Any] = {}
    for field in ("cosine", "norm_ratio", "cosine_to_inversion", "acted", "untouched", "untouched_regions"):
        keys = getattr(results[0], field)
        parts[field] = {key: mean([getattr(result, field)[key] for result in results]) for key in keys}
    for name in ("untouched_share", "untouched_regions_share", "acted_share", "kept"):
        parts[name] = mean([getattr(result, name) for result in results])
    return MaskResult("mean", math.nan, **parts)


@torch.no_grad()
def draw_sheet(
    pipe: SDICPipeline, inversion: SDICInversion, multiple: float, settings: AutoMask, names: Sequence[str]
) -> Image.Image:
    """Draw one photo: per edit the inversion, the edited initial rendering, plain compensation, the mask, auto."""
    processor = SDICImageProcessor(*pipe.image_size)
    plain = pipe.edit(inversion, edits={}).images[0]
    rows = []
    for name in names:
        strengths = {name: multiple * pipe.find_edit(name).default_strength}
        wanted = pipe.synthesize(pipe.apply_edits(inversion.latents, strengths))
        mask = pipe.find_mask(inversion, pipe.edited_code(inversion, strengths), settings)
        cells = {
            "inversion": SheetCell(plain),
            "edit without compensation": SheetCell(processor.postprocess(wanted, "pil")[0]),
            "edit, compensated": SheetCell(pipe.edit(inversion, strengths).images[0]),
            "automatic mask": SheetCell(processor.postprocess(mask.expand(-1, 3, -1, -1) * 2 - 1, "pil")[0]),
            'edit, mask="auto"': SheetCell(pipe.edit(inversion, strengths, mask=settings).images[0]),
        }
        rows.append(SheetRow(cells, title=f"{name} {strengths[name]:+g}"))
    return comparison_sheet(rows)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="pipeline with edits: folder, name or Hub id")
    parser.add_argument("--data", required=True, help="folder or zip of held-out photos")
    parser.add_argument("--limit", type=int, default=100, help="number of photos")
    parser.add_argument("--multiple", type=float, default=3.0, help="of the edits' default strengths")
    parser.add_argument("--edits", nargs="+", help="names; default: all")
    parser.add_argument("--shown", nargs="+", help="edits on the sheet; default: all")
    parser.add_argument("--low", type=float, default=AutoMask.low)
    parser.add_argument("--high", type=float, default=AutoMask.high)
    parser.add_argument("--smoothing", type=int, default=AutoMask.smoothing)
    parser.add_argument("--feather", type=int, default=AutoMask.feather)
    parser.add_argument("--out", type=Path, required=True, help="folder for auto_mask.json, .md and .png")
    options = parser.parse_args()
    settings = AutoMask(options.low, options.high, options.smoothing, options.feather)
    pipe = SDICPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    inversion = pipe.invert(load_images(options.data, pipe.encoder.config.image_size, limit=options.limit))
    names = options.edits or list(pipe.get_list_edits())
    results = [
        measure_edit(pipe, inversion, name, options.multiple * pipe.find_edit(name).default_strength, settings)
        for name in names
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".md", to_markdown(results)), (".json", json.dumps(list(map(dataclasses.asdict, results))))):
        with replacing_file(options.out / f"auto_mask{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    if pipe.config.alignment is not None:
        photo = load_example(suitable_example(pipe))
        inverted = pipe.invert(crop_photo(pipe, photo.source, photo.eyes)[0])
        sheet = draw_sheet(pipe, inverted, options.multiple, settings, options.shown or names)
        save_picture(sheet, options.out / "auto_mask.png")
    print(to_markdown(results))


if __name__ == "__main__":
    main()
