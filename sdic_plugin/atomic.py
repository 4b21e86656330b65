"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` if the block ends well.

    The folder is made if needed; whatever happens, no temporary file stays. The file gets the permissions that one
    written in the ordinary way would have: those of the file it replaces, else those of a new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    mode = path.stat().st_mode & 0o777 if path.is_file() else new_file_mode(path.parent)
    try:
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def new_file_mode(folder: Path) -> int:
    """Return the permissions that a new file in a folder gets, by making one: the umask itself is the process's."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(probe, "xb") as file:
            return os.fstat(file.fileno()).st_mode & 0o777
    finally:
        probe.unlink(missing_ok=True)


def share_files(folder: Path) -> None:
    """Give all files of a folder the permissions of new ones; safetensors makes its files private to the user."""
    mode = new_file_mode(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
