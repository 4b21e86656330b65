"""The main job on files, through the command line, on a tiny model and on the bundled photograph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import make_pipeline

from sdic_plugin import DirectionEdit, EditError, SDICError, SDICInversion
from sdic_plugin.commands.cli import main
from sdic_plugin.images.alignment import paste_back
from sdic_plugin.images.face_alignment import FFHQTemplate
from sdic_plugin.images.reading import load_image
from sdic_plugin.photos.find import find_photos
from sdic_plugin.photos.photo import crop_photo, edit_label, file_label, load_example, suitable_example
from sdic_plugin.photos.strengths import parse_edits


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model on disk, with two edits and an alignment template."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipe = make_pipeline()
    pipe.register_to_config(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
    width = pipe.generator.config.style_width
    for i, name in enumerate(("warmth", "size")):
        rng = torch.Generator().manual_seed(i)
        pipe.add_edit(DirectionEdit(name, tensors={"direction": torch.randn(width, generator=rng)}))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.RandomState(0).randint(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).resize((480, 360)).save(path)
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_photos_in_heic_are_told_of(tmp_path, caplog):
    (tmp_path / "a.HEIC").write_bytes(b"heic")
    with pytest.raises(SDICError, match=r"HEIC .* are 1: convert them"):
        find_photos([tmp_path])
    for name in ("b.jpg", "c.jfif", "d.avif"):
        (tmp_path / name).write_bytes(b"photo")
    assert [photo.name for photo in find_photos([tmp_path])] == ["b", "c", "d"]
    assert "left out for it are 1" in caplog.text


def test_edit_writes_every_picture(model, photo, tmp_path, capsys):
    out = tmp_path / "out"
    code = run("edit", photo, "--model", model, "--out", out, "--eyes", "200,150,280,160", "--paste-back")
    assert code == 0
    assert names(out) == [
        "photo_inversion.png",
        "photo_inversion_pasted.png",
        "photo_sheet.png",
    ]
    code = run(
        "edit", photo, "--model", model, "--out", out, "--edit", "warmth=1.5", "--edit", "warmth=-1,size=0.5",
        "--save-inversion",
    )  # fmt: skip
    assert code == 0
    assert {"photo_warmth_+1.5.png", "photo_warmth_-1_size_+0.5.png", "photo_inversion.safetensors"} <= set(names(out))
    assert len(SDICInversion.load(out / "photo_inversion.safetensors")) == 1
    assert "PSNR" in capsys.readouterr().out


def test_paste_back_touches_only_the_crop(model, photo, tmp_path):
    run("edit", photo, "--model", model, "--out", tmp_path, "--eyes", "220,150,260,150", "--edit", "size=2",
        "--paste-back", "difference")  # fmt: skip
    before = np.asarray(Image.open(photo))
    after = np.asarray(Image.open(tmp_path / "photo_size_+2_pasted.png"))
    assert after.shape == before.shape
    assert np.array_equal(after[:60], before[:60])  # far above the eyes
    assert not np.array_equal(after, before)
    inversion = np.asarray(Image.open(tmp_path / "photo_inversion_pasted.png"))
    assert np.array_equal(inversion, before)  # nothing was edited, so nothing is added


def test_folder_with_a_bad_file_does_the_rest_and_says_so(model, photo, tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.open(photo).convert("L").save(folder / "grey.jpg")
    Image.open(photo).save(folder / "more" / "grey.png")
    (folder / "broken.jpg").write_bytes(b"<html>404</html>")
    code = run("invert", folder, "--model", model, "--out", tmp_path / "out")
    assert code == 1
    error = capsys.readouterr().err
    assert "broken.jpg" in error and "failed" in error
    assert names(tmp_path / "out") == [
        "grey_inversion.png",
        "grey_sheet.png",
        "more_grey_inversion.png",
        "more_grey_sheet.png",
    ]


def test_same_result_as_the_pipeline(model, photo, tmp_path):
    from sdic_plugin import SDICPipeline

    run("edit", photo, "--model", model, "--out", tmp_path, "--edit", "warmth=1")
    direct = SDICPipeline.from_pretrained(model)(photo, edits={"warmth": 1.0}).images[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "photo_warmth_+1.png")), np.asarray(direct))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--edit", "warmth"], "name=strength"),
        (["--edit", "nonsense=1"], "unknown; this pipeline has: size, warmth"),
        (["--eyes", "1,2,3"], "eyes '1,2,3'"),
        (["--eyes", "10,10,10,10"], "two different eyes"),
        (["--eyes", "10,10,9999,10"], "outside the photo"),
        (["--compensation", "3"], "compensation is 3"),
        (["--mask", "missing.png"], "missing.png"),
        (["--example", "chelsea"], "give one of them"),
    ],
)
def test_wrong_input_is_one_sentence(model, photo, tmp_path, capsys, arguments, message):
    code = run("edit", photo, "--model", model, "--out", tmp_path / "out", "--edit", "size=1", *arguments)
    assert code in (1, 2)
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--example", "chelsea", "--eyes", "1,2,3,4"], "--eyes does nothing with --example chelsea"),
        (["--example", "chelsea", "--face"], "--face does nothing with --example chelsea"),
        (["PHOTO", "--eyes", "1,2,3,4", "--face", "1"], "--face 1 does nothing with --eyes"),
        (["PHOTO", "--mask", "auto"], "--mask does nothing without an edit"),
        (["PHOTO", "--compensation", "0.5"], "--compensation does nothing without an edit"),
        (["PHOTO", "--feature-edit", "official"], "--feature-edit does nothing without an edit"),
        (["PHOTO", "--edits", "cats64"], "--edits does nothing without an edit"),
    ],
)
def test_options_that_would_do_nothing_are_refused(model, photo, tmp_path, capsys, arguments, message):
    arguments = [photo if argument == "PHOTO" else argument for argument in arguments]
    assert run("edit", *arguments, "--model", model, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_that_no_face_is_found_holds_of_examples_and_given_eyes(model, photo, tmp_path):
    for i, given in enumerate((["--example", "chelsea"], [photo, "--eyes", "100,100,200,100"])):
        assert run("invert", *given, "--face", "none", "--model", model, "--out", tmp_path / str(i)) == 0


def test_unknown_model_and_missing_photo(model, photo, tmp_path, capsys):
    assert run("invert", photo, "--model", tmp_path / "none", "--out", tmp_path) == 2
    assert "neither an existing folder, nor a bundled model" in capsys.readouterr().err
    assert run("invert", tmp_path / "none.jpg", "--model", model, "--out", tmp_path) == 1
    assert "none.jpg" in capsys.readouterr().err
    assert run("invert", "--model", model, "--out", tmp_path) == 2
    assert "give picture files or folders" in capsys.readouterr().err


def test_eyes_need_a_template_and_a_single_photo(photo, tmp_path, capsys):
    make_pipeline().save_pretrained(tmp_path / "plain")
    code = run("invert", photo, "--model", tmp_path / "plain", "--out", tmp_path, "--eyes", "10,10,50,10")
    assert code == 1 and "no alignment template" in capsys.readouterr().err
    with pytest.raises(SDICError, match="belong to one"):
        find_photos([photo, photo], eyes=(1, 2, 3, 4))


def test_photos_of_the_same_name_do_not_overwrite_each_other(photo, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    assert [p.name for p in find_photos([photo, tmp_path / "photo.jpg", photo])] == ["photo", "photo_2", "photo_3"]


def test_example_is_the_photograph_of_scikit_image():
    from skimage import data

    example = load_example("chelsea")
    assert np.array_equal(np.asarray(example.source), data.chelsea())
    assert len(example.eyes) == 4
    with pytest.raises(SDICError, match="there is astronaut, chelsea"):
        load_example("garfield")


def test_the_example_suits_the_model(tiny_pipeline):
    assert suitable_example(tiny_pipeline) == "chelsea"
    tiny_pipeline.register_to_config(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
    assert suitable_example(tiny_pipeline) == "chelsea"
    tiny_pipeline.register_to_config(alignment=FFHQTemplate().to_dict())
    assert suitable_example(tiny_pipeline) == "astronaut"


def test_a_photo_to_be_turned_is_cropped_and_pasted_as_it_is_seen(tiny_pipeline, tmp_path):
    pixels = np.random.RandomState(0).randint(0, 255, (9, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).resize((120, 90)).save(tmp_path / "photo.png", exif=exif)
    upright = load_image(tmp_path / "photo.png")
    expected, alignment = crop_photo(tiny_pipeline, upright, None)
    for source in (tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        crop, found = crop_photo(tiny_pipeline, source, None)
        assert found == alignment and found.photo_size == (90, 120)
        assert np.array_equal(np.asarray(crop), np.asarray(expected))
        assert paste_back(source, crop, found).size == (90, 120)


def test_edit_texts():
    assert parse_edits(["warmth=1.5", "a=-1, b=2"]) == [{"warmth": 1.5}, {"a": -1.0, "b": 2.0}]
    assert edit_label({"warmth": 1.5, "b": -2.0}) == "warmth +1.5, b -2"
    assert file_label("warmth +1.5, b -2") == "warmth_+1.5_b_-2"
    for text in ("warmth", "=1", "warmth=much", "a=1,,"):
        with pytest.raises(EditError, match="name=strength"):
            parse_edits([text])
    for text in ("warmth=1,warmth=2", "a=1,b=2, a =1"):
        with pytest.raises(EditError, match=r"names '(warmth|a)' twice: give one strength for it"):
            parse_edits([text])
