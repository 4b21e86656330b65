"""The main job on files: crop, invert, edit, paste back, and write pictures and comparison sheets.

Photos are read and cropped ahead, and results written behind, by threads, while batches go through the networks; what
is in flight is bounded, so that memory does not grow with the number of photos. Under `torchrun`, or `accelerate
launch`, every process takes its share of the photos.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from sdic_plugin.alignment import Alignment, paste_back
from sdic_plugin.errors import SDICError
from sdic_plugin.image_processor import SDICImageProcessor, load_image
from sdic_plugin.photos import (
    Photo,
    PhotoSummary,
    crop_photo,
    edit_label,
    file_label,
    reconstruction_psnr,
    subject_note,
)
from sdic_plugin.pipeline import SDICPipeline
from sdic_plugin.pipeline_output import SDICInversion
from sdic_plugin.sampling import save_picture
from sdic_plugin.visualization import DISCREPANCY_LABEL, SheetCell, SheetRow, comparison_sheet, discrepancy_to_image

READERS, WRITERS = 2, 2
"""Threads; decoding, resizing and encoding pictures leave Python's lock to others."""
BATCHES_AHEAD = 2
"""Batches that may wait to be computed, and to be written."""

LONGEST_WAIT = datetime.timedelta(days=7)
"""For processes that finish their share later."""

INVERSION = "inversion"


@dataclass(frozen=True)
class PhotoOptions:
    """What to do with each photo.

    Attributes:
        edits: One picture per entry, each with the strengths by name of edits to combine.
        paste: None, "replace" (put the edited crop into the photo) or "difference" (add only what the edit changed).
        feature_edit: See `SDICPipeline.edit`.
        compensation: See `SDICPipeline.edit`.
        mask: See `SDICPipeline.edit`.
        save_inversion: Also write `NAME_inversion.safetensors`.
        sheets: Also write `NAME_sheet.png`, the comparison sheet with PSNR.
        skip_existing: Leave photos alone of which every file is there already.
        refine_steps: Steps of an optimisation of each inversion; see `SDICPipeline.invert`.
        face: Find a face in photos whose eyes are not given: "largest", or a number counted from the left; None takes
            photos as they are.
        detector: File of the face detector; see `sdic_plugin.face_detection`.
        batch_size: Photos that go through the networks together.
    """

    edits: Sequence[Mapping[str, float]] = ()
    paste: str | None = None
    feature_edit: str | None = None
    compensation: float = 1.0
    mask: str | None = None
    save_inversion: bool = False
    sheets: bool = True
    skip_existing: bool = False
    refine_steps: int = 0
    face: str | int | None = None
    detector: str | None = None
    batch_size: int = 8

    def files(self, name: str) -> list[str]:
        """Names of the files that a photo of this name ends in."""
        stems = [f"{name}_{file_label(label)}" for label in (INVERSION, *map(edit_label, self.edits))]
        pictures = [f"{stem}.png" for stem in stems]
        pasted = [f"{stem}_pasted.png" for stem in stems] if self.paste is not None else []
        sheet = [f"{name}_sheet.png"] if self.sheets else []
        return pictures + pasted + sheet + ([f"{name}_inversion.safetensors"] if self.save_inversion else [])


@dataclass(frozen=True)
class CroppedPhoto:
    """A photo that was read.

    Attributes:
        photo: Where it came from.
        crop: What the model is to see of it.
        alignment: Where that lies in it.
    """

    photo: Photo
    crop: Image.Image
    alignment: Alignment


def process_photos(
    pipe: SDICPipeline,
    photos: Sequence[Photo],
    output: Path,
    options: PhotoOptions,
    progress: Callable[[int], object] | None = None,
) -> PhotoSummary:
    """Invert and edit every photo; a photo that fails is noted with its reason and the rest is done.

    For each photo this writes `NAME_inversion.png`, one `NAME_<edits>.png` per edit (and `…_pasted.png` with `paste`),
    and what else the options want.

    Args:
        pipe: The pipeline.
        photos: The photos.
        output: Folder for the pictures; made if needed.
        options: What to do.
        progress: Called with the number of photos that were finished since.

    Returns:
        What became of the photos; under several processes, of this one's share.

    Raises:
        SDICError: If the options themselves make no sense (unknown edits, no template …).
    """
    _check_options(pipe, options)
    output.mkdir(parents=True, exist_ok=True)
    left = [photo for photo in photos if not (options.skip_existing and _is_done(photo, output, options))]
    summary = PhotoSummary(skipped=len(photos) - len(left))
    done = progress or (lambda count: None)
    if summary.skipped:
        done(summary.skipped)
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:
        writing: deque[tuple[Photo, Future]] = deque()
        try:
            for batch in _read_ahead(readers, pipe, left, options, summary, done):
                for cropped, *results in _compute(pipe, batch, options, summary, done):
                    job = writers.submit(_write, pipe, cropped, *results, output, options)
                    writing.append((cropped.photo, job))
                while len(writing) > BATCHES_AHEAD * options.batch_size:
                    _finish(*writing.popleft(), summary, done)
            while writing:
                _finish(*writing.popleft(), summary, done)
        finally:  # an interrupt does not wait for what has not begun
            readers.shutdown(wait=False, cancel_futures=True)
            writers.shutdown(wait=False, cancel_futures=True)
    return summary


def _check_options(pipe: SDICPipeline, options: PhotoOptions) -> None:
    for strengths in options.edits:
        pipe.check_edit_inputs(edits=strengths, feature_edit=options.feature_edit, compensation=options.compensation)
    if options.refine_steps < 0:
        raise SDICError(f"refine_steps is {options.refine_steps}, but must be 0 or more.")
    if options.batch_size < 1:
        raise SDICError(f"batch_size is {options.batch_size}, but must be 1 or more.")
    if options.mask not in (None, "auto"):
        load_image(options.mask)


def _is_done(photo: Photo, output: Path, options: PhotoOptions) -> bool:
    return all((output / name).is_file() for name in options.files(photo.name))


def _read_ahead(
    readers: ThreadPoolExecutor,
    pipe: SDICPipeline,
    photos: Sequence[Photo],
    options: PhotoOptions,
    summary: PhotoSummary,
    done: Callable[[int], object],
) -> Iterator[list[CroppedPhoto]]:
    """Yield batches of cropped photos, of which the next ones are being read meanwhile."""
    waiting, remaining = deque(), iter(photos)
    batch: list[CroppedPhoto] = []

    def read(photo: Photo) -> CroppedPhoto:
        picture = load_image(photo.source)
        return CroppedPhoto(photo, *crop_photo(pipe, picture, photo.eyes, options.face, options.detector))

    def submit(count: int) -> None:
        waiting.extend((photo, readers.submit(read, photo)) for photo in itertools.islice(remaining, count))

    submit(BATCHES_AHEAD * options.batch_size)
    while waiting:
        photo, job = waiting.popleft()
        submit(1)
        try:
            batch.append(job.result())
        except (SDICError, OSError) as error:
            summary.failed[photo.label] = str(error)
            done(1)
        if len(batch) == options.batch_size or (batch and not waiting):
            yield batch
            batch = []


def _compute(
    pipe: SDICPipeline,
    batch: Sequence[CroppedPhoto],
    options: PhotoOptions,
    summary: PhotoSummary,
    done: Callable[[int], object],
) -> Iterator[tuple[CroppedPhoto, SDICInversion, dict[str, Image.Image], tuple[float, float]]]:
    """Invert and edit a batch; yields each photo with its inversion, its pictures by label and its figures."""
    size = options.batch_size
    try:
        crops = [cropped.crop for cropped in batch]
        # What is to be said of the subject goes by the photo's name, into the summary.
        inversion = pipe.invert(crops, batch_size=size, refine_steps=options.refine_steps, check_subject=False)
        # The inversion is always shown with its full compensation.
        pictures = {INVERSION: pipe.edit(inversion, batch_size=size).images}
        settings = {name: getattr(options, name) for name in ("feature_edit", "compensation", "mask")}
        for strengths in options.edits:
            edited = pipe.edit(inversion, edits=strengths, batch_size=size, **settings)
            pictures[edit_label(strengths)] = edited.images
        inversion = inversion.to("cpu")
        figures = reconstruction_psnr(pipe, inversion, pictures[INVERSION])
    except (SDICError, OSError) as error:
        summary.failed |= {cropped.photo.label: str(error) for cropped in batch}
        done(len(batch))
        return
    for i, cropped in enumerate(batch):
        note = subject_note(pipe, inversion[i], cropped.photo, options.face)
        if note is not None:
            summary.notes[cropped.photo.label] = note
        yield cropped, inversion[i], {label: images[i] for label, images in pictures.items()}, figures[i]


def _write(
    pipe: SDICPipeline,
    cropped: CroppedPhoto,
    inversion: SDICInversion,
    pictures: Mapping[str, Image.Image],
    figures: tuple[float, float],
    output: Path,
    options: PhotoOptions,
) -> PhotoSummary:
    """Write one photo's files; returns what was written, and its figures."""
    name = cropped.photo.name
    summary = PhotoSummary(figures={name: figures})
    # Read again rather than kept: full photos are large, and many are in flight.
    whole = load_image(cropped.photo.source) if options.paste is not None else None
    for label, rendered in pictures.items():
        summary.written.append(save_picture(rendered, output / f"{name}_{file_label(label)}.png"))
        if whole is not None:
            reference = pictures[INVERSION] if options.paste == "difference" else None
            pasted = paste_back(whole, rendered, cropped.alignment, reference=reference)
            summary.written.append(save_picture(pasted, output / f"{name}_{file_label(label)}_pasted.png"))
    if options.save_inversion:
        path = output / f"{name}_inversion.safetensors"
        inversion.save(path)
        summary.written.append(path)
    if options.sheets:
        sheet = comparison_sheet([sheet_row(pipe, name, inversion, pictures, *figures)])
        summary.written.append(save_picture(sheet, output / f"{name}_sheet.png"))
    return summary


def _finish(photo: Photo, job: Future, summary: PhotoSummary, done: Callable[[int], object]) -> None:
    try:
        summary.add(job.result())
    except (SDICError, OSError) as error:
        summary.failed[photo.label] = str(error)
    done(1)


def sheet_row(
    pipe: SDICPipeline,
    name: str,
    inversion: SDICInversion,
    pictures: Mapping[str, Image.Image],
    before: float,
    after: float,
) -> SheetRow:
    """Lay out one photo: original, initial reconstruction, discrepancy, inversion, edits."""
    processor = SDICImageProcessor(*pipe.image_size)
    cells = {
        "original": SheetCell(processor.postprocess(inversion.image, "pil")[0]),
        "initial": SheetCell(
            processor.postprocess(inversion.initial[:, :, pipe.output_rows], "pil")[0], f"PSNR {before:.1f} dB"
        ),
        DISCREPANCY_LABEL: SheetCell(discrepancy_to_image(inversion.discrepancy[0].float().cpu())),
    }
    for label, rendered in pictures.items():
        cells[label] = SheetCell(rendered, f"PSNR {after:.1f} dB" if label == INVERSION else "")
    return SheetRow(cells, title=name)


@dataclass(frozen=True)
class Processes:
    """The processes that share a folder, as `torchrun` and `accelerate launch` start them; usually one.

    Attributes:
        index: This one's number, from 0.
        count: How many there are.
    """

    index: int
    count: int

    @classmethod
    def of_environment(cls) -> Processes:
        """Read what the launcher says."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def share(self, photos: Sequence[Photo]) -> Sequence[Photo]:
        """Photos of this process."""
        return photos[self.index :: self.count]

    def device(self, device: str) -> str:
        """This process's own device of a kind: "cuda" becomes "cuda:N"."""
        several = self.count > 1 and device == "cuda"
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if several else device

    def join(self, summary: PhotoSummary) -> PhotoSummary:
        """Wait for the others; returns what became of all photos, in every process."""
        if self.count == 1:
            return summary
        # Only the processes of this program unpickle it.
        torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        gathered: list = [None] * self.count
        torch.distributed.all_gather_object(gathered, summary)
        torch.distributed.destroy_process_group()
        whole = PhotoSummary()
        for part in gathered:
            whole.add(part)
        return whole
