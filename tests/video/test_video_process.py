"""A whole video through the pipeline: what is edited, what stays, times, sound, and runs that are stopped."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from testing.tiny_models import make_pipeline
from testing.video_clips import SIZE, frames_of, sound_of, squares, times_of, write_clip

from sdic_plugin import DirectionEdit, SDICError, SDICPipeline
from sdic_plugin.video import VideoOptions, edit_video, preview_video, process, progress_folder
from sdic_plugin.video.process import frames_in_flight
from sdic_plugin.video.progress_folder import ProgressFolder

TEMPLATE = {"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]}
EYES = (40.0, 30.0, 56.0, 30.0)
OPTIONS = VideoOptions(edits={"turn": 2.0}, eyes=EYES, quality=4)
IRREGULAR = [0, 512, 900, 1500, 1501, 2600, 4000, 4100, 5000, 7000, 7512, 9000]


@pytest.fixture(scope="module")
def pipe() -> SDICPipeline:
    pipe = make_pipeline(alignment=TEMPLATE)
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def options(**changes: object) -> VideoOptions:
    return VideoOptions(**{**vars(OPTIONS), **changes})


def test_only_the_crop_changes(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", squares(20))
    summary = edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS)
    assert (summary.frames, summary.edited, summary.resumed, summary.notes) == (20, 20, 0, [])
    before, after = (np.array(frames_of(path)).astype(int) for path in (clip, summary.path))
    changed = np.abs(after - before).mean(axis=(0, 3))
    assert changed[20:50, 36:60].mean() > 5
    # The crop is 40 pixels wide; coding spreads a change over its block.
    assert np.median(changed[:, 76:]) < 1.5 and changed[:, 80:].max() < 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_an_edit_of_strength_0_changes_nothing_but_by_coding(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", squares(6), options={"qp": "0"})
    edit_video(pipe, clip, tmp_path / "out.mkv", options(edits={"turn": 0.0}, quality=0))
    assert np.array_equal(frames_of(clip), frames_of(tmp_path / "out.mkv"))  # both without loss


@pytest.mark.parametrize(
    ("source", "result"), [("clip.mp4", "out.mp4"), ("clip.mov", "out.mov"), ("clip.mp4", "out.mkv")]
)
def test_times_and_sound_stay_as_they_are(pipe, tmp_path, source, result):
    clip = write_clip(tmp_path / source, squares(12), IRREGULAR, sound="aac")
    edit_video(pipe, clip, tmp_path / result, OPTIONS)
    times, found = times_of(clip), times_of(tmp_path / result)
    assert times[0] == 0 and len(set(np.diff(times))) > 4  # a variable rate
    if result.endswith("mkv"):  # it counts in milliseconds
        assert max(abs(a - b) for a, b in zip(times, found, strict=True)) <= Fraction(1, 2000)
    else:
        assert found == times
    sound, copied = sound_of(clip), sound_of(tmp_path / result)
    assert len(sound) > 5 and [data for _, data in copied] == [data for _, data in sound]
    assert max(abs(a[0] - b[0]) for a, b in zip(sound, copied, strict=True)) <= Fraction(1, 1000)


def test_frames_that_begin_late_still_fit_the_sound(pipe, tmp_path):
    late = [6400 + time for time in IRREGULAR]
    clip = write_clip(tmp_path / "clip.mp4", squares(12), late, sound="aac")
    edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS)
    assert times_of(tmp_path / "out.mp4") == times_of(clip)
    assert times_of(clip)[0] == Fraction(1, 2)
    assert sound_of(tmp_path / "out.mp4") == sound_of(clip)


def test_times_of_american_television(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", squares(9), range(9), time_base=Fraction(1001, 30000))
    edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS)
    assert times_of(tmp_path / "out.mp4") == times_of(clip) == [i * Fraction(1001, 30000) for i in range(9)]


def test_webm_with_its_own_sound(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.webm", squares(12), codec="libvpx-vp9", sound="libopus",
                      time_base=Fraction(1, 1000), options={"crf": "20", "b": "0"})  # fmt: skip
    edit_video(pipe, clip, tmp_path / "out.webm", OPTIONS)
    assert times_of(tmp_path / "out.webm") == times_of(clip)
    assert sound_of(tmp_path / "out.webm") == sound_of(clip)


def test_turned_videos_are_written_upright(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", squares(6), turn=90)
    plain = write_clip(tmp_path / "plain.mp4", squares(6))
    summary = edit_video(pipe, clip, tmp_path / "out.mp4", options(eyes=(24.0, 40.0, 40.0, 40.0)))
    found, upright = frames_of(summary.path), np.rot90(frames_of(plain), 1, axes=(1, 2))
    assert found[0].shape == (SIZE[0], SIZE[1], 3)
    outside = np.abs(np.array(found).astype(int) - upright)[:, 80:]
    assert outside.mean() < 2, "counter-clockwise, as the file asks for"


def test_odd_sizes_become_even(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", squares(5, (97, 65)), codec="ffv1", options={})
    summary = edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS)
    (note,) = summary.notes
    assert "97 x 65 pixels became 98 x 66" in note
    found, original = frames_of(summary.path)[0].astype(int), frames_of(clip)[0].astype(int)
    assert found.shape == (66, 98, 3)
    assert np.abs(found[:65, 85:97] - original[:, 85:]).mean() < 4
    assert np.abs(found[:, 97] - found[:, 96]).mean() < 3


def test_other_kinds_of_pixels(pipe, tmp_path):
    for pixels, codec in (("yuv444p", "libx264"), ("yuv420p10le", "ffv1"), ("rgb24", "ffv1"), ("yuvj420p", "mjpeg")):
        clip = tmp_path / f"{pixels}.mkv"
        write_clip(clip, squares(3), codec=codec, pixels="bgr0" if pixels == "rgb24" else pixels, options={})
        summary = edit_video(pipe, clip, tmp_path / f"{pixels}_out.mp4", OPTIONS)
        found, original = np.array(frames_of(summary.path)), np.array(frames_of(clip))
        assert np.abs(found[:, :, 80:].astype(int) - original[:, :, 80:]).mean() < 5, pixels


# Runs that are stopped.


class Stopped(Exception):
    """What stops a run."""


def stop_at(count: int):
    def progress(part: str, done: int, total: int) -> None:
        if part == "editing" and done >= count:
            raise Stopped

    return progress


@pytest.mark.parametrize("batch_size", [3, 8])
def test_a_stopped_run_goes_on_to_the_same_file(pipe, tmp_path, monkeypatch, batch_size):
    monkeypatch.setattr(progress_folder, "PIECE_FRAMES", 10)
    monkeypatch.setattr(process, "PIECE_FRAMES", 10)
    clip = write_clip(tmp_path / "clip.mp4", squares(45), sound="aac")
    chosen = options(batch_size=batch_size, latent_smoothing=0.05)
    edit_video(pipe, clip, tmp_path / "whole.mp4", chosen)
    resumed = []
    for count in (14, 33):
        with pytest.raises(Stopped):
            edit_video(pipe, clip, tmp_path / "out.mp4", chosen, stop_at(count))
        assert not (tmp_path / "out.mp4").exists()
        assert len(list((tmp_path / "out.mp4.progress").glob("piece_*.nut"))) == count // 10
    calls = []
    summary = edit_video(pipe, clip, tmp_path / "out.mp4", chosen, lambda part, *_: calls.append(part))
    assert summary.resumed == 30 and "finding" not in calls
    resumed.append((tmp_path / "out.mp4").read_bytes())
    assert resumed == [(tmp_path / "whole.mp4").read_bytes()]
    assert not (tmp_path / "out.mp4.progress").exists()


def test_what_was_kept_counts_for_the_same_settings_only(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_folder, "PIECE_FRAMES", 10)
    monkeypatch.setattr(process, "PIECE_FRAMES", 10)
    clip, out = write_clip(tmp_path / "clip.mp4", squares(25)), tmp_path / "out.mp4"
    with pytest.raises(Stopped):
        edit_video(pipe, clip, out, OPTIONS, stop_at(15))
    assert edit_video(pipe, clip, out, options(edits={"turn": -2.0})).resumed == 0
    with pytest.raises(Stopped):
        edit_video(pipe, clip, out, options(overwrite=True), stop_at(15))
    write_clip(clip, squares(26))
    summary = edit_video(pipe, clip, out, options(overwrite=True))
    assert (summary.resumed, summary.frames, len(frames_of(out))) == (0, 26, 26)


def test_damaged_leftovers_are_not_used(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_folder, "PIECE_FRAMES", 10)
    monkeypatch.setattr(process, "PIECE_FRAMES", 10)
    clip, out = write_clip(tmp_path / "clip.mp4", squares(25)), tmp_path / "out.mp4"
    with pytest.raises(Stopped):
        edit_video(pipe, clip, out, OPTIONS, stop_at(15))
    kept = tmp_path / "out.mp4.progress"
    (kept / "track.npz").write_bytes(b"nonsense")
    (kept / "run.json").write_text("[")
    (kept / "mine.txt").write_text("of somebody else")
    assert edit_video(pipe, clip, out, OPTIONS).resumed == 0
    assert sorted(path.name for path in kept.iterdir()) == ["lock", "mine.txt"]


def test_one_process_at_a_time(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", squares(5))
    with ProgressFolder(tmp_path / "out.mp4"), pytest.raises(SDICError, match="Another process is writing"):
        edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS)
    edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS)


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path):
    write_clip(tmp_path / "clip.mp4", squares(700))
    make_pipeline(alignment=TEMPLATE).save_pretrained(tmp_path / "model")
    edit = DirectionEdit("turn", tensors={"direction": torch.ones(16)})
    pipe = SDICPipeline.from_pretrained(tmp_path / "model")
    pipe.add_edit(edit)
    pipe.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "sdic_plugin", "edit", "clip.mp4", "--model", "model", "--edit", "turn=2"]
    command += ["--eyes", "40,30,56,30", "--out"]
    process = subprocess.Popen([*command, "out.mp4"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    kept = tmp_path / "out.mp4.progress"
    while process.poll() is None and not list(kept.glob("piece_*.nut")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "out.mp4").exists() and list(kept.glob("piece_*.nut"))
    for name in ("out.mp4", "whole.mp4"):
        done = subprocess.run([*command, name], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert ("were done already" in done.stdout) == (name == "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


# Bounds.


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of Linux")
def test_memory_does_not_grow_with_the_clip(tmp_path):
    program = """
import resource, sys, torch
from pathlib import Path
from testing.tiny_models import make_pipeline
from testing.video_clips import squares, write_clip
from sdic_plugin import DirectionEdit
from sdic_plugin.video import VideoOptions, edit_video
pipe = make_pipeline(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
folder, count = Path(sys.argv[1]), int(sys.argv[2])
frames = squares(8, (1280, 720))
write_clip(folder / f"{count}.mp4", [frames[i % 8] for i in range(count)], options={"preset": "ultrafast"})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
options = VideoOptions(edits={"turn": 2.0}, eyes=(500.0, 300.0, 620.0, 300.0))
edit_video(pipe, folder / f"{count}.mp4", folder / f"{count}_out.mp4", options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    peaks = []
    for count in (100, 500):
        command = [sys.executable, "-c", program, str(tmp_path), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    frame = 1280 * 720 * 1.5 / 2**20
    assert peaks[1] < frames_in_flight(VideoOptions(edits={"turn": 2.0}), 25) * frame * 3 + 100
    assert peaks[1] < peaks[0] + 60, f"{peaks} MiB"


def test_sound_of_an_unknown_kind_is_left_out_with_a_note(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", squares(6), sound="aac")
    clip.write_bytes(clip.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    summary = edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS)
    assert summary.edited == 6 and any("FFmpeg does not know" in note for note in summary.notes)
    assert len(frames_of(tmp_path / "out.mp4")) == 6


# Previews.


def test_a_preview_shows_frames_and_spares_the_search(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", squares(20))
    shown = preview_video(pipe, clip, tmp_path / "out.mp4", OPTIONS, count=3)
    assert shown.path.name == "out_preview.png" and not (tmp_path / "out.mp4").exists()
    assert (shown.frames, shown.edited) == (20, 20)
    parts = []
    edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS, lambda part, *_: parts.append(part))
    assert set(parts) == {"editing"}
    with pytest.raises(SDICError, match="1 to 64"):
        preview_video(pipe, clip, tmp_path / "other.mp4", OPTIONS, count=65)


def test_a_preview_says_what_the_video_would(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.avi", squares(4, (65, 48)), codec="mjpeg", pixels="yuvj420p", options={})
    shown = preview_video(pipe, clip, tmp_path / "out.mp4", OPTIONS, count=1)
    assert shown.notes == edit_video(pipe, clip, tmp_path / "out.mp4", OPTIONS).notes and "66 x 48" in str(shown.notes)


def test_a_mask_that_cannot_be_read_is_told_at_once(pipe, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", squares(4))
    options = dataclasses.replace(OPTIONS, mask=str(tmp_path / "none.png"))
    for run in (edit_video, preview_video):
        with pytest.raises(SDICError, match=r"none\.png"):
            run(pipe, clip, tmp_path / "out.mp4", options)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
