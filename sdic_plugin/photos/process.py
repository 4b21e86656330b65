"""The main job on files: crop, invert, edit, paste back, and write pictures and comparison sheets.

Photos are read and cropped ahead, and results written behind, by threads, while batches go through the networks; what
is in flight is bounded, so that memory does not grow with the number of photos. Under `torchrun`, or `accelerate
launch`, every process takes its share of the photos.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from sdic_plugin.errors import SDICError, listed
from sdic_plugin.images.alignment import Alignment, paste_into
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.reading import MAX_PIXELS, load_image
from sdic_plugin.images.sheets import (
    DISCREPANCY_LABEL,
    SheetCell,
    SheetRow,
    comparison_sheet,
    discrepancy_to_image,
    save_picture,
)
from sdic_plugin.photos.fingerprints import digest, edit_digest, file_digest, pipeline_digest
from sdic_plugin.photos.masks import crop_mask, cut_mask_digest, read_mask
from sdic_plugin.photos.photo import (
    Photo,
    PhotoSummary,
    edit_label,
    face_settings,
    file_label,
    find_crop,
    needed_detector,
    reconstruction_psnr,
    subject_note,
)
from sdic_plugin.photos.processes import ALONE, Processes
from sdic_plugin.photos.results import EDITED, Mark, PhotoIdentity, is_done, named_photos
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import check_output_folder

READERS, WRITERS = 2, 2
"""Threads; decoding, resizing and encoding pictures leave Python's lock to others."""
BATCHES_AHEAD = 2
"""Batches that may wait to be computed, and to be written."""

INVERSION = "inversion"


@dataclass(frozen=True)
class PhotoOptions:
    """What to do with each photo.

    Attributes:
        edits: One picture per entry, each with the strengths by name of edits to combine.
        paste: None, "replace" (put the edited crop into the photo), "difference" (add only what the edit changed), or
            "auto", of edits the difference where the crop lies in more pixels of the photo than it has.
        feature_edit: See `SDICPipeline.edit`.
        compensation: See `SDICPipeline.edit`.
        mask: None, "auto", or a picture of each photo's size or its crop's aspect; see `SDICPipeline.edit`.
        save_inversion: Also write `NAME_inversion.safetensors`.
        sheets: Also write `NAME_sheet.png`, the comparison sheet with PSNR.
        skip_existing: Leave photos alone of which every file is there already, made of the photo as it is now, with
            these settings; see `sdic_plugin.photos.results`.
        refine_steps: Steps of an optimisation of each inversion; see `SDICPipeline.invert`.
        face: Find a face in photos whose eyes are not given, see `find_crop`; None takes photos as they are.
        detector: File of the face detector; see `sdic_plugin.images.face_detection`.
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

    def recipes(self, edits: Mapping[str, str] | None = None) -> dict[str, object]:
        """What each of a photo's files depends on beside the model and the crop, by the end of its name.

        Args:
            edits: Digests of the edits, by name.
        """
        recipes: dict[str, object] = {INVERSION: self.refine_steps}
        rendering = (self.refine_steps, self.feature_edit, self.compensation, cut_mask_digest(self.mask))
        for strengths in self.edits:
            known = [(name, strength, (edits or {}).get(name)) for name, strength in strengths.items()]
            recipes[edit_label(strengths)] = (*rendering, known)
        files: dict[str, object] = {f"_{file_label(label)}.png": recipe for label, recipe in recipes.items()}
        if self.paste is not None:
            files |= {f"_{file_label(label)}_pasted.png": (self.paste, recipe) for label, recipe in recipes.items()}
        if self.save_inversion:
            files["_inversion.safetensors"] = self.refine_steps
        return files | ({"_sheet.png": recipes} if self.sheets else {})


@dataclass(frozen=True)
class CroppedPhoto:
    """A photo that was read.

    Attributes:
        photo: Where it came from.
        crop: What the model is to see of it.
        alignment: Where that lies in it.
        mark: What its files are marked with, but for the settings.
        whole: The photo itself, for pasting back; None if it is not needed, or is to be read again.
        note: What a person should know about how the crop was chosen.
        mask: What the options' mask says of the crop; None if that is no picture.
    """

    photo: Photo
    crop: Image.Image
    alignment: Alignment
    mark: Mark
    whole: Image.Image | None = None
    note: str | None = None
    mask: Image.Image | None = None


@dataclass(frozen=True)
class EditedPhoto:
    """A photo that went through the networks.

    Attributes:
        cropped: What went in.
        inversion: Of the crop, on the CPU.
        pictures: Renderings by label; `INVERSION` is the first.
        figures: PSNR in dB of the initial reconstruction and of the inversion.
    """

    cropped: CroppedPhoto
    inversion: SDICInversion
    pictures: Mapping[str, Image.Image]
    figures: tuple[float, float]


def process_photos(
    pipe: SDICPipeline,
    photos: Sequence[Photo],
    output: Path,
    options: PhotoOptions,
    progress: Callable[[int], object] | None = None,
    processes: Processes = ALONE,
) -> PhotoSummary:
    """Invert and edit every photo; a photo that fails is noted with its reason and the rest is done.

    For each photo this writes `NAME_inversion.png`, one `NAME_<edits>.png` per edit (and `…_pasted.png` with `paste`),
    and what else the options want.

    Args:
        pipe: On its device, with the edits that the options name.
        photos: Of every process; each takes its share.
        output: Folder for the pictures; made if needed.
        options: Edits, how they are rendered and pasted, and which files are written.
        progress: Called with the number of photos that were finished since.
        processes: Those that share the photos.

    Returns:
        What became of the photos; under several processes, of this one's share.

    Raises:
        SDICError: If the options themselves make no sense (unknown edits, no template …), the folder cannot be
            written, or a face detector is needed and there is none.
    """
    _check_options(pipe, options)
    check_output_folder(output)
    options = replace(options, detector=needed_detector(photos, options.face, options.detector))
    output.mkdir(parents=True, exist_ok=True)
    share = processes.share(named_photos(photos, output, list(options.recipes())))
    settings = FileSettings(pipe, options)
    left = [p for p in share if not (options.skip_existing and is_done(p, settings.by_path(p, output)))]
    renamed = {photo.name: photo.label for photo in share if photo.name != photo.stem}
    summary = PhotoSummary(skipped=len(share) - len(left), renamed=renamed)
    done = progress or (lambda count: None)
    if summary.skipped:
        done(summary.skipped)
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:
        writing: deque[tuple[Photo, Future[PhotoSummary]]] = deque()
        try:
            for batch in _read_ahead(readers, pipe, left, options, summary, done):
                for edited in _compute(pipe, batch, options, summary, done):
                    job = writers.submit(_write, pipe, edited, output, options, settings)
                    writing.append((edited.cropped.photo, job))
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
    labels = {edit_label(strengths) for strengths in options.edits}
    if len(set(map(file_label, labels))) < len(labels):
        raise SDICError(f"Two of the edits {listed(sorted(labels))} go to one file name: give them in two folders.")
    if options.refine_steps < 0:
        raise SDICError(f"refine_steps is {options.refine_steps}, but must be 0 or more.")
    if options.batch_size < 1:
        raise SDICError(f"batch_size is {options.batch_size}, but must be 1 or more.")
    read_mask(options.mask)


class FileSettings:
    """Digests of all that files depend on beside the photo: the model, the crop, and what the options say."""

    def __init__(self, pipe: SDICPipeline, options: PhotoOptions) -> None:
        detector = None if options.detector is None else file_digest(options.detector)
        self._common = digest(pipeline_digest(pipe), *face_settings(options.face), detector)
        used = {name: edit_digest(pipe.find_edit(name)) for strengths in options.edits for name in strengths}
        self._recipes = {end: digest(recipe) for end, recipe in options.recipes(used).items()}

    def of(self, photo: Photo, end: str) -> str:
        """Digest of the settings of one of a photo's files, by the end of its name."""
        return digest(self._common, photo.eyes, self._recipes[end])

    def by_path(self, photo: Photo, output: Path) -> dict[Path, str]:
        """Digests of the settings of all files of a photo."""
        return {output / f"{photo.name}{end}": self.of(photo, end) for end in self._recipes}


class KeptPhotos:
    """Decoded photos that wait to have crops pasted back: kept up to some pixels together, else read again.

    Full photos are large, and many are in flight.
    """

    def __init__(self, pixels: int) -> None:
        self._left, self._lock = pixels, threading.Lock()

    def keep(self, photo: Image.Image) -> Image.Image | None:
        """Return the photo if there is room for it, until it is forgotten."""
        pixels = photo.width * photo.height
        with self._lock:
            if pixels > self._left:
                return None
            self._left -= pixels
        weakref.finalize(photo, self._give_back, pixels)
        return photo

    def _give_back(self, pixels: int) -> None:
        with self._lock:
            self._left += pixels


def _read_ahead(
    readers: ThreadPoolExecutor,
    pipe: SDICPipeline,
    photos: Sequence[Photo],
    options: PhotoOptions,
    summary: PhotoSummary,
    done: Callable[[int], object],
) -> Iterator[list[CroppedPhoto]]:
    """Yield batches of cropped photos, of which the next ones are being read meanwhile."""
    waiting: deque[tuple[Photo, Future[CroppedPhoto]]] = deque()
    remaining = iter(photos)
    batch: list[CroppedPhoto] = []
    kept, mask = KeptPhotos(MAX_PIXELS), read_mask(options.mask)

    def read(photo: Photo) -> CroppedPhoto:
        if options.paste is None:
            picture, whole = load_image(photo.source), None
        else:
            whole = load_image(photo.source, keep_alpha=True)
            picture = whole if whole.mode == "RGB" else load_image(whole)
            whole = kept.keep(whole)
        crop = find_crop(pipe, picture, photo.eyes, options.face, options.detector)
        mark = PhotoIdentity(photo).mark(EDITED)
        cut = None if mask is None else crop_mask(mask, crop.alignment)
        return CroppedPhoto(photo, crop.picture, crop.alignment, mark, whole, crop.note, cut)

    def submit(count: int) -> None:
        waiting.extend((photo, readers.submit(read, photo)) for photo in itertools.islice(remaining, count))

    submit(BATCHES_AHEAD * options.batch_size)
    while waiting:
        photo, job = waiting.popleft()
        submit(1)
        try:
            batch.append(job.result())
        except (SDICError, OSError) as error:
            summary.fail(photo, error)
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
) -> Iterator[EditedPhoto]:
    """Invert and edit a batch; photos of a batch that fails are noted in the summary."""
    size = options.batch_size
    try:
        crops = [cropped.crop for cropped in batch]
        masks = [cropped.mask for cropped in batch if cropped.mask is not None]
        # Warnings about the subject go into the summary, by the photo's name.
        inversion = pipe.invert(crops, batch_size=size, refine_steps=options.refine_steps, check_subject=False)
        # The inversion is always shown with its full compensation, and without the edits that are active.
        pictures = {INVERSION: pipe.edit(inversion, edits={}, batch_size=size).images}
        for strengths in options.edits:
            edited = pipe.edit(
                inversion, edits=strengths, batch_size=size, feature_edit=options.feature_edit,
                compensation=options.compensation, mask=masks or options.mask,
            )  # fmt: skip
            pictures[edit_label(strengths)] = edited.images
        inversion = inversion.to("cpu")
        figures = reconstruction_psnr(pipe, inversion, pictures[INVERSION])
    except (SDICError, OSError) as error:
        for cropped in batch:
            summary.fail(cropped.photo, error)
        done(len(batch))
        return
    for i, cropped in enumerate(batch):
        notes = [cropped.note, subject_note(pipe, inversion[i], cropped.photo, options.face)]
        if any(notes):
            summary.notes[cropped.photo.label] = "; ".join(filter(None, notes))
        yield EditedPhoto(cropped, inversion[i], {label: each[i] for label, each in pictures.items()}, figures[i])


def _write(
    pipe: SDICPipeline, edited: EditedPhoto, output: Path, options: PhotoOptions, settings: FileSettings
) -> PhotoSummary:
    """Write one photo's files; returns what was written, and its figures."""
    cropped, pictures = edited.cropped, edited.pictures
    photo, whole = cropped.photo, cropped.whole
    summary = PhotoSummary(figures={photo.name: edited.figures})

    def place(end: str) -> tuple[Path, dict[str, str]]:
        """Path and mark of a file, which is noted as written."""
        summary.written.append(output / f"{photo.name}{end}")
        return summary.written[-1], replace(cropped.mark, settings=settings.of(photo, end)).to_metadata()

    if whole is None and options.paste is not None:
        whole = load_image(photo.source, keep_alpha=True)
    for label, rendered in pictures.items():
        save_picture(rendered, *place(f"_{file_label(label)}.png"))
        if whole is not None:
            difference = options.paste == "difference"
            if options.paste == "auto":
                difference = label != INVERSION and _is_shrunk(cropped.alignment)
            reference = pictures[INVERSION] if difference else None
            # A copy of a large photo is avoided where nothing is added to it, or it is not needed afterwards.
            unchanged, last = reference is rendered, label == list(pictures)[-1]
            pasted = whole if unchanged or last else whole.copy()
            paste_into(pasted, rendered, cropped.alignment, reference)
            save_picture(pasted, *place(f"_{file_label(label)}_pasted.png"))
            del pasted  # before the next copy is made
    if options.save_inversion:
        edited.inversion.save(*place("_inversion.safetensors"))
    if options.sheets:
        sheet = comparison_sheet([sheet_row(pipe, photo.name, edited.inversion, pictures, *edited.figures)])
        save_picture(sheet, *place("_sheet.png"))
    return summary


def _is_shrunk(alignment: Alignment) -> bool:
    """Whether a crop lies in more pixels of its photo than it has, which pasting the crop itself would lose."""
    top_left, top_right = alignment.quad[:2]
    return math.dist(top_left, top_right) > alignment.crop_size[0]


def _finish(photo: Photo, job: Future[PhotoSummary], summary: PhotoSummary, done: Callable[[int], object]) -> None:
    try:
        summary.add(job.result())
    except (SDICError, OSError) as error:
        summary.fail(photo, error)
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
