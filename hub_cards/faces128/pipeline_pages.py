"""What the card of `faces128` shows of the whole pipeline: its edits, and its figures on faces it has not seen."""

from __future__ import annotations

from hub_cards.faces128.edits import effects as measure_effects
from hub_cards.faces128.edits import effects_table, measures_of_faces
from hub_cards.faces128.job import Job
from hub_cards.renewing import keep, replace_table, section, up_to_first_table, without_pictures
from hub_cards.sheets import edit_at_strengths, edits_of_photo, edits_of_samples
from sdic_plugin.edits import DirectionEdit
from sdic_plugin.evaluation.markdown import BY_STRENGTH
from sdic_plugin.evaluation.output import PAGE_NAME
from sdic_plugin.evaluation.plots import TRADEOFF
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.photos.photo import crop_photo, load_example

IDENTITY = ("--identity", "dlib")
"""The descriptor of faces: an independent one, whose weights a package ships, and which nothing was trained with."""
FACES = 10
"""Held-out faces that every edit is looked at on."""


def edits(job: Job) -> None:
    """Each edit at five strengths: on samples, on a public photo, and (outside the repository) on held-out faces."""
    pipe = job.pipeline()
    save_sheet(edits_of_samples(pipe), job.assets / "faces128_edits.png")
    example = load_example("astronaut")
    inversion = pipe.invert(crop_photo(pipe, example.source, example.eyes)[0])
    save_sheet(edits_of_photo(pipe, inversion), job.assets / "faces128_astronaut_edits.png")
    if job.sheets is not None:
        faces = load_images(job.place.photos, pipe.encoder.config.image_size, FACES).float() / 255
        inverted = pipe.invert(faces)
        for name in pipe.get_list_edits():
            rows = edit_at_strengths(pipe, inverted, name).unflatten(0, (len(faces), -1))
            save_sheet([*rows], job.sheets / f"faces128_{name}.png")


def effects(job: Job) -> None:
    """What each edit does to every score."""
    pipe = job.pipeline()
    found = [edit for edit in pipe.get_list_edits().values() if isinstance(edit, DirectionEdit)]
    _, measures = measures_of_faces(job.training, pipe.generator)
    replace_table(job.card, "effects", effects_table(measure_effects(pipe.generator, found, measures)))


def evaluation(job: Job) -> None:
    """Inversions and edits of every other face, by which nothing was chosen; edits of samples beside the truth."""
    options = "--part 1/2 --multiples 1 2 3 --w-optimization 64 --edit-truth 64".split()
    _evaluate(job, "evaluation", *options, *IDENTITY)
    page = job.place.folder / "evaluation" / PAGE_NAME
    replace_table(job.card, "evaluation", without_pictures(section(page, "# Evaluation")))
    replace_table(job.card, "strengths", up_to_first_table(section(page, BY_STRENGTH)))


def held_out(job: Job) -> None:
    """Edits that nothing was trained for: principal components of the generator."""
    find = "edits find --method ganspace --layers 0:7 --count 8 --out held_out.safetensors".split()
    job.place.run(*find, "--model", str(job.model))
    _evaluate(job, "held_out", *"--part 1/2 --multiples 1 2 3 --edits held_out.safetensors".split())
    page = job.place.folder / "held_out" / PAGE_NAME
    replace_table(job.card, "held out", up_to_first_table(section(page, BY_STRENGTH)))


def fairness(job: Job) -> None:
    """Figures of all held-out faces by age, gender and group, as FairFace labels them."""
    _evaluate(job, "fairness", *"--by age gender group".split(), *IDENTITY)
    page = (job.place.folder / "fairness" / PAGE_NAME).read_text(encoding="utf-8")
    replace_table(job.card, "fairness", tables_by_label(page))


def rows(job: Job) -> None:
    """Parts of the compensation, its strengths, its rules, and optimisation in its place."""
    _evaluate(job, "rows", *"--limit 64 --full --optimize w:100 w+:100 w+:1000".split(), *IDENTITY)
    replace_table(job.card, "rows", section(job.place.folder / "rows" / PAGE_NAME, "## All rows"))
    keep(job.place.folder / "rows" / TRADEOFF, job.assets / "faces128_tradeoff.png")


def tables_by_label(page: str) -> str:
    """Return the tables of a page of `sdic evaluate --by` whose rows are groups of photos."""
    tables = [part for part in page.split("\n\n") if part.partition("\n")[0].endswith("|") and _INTERVAL in part]
    return "\n\n".join(dict.fromkeys(tables))


_INTERVAL = "(mean ± 95 % interval)"
"""In the first head of such a table."""


def _evaluate(job: Job, name: str, *options: str) -> None:
    job.place.run("evaluate", "--model", str(job.model), "--data", str(job.place.photos), *options, "--out", name)
