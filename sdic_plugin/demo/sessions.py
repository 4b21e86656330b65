"""What the page remembers of each visitor, within a bound, and only for that visitor."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from sdic_plugin.demo import texts
from sdic_plugin.edits import Edit
from sdic_plugin.edits.loader import Strength
from sdic_plugin.errors import SDICError
from sdic_plugin.images.alignment import FEATHER, Alignment, Point
from sdic_plugin.images.face_alignment import FaceLandmarks
from sdic_plugin.pipeline.output import SDICInversion

Part = TypeVar("Part")


def kept(part: Part | None) -> Part:
    """Return a part of a session, such as its inversion, that a step needs.

    Raises:
        SDICError: If it is not there, as in a session that was forgotten meanwhile.
    """
    if part is None:
        raise SDICError(texts.GONE)
    return part


@dataclass
class EditSettings:
    """How a visitor wants the photo edited.

    Attributes:
        strengths: Strength by name of an edit, or several of a sweep; edits at 0 are left out.
        compensation: See `SDICPipeline.edit`.
        mask: Grey picture of the crop, white where the photo's detail is kept; "auto" where the pipeline knows it;
            None for everywhere.
        difference: Paste only the change into the photo, instead of the whole crop.
        feather: Width of the soft border there; see `paste_back`.
    """

    strengths: Mapping[str, Strength] = field(default_factory=dict)
    compensation: float = 1.0
    mask: Image.Image | str | None = None
    difference: bool = True
    feather: float = FEATHER


@dataclass
class Session:
    """One visitor's photo and what was made of it.

    Attributes:
        file: The photo as it was sent.
        photo_size: (width, height), upright.
        preview: The photo for the screen.
        eyes: Eye centres clicked so far, in pixels of the photo.
        landmarks: The face that was found, if any.
        crop: What the model gets.
        alignment: Where the crop lies in the photo.
        inversion: Its inversion, on the CPU.
        inverted: The rendered inversion.
        edited: The last edit.
        settings: Of the last edit.
        figures: PSNR and time of the inversion.
        note: Warning where the photo looks unlike what the model knows; None elsewhere.
        loaded: Edits that this visitor added, by name.
        edit_sources: Where they came from, for the snippet.
        files: First of the files that were made for taking home.
    """

    file: bytes = b""
    photo_size: tuple[int, int] = (0, 0)
    preview: Image.Image | None = None
    eyes: list[Point] = field(default_factory=list)
    landmarks: FaceLandmarks | None = None
    crop: Image.Image | None = None
    alignment: Alignment | None = None
    inversion: SDICInversion | None = None
    inverted: Image.Image | None = None
    edited: Image.Image | None = None
    settings: EditSettings = field(default_factory=EditSettings)
    figures: dict[str, float] = field(default_factory=dict)
    note: str | None = None
    loaded: dict[str, Edit] = field(default_factory=dict)
    edit_sources: list[str] = field(default_factory=list)
    files: Path | None = None

    def nbytes(self) -> int:
        """Memory in bytes of its photo, pictures and tensors."""
        tensors = [tensor for edit in self.loaded.values() for tensor in edit.tensors.values()]
        if self.inversion is not None:
            tensors += self.inversion.tensors().values()
        pictures = [self.preview, self.crop, self.inverted, self.edited, self.settings.mask]
        return (
            len(self.file)
            + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            + sum(3 * each.width * each.height for each in pictures if isinstance(each, Image.Image))
        )

    def new_photo(self) -> Session:
        """A session for the visitor's next photo; only the added edits stay."""
        return Session(loaded=self.loaded, edit_sources=self.edit_sources)


class SessionStore:
    """Sessions by visitor, bounded in number, memory and age."""

    def __init__(
        self, sessions: int, total_bytes: int, idle_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Set the bounds.

        Args:
            sessions: Largest number.
            total_bytes: Memory of all together; the visitor who is being served stays even alone above it.
            idle_seconds: Age since the last use at which one is forgotten.
            clock: Gives seconds.
        """
        self.sessions = sessions
        self.total_bytes = total_bytes
        self.idle_seconds = idle_seconds
        self.on_forget: Callable[[str], None] = lambda key: None
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Session, float]] = OrderedDict()  # the longest idle first
        self._forgotten: list[str] = []

    def __len__(self) -> int:
        """Number of sessions kept."""
        return len(self._kept)

    def get(self, key: str) -> Session:
        """Return a visitor's session, or an empty one that is not kept yet."""
        with self._tidying():
            self._forget_idle()
            if key not in self._kept:
                return Session()
            session, _ = self._kept.pop(key)
            self._kept[key] = (session, self._clock())
            return session

    def put(self, key: str, session: Session) -> None:
        """Keep a visitor's session, and forget others if they are too many or too large together."""
        with self._tidying():
            self._kept.pop(key, None)
            self._kept[key] = (session, self._clock())
            self._forget_idle()
            while len(self._kept) > 1 and (len(self._kept) > self.sessions or self._nbytes() > self.total_bytes):
                self._forget_oldest()

    def drop(self, key: str) -> None:
        """Forget a visitor."""
        with self._tidying():
            if self._kept.pop(key, None) is not None:
                self._forgotten.append(key)

    def forget_idle(self) -> None:
        """Forget visitors without a request for `idle_seconds`."""
        with self._tidying():
            self._forget_idle()

    @contextlib.contextmanager
    def _tidying(self) -> Iterator[None]:
        """Hold the lock; after its release, call `on_forget` for those who were forgotten."""
        with self._lock:
            yield
            forgotten, self._forgotten = self._forgotten, []
        for key in forgotten:
            self.on_forget(key)

    def nbytes(self) -> int:
        """Memory of all sessions."""
        with self._lock:
            return self._nbytes()

    def _nbytes(self) -> int:
        return sum(session.nbytes() for session, _ in self._kept.values())

    def _forget_idle(self) -> None:
        oldest = self._clock() - self.idle_seconds
        while self._kept and next(iter(self._kept.values()))[1] < oldest:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        key, _ = self._kept.popitem(last=False)
        self._forgotten.append(key)
