"""What the page does, without the page: photo, alignment, inversion, edits, files to take home."""

from __future__ import annotations

import copy
import logging
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from PIL import Image

from sdic_plugin.demo import texts
from sdic_plugin.demo.drawing import make_preview
from sdic_plugin.demo.files import files_root
from sdic_plugin.demo.limits import Limits, decode_upload, read_upload
from sdic_plugin.demo.sessions import EditSettings, Session, kept
from sdic_plugin.demo.snippet import write_snippet
from sdic_plugin.edits import Edit
from sdic_plugin.edits.loader import Strength
from sdic_plugin.errors import EditError, SDICError
from sdic_plugin.images.alignment import Point, paste_back
from sdic_plugin.images.face_alignment import FFHQTemplate, align_face, read_template
from sdic_plugin.images.face_detection import DETECTOR_VARIABLE, choose_face, detect_faces, find_detector
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.sheets import png_bytes
from sdic_plugin.models.sampling import sample
from sdic_plugin.photos.photo import crop_photo, load_example, reconstruction_psnr, suitable_example
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")

Given = ParamSpec("Given")
Result = TypeVar("Result")

SWEEP_COUNT = 7
MAX_SWEEP = 15


def on_gpu(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Run a function where a ZeroGPU Space has its GPU; elsewhere, leave it as it is.

    There it runs in a process of its own: it must take and return everything it needs, and change nothing.
    """
    spaces = sys.modules.get("spaces")  # app.py imports it, before anything that touches CUDA
    return function if spaces is None else spaces.GPU(function)


class Engine:
    """The model and the steps of a visit; all that belongs to a visitor is in a `Session`."""

    def __init__(
        self, pipe: SDICPipeline, name: str, limits: Limits | None = None, detector: str | None = None
    ) -> None:
        """Look for what the page can offer.

        Args:
            pipe: The pipeline, on its device.
            name: Bundled name or Hub id, as visitors can load it; of a folder, its last part.
            limits: Bounds of the page.
            detector: File of the face detector; see `sdic_plugin.images.face_detection`.
        """
        self.pipe = pipe
        self.name = Path(name).name if Path(name).is_dir() else name
        self.limits = limits or Limits()
        self.template = None if pipe.config.alignment is None else read_template(pipe.config.alignment)
        self.detector = self._find_detector(detector)
        self.edits = pipe.get_list_edits()
        self._run_invert = on_gpu(self._invert_crop)
        self._run_render = on_gpu(self._render)
        self._run_draw = on_gpu(self._draw)
        self._run_latents = on_gpu(self._latents)

    def _find_detector(self, given: str | None) -> Path | None:
        """Find YuNet for models of FFHQ's crop, which are of faces that it knows.

        Raises:
            SDICError: If a detector was named and cannot be used; without OpenCV, visitors click the eyes.
        """
        if not isinstance(self.template, FFHQTemplate):
            return None
        named = given or os.environ.get(DETECTOR_VARIABLE)
        try:
            detector = find_detector(given)
            detect_faces(Image.new("RGB", (64, 64)), detector)  # now rather than at the first visitor's photo
        except SDICError as error:
            if named:
                raise
            logger.warning("Visitors have to click the eyes in their photos. %s", error)
            return None
        return detector

    # The photo.

    @property
    def example(self) -> str:
        """Name of the example photo that suits the model."""
        return suitable_example(self.pipe)

    def open_photo(self, session: Session, path: str) -> Session:
        """Read a photo that a visitor sent and, where the model is of faces, find and cut out the largest.

        Raises:
            SDICError: If the file is no usable photo.
        """
        return self._find_face(session, *read_upload(path, self.limits))

    def open_bytes(self, session: Session, content: bytes) -> Session:
        """Do as `open_photo` with the bytes of the file."""
        return self._find_face(session, content, decode_upload(content, self.limits))

    def _find_face(self, session: Session, content: bytes, photo: Image.Image) -> Session:
        session = self._with_photo(session, content, photo)
        if self.template is None:
            return self.take_middle(session)
        if self.detector is None:
            return session
        try:
            face = choose_face(detect_faces(photo, self.detector))
        except SDICError:
            return session
        height, width = self.pipe.image_size
        session.landmarks = face.landmarks
        session.crop, session.alignment = align_face(photo, face.landmarks, self.template, width, height)
        session.eyes = [face.landmarks.left_eye, face.landmarks.right_eye]
        return session

    def open_example(self, session: Session) -> Session:
        """Take the example photo, with its eyes."""
        example = load_example(self.example)
        session = self._with_photo(session, png_bytes(example.source), example.source)
        if self.template is None:
            return self.take_middle(session)
        return self.set_eyes(session, [example.eyes[:2], example.eyes[2:]])

    def open_sample(self, session: Session, seed: int | None = None) -> Session:
        """Take a picture that the generator makes up."""
        photo = self.draw(random.randrange(2**31) if seed is None else seed)
        return self.take_middle(self._with_photo(session, png_bytes(photo), photo))

    def draw(self, seed: int) -> Image.Image:
        """Make up a picture; the same of the same seed."""
        return self._run_draw(seed)

    def click(self, session: Session, x: float, y: float) -> Session:
        """Note a click on the preview, at fractions of its width and height; the second one cuts the photo out."""
        point = (x * session.photo_size[0], y * session.photo_size[1])
        known = session.eyes if len(session.eyes) < 2 else []
        session = self._aligned(session)
        session.eyes = [*known, point]
        return self.set_eyes(session, session.eyes) if len(session.eyes) == 2 else session

    def take_middle(self, session: Session) -> Session:
        """Take the middle of a photo that shows the subject as the model expects it."""
        session = self._aligned(session)
        session.crop, session.alignment = crop_photo(self.pipe, decode_upload(session.file, self.limits), None)
        return session

    def frame(self, session: Session, eyes: Sequence[Point] | None) -> Session:
        """Cut the photo out by its eyes; without them, leave a face that was found, else take the middle."""
        if eyes is not None:
            return self.set_eyes(session, eyes)
        return self.take_middle(session) if session.crop is None else session

    def _with_photo(self, session: Session, content: bytes, photo: Image.Image) -> Session:
        session = session.new_photo()
        session.file, session.photo_size, session.preview = content, photo.size, make_preview(photo)
        return session

    def _aligned(self, session: Session) -> Session:
        """The same photo without what hung on its old crop."""
        fresh = session.new_photo()
        fresh.file, fresh.photo_size, fresh.preview = session.file, session.photo_size, kept(session.preview)
        return fresh

    def set_eyes(self, session: Session, eyes: Sequence[Point]) -> Session:
        """Cut the photo out by its two eye centres, in pixels of the photo."""
        session = self._aligned(session)
        photo = decode_upload(session.file, self.limits)
        session.crop, session.alignment = crop_photo(self.pipe, photo, (*eyes[0], *eyes[1]))
        session.eyes = [(float(x), float(y)) for x, y in eyes]
        return session

    # Inversion and edits.

    def invert(self, session: Session) -> Session:
        """Invert the crop; edits start from what this finds.

        Raises:
            SDICError: If there is no crop yet.
        """
        crop = session.crop
        if crop is None:
            raise SDICError(texts.GONE if session.preview is None else texts.NO_CROP)
        session = copy.copy(session)
        start = time.perf_counter()
        session.inversion = self._run_invert(crop)
        session.inverted = session.edited = self._run_render(session.inversion, EditSettings(), {})[0]
        seconds = time.perf_counter() - start
        before, after = reconstruction_psnr(self.pipe, session.inversion, [session.inverted])[0]
        session.figures = {"initial": before, "inversion": after, "seconds": seconds}
        advice = texts.UNKNOWN_SUBJECT if self.template is None else texts.UNALIGNED
        session.note = self.pipe.subject_warning(session.inversion, advice)
        session.settings = EditSettings()
        return session

    def edit(self, session: Session, settings: EditSettings) -> Session:
        """Render an edit of the inversion, in one generator pass.

        Raises:
            SDICError: If there is no inversion, or the settings make no sense.
        """
        inversion = kept(session.inversion)
        session = copy.copy(session)
        session.edited = self._run_render(inversion, settings, session.loaded)[0]
        session.settings = settings
        return session

    def sweep(self, session: Session, name: str, strengths: Sequence[float]) -> list[Image.Image]:
        """Render one edit over several strengths, full compensation.

        Raises:
            SDICError: If there is no inversion, the edit is unknown, or there are too many strengths.
        """
        inversion = kept(session.inversion)
        if not 1 <= len(strengths) <= MAX_SWEEP:
            raise SDICError(f"{len(strengths)} strengths were asked for, but 1 to {MAX_SWEEP} are possible.")
        many = inversion[[0] * len(strengths)]
        return self._run_render(many, EditSettings(strengths={name: list(strengths)}), session.loaded)

    # What the networks do; see `on_gpu`.

    def _draw(self, seed: int) -> Image.Image:
        drawn = sample(self.pipe.generator, 1, seed).images[:, :, self.pipe.output_rows]
        return SDICImageProcessor(*self.pipe.image_size).postprocess(drawn, "pil")[0]

    def _latents(
        self, inversion: SDICInversion, strengths: Mapping[str, Strength], loaded: Mapping[str, Edit]
    ) -> np.ndarray | None:
        """Edited W+ latents; None of edits in StyleSpace, which leave none."""
        code = self.view(loaded).edited_code(inversion.to(self.pipe.device), strengths)
        return code.float().cpu().numpy() if isinstance(code, torch.Tensor) else None

    def _invert_crop(self, crop: Image.Image) -> SDICInversion:
        return self.pipe.invert(crop, check_subject=False).to("cpu")

    def _render(
        self, inversion: SDICInversion, settings: EditSettings, loaded: Mapping[str, Edit]
    ) -> list[Image.Image]:
        strengths = {name: value for name, value in settings.strengths.items() if np.any(np.asarray(value) != 0)}
        return (
            self.view(loaded)
            .edit(inversion, edits=strengths, compensation=settings.compensation, mask=settings.mask)
            .images
        )

    def view(self, loaded: Mapping[str, Edit]) -> SDICPipeline:
        """The pipeline with one visitor's own edits beside the model's; networks are shared, edits are not."""
        return self.pipe.with_edits({**self.edits, **loaded})

    def add_edits(self, session: Session, file: str | None = None, hub_id: str = "") -> tuple[Session, list[str]]:
        """Load edits for this visitor, from a file that was sent or from the Hub; nobody else sees them.

        Returns:
            The session, and the names of the edits that came.

        Raises:
            SDICError: If the source is none, too large, not for this model, or there are too many edits.
        """
        hub_id = hub_id.strip()
        if file is None and not hub_id:
            raise SDICError("Choose a file of edits (.safetensors), or write a Hub id such as user/name.")
        view = self.pipe.with_edits({})
        if file is not None:
            if Path(file).stat().st_size > self.limits.edit_file_bytes:
                raise EditError("The file is too large for a set of edits.")
            try:
                names = view.load_edits(file)
            except SDICError as error:  # where the file lies here is nobody's business
                raise EditError(str(error).replace(str(file), Path(file).name)) from error
        else:
            with tempfile.TemporaryDirectory(dir=files_root()) as folder:  # nothing of it stays on this disk
                names = view.load_edits(fetch_edits(hub_id, self.limits.edit_file_bytes, Path(folder)))
        own = {name: edit for name, edit in view.get_list_edits().items() if name not in self.edits}
        loaded = {**session.loaded, **own}
        if len(loaded) > self.limits.loaded_edits:
            raise EditError(f"The page takes {self.limits.loaded_edits} edits more, and these are {len(loaded)}.")
        if not own:
            raise EditError(f"The model has these edits already: {', '.join(names)}.")
        session = copy.copy(session)
        session.loaded = loaded
        session.edit_sources = [*session.edit_sources, hub_id or "your_edits.safetensors"]
        return session, sorted(own)

    # Pictures of results.

    def in_photo(self, session: Session, full_size: bool = False) -> Image.Image:
        """Put the last edit back into the photo, or into its preview."""
        edited, inverted, alignment = kept(session.edited), kept(session.inverted), kept(session.alignment)
        if full_size:
            photo = decode_upload(session.file, self.limits, keep_alpha=True)
        else:
            photo = kept(session.preview)
            alignment = alignment.scaled(*photo.size)
        reference = inverted if session.settings.difference else None
        return paste_back(photo, edited, alignment, reference, session.settings.feather)

    def initial(self, session: Session) -> Image.Image:
        """The initial reconstruction."""
        rows = kept(session.inversion).initial[:, :, self.pipe.output_rows]
        return SDICImageProcessor(*self.pipe.image_size).postprocess(rows, "pil")[0]

    def snippet(self, session: Session) -> str:
        """Python code that makes the last edit."""
        return write_snippet(self.name, session, self.pipe.dtype)

    def save_files(self, session: Session, folder: Path) -> list[Path]:
        """Write what a visitor takes home: the edit, the whole photo with it, latents, inversion, the code."""
        inversion, edited = kept(session.inversion), kept(session.edited)
        files = [folder / name for name in ("edited.png", "photo_edited.png", "inversion.safetensors")]
        edited.save(files[0])
        self.in_photo(session, full_size=True).save(files[1])
        inversion.save(files[2])
        latents = self._run_latents(inversion, session.settings.strengths, session.loaded)
        if latents is not None:
            files.append(folder / "latents.npy")
            np.save(files[-1], latents, allow_pickle=False)
        if isinstance(session.settings.mask, Image.Image):
            files.append(folder / "mask.png")
            session.settings.mask.save(files[-1])
        files.append(folder / "reproduce.py")
        files[-1].write_text(self.snippet(session), encoding="utf-8")
        return files


def fetch_edits(hub_id: str, max_bytes: int, folder: Path) -> Path:
    """Download a repository's edits from the Hub into a folder, without this machine's own token.

    `SDICPipeline.load_edits` reads the Hub, too, but folders of this machine as well, and whatever is there.

    Raises:
        EditError: If the id is none (a path of this machine never is), or the edits are absent or too large.
    """
    from huggingface_hub import HfApi, snapshot_download

    if not HUB_ID.fullmatch(hub_id) or ".." in hub_id:
        raise EditError(f"{hub_id[:100]!r} is no Hub id: write one such as user/name.")
    try:
        info = HfApi().model_info(hub_id, files_metadata=True, token=False, timeout=10)
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
        wanted = [name for name in sizes if name.endswith(".safetensors") and name.rpartition("/")[0] in ("", "edits")]
        total = sum(sizes[name] for name in wanted)
        if not wanted or total > max_bytes:
            problem = "has no edits" if not wanted else f"has {total / 2**20:.0f} MB of them, too many for this page"
            raise EditError(f"The repository {hub_id} {problem}: name one with a set of edits.")
        return Path(snapshot_download(hub_id, revision=info.sha, allow_patterns=wanted, token=False, local_dir=folder))
    except EditError:
        raise
    except Exception as error:  # the Hub's client raises errors of many kinds
        raise EditError(
            f"The edits {hub_id} could not be fetched from the Hub: check the name, and that it is public."
        ) from error
