"""The named endpoints, for gradio_client and plain HTTP: /invert, /edit and /sweep."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from sdic_plugin.alignment import parse_eyes
from sdic_plugin.demo.engine import Engine
from sdic_plugin.demo.limits import read_upload
from sdic_plugin.demo.sessions import EditSettings, SessionStore
from sdic_plugin.demo.texts import FAILED
from sdic_plugin.errors import SDICError
from sdic_plugin.visualization import discrepancy_to_image

logger = logging.getLogger(__name__)


def in_one_sentence(function: Callable) -> Callable:
    """Pass errors on as what the visitor can do about them."""

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except SDICError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            logger.exception("The endpoint /%s failed.", function.__name__)
            raise gr.Error(FAILED, print_exception=False) from error

    return run


def add_endpoints(engine: Engine, store: SessionStore, concurrency_id: str) -> None:
    """Add the endpoints to the page; call inside `gr.Blocks`.

    Components that nobody sees describe the types: they check that files come from this page's uploads.
    """

    def invert(photo: str, eyes: str, request: gr.Request) -> tuple:
        if photo is None:
            raise SDICError("Give a photo.")
        session = engine.open_photo(store.get(request.session_hash), photo)
        if eyes.strip():
            x1, y1, x2, y2 = parse_eyes(eyes)
            session = engine.set_eyes(session, ((x1, y1), (x2, y2)))
        elif session.crop is None:
            session = engine.take_middle(session)
        session = engine.invert(session)
        store.put(request.session_hash, session)
        lost = discrepancy_to_image(session.inversion.discrepancy[0].float())
        figures = {**session.figures, "eyes": [list(eye) for eye in session.eyes]}
        return session.inverted, engine.initial(session), lost, figures

    def edit(edits: dict, compensation: float, mask: str | None, paste_back: bool, request: gr.Request) -> Image.Image:
        if not isinstance(edits, dict):
            raise SDICError('Give the edits as {"name": strength, ...}.')
        painted = None if mask is None else read_upload(mask, engine.limits)[1].convert("L")
        settings = EditSettings({name: _number(value) for name, value in edits.items()}, compensation, painted)
        session = engine.edit(store.get(request.session_hash), settings)
        store.put(request.session_hash, session)
        return engine.in_photo(session, full_size=True) if paste_back else session.edited

    def sweep(name: str, low: float, high: float, count: float, request: gr.Request) -> list:
        session = store.get(request.session_hash)
        if not 1 <= count <= 100:
            raise SDICError(f"{count} strengths were asked for, but 1 to 15 are possible.")
        strengths = np.linspace(_number(low), _number(high), int(count)).tolist()
        pictures = engine.sweep(session, name, strengths)
        return [(picture, f"{strength:g}") for picture, strength in zip(pictures, strengths, strict=True)]

    with gr.Group(visible=False):
        photo, mask = gr.File(label="Photo: a picture file"), gr.File(label="Picture, white keeps the photo's detail")
        eyes = gr.Textbox(
            "",
            label="Eye centres x1,y1,x2,y2 in pixels of the upright photo; empty: a found face, else the middle",
        )
        pictures = [_picture(name) for name in ("Inversion", "Initial reconstruction", "Discrepancy, grey is none")]
        figures = gr.JSON(label="PSNR in dB of initial and inversion, seconds, eyes")
        edits = gr.JSON({}, label="Strength by name of an edit")
        compensation = gr.Number(1, label="How much of the photo's detail to put back, 0 to 1")
        paste = gr.Checkbox(False, label="Return the whole photo with the change added")
        edited, name = _picture("Edited picture"), gr.Textbox(label="Name of an edit")
        low, high, count = (
            gr.Number(-1, label="First strength"),
            gr.Number(1, label="Last"),
            gr.Number(7, label="Number"),
        )
        gallery = gr.Gallery(label="A picture per strength, with the strength as its caption", format="png")
        trigger = gr.Button()

    shared = {"concurrency_id": concurrency_id, "concurrency_limit": engine.limits.parallel_runs}
    trigger.click(
        in_one_sentence(invert), [photo, eyes], [*pictures, figures], api_name="invert",
        api_description="Invert a photo; /edit and /sweep of the same client work on it from then on.", **shared,
    )  # fmt: skip
    trigger.click(
        in_one_sentence(edit), [edits, compensation, mask, paste], edited, api_name="edit",
        api_description="Render an edit of the photo inverted last.", **shared,
    )  # fmt: skip
    trigger.click(
        in_one_sentence(sweep), [name, low, high, count], gallery, api_name="sweep",
        api_description="Render one edit of the photo inverted last over several strengths.", **shared,
    )  # fmt: skip


def _picture(label: str) -> gr.Image:
    return gr.Image(label=label, format="png", type="pil")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise SDICError(f"The strength {value!r} is no finite number.")
    return float(value)
