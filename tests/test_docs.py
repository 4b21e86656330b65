"""Every page of the docs, the README and the cards: what they show runs, or at least fits; what they name exists."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from testing import pages
from testing.pages import DOCS, PAGES, ROOT, name_of

import sdic_plugin
from sdic_plugin import AlignmentTemplate, SDICPipeline, align_by_eyes
from sdic_plugin.commands.cli import main
from sdic_plugin.photos.photo import load_example

RUN = [page for page in PAGES if page != pages.README and pages.blocks(page, "bash", "python")]
RUN_ELSEWHERE = ("sdic edits ",)
"""Commands that `test_readme.py` runs on files of their own."""
GROUPS = ("edits", "export")
"""Commands that have commands."""


def prepare(folder: Path) -> None:
    """Write the files that the pages' examples use: a photo, a crop of it, and a folder with one."""
    photo = load_example("chelsea")
    photo.source.save(folder / "cat.jpg")
    template = AlignmentTemplate.from_dict(SDICPipeline.from_pretrained("cats64").config.alignment)
    crop, _ = align_by_eyes(photo.source, photo.eyes, template, 64, 64)
    (folder / "photos").mkdir()
    for path in (folder / "crop.png", folder / "cat_face.png", folder / "photos" / "crop.png"):
        crop.save(path)
    shutil.copyfile(ROOT / "sdic_plugin/bundled/cats64/edits/edits.safetensors", folder / "measured.safetensors")


@pytest.mark.slow  # the README's own run by default
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_examples_run_as_written(page, tmp_path, monkeypatch):
    """Blocks of `bash` and `python`, each page in a folder of its own; Python blocks go on from one another."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    for line in pages.shell_lines(page, "bash"):
        if not line.startswith(RUN_ELSEWHERE):
            assert line.startswith("sdic "), f"{line}: only sdic is run; show other commands as `sh`"
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
    names: dict[str, object] = {}
    for block in pages.blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles(page):
    for block in pages.blocks(page, "python", "py"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_diffusers_own_class_is_shown_with_remote_code_alone(page):
    """It looks for a pipeline's class in diffusers, and so never finds ours."""
    calls = re.findall(r"\bDiffusionPipeline\.from_pretrained\(.*?\)", page.read_text(encoding="utf-8"))
    assert [call for call in calls if "trust_remote_code=True" not in call] == []


@functools.cache
def help_of(*words: str) -> str:
    """What `sdic … --help` prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())


def has_option(text: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_fit(page, monkeypatch):
    """Commands and options of `sdic` are those of its help, programs and their options those of the source."""
    monkeypatch.setenv("COLUMNS", "200")
    for words in pages.commands(page):
        options = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
        if words[0] == "sdic":
            check_sdic(words[1:], options)
        elif "-m" in words[:-1]:
            check_module(*words[words.index("-m") + 1 :])


def check_module(module: str, *words: str) -> None:
    """Check `python -m` of a module of ours."""
    options = [word for word in words if word.startswith("--")]
    if module == "sdic_plugin" and words:
        check_sdic(list(words), options)
    elif module.split(".")[0] in ("sdic_plugin", "hub_cards", "testing"):
        source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
        # Some programs make options of the fields of their settings.
        names = {option: option.removeprefix("--").replace("-", "_") for option in options}
        known = [has_option(source, option) or has_option(source, name) for option, name in names.items()]
        assert all(known), (module, words)


def check_sdic(words: list[str], options: list[str]) -> None:
    if words[0].startswith("-"):
        assert has_option(help_of(), words[0]), words
        return
    if words[0].isupper():  # a placeholder
        return
    path = words[:2] if words[0] in GROUPS and len(words) > 1 and words[1][0].isalpha() else words[:1]
    assert re.search(rf"\b{path[0]}\b", help_of()), words
    text = help_of(*path)
    assert text and (len(path) == 1 or re.search(rf"\b{re.escape(path[1])}\b", help_of(path[0]))), words
    assert [option for option in options if not has_option(text, option)] == [], words


def test_every_command_is_in_the_table():
    table = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"`sdic (\w+)", table))
    listed = {path.stem for path in (ROOT / "sdic_plugin" / "commands").glob("*.py")}
    assert {"invert", "edit", "align", "convert", "train", "sample", "data", "demo", "push", "export"} <= shown
    assert shown >= {name for name in listed if re.search(rf"^\W*{name}\b", help_of(), flags=re.MULTILINE)}


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    assert [name for name in sdic_plugin.__all__ if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in pages.links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.is_file(), link
        if anchor.startswith("sdic_plugin"):  # made of docstrings; the strict build knows them
            modules = re.findall(r"^::: (\S+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert any(anchor == module or anchor.startswith(f"{module}.") for module in modules), link
        elif anchor:
            assert anchor in pages.anchors(path), link


def test_every_page_and_picture_is_used():
    navigation = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).as_posix() not in navigation] == []
    shown = {(page.parent / link).resolve() for page in PAGES for link in pages.links(page)}
    assert [path for path in (DOCS / "assets").glob("*.png") if path not in shown] == []


def test_extras_exist():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for page in PAGES:
        for names in re.findall(r"\.\[([\w,]+)\]", page.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= extras.keys(), (page, names)


@pytest.mark.slow
def test_the_site_builds_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r'<(?:script|img|iframe)[^>]* src="?https?:|<link[^>]*rel="?stylesheet[^>]*https?:', text
        )
    method = (tmp_path / "method.html").read_text(encoding="utf-8")
    assert method.count("<math") > 30 and "arithmatex" not in method and "<merror" not in method
