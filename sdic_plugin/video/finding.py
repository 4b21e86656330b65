"""The first time through a video: its shots, and where the subject is in each frame."""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
"""Frames that are decoded while others are looked at."""

NOWHERE: Place = (math.nan,) * 4


class NoSubjectError(SDICError):
    """There is no face in any frame."""


@dataclass(frozen=True)
class Seen:
    """A frame that was decoded.

    Attributes:
        time: In ticks of the video's time base.
        duration: In ticks; 0 if unknown.
        cut: Whether a new shot begins with it.
        picture: Makes the picture, RGB and upright.
    """

    time: int
    duration: int
    cut: bool
    picture: Callable[[], Image.Image]


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
        NoSubjectError: If the subject is in no frame.
        SDICError: If the video cannot be read.
    """
    times: list[int] = []
    durations: list[int] = []
    cuts: list[bool] = []
    places: list[Place] = []
    tracker = locator if isinstance(locator, FaceTracker) else None
    if tracker is not None and part is not None and part.state is not None:
        tracker.restore(part.state)

    def so_far(damaged: int = 0, state: np.ndarray | None = None) -> Track:
        return Track(
            np.array(times, dtype=np.int64), np.array(durations, dtype=np.int64), np.array(cuts, dtype=bool),
            np.array(places, dtype=np.float64), crop_size, (reader.info.width, reader.info.height), damaged,
            0 if tracker is None else tracker.most_faces, state,
        )  # fmt: skip

    kept = 0 if part is None else len(part)
    for frames, found in _find(reader, locator, part):
        times += [frame.time for frame in frames]
        durations += [frame.duration for frame in frames]
        cuts += [frame.cut for frame in frames]
        places += found
        if tracker is not None and keep is not None and len(times) - kept >= KEPT_FRAMES:
            kept = len(times)
            keep(so_far(state=tracker.state))
        if progress is not None:
            progress(len(times))
    track = so_far(reader.damaged)
    if not track.has_subject.any():
        raise NoSubjectError(
            f"No face was found in any of the {len(track)} frames of {reader.name}: give a crop that stays where it "
            "is (--eyes), or take the whole frame (--face none)."
        )
    return track


def _find(reader: VideoReader, locator: Locator, part: Track | None) -> Iterator[Found]:
    known: list[Place] = [] if part is None else [tuple(place) for place in part.places.tolist()]
    frames = ahead(_see(reader), FRAMES_AHEAD)
    last = (0, NOWHERE)
    for place, frame in zip(known, frames, strict=False):
        last = (frame.time, place)
        yield [frame], [place]
    if isinstance(locator, FaceTracker):
        yield from follow_face(frames, locator, last)
    else:
        yield from (([frame], [_place_of(locator.locate(None, frame.cut))]) for frame in frames)


def _see(reader: VideoReader) -> Iterator[Seen]:
    finder = CutFinder()
    for frame in reader.frames():
        yield Seen(frame.time, frame.duration, finder.is_cut(frame.planes()[0]), frame.rgb)


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
            found = tracker.locate_second(second.picture())
        if second is None or found is None:
            places = [_place_of(tracker.locate(each.picture(), each.cut)) for each in group]
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
