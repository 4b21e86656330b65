"""Tables of a bundled model's card that `sdic evaluate` makes, on held-out photos by which nothing was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hub_cards.renewing import Workplace, keep, replace_table, section, up_to_first_table, without_pictures
from sdic_plugin.evaluation.markdown import BY_STRENGTH
from sdic_plugin.evaluation.output import PAGE_NAME
from sdic_plugin.evaluation.plots import TRADEOFF


def evaluate(place: Workplace, model: str | Path, name: str, *options: str) -> Path:
    """Evaluate a model on the held-out photos, into a folder of this name; returns its page."""
    place.run("evaluate", "--model", str(model), "--data", str(place.photos), *options, "--out", name)
    return place.folder / name / PAGE_NAME


def renew_evaluation(place: Workplace, model: str | Path, card: Path, *options: str) -> str:
    """Inversions and edits of every other photo, edits of samples beside the truth; returns the card's tables."""
    measured = "--part 1/2 --multiples 1 2 3 --w-optimization 64 --edit-truth 64".split()
    page = evaluate(place, model, "evaluation", *measured, *options)
    tables = without_pictures(section(page, "# Evaluation"))
    replace_table(card, "evaluation", tables)
    replace_table(card, "strengths", up_to_first_table(section(page, BY_STRENGTH)))
    return tables


def renew_held_out(place: Workplace, model: str | Path, card: Path) -> None:
    """Edits that nothing was trained for: principal components of the generator."""
    find = "edits find --method ganspace --layers 0:7 --count 8 --out held_out.safetensors".split()
    place.run(*find, "--model", str(model))
    page = evaluate(place, model, "held_out", *"--part 1/2 --multiples 1 2 3 --edits held_out.safetensors".split())
    replace_table(card, "held out", up_to_first_table(section(page, BY_STRENGTH)))


def renew_rows(
    place: Workplace, model: str | Path, card: Path, tradeoff: Path, optimize: Sequence[str], *options: str
) -> None:
    """Parts of the compensation, its strengths, its rules, and optimisation in its place, with their plot."""
    page = evaluate(place, model, "rows", *"--limit 64 --full --optimize".split(), *optimize, *options)
    replace_table(card, "rows", section(page, "## All rows"))
    keep(page.with_name(TRADEOFF), tradeoff)
