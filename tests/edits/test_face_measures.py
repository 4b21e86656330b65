"""Measures on landmarks: of the public portrait, mirrored, turned and warped."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from sdic_plugin.commands.cli import main
from sdic_plugin.edits.face_measures import FACE_MEASURES, face_length, face_nod, face_smile, face_turn, landmarks
from sdic_plugin.edits.scores import find_measure
from sdic_plugin.edits.steering import shift, warp_images
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.face_detection import find_points

DATA = Path(os.environ["SDIC_DATA"]) if "SDIC_DATA" in os.environ else None
needs_data = pytest.mark.skipif(DATA is None, reason="SDIC_DATA does not name the folder with faces128_val.zip")


def to_tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return Image.fromarray(data.astronaut()).crop((144, 20, 304, 180)).resize((128, 128))


@pytest.fixture(scope="module")
def face(portrait):
    return to_tensor(portrait)


def test_points_are_shares_of_the_picture_and_missing_where_there_is_no_face(portrait):
    pictures = np.stack([np.array(portrait), np.full((128, 128, 3), 90, np.uint8)])
    found = find_points(pictures)
    np.testing.assert_allclose(
        found[0, :2] * 160 + (144, 20), [(204, 102), (247, 104)], atol=4
    )  # read off the picture
    assert np.isnan(found[1]).all()
    assert find_points(np.array(portrait.resize((192, 128)))[None])[0] == pytest.approx(found[0], abs=0.05)


def test_the_frame_is_the_faces_own(face):
    points = landmarks(face)[0]
    torch.testing.assert_close(points[0], torch.tensor([-0.5, 0.0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(points[1], torch.tensor([0.5, 0.0]), rtol=0, atol=1e-5)
    assert (points[2:, 1] > 0).all() and points[3, 0] < points[4, 0]


def test_a_mirrored_face_turns_the_other_way(face):
    both = torch.cat([face, face.flip(3)])
    turned, mirrored = face_turn(both)
    assert turned * mirrored < 0 and abs(turned + mirrored) < 0.05
    for measure in (face_nod, face_smile, face_length):
        one, other = measure(both)
        assert abs(one - other) < 0.06


def test_a_tilted_face_measures_the_same(portrait, face):
    tilted = to_tensor(portrait.rotate(12, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120)))
    for measure in FACE_MEASURES.values():
        assert abs(measure(tilted) - measure(face)) < 0.12


@pytest.mark.parametrize(
    ("measure", "warp"),
    [
        (face_turn, shift((0.5, 0.66), (0.12, 0.12), (0.07, 0.0))),
        (face_nod, shift((0.5, 0.66), (0.14, 0.1), (0.0, 0.07))),
    ],
)
def test_turn_and_nod_rise_as_the_nose_moves(face, measure, warp):
    before, after = measure(torch.cat([face, warp_images(face, warp, torch.ones(1))]))
    assert after > before + 0.03


@needs_data
def test_they_agree_with_the_landmarks_of_the_whole_photos():
    """Those of faces.csv were found in photographs of 224 pixels, before they were cropped."""
    with zipfile.ZipFile(DATA / "faces128_val.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("faces.csv").decode())))[:64]
    names = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    marks = np.array([[[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in names] for row in rows])
    level = marks - marks[:, :2].mean(axis=1, keepdims=True)
    level /= np.linalg.norm(marks[:, 1] - marks[:, 0], axis=1)[:, None, None]
    mouth = level[:, 3:].mean(axis=1)[:, 1]
    wanted = {
        "face_turn": level[:, 2, 0],
        "face_nod": level[:, 2, 1] / mouth,
        "face_smile": np.linalg.norm(level[:, 4] - level[:, 3], axis=1),
        "face_length": mouth,
    }
    images = load_images(DATA / "faces128_val.zip", 128, limit=64).float() / 255
    for name, measure in FACE_MEASURES.items():
        assert np.corrcoef(measure(images).numpy(), wanted[name])[0, 1] > 0.7, name


def test_they_have_names_for_the_command(tmp_path, capsys):
    assert find_measure("face_smile") is face_smile
    command = ["edits", "find", "--method", "interfacegan", "--measure", "face_turn", "--samples", "32"]
    assert main([*command, "--model", "cats64", "--out", str(tmp_path / "found.safetensors")]) == 2
    assert "'face_turn' has" in capsys.readouterr().err  # cats have no such landmarks
