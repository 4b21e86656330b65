"""What happens when something on the page is touched."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import numpy as np
from gradio.components.image_editor import EditorValue
from PIL import Image

from sdic_plugin.demo import texts
from sdic_plugin.demo.drawing import draw_crop, draw_discrepancy, enlarge
from sdic_plugin.demo.engine import SWEEP_COUNT, Engine
from sdic_plugin.demo.files import VisitorFiles
from sdic_plugin.demo.layout import WHOLE_PHOTO, Layout, choices, slider_of, slider_range
from sdic_plugin.demo.page import session_of, with_files
from sdic_plugin.demo.sessions import EditSettings, Session, SessionStore, kept
from sdic_plugin.edits import Edit
from sdic_plugin.edits.naming import edit_title
from sdic_plugin.errors import SDICError

logger = logging.getLogger(__name__)

Updates = dict[gr.blocks.Block, Any]

RANDOM_EDITS = 3

PAGE_SETTINGS = EditSettings(feather=0.25)
"""No edit. The border is soft: strong colours show a narrower one as a frame around the face."""


def guarded(method: Callable[..., Updates]) -> Callable[..., Updates]:
    """Turn what goes wrong into a message on the page, which keeps everything else as it is.

    Pictures are sent as files of the visitor's own.
    """

    @functools.wraps(method)
    def run(self: Callbacks, *arguments: Any) -> Updates:
        session = next(each.session_hash for each in arguments if hasattr(each, "session_hash"))
        try:
            updates = method(self, *arguments)
            return {
                component: with_files(value, self.files, session, getattr(component, "format", "png"))
                for component, value in updates.items()
            }
        except SDICError as error:
            return {self.layout.photo.status: texts.status(str(error), "error")}
        except Exception:
            logger.exception("The page's %s failed.", method.__name__)
            return {self.layout.photo.status: texts.status(texts.FAILED, "error")}

    return run


class Callbacks:
    """The page's behaviour; a visitor is known by the session hash of the request."""

    def __init__(self, engine: Engine, store: SessionStore, layout: Layout, files: VisitorFiles) -> None:
        """Connect engine, sessions, components and files."""
        self.engine = engine
        self.store = store
        self.layout = layout
        self.files = files

    def _keep(self, request: gr.Request, session: Session) -> Session:
        self.store.put(session_of(request), session)
        return session

    def _session(self, request: gr.Request) -> Session:
        return self.store.get(session_of(request))

    # The photo.

    @guarded
    def upload(self, path: str | None, request: gr.Request) -> Updates:
        """Take a photo that was sent."""
        if path is None:
            raise SDICError(texts.START)
        try:
            session = self.engine.open_photo(self._session(request), path)
        except SDICError as error:
            self._keep(request, self._session(request).new_photo())
            return {self.layout.photo.upload: None, self.layout.photo.status: texts.status(str(error), "error")}
        finally:
            self.files.remove(path)  # from here on the photo is in memory alone
        return self._show_photo(self._keep(request, session))

    @guarded
    def example(self, request: gr.Request) -> Updates:
        """Take the example, inverted at once."""
        session = self.engine.open_example(self._session(request))
        return self._show_inversion(self._keep(request, self.engine.invert(session)))

    @guarded
    def sample(self, request: gr.Request) -> Updates:
        """Take a picture that the generator made up, inverted at once."""
        session = self.engine.open_sample(self._session(request))
        return self._show_inversion(self._keep(request, self.engine.invert(session)))

    @guarded
    def click(self, event: gr.SelectData, request: gr.Request) -> Updates:
        """Take a click on the photo as an eye."""
        session = self._session(request)
        x, y = np.clip(_point(event.index) / kept(session.preview).size, 0, 1).tolist()
        return self._show_photo(self._keep(request, self.engine.click(session, x, y)))

    @guarded
    def middle(self, request: gr.Request) -> Updates:
        """Take the photo's middle instead of looking for eyes."""
        return self._show_photo(self._keep(request, self.engine.take_middle(self._session(request))))

    def another(self, request: gr.Request) -> Updates:
        """Start over with another photo."""
        layout = self.layout
        self._keep(request, self._session(request).new_photo())
        return {
            **self._without_result(),
            layout.photo.choose: gr.update(visible=True),
            layout.photo.chosen: gr.update(visible=False),
            layout.photo.upload: None,
            layout.photo.status: texts.status(texts.START),
        }

    def _show_photo(self, session: Session) -> Updates:
        layout = self.layout
        return {
            **self._without_result(),
            layout.photo.choose: gr.update(visible=False),
            layout.photo.chosen: gr.update(visible=True),
            layout.photo.picture: draw_crop(
                kept(session.preview), session.photo_size, session.alignment, session.eyes
            ),
            layout.photo.invert: gr.update(visible=True, interactive=session.crop is not None),
            layout.photo.middle: gr.update(visible=session.crop is None or not session.eyes),
            layout.photo.status: texts.status(self._next_step(session)),
        }

    def _next_step(self, session: Session) -> str:
        if session.crop is not None:
            if session.landmarks is not None:
                return texts.READY_FACE
            return texts.READY if session.eyes else texts.READY_MIDDLE
        if session.eyes:
            return texts.SECOND_EYE
        return texts.FIRST_EYE if self.engine.detector is None else texts.NO_FACE

    # The inversion.

    @guarded
    def invert(self, request: gr.Request) -> Updates:
        """Invert the photo."""
        return self._show_inversion(self._keep(request, self.engine.invert(self._session(request))))

    def _show_inversion(self, session: Session) -> Updates:
        layout, engine = self.layout, self.engine
        status = texts.status(texts.DONE, "done") if session.note is None else texts.status(session.note)
        return {
            **self._show_photo(session),
            **self._zeroed(session),
            layout.result.empty: gr.update(visible=False),
            layout.result.slider: gr.update(visible=True, value=self._pair(session, layout.result.view.value)),
            layout.result.view: gr.update(visible=True, value=layout.result.view.value),
            layout.photo.invert: gr.update(visible=False),
            layout.result.download: gr.update(visible=True),
            layout.detail.figures: gr.update(visible=True, value=texts.figures(session.figures)),
            layout.detail.initial: enlarge(engine.initial(session)),
            layout.detail.discrepancy: draw_discrepancy(kept(session.inversion).discrepancy[0].float()),
            **self._finely_controlled(session),
            layout.photo.status: status,
            layout.save.snippet: engine.snippet(session),
            **{button: gr.update(interactive=True) for button in self._buttons()},
        }

    def _without_result(self) -> Updates:
        layout = self.layout
        own_sliders = layout.edits.sliders[: len(self.engine.edits)]
        return {
            layout.result.empty: gr.update(visible=True),
            layout.result.slider: gr.update(visible=False),
            layout.result.view: gr.update(visible=False),
            layout.detail.figures: gr.update(visible=False),
            layout.strip.gallery: None,
            layout.save.files: None,
            layout.detail.initial: None,
            layout.detail.discrepancy: None,
            layout.result.download: gr.update(visible=False),
            layout.result.download_link: None,
            **{each: gr.update(interactive=False) for each in layout.edits.fine_controls},
            **{slider: gr.update(interactive=False, value=0) for slider in own_sliders},
            **{button: gr.update(interactive=False) for button in self._buttons()},
        }

    def _buttons(self) -> list[gr.Button]:
        edits = self.layout.edits
        return [edits.reset, edits.surprise, self.layout.strip.run, self.layout.save.make_files]

    def _finely_controlled(self, session: Session) -> Updates:
        """Set the fine control to what `PAGE_SETTINGS` renders."""
        values, mask = PAGE_SETTINGS, enlarge(kept(session.crop))
        shown = (values.compensation, values.difference, values.mask == "auto")
        return {
            **{
                each: gr.update(interactive=True, value=value)
                for each, value in zip(self.layout.edits.fine_controls, shown, strict=True)
            },
            self.layout.edits.mask: {"background": mask, "layers": [], "composite": mask},
        }

    def _pair(self, session: Session, view: str) -> tuple[Image.Image, Image.Image]:
        if view == WHOLE_PHOTO:
            return kept(session.preview), self.engine.in_photo(session)
        edited = kept(session.edited)
        before = kept(session.crop).resize(edited.size, Image.Resampling.LANCZOS)
        return enlarge(before), enlarge(edited)

    # Edits.

    @guarded
    def edit(self, request: gr.Request, view: str, *controls: Any) -> Updates:
        """Render what the controls say; after the view they are those that `read_settings` takes."""
        session = self._session(request)
        settings = read_settings(self._names(session), *controls)
        return self._show_edit(self._keep(request, self.engine.edit(session, settings)), view)

    @guarded
    def reset(self, view: str, request: gr.Request) -> Updates:
        """Set every slider to 0, and the fine control as it was at first."""
        session = self._keep(request, self.engine.edit(self._session(request), PAGE_SETTINGS))
        return {**self._zeroed(session), **self._finely_controlled(session), **self._show_edit(session, view)}

    @guarded
    def surprise(self, request: gr.Request, view: str, *controls: Any) -> Updates:
        """Try some edits at random strengths, in place of those of the sliders; the fine control stays as it is."""
        session = self._session(request)
        known = self._known(session)
        names = random.sample(list(known), min(RANDOM_EDITS, len(known)))
        chosen = {name: random_strength(known[name]) for name in names}
        settings = dataclasses.replace(read_settings(self._names(session), *controls), strengths=chosen)
        session = self._keep(request, self.engine.edit(session, settings))
        values: Updates = {each: gr.update(value=chosen.get(name, 0)) for name, each in self._named(session).items()}
        return {**values, **self._show_edit(session, view)}

    def _names(self, session: Session) -> list[str]:
        """Edits in the order of their sliders."""
        return [*self.engine.edits, *session.loaded]

    def _known(self, session: Session) -> dict[str, Edit]:
        return {**self.engine.edits, **session.loaded}

    def _named(self, session: Session) -> dict[str, gr.Slider]:
        return dict(zip(self._names(session), self.layout.edits.sliders, strict=False))

    def _zeroed(self, session: Session) -> Updates:
        return {slider: gr.update(value=0, interactive=True) for slider in self._named(session).values()}

    def _show_edit(self, session: Session, view: str) -> Updates:
        layout = self.layout
        return {
            layout.result.slider: self._pair(session, view),
            layout.save.files: None,  # those of the edit before
            layout.save.snippet: self.engine.snippet(session),
            layout.photo.status: texts.status(texts.DONE, "done"),
        }

    @guarded
    def strip(self, name: str | None, request: gr.Request) -> Updates:
        """Show one edit over seven strengths."""
        session = self._session(request)
        known = self._known(session)
        if name is None or name not in known:
            raise SDICError("Choose an edit first.")
        strengths = np.linspace(*slider_range(known[name]), SWEEP_COUNT).round(2).tolist()
        pictures = self.engine.sweep(session, name, strengths)
        captions = [f"{strength:+g}" if strength else "0" for strength in strengths]
        return {
            self.layout.strip.gallery: list(zip(map(enlarge, pictures), captions, strict=True)),
            self.layout.photo.status: texts.status(texts.STRIP, "done"),
        }

    @guarded
    def add_edits(self, file: str | None, hub_id: str | None, request: gr.Request) -> Updates:
        """Load edits for this visitor."""
        layout = self.layout
        try:
            session, names = self.engine.add_edits(self._session(request), file, hub_id or "")
        except SDICError as error:
            return {layout.more.file: None, layout.photo.status: texts.status(str(error), "error")}
        self._keep(request, session)
        sliders = self._named(session)
        known = ", ".join(edit_title(session.loaded[name]) for name in names)
        return {
            **{sliders[each]: gr.update(**slider_of(edit), visible=True) for each, edit in session.loaded.items()},
            layout.edits.added: gr.update(visible=True),
            layout.strip.edit: gr.update(choices=choices(self.engine, session.loaded)),
            layout.more.file: None,
            layout.more.hub_id: "",
            layout.photo.status: texts.status(f"Loaded: {known}. The sliders are under “Edit”.", "done"),
        }

    # Taking it home.

    @guarded
    def make_files(self, request: gr.Request) -> Updates:
        """Write the files of the last edit."""
        session = copy.copy(self._session(request))
        if session.files is not None:
            self.files.remove(session.files)
        session.files = self.files.new_path(session_of(request), "edited.png")
        files = self.engine.save_files(session, session.files.parent)
        self._keep(request, session)
        return {
            self.layout.save.files: [str(path) for path in files],
            self.layout.photo.status: texts.status(texts.FILES, "done"),
        }

    def download(self, request: gr.Request) -> Updates:
        """Write the files of the last edit, and hand the whole photo to the browser."""
        layout = self.layout
        updates = self.make_files(request)
        if layout.save.files in updates:
            photo = next(path for path in updates[layout.save.files] if path.endswith("photo_edited.png"))
            updates[layout.result.download_link] = photo
            updates[layout.photo.status] = texts.status(texts.DOWNLOADED, "done")
        return updates


def _point(index: Any) -> np.ndarray:
    """Where a picture was clicked, [2]; a program may send anything.

    Raises:
        SDICError: If it is no point.
    """
    try:
        point = np.array(index, dtype=float)
    except (TypeError, ValueError, OverflowError):
        point = np.zeros(0)
    if point.shape != (2,) or not np.isfinite(point).all():
        raise SDICError(texts.BAD_REQUEST)
    return point


def random_strength(edit: Edit) -> float:
    """A strength that shows an edit, towards one of its ends, and within its slider."""
    low, high = slider_range(edit)
    strength = random.choice([-1, 1]) * random.uniform(0.5, 1.0) * edit.default_strength
    strength = -strength if not low <= strength <= high else strength  # of an edit with one side only
    return float(np.clip(strength, low, high).round(2))


def read_settings(
    names: Sequence[str],
    compensation: float,
    difference: bool,
    auto: bool,
    mask: EditorValue | None,
    *strengths: float | None,
) -> EditSettings:
    """Read the controls, in the order of `Layout.controls`; in the photo, the change fades out over a wide border.

    Args:
        names: Edits in the order of their sliders; sliders without an edit are left out, as are strengths of 0.
        compensation: How much of the photo's detail to put back, in [0, 1].
        difference: Whether to paste only the change into the photo.
        auto: Whether to find the mask; what was painted is then not used.
        mask: What was painted.
        strengths: Values of the sliders.
    """
    return dataclasses.replace(
        PAGE_SETTINGS,
        strengths={name: value for name, value in zip(names, strengths, strict=False) if value},
        compensation=compensation,
        difference=difference,
        mask="auto" if auto else read_mask(mask),
    )


def read_mask(value: EditorValue | None) -> Image.Image | None:
    """Read the painted layer: black where it was painted (the edit wins), white elsewhere; None if nothing was."""
    layers = [] if value is None else value["layers"]
    painted = [np.asarray(layer)[..., 3] for layer in layers]
    return Image.fromarray(255 - painted[0]) if painted and painted[0].any() else None
