"""Masks that are pictures: they follow their photo's crop."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from sdic_plugin import SDICError
from sdic_plugin.images.alignment import Alignment, cut_crop
from sdic_plugin.images.reading import load_image
from sdic_plugin.photos.find import find_photos
from sdic_plugin.photos.masks import crop_mask
from sdic_plugin.photos.photo import crop_photo
from sdic_plugin.photos.process import PhotoOptions, process_photos
from sdic_plugin.photos.strengths import Sweep
from sdic_plugin.photos.sweep import render_sweeps, sweep_photos, sweep_sheet

TURNED = Alignment(((0.0, -0.5, 40.0), (0.5, 0.0, -20.0)), (32, 32), (120, 90))


@pytest.fixture
def files(pipe, tmp_path):
    """A photo that is turned to be cropped, and a mask of its size."""
    pipe.register_to_config(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
    pixels = np.random.RandomState(0).randint(0, 255, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((120, 90)).save(tmp_path / "photo.png")
    mask = Image.new("L", (120, 90))
    mask.paste(255, (0, 0, 60, 45))
    mask.save(tmp_path / "mask.png")
    return find_photos([tmp_path / "photo.png"], (60.0, 30.0, 62.0, 60.0)), tmp_path / "mask.png"


def cut(pipe, photos, mask):
    crop, alignment = crop_photo(pipe, load_image(photos[0].source), photos[0].eyes)
    return pipe.invert(crop), cut_crop(Image.open(mask).convert("RGB"), alignment)


def test_a_mask_of_the_photos_size_is_turned_with_it():
    mask = Image.new("RGB", (120, 90))
    mask.paste("white", (60, 20, 80, 40))
    expected = np.zeros((32, 32))
    (left, top), (right, bottom) = np.sort(TURNED.photo_to_crop([(60, 20), (80, 40)]), axis=0).astype(int)
    expected[top:bottom, left:right] = 255
    assert 0 < expected.mean() < 255
    np.testing.assert_allclose(np.asarray(crop_mask(mask, TURNED))[..., 0], expected, atol=60)


def test_a_mask_of_the_crops_aspect_is_the_crops_and_any_other_is_refused():
    assert crop_mask(mask := Image.new("RGB", (256, 256)), TURNED) is mask
    with pytest.raises(SDICError, match=r"is 60 x 45 pixels, but the photo is 120 x 90 and its crop 32 x 32"):
        crop_mask(Image.new("RGB", (60, 45)), TURNED)


def test_edits_and_sweeps_of_photos_use_the_mask_of_the_crop(pipe, files, tmp_path):
    photos, mask = files
    options = PhotoOptions(edits=[{"turn": 3.0}], mask=str(mask), sheets=False)
    assert not process_photos(pipe, photos, tmp_path / "out", options).failed
    inversion, part = cut(pipe, photos, mask)
    edited = np.asarray(Image.open(tmp_path / "out" / "photo_turn_+3.png")).astype(int)
    expected = np.asarray(pipe.edit(inversion, edits={"turn": 3.0}, mask=part).images[0])
    assert np.abs(edited - expected).max() <= 1
    assert np.abs(edited - np.asarray(pipe.edit(inversion, edits={"turn": 3.0}, mask=mask).images[0])).max() > 5

    sweeps = [Sweep("turn", (0.0, 3.0))]
    assert not sweep_photos(pipe, photos, tmp_path / "sweep", sweeps, mask=str(mask)).failed
    sheet = sweep_sheet(sweeps, render_sweeps(pipe, inversion, sweeps, mask=part), "photo")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sweep" / "photo_sweep_turn.png")), np.asarray(sheet))


def test_sweeps_with_a_mask_are_known_again(pipe, files, tmp_path):
    photos, mask = files
    shutil.copyfile(tmp_path / "photo.png", tmp_path / "twin.png")
    photos = [*photos, *find_photos([tmp_path / "twin.png"])]
    for skipped in (0, 2):
        summary = sweep_photos(
            pipe, photos, tmp_path / "out", [Sweep("turn", (0.0, 3.0))], skip_existing=True, mask=str(mask)
        )
        assert not summary.failed and summary.skipped == skipped


def test_a_mask_that_fits_one_photo_only_fails_the_others(pipe, files, tmp_path):
    photos, mask = files
    Image.new("RGB", (60, 50)).save(tmp_path / "other.png")
    photos = [*photos, *find_photos([tmp_path / "other.png"])]
    summary = process_photos(pipe, photos, tmp_path / "out", PhotoOptions(mask=str(mask), sheets=False))
    assert list(summary.figures) == ["photo"]
    assert [("mask is 120 x 90" in reason) for reason in summary.failed.values()] == [True]
