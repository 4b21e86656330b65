"""What to do with a video; importing this costs nothing, so that mistakes are told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from sdic_plugin.errors import SDICError
from sdic_plugin.photos.inputs import AUTOMATIC, Eyes

BEST_QUALITY, WORST_QUALITY = 0, 51
"""Ends of x264's scale of quality, and of ours; VP9's goes further."""

LONGEST = 10.0
"""Longest smoothing and longest gap, in seconds."""


@dataclass(frozen=True)
class EffectOptions:
    """What is rendered of each crop.

    Attributes:
        edits: Strengths by name, combined.
        compensation: See `SDICPipeline.edit`.
        mask: See `SDICPipeline.edit`.
        feature_edit: See `SDICPipeline.edit`.
        refine_steps: See `SDICPipeline.invert`.
        latent_smoothing: Deviation, in seconds, of the Gaussian by which latents are averaged over time; 0 for none.
        change_smoothing: The same of what the edit changes.
    """

    edits: Mapping[str, float]
    compensation: float = 1.0
    mask: str | None = None
    feature_edit: str | None = None
    refine_steps: int = 0
    latent_smoothing: float = 0.0
    change_smoothing: float = 0.0

    @property
    def reach(self) -> float:
        """Seconds before and after a frame that what it shows depends on."""
        from sdic_plugin.video.smoothing import reach_of

        return reach_of(self.latent_smoothing) + reach_of(self.change_smoothing)


@dataclass(frozen=True)
class VideoOptions(EffectOptions):
    """What to do with a video.

    Attributes, beside those of `EffectOptions`:
        eyes: Eye centres in the upright frame, for a crop that stays where it is; None to find the subject.
        face: "largest" or a number from the left, of the faces in the first frame of each shot that has any; "auto":
            the largest, for models of faces, else the middle of the frame; None for the middle of the frame.
        detector: File of the face detector; see `sdic_plugin.images.face_detection`.
        longest_gap: Seconds for which the face may be missed between two sightings; where it is missed for longer,
            frames stay as they are.
        smoothing: Deviation, in seconds, of the smoothing of the crop over time; 0 takes each frame for itself.
        quality: Of the encoder, from 0, which loses nothing, to 51.
        batch_size: Frames that go through the networks together.
        overwrite: Replace the output if it is there.
    """

    edits: Mapping[str, float] = field(default_factory=dict)
    change_smoothing: float = 0.05
    eyes: Eyes | None = None
    face: str | int | None = AUTOMATIC
    detector: str | None = None
    longest_gap: float = 0.5
    smoothing: float = 0.1
    quality: int = 18
    batch_size: int = 8
    overwrite: bool = False

    def check(self) -> None:
        """Raise SDICError unless the numbers make sense, and the mask can be read."""
        for name in ("longest_gap", "smoothing", "latent_smoothing", "change_smoothing"):
            value = getattr(self, name)
            if not 0 <= value <= LONGEST:
                raise SDICError(f"{name} is {value}, but must lie between 0 and {LONGEST:g} seconds.")
        if not BEST_QUALITY <= self.quality <= WORST_QUALITY:
            raise SDICError(f"quality is {self.quality}, but must lie between {BEST_QUALITY} and {WORST_QUALITY}.")
        if self.batch_size < 1 or self.refine_steps < 0:
            raise SDICError("batch_size must be 1 or more, and refine_steps 0 or more.")
        if not self.edits:
            raise SDICError("No edit was given for the video: give one, such as --edit warmth=1.5.")
        if isinstance(self.mask, str | os.PathLike) and self.mask != "auto":
            from sdic_plugin.images.reading import load_image

            load_image(self.mask)

    @property
    def effects(self) -> EffectOptions:
        """What is rendered of each crop."""
        return EffectOptions(**{each.name: getattr(self, each.name) for each in fields(EffectOptions)})
