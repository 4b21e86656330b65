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
from typing import Any

import gradio as gr
import torch
from gradio.components import Component
from gradio.events import Dependency
from gradio.routes import App
from PIL import Image
from starlette.middleware import Middleware

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.demo import texts
from sdic_plugin.demo.api import add_endpoints
from sdic_plugin.demo.callbacks import Callbacks
from sdic_plugin.demo.engine import Engine
from sdic_plugin.demo.files import files_root, remove_files
from sdic_plugin.demo.gate import Gate
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


def build_demo(
    pipe: SDICPipeline,
    name: str,
    limits: Limits | None = None,
    detector: str | None = None,
    mcp: bool = False,
) -> Page:
    """Build the page.

    Args:
        pipe: On its device, with the model's own edits.
        name: Of the model, as visitors can load it.
        limits: What visitors may send and how much is kept.
        detector: File of the face detector, for models of FFHQ's crop; see `sdic_plugin.images.face_detection`.
        mcp: Serve three tools to language models, too, at /gradio_api/mcp/; see `sdic_plugin.demo.tools`.

    Raises:
        SDICError: If tools are asked for without the extra `[mcp]`.
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
    if mcp:
        from sdic_plugin.demo.mcp_server import add_tools
        from sdic_plugin.demo.tools import Tools

        add_tools(page, Tools(engine))
    return page


Listen = Callable[..., Dependency]
"""What registers a function for an event, such as `button.click`."""


def _connect(page: Page, layout: Layout, callbacks: Callbacks, limits: Limits) -> None:
    """Say what is called when."""

    def in_browser(listen: Listen, script: str, output: Component | None = None) -> None:
        """Let the browser itself act, without asking the server."""
        listen(None, None, output, js=script, queue=False, api_visibility="private", show_progress="hidden")

    def say(listen: Listen, message: str) -> None:
        in_browser(listen, f"() => {json.dumps(message)}", layout.photo.status)

    def call(
        listen: Listen, function: Callable[..., Any], inputs: Sequence[Component] = (), trigger_mode: str | None = None
    ) -> Dependency:
        """Let the server act, in its turn; it may change anything on the page."""
        return listen(
            function, list(inputs), layout.all, trigger_mode=trigger_mode, api_visibility="private",
            show_progress="hidden", concurrency_id=MODEL_RUNS, concurrency_limit=limits.parallel_runs,
        )  # fmt: skip

    def connect(
        listen: Listen,
        function: Callable[..., Any],
        waiting: str,
        inputs: Sequence[Component] = (),
        trigger_mode: str | None = None,
    ) -> Dependency:
        """Do as `call`, and say meanwhile, or where the call does not get through, what is going on."""
        say(listen, waiting)
        event = call(listen, function, inputs, trigger_mode)
        say(event.failure, texts.status(texts.BUSY, "error"))
        return event

    working, slow_edit = texts.status(texts.WORKING, "busy"), texts.after_a_while(texts.DONE, texts.UPDATING)
    photo, edits = layout.photo, layout.edits
    connect(photo.upload.upload, callbacks.upload, working, [photo.upload])
    connect(photo.example.click, callbacks.example, working)
    connect(photo.sample.click, callbacks.sample, working)
    connect(photo.invert.click, callbacks.invert, working)
    connect(layout.strip.run.click, callbacks.strip, working, [layout.strip.edit])
    connect(layout.more.add.click, callbacks.add_edits, working, [layout.more.file, layout.more.hub_id])
    connect(layout.save.make_files.click, callbacks.make_files, working)
    connect(edits.reset.click, callbacks.reset, slow_edit, [layout.result.view])
    connect(edits.surprise.click, callbacks.surprise, slow_edit, layout.controls)
    written = connect(layout.result.download.click, callbacks.download, working)
    in_browser(written.success, CLICK_DOWNLOAD)
    call(photo.picture.select, callbacks.click)
    call(photo.middle.click, callbacks.middle)
    started_over = call(photo.another.click, callbacks.another)
    # On a phone, the button is far below where a photo is chosen.
    in_browser(started_over.success, "() => window.scrollTo(0, 0)")
    touched = [slider.input for slider in [*edits.sliders, edits.compensation]]
    touched += [layout.result.view.input, edits.difference.input, edits.auto_mask.input, edits.mask.input]
    # One listener for all: while an edit is being made, only the last of the later values waits.
    connect(functools.partial(gr.on, touched), callbacks.edit, slow_edit, layout.controls, "always_last")
    page.unload(_nothing)  # so that the page keeps a connection whose end tells the gate that it was closed


def _nothing() -> None:
    """Do nothing."""


def serve(page: Page, **options: Any) -> tuple[App, str, str]:
    """Serve a page with its limits; `options` go to `gradio.Blocks.launch`, whose result is returned.

    Unless `prevent_thread_lock` is given, it serves until the process is interrupted or terminated, and then removes
    what visitors sent.
    """
    limits = page.limits
    return_freed_memory()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    Image.MAX_IMAGE_PIXELS = limits.photo_pixels  # Pillow refuses twice that, wherever a file is opened
    page.queue(max_size=limits.queue_size, default_concurrency_limit=limits.parallel_runs)
    settings: dict[str, Any] = {
        "max_file_size": limits.upload_bytes, "show_error": False, "ssr_mode": False, "theme": THEME,
        "app_kwargs": {"middleware": [Middleware(Gate, page=page)]} | _lifespan(page),
        "css_paths": Path(__file__).parent / "style.css", "head": HEAD, "footer_links": ["api"], "share": False,
    }  # fmt: skip
    atexit.register(remove_files)
    if threading.current_thread() is threading.main_thread() and not options.get("prevent_thread_lock"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Gradio closes the page on a KeyboardInterrupt
    try:
        # Gradio's own tools, of every endpoint, are none of ours; see `sdic_plugin.demo.mcp_server`.
        return page.launch(**{**settings, **options, "mcp_server": False})
    finally:
        if not options.get("prevent_thread_lock"):
            remove_files()


def _lifespan(page: Page) -> dict[str, Any]:
    """What runs as long as the server does: the tools' transports."""
    return {} if page.mcp_server_obj is None else {"lifespan": page.mcp_server_obj.lifespan}


def launch(
    model: str = DEFAULT_MODEL,
    port: int | None = None,
    detector: str | None = None,
    dtype: str = "float32",
    mcp: bool = False,
    **options: Any,
) -> None:
    """Load a model and serve its page.

    Args:
        model: Bundled name, folder or Hub id.
        port: Of the server; None for a free one.
        detector: File of the face detector; see `build_demo`.
        dtype: What the networks compute in: "float32", "float16" or "bfloat16".
        mcp: Serve tools, too; see `build_demo`.
        options: For `gradio.Blocks.launch`.
    """
    if mcp:  # before the model is loaded
        from sdic_plugin.demo.mcp_server import check_mcp

        check_mcp()
    pipe = SDICPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipe.to("cuda")
    warn_of_slow_bfloat16(pipe.dtype, pipe.device)
    fuse_where_it_pays(pipe)
    serve(build_demo(pipe, model, detector=detector, mcp=mcp), server_port=port, **options)
