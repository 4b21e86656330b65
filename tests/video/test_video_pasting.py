"""A change of a crop, added to brightness and colour as a frame stores them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from testing.video_clips import av, squares

from sdic_plugin.images.alignment import Alignment, paste_back
from sdic_plugin.video.colours import Colours
from sdic_plugin.video.pasting import add_difference
from sdic_plugin.video.writing import even_planes

ALIGNMENT = Alignment(((0.8, -0.2, -10.0), (0.2, 0.8, -15.0)), (32, 32), (96, 64))


def stored(picture: np.ndarray, colours: Colours) -> list[np.ndarray]:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=colours.space, dst_color_range=colours.range
    )
    return even_planes([np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
                        for plane in frame.planes])  # fmt: skip


@pytest.mark.parametrize("space", [1, 5])
@pytest.mark.parametrize("range_", [1, 2])
def test_as_in_red_green_and_blue(space, range_):
    colours = Colours(space, range_, 1, 1)
    rng = np.random.default_rng(0)
    coarse = rng.integers(80, 160, (2, 4, 4, 3)).astype(np.uint8)
    before, after = (Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC) for each in coarse)
    photo = np.full((64, 96, 3), (120, 130, 110), np.uint8)
    expected = stored(np.asarray(paste_back(Image.fromarray(photo), after, ALIGNMENT, before)), colours)
    planes = stored(photo, colours)
    difference = np.asarray(after, np.float32) - np.asarray(before, np.float32)
    add_difference(planes, difference, ALIGNMENT, colours)
    for found, wanted in zip(planes, expected, strict=True):
        assert np.abs(found.astype(int) - wanted).max() <= 6
        assert np.abs(found.astype(int) - wanted).mean() < 0.6
    assert np.abs(planes[0].astype(int) - stored(photo, colours)[0]).max() > 8


def test_what_is_outside_keeps_its_values():
    planes = stored(squares(1)[0], Colours(5, 1, 1, 1))
    before = [plane.copy() for plane in planes]
    add_difference(planes, np.zeros((32, 32, 3), np.float32), ALIGNMENT, Colours(5, 1, 1, 1))
    assert all(np.array_equal(a, b) for a, b in zip(planes, before, strict=True))
    add_difference(planes, np.full((32, 32, 3), 40, np.float32), ALIGNMENT, Colours(5, 1, 1, 1), strength=0.0)
    assert all(np.array_equal(a, b) for a, b in zip(planes, before, strict=True))
    add_difference(planes, np.full((32, 32, 3), 40, np.float32), ALIGNMENT, Colours(5, 1, 1, 1))
    low, high = ALIGNMENT.quad.min(axis=0).astype(int), ALIGNMENT.quad.max(axis=0).astype(int) + 1
    changed = planes[0] != before[0]
    assert changed.any() and not changed[:, : low[0]].any() and not changed[:, high[0] :].any()
    assert not changed[high[1] :].any()
    assert np.array_equal(planes[1], before[1]), "grey changes no colour"


def test_a_crop_that_reaches_beyond_the_frame():
    far = Alignment(((0.5, 0.0, 5.0), (0.0, 0.5, 20.0)), (32, 32), (95, 63))
    planes = even_planes([np.full((63, 95), 100, np.uint8), *[np.full((32, 48), 128, np.uint8)] * 2])
    add_difference(planes, np.full((32, 32, 3), 40, np.float32), far, Colours(5, 1, 1, 1))
    assert planes[0].shape == (64, 96) and planes[0].max() > 120
    beyond = Alignment(((0.5, 0.0, -500.0), (0.0, 0.5, 20.0)), (32, 32), (95, 63))
    untouched = [plane.copy() for plane in planes]
    add_difference(planes, np.full((32, 32, 3), 40, np.float32), beyond, Colours(5, 1, 1, 1))
    assert all(np.array_equal(a, b) for a, b in zip(planes, untouched, strict=True))
