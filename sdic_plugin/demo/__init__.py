"""The demo page: from a photo to an edited photo; what the Space in `demo/` and `sdic demo` serve."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
import torch
from gradio.events import Dependency
from PIL import Image

from sdic_plugin.demo import texts
from sdic_plugin.demo.api import add_endpoints
from sdic_plugin.demo.callbacks import Callbacks
from sdic_plugin.demo.engine import Engine
from sdic_plugin.demo.files import files_root, remove_files
from sdic_plugin.demo.layout import Layout, build_layout
from sdic_plugin.demo.limits import Limits
from sdic_plugin.demo.page import Page
from sdic_plugin.demo.sessions import SessionStore
from sdic_plugin.pipeline.loading import fuse_where_it_pays
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.memory import return_freed_memory
from sdic_plugin.utils.precision import warn_of_slow_bfloat16

__all__ = ["Limits", "build_demo", "launch", "serve"]

MODEL_RUNS = "model"
"""Requests of this name share the limit of runs at a time."""

BROWSER_ONLY = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}

# Not where the status tells of an error, beside which a file of an earlier edit may be.
CLICK_DOWNLOAD = """() => {
    if (!document.querySelector('#status .error')) document.querySelector('#download-link')?.click();
}"""

# Fonts of the visitor's own machine: Gradio's themes fetch theirs from Google otherwise.
THEME = gr.themes.Soft(
    primary_hue="indigo",
    font=["system-ui", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(
    background_fill_primary="*neutral_50",  # Soft's own, which `set` forgets
    # Empty boxes and fields are to be seen as such.
    checkbox_border_width="1px",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
    input_border_width="1px",
    input_border_color="*neutral_400",
    input_border_color_dark="*neutral_500",
)


# Gradio confines css_paths to what is inside its container. The container itself would keep the result from sticking,
# would grow with a long line of code once it does not, and has margins too wide for a phone.
HEAD = """<style>
.gradio-container { overflow: clip !important; width: 100% !important; }
@media (max-width: 720px) { .gradio-container .main.app { padding: 0.5rem 0.8rem !important; } }
</style>"""


def build_demo(pipe: SDICPipeline, name: str, limits: Limits | None = None, detector: str | None = None) -> Page:
    """Build the page.

    Args:
        pipe: The pipeline.
        name: Of the model, as visitors can load it.
        limits: What visitors may send and how much is kept.
        detector: File of the face detector, for models of FFHQ's crop; see `sdic_plugin.images.face_detection`.
    """
    engine = Engine(pipe, name, limits, detector)
    limits = engine.limits
    files_root()  # before any component asks where files go
    store = SessionStore(limits.sessions, limits.session_bytes, limits.idle_seconds)
    with Page(limits, store, title=f"SDIC: {engine.name}", analytics_enabled=False) as page:
        # First, so that their names are not taken by the page's own events.
        add_endpoints(engine, store, page.sdic_files, MODEL_RUNS)
        layout = build_layout(engine)
        _connect(page, layout, Callbacks(engine, store, layout, page.sdic_files), limits)
    return page


def _connect(page: Page, layout: Layout, callbacks: Callbacks, limits: Limits) -> None:
    """Say what is called when."""
    shared = {
        "outputs": layout.all, "concurrency_id": MODEL_RUNS, "concurrency_limit": limits.parallel_runs,
        "api_visibility": "private", "show_progress": "hidden",
    }  # fmt: skip

    def say(listen: Callable, message: str) -> None:
        """Let the browser itself write a message, without asking the server."""
        listen(None, None, layout.status, js=f"() => {json.dumps(message)}", **BROWSER_ONLY)

    def connect(
        listen: Callable, function: Callable, inputs: Sequence | None, waiting: str, **options: str
    ) -> Dependency:
        say(listen, waiting)
        event = listen(function, inputs, **shared, **options)
        say(event.failure, texts.status(texts.BUSY, "error"))
        return event

    working, slow_edit = texts.status(texts.WORKING, "busy"), texts.after_a_while(texts.DONE, texts.UPDATING)
    connect(layout.upload.upload, callbacks.upload, [layout.upload], working)
    connect(layout.example.click, callbacks.example, None, working)
    connect(layout.sample.click, callbacks.sample, None, working)
    connect(layout.invert.click, callbacks.invert, None, working)
    connect(layout.strip_run.click, callbacks.strip, [layout.strip_edit], working)
    connect(layout.add_edits.click, callbacks.add_edits, [layout.edit_file, layout.edit_hub_id], working)
    connect(layout.make_files.click, callbacks.make_files, None, working)
    connect(layout.reset.click, callbacks.reset, [layout.view], slow_edit)
    connect(layout.surprise.click, callbacks.surprise, layout.controls, slow_edit)
    written = connect(layout.download.click, callbacks.download, None, working)
    written.success(None, None, None, js=CLICK_DOWNLOAD, **BROWSER_ONLY)
    layout.photo.select(callbacks.click, None, **shared)
    layout.middle.click(callbacks.middle, None, **shared)
    started_over = layout.another.click(callbacks.another, None, **shared)
    # On a phone, the button is far below where a photo is chosen.
    started_over.success(None, None, None, js="() => window.scrollTo(0, 0)", **BROWSER_ONLY)
    touched = [slider.input for slider in [*layout.sliders, layout.compensation]]
    touched += [layout.view.input, layout.difference.input, layout.auto_mask.input, layout.mask.input]
    # One listener for all: while an edit is being made, only the last of the later values waits.
    edits = functools.partial(gr.on, touched)
    connect(edits, callbacks.edit, layout.controls, slow_edit, trigger_mode="always_last")
    page.unload(_nothing)  # so that the page keeps a connection whose end tells the gate that it was closed


def _nothing() -> None:
    """Do nothing."""


def serve(page: Page, **options: object) -> tuple:
    """Serve a page with its limits; `options` go to `gradio.Blocks.launch`, whose result is returned.

    Unless `prevent_thread_lock` is given, it serves until the process is interrupted or terminated, and then removes
    what visitors sent.
    """
    limits = page.limits
    return_freed_memory()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    Image.MAX_IMAGE_PIXELS = limits.photo_pixels  # Pillow refuses twice that, wherever a file is opened
    page.queue(max_size=limits.queue_size, default_concurrency_limit=limits.parallel_runs)
    settings = {
        "max_file_size": limits.upload_bytes, "show_error": False, "ssr_mode": False, "theme": THEME,
        "app_kwargs": {"middleware": [page.middleware()]},
        "css_paths": Path(__file__).parent / "style.css", "head": HEAD, "footer_links": ["api"], "share": False,
    }  # fmt: skip
    atexit.register(remove_files)
    if threading.current_thread() is threading.main_thread() and not options.get("prevent_thread_lock"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Gradio closes the page on a KeyboardInterrupt
    try:
        return page.launch(**{**settings, **options})
    finally:
        if not options.get("prevent_thread_lock"):
            remove_files()


def launch(
    model: str = "cats64",
    port: int | None = None,
    detector: str | None = None,
    dtype: str = "float32",
    **options: object,
) -> None:
    """Load a model and serve its page.

    Args:
        model: Bundled name, folder or Hub id.
        port: Of the server; None for a free one.
        detector: File of the face detector; see `build_demo`.
        dtype: What the networks compute in: "float32", "float16" or "bfloat16".
        options: For `gradio.Blocks.launch`.
    """
    pipe = SDICPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipe.to("cuda")
    warn_of_slow_bfloat16(pipe.dtype, pipe.device)
    fuse_where_it_pays(pipe)
    serve(build_demo(pipe, model, detector=detector), server_port=port, **options)
