"""The repository that runs without this package: same output, no import of it, the code once."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from testing.model_folders import edit_json
from testing.tiny_models import make_deep_pipeline, make_pipeline

from sdic_plugin import CheckpointError, DirectionEdit
from sdic_plugin.commands.cli import main
from sdic_plugin.conversion.export import export_remote_code
from sdic_plugin.conversion.export.remote_code import joined_source

SCRIPT = """
import sys
sys.modules["sdic_plugin"] = None  # as where it is not installed: importing it fails
import numpy as np
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

folder, output = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe.load_edits(folder)
inversion = pipe.invert(np.linspace(0, 1, 3 * 32 * 32 * 3).reshape(3, 32, 32, 3))
inversion.save(output + "/inversion.safetensors")
images = pipe.edit(inversion, edits={"turn": 1.5}, output_type="pt", compensation=0.8).images
called = pipe(np.full((32, 32, 3), 0.5), output_type="pt").images
save_file({"images": images, "called": called}, output + "/images.safetensors")
try:
    pipe.invert("absent.png")
except ValueError as error:
    print(type(error).__name__, error)
assert not [name for name in sys.modules if name.startswith("sdic_plugin.")]
"""


@pytest.fixture(scope="module", params=[make_pipeline, make_deep_pipeline], ids=["published", "deep"])
def pipe(request):
    pipe = request.param(alignment={"left_eye": [0.3, 0.4]})
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.arange(16.0)}))
    return pipe


@pytest.fixture(scope="module")
def exported(pipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "remote"
    export_remote_code(pipe, folder)
    return folder


def test_the_same_output_without_the_package(pipe, exported, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(exported), str(tmp_path)],
        cwd=tmp_path,
        env={**environment, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ImageError 'absent.png' cannot be read as a picture")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inversion = pipe.invert(np.linspace(0, 1, 3 * 32 * 32 * 3).reshape(3, 32, 32, 3))
        images = pipe.edit(inversion, edits={"turn": 1.5}, output_type="pt", compensation=0.8).images
        called = pipe(np.full((32, 32, 3), 0.5), output_type="pt").images
    finally:
        torch.set_num_threads(threads)
    found = load_file(tmp_path / "images.safetensors")
    assert torch.equal(found["images"], images) and torch.equal(found["called"], called)
    inverted = load_file(tmp_path / "inversion.safetensors")
    assert all(torch.equal(tensor, getattr(inversion, name)) for name, tensor in inverted.items())


def test_files_and_index(pipe, exported):
    files = {str(path.relative_to(exported)) for path in exported.rglob("*.py")}
    wanted = {"encoder": "e4e_encoder", "dipn": "dipn", "dicn": "dicn", "generator": "stylegan2"}
    wanted |= {} if pipe.transport is None else {"transport": "transport"}
    assert files == {"pipeline.py", *(f"{name}/{stem}.py" for name, stem in wanted.items())}
    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "SDICPipeline"]
    assert {name: index[name][0] for name in pipe.components} == wanted


def test_the_code_stands_alone(exported):
    for path in exported.rglob("*.py"):
        text = path.read_text()
        # diffusers wants every package that a line like this names to be installed.
        assert not re.search(r"^\s*(from|import)\s+sdic_plugin", text, flags=re.MULTILINE)
        tree = ast.parse(text)
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert len(names) == len(set(names)), path
        assert str(Path.home()) not in text and str(Path(__file__).parents[2]) not in text


def test_names_that_two_modules_define_are_told_apart(tmp_path, monkeypatch):
    package = tmp_path / "sdic_plugin_probe"
    package.mkdir()
    (package / "__init__.py").write_text("from sdic_plugin_probe.first import one\n")
    (package / "first.py").write_text("def _helper(x):\n    return x + 1\n\n\ndef one(x):\n    return _helper(x)\n")
    (package / "second.py").write_text(
        '"""Docstring."""\nimport math\nfrom sdic_plugin_probe import one\n\n\nclass Box:\n    pass\n\n\n'
        "Box._helper = 7\n\n\n"
        'def _helper(x):\n    """_helper."""\n    return math.floor(x) * 100 + Box._helper\n\n\n'
        "def two(x):\n    return one(x) + _helper(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sdic_plugin.conversion.export.remote_code.PACKAGE", "sdic_plugin_probe")
    text = joined_source("sdic_plugin_probe.second", "Probe")
    space: dict = {}
    exec(text, space)
    assert space["two"](3.0) == 4.0 + 307
    (package / "second.py").write_text(
        "from sdic_plugin_probe import one\n\n\ndef _helper(_helper=1):\n    return one(_helper)\n"
    )
    with pytest.raises(AssertionError, match="cannot be joined"):
        joined_source("sdic_plugin_probe.second", "Probe")
    assert '"""_helper."""' in text and "sdic_plugin_probe import" not in text


def test_the_command_and_its_output_folder(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    command = ["export", "remote-code", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "pipeline.py" in capsys.readouterr().out
    assert main(command) == 2
    (tmp_path / "model" / "NOTICE.md").write_text("Whose data this is of.")
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "out" / "NOTICE.md").read_text() == "Whose data this is of."
    assert main([*command, "--overwrite"]) == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"notes\.txt"):
        export_remote_code(pipe, tmp_path / "out", overwrite=True)


def test_without_trust_nothing_is_run(exported, tmp_path):
    """The code in such a repository is diffusers' to refuse; ours never runs it either."""
    from sdic_plugin import SDICPipeline

    with pytest.raises(CheckpointError, match=r"its own code .*trust_remote_code=True.*exported from"):
        SDICPipeline.from_pretrained(exported)
    edit_json(exported / "model_index.json", _class_name="SDICPipeline")
    with pytest.raises(CheckpointError, match=r"e4e_encoder\.E4EEncoder"):
        SDICPipeline.from_pretrained(exported)
