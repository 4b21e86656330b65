"""The comparison of discriminators in equal time, in seconds instead of minutes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdic_plugin import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.benchmarks import generator_comparison
from sdic_plugin.benchmarks.generator_comparison import USUAL, VARIANTS, Run, main, to_markdown, train_for
from sdic_plugin.benchmarks.projected_cost import measure
from sdic_plugin.evaluation.reports import DistanceReport, SamplesReport, Statistic
from sdic_plugin.training.generator_config import GeneratorTrainingConfig

CHANNELS = {"4": 4, "8": 4, "16": 4}
# Writes a line of the log every tenth of a second, after dropping what came after the "checkpoint".
TRAINING = """
import sys, time
from pathlib import Path
log, kept = Path(sys.argv[1]) / "log.jsonl", int(sys.argv[2])
log.parent.mkdir(exist_ok=True)
time.sleep(1)
log.write_text("".join(log.read_text().splitlines(True)[:kept]) if log.is_file() else "")
while True:
    time.sleep(0.1)
    with log.open("a") as file:
        file.write("{}\\n")
"""


@pytest.fixture(autouse=True)
def fine_clock(monkeypatch):
    monkeypatch.setattr(generator_comparison, "TICK", 0.05)


def test_every_run_has_the_same_time_from_its_first_step_on(tmp_path):
    run = Run("plain", tmp_path / "plain")
    command = [sys.executable, "-c", TRAINING, str(run.folder)]
    train_for(run, [*command, "0"], 1)
    assert run.seconds >= 1
    lines = (run.folder / "log.jsonl").read_text().count("\n")
    assert lines >= 2
    # Done already; then for the rest of a longer time.
    train_for(run, ["no such program"], run.seconds)
    before = run.seconds
    train_for(run, [*command, str(lines // 2)], before + 1)
    assert run.seconds >= before + 1
    # Nothing goes on in the background.
    size = (run.folder / "log.jsonl").stat().st_size
    time.sleep(0.4)
    assert (run.folder / "log.jsonl").stat().st_size == size


def test_clock_of_the_processor_stands_still_while_a_run_waits(tmp_path):
    run, started = Run("plain", tmp_path / "plain"), time.monotonic()
    train_for(run, [sys.executable, "-c", TRAINING, str(run.folder), "0"], 0.03, cpu=True)
    assert 0.03 <= run.seconds < 0.5 * (time.monotonic() - started)


def test_a_run_that_fails_is_not_measured(tmp_path):
    with pytest.raises(SystemExit, match="'plain' ended with 3 before its time"):
        train_for(Run("plain", tmp_path / "plain"), [sys.executable, "-c", "raise SystemExit(3)"], 1)


def test_variants_are_settings_of_the_stage():
    for changes in VARIANTS.values():
        GeneratorTrainingConfig(data="a", output="b", **changes)
    assert len({tuple(sorted(changes.items())) for changes in VARIANTS.values()}) == len(VARIANTS)
    assert set(USUAL) < set(VARIANTS)


def test_table(tmp_path):
    run = Run("projected", tmp_path / "projected")
    run.note_seconds(90)
    (run.folder / "config.json").write_text('{"steps": 70, "batch_size": 32}')
    rows = [DistanceReport("projected", 5, Statistic(0.25, 0.1), 31.0)]
    floor = DistanceReport("half", 5, Statistic(0.001, 0.1), 2.0)
    table = to_markdown([run], {"judge": SamplesReport("features", 5, 1.0, 0, rows, floor)})
    assert "| projected | 1.5 | 2,240 | 0.2500 | 31.0 |" in table
    assert "| half of the training images |  |  | 0.0010 | 2.0 |" in table


def test_cost_of_a_projected_discriminator_is_measured():
    teach, learn = measure(64, 2, torch.zeros(2, 3, 16, 16), torch.float32)
    assert teach > 0 and learn > 0


@pytest.mark.slow
def test_variants_are_trained_and_judged(tmp_path, monkeypatch, capsys):
    for name in ("train", "held_out"):
        (tmp_path / name).mkdir()
        for i in range(6):
            pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / name / f"{i}.png")
    sizes = {"style_width": 8, "mapping_layers": 1, "channels": CHANNELS}
    StyleGAN2Generator(16, feature_resolution=8, **sizes).save_pretrained(tmp_path / "base" / "generator")
    StyleGAN2Discriminator(16, CHANNELS).save_pretrained(tmp_path / "base" / "discriminator")
    config = tmp_path / "tiny.toml"
    config.write_text(
        "resolution = 16\nstyle_width = 8\nmapping_layers = 1\nbatch_size = 4\nchannels = {4 = 4, 8 = 4, 16 = 4}\n"
        'compile = "no"\nprojected_channels = 2\nprojected_side = 64\n'
    )
    arguments = ["comparison", "--data", tmp_path / "train", "--validation", tmp_path / "held_out", "--config", config]
    arguments += ["--from", tmp_path / "base", "--judge", tmp_path / "base", "--out", tmp_path / "out"]
    arguments += ["--checkpoint-every", 1, "--samples", 12, "--clock", "cpu", "--minutes", 0.05]
    variants = ["plain, from the model", "projected", "projected and plain"]
    monkeypatch.setattr(sys, "argv", list(map(str, [*arguments, "--variants", *variants])))
    main()
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:-1]] == variants
    assert "kernel distance, EfficientNet-Lite" in table and "Fréchet distance, discriminator of base" in table
    for folder in ("plain_from_the_model", "projected", "projected_and_plain"):
        with Image.open(tmp_path / "out" / f"{folder}.png") as sheet:
            assert sheet.size == (12 * 16, 4 * 16)
    model = tmp_path / "out" / "projected_and_plain" / "model"
    assert {"generator", "discriminator", "projected_discriminator"} <= {path.name for path in model.iterdir()}
    # Nothing is trained again.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("log.jsonl")}
    main()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("log.jsonl")}


def test_a_model_is_needed_where_a_variant_builds_on_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["comparison", "--data", "a", "--validation", "b", "--out", "c"])
    with pytest.raises(SystemExit):
        main()
    assert "'plain, from the model' needs --from MODEL" in capsys.readouterr().err
    assert not Path("c").exists()
