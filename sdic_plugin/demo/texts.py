"""The page's words."""

from __future__ import annotations

import html
from collections.abc import Mapping

from sdic_plugin.edits import Edit

TITLE = """# Edit a photo, keep its detail
Choose a photo, press *Start editing*, and move the sliders. The model **{name}** knows {subject}, which it draws at
{width} × {height} pixels."""

SUBJECTS = {"cats64": ("cat", "the faces of cats")}
"""What one picture shows, and what all do, by the name of a bundled model whose configuration does not tell."""
PEOPLE, ANYTHING = ("face", "the faces of people"), ("picture", "one kind of picture")
"""The same of a model whose pictures are cropped as FFHQ's are, and of any other."""

TRY_EXAMPLE = {"chelsea": "Try it with a cat", "astronaut": "Try it with an astronaut"}
"""What the button says that takes an example photo, by the photo's name."""

START = "Choose a photo, or press one of the two buttons above to see how it works."
FIRST_EYE = (
    "Click the centre of one eye in the photo. If the face already fills the photo, press “Use the middle” instead."
)
NO_FACE = "No face was found. Click the centre of one eye in the photo."
SECOND_EYE = "Good. Now click the other eye."
READY = "The frame shows what the model will see. Press “Start editing”, or click both eyes again to move the frame."
READY_FACE = "The face was found: the frame shows what the model will see. To move it, click both eyes yourself."
READY_MIDDLE = "The frame shows what the model will see. Press “Start editing”."
DONE = "Done. Move the sliders, and drag the line across the picture to compare."
UNALIGNED = "click both eyes in it once more, or choose another photo of what the model knows"
UNKNOWN_SUBJECT = "choose a photo of what the model knows"
STRIP = "Seven strengths of one edit, from one end of its slider to the other. Click one to see it larger."
FILES = "Your files are ready: click the size beside a file to download it."
DOWNLOADED = "Your browser is saving the photo. More to keep is listed under “Save”."
WAITING = "Your edited picture appears here."
WORKING = "Working on it …"
UPDATING = "Updating the picture …"
BUSY = "Too many people are here right now, or the page cannot be reached: wait a few seconds, then try again."
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
BAD_MESSAGE = "The request is no message of the Model Context Protocol: send one JSON-RPC 2.0 object."
TOOLS_POST = "The tools are called by POST: send JSON-RPC 2.0 messages here, or let an MCP client do so."
TOOL_TOO_LARGE = (
    "The call is larger than {megabytes} MB: send a smaller photo, or upload it to /gradio_api/upload first and "
    "name what you get."
)
NO_SUCH_PAGE = "There is nothing here: the page itself is at /, and its calls are invert, edit and sweep."
NO_SUCH_EVENT = "There is no such call, or it was answered long ago: make it again."
NO_SUCH_FILE = "There is no such file: files belong to the visitor they were made for, and go when the page is closed."
NO_FETCH = "The page fetches nothing from web addresses: download the picture and send its file."
NOT_SENT = "The file was not sent to this page by you: upload it first."
NO_CROP = "Click both eyes first, or use the photo's middle."
GONE = "Your photo is no longer kept, because the page was idle or busy for a while: choose it again (“New photo”)."
FAILED = "Something went wrong on our side. Your photo is still here: try again, or choose another one."

DISCREPANCY = """**First guess**: how the model redraws your photo from memory. **What it lost**: where that guess
differs from your photo; the brighter, the more. SDIC puts this lost detail (hair, background, reflections) back, so
that the picture looks like your photo and can still be edited. (In the paper, these two are the initial
reconstruction and the discrepancy map.)"""

TO_KEEP = """`photo_edited.png` is your whole photo with the edit, `edited.png` the close-up. The other files are for
people who go on in Python: what the model found in your photo, and the code of your edit."""

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
        f"Likeness to your photo (PSNR; higher is nearer): first guess **{values['initial']:.1f} dB**, "
        f"with its detail put back **{values['inversion']:.1f} dB**. "
        f"This took {values['seconds']:.2f} s, once per photo."
    )


MARKUP = str.maketrans({"*": "∗", "_": " ", "`": "'", "[": "(", "]": ")", "<": "‹", ">": "›"})
"""What stands for the characters that Gradio reads as bold, italics, code, links and tags."""

LONGEST_NOTE = 300


def plain(text: str) -> str:
    """Write what came with a file, such as an edit's description, so that the notes of components show it as text."""
    words = "".join(each if each.isprintable() else " " for each in text[:LONGEST_NOTE]).split()
    return " ".join(words).translate(MARKUP)


def edit_info(edit: Edit) -> str:
    """Say what an edit does: by its two ends, which style.css puts below the slider's, or by its description."""
    return named_ends(*edit.ends) if edit.ends else plain(edit.description)


def named_ends(low: str, high: str) -> str:
    """Write the names of a slider's ends, for style.css to place."""
    return f"**{plain(low)}** **{plain(high)}**"
