"""Whose results the files of a folder are: names, marks, --skip-existing, and folders that hold their own results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import make_pipeline

from sdic_plugin import DirectionEdit, SDICError
from sdic_plugin.commands.cli import main
from sdic_plugin.photos.find import find_photos
from sdic_plugin.photos.fingerprints import file_digest
from sdic_plugin.photos.photo import face_settings
from sdic_plugin.photos.results import read_mark


def save_model(folder: Path, seed: int = 0) -> Path:
    pipe = make_pipeline()
    pipe.register_to_config(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
    for i, name in enumerate(("warmth", "size")):
        rng = torch.Generator().manual_seed(10 * seed + i)
        pipe.add_edit(DirectionEdit(name, tensors={"direction": torch.randn(16, generator=rng)}))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model on disk, with two edits and an alignment template."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


def save_photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 255, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((60, 45)).save(path)
    return path


def run(command, *arguments):
    return main([command, *map(str, arguments)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def assert_made_of(result: Path, photo: Path, alone: Path) -> None:
    """Check the mark, and that the pixels are those that the photo gives alone, up to the rounding of batches."""
    assert read_mark(result).content == file_digest(photo)
    difference = np.asarray(Image.open(result)).astype(int) - np.asarray(Image.open(alone))
    assert np.abs(difference).max() <= 1


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir()) if path.is_file()}


# ---------------------------------------------------------------- names


def test_photos_of_one_name_keep_their_results_apart_and_their_names(model, tmp_path, capsys):
    photos = [save_photo(tmp_path / name, i) for i, name in enumerate(("a/cat.png", "a/cat.tiff", "b/cat.png"))]
    arguments = ["--model", model, "--no-sheets"]
    names = ("cat", "cat_2", "cat_3")
    for i, photo in enumerate(photos):
        run("invert", photo, *arguments, "--out", tmp_path / f"alone{i}")
        run("invert", photo, *arguments, "--out", tmp_path / "out")

    def check() -> None:
        assert set(contents(tmp_path / "out")) == {f"{name}_inversion.png" for name in names}
        for i, (photo, name) in enumerate(zip(photos, names, strict=True)):
            alone = tmp_path / f"alone{i}" / "cat_inversion.png"
            assert_made_of(tmp_path / "out" / f"{name}_inversion.png", photo, alone)

    check()
    assert f"cat_3 is {photos[2]}" in capsys.readouterr().out
    # Once more, in another order and all together, they have the same names.
    run("invert", *photos[::-1], *arguments, "--out", tmp_path / "out")
    check()
    # A photo that was moved is still the same one.
    photos[1] = photos[1].rename(tmp_path / "cat.tiff")
    run("invert", photos[1], *arguments, "--out", tmp_path / "out")
    check()


def test_names_that_differ_in_case_or_accents_only_are_made_to_differ(tmp_path):
    folder = tmp_path / "photos"
    for i, name in enumerate(("Cat.png", "cat.tiff", "Zo\u00eb.png", "Zoe\u0308.tiff")):
        save_photo(folder / name, i)
    names = [photo.name for photo in find_photos([folder])]
    assert names == ["Cat", "Zoe\u0308", "Zo\u00eb_2", "cat_2"]


def test_a_result_never_replaces_a_photo(model, tmp_path):
    folder = tmp_path / "photos"
    save_photo(folder / "cat.png", 0)
    other = save_photo(folder / "cat_inversion.png", 1)
    before = other.read_bytes()
    run("invert", folder, "--model", model, "--out", folder, "--no-sheets")
    assert other.read_bytes() == before
    assert sorted(contents(folder)) == [
        "cat.png", "cat_2_inversion.png", "cat_inversion.png", "cat_inversion_inversion.png",
    ]  # fmt: skip


def test_align_beside_the_photo_leaves_the_photo(tmp_path):
    photo = save_photo(tmp_path / "cat.png", 0)
    before = photo.read_bytes()
    arguments = ["--model", "cats64", "--eyes", "10,10,40,12", "--out", tmp_path]
    for _ in range(2):
        assert run("align", photo, *arguments) == 0
        assert photo.read_bytes() == before
        assert sorted(contents(tmp_path)) == ["cat.png", "cat_2.json", "cat_2.png"]
    other = save_photo(tmp_path / "other" / "cat.jpg", 1)
    assert run("align", other, *arguments[:-1], tmp_path) == 0
    assert sorted(contents(tmp_path)) == ["cat.png", "cat_2.json", "cat_2.png", "cat_3.json", "cat_3.png"]


def test_different_strengths_have_different_files(model, tmp_path):
    photo = save_photo(tmp_path / "cat.png", 0)
    edits = ["--edit", "warmth=1.2345678", "--edit", "warmth=1.2345679"]
    run("edit", photo, "--model", model, "--out", tmp_path / "out", "--no-sheets", *edits)
    assert sorted(contents(tmp_path / "out")) == [
        "cat_inversion.png", "cat_warmth_+1.2345678.png", "cat_warmth_+1.2345679.png",
    ]  # fmt: skip


# ---------------------------------------------------------------- --skip-existing


def make_results(photos: Path, model: Path, out: Path, *more: str) -> set[str]:
    """Edit photos, what is done already excepted; returns what was written anew."""
    before = times(out) if out.is_dir() else {}
    arguments = ["--model", model, "--out", out, "--edit", "warmth=1", "--paste-back", "--save-inversion"]
    assert run("edit", photos, *arguments, "--skip-existing", *more) == 0
    return {name for name, time in times(out).items() if before.get(name) != time}


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    """Two photos with an edit each."""
    folder = tmp_path_factory.mktemp("finished")
    for i in range(2):
        save_photo(folder / "photos" / f"cat{i}.png", i)
    assert len(make_results(folder / "photos", model, folder / "out")) == 12
    return folder


@pytest.fixture
def made(model, finished, tmp_path):
    """A copy of them, and how to make them again; returns what was written anew."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)

    def make(*more, photos=tmp_path / "photos", using=model):
        return make_results(photos, using, tmp_path / "out", *more)

    return make


def files(name: str) -> set[str]:
    ends = ("inversion.png", "inversion_pasted.png", "inversion.safetensors", "warmth_+1.png", "sheet.png")
    return {f"{name}_{end}" for end in (*ends, "warmth_+1_pasted.png")}


def test_results_of_the_same_photos_and_settings_are_kept(made, tmp_path):
    assert made() == set()
    # Neither a new time of the photo, nor another place, nor another batch size matters.
    os.utime(tmp_path / "photos" / "cat0.png")
    shutil.copytree(tmp_path / "photos", tmp_path / "copies")
    assert made("--batch-size", "1", photos=tmp_path / "copies") == set()


def test_another_photo_of_the_same_name_is_not_skipped(made, tmp_path):
    save_photo(tmp_path / "others" / "cat0.png", 7)
    assert made(photos=tmp_path / "others") == files("cat0_2")


def test_a_photo_that_was_changed_is_made_anew(made, tmp_path):
    shutil.rmtree(tmp_path / "out")
    assert len(made()) == 12  # of these very photos, not of those that were copied
    save_photo(tmp_path / "photos" / "cat1.png", 7)
    assert made() == files("cat1")


@pytest.mark.parametrize(
    "settings",
    [["--compensation", "0.5"], ["--feature-edit", "official"], ["--mask", "auto"], ["--mask", "MASK"]],
)
def test_settings_of_edits_concern_the_edits_only(made, tmp_path, settings):
    mask = save_photo(tmp_path / "mask.png", 3)
    settings = [str(mask) if value == "MASK" else value for value in settings]
    assert {"cat0_warmth_+1.png", "cat1_sheet.png"} <= made(*settings)
    assert made(*settings) == set()
    assert {"cat0_warmth_+1.png"} <= made()
    if str(mask) in settings:
        made(*settings)
        save_photo(mask, 4)
        assert {"cat0_warmth_+1.png"} <= made(*settings)


@pytest.mark.parametrize(
    "settings", [["--refine-steps", "1"], ["--paste-back", "difference"], ["--dtype", "bfloat16"]]
)
def test_other_settings_are_not_skipped(made, settings):
    assert made(*settings)
    assert made(*settings) == set()


def test_photos_whose_faces_could_not_be_looked_for_are_made_anew(monkeypatch):
    with_opencv = face_settings("auto")
    monkeypatch.setattr("sdic_plugin.photos.photo.has_opencv", lambda: False)
    assert face_settings("auto") != with_opencv
    assert face_settings("largest") == ("largest",) and face_settings(None) == (None,)


def test_eyes_another_model_and_other_edits_of_the_same_name_are_not_skipped(made, tmp_path):
    one = tmp_path / "photos" / "cat0.png"
    assert made("--eyes", "20,20,40,21", photos=one) == files("cat0")
    assert made("--eyes", "20,20,40,21", photos=one) == set()
    assert made("--eyes", "20,20,40,22", photos=one) == files("cat0")
    other = save_model(tmp_path / "other", seed=1)  # only its edits differ
    assert "cat1_warmth_+1.png" in made(using=other)
    pipe = make_pipeline()
    with torch.no_grad():
        pipe.encoder.state_dict()[next(iter(pipe.encoder.state_dict()))].flatten()[0].add_(1)
    trained = save_model(tmp_path / "trained")
    pipe.encoder.save_pretrained(trained / "encoder")
    assert made(using=trained) == files("cat0") | files("cat1")


def test_a_result_of_edits_in_other_commands_is_kept(model, tmp_path):
    photo, out = save_photo(tmp_path / "cat.png", 0), tmp_path / "out"
    common = ["--model", model, "--out", out, "--no-sheets", "--skip-existing"]
    for edits in (["--edit", "warmth=1"], ["--edit", "size=1"]):
        assert run("edit", photo, *common, *edits) == 0
    before = times(out)
    assert run("edit", photo, *common, "--edit", "size=1", "--edit", "warmth=1") == 0
    assert times(out) == before


@pytest.mark.parametrize("damage", ["no mark", "junk", "half a file", "wrong types", "not text"])
@pytest.mark.parametrize("name", ["cat0_warmth_+1.png", "cat0_inversion.safetensors"])
def test_files_without_a_sound_mark_are_made_anew(made, tmp_path, damage, name):
    path = tmp_path / "out" / name
    texts = {"no mark": {}, "junk": {"sdic": "{"}, "wrong types": {"sdic": '{"kind": 1}'}, "not text": {"sdic": "[]"}}
    if damage == "half a file":
        path.write_bytes(path.read_bytes()[:40])
    elif path.suffix == ".png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for key, text in texts[damage].items():
            info.add_text(key, text)
        Image.open(path).save(path, pnginfo=info)
    else:
        from safetensors.torch import load_file, save_file

        save_file(load_file(path), path, metadata={"format": "sdic-inversion-2", **texts[damage]})
    assert read_mark(path) is None
    assert made() == files("cat0")
    assert made() == set()


def test_an_interrupted_run_is_finished(made, tmp_path):
    """What was written last is missing; what was written before, with other settings, does not pass for it."""
    made("--compensation", "0.5")
    for name in ("cat1_warmth_+1.png", "cat1_sheet.png"):
        (tmp_path / "out" / name).unlink()
    assert made("--compensation", "0.5") == files("cat1")


def test_sweeps_skip_and_keep_apart_too(model, tmp_path, capsys):
    photo, out = save_photo(tmp_path / "cat.png", 0), tmp_path / "out"
    command = ["edit", photo, "--model", model, "--out", out, "--skip-existing", "--sweep"]
    assert run(*command, "warmth=-1:1:3") == 0
    before = times(out)
    assert run(*command, "warmth=-1:1:3") == 0
    assert times(out) == before
    assert "1 photos were done already" in capsys.readouterr().out
    assert run(*command, "warmth=-2:2:3") == 0
    assert all(times(out)[name] != before[name] for name in before)
    command[1] = save_photo(tmp_path / "other" / "cat.jpg", 1)
    assert run(*command, "warmth=-1:1:3") == 0
    assert {"cat_2_sweep_warmth.gif", "cat_2_sweep_warmth.png"} == times(out).keys() - before.keys()


# ---------------------------------------------------------------- results where photos are searched


@pytest.mark.parametrize("place", [".", "results", "results/deep"])
@pytest.mark.parametrize("command", [["edit", "--edit", "warmth=1"], ["edit", "--sweep", "warmth=-1:1:2"], ["invert"]])
def test_a_folder_with_its_own_results_in_it_gives_the_same_again(model, tmp_path, place, command):
    folder = tmp_path / "photos"
    for i, name in enumerate(("cat.jpg", "more/dog.png")):
        save_photo(folder / name, i)
    arguments = [*command, folder, "--model", model, "--out", folder / place]
    assert run(*arguments) == 0
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(first) > 2
    assert run(*arguments) == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_results_given_by_name_are_left_out_with_a_note(model, tmp_path, capsys):
    photo = save_photo(tmp_path / "cat.png", 0)
    arguments = ["--model", model, "--out", tmp_path, "--no-sheets"]
    run("invert", photo, *arguments)
    result = tmp_path / "cat_inversion.png"
    run("invert", photo, result, *arguments)
    assert sorted(contents(tmp_path)) == ["cat.png", "cat_inversion.png"]
    assert run("invert", result, *arguments) == 2
    assert "earlier results" in capsys.readouterr().err
    assert run("invert", result, *arguments[:3], tmp_path / "again", "--no-sheets") == 0


def test_aligned_crops_are_photos_for_the_pipeline_but_not_for_align(model, tmp_path):
    photo, crops = save_photo(tmp_path / "cat.png", 0), tmp_path / "crops"
    assert run("align", photo, "--model", "cats64", "--eyes", "10,10,40,12", "--out", crops) == 0
    assert run("invert", crops, "--model", model, "--out", crops, "--no-sheets") == 0
    assert sorted(contents(crops)) == ["cat.json", "cat.png", "cat_inversion.png"]
    assert run("align", crops, "--out", crops, "--eyes", "10,10,40,12") == 2


@pytest.mark.slow
def test_processes_name_photos_alike(model, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    for i, name in enumerate(("a.jpg", "a.png", "b.jpg", "b.png", "c.png")):
        save_photo(folder / name, i)
    run("invert", folder / "b.png", "--model", model, "--out", out, "--no-sheets")  # so it is `b`
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
         "sdic_plugin", "invert", str(folder), "--model", str(model), "--out", str(out), "--no-sheets"],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert sorted(contents(out)) == sorted(f"{name}_inversion.png" for name in ("a", "a_2", "b", "b_2", "c"))
    for photo, name in (("a.png", "a_2"), ("b.jpg", "b_2")):
        run("invert", folder / photo, "--model", model, "--out", tmp_path / photo, "--no-sheets")
        alone = tmp_path / photo / f"{photo[0]}_inversion.png"
        assert_made_of(out / f"{name}_inversion.png", folder / photo, alone)


def test_marks_name_no_path(model, tmp_path):
    photo = save_photo(tmp_path / "secret_place" / "cat.png", 0)
    run("invert", photo, "--model", model, "--out", tmp_path / "out", "--save-inversion")
    for path in (tmp_path / "out").iterdir():
        assert b"secret_place" not in path.read_bytes()
        assert set(json.loads(json.dumps(vars(read_mark(path))))) == {"kind", "photo", "state", "content", "settings"}


# ---------------------------------------------------------------- places that cannot be written


@pytest.mark.parametrize("command", ["invert", "edit", "align", "sweep"])
def test_a_place_that_cannot_be_written_is_said_before_the_work(model, tmp_path, capsys, command):
    photo = save_photo(tmp_path / "cat.png", 0)
    (tmp_path / "file").write_text("")
    arguments = {
        "align": ["align", photo, "--eyes", "10,10,40,12"],
        "sweep": ["edit", photo, "--sweep", "warmth=0:1:2"],
    }
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/sdic"):
        assert run(*arguments.get(command, [command, photo]), "--model", model, "--out", out) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("sdic: ") and len(error.splitlines()) == 1 and "cannot be made or written" in error


@pytest.mark.parametrize("size", ["100000", "0", "-5", "4097"])
def test_crops_of_impossible_sizes_are_refused(tmp_path, capsys, size):
    photo = save_photo(tmp_path / "cat.png", 0)
    assert run("align", photo, "--eyes", "10,10,40,12", "--size", size, "--out", tmp_path / "out") == 2
    assert "sides of 1 to 4096 pixels are needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_edits_that_share_a_file_name_are_refused(model, tmp_path, capsys):
    pipe_folder = tmp_path / "model"
    pipe = make_pipeline()
    for name in ("a b", "a_b"):
        pipe.add_edit(DirectionEdit(name, tensors={"direction": torch.ones(16)}))
    pipe.save_pretrained(pipe_folder)
    photo = save_photo(tmp_path / "cat.png", 0)
    arguments = ["--model", pipe_folder, "--out", tmp_path / "out", "--edit", "a b=1", "--edit", "a_b=1"]
    assert run("edit", photo, *arguments) == 2
    assert "go to one file name" in capsys.readouterr().err
    with pytest.raises(SDICError, match="No photo was found"):
        find_photos([], output=tmp_path)
