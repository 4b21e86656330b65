"""A video through the pipeline: find the subject in every frame, edit its crop, put the change back, keep the sound.

The video is read twice. The first time the subject is found, so that crops can be smoothed over time and gaps filled
with what comes later; that takes some numbers per frame. The second time frames are decoded and cropped ahead, and
pasted and encoded behind, by threads, while batches go through the networks. What is in flight is bounded: see
`frames_in_flight`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.images.face_alignment import align_eyes
from sdic_plugin.photos.fingerprints import digest, edit_digest, file_digest, mask_digest, pipeline_digest
from sdic_plugin.photos.inputs import AUTOMATIC, Photo
from sdic_plugin.photos.photo import crop_photo, finds_faces, model_template, subject_note
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.disk import is_disk_full
from sdic_plugin.video.ahead import Behind, ahead
from sdic_plugin.video.crops import crop_frame
from sdic_plugin.video.effects import Crops, changes
from sdic_plugin.video.finding import NoSubjectError, find_track
from sdic_plugin.video.inputs import check_video_files, output_format
from sdic_plugin.video.options import VideoOptions
from sdic_plugin.video.pasting import add_difference
from sdic_plugin.video.progress_folder import PIECE_FRAMES, ProgressFolder
from sdic_plugin.video.reading import Frame, VideoReader, import_av
from sdic_plugin.video.track import Run, Track
from sdic_plugin.video.tracking import FaceTracker, FixedCrop, Locator
from sdic_plugin.video.writing import (
    Encoding,
    PieceWriter,
    check_sound,
    even_planes,
    join_pieces,
)

BATCHES_AHEAD, BATCHES_BEHIND = 1, 1
"""Batches that may wait to be computed, and to be written."""

TRACK_VERSION, PIECE_VERSION = 2, 2
"""Of how these are made: what a stopped run of another version kept is not taken up."""

Progress = Callable[[str, int, int], object]
"""Called with what is done ("finding" or "editing"), the number of frames done, and of all (0 if unknown)."""


@dataclass
class VideoSummary:
    """What became of a video.

    Attributes:
        path: What was written.
        frames: How many there are.
        edited: Those that the edit is to be seen in.
        resumed: Those that an earlier run had done.
        notes: What a person should know.
    """

    path: Path
    frames: int = 0
    edited: int = 0
    resumed: int = 0
    notes: list[str] = field(default_factory=list)


def edit_video(
    pipe: SDICPipeline,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: VideoOptions,
    progress: Progress | None = None,
) -> VideoSummary:
    """Edit a video; a run that was stopped goes on where it was, and gives the same file.

    Args:
        pipe: On its device, with the edits that the options name.
        source: The video.
        output: The video to write: .mp4, .m4v, .mov, .mkv or .webm. What a stopped run keeps is beside it, in
            `NAME.progress`.
        options: What to do.
        progress: Told how far it is.

    Returns:
        What became of it.

    Raises:
        SDICError: If the options make no sense, PyAV is not installed, the video cannot be read, there is no face in
            it, or the output cannot be written.
    """
    source, output = Path(source), Path(output)
    options.check()
    pipe.check_edit_inputs(edits=options.edits, feature_edit=options.feature_edit, compensation=options.compensation)
    check_video_files(source, output, options.overwrite)
    reader = VideoReader(source)
    kind = output_format(output)
    check_sound(reader.info, kind, output)
    with ProgressFolder(output) as kept, _FullDiskStops(kept):
        track, notes = tracked(pipe, reader, options, kept, progress)
        steady = track.steadied(reader.info.time_base, options.longest_gap, options.smoothing)
        encoding = Encoding(kind, options.quality, reader.info)
        kept.begin(digest(PIECE_VERSION, _track_settings(pipe, reader, options), _settings(pipe, options, encoding)))
        done = kept.done(len(track))
        first = min(len(done) * PIECE_FRAMES, len(track))
        if first < len(track):
            job = _Job(pipe, reader, steady, options, encoding, kept, first)
            notes += job.run(progress)
        elif progress is not None:
            progress("editing", len(track), len(track))
        join_pieces(kept.done(len(track)), track.times, track.durations, reader, kind, output)
        kept.remove()
    notes += video_notes(encoding, track, options)
    return VideoSummary(output, len(track), int(steady.has_subject.sum()), first, notes)


def tracked(
    pipe: SDICPipeline,
    reader: VideoReader,
    options: VideoOptions,
    kept: ProgressFolder,
    progress: Progress | None = None,
) -> tuple[Track, list[str]]:
    """Find the subject in every frame, or take what an earlier run found; returns notes on it as well."""
    info = reader.info
    height, width = pipe.image_size
    settings = _track_settings(pipe, reader, options)
    locator, notes = _locator(pipe, reader, options)
    track = kept.load_track(settings)
    if track is None:
        expected = 0 if info.duration is None else round(info.duration * float(info.rate))

        def told(count: int) -> None:
            if progress is not None:
                progress("finding", count, expected)

        part = kept.load_track(settings, whole=False)
        try:
            track = find_track(
                reader, locator, (width, height), told, part,
                lambda found: kept.save_track(found, settings, whole=False),
            )  # fmt: skip
        except NoSubjectError:
            kept.remove()  # it would be found missing again
            raise
        kept.save_track(track, settings)
    return track, notes


def _locator(pipe: SDICPipeline, reader: VideoReader, options: VideoOptions) -> tuple[Locator, list[str]]:
    size, (height, width) = (reader.info.width, reader.info.height), pipe.image_size
    if options.eyes is not None:
        blank = Image.new("RGB", size)
        return FixedCrop(align_eyes(blank, options.eyes, model_template(pipe), width, height)[1]), []
    face = options.face
    if face == AUTOMATIC:
        face = "largest" if finds_faces(pipe) else None
    if face is not None:
        return FaceTracker(model_template(pipe), (width, height), face, options.detector), []
    alignment = crop_photo(pipe, Image.new("RGB", size), None)[1]
    advice = "; --eyes says where its eyes are" if pipe.config.alignment is not None else ""
    return FixedCrop(alignment), [f"the middle of each frame was edited{advice}"] if options.face else []


class _Job:
    """Edits the frames of a video from one on, and writes them in pieces."""

    def __init__(
        self,
        pipe: SDICPipeline,
        reader: VideoReader,
        track: Track,
        options: VideoOptions,
        encoding: Encoding,
        kept: ProgressFolder,
        first: int,
    ) -> None:
        self._pipe, self._reader, self._track, self._options = pipe, reader, track, options
        self._encoding, self._kept, self._first = encoding, kept, first
        self._seconds = track.seconds(reader.info.time_base)
        self._strengths = track.strengths(reader.info.time_base)
        self._writer: PieceWriter | None = None
        self._next, self._judged = first, first > 0

    def run(self, progress: Progress | None) -> list[str]:
        """Do it; returns notes."""
        notes: list[str] = []
        try:
            with Behind(self._options.batch_size) as encoding, Behind(BATCHES_BEHIND) as pasting:

                def rest() -> None:
                    pasting.wait()
                    encoding.wait()

                for run, batches in self._runs(rest):
                    for change, batch in self._changes(run, batches, notes):
                        pasting.do(self._paste, batch.payload, change, encoding, progress)
            if self._writer is not None:
                self._writer.finish()
        except BaseException:
            if self._writer is not None:
                self._writer.abandon()
            raise
        return notes

    def _changes(
        self, run: Run, batches: Iterator[Crops], notes: list[str]
    ) -> Iterator[tuple[np.ndarray | None, Crops]]:
        if not run.has_subject:
            yield from ((None, batch) for batch in batches)
            return
        first = next(batches)
        if not self._judged:
            self._judge(first.pictures[0], notes)
        yield from changes(self._pipe, itertools.chain([first], batches), self._options.effects)

    def _judge(self, crop: Image.Image, notes: list[str]) -> None:
        self._judged = True
        inversion = self._pipe.invert(crop, check_subject=False)
        face = None if self._options.face == AUTOMATIC and not finds_faces(self._pipe) else self._options.face
        note = subject_note(self._pipe, inversion, Photo("video", crop, self._options.eyes), face)
        notes += [f"its first crop: {note}"] if note else []

    def _runs(self, rest: Callable[[], object]) -> Iterator[tuple[Run, Iterator[Crops]]]:
        """Runs of frames, each with its batches, which must be taken before the next run.

        Where networks share cores with what goes on behind, they are given a batch when that is at rest.
        """
        shares_cores = self._pipe.device.type == "cpu"
        batches = ahead(self._batches(), BATCHES_AHEAD, settled=shares_cores)
        current: list[tuple[Run, Crops]] = [item for item in [next(batches, None)] if item is not None]

        def of(run: Run) -> Iterator[Crops]:
            while current and current[0][0] is run:
                if shares_cores:
                    rest()
                yield current.pop()[1]
                current.extend(item for item in [next(batches, None)] if item is not None)

        while current:
            yield current[0][0], of(current[0][0])

    def _batches(self) -> Iterator[tuple[Run, Crops]]:
        """Frames in batches, those with the subject cropped; batches are those of a run from the start."""
        size, reach = self._options.batch_size, self._options.effects.reach
        frames = self._reader.frames()
        for run in self._track.runs():
            if run.stop <= self._first:
                continue
            needed = run.start if self._first <= run.start else self._first
            if run.has_subject and needed > run.start:
                earlier = int(np.searchsorted(self._seconds, self._seconds[needed] - reach - 1e-6))
                needed = run.start + max(0, earlier - run.start) // size * size
            for start in range(needed, run.stop, size):
                batch = list(self._taken(frames, start, min(start + size, run.stop)))
                crops = [self._crop(frame) for frame in batch] if run.has_subject else []
                yield run, Crops(self._seconds[start : start + len(batch)], crops, batch)

    def _taken(self, frames: Iterator[Frame], start: int, stop: int) -> Iterator[Frame]:
        for frame in itertools.dropwhile(lambda frame: frame.index < start, frames):
            if frame.time != self._track.times[frame.index]:
                break
            yield frame
            if frame.index == stop - 1:
                return
        raise SDICError(f"{self._reader.name} changed while it was read: start again.")

    def _crop(self, frame: Frame) -> Image.Image:
        return crop_frame(self._pipe, frame, self._track.alignment(frame.index))

    def _paste(
        self, frames: list[Frame], change: np.ndarray | None, encoding: Behind, progress: Progress | None
    ) -> None:
        for i, frame in enumerate(frames):
            if frame.index < self._next:  # only looked at for those that follow
                continue
            planes = even_planes(frame.planes())
            if change is not None:
                add_difference(
                    planes, change[i], self._track.alignment(frame.index), self._reader.info.colours,
                    self._strengths[frame.index],
                )  # fmt: skip
            self._next = frame.index + 1
            encoding.do(self._encode, frame, planes, progress)

    def _encode(self, frame: Frame, planes: list[np.ndarray], progress: Progress | None) -> None:
        if frame.index % PIECE_FRAMES == 0:
            if self._writer is not None:
                self._writer.finish()
            self._writer = PieceWriter(self._kept.piece(frame.index), self._encoding)
        assert self._writer is not None
        self._writer.write(planes, frame.time)
        if progress is not None:
            progress("editing", frame.index + 1, len(self._track))


def frames_in_flight(options: VideoOptions, rate: float) -> int:
    """Most frames that are in memory at once, each of 1.5 bytes per pixel, beside a few of the decoder's own."""
    waiting = math.ceil(options.effects.reach * rate / options.batch_size)
    return (BATCHES_AHEAD + BATCHES_BEHIND + 5 + waiting) * options.batch_size


def _track_settings(pipe: SDICPipeline, reader: VideoReader, options: VideoOptions) -> str:
    """Digest of what a track depends on: the file, and how the subject is found in it."""
    status = reader.path.stat()
    detector = None if options.detector is None else file_digest(options.detector)
    face = options.face if options.face != AUTOMATIC or finds_faces(pipe) else None
    return digest(
        TRACK_VERSION, str(reader.path.resolve()), status.st_size, status.st_mtime_ns, options.eyes, face, detector,
        pipe.config.alignment, pipe.image_size, import_av().__version__,
    )  # fmt: skip


def _settings(pipe: SDICPipeline, options: VideoOptions, encoding: Encoding) -> str:
    """Digest of all that pieces depend on beside the track."""
    used = {name: edit_digest(pipe.find_edit(name)) for name in options.edits}
    values: list[Any] = [options.effects, options.longest_gap, options.smoothing, options.quality, options.batch_size]
    return digest(
        pipeline_digest(pipe), used, mask_digest(options.mask), [repr(value) for value in values], encoding.kind.codec,
        PIECE_FRAMES,
    )  # fmt: skip


class _FullDiskStops:
    """Turns the error of a full disk into a sentence that says what is kept."""

    def __init__(self, kept: ProgressFolder) -> None:
        self._kept = kept

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SDICError) or not isinstance(error, Exception):
            return
        av_error = isinstance(error, import_av().FFmpegError)
        if is_disk_full(error) or (av_error and is_disk_full(OSError(getattr(error, "errno", 0), ""))):
            raise SDICError(
                f"The disk of {shorten(str(self._kept.path.parent))} is full; what is done is kept in "
                f"{shorten(self._kept.path.name)}: make room and give the same command again."
            ) from error
        if av_error:
            raise SDICError(f"The video could not be written ({shorten(str(error))}): name another file.") from error


def video_notes(encoding: Encoding, track: Track, options: VideoOptions) -> list[str]:
    """What a person should know of a video: damage, faces that were not followed, another size."""
    notes, info = [], encoding.info
    if track.damaged:
        notes.append("parts of it are damaged and were left out")
    if info.duration is not None:
        lasts = track.seconds(info.time_base)[-1] + 1 / float(info.rate)
        if lasts < 0.9 * info.duration - 0.5:
            notes.append(f"it ends after {lasts:.1f} of {info.duration:.1f} seconds, as if it were truncated")
    if track.most_faces > 1 and options.face in (AUTOMATIC, "largest"):
        notes.append(f"the largest of its {track.most_faces} faces was followed; --face N takes another")
    if info.unknown_sounds:
        notes.append(f"sound tracks of kinds that FFmpeg does not know were left out: {info.unknown_sounds}")
    if encoding.size != (info.width, info.height):
        width, height = encoding.size
        notes.append(
            f"its frames of {info.width} x {info.height} pixels became {width} x {height}, as even sizes are needed: "
            "the last column or row is there twice"
        )
    return notes
