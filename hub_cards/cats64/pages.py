"""Renews what README, docs and card show of the bundled model `cats64`: its pictures, and its tables of figures.

Run, in the repository: python -m hub_cards.cats64.pages --data DIR [--only NAME …]

DIR holds cats64_val.zip and, for `fine_tune`, cats64_train.zip. Every part runs the command that the pages name beside
it. Two parts only run when they are asked for:
`rows` optimises the latents of 64 photos, 26 s each, and `transports` trains two of them. `demo` needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub_cards.cats64.bundle import save_pictures
from hub_cards.example_cards import EVALUATION
from hub_cards.figures import renew_evaluation, renew_held_out, renew_rows
from hub_cards.renewing import ROOT, Workplace, keep, replace_table, table_that_begins, up_to_first_table
from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.output import JSON_NAME
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import replacing_file

CARDS = ROOT / "hub_cards"
README, DOCS = ROOT / "README.md", ROOT / "docs" / "pages"
EDITS_GUIDE, EVALUATION_GUIDE = DOCS / "guides" / "edits.md", DOCS / "guides" / "evaluation.md"
DOCS_ASSETS = DOCS / "assets"
CARD, ASSETS = ROOT / "hub_cards" / "cats64" / "README.md", ROOT / "hub_cards" / "cats64" / "assets"


# The parts, by name.


def pictures(place: Workplace) -> None:
    """Random samples, and each edit at five strengths on samples and on a photo."""
    save_pictures(SDICPipeline.from_pretrained("cats64"), ASSETS)


def example(place: Workplace) -> None:
    """The README's first command."""
    command = next(line for line in README.read_text(encoding="utf-8").splitlines() if "sdic edit --example" in line)
    place.run(*shlex.split(command.partition("bin/sdic ")[2]))
    keep(place.folder / "out" / "chelsea_sheet.png", DOCS_ASSETS / "chelsea_sheet.png")
    keep(place.folder / "out" / "chelsea_warmth_+1.5_pasted.png", DOCS_ASSETS / "chelsea_warm.png")


def sweep(place: Workplace) -> None:
    """Two sweeps, crossed."""
    sweeps = "--sweep turn=-2.5:2.5:5 --sweep lightness=-1.5:1.5:3".split()
    place.run(*"edit --example chelsea --model cats64 --out out".split(), *sweeps)
    keep(place.folder / "out" / "chelsea_sweep_turn_lightness.png", DOCS_ASSETS / "edits_sweep.png")


def found(place: Workplace) -> None:
    """Principal components of the generator."""
    place.run(*"edits find --method ganspace --model cats64 --layers 0:5 --count 3 --out found.safetensors".split())
    keep(place.folder / "found.png", DOCS_ASSETS / "edits_found.png")


def demo(place: Workplace) -> None:
    """The page of `sdic demo`."""
    place.run("sdic_plugin.benchmarks.demo_screenshot", "--out", str(DOCS_ASSETS / "demo.png"))


def fine_tune(place: Workplace) -> None:
    """Figures and sheet of the example of a fine-tune, in which DICN learns for 60 steps."""
    training = str(place.photos.with_name("cats64_train.zip"))
    settings = {"data": training, "validation": str(place.photos), "validation_images": 16, "steps": 60}
    settings |= {"learning_rate": 2e-4, "ema_decay": 0.9, "mixed_precision": "no", "output": "fine_tune"}
    assignments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    place.run(*"train compensation --config cats64_compensation_second --from cats64".split(), *assignments)
    model = "fine_tune/model"
    place.run("evaluate", "--model", model, "--data", str(place.photos), *"--limit 64 --out figures".split())
    place.run("edit", "--example", "chelsea", "--model", model, *"--edit warmth=1.5 --edit turn=2 --out sheet".split())
    keep(place.folder / "sheet" / "chelsea_sheet.png", ASSETS / "fine_tune_sheet.png")
    with replacing_file(CARDS / EVALUATION) as temporary:
        shutil.copyfile(place.folder / "figures" / JSON_NAME, temporary)


def cards(place: Workplace) -> None:
    """Example cards, which name the bundled networks and edits."""
    place.run("hub_cards.example_cards", "--out", str(CARDS))


def mask(place: Workplace) -> None:
    """The automatic mask."""
    shown = "--shown white_chin blaze background eye_size".split()
    options = ["--model", "cats64", "--data", str(place.photos), *"--limit 64 --out mask".split(), *shown]
    place.run("sdic_plugin.benchmarks.auto_mask", *options)
    keep(place.folder / "mask" / "auto_mask.png", DOCS_ASSETS / "auto_mask.png")
    replace_table(EDITS_GUIDE, "mask", (place.folder / "mask" / "auto_mask.md").read_text(encoding="utf-8"))


def evaluation(place: Workplace) -> None:
    """Inversions and edits of every other photo, by which nothing was chosen; edits of samples beside the truth."""
    tables = renew_evaluation(place, "cats64", CARD)
    replace_table(README, "evaluation", up_to_first_table(tables))
    replace_table(EVALUATION_GUIDE, "truth", table_that_begins(tables, "way to edit"))


def held_out(place: Workplace) -> None:
    """Edits that nothing was trained for: principal components of the generator."""
    renew_held_out(place, "cats64", CARD)


def rows(place: Workplace) -> None:
    """Parts of the compensation, its strengths, its rules, and optimisation in its place."""
    renew_rows(place, "cats64", CARD, ASSETS / "cats64_tradeoff.png", "w:100 w:1000 w+:100 w+:1000".split())


TRANSPORTS = {
    "of samples, whose truth is known": {"truth_weight": 1.0, "edit_transfer_weight": 0.0, "psnr_weight": 0.0}
    | {"pixel_weight": 5.0},
    "of photos, edited as their initial reconstructions": {},
}
"""What two transports learn from, and how their settings differ from the recipe's."""


def transports(place: Workplace) -> None:
    """Two transports that learn alone, in equal steps, of samples or of photos, beside the bundled one and none."""
    training = str(place.photos.with_name("cats64_train.zip"))
    models = {"the bundled model": "cats64"}
    for name, changes in TRANSPORTS.items():
        output = str(place.folder / f"transport_{len(models)}")
        settings = {"data": training, "output": output, "steps": 400, "from_scratch": "true", "train_dicn": "false"}
        settings |= {"validation_images": 16, **changes}
        assignments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        place.run(*"train transport --config cats64_transport --from cats64".split(), *assignments)
        models[name] = f"{output}/model"
    lines: list[list[str]] = []
    for name, model in models.items():
        folder = place.folder / f"figures_{len(lines)}"
        options = f"--part 1/2 --limit 64 --edit-truth 64 --out {folder}".split()
        place.run("evaluate", "--model", model, "--data", str(place.photos), *options)
        report = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
        if not lines:
            lines.append(["none, bundled DICN", *truth_cells(report, "plain rule"), "", "", ""])
        lines.append([name, *truth_cells(report, "transport"), *transfer_cells(report)])
    heads = ["transport", "PSNR (dB), 1×", "3×", "judge, 1×", "3×", "ghosts, 1×", "3×"]
    heads += ["cosine on photos, mean", "least", "norm ratio, mean"]
    table = [heads, ["---"] * len(heads), *lines]
    replace_table(CARD, "transports", "\n".join(f"| {' | '.join(line)} |" for line in table))


def truth_cells(report: dict[str, Any], way: str) -> list[str]:
    """Means over the edits, by one way to edit samples, at one and three times their default strengths."""
    cells = []
    for name, digits in (("psnr", 2), ("judged", 3), ("ghosts", 3)):
        for multiple in (1, 3):
            rows = [row for row in report["edit_truth"]["rows"] if (row["way"], row["multiple"]) == (way, multiple)]
            known = [row[name]["mean"] for row in rows if row[name] is not None]
            cells.append(f"{statistics.mean(known):.{digits}f}")
    return cells


def transfer_cells(report: dict[str, Any]) -> list[str]:
    """Edit transfer on photos at the edits' default strengths: mean and least cosine, mean norm ratio."""
    cosines, ratios = ([edit[key]["mean"] for edit in report["edits"].values()] for key in ("cosine", "norm_ratio"))
    return [f"{statistics.mean(cosines):.3f}", f"{min(cosines):.3f}", f"{statistics.mean(ratios):.2f}"]


PARTS: dict[str, Callable[[Workplace], None]] = {
    part.__name__: part
    for part in (
        *(pictures, example, sweep, found, demo, fine_tune, cards, mask),
        *(evaluation, held_out, rows, transports),
    )
}
ON_DEMAND = ("rows", "transports")


def main() -> None:
    """Parse the command line and renew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cats64_val.zip")
    parser.add_argument("--only", nargs="+", choices=PARTS, help=f"default: all but {', '.join(ON_DEMAND)}")
    options = parser.parse_args()
    photos = options.data.absolute() / "cats64_val.zip"
    if not photos.is_file():
        raise SDICError(f"{options.data} has no cats64_val.zip: build it with `sdic data cats64`.")
    for name in options.only or [name for name in PARTS if name not in ON_DEMAND]:
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Workplace(photos, Path(folder)))


if __name__ == "__main__":
    try:
        main()
    except SDICError as error:
        sys.exit(f"cats64_pages: {error}")
