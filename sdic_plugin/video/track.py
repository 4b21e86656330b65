"""What is known of a whole video before any of it is edited: the frames' times, its shots, the crop in each."""

from __future__ import annotations

import cmath
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from sdic_plugin.images.alignment import Alignment
from sdic_plugin.utils.files import replacing_file
from sdic_plugin.video.smoothing import fill_gaps, ramp, smooth

DEGREE = 2
"""Of the polynomials that crops are smoothed by."""

FADE = 0.2
"""Seconds over which an edit comes and goes where the subject does so in the midst of a shot."""


Place = tuple[float, float, float, float]
"""The crop in a frame: x and y of its centre in pixels, the logarithm of its scale, its angle in radians."""

NOWHERE: Place = (math.nan,) * 4


@dataclass(frozen=True)
class Run:
    """Frames in a row of one shot, all with the subject or all without it.

    Attributes:
        start: The first frame.
        stop: The one after the last.
        has_subject: Whether the subject is in them.
    """

    start: int
    stop: int
    has_subject: bool


@dataclass(frozen=True)
class Track:
    """What is known of each of the N frames.

    Attributes:
        times: In ticks of the video's time base, [N], increasing.
        durations: In ticks, [N]; 0 where unknown.
        cuts: Whether a new shot begins with a frame, [N].
        places: The crop in each frame, [N, 4]: x and y of its centre in pixels, the logarithm of its scale (crop
            pixels per frame pixel), its angle in radians; NaN where the subject is not.
        crop_size: (width, height) of the crops.
        photo_size: (width, height) of the frames.
        damaged: Packets of the video that could not be decoded.
        most_faces: Faces that were there when one was chosen, at most; 0 where none was searched for.
        state: What the tracker knew at its end, of the first part of a track; None of a whole one.
    """

    times: np.ndarray
    durations: np.ndarray
    cuts: np.ndarray
    places: np.ndarray
    crop_size: tuple[int, int]
    photo_size: tuple[int, int]
    damaged: int = 0
    most_faces: int = 0
    state: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.times)

    @property
    def has_subject(self) -> np.ndarray:
        """Whether the subject is in a frame, [N]."""
        return ~np.isnan(self.places).any(axis=1)

    def seconds(self, time_base: Fraction) -> np.ndarray:
        """When frames are shown, [N], from 0 on."""
        return (self.times - self.times[0]) * float(time_base)

    def alignment(self, index: int) -> Alignment:
        """The crop in a frame that has one."""
        return to_alignment(self.places[index], self.crop_size, self.photo_size)

    def runs(self) -> list[Run]:
        """The frames in order, cut where the subject comes or goes, and between shots."""
        there = self.has_subject
        edges = np.flatnonzero(self.cuts[1:] | (there[1:] != there[:-1])) + 1
        bounds = [0, *edges.tolist(), len(self)]
        return [Run(a, b, bool(there[a])) for a, b in itertools.pairwise(bounds)]

    def steadied(self, time_base: Fraction, longest_gap: float, deviation: float) -> Track:
        """Fill the subject's gaps and smooth the crops, both within shots.

        Args:
            time_base: Seconds per tick.
            longest_gap: Seconds for which the subject may be missed between two sightings.
            deviation: Of the smoothing over time, in seconds; 0 for none.
        """
        seconds, places = self.seconds(time_base), self.places.copy()
        shots = [0, *(np.flatnonzero(self.cuts[1:]) + 1).tolist(), len(self)]
        for shot in itertools.starmap(slice, itertools.pairwise(shots)):
            known = ~np.isnan(places[shot, 3])
            places[shot, 3][known] = np.unwrap(places[shot, 3][known])
            places[shot] = fill_gaps(seconds[shot], places[shot], longest_gap)
        filled = self._with(places)
        for run in filled.runs():
            if run.has_subject and np.ptp(places[run.start : run.stop], axis=0).any():
                rows = slice(run.start, run.stop)
                places[rows] = smooth(seconds[rows], places[rows], deviation, DEGREE)
        return filled._with(places)

    def strengths(self, time_base: Fraction) -> np.ndarray:
        """How much of the edit each frame shows, [N] in [0, 1]: it fades where the subject comes or goes."""
        seconds, strengths = self.seconds(time_base), self.has_subject.astype(np.float64)
        for run in self.runs():
            if not run.has_subject:
                continue
            comes = run.start > 0 and not self.cuts[run.start]
            goes = run.stop < len(self) and not self.cuts[run.stop]
            for i in range(run.start, run.stop):
                since = seconds[i] - seconds[run.start - 1] if comes else math.inf
                until = seconds[run.stop] - seconds[i] if goes else math.inf
                strengths[i] = ramp(min(since, until) / FADE) if min(since, until) < FADE else 1.0
        return strengths

    def _with(self, places: np.ndarray) -> Track:
        return Track(self.times, self.durations, self.cuts, places, self.crop_size, self.photo_size, self.damaged,
                     self.most_faces)  # fmt: skip

    def save(self, path: Path) -> None:
        """Write it to a file of numpy arrays."""
        sizes = np.array([*self.crop_size, *self.photo_size, self.damaged, self.most_faces])
        with replacing_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, times=self.times, durations=self.durations, cuts=self.cuts, places=self.places, sizes=sizes,
                state=np.empty(0) if self.state is None else self.state,
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Track | None:
        """Read what `save` wrote; None if there is no such file or it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("times", "durations", "cuts", "places", "sizes", "state")}
        except Exception:  # damaged archives raise errors of many kinds
            return None
        state = arrays.pop("state")
        width, height, photo_width, photo_height, damaged, faces = arrays.pop("sizes").tolist()
        return cls(**arrays, crop_size=(width, height), photo_size=(photo_width, photo_height), damaged=damaged,
                   most_faces=faces, state=state if len(state) else None)  # fmt: skip


def to_place(alignment: Alignment) -> Place:
    """Centre x and y, logarithm of the scale, and angle of a crop."""
    width, height = alignment.crop_size
    x, y = alignment.crop_to_photo((width / 2, height / 2))
    turn = complex(alignment.matrix[0][0], alignment.matrix[1][0])
    return float(x), float(y), math.log(abs(turn)), cmath.phase(turn)


def to_alignment(place: np.ndarray, crop_size: tuple[int, int], photo_size: tuple[int, int]) -> Alignment:
    """Inverse of `to_place`."""
    x, y, scale, angle = (float(value) for value in place)
    turn = cmath.rect(math.exp(scale), angle)
    shift = complex(*crop_size) / 2 - turn * complex(x, y)
    return Alignment(((turn.real, -turn.imag, shift.real), (turn.imag, turn.real, shift.imag)), crop_size, photo_size)
