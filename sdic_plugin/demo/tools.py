"""What the page offers to language models: three tools, described and bounded so that a model can call them.

Nothing here knows of the Model Context Protocol, in which `sdic_plugin.demo.mcp_server` serves them. A tool answers
from its arguments alone: nothing of one call is kept for the next.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from PIL import Image

from sdic_plugin.demo import texts
from sdic_plugin.demo.engine import Engine
from sdic_plugin.demo.layout import slider_range, subject_of
from sdic_plugin.demo.limits import MEGABYTE
from sdic_plugin.demo.sessions import EditSettings, Session, kept
from sdic_plugin.edits import Edit
from sdic_plugin.edits.naming import edit_title
from sdic_plugin.errors import ImageError, SDICError, listed, shorten
from sdic_plugin.images.alignment import Point

SEEDS = 2**31
"""Pictures that `sample` can make up; their seeds count from 0."""

BASE64_SHARE = 0.7
"""Of a request, what the bytes of a photo may take up; base64 makes four characters of three bytes."""

FARTHEST = 1e6
"""Of an eye from the photo's corner, in pixels; no photo is as large."""

EXAMPLE = "example"
SAMPLE = re.compile(r"sample:(\d{1,10})")
DATA_URI = re.compile(r"data:[\w/+.;=-]{0,100},")
SENT_FILE = re.compile(r"(?:https?://[^/\s]+)?(?:/[^\s]*)?/gradio_api/file=(?P<path>[^\s?#]+)")

FindFile = Callable[[str], str]
"""Returns the path of a file that the caller sent to the page; raises SDICError for any other."""


@dataclass(frozen=True)
class Answer:
    """What a tool answers.

    Attributes:
        facts: JSON.
        picture: That they are about; None of `list_edits`.
        format: Of the picture: "png" where its pixels count, "jpeg" of whole photos.
    """

    facts: dict[str, Any]
    picture: Image.Image | None = None
    format: str = "png"


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        name: By which it is called.
        title: For people.
        description: For the language model that chooses it.
        parameters: JSON schema by name.
        required: Of the parameters, those that must be given.
        run: Answers a call, given the arguments and what finds files that were sent.
    """

    name: str
    title: str
    description: str
    parameters: dict[str, dict[str, Any]]
    required: tuple[str, ...]
    run: Callable[[Mapping[str, Any], FindFile], Answer]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of all arguments together."""
        return {
            "type": "object",
            "properties": self.parameters,
            "required": list(self.required),
            "additionalProperties": False,
        }


class Tools:
    """The three tools of a model's page."""

    def __init__(self, engine: Engine) -> None:
        """Describe them for the model of `engine`."""
        self.engine = engine
        self.one, self.subject = subject_of(engine)
        known = self.one != "picture"
        self.photos = f"photos that show {self.subject}" if known else f"pictures of the kind that {engine.name} knows"
        self.size = "{1} × {0} pixels".format(*engine.pipe.image_size)
        self.inline_bytes = int(engine.limits.tool_bytes * BASE64_SHARE)
        tools = (self._list_edits(), self._edit_photo(), self._sample())
        self.by_name = {tool.name: tool for tool in tools}

    def call(self, name: str, arguments: Mapping[str, Any], find_file: FindFile) -> Answer:
        """Answer a call.

        Args:
            name: Of the tool.
            arguments: By name, as they came.
            find_file: Finds the files that the caller sent.

        Raises:
            SDICError: If the tool, an argument or its value is none of those that there are; the sentence says which
                there are.
        """
        tool = self.by_name.get(name)
        if tool is None:
            raise SDICError(f"There is no tool {shorten(name, 60)}: call one of {', '.join(self.by_name)}.")
        unknown = [each for each in arguments if each not in tool.parameters]
        if unknown:
            takes = ", ".join(tool.parameters) or "none"
            raise SDICError(f"The tool {name} has no argument {listed(unknown)}; it takes {takes}.")
        missing = [each for each in tool.required if arguments.get(each) is None]
        if missing:
            raise SDICError(f"The tool {name} needs the argument {missing[0]}.")
        return tool.run(arguments, find_file)

    # Their descriptions.

    def _list_edits(self) -> Tool:
        return Tool(
            "list_edits",
            "List edits",
            f"List what can be changed in {self.photos}: the name of each edit, what a negative and a "
            "positive strength look like, and the range of the strength. Call it before edit_photo.",
            {},
            (),
            lambda arguments, find_file: Answer(self.listed_edits()),
        )

    def _edit_photo(self) -> Tool:
        limits = self.engine.limits
        photo = (
            f"The photo, as base64 of a picture file of up to {_megabytes(self.inline_bytes)} (a data: URI will do); "
            f"or, for a file of up to {_megabytes(limits.upload_bytes)}, what the tool upload_file_to_gradio returned "
            f'for it; or "{EXAMPLE}" for a photo that comes with this server; or "sample:SEED" for the picture '
            "that the tool sample makes of this seed. Web addresses are not fetched."
        )
        eyes = (
            "Centres of the two eyes in pixels of the upright photo: x1, y1, x2, y2. Without them, "
            f"{self._where_without_eyes()}."
        )
        return Tool(
            "edit_photo",
            "Edit a photo",
            f"Edit {self.photos}, one at a time, with named strengths; returns the picture and the model's figures. "
            f"The model draws the {self.one} at {self.size}, with the detail of the photo put back. No edits return "
            "the photo as the model sees it. Everything goes from the original photo: to change an edit, call again "
            "with all strengths.",
            {
                "photo": {"type": "string", "description": photo},
                "edits": {
                    "type": "object",
                    "description": "Strength by name of an edit; 0 leaves the photo as it is.",
                    "properties": {edit.name: _strength(edit) for edit in self.engine.edits.values()},
                    "additionalProperties": False,
                    "default": {},
                },
                "eyes": {
                    "type": "array", "description": eyes, "items": {"type": "number"}, "minItems": 4, "maxItems": 4,
                },
                "compensation": {
                    "type": "number", "minimum": 0, "maximum": 1, "default": 1,
                    "description": "How much of the photo's detail is put back: 1 all, 0 none. Less lets a strong "
                    "edit act more freely.",
                },
                "whole_photo": {
                    "type": "boolean", "default": False,
                    "description": "Return the whole photo at screen size with the change added, as a JPEG, "
                    "instead of the close-up that the model draws.",
                },
            },
            ("photo",),
            self.edited_photo,
        )  # fmt: skip

    def _where_without_eyes(self) -> str:
        if self.engine.detector is not None:
            return "the largest face is found, else the middle of the photo is taken"
        return f"the middle of the photo is taken, which the {self.one} must fill"

    def _sample(self) -> Tool:
        return Tool(
            "sample",
            "Make up a picture",
            f"Make up a picture of a {self.one} that never was, at {self.size}. The same seed always gives the same "
            "picture, and edit_photo edits it as \"sample:SEED\".",
            {
                "seed": {
                    "type": "integer", "minimum": 0, "maximum": SEEDS - 1,
                    "description": "Any number; each gives another picture.",
                }
            },
            ("seed",),
            self.sampled,
        )  # fmt: skip

    # What they do.

    def listed_edits(self) -> dict[str, Any]:
        """What `list_edits` answers."""
        edits = []
        for edit in self.engine.edits.values():
            low, high = slider_range(edit)
            entry = {"name": edit.name, "minimum": low, "maximum": high, "typical": edit.default_strength}
            if edit.description:
                entry["description"] = texts.plain(edit.description)
            if edit.ends:
                entry |= {"negative": texts.plain(edit.ends[0]), "positive": texts.plain(edit.ends[1])}
            edits.append(entry)
        return {"model": self.engine.name, "knows": self.subject, "size": self._size(), "edits": edits}

    def edited_photo(self, arguments: Mapping[str, Any], find_file: FindFile) -> Answer:
        """What `edit_photo` answers."""
        strengths = self._strengths(arguments.get("edits"))
        compensation = _number(arguments.get("compensation", 1), "compensation", 0, 1)
        eyes, whole = _eyes(arguments.get("eyes")), arguments.get("whole_photo", False)
        if not isinstance(whole, bool):
            raise SDICError(f"whole_photo is {shorten(whole, 60)}, but must be true or false.")
        session = self.engine.frame(self._open(arguments["photo"], find_file), eyes)
        session = self.engine.edit(self.engine.invert(session), EditSettings(strengths, compensation))
        picture = self.engine.in_photo(session) if whole else kept(session.edited)
        facts: dict[str, Any] = {
            "edits": strengths,
            "size": list(picture.size),
            "psnr_db": {name: round(session.figures[name], 2) for name in ("initial", "inversion")},
            "eyes": [round(value, 1) for eye in session.eyes for value in eye],
        }
        if session.note is not None:
            facts["note"] = session.note
        return Answer(facts, picture, "jpeg" if whole else "png")

    def sampled(self, arguments: Mapping[str, Any], find_file: FindFile) -> Answer:
        """What `sample` answers."""
        seed = _seed(arguments["seed"])
        picture = self.engine.draw(seed)
        return Answer({"seed": seed, "size": list(picture.size), "photo": f"sample:{seed}"}, picture)

    def _size(self) -> list[int]:
        height, width = self.engine.pipe.image_size
        return [width, height]

    def _strengths(self, edits: Any) -> dict[str, float]:
        if edits is None:
            return {}
        if not isinstance(edits, Mapping):
            raise SDICError(f'The edits are {shorten(edits, 60)}: give them as {{"name": strength}}.')
        known, strengths = self.engine.edits, {}
        for name, value in edits.items():
            if name not in known:
                raise SDICError(f"There is no edit {shorten(name, 60)}: there are {', '.join(known) or 'none'}.")
            strengths[name] = _number(value, f"strength of {name}", *slider_range(known[name]))
        return strengths

    def _open(self, photo: Any, find_file: FindFile) -> Session:
        """Read the photo that an argument names or holds."""
        if not isinstance(photo, str) or not photo.strip():
            raise SDICError(f'The photo is {shorten(photo, 60)}: give base64 of a picture file, or "{EXAMPLE}".')
        photo = photo.strip()
        if photo == EXAMPLE:
            return self.engine.open_example(Session())
        if made_up := SAMPLE.fullmatch(photo):
            return self.engine.open_sample(Session(), _seed(int(made_up[1])))
        if sent := SENT_FILE.fullmatch(photo):
            return self.engine.open_photo(Session(), find_file(unquote(sent["path"])))
        if "://" in photo[:16]:
            raise SDICError(texts.NO_FETCH)
        return self.engine.open_bytes(Session(), self._decode(photo))

    def _decode(self, photo: str) -> bytes:
        uri = DATA_URI.match(photo)
        text = photo if uri is None else photo[uri.end() :]
        try:
            content = base64.b64decode("".join(text.split()), validate=True)
        except (ValueError, binascii.Error) as error:
            raise ImageError(
                f'The photo {shorten(photo, 40)} is no base64 of a picture file, and none of "{EXAMPLE}", '
                '"sample:SEED" and the address of a file that was sent to this page: give one of them.'
            ) from error
        if len(content) > self.inline_bytes:
            raise ImageError(
                f"The photo has more than {_megabytes(self.inline_bytes)}: send a smaller one, or send it as a file."
            )
        return content


def encoded(picture: Image.Image, format: str) -> bytes:
    """Write a picture as the bytes of a "png" or "jpeg" file."""
    buffer = io.BytesIO()
    if format == "jpeg":
        picture.convert("RGB").save(buffer, "JPEG", quality=92)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def _strength(edit: Edit) -> dict[str, Any]:
    low, high = slider_range(edit)
    words = texts.plain(edit.description)
    if edit.ends:
        words = f"{words}. " if words else ""
        words += f"Negative: {texts.plain(edit.ends[0])}; positive: {texts.plain(edit.ends[1])}."
    return {"type": "number", "minimum": low, "maximum": high, "description": words or edit_title(edit)}


def _number(value: Any, what: str, low: float, high: float) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float) and low <= value <= high:
        return float(value)
    raise SDICError(f"The {what} is {shorten(value, 60)}, but must be a number from {low:g} to {high:g}.")


def _seed(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one kind of number
    if not isinstance(value, bool) and isinstance(value, int) and 0 <= value < SEEDS:
        return value
    raise SDICError(f"The seed is {shorten(value, 60)}, but must be a whole number from 0 to {SEEDS - 1}.")


def _eyes(value: Any) -> Sequence[Point] | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list) and len(value) == 4 else []
    fit = [
        not isinstance(each, bool) and isinstance(each, int | float) and -FARTHEST <= each <= FARTHEST
        for each in numbers
    ]
    if not fit or not all(fit):
        raise SDICError(f"The eyes are {shorten(value, 60)}, but must be four numbers: x1, y1, x2, y2 in pixels.")
    x1, y1, x2, y2 = map(float, numbers)
    return ((x1, y1), (x2, y2))


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:.3g} MB"
