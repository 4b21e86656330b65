"""Renews what the card of `faces128` shows: its pictures, its curve, and its tables of figures.

Run, in the repository:
    python -m hub_cards.faces128.pages --data DIR [--points IMAGES=FOLDER …] [--sheets DIR] [--only NAME …]

DIR holds faces128_train.zip and faces128_val.zip. `curve` needs generators that were kept on the way, models or
folders of checkpoints, with the number of images that each had seen: without them it is left out. `rows` optimises
the latents of 64 photos, and only runs when it is asked for. Sheets with photographs are for the maker's eyes: they
go to the folder of `--sheets`, never into the repository.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hub_cards.faces128 import generator_pages, pipeline_pages
from hub_cards.faces128.curve import curve, read_points
from hub_cards.faces128.job import Job
from hub_cards.renewing import Workplace, check_places
from sdic_plugin.errors import SDICError

PARTS: dict[str, Callable[[Job], None]] = {
    part.__name__: part
    for part in (
        *(generator_pages.samples, generator_pages.interpolations, generator_pages.judge),
        *(generator_pages.latents, curve),
        *(pipeline_pages.edits, pipeline_pages.effects, pipeline_pages.evaluation),
        *(pipeline_pages.held_out, pipeline_pages.fairness, pipeline_pages.rows),
    )
}
ON_DEMAND = ("rows",)

TABLES = {
    "judge": ["judge"],
    "latents": ["latents"],
    "effects": ["effects", "groups"],
    "evaluation": ["evaluation", "strengths"],
    "held_out": ["held out"],
    "fairness": ["all faces", "fairness"],
    "rows": ["rows"],
}
"""Tables of the card that parts replace."""


def main() -> None:
    """Parse the command line and renew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with both zips of faces")
    parser.add_argument("--points", nargs="+", default=[], help="IMAGES=FOLDER: generators on the way, for the curve")
    parser.add_argument("--sheets", type=Path, help="folder for sheets with photographs on them; default: none")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="default: all but rows, without points all but the curve"
    )
    options = parser.parse_args()
    folder = options.data.absolute()
    photos, training = folder / "faces128_val.zip", folder / "faces128_train.zip"
    for path in (photos, training):
        if not path.is_file():
            raise SDICError(f"{options.data} has no {path.name}: name the folder that holds the faces.")
    left_out = ON_DEMAND if options.points else (*ON_DEMAND, "curve")
    points = read_points(options.points)
    chosen = options.only or [name for name in PARTS if name not in left_out]
    check_places(Job.card, [table for name in chosen for table in TABLES.get(name, [])])
    for name in chosen:
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            PARTS[name](Job(Workplace(photos, Path(temporary)), training, points, options.sheets))


if __name__ == "__main__":
    try:
        main()
    except SDICError as error:
        sys.exit(f"faces128_pages: {error}")
