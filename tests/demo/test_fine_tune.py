"""`demo/fine_tune.py`, run as the script that it is: what it trains and pushes, and what it refuses beforehand."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from huggingface_hub import constants
from testing import pages
from testing.hub_server import TOKEN
from testing.model_folders import same_weights

from sdic_plugin import SDICError, SDICPipeline
from sdic_plugin.commands.cli import main as sdic

SCRIPT = pages.ROOT / "demo" / "fine_tune.py"
GUIDE = pages.DOCS / "guides" / "training.md"
MODEL = "cats64"
TINY = ["batch_size=4", "validation_images=4", "sample_every=2", "checkpoint_every=2", "compile=no"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Made up, so that no photo is needed."""
    folder = tmp_path_factory.mktemp("drawn")
    assert sdic(["sample", "--model", MODEL, "--count", "8", "--out", str(folder)]) == 0
    return folder / "pictures"


@pytest.fixture
def script(tmp_path, monkeypatch) -> ModuleType:
    """The script as a module, in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("fine_tune")


def start(place: Path, *arguments: object, hub: str | None = None) -> subprocess.CompletedProcess:
    """Run the script in a process of its own, offline but for the stand-in for the Hub."""
    environment = {**os.environ, "PYTHONPATH": str(pages.ROOT), "HF_HUB_CACHE": str(place / "cache")}
    environment |= {"HF_HUB_OFFLINE": "1"} if hub is None else {"HF_ENDPOINT": hub, "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    settings = [word for setting in TINY for word in ("--set", setting)]
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--model", MODEL, "--steps", "2", *map(str, arguments), *settings],
        cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_a_model_is_trained_and_kept(pictures, tmp_path):
    done = start(tmp_path, "--data", pictures, "--output", "run")
    assert done.returncode == 0, done.stderr
    assert "The model is in run/model." in done.stdout
    model, bundled = SDICPipeline.from_pretrained(tmp_path / "run" / "model"), SDICPipeline.from_pretrained(MODEL)
    assert list(model.get_list_edits()) == list(bundled.get_list_edits())
    assert not same_weights(model, bundled)


def test_a_model_is_pushed(pictures, tmp_path, hub):
    arguments = ["--data", pictures, "--push-to", "user/mine", "--license", "apache-2.0", "--private"]
    done = start(tmp_path, *arguments, hub=hub.url)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/user/mine/commit/" in done.stdout and hub.repositories["user/mine"].private
    files = hub.files("user/mine")
    header = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert header["widget"] == [{"text": "edits of samples", "output": {"url": "assets/edits_of_samples.png"}}]
    assert files["assets/edits_of_samples.png"] == (tmp_path / "run" / "edits_of_samples.png").read_bytes()
    assert header["license"] == "apache-2.0" and "datasets" not in header and "base_model" not in header
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    found = SDICPipeline.from_pretrained("user/mine", cache_dir=tmp_path / "c")
    assert same_weights(found, SDICPipeline.from_pretrained(tmp_path / "run" / "model"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--push-to", "user/mine"], "No licence was given"),
        (["--push-to", "user/mine", "--license", "mit"], "records 'apache-2.0'"),
        (["--push-to", "user/mine", "--license", "apache-2.0"], "'user/mine' cannot be made"),
        (
            ["--push-to", "user/mine", "--license", "mit", "--model", "parts", "--stage", "encoder"],
            "has no dicn and no",
        ),
        (["--model", "nowhere"], "nowhere"),
        (["--push-to", "user/mine", "--license", "apache-2.0", "--set", "stpes=5"], "perhaps steps was meant"),
        (["--push-to", "user/mine", "--license", "apache-2.0", "--data", "nothing here"], "nothing here"),
        (
            ["--push-to", "user/mine", "--license", "apache-2.0", "--stage", "generator", "--set", "resolution=128"],
            "With a resolution of 128",
        ),
        (["--steps", "0"], "steps"),
        (["--set", "stpes=5"], "perhaps steps was meant"),
        (["--config", "nothing"], "there is no such file"),
    ],
)
def test_what_cannot_end_well_is_refused_at_once(script, pictures, tmp_path, monkeypatch, capsys, arguments, words):
    """Nothing is trained, and the Hub, which nobody answers for here, is not waited for."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    generator = tmp_path / "parts" / "generator"
    generator.mkdir(parents=True)
    for file in (pages.ROOT / "sdic_plugin" / "bundled" / MODEL / "generator").iterdir():
        (generator / file.name).write_bytes(file.read_bytes())
    try:
        code = script.main(["--data", str(pictures), "--model", MODEL, *arguments])
        sentence = capsys.readouterr().err.strip().splitlines()[-1]
    except SDICError as error:
        code, sentence = 1, str(error)
    assert code in (1, 2) and words in sentence and sentence.endswith("."), sentence
    assert not (tmp_path / "run").exists()


def test_a_refusal_is_one_line(pictures, tmp_path):
    done = start(tmp_path, "--data", pictures, "--push-to", "user/mine")
    assert done.returncode == 1 and done.stderr.startswith("fine_tune: No licence was given"), done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_data_sets_of_the_hub_are_named_as_people_do(script, tmp_path):
    (tmp_path / "user" / "here").mkdir(parents=True)
    for data, source in {
        "user/cats": "dataset:user/cats",
        "user/cats@1a2b:validation": "dataset:user/cats@1a2b:validation",
        "user/here": "user/here",
        "cats.zip": "cats.zip",
        "dataset:user/cats": "dataset:user/cats",
    }.items():
        assert script.source_of(data) == source


def test_it_says_what_it_needs():
    """Inline metadata as `uv run` reads it, and commands whose options there are."""
    text = SCRIPT.read_text(encoding="utf-8")
    block = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", text)
    needs = tomllib.loads("\n".join(line.removeprefix("# ") for line in block[1].splitlines()))
    project = tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert needs["requires-python"] == project["requires-python"]
    ((name, extras),) = (re.fullmatch(r"([\w-]+)\[([\w,]+)\]", each).groups() for each in needs["dependencies"])
    assert name == project["name"] and set(extras.split(",")) <= project["optional-dependencies"].keys()
    hf = subprocess.run(
        [sys.executable, "-m", "huggingface_hub.cli.hf", "jobs", "uv", "run", "--help"],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert hf.returncode == 0, hf.stderr
    shown = [text, GUIDE.read_text(encoding="utf-8")]
    joined = [re.sub(r"\\\n\s*", " ", page) for page in shown]
    commands = [each for page in joined for each in re.findall(r"hf jobs uv run (.*fine_tune\.py .*)", page)]
    assert len(commands) == 2
    for command in commands:
        before, after = command.split("demo/fine_tune.py")
        for words, known in ((before, hf.stdout), (after, text)):
            options = [word for word in shlex.split(words) if word.startswith("--")]
            assert options and all(f"{option}" in known for option in options), (options, words)
