"""Where the subject is in each frame: a face that is followed, or a crop that stays where it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.alignment import Alignment, AlignmentTemplate, two_point_alignment
from sdic_plugin.images.face_alignment import FaceLandmarks, Template
from sdic_plugin.images.face_detection import DetectedFace, choose_face, detect_faces
from sdic_plugin.images.face_following import (
    LOOK_SIDE,
    SeenFace,
    face_middle,
    faces_near,
    faces_upright,
    landmark_distance,
    moved,
    see,
)

REACH = 0.6
"""How far from where it is expected the followed face may be, in sizes of it."""

GROWTH = 1.5
"""By how much its size may change from one sighting to the next, as a factor."""

LIKENESS, LIKENESS_ANEW = 0.7, 0.5
"""Least likeness (`SeenFace.look`) to what it looked like: where it is expected, and wherever else it turns up."""

RENEWAL = 0.1
"""Share by which what it looks like is renewed with each sighting."""

SEARCH_AFTER = 3
"""Frames without the face after which the whole frame is searched for it."""

EVENLY = 0.03
"""Most that eyes and mouth corners of a face that moves evenly are from where they are expected, on average, in sizes
of the face. Of such a face only every second frame need be looked at: in the one between it is midway."""

SPEED_KEPT = 0.8
"""Share of its speed that an unseen face is expected to keep from one frame to the next."""


class Locator(Protocol):
    """Says where the subject is."""

    def locate(self, picture: Image.Image | None, cut: bool) -> Alignment | None:
        """Take the next frame, RGB and upright, and whether a new shot begins with it; None if it is not there."""


@dataclass
class FixedCrop:
    """One crop for all frames."""

    alignment: Alignment

    def locate(self, picture: Image.Image | None, cut: bool) -> Alignment | None:
        """See `Locator`; the picture is not looked at."""
        return self.alignment


class FaceTracker:
    """Follows one face.

    In the first frame of each shot that shows any, the face is chosen: the largest, or the one with a number from the
    left. After that the face is the one that is where it is expected and looks like it, so that it is not mistaken for
    another that passes before it; where it is lost, it is searched for by its look.

    Args:
        template: Where the model wants eyes and mouth.
        crop_size: (width, height) of the model's crops.
        choice: "largest", or a number counted from the left, from 0 on; the last face where there are fewer.
        detector: File of the face detector; see `sdic_plugin.images.face_detection`.
    """

    def __init__(
        self,
        template: Template,
        crop_size: tuple[int, int],
        choice: str | int = "largest",
        detector: str | os.PathLike[str] | None = None,
    ) -> None:
        self._template, self._crop_size, self._choice, self._detector = template, crop_size, choice, detector
        self.most_faces = 0
        """Faces that were there when one was chosen, at most."""
        self._forget()

    def _forget(self) -> None:
        self._last: DetectedFace | None = None
        self._look: np.ndarray | None = None
        self._speed = 0j
        self._missed = 0
        self.moves_evenly = False
        """Whether the face was last seen about where it was expected."""

    @property
    def state(self) -> np.ndarray:
        """All that it knows, as numbers, for `restore`."""
        known = [float("nan")] * 10
        if self._last is not None:
            marks = self._last.landmarks
            points = (marks.left_eye, marks.right_eye, marks.left_mouth, marks.right_mouth)
            known = [*(value for point in points for value in point), self._last.size, self._last.score]
        look = np.full(LOOK_SIDE**2 * 3, np.nan) if self._look is None else self._look
        rest = [self._speed.real, self._speed.imag, self._missed, self.most_faces, self.moves_evenly]
        return np.concatenate([known, rest, look]).astype(np.float64)

    def restore(self, state: np.ndarray) -> None:
        """Know what another one knew, whose `state` this is, to the bit."""
        self._forget()
        known, (real, imaginary, missed, faces, evenly), look = state[:10].tolist(), state[10:15].tolist(), state[15:]
        if not np.isnan(known[0]):
            points = [(known[i], known[i + 1]) for i in range(0, 8, 2)]
            self._last = DetectedFace(FaceLandmarks(*points), known[8], known[9])
        self._look = None if np.isnan(look[0]) else look.astype(np.float32)
        self._speed, self._missed, self.most_faces = complex(real, imaginary), int(missed), int(faces)
        self.moves_evenly = bool(evenly)

    def locate(self, picture: Image.Image | None, cut: bool) -> Alignment | None:
        """See `Locator`; the picture must be given."""
        assert picture is not None
        if cut:
            self._forget()
        chooses = self._look is None
        seen = self._choose(picture, thorough=self._missed == 0) if chooses else self._follow(picture)
        found = None if seen is None else self._crop_of(seen.face, picture.size)
        if seen is None or found is None:
            self._missed, self.moves_evenly = self._missed + 1, False
            self._speed *= SPEED_KEPT
            return None
        self._note(seen)
        return found

    def locate_second(self, picture: Image.Image) -> Alignment | None:
        """Take not the next frame but the one after it, of the same shot; only for a face that `moves_evenly`.

        Returns:
            Where the face is. None if it did not go on evenly, or is not there: then both frames are still to be given
            to `locate`.
        """
        assert self._last is not None
        known = self.state
        self._last = moved(self._last, self._speed)
        seen = self._follow(picture)
        found = None if seen is None else self._crop_of(seen.face, picture.size)
        if seen is not None and found is not None:
            self._note(seen)
            if self.moves_evenly:
                return found
        self.restore(known)
        return None

    def _crop_of(self, face: DetectedFace, photo_size: tuple[int, int]) -> Alignment | None:
        """The crop of a face; None of what only looks like one, such as a mouth above eyes."""
        try:
            return face_alignment(face.landmarks, self._template, self._crop_size, photo_size)
        except SDICError:
            return None

    def _choose(self, picture: Image.Image, thorough: bool) -> SeenFace | None:
        """Choose a face; the first frame of a shot is searched for turned, tiny and huge ones as well."""
        faces = detect_faces(picture, self._detector) if thorough else faces_upright(picture, self._detector)
        if not faces:
            return None
        self.most_faces = max(self.most_faces, len(faces))
        number = self._choice if self._choice == "largest" else min(int(self._choice), len(faces) - 1)
        return see(picture, choose_face(faces, number))

    def _follow(self, picture: Image.Image) -> SeenFace | None:
        assert self._last is not None and self._look is not None
        expected = moved(self._last, self._speed)
        near = [see(picture, face) for face in faces_near(picture, expected, self._detector)]
        reach = REACH * expected.size
        near = [each for each in near if abs(each.middle - face_middle(expected)) < reach
                and 1 / GROWTH < each.face.size / expected.size < GROWTH
                and self._likeness(each) > LIKENESS]  # fmt: skip
        if near:
            return max(near, key=lambda each: self._likeness(each) - abs(each.middle - face_middle(expected)) / reach)
        if self._missed >= SEARCH_AFTER:
            anywhere = [see(picture, face) for face in faces_upright(picture, self._detector)]
            best = max(anywhere, key=self._likeness, default=None)
            if best is not None and self._likeness(best) > LIKENESS_ANEW:
                return best
        self._last = expected
        return None

    def _likeness(self, seen: SeenFace) -> float:
        assert self._look is not None
        return float(seen.look @ self._look)

    def _note(self, seen: SeenFace) -> None:
        self.moves_evenly = False
        if self._last is not None and self._missed == 0:
            expected = moved(self._last, self._speed)
            self.moves_evenly = landmark_distance(seen.face, expected) < EVENLY * expected.size
            self._speed = (self._speed + seen.middle - face_middle(self._last)) / 2
        elif self._missed > SEARCH_AFTER:
            self._speed = 0j
        look = seen.look if self._look is None else (1 - RENEWAL) * self._look + RENEWAL * seen.look
        self._look = look / np.linalg.norm(look)
        self._last, self._missed = seen.face, 0


def face_alignment(
    landmarks: FaceLandmarks, template: Template, crop_size: tuple[int, int], photo_size: tuple[int, int]
) -> Alignment:
    """Find the crop of a face, as `align_face` does, without cutting it out."""
    if isinstance(template, AlignmentTemplate):
        return two_point_alignment(landmarks.left_eye, landmarks.right_eye, template, crop_size, photo_size)
    return template.align(landmarks, crop_size[0], photo_size)
