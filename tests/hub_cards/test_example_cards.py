"""The cards in hub_cards: what the command renders, and what the Hub can read, without asking it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from testing.hub_cards import SCHEMA

from hub_cards.example_cards import EVALUATION, converted_card, example_cards
from sdic_plugin.hub.cards import HUB_LICENSES

FOLDER = Path(__file__).parents[2] / "hub_cards"
RENDERED = ("converted_ffhq1024.md", "cats64/edits.md", "cats64/fine_tune.md")
CARDS = ("cats64/README.md", *RENDERED)


def test_the_rendered_cards_are_those_of_the_command():
    """python -m hub_cards.example_cards writes them anew."""
    assert example_cards(FOLDER) == {name: (FOLDER / name).read_text(encoding="utf-8") for name in RENDERED}


@pytest.mark.parametrize("name", CARDS)
def test_the_hub_can_read_them(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert header.keys() <= SCHEMA.keys()
    assert all(isinstance(value, SCHEMA[key]) for key, value in header.items())
    # huggingface_hub's own reading, which also takes a model-index apart and refuses one that is wrong.
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert data.library_name == "sdic_plugin" and data.license in HUB_LICENSES
    assert {"diffusers", "gan-inversion", "stylegan2"} <= set(data.tags)
    gallery = header.get("widget", [])
    assert bool(gallery) == ("](assets/" in text)
    for entry in gallery:
        assert entry["text"] and ((FOLDER / name).parent / entry["output"]["url"]).is_file()
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert ((FOLDER / name).parent / picture).is_file(), picture
    assert not re.search(r"\{\{|\{%|\bNone\b|\n\n\n|/home/|/tmp/", text)
    assert str(FOLDER.resolve().parent) not in text


def test_their_figures_are_those_of_the_evaluation():
    evaluation = json.loads((FOLDER / EVALUATION).read_text(encoding="utf-8"))
    full = next(row for row in evaluation["rows"] if row["name"] == "full")
    text = (FOLDER / "cats64" / "fine_tune.md").read_text(encoding="utf-8")
    assert f"| {full['label']} | {full['psnr']['mean']:.3f} |" in text
    (psnr,) = (result for result in ModelCard(text).data.eval_results if result.metric_type == "psnr")
    assert psnr.metric_value == round(full["psnr"]["mean"], 4)
    assert ModelCard(text).data.base_model_relation == "finetune"


def test_without_an_evaluation_the_card_says_how_to_make_one():
    text = converted_card()
    assert "sdic evaluate --model user/sdic-ffhq-1024 --data photos.zip" in text and "model-index" not in text
    assert "1024 × 1024 pixels" in text and "18 styles" in text and "finds the face" in text
    assert "ask whoever trained them before you pass them on" in text
