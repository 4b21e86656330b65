"""What is imported before the arguments are known to be sound: nothing that takes longer than the answer."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sdic_plugin
from sdic_plugin import photos
from sdic_plugin.benchmarks.command_start import DIFFUSERS, NOTHING, WHOLE, to_markdown
from sdic_plugin.commands.imports import UNUSED

HEAVY = ("PIL", "accelerate", "cv2", "datasets", "diffusers", "gradio", "numpy", "scipy", "skimage", "torch", "tqdm",
         "transformers")  # fmt: skip

COMPLAINTS = """
edit
edit cat.jpg
edit --ouput out
edti
edits
bench --threads many
edit cat.jpg --out /proc/sdic
edit cat.jpg --out out --edit warmth
edit cat.jpg --out out --edit a=1,a=2
edit cat.jpg --out out --sweep turn=1:2
edit cat.jpg --out out --sweep a=0:1:3 --sweep a=0:1:3
edit cat.jpg --out out --eyes 1,2,3
edit a.jpg b.jpg --out out --eyes 1,2,3,4
edit cat.jpg --out out --face nose
edit cat.jpg --out out --compensation 2
edit cat.jpg --out out --batch-size 0
edit cat.jpg --out out --refine-steps -1
edit cat.jpg --out out --device nonsense
edit cat.jpg --out out --model nowhere
edit --out out
edit empty --out out
edit clip.mp4 --edit turn=1 --out out.mp4
edit clip.mp4 cat.jpg --edit turn=1 --out out.mp4
edit clip.mp4 --out out.mp4
edit clip.mp4 --edit turn=1 --out out.mp4 --quality 52
edit cat.jpg --edit turn=1 --out out --preview
invert clip.mp4 --out out
edit cat.jpg --example chelsea --out out
edit --example garfield --out out
align cat.jpg --out out --eyes x
align cat.jpg --out out --face nose
align empty --out out
convert missing.pt --out out
convert missing.pt --out /proc/sdic
train encoder --set batch_size
train nonsense
evaluate --data x --rows half
evaluate --data x --optimize z:5
evaluate --data x --multiples nan
evaluate --data x --limit 0
evaluate --data x --device nonsense
data cats64 --source missing --out out
sample --out out --seeds 5-1
sample --out out --count 0
sample --out out --truncation nan
sample --out out --mix-layers 3:2
sample --out out --model nowhere
export rosinality --out /proc/sdic
export remote-code --out /proc/sdic
export onnx --out out --model nowhere
export web --out out --model nowhere
export web --out out --runtime nowhere
push nowhere user/name
push user/name user/name
edits import a.pt --family sefa --out set.bin
edits import a.pt --family sefa --out a.safetensors --layers 2:1
edits import a.pt --family sefa --out a.safetensors --component a
edits import a.pt b.pt --family sefa --out a.safetensors --name a
edits import a.pt --family styleclip --out a.safetensors
edits import a.pt --family latents --out a.safetensors --minus avg
edits find --method sefa --out a.safetensors --seeds -1
edits find --method interfacegan --out a.safetensors
edits find --method sefa --out a.safetensors --layers x
edits show cats64 --seeds -1
edits show cats64 --model nowhere
edits find --method sefa --out a.safetensors --model nowhere
edits import a.pt --family sefa --out a.safetensors --model nowhere
export rosinality --out a.pt --model nowhere
evaluate --data x --model nowhere
sample --out out --device nonsense
bench --model nowhere
demo --port 0
demo --model nowhere
bench --repeats 0
bench --resolution 100
bench --threads 0
bench --out /proc/sdic/a.json
"""

PROGRAM = """
import contextlib, io, json, sys
import sdic_plugin
from sdic_plugin.benchmarks.command_start import DIFFUSERS, NOTHING, WHOLE, to_markdown
from sdic_plugin.commands.cli import build_commands, main

HEAVY = json.loads(sys.argv[1])

def leaves(command, path=()):
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from leaves(below, (*path, name))

lines = [["--version"], *([*path, "--help"] for path in leaves(build_commands()))]
lines += [line.split() for line in json.loads(sys.argv[2])]
answers = []
for line in lines:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(line)
    answers.append([" ".join(line), code, said.getvalue(), [name for name in HEAVY if name in sys.modules]])
print(json.dumps(answers))
"""


def test_help_and_complaints_import_nothing_heavy(tmp_path):
    (tmp_path / "empty").mkdir()
    lines = COMPLAINTS.strip().splitlines()
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(HEAVY), json.dumps(lines)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = json.loads(result.stdout)
    assert len(answers) == len(lines) + 1 + 21  # the version, and help of every command and group
    for line, code, said, imported in answers:
        assert not imported, (line, said)
        if line in lines:
            assert code == 2 and said.startswith("sdic") and said.count("\n") == 1, (line, said)
        else:
            assert code == 0 and not said, (line, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_an_edit_imports_no_more_of_diffusers_than_it_needs(tmp_path):
    """As a process of its own: neither LoRA's packages nor text encoders'; later they can be imported as ever."""
    program = (
        "import sys; from sdic_plugin.commands.imports import import_diffusers; import_diffusers();"
        "from sdic_plugin.photos import process, sweep; import sdic_plugin.pipeline.loading, json;"
        f"print(json.dumps([name for name in {UNUSED} if name in sys.modules])); import scipy"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


def test_public_names_are_imported_at_first_use():
    program = (
        "import sys, sdic_plugin; assert 'torch' not in sys.modules; names = {}; exec('from sdic_plugin import *', "
        "names); assert set(sdic_plugin.__all__) <= set(names); assert sdic_plugin.hub.cards and sdic_plugin.models"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert set(sdic_plugin.__all__) <= set(dir(sdic_plugin))
    assert getattr(sdic_plugin, "no_such_name", None) is None
    assert sdic_plugin.ModelMixin.__name__ == "ModelMixin" and issubclass(sdic_plugin.DIPN, sdic_plugin.ModelMixin)


@pytest.mark.parametrize("package", [sdic_plugin, photos], ids=lambda package: package.__name__)
def test_type_checkers_see_the_same_names(package):
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    block, _ = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: module for module, names in package._NAMES_BY_MODULE.items() for name in names}
    assert set(seen) == set(package.__all__) - {"__version__"}


def test_the_benchmark_takes_the_work_off_the_time_of_the_edit():
    seconds = {NOTHING: 0.01, DIFFUSERS: 2.0, "sdic --help": 0.2, WHOLE: 3.0, "work": 0.6}
    table = to_markdown(seconds)
    assert "| sdic --help | 0.200 | 20.0 | 0.10 |" in table
    assert table.endswith("its start, 2.40 s, is 1.20 times `import diffusers`.")
