"""Results of photos as files: names that do not collide, and marks that say what a file was made of.

Every PNG, GIF and safetensors file that the photo commands write carries a mark of a few digests. By it

- a photo never overwrites the results of another one: it takes the next free number instead (`cat`, `cat_2` …), and
  keeps that name whenever it is processed into the same folder again;
- `--skip-existing` knows of which photo, and with which settings, a file was made;
- results are not taken for photos when the same command finds them again.

Files without a mark (of older versions, or with a damaged one) are replaced, as any file is by one of the same name,
but never if they are among the photos; aligned crops, which have the plain names of photos, only replace older crops.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from sdic_plugin.photos.fingerprints import DIGEST_BYTES, digest, file_digest

if TYPE_CHECKING:
    from sdic_plugin.photos.photo import Photo

MARK_KEY = "sdic"
"""Name of the mark among a file's metadata."""

EDITED, ALIGNED = "edit", "align"
"""Kinds of results: pictures of the pipeline, and aligned crops, which are photos to it."""


@dataclass(frozen=True)
class Mark:
    """What a file was made of.

    Attributes:
        kind: `EDITED` or `ALIGNED`.
        photo: Digest of the photo's path.
        state: Digest of its path, size and time of change.
        content: Digest of its bytes.
        settings: Digest of the model and all settings that the file depends on.
    """

    kind: str
    photo: str
    state: str
    content: str
    settings: str = ""

    def to_metadata(self) -> dict[str, str]:
        """Return metadata for the file."""
        return {MARK_KEY: json.dumps(asdict(self))}


class PhotoIdentity:
    """What identifies a photo: its path, its state on disk, its content."""

    def __init__(self, photo: Photo) -> None:
        self._source, self._name = photo.source, photo.name

    @functools.cached_property
    def photo(self) -> str:
        """Digest of the path, or of the name of a picture without one."""
        return digest(str(self._source.resolve())) if isinstance(self._source, Path) else digest("", self._name)

    @functools.cached_property
    def state(self) -> str:
        """Digest of path, size and time of change: while it is the same, the content need not be read; OSError."""
        if not isinstance(self._source, Path):
            return self.content
        status = self._source.stat()
        return digest(self.photo, status.st_size, status.st_mtime_ns)

    @functools.cached_property
    def content(self) -> str:
        """Digest of the file's bytes, or of the picture's pixels; OSError."""
        if isinstance(self._source, Path):
            return file_digest(self._source)
        pixels = hashlib.blake2b(self._source.tobytes(), digest_size=DIGEST_BYTES).hexdigest()
        return digest(self._source.mode, self._source.size, pixels)

    def mark(self, kind: str, settings: str = "") -> Mark:
        """Mark of a result."""
        return Mark(kind, self.photo, self.state, self.content, settings)

    def is_up_to_date(self, mark: Mark) -> bool:
        """Whether a result was made of this photo as it is now."""
        try:
            return mark.state == self.state or mark.content == self.content
        except OSError:  # it cannot be read; processing it will report that
            return False

    def owns(self, mark: Mark) -> bool:
        """Whether a result was made of this photo, or of what it was before it was changed, moved or copied."""
        return mark.photo == self.photo or self.is_up_to_date(mark)


def read_mark(path: Path) -> Mark | None:
    """Read a file's mark; None if there is no such file, or it has none that can be read."""
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="np") as file:
                text = (file.metadata() or {})[MARK_KEY]
        else:
            from PIL import Image

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of large pictures: nothing is decoded here
                with Image.open(path) as picture:
                    text = picture.info.get(MARK_KEY) or json.loads(picture.info["comment"])[MARK_KEY]
        mark = Mark(**json.loads(text))
    except Exception:  # damaged files raise errors of many kinds
        return None
    return mark if all(isinstance(value, str) for value in asdict(mark).values()) else None


def is_result(path: Path, kinds: Sequence[str]) -> bool:
    """Whether a file is a result of some kind."""
    mark = read_mark(path)
    return mark is not None and mark.kind in kinds


def is_done(photo: Photo, files: Mapping[Path, str]) -> bool:
    """Whether every file is there, made of a photo as it is now with the settings of the digest."""
    identity = PhotoIdentity(photo)
    marks = {path: read_mark(path) for path in files}
    return all(mark and mark.settings == files[path] and identity.is_up_to_date(mark) for path, mark in marks.items())


class ResultNames:
    """Names for the results of photos in a folder, given in turn."""

    def __init__(self, photos: Iterable[Photo], output: Path) -> None:
        self._output = output.resolve()
        self._photos = {_file_key(photo.source.resolve()) for photo in photos if isinstance(photo.source, Path)}
        self._taken: set[str] = set()

    def choose(
        self,
        photo: Photo,
        ends: Sequence[str],
        replaces: Callable[[Path], bool] = lambda path: True,
    ) -> str:
        """Return a photo's name, else the name with the first number, under which no file is somebody else's.

        That is: belongs to a photo before, or by its mark to another photo, or is itself one of the photos.

        Args:
            photo: Whose `stem` the name is made of.
            ends: Ends of the files that are to be written, each after the name.
            replaces: Whether a file that is there without a mark may be replaced.
        """
        identity = PhotoIdentity(photo)
        for number in itertools.count(1):
            name = photo.stem if number == 1 else f"{photo.stem}_{number}"
            paths = [self._output / f"{name}{end}" for end in ends]
            keys = {_file_key(path) for path in paths}
            if keys & (self._taken | self._photos):
                continue
            marks = {path: read_mark(path) for path in paths if path.is_file()}
            if all(identity.owns(mark) if mark else replaces(path) for path, mark in marks.items()):
                self._taken |= keys
                return name
        raise AssertionError("unreachable")


def named_photos(photos: Sequence[Photo], output: Path, ends: Sequence[str]) -> list[Photo]:
    """Name photos so that no file, the name with one of the ends, is somebody else's; see `ResultNames`.

    Every process that shares the photos must name all of them, since names depend on those before.
    """
    names = ResultNames(photos, output)
    return [replace(photo, name=names.choose(photo, ends)) for photo in photos]


def _file_key(path: Path) -> str:
    """What two paths have in common if some file system takes them for one: some ignore case, some compose accents."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def fold_name(name: str) -> str:
    """`_file_key` of a part of a file name."""
    return _file_key(Path(name))
