"""The page's words."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from sdic_plugin.edits import Edit

TITLE = """# Edit a photo, keep its detail
Choose a photo, press Invert, move the sliders. The model **{name}** knows {subject}, at {width} × {height} pixels."""

START = "Choose a photo, or press one of the two buttons above to see how it works."
FIRST_EYE = "Click the centre of one eye in the photo. (Is the photo cut out already? Then use its middle.)"
NO_FACE = "No face was found by itself. Click the centre of one eye in the photo."
SECOND_EYE = "Good. Now click the other eye."
READY = "The frame shows what the model will see. Press “Invert”; to move the frame, click both eyes again."
READY_FACE = "Found the face: the frame shows what the model will see. Not right? Click both eyes yourself."
READY_MIDDLE = "The frame shows what the model will see. Press “Invert”."
DONE = "Done. Drag the line over the picture to compare, and move the sliders below."
STRIP = "Seven strengths of one edit, from one end of its slider to the other. Click one to see it larger."
FILES = "Your files are ready: click a size in the list to download."
WAITING = "Your edited picture appears here."
WORKING = "Working on it …"
UPDATING = "Updating the picture …"
BUSY = "Too many people are here at this moment, or the page is out of reach: wait a few seconds, then try again."
TOO_FAST = "More came from your address than the page can take: wait a few seconds, then go on."
TOO_LARGE = "The file is larger than {megabytes} MB; send a smaller one."
BODY_TOO_LARGE = "The request is larger than the page takes: upload pictures as files, and send the rest without them."
BAD_FORM = "The upload is damaged or cut off: send the file again."
NO_LENGTH = "The upload does not say how large it is: send it with a Content-Length."
BAD_REQUEST = "The request does not fit the page: reload it, or see “Use via API” at its foot for what calls take."
QUEUE_ONLY = (
    "Calls are answered in turn, through the queue: use gradio_client, or POST to /gradio_api/call/invert, …/edit or "
    "…/sweep."
)
NO_SUCH_PAGE = "There is nothing here: the page itself is at /, and its calls are invert, edit and sweep."
NO_SUCH_EVENT = "There is no such call, or it was answered long ago: make it again."
NO_SUCH_FILE = "There is no such file: files belong to the visitor they were made for, and go when the page is closed."
NO_FETCH = "The page fetches nothing from web addresses: download the picture and send its file."
NOT_SENT = "The file was not sent to this page by you: upload it first."
FAILED = "Something went wrong on our side. Your photo is still here: try again, or choose another one."

DISCREPANCY = """**First guess** (initial reconstruction): how the model redraws your photo from memory. **What it
lost** (discrepancy map): where the guess differs from your photo; brighter means more. This lost detail (fur,
background, reflections) is what SDIC puts back: the inversion looks like your photo and can still be edited."""

PRIVACY = """Your photo is kept in memory, and the pictures made from it in temporary files, while the page is open.
All of it is deleted when you close the page, at the latest {minutes:.0f} minutes after the last click, and is shown to
you alone; a cookie that lasts until you close the browser tells your files from others'. A photo may have up to
{megabytes} MB and {megapixels} megapixels. The edits show what a model has learnt from its training pictures, not
facts about who is in a photo; do not use the page to deceive anybody."""

MARKS = {"info": "i", "done": "✓", "error": "!", "busy": "…"}


def status(text: str, kind: str = "info") -> str:
    """Write a message as a card: kind "info", "done", "busy" or "error"; each has a sign, not only a colour."""
    role = "alert" if kind == "error" else "status"
    return (
        f'<div class="status {kind}" role="{role}"><span class="mark" aria-hidden="true">{MARKS[kind]}</span>'
        f"<span>{html.escape(text)}</span></div>"
    )


def after_a_while(now: str, later: str) -> str:
    """Write a message that is replaced, where the work takes long, by one that says so."""
    return f'<div class="after-a-while">{status(now, "done")}{status(later, "busy")}</div>'


def empty(title: str, text: str) -> str:
    """Write what stands where a picture will be."""
    return f'<div class="empty"><b>{html.escape(title)}</b><span>{html.escape(text)}</span></div>'


def figures(values: Mapping[str, float]) -> str:
    """Say how near the inversion came, in words and numbers."""
    return (
        f"Likeness to your photo (PSNR, higher is nearer): first guess **{values['initial']:.1f} dB**, "
        f"inversion **{values['inversion']:.1f} dB**. Took {values['seconds']:.2f} s, once per photo."
    )


SIGNS = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$-])")
"""What Markdown or HTML might take for more than text."""


def plain(text: str) -> str:
    """Write what came with a file, such as an edit's description, so that Markdown shows it as the text it is."""
    words = " ".join("".join(each if each.isprintable() else " " for each in text[:300]).split())
    return SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", words)


def edit_label(edit: Edit) -> str:
    """Name an edit for people: "eye_size" is "Eye size"."""
    words = edit.name.replace("_", " ")
    return words[:1].upper() + words[1:]


def edit_group(edit: Edit, num_styles: int) -> str:
    """Name the group of sliders an edit belongs to: early styles move shapes, late ones paint."""
    if edit.layers is None:
        return "Look"
    return "Shape" if sum(edit.layers) / 2 < num_styles / 2 else "Colour"
