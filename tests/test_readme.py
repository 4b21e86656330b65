"""The README's commands are the ones that CI and the tests run; so are those of the docs that it hands on to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch
from testing import pages
from testing.pages import DOCS, ROOT

from sdic_plugin import StyleGAN2Generator, read_edits
from sdic_plugin.commands.cli import main

README = pages.README.read_text(encoding="utf-8")
EDITS = DOCS / "guides" / "edits.md"


def test_main_job_runs_as_written(tmp_path):
    """The first command, with this environment's `sdic` in place of a new environment's."""
    command = next(line for line in README.splitlines() if "sdic edit --example" in line)
    arguments = command.split(".venv/bin/sdic ")[1].split()
    result = subprocess.run(
        [sys.executable, "-m", "sdic_plugin", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    photo, edits = arguments[arguments.index("--example") + 1], re.findall(r"--edit (\w+)=([\d.]+)", command)
    pictures = {f"{photo}_{name}_+{strength}{end}.png" for name, strength in edits for end in ("", "_pasted")}
    assert edits and {f"{photo}_sheet.png"} | pictures <= written


def test_python_example_runs_as_written(tmp_path):
    example = pages.blocks(pages.README, "python")[0]
    result = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_messages_are_quoted_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.pt").write_bytes(b"<!DOCTYPE html><html><body>Quota exceeded</body></html>")
    (tmp_path / "cat.jpg").write_bytes(b"")
    quoted = [block for page in pages.PAGES for block in pages.blocks(page, "console")]
    assert quoted
    for console in quoted:
        lines = console.strip().splitlines()
        for command, message in zip(lines[::2], lines[1::2], strict=True):
            assert main(command.removeprefix("$ sdic ").split()) == 2
            assert capsys.readouterr().err.strip().splitlines()[-1] == message


def test_pictures_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_ci_runs_the_test_command():
    assert len(re.findall(r"^python3 -m venv .*pytest", README, flags=re.MULTILINE)) == 1
    assert "README.md" in (ROOT / ".ci/run").read_text()


def test_it_is_short():
    assert len(README.encode()) <= 10_000


def test_newcomers_find_their_next_step():
    """Within a screen of one another, one line each."""
    table = README.partition("## Where to go from here")[2].partition("\n\nGuides")[0]
    for origin in ("StyleGAN", "e4e", "HFGI", "diffusers"):
        assert re.search(rf"^\| {origin}.*\]\(docs/pages/getting-started\.md#from-", table, flags=re.MULTILINE), origin
    assert len(table.splitlines()) < 12


def test_commands_for_edits_run_as_written(tmp_path, monkeypatch):
    """Those of the guide to edits, with fewer samples: files as published, and a thin generator in FFHQ's place."""
    monkeypatch.chdir(tmp_path)
    channels = {str(2**i): 2 for i in range(2, 11)}
    StyleGAN2Generator(resolution=1024, channels=channels, generator_id="thin").save_pretrained("ffhq/generator")
    for name, shape in (("smile.pt", (1, 512)), ("pose.pt", (1, 18, 512))):
        torch.save(torch.randn(shape), name)
    torch.save(
        {"mean": torch.randn(1, 512), "comp": torch.randn(80, 1, 512), "std": torch.rand(80) + 0.1}, "ffhq_pca.pt"
    )
    lines = EDITS.read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("sdic edits ") and "--labelled" not in line]
    assert len(commands) == 6  # the seventh learns from labelled photos, see tests/edits/test_probes.py
    for command in commands:
        fewer = {"sefa": ["--count", "2"], "interfacegan": ["--samples", "200"]}
        method = re.search(r"find --method (\w+)", command)
        assert main([*command.split()[1:], *(fewer.get(method[1], []) if method else [])]) == 0, command
    assert [edit.name for edit in read_edits("ffhq.safetensors")[0]] == ["smile", "pose", "eyes", "beard", "lip"]
    assert [edit.name for edit in read_edits("measured.safetensors")[0]] == ["warmth", "brightness"]
    for name in ("ffhq", "found", "factors", "measured"):
        assert Path(f"{name}.png").is_file()


def test_edits_are_shared_and_used_as_written(tmp_path, monkeypatch):
    """The Python block that shares edits, on the bundled model's own."""
    sharing = next(block for block in pages.blocks(EDITS, "python") if "save_edits" in block)
    example = pages.blocks(pages.README, "python")[0]
    model = re.search(r'from_pretrained\("(\w+)"\)', example)[1]
    sharing = sharing.replace("measured.safetensors", model).replace("[0, 1, 2]", "[1]")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(f"{example}\n{sharing}", names)  # in this process: the example has one of its own above
    assert names["pipe"].get_active_edits() == {"warmth": 1.0, "turn": -1.5}
    assert (tmp_path / "my_edits" / "edits.safetensors").is_file()
