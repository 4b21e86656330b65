"""The notebook: stripped, readable everywhere, and run from its first cell to its last, its sliders moved."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from testing import pages

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("ipywidgets")

import nbclient
import nbformat

from sdic_plugin import SDICPipeline, read_edits
from sdic_plugin.photos.photo import load_example

NOTEBOOK = pages.ROOT / "demo" / "quickstart.ipynb"
SMALL = {"SDIC_NOTEBOOK_STEPS": "4", "SDIC_NOTEBOOK_SAMPLES": "200", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

MOVED = """
seen = [face.value]
for name, value in (("warmth", 2.0), ("redness", 1.0), ("compensation", 0.3)):
    sliders[name].value = value
    seen.append(face.value)
assert len(set(seen)) == 4, "a slider changes nothing"
before_marks = shown.value
marks[0].value += 20
assert shown.value != before_marks
marks[0].value -= 20
"""
"""Moves the sliders after they were made, as a reader does."""

SENT = """
content = open("sent.jpg", "rb").read()
sent = {"name": "sent.jpg", "type": "image/jpeg", "size": len(content), "content": content, "last_modified": 0}
upload.set_state({"value": [sent]})
"""
"""What the browser sends when the button was used."""


def cell(name: str) -> str:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return next(each.source for each in notebook.cells if each.id == name)


def run(place: Path, monkeypatch: pytest.MonkeyPatch, additions: dict[str, str], until: str | None = None) -> None:
    """Run the notebook in a folder, with a cell more after those that are named."""
    for name, value in {**SMALL, "PYTHONPATH": str(pages.ROOT)}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = []
    for each in notebook.cells:
        cells.append(each)
        if each.id in additions:
            cells.append(nbformat.v4.new_code_cell(additions[each.id]))
        if each.id == until:
            break
    notebook.cells = cells
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(place)}}).execute()


def test_it_runs_and_its_sliders_act(tmp_path, monkeypatch):
    run(tmp_path, monkeypatch, {"load": MOVED})
    assert Image.open(tmp_path / "photo_edited.png").size == load_example("chelsea").source.size
    names = [edit.name for edit in read_edits(tmp_path / "my_edits.safetensors")[0]]
    assert names == ["redness", "sefa0", "sefa1"]
    assert "warmth" in SDICPipeline.from_pretrained(tmp_path / "my_model").get_list_edits()
    assert (tmp_path / "inversion.safetensors").is_file()


@pytest.mark.slow
def test_sixty_steps_bring_the_photo_nearer(tmp_path, monkeypatch):
    """At the notebook's own sizes."""
    monkeypatch.setitem(SMALL, "SDIC_NOTEBOOK_STEPS", "60")
    run(tmp_path, monkeypatch, {"tune": "assert psnr(after) > psnr(before) + 1, (psnr(after), psnr(before))"}, "tune")


def test_a_photo_may_be_sent(tmp_path, monkeypatch):
    load_example("chelsea").source.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "sent.jpg")
    check = 'assert photo.tobytes() != load_example("chelsea").source.tobytes() and eyes is None'
    run(tmp_path, monkeypatch, {"model": SENT, "photo": check}, until="invert")


def test_it_is_stripped_and_valid():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for each in notebook.cells:
        if each.cell_type == "code":
            assert each.outputs == [] and each.execution_count is None and not each.metadata, each.id
            ast.parse(each.source)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert NOTEBOOK.stat().st_size < 40_000


def test_it_is_found_and_leads_on():
    assert pages.README.read_text(encoding="utf-8").count("](demo/quickstart.ipynb)") == 1
    words = "\n".join(each.source for each in nbformat.read(NOTEBOOK, as_version=4).cells)
    paths = re.findall(r"`(docs/[\w/.-]+)`", words)
    assert len(paths) == 3 and all((pages.ROOT / path).is_file() for path in paths)


def test_it_finds_the_package(tmp_path, monkeypatch):
    """In a checkout, beside a wheel, and elsewhere; with the package installed, nothing is installed again."""
    names: dict[str, object] = {}
    exec(compile(cell("install"), "install", "exec"), names)
    find = names["find_package"]
    monkeypatch.chdir(pages.ROOT / "demo")
    assert find() == str(pages.ROOT)
    monkeypatch.chdir(tmp_path)
    assert find() == "sdic-plugin"
    for version in ("0.1.0", "0.2.0"):
        shutil.copyfile(NOTEBOOK, tmp_path / f"sdic_plugin-{version}-py3-none-any.whl")
    assert find() == str(tmp_path / "sdic_plugin-0.2.0-py3-none-any.whl")
    assert "[notebook]" in cell("install")
