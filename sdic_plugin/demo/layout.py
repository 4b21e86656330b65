"""Where everything stands on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import gradio as gr

from sdic_plugin.demo import texts
from sdic_plugin.demo.engine import Engine
from sdic_plugin.demo.limits import MEGABYTE, Limits
from sdic_plugin.demo.mask_editor import MaskEditor
from sdic_plugin.edits import Edit
from sdic_plugin.edits.naming import edit_group, edit_title
from sdic_plugin.photos.photo import finds_faces

CLOSE_UP, WHOLE_PHOTO = "Close-up", "Whole photo"
BRUSH = gr.Brush(default_size=24, colors=["#ffffff"], color_mode="fixed")


@dataclass
class PhotoPanel:
    """Where a photo is chosen and framed."""

    choose: gr.Column
    upload: gr.File
    example: gr.Button
    sample: gr.Button
    chosen: gr.Column
    picture: gr.Image
    invert: gr.Button
    middle: gr.Button
    another: gr.Button
    status: gr.HTML


@dataclass
class ResultPanel:
    """The edited picture."""

    empty: gr.HTML
    view: gr.Radio
    slider: gr.ImageSlider
    download: gr.Button
    download_link: gr.DownloadButton


@dataclass
class EditPanel:
    """The tab of sliders, the model's own first, then those kept for edits that a visitor adds."""

    reset: gr.Button
    surprise: gr.Button
    sliders: list[gr.Slider]
    added: gr.Markdown
    compensation: gr.Slider
    difference: gr.Checkbox
    auto_mask: gr.Checkbox
    mask: gr.ImageEditor

    @property
    def fine_controls(self) -> list[gr.components.Component]:
        """What is set beside the strengths, but for the painted mask."""
        return [self.compensation, self.difference, self.auto_mask]


@dataclass
class StripPanel:
    """The tab that shows one edit at several strengths."""

    edit: gr.Dropdown
    run: gr.Button
    gallery: gr.Gallery


@dataclass
class DetailPanel:
    """The tab that shows what SDIC restores."""

    initial: gr.Image
    discrepancy: gr.Image
    figures: gr.Markdown


@dataclass
class MorePanel:
    """The tab that loads a visitor's own edits."""

    file: gr.File
    hub_id: gr.Textbox
    add: gr.Button


@dataclass
class SavePanel:
    """The tab of files to take home."""

    make_files: gr.Button
    files: gr.Files
    snippet: gr.Code


@dataclass
class Layout:
    """The components that callbacks read and write, by the panel they stand in."""

    photo: PhotoPanel
    result: ResultPanel
    edits: EditPanel
    strip: StripPanel
    detail: DetailPanel
    more: MorePanel
    save: SavePanel

    @property
    def controls(self) -> list[gr.components.Component]:
        """What an edit is made from, in the order `Callbacks` reads it."""
        return [self.result.view, *self.edits.fine_controls, self.edits.mask, *self.edits.sliders]

    @property
    def all(self) -> list[gr.blocks.Block]:
        """Everything that a callback may change."""
        panels = (self.photo, self.result, self.edits, self.strip, self.detail, self.more, self.save)
        parts = [part for panel in panels for part in vars(panel).values()]
        return [*(part for part in parts if isinstance(part, gr.blocks.Block)), *self.edits.sliders]


def build_layout(engine: Engine) -> Layout:
    """Place all components; call inside `gr.Blocks`."""
    height, width = engine.pipe.image_size
    _, subject = subject_of(engine)
    gr.Markdown(texts.TITLE.format(name=engine.name, subject=subject, height=height, width=width), elem_id="title")
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=300):
            photo = _photo_panel(engine)
            with gr.Tabs():
                with gr.Tab("Edit"):
                    edits = _edit_panel(engine)
                with gr.Tab("Strip"):
                    strip = _strip_panel(engine)
                with gr.Tab("Detail"):
                    detail = _detail_panel()
                with gr.Tab("More edits"):
                    more = _more_panel()
                with gr.Tab("Save"):
                    save = _save_panel()
            with gr.Accordion("Privacy and limits", open=False, elem_id="privacy"):
                gr.Markdown(privacy(engine.limits))
        with gr.Column(scale=6, min_width=300, elem_id="result-column"):  # stays in sight, see style.css
            result = _result_panel()
    return Layout(photo, result, edits, strip, detail, more, save)


def subject_of(engine: Engine) -> tuple[str, str]:
    """What one picture of the model shows, and what all do."""
    return texts.SUBJECTS.get(engine.name) or (texts.PEOPLE if finds_faces(engine.pipe) else texts.ANYTHING)


def privacy(limits: Limits) -> str:
    """What is kept of a visitor, for how long, and how much one may send."""
    return texts.PRIVACY.format(
        minutes=limits.idle_seconds / 60,
        megabytes=limits.upload_bytes // MEGABYTE,
        megapixels=limits.photo_pixels // 10**6,
    )


def _photo_panel(engine: Engine) -> PhotoPanel:
    choose, chosen = gr.Column(elem_id="choose"), gr.Column(visible=False, elem_id="chosen")
    with choose:
        upload = gr.File(
            label="Your photo", show_label=False, file_types=["image"], height=200, elem_id="drop", elem_classes="drop"
        )
        with gr.Row():
            example = gr.Button(texts.TRY_EXAMPLE[engine.example], variant="primary", elem_id="example")
            sample = gr.Button(f"Make up a {subject_of(engine)[0]}", elem_id="sample")
    with chosen:
        picture = gr.Image(
            label="Your photo", format="webp", interactive=False, elem_id="photo-view", buttons=[], height=340
        )
        with gr.Row(elem_id="photo-buttons"):
            invert = gr.Button("Start editing", variant="primary", interactive=False, elem_id="invert", scale=2)
            middle = gr.Button("Use the middle", elem_id="middle", elem_classes="slim")
            another = gr.Button("New photo", elem_id="another", elem_classes="slim")
    status = gr.HTML(texts.status(texts.START), elem_id="status")
    return PhotoPanel(choose, upload, example, sample, chosen, picture, invert, middle, another, status)


def _result_panel() -> ResultPanel:
    empty = gr.HTML(texts.empty("No picture yet", texts.WAITING), elem_id="empty")
    slider = gr.ImageSlider(
        label="Before | after", format="webp", interactive=False, visible=False,
        elem_id="result", buttons=["fullscreen"], max_height=460, slider_position=50, type="pil",
    )  # fmt: skip
    with gr.Row(elem_id="result-bar"):
        view = gr.Radio(
            [CLOSE_UP, WHOLE_PHOTO], value=CLOSE_UP, show_label=False, visible=False, elem_id="view", min_width=200
        )
        download = gr.Button(
            "Download photo", visible=False, size="md", scale=0, min_width=160, elem_id="download", elem_classes="slim"
        )
    # The browser clicks this one, once the file is written: Gradio's own button takes a file that is there already.
    download_link = gr.DownloadButton("Download", visible="hidden", elem_id="download-link")
    return ResultPanel(empty, view, slider, download, download_link)


def slider_range(edit: Edit) -> tuple[float, float]:
    """Ends of an edit's slider: round numbers with 0 in the middle, or at an end where the edit has only one side.

    Of two sides, the shorter one counts, beyond which the edit was found to go wrong; but the edit's default strength
    is within reach in any case.
    """
    low, high = edit.strength_range
    if low >= 0 or high <= 0:
        reach = _round_reach(max(-low, high))
        return (0, reach) if low >= 0 else (-reach, 0)
    reach = _round_reach(max(min(-low, high), abs(edit.default_strength)))
    return -reach, reach


def _round_reach(reach: float) -> float:
    """The nearest of 0.5, 1, 1.5, …, 9.5, or such a number times a power of ten."""
    unit = 10.0 ** math.floor(math.log10(reach)) / 2
    return float(f"{round(reach / unit) * unit:.6g}")


class SliderSettings(TypedDict):
    """Arguments of an edit's `gr.Slider`."""

    minimum: float
    maximum: float
    step: float
    value: float
    label: str
    info: str
    elem_classes: str


def slider_of(edit: Edit) -> SliderSettings:
    """Say how an edit's slider looks: its ends, step, label and what stands at its ends."""
    low, high = slider_range(edit)
    step = 10.0 ** math.floor(math.log10(max(-low, high))) / 20  # 0.05 where the ends are 1 to 9.5
    return {
        "minimum": low, "maximum": high, "step": float(f"{step:.6g}"), "value": 0, "label": edit_title(edit),
        "info": texts.edit_info(edit), "elem_classes": "two-sided" if low < 0 < high else "one-sided",
    }  # fmt: skip


def _edit_panel(engine: Engine) -> EditPanel:
    with gr.Row(elem_id="edit-buttons"):
        reset = gr.Button("Reset", interactive=False, size="md", elem_id="reset", elem_classes="slim")
        surprise = gr.Button("Surprise me", interactive=False, size="md", elem_id="surprise", elem_classes="slim")
    groups: dict[str, list[Edit]] = {}
    for edit in engine.edits.values():
        groups.setdefault(edit_group(edit, engine.pipe.generator.num_styles), []).append(edit)
    sliders: dict[str, gr.Slider] = {}
    with gr.Row(equal_height=False):
        for title, edits in groups.items():
            with gr.Column(min_width=280):
                gr.Markdown(title, elem_classes="group-title")
                for edit in edits:
                    name = f"edit-{edit.name}"
                    sliders[edit.name] = gr.Slider(**slider_of(edit), interactive=False, elem_id=name, buttons=[])
    added = gr.Markdown("Your own edits", visible=False, elem_classes="group-title")
    extra = [
        gr.Slider(
            -3, 3, value=0, step=0.05, visible=False, interactive=True, elem_id=f"edit-added-{index}", buttons=[]
        )
        for index in range(engine.limits.loaded_edits)
    ]
    with gr.Accordion("Fine control", open=False):
        compensation = gr.Slider(
            0, 1, value=1, step=0.05, label="Detail of the photo", interactive=False, elem_id="compensation",
            buttons=[], info=texts.named_ends("none, the edit alone", "all"),
        )  # fmt: skip
        difference = gr.Checkbox(
            True, label="Keep the whole photo sharp", interactive=False, elem_id="difference",
            info="Only the change is added to it. Off: the close-up takes the place of that part",
        )  # fmt: skip
        auto_mask = gr.Checkbox(
            False, label="Let the edit win where it acts", interactive=False, elem_id="auto-mask",
            info="Those places are found for you, and what you paint below is not used",
        )  # fmt: skip
        gr.Markdown("**Paint where the edit should win**: there, the photo's old detail does not come back.")
        mask = MaskEditor(
            type="pil", sources=(), transforms=(), layers=False, brush=BRUSH, format="png", show_label=False,
            elem_id="mask", buttons=[], canvas_size=(512, 512), height=360,
        )  # fmt: skip
    in_order = [*(sliders[name] for name in engine.edits), *extra]
    return EditPanel(reset, surprise, in_order, added, compensation, difference, auto_mask, mask)


def choices(engine: Engine, loaded: dict[str, Edit]) -> list[tuple[str, str]]:
    """Label and name of every edit."""
    return [(edit_title(edit), name) for name, edit in {**engine.edits, **loaded}.items()]


def _strip_panel(engine: Engine) -> StripPanel:
    names = choices(engine, {})
    with gr.Row(elem_id="strip-row"):
        edit = gr.Dropdown(names, value=names[0][1] if names else None, label="Edit", elem_id="strip-edit")
        run = gr.Button("Show seven strengths", interactive=False, elem_id="strip-run")
    gallery = gr.Gallery(
        show_label=False, columns=4, height="auto", format="png", elem_id="strip",
        buttons=["download"], object_fit="contain",
    )  # fmt: skip
    return StripPanel(edit, run, gallery)


def _detail_panel() -> DetailPanel:
    gr.Markdown(texts.DISCREPANCY)
    with gr.Row():
        initial = gr.Image(label="First guess", format="png", interactive=False, buttons=[])
        discrepancy = gr.Image(
            label="What it lost", format="png", interactive=False, elem_id="discrepancy", buttons=[]
        )
    figures = gr.Markdown("", elem_classes="figures", visible=False, elem_id="figures")
    return DetailPanel(initial, discrepancy, figures)


def _more_panel() -> MorePanel:
    gr.Markdown("Load a set of edits made for this model; only you will see them.")
    file = gr.File(
        label="A file of edits", show_label=False, file_types=[".safetensors"], height=130, elem_id="edit-file",
        elem_classes="drop",
    )  # fmt: skip
    with gr.Row(elem_id="hub-row"):
        hub_id = gr.Textbox(
            label="Or their name on the Hugging Face Hub", placeholder="user/name", elem_id="edit-hub-id"
        )
        add = gr.Button("Load edits", elem_id="add-edits")
    return MorePanel(file, hub_id, add)


def _save_panel() -> SavePanel:
    gr.Markdown(texts.TO_KEEP)
    make_files = gr.Button("Make files", interactive=False, variant="primary", elem_id="make-files")
    files = gr.Files(label="Files", interactive=False, elem_id="files")
    snippet = gr.Code(
        "# The code of your edit appears here.", language="python", label="The same in Python",
        interactive=False, elem_id="snippet", lines=8, max_lines=16,
    )  # fmt: skip
    return SavePanel(make_files, files, snippet)
