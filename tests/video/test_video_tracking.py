"""Following a face: the same one, through gaps and past another, on clips of scikit-image's astronaut."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps
from testing.tiny_models import make_pipeline
from testing.video_clips import moved_photo, write_clip

from sdic_plugin import DirectionEdit, FFHQTemplate, SDICError
from sdic_plugin.photos import load_example
from sdic_plugin.video import VideoOptions, edit_video, finding
from sdic_plugin.video.finding import Seen, find_track, follow_face
from sdic_plugin.video.reading import Frame, VideoReader
from sdic_plugin.video.track import Track, to_place
from sdic_plugin.video.tracking import FaceTracker

pytest.importorskip("cv2", reason="needs OpenCV")
pytest.importorskip("skimage", reason="needs scikit-image")


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    """Head and shoulders, 300 x 240, the face's middle at (150, 100)."""
    return load_example("astronaut").source.crop((74, 22, 374, 262))


def other(photo: Image.Image) -> Image.Image:
    """Somebody else: the face mirrored, darker and of other colours."""
    red, green, blue = ImageOps.mirror(photo).split()
    return Image.merge("RGB", (blue, red.point(lambda v: v * 0.7), green.point(lambda v: v * 0.8)))


def head(photo: Image.Image) -> Image.Image:
    return photo.crop((85, 20, 215, 180))


def locate(frames, choice="largest", cuts=()) -> list[tuple[float, float] | None]:
    """Centres of the crops that are found."""
    tracker, centres = FaceTracker(FFHQTemplate(), (64, 64), choice), []
    for i, frame in enumerate(frames):
        found = tracker.locate(frame if isinstance(frame, Image.Image) else Image.fromarray(frame), i in cuts)
        centres.append(None if found is None else tuple(found.crop_to_photo((32, 32))))
    return centres


def test_a_face_is_followed(astronaut):
    shifts = [(30 * np.sin(i / 4), 10 * np.cos(i / 3)) for i in range(12)]
    centres = locate(moved_photo(astronaut, shifts))
    assert None not in centres
    back = np.array(centres) - np.array(shifts)
    assert np.abs(back - back.mean(axis=0)).max() < 4


@pytest.mark.parametrize("turn", [0, 1.0])
def test_every_second_frame_of_a_face_that_moves_evenly_is_enough(astronaut, turn):
    shifts = [(20 * np.sin(i / 8), 8 * np.cos(i / 9)) for i in range(24)]
    frames = moved_photo(astronaut, shifts)
    frames = [np.asarray(Image.fromarray(f).rotate(turn * i, center=(150, 100))) for i, f in enumerate(frames)]
    tracker, each = FaceTracker(FFHQTemplate(), (64, 64)), FaceTracker(FFHQTemplate(), (64, 64))
    seen = [Seen(i, 1, False, Image.fromarray(frame).copy) for i, frame in enumerate(frames)]
    groups = list(follow_face(iter(seen), tracker))
    assert [frame for group, _ in groups for frame in group] == seen
    places = np.array([place for _, found in groups for place in found])
    wanted = np.array([to_place(each.locate(frame.picture(), False)) for frame in seen])
    pairs = sum(len(group) == 2 for group, _ in groups)
    assert pairs > 4 or turn
    assert np.hypot(*(places - wanted)[:, :2].T).max() < 3  # pixels
    assert np.abs(places - wanted)[:, 2:].max() < 0.06


def test_a_face_that_starts_or_stops_is_looked_at_in_the_frame_passed_over(astronaut):
    shifts = [(0, 0)] * 8 + [(12.0 * i, 0) for i in range(8)]
    seen = [Seen(i, 1, False, Image.fromarray(f).copy) for i, f in enumerate(moved_photo(astronaut, shifts))]
    found = [place for _, places in follow_face(iter(seen), FaceTracker(FFHQTemplate(), (64, 64))) for place in places]
    back = np.array(found)[:, :2] - np.array(shifts)
    assert np.abs(back - np.median(back, axis=0)).max() < 4


def test_a_shot_ends_with_a_frame_that_was_looked_at(astronaut):
    """Whether the last frame before a cut, or of all, would have been passed over or not."""
    pictures = [Image.fromarray(f) for f in moved_photo(astronaut, [(0, 0)] * 10)]
    for cut in (7, 8, 9):
        seen = [Seen(i, 1, i == cut, picture.copy) for i, picture in enumerate(pictures)]
        groups = list(follow_face(iter(seen), FaceTracker(FFHQTemplate(), (64, 64))))
        assert not np.isnan([place for _, places in groups for place in places]).any()


def scene(astronaut: Image.Image, first: float, second: float | None, ahead: str = "second") -> Image.Image:
    """Two heads side by side, their middles at some x; one may pass before the other."""
    picture = Image.new("RGB", (480, 200), (90, 110, 120))
    heads = [(head(astronaut), first), (head(other(astronaut)), second)]
    for piece, x in heads if ahead == "second" else heads[::-1]:
        if x is not None:
            picture.paste(piece, (round(x) - 65, 20))
    return picture


def test_two_faces_cross(astronaut):
    way = np.linspace(90, 390, 25)
    for ahead in ("first", "second"):
        frames = [scene(astronaut, x, 480 - x, ahead) for x in way]
        for choice, expected in ((0, way), (1, 480 - way)):
            centres = locate(frames, choice)
            seen = [(c[0], x) for c, x in zip(centres, expected, strict=True) if c is not None]
            assert len(seen) >= 12
            assert max(abs(found - x) for found, x in seen) < 30, "it stays with the face that it began with"
            assert centres[-1] is not None


def test_the_largest_face_is_taken_unless_another_is_asked_for(astronaut):
    picture = Image.new("RGB", (480, 200), (90, 110, 120))
    picture.paste(head(other(astronaut)).resize((80, 98)), (20, 30))
    picture.paste(head(astronaut), (300, 20))
    for choice, left in (("largest", False), (0, True), (1, False), (7, False)):
        (centre,) = locate([picture], choice)
        assert (centre[0] < 200) == left


def test_a_face_that_is_hidden_comes_back(astronaut):
    frames = [Image.fromarray(frame) for frame in moved_photo(astronaut, [(2 * i, 0) for i in range(24)])]
    for frame in frames[8:16]:
        frame.paste((80, 90, 100), (60, 0, 260, 240))
    centres = locate(frames)
    assert [i for i, centre in enumerate(centres) if centre is None] == list(range(8, 16))


def test_a_cut_chooses_anew(astronaut):
    first = [scene(astronaut, 100, None)] * 3
    second = [scene(astronaut, -200, 380)] * 3
    assert [c is None for c in locate([*first, *second], cuts=(3,))] == [False] * 6
    stays = locate([*first, *second])
    assert stays[3:] == [None] * 3, "within a shot nobody else is taken for the one that is followed"


# With the whole pipeline, on a model of faces.


@pytest.fixture(scope="module")
def pipe():
    import torch

    pipe = make_pipeline(alignment=FFHQTemplate().to_dict())
    pipe.add_edit(DirectionEdit("smile", tensors={"direction": torch.ones(16)}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def hidden(astronaut: Image.Image, frames: range, count: int = 40) -> list[np.ndarray]:
    pictures = moved_photo(astronaut, [(i, 0) for i in range(count)])
    for i in frames:
        pictures[i][30:180, 85 + i : 215 + i] = (80, 90, 100)
    return pictures


def test_short_gaps_are_filled_and_long_ones_stay_as_they_are(pipe, astronaut, tmp_path):
    options = VideoOptions(edits={"smile": 2.0}, longest_gap=0.3)
    short = write_clip(tmp_path / "short.mp4", hidden(astronaut, range(10, 15)))
    assert edit_video(pipe, short, tmp_path / "short_out.mp4", options).edited == 40
    long = write_clip(tmp_path / "long.mp4", hidden(astronaut, range(10, 22)))
    summary = edit_video(pipe, long, tmp_path / "long_out.mp4", options)
    assert (summary.frames, summary.edited) == (40, 28)


def test_a_clip_without_any_face(pipe, astronaut, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "KEPT_FRAMES", 5)
    clip = write_clip(tmp_path / "clip.mp4", hidden(astronaut, range(12), 12))
    with pytest.raises(SDICError, match=r"No face was found in any of the 12 frames .*--eyes.*--face none"):
        edit_video(pipe, clip, tmp_path / "out.mp4", VideoOptions(edits={"smile": 1.0}))
    with pytest.raises(SDICError, match="No face"):
        edit_video(pipe, clip, tmp_path / "new" / "folder" / "out.mp4", VideoOptions(edits={"smile": 1.0}))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    summary = edit_video(pipe, clip, tmp_path / "out.mp4", VideoOptions(edits={"smile": 1.0}, face=None))
    assert summary.edited == 12


def test_a_search_that_was_stopped_goes_on(pipe, astronaut, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "KEPT_FRAMES", 5)
    clip = write_clip(tmp_path / "clip.mp4", hidden(astronaut, range(12, 15), 24))
    found, parts, looked, rgb = [], [], [], Frame.rgb
    monkeypatch.setattr(Frame, "rgb", lambda self: looked.append(self.index) or rgb(self))
    for part in (None, 0, 1, 2, 3):
        kept = None
        if part is not None:
            parts[part].save(tmp_path / "part.npz")
            kept = Track.load(tmp_path / "part.npz")
        tracker = FaceTracker(FFHQTemplate(), (32, 32))
        found.append(find_track(VideoReader(clip), tracker, (32, 32), part=kept, keep=parts.append))
        first = 0 if kept is None else len(kept)
        assert first in looked or first + 1 in looked
        assert min(looked) >= first and max(looked) == 23
        looked.clear()
    assert all(np.array_equal(each.places, found[0].places, equal_nan=True) for each in found[1:])


def test_cuts_split_shots(pipe, astronaut, tmp_path):
    frames = moved_photo(astronaut, [(i, 0) for i in range(10)])
    turned = [frame[:, ::-1][::1].copy() for frame in moved_photo(other(astronaut), [(-40, 10)] * 10)]
    clip = write_clip(tmp_path / "clip.mp4", [*frames, *turned])
    reader = VideoReader(clip)
    track = find_track(reader, FaceTracker(FFHQTemplate(), (32, 32)), (32, 32))
    assert np.flatnonzero(track.cuts).tolist() == [10] and track.has_subject.all()
    steady = track.steadied(reader.info.time_base, 0.5, 0.2)
    assert abs(steady.places[9, 0] - track.places[9, 0]) < 3 and abs(steady.places[10, 0] - track.places[10, 0]) < 3


def test_several_faces_are_told_of(pipe, astronaut, tmp_path):
    frames = [np.asarray(scene(astronaut, 100, 380)) for _ in range(4)]
    clip = write_clip(tmp_path / "clip.mp4", frames)
    summary = edit_video(pipe, clip, tmp_path / "out.mp4", VideoOptions(edits={"smile": 1.0}))
    assert any("largest of its 2 faces was followed; --face N" in note for note in summary.notes)
