"""The figures of the bundled model in README, docs and card have a place that a command renews, and nothing else."""

from __future__ import annotations

import runpy
import sys

import pytest

from hub_cards.cats64 import pages as cats64_pages
from hub_cards.cats64.pages import CARD, EDITS_GUIDE, EVALUATION_GUIDE, README
from hub_cards.renewing import replace_table, section, table_that_begins, up_to_first_table
from sdic_plugin.errors import SDICError

TABLE = "| a |\n| --- |\n| 1 |"


@pytest.mark.parametrize(
    ("page", "name", "column"),
    [(README, "evaluation", "SSIM"), (CARD, "evaluation", "SSIM"), (CARD, "rows", "edit cosine"),
     (EDITS_GUIDE, "mask", "acted on (dB)")],
)  # fmt: skip
def test_tables_are_renewed_and_nothing_else(page, name, column, tmp_path):
    before = page.read_text(encoding="utf-8")
    copy = tmp_path / page.name
    copy.write_text(before, encoding="utf-8")
    replace_table(copy, name, f"\n{TABLE}\n\n")
    after = copy.read_text(encoding="utf-8")
    start, stop = f"<!-- {name} -->\n\n", f"\n\n<!-- end of {name} -->"
    old = before.partition(start)[2].partition(stop)[0]
    assert column in old and old.startswith(("|", "`cats64`"))
    assert after == before.replace(old, TABLE)


def test_a_page_without_a_place_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- mask -->\n", encoding="utf-8")
    with pytest.raises(SDICError, match=r"page\.md has no place for the table 'mask'"):
        replace_table(page, "mask", TABLE)
    assert page.read_text(encoding="utf-8") == "<!-- mask -->\n"


def test_sections_of_an_evaluation(tmp_path):
    page = tmp_path / "evaluation.md"
    parts = ["# Evaluation of cats64", "first", "## All rows", TABLE, "## What", "last\n"]
    page.write_text("\n\n".join(parts), encoding="utf-8")
    assert section(page, "# Evaluation") == "first"
    assert section(page, "## All rows") == TABLE
    with pytest.raises(SDICError, match=r"evaluation\.md has nothing under '## Rows'"):
        section(page, "## Rows")


def test_the_readme_has_the_first_table_of_the_card():
    def evaluation(page):
        return page.read_text(encoding="utf-8").partition("<!-- evaluation -->\n\n")[2].partition("\n\n<!-- end")[0]

    assert evaluation(CARD).count("\n\n|") == 4 and evaluation(README).count("\n\n|") == 1
    assert up_to_first_table(evaluation(CARD)) == evaluation(README)


@pytest.mark.slow
def test_a_part_makes_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(cats64_pages, "DOCS_ASSETS", tmp_path / "assets")
    cats64_pages.sweep(cats64_pages.Workplace(tmp_path / "cats64_val.zip", tmp_path))
    assert [path.name for path in (tmp_path / "assets").iterdir()] == ["edits_sweep.png"]


@pytest.mark.slow
def test_a_command_that_fails_leaves_the_pages_alone(tmp_path, capfd):
    before = README.read_bytes()
    (tmp_path / "cats64_val.zip").write_bytes(b"no zip")
    with pytest.raises(SDICError, match="ended with 2, see above"):
        cats64_pages.evaluation(cats64_pages.Workplace(tmp_path / "cats64_val.zip", tmp_path))
    assert "cats64_val.zip" in capfd.readouterr().err
    assert README.read_bytes() == before


def test_missing_photos_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pages", "--data", str(tmp_path)])
    monkeypatch.delitem(sys.modules, cats64_pages.__name__)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(cats64_pages.__name__, run_name="__main__")
    # Python prints such a code, and ends with 1.
    assert "has no cats64_val.zip: build it with `sdic data cats64`" in ended.value.code


def test_pages_have_a_place_for_every_table():
    pages = {CARD: ("evaluation", "strengths", "held out", "rows"), README: ("evaluation",)}
    pages |= {EDITS_GUIDE: ("mask",), EVALUATION_GUIDE: ("truth",)}
    for page, names in pages.items():
        text = page.read_text(encoding="utf-8")
        for name in names:
            assert text.count(f"<!-- {name} -->\n") == text.count(f"<!-- end of {name} -->\n") == 1, (page.name, name)


def test_a_table_is_found_by_its_first_head():
    text = f"first\n\n{TABLE}\n\n| way | a |\n| --- | --- |\n| b | 1 |\n\nlast"
    assert table_that_begins(text, "way") == "| way | a |\n| --- | --- |\n| b | 1 |"
    with pytest.raises(SDICError, match="no table of 'edit'"):
        table_that_begins(text, "edit")
