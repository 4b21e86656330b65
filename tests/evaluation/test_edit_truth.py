"""Edits of samples beside what they should have given: the truth, movement, ghosts, and the report."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from testing.tiny_models import make_deep_pipeline, make_model, make_pipeline

from sdic_plugin import DirectionEdit, SDICError, SDICPipeline, write_edits
from sdic_plugin.commands.cli import main
from sdic_plugin.evaluation.command import EvaluationCommand, run_evaluation
from sdic_plugin.evaluation.edit_truth import (
    TruthPlan,
    compare,
    correlation,
    fine_detail,
    measure_edit_truth,
    movement,
)
from sdic_plugin.evaluation.markdown import truth_lines
from sdic_plugin.evaluation.reports import TRUTH


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def turn(**options):
    return DirectionEdit("turn", tensors={"direction": torch.randn(10, 16, generator=rng(5))}, **options)


def clouds(count=2, side=64, seed=0):
    """Smooth pictures [count, 3, side, side] in [0, 1]."""
    noise = torch.rand(count, 3, side // 8, side // 8, generator=rng(seed))
    return F.interpolate(noise, (side, side), mode="bicubic").clamp(0, 1)


@pytest.fixture
def pipe():
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.add_edit(turn(default_strength=0.5))
    return pipe


def test_movement_is_found_where_it_is():
    pytest.importorskip("cv2")
    before = clouds()
    assert not movement(before, before).any()
    after = before.clone()
    after[:, :, :, 32:] = torch.roll(before, 3, dims=3)[:, :, :, 32:]
    moved = movement(before, after)
    assert moved.shape == (2, 1, 64, 64) and set(moved.unique().tolist()) <= {0.0, 1.0}
    assert moved[:, :, 8:-8, 40:-8].mean() > 0.8 and moved[:, :, 8:-8, 8:24].mean() < 0.2


def test_fine_detail_is_what_a_blur_takes():
    assert fine_detail(torch.full((1, 3, 48, 48), 0.3)).abs().max() < 1e-6
    stripes = torch.zeros(1, 3, 48, 48)
    stripes[..., ::2] = 1
    detail = fine_detail(stripes)
    assert detail[..., 10:-10, 10:-10].abs().min() > 0.4
    assert fine_detail(clouds(1)).abs().mean() < 0.05


def test_ghosts_are_detail_that_stays():
    where = torch.zeros(2, 1, 32, 32)
    where[:, :, :, :16] = 1
    detail, other = torch.randn(2, 2, 3, 32, 32, generator=rng())
    assert torch.allclose(correlation(detail, 2 * detail, where), torch.ones(2))
    assert correlation(detail, other, where).abs().max() < 0.15
    mixed = detail.clone()
    mixed[..., 16:] = -detail[..., 16:]  # where nothing moved does not count
    assert torch.allclose(correlation(detail, mixed, where), torch.ones(2))
    assert correlation(detail, detail, torch.zeros_like(where)).isnan().all()


def test_a_picture_that_is_the_truth_has_no_distance():
    photo, truth = clouds(seed=1), clouds(seed=2)
    judge = torch.nn.Flatten()
    same = compare(truth, truth, photo, None, judge)
    other = compare(photo, truth, photo, None, judge)
    assert same["judged"].abs().max() < 1e-5 and other["judged"].min() > 1e-3
    assert (same["psnr"] > 60).all() and (other["psnr"] < 30).all() and "ghosts" not in same


def test_without_an_edit_all_ways_give_the_inversion(pipe):
    """At strength 0 the truth is the sample itself."""
    found = measure_edit_truth(pipe, TruthPlan(count=3, multiples=(0.0,), batch_size=2))
    values = {row.way: row.psnr.mean for row in found.rows if row.psnr is not None}
    assert values["plain rule"] == values["automatic mask"] > values["encoder alone"] - 20
    assert all(row.strength == 0 and row.ghosts is None for row in found.rows)


def test_every_way_is_measured_at_every_strength():
    pipe = make_deep_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.add_edit(turn(default_strength=0.5))
    done = []
    plan = TruthPlan(count=3, multiples=(1.0, 3.0), optimization_steps=2, batch_size=2)
    report = measure_edit_truth(pipe, plan, torch.nn.Flatten(), done.append)
    ways = ["encoder alone", "plain rule", "official rule", "automatic mask", "transport"]
    ways += ["W+ optimised for 2 steps", TRUTH]
    assert [(row.way, row.strength) for row in report.rows] == [(way, s) for s in (0.5, 1.5) for way in ways]
    assert done == [2, 3] and report.count == 3
    assert len({row.psnr.mean for row in report.rows if row.way != TRUTH}) == 12
    cosines = {way: [row.cosine.mean for row in report.rows if row.way == way] for way in ways}
    assert cosines["encoder alone"] == pytest.approx([1, 1]) and max(cosines[TRUTH]) < 0.999
    lines = truth_lines(report)
    assert len(lines) == 4 + len(ways) and len({line.count("|") for line in lines[2:]}) == 1
    again = measure_edit_truth(pipe, plan, torch.nn.Flatten())
    assert again.rows == report.rows


def test_a_transport_changes_its_own_row_alone(pipe):
    plan = TruthPlan(count=2, multiples=(2.0,))
    moving = SDICPipeline(**pipe.components, transport=make_model("transport"))
    moving.set_progress_bar_config(disable=True)
    moving.add_edit(turn(default_strength=0.5))
    plain, moved = measure_edit_truth(pipe, plan).rows, measure_edit_truth(moving, plan).rows
    assert [row for row in moved if row.way != "transport"] == plain and len(moved) == len(plain) + 1


def test_nothing_to_measure_is_refused(pipe):
    with pytest.raises(SDICError, match="The truth of 1 edits was asked for, on 0 samples"):
        measure_edit_truth(pipe, TruthPlan(count=0))
    with pytest.raises(SDICError, match="none of the 0 loaded ones adds to latents"):
        measure_edit_truth(make_pipeline())


def test_the_command_writes_it(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    pipe.image_processor.postprocess(torch.zeros(1, 3, 32, 32), "pil")[0].save(tmp_path / "photos" / "a.png")
    options = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *options, "--edit-truth", "2", "--multiples", "1", "-2"]) == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())["edit_truth"]
    assert report["count"] == 2 and {row["multiple"] for row in report["rows"]} == {1, 2}
    assert "what they should have given" in (tmp_path / "out" / "evaluation.md").read_text()
    assert main(["evaluate", *options, "--edit-truth", "-1"]) == 2


def test_edits_that_the_model_does_not_have_can_be_measured(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    other = dataclasses.replace(turn(), name="other")
    write_edits([other], tmp_path / "held_out.safetensors")
    (tmp_path / "photos").mkdir()
    pipe.image_processor.postprocess(torch.zeros(1, 3, 32, 32), "pil")[0].save(tmp_path / "photos" / "a.png")
    options = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *options, "--edits", str(tmp_path / "held_out.safetensors"), "--edit-truth", "2"]) == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(report["edits"]) == report["settings"]["edits"] == ["other"]
    capsys.readouterr()
    command = EvaluationCommand(options[1], options[3], edits=(str(tmp_path / "held_out.safetensors"),))
    assert list(run_evaluation(pipe, command).report.edits) == ["other"]
    assert list(pipe.get_list_edits()) == ["turn"], "the caller's pipeline keeps its own"
    assert main(["evaluate", *options, "--edits", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_a_model_without_edits_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    make_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos" / "a.png")
    monkeypatch.setattr("sdic_plugin.evaluation.command.evaluate", lambda *given, **named: pytest.fail("too late"))
    options = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *options, "--edit-truth", "2"]) == 2
    assert "none of the 0 loaded ones adds to latents" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
