"""What the card of `faces128` shows of the whole pipeline: its edits, and its figures on faces it has not seen."""

from __future__ import annotations

from hub_cards.faces128.edits import LABELS, effects_table, measures_of_faces
from hub_cards.faces128.edits import effects as measure_effects
from hub_cards.faces128.job import Job
from hub_cards.figures import evaluate, renew_evaluation, renew_held_out, renew_rows
from hub_cards.renewing import replace_table, section, table_that_begins
from hub_cards.sheets import edit_at_strengths, edits_of_photo, edits_of_samples
from sdic_plugin.edits import DirectionEdit
from sdic_plugin.evaluation.markdown import GROUPS_HEAD
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.photos.photo import crop_photo, load_example

IDENTITY = ("--identity", "dlib")
"""The descriptor of faces: an independent one, whose weights a package ships, and which nothing was trained with."""
COLUMNS = ("age", "gender", "group")
"""Of the labels, by which figures are grouped."""
GROUPS = ("White", "Black", "Indian", "East Asian", "Southeast Asian", "Middle Eastern", "Latino_Hispanic")
"""Of FairFace's labels. No edit was found by them; it is looked at whether one changes what a probe of them says."""
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
    """What each edit does to every score, and to what it should leave alone: the groups of FairFace's labels."""
    pipe = job.pipeline()
    found = [edit for edit in pipe.get_list_edits().values() if isinstance(edit, DirectionEdit)]
    labels = (*LABELS, *(f"group={group}" for group in GROUPS))
    _, measures = measures_of_faces(job.training, pipe.generator, labels)
    measured = measure_effects(pipe.generator, found, measures)
    for table, of_groups in (("effects", False), ("groups", True)):
        rows = {
            edit: {name: row[name] for name in row if (name in GROUPS) == of_groups} for edit, row in measured.items()
        }
        replace_table(job.card, table, effects_table(rows))


def evaluation(job: Job) -> None:
    """Inversions and edits of every other face, by which nothing was chosen; edits of samples beside the truth."""
    renew_evaluation(job.place, job.model, job.card, *IDENTITY)


def held_out(job: Job) -> None:
    """Edits that nothing was trained for: principal components of the generator."""
    renew_held_out(job.place, job.model, job.card)


def fairness(job: Job) -> None:
    """Figures of all held-out faces, together, and by age, gender and group as FairFace labels them."""
    page = section(evaluate(job.place, job.model, "fairness", "--by", *COLUMNS, *IDENTITY), "# Evaluation")
    heads = [GROUPS_HEAD.format(column=column) for column in COLUMNS]
    tables = [table_that_begins(page, head) for head in heads]
    replace_table(job.card, "all faces", page.partition(f"| {heads[0]} |")[0])
    replace_table(job.card, "fairness", "\n\n".join(tables))


def rows(job: Job) -> None:
    """Parts of the compensation, its strengths, its rules, and optimisation in its place."""
    tradeoff, optimize = job.assets / "faces128_tradeoff.png", "w:100 w+:100 w+:1000".split()
    renew_rows(job.place, job.model, job.card, tradeoff, optimize, *IDENTITY)
