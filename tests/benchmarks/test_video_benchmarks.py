"""The benchmarks of videos measure what they say, on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from testing.tiny_models import make_pipeline
from testing.video_clips import av

from sdic_plugin import DirectionEdit, SDICPipeline
from sdic_plugin.benchmarks import video_speed
from sdic_plugin.benchmarks.video_flicker import METHODS, find_crops, flicker, make_clip, measure, seam
from sdic_plugin.images.alignment import align_by_eyes
from sdic_plugin.photos.photo import ExamplePhoto, load_example, model_template
from sdic_plugin.video.options import VideoOptions

pytest.importorskip("skimage", reason="needs scikit-image")


@pytest.fixture(scope="module")
def pipe() -> SDICPipeline:
    pipe = make_pipeline(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def photo() -> ExamplePhoto:
    large = load_example("chelsea")
    small = large.source.resize((large.source.width // 2, large.source.height // 2))
    return ExamplePhoto("chelsea", small, tuple(value / 2 for value in large.eyes))


def test_a_change_that_stays_does_not_flicker(pipe, photo):
    clip = make_clip(photo, "pan", 12)
    steady = find_crops(pipe, clip, photo, error=0.0)
    change = np.random.default_rng(0).normal(0, 20, (8, 8, 3)).astype(np.float32).repeat(8, 0).repeat(8, 1)
    step, size = flicker(clip, steady, [change] * 12, (80, 50, 160, 110))
    assert step < 0.15 * size
    step_of_noise, _ = flicker(clip, steady, [change * (-1) ** i for i in range(12)], (80, 50, 160, 110))
    assert step_of_noise > 10 * step


def test_smoothing_makes_it_steadier(pipe, photo):
    clip = make_clip(photo, "all", 16)
    found = find_crops(pipe, clip, photo, error=1.0)
    by_name = {method.name: method for method in METHODS}
    area = (60, 40, 180, 130)
    alone, smoothed = (
        measure(pipe, clip, found, by_name[name], [{"turn": 2.0}], area)
        for name in ("frame by frame", "crop 0.1 s, change 0.05 s")
    )
    assert smoothed[0] < 0.6 * alone[0] and smoothed[2] < 0.8 * alone[2]


def test_a_soft_border_is_less_steep(pipe, photo):
    _, alignment = align_by_eyes(photo.source, photo.eyes, model_template(pipe), 32, 32)
    change = np.full((32, 32, 3), 20, np.float32)
    hard, soft = (seam(change, alignment, photo.source.size, feather) for feather in (0.0, 0.08))
    assert 20 > hard > 2 * soft > 0


def test_rates_are_measured(pipe, photo, tmp_path):
    video_speed.write_clip(tmp_path / "clip.mp4", photo.source, (160, 90), 10)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10 and len(container.streams.audio) == 1
    assert video_speed.rate_of_networks(pipe, VideoOptions(edits={"turn": 1.0}, batch_size=2), 4) > 0


def test_the_models_own_edits_are_measured(pipe):
    assert video_speed.first_edits(pipe, 2) == ["turn=1"]
    own = pipe.with_edits(pipe.get_list_edits())
    own.add_edit(DirectionEdit("size", default_strength=1.5, tensors={"direction": torch.ones(16)}))
    assert video_speed.first_edits(own, 2) == ["turn=1", "size=1.5"] and video_speed.first_edits(own, 1) == ["turn=1"]
