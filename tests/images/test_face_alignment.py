"""FFHQ's crop and the face detector, on scikit-image's astronaut (public domain) and YuNet's real weights."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from testing.templates import CATS64_TEMPLATE

from sdic_plugin import SDICError, SDICPipeline
from sdic_plugin.commands import cli
from sdic_plugin.errors import CheckpointError
from sdic_plugin.images.alignment import Alignment, paste_back, take_crop
from sdic_plugin.images.face_alignment import FaceLandmarks, FFHQTemplate, align_eyes, align_face, read_template
from sdic_plugin.images.face_detection import choose_face, detect_faces, find_detector

MARKS = FaceLandmarks((204.0, 102.0), (247.0, 104.0), (204.0, 142.0), (242.0, 143.0))
"""The astronaut's, read off the picture."""


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def yunet(data_folder) -> str:
    return str(data_folder / "yunet.onnx")


def marks_array(marks: FaceLandmarks) -> np.ndarray:
    return np.array([marks.left_eye, marks.right_eye, marks.left_mouth, marks.right_mouth])


def difference(a: Image.Image, b: Image.Image) -> float:
    return np.abs(np.asarray(a).astype(float) - np.asarray(b)).mean()


# ---------------------------------------------------------------- the rule


def test_ffhq_square_of_an_upright_face():
    """Eyes 40 apart, mouth 44 below: half side max(2 * 40, 1.8 * 44) = 80, centre 4.4 below the eyes' middle."""
    marks = FaceLandmarks((80, 100), (120, 100), (90, 144), (110, 144))
    quad = FFHQTemplate().align(marks, 256, (300, 300)).quad
    np.testing.assert_allclose(quad, [(20, 24.4), (180, 24.4), (180, 184.4), (20, 184.4)], atol=1e-9)


def test_long_faces_are_measured_by_the_mouth():
    marks = FaceLandmarks((80, 100), (120, 100), (90, 160), (110, 160))
    quad = FFHQTemplate().align(marks, 64, (300, 300)).quad
    assert np.linalg.norm(quad[1] - quad[0]) == pytest.approx(2 * 1.8 * 60)


@pytest.mark.parametrize("degrees", [15, 90, 180, 250])
def test_the_square_turns_with_the_face(degrees):
    angle, centre = np.deg2rad(degrees), np.array([150.0, 150.0])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = FaceLandmarks(*map(tuple, (marks_array(MARKS) - centre) @ turn.T + centre))
    straight = FFHQTemplate().align(MARKS, 128, (512, 512))
    result = FFHQTemplate().align(turned, 128, (512, 512))
    np.testing.assert_allclose(result.quad, (straight.quad - centre) @ turn.T + centre, atol=1e-8)


def test_eyes_alone_give_nearly_the_same_square():
    given = FFHQTemplate().align(MARKS, 256, (512, 512))
    guessed = FFHQTemplate().align(FaceLandmarks.from_eyes(MARKS.left_eye, MARKS.right_eye), 256, (512, 512))
    side = np.linalg.norm(given.quad[1] - given.quad[0])
    assert np.abs(given.quad - guessed.quad).max() < 0.06 * side


def test_landmarks_of_other_detectors():
    five = [MARKS.left_eye, MARKS.right_eye, (225, 125), MARKS.left_mouth, MARKS.right_mouth]
    assert FaceLandmarks.from_points(five) == MARKS
    many = np.random.default_rng(0).uniform(0, 500, (68, 2))
    found = FaceLandmarks.from_points(many)
    np.testing.assert_allclose(found.left_eye, many[36:42].mean(axis=0))
    np.testing.assert_allclose(found.right_mouth, many[54])
    with pytest.raises(SDICError, match=r"shape \[7, 2\]"):
        FaceLandmarks.from_points(np.zeros((7, 2)))


# ---------------------------------------------------------------- the pixels


def test_inside_the_photo_the_crop_is_a_plain_one(astronaut):
    crop, alignment = align_face(astronaut, MARKS, FFHQTemplate(mouth_scale=1.0, eye_scale=1.2), 100, 100)
    assert crop.tobytes() == take_crop(astronaut, alignment).tobytes()


def test_shrinking_by_a_whole_factor_first_keeps_the_picture(astronaut):
    large = astronaut.resize((2048, 2048), Image.Resampling.BICUBIC)
    marks = FaceLandmarks(*map(tuple, 4 * marks_array(MARKS)))
    small, _ = align_face(astronaut, MARKS, FFHQTemplate(), 64, 64)
    crop, _ = align_face(large, marks, FFHQTemplate(), 64, 64)
    assert difference(crop, small) < 2.5


def test_beyond_the_photo_it_fades_to_the_median_without_a_seam(astronaut):
    cut = astronaut.crop((150, 60, 512, 512))
    marks = FaceLandmarks(*map(tuple, marks_array(MARKS) - (150, 60)))
    crop, alignment = align_face(cut, marks, FFHQTemplate(), 256, 256)
    whole, _ = align_face(astronaut, MARKS, FFHQTemplate(), 256, 256)
    assert alignment.quad[:, 1].min() < -20
    kept = np.s_[130:, 80:]  # far inside: untouched by blur and fade
    assert np.abs(np.asarray(crop)[kept].astype(int) - np.asarray(whole)[kept]).max() <= 2
    plain = np.asarray(take_crop(cut, alignment)).astype(float)
    padded = np.asarray(crop).astype(float)
    detail = [np.abs(np.diff(part[:40], axis=0)).mean() for part in (plain, padded)]
    assert detail[1] < 0.5 * detail[0]  # blurred


def test_a_photo_much_smaller_than_the_crop():
    photo = Image.new("RGB", (20, 20), (200, 40, 90))
    crop, _ = align_face(photo, FaceLandmarks((6, 8), (14, 8), (7, 15), (13, 15)), FFHQTemplate(), 256, 256)
    assert np.abs(np.asarray(crop).astype(int) - (200, 40, 90)).max() <= 1


@pytest.mark.parametrize("prepare", [lambda p: p, lambda p: p.convert("L"), lambda p: p.rotate(35, expand=True)])
def test_an_aligned_face_pasted_back_keeps_the_photo(astronaut, yunet, prepare):
    photo = prepare(astronaut).convert("RGB")
    face = choose_face(detect_faces(photo, yunet))
    crop, alignment = align_face(photo, face.landmarks, FFHQTemplate(), 512, 512)
    result = np.asarray(paste_back(photo, crop, alignment)).astype(float)
    assert np.abs(result - np.asarray(photo)).mean() < 1.0
    changed = Image.fromarray(255 - np.asarray(crop))
    assert paste_back(photo, changed, alignment, reference=changed).tobytes() == photo.tobytes()


def test_preview_alignment_cuts_the_same_crop(astronaut):
    _, alignment = align_face(astronaut, MARKS, FFHQTemplate(), 64, 64)
    half = astronaut.resize((256, 256), Image.Resampling.LANCZOS)
    assert difference(take_crop(half, alignment.scaled(256, 256)), take_crop(astronaut, alignment)) < 3
    with pytest.raises(SDICError, match="keep the aspect"):
        alignment.scaled(256, 200)


# ---------------------------------------------------------------- the detector


def test_finds_the_face_and_its_landmarks(astronaut, yunet):
    (face,) = detect_faces(astronaut, yunet)
    np.testing.assert_allclose(marks_array(face.landmarks), marks_array(MARKS), atol=4)
    assert face.score > 0.8
    assert 80 < face.size < 160


@pytest.mark.parametrize(
    "degrees", [-60, 180, *(pytest.param(each, marks=pytest.mark.slow) for each in (30, 90, 270))]
)
def test_finds_turned_faces_with_upright_landmarks(astronaut, yunet, degrees):
    turned = astronaut.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    (face,) = detect_faces(turned, yunet)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    expected = (marks_array(MARKS) - np.array(astronaut.size) / 2) @ turn.T + np.array(turned.size) / 2
    np.testing.assert_allclose(marks_array(face.landmarks), expected, atol=6)  # the eyes are 43 apart


@pytest.mark.parametrize("size", [64, *(pytest.param(size, marks=pytest.mark.slow) for size in (1300, 2600))])
def test_finds_faces_in_tiny_and_huge_photos(astronaut, yunet, size):
    face = choose_face(detect_faces(astronaut.resize((size, size)), yunet))
    expected = marks_array(MARKS) * size / 512
    np.testing.assert_allclose(marks_array(face.landmarks), expected, atol=0.016 * size)


def test_finds_a_face_that_fills_the_photo(astronaut, yunet):
    assert len(detect_faces(astronaut.crop((170, 50, 280, 180)), yunet)) == 1


def test_finds_a_grey_face(astronaut, yunet):
    assert len(detect_faces(astronaut.convert("L"), yunet)) == 1


@pytest.mark.parametrize("photo", ["chelsea", "blank"])
def test_no_face(photo, yunet):
    picture = Image.new("RGB", (300, 200), "grey") if photo == "blank" else Image.fromarray(data.chelsea())
    assert detect_faces(picture, yunet) == []
    with pytest.raises(SDICError, match="No face was found"):
        choose_face([])


def test_several_faces_largest_or_by_number(astronaut, yunet):
    photo = Image.new("RGB", (900, 512), "grey")
    photo.paste(astronaut.resize((300, 300)), (0, 60))
    photo.paste(astronaut, (388, 0))
    faces = detect_faces(photo, yunet)
    assert len(faces) == 2
    assert choose_face(faces).landmarks.left_eye[0] > 450
    assert choose_face(faces, 0).landmarks.left_eye[0] < 300
    assert choose_face(faces, "1") == choose_face(faces, "largest")
    with pytest.raises(SDICError, match="the photo has 2"):
        choose_face(faces, 2)


def test_wrong_detector(tmp_path, astronaut, monkeypatch):
    with pytest.raises(CheckpointError, match="is no file"):
        find_detector(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="cannot be read"):
        detect_faces(astronaut, tmp_path / "junk.onnx")
    monkeypatch.setenv("SDIC_FACE_DETECTOR", str(tmp_path / "junk.onnx"))
    assert find_detector() == tmp_path / "junk.onnx"
    with pytest.raises(SDICError, match="between 0 and 1"):
        detect_faces(astronaut, min_score=1.5)


def test_the_packages_detector_is_the_one_that_is_used_offline(monkeypatch, astronaut, yunet):
    monkeypatch.delenv("SDIC_FACE_DETECTOR", raising=False)
    assert find_detector().read_bytes() == Path(yunet).read_bytes()
    notice = (find_detector().parent / "NOTICE.md").read_text(encoding="utf-8")
    assert hashlib.sha256(find_detector().read_bytes()).hexdigest() in notice and "Apache License 2.0" in notice
    assert detect_faces(astronaut) == detect_faces(astronaut, yunet) != []


# ---------------------------------------------------------------- templates, pipeline, command


def test_templates_in_the_configuration():
    assert FFHQTemplate().to_dict() == {"rule": "ffhq", "eye_scale": 2.0, "mouth_scale": 1.8, "shift": 0.1}
    assert read_template({"rule": "ffhq"}) == FFHQTemplate()
    assert read_template(CATS64_TEMPLATE.to_dict()) == CATS64_TEMPLATE
    for wrong in ({"rule": "celeba"}, {"rule": "ffhq", "nose": 1}, {"rule": "ffhq", "shift": "x"}, {}, None):
        with pytest.raises(SDICError):
            read_template(wrong)


def test_a_pipeline_keeps_ffhqs_rule(pipe, tmp_path):
    pipe.register_to_config(alignment=FFHQTemplate().to_dict())
    pipe.save_pretrained(tmp_path / "model")
    again = SDICPipeline.from_pretrained(tmp_path / "model")
    assert read_template(again.config.alignment) == FFHQTemplate()


def test_commands_align_and_edit_find_the_face(pipe, tmp_path, astronaut, yunet):
    pipe.register_to_config(alignment={"rule": "ffhq"})
    pipe.save_pretrained(tmp_path / "model")
    astronaut.save(tmp_path / "face.png")
    common = [str(tmp_path / "face.png"), "--detector", yunet]
    assert cli.main(["align", *common, "--size", "200", "--out", str(tmp_path / "crops")]) == 0
    alignment = Alignment.from_dict(json.loads((tmp_path / "crops/face.json").read_text()))
    assert Image.open(tmp_path / "crops/face.png").size == alignment.crop_size == (200, 200)
    arguments = ["--model", str(tmp_path / "model"), "--face", "--edit", "turn=1", "--paste-back"]
    assert cli.main(["edit", *common, *arguments, "--out", str(tmp_path / "edited")]) == 0
    pasted = np.asarray(Image.open(tmp_path / "edited/face_turn_+1_pasted.png"))
    changed = (pasted != np.asarray(astronaut)).any(axis=-1)
    assert changed[60:160, 170:280].mean() > 0.9
    assert not changed[:, 400:].any()


def test_command_align_by_eyes_and_all_faces(tmp_path, astronaut, yunet, capsys):
    photo = Image.new("RGB", (800, 400), "grey")
    photo.paste(astronaut.resize((400, 400)), (0, 0))
    photo.paste(astronaut.resize((400, 400)), (400, 0))
    photo.save(tmp_path / "two.png")
    Image.new("RGB", (90, 90)).save(tmp_path / "none.png")
    command = ["align", "--detector", yunet, "--size", "64", "--out", str(tmp_path / "out")]
    assert cli.main([*command, str(tmp_path / "two.png"), str(tmp_path / "none.png"), "--face", "all"]) == 1
    assert "No face was found" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"two_0.png", "two_1.png"}
    assert cli.main([*command, str(tmp_path / "two.png"), "--model", "cats64", "--eyes", "100,80,160,80"]) == 0
    assert Image.open(tmp_path / "out/two.png").size == (64, 64)


def test_ffhq_by_two_eyes(astronaut):
    crop, _ = align_eyes(astronaut, (*MARKS.right_eye, *MARKS.left_eye), FFHQTemplate(), 128, 128)
    straight, _ = align_face(astronaut, MARKS, FFHQTemplate(), 128, 128)
    assert difference(crop, straight) < 20
    for eyes, words in (((1, 1, 1, 1), "Both eyes"), ((1, 1, 900, 1), "outside the photo")):
        with pytest.raises(SDICError, match=words):
            align_eyes(astronaut, eyes, FFHQTemplate(), 64, 64)
    with pytest.raises(SDICError, match="square"):
        align_face(astronaut, MARKS, FFHQTemplate(), 64, 48)


# ---------------------------------------------------------------- faces found where nothing is said


@pytest.fixture
def face_model(pipe, tmp_path) -> str:
    pipe.register_to_config(alignment={"rule": "ffhq"})
    pipe.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def two_faces(astronaut) -> Image.Image:
    photo = Image.new("RGB", (900, 512), "grey")
    photo.paste(astronaut.resize((256, 256)), (0, 0))
    photo.paste(astronaut, (388, 0))
    return photo


def edited(model: str, photo: Image.Image, tmp_path, *options: str) -> np.ndarray:
    """What a command made of a photo."""
    photo.save(tmp_path / "photo.png")
    command = [
        "edit",
        str(tmp_path / "photo.png"),
        "--model",
        model,
        "--edit",
        "turn=1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main([*command, *options]) == 0
    return np.asarray(Image.open(tmp_path / "out" / "photo_turn_+1.png"))


def test_models_of_faces_find_the_largest_by_themselves(face_model, astronaut, two_faces, tmp_path, capsys):
    alone = edited(face_model, astronaut, tmp_path)
    assert np.array_equal(alone, edited(face_model, astronaut, tmp_path, "--face"))
    assert "warning" not in capsys.readouterr().err
    assert not np.array_equal(alone, edited(face_model, astronaut, tmp_path, "--face", "none"))
    largest = edited(face_model, two_faces, tmp_path)
    assert "the largest of its 2 faces was taken; --face N takes another" in capsys.readouterr().err
    assert np.array_equal(largest, edited(face_model, two_faces, tmp_path, "--face", "1"))


def test_an_aligned_crop_is_taken_as_it_is(face_model, astronaut, tmp_path, capsys):
    face = choose_face(detect_faces(astronaut))
    crop, _ = align_face(astronaut, face.landmarks, FFHQTemplate(), 256, 256)
    assert np.array_equal(edited(face_model, crop, tmp_path), edited(face_model, crop, tmp_path, "--face", "none"))
    assert "warning" not in capsys.readouterr().err


def test_without_a_face_or_opencv_the_photo_is_taken_as_it_is_and_that_is_said(
    face_model, astronaut, tmp_path, capsys, monkeypatch
):
    plain = Image.new("RGB", (200, 160), "steelblue")
    found = edited(face_model, plain, tmp_path)
    assert "it was taken as it is, as no face was found in it; --eyes" in capsys.readouterr().err
    assert np.array_equal(found, edited(face_model, plain, tmp_path, "--face", "none"))
    monkeypatch.setitem(sys.modules, "cv2", None)  # as where it is not installed, or does not load
    assert np.array_equal(
        edited(face_model, astronaut, tmp_path), edited(face_model, astronaut, tmp_path, "--face", "none")
    )
    assert "without OpenCV" in capsys.readouterr().err


def test_sweeps_find_it_too(face_model, astronaut, two_faces, tmp_path, capsys):
    two_faces.save(tmp_path / "photo.png")
    command = ["edit", str(tmp_path / "photo.png"), "--model", face_model, "--sweep", "turn=-1:1:3"]
    assert cli.main([*command, "--out", str(tmp_path / "sweeps")]) == 0
    assert "the largest of its 2 faces" in capsys.readouterr().err


def test_other_models_look_for_no_face(pipe, astronaut, tmp_path, monkeypatch, capsys):
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("SDIC_FACE_DETECTOR", str(tmp_path / "none.onnx"))  # would be complained about
    edited(str(tmp_path / "model"), astronaut, tmp_path)
    assert "face" not in capsys.readouterr().err


def test_pasting_back_keeps_a_large_photos_detail_by_itself(face_model, astronaut, tmp_path):
    def pasted(photo: Image.Image, *options: str) -> np.ndarray:
        edited(face_model, photo, tmp_path, "--face", "none", "--paste-back", *options)
        return np.asarray(Image.open(tmp_path / "out" / "photo_turn_+1_pasted.png"))

    large, small = astronaut.crop((100, 0, 400, 300)), astronaut.resize((12, 12))
    assert np.array_equal(pasted(large), pasted(large, "difference"))
    assert np.array_equal(pasted(small), pasted(small, "replace"))
    whole = np.asarray(Image.open(tmp_path / "out" / "photo_inversion_pasted.png"))
    assert whole.shape == (12, 12, 3)
