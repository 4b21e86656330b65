"""The demo page: invert one photo, edit it with sliders, see what the inversion restored."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from PIL import Image

from sdic_plugin.alignment import parse_eyes
from sdic_plugin.errors import SDICError
from sdic_plugin.image_processor import SDICImageProcessor, load_image
from sdic_plugin.photos import crop_photo, load_example, reconstruction_psnr
from sdic_plugin.pipeline import SDICPipeline
from sdic_plugin.pipeline_output import SDICInversion
from sdic_plugin.visualization import discrepancy_to_image

SHOWN_SIZE = 256

INTRODUCTION = """# SDIC: invert and edit a photo
The model finds the latents of your photo, predicts what that reconstruction lost, puts it back, and edits the result.
The model "{name}" was made for {height} x {width} pixels and one kind of picture; for a good result the eyes must lie
where it expects them, so give the two eye centres unless the photo is cropped already."""


@dataclass
class Session:
    """What the page keeps of one visitor between clicks."""

    inversion: SDICInversion


def build_demo(pipe: SDICPipeline, name: str) -> gr.Blocks:
    """Build the page for a pipeline; `name` is shown."""
    height, width = pipe.image_size
    edits = pipe.get_list_edits()
    with gr.Blocks(title=f"SDIC: {name}") as page:
        gr.Markdown(INTRODUCTION.format(name=name, height=height, width=width))
        session = gr.State()
        with gr.Row():
            with gr.Column():
                photo = gr.Image(type="pil", label="Photo", format="png", height=360)
                eyes = gr.Textbox(label="Eye centres", placeholder="x1,y1,x2,y2 in pixels; empty: centre crop")
                with gr.Row():
                    example = gr.Button("Example cat")
                    invert = gr.Button("Invert", variant="primary")
            with gr.Column():
                with gr.Row():
                    original = _picture("Crop")
                    initial = _picture("Initial reconstruction")
                with gr.Row():
                    discrepancy = _picture("What it lost (grey: nothing)")
                    inverted = _picture("Inversion")
                figures = gr.Markdown()
        with gr.Row():
            with gr.Column():
                sliders = [
                    gr.Slider(*edit.strength_range, value=0, step=0.1, label=edit.name, info=edit.description)
                    for edit in edits.values()
                ]
                compensation = gr.Slider(0, 1, value=1, step=0.05, label="compensation", info="Detail of the photo")
            edited = _picture("Edited", size=2 * SHOWN_SIZE)

        def show(image: Image.Image) -> Image.Image:
            return image.resize((SHOWN_SIZE, SHOWN_SIZE * height // width), Image.Resampling.BICUBIC)

        def run_example() -> tuple[Image.Image, str]:
            chosen = load_example("chelsea")
            return chosen.source, ",".join(f"{value:g}" for value in chosen.eyes)

        def run_invert(photo: Image.Image | None, eyes: str) -> tuple:
            if photo is None:
                raise gr.Error("Give a photo first: drop one on the left, or take the example.")
            try:
                crop, _ = crop_photo(pipe, load_image(photo), parse_eyes(eyes) if eyes.strip() else None)
                inversion = pipe.invert(crop)
            except SDICError as error:
                raise gr.Error(str(error)) from error
            rendered = pipe.edit(inversion).images[0]
            before, after = reconstruction_psnr(pipe, inversion, rendered)
            rows = inversion.initial[:, :, pipe.output_rows]
            pictures = [
                crop,
                SDICImageProcessor(height, width).postprocess(rows, "pil")[0],
                discrepancy_to_image(inversion.discrepancy[0].float().cpu()),
                rendered,
            ]
            text = f"PSNR **{before:.1f} dB** initial, **{after:.1f} dB** inverted"
            return Session(inversion.to("cpu")), *map(show, pictures), text, show(rendered)

        def run_edit(session: Session | None, compensation: float, *strengths: float) -> Image.Image | None:
            if session is None:
                return None
            chosen = {name: value for name, value in zip(edits, strengths, strict=True) if value}
            return show(pipe.edit(session.inversion, edits=chosen, compensation=compensation).images[0])

        shown = [session, original, initial, discrepancy, inverted, figures, edited]
        example.click(run_example, outputs=[photo, eyes], api_name=False)
        invert.click(run_invert, inputs=[photo, eyes], outputs=shown, api_name="invert")
        for control in [compensation, *sliders]:
            control.release(
                run_edit,
                inputs=[session, compensation, *sliders],
                outputs=edited,
                api_name=False,
                trigger_mode="always_last",
                show_progress="hidden",
            )
    return page


def _picture(label: str, size: int = SHOWN_SIZE) -> gr.Image:
    return gr.Image(label=label, format="png", interactive=False, height=size)


def launch(model: str = "cats64", port: int | None = None, **options: object) -> None:
    """Load a model (bundled name, folder or Hub id) and serve the page; `options` go to `gradio.Blocks.launch`."""
    pipe = SDICPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    page = build_demo(pipe, model)
    page.queue(max_size=32, default_concurrency_limit=1).launch(server_port=port, max_file_size="20mb", **options)
