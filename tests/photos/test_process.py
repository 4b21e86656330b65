"""Folders of photos: batches, what is in flight, resuming, several processes."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from testing.tiny_models import make_pipeline

from sdic_plugin import SDICError, SDICInversion
from sdic_plugin.commands.cli import main
from sdic_plugin.images.reading import load_image
from sdic_plugin.photos import process as photo_processing
from sdic_plugin.photos.find import find_photos
from sdic_plugin.photos.process import BATCHES_AHEAD, KeptPhotos, PhotoOptions, process_photos
from sdic_plugin.photos.processes import Processes


@pytest.fixture
def folder(tmp_path):
    """Seven photos and a file that is none."""
    (tmp_path / "photos").mkdir()
    for i in range(7):
        pixels = np.random.RandomState(i).randint(0, 255, (9, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((60 + i, 45)).save(tmp_path / "photos" / f"cat{i}.png")
    (tmp_path / "photos" / "cat3_broken.png").write_bytes(b"<html>404</html>")
    return tmp_path / "photos"


def levels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_batches_give_what_single_photos_do(folder, tmp_path, tiny_pipeline):
    photos, counted = find_photos([folder]), []
    for size in (1, 3):
        options = PhotoOptions(batch_size=size, save_inversion=True, sheets=False)
        summary = process_photos(tiny_pipeline, photos, tmp_path / str(size), options, counted.append)
        assert list(summary.failed) == [str(folder / "cat3_broken.png")]
        assert list(summary.figures) == [f"cat{i}" for i in range(7)]
        assert sorted(summary.written) == sorted((tmp_path / str(size)).iterdir())
    assert sum(counted) == 2 * len(photos)
    for i in range(7):
        first, second = (tmp_path / size / f"cat{i}_inversion.png" for size in ("1", "3"))
        assert np.abs(levels(first) - levels(second)).max() <= 1
        assert len(SDICInversion.load(tmp_path / "3" / f"cat{i}_inversion.safetensors")) == 1


def test_no_more_photos_are_in_flight_than_said(folder, tmp_path, monkeypatch):
    """Reading may not run away from computing, nor computing from writing."""
    pipe, lock = make_pipeline(), threading.Lock()
    pipe.set_progress_bar_config(disable=True)
    in_flight, most = [0], [0]
    load, finish = photo_processing.load_image, photo_processing._finish

    def counting_load(source):
        with lock:
            in_flight[0] += 1
            most[0] = max(most[0], in_flight[0])
        return load(source)

    def counting_finish(*arguments):
        finish(*arguments)
        with lock:
            in_flight[0] -= 1

    monkeypatch.setattr(photo_processing, "load_image", counting_load)
    monkeypatch.setattr(photo_processing, "_finish", counting_finish)
    (folder / "cat3_broken.png").unlink()
    photos = 6 * find_photos([folder])
    summary = process_photos(pipe, photos, tmp_path / "out", PhotoOptions(batch_size=2, sheets=False))
    assert not summary.failed
    assert in_flight[0] == 0
    # Those being read, those that wait to be written, and a batch on its way.
    assert most[0] <= 2 * BATCHES_AHEAD * 2 + 2 + 2 < len(photos)


def test_photos_that_are_done_are_left_out(folder, tmp_path, capsys):
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path / "model")
    arguments = ["invert", folder, "--model", tmp_path / "model", "--out", tmp_path / "out", "--batch-size", "4"]
    arguments = [*map(str, arguments), "--save-inversion", "--skip-existing"]
    assert main(arguments) == 1
    assert len(list((tmp_path / "out").iterdir())) == 21  # picture, inversion and sheet of each
    (tmp_path / "out" / "cat2_sheet.png").unlink()
    kept = (tmp_path / "out" / "cat4_inversion.png").stat().st_mtime_ns
    capsys.readouterr()
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "3 files written" in said.out and "6 photos were done already" in said.out
    assert "cat3_broken.png" in said.err
    assert (tmp_path / "out" / "cat4_inversion.png").stat().st_mtime_ns == kept
    assert main([*arguments, "--no-sheets"]) == 1
    assert "7 photos were done already" in capsys.readouterr().out


def test_shares_of_processes_are_the_whole(folder, tmp_path, tiny_pipeline):
    photos, written = find_photos([folder]), []
    for index in range(2):
        options = PhotoOptions(sheets=False)
        summary = process_photos(tiny_pipeline, photos, tmp_path / "out", options, processes=Processes(index, 2))
        assert len(summary.figures) in (3, 4)
        written += summary.written
    assert sorted(path.name for path in written) == [f"cat{i}_inversion.png" for i in range(7)]


@pytest.mark.slow
def test_processes_share_the_photos(folder, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
         "sdic_plugin", "invert", str(folder), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(f"cat{i}_{what}.png" for i in range(7) for what in ("inversion", "sheet"))
    assert result.stdout.count("files written") == 1, result.stderr
    assert "14 files written" in result.stdout
    assert result.stdout.count("PSNR") == 7
    assert result.stderr.count("failed: ") == 1
    assert result.returncode == 1  # torchrun's, as a process of its own ended with 1


def test_a_photo_that_is_pasted_into_is_decoded_once(folder, tmp_path, tiny_pipeline, monkeypatch):
    paths, load = [], photo_processing.load_image

    def counting_load(source, **options):
        paths.extend([source] if not isinstance(source, Image.Image) else [])
        return load(source, **options)

    monkeypatch.setattr(photo_processing, "load_image", counting_load)
    photos = find_photos([folder / "cat0.png"])
    process_photos(tiny_pipeline, photos, tmp_path / "kept", PhotoOptions(paste="replace", sheets=False))
    assert len(paths) == 1
    # What is kept for that is bounded, whatever waits: other photos are read again.
    monkeypatch.setattr(photo_processing, "MAX_PIXELS", 65 * 45)
    photos = [photo for photo in find_photos([folder]) if "broken" not in photo.name]
    process_photos(tiny_pipeline, photos, tmp_path / "out", PhotoOptions(paste="replace", sheets=False))
    assert len(photos) + 1 < len(paths) <= 1 + 2 * len(photos)
    kept, again = (tmp_path / name / "cat0_inversion_pasted.png" for name in ("kept", "out"))
    assert np.abs(levels(kept) - levels(again)).max() <= 1


def test_kept_photos_are_bounded_and_forgotten():
    kept = KeptPhotos(100)
    first, second = Image.new("RGB", (8, 10)), Image.new("RGB", (8, 10))
    assert kept.keep(first) is first
    assert kept.keep(second) is None
    del first
    assert kept.keep(second) is second


@pytest.mark.parametrize("mode", ["replace", "difference"])
def test_a_transparent_photo_stays_so_when_crops_are_pasted_into_it(tmp_path, tiny_pipeline, mode):
    pixels = np.random.RandomState(0).randint(0, 255, (45, 60, 4), np.uint8)
    pixels[:, :20, 3], pixels[:, 20:40, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "cut_out.png")
    load_image(tmp_path / "cut_out.png").save(tmp_path / "opaque.png")
    photos = find_photos([tmp_path / "cut_out.png", tmp_path / "opaque.png"])
    process_photos(tiny_pipeline, photos, tmp_path / "out", PhotoOptions(paste=mode, sheets=False, batch_size=1))
    cut_out, opaque = (levels(tmp_path / "out" / f"{photo.name}_inversion_pasted.png") for photo in photos)
    assert cut_out.shape == (45, 60, 4)
    np.testing.assert_array_equal(cut_out[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(cut_out[:, :20], pixels[:, :20])
    np.testing.assert_array_equal(cut_out[:, 20:40, :3], opaque[:, 20:40])
    # The networks saw it on white, as ever.
    first, second = (levels(tmp_path / "out" / f"{photo.name}_inversion.png") for photo in photos)
    np.testing.assert_array_equal(first, second)


def test_inversions_are_shown_without_the_edits_that_are_active(folder, tmp_path, pipe):
    photos = find_photos([folder / "cat0.png"])
    process_photos(pipe, photos, tmp_path / "plain", PhotoOptions(sheets=False))
    pipe.set_edits("turn", 3.0)
    process_photos(pipe, photos, tmp_path / "active", PhotoOptions(sheets=False))
    plain, active = (levels(tmp_path / name / "cat0_inversion.png") for name in ("plain", "active"))
    np.testing.assert_array_equal(plain, active)


def test_batches_of_nothing_are_refused(folder, tmp_path, tiny_pipeline):
    with pytest.raises(SDICError, match="batch_size is 0"):
        process_photos(tiny_pipeline, find_photos([folder]), tmp_path, PhotoOptions(batch_size=0))
