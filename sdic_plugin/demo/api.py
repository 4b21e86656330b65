"""The named endpoints, for gradio_client and plain HTTP: /invert, /edit and /sweep."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component
from PIL import Image

from sdic_plugin.demo.engine import MAX_SWEEP, Engine
from sdic_plugin.demo.files import VisitorFiles
from sdic_plugin.demo.limits import read_upload
from sdic_plugin.demo.page import session_of, with_files
from sdic_plugin.demo.sessions import EditSettings, SessionStore, kept
from sdic_plugin.errors import SDICError
from sdic_plugin.images.sheets import discrepancy_to_image
from sdic_plugin.photos.inputs import parse_eyes


def add_endpoints(engine: Engine, store: SessionStore, files: VisitorFiles, concurrency_id: str) -> None:
    """Add the endpoints to the page; call inside `Page`, which turns errors into sentences.

    Components that nobody sees describe the types.
    """

    def pictures_as_files(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any) -> Any:
            return with_files(function(*arguments), files, session_of(arguments[-1]))

        return run

    @pictures_as_files
    def invert(photo: str | None, eyes: str | None, request: gr.Request) -> tuple[Any, ...]:
        if photo is None:
            raise SDICError("Give a photo.")
        session = engine.open_photo(store.get(session_of(request)), photo)
        given = parse_eyes(eyes) if eyes is not None and eyes.strip() else None
        session = engine.invert(engine.frame(session, None if given is None else (given[:2], given[2:])))
        store.put(session_of(request), session)
        lost = discrepancy_to_image(kept(session.inversion).discrepancy[0].float())
        figures = {**session.figures, "eyes": [list(eye) for eye in session.eyes], "note": session.note}
        return session.inverted, engine.initial(session), lost, figures

    @pictures_as_files
    def edit(
        edits: dict[str, Any],
        compensation: float,
        mask: str | None,
        paste_back: bool,
        auto_mask: bool,
        request: gr.Request,
    ) -> Image.Image:
        if not isinstance(edits, dict):
            raise SDICError('Give the edits as {"name": strength, ...}.')
        if auto_mask and mask is not None:
            raise SDICError("Both a mask and auto_mask were given: give one of them.")
        painted = "auto" if auto_mask else None if mask is None else read_upload(mask, engine.limits)[1].convert("L")
        strengths = {name: _number(value, "strength") for name, value in edits.items()}
        settings = EditSettings(strengths, _number(compensation, "compensation"), painted)
        session = engine.edit(store.get(session_of(request)), settings)
        store.put(session_of(request), session)
        return engine.in_photo(session, full_size=True) if paste_back else kept(session.edited)

    @pictures_as_files
    def sweep(name: str, low: float, high: float, count: float, request: gr.Request) -> list[tuple[Image.Image, str]]:
        session = store.get(session_of(request))
        if not 1 <= _number(count, "number of strengths") <= 100:
            raise SDICError(f"{count:g} strengths were asked for, but 1 to {MAX_SWEEP} are possible.")
        strengths = np.linspace(_number(low, "strength"), _number(high, "strength"), int(count)).tolist()
        pictures = engine.sweep(session, name, strengths)
        return [(picture, f"{strength:g}") for picture, strength in zip(pictures, strengths, strict=True)]

    with gr.Group(visible=False):
        photo, mask = gr.File(label="Photo: a picture file"), gr.File(label="Picture, white keeps the photo's detail")
        eyes = gr.Textbox(
            "",
            label="Eye centres x1,y1,x2,y2 in pixels of the upright photo; empty: a found face, else the middle",
        )
        pictures = [_picture(name) for name in ("Inversion", "Initial reconstruction", "Discrepancy, grey is none")]
        figures = gr.JSON(label="PSNR in dB of initial and inversion, seconds, eyes, note on unfit photos")
        edits = gr.JSON({}, label="Strength by name of an edit")
        compensation = gr.Number(1, label="How much of the photo's detail to put back, 0 to 1")
        paste = gr.Checkbox(False, label="Return the whole photo with the change added")
        automatic = gr.Checkbox(False, label="Let the edit win where it acts, in place of a mask")
        edited, name = _picture("Edited picture"), gr.Textbox(label="Name of an edit")
        low, high, count = (
            gr.Number(-1, label="First strength"),
            gr.Number(1, label="Last"),
            gr.Number(7, label="Number"),
        )
        gallery = gr.Gallery(label="A picture per strength, with the strength as its caption", format="png")
        trigger = gr.Button()

    def serve(
        name: str, function: Callable[..., Any], inputs: list[Component], outputs: list[Component], what: str
    ) -> None:
        trigger.click(
            function, inputs, outputs, api_name=name, api_description=what,
            concurrency_id=concurrency_id, concurrency_limit=engine.limits.parallel_runs,
        )  # fmt: skip

    serve(
        "invert", invert, [photo, eyes], [*pictures, figures],
        "Invert a photo; /edit and /sweep of the same client work on it from then on.",
    )  # fmt: skip
    serve(
        "edit", edit, [edits, compensation, mask, paste, automatic], [edited],
        "Render an edit of the photo inverted last.",
    )  # fmt: skip
    serve(
        "sweep", sweep, [name, low, high, count], [gallery],
        "Render one edit of the photo inverted last over several strengths.",
    )  # fmt: skip


def _picture(label: str) -> gr.Image:
    return gr.Image(label=label, format="png", type="pil")


def _number(value: Any, what: str) -> float:
    try:
        if not isinstance(value, bool | str) and np.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise SDICError(f"The {what} {repr(value)[:60]} is no finite number: give one such as 1 or 0.5.")
