"""Crop by two eyes and paste back: coordinates, antialiasing, borders, exactness, and every message."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
from PIL import Image
from skimage import data
from testing.templates import CATS64_TEMPLATE

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.images.alignment import Alignment, AlignmentTemplate, align_by_eyes, paste_back
from sdic_plugin.images.reading import load_image
from sdic_plugin.images.resampling import compose, resample

CHELSEA_EYES = (172.0, 113.0, 316.0, 134.0)
IDENTITY = Alignment(((1, 0, 0), (0, 1, 0)), (40, 30), (40, 30))


@pytest.fixture(scope="module")
def chelsea() -> Image.Image:
    return Image.fromarray(data.chelsea())


@pytest.fixture(scope="module")
def alignment(chelsea) -> Alignment:
    return align_by_eyes(chelsea, CHELSEA_EYES, CATS64_TEMPLATE, 64, 64)[1]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def crop_coordinates(alignment: Alignment) -> np.ndarray:
    """Where the centre of each photo pixel lies in the crop, in fractions of its size."""
    width, height = alignment.photo_size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return alignment.photo_to_crop(np.stack([x, y], axis=-1)) / alignment.crop_size


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


# ---------------------------------------------------------------- coordinates


def test_eyes_land_on_the_template(alignment):
    points = alignment.photo_to_crop(np.reshape(CHELSEA_EYES, (2, 2)))
    expected = np.array([CATS64_TEMPLATE.left_eye, CATS64_TEMPLATE.right_eye]) * 64
    np.testing.assert_allclose(points, expected, atol=1e-10)


def test_points_round_trip(alignment):
    points = np.random.default_rng(0).uniform(-500, 1000, (7, 5, 2))
    np.testing.assert_allclose(alignment.crop_to_photo(alignment.photo_to_crop(points)), points, atol=1e-9)
    assert alignment.photo_to_crop((1.0, 2.0)).shape == (2,)


def test_quad_is_the_crops_corners_and_a_square(alignment):
    quad = alignment.quad
    np.testing.assert_allclose(alignment.photo_to_crop(quad), [(0, 0), (64, 0), (64, 64), (0, 64)], atol=1e-9)
    sides = np.linalg.norm(np.roll(quad, -1, axis=0) - quad, axis=1)
    np.testing.assert_allclose(sides, np.hypot(144, 21) / 0.443, rtol=1e-9)


def test_order_of_the_eyes_does_not_matter(chelsea, alignment):
    x1, y1, x2, y2 = CHELSEA_EYES
    crop, swapped = align_by_eyes(chelsea, (x2, y2, x1, y1), CATS64_TEMPLATE, 64, 64)
    assert swapped == alignment
    assert crop.size == (64, 64)


@pytest.mark.parametrize("centre", [(150.0, 120.0), (150.5, 120.25), (141.3, 133.8)])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 150)])
def test_disc_lands_where_the_template_says(centre, width, height):
    """Pixel centres are at +0.5: the centroid of a disc drawn about an eye falls on the template's point."""
    y, x = np.mgrid[0:240, 0:320] + 0.5
    distance = np.hypot(x - centre[0], y - centre[1])
    disc = np.clip(9.5 - distance, 0, 1)  # antialiased edge
    photo = Image.fromarray(np.repeat((disc * 255).round().astype(np.uint8)[..., None], 3, axis=-1))
    crop, _ = align_by_eyes(photo, (*centre, centre[0] + 90, centre[1] - 30), CATS64_TEMPLATE, width, height)
    weight = np.asarray(crop)[..., 0].astype(float)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    centroid = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    np.testing.assert_allclose(centroid, np.array(CATS64_TEMPLATE.left_eye) * (width, height), atol=0.1)


# ---------------------------------------------------------------- pixels


def test_identity_crop_is_exact():
    photo = noise(40, 30)
    template = AlignmentTemplate((0.25, 0.5), (0.75, 0.5))
    crop, alignment = align_by_eyes(photo, (10, 15, 30, 15), template, 40, 30)
    np.testing.assert_allclose(alignment.matrix, IDENTITY.matrix, atol=1e-12)
    assert crop.tobytes() == photo.tobytes()


def test_whole_pixel_shift_is_exact():
    photo = noise(40, 30)
    template = AlignmentTemplate((0.25, 0.5), (0.75, 0.5))
    crop, _ = align_by_eyes(photo, (12, 13, 22, 13), template, 20, 10)
    assert crop.tobytes() == photo.crop((7, 8, 27, 18)).tobytes()


def test_quarter_turn():
    photo = noise(32, 32)
    template = AlignmentTemplate((0.25, 0.5), (0.75, 0.5))
    crop, alignment = align_by_eyes(photo, (16, 8, 16, 24), template, 32, 32)
    np.testing.assert_allclose(alignment.quad[0], (32, 0), atol=1e-9)
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    assert np.abs(np.asarray(crop).astype(int) - np.asarray(turned)).mean() < 12  # resampled noise, not mirrored
    assert np.abs(np.asarray(crop).astype(int) - np.asarray(photo)).mean() > 60


def test_rotated_photo_gives_the_same_crop(chelsea, alignment):
    """Turn the photo by 17 degrees about its centre, and the eyes with it."""
    angle, centre = np.deg2rad(17), np.array(chelsea.size) / 2
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    eyes = (np.reshape(CHELSEA_EYES, (2, 2)) - centre) @ turn.T + centre
    turned = chelsea.rotate(17, Image.Resampling.BICUBIC)
    straight, _ = align_by_eyes(chelsea, CHELSEA_EYES, CATS64_TEMPLATE, 64, 64)
    crop, _ = align_by_eyes(turned, eyes.ravel(), CATS64_TEMPLATE, 64, 64)
    inner = np.s_[20:48, 12:52]  # inside both photos
    assert psnr(np.asarray(crop)[inner], np.asarray(straight)[inner]) > 35


@pytest.mark.parametrize("turned", [0, 30])
@pytest.mark.parametrize("size", [64, 100])
def test_fine_checkerboard_becomes_grey(turned, size):
    board = Image.fromarray((np.indices((768, 768)).sum(0) % 2 * 255).astype(np.uint8))
    reach = 0.443 * 512 / 2  # a crop of 512 photo pixels: shrunk 8 and 5.12 times
    dx, dy = reach * np.cos(np.deg2rad(turned)), reach * np.sin(np.deg2rad(turned))
    crop, _ = align_by_eyes(board, (384 - dx, 384 - dy, 384 + dx, 384 + dy), CATS64_TEMPLATE, size, size)
    values = np.asarray(crop).astype(int)
    assert np.abs(values - 127.5).max() < 4


def test_beyond_the_border_the_photo_is_reflected():
    photo = noise(40, 30)
    template = AlignmentTemplate((0.25, 0.5), (0.75, 0.5))
    crop, _ = align_by_eyes(photo, (0, 3, 20, 3), template, 40, 30)  # the crop starts at (-10, -12)
    padded = np.pad(np.asarray(photo), ((12, 0), (10, 0), (0, 0)), mode="symmetric")[:30, :40]
    np.testing.assert_array_equal(np.asarray(crop), padded)


def test_crop_many_times_larger_than_the_photo():
    photo = noise(6, 4)
    crop, _ = align_by_eyes(photo, (1, 2, 5, 2), AlignmentTemplate((0.45, 0.5), (0.55, 0.5)), 40, 40)
    padded = np.pad(np.asarray(photo), ((18, 18), (17, 17), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(np.asarray(crop), padded)


def test_tiny_face(chelsea):
    crop, alignment = align_by_eyes(chelsea, (200, 100, 200.02, 100), CATS64_TEMPLATE, 64, 64)
    pixel = np.asarray(chelsea)[99:102, 199:202].astype(int)
    assert np.ptp(alignment.quad, axis=0).max() < 0.05
    assert (np.asarray(crop) >= pixel.min((0, 1)) - 2).all()
    assert (np.asarray(crop) <= pixel.max((0, 1)) + 2).all()


@pytest.mark.parametrize(("detail", "reach"), [(16, 160), (4, 12)])  # shrunk about 6 times, enlarged about twice
def test_border_of_a_crop_is_sampled_like_its_middle(detail, reach):
    """A crop is the middle of one with twice the field of view."""
    photo = noise(1600 // detail, 1280 // detail).resize((1600, 1280), Image.Resampling.BICUBIC)
    eyes = (750, 600, 750 + reach, 600 + reach / 4)
    wide_template = AlignmentTemplate((0.392, 0.453), (0.6135, 0.453))
    crop, _ = align_by_eyes(photo, eyes, CATS64_TEMPLATE, 64, 64)
    wide, _ = align_by_eyes(photo, eyes, wide_template, 128, 128)
    assert np.abs(np.asarray(wide.crop((32, 32, 96, 96))).astype(int) - np.asarray(crop)).max() <= 1


def test_large_photo_and_a_small_part_of_it_agree():
    """What lies outside the crop has no influence on it."""
    photo = noise(600, 500).resize((1200, 1000), Image.Resampling.BICUBIC)
    whole, _ = align_by_eyes(photo, (500, 400, 620, 430), CATS64_TEMPLATE, 64, 64)
    part, _ = align_by_eyes(photo.crop((300, 150, 900, 800)), (200, 250, 320, 280), CATS64_TEMPLATE, 64, 64)
    assert np.abs(np.asarray(whole).astype(int) - np.asarray(part)).max() <= 1


# ---------------------------------------------------------------- paste back


def test_pasted_identity_is_the_crop():
    photo, crop = noise(40, 30), noise(40, 30, seed=1)
    assert paste_back(photo, crop, IDENTITY, feather=0).tobytes() == crop.tobytes()


def test_crop_and_paste_keeps_the_photo(chelsea):
    crop, alignment = align_by_eyes(chelsea, CHELSEA_EYES, CATS64_TEMPLATE, 1024, 1024)
    result = paste_back(chelsea, crop, alignment)
    before, after = np.asarray(chelsea), np.asarray(result)
    coordinates = crop_coordinates(alignment)
    inside = ((coordinates > 0) & (coordinates < 1)).all(axis=-1)
    assert 0.5 < inside.mean() < 0.8
    assert psnr(after[inside], before[inside]) > 43
    np.testing.assert_array_equal(after[~inside], before[~inside])


@pytest.mark.parametrize("size", [64, 256])
def test_outside_the_quad_nothing_changes_and_inside_it_does(chelsea, alignment, size):
    result = np.asarray(paste_back(chelsea, Image.new("RGB", (size, size), (0, 255, 0)), alignment))
    coordinates = crop_coordinates(alignment)
    inset = np.minimum(coordinates, 1 - coordinates).min(axis=-1)
    np.testing.assert_array_equal(result[inset <= 0], np.asarray(chelsea)[inset <= 0])
    assert (result[inset >= 0.08] == (0, 255, 0)).all()
    edge = result[(inset > 0.02) & (inset < 0.06)]
    assert ((edge[:, 1] < 255) & (edge[:, 1] > 60)).mean() > 0.9  # a soft border


def test_crop_equal_to_its_reference_changes_nothing(chelsea, alignment):
    crop = noise(64, 64)
    assert paste_back(chelsea, crop, alignment, reference=crop).tobytes() == chelsea.tobytes()


def test_difference_mode_keeps_the_photos_detail(chelsea):
    crop, alignment = align_by_eyes(chelsea, CHELSEA_EYES, CATS64_TEMPLATE, 64, 64)
    shift = np.array([12, 6, 0])
    edited = np.asarray(crop).astype(int) + shift
    assert edited.min() >= 0
    assert edited.max() <= 255
    result = paste_back(chelsea, Image.fromarray(edited.astype(np.uint8)), alignment, reference=crop)
    change = np.asarray(result).astype(int) - np.asarray(chelsea)
    coordinates = crop_coordinates(alignment)
    middle = np.minimum(coordinates, 1 - coordinates).min(axis=-1) > 0.1
    possible = np.clip(np.asarray(chelsea) + shift, 0, 255) - np.asarray(chelsea)
    np.testing.assert_array_equal(change[middle], possible[middle])


def test_difference_is_enlarged_smoothly():
    photo = Image.new("RGB", (512, 512))
    alignment = Alignment(((1 / 8, 0, 0), (0, 1 / 8, 0)), (64, 64), (512, 512))
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    result = paste_back(photo, Image.fromarray(ramp), alignment, reference=Image.new("RGB", (64, 64)))
    row = np.asarray(result).astype(int)[256, 64:448, 0]
    np.testing.assert_allclose(row, (np.arange(64, 448) + 0.5) / 2 - 2, atol=0.6)  # a straight line


def test_larger_crop_is_shrunk_without_aliasing():
    photo = Image.new("RGB", (64, 64))
    board = Image.fromarray((np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8))
    alignment = Alignment(((1, 0, 0), (0, 1, 0)), (64, 64), (64, 64))
    result = np.asarray(paste_back(photo, board, alignment, feather=0)).astype(int)
    assert np.abs(result - 127.5).max() < 4


def full_frame_paste(photo, crop, alignment, reference, feather) -> np.ndarray:
    """What `paste_back` computes, on the whole photo at once in float64."""
    width, height = photo.size
    source = np.asarray(crop).astype(np.float32)
    source = source if reference is None else source - np.asarray(reference).astype(np.float32)
    stretch = (crop.width / alignment.crop_size[0], crop.height / alignment.crop_size[1])
    left, top = np.maximum(np.floor(alignment.quad.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(alignment.quad.max(axis=0)), photo.size).astype(int)
    matrix = compose(((stretch[0], 0, 0), (0, stretch[1], 0)), alignment.matrix)
    change = np.zeros((height, width, 3))
    sampled = resample(source, compose(matrix, ((1, 0, left), (0, 1, top))), right - left, bottom - top)
    change[top:bottom, left:right] = sampled
    values = np.asarray(photo).astype(float)
    change = change - values if reference is None else change
    coordinates = crop_coordinates(alignment) * alignment.crop_size
    weight = np.ones((height, width, 1))
    for axis in (0, 1):
        inset = np.minimum(coordinates[..., axis], alignment.crop_size[axis] - coordinates[..., axis])
        border = feather * alignment.crop_size[0]
        ramp = np.clip(inset / border, 0, 1) if border else (inset > 0).astype(float)
        weight *= (ramp * ramp * (3 - 2 * ramp))[..., None]
    return np.clip(np.rint(values + weight * change), 0, 255).astype(np.uint8)


def turned_alignment(side: float, degrees: float, centre: tuple[float, float], photo_size) -> Alignment:
    """A crop of 64 x 48 whose width is `side` photo pixels."""
    turn = 64 / side * np.exp(1j * np.deg2rad(degrees))
    shift = 32 + 24j - turn * complex(*centre)
    return Alignment(((turn.real, -turn.imag, shift.real), (turn.imag, turn.real, shift.imag)), (64, 48), photo_size)


PASTE_PLACES = {
    "enlarged many times": (900.0, 0, (300.0, 260.0)),
    "enlarged, turned": (500.0, 25, (310.0, 250.0)),
    "enlarged, turned over, partly outside": (400.0, 170, (590.0, 20.0)),
    "enlarged a little": (130.0, 0, (300.3, 255.7)),
    "enlarged a little, turned": (110.0, -70, (250.0, 260.0)),
    "in its own size": (64.0, 0, (290.0, 256.0)),
    "shrunk": (31.0, 0, (256.2, 255.9)),
    "shrunk, turned": (20.0, 33, (255.0, 257.0)),
    "shrunk, at the corner": (40.0, -10, (3.0, 498.0)),
}


@pytest.mark.parametrize("mode", ["replace", "difference"])
@pytest.mark.parametrize("place", PASTE_PLACES)
@pytest.mark.parametrize(("factor", "feather"), [(1, 0.08), (4, 0.0)])  # crops of the alignment's size, and larger
def test_pasting_tile_by_tile_is_pasting_at_once(monkeypatch, place, mode, factor, feather):
    monkeypatch.setattr("sdic_plugin.images.alignment.TILE", 150)
    photo = noise(75, 62).resize((600, 500), Image.Resampling.BICUBIC)
    alignment = turned_alignment(*PASTE_PLACES[place], photo.size)
    crop = noise(64 * factor, 48 * factor, seed=1)
    reference = noise(64 * factor, 48 * factor, seed=2) if mode == "difference" else None
    expected = full_frame_paste(photo, crop, alignment, reference, feather).astype(int)
    result = np.asarray(paste_back(photo, crop, alignment, reference, feather)).astype(int)
    assert np.abs(result - expected).max() <= 1
    assert (result != expected).mean() < 1e-4  # where rounding falls the other way
    assert (expected != np.asarray(photo)).any()


def test_pasting_takes_the_memory_of_tiles():
    """As floats, and with their weights, 16 megapixels at once took 1 GB."""
    psutil = pytest.importorskip("psutil")
    photo = Image.new("RGB", (4000, 4000), "grey")
    alignment = turned_alignment(3000.0, 10, (2000.0, 2000.0), photo.size)
    process, most, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch():
        while not done.wait(0.002):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    paste_back(photo, noise(64, 48), alignment, reference=noise(64, 48, seed=1))
    done.set()
    watcher.join()
    assert most[0] - before < 3 * 4000 * 4000 * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB with a transparent colour"])
@pytest.mark.parametrize("reference", [False, True])
def test_a_photo_keeps_its_transparency(mode, reference):
    width, height = IDENTITY.photo_size
    rgba = noise(width, height).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))))
    photo = rgba
    if mode == "P":
        photo = rgba.convert("RGB").quantize(16)
        photo.info["transparency"] = bytes(range(0, 256, 16))
    elif mode == "RGB with a transparent colour":
        photo = rgba.convert("RGB")
        photo.info["transparency"] = photo.getpixel((3, 4))
    elif mode == "LA":
        photo = rgba.convert("LA")
    before = np.asarray(photo.convert("RGBA")).astype(int)
    crop = noise(width, height, seed=1)
    base = noise(width, height, seed=2) if reference else None
    result = paste_back(photo, crop, IDENTITY, base, feather=0.1)
    assert result.mode == "RGBA"
    after = np.asarray(result).astype(int)
    alpha = after[..., 3]
    np.testing.assert_array_equal(alpha, before[..., 3])
    np.testing.assert_array_equal(after[alpha == 0], before[alpha == 0])  # nothing is seen there
    # On white it looks as the opaque photo would, as far as colours under the transparency can do that.
    opaque = np.asarray(paste_back(load_image(photo), crop, IDENTITY, base, feather=0.1)).astype(int)
    shown = np.asarray(load_image(result)).astype(int)
    reachable = (shown > 255 - alpha[..., None] + 1) & (shown < 254)
    assert (np.abs(shown - opaque)[reachable] <= 2).all()
    assert reachable[alpha > 0].mean() > 0.3
    np.testing.assert_array_equal(after[alpha == 255][:, :3], opaque[alpha == 255])
    unchanged = paste_back(photo, crop, IDENTITY, crop)
    np.testing.assert_array_equal(np.asarray(unchanged), before)


def test_quad_outside_the_photo_leaves_it(chelsea):
    away = Alignment(((1, 0, 1000), (0, 1, 0)), (64, 64), chelsea.size)
    assert paste_back(chelsea, noise(64, 64), away).tobytes() == chelsea.tobytes()


def test_given_photo_is_not_changed():
    photo = noise(40, 30)
    before = photo.tobytes()
    paste_back(photo, noise(40, 30, seed=1), IDENTITY)
    assert photo.tobytes() == before


# ---------------------------------------------------------------- values and messages


@pytest.mark.parametrize("size", [(10800, 1800), (9000, 1000), (1000, 9000), (4001, 2999)])
def test_copies_of_long_photos_are_known(size):
    alignment = Alignment(((0.5, 0, 0), (0, 0.5, 0)), (64, 64), size)
    scale = 1280 / max(size)
    copy = round(size[0] * scale), round(size[1] * scale)
    assert alignment.scaled(*copy).matrix[0][0] == pytest.approx(0.5 / scale, rel=1e-3)
    with pytest.raises(SDICError, match="keep the aspect"):
        alignment.scaled(*(length + 3 * (length == min(copy)) for length in copy))


def test_dicts_survive_json(alignment):
    assert Alignment.from_dict(json.loads(json.dumps(alignment.to_dict()))) == alignment
    text = json.dumps(CATS64_TEMPLATE.to_dict())
    assert text == '{"left_eye": [0.284, 0.406], "right_eye": [0.727, 0.406]}'
    assert AlignmentTemplate.from_dict(json.loads(text)) == CATS64_TEMPLATE


def test_values_are_frozen_and_hashable(alignment):
    assert len({alignment, dataclasses.replace(alignment), CATS64_TEMPLATE}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        alignment.crop_size = (1, 1)


@pytest.mark.parametrize(
    ("eyes", "words"),
    [
        ((5, 5, 5, 5), r"Both eyes are at \(5, 5\)"),
        ((5, 5, 41, 5), r"\(41, 5\) is outside the photo of 40 x 30"),
        ((-1, 5, 9, 5), r"\(-1, 5\) is outside"),
        ((5, 5, float("nan"), 5), "4 finite numbers"),
        ((5, 5, float("inf"), 5), "4 finite numbers"),
        ((5, 5, 9), "4 finite numbers"),
        (("a", 5, 9, 9), "4 finite numbers"),
        (None, "4 finite numbers"),
    ],
)
def test_wrong_eyes(eyes, words):
    with pytest.raises(SDICError, match=words):
        align_by_eyes(noise(40, 30), eyes, CATS64_TEMPLATE, 64, 64)


def test_wrong_size_or_photo():
    with pytest.raises(SDICError, match=r"crop_size is \[0.0, 64.0\]"):
        align_by_eyes(noise(40, 30), (5, 5, 9, 9), CATS64_TEMPLATE, 0, 64)
    with pytest.raises(ImageError, match="no such file"):
        align_by_eyes("nowhere.png", (5, 5, 9, 9), CATS64_TEMPLATE, 64, 64)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"left_eye": [0.3, 0.4]}, "exactly the entries left_eye, right_eye"),
        ({"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4], "nose": [0.5, 0.5]}, "exactly the entries"),
        ([0.3, 0.4], "exactly the entries"),
        ({"left_eye": [0.3], "right_eye": [0.7, 0.4]}, "left_eye, .* pass 2 finite numbers"),
        ({"left_eye": 3, "right_eye": [0.7, 0.4]}, "left_eye, .* pass 2 finite numbers"),
        ({"left_eye": [0.3, 0.4], "right_eye": [1.7, 0.4]}, r"right_eye is \[1.7, 0.4\]"),
        ({"left_eye": [0.7, 0.4], "right_eye": [0.3, 0.4]}, "not left of"),
    ],
)
def test_wrong_template(values, words):
    with pytest.raises(SDICError, match=words):
        AlignmentTemplate.from_dict(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"matrix": [[1, 0, 0], [0, 2, 0]]}, "not a rotation, scale and shift"),
        ({"matrix": [[1, 0, 0], [0, -1, 0]]}, "not a rotation, scale and shift"),
        ({"matrix": [[0, 0, 0], [0, 0, 0]]}, "not a rotation, scale and shift"),
        ({"matrix": [[1, 0, 0]]}, "not a rotation, scale and shift"),
        ({"matrix": [[1, 0], [0, 1]]}, "pass 3 finite numbers"),
        ({"matrix": [[1, 0, float("nan")], [0, 1, 0]]}, "pass 3 finite numbers"),
        ({"matrix": 7}, "not a rotation, scale and shift"),
        ({"crop_size": [64.5, 64]}, "crop_size is"),
        ({"photo_size": [0, 64]}, "photo_size is"),
        ({"extra": 1}, "exactly the entries"),
    ],
)
def test_wrong_alignment(change, words):
    with pytest.raises(SDICError, match=words):
        Alignment.from_dict({**IDENTITY.to_dict(), **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"photo": noise(41, 30)}, "photo is 41 x 30 and the alignment was made for 40 x 30"),
        ({"crop": noise(30, 30)}, "crop is 30 x 30 and the alignment's is 40 x 30"),
        ({"reference": noise(80, 60)}, "reference is 80 x 60 and the crop 40 x 30"),
        ({"feather": -0.1}, "feather of -0.1"),
        ({"feather": 0.6}, "feather of 0.6"),
        ({"feather": float("nan")}, "feather of nan"),
    ],
)
def test_wrong_paste(change, words):
    arguments = {"photo": noise(40, 30), "crop": noise(40, 30), "alignment": IDENTITY, **change}
    with pytest.raises(SDICError, match=words):
        paste_back(**arguments)
