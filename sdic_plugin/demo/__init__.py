"""The demo page: from a photo to an edited photo; what the Space in `demo/` and `sdic demo` serve."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import gradio as gr
import torch
from PIL import Image

from sdic_plugin.demo.api import add_endpoints
from sdic_plugin.demo.callbacks import Callbacks
from sdic_plugin.demo.engine import Engine
from sdic_plugin.demo.layout import Layout, build_layout
from sdic_plugin.demo.limits import Limits
from sdic_plugin.demo.sessions import SessionStore
from sdic_plugin.pipeline import SDICPipeline

__all__ = ["Limits", "build_demo", "launch", "serve"]

MODEL_RUNS = "model"
"""Requests of this name share the limit of runs at a time."""

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


# Gradio confines css_paths to what is inside its container; the container itself would keep the result from sticking,
# and, once it does not, would grow with a long line of code.
HEAD = "<style>.gradio-container { overflow: clip !important; width: 100% !important; }</style>"


def build_demo(pipe: SDICPipeline, name: str, limits: Limits | None = None, detector: str | None = None) -> gr.Blocks:
    """Build the page.

    Args:
        pipe: The pipeline.
        name: Of the model, as visitors can load it.
        limits: What visitors may send and how much is kept.
        detector: File of the face detector, for models of FFHQ's crop; see `sdic_plugin.face_detection`.
    """
    engine = Engine(pipe, name, limits, detector)
    limits = engine.limits
    folder = tempfile.TemporaryDirectory(prefix="sdic-demo-")
    store = SessionStore(limits.sessions, limits.session_bytes, limits.idle_seconds)
    cleaning = (max(1, limits.cache_seconds // 10), limits.cache_seconds)
    with gr.Blocks(title=f"SDIC: {engine.name}", analytics_enabled=False, delete_cache=cleaning) as page:
        add_endpoints(engine, store, MODEL_RUNS)  # first, so that their names are not taken by the page's own events
        layout = build_layout(engine)
        callbacks = Callbacks(engine, store, layout, Path(folder.name))
        store.on_forget = callbacks.forget
        _connect(page, layout, callbacks, limits)
    page.sdic_sessions, page.sdic_folder = store, folder  # live as long as the page
    return page


def _connect(page: gr.Blocks, layout: Layout, callbacks: Callbacks, limits: Limits) -> None:
    """Say what is called when."""
    outputs = layout.all
    shared = {
        "outputs": outputs, "concurrency_id": MODEL_RUNS, "concurrency_limit": limits.parallel_runs,
        "api_visibility": "private",
    }  # fmt: skip
    calm = {**shared, "show_progress": "hidden"}
    noticed = {**shared, "show_progress": "minimal", "show_progress_on": [layout.status]}
    layout.upload.upload(callbacks.upload, [layout.upload], **noticed)
    layout.example.click(callbacks.example, None, **noticed)
    layout.sample.click(callbacks.sample, None, **noticed)
    layout.photo.select(callbacks.click, None, **calm)
    layout.middle.click(callbacks.middle, None, **calm)
    layout.another.click(callbacks.another, None, **calm)
    layout.invert.click(callbacks.invert, None, **noticed)
    layout.reset.click(callbacks.reset, [layout.view], **calm)
    layout.surprise.click(callbacks.surprise, [layout.view], **calm)
    layout.strip_run.click(callbacks.strip, [layout.strip_edit], **noticed)
    layout.add_edits.click(callbacks.add_edits, [layout.edit_file, layout.edit_hub_id], **noticed)
    layout.make_files.click(callbacks.make_files, None, **noticed)
    touched = [slider.input for slider in [*layout.sliders, layout.compensation]]
    touched += [layout.view.input, layout.difference.input, layout.auto_mask.input, layout.mask.input]
    # One listener for all: while an edit is being made, only the last of the later values waits.
    gr.on(touched, callbacks.edit, layout.controls, trigger_mode="always_last", **calm)
    page.unload(callbacks.leave)


def serve(page: gr.Blocks, limits: Limits | None = None, **options: object) -> tuple:
    """Serve a page with its limits; `options` go to `gradio.Blocks.launch`, whose result is returned."""
    limits = limits or Limits()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    Image.MAX_IMAGE_PIXELS = limits.photo_pixels  # Pillow refuses twice that, wherever a file is opened
    page.queue(max_size=limits.queue_size, default_concurrency_limit=limits.parallel_runs)
    settings = {
        "max_file_size": limits.upload_bytes, "show_error": True, "ssr_mode": False, "theme": THEME,
        "css_paths": Path(__file__).parent / "style.css", "head": HEAD, "footer_links": ["api"], "share": False,
    }  # fmt: skip
    return page.launch(**{**settings, **options})


def launch(model: str = "cats64", port: int | None = None, detector: str | None = None, **options: object) -> None:
    """Load a model (bundled name, folder or Hub id) and serve the page; `options` go to `gradio.Blocks.launch`."""
    pipe = SDICPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipe.to("cuda")
    serve(build_demo(pipe, model, detector=detector), server_port=port, **options)
