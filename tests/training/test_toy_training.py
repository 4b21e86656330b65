"""A newcomer's road: the three commands of the guide to training, at a smaller size, from pictures to a pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sdic_plugin import SDICPipeline
from sdic_plugin.commands.cli import main

GUIDE = (Path(__file__).parents[2] / "docs" / "pages" / "guides" / "training.md").read_text(encoding="utf-8")
SMALLER = {
    "generator": ["steps=8", "sample_every=8", "checkpoint_every=4"],
    "encoder": ["steps=8", "sample_every=8", "checkpoint_every=4"],
    "compensation": ["steps=24", "batch_size=8", "sample_every=24", "checkpoint_every=12", "learning_rate=0.005"],
}


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Run the guide's commands in a folder of its own, and return the folder."""
    folder = tmp_path_factory.mktemp("road")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["sample", "--model", "cats64", "--count", "48", "--out", "."]) == 0
        commands = re.findall(r"^sdic (train \w+ --config toy_.*)$", GUIDE, flags=re.MULTILINE)
        assert len(commands) == 3
        for command in commands:
            arguments = command.split()
            for setting in SMALLER[arguments[1]]:
                arguments += ["--set", setting]
            assert main(arguments) == 0
    return folder


def last(folder, stage, key):
    lines = [json.loads(line) for line in (folder / "toy" / stage / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line][-1]


def test_the_road_ends_in_a_pipeline(road):
    pipe = SDICPipeline.from_pretrained(road / "toy" / "compensation" / "model")
    pictures = sorted((road / "pictures").rglob("*.png"))[:2]
    inversion = pipe.invert([str(path) for path in pictures])
    assert pipe.edit(inversion).images[0].size == (32, 32)


def test_compensation_gains_over_the_encoder(road):
    assert last(road, "compensation", "validation_psnr") > last(road, "compensation", "validation_psnr_initial") + 1


def test_cards_tell_figures_and_no_paths(road):
    for stage in ("generator", "encoder", "compensation"):
        card = (road / "toy" / stage / "model" / "README.md").read_text()
        assert str(road) not in card
        assert "## Settings" in card
    assert "| inversion |" in card


def test_the_command_line_takes_the_result(road, capsys):
    model = str(road / "toy" / "compensation")
    assert main(["evaluate", "--model", model + "/model", "--data", str(road / "pictures"), "--limit", "4"]) == 0
    assert "PSNR" in capsys.readouterr().out
