"""Crops of frames are made of a part of the frame alone, and are those of the whole, to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from testing.tiny_models import make_pipeline
from testing.video_clips import squares, write_clip

from sdic_plugin.images.alignment import Alignment, cut_crop
from sdic_plugin.images.face_alignment import FFHQTemplate, ffhq_crop
from sdic_plugin.images.resampling import compose
from sdic_plugin.photos import load_example
from sdic_plugin.video.crops import SAMPLES, crop_frame, cut_picture
from sdic_plugin.video.reading import Frame, VideoReader

KINDS = {
    "plain": ("clip.mp4", (332, 228), {}),
    "turned": ("clip.mp4", (228, 332), {"turn": 90}),
    "full range, odd width": ("clip.avi", (331, 228), {"codec": "mjpeg", "pixels": "yuvj420p", "options": {}}),
    "full range, odd height": ("clip.avi", (332, 227), {"codec": "mjpeg", "pixels": "yuvj420p", "options": {}}),
}


@pytest.fixture(scope="module", params=KINDS)
def frame(request, tmp_path_factory) -> Frame:
    name, size, settings = KINDS[request.param]
    return next(VideoReader(write_clip(tmp_path_factory.mktemp("clip") / name, squares(1, size), **settings)).frames())


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (14, 22, 97, 102), (14, 22, 98, 101), (100, 60, 331, 227)])
def test_a_part_has_the_pixels_of_the_whole(frame, box):
    assert np.array_equal(np.asarray(frame.rgb(box)), np.asarray(frame.rgb().crop(box)))


def whole_crop(picture: Image.Image, alignment: Alignment, padded: bool) -> Image.Image:
    """The same of the whole picture."""
    shrink = int(math.dist(*alignment.quad[:2]) / alignment.crop_size[0] / SAMPLES)
    if shrink > 1:
        picture = picture.reduce(shrink)
        matrix = compose(alignment.matrix, ((shrink, 0, 0), (0, shrink, 0)))
        alignment = Alignment(matrix, alignment.crop_size, picture.size)
    return cut_picture(picture, alignment, padded)


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize(
    ("middle", "side", "turn"),
    [((160, 110), 60, 0.3), ((171, 95), 90, -0.1), ((60, 60), 50, 0), ((300, 200), 80, 0.2), ((20, 110), 220, 0),
     ((150, 110), 9, 0.4), ((-30, 100), 100, 0)],
)  # fmt: skip
@pytest.mark.parametrize("padded", [False, True])
def test_crops_are_those_of_the_whole_frame(frame, middle, side, turn, size, padded):
    pipe = make_pipeline(alignment=FFHQTemplate().to_dict() if padded else None)
    picture = frame.rgb()
    a, b = (size / side * math.cos(turn), size / side * math.sin(turn))
    x, y = (size / 2 - a * middle[0] + b * middle[1], size / 2 - b * middle[0] - a * middle[1])
    alignment = Alignment(((a, -b, x), (b, a, y)), (size, size), picture.size)
    found, wanted = crop_frame(pipe, frame, alignment), whole_crop(picture, alignment, padded)
    assert np.array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("turn", [0.0, 0.3])
@pytest.mark.parametrize("step", [1.2, 1.8, 2.3, 3.7])
def test_crops_in_bytes_are_those_of_photos(padded, turn, step):
    photo = load_example("astronaut").source
    a, b = math.cos(turn) / step, math.sin(turn) / step
    x, y = 32 - a * 250 + b * 240, 32 - b * 250 - a * 240
    alignment = Alignment(((a, -b, x), (b, a, y)), (64, 64), photo.size)
    found = np.asarray(cut_picture(photo, alignment, padded), np.float32)
    wanted = np.asarray((ffhq_crop if padded else cut_crop)(photo, alignment), np.float32)
    assert not np.array_equal(found, wanted)  # it was done in bytes
    difference = np.abs(found - wanted)
    assert difference.mean() < 1 and difference.max() < 10


def test_only_what_is_near_is_converted(tmp_path, monkeypatch):
    frame = next(VideoReader(write_clip(tmp_path / "clip.mp4", squares(1, (332, 228)))).frames())
    boxes: list[tuple[int, int, int, int]] = []
    rgb = Frame.rgb
    monkeypatch.setattr(Frame, "rgb", lambda self, box=None: boxes.append(box) or rgb(self, box))
    alignment = Alignment(((0.4, 0, -56), (0, 0.4, -36)), (16, 16), rgb(frame).size)  # 40 pixels around (160, 110)
    crop_frame(make_pipeline(), frame, alignment)
    ((left, top, right, bottom),) = boxes
    assert 0 < left < 140 and 180 < right < 332 and 0 < top < 90 and 130 < bottom < 228
