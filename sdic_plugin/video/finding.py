"""The first time through a video: its shots, and where the subject is in each frame."""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.alignment import Alignment
from sdic_plugin.video.ahead import ahead
from sdic_plugin.video.cuts import CutFinder
from sdic_plugin.video.reading import VideoReader
from sdic_plugin.video.track import Place, Track, to_place
from sdic_plugin.video.tracking import FaceTracker, Locator

KEPT_FRAMES = 500
"""Frames after which what was found so far is kept."""

FRAMES_AHEAD = 2
"""Frames that are decoded, and made RGB, while others are looked at."""

NOWHERE: Place = (math.nan,) * 4


@dataclass(frozen=True)
class Seen:
    """What is looked at of a frame, and kept of it.

    Attributes:
        time: In ticks of the video's time base.
        duration: In ticks; 0 if unknown.
        cut: Whether a new shot begins with it.
        picture: RGB and upright; None where it need not be looked at.
    """

    time: int
    duration: int
    cut: bool
    picture: Image.Image | None

    def without_picture(self) -> Seen:
        """The same without the picture, which takes memory."""
        return replace(self, picture=None)


Found = tuple[Sequence[Seen], Sequence[Place]]
"""Some frames in a row, and where the subject is in each."""


def find_track(
    reader: VideoReader,
    locator: Locator,
    crop_size: tuple[int, int],
    progress: Callable[[int], object] | None = None,
    part: Track | None = None,
    keep: Callable[[Track], object] | None = None,
) -> Track:
    """Go once through a video.

    Args:
        reader: Of the video.
        locator: Says where the subject is.
        crop_size: (width, height) of the crops.
        progress: Called with the number of frames that were looked at so far.
        part: What `keep` was given in a run that was stopped.
        keep: Called with the first part of the track, about every `KEPT_FRAMES`, where searching takes long.

    Raises:
        SDICError: If the video cannot be read, or the subject is in no frame.
    """
    seen: list[Seen] = []
    places: list[Place] = []
    tracker = locator if isinstance(locator, FaceTracker) else None
    if tracker is not None and part is not None and part.state is not None:
        tracker.restore(part.state)

    def so_far(damaged: int = 0, state: np.ndarray | None = None) -> Track:
        return Track(
            np.array([each.time for each in seen], dtype=np.int64),
            np.array([each.duration for each in seen], dtype=np.int64),
            np.array([each.cut for each in seen], dtype=bool), np.array(places, dtype=np.float64), crop_size,
            (reader.info.width, reader.info.height), damaged, 0 if tracker is None else tracker.most_faces, state,
        )  # fmt: skip

    kept = 0 if part is None else len(part)
    for frames, found in _find(reader, locator, part):
        seen += [each.without_picture() for each in frames]
        places += found
        if tracker is not None and keep is not None and len(seen) - kept >= KEPT_FRAMES:
            kept = len(seen)
            keep(so_far(state=tracker.state))
        if progress is not None:
            progress(len(seen))
    track = so_far(reader.damaged)
    if not track.has_subject.any():
        raise SDICError(
            f"No face was found in any of the {len(track)} frames of {reader.name}: give a crop that stays where it "
            "is (--eyes), or take the whole frame (--face none)."
        )
    return track


def _find(reader: VideoReader, locator: Locator, part: Track | None) -> Iterator[Found]:
    known: list[Place] = [] if part is None else [tuple(place) for place in part.places.tolist()]
    looks = isinstance(locator, FaceTracker)
    frames = ahead(_look(reader, len(known) if looks else math.inf), FRAMES_AHEAD)
    last = (0, NOWHERE)
    for place, frame in zip(known, frames, strict=False):
        last = (frame.time, place)
        yield [frame], [place]
    if isinstance(locator, FaceTracker):
        yield from follow_face(frames, locator, last)
    else:
        yield from (([frame], [_place_of(locator.locate(None, frame.cut))]) for frame in frames)


def _look(reader: VideoReader, first: float) -> Iterator[Seen]:
    """Go through a video; pictures are made of the frames from one on."""
    finder = CutFinder()
    for frame in reader.frames():
        cut = finder.is_cut(frame.planes()[0])
        yield Seen(frame.time, frame.duration, cut, frame.rgb() if frame.index >= first else None)


def follow_face(
    frames: Iterator[Seen], tracker: FaceTracker, last: tuple[int, Place] = (0, NOWHERE)
) -> Iterator[Found]:
    """Find a face in frames, one or two at a time: while it moves evenly, only every second one is looked at.

    Args:
        frames: Those that are left.
        tracker: As it was after the frames before.
        last: When the last of those was, and where the face was in it.
    """
    for frame in frames:
        second = next(frames, None) if tracker.moves_evenly and not frame.cut else None
        group = [frame] if second is None else [frame, second]
        found = None
        if second is not None and not second.cut:
            assert second.picture is not None
            found = tracker.locate_second(second.picture)
        if second is None or found is None:
            places = [_place_of(tracker.locate(each.picture, each.cut)) for each in group]
        else:
            then = to_place(found)
            places = [_between(last[1], then, (frame.time - last[0]) / (second.time - last[0])), then]
        last = (group[-1].time, places[-1])
        yield group, places


def _place_of(alignment: Alignment | None) -> Place:
    return NOWHERE if alignment is None else to_place(alignment)


def _between(first: Place, second: Place, share: float) -> Place:
    """What lies between two places, straight from one to the other."""
    turn = cmath.phase(cmath.rect(1, second[3] - first[3]))  # the short way round
    x, y, scale = (a + share * (b - a) for a, b in itertools.islice(zip(first, second, strict=True), 3))
    return x, y, scale, first[3] + share * turn
