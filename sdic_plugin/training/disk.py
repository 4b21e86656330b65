"""What the files of a run have in common: they go to a folder that can be written to, and through to the disk."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sdic_plugin.errors import SDICError, short_reason, shorten

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""No space, the user's quota is used up, or the file is larger than allowed."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room for a file; safetensors tells only in words."""
    if isinstance(error, SafetensorError):
        return any(f"os error {number})" in str(error) for number in FULL)
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def full_disk_stops(folder: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one sentence that names the folder of the run.

    Raises:
        SDICError: If the disk is full; other errors pass.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        last = sorted((folder / "checkpoints").glob("step_????????"))
        kept = f"its last checkpoint, {last[-1].name}, is whole" if last else "it has no checkpoint yet"
        raise SDICError(
            f"The disk of {folder} is full, so the run stopped ({kept}): make room and start it again."
        ) from error


def why_not_writable(folder: Path) -> str | None:
    """Say why a folder cannot be made or written to; None if it can, as was tried. Nothing stays behind.

    Permissions alone would not tell: root has them on disks that are read-only, and in /proc.
    """
    try:
        nearest = next(each for each in (folder, *folder.absolute().parents) if _exists(each))
        if not nearest.is_dir():
            return f"{shorten(str(nearest))} is no folder"
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=nearest))
    except (OSError, ValueError) as error:
        return "the disk is full" if is_disk_full(error) else getattr(error, "strerror", None) or short_reason(error)
    return None


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
