"""Files of visitors: under names that nobody can guess, each belonging to one visit and gone with it."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "sdic-demo-"

LOCK = "in-use.lock"

FILES_PER_VISIT = 128
"""The oldest go first; a browser has fetched them long before."""


@functools.cache
def files_root() -> Path:
    """Make this process's folder for visitors' files, and tell Gradio to use it; it goes when the process ends.

    Folders of processes that were killed before they could tidy up are removed, too.
    """
    _remove_abandoned()
    root = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()  # readable by this user alone
    lock = FileLock(root / LOCK)
    lock.acquire()
    _roots.append((root, lock))
    os.environ["GRADIO_TEMP_DIR"] = str(root)
    return root


_roots: list[tuple[Path, FileLock]] = []


def remove_files() -> None:
    """Remove all visitors' files of this process; `serve` calls it at the end, also of a terminated process."""
    while _roots:
        root, lock = _roots.pop()
        lock.release()
        shutil.rmtree(root, ignore_errors=True)
    files_root.cache_clear()


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):  # in use, or of another user
            if not (folder / LOCK).exists():
                continue
            with FileLock(folder / LOCK, timeout=0):
                pass
            shutil.rmtree(folder, ignore_errors=True)


class VisitorFiles:
    """Which file belongs to which visit; every file lies alone in a folder with a random name."""

    def __init__(self, bytes_per_visit: int) -> None:
        """Keep at most `bytes_per_visit` of each visit, the newest files first, and `FILES_PER_VISIT` files."""
        self.root = files_root()
        self.bytes_per_visit = bytes_per_visit
        self._lock = threading.Lock()
        self._visit_of: dict[str, str] = {}  # by folder name
        self._folders: dict[str, OrderedDict[str, None]] = {}  # by visit, oldest first

    def new_path(self, visit: str, name: str) -> Path:
        """Where a new file of a visit is to be written; `name` is its last part."""
        folder = secrets.token_hex(16)
        with self._lock:
            self._visit_of[folder] = visit
            folders = self._folders.setdefault(visit, OrderedDict())
            self._make_room(folders)
            folders[folder] = None
        (self.root / folder).mkdir(mode=0o700)
        return self.root / folder / name

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """A folder to receive files in; what `take_in` has not moved out of it is removed."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def take_in(self, path: str | os.PathLike[str], visit: str) -> Path:
        """Move a received file to where the files of a visit lie."""
        target = self.new_path(visit, Path(path).name)
        os.replace(path, target)
        return target

    def visit_of(self, path: str | os.PathLike[str]) -> str | None:
        """Whose a file is; None for whatever is no visitor's file, such as a path that leaves the folder."""
        folder = self._folder_of(path)
        if folder is None or not Path(path).is_file():
            return None
        with self._lock:
            return self._visit_of.get(folder)

    def give(self, path: str | os.PathLike[str], visit: str) -> None:
        """Hand an upload, which came before its sender's visit was known, over to that visit."""
        folder = self._folder_of(path)
        with self._lock:
            if folder is None or folder not in self._visit_of:
                return
            self._folders.get(self._visit_of[folder], OrderedDict()).pop(folder, None)
            self._visit_of[folder] = visit
            self._folders.setdefault(visit, OrderedDict())[folder] = None

    def remove(self, path: str | os.PathLike[str]) -> None:
        """Delete a file, and what lies in the folder with it."""
        folder = self._folder_of(path)
        with self._lock:
            if folder is None or folder not in self._visit_of:
                return
            self._folders.get(self._visit_of.pop(folder), OrderedDict()).pop(folder, None)
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def drop(self, visit: str) -> None:
        """Delete all files of a visit."""
        with self._lock:
            folders = self._folders.pop(visit, OrderedDict())
            for folder in folders:
                self._visit_of.pop(folder, None)
        for folder in folders:
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def _folder_of(self, path: str | os.PathLike[str]) -> str | None:
        """Name of the folder that a file lies alone in; None for what is no visitor's file."""
        try:
            parts = Path(path).relative_to(self.root).parts
        except ValueError:
            return None
        return parts[0] if len(parts) == 2 and ".." not in parts else None

    def _make_room(self, folders: OrderedDict[str, None]) -> None:
        while folders and (len(folders) >= FILES_PER_VISIT or sum(self._sizes(folders)) > self.bytes_per_visit):
            oldest, _ = folders.popitem(last=False)
            self._visit_of.pop(oldest, None)
            shutil.rmtree(self.root / oldest, ignore_errors=True)

    def _sizes(self, folders: OrderedDict[str, None]) -> Iterator[int]:
        for folder in folders:
            with contextlib.suppress(OSError):
                yield sum(each.stat().st_size for each in os.scandir(self.root / folder))
