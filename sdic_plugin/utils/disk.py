"""Writing the files of a run: full disks become one clear error, and files are flushed to the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sdic_plugin.errors import SDICError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers: no space left, the user's quota is used up, or the file is larger than allowed."""


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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
